"""The page's tables: partitions, dead letters, requests and errors."""

import xml.etree.ElementTree as ET
from typing import Final, NamedTuple

from worker.errors import Reason
from worker.ledger import Partition
from worker.ports import Pace
from worker.telemetry.page.facts import Share
from worker.telemetry.page.figures import Figures, Key
from worker.telemetry.page.html import more_of, node, section_of, table_of
from worker.telemetry.page.view import View
from worker.telemetry.page.words import NONE, count_of, duration, held, percent, rate_of, rough, utc, whole

PARTITIONS_SHOWN: Final = 50
_COUNTS_SHOWN: Final = 30
_MEMBERS_SHOWN: Final = 20


class _Row(NamedTuple):
    """A partition's line; what is not known is None."""

    partition: Partition
    lag: float | None
    watermark: float | None
    committed: float | None
    end: float | None
    age: float | None


def _partition_rows(figures: Figures) -> list[_Row]:
    """Return all partitions, those with the most lag first, those whose lag is not known last."""
    names = ("consumer_lag_records", "watermark_offset", "committed_offset", "end_offset")
    columns = [figures.by(name, "topic", "partition") for name in names]
    ages = figures.by("oldest_unsettled_age_seconds", "topic", "partition")
    rows = []
    for key, age in ages.items():
        lag, watermark, committed, end = (column.get(key) for column in columns)
        if end is not None and watermark is not None:
            end = max(end, watermark)  # the end is asked for at intervals
        rows.append(_Row(Partition(key[0], int(key[1])), lag, watermark, committed, end, age))
    return sorted(rows, key=lambda row: (row.lag is None, -(row.lag or 0.0), row.partition))


def partitions_of(view: View) -> ET.Element:
    """Return the table of partitions, those with the most lag first."""
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
            held(duration(row.age)) if row.age else NONE,
        ]
        for row in rows[:PARTITIONS_SHOWN]
    ]
    headings = ["partition", "fetching", "lag", "watermark", "committed", "end", "oldest unsettled"]
    more = more_of(len(rows) - PARTITIONS_SHOWN, "partitions, with less lag")
    table = table_of(headings, cells, texts=2, name="partitions")
    return section_of(f"Partitions ({len(rows):,})", table, more, name="partitions")


def _fetching(view: View, row: _Row) -> str:
    """Return whether a partition is fetched, and what blocks it; for some reasons it is fetched although it is blocked."""
    fetched = "not yet" if row.watermark is None else "paused" if row.partition in view.paused else "yes"
    topic, number = row.partition
    blocks = [b for b in view.messages if b.topic == topic and b.partition in (None, number)]
    reasons = [b.reason.value if b.of_index is None else f"{b.of_index}: {b.reason.value}" for b in blocks]
    return f"{fetched} ({', '.join(reasons)})" if reasons else fetched


def dead_letters_of(view: View) -> ET.Element:
    """Return how many dead letters there are of each reason, and where the last ones came from; nothing of the records."""
    totals = view.figures.by("dead_letters_total", "reason")
    counted = [(Reason(reason), total) for (reason,), total in totals.items() if total]
    shares = [node("p", _share(share), class_="share") for share in view.facts.shares if share.records]
    if not counted:
        none = node("p", "none since the start", class_="none")
        return section_of("Dead letters", none, *shares, name="dead-letters")
    rows = []
    for reason, total in sorted(counted, key=lambda pair: -pair[1]):
        newest = [each for each in view.dead_letters if each.reason is reason]
        rows += [
            [
                reason.value,
                f"{each.topic}/{each.partition}",
                str(each.offset),
                utc(each.at),
                count_of(total) if not place else "",
            ]
            for place, each in enumerate(newest)
        ]
    headings = ["reason", "partition", "offset", "written, UTC", "since the start"]
    table = table_of(headings, rows, texts=2, name="dead-letters")
    return section_of("Dead letters", table, *shares, name="dead-letters")


def _share(share: Share) -> str:
    """Return how many of the last records are dead letters, beside the limit."""
    return held(
        f"{share.topic}: {share.bad:,} of the last {share.records:,} records, {percent(share.ratio)}; "
        f"the limit is {percent(share.limit_ratio)} and {share.limit_min:,}"
    )


def group_of(view: View) -> ET.Element | None:
    """Return who reads which part of the topics, None where nothing is known of the group."""
    of = view.figures.by("topic_partitions", "topic")
    own, unread, lags = (
        view.figures.by(name, "topic")
        for name in ("topic_assigned_partitions", "unassigned_partitions", "group_lag_records")
    )
    rows = []
    for key, partitions in sorted(of.items()):
        if key in own or key in unread:  # the group does not read the dead-letter topic
            mine, none = own.get(key, 0.0), unread.get(key)
            others = None if none is None else max(0.0, partitions - mine - none)
            rows.append([key[0], *map(count_of, (partitions, mine, others, none, lags.get(key)))])
    if not rows:
        return None
    headings = ["topic", "partitions", "here", "other members", "not read", "group's lag"]
    table = table_of(headings, rows, texts=1, name="group")
    return section_of("The group", table, *_members(view), name="group")


def _members(view: View) -> list[ET.Element | None]:
    """Return who the members are, other programs first."""
    members = sorted(view.facts.members, key=lambda one: (one.is_worker, one.client_id, one.host))
    if not members:
        return []
    rows = [
        [one.client_id, one.host, "worker" if one.is_worker else "another program", f"{one.owned:,}"]
        for one in members[:_MEMBERS_SHOWN]
    ]
    table = table_of(["member", "address", "what it is", "partitions"], rows, texts=3, name="members")
    return [table, more_of(len(members) - _MEMBERS_SHOWN, "members")]


def limits_of(view: View) -> ET.Element | None:
    """Return the rate limit and the limit of requests in flight of each index, and why they are what they are."""
    rates = view.figures.by("rate_limit_vectors_per_second", "index")
    if not rates:
        return None
    in_flight = view.figures.by("in_flight_limit", "index")
    rows = []
    for key, rate in sorted(rates.items()):
        pace = view.facts.paces.get(key[0])
        why_rate, why_in_flight = ("", "") if pace is None else _reasons(view, pace)
        rate_words = f"at most {rate_of(rate)} vectors a second" if rate else "no limit of vectors a second"
        in_flight_words = f"at most {in_flight.get(key, 0.0):.0f} requests in flight"
        lines = [held(rate_words) + why_rate, held(in_flight_words) + why_in_flight]
        rows.append(node("li", node("strong", key[0]), *(node("p", line) for line in lines)))
    return section_of("Limits", node("ul", *rows), name="limits")


def _reasons(view: View, pace: Pace) -> tuple[str, str]:
    """Return why the rate and the limit of requests in flight are what they are, each after a colon."""
    rate, in_flight = str(pace.rate_cause), str(pace.in_flight_cause)
    throttled = "" if pace.throttled_at is None else f"; last throttled {rough(view.now - pace.throttled_at)} ago"
    return held(f": {_RATE_CAUSES.get(rate, rate)}{throttled}"), f": {_IN_FLIGHT_CAUSES.get(in_flight, in_flight)}"


_RATE_CAUSES: Final = {
    "unlimited": "delivery.vectors_per_second is 0, and the service has not throttled",
    "configured": "the setting delivery.vectors_per_second",
    "starting": "it still grows from where it begins",
    "throttled": "the service asked for less",
    "outage": "requests failed; it begins again when they are accepted",
    "growing": "it grows again after the service asked for less",
}
_IN_FLIGHT_CAUSES: Final = {
    "configured": "the setting delivery.max_in_flight",
    "starting": "it grows while requests wait",
    "slow": "answers took longer with more requests in flight",
    "outage": "requests failed or got no answer",
    "growing": "it grows again while requests wait",
}


def requests_of(view: View) -> ET.Element:
    """Return requests by code, and whatever failed or was retried."""
    counts = sorted((key, value) for key, value in view.current.counts.items() if value)
    if not counts:
        return section_of("Requests and errors", node("p", "none since the start", class_="none"), name="requests")
    rows = [[_words(key), count_of(view.in_last_minute(key)), count_of(value)] for key, value in counts[:_COUNTS_SHOWN]]
    table = table_of(["request or error", "last minute", "since the start"], rows, texts=1, name="requests")
    return section_of("Requests and errors", table, more_of(len(counts) - _COUNTS_SHOWN, "counts"), name="requests")


def _words(key: Key) -> str:
    """Return a count in words; no line begins with its code."""
    name, *labels = key
    words = labels if name == "requests" else [name.replace("_", " ") + ":", *labels]
    return " ".join(words[:-1]) + "\u00a0" * (len(words) > 1) + words[-1]
