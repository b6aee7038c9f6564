"""What stands in the way on Kafka's side is told, with what to do about it, and the others go on where they can."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import NewTopic
from kafka.coordinator.assignors.range import RangePartitionAssignor

from tests.support.broker import GroupFactory, TopicFactory
from tests.support.fronted_broker import BriefAdmin
from tests.support.member import Member
from tests.support.plain_member import joined_consumer
from tests.support.worker import (
    Record,
    StageFactory,
    WorkerFactory,
    free_port,
    publish,
    vector_record,
    versions_of,
    wait_for,
)
from worker.consumer import client_internals
from worker.consumer.client_network import LOOKUP_PAUSE_SECONDS
from worker.consumer.ends import EndWatcher
from worker.deadletters.limit import Limit
from worker.deadletters.producer import make_producer
from worker.deadletters.reader import SourceReader
from worker.deadletters.writer import DeadLetterWriter
from worker.errors import BlockReason, BrokerUnavailable
from worker.ledger import Ledger, Partition
from worker.local.broker import Broker
from worker.settings.tables import DeadLetter, Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, Status


@contextmanager
def started(member: Member) -> Iterator[Member]:
    member.source.start()
    try:
        yield member
    finally:
        member.source.close(1.0)


# -- joins


ANOTHER_ASSIGNOR = {"partition_assignment_strategy": [RangePartitionAssignor]}


@pytest.fixture
def other_assignor(broker: Broker, new_group: GroupFactory, topic: str) -> Iterator[str]:
    """A group whose one member uses another assignor; yields its name."""
    group = new_group()
    with closing(joined_consumer(broker.bootstrap, group, [topic], **ANOTHER_ASSIGNOR)):
        yield group


def test_a_group_with_another_assignor_is_the_reason_and_the_log_says_it_once(
    other_assignor: str, new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    worker = start_worker(new_stage().settings(kafka__group_id=other_assignor))
    wait_for(lambda: "cooperative-sticky" in worker.readyz().json["reason"], "it is told", told=worker.last_words)
    assert other_assignor in worker.readyz().json["reason"]
    refused = len(worker.log_lines("join refused"))
    failed = worker.metrics().total("kafka_client_failed_rebalances_total")
    worker.wait_until(lambda m: m.total("kafka_client_failed_rebalances_total") > failed + 3, "it tries again")
    assert (refused, len(worker.log_lines("join refused")), worker.log_lines("poll failed")) == (1, 1, [])
    assert worker.healthz().status == 200


def test_a_session_out_of_the_brokers_bounds_is_the_reason(broker: Broker, topic: str) -> None:
    with started(Member(broker.bootstrap, topic, session_timeout_ms=7_000_000)) as member:
        member.turns_until(lambda: "kafka.session_timeout_ms = 7000000" in member.source.waits_for, "it is told")
        assert not member.source.is_member


def test_a_refusal_is_forgotten_once_the_group_takes_the_member(
    broker: Broker, topic: str, new_group: GroupFactory
) -> None:
    group = new_group()
    other = joined_consumer(broker.bootstrap, group, [topic], **ANOTHER_ASSIGNOR)
    with started(Member(broker.bootstrap, topic, group_id=group)) as member:
        member.turns_until(lambda: "refuses" in member.source.waits_for, "it is told")
        other.close()
        member.turns_until(lambda: member.source.is_member, "it joins")
        assert member.source.waits_for == "joining the group"


def test_a_coordinator_that_refuses_connections_is_looked_up_with_pauses(broker: Broker, topic: str) -> None:
    with started(Member(broker.bootstrap, topic)) as member:
        consumer: Any = member.source._consumer
        cluster, manager = consumer._cluster, consumer._manager
        add, send, looked_up = cluster.add_coordinator, manager._send_now, []

        def add_wrong(response: Any, *args: Any, **options: Any) -> Any:
            response.port = wrong
            return add(response, *args, **options)

        def count(request: Any, *args: Any, **options: Any) -> Any:
            if type(request).__name__ == "FindCoordinatorRequest":
                looked_up.append(time.monotonic())
            return send(request, *args, **options)

        wrong = free_port()
        cluster.add_coordinator, manager._send_now = add_wrong, count
        member.turns_until(lambda: len(looked_up) == 5, "it looks for the coordinator again and again")
        assert looked_up[-1] - looked_up[0] > 3 * LOOKUP_PAUSE_SECONDS
        member.turns_until(lambda: "its coordinator is not there" in member.source.waits_for, "that is the reason")
        cluster.add_coordinator = add
        member.turns_until(lambda: member.source.is_member, "it joins")
        assert member.source.waits_for == "joining the group"


# -- addresses


def test_an_advertised_address_that_cannot_be_reached_is_named() -> None:
    wrong = free_port()
    port = free_port()
    with Broker.start(port=port, config={"advertised.listeners": f"CLIENTS://127.0.0.1:{wrong}"}) as broker:
        member = Member(broker.bootstrap, "vectors")
        with pytest.raises(
            BrokerUnavailable, match=rf"broker 1 at 127\.0\.0\.1:{wrong} \(\w+: .+\); set advertised\.listeners"
        ):
            member.source.start()
        writer = DeadLetterWriter(
            DeadLetter(),
            member.settings,
            topics=["vectors"],
            ledger=member.ledger,
            status=member.status,
            metrics=member.metrics,
            limit=Limit(DeadLetter(), time.time),
            producer=lambda idempotent: make_producer(member.settings, idempotent=idempotent),
            may_write=lambda _topic: None,
            source=SourceReader(member.settings),
            retry_seconds=0.5,
            clock=time.monotonic,
            wall=time.time,
        )
        writer.start()
        try:
            told = wait_for(lambda: [*member.status.read().blocks.values()], "the dead-letter writer tells it", 60)
            assert f"broker 1 at 127.0.0.1:{wrong}" in told[0]
            assert "does not exist" not in told[0]
        finally:
            writer.stop(10.0)


# -- topics


def test_a_missing_topic_of_several_waits_and_the_others_are_read(
    new_stage: StageFactory, start_worker: WorkerFactory, broker: Broker
) -> None:
    stage = new_stage()
    missing = f"{stage.topic}-missing"
    stage.publish_versions(versions_of(20, 50))
    routes = {missing: stage.index, stage.topic: stage.index}
    worker = start_worker(stage.settings(routes=routes)).wait_ready()
    worker.wait_settled(50)
    assert worker.metrics().blocks() == {(missing, "partition_unreadable")}
    assert "no such topic" in str(worker.log_lines("blocked"))

    BriefAdmin(broker.bootstrap).create_topics([NewTopic(missing, 2, 1)])
    publish(broker.bootstrap, missing, [vector_record(f"late-{n}", [1.0, 2.0, 3.0, 4.0]) for n in range(10)])
    worker.wait_settled(60)
    worker.wait_until(lambda m: not m.blocks(), "nothing blocks any more")
    # A topic that is deleted while it is read is left; the other one is read on.
    BriefAdmin(broker.bootstrap).delete_topics([missing])
    worker.wait_until(lambda m: m.blocks() == {(missing, "partition_unreadable")}, "that it is gone is told", 60)
    stage.publish_versions(versions_of(20, 50, first=50))
    worker.wait_settled(110)
    # When the last one goes nothing is assigned any more, and nothing can move either.
    BriefAdmin(broker.bootstrap).delete_topics([stage.topic])
    wait_for(lambda: worker.readyz().status == 503, "that nothing is there is told", told=worker.last_words)
    told = worker.readyz().json
    assert (told["state"], told["assigned_partitions"]) == ("blocked", 0)
    assert f"{stage.topic}: kafka has no such topic" in told["reason"]


# -- what nobody can read yet, or once more


def watcher_of(
    bootstrap: str, topic: str, partitions: int, status: Status, level: str = "read_committed"
) -> tuple[EndWatcher, Metrics, Callable[[str], dict[str, float]]]:
    """A watcher of a topic's ends, which looks often; the last is a metric by partition."""
    ledger = Ledger([topic], time.monotonic)
    for number in range(partitions):
        ledger.open(ledger.assign(Partition(topic, number)), 0, 0)
    metrics = Metrics(ledger, status, [topic], [])
    settings = Kafka(bootstrap_servers=(bootstrap,), isolation_level=level)  # type: ignore[arg-type]
    watcher = EndWatcher(
        settings, ledger, metrics, status, clock=time.monotonic, interval=0.1, open_transaction_seconds=0.5
    )

    def by_partition(name: str) -> dict[str, float]:
        families = [family for family in metrics.registry.collect() if family.name == name]
        return {one.labels["partition"]: one.value for family in families for one in family.samples}

    return watcher, metrics, by_partition


def test_an_open_transaction_is_shown_and_told(
    broker: Broker, new_topic: TopicFactory, caplog: pytest.LogCaptureFixture
) -> None:
    topic = new_topic(2)
    publish(broker.bootstrap, topic, [Record(None, b"{}", partition=number) for number in range(2)])
    status = Status(0.0)
    watcher, _, by_partition = watcher_of(broker.bootstrap, topic, 2, status)
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=f"open-{topic}")
    producer.init_transactions()
    producer.begin_transaction()
    for _ in range(3):
        producer.send(topic, b"{}", partition=1).get(10)
    watcher.start()
    try:
        waiting = "oss_vectors_open_transaction_offsets"
        wait_for(
            lambda: by_partition(waiting) == {"0": 0, "1": 3}, "they are shown", told=lambda: str(by_partition(waiting))
        )
        assert by_partition("oss_vectors_end_offset") == {"0": 1, "1": 1}
        wait_for(lambda: "a transaction is open for long" in caplog.text, "it is told")
        (told,) = [record for record in caplog.records if "a transaction is open" in record.message]
        assert (told.topic, told.partition, getattr(told, "from"), told.until) == (topic, 1, 1, 4)  # type: ignore[attr-defined]
        (warning,) = status.warnings()
        assert f"a producer's transaction has been open in {topic}/1" in warning
        producer.commit_transaction()
        wait_for(lambda: by_partition(waiting) == {"0": 0, "1": 0}, "it is over")
        wait_for(lambda: status.warnings() == [], "it is warned of no longer")
    finally:
        watcher.stop()
        producer.close()


def test_a_partition_whose_end_is_not_known_hides_that_of_no_other(broker: Broker, new_topic: TopicFactory) -> None:
    """There are two partitions, and the third that is asked for is not known to the broker."""
    topic = new_topic(2)
    publish(broker.bootstrap, topic, [Record(None, b"{}", partition=1)])
    watcher, metrics, by_partition = watcher_of(broker.bootstrap, topic, 3, Status(0.0))
    watcher.start()
    try:
        wait_for(lambda: by_partition("oss_vectors_end_offset") == {"0": 0, "1": 1}, "the two are known")
        assert by_partition("oss_vectors_consumer_lag_records") == {"0": 0, "1": 1}
        publish(broker.bootstrap, topic, [Record(None, b"{}", partition=1)])
        wait_for(lambda: by_partition("oss_vectors_end_offset") == {"0": 0, "1": 2}, "and followed")
        assert metrics.kafka_errors.labels("metadata")._value.get() > 0
    finally:
        watcher.stop()


def commit_by_hand(admin: KafkaAdminClient, group: str, tp: TopicPartition, offset: int) -> None:
    """Commit in the name of a group without members."""

    def committed() -> bool:
        try:
            answer = admin.alter_group_offsets(group, {tp: OffsetAndMetadata(offset, "", -1)})
        except kafka_errors.CoordinatorNotAvailableError:  # nothing was committed at this broker before
            return False
        return [error.__name__ for error in answer.values()] == ["NoError"]

    wait_for(committed, "the offset is committed")


@pytest.mark.parametrize("others", ["committed", "none"])
def test_what_is_read_for_want_of_a_committed_offset_is_told(
    broker: Broker,
    admin: KafkaAdminClient,
    new_topic: TopicFactory,
    new_group: GroupFactory,
    caplog: pytest.LogCaptureFixture,
    others: str,
) -> None:
    """Kafka drops offsets that expired, one by one; without any the group may as well be new."""
    caplog.set_level(logging.INFO, "worker")
    topic, group = new_topic(3), new_group()
    publish(broker.bootstrap, topic, [Record(None, b"{}", partition=number) for number in (0, 0, 1)])
    if others == "committed":
        commit_by_hand(admin, group, TopicPartition(topic, 1), 1)
    with started(Member(broker.bootstrap, topic, group_id=group)) as member:
        member.turns_until(lambda: len(member.opened) == 3, "all are open")
        member.turns_until(lambda: "no committed offset" in caplog.text, "it is told")
        (told,) = [record for record in caplog.records if "no committed offset" in record.message]
        named = [f"{topic}/0"] if others == "committed" else [f"{topic}/0", f"{topic}/1"]
        assert (told.levelname, told.partitions, told.offsets) == ("WARNING", named, len(named) + 1)  # type: ignore[attr-defined]


# -- offsets that are out of range, or are said to be


def test_an_offset_that_the_broker_refused_and_has_is_fetched_again_where_it_was(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log gets to the offset just after the refusal. No record has to come behind it to end the block."""
    tp = TopicPartition(topic, 0)
    publish(broker.bootstrap, topic, [Record(None, b"{}", partition=0)] * 10)
    with started(Member(broker.bootstrap, topic)) as member:
        member.turns_until(lambda: member.read.get(0) == list(range(10)), "all is read")
        consumer: Any = member.source._consumer
        poll = consumer.poll

        def poll_and_publish(**options: Any) -> Any:
            try:
                return poll(**options)
            except kafka_errors.OffsetOutOfRangeError:
                publish(broker.bootstrap, topic, [Record(None, b"{}", partition=0)] * 10)
                raise

        monkeypatch.setattr(consumer, "poll", poll_and_publish)
        client_internals.seek(consumer, tp, 20)
        block = Block(topic, BlockReason.PARTITION_UNREADABLE, 0)
        member.turns_until(lambda: block in member.status.read().blocks, "it is blocked")
        assert "has the offsets from 0 to 20" in member.status.read().blocks[block]
        member.turns_until(lambda: block not in member.status.read().blocks, "it is fetched again")
        publish(broker.bootstrap, topic, [Record(None, b"{}", partition=0)])
        member.turns_until(lambda: member.read[0] == [*range(10), 20], "and is read on")
        assert len(member.opened) == len(member.ledger.assignments())


def test_an_open_transaction_does_not_put_a_committed_offset_out_of_range(
    broker: Broker, admin: KafkaAdminClient, topic: str, new_group: GroupFactory
) -> None:
    """What is committed ends at its first record; an offset behind that may be of a time when all was read."""
    group, tp = new_group(), TopicPartition(topic, 0)
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=f"{topic}-writer")) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        for _ in range(5):
            producer.send(topic, b"{}", partition=0).get(timeout=20)
        commit_by_hand(admin, group, tp, 3)
        with started(Member(broker.bootstrap, topic, group_id=group, auto_offset_reset="none")) as member:
            partition = Partition(topic, 0)
            member.turns_until(lambda: partition in {one.partition for one in member.opened}, "it is open")
            (position,) = [one.position for one in member.opened if one.partition == partition]
            assert (position, member.status.blocks_of(topic, 0)) == (3, [])
        producer.abort_transaction()
