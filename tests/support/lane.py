"""A lane with the fake service and slots as they are, and what a rebalance or the lease does to it."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.support.fakes import FakeMessage, FakeSink, Request, Stage
from worker.app.lanes import LaneContext, make_lane
from worker.delivery.batch import Batch, Item
from worker.delivery.pace.backoff import Backoff
from worker.ledger import Ledger, Partition
from worker.ports import DeadLetter, SealReason
from worker.records.target import Target
from worker.settings.tables import Batch as BatchSettings
from worker.settings.tables import Delivery
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, Status

TOPIC, INDEX = "vectors", "docs"
GOES, STAYS = Partition(TOPIC, 0), Partition(TOPIC, 1)


class NoDeadLetters:
    """None is expected."""

    def submit(self, letter: DeadLetter) -> None:
        raise AssertionError(letter)


class Bench:
    """A lane with two partitions, and a batch of one record of the first."""

    def __init__(self, retry_seconds: float = 0.01) -> None:
        self.during: Callable[[], None] = lambda: None
        self.lease_holds = True
        self.ledger = Ledger([TOPIC], time.monotonic, lambda: self.lease_holds)
        self.sink = FakeSink(
            Target(INDEX, 4, "cosine", frozenset()), waypoint=self._waypoint, may_send=self.ledger.may_send
        )
        self.status = Status(time.monotonic())
        self.metrics = Metrics(self.ledger, self.status, [TOPIC], [INDEX])
        context = LaneContext(
            self.sink,
            self.ledger,
            NoDeadLetters(),
            self.status,
            self.metrics,
            Delivery(retry_initial_seconds=0.01, retry_max_seconds=0.05, vectors_per_second=0, max_in_flight=2),
            BatchSettings(),
            2,
            Backoff(retry_seconds, 5 * retry_seconds, random.Random(1)),
            time.monotonic,
            time.time,
        )
        self.lane = make_lane(INDEX, [TOPIC], context)
        for partition in (GOES, STAYS):
            self.ledger.open(self.ledger.assign(partition), 0, None)

    def _waypoint(self, _stage: Stage, _request: Request) -> None:
        during, self.during = self.during, lambda: None
        during()

    def submit(self, partition: Partition, keys: Sequence[str]) -> None:
        items = self._tracked(partition, keys)
        self.lane.submit(Batch({item.key: item for item in items}, 1, SealReason.AGE))

    def submit_over(self, newer: Partition, older: Partition, key: str) -> None:
        """A batch in which a record of one partition took the place of another partition's."""
        (item,), (below,) = self._tracked(newer, [key]), self._tracked(older, [key])
        item.supersede(below)
        self.lane.submit(Batch({key: item}, 1, SealReason.AGE))

    def _tracked(self, partition: Partition, keys: Sequence[str]) -> list[Item]:
        assignment = self.ledger.assignment(partition)
        assert assignment is not None
        messages = [FakeMessage(assignment.position + place, b"", key.encode()) for place, key in enumerate(keys)]
        self.ledger.track(assignment, [message.offset for message in messages])
        self.ledger.count_bytes(len(messages))
        return [
            Item(assignment, one, key, b'{"key":"%s"}' % key.encode(), 1)
            for key, one in zip(keys, messages, strict=True)
        ]

    def give_back(self) -> None:
        """What a rebalance does with the first partition."""
        self.ledger.end(self.ledger.begin_revoke([GOES]))
        self.status.forget(*GOES)
        self.lane.wake()

    def lease_waits(self) -> float:
        value = self.metrics.registry.get_sample_value("oss_vectors_lease_waits_total")
        assert value is not None
        return value

    def blocks(self) -> set[Block]:
        return set(self.status.read().blocks)


@contextmanager
def running(one: Bench) -> Iterator[Bench]:
    one.lane.start()
    yield one
    one.lane.stop()
    one.lane.join(5)
