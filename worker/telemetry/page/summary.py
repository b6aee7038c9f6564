"""The top of the page: the state, what is blocked, and the numbers of now."""

import xml.etree.ElementTree as ET
from typing import Final

from worker.ledger import Outcome
from worker.telemetry.page.figures import Labels, View
from worker.telemetry.page.html import facts_of, more_of, node, section_of
from worker.telemetry.page.words import ago, count_of, duration, rate_of, shortened, sized, utc
from worker.telemetry.state import State

_BLOCKS_SHOWN: Final = 20
_STILL_SECONDS: Final = 10.0  # without a turn of the main loop, after which the page says so


def headline_of(view: View) -> str:
    """Return the state in a word, and how much is blocked in a state that does not say so."""
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
"""By tone: a tick, the hands of a clock, a cross, an exclamation mark, a dash."""


_TONES: Final = {
    State.STARTING: "wait",
    State.RUNNING: "good",
    State.BLOCKED: "bad",
    State.DRAINING: "wait",
    State.STOPPED: "over",
    State.FAILED: "bad",
}


def header_of(view: View, labels: Labels) -> ET.Element:
    """Return the state with its reason, and which process this is; `labels` are those of `worker_info`."""
    state = view.reading.state
    still = view.now - view.reading.last_turn
    tone = "warn" if state is State.RUNNING and (view.messages or still >= _STILL_SECONDS) else _TONES[state]
    icon = node("svg", node("path", d=_ICONS[tone]), viewBox="0 0 24 24", aria_hidden="true", class_="icon")
    words = node(
        "div",
        node("h1", headline_of(view)),
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
    return node("header", node("div", icon, words, class_="state"), facts_of(facts), class_=tone)


def _why(view: View) -> str:
    """Return the state's reason where it can quote no record: that of BLOCKED is the messages, which are shown below."""
    state, reason = view.reading.state, view.reading.reason
    if state is State.BLOCKED:
        return "no assigned partition can move"
    if state is State.FAILED:
        return "the last lines of the log say why"
    return "" if reason == state.value else shortened(reason)


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
            )
        )
    more = more_of(len(view.messages) - _BLOCKS_SHOWN, "blocks")
    return section_of("What is blocked", node("ul", *rows), more, name="blocked")


def tiles_of(view: View) -> ET.Element:
    """Return the numbers of the last minute and of now."""
    figures = view.figures
    rates = [view.a_second(outcome) for outcome in Outcome if outcome is not Outcome.RETURNED]
    settled = sum(rate for rate in rates if rate is not None) if view.recent is not None else None
    lag = figures.value("consumer_lag_records") if figures.rows("consumer_lag_records") else None
    in_flight, limit = figures.value("requests_in_flight"), figures.value("in_flight_limit")
    buffered, most = figures.value("buffer_bytes"), figures.value("buffer_limit_bytes")
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
        _tile("Buffer", sized(buffered), f"of {sized(most)}", share=buffered / most if most else 0.0),
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
