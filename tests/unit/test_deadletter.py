"""Dead letters: each counts once the broker has acknowledged it; which wait for what, and that they keep no bytes."""

import gc
import queue
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import errors as kafka_errors

from tests.support.worker import wait_for
from tests.unit.samples import FakeClock, FakeMessage, opened, rejected
from worker.deadletters import headers as names
from worker.deadletters.admission import LONGEST_VERDICT_SECONDS, VERDICT_SECONDS
from worker.deadletters.headers import Headers
from worker.deadletters.limit import Limit
from worker.deadletters.rounds import KEPT_BYTES
from worker.deadletters.writer import DeadLetterWriter
from worker.errors import BlockReason, Reason
from worker.ledger import Assignment, Ledger, Outcome, Partition
from worker.ports import Refusal
from worker.settings.tables import DeadLetter as Settings
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, DeadLettered, Status

WALL = 1_700_000_000.5
WAIT_SECONDS = 10.0  # for an event of the writer's thread, which is there at once unless something is broken
UNAVAILABLE = Block("vectors", BlockReason.DEAD_LETTER_UNAVAILABLE)


# -- the writer


class FakeFuture:
    """The broker's word on one message."""

    is_done = True

    def __init__(self, problem: BaseException | None) -> None:
        self._problem = problem

    def get(self, timeout: float) -> None:
        if self._problem is not None:
            raise self._problem


class SilentFuture(FakeFuture):
    """A message of which the producer says nothing, not even that its time is over."""

    is_done = False

    def __init__(self, waited: list[float], pass_by: Callable[[float], None]) -> None:
        super().__init__(kafka_errors.KafkaTimeoutError("Timeout after waiting"))
        self._waited, self._pass_by = waited, pass_by

    def get(self, timeout: float) -> None:
        self._waited.append(timeout)
        self._pass_by(timeout)
        super().get(timeout)


class FakeBroker:
    """Makes producers, and answers as `answers` says; with none left, it accepts everything."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes | None, dict[str, bytes]]] = []
        self.asked_idempotent: list[bool] = []
        self.closed = 0
        self.topics: list[set[int] | Exception] = []
        self.answers: list[Callable[[], FakeFuture]] = []
        self.always: Callable[[], FakeFuture] | None = None
        self.accepts_idempotent = True
        self.rights: list[bool | None] = []

    def producer(self, idempotent: bool) -> "FakeBroker":
        self.asked_idempotent.append(idempotent)
        if idempotent and not self.accepts_idempotent:
            raise kafka_errors.UnsupportedVersionError("no InitProducerId")
        return self

    def send(self, topic: str, *, value: bytes | None, key: bytes | None, headers: Headers) -> FakeFuture:
        self.sent.append((topic, key, value, dict(headers)))
        answer = self.answers.pop(0) if self.answers else self.always
        return answer() if answer is not None else FakeFuture(None)

    def partitions_for(self, topic: str) -> set[int]:
        answer = self.topics.pop(0) if self.topics else {0}
        if isinstance(answer, Exception):
            raise answer
        return answer

    def may_write(self, topic: str) -> bool | None:
        return self.rights.pop(0) if self.rights else None

    def close(self, timeout: float | None = None) -> None:
        self.closed += 1


def acknowledge() -> FakeFuture:
    """Answer that all is well."""
    return FakeFuture(None)


def refuse(error: Exception) -> Callable[[], FakeFuture]:
    """Answer with an error, after a while."""
    return lambda: FakeFuture(error)


def fail_at_once(error: Exception) -> Callable[[], FakeFuture]:
    """Raise from the sending itself."""

    def raise_it() -> FakeFuture:
        raise error

    return raise_it


class Events:
    """What the writer's thread did, as it happens."""

    def __init__(self) -> None:
        self._queue: queue.Queue[object] = queue.Queue()

    def put(self, event: object) -> None:
        self._queue.put(event)

    def wait_for(self, event: object) -> None:
        """Wait until it happens; what happens before it is passed over."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self._queue.get(timeout=max(0.0, deadline - time.monotonic())) != event:
            pass


class WatchedLedger(Ledger):
    """Notes each landing, each discarding, and each look at what is not decided."""

    events: Events

    def end_request(self, assignments: Any) -> None:
        super().end_request(assignments)
        self.events.put("landed")

    def first_undecided(self, topic: str, given_up: Any) -> list[tuple[Partition, int, int]]:
        found = super().first_undecided(topic, given_up)
        self.events.put("looked")
        return found

    def discard(self, records: Any) -> None:
        gone = list(records)
        super().discard(gone)
        if gone:
            self.events.put("discarded")


class WatchedStatus(Status):
    """Notes each block as it begins and ends."""

    events: Events

    def block(
        self, block: Block, message: str, quote: str = "", *, retry_in: float | None = None, owner: str = ""
    ) -> None:
        super().block(block, message, quote, retry_in=retry_in, owner=owner)
        self.events.put(("blocked", block))

    def unblock(self, block: Block, *, owner: str = "") -> None:
        was = block in self.read().blocks
        super().unblock(block, owner=owner)
        if was:
            self.events.put(("unblocked", block))


class FakeSource:
    """The source topic: gives records again, unless it is made to fail."""

    def __init__(self) -> None:
        self.messages: dict[int, FakeMessage] = {}
        self.problem: Exception | None = None
        self.asked: list[int] = []

    def read(self, partition: Partition, offset: int) -> FakeMessage | None:
        self.asked.append(offset)
        if self.problem is not None:
            raise self.problem
        return self.messages.get(offset)

    def close(self) -> None: ...


class Stage:
    """A writer with everything around it."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.broker = FakeBroker()
        self.source = FakeSource()
        self.events = Events()
        self.lease_holds = True
        self.ledger = WatchedLedger(["vectors"], FakeClock(), lambda: self.lease_holds)
        self.status = WatchedStatus(0.0)
        self.ledger.events = self.status.events = self.events
        self.metrics = Metrics(self.ledger, self.status, ["vectors"], ["docs"])
        self.limit = Limit(settings, FakeClock())
        self.writer = DeadLetterWriter(
            settings,
            Kafka(),
            topics=["vectors"],
            ledger=self.ledger,
            status=self.status,
            metrics=self.metrics,
            limit=self.limit,
            producer=self.broker.producer,
            may_write=self.broker.may_write,
            source=self.source,
            retry_seconds=0.001,
            clock=clock,
            wall=lambda: WALL,
        )
        self.assignment = opened(self.ledger)

    def read(self, *messages: FakeMessage, bad: bool = True, assignment: Assignment | None = None) -> None:
        """Track messages, all of which are bad by themselves or none."""
        owner, offsets = assignment or self.assignment, [message.offset for message in messages]
        self.ledger.track(owner, offsets)
        self.ledger.count_bytes(100 * len(messages))
        self.limit.note_read(owner, offsets, offsets if bad else ())
        if owner is self.assignment:
            self.source.messages |= {message.offset: message for message in messages}

    def submit(self, *messages: FakeMessage) -> None:
        """Track messages and hand them in as dead letters."""
        self.read(*messages)
        for message in messages:
            self.writer.submit(rejected(self.assignment, message))

    def lease_waits(self) -> float | None:
        return self.metrics.registry.get_sample_value("oss_vectors_lease_waits_total")

    def lose_lease(self, then: Callable[[], FakeFuture]) -> FakeFuture:
        self.lease_holds = False
        return then()

    def refuse(self, *offsets: int) -> None:
        """Hand records in that were read, as dead letters that the service refused."""
        for offset in offsets:
            message, refusal = self.source.messages[offset], Refusal(400, "Bad", "id")
            self.writer.submit(rejected(self.assignment, message, refusal=refusal, attempts=1))

    def written_offsets(self) -> list[int]:
        return [int(headers[names.SOURCE_OFFSET]) for _, _, _, headers in self.broker.sent]

    def settled(self) -> int:
        return self.ledger.books().settled["vectors", Outcome.DEAD_LETTERED]

    def wait_settled(self, count: int) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while self.settled() < count:
            assert time.monotonic() < deadline
            self.events.wait_for("landed")

    def written(self, result: str) -> float | None:
        return self.metrics.registry.get_sample_value("oss_vectors_dead_letter_writes_total", {"result": result})


@pytest.fixture
def new_stage() -> Iterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(clock: Callable[[], float] = time.monotonic, **settings: Any) -> Stage:
        stages.append(Stage(Settings(**settings), clock))
        return stages[-1]

    yield make
    for stage in stages:
        stage.writer.stop(WAIT_SECONDS)
    assert [thread.name for thread in threading.enumerate() if thread.name == "dead-letters"] == []


NewStage = Callable[..., Stage]


def test_a_dead_letter_that_the_broker_acknowledged_is_settled_and_counted_with_its_reason(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.writer.start()
    stage.submit(FakeMessage(0, key=b"k", value=b"v", headers=[("h", b"1")]))
    stage.events.wait_for("landed")
    topic, key, value, headers = stage.broker.sent[0]
    assert (topic, key, value, headers["h"], headers[names.REASON]) == (
        "vectors.dlq",
        b"k",
        b"v",
        b"1",
        b"dimension",
    )
    assert (stage.settled(), stage.ledger.buffer_bytes, stage.assignment.watermark) == (1, 0, 1)
    registry = stage.metrics.registry
    labels = {"topic": "vectors", "reason": "dimension"}
    assert registry.get_sample_value("oss_vectors_dead_letters_total", labels) == 1
    assert registry.get_sample_value("oss_vectors_record_latency_seconds_count", {"topic": "vectors"}) == 1
    assert stage.status.dead_letters() == [DeadLettered("vectors", 0, 0, Reason.DIMENSION, WALL)]
    assert (stage.written("ok"), stage.written("failed")) == (1, 0)


def test_a_dead_letter_with_neither_key_nor_value_is_written_with_an_empty_value(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.writer.start()
    stage.submit(FakeMessage(0, key=None, value=None), FakeMessage(1, key=b"k", value=None))
    stage.events.wait_for("landed")
    stage.events.wait_for("landed")
    assert [sent[1:3] for sent in stage.broker.sent] == [(None, b""), (b"k", None)]


def test_dead_letters_wait_while_the_lease_does_not_hold_and_are_written_when_it_does(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.lease_holds = False
    stage.writer.start()
    stage.submit(*(FakeMessage(offset, key=b"k", value=b"v") for offset in range(3)))
    wait_for(lambda: stage.lease_waits() == 1, "they wait")
    assert (stage.broker.sent, stage.ledger.buffer_bytes) == ([], 300)
    stage.lease_holds = True
    for _ in range(3):
        stage.events.wait_for("landed")
    assert (len(stage.broker.sent), stage.settled(), stage.lease_waits()) == (3, 3, 1)
    assert (stage.written("failed"), stage.broker.closed) == (0, 0)


@pytest.mark.parametrize("is_retried_alone", [False, True], ids=["in a round", "retried alone"])
def test_while_dead_letters_wait_the_lease_is_looked_at_now_and_then_only(
    new_stage: NewStage, is_retried_alone: bool
) -> None:
    stage = new_stage()
    looks: list[float] = []
    if is_retried_alone:
        stage.broker.answers = [lambda: stage.lose_lease(fail_at_once(kafka_errors.MessageSizeTooLargeError()))]
    else:
        stage.lease_holds = False
    stage.writer.start()
    stage.submit(FakeMessage(0, key=b"k", value=b"v"))
    wait_for(lambda: stage.lease_waits() == 1, "it waits")
    begun = time.monotonic()

    def look() -> bool:
        looks.append(time.monotonic())
        return False

    stage.ledger._may_write = look
    wait_for(lambda: len(looks) >= 6, "it looks again")
    assert time.monotonic() - begun > 0.3


def test_dead_letters_that_wait_for_the_lease_are_given_up_with_their_partition(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.lease_holds = False
    stage.writer.start()
    stage.submit(FakeMessage(0, key=b"k", value=b"v"))
    wait_for(lambda: stage.lease_waits() == 1, "it waits")
    stage.ledger.end([stage.assignment])
    stage.events.wait_for("discarded")
    stage.lease_holds = True
    assert (stage.broker.sent, stage.settled(), stage.ledger.buffer_bytes) == ([], 0, 0)


def test_a_dead_letter_whose_lease_runs_out_while_its_producer_is_made_is_not_written_and_no_failure(
    new_stage: NewStage,
) -> None:
    stage = new_stage()
    made = stage.broker.producer

    def slow(idempotent: bool) -> FakeBroker:
        stage.lease_holds = not stage.broker.asked_idempotent  # the first one finds the topic
        return made(idempotent)

    stage.writer._sender._make_producer = slow
    stage.writer.start()
    wait_for(lambda: stage.writer.is_ready, "the topic is found")
    stage.writer._sender.close()
    stage.submit(FakeMessage(0, key=b"k", value=b"v"))
    stage.events.wait_for("landed")
    assert (stage.broker.sent, stage.written("failed")) == ([], 0)
    wait_for(lambda: stage.lease_waits() == 1, "it waits")
    stage.lease_holds = True
    stage.events.wait_for("landed")
    assert (len(stage.broker.sent), stage.settled()) == (1, 1)


@pytest.mark.parametrize("fault", [refuse, fail_at_once], ids=["an answer", "the sending itself"])
def test_a_dead_letter_that_was_refused_blocks_and_is_retried_until_it_is_accepted(
    new_stage: NewStage, fault: Callable[[Exception], Callable[[], FakeFuture]]
) -> None:
    stage = new_stage()
    stage.broker.answers = [fault(kafka_errors.KafkaTimeoutError("away"))] * 3
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("blocked", UNAVAILABLE))
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    stage.events.wait_for("landed")
    assert (stage.settled(), stage.written("ok"), stage.written("failed"), len(stage.broker.sent)) == (1, 1, 3, 4)
    assert stage.status.read().blocks == {}


@pytest.mark.parametrize(
    "error",
    [kafka_errors.KafkaError("fatal"), kafka_errors.KafkaTimeoutError("no metadata")],
    ids=["fatal", "no topic"],
)
def test_after_a_producer_that_fails_at_once_a_new_one_is_made(new_stage: NewStage, error: Exception) -> None:
    stage = new_stage()
    stage.broker.answers = [fail_at_once(error)]
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    assert (stage.broker.asked_idempotent, stage.broker.closed) == ([True, True], 1)


def test_a_producer_that_fails_to_close_does_not_end_the_thread(new_stage: NewStage) -> None:
    stage = new_stage()

    def fail(timeout: float | None = None) -> None:
        raise RuntimeError("an unforeseen error")

    stage.broker.close = fail  # type: ignore[method-assign]
    stage.broker.answers = [fail_at_once(kafka_errors.KafkaTimeoutError())]
    stage.writer.start()
    stage.submit(FakeMessage(0, key=b"k", value=b"v"))
    stage.wait_settled(1)
    assert stage.writer.dead_threads() == []


def test_a_producer_that_does_not_answer_is_waited_for_once_for_all_dead_letters_and_replaced(
    new_stage: NewStage,
) -> None:
    passed = FakeClock()
    stage = new_stage(clock=lambda: time.monotonic() + passed())
    waited: list[float] = []
    stage.broker.answers = [lambda: SilentFuture(waited, passed.pass_by)] * 10
    stage.submit(*[FakeMessage(number) for number in range(10)])
    stage.writer.start()
    stage.wait_settled(10)
    assert sum(waited) < 60
    assert stage.broker.asked_idempotent == [True, True]


def test_one_dead_letter_that_is_refused_does_not_hold_up_the_settling_of_others(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.broker.answers = [refuse(kafka_errors.KafkaTimeoutError("away"))]
    stage.writer.start()
    stage.submit(FakeMessage(0), FakeMessage(1), FakeMessage(2))
    for _ in range(4):
        stage.events.wait_for("landed")
    assert (stage.settled(), sorted(sent[3][names.SOURCE_OFFSET] for sent in stage.broker.sent)) == (
        3,
        [b"0", b"0", b"1", b"2"],
    )


def test_large_dead_letters_are_settled_a_few_at_a_time_so_that_a_slow_broker_keeps_up(
    new_stage: NewStage,
) -> None:
    stage = new_stage()
    settled_before: list[int] = []

    def answer() -> FakeFuture:
        settled_before.append(stage.settled())
        return FakeFuture(None)

    stage.broker.always = answer
    sizes = [1_000_000] * 5 + [9_000_000, 10]
    stage.submit(*(FakeMessage(offset, key=b"k", value=b"v" * size) for offset, size in enumerate(sizes)))
    stage.writer.start()
    stage.wait_settled(len(sizes))
    assert settled_before == [0, 0, 0, 0, 4, 5, 6]


def test_when_the_partition_is_given_back_its_dead_letter_is_discarded_and_blocks_nothing(
    new_stage: NewStage,
) -> None:
    stage = new_stage()
    stage.broker.always = refuse(kafka_errors.KafkaTimeoutError("away"))
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("blocked", UNAVAILABLE))
    stage.ledger.begin_revoke([Partition("vectors", 0)])
    stage.events.wait_for("discarded")
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    assert (stage.settled(), stage.ledger.buffer_bytes) == (0, 0)
    assert stage.ledger.end([stage.assignment]) == 1


@pytest.mark.parametrize(
    "answer", [set(), kafka_errors.KafkaConnectionError("no broker")], ids=["it does not exist", "no broker"]
)  # fmt: skip
def test_a_dead_letter_topic_that_is_not_found_blocks_until_it_is(
    new_stage: NewStage, answer: set[int] | Exception
) -> None:
    stage = new_stage()
    stage.broker.topics = [answer, answer]
    before = stage.writer.is_ready
    stage.writer.start()
    stage.events.wait_for(("blocked", UNAVAILABLE))
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    stage.submit(FakeMessage(0))
    stage.events.wait_for("landed")
    assert (before, stage.writer.is_ready) == (False, True)


def test_a_dead_letter_topic_that_may_not_be_written_to_blocks_until_it_may(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.broker.rights = [False, False, True]
    stage.writer.start()
    stage.events.wait_for(("blocked", UNAVAILABLE))
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    wait_for(lambda: stage.writer.is_ready, "it is ready")
    assert (stage.broker.rights, stage.broker.closed, stage.broker.asked_idempotent) == ([], 2, [True] * 3)


def test_without_a_dead_letter_topic_the_first_dead_letter_blocks_its_partition_until_that_is_given_back(
    new_stage: NewStage,
) -> None:
    stage = new_stage(topic="")
    block = Block("vectors", BlockReason.NO_DEAD_LETTER, 0)
    assert stage.writer.is_ready
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("blocked", block))
    expected = "there is no dead-letter topic for vectors/0 offset 0"
    assert (stage.status.messages()[block], stage.status.read().blocks[block]) == (
        expected,
        f"{expected}: 2 numbers, not 3",
    )
    stage.ledger.begin_revoke([Partition("vectors", 0)])
    stage.events.wait_for(("unblocked", block))
    assert (stage.broker.sent, stage.settled(), stage.ledger.buffer_bytes) == ([], 0, 0)
    assert stage.status.dead_letters() == []


def test_beyond_the_limit_nothing_is_written_and_the_topic_is_blocked(new_stage: NewStage) -> None:
    stage = new_stage()
    block = Block("vectors", BlockReason.DEAD_LETTER_LIMIT)
    stage.submit(*(FakeMessage(n) for n in range(25)))
    stage.writer.start()
    for _ in range(20):
        stage.events.wait_for("landed")
    assert (stage.settled(), len(stage.broker.sent), stage.assignment.watermark) == (20, 20, 20)
    ((blocked, message),) = stage.status.messages().items()
    known = (
        "more dead letters than dead_letter.limit_ratio allows: fix what sends them, or set dead_letter.accept_until"
    )
    assert (blocked, message.partition("; ")[0]) == (block, known)
    assert re.fullmatch(r"the next is vectors/0 offset 20, dimension", message.partition("; ")[2])


def test_once_above_the_limit_nothing_is_written_although_the_window_has_moved_on(new_stage: NewStage) -> None:
    stage = new_stage(limit_window=40, limit_min=10)
    stage.ledger.track(stage.assignment, range(1000))
    bad = [*range(1, 21), 999]
    stage.limit.note_read(stage.assignment, range(1000), bad)
    for offset in bad:
        stage.writer.submit(rejected(stage.assignment, FakeMessage(offset), size=0))
    stage.writer.start()
    stage.events.wait_for(("blocked", Block("vectors", BlockReason.DEAD_LETTER_LIMIT)))
    for _ in range(10):
        stage.events.wait_for("landed")
    assert (stage.limit.allows(stage.assignment.partition, 999), stage.written_offsets()) == (True, list(range(1, 11)))


def test_a_broker_without_idempotence_is_written_to_without_it_where_that_is_left_to_the_worker(
    new_stage: NewStage,
) -> None:
    stage = new_stage(idempotent="auto")
    stage.broker.accepts_idempotent = False
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for("landed")
    assert (stage.broker.asked_idempotent, stage.settled()) == ([True, False], 1)


def test_a_broker_that_refuses_idempotence_with_its_answer_is_written_to_without_it(new_stage: NewStage) -> None:
    stage = new_stage(idempotent="auto")
    stage.broker.answers = [refuse(kafka_errors.ClusterAuthorizationFailedError("no idempotent sends"))]
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    assert (stage.broker.asked_idempotent, stage.settled()) == ([True, False], 1)


NO_PRODUCER_ID = kafka_errors.KafkaError(
    "Unexpected error in InitProducerIdResponse: [Error 31] ClusterAuthorizationFailedError"
)


@pytest.mark.parametrize("fault", [refuse, fail_at_once], ids=["an answer", "the sending itself"])
def test_a_broker_that_gives_no_producer_id_is_written_to_without_idempotence(
    new_stage: NewStage, fault: Callable[[Exception], Callable[[], FakeFuture]]
) -> None:
    stage = new_stage(idempotent="auto")
    stage.broker.answers = [fault(NO_PRODUCER_ID)]
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    assert (stage.broker.asked_idempotent, stage.settled()) == ([True, False], 1)


def test_no_producer_id_while_the_right_to_write_is_missing_does_not_end_idempotence(new_stage: NewStage) -> None:
    stage = new_stage(idempotent="auto")
    stage.broker.rights = [True, False]
    stage.broker.answers = [refuse(NO_PRODUCER_ID)]
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    assert (stage.broker.asked_idempotent, stage.settled()) == ([True, True], 1)


def test_another_fault_of_an_idempotent_producer_does_not_end_idempotence(new_stage: NewStage) -> None:
    stage = new_stage(idempotent="auto")
    stage.broker.answers = [refuse(kafka_errors.KafkaError("fatal"))]
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    assert (stage.broker.asked_idempotent, stage.settled()) == ([True, True], 1)


def test_a_broker_without_idempotence_blocks_where_it_is_wanted(new_stage: NewStage) -> None:
    stage = new_stage(idempotent="true")
    stage.broker.accepts_idempotent = False
    stage.writer.start()
    stage.events.wait_for(("blocked", UNAVAILABLE))
    assert (stage.writer.is_ready, set(stage.broker.asked_idempotent)) == (False, {True})


TOO_LARGE = [kafka_errors.MessageSizeTooLargeError("1 MiB"), kafka_errors.RecordListTooLargeError("1 MiB")]


@pytest.mark.parametrize("error", TOO_LARGE, ids=["the message", "its batch"])
@pytest.mark.parametrize("fault", [refuse, fail_at_once], ids=["an answer", "the sending itself"])
def test_a_dead_letter_too_large_for_the_broker_is_written_as_a_reference_where_that_is_set(
    new_stage: NewStage, fault: Callable[[Exception], Callable[[], FakeFuture]], error: Exception
) -> None:
    stage = new_stage(oversize="reference")
    stage.broker.answers = [fault(error)]
    stage.writer.start()
    stage.submit(FakeMessage(0, key=b"k", value=b"12345"))
    stage.events.wait_for("landed")
    _, key, value, headers = stage.broker.sent[-1]
    assert (key, value, headers[names.VALUE_SIZE]) == (b"k", None, b"5")
    assert headers[names.REFERENCE].startswith(b"the record cannot be written whole: ")
    assert (stage.settled(), stage.written("failed")) == (1, 0)


OWN_BLOCK = Block("vectors", BlockReason.DEAD_LETTER_UNAVAILABLE, 0)


def test_a_dead_letter_too_large_for_the_broker_blocks_its_partition_alone_and_is_read_again_until_it_fits(
    new_stage: NewStage,
) -> None:
    stage = new_stage(oversize="block")
    stage.broker.answers = [refuse(TOO_LARGE[0])] * 3
    stage.writer.start()
    stage.submit(FakeMessage(0, key=b"k", value=b"12345"))
    stage.events.wait_for(("blocked", OWN_BLOCK))
    stage.events.wait_for(("unblocked", OWN_BLOCK))
    assert {sent[1:3] for sent in stage.broker.sent} == {(b"k", b"12345")}
    assert (stage.settled(), stage.source.asked, stage.ledger.buffer_bytes) == (1, [0, 0, 0], 0)
    assert UNAVAILABLE not in stage.status.read().blocks


def test_what_is_blocked_keeps_neither_its_bytes_nor_their_count(new_stage: NewStage) -> None:
    """The first is too large and the 21st above the limit: 20 dead letters in all, of which nothing stays in memory."""
    clock = FakeClock()
    stage = new_stage(clock=clock, oversize="block")
    stage.broker.always = refuse(TOO_LARGE[0])
    messages = [FakeMessage(offset) for offset in range(30)]
    seen = [weakref.ref(message) for message in messages]
    offsets = list(range(30))
    stage.ledger.track(stage.assignment, offsets)
    stage.ledger.count_bytes(30 * 100_000)
    stage.limit.note_read(stage.assignment, offsets, offsets)
    while messages:
        stage.writer.submit(rejected(stage.assignment, messages.pop(0), size=100_000))
    stage.writer.start()
    for _ in range(20):
        stage.events.wait_for("landed")
    gc.collect()
    assert [one() for one in seen] == [None] * 30
    assert stage.ledger.buffer_bytes == 30 * 600
    assert stage.status.read().blocks.keys() == {OWN_BLOCK, Block("vectors", BlockReason.DEAD_LETTER_LIMIT)}


def test_a_dead_letter_retried_alone_does_not_delay_those_of_other_partitions(new_stage: NewStage) -> None:
    stage = new_stage(oversize="block", limit_ratio=1)
    other = opened(stage.ledger, partition=1)
    stage.broker.answers = [refuse(TOO_LARGE[0])]
    stage.source.problem = kafka_errors.KafkaTimeoutError("the source is away")
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("blocked", OWN_BLOCK))
    stage.read(FakeMessage(0), assignment=other)
    stage.writer.submit(rejected(other, FakeMessage(0)))
    stage.wait_settled(1)
    assert stage.status.read().blocks.keys() == {OWN_BLOCK}
    stage.source.problem = None
    stage.events.wait_for(("unblocked", OWN_BLOCK))
    assert stage.settled() == 2


@pytest.mark.parametrize("there", [None, FakeMessage(0, value=b"of another topic of this name")], ids=["gone", "other"])
def test_a_dead_letter_retried_alone_whose_record_is_gone_is_written_as_a_reference(
    new_stage: NewStage, there: FakeMessage | None
) -> None:
    stage = new_stage(oversize="block")
    stage.broker.answers = [refuse(TOO_LARGE[0])]
    stage.submit(FakeMessage(0, key=b"k", value=b"12345"))
    stage.source.messages = {} if there is None else {0: there}
    stage.writer.start()
    stage.events.wait_for(("blocked", OWN_BLOCK))
    stage.events.wait_for(("unblocked", OWN_BLOCK))
    _, key, value, headers = stage.broker.sent[-1]
    assert (key, value) == (None, b"")
    reference = [headers[name] for name in (names.REFERENCE, names.VALUE_SIZE, names.KEY_SIZE)]
    assert reference == [b"the record is gone from the source topic", b"5", b"1"]
    assert (stage.settled(), stage.ledger.buffer_bytes) == (1, 0)


def test_what_waits_for_the_broker_beyond_some_bytes_releases_them_and_is_read_again(new_stage: NewStage) -> None:
    stage = new_stage(limit_ratio=1)
    away = refuse(kafka_errors.KafkaTimeoutError("away"))
    stage.broker.always = away
    stage.writer.start()
    stage.submit(*(FakeMessage(n, value=b"x" * (KEPT_BYTES // 4)) for n in range(8)))
    stage.events.wait_for(("blocked", OWN_BLOCK))
    stage.broker.always = None
    stage.events.wait_for(("unblocked", OWN_BLOCK))
    stage.wait_settled(8)
    assert (stage.ledger.buffer_bytes, len(set(stage.source.asked)) <= 5) == (0, True)
    assert {len(sent[2] or b"") for sent in stage.broker.sent} == {KEPT_BYTES // 4}


# -- a dead letter that is at fault itself


OWN_FAULTS = [
    ValueError("odd"),
    TypeError("odd"),
    AssertionError("odd"),
    UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"),
    MemoryError("large"),
    kafka_errors.InvalidRecordError("a compacted topic wants a key"),
]


@pytest.mark.parametrize("error", OWN_FAULTS, ids=lambda error: type(error).__name__)
def test_a_dead_letter_that_the_client_cannot_send_is_written_as_a_reference_with_the_reason(
    new_stage: NewStage, error: Exception
) -> None:
    stage = new_stage()
    stage.broker.answers = [fail_at_once(error), acknowledge, fail_at_once(error)]
    stage.submit(FakeMessage(0), FakeMessage(1))
    stage.writer.start()
    stage.wait_settled(2)
    references = [sent[3] for sent in stage.broker.sent if names.REFERENCE in sent[3]]
    assert [one[names.SOURCE_OFFSET] for one in references] == [b"0"]
    assert type(error).__name__.encode() in references[0][names.REFERENCE]
    assert stage.status.read().blocks == {}


def test_a_dead_letter_that_cannot_be_written_as_a_reference_either_blocks_its_partition_alone(
    new_stage: NewStage,
) -> None:
    clock = FakeClock()
    stage = new_stage(clock=clock)
    odd = fail_at_once(ValueError("odd"))
    stage.broker.answers = [odd, acknowledge, acknowledge, odd, odd]
    stage.submit(FakeMessage(0), FakeMessage(1), FakeMessage(2))
    stage.writer.start()
    for _ in range(3):
        stage.events.wait_for("landed")
    assert (stage.settled(), set(stage.status.read().blocks)) == (2, {OWN_BLOCK})
    assert stage.status.messages()[OWN_BLOCK].endswith("cannot be written: ValueError: odd")


def test_a_dead_letter_that_fails_while_others_are_acknowledged_blocks_its_partition_alone(new_stage: NewStage) -> None:
    stage = new_stage()
    away = refuse(kafka_errors.KafkaTimeoutError("its partition has no leader"))
    stage.broker.answers = [away, away, acknowledge, away]
    stage.broker.always = away
    stage.submit(FakeMessage(0), FakeMessage(1))
    stage.writer.start()
    stage.events.wait_for(("blocked", OWN_BLOCK))
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    assert (stage.settled(), set(stage.status.read().blocks)) == (1, {OWN_BLOCK})


ODD = "half \ud83d an emoji"


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (FakeMessage(0, headers=[(f"h{n}", b"x") for n in range(10_000)]), {}),
        (FakeMessage(0, headers=[(ODD, b"x"), ("\udcff", None), ("", b"")]), {}),
        (FakeMessage(0, key=b"\x00\xff" * 5000, value=None), {}),
        (FakeMessage(0, timestamp=2**63 - 1), {}),
        (FakeMessage(0), {"text": ODD * 10_000, "error_class": ODD, "raised_by": ODD, "index": ODD}),
        (FakeMessage(0), {"refusal": Refusal(-1, ODD * 10_000, ODD), "attempts": 10**9}),
    ],
    ids=["many headers", "odd names", "odd key", "odd time", "odd words", "odd answer"],
)
def test_whatever_a_dead_letter_holds_it_is_written_and_its_neighbour_too(
    new_stage: NewStage, message: FakeMessage, fields: dict[str, Any]
) -> None:
    stage = new_stage()
    stage.writer.start()
    stage.read(message, FakeMessage(1))
    stage.writer.submit(rejected(stage.assignment, message, **fields))
    stage.writer.submit(rejected(stage.assignment, FakeMessage(1)))
    stage.wait_settled(2)
    assert (stage.status.read().blocks, stage.writer.dead_threads()) == ({}, [])
    for _, _, _, headers in stage.broker.sent:
        assert all(name.encode() is not None and value.decode() is not None for name, value in headers.items())


# -- the limit, with what the service refuses


def test_dead_letters_are_judged_in_reading_order_however_much_was_read_meanwhile(new_stage: NewStage) -> None:
    """Half of 2,000 are bad and all of them are read before the first dead letter is judged."""
    stage = new_stage()
    messages = [FakeMessage(offset) for offset in range(2000)]
    stage.ledger.track(stage.assignment, range(2000))
    stage.limit.note_read(stage.assignment, range(2000), range(1, 2000, 2))
    for message in messages[1::2]:
        stage.writer.submit(rejected(stage.assignment, message, size=0))
    stage.writer.start()
    stage.events.wait_for(("blocked", Block("vectors", BlockReason.DEAD_LETTER_LIMIT)))
    for _ in range(50):
        stage.events.wait_for("landed")
    assert stage.written_offsets() == list(range(1, 101, 2))


def test_of_refused_records_that_come_in_another_order_those_first_read_are_written(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.read(*(FakeMessage(offset) for offset in range(400)), bad=False)
    stage.writer.start()
    stage.refuse(399)
    stage.events.wait_for("looked")
    stage.refuse(*range(398, -1, -1))
    stage.events.wait_for(("blocked", Block("vectors", BlockReason.DEAD_LETTER_LIMIT)))
    for _ in range(20):
        stage.events.wait_for("landed")
    assert stage.written_offsets() == list(range(20))


def test_a_refused_record_waits_for_those_before_it_but_not_for_ever(new_stage: NewStage) -> None:
    clock = FakeClock()
    stage = new_stage(clock=clock)
    stage.read(*(FakeMessage(offset) for offset in range(3)), bad=False)
    stage.writer.start()
    stage.refuse(1)
    stage.events.wait_for("looked")
    assert (stage.writer.is_idle, stage.written_offsets()) == (False, [])
    stage.ledger.settle([rejected(stage.assignment, FakeMessage(0))], Outcome.PUT)
    stage.events.wait_for("landed")
    assert stage.written_offsets() == [1]
    stage.read(FakeMessage(3), FakeMessage(4), bad=False)
    stage.refuse(4)
    clock.pass_by(VERDICT_SECONDS)
    stage.events.wait_for("landed")
    assert stage.written_offsets() == [1, 4]


def refuse_behind_a_request(stage: Stage) -> None:
    """Let the second of two records be refused while a request with one of their partition is on its way."""
    stage.read(*(FakeMessage(offset) for offset in range(2)), bad=False)
    stage.ledger.begin_request([stage.assignment])
    stage.writer.start()
    stage.refuse(1)


def test_a_refused_record_waits_for_those_before_it_while_a_request_with_one_is_on_its_way(new_stage: NewStage) -> None:
    clock = FakeClock()
    stage = new_stage(clock=clock)
    refuse_behind_a_request(stage)
    for _ in range(3):
        stage.events.wait_for("looked")
        clock.pass_by(VERDICT_SECONDS)
    stage.events.wait_for("looked")
    assert stage.written_offsets() == []
    stage.ledger.end_request([stage.assignment])
    stage.events.wait_for("landed")  # this request
    clock.pass_by(VERDICT_SECONDS)
    stage.events.wait_for("landed")  # the dead letter
    assert stage.written_offsets() == [1]


def test_a_refused_record_does_not_wait_for_requests_beside_a_stuck_record(new_stage: NewStage) -> None:
    clock = FakeClock()
    stage = new_stage(clock=clock)
    stage.status.block(Block("vectors", BlockReason.RECORD_STUCK, 0), "a firewall refuses it")
    refuse_behind_a_request(stage)
    stage.events.wait_for("looked")
    clock.pass_by(VERDICT_SECONDS)
    stage.events.wait_for("landed")
    assert stage.written_offsets() == [1]


def test_a_refused_record_does_not_wait_for_ever_for_requests(new_stage: NewStage) -> None:
    clock = FakeClock()
    stage = new_stage(clock=clock)
    refuse_behind_a_request(stage)
    stage.events.wait_for("looked")
    clock.pass_by(LONGEST_VERDICT_SECONDS)
    stage.events.wait_for("landed")
    assert stage.written_offsets() == [1]


def test_a_writer_that_is_stopped_leaves_what_was_not_acknowledged_unsettled(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.broker.always = refuse(kafka_errors.KafkaTimeoutError("away"))
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("blocked", UNAVAILABLE))
    stage.writer.stop(WAIT_SECONDS)
    assert (stage.settled(), stage.ledger.outstanding(), stage.writer.dead_threads(), stage.broker.closed) == (
        0,
        1,
        [],
        1,
    )


def test_it_is_idle_only_when_nothing_waits_to_be_written(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.submit(FakeMessage(0))
    waiting = stage.writer.is_idle
    stage.writer.start()
    stage.events.wait_for("landed")
    stage.writer.stop(WAIT_SECONDS)
    assert (waiting, stage.writer.is_idle) == (False, True)
