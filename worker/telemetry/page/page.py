"""The whole page: its samples are also collected while no one reads it; it is made at most once a second; its headers."""

import base64
import hashlib
import math
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Sequence
from importlib import resources
from typing import Final

from prometheus_client import CollectorRegistry

from worker.ledger import Partition
from worker.telemetry.kafka_facts import GroupMember
from worker.telemetry.page.charts import lag_of, latency_of, throughput_of
from worker.telemetry.page.facts import Share, facts_in
from worker.telemetry.page.figures import Figures, History, sample
from worker.telemetry.page.html import node
from worker.telemetry.page.indexes import indexes_of
from worker.telemetry.page.notices import notices_of
from worker.telemetry.page.summary import blocked_of, header_of, headline_of, notices_section_of, tiles_of
from worker.telemetry.page.tables import dead_letters_of, group_of, limits_of, partitions_of, requests_of
from worker.telemetry.page.view import View
from worker.telemetry.page.watch import Watch
from worker.telemetry.page.words import clock as clock_time
from worker.telemetry.state import State, Status

CACHED_SECONDS: Final = 1.0  # for which a page is sent again, however many clients ask for it


class Page:
    """The page. Thread-safe.

    `settings` are those in force as TOML, without secrets; `paused` returns the partitions that are not fetched; `clock`
    is monotonic, `wall` Unix time, both in seconds. `shares` returns the share of dead letters of each topic, `members` those of the group.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        status: Status,
        settings: str,
        paused: Callable[[], Collection[Partition]],
        clock: Callable[[], float],
        wall: Callable[[], float],
        shares: Callable[[], Sequence[Share]] = tuple,
        members: Callable[[], Sequence[GroupMember]] = tuple,
    ) -> None:
        self._registry = registry
        self._status = status
        self._settings = settings
        self._paused = paused
        self._clock = clock
        self._wall = wall
        self._shares = shares
        self._members = members
        self._started = clock()
        self._watch = Watch(self._started)
        self._history = History()
        self._lock = threading.Lock()
        self._made_at = -math.inf
        self._made = b""
        self._style = _read("page.css")
        self._script = _read("page.js")
        self.headers = _headers(self._style, self._script)

    def tick(self) -> None:
        """Note the state, and keep a sample if one is due. It is called about twice a second."""
        now = self._clock()
        with self._lock:
            self._watch.observe(self._status.read(), now)
        if self._history.is_due(now):
            figures = Figures(self._registry)
            one = sample(figures, now)
            with self._lock:
                self._history.add(one)
                self._watch.follow(one)
                self._watch.note([notice.key for notice in notices_of(self._view(figures, now))], now)

    def html(self) -> bytes:
        """Return the page."""
        with self._lock:
            now = self._clock()
            if now - self._made_at >= CACHED_SECONDS:
                self._made = self._make(now)
                self._made_at = now
            return self._made

    def _make(self, now: float) -> bytes:
        view = self._view(Figures(self._registry), now)
        document = _document(view, self._style, self._script)
        text = ET.tostring(document, encoding="unicode", method="html")
        return b"<!DOCTYPE html>\n" + text.encode("utf-8", errors="replace") + b"\n"

    def _view(self, figures: Figures, now: float) -> View:
        reading = self._status.read()
        self._watch.observe(reading, now)
        return View(
            figures=figures,
            current=sample(figures, now),
            recent=self._history.recent(now),
            history=self._history,
            reading=reading,
            messages=self._status.messages(),
            dead_letters=self._status.dead_letters(),
            paused=self._paused(),
            settings=self._settings,
            now=now,
            wall=self._wall(),
            uptime=now - self._started,
            facts=facts_in(self._status, self._shares(), self._members()),
            watch=self._watch,
            flow=self._history.flow(),
        )


def _document(view: View, style: str, script: str) -> ET.Element:
    (labels, _), *_ = view.figures.rows("worker_info") or [({}, 1.0)]
    client = labels.get("client_id", "")
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("meta", name="color-scheme", content="light dark"),
        node("noscript", node("meta", http_equiv="refresh", content="10")),
        node("title", f"{headline_of(view)} \u00b7 {client}"),
        node("link", rel="icon", href="data:,"),
        node("style", style),
    )
    troubles = [notices_section_of(view), blocked_of(view)]
    if view.reading.state is State.BLOCKED:  # the worst is first
        troubles.reverse()
    main = node(
        "main",
        _aged(view),
        header_of(view, labels),
        *troubles,
        tiles_of(view),
        node("div", throughput_of(view), lag_of(view), latency_of(view), class_="charts"),
        partitions_of(view),
        indexes_of(view),
        node("div", group_of(view), limits_of(view), dead_letters_of(view), requests_of(view), class_="columns"),
        _in_force(view),
    )
    stale = node("p", hidden="hidden", id="stale", role="alert")
    return node("html", head, node("body", stale, main, node("script", script)), lang="en")


def _aged(view: View) -> ET.Element:
    """Return a line that the style shows when the page has not been renewed for a while, with and without the script."""
    return node("p", f"This is as of {clock_time(view.wall)} UTC and was not renewed since.", class_="aged")


def _in_force(view: View) -> ET.Element:
    summary = node("summary", "Settings in force, and where each comes from", id="settings-summary")
    return node("details", summary, node("pre", view.settings), id="settings")


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _headers(style: str, script: str) -> tuple[tuple[str, str], ...]:
    """Return headers by which nothing is loaded from elsewhere, no other script runs, and no frame shows the page."""
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return (
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
