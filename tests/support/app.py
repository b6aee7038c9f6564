"""The main loop on fakes, in the test's own thread: the test makes its turns, delivers its batches and moves its clock."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest

from tests.support.fakes import FakeClock, FakeCluster, FakeSink, FakeSource
from worker.app.components import Components
from worker.app.lanes import LaneContext, make_lane
from worker.app.loop import Worker
from worker.app.stop import Stop
from worker.consumer.handover import RevokeHooks
from worker.deadletters.limit import Limit
from worker.delivery.pace.backoff import Backoff
from worker.lease import Lease
from worker.ledger import Assignment, Ledger, Partition
from worker.ports import DeadLetter
from worker.records.target import Target
from worker.settings import tables
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import State, Status

TOPIC, INDEX = "vectors", "docs"
MOST_IDLE_POLLS: Final = 2_000  # of one test; no worker polls in vain for so long
TARGET = Target(INDEX, 3, "cosine")


def good(key: str) -> bytes:
    """Return a record that the index takes."""
    return b'{"key":"%s","data":{"float32":[1,2,3]}}' % key.encode()


class FakeHelper:
    """A helper whose threads are as the test says. It notes what is asked of it."""

    def __init__(self) -> None:
        self.dead: list[str] = []
        self.calls: list[str] = []

    def dead_threads(self) -> list[str]:
        """Return what the test says."""
        return self.dead

    def start(self) -> None:
        """Note the call."""
        self.calls.append("start")

    def stop(self, timeout: float = 0.0) -> None:
        """Note the call; `timeout` is not waited for."""
        assert timeout >= 0
        self.calls.append("stop")

    def join(self, timeout: float) -> None:
        """Note the call; `timeout` is not waited for."""
        assert timeout >= 0
        self.calls.append("join")


class FakeFinder(FakeHelper):
    """Finds the index when the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Target]] = []
        self.answers: dict[str, str] = {}

    def pop_found(self) -> list[tuple[str, Target]]:
        """Return what was found since the last call."""
        found, self.found = self.found, []
        return found

    def last_answers(self) -> dict[str, str]:
        """Return what the test says."""
        return self.answers


class FakeDeadLetters(FakeHelper):
    """Keeps the dead letters."""

    def __init__(self) -> None:
        super().__init__()
        self.is_ready = self.is_idle = True
        self.kept: list[DeadLetter] = []

    def submit(self, letter: DeadLetter) -> None:
        """Keep it."""
        self.kept.append(letter)


class FakeEndWatcher(FakeHelper):
    """Asks no broker."""

    def look_now(self) -> None:
        """Note the call."""
        self.calls.append("look_now")


class App:
    """A worker with one index and one topic of `partitions` (none: the topic is not there), which is not started."""

    def __init__(self, partitions: int = 1, **tables_changed: Any) -> None:
        self.clock = FakeClock()
        self.settings = settings(**tables_changed)
        self.cluster = FakeCluster(**{TOPIC: partitions} if partitions else {})
        self.ledger = Ledger((TOPIC,), self.clock)
        indexes = {route.topic: len(route.index_names) for route in self.settings.routes}
        self.status = Status(self.clock(), self.clock, indexes=indexes)
        self.metrics = Metrics(self.ledger, self.status, (TOPIC,), self.settings.indexes)
        self.sink = FakeSink(TARGET)
        self.dead_letters, self.end_watcher, self.finder = FakeDeadLetters(), FakeEndWatcher(), FakeFinder()
        self.http = FakeHelper()
        self.on_idle: Callable[[], None] = lambda: None
        self._idle_polls = 0
        self.lease = Lease(45.0, 300.0, self.clock)
        self.source = FakeSource(
            self.cluster,
            (TOPIC,),
            ledger=self.ledger,
            status=self.status,
            metrics=self.metrics,
            hooks=RevokeHooks(lambda: None, lambda: None, lambda: False),
            clock=self.clock,
            idle=self._idle,
            lease=self.lease,
        )
        self.lane = make_lane(INDEX, (TOPIC,), self._lane_context())
        setattr(self.lane, "start", lambda: None)  # noqa: B010 - no slots: the test delivers the batches
        self.stop = Stop(self.clock, self.clock.advance)
        self.components = self._components()
        self.worker = Worker(self.components, self.stop)

    def _lane_context(self) -> LaneContext:
        return LaneContext(
            sink=self.sink,
            ledger=self.ledger,
            dead_letters=self.dead_letters,
            status=self.status,
            metrics=self.metrics,
            delivery=self.settings.delivery,
            batch=self.settings.batch,
            isolated_attempts=10,
            backoff=Backoff(0.5, 30.0, random.Random(0)),
            clock=self.clock,
            wall=self.clock,
        )

    def _components(self) -> Components:
        # The fakes have what the main loop uses of these classes, and not their threads.
        dead_letters: Any = self.dead_letters
        finder: Any = self.finder
        end_watcher: Any = self.end_watcher
        return Components(
            settings=self.settings,
            source=self.source,
            lanes={INDEX: self.lane},
            targets=finder,
            dead_letters=dead_letters,
            limit=Limit(self.settings.dead_letter, self.clock),
            end_watcher=end_watcher,
            ledger=self.ledger,
            status=self.status,
            metrics=self.metrics,
            clock=self.clock,
            wall=self.clock,
            already_running=(self.http,),
        )

    def _idle(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self._idle_polls += 1
        if self._idle_polls > MOST_IDLE_POLLS:
            pytest.fail("the worker does not end")
        self.on_idle()

    # -- what a test does

    def turn(self, times: int = 1) -> None:
        """Let the main loop turn."""
        for _ in range(times):
            self.worker._turn()

    def run(self) -> None:
        """Run the worker to its end; `stop` is set before, or by `on_idle`."""
        self.worker.run()

    def find_index(self) -> None:
        """Let the service answer."""
        self.finder.found.append((INDEX, TARGET))

    def started(self) -> "App":
        """Bring it to where its partitions are open and fetched."""
        self.find_index()
        self.turn(2)
        assert self.state() == (State.RUNNING, "running")
        return self

    def deliver(self) -> None:
        """Deliver what is queued, to the end of each batch."""
        while (batch := self.lane.pop()) is not None:
            self.lane._courier.deliver(batch)
            self.lane.done(batch)

    def publish(self, count: int = 1, partition: int = 0, keys: Sequence[str] | None = None) -> None:
        """Publish good records; each has a key of its own, unless `keys` are given."""
        place = Partition(TOPIC, partition)
        first = self.cluster.end(place)
        names = keys or [f"{partition}-{first + number}" for number in range(count)]
        self.cluster.produce(place, [good(name) for name in names])

    # -- what a test looks at

    def state(self) -> tuple[State, str]:
        """Return the state and its reason."""
        reading = self.status.read()
        return reading.state, reading.reason

    def assignment(self, partition: int = 0) -> Assignment:
        """Return who owns the partition."""
        found = self.ledger.assignment(Partition(TOPIC, partition))
        assert found is not None
        return found

    def fetched(self) -> set[int]:
        """Return the numbers of the partitions that are fetched."""
        return {partition.partition for partition in self.source._fetched}

    def committed(self) -> dict[int, int]:
        """Return what the broker has, by partition."""
        return {partition.partition: offset for partition, offset in self.cluster.committed.items()}

    def commits(self) -> float:
        """Return how many commits the broker acknowledged."""
        return self.metrics.registry.get_sample_value("oss_vectors_commits_total", {"result": "ok"}) or 0.0


def settings(**changed: Any) -> tables.Settings:
    """Return the defaults, with whole tables changed."""
    chosen: dict[str, Any] = {
        "routes": (tables.Route(topic=TOPIC, index=INDEX),),
        "kafka": tables.Kafka(),
        "oss": tables.Oss(region="cn-hangzhou", bucket="bucket", account_id="1"),
        "records": tables.Records(),
        "registry": tables.Registry(),
        "batch": tables.Batch(),
        "delivery": tables.Delivery(vectors_per_second=0.0),
        "buffer": tables.Buffer(),
        "dead_letter": tables.DeadLetter(),
        "http": tables.Http(),
        "log": tables.Log(),
        "shutdown": tables.Shutdown(),
    }
    return tables.Settings(**chosen | changed)
