"""What blocked goes with the partition whose records it was about: lanes with the fake service, slots as they are.

And what a slot is done with goes, too.
"""

import threading
import weakref
from collections.abc import Iterator

import pytest

from tests.support.emulator import Fault
from tests.support.lane import GOES, INDEX, STAYS, TOPIC, Bench, running
from tests.support.worker import wait_for
from worker.delivery.batch import Batch
from worker.errors import BlockReason
from worker.ledger import Outcome
from worker.ports import SealReason
from worker.telemetry.state import Block


@pytest.fixture
def bench() -> Iterator[Bench]:
    with running(Bench()) as one:
        yield one
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(f"slot-{INDEX}")] == []


@pytest.mark.parametrize(
    ("rule", "reason"),
    [({"status": 403}, BlockReason.CREDENTIALS), ({"status": 404}, BlockReason.TARGET)],
)
def test_a_topic_whose_refused_records_went_with_their_partition_is_read_again(
    bench: Bench, rule: Fault, reason: BlockReason
) -> None:
    """Else the partition that stays is never read, so nothing is sent, and nothing tells that it would be taken."""
    bench.sink.fault(**rule)
    bench.submit(GOES, ["a"])
    wait_for(lambda: bench.blocks() == {Block(TOPIC, reason)}, "the topic is blocked")

    bench.give_back()

    wait_for(lambda: not bench.blocks(), "the topic is not blocked any more", 5)
    assert bench.ledger.buffer_bytes == 0
    # What comes next finds out anew.
    bench.submit(STAYS, ["b"])
    wait_for(lambda: bench.blocks() == {Block(TOPIC, reason)}, "the topic is blocked again", 5)


def test_a_record_told_as_stuck_after_its_partition_was_given_back_blocks_nothing(bench: Bench) -> None:
    """The partition goes between the request and its answer, which is told as stuck and then belongs to nobody."""
    bench.sink.fault(status=500)
    bench.submit(GOES, ["a"])
    wait_for(lambda: bench.blocks() == {Block(TOPIC, BlockReason.RECORD_STUCK, 0)}, "the record is stuck")

    bench.during = bench.give_back

    wait_for(lambda: bench.lane.is_idle, "the lane has let go of it", 5)
    assert bench.blocks() == set()
    assert bench.ledger.buffer_bytes == 0


def test_when_the_newest_version_is_given_back_the_one_of_a_partition_that_stays_is_written(bench: Bench) -> None:
    bench.sink.fault(status=503, count=3)  # enough of them to be given back between two
    bench.submit_over(GOES, STAYS, "a")
    wait_for(lambda: bench.sink.requests, "it was tried")

    bench.give_back()

    wait_for(lambda: not bench.ledger.outstanding(), "nothing is outstanding", 5)
    stays = bench.ledger.assignment(STAYS)
    assert stays is not None
    assert (stays.watermark, bench.ledger.buffer_bytes) == (1, 0)
    assert bench.ledger.books().settled[TOPIC, Outcome.PUT] == 1


def test_a_batch_that_comes_while_a_slot_waits_to_retry_is_taken_by_the_idle_one() -> None:
    """One slot is woken for a batch, and that must not be one which waits to send again."""
    for _ in range(30):
        with running(Bench(retry_seconds=60.0)) as bench:
            bench.sink.fault(status=500, keys=["a"])
            bench.submit(GOES, ["a"])
            wait_for(lambda bench=bench: bench.sink.requests, "it was tried")  # type: ignore[misc]  # a bound default
            bench.submit(STAYS, ["c"])  # a second slot starts for it
            wait_for(lambda bench=bench: bench.lane.state.accepted_in_all, "it is accepted", 5)  # type: ignore[misc]  # likewise
            bench.lane.wake()
            conditions = bench.lane.state._change, bench.lane._arrival
            wait_for(
                lambda conditions=conditions: [len(each._waiters) for each in conditions] == [1, 1],  # type: ignore[misc]  # a bound default
                "one slot waits to send again, the other for a batch",
            )
            bench.submit(STAYS, ["b"])
            wait_for(lambda bench=bench: bench.lane.state.accepted_in_all == 2, "the other is accepted", 5)  # type: ignore[misc]  # likewise


def test_a_slot_that_waits_for_a_batch_holds_nothing_of_the_one_before(bench: Bench) -> None:
    """A batch has megabytes, and those that are settled are counted no more."""
    items = bench._tracked(STAYS, ["a"])
    message = weakref.ref(items[0].message)
    bench.lane.submit(Batch({item.key: item for item in items}, 1, SealReason.AGE))
    del items
    wait_for(lambda: bench.lane.is_idle and message() is None, "the record is forgotten", 5)
