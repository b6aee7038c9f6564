"""What a person on call sees of each case: which alerts fire and when, what `/readyz` and the page say."""

import datetime as dt
import html
import http.client
import json
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.browser import running_browser
from tests.support.programs import program
from tests.troubles.case import Case
from tests.troubles.catalogue import Trouble
from tests.troubles.monitoring import Message, Monitoring

NO_ANSWER = "no answer"
PAGER = "pager"
HOLD_SECONDS = 15.0
"""How long `/readyz` or the page says that something is wrong before it counts as a sign."""


@dataclass
class Seen:
    """What was seen of one trouble. Seconds count from its beginning, or for `recovery` from its fix.

    `alerts` fired in Prometheus; `pages` and `chats` are those that came to the receiver of this kind in the trouble, and
    `recovery_pages` those that began to fire after the fix and woke somebody.
    """

    name: str
    right: str
    before: list[str] = field(default_factory=list)
    alerts: dict[str, float] = field(default_factory=dict)
    suppressed: list[str] = field(default_factory=list)
    pages: dict[str, float] = field(default_factory=dict)
    chats: dict[str, float] = field(default_factory=dict)
    readyz_seconds: float | None = None
    page_seconds: float | None = None
    readyz: str = ""
    page: str = ""
    recovery: dict[str, float] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    recovery_pages: list[str] = field(default_factory=list)
    failure: str = ""

    @property
    def first_right(self) -> float | None:
        """When the first alert fired that names the trouble."""
        return min((at for name, at in self.alerts.items() if self.is_right(name)), default=None)

    @property
    def first_of_any(self) -> float | None:
        """When the first sign was there: that alert, `/readyz` or the title of the page."""
        found = (self.first_right, self.readyz_seconds, self.page_seconds)
        return min((at for at in found if at is not None), default=None)

    def is_right(self, alert: str) -> bool:
        """Whether this alert is one that names the trouble."""
        return bool(self.right) and re.search(self.right, alert) is not None


@dataclass
class Watched:
    """A case with its trouble, and the moments that count, on the clock of `time.time`."""

    case: Case
    trouble: Trouble
    seen: Seen
    begun: float = 0.0
    fixed: float = 0.0
    is_shot: bool = False
    wrong_since: dict[str, float] = field(default_factory=dict)

    def holds(self, sign: str, is_wrong: bool, now: float) -> float | None:
        """Return when a sign began to show, once it has shown for a while; a restart or a slow answer is none."""
        if not is_wrong:
            self.wrong_since.pop(sign, None)
            return None
        since = self.wrong_since.setdefault(sign, now)
        return round(since - self.begun, 1) if now - since >= HOLD_SECONDS else None


class Watch:
    """Looks at all cases, again and again."""

    def __init__(self, all_of_them: Sequence[Watched], monitoring: Monitoring, screens: Path, scratch: Path) -> None:
        self._watched = all_of_them
        self._by_job = {one.case.job: one for one in all_of_them}
        self._monitoring = monitoring
        self._screens = screens
        self._scratch = scratch
        self._shooting = ThreadPoolExecutor(1)  # a browser takes seconds, and looks must not wait for it
        self._shots: list[Future[None]] = []

    def look(self) -> None:
        """Look once at alerts, ready checks and pages."""
        now = time.time()
        firing = self._monitoring.firing()
        for job, alert in sorted(firing):
            if (one := self._by_job.get(job)) is not None:
                note(one, alert.removeprefix("OssVectors"), now)
        for job, alert in self._monitoring.suppressed():
            name = alert.removeprefix("OssVectors")
            if (one := self._by_job.get(job)) is not None and name not in one.seen.suppressed:
                one.seen.suppressed.append(name)
        begun = [one for one in self._watched if one.begun and not one.fixed]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(look_at_the_worker, begun))
        for one in begun:
            if one.seen.first_right is not None and not one.is_shot:
                self.capture(one)

    def capture_the_rest(self) -> None:
        """Capture those that no right alert has named, and wait for all pictures."""
        for one in self._watched:
            if not one.is_shot:
                self.capture(one)
        for shot in self._shots:
            shot.result()

    def capture(self, one: Watched) -> None:
        """Keep what the worker says at this moment, and have a picture made of its page."""
        one.is_shot = True
        one.seen.readyz, one.seen.page = readyz_of(one.case)[1], page_of(one.case)[1]
        if one.seen.page != NO_ANSWER:
            self._shots.append(self._shooting.submit(self._shoot, one))

    def _shoot(self, one: Watched) -> None:
        """Make the pictures of a page in a browser of their own: one that idles under load loses its connection."""
        name = re.sub(r"\W+", "-", one.trouble.name).strip("-")
        try:
            with running_browser(program("chromium"), self._scratch / name) as browser, browser.tab() as tab:
                for width, dark in ((1280, False), (360, True)):
                    tab.go(f"http://127.0.0.1:{one.case.ports[0]}/", width=width, dark=dark)
                    tab.screenshot(self._screens / f"{name}-{width}.png")
        except Exception as error:  # it costs the picture only
            one.seen.failure += f"no screenshot: {type(error).__name__} "

    def finish(self) -> None:
        """Note what fires still, and which pages the recoveries sent."""
        for job, alert in self._monitoring.firing():
            if (one := self._by_job.get(job)) is not None:
                one.seen.left.append(alert.removeprefix("OssVectors"))

        self.read_messages()

    def read_messages(self) -> None:
        """Note what the receivers got so far."""
        for message in list(self._monitoring.messages):
            for alert in message.alerts:
                one = self._by_job.get(alert["labels"].get("job", ""))
                if one is not None and alert["status"] == "firing":
                    note_message(one, message, alert)


def note(one: Watched, alert: str, now: float) -> None:
    """Note that an alert fires: before the trouble, in it, or anew after its fix."""
    seen = one.seen
    if not one.begun:
        if alert not in seen.before:
            seen.before.append(alert)
    elif not one.fixed:
        seen.alerts.setdefault(alert, round(now - one.begun, 1))
    elif alert not in seen.alerts and alert not in seen.before:
        seen.recovery.setdefault(alert, round(now - one.fixed, 1))


def note_message(one: Watched, message: Message, alert: Mapping[str, Any]) -> None:
    """Note what a receiver was sent: in the trouble, or of an alert that began to fire after its fix."""
    seen, name = one.seen, alert["labels"]["alertname"].removeprefix("OssVectors")
    began = dt.datetime.fromisoformat(alert["startsAt"]).timestamp()
    if one.begun and one.begun <= message.at and (not one.fixed or message.at < one.fixed):
        kind = seen.pages if message.receiver == PAGER else seen.chats
        kind.setdefault(name, round(message.at - one.begun, 1))
    if one.fixed and began > one.fixed and message.receiver == PAGER and name not in seen.recovery_pages:
        seen.recovery_pages.append(name)


def look_at_the_worker(one: Watched) -> None:
    """Note when `/readyz` and the page's title first say that something is wrong."""
    seen = one.seen
    if seen.readyz_seconds is None:
        now = time.time()
        seen.readyz_seconds = one.holds("readyz", readyz_of(one.case)[0] != 200, now)
    if seen.page_seconds is None:
        now = time.time()
        seen.page_seconds = one.holds("page", page_of(one.case)[0] != "good", now)


def readyz_of(case: Case) -> tuple[int, str]:
    """Return the status of `/readyz`, 0 without an answer, and what it says."""
    status, body = _get(case, "/readyz")
    if not status:
        return 0, NO_ANSWER
    try:
        told = json.loads(body)
    except ValueError:
        return status, f"{status} {body[:200]}"
    return status, f"{status} {told.get('state')}: {told.get('reason')}"


def page_of(case: Case) -> tuple[str, str]:
    """Return the tone of the page's title and its words."""
    status, body = _get(case, "/")
    if not status:
        return "", NO_ANSWER
    found = re.search(r"<header([^>]*)>(.*?)</header>", body, re.DOTALL)
    if found is None:
        return "", ""
    tone = re.search(r'class="([^"]*)"', found[1])
    words = re.sub(r"<dl.*?</dl>", " ", found[2], flags=re.DOTALL)
    text = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", words))).strip()
    return (tone[1] if tone else ""), text


def _get(case: Case, path: str) -> tuple[int, str]:
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", case.ports[0], timeout=3)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
