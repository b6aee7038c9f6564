"""The signs of what no worker reads, what is missing and what retention reaches, on a real broker."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from tests.support.bounded import join, thread
from tests.support.broker import TopicFactory
from tests.support.cluster import running_cluster
from tests.support.member import Member
from tests.support.worker import Record, StageFactory, WorkerFactory, publish
from worker.consumer.ends import EndWatcher
from worker.consumer.survey import Survey
from worker.ledger import Assignment
from worker.local.broker import Broker

HOUR_MS = str(3_600_000)


class Watched:
    """A member and the survey of its topic, which looks often."""

    def __init__(self, bootstrap: str, topic: str, dead_letters: str = "", **kafka: Any) -> None:
        self.member = Member(bootstrap, topic, **kafka)
        survey = Survey(
            self.member.settings,
            [topic],
            dead_letters,
            ledger=self.member.ledger,
            status=self.member.status,
            facts=self.member.metrics.kafka_facts,
            clock=time.monotonic,
            wall=time.time,
            group_seconds=0.1,
        )
        self._watcher = EndWatcher(
            self.member.settings,
            self.member.ledger,
            self.member.metrics,
            self.member.status,
            clock=time.monotonic,
            interval=0.1,
            survey=survey,
        )

    def value(self, name: str, **labels: str) -> float | None:
        """Return a metric, None where it is absent."""
        return self.member.metrics.registry.get_sample_value(f"oss_vectors_{name}", labels)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Let the member turn until a condition holds."""
        self.member.turns_until(condition, what)

    @contextmanager
    def running(self, *, as_member: bool = True) -> Iterator["Watched"]:
        """Run both."""
        if as_member:
            self.member.source.start()
        self._watcher.start()
        try:
            yield self
        finally:
            self._watcher.stop()
            if as_member:
                self.member.source.close(1.0)


@contextmanager
def stranger(bootstrap: str, topic: str, group: str) -> Iterator[None]:
    """Run a consumer of other software in the group, with the client id of a worker, which commits nothing."""
    stop = threading.Event()

    def consume() -> None:
        consumer = KafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=group,
            client_id="oss-vectors-worker",
            enable_auto_commit=False,
            partition_assignment_strategy=[CooperativeStickyAssignor],
        )
        with closing(consumer):
            while not stop.is_set():
                consumer.poll(timeout_ms=100)

    running = thread(consume, name="stranger")
    try:
        yield
    finally:
        stop.set()
        join(running)


def test_partitions_that_a_stranger_owns_are_read_by_no_worker(broker: Broker, new_topic: TopicFactory) -> None:
    topic = new_topic(4)
    publish(broker.bootstrap, topic, [Record(None, b"{}", partition=number) for number in range(4)])
    watched = Watched(broker.bootstrap, topic)

    def shown() -> tuple[float | None, ...]:
        names = ("unassigned_partitions", "topic_assigned_partitions", "topic_partitions", "group_lag_records")
        return (*(watched.value(name, topic=topic) for name in names), watched.value("group_members"))

    with watched.running():
        watched.until(lambda: shown() == (0, 4, 4, 4, 1), "the member owns all of them")
        with stranger(broker.bootstrap, topic, watched.member.settings.group_id):
            watched.until(lambda: shown() == (2, 2, 4, 4, 2), "the stranger has two")
        watched.until(lambda: shown() == (0, 4, 4, 4, 1), "the member owns all of them again")


def test_a_worker_shows_its_group_from_the_start(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage()
    worker = start_worker(stage.settings()).wait_ready()
    expected = {
        "unassigned_partitions": 0,
        "topic_assigned_partitions": stage.partitions,
        "topic_partitions": stage.partitions,
        "topic_missing": 0,
        "retention_left_seconds": math.inf,
    }
    worker.wait_until(
        lambda metrics: all(metrics.total(name, topic=stage.topic) == value for name, value in expected.items()),
        "all of its topic is read",
    )


def test_two_workers_read_all_partitions_between_them(broker: Broker, new_topic: TopicFactory) -> None:
    topic = new_topic(2)
    watched = Watched(broker.bootstrap, topic)
    other = Member(broker.bootstrap, topic, group_id=watched.member.settings.group_id)
    with watched.running():
        watched.until(lambda: watched.value("unassigned_partitions", topic=topic) == 0, "the first owns all of them")
        other.source.start()

        def are_shared() -> bool:
            other.turn()
            names = ("topic_assigned_partitions", "unassigned_partitions")
            owned, unassigned = (watched.value(name, topic=topic) for name in names)
            return (owned, unassigned, watched.value("group_members")) == (1, 0, 2)

        watched.until(are_shared, "each has one")
        other.source.close(1.0)


def test_topics_that_are_deleted_are_missing_and_found_again(
    broker: Broker, admin: KafkaAdminClient, new_topic: TopicFactory
) -> None:
    topic, dead_letters = new_topic(), new_topic()
    watched = Watched(broker.bootstrap, topic, dead_letters)

    def missing() -> tuple[float | None, ...]:
        return watched.value("topic_missing", topic=topic), watched.value("topic_missing", topic=dead_letters)

    with watched.running():
        watched.until(lambda: missing() == (0, 0), "both are there")
        admin.delete_topics([dead_letters])
        watched.until(lambda: missing() == (0, 1), "the dead-letter topic is missing")
        (warning,) = watched.member.status.warnings()
        assert dead_letters in warning
        admin.delete_topics([topic])
        watched.until(lambda: missing() == (1, 1), "both are missing")
        admin.create_topics([NewTopic(topic, 1, 1), NewTopic(dead_letters, 1, 1)])
        watched.until(lambda: missing() == (0, 0), "both are there again")
        assert watched.member.status.warnings() == []


def test_a_worker_that_opens_nothing_shows_its_lag_from_what_was_committed(
    broker: Broker, new_topic: TopicFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is at a deployment with wrong credentials of the service."""
    topic = new_topic()
    publish(broker.bootstrap, topic, [Record(None, b"{}") for _ in range(10)])
    watched = Watched(broker.bootstrap, topic)
    with closing(
        KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=watched.member.settings.group_id)
    ) as before:
        before.commit({TopicPartition(topic, 0): OffsetAndMetadata(4, "", -1)})

    def never(_assignment: Assignment) -> bool:
        return False

    monkeypatch.setattr(watched.member, "may_open", never)
    labels = {"topic": topic, "partition": "0"}
    names = ("consumer_lag_records", "watermark_offset", "committed_offset", "end_offset")
    with watched.running():
        watched.until(lambda: [watched.value(name, **labels) for name in names] == [6, 4, 4, 10], "the lag is shown")


def test_the_time_until_retention_reaches_the_backlog_and_the_dead_letters(
    broker: Broker, admin: KafkaAdminClient, new_topic: TopicFactory
) -> None:
    topic, dead_letters = new_topic(retention_ms=HOUR_MS), new_topic(retention_ms=HOUR_MS)
    publish(broker.bootstrap, topic, [Record(None, b"{}") for _ in range(10)])
    watched = Watched(broker.bootstrap, topic, dead_letters)

    def left() -> float:
        return watched.value("retention_left_seconds", topic=topic) or 0.0

    with watched.running():
        watched.until(lambda: 3000 < left() <= 3600, "the first of them has most of an hour")
        assert watched.value("log_start_offset", topic=topic, partition="0") == 0
        assert watched.value("dead_letter_retention_left_seconds") == math.inf
        publish(broker.bootstrap, dead_letters, [Record(None, b"{}")])
        watched.until(lambda: 3000 < (watched.value("dead_letter_retention_left_seconds") or 0) <= 3600, "so has that")
        (assignment,) = watched.member.ledger.assignments()
        watched.until(lambda: len(assignment.unsettled) == 10, "all are read")
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": "-1"})])
        watched.until(lambda: left() == math.inf, "they are kept for ever")


def test_a_coordinator_and_a_leader_that_are_away_are_shown(tmp_path: Path) -> None:
    """The second of two nodes is the only one that has a partition of the topic, and the offsets of the group."""
    config = {"offsets.topic.replication.factor": "1", "offsets.topic.num.partitions": "1"}
    config |= {"broker.heartbeat.interval.ms": "200", "broker.session.timeout.ms": "1000"}
    with running_cluster(tmp_path, 2, config) as (first, second):
        with closing(KafkaAdminClient(bootstrap_servers=first.bootstrap)) as admin:
            placed = NewTopic("vectors", replica_assignments={0: [1], 1: [2]})
            offsets = NewTopic(
                "__consumer_offsets", replica_assignments={0: [2]}, topic_configs={"cleanup.policy": "compact"}
            )
            admin.create_topics([placed, offsets], wait_for_metadata=True)
        watched = Watched(first.bootstrap, "vectors", session_seconds=45.0)

        def shown() -> tuple[float | None, bool]:
            away = watched.value("coordinator_unavailable_seconds") or 0.0
            return watched.value("leaderless_partitions", topic="vectors"), away > 0

        with watched.running():
            watched.until(lambda: shown() == (0, False) and len(watched.member.opened) == 2, "all is well")
            second.kill()
            watched.until(lambda: shown() == (1, True), "the node is away")
