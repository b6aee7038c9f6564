"""Dead letters: their headers, their limit, and that each counts once the broker has acknowledged it."""

import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from kafka import errors as kafka_errors
from kafka.record.default_records import DefaultRecordBatchBuilder

from tests.unit.samples import FakeClock, FakeMessage, opened
from worker.config import DeadLetter as Settings
from worker.config import Kafka
from worker.deadletter import DeadLetterWriter, Headers, Limit, build_headers
from worker.delivery import DeadLetter
from worker.errors import BlockReason, Reason, Refused
from worker.metrics import Metrics
from worker.offsets import Assignment, Ledger, Outcome, Partition
from worker.state import Block, DeadLettered, Status

WALL = 1_700_000_000.5
WAIT_SECONDS = 10.0  # for an event of the writer's thread, which is there at once unless something is broken
UNAVAILABLE = Block("vectors", BlockReason.DEAD_LETTER_UNAVAILABLE)


def letter(assignment: Assignment, message: FakeMessage | None = None, **fields: Any) -> DeadLetter:
    made = DeadLetter(
        assignment,
        message or FakeMessage(7),
        100,
        "docs",
        Reason.DIMENSION,
        "2 numbers, not 3",
        "worker.record.Decoder",
        "worker.errors.RecordError",
    )
    return msgspec.structs.replace(made, **fields)


@pytest.fixture
def assignment() -> Assignment:
    return opened(Ledger(["vectors"], FakeClock()), partition=2)


def headers_of(dead: DeadLetter, **settings: Any) -> Headers:
    return build_headers(dead, group_id="g", client_id="c", failed_at=WALL, **settings)


# -- headers


def test_a_reject_tells_where_it_was_and_what_was_wrong(assignment: Assignment) -> None:
    assert headers_of(letter(assignment)) == [
        ("__connect.errors.topic", b"vectors"),
        ("__connect.errors.partition", b"2"),
        ("__connect.errors.offset", b"7"),
        ("__connect.errors.connector.name", b"g"),
        ("__connect.errors.task.id", b"c"),
        ("__connect.errors.stage", b"VALUE_CONVERTER"),
        ("__connect.errors.class.name", b"worker.record.Decoder"),
        ("__connect.errors.exception.class.name", b"worker.errors.RecordError"),
        ("__connect.errors.exception.message", b"2 numbers, not 3"),
        ("oss-vectors.reason", b"dimension"),
        ("oss-vectors.index", b"docs"),
        ("oss-vectors.timestamp", b"2023-11-14T22:13:20.123Z"),
        ("oss-vectors.failed-at", b"2023-11-14T22:13:20.500Z"),
    ]


def test_what_the_service_refused_tells_its_answer_too(assignment: Assignment) -> None:
    refusal = Refused("bad vector", status=400, code="InvalidArgument", request_id="5C3D")
    told = dict(headers_of(letter(assignment, reason=Reason.REFUSED, refusal=refusal, attempts=3)))
    assert told["__connect.errors.stage"] == b"TASK_PUT"
    assert {name: told[f"oss-vectors.{name}"] for name in ("http-status", "error-code", "request-id", "attempts")} == {
        "http-status": b"400",
        "error-code": b"InvalidArgument",
        "request-id": b"5C3D",
        "attempts": b"3",
    }


def test_the_sources_headers_come_first_in_order_byte_for_byte_and_twice_where_they_are(assignment: Assignment) -> None:
    source = [("trace", b"\x00\xff"), ("empty", b""), ("trace", b"2"), ("oss-vectors.replays", b"1")]
    assert headers_of(letter(assignment, FakeMessage(headers=source)))[:4] == source


def test_a_header_s_name_that_is_not_utf_8_is_written_with_its_bytes(assignment: Assignment) -> None:
    raw = [b"caf\xe9", b"\xff", b"\xed\xa0\x80", "é".encode(), b"plain", b""]
    source = [(name.decode(errors="surrogateescape"), None) for name in raw]
    headers = headers_of(letter(assignment, FakeMessage(headers=source)))
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
    assert builder.append(0, 1, b"k", b"v", headers) is not None
    written = bytes(builder.build())
    for name in raw:
        assert bytes([2 * len(name)]) + name + b"\x00" in written  # its length, itself, and a value of nothing
    assert dict(headers)["oss-vectors.null-headers"] == b",".join(raw)


def test_a_null_header_is_written_empty_and_named(assignment: Assignment) -> None:
    source: Sequence[tuple[str, bytes | None]] = [("a", None), ("b", b""), ("c", None)]
    told = headers_of(letter(assignment, FakeMessage(headers=source)))
    assert (told[:3], dict(told)["oss-vectors.null-headers"]) == ([("a", b""), ("b", b""), ("c", b"")], b"a,c")


def test_a_record_that_failed_before_tells_of_its_newest_failure_alone(assignment: Assignment) -> None:
    refusal = Refused("bad", status=400, code="X", request_id="R")
    first = headers_of(letter(assignment, refusal=refusal, attempts=2), without_value=True)
    replayed = [("trace", b"1"), *first, ("oss-vectors.replays", b"1"), ("oss-vectors.replay-of", b"vectors.dlq/0/5")]
    kept = [("trace", b"1"), ("oss-vectors.replays", b"1"), ("oss-vectors.replay-of", b"vectors.dlq/0/5")]
    again = headers_of(letter(assignment, FakeMessage(7, headers=replayed)))
    assert again == kept + headers_of(letter(assignment))


@pytest.mark.parametrize(("value", "size"), [(b"12345", b"5"), (None, b"0")])
def test_a_reference_tells_the_size_of_the_value_that_it_leaves_out(
    assignment: Assignment, value: bytes | None, size: bytes
) -> None:
    told = dict(headers_of(letter(assignment, FakeMessage(value=value)), without_value=True))
    assert told["oss-vectors.value-size"] == size


@pytest.mark.parametrize(
    "timestamp", [-1, 1_700_000_000_000_000_000, 2**63 - 1], ids=["none", "nanoseconds", "largest"]
)
def test_a_timestamp_that_is_none_is_written_empty(assignment: Assignment, timestamp: int) -> None:
    assert dict(headers_of(letter(assignment, FakeMessage(timestamp=timestamp))))["oss-vectors.timestamp"] == b""


# -- the limit


def allowed(limit: Limit, count: int, topic: str = "vectors") -> list[bool]:
    """Read so many bad records one by one; return which may be dead letters."""
    answers = []
    for _ in range(count):
        limit.note_read(topic, good=0, bad=1)
        answers.append(limit.allows(topic))
    return answers


def test_when_the_first_twenty_are_all_bad_the_next_is_not_allowed() -> None:
    limit = Limit(Settings(), FakeClock())
    assert allowed(limit, 22) == [True] * 20 + [False] * 2


def test_one_good_record_among_the_first_leaves_it_to_the_ratio() -> None:
    limit = Limit(Settings(limit_min=30), FakeClock())
    limit.note_read("vectors", good=1, bad=0)
    assert allowed(limit, 32) == [True] * 30 + [False] * 2


def test_up_to_the_ratio_dead_letters_are_allowed_for_ever() -> None:
    limit = Limit(Settings(limit_ratio=0.1, limit_window=1000, limit_min=50), FakeClock())
    answers = []
    for _ in range(500):
        limit.note_read("vectors", good=9, bad=1)
        answers.append(limit.allows("vectors"))
    assert answers == [True] * 500


def test_beyond_the_ratio_they_are_not_allowed_until_the_window_has_moved_on() -> None:
    limit = Limit(Settings(limit_ratio=0.1, limit_window=1000, limit_min=50), FakeClock())
    limit.note_read("vectors", good=1000, bad=0)
    assert allowed(limit, 102) == [True] * 101 + [False]
    limit.note_read("vectors", good=1000, bad=0)
    assert limit.allows("vectors")


def test_fewer_than_the_least_count_do_not_reach_it_whatever_their_share() -> None:
    limit = Limit(Settings(limit_ratio=0.1, limit_window=100, limit_min=50), FakeClock())
    limit.note_read("vectors", good=1, bad=0)
    assert allowed(limit, 50) == [True] * 50


def test_topics_have_a_limit_each() -> None:
    limit = Limit(Settings(), FakeClock())
    allowed(limit, 21)
    assert allowed(limit, 1, "images") == [True]


def test_until_accept_until_the_limit_does_not_block_and_then_it_does() -> None:
    clock = FakeClock(now=0.0)
    limit = Limit(Settings(accept_until="1970-01-01T01:00:00Z"), clock)
    before = allowed(limit, 60)
    clock.pass_by(3600.0)
    assert (before, allowed(limit, 1)) == ([True] * 60, [False])


# -- the writer


class FakeFuture:
    """The broker's word on one message."""

    def __init__(self, problem: BaseException | None) -> None:
        self._problem = problem

    def get(self, timeout: float) -> None:
        if self._problem is not None:
            raise self._problem


class FakeBroker:
    """Makes producers, and answers what they are told; with no answers left, it takes everything."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes | None, dict[str, bytes]]] = []
        self.asked_idempotent: list[bool] = []
        self.closed = 0
        self.topics: list[set[int] | Exception] = []
        self.answers: list[Callable[[], FakeFuture]] = []
        self.always: Callable[[], FakeFuture] | None = None
        self.takes_idempotent = True

    def producer(self, idempotent: bool) -> "FakeBroker":
        self.asked_idempotent.append(idempotent)
        if idempotent and not self.takes_idempotent:
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

    def close(self, timeout: float | None = None) -> None:
        self.closed += 1


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
        while self._queue.get(timeout=WAIT_SECONDS) != event:
            pass


class WatchedLedger(Ledger):
    """Tells of each landing and discarding."""

    events: Events

    def land(self, assignments: Any) -> None:
        super().land(assignments)
        self.events.put("landed")

    def discard(self, records: Any) -> None:
        gone = list(records)
        super().discard(gone)
        if gone:
            self.events.put("discarded")


class WatchedStatus(Status):
    """Tells of each block as it begins and ends."""

    events: Events

    def block(self, block: Block, message: str, quote: str = "") -> None:
        super().block(block, message, quote)
        self.events.put(("blocked", block))

    def unblock(self, block: Block) -> None:
        was = block in self.read().blocks
        super().unblock(block)
        if was:
            self.events.put(("unblocked", block))


class Stage:
    """A writer with everything around it."""

    def __init__(self, settings: Settings) -> None:
        self.broker = FakeBroker()
        self.events = Events()
        self.ledger = WatchedLedger(["vectors"], FakeClock())
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
            retry_seconds=0.001,
            wall=lambda: WALL,
        )
        self.assignment = opened(self.ledger)

    def submit(self, *messages: FakeMessage) -> None:
        """Track messages and hand them in as dead letters."""
        self.ledger.track(self.assignment, [message.offset for message in messages])
        self.ledger.hold(100 * len(messages))
        for message in messages:
            self.limit.note_read("vectors", good=0, bad=1)
            self.writer.submit(letter(self.assignment, message))

    def settled(self) -> int:
        return self.ledger.books().settled["vectors", Outcome.DEAD_LETTERED]

    def written(self, result: str) -> float | None:
        return self.metrics.registry.get_sample_value("oss_vectors_dead_letter_writes_total", {"result": result})


@pytest.fixture
def new_stage() -> Iterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(**settings: Any) -> Stage:
        stages.append(Stage(Settings(**settings)))
        return stages[-1]

    yield make
    for stage in stages:
        stage.writer.stop(WAIT_SECONDS)
    assert [thread.name for thread in threading.enumerate() if thread.name == "dead-letters"] == []


NewStage = Callable[..., Stage]


def test_a_letter_that_the_broker_acknowledged_is_settled_and_counted_with_its_reason(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.writer.start()
    stage.submit(FakeMessage(0, key=b"k", value=b"v", headers=[("h", b"1")]))
    stage.events.wait_for("landed")
    topic, key, value, headers = stage.broker.sent[0]
    assert (topic, key, value, headers["h"], headers["oss-vectors.reason"]) == (
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


def test_a_letter_with_neither_key_nor_value_is_written_with_an_empty_value(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.writer.start()
    stage.submit(FakeMessage(0, key=None, value=None), FakeMessage(1, key=b"k", value=None))
    stage.events.wait_for("landed")
    stage.events.wait_for("landed")
    assert [sent[1:3] for sent in stage.broker.sent] == [(None, b""), (b"k", None)]


@pytest.mark.parametrize("fault", [refuse, fail_at_once], ids=["an answer", "the sending itself"])
def test_a_letter_that_was_refused_blocks_and_is_tried_until_it_is_taken(
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


def test_after_a_producer_that_fails_at_once_a_new_one_is_made(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.broker.answers = [fail_at_once(kafka_errors.KafkaError("fatal"))]
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    assert (stage.broker.asked_idempotent, stage.broker.closed) == ([True, True], 1)


def test_one_letter_that_is_refused_does_not_hold_up_the_settling_of_others(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.broker.answers = [refuse(kafka_errors.KafkaTimeoutError("away"))]
    stage.writer.start()
    stage.submit(FakeMessage(0), FakeMessage(1), FakeMessage(2))
    for _ in range(4):
        stage.events.wait_for("landed")
    assert (stage.settled(), sorted(sent[3]["__connect.errors.offset"] for sent in stage.broker.sent)) == (
        3,
        [b"0", b"0", b"1", b"2"],
    )


def test_when_the_partition_is_given_back_its_letter_is_let_go_and_blocks_nothing_any_more(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.broker.always = refuse(kafka_errors.KafkaTimeoutError("away"))
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("blocked", UNAVAILABLE))
    stage.ledger.close([Partition("vectors", 0)])
    stage.events.wait_for("discarded")
    stage.events.wait_for(("unblocked", UNAVAILABLE))
    assert (stage.settled(), stage.ledger.buffer_bytes) == (0, 0)
    assert stage.ledger.fence([Partition("vectors", 0)]) == 1


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


def test_without_a_dead_letter_topic_the_first_letter_blocks_its_partition_until_that_is_given_back(
    new_stage: NewStage,
) -> None:
    stage = new_stage(topic="")
    block = Block("vectors", BlockReason.NO_DEAD_LETTER, 0)
    assert stage.writer.is_ready
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("blocked", block))
    told = "there is no dead-letter topic for vectors/0 offset 0"
    assert (stage.status.messages()[block], stage.status.read().blocks[block]) == (told, f"{told}: 2 numbers, not 3")
    stage.ledger.close([Partition("vectors", 0)])
    stage.events.wait_for(("unblocked", block))
    assert (stage.broker.sent, stage.settled(), stage.ledger.buffer_bytes) == ([], 0, 0)
    assert stage.status.dead_letters() == []


def test_beyond_the_limit_nothing_is_written_and_the_topic_is_blocked(new_stage: NewStage) -> None:
    stage = new_stage()
    block = Block("vectors", BlockReason.DEAD_LETTER_LIMIT)
    stage.writer.start()
    stage.submit(*(FakeMessage(n) for n in range(25)))
    for _ in range(20):
        stage.events.wait_for("landed")
    assert (stage.settled(), len(stage.broker.sent), stage.assignment.watermark) == (20, 20, 20)
    ((told_of, message),) = stage.status.messages().items()
    known = (
        "more dead letters than dead_letter.limit_ratio allows: mend what sends them, or set dead_letter.accept_until"
    )
    assert (told_of, message.partition("; ")[0]) == (block, known)
    assert re.fullmatch(r"the next is vectors/0 offset 2[0-4], dimension", message.partition("; ")[2])


def test_a_broker_without_idempotence_is_written_to_without_it_where_that_is_left_to_the_worker(
    new_stage: NewStage,
) -> None:
    stage = new_stage(idempotent="auto")
    stage.broker.takes_idempotent = False
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for("landed")
    assert (stage.broker.asked_idempotent, stage.settled()) == ([True, False], 1)


def test_a_broker_without_idempotence_blocks_where_it_is_wanted(new_stage: NewStage) -> None:
    stage = new_stage(idempotent="true")
    stage.broker.takes_idempotent = False
    stage.writer.start()
    stage.events.wait_for(("blocked", UNAVAILABLE))
    assert (stage.writer.is_ready, set(stage.broker.asked_idempotent)) == (False, {True})


TOO_LARGE = [kafka_errors.MessageSizeTooLargeError("1 MiB"), kafka_errors.RecordListTooLargeError("1 MiB")]


@pytest.mark.parametrize("error", TOO_LARGE, ids=["the message", "its batch"])
@pytest.mark.parametrize("fault", [refuse, fail_at_once], ids=["an answer", "the sending itself"])
def test_a_letter_too_large_for_the_broker_is_written_as_a_reference_where_that_is_set(
    new_stage: NewStage, fault: Callable[[Exception], Callable[[], FakeFuture]], error: Exception
) -> None:
    stage = new_stage(oversize="reference")
    stage.broker.answers = [fault(error)]
    stage.writer.start()
    stage.submit(FakeMessage(0, key=b"k", value=b"12345"))
    stage.events.wait_for("landed")
    _, key, value, headers = stage.broker.sent[-1]
    assert (key, value, headers["oss-vectors.value-size"]) == (b"k", None, b"5")
    assert (stage.settled(), stage.written("failed")) == (1, 0)


def test_a_letter_too_large_for_the_broker_blocks_otherwise(new_stage: NewStage) -> None:
    stage = new_stage(oversize="block")
    stage.broker.always = refuse(TOO_LARGE[0])
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("blocked", Block("vectors", BlockReason.DEAD_LETTER_UNAVAILABLE, 0)))
    assert (stage.settled(), {sent[2] for sent in stage.broker.sent}) == (0, {b"{}"})


def test_a_fault_of_the_broker_that_a_too_large_letter_met_blocks_the_others_no_longer_than_it_lasts(
    new_stage: NewStage,
) -> None:
    stage = new_stage(oversize="block")
    too_large = refuse(TOO_LARGE[0])
    stage.broker.answers = [too_large, refuse(kafka_errors.KafkaConnectionError("away"))]
    stage.broker.always = too_large
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("blocked", Block("vectors", BlockReason.DEAD_LETTER_UNAVAILABLE, 0)))
    stage.events.wait_for(("blocked", UNAVAILABLE))
    stage.events.wait_for(("unblocked", UNAVAILABLE))


def test_a_writer_that_is_stopped_leaves_what_was_not_acknowledged_unsettled(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.broker.always = refuse(kafka_errors.KafkaTimeoutError("away"))
    stage.writer.start()
    stage.submit(FakeMessage(0))
    stage.events.wait_for(("blocked", UNAVAILABLE))
    stage.writer.stop(WAIT_SECONDS)
    assert (stage.settled(), stage.ledger.outstanding(), stage.writer.is_alive, stage.broker.closed) == (0, 1, True, 1)


def test_it_is_idle_only_when_nothing_waits_to_be_written(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.submit(FakeMessage(0))
    waiting = stage.writer.is_idle
    stage.writer.start()
    stage.events.wait_for("landed")
    stage.writer.stop(WAIT_SECONDS)
    assert (waiting, stage.writer.is_idle) == (False, True)
