"""Dead letters that are retried alone: what keeps every topic blocked for them, and which are tried when some cannot be read."""

from typing import Any, Final

from kafka import errors as kafka_errors

from tests.unit.samples import FakeClock, FakeMessage, opened, rejected
from tests.unit.test_deadletter import UNAVAILABLE, FakeFuture, Stage
from worker.deadletters.entry import Entry
from worker.deadletters.rounds import KEPT_BYTES
from worker.errors import BlockReason
from worker.ledger import Assignment, Partition
from worker.ports import DeadLetter
from worker.settings.tables import DeadLetter as Settings
from worker.telemetry.state import Block

AWAY: Final = kafka_errors.KafkaTimeoutError("away")
TOO_LARGE: Final = kafka_errors.MessageSizeTooLargeError("1 MB")
READ_SECONDS: Final = 7.0  # of a partition that cannot be read


class SourceOfMany:
    """Source topics, of which some partitions cannot be read."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.messages: dict[tuple[Partition, int], FakeMessage] = {}
        self.offline: set[int] = set()
        self.asked: list[int] = []  # numbers of partitions

    def read(self, partition: Partition, offset: int) -> FakeMessage | None:
        self.asked.append(partition.partition)
        if partition.partition in self.offline:
            self._clock.pass_by(READ_SECONDS)
            raise AWAY
        return self.messages.get((partition, offset))

    def close(self) -> None: ...


class Steps(Stage):
    """A writer whose turns the test makes. Its broker answers by the size of a value."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        super().__init__(Settings(limit_ratio=1), self.clock)
        self.sources = self.writer._retries._source = SourceOfMany(self.clock)
        self.problem: Exception | None = None  # of each value that is larger than `largest`
        self.largest = -1
        setattr(self.broker, "send", self._send)  # noqa: B010

    def _send(self, topic: str, *, value: bytes | None, key: bytes | None, headers: Any) -> FakeFuture:
        self.broker.sent.append((topic, key, value, dict(headers)))
        return FakeFuture(self.problem if len(value or b"") > self.largest else None)

    def bad(self, assignment: Assignment, offset: int, size: int = 10) -> DeadLetter:
        """Read a bad record, and return its dead letter."""
        message = FakeMessage(offset, value=b"x" * size)
        self.read(message, bad=False, assignment=assignment)
        self.sources.messages[assignment.partition, offset] = message
        return rejected(assignment, message)

    def step(self, *letters: DeadLetter) -> set[Block]:
        """Let the writer's thread make one turn, a minute after the last; returns what is blocked then."""
        self.clock.pass_by(60)
        writer = self.writer
        writer._drop_given_back()
        writer._admit([Entry(letter, self.clock()) for letter in letters])
        writer._rounds.write(lambda: False)
        writer._retries.retry_due(lambda: False)
        writer._unblock_if_none_waits()
        return set(self.status.read().blocks)

    def without_room(self, *assignments: Assignment) -> None:
        """Have dead letters of these wait while the broker is away; what kept them from having room is given back."""
        self.problem = AWAY
        holder = opened(self.ledger, partition=99)
        letters = [self.bad(each, 0, 1000 + number) for number, each in enumerate(assignments)]
        letters.append(self.bad(holder, 0, KEPT_BYTES))  # those that have failed come behind it
        assert UNAVAILABLE in self.step(*letters)
        self.ledger.end(self.ledger.begin_revoke([holder.partition]))
        assert UNAVAILABLE in self.step()
        assert not self.writer._rounds.waiting


def own_block(assignment: Assignment) -> Block:
    topic, partition = assignment.partition
    return Block(topic, BlockReason.DEAD_LETTER_UNAVAILABLE, partition)


# -- the block of every topic


def test_one_that_had_no_room_and_turns_out_to_be_too_large_blocks_its_partition_alone() -> None:
    steps = Steps()
    steps.without_room(steps.assignment)
    steps.problem = TOO_LARGE
    assert steps.step() == {own_block(steps.assignment)}


def test_one_that_had_no_room_and_fails_often_lets_others_show_that_the_broker_works() -> None:
    steps = Steps()
    steps.without_room(steps.assignment)
    steps.step()
    assert steps.step() == {own_block(steps.assignment)}
    steps.largest = 100
    other = opened(steps.ledger, partition=1)
    assert steps.step(steps.bad(other, 0)) == {own_block(steps.assignment)}
    assert steps.settled() == 1


def test_one_that_had_no_room_and_cannot_be_read_again_blocks_its_partition_alone() -> None:
    steps = Steps()
    steps.without_room(steps.assignment)
    steps.sources.offline = {0}
    steps.problem = None
    assert steps.step() == {own_block(steps.assignment)}
    steps.sources.offline = set()
    assert (steps.step(), steps.settled()) == (set(), 1)


def test_one_that_the_broker_acknowledges_ends_the_block_of_every_topic() -> None:
    steps = Steps()
    other = opened(steps.ledger, partition=1)
    steps.without_room(steps.assignment, other)
    steps.step()  # each has failed as often as the other, so that the smaller one comes first
    steps.largest = 1000  # the larger one, of the other partition, still fails
    assert steps.step() == {own_block(other)}
    assert steps.settled() == 1


def test_while_the_broker_is_away_every_topic_remains_blocked() -> None:
    steps = Steps()
    steps.without_room(steps.assignment)
    assert steps.step() == {own_block(steps.assignment), UNAVAILABLE}


# -- partitions that cannot be read


def retried_alone(steps: Steps, assignment: Assignment, *offsets: int, size: int = 10) -> None:
    """Have dead letters that are too large, and wait for their retry."""
    before, steps.problem, steps.largest = steps.sources.offline, TOO_LARGE, -1
    steps.sources.offline = set()
    steps.step(*[steps.bad(assignment, offset, size) for offset in offsets])
    steps.sources.offline, steps.problem = before, None
    steps.sources.asked.clear()


def test_a_partition_that_cannot_be_read_is_tried_once_and_the_others_are_written_in_the_same_pass() -> None:
    steps = Steps()
    other = opened(steps.ledger, partition=1)
    retried_alone(steps, steps.assignment, *range(5))
    retried_alone(steps, other, 0, size=1000)  # the largest, so that it comes last
    steps.sources.offline = {0}
    assert steps.step() == {own_block(steps.assignment)}
    assert (steps.sources.asked, steps.settled()) == ([0, 1], 1)


def test_the_dead_letters_of_a_partition_that_could_not_be_read_are_tried_behind_those_of_others() -> None:
    steps = Steps()
    other = opened(steps.ledger, partition=1)
    retried_alone(steps, steps.assignment, *range(5))
    steps.sources.offline = {0}
    steps.step()
    retried_alone(steps, other, 0, size=1000)
    steps.step()
    assert (steps.sources.asked, steps.settled()) == ([1, 0], 1)
    steps.sources.offline = set()
    steps.step()
    assert steps.settled() == 6


def test_partitions_that_cannot_be_read_do_not_hold_up_the_thread_for_long_and_take_turns() -> None:
    steps = Steps()
    assignments = [steps.assignment, *[opened(steps.ledger, partition=number) for number in range(1, 9)]]
    for each in assignments:
        retried_alone(steps, each, 0)
    steps.sources.offline = set(range(9))
    passes = []
    for _ in range(2):
        steps.sources.asked.clear()
        steps.step()
        passes.append(list(steps.sources.asked))
    assert len(passes[0]) == len(passes[1]) == 5  # of 7 s each: the fifth ends after more than 30 s
    assert set(passes[0]) | set(passes[1]) == set(range(9))
