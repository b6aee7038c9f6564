"""The page's tables: partitions, dead letters, requests and errors."""

import xml.etree.ElementTree as ET
from typing import Final, NamedTuple

from worker.errors import Reason
from worker.ledger import Partition
from worker.telemetry.page.figures import Figures, Key, View
from worker.telemetry.page.html import more_of, node, section_of, table_of
from worker.telemetry.page.words import NONE, count_of, duration, utc, whole

PARTITIONS_SHOWN: Final = 50
_COUNTS_SHOWN: Final = 30


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
            duration(row.age) if row.age else NONE,
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
    if not counted:
        return section_of("Dead letters", node("p", "none since the start", class_="none"), name="dead-letters")
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
    return section_of("Dead letters", table_of(headings, rows, texts=2, name="dead-letters"), name="dead-letters")


def requests_of(view: View) -> ET.Element:
    """Return requests by code, and whatever failed or was retried."""
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
