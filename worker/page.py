"""The page for people on call: what the metrics say now and said in the last minutes, what blocks, the last dead letters.

It reads what /metrics reads. Every element is made as a node of a tree, so that whatever text is shown is escaped; no text
of a record is shown. A small ring keeps one sample each `STEP_SECONDS`, taken between the HTTP server's requests.
"""

import base64
import hashlib
import math
import threading
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry

from worker.errors import Reason
from worker.offsets import Outcome, Partition
from worker.state import Block, DeadLettered, Reading, State, Status
from worker.words import visible

STEP_SECONDS: Final = 5.0  # between two samples of the ring
STEPS: Final = 180  # that the ring keeps: 15 minutes
CACHED_SECONDS: Final = 1.0  # within which the page is made once, however many ask for it
PARTITIONS_SHOWN: Final = 50
_COUNTS_SHOWN: Final = 30
_BLOCKS_SHOWN: Final = 20
_MESSAGE_SHOWN: Final = 600  # characters; /readyz has the whole
_RECENT_SECONDS: Final = 60.0  # "last minute"
_STILL_SECONDS: Final = 10.0  # without a turn of the main loop, after which the page says so
_PREFIX: Final = "oss_vectors_"
_NONE: Final = "\u2013"
_COUNTED: Final = ("retries_total", "kafka_errors_total", "unknown_outcomes_total")
_COUNTED_FAILURES: Final = ("commits_total", "dead_letter_writes_total")

Key = tuple[str, ...]
Labels = Mapping[str, str]
Points = list[tuple[float, float | None]]  # (seconds ago, value), the oldest first


class Figures:
    """One reading of the registry. Names go without `oss_vectors_`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows: dict[str, list[tuple[Labels, float]]] = {}
        for family in registry.collect():
            for sample in family.samples:
                self._rows.setdefault(sample.name.removeprefix(_PREFIX), []).append((sample.labels, sample.value))

    def rows(self, name: str) -> list[tuple[Labels, float]]:
        """Return (labels, value) of each of a metric's samples."""
        return self._rows.get(name, [])

    def value(self, name: str) -> float:
        """Return the sum over all labels."""
        return sum(value for _, value in self.rows(name))

    def by(self, name: str, *labels: str) -> dict[Key, float]:
        """Return the sums by these labels' values."""
        sums: dict[Key, float] = {}
        for found, value in self.rows(name):
            key = tuple(found[label] for label in labels)
            sums[key] = sums.get(key, 0.0) + value
        return sums


class Sample(NamedTuple):
    """What of the figures the ring keeps: counters, so that two samples make a rate. `at` is monotonic, in seconds."""

    at: float
    settled: dict[Key, float]  # by outcome
    latency: dict[float, float]  # records by upper bound in seconds, cumulative
    counts: dict[Key, float]  # requests, retries and errors, by name and labels


def sample(figures: Figures, now: float) -> Sample:
    """Take what the ring keeps."""
    counts = {
        ("requests", *key): value for key, value in figures.by("requests_total", "index", "operation", "code").items()
    }
    for name in _COUNTED:
        for labels, value in figures.rows(name):
            counts[name.removesuffix("_total"), *labels.values()] = value
    for name in _COUNTED_FAILURES:
        counts[name.removesuffix("_total"), "failed"] = figures.by(name, "result").get(("failed",), 0.0)
    buckets = figures.by("record_latency_seconds_bucket", "le")
    latency = {float(bound): buckets[bound,] for (bound,) in buckets}
    return Sample(now, figures.by("records_settled_total", "outcome"), dict(sorted(latency.items())), counts)


def quantile(share: float, older: Sample, newer: Sample) -> float | None:
    """Return the latency in seconds that `share` of the records settled between two samples stayed below.

    It is interpolated within its bucket, as `histogram_quantile` does; None where no record was settled.
    """
    cumulative = [(bound, count - older.latency.get(bound, 0.0)) for bound, count in newer.latency.items()]
    if not cumulative or cumulative[-1][1] <= 0:
        return None
    wanted = share * cumulative[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in cumulative:
        if count >= wanted and not math.isinf(bound):
            return lower + (bound - lower) * (wanted - below) / max(count - below, 1e-9)
        if not math.isinf(bound):
            lower, below = bound, count
    return lower


class Step(NamedTuple):
    """What one step of the charts shows: records settled a second by outcome, and the quantiles of their latency."""

    at: float
    rates: dict[Key, float]
    p50: float | None
    p99: float | None


def _step(older: Sample, newer: Sample) -> Step:
    seconds = max(newer.at - older.at, 1e-9)
    rates = {key: (count - older.settled.get(key, 0.0)) / seconds for key, count in newer.settled.items()}
    return Step(newer.at, rates, quantile(0.5, older, newer), quantile(0.99, older, newer))


class History:
    """The ring: the steps of the last minutes, and the samples of the last one."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=math.ceil(_RECENT_SECONDS / STEP_SECONDS) + 1)
        self.steps: deque[Step] = deque(maxlen=STEPS)

    def add(self, one: Sample) -> None:
        """Keep a sample, and let the oldest go."""
        if self._samples:
            self.steps.append(_step(self._samples[-1], one))
        self._samples.append(one)

    def is_due(self, now: float) -> bool:
        """Tell whether it is time for another."""
        return not self._samples or now - self._samples[-1].at >= STEP_SECONDS

    def recent(self, now: float) -> Sample | None:
        """Return the sample of a minute ago, else the oldest; None where that is not a second ago."""
        old = [one for one in self._samples if now - one.at >= _RECENT_SECONDS]
        found = old[-1] if old else self._samples[0] if self._samples else None
        return found if found is not None and now - found.at >= 1.0 else None


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


class View(NamedTuple):
    """All that one page shows. `recent` is the sample of a minute ago; `now` is monotonic, `wall` Unix time."""

    figures: Figures
    current: Sample
    recent: Sample | None
    history: History
    reading: Reading
    messages: dict[Block, str]
    letters: list[DeadLettered]
    paused: Collection[Partition]
    settings: str
    now: float
    wall: float
    uptime: float

    def a_second(self, outcome: Outcome) -> float | None:
        """Records settled a second in the last minute, None in the first second."""
        if self.recent is None:
            return None
        key = (outcome.value,)
        count = self.current.settled.get(key, 0.0) - self.recent.settled.get(key, 0.0)
        return count / (self.current.at - self.recent.at)

    def latency(self, share: float) -> float | None:
        """That quantile of the last minute's record latency, in seconds."""
        return quantile(share, self.recent, self.current) if self.recent is not None else None

    def in_last_minute(self, key: Key) -> float | None:
        """How much a count has grown in the last minute."""
        return self.current.counts[key] - self.recent.counts.get(key, 0.0) if self.recent is not None else None


# -- nodes


def _node(tag: str, *children: "ET.Element | str | None", **attributes: str) -> ET.Element:
    """Return an element. A trailing underscore of a name goes, other underscores become hyphens; None is no child."""
    made = ET.Element(tag, {name.rstrip("_").replace("_", "-"): visible(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, str) and len(made):
            made[-1].tail = (made[-1].tail or "") + visible(child)
        elif isinstance(child, str):
            made.text = (made.text or "") + visible(child)
        elif child is not None:
            made.append(child)
    return made


def _facts(facts: Iterable[tuple[str, str]]) -> ET.Element:
    rows = [_node("div", _node("dt", name), _node("dd", value)) for name, value in facts]
    return _node("dl", *rows, class_="facts")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int, name: str) -> ET.Element:
    """Return a table whose first `texts` columns are text and whose others are numbers.

    With more than three columns each row is a card on a phone.
    """
    kinds = ["" if place < texts else "number" for place in range(len(headings))]
    head = [_node("th", heading, scope="col", class_=kind) for heading, kind in zip(headings, kinds, strict=True)]
    body = [
        _node(
            "tr",
            *(
                _node("td", cell, class_=kind, data_label=heading)
                for cell, kind, heading in zip(row, kinds, headings, strict=True)
            ),
        )
        for row in rows
    ]
    return _node(
        "table",
        _node("thead", _node("tr", *head)),
        _node("tbody", *body),
        class_=f"{name} cards" if len(headings) > 3 else name,
    )


def _section(title: str, *children: ET.Element | None, name: str) -> ET.Element:
    return _node("section", _node("h2", title), *children, class_=name)


def _more(count: int, what: str) -> ET.Element | None:
    return _node("p", f"and {count:,} more {what}", class_="more") if count > 0 else None


# -- words and numbers


def _count(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}"


def _rate(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}" if value >= 0.1 else f"{value:.2f}"


def _plain(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _seconds(value: float | None) -> str:
    """Return a duration in two units at the most."""
    if value is None:
        return _NONE
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _ago(moment: float, wall: float) -> str:
    return f"{_seconds(max(0.0, wall - moment))} ago" if moment else "not yet"


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _shortened(text: str) -> str:
    return text if len(text) <= _MESSAGE_SHOWN else text[:_MESSAGE_SHOWN] + " ..."


# -- the parts of the page


def _document(view: View, style: str, script: str) -> ET.Element:
    (labels, _), *_ = view.figures.rows("worker_info") or [({}, 1.0)]
    client = labels.get("client_id", "")
    head = _node(
        "head",
        _node("meta", charset="utf-8"),
        _node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _node("meta", name="color-scheme", content="light dark"),
        _node("noscript", _node("meta", http_equiv="refresh", content="10")),
        _node("title", f"{_headline(view)} \u00b7 {client}"),
        _node("link", rel="icon", href="data:,"),
        _node("style", style),
    )
    main = _node(
        "main",
        _header(view, labels),
        _blocked(view),
        _tiles(view),
        _node("div", _throughput(view), _latency(view), class_="pair"),
        _partitions(view),
        _node("div", _dead_letters(view), _requests(view), class_="pair"),
        _in_force(view),
    )
    stale = _node("p", hidden="hidden", id="stale", role="status")
    return _node("html", head, _node("body", stale, main, _node("script", script)), lang="en")


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
    icon = _node("svg", _node("path", d=_ICONS[tone]), viewBox="0 0 24 24", aria_hidden="true", class_="icon")
    told = _node(
        "div",
        _node("h1", _headline(view)),
        _node("p", _why(view), class_="reason"),
        _node("p", f"The main loop has not turned for {_seconds(still)}.", class_="still")
        if still >= _STILL_SECONDS
        else None,
    )
    facts = [
        ("group", labels.get("group_id", "")),
        ("client", labels.get("client_id", "")),
        ("version", labels.get("version", "")),
        ("up for", _seconds(view.uptime)),
        ("as of, UTC", _utc(view.wall)),
    ]
    return _node("header", _node("div", icon, told, class_="state"), _facts(facts), class_=tone)


def _why(view: View) -> str:
    """The reason, where it can quote no record: that of BLOCKED is the messages, which are told below."""
    state, reason = view.reading.state, view.reading.reason
    if state is State.BLOCKED:
        return "no assigned partition can move"
    if state is State.FAILED:
        return "the last lines of the log say why"
    return "" if reason == state.value else _shortened(reason)


def _blocked(view: View) -> ET.Element | None:
    if not view.messages:
        return None
    rows = []
    for block, message in list(view.messages.items())[:_BLOCKS_SHOWN]:
        where = block.topic if block.partition is None else f"{block.topic}/{block.partition}"
        rows.append(
            _node(
                "li",
                _node("strong", where),
                " ",
                _node("code", block.reason.value),
                _node("p", _shortened(message)),
            )
        )
    more = _more(len(view.messages) - _BLOCKS_SHOWN, "blocks")
    return _section("What is blocked", _node("ul", *rows), more, name="blocked")


# -- the figures of now


def _tiles(view: View) -> ET.Element:
    figures = view.figures
    rates = [view.a_second(outcome) for outcome in Outcome if outcome is not Outcome.RETURNED]
    settled = sum(rate for rate in rates if rate is not None) if view.recent is not None else None
    lag = figures.value("consumer_lag_records") if figures.rows("consumer_lag_records") else None
    in_flight, limit = figures.value("requests_in_flight"), figures.value("in_flight_limit")
    held, most = figures.value("buffer_bytes"), figures.value("buffer_limit_bytes")
    oldest = max((value for _, value in figures.rows("oldest_unsettled_age_seconds")), default=0.0)
    tiles = [
        _tile("Settled a second", _rate(settled), "last minute"),
        _tile("Record latency", _seconds(view.latency(0.5)), f"p50, last minute; p99 {_seconds(view.latency(0.99))}"),
        _tile("Lag", _count(lag), f"records, on {figures.value('assigned_partitions'):.0f} partitions"),
        _tile(
            "Unsettled",
            _count(figures.value("records_buffered")),
            f"records, oldest {_seconds(oldest)}" if oldest else "records",
        ),
        _tile("In flight", f"{in_flight:.0f}", f"of {limit:.0f} requests", share=in_flight / limit if limit else 0.0),
        _tile("Buffer", _bytes(held), f"of {_bytes(most)}", share=held / most if most else 0.0),
    ]
    activity = [
        ("last poll", _ago(figures.value("last_poll_timestamp_seconds"), view.wall)),
        ("last put", _ago(figures.value("last_put_timestamp_seconds"), view.wall)),
        ("last commit", _ago(figures.value("last_commit_timestamp_seconds"), view.wall)),
    ]
    return _node("section", _node("div", *tiles, class_="tiles"), _facts(activity), aria_label="Now", class_="now")


def _tile(name: str, value: str, of: str, share: float | None = None) -> ET.Element:
    bar = None
    if share is not None:
        width = f"{100 * min(1.0, max(0.0, share)):.1f}"
        bar = _node(
            "svg",
            _node("rect", width="100", height="4", class_="room"),
            _node("rect", width=width, height="4", class_="used"),
            viewBox="0 0 100 4",
            preserveAspectRatio="none",
            aria_hidden="true",
        )
    return _node("div", _node("h3", name), _node("p", value, class_="value"), bar, _node("p", of, class_="of"))


# -- charts

_WIDTH: Final = STEPS * 2  # of a chart, in its own units: two for a step
_HEIGHT: Final = 100
_AREA: Final = "M0 0h16v10H0z"
_LINE: Final = "M0 5h16"


def _x(seconds_ago: float) -> str:
    return f"{max(0.0, _WIDTH - seconds_ago / STEP_SECONDS * 2):.0f}"


def _chart(label: str, scale: Sequence[str], *paths: ET.Element) -> ET.Element:
    """Return a chart with the labels of its horizontal lines, from the top down."""
    lines = [
        _node("path", d=f"M0 {_HEIGHT * place / (len(scale) - 1):.1f}H{_WIDTH}", class_="grid")
        for place in range(len(scale))
    ]
    drawing = _node(
        "svg",
        *lines,
        *paths,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
    labels = _node("div", *(_node("span", text) for text in scale), class_="scale", aria_hidden="true")
    minutes = f"{STEPS * STEP_SECONDS / 60:.0f} min ago"
    times = _node("div", _node("span", minutes), _node("span", "now"), class_="times", aria_hidden="true")
    return _node("div", labels, drawing, times, class_="chart")


def _throughput(view: View) -> ET.Element:
    """Records settled a second, the outcomes stacked in the order of the legend, the first at the bottom."""
    steps = list(view.history.steps)
    ages = [view.now - step.at for step in steps]
    bottom = [0.0] * len(steps)
    stacked: list[tuple[Outcome, list[float], list[float]]] = []
    for outcome in Outcome:
        top = [low + step.rates.get((outcome.value,), 0.0) for low, step in zip(bottom, steps, strict=True)]
        if top != bottom:
            stacked.append((outcome, bottom, top))
        bottom = top
    most = _round_up(max(bottom, default=0.0))
    paths = [_node("path", d=_area(ages, low, high, most), class_=outcome.value) for outcome, low, high in stacked]
    scale = [_plain(most), _plain(most / 2), "0"]
    legend = [_legend(outcome.value, _AREA, _rate(view.a_second(outcome))) for outcome in reversed(Outcome)]
    chart = _chart(f"records settled a second by outcome, at most {_plain(most)}", scale, *paths)
    return _section("Records settled a second", chart, _node("ul", *legend, class_="legend"), name="throughput")


def _area(ages: Sequence[float], low: Sequence[float], high: Sequence[float], most: float) -> str:
    def places(values: Sequence[float]) -> list[str]:
        return [f"{_x(ago)} {_HEIGHT - _HEIGHT * value / most:.0f}" for ago, value in zip(ages, values, strict=True)]

    return "M" + "L".join([*places(high), *reversed(places(low))]) + "Z"


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, ..., at least 1."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def _latency(view: View) -> ET.Element:
    """The record latency on a scale of powers of ten, from 10 ms to a second at least."""
    steps = list(view.history.steps)
    highest = max((step.p99 for step in steps if step.p99 is not None), default=1.0)
    decades = max(2, math.ceil(math.log10(max(highest, 1e-9))) + 2)
    scale = [*(f"{10**place:,} s" for place in range(decades - 2, -1, -1)), "100 ms", "10 ms"]
    lines = {
        "p99": [(view.now - step.at, step.p99) for step in steps],
        "p50": [(view.now - step.at, step.p50) for step in steps],
    }
    paths = [_node("path", d=_line(points, decades), class_=name) for name, points in lines.items()]
    now = {"p99": _seconds(view.latency(0.99)), "p50": _seconds(view.latency(0.5))}
    legend = [_legend(name, _LINE, value) for name, value in now.items()]
    label = f"record latency, now p50 {now['p50']}, p99 {now['p99']}"
    chart = _chart(label, scale, *paths)
    return _section("Record latency", chart, _node("ul", *legend, class_="legend"), name="latency")


def _line(points: Points, decades: int) -> str:
    """Return a path that is broken where there is no value; a value that stands alone is a dot."""
    drawn = []
    is_open = False
    for ago, value in points:
        if value is None:
            is_open = False
            continue
        height = _HEIGHT * (math.log10(max(value, 0.01)) + 2) / decades
        place = f"{_x(ago)} {_HEIGHT - height:.0f}"
        drawn.append(f"L{place}" if is_open else f"M{place}h0")
        is_open = True
    return "".join(drawn)


def _legend(name: str, drawn: str, value: str) -> ET.Element:
    """Return a line of a legend: a piece of what is drawn, its name, its value of the last minute."""
    swatch = _node("svg", _node("path", d=drawn, class_=name), viewBox="0 0 16 10", aria_hidden="true")
    return _node("li", swatch, _node("span", name), _node("b", value))


# -- tables


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
        return _section("Partitions", _node("p", "none is assigned", class_="none"), name="partitions")
    cells = [
        [
            str(row.partition),
            _fetching(view, row),
            _count(row.lag),
            _whole(row.watermark),
            _whole(row.committed),
            _whole(row.end),
            _seconds(row.age) if row.age else _NONE,
        ]
        for row in rows[:PARTITIONS_SHOWN]
    ]
    headings = ["partition", "fetching", "lag", "watermark", "committed", "end", "oldest unsettled"]
    more = _more(len(rows) - PARTITIONS_SHOWN, "partitions, with less lag")
    table = _table(headings, cells, texts=2, name="partitions")
    return _section(f"Partitions ({len(rows):,})", table, more, name="partitions")


def _whole(value: float | None) -> str:
    """An offset, as other tools write it."""
    return _NONE if value is None else f"{value:.0f}"


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
        return _section("Dead letters", _node("p", "none since the start", class_="none"), name="dead-letters")
    rows = []
    for reason, total in sorted(counted, key=lambda pair: -pair[1]):
        letters = [letter for letter in view.letters if letter.reason is reason]
        rows += [
            [
                reason.value,
                f"{letter.topic}/{letter.partition}",
                str(letter.offset),
                _utc(letter.at),
                _count(total) if not place else "",
            ]
            for place, letter in enumerate(letters)
        ]
    headings = ["reason", "partition", "offset", "written, UTC", "since the start"]
    return _section("Dead letters", _table(headings, rows, texts=2, name="dead-letters"), name="dead-letters")


def _requests(view: View) -> ET.Element:
    """Requests by code, and whatever failed or was tried again."""
    counts = sorted((key, value) for key, value in view.current.counts.items() if value)
    if not counts:
        return _section("Requests and errors", _node("p", "none since the start", class_="none"), name="requests")
    rows = [
        [" ".join(_words(key)), _count(view.in_last_minute(key)), _count(value)]
        for key, value in counts[:_COUNTS_SHOWN]
    ]
    table = _table(["request or error", "last minute", "since the start"], rows, texts=1, name="requests")
    return _section("Requests and errors", table, _more(len(counts) - _COUNTS_SHOWN, "counts"), name="requests")


def _words(key: Key) -> Key:
    name, *labels = key
    return tuple(labels) if name == "requests" else (name.replace("_", " ") + ":", *labels)


def _in_force(view: View) -> ET.Element:
    summary = _node("summary", "Settings in force, and where each comes from", id="settings-summary")
    return _node("details", summary, _node("pre", view.settings), id="settings")


# -- what does not change


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
