"""Dead letters of records of one message: written one by one, judged by their places, and their bytes counted once."""

from collections.abc import Callable

from tests.support.worker import wait_for
from tests.unit.samples import FakeMessage, rejected
from tests.unit.test_deadletter import Stage, refuse
from tests.unit.test_deadletter import new_stage as new_stage  # noqa: PLC0414 - a fixture, which the tests name
from worker.deadletters import headers as names
from worker.deadletters.admission import Admission
from worker.deadletters.entry import TOO_LARGE, Entry
from worker.errors import BlockReason
from worker.ledger import Outcome
from worker.ports import Refusal
from worker.telemetry.state import Block

NewStage = Callable[..., Stage]
VALUE = b"x" * 1000
SIZE = 100
"""Of a dead letter without what it shares."""


def read(stage: Stage, count: int, offset: int = 0) -> FakeMessage:
    """Track a message with so many records."""
    message = FakeMessage(offset, key=b"k", value=VALUE)
    stage.ledger.track(stage.assignment, [offset])
    stage.ledger.split(stage.assignment, offset, range(count), len(VALUE) + 1)
    stage.ledger.count_bytes(SIZE * count)
    stage.limit.note_read(stage.assignment, [offset], (), {offset: count})
    stage.source.messages[offset] = message
    return message


def submit(stage: Stage, message: FakeMessage, *elements: int, refusal: Refusal | None = None) -> None:
    for element in elements:
        stage.limit.note_bad(stage.assignment.partition, message.offset, element)
        stage.writer.submit(rejected(stage.assignment, message, size=SIZE, element=element, refusal=refusal))


def written(stage: Stage) -> list[tuple[int, int]]:
    return [(int(found[names.SOURCE_OFFSET]), int(found[names.ELEMENT])) for *_, found in stage.broker.sent]


def test_each_bad_record_is_written_as_its_message_and_settled_by_itself(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.writer.start()
    submit(stage, read(stage, 3), 0, 2)
    stage.wait_settled(2)
    assert written(stage) == [(0, 0), (0, 2)]
    assert {sent[2] for sent in stage.broker.sent} == {VALUE}
    assert (stage.assignment.watermark, stage.ledger.outstanding()) == (0, 1)
    assert stage.ledger.buffer_bytes == SIZE + len(VALUE) + 1


def test_the_last_record_of_a_message_frees_its_bytes(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.writer.start()
    submit(stage, read(stage, 2), 0, 1)
    stage.wait_settled(2)
    assert (stage.assignment.watermark, stage.ledger.buffer_bytes) == (1, 0)


def test_what_is_blocked_keeps_neither_its_bytes_nor_their_count(new_stage: NewStage) -> None:
    stage = new_stage(topic="")
    stage.writer.start()
    submit(stage, read(stage, 2), 0, 1)
    wait_for(lambda: stage.ledger.buffer_bytes == 2 * SIZE, "the bytes are free")
    assert stage.assignment.shared == {}


def test_a_record_that_is_retried_alone_is_read_again_with_its_message(new_stage: NewStage) -> None:
    stage = new_stage(oversize="block")
    stage.broker.answers = [refuse(TOO_LARGE[0])] * 6
    stage.writer.start()
    submit(stage, read(stage, 2), 0, 1)
    stage.wait_settled(2)
    assert len(stage.source.asked) > 2
    assert sorted(written(stage)[-2:]) == [(0, 0), (0, 1)]
    assert {sent[2] for sent in stage.broker.sent} == {VALUE}
    assert (stage.assignment.watermark, stage.ledger.buffer_bytes) == (1, 0)


def test_beyond_the_limit_of_records_no_more_of_a_message_are_written(new_stage: NewStage) -> None:
    stage = new_stage(limit_min=5, limit_ratio=0.1, limit_window=100)
    stage.writer.start()
    message = read(stage, 100)
    submit(stage, message, *range(50, 100))
    stage.events.wait_for(("blocked", Block("vectors", BlockReason.DEAD_LETTER_LIMIT)))
    stage.wait_settled(5)
    assert written(stage) == [(0, element) for element in range(50, 55)]


def test_a_refused_record_waits_for_those_before_it_in_its_message(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.writer.start()
    message = read(stage, 3)
    submit(stage, message, 2, refusal=Refusal(400, "Bad", "id"))
    stage.events.wait_for("looked")
    assert stage.broker.sent == []
    submit(stage, message, 0, refusal=Refusal(400, "Bad", "id"))
    stage.wait_settled(1)
    assert written(stage) == [(0, 0)]
    stage.ledger.settle([rejected(stage.assignment, message, size=SIZE, element=1)], Outcome.PUT)
    stage.wait_settled(2)
    assert (written(stage), stage.ledger.buffer_bytes) == ([(0, 0), (0, 2)], 0)


def test_a_refused_record_does_not_wait_for_those_behind_it_in_its_message(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.writer.start()
    submit(stage, read(stage, 3), 0, refusal=Refusal(400, "Bad", "id"))
    stage.wait_settled(1)
    assert written(stage) == [(0, 0)]


def test_refused_records_of_which_all_before_them_are_refused_too_are_judged_at_once(new_stage: NewStage) -> None:
    stage = new_stage()
    message = read(stage, 3)
    refused = [
        Entry(rejected(stage.assignment, message, element=element, refusal=Refusal(400, "Bad", "id")), 1000.0)
        for element in range(3)
    ]
    admission = Admission(
        has_topic=True, limit=stage.limit, ledger=stage.ledger, status=stage.status, clock=lambda: 1000.0
    )
    assert admission.admit(refused[1:], []) == []
    assert admission.admit(refused[:1], []) == refused


def test_a_record_that_was_read_again_has_a_copy_of_its_message_which_counts(new_stage: NewStage) -> None:
    stage = new_stage()
    message = read(stage, 2)
    whole = len(VALUE) + 1
    entry = Entry(rejected(stage.assignment, message, size=SIZE, element=0), 0.0)
    entry.release_bytes(stage.ledger)
    seen = [stage.ledger.buffer_bytes]
    assert entry.restore(message, stage.ledger)
    assert [*seen, stage.ledger.buffer_bytes] == [2 * SIZE + whole, 2 * SIZE + 2 * whole]
