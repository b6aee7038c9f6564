"""Which partitions are fetched: hysteresis of the buffer and of a partition's span, phases, and blocks."""

import pytest

from tests.support.app import INDEX, TOPIC, App
from worker.app.steering import OLD_SECONDS, RESUME_SHARE, Steering, is_above
from worker.errors import BlockReason, SinkError
from worker.ledger import Outcome
from worker.settings import tables
from worker.telemetry.service import SHOWN_AFTER_SECONDS
from worker.telemetry.state import Block

HIGH = 1 << 20
LOW = int(HIGH * RESUME_SHARE)


def test_what_was_paused_at_a_limit_is_resumed_well_below_it() -> None:
    above, seen = False, []
    for value in [50, 99, 100, 150, 99, 80, 75, 74, 99, 100]:
        above = is_above(value, 100, was_above=above)
        seen.append(above)
    assert seen == [False, False, True, True, True, True, True, False, False, True]


def test_a_full_buffer_pauses_all_partitions_until_it_is_at_three_quarters() -> None:
    app = App(partitions=2, buffer=tables.Buffer(max_bytes=HIGH)).started()
    seen = []
    for size in (HIGH - 1, HIGH, HIGH - 1, LOW, LOW - 1, HIGH - 1):
        app.ledger.count_bytes(size - app.ledger.buffer_bytes)
        app.turn()
        seen.append(app.fetched())
    assert seen == [{0, 1}, set(), set(), set(), {0, 1}, {0, 1}]


def test_a_partition_too_far_ahead_of_its_watermark_is_paused_alone_and_resumed() -> None:
    app = App(partitions=2, buffer=tables.Buffer(max_offset_span=100)).started()
    app.publish(100, partition=0)
    app.publish(99, partition=1)
    app.turn()
    assert (app.assignment(0).span, app.assignment(1).span, app.fetched()) == (100, 99, {1})
    app.worker._intake.seal_all()
    app.deliver()
    app.turn()
    assert app.fetched() == {0, 1}


def test_a_span_between_the_marks_leaves_a_partition_as_it_was() -> None:
    """The second partition comes to 80 from below and is fetched, the first from above and is not."""
    app = App(partitions=2, buffer=tables.Buffer(max_offset_span=100), batch=tables.Batch(max_records=20)).started()
    app.publish(100, partition=0)
    app.publish(80, partition=1)
    app.turn()
    assert app.fetched() == {1}
    first = app.lane.pop()
    assert first is not None
    (chunk,) = first.chunks
    assert {item.assignment.partition.partition for item in chunk.items} == {0}
    app.ledger.settle(chunk.items, Outcome.PUT)
    first.chunks.clear()
    app.lane.done(first)
    app.turn()
    assert (app.assignment(0).span, app.assignment(1).span, app.fetched()) == (80, 80, {1})


def test_a_partition_that_is_not_open_yet_is_not_fetched() -> None:
    app = App()
    app.turn(2)
    assert app.fetched() == set()
    app.find_index()
    app.turn()
    assert app.fetched() == {0}


@pytest.mark.parametrize("reason", BlockReason)
@pytest.mark.parametrize("partition", [None, 1], ids=["the topic", "the partition"])
def test_what_is_blocked_is_fetched_only_where_the_reason_allows_it(reason: BlockReason, partition: int | None) -> None:
    app = App(partitions=2).started()
    block = Block(TOPIC, reason, partition)
    app.status.block(block, "x")
    app.turn()
    blocked = {0, 1} if partition is None else {partition}
    assert app.fetched() == ({0, 1} if reason.is_still_fetched else {0, 1} - blocked)
    app.status.unblock(block)
    app.turn()
    assert app.fetched() == {0, 1}


def test_a_partition_that_is_not_read_on_for_long_has_its_record_in_the_reason_while_no_block_says_why() -> None:
    app = App(partitions=2, buffer=tables.Buffer(max_offset_span=100)).started()
    app.publish(100, partition=1)
    app.turn()
    assert app.status.warnings() == []
    for _ in range(2):
        app.clock.advance(OLD_SECONDS / 2)
        app.turn()
    (warning,) = app.status.warnings()
    assert warning.startswith(f"{TOPIC}/1 is not read on: its record at offset 0 has had no outcome for 1 min")
    block = Block(TOPIC, BlockReason.RECORD_STUCK, 1)
    app.status.block(block, "x")
    app.turn()
    assert app.status.warnings() == []
    app.status.unblock(block)
    app.turn()
    assert len(app.status.warnings()) == 1
    app.worker._intake.seal_all()
    app.deliver()
    app.turn()
    assert app.status.warnings() == []


# -- what cannot move


STUCK = Block(TOPIC, BlockReason.RECORD_STUCK, 0)


def failed(app: App, index: str = INDEX, times: int = 2) -> None:
    """Let requests of an index fail, with nothing that is accepted in between."""
    for _ in range(times):
        app.status.service.failed(index, SinkError("m", status=500))


def is_blocked(app: App) -> bool:
    """Make a turn, and return whether the partition is blocked."""
    app.turn()
    return app.worker._steering.is_blocked(app.assignment())


@pytest.mark.parametrize("reason", BlockReason)
def test_a_block_keeps_a_partition_from_moving_but_for_a_stuck_record_alone(reason: BlockReason) -> None:
    app = App().started()
    app.status.service.works(INDEX)
    assert not is_blocked(app)
    app.status.block(Block(TOPIC, reason, 0), "x")
    assert is_blocked(app) == (reason is not BlockReason.RECORD_STUCK)
    app.status.block(STUCK, "x")
    assert is_blocked(app) == (reason is not BlockReason.RECORD_STUCK)


def test_a_stuck_record_blocks_until_a_later_one_is_accepted_and_failures_after_that_do_not() -> None:
    app = App().started()
    failed(app)
    app.status.block(STUCK, "x")
    seen = [is_blocked(app)]
    app.status.service.works(INDEX)
    seen.append(is_blocked(app))
    app.clock.advance(1.0)
    failed(app, times=100)
    app.clock.advance(30.0)
    seen.append(is_blocked(app))
    assert seen == [True, False, False]


def test_a_single_failure_since_the_last_acceptance_does_not_show_that_nothing_passes() -> None:
    app = App().started()
    failed(app, times=1)
    app.status.block(STUCK, "x")
    assert not is_blocked(app)


def test_a_stuck_record_blocks_its_partition_when_that_is_too_far_ahead_of_it() -> None:
    app = App(buffer=tables.Buffer(max_offset_span=100)).started()
    app.status.block(STUCK, "x")
    app.publish(99)
    assert not is_blocked(app)
    app.publish(1)
    assert is_blocked(app)
    assert app.fetched() == set()


def test_a_stuck_record_and_a_full_buffer_block_where_nothing_is_accepted_for_a_while() -> None:
    app = App(buffer=tables.Buffer(max_bytes=HIGH)).started()
    app.status.block(STUCK, "x")
    app.clock.advance(30.0)
    app.ledger.count_bytes(HIGH)
    assert not is_blocked(app)  # full as in every backlog
    failed(app)
    assert not is_blocked(app)
    app.clock.advance(SHOWN_AFTER_SECONDS)
    assert is_blocked(app)
    app.ledger.count_bytes(-HIGH)
    assert not is_blocked(app)


def test_a_stuck_record_does_not_block_a_topic_of_which_another_index_accepts_records() -> None:
    app = App().started()
    steering = Steering(app.settings.buffer, {TOPIC: (INDEX, "other")}, app.source, app.ledger, app.status)
    failed(app)
    app.status.block(STUCK, "x", owner=INDEX)
    assert not steering.is_blocked(app.assignment())
    failed(app, "other")
    app.status.block(STUCK, "x", owner="other")
    assert steering.is_blocked(app.assignment())


def test_one_reason_that_stops_a_partition_is_enough() -> None:
    app = App().started()
    app.status.block(Block(TOPIC, BlockReason.RECORD_STUCK, 0), "x")
    app.status.block(Block(TOPIC, BlockReason.TARGET), "x")
    app.turn()
    assert app.fetched() == set()
