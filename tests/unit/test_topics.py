"""Topics that appear, disappear or are not shown, on a clock that the test advances."""

import pytest
from kafka import errors as kafka_errors

from tests.support.client import FakeConsumer
from tests.support.fakes import FakeClock
from worker.consumer.topics import ABSENT, DENIED, LOOK_SECONDS, Topics
from worker.errors import BlockReason
from worker.telemetry.state import Block, Status

HERE, GONE = "vectors", "images"
BLOCK = Block(GONE, BlockReason.PARTITION_UNREADABLE)


class Look:
    """The topics of two routes, looked at with a clock of its own."""

    def __init__(self, absent: dict[str, str]) -> None:
        self.clock = FakeClock()
        self.status = Status(0.0)
        self.topics = Topics(self.status, self.clock)
        self.consumer = FakeConsumer({topic: 1 for topic in (HERE, GONE) if topic not in absent})
        self.topics.begin([HERE, GONE], absent)

    def once(self) -> bool:
        return self.topics.look(self.consumer)

    def answered(self, answer: object) -> bool:
        """Ask when it is time, give the answer, and return whether other topics are there than before."""
        self.clock.advance(LOOK_SECONDS)
        assert self.once() is False
        self.consumer.answer("_absent", answer)
        return self.once()

    @property
    def blocks(self) -> dict[Block, str]:
        return self.status.read().blocks


def test_a_topic_that_is_absent_blocks_itself_alone() -> None:
    look = Look({GONE: ABSENT})
    assert (look.topics.present, look.blocks) == ((HERE,), {BLOCK: f"{GONE}: {ABSENT}"})


def test_a_topic_that_appears_is_present_and_no_longer_blocked() -> None:
    look = Look({GONE: ABSENT})
    assert look.answered({}) is True
    assert (look.topics.present, look.blocks) == ((HERE, GONE), {})


def test_a_topic_that_disappears_is_absent_and_blocked() -> None:
    look = Look({})
    look.consumer.topics = {HERE: 1}
    assert look.answered({GONE: ABSENT}) is True
    assert (look.topics.present, list(look.blocks)) == ((HERE,), [BLOCK])


def test_a_topic_that_is_denied_says_what_to_grant() -> None:
    look = Look({GONE: ABSENT})
    assert look.answered({GONE: DENIED}) is False
    assert "grant READ and DESCRIBE" in look.blocks[BLOCK]


def test_records_of_an_absent_topic_unblock_it_at_once() -> None:
    look = Look({GONE: ABSENT})
    look.topics.note_read(HERE)
    assert list(look.blocks) == [BLOCK]
    look.topics.note_read(GONE)
    assert (look.topics.present, look.blocks, look.consumer.calls) == ((HERE, GONE), {}, [])


def test_nothing_is_asked_while_all_topics_are_known_or_before_it_is_time() -> None:
    known, early = Look({}), Look({GONE: ABSENT})
    known.clock.advance(LOOK_SECONDS)
    early.clock.advance(LOOK_SECONDS - 0.1)
    assert (known.once(), early.once()) == (False, False)
    assert (known.consumer.calls, early.consumer.calls) == ([], [])


@pytest.mark.parametrize("error", [kafka_errors.NodeNotReadyError("metadata"), OSError("gone")])
def test_an_answer_that_is_an_error_changes_nothing_and_it_is_asked_again(error: Exception) -> None:
    look = Look({GONE: ABSENT})
    assert look.answered(error) is False
    assert look.once() is False
    assert (list(look.blocks), len(look.consumer.calls)) == ([BLOCK], 1)
    assert look.answered({}) is True


def test_one_question_at_a_time_is_asked() -> None:
    look = Look({GONE: ABSENT})
    for _ in range(5):
        look.clock.advance(LOOK_SECONDS)
        look.once()
    assert len(look.consumer.calls) == 1
