"""One suite for the consumer, as `worker.ports.Source` promises it: over a real broker, and the fake.

A test drives members as the main loop does: it opens what was assigned, steers, and polls, until what it awaits is there.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import NewPartitions

from tests.support.bounded import join, thread
from tests.support.broker import create_topic
from tests.support.fakes import FakeClock, FakeCluster, FakeSource
from tests.support.member import Driven
from worker.consumer.handover import RevokeHooks
from worker.consumer.source import KafkaSource
from worker.errors import BlockReason, BrokerUnavailable
from worker.lease import Lease
from worker.ledger import Assignment, Ledger, Outcome, OutOfOrder, Partition, Phase
from worker.local.broker import Broker
from worker.ports import Message, Source
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, Status

LIMIT_SECONDS = 60.0
Reset = Literal["earliest", "none", "latest"]


def _nothing() -> None:
    return


class Settled(NamedTuple):
    """What the ledger settles."""

    assignment: Assignment
    offset: int
    size: int = 0
    element: int | None = None


class NotingLedger(Ledger):
    """Notes what a source does with the ownership of partitions: the call, and the partition."""

    def __init__(self, topics: Sequence[str], clock: Callable[[], float], may_write: Callable[[], bool]) -> None:
        super().__init__(topics, clock, may_write)
        self.calls: list[tuple[str, int]] = []

    def assign(self, partition: Partition) -> Assignment:
        """Note it."""
        self.calls.append(("assign", partition.partition))
        return super().assign(partition)

    def reassign(self, assignment: Assignment) -> Assignment | None:
        """Note it."""
        self.calls.append(("reassign", assignment.partition.partition))
        return super().reassign(assignment)

    def open(
        self, assignment: Assignment, position: int, committed: int | None, leader_epoch: int = -1, *, log_id: str = ""
    ) -> bool:
        """Note it."""
        self.calls.append(("open", assignment.partition.partition))
        return super().open(assignment, position, committed, leader_epoch, log_id=log_id)

    def begin_revoke(self, partitions: Iterable[Partition]) -> list[Assignment]:
        """Note those that were owned."""
        closing = super().begin_revoke(partitions)
        self.calls += [("begin_revoke", assignment.partition.partition) for assignment in closing]
        return closing

    def committed(self, offsets: dict[Assignment, int]) -> None:
        """Note it."""
        self.calls += [("committed", assignment.partition.partition) for assignment in offsets]
        super().committed(offsets)

    def end(self, assignments: Iterable[Assignment]) -> int:
        """Note it."""
        ending = list(assignments)
        self.calls += [("end", assignment.partition.partition) for assignment in ending]
        return super().end(ending)


class Member(Driven):
    """One consumer with a ledger of its own, driven by hand."""

    def __init__(
        self, source: Source, ledger: NotingLedger, status: Status, metrics: Metrics, lease: Lease, calls: list[str]
    ) -> None:
        super().__init__(source, ledger)
        self.status = status
        self.metrics = metrics
        self.lease = lease
        self.calls = calls  # of the hooks
        self.ledger_calls = ledger.calls
        self.read: dict[Partition, list[int]] = {}
        self.opens = True
        self.fetches = True
        self.refuses = False  # what it polls next

    def may_open(self, _assignment: Assignment) -> bool:
        """Return what the test says."""
        return self.opens

    def is_wanted(self, _partition: Partition) -> bool:
        """Return what the test says."""
        return self.fetches

    def track(self, assignment: Assignment, offsets: Sequence[int]) -> bool:
        """Track offsets, or find them in an order that cannot be."""
        if self.refuses:
            self.refuses = False
            raise OutOfOrder("the order is wrong")
        return super().track(assignment, offsets)

    def note_read(self, partition: Partition, messages: Sequence[Message]) -> None:
        """Keep the offsets."""
        self.read.setdefault(partition, []).extend(message.offset for message in messages)

    def settle_all(self) -> None:
        """Settle whatever was read."""
        for assignment in self.ledger.assignments():
            self.ledger.settle([Settled(assignment, offset) for offset in self.unsettled(assignment)], Outcome.PUT)

    @staticmethod
    def unsettled(assignment: Assignment) -> list[int]:
        """Return the offsets that have no outcome."""
        return [offset for offset in assignment.outstanding if offset in assignment.unsettled]

    def commit(self) -> None:
        """Commit the watermarks, as the main loop does now and then."""
        assignments = [a for a in self.ledger.assignments() if a.phase is Phase.OPEN]
        self.source.positions([a for a in assignments if not a.buffered])
        self.source.commit(self.ledger.watermarks(assignments))

    @property
    def owned(self) -> list[Partition]:
        """The partitions of its ledger."""
        return [assignment.partition for assignment in self.ledger.assignments()]

    def skipped(self, topic: str, reason: str) -> float:
        """Return the metric."""
        return (
            self.metrics.registry.get_sample_value(
                "oss_vectors_skipped_offsets_total", {"topic": topic, "reason": reason}
            )
            or 0.0
        )


class Stage(Protocol):
    """A topic and a group, and what a test does to them."""

    topic: str

    def member(self, *, topic: str = "", auto_offset_reset: Reset = "earliest", revoke_seconds: float = 15.0) -> Member:
        """Return a consumer that has not started, of the stage's topic unless another is named."""

    def produce(self, count: int, partition: int = 0) -> list[int]:
        """Publish records and return their offsets."""

    def abort_transaction(self) -> None:
        """Publish what no reader sees, to the end of partition 0."""

    def committed(self, partition: int = 0) -> int | None:
        """Return what the group has committed."""

    def commit(self, offset: int, partition: int = 0) -> None:
        """Commit for the group, which is empty."""

    def delete_before(self, offset: int) -> None:
        """Drop the records of partition 0 below an offset."""

    def widen(self, partitions: int) -> None:
        """Give the topic more partitions."""

    def members(self) -> int:
        """Return how many members the group has at the broker."""

    def until(self, condition: Callable[[], bool], *members: Member, then: Callable[[], None] = _nothing) -> None:
        """Turn members until the condition holds, and do `then` before a member that is in a call comes back."""


def _member(make: Callable[..., Source], topic: str, clock: Callable[[], float]) -> Member:
    lease = Lease(6.0, 300.0, clock)
    ledger = NotingLedger([topic], clock, lease.holds)
    status = Status(clock())
    metrics = Metrics(ledger, status, [topic], ["docs"])
    calls: list[str] = []
    hooks = RevokeHooks(wake=lambda: calls.append("wake"), abort=lambda _: calls.append("abort"))
    source = make(topics=[topic], ledger=ledger, status=status, metrics=metrics, hooks=hooks, clock=clock, lease=lease)
    return Member(source, ledger, status, metrics, lease, calls)


class FakeStage:
    """The fake."""

    def __init__(self, partitions: int) -> None:
        self.topic = "vectors"
        self.clock = FakeClock()
        self.cluster = FakeCluster(vectors=partitions)
        self.made: list[Member] = []

    def member(self, *, topic: str = "", auto_offset_reset: Reset = "earliest", revoke_seconds: float = 15.0) -> Member:
        """Return a consumer that has not started, of the stage's topic unless another is named."""

        def make(**wiring: Any) -> Source:
            return FakeSource(
                self.cluster,
                idle=self.clock.advance,
                auto_offset_reset=auto_offset_reset,
                revoke_seconds=revoke_seconds,
                **wiring,
            )

        self.made.append(_member(make, topic or self.topic, self.clock))
        return self.made[-1]

    def produce(self, count: int, partition: int = 0) -> list[int]:
        """Publish records."""
        return self.cluster.produce(Partition(self.topic, partition), [b"{}"] * count)

    def abort_transaction(self) -> None:
        """Publish what no reader sees."""
        self.cluster.skip(Partition(self.topic, 0), 3)

    def committed(self, partition: int = 0) -> int | None:
        """Return what the group has committed."""
        return self.cluster.committed.get(Partition(self.topic, partition))

    def commit(self, offset: int, partition: int = 0) -> None:
        """Commit for the group."""
        self.cluster.committed[Partition(self.topic, partition)] = offset

    def delete_before(self, offset: int) -> None:
        """Drop records."""
        self.cluster.delete_before(Partition(self.topic, 0), offset)

    def widen(self, partitions: int) -> None:
        """Give the topic more partitions."""
        self.cluster.make_topic(self.topic, partitions)

    def members(self) -> int:
        """Return how many members there are."""
        return len(self.cluster.members)

    def until(self, condition: Callable[[], bool], *members: Member, then: Callable[[], None] = _nothing) -> None:
        """Turn members until the condition holds."""
        for _ in range(2_000):
            if condition():
                return then()
            for member in members:
                member.turn()
        raise AssertionError("it did not come true")


class KafkaStage:
    """A topic and a group of a real broker."""

    def __init__(self, broker: Broker, admin: KafkaAdminClient, partitions: int) -> None:
        self.topic = create_topic(admin, partitions)
        self.group = f"group-{uuid.uuid4().hex[:12]}"
        self._broker = broker
        self._admin = admin
        self.client: dict[str, Any] = {}
        self.made: list[Member] = []

    def settings(self, **changes: Any) -> Kafka:
        """Return settings for this broker and group."""
        given: dict[str, Any] = {
            "bootstrap_servers": (self._broker.bootstrap,),
            "group_id": self.group,
            "session_timeout_ms": 6_000,
            "client": {"fetch_max_wait_ms": 50} | self.client,
        }
        return Kafka(**(given | changes))

    def member(self, *, topic: str = "", auto_offset_reset: Reset = "earliest", revoke_seconds: float = 15.0) -> Member:
        """Return a consumer that has not started, of the stage's topic unless another is named."""
        settings = self.settings(auto_offset_reset=auto_offset_reset, revoke_seconds=revoke_seconds)

        def make(**wiring: Any) -> Source:
            return KafkaSource(settings, retry_seconds=0.2, wall=time.time, **wiring)

        self.made.append(_member(make, topic or self.topic, time.monotonic))
        return self.made[-1]

    def _producer(self, **config: Any) -> Any:
        return KafkaProducer(bootstrap_servers=self._broker.bootstrap, **config)

    def produce(self, count: int, partition: int = 0) -> list[int]:
        """Publish records."""
        producer = self._producer()
        sent = [producer.send(self.topic, b"{}", partition=partition) for _ in range(count)]
        offsets = [int(future.get(LIMIT_SECONDS).offset) for future in sent]
        producer.close()
        return offsets

    def abort_transaction(self) -> None:
        """Publish two records and take them back: both stay, unseen, and a marker comes behind them."""
        producer = self._producer(transactional_id=f"transaction-{uuid.uuid4().hex}")
        producer.init_transactions()
        producer.begin_transaction()
        sent = [producer.send(self.topic, b"{}", partition=0) for _ in range(2)]
        for future in sent:
            future.get(LIMIT_SECONDS)
        producer.abort_transaction()
        producer.close()

    def committed(self, partition: int = 0) -> int | None:
        """Return what the group has committed."""
        found = self._admin.list_group_offsets(self.group)
        offsets = found.get(self.group, found) if isinstance(found, dict) else found
        one = offsets.get(TopicPartition(self.topic, partition))
        return None if one is None or one.offset < 0 else int(one.offset)

    def commit(self, offset: int, partition: int = 0) -> None:
        """Commit for the group."""
        from kafka import OffsetAndMetadata

        self._admin.alter_group_offsets(
            self.group, {TopicPartition(self.topic, partition): OffsetAndMetadata(offset, "", -1)}
        )

    def delete_before(self, offset: int) -> None:
        """Drop records."""
        self._admin.delete_records({TopicPartition(self.topic, 0): offset})

    def widen(self, partitions: int) -> None:
        """Give the topic more partitions."""
        self._admin.create_partitions({self.topic: NewPartitions(partitions)})

    def members(self) -> int:
        """Return how many members there are."""
        found = self._admin.describe_groups([self.group])
        return len(found[self.group]["members"])

    def until(self, condition: Callable[[], bool], *members: Member, then: Callable[[], None] = _nothing) -> None:
        """Turn members, each on a thread of its own, until the condition holds."""
        over = threading.Event()
        errors: list[BaseException] = []

        def drive(member: Member) -> None:
            try:
                while not over.is_set():
                    try:
                        member.turn()
                    except BrokerUnavailable:  # the client can lose a join; the main loop starts again then
                        member.source.start()
            except BaseException as error:
                errors.append(error)

        threads = [thread(drive, member) for member in members]
        deadline = time.monotonic() + LIMIT_SECONDS
        try:
            while not condition():
                assert not errors, errors
                assert time.monotonic() < deadline, "it did not come true"
                over.wait(0.02)
            then()
        finally:
            over.set()
            join(*threads)
        assert not errors, errors


AnyStage = FakeStage | KafkaStage
StageFactory = Callable[[int], AnyStage]


@pytest.fixture(params=["kafka", "fake"])
def new_stage(request: pytest.FixtureRequest) -> Iterator[StageFactory]:
    """Yield the factory of stages, real or fake, with so many partitions; their members are closed at the end."""
    stages: list[AnyStage] = []

    def make(partitions: int) -> AnyStage:
        if request.param == "fake":
            stages.append(FakeStage(partitions))
        else:
            stages.append(KafkaStage(request.getfixturevalue("broker"), request.getfixturevalue("admin"), partitions))
        return stages[-1]

    yield make
    for stage in stages:
        for member in stage.made:
            member.source.close(1.0)


@pytest.fixture
def stage(new_stage: StageFactory) -> AnyStage:
    """Return a stage with one partition."""
    return new_stage(1)


def started(stage: AnyStage, **changes: Any) -> Member:
    """Return a member that has started."""
    member = stage.member(**changes)
    member.source.start()
    return member


# -- beginning


def test_a_topic_that_does_not_exist_is_reported_at_the_start(stage: AnyStage) -> None:
    member = stage.member(topic="no-such-topic")
    with pytest.raises(BrokerUnavailable, match="no-such-topic"):
        member.source.start()


def test_nothing_is_read_of_a_partition_before_it_is_opened(stage: AnyStage) -> None:
    stage.produce(3)
    member = started(stage)
    member.opens = False
    stage.until(lambda: member.owned != [], member)
    (assignment,) = member.ledger.assignments()
    for _ in range(10):
        member.turn()
    assert (assignment.phase, member.read) == (Phase.OPENING, {})
    member.opens = True
    stage.until(lambda: member.read != {}, member)
    assert member.read == {assignment.partition: [0, 1, 2]}


def test_reading_begins_at_the_committed_offset(stage: AnyStage) -> None:
    stage.produce(5)
    stage.commit(3)
    member = started(stage)
    stage.until(lambda: member.read != {}, member)
    (assignment,) = member.ledger.assignments()
    assert member.read == {assignment.partition: [3, 4]}
    assert (assignment.committed, assignment.watermark) == (3, 3)
    assert member.ledger_calls == [("assign", 0), ("open", 0)]


def test_without_a_committed_offset_reading_begins_at_the_oldest_record(stage: AnyStage) -> None:
    stage.produce(4)
    stage.delete_before(2)
    member = started(stage)
    stage.until(lambda: member.read != {}, member)
    (assignment,) = member.ledger.assignments()
    assert (member.read, assignment.committed) == ({assignment.partition: [2, 3]}, None)


def test_latest_begins_at_the_end_where_nothing_was_committed_and_counts_what_it_passes(stage: AnyStage) -> None:
    stage.produce(2)
    member = started(stage, auto_offset_reset="latest")
    stage.until(lambda: any(a.phase is Phase.OPEN for a in member.ledger.assignments()), member)
    stage.produce(1)
    stage.until(lambda: member.read != {}, member)
    assert list(member.read.values()) == [[2]]
    assert member.skipped(stage.topic, "reset_latest") == 2


def test_latest_passes_nothing_over_where_something_was_committed(stage: AnyStage) -> None:
    stage.produce(3)
    stage.commit(1)
    member = started(stage, auto_offset_reset="latest")
    stage.until(lambda: member.read != {}, member)
    assert list(member.read.values()) == [[1, 2]]
    assert member.skipped(stage.topic, "reset_latest") == 0


def test_none_blocks_a_partition_without_a_committed_offset_until_there_is_one(stage: AnyStage) -> None:
    stage.produce(2)
    member = started(stage, auto_offset_reset="none")
    block = Block(stage.topic, BlockReason.NO_COMMITTED_OFFSET, 0)
    stage.until(lambda: block in member.status.read().blocks, member)
    (assignment,) = member.ledger.assignments()
    assert (assignment.phase, member.read) == (Phase.OPENING, {})
    member.source.close(5.0)

    stage.commit(1)
    again = started(stage, auto_offset_reset="none")
    stage.until(lambda: again.read != {}, again)
    assert list(again.read.values()) == [[1]]
    assert again.status.read().blocks == {}


def test_none_blocks_a_committed_offset_that_is_gone(stage: AnyStage) -> None:
    stage.produce(4)
    stage.commit(1)
    stage.delete_before(3)
    member = started(stage, auto_offset_reset="none")
    block = Block(stage.topic, BlockReason.OFFSET_OUT_OF_RANGE, 0)
    stage.until(lambda: block in member.status.read().blocks, member)
    assert member.read == {}


def test_none_blocks_a_position_that_retention_dropped_and_returns_what_was_read(stage: AnyStage) -> None:
    stage.produce(2)
    stage.commit(0)
    member = started(stage, auto_offset_reset="none")
    stage.until(lambda: member.read != {}, member)
    (assignment,) = member.ledger.assignments()
    member.fetches = False
    member.turn()
    stage.produce(10)
    stage.delete_before(7)
    member.fetches = True
    block = Block(stage.topic, BlockReason.OFFSET_OUT_OF_RANGE, 0)
    stage.until(lambda: block in member.status.read().blocks, member)
    assert member.ledger_calls == [("assign", 0), ("open", 0), ("reassign", 0)]
    (reopened,) = member.ledger.assignments()
    assert (assignment.phase, reopened.phase) == (Phase.FENCED, Phase.OPENING)
    assert member.ledger.books().settled[stage.topic, Outcome.RETURNED] == len(member.read[assignment.partition])


# -- reading


def test_a_partition_that_is_paused_gives_nothing_and_continues_when_it_is_resumed(stage: AnyStage) -> None:
    stage.produce(2)
    member = started(stage)
    stage.until(lambda: member.read != {}, member)
    member.fetches = False
    member.turn()
    stage.produce(2)
    for _ in range(10):
        member.turn()
    (partition,) = member.owned
    assert member.read == {partition: [0, 1]}
    assert member.metrics.registry.get_sample_value("oss_vectors_paused_partitions") == 1
    member.fetches = True
    stage.until(lambda: len(member.read[partition]) > 2, member)
    assert member.read == {partition: [0, 1, 2, 3]}


def test_what_was_refused_blocks_its_partition_and_is_read_again(stage: AnyStage) -> None:
    offsets = stage.produce(5)
    member = stage.member()
    member.refuses = True
    member.source.start()
    stage.until(lambda: not member.refuses and member.status.read().blocks != {}, member)

    (assignment,) = member.ledger.assignments()
    block = Block(assignment.partition.topic, BlockReason.PARTITION_UNREADABLE, assignment.partition.partition)
    assert member.status.read().blocks == {block: f"{assignment.partition} offset 0: the order is wrong"}
    stage.until(lambda: member.read.get(assignment.partition) == offsets, member)


def test_the_position_passes_over_an_aborted_transaction_and_its_marker(stage: AnyStage) -> None:
    stage.produce(1)
    stage.abort_transaction()
    member = started(stage)
    stage.until(lambda: member.read != {}, member)
    (assignment,) = member.ledger.assignments()
    assert (member.read, assignment.watermark) == ({assignment.partition: [0]}, 0)
    member.settle_all()
    assert assignment.watermark == 1

    def passed() -> bool:
        member.source.positions([assignment])
        return assignment.watermark == 4

    while not passed():
        member.turn()
    member.commit()
    stage.until(lambda: assignment.committed == 4, member)
    assert stage.committed() == 4


def test_offsets_that_retention_dropped_are_counted_and_passed(stage: AnyStage) -> None:
    stage.produce(2)
    member = started(stage)
    stage.until(lambda: member.read != {}, member)
    (assignment,) = member.ledger.assignments()
    member.fetches = False
    member.turn()
    stage.produce(10)
    stage.delete_before(7)
    member.fetches = True
    stage.until(lambda: len(member.read[assignment.partition]) > 2, member)
    read = member.read[assignment.partition]
    skipped = member.skipped(stage.topic, "retention")
    # What had been fetched before it was stopped may still come; then it continues where records are.
    assert read[-5:] == [7, 8, 9, 10, 11]
    assert skipped == 7 - (read.index(7))
    assert member.ledger.assignment(assignment.partition) is assignment


def test_partitions_that_are_added_to_the_topic_are_assigned_and_read(stage: AnyStage) -> None:
    if isinstance(stage, KafkaStage):
        stage.client["metadata_max_age_ms"] = 1_000  # they are found with the next look at the metadata
    stage.produce(1)
    member = started(stage)
    stage.until(lambda: member.read != {}, member)
    stage.widen(3)
    stage.until(lambda: len(member.owned) == 3, member)
    stage.produce(2, 2)
    stage.until(lambda: Partition(stage.topic, 2) in member.read, member)
    read = {partition: sorted(set(offsets)) for partition, offsets in member.read.items()}  # twice after a lost join
    assert read == {Partition(stage.topic, 0): [0], Partition(stage.topic, 2): [0, 1]}


# -- commits


def test_a_commit_reaches_the_broker_and_the_ledger(stage: AnyStage) -> None:
    stage.produce(3)
    member = started(stage)
    stage.until(lambda: member.read != {}, member)
    (assignment,) = member.ledger.assignments()
    member.ledger.settle([Settled(assignment, 0), Settled(assignment, 1)], Outcome.PUT)
    assert member.source.commit({assignment: assignment.watermark}) is True
    stage.until(lambda: assignment.committed == 2, member)
    assert stage.committed() == 2
    assert member.metrics.registry.get_sample_value("oss_vectors_commits_total", {"result": "ok"}) == 1


def test_commit_now_returns_when_the_broker_has_it(stage: AnyStage) -> None:
    stage.produce(3)
    member = started(stage)
    stage.until(lambda: member.read != {}, member)
    (assignment,) = member.ledger.assignments()
    assert member.source.commit_now({assignment: 1}, 5.0) is True
    assert (assignment.committed, stage.committed()) == (1, 1)


# -- rebalances


def test_a_partition_that_moves_is_committed_by_the_one_and_begun_there_by_the_other(new_stage: StageFactory) -> None:
    stage = new_stage(2)
    stage.produce(3, 0)
    stage.produce(3, 1)
    first = started(stage)
    stage.until(lambda: sum(map(len, first.read.values())) == 6, first)
    for assignment in first.ledger.assignments():
        first.ledger.settle([Settled(assignment, 0)], Outcome.PUT)
    second = started(stage)
    stage.until(lambda: second.read != {}, first, second)
    (moved,) = second.owned
    assert first.owned == [Partition(stage.topic, 1 - moved.partition)]
    assert (stage.committed(moved.partition), second.read) == (1, {moved: [1, 2]})
    given = [call for call, partition in first.ledger_calls if partition == moved.partition]
    assert given == ["assign", "open", "begin_revoke", "committed", "end"]
    assert second.ledger_calls == [("assign", moved.partition), ("open", moved.partition)]
    books = first.ledger.books()
    assert books.settled[stage.topic, Outcome.RETURNED] == 2
    assert books.consumed[stage.topic] == sum(books.settled.values()) + books.buffered[stage.topic]


def test_a_revoke_waits_for_what_is_on_the_wire_and_commits_its_outcome(new_stage: StageFactory) -> None:
    stage = new_stage(2)
    stage.produce(2, 0)
    stage.produce(2, 1)
    first = started(stage)
    stage.until(lambda: sum(map(len, first.read.values())) == 4, first)
    assignments = first.ledger.assignments()
    assert first.ledger.begin_request(assignments)
    second = started(stage)
    closing: list[Assignment] = []

    def answer() -> None:
        closing.extend(a for a in assignments if a.phase is Phase.REVOKING)
        assert (first.ledger.begin_request(assignments), second.owned) == (False, [])
        first.ledger.settle([Settled(closing[0], 0), Settled(closing[0], 1)], Outcome.PUT)
        first.ledger.end_request(assignments)

    stage.until(lambda: any(a.phase is Phase.REVOKING for a in assignments), first, second, then=answer)
    stage.until(lambda: second.owned != [], first, second)
    assert [a.phase for a in closing] == [Phase.FENCED]
    assert stage.committed(closing[0].partition.partition) == 2
    assert first.ledger.books().settled[stage.topic, Outcome.RETURNED] == 0
    assert "abort" not in first.calls


def test_a_revoke_cuts_what_does_not_land_in_time_and_returns_the_rest(new_stage: StageFactory) -> None:
    stage = new_stage(2)
    stage.produce(2, 0)
    stage.produce(2, 1)
    first = started(stage, revoke_seconds=0.3)
    stage.until(lambda: sum(map(len, first.read.values())) == 4, first)
    assignments = first.ledger.assignments()
    assert first.ledger.begin_request(assignments)
    second = started(stage)
    stage.until(lambda: second.read != {}, first, second)
    assert "abort" in first.calls
    (fenced,) = [a for a in assignments if a.phase is Phase.FENCED]
    assert first.ledger.books().settled[stage.topic, Outcome.RETURNED] == 2
    assert first.ledger.settle([Settled(fenced, 0)], Outcome.PUT) == 0
    assert second.read == {fenced.partition: [0, 1]}
    first.ledger.end_request(assignments)


# -- the end


def test_close_commits_what_is_settled_and_leaves_the_group_empty(stage: AnyStage) -> None:
    stage.produce(3)
    member = started(stage)
    stage.until(lambda: member.read != {}, member)
    assert stage.members() == 1
    (assignment,) = member.ledger.assignments()
    member.ledger.settle([Settled(assignment, 0)], Outcome.PUT)
    member.source.close(5.0)
    assert (stage.members(), stage.committed()) == (0, 1)
    assert member.ledger_calls == [("assign", 0), ("open", 0), ("begin_revoke", 0), ("committed", 0), ("end", 0)]
    assert (member.owned, member.source.is_member) == ([], False)
    assert member.ledger.books().settled[stage.topic, Outcome.RETURNED] == 2


def test_the_lease_holds_from_joining_the_group_until_leaving_it(stage: AnyStage) -> None:
    stage.produce(3)
    member = started(stage)
    assert not member.ledger.may_write
    stage.until(lambda: member.read != {} and member.ledger.may_write, member)
    member.source.close(5.0)
    assert not member.ledger.may_write


# -- the fake one alone, whose time passes as the test says


def test_a_member_that_is_cut_off_for_a_session_gives_up_what_another_has_by_then() -> None:
    stage = FakeStage(1)
    stage.produce(3)
    first, second = started(stage), started(stage)
    stage.until(lambda: first.read != {}, first)
    (assignment,) = first.ledger.assignments()
    assert isinstance(first.source, FakeSource)
    first.source.is_cut_off = True
    stage.clock.advance(5.5)  # most of its session
    first.turn()
    assert (first.ledger.begin_request([assignment]), first.owned) == (False, [assignment.partition])
    stage.cluster.expel(first.source)
    stage.until(lambda: second.read != {}, second)
    with pytest.raises(BrokerUnavailable, match="joining again"):
        stage.until(lambda: False, first)
    assert (first.owned, assignment.phase, second.owned) == ([], Phase.FENCED, [assignment.partition])


# -- the real one alone


def test_heartbeats_go_on_while_a_revoke_waits_longer_than_the_session(broker: Broker, admin: KafkaAdminClient) -> None:
    """The wait is the client's own timer. Were it another's, the client's loop would stand, and the session run out."""
    stage = KafkaStage(broker, admin, 2)
    stage.produce(1, 0)
    stage.produce(1, 1)
    short = stage.settings(session_timeout_ms=4_000, revoke_seconds=8.0)

    def make(**wiring: Any) -> Source:
        return KafkaSource(short, retry_seconds=0.2, wall=time.time, **wiring)

    first = _member(make, stage.topic, time.monotonic)
    first.source.start()
    stage.until(lambda: sum(map(len, first.read.values())) == 2, first)
    assignments = first.ledger.assignments()
    assert first.ledger.begin_request(assignments)
    second = started(stage)
    closing: list[Assignment] = []

    def answer() -> None:
        closing.extend(a for a in assignments if a.phase is Phase.REVOKING)
        first.ledger.settle([Settled(closing[0], 0)], Outcome.PUT)
        first.ledger.end_request(assignments)

    stage.until(lambda: "abort" in first.calls, first, second, then=answer)
    assert first.metrics.registry.get_sample_value("oss_vectors_rebalances_total", {"event": "lost"}) == 0
    stage.until(lambda: second.owned != [], first, second)
    assert stage.committed(closing[0].partition.partition) == 1
    assert len(first.owned) == 1
    for member in (first, second):
        member.source.close(1.0)
