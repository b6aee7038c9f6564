"""What the group has committed: is it still there, how far is it behind, and how much time does retention leave."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.errors import FatalError
from worker.ledger import Partition
from worker.settings.tables import Settings
from worker.tools.brokers import committed_of
from worker.tools.check.configs import number_in, text_in
from worker.tools.check.report import Finding, fault, ok, skipped, warning
from worker.tools.scan import Scanner, Stretch

_HOUR_MS: Final = 3_600_000
_ENOUGH: Final = 0.25  # of the time of retention
_SHOWN: Final = 5


class _Offsets(NamedTuple):
    """The offsets of one topic's partitions."""

    partitions: Sequence[Partition]
    first: Mapping[Partition, int]
    end: Mapping[Partition, int]
    committed: Mapping[Partition, int]


def lag(
    settings: Settings, client: Any, topics: Mapping[str, Mapping[str, Any]], wall: Callable[[], float] = time.time
) -> Iterator[Finding]:
    """Compare what is committed of each topic with what the topic has. `topics` are their settings by name."""
    kafka = settings.kafka
    try:
        committed = committed_of(client, kafka.group_id)
    except kafka_errors.KafkaError as error:
        yield skipped("lag", kafka.group_id, f"its offsets are not known: {client_config.describe(error)}")
        return
    with Scanner(kafka, answer_seconds=5, patience_seconds=5) as scanner:
        for topic, configs in topics.items():
            try:
                partitions = scanner.partitions(topic)
                first, end = scanner.first_offsets(partitions), scanner.end_offsets(partitions)
                offsets = _Offsets(partitions, first, end, committed)
                yield from _of_topic(settings, topic, offsets)
                yield from _time_left(topic, offsets, scanner, configs, wall)
            except FatalError as error:
                yield skipped("lag", topic, str(error))


def _of_topic(settings: Settings, topic: str, offsets: _Offsets) -> Iterator[Finding]:
    known = [one for one in offsets.partitions if one in offsets.committed]
    removed = [one for one in known if offsets.committed[one] < offsets.first[one]]
    if removed:
        count = sum(offsets.first[one] - offsets.committed[one] for one in removed)
        told = f"{count} offsets of {_named(removed)} were removed by retention before the group had them"
        yield fault("lag.committed", topic, told, "publish these records again, and raise the topic's retention.ms")
    beyond = [one for one in known if offsets.committed[one] > offsets.end[one]]
    if beyond:
        told = f"what is committed of {_named(beyond)} is beyond the end: the topic was truncated, or deleted and created again"
        advice = "commit the right offsets by hand, or choose another kafka.group_id to read it all again"
        yield fault("lag.committed", topic, told, advice)
    behind = sum(
        max(0, offsets.end[one] - max(offsets.committed[one], offsets.first[one])) for one in known if one not in beyond
    )
    if known:
        yield ok("lag", topic, f"{behind} records are not committed")
    fresh = [one for one in offsets.partitions if one not in offsets.committed]
    if fresh:
        yield _uncommitted(settings, topic, fresh, offsets)


def _uncommitted(settings: Settings, topic: str, fresh: Sequence[Partition], offsets: _Offsets) -> Finding:
    count = sum(offsets.end[one] - offsets.first[one] for one in fresh)
    told = f"nothing is committed of {_named(fresh)}, which have {count} records"
    reset = settings.kafka.auto_offset_reset
    if reset == "none":
        advice = "commit an offset by hand, or set kafka.auto_offset_reset to earliest: it blocks until then"
        return fault("lag.begin", topic, told, advice)
    if reset == "latest" and count:
        advice = "set kafka.auto_offset_reset to earliest, or these records are never written"
        return warning("lag.begin", topic, told, advice)
    return ok("lag.begin", topic, f"{told}; the worker begins at the {'first' if reset == 'earliest' else 'end'}")


def _named(partitions: Sequence[Partition]) -> str:
    shown = ", ".join(str(one) for one in partitions[:_SHOWN])
    return f"{shown} and {len(partitions) - _SHOWN} more" if len(partitions) > _SHOWN else shown


def _time_left(
    topic: str, offsets: _Offsets, scanner: Scanner, configs: Mapping[str, Any], wall: Callable[[], float]
) -> Iterator[Finding]:
    """Say how much time retention leaves for the oldest record that is not committed."""
    retention_ms = number_in(configs, "retention.ms")
    if retention_ms is None or retention_ms < 0 or "delete" not in text_in(configs, "cleanup.policy"):
        return
    # A group that begins with the first record has not fallen behind: only what is committed counts.
    begins = {one: max(at, offsets.first[one]) for one, at in offsets.committed.items() if one in offsets.first}
    stretches = [Stretch(one, begin, begin + 1) for one, begin in begins.items() if begin < offsets.end[one]]
    times = [message.timestamp for _, messages in scanner.read(stretches) for message in messages]
    oldest = min((one for one in times if one >= 0), default=None)
    if oldest is None:
        return
    left_ms = retention_ms - (wall() * 1000 - oldest)
    told = f"retention leaves {max(0.0, left_ms) / _HOUR_MS:.1f} h for the oldest record that is not committed"
    if left_ms < retention_ms * _ENOUGH:
        yield warning(
            "lag.retention", topic, told, "raise the topic's retention.ms now, then see why the worker is behind"
        )
    else:
        yield ok("lag.retention", topic, told)
