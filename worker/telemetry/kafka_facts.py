"""What is known of the topics and of the whole group, from the thread that asks the brokers to the metrics that show it.

What is not known, or may not be asked for, is absent.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from worker.ledger import Partition


class TopicFacts(NamedTuple):
    """One topic, as the metadata has it."""

    is_missing: bool
    partitions: int = 0
    leaderless: int = 0


class GroupMember(NamedTuple):
    """One member of the group. `owned` counts its partitions; `is_worker` is False of a program that is not this software."""

    client_id: str
    host: str
    is_worker: bool
    owned: int


class GroupFacts(NamedTuple):
    """The whole group: its members, and by topic the partitions that no worker reads and the lag in records."""

    members: Sequence[GroupMember]
    unassigned: Mapping[str, int]
    lag: Mapping[str, int]


class Begin(NamedTuple):
    """Where a partition will begin whose first record was not read yet, and what the group has committed of it."""

    position: int
    committed: int | None


class Retention(NamedTuple):
    """When retention deletes the first record that still matters, in Unix time: infinite for never or not known.

    `topics` has each topic of which this process owns partitions. `dead_letters` is None where its limits may not be read.
    """

    topics: Mapping[str, float]
    dead_letters: float | None


_NO_RETENTION: Final = Retention({}, None)


class KafkaFacts:
    """The facts and their metrics. Each is replaced as a whole, so that any thread can read it. `wall` is Unix time."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self.topics: Mapping[str, TopicFacts] = {}
        self.group: GroupFacts | None = None
        self.begins: Mapping[Partition, Begin] = {}
        self.log_starts: Mapping[Partition, int] = {}
        self.retention = _NO_RETENTION

    def members(self) -> Sequence[GroupMember]:
        """Return the members of the group, none where they are not known."""
        group = self.group
        return () if group is None else group.members

    def clear(self) -> None:
        """Forget all: the brokers do not answer."""
        self.topics, self.group, self.begins, self.log_starts = {}, None, {}, {}
        self.retention = _NO_RETENTION

    def collect(self) -> Iterator[Metric]:
        """Return the metrics, as prometheus-client asks for them."""
        yield from _topic_families(self.topics)
        yield from _group_families(self.group)
        yield _log_start_family(self.log_starts)
        yield from _retention_families(self.retention, self._wall())


def _by_topic(name: str, documentation: str, values: Mapping[str, float], unit: str = "") -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=["topic"], unit=unit)
    for topic, value in values.items():
        family.add_metric([topic], value)
    return family


def _topic_families(topics: Mapping[str, TopicFacts]) -> Iterator[Metric]:
    there = {topic: facts for topic, facts in topics.items() if not facts.is_missing}
    yield _by_topic(
        "oss_vectors_topic_missing",
        "1 while a source topic or the dead-letter topic does not exist, or is not shown to this user.",
        {topic: float(facts.is_missing) for topic, facts in topics.items()},
    )
    yield _by_topic(
        "oss_vectors_topic_partitions",
        "Partitions that the topic has.",
        {topic: facts.partitions for topic, facts in there.items()},
    )
    yield _by_topic(
        "oss_vectors_leaderless_partitions",
        "Partitions of the topic that have no leader now.",
        {topic: facts.leaderless for topic, facts in there.items()},
    )


def _group_families(group: GroupFacts | None) -> Iterator[Metric]:
    yield _by_topic(
        "oss_vectors_unassigned_partitions",
        "Partitions of the topic that no worker of the group reads, asked for once a minute.",
        {} if group is None else group.unassigned,
    )
    yield _by_topic(
        "oss_vectors_group_lag_records",
        "Records of the topic that the whole group has not committed, asked for once a minute.",
        {} if group is None else group.lag,
        "records",
    )
    members = GaugeMetricFamily("oss_vectors_group_members", "Members of the group, asked for once a minute.")
    if group is not None:
        members.add_metric([], len(group.members))
    yield members


def _log_start_family(starts: Mapping[Partition, int]) -> Metric:
    family = GaugeMetricFamily(
        "oss_vectors_log_start_offset", "First offset that the partition still has.", labels=["topic", "partition"]
    )
    for partition, offset in sorted(starts.items()):
        family.add_metric([partition.topic, str(partition.partition)], offset)
    return family


def _retention_families(retention: Retention, now: float) -> Iterator[Metric]:
    yield _by_topic(
        "oss_vectors_retention_left_seconds",
        "Seconds until retention deletes the first unsettled record of the owned partitions; +Inf where nothing waits or no "
        "limit is known.",
        {topic: _left(deadline, now) for topic, deadline in retention.topics.items()},
        "seconds",
    )
    dead_letters = GaugeMetricFamily(
        "oss_vectors_dead_letter_retention_left_seconds",
        "Seconds until retention deletes the oldest record of the dead-letter topic; +Inf where it is empty or has no limit.",
        unit="seconds",
    )
    if retention.dead_letters is not None:
        dead_letters.add_metric([], _left(retention.dead_letters, now))
    yield dead_letters


def _left(deadline: float, now: float) -> float:
    return deadline if math.isinf(deadline) else max(0.0, deadline - now)
