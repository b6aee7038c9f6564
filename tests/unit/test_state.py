"""The state and the blocks of this process, and what is logged of them."""

import logging

import pytest

from tests.support.fakes import FakeClock
from worker.errors import BlockReason, Reason
from worker.telemetry.state import (
    DEAD_LETTERS_KEPT,
    REASON_CHARACTERS,
    Attempts,
    Block,
    DeadLettered,
    Reading,
    State,
    Status,
)


def test_it_begins_as_starting_with_nothing_blocked() -> None:
    assert Status(5.0).read() == Reading(State.STARTING, "starting", {}, 5.0)


@pytest.mark.parametrize("state", State)
def test_a_state_that_is_entered_is_read_with_its_reason(state: State) -> None:
    status = Status(0.0)
    status.enter(state, "because")
    assert status.read()[:2] == (state, "because")


def test_a_change_of_state_is_logged_once_and_a_bad_one_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    status = Status(0.0)
    for state, reason in [
        (State.RUNNING, "running"),
        (State.RUNNING, "running"),
        (State.BLOCKED, "a"),
        (State.BLOCKED, "a"),
        (State.BLOCKED, "b"),
        (State.RUNNING, "running"),
    ]:
        status.enter(state, reason)
    assert [(record.levelname, record.getMessage(), record.__dict__["detail"]) for record in caplog.records] == [
        ("INFO", "state: running", "running"),
        ("WARNING", "state: blocked", "a"),
        ("WARNING", "state: blocked", "b"),
        ("INFO", "state: running", "running"),
    ]


TARGET = Block("vectors", BlockReason.TARGET)
STUCK = Block("vectors", BlockReason.RECORD_STUCK, 1)


def place_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields that say what is blocked, and why."""
    return {name: value for name, value in record.__dict__.items() if name in ("topic", "partition", "reason")}


def test_blocks_are_kept_apart_and_logged_as_they_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    status = Status(0.0)
    status.block(TARGET, "no such index")
    status.block(TARGET, "still none")
    status.block(STUCK, "500")
    status.unblock(STUCK)
    status.unblock(STUCK)
    status.unblock(Block("vectors", BlockReason.TARGET, 1))
    assert status.read().blocks == {TARGET: "still none"}
    assert [(record.getMessage(), place_of(record)) for record in caplog.records] == [
        ("blocked", {"topic": "vectors", "reason": "target"}),
        ("blocked", {"topic": "vectors", "partition": 1, "reason": "record_stuck"}),
        ("no longer blocked", {"topic": "vectors", "partition": 1, "reason": "record_stuck"}),
    ]


def test_a_block_of_several_owners_ends_with_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    status = Status(0.0)
    status.block(STUCK, "corrupt", "a record", owner="batch")
    status.block(STUCK, "no leader", owner="leader")
    assert (status.read().blocks, status.messages()) == (
        {STUCK: "corrupt: a record; no leader"},
        {STUCK: "corrupt; no leader"},
    )
    for _ in range(2):
        status.unblock(STUCK, owner="leader")
    assert status.blocks_of("vectors", 1) == [BlockReason.RECORD_STUCK]
    assert status.read().blocks == {STUCK: "corrupt: a record"}
    status.unblock(STUCK, owner="batch")
    assert (status.blocks_of("vectors", 1), status.attempts()) == ([], {})
    assert [record.getMessage() for record in caplog.records] == ["blocked", "no longer blocked"]


def test_a_partition_is_blocked_by_itself_or_with_its_topic() -> None:
    status = Status(0.0)
    status.block(TARGET, "no such index")
    status.block(STUCK, "500")
    blocked = [
        status.blocks_of(topic, partition) for topic, partition in (("vectors", 0), ("vectors", 1), ("images", 1))
    ]
    assert blocked == [[BlockReason.TARGET], [BlockReason.TARGET, BlockReason.RECORD_STUCK], []]


def test_a_partition_that_is_forgotten_takes_its_own_blocks_with_it() -> None:
    status = Status(0.0)
    others = [TARGET, Block("vectors", BlockReason.RECORD_STUCK, 0), Block("images", BlockReason.RECORD_STUCK, 1)]
    for block in (*others, STUCK):
        status.block(block, "x")
    status.forget("vectors", 1)
    assert list(status.read().blocks) == others


def test_a_reading_does_not_change_afterwards() -> None:
    status = Status(0.0)
    reading = status.read()
    status.block(TARGET, "x")
    assert reading.blocks == {}


def test_a_turn_of_the_main_loop_is_noted() -> None:
    status = Status(0.0)
    status.turned(7.5)
    assert status.read().last_turn == 7.5


def test_what_may_quote_a_record_is_logged_and_read_but_not_among_the_messages(
    caplog: pytest.LogCaptureFixture,
) -> None:
    status = Status(0.0)
    status.block(STUCK, "vectors/1 offset 7", quote="500 InternalError: x")
    whole = "vectors/1 offset 7: 500 InternalError: x"
    assert (status.read().blocks, status.messages()) == ({STUCK: whole}, {STUCK: "vectors/1 offset 7"})
    assert [record.__dict__["error"] for record in caplog.records] == [whole]


def test_the_last_dead_letters_of_each_reason_are_kept_the_newest_first() -> None:
    status = Status(0.0)
    rare = DeadLettered("vectors", 0, 3, Reason.REFUSED, 1.0)
    status.dead_lettered(rare)
    many = [DeadLettered("vectors", 1, offset, Reason.DIMENSION, 2.0 + offset) for offset in range(100)]
    for letter in many:
        status.dead_lettered(letter)
    assert status.dead_letters() == [*many[: -DEAD_LETTERS_KEPT - 1 : -1], rare]


def test_words_of_others_are_fit_for_a_line_and_bounded_wherever_they_are_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    status = Status(0.0)
    hostile = "half an emoji \ud83d\nforged \x1b[31m"
    shown = "half an emoji \ufffd forged \ufffd[31m"
    status.enter(State.BLOCKED, hostile)
    status.block(STUCK, hostile, quote=hostile)
    assert (status.read().reason, status.read().blocks[STUCK], status.messages()[STUCK]) == (
        shown,
        f"{shown}: {shown}",
        shown,
    )
    assert [record.__dict__.get("detail") or record.__dict__["error"] for record in caplog.records] == [
        shown,
        f"{shown}: {shown}",
    ]
    status.enter(State.BLOCKED, "x" * 1_000_000)
    status.block(STUCK, "x" * 1_000_000, quote="x" * 1_000_000)
    assert (len(status.read().reason), len(status.read().blocks[STUCK])) == (REASON_CHARACTERS, 2002)


def test_a_warning_is_kept_by_its_name_until_it_ends() -> None:
    status = Status(0.0)
    status.warn("first", "one\nthing")
    status.warn("second", "another")
    status.warn("first", "a third")
    assert status.warnings() == ["a third", "another"]
    status.warn("first", "")
    status.warn("never", "")
    assert status.warnings() == ["another"]


def test_a_block_says_since_when_how_often_it_was_tried_and_when_it_is_tried_next() -> None:
    clock = FakeClock(100.0)
    status = Status(0.0, clock)
    status.block(TARGET, "no such index", retry_in=30.0)
    clock.advance(31.0)
    status.block(TARGET, "no such index", retry_in=30.0)
    assert status.attempts() == {TARGET: Attempts(since=100.0, count=2, next_at=161.0)}
    status.unblock(TARGET)
    assert status.attempts() == {}
    clock.advance(9.0)
    status.block(TARGET, "no such index")
    assert status.attempts() == {TARGET: Attempts(since=140.0, count=1, next_at=None)}


def test_several_that_fail_together_are_one_attempt() -> None:
    clock = FakeClock(100.0)
    status = Status(0.0, clock)
    for _ in range(8):
        status.block(TARGET, "403 AccessDenied", retry_in=30.0)
        clock.advance(0.1)
    assert status.attempts()[TARGET].count == 1


def test_attempts_of_a_partition_are_forgotten_with_it() -> None:
    status = Status(0.0)
    status.block(STUCK, "500", retry_in=1.0)
    status.block(TARGET, "no such index", retry_in=1.0)
    status.forget(STUCK.topic, 1)
    assert list(status.attempts()) == [TARGET]
