"""The page for people on call: what the metrics say now and said in the last minutes, what blocks, the last dead letters.

It reads what /metrics reads. Every element is made as a node of a tree, so that whatever text is shown is escaped; no text
of a record is shown. A small ring keeps one sample each `STEP_SECONDS`, taken between the HTTP server's requests.
"""

import base64
import hashlib
import math
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection
from importlib import resources
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry

from worker.errors import Reason
from worker.ledger import Outcome, Partition
from worker.telemetry.page.charts import latency_of, throughput_of
from worker.telemetry.page.figures import Figures, History, Key, Labels, View, sample
from worker.telemetry.page.html import facts_of, more_of, node, section_of, table_of
from worker.telemetry.page.words import NONE, ago, count_of, duration, rate_of, shortened, sized, utc, whole
from worker.telemetry.state import State, Status

CACHED_SECONDS: Final = 1.0  # within which the page is made once, however many ask for it


PARTITIONS_SHOWN: Final = 50


_COUNTS_SHOWN: Final = 30


_BLOCKS_SHOWN: Final = 20


_STILL_SECONDS: Final = 10.0  # without a turn of the main loop, after which the page says so


class Page:
    """The page, made at most once a second. Safe for several threads.

    `settings` are those in force as TOML, without secrets; `paused` returns the partitions that are not fetched; `clock`
    is monotonic, `wall` Unix time, both in seconds.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        status: Status,
        settings: str,
        paused: Callable[[], Collection[Partition]],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._status = status
        self._settings = settings
        self._paused = paused
        self._clock = clock
        self._wall = wall
        self._started = clock()
        self._history = History()
        self._lock = threading.Lock()
        self._made_at = -math.inf
        self._made = b""
        self._style = _read("page.css")
        self._script = _read("page.js")
        self.headers = _headers(self._style, self._script)

    def tick(self) -> None:
        """Take a sample if it is time for one."""
        now = self._clock()
        if self._history.is_due(now):
            one = sample(Figures(self._registry), now)
            with self._lock:
                self._history.add(one)

    def html(self) -> bytes:
        """Return the page."""
        with self._lock:
            now = self._clock()
            if now - self._made_at >= CACHED_SECONDS:
                self._made = self._make(now)
                self._made_at = now
            return self._made

    def _make(self, now: float) -> bytes:
        figures = Figures(self._registry)
        view = View(
            figures,
            sample(figures, now),
            self._history.recent(now),
            self._history,
            self._status.read(),
            self._status.messages(),
            self._status.dead_letters(),
            self._paused(),
            self._settings,
            now,
            self._wall(),
            now - self._started,
        )
        document = _document(view, self._style, self._script)
        text = ET.tostring(document, encoding="unicode", method="html")
        return b"<!DOCTYPE html>\n" + text.encode("utf-8", errors="replace") + b"\n"


def _document(view: View, style: str, script: str) -> ET.Element:
    (labels, _), *_ = view.figures.rows("worker_info") or [({}, 1.0)]
    client = labels.get("client_id", "")
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("meta", name="color-scheme", content="light dark"),
        node("noscript", node("meta", http_equiv="refresh", content="10")),
        node("title", f"{_headline(view)} \u00b7 {client}"),
        node("link", rel="icon", href="data:,"),
        node("style", style),
    )
    main = node(
        "main",
        _header(view, labels),
        _blocked(view),
        _tiles(view),
        node("div", throughput_of(view), latency_of(view), class_="pair"),
        _partitions(view),
        node("div", _dead_letters(view), _requests(view), class_="pair"),
        _in_force(view),
    )
    stale = node("p", hidden="hidden", id="stale", role="status")
    return node("html", head, node("body", stale, main, node("script", script)), lang="en")


def _headline(view: View) -> str:
    """The state in a word, and whether something is blocked all the same."""
    state = view.reading.state
    blocked = len(view.messages)
    return f"{state.value}, {blocked} blocked" if blocked and state is not State.BLOCKED else state.value


_ICONS: Final = {
    "good": "M5 12.5l4.5 4.5L19 7.5",
    "wait": "M12 6v6l4 3",
    "bad": "M7 7l10 10M17 7L7 17",
    "warn": "M12 6v7M12 17v.5",
    "over": "M7 12h10",
}
"""By tone: a tick, a clock's hands, a cross, an exclamation mark, a dash."""


_TONES: Final = {
    State.STARTING: "wait",
    State.RUNNING: "good",
    State.BLOCKED: "bad",
    State.DRAINING: "wait",
    State.STOPPED: "over",
    State.FAILED: "bad",
}


def _header(view: View, labels: Labels) -> ET.Element:
    state = view.reading.state
    still = view.now - view.reading.last_turn
    tone = "warn" if state is State.RUNNING and (view.messages or still >= _STILL_SECONDS) else _TONES[state]
    icon = node("svg", node("path", d=_ICONS[tone]), viewBox="0 0 24 24", aria_hidden="true", class_="icon")
    told = node(
        "div",
        node("h1", _headline(view)),
        node("p", _why(view), class_="reason"),
        node("p", f"The main loop has not turned for {duration(still)}.", class_="still")
        if still >= _STILL_SECONDS
        else None,
    )
    facts = [
        ("group", labels.get("group_id", "")),
        ("client", labels.get("client_id", "")),
        ("version", labels.get("version", "")),
        ("up for", duration(view.uptime)),
        ("as of, UTC", utc(view.wall)),
    ]
    return node("header", node("div", icon, told, class_="state"), facts_of(facts), class_=tone)


def _why(view: View) -> str:
    """The reason, where it can quote no record: that of BLOCKED is the messages, which are told below."""
    state, reason = view.reading.state, view.reading.reason
    if state is State.BLOCKED:
        return "no assigned partition can move"
    if state is State.FAILED:
        return "the last lines of the log say why"
    return "" if reason == state.value else shortened(reason)


def _blocked(view: View) -> ET.Element | None:
    if not view.messages:
        return None
    rows = []
    for block, message in list(view.messages.items())[:_BLOCKS_SHOWN]:
        where = block.topic if block.partition is None else f"{block.topic}/{block.partition}"
        rows.append(
            node(
                "li",
                node("strong", where),
                " ",
                node("code", block.reason.value),
                node("p", shortened(message)),
            )
        )
    more = more_of(len(view.messages) - _BLOCKS_SHOWN, "blocks")
    return section_of("What is blocked", node("ul", *rows), more, name="blocked")


def _tiles(view: View) -> ET.Element:
    figures = view.figures
    rates = [view.a_second(outcome) for outcome in Outcome if outcome is not Outcome.RETURNED]
    settled = sum(rate for rate in rates if rate is not None) if view.recent is not None else None
    lag = figures.value("consumer_lag_records") if figures.rows("consumer_lag_records") else None
    in_flight, limit = figures.value("requests_in_flight"), figures.value("in_flight_limit")
    held, most = figures.value("buffer_bytes"), figures.value("buffer_limit_bytes")
    oldest = max((value for _, value in figures.rows("oldest_unsettled_age_seconds")), default=0.0)
    tiles = [
        _tile("Settled a second", rate_of(settled), "last minute"),
        _tile("Record latency", duration(view.latency(0.5)), f"p50, last minute; p99 {duration(view.latency(0.99))}"),
        _tile("Lag", count_of(lag), f"records, on {figures.value('assigned_partitions'):.0f} partitions"),
        _tile(
            "Unsettled",
            count_of(figures.value("records_buffered")),
            f"records, oldest {duration(oldest)}" if oldest else "records",
        ),
        _tile("In flight", f"{in_flight:.0f}", f"of {limit:.0f} requests", share=in_flight / limit if limit else 0.0),
        _tile("Buffer", sized(held), f"of {sized(most)}", share=held / most if most else 0.0),
    ]
    activity = [
        ("last poll", ago(figures.value("last_poll_timestamp_seconds"), view.wall)),
        ("last put", ago(figures.value("last_put_timestamp_seconds"), view.wall)),
        ("last commit", ago(figures.value("last_commit_timestamp_seconds"), view.wall)),
    ]
    return node("section", node("div", *tiles, class_="tiles"), facts_of(activity), aria_label="Now", class_="now")


def _tile(name: str, value: str, of: str, share: float | None = None) -> ET.Element:
    bar = None
    if share is not None:
        width = f"{100 * min(1.0, max(0.0, share)):.1f}"
        bar = node(
            "svg",
            node("rect", width="100", height="4", class_="room"),
            node("rect", width=width, height="4", class_="used"),
            viewBox="0 0 100 4",
            preserveAspectRatio="none",
            aria_hidden="true",
        )
    return node("div", node("h3", name), node("p", value, class_="value"), bar, node("p", of, class_="of"))


class _Row(NamedTuple):
    """A partition's line; what is not known is None."""

    partition: Partition
    lag: float | None
    watermark: float | None
    committed: float | None
    end: float | None
    age: float | None


def _partition_rows(figures: Figures) -> list[_Row]:
    """Return all, the most lag first, those whose lag is not known last."""
    names = ("consumer_lag_records", "watermark_offset", "committed_offset", "end_offset")
    columns = [figures.by(name, "topic", "partition") for name in names]
    ages = figures.by("oldest_unsettled_age_seconds", "topic", "partition")
    rows = []
    for key, age in ages.items():
        lag, watermark, committed, end = (column.get(key) for column in columns)
        rows.append(_Row(Partition(key[0], int(key[1])), lag, watermark, committed, end, age))
    return sorted(rows, key=lambda row: (row.lag is None, -(row.lag or 0.0), row.partition))


def _partitions(view: View) -> ET.Element:
    rows = _partition_rows(view.figures)
    if not rows:
        return section_of("Partitions", node("p", "none is assigned", class_="none"), name="partitions")
    cells = [
        [
            str(row.partition),
            _fetching(view, row),
            count_of(row.lag),
            whole(row.watermark),
            whole(row.committed),
            whole(row.end),
            duration(row.age) if row.age else NONE,
        ]
        for row in rows[:PARTITIONS_SHOWN]
    ]
    headings = ["partition", "fetching", "lag", "watermark", "committed", "end", "oldest unsettled"]
    more = more_of(len(rows) - PARTITIONS_SHOWN, "partitions, with less lag")
    table = table_of(headings, cells, texts=2, name="partitions")
    return section_of(f"Partitions ({len(rows):,})", table, more, name="partitions")


def _fetching(view: View, row: _Row) -> str:
    """Whether it is fetched, and what blocks it; some of what blocks is read on all the same."""
    fetched = "not yet" if row.watermark is None else "paused" if row.partition in view.paused else "yes"
    topic, number = row.partition
    reasons = [b.reason.value for b in view.messages if b.topic == topic and b.partition in (None, number)]
    return f"{fetched} ({', '.join(reasons)})" if reasons else fetched


def _dead_letters(view: View) -> ET.Element:
    """How many there are of each reason, and where the last of them came from; nothing of the records themselves."""
    totals = view.figures.by("dead_letters_total", "reason")
    counted = [(Reason(reason), total) for (reason,), total in totals.items() if total]
    if not counted:
        return section_of("Dead letters", node("p", "none since the start", class_="none"), name="dead-letters")
    rows = []
    for reason, total in sorted(counted, key=lambda pair: -pair[1]):
        letters = [letter for letter in view.letters if letter.reason is reason]
        rows += [
            [
                reason.value,
                f"{letter.topic}/{letter.partition}",
                str(letter.offset),
                utc(letter.at),
                count_of(total) if not place else "",
            ]
            for place, letter in enumerate(letters)
        ]
    headings = ["reason", "partition", "offset", "written, UTC", "since the start"]
    return section_of("Dead letters", table_of(headings, rows, texts=2, name="dead-letters"), name="dead-letters")


def _requests(view: View) -> ET.Element:
    """Requests by code, and whatever failed or was tried again."""
    counts = sorted((key, value) for key, value in view.current.counts.items() if value)
    if not counts:
        return section_of("Requests and errors", node("p", "none since the start", class_="none"), name="requests")
    rows = [
        [" ".join(_words(key)), count_of(view.in_last_minute(key)), count_of(value)]
        for key, value in counts[:_COUNTS_SHOWN]
    ]
    table = table_of(["request or error", "last minute", "since the start"], rows, texts=1, name="requests")
    return section_of("Requests and errors", table, more_of(len(counts) - _COUNTS_SHOWN, "counts"), name="requests")


def _words(key: Key) -> Key:
    name, *labels = key
    return tuple(labels) if name == "requests" else (name.replace("_", " ") + ":", *labels)


def _in_force(view: View) -> ET.Element:
    summary = node("summary", "Settings in force, and where each comes from", id="settings-summary")
    return node("details", summary, node("pre", view.settings), id="settings")


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _headers(style: str, script: str) -> tuple[tuple[str, str], ...]:
    """Nothing is loaded from elsewhere, nothing runs but the one script, and nobody puts the page into a frame."""
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
