"""The top of the page: the state, what is blocked, and the numbers of now."""

import xml.etree.ElementTree as ET
from typing import Final

from worker.telemetry.page.figures import Labels
from worker.telemetry.page.html import facts_of, more_of, node, section_of
from worker.telemetry.page.notices import Notice, notices_of
from worker.telemetry.page.view import View
from worker.telemetry.page.words import (
    ago,
    clock,
    count_of,
    counted,
    duration,
    held,
    rate_of,
    rough,
    shortened,
    sized,
    utc,
)
from worker.telemetry.state import Block, State

RUNBOOK: Final = "https://github.com/oss-vectors-worker/oss-vectors-worker/blob/main/ops/runbook.md"
_BLOCKS_SHOWN: Final = 20
_NOTICES_SHOWN: Final = 10
_SINCE_SECONDS: Final = 10.0  # of a state other than running, after which its time is shown
_CLOCK_SECONDS: Final = 12 * 3600.0  # ago, for which the time of the day says enough
_STEADY_SHARE: Final = 0.01  # of the lag, by which it may change in a minute and be called steady
_STEADY_GROWTH: Final = 0.1  # of what is published
_BEHIND_SECONDS: Final = 20.0  # of publishing: the lag that is there although the worker keeps up, since ends are old


def headline_of(view: View) -> str:
    """Return what gets through in a few words, and how much is blocked where they do not say so."""
    state, title = view.reading.state, view.reading.title
    words = title or state.value
    if state is State.STARTING and view.watch.has_run and not title:
        words = "reconnecting"
    if state in (State.RUNNING, State.STARTING) and (found := notices_of(view)):
        is_own = state is State.RUNNING or found[0].key in ("still", "coordinator") or "missing" in found[0].key
        if is_own and found[0].headline != state.value and (not title or found[0].key == "still"):
            words = found[0].headline
    blocked = len(view.messages)
    return f"{words}, {blocked} blocked" if blocked and state is not State.BLOCKED and not title else words


_ICONS: Final = {
    "good": "M5 12.5l4.5 4.5L19 7.5",
    "wait": "M12 6v6l4 3",
    "bad": "M7 7l10 10M17 7L7 17",
    "warn": "M12 6v7M12 17v.5",
    "over": "M7 12h10",
}
"""By tone: a tick, the hands of a clock, a cross, an exclamation mark, a dash."""


_TONES: Final = {
    State.STARTING: "wait",
    State.RUNNING: "good",
    State.BLOCKED: "bad",
    State.DRAINING: "wait",
    State.STOPPED: "over",
    State.FAILED: "bad",
}


def _tone(view: View) -> str:
    state = view.reading.state
    is_amber = state in (State.RUNNING, State.STARTING) and (view.messages or notices_of(view))
    is_back = state is State.STARTING and view.watch.has_run
    return "warn" if is_amber or is_back else _TONES[state]


def header_of(view: View, labels: Labels) -> ET.Element:
    """Return the state with its reason, and which process this is; `labels` are those of `worker_info`."""
    tone = _tone(view)
    icon = node("svg", node("path", d=_ICONS[tone]), viewBox="0 0 24 24", aria_hidden="true", class_="icon")
    words = node("div", node("h1", headline_of(view)), node("p", _why(view), class_="reason"), _since(view))
    facts = [
        ("group", labels.get("group_id", "")),
        ("client", labels.get("client_id", "")),
        ("version", labels.get("version", "")),
        ("up for", held(rough(view.uptime))),
        ("as of, UTC", utc(view.wall)),
    ]
    return node("header", node("div", icon, words, class_="state"), facts_of(facts), class_=tone)


def _why(view: View) -> str:
    """Return the state's reason where it can quote no record, and nothing below says it.

    That of BLOCKED is the messages of the blocks, that of RUNNING what the notices say.
    """
    state, reason = view.reading.state, view.reading.reason
    if state is State.RUNNING:
        return ""
    if state is State.BLOCKED:
        return "no assigned partition can move"
    if state is State.FAILED:
        return "the last lines of the log say why"
    return "" if reason == state.value else shortened(reason)


def _since(view: View) -> ET.Element | None:
    """Return since when the state is what it is, where it is not the usual one."""
    seconds = view.now - view.watch.state_since
    if view.reading.state is State.RUNNING or seconds < _SINCE_SECONDS:
        return None
    runbook = (" \u00b7 ", _runbook("ossvectorspollingstopped")) if view.reading.title else ()
    return node("p", _lasting(view, view.watch.state_since), *runbook, class_="since")


def _lasting(view: View, since: float) -> str:
    return held(f"since {_moment(view, since)}, for {rough(view.now - since)}")


def _moment(view: View, since: float) -> str:
    """Return a moment of the monotonic clock in UTC, with its day where that may be another one."""
    moment = view.utc_of(since)
    return (clock(moment) if view.now - since < _CLOCK_SECONDS else utc(moment)) + "\u00a0UTC"


def notices_section_of(view: View) -> ET.Element | None:
    """Return what keeps records from getting through, worst first, None where nothing does."""
    notices = notices_of(view)
    if not notices:
        return None
    rows = [_notice(view, notice) for notice in notices[:_NOTICES_SHOWN]]
    more = more_of(len(notices) - _NOTICES_SHOWN, "notices")
    return node("section", node("ul", *rows), more, aria_label="Notices", class_="notices", role="status")


def _notice(view: View, notice: Notice) -> ET.Element:
    if notice.since is None:
        since = _lasting(view, view.watch.notice_since(notice.key, view.now))
    else:  # the text has said for how long
        since = f"since {_moment(view, notice.since)}"
    rest = node("p", since, " \u00b7 ", _runbook(notice.section), class_="of")
    return node("li", node("p", held(notice.text)), rest)


def _runbook(section: str) -> ET.Element:
    return node("a", "runbook", href=f"{RUNBOOK}#{section}", rel="noreferrer")


def blocked_of(view: View) -> ET.Element | None:
    """Return what is blocked with its messages, None where nothing is."""
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
                node(
                    "p",
                    _tried(view, block),
                    " \u00b7 ",
                    _runbook(f"blocked-{block.reason.value}"),
                    class_="of",
                ),
            )
        )
    more = more_of(len(view.messages) - _BLOCKS_SHOWN, "blocks")
    return section_of("What is blocked", node("ul", *rows), more, name="blocked")


def _tried(view: View, block: Block) -> str:
    """Return since when a block is there and, where that is known, how often it was tried and when it is tried next."""
    attempts = view.facts.attempts.get(block)
    if attempts is None:
        return _lasting(view, view.watch.block_since(block, view.now))
    times = "tried once" if attempts.count == 1 else f"tried {attempts.count:,} times"
    if attempts.next_at is None:
        return held(f"{_lasting(view, attempts.since)} \u00b7 it needs a person")
    left = attempts.next_at - view.now
    when = f"next attempt in {rough(left)}" if left > 0.5 else "the next attempt is due"
    return held(f"{_lasting(view, attempts.since)} \u00b7 {times} \u00b7 {when}")


def catch_up_of(view: View) -> str:
    """Return how the lag moves, and when it is gone at this rate."""
    lag, trend = view.lag, view.flow.trend
    if lag is None:
        return "not known yet"
    if not lag:
        return "caught up"
    return "trend not known yet" if trend is None else held(_movement(lag, trend, view.flow.published or 0.0))


def _movement(lag: float, trend: float, published: float) -> str:
    if lag <= _BEHIND_SECONDS * published and trend <= _STEADY_GROWTH * published:
        return "keeps up"
    if abs(trend) * 60 <= _STEADY_SHARE * lag:
        return "steady, does not shrink"
    return f"grows by {rate_of(trend)} a second" if trend > 0 else f"caught up in {rough(lag / -trend)} at this rate"


def tiles_of(view: View) -> ET.Element:
    """Return the numbers of the last minute and of now."""
    figures = view.figures
    in_flight, limit = figures.value("requests_in_flight"), figures.value("in_flight_limit")
    buffered, most = figures.value("buffer_bytes"), figures.value("buffer_limit_bytes")
    oldest = max((value for _, value in figures.rows("oldest_unsettled_age_seconds")), default=0.0)
    tiles = [
        _tile("Published a second", rate_of(view.flow.published), "to these partitions, last 2 min"),
        _tile("Settled a second", rate_of(view.settled), "last minute"),
        _tile("Lag", count_of(view.lag), f"{catch_up_of(view)}; {_of_partitions(view)}"),
        _group_lag(view),
        _tile(
            "Record latency", duration(view.latency(0.5)), f"p50, last minute; p99\u00a0{duration(view.latency(0.99))}"
        ),
        _tile(
            "Unsettled",
            count_of(figures.value("records_buffered")),
            f"records, oldest {rough(oldest)}" if oldest else "records",
        ),
        _tile("In flight", f"{in_flight:.0f}", f"of {limit:.0f} requests", share=in_flight / limit if limit else 0.0),
        _tile("Buffer", sized(buffered), f"of {sized(most)}", share=buffered / most if most else 0.0),
    ]
    moved = view.watch.moved_at
    activity = [
        ("last poll", held(ago(figures.value("last_poll_timestamp_seconds"), view.wall))),
        ("last put", held(ago(figures.value("last_put_timestamp_seconds"), view.wall))),
        ("committed offsets moved", held(f"{rough(view.now - moved)} ago") if moved is not None else "not yet"),
    ]
    return node("section", node("div", *tiles, class_="tiles"), facts_of(activity), aria_label="Now", class_="now")


def _of_partitions(view: View) -> str:
    own, partitions = view.figures.value("assigned_partitions"), view.figures.by("topic_partitions", "topic")
    sources = view.figures.by("topic_assigned_partitions", "topic")  # not the dead-letter topic
    of = sum(count for topic, count in partitions.items() if topic in sources)
    return f"{own:.0f} of {of:.0f} partitions" if of else counted(own, "partition", "partitions")


def _group_lag(view: View) -> ET.Element | None:
    if not view.figures.rows("group_lag_records"):
        return None
    members = view.figures.value("group_members")
    others = f"{counted(members - 1, 'other member', 'other members')}" if members > 1 else "no other member"
    return _tile("Group's lag", count_of(view.figures.value("group_lag_records")), f"all partitions; {others}")


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
    return node("div", node("h3", name), node("p", held(value), class_="value"), bar, node("p", held(of), class_="of"))
