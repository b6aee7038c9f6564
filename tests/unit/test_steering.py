"""Which partitions are fetched: hysteresis of the buffer and of a partition's span, phases, and blocks."""

import pytest

from tests.support.app import TOPIC, App
from worker.app.steering import RESUME_SHARE, is_above
from worker.errors import BlockReason
from worker.ledger import Outcome
from worker.settings import tables
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


def test_one_reason_that_stops_a_partition_is_enough() -> None:
    app = App().started()
    app.status.block(Block(TOPIC, BlockReason.RECORD_STUCK, 0), "x")
    app.status.block(Block(TOPIC, BlockReason.TARGET), "x")
    app.turn()
    assert app.fetched() == set()
