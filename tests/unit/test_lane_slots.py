"""How many slots an index has: as many as have batches, few that wait, and few while nothing is accepted."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.bounded import END_S
from tests.support.fakes import FakeMessage, FakeSink, Request, Stage
from tests.support.lane import NoDeadLetters
from worker.app.lanes import KEPT_SLOTS, LaneContext, make_lane
from worker.delivery.batch import Batch, Item
from worker.delivery.lane import Lane
from worker.delivery.pace.backoff import Backoff
from worker.errors import BlockReason, TargetError
from worker.ledger import Ledger, Partition
from worker.ports import Operation, SealReason
from worker.records.target import Target
from worker.settings.tables import Batch as BatchSettings
from worker.settings.tables import Delivery
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

TOPIC = "vectors"
MAX_IN_FLIGHT = 8


class Lanes:
    """So many indexes, and a service that answers while `open` is set."""

    def __init__(self, count: int) -> None:
        self.open = threading.Event()
        self.names = [f"docs{number}" for number in range(count)]
        self.ledger = Ledger([TOPIC], time.monotonic)
        self.sink = FakeSink(Target("docs", 3, "cosine"), waypoint=self._wait)
        self.assignment = self.ledger.assign(Partition(TOPIC, 0))
        self.ledger.open(self.assignment, 0, None)
        status = Status(time.monotonic(), indexes={TOPIC: count})
        context = LaneContext(
            self.sink,
            self.ledger,
            NoDeadLetters(),
            status,
            Metrics(self.ledger, status, [TOPIC], self.names),
            Delivery(vectors_per_second=0, max_in_flight=MAX_IN_FLIGHT),
            BatchSettings(),
            10,
            Backoff(0.01, 0.05, random.Random(1)),
            time.monotonic,
            time.time,
            indexes=count,
        )
        self.lanes = [make_lane(name, [TOPIC], context, [TOPIC]) for name in self.names]

    def _wait(self, stage: Stage, _request: Request) -> None:
        if stage == "arrived":
            assert self.open.wait(END_S)

    def submit(self, lane: Lane, batches: int) -> None:
        """Queue batches of one record each, whose keys differ."""
        for _ in range(batches):
            offset = self.assignment.position
            self.ledger.track(self.assignment, [offset])
            key = str(offset)
            item = Item(self.assignment, FakeMessage(offset, b""), key, b'{"key":"%s"}' % key.encode(), 0)
            lane.submit(Batch({key: item}, 1, SealReason.AGE))

    def slots(self) -> int:
        """Return how many threads there are."""
        return sum(thread.name.startswith("slot-docs") for thread in threading.enumerate())

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + END_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    @contextmanager
    def running(self) -> Iterator["Lanes"]:
        """Start the lanes, and end them."""
        for lane in self.lanes:
            lane.start()
        try:
            yield self
        finally:
            self.open.set()
            for lane in self.lanes:
                lane.stop()
            for lane in self.lanes:
                lane.join(END_S)
            assert self.slots() == 0


def test_an_index_without_records_has_no_slots() -> None:
    with Lanes(64).running() as lanes:
        assert lanes.slots() == 0


def test_64_indexes_without_work_keep_no_more_than_64_slots() -> None:
    with Lanes(64).running() as lanes:
        lanes.open.set()
        for _ in range(3):
            for lane in lanes.lanes:
                lanes.submit(lane, MAX_IN_FLIGHT)
        lanes.wait_for(lambda: lanes.ledger.outstanding() == 0)
        lanes.wait_for(lambda: lanes.slots() <= KEPT_SLOTS)
        assert [lane.dead_threads() for lane in lanes.lanes] == [[]] * 64


def test_64_indexes_that_get_no_answer_start_few_slots_each() -> None:
    with Lanes(64).running() as lanes:
        for lane in lanes.lanes:
            lanes.submit(lane, 2 * MAX_IN_FLIGHT)
        lanes.wait_for(lambda: len(lanes.sink.requests) == 2 * 64)  # the limit in flight begins at two
        assert lanes.slots() <= 3 * 64


def test_an_index_that_is_blocked_starts_no_more_than_two() -> None:
    with Lanes(64).running() as lanes:
        lane = lanes.lanes[0]
        lane.state.block(Operation.PUT, BlockReason.TARGET, TargetError("gone", block=BlockReason.TARGET), 30.0)
        lanes.submit(lane, 2 * MAX_IN_FLIGHT)
        assert lanes.slots() == 2


def test_one_index_starts_a_slot_for_each_batch_and_keeps_them() -> None:
    with Lanes(1).running() as lanes:
        lanes.submit(lanes.lanes[0], 3)
        assert lanes.slots() == 3
        lanes.submit(lanes.lanes[0], 2 * MAX_IN_FLIGHT)
        assert lanes.slots() == MAX_IN_FLIGHT
        lanes.open.set()
        lanes.wait_for(lambda: lanes.ledger.outstanding() == 0)
        assert lanes.slots() == MAX_IN_FLIGHT


@pytest.mark.parametrize("count", [1, 64])
def test_batches_that_were_queued_before_the_start_are_delivered(count: int) -> None:
    lanes = Lanes(count)
    lanes.open.set()
    for lane in lanes.lanes:
        lanes.submit(lane, 5)
    with lanes.running():
        lanes.wait_for(lambda: lanes.ledger.outstanding() == 0)


def test_batches_that_wait_for_each_others_keys_are_all_delivered_by_few_slots() -> None:
    lanes = Lanes(64)
    lanes.open.set()
    lane = lanes.lanes[0]
    with lanes.running():
        for number in range(200):
            offset = lanes.assignment.position
            lanes.ledger.track(lanes.assignment, [offset])
            key = str(number % 3)
            item = Item(lanes.assignment, FakeMessage(offset, b""), key, b'{"key":"%s"}' % key.encode(), 0)
            lane.submit(Batch({key: item}, 1, SealReason.AGE))
        lanes.wait_for(lambda: lanes.ledger.outstanding() == 0)
    assert lanes.sink.overlaps == []
