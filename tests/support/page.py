"""A page over a real ledger, registry and status, with fifteen minutes of work in its ring that take no time."""

import math
from collections.abc import Iterator, Sequence
from itertools import product

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tests.unit.samples import FakeClock, FakeTracked, opened
from worker.errors import BlockReason, Reason
from worker.ledger import Assignment, Ledger, Outcome, Partition
from worker.ports import Pace
from worker.telemetry.kafka_facts import GroupMember
from worker.telemetry.metrics import Metrics
from worker.telemetry.page.facts import Share
from worker.telemetry.page.figures import STEP_SECONDS, STEPS
from worker.telemetry.page.page import Page
from worker.telemetry.state import Block, DeadLettered, State, Status

WALL = 1_790_000_000.0
"""Unix time, in seconds, when the clock shows 0."""


class Overlay(CollectorRegistry):
    """A registry with other values for some gauges, whoever makes them, and whether or not anyone does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._registry = registry
        self._gauges: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge; `name` is without `oss_vectors_`. Of its other series, only those that were set here are left."""
        self._gauges.setdefault(f"oss_vectors_{name}", {})[tuple(labels.items())] = value

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        yield from (family for family in self._registry.collect() if family.name not in self._gauges)
        for name, series in self._gauges.items():
            names = [label for label, _ in next(iter(series))]
            family = GaugeMetricFamily(name, "", labels=names)
            for labels, value in series.items():
                family.add_metric([text for _, text in labels], value)
            yield family


class PageStage:
    """All that a page reads, and the page. The clock moves only when the test moves it."""

    def __init__(self, topics: Sequence[str] = ("vectors",), indexes: Sequence[str] = ("docs",)) -> None:
        self.clock = FakeClock()
        self.ledger = Ledger(topics, self.clock)
        self.status = Status(self.clock(), self.clock)
        self.metrics = Metrics(self.ledger, self.status, topics, indexes)
        self.metrics.worker_info.labels("0.1.0", "docs-writers", "docs-writer-1", "").set(1)
        for topic, index in product(topics, indexes):
            self.metrics.route_info.labels(topic, index).set(1)
        self.paused: set[Partition] = set()
        self.settings = '[oss]\nbucket = "my-bucket"  # OSS_VECTORS_OSS__BUCKET'
        self.gauges = Overlay(self.metrics.registry)
        self.shares: list[Share] = []
        self.paces: dict[str, Pace] = {}
        self.members: list[GroupMember] = []
        self.page = Page(
            self.gauges,
            self.status,
            self.settings,
            lambda: self.paused,
            self.clock,
            self.wall,
            lambda: self.shares,
            lambda: self.members,
        )

    def wall(self) -> float:
        """Unix time in seconds, which goes with the clock."""
        return WALL + self.clock()

    def set_pace(self, index: str, pace: Pace) -> None:
        """Let an index have this pace from now on."""
        self.paces[index] = pace
        self.status.service.watch_pace(index, lambda: self.paces[index])

    def html(self) -> str:
        """The page as it is after the last one's second is over."""
        self.clock.pass_by(1.0)
        self.status.turned(self.clock())
        return self.page.html().decode()

    def step(self) -> None:
        """Let the ring's next sample be taken."""
        self.clock.pass_by(STEP_SECONDS)
        self.status.turned(self.clock())
        self.page.tick()

    def settle(self, assignment: Assignment, count: int, outcome: Outcome, latency: float) -> None:
        """Track and settle so many records, each `latency` seconds after its timestamp."""
        first = assignment.position
        self.ledger.track(assignment, range(first, first + count))
        self.ledger.settle([FakeTracked(assignment, offset) for offset in range(first, first + count)], outcome)
        timestamp = round((self.wall() - latency) * 1000)
        self.metrics.settled(assignment.partition.topic, [timestamp] * count, self.wall())


def busy_stage(partitions: int = 12) -> PageStage:
    """A worker in trouble with a part of its work: throttled, one partition stuck, another topic blocked, dead letters."""
    stage = PageStage(("vectors", "images"), ("docs", "pictures"))
    assignments = [
        opened(stage.ledger, ("vectors", "images")[place % 4 == 3], place, 10_000 * place)
        for place in range(partitions)
    ]
    stage.page.tick()
    for step in range(STEPS):
        _work_a_step(stage, assignments[step % 3], step)
    stage.metrics.ends.update({a.partition: a.position + 37 * place for place, a in enumerate(assignments)})
    _leave_some_unsettled(stage, assignments)
    _block_some(stage, assignments)
    _count_requests(stage)
    stage.clock.pass_by(2.0)
    stage.status.turned(stage.clock())
    return stage


def _work_a_step(stage: PageStage, assignment: Assignment, step: int) -> None:
    """An outage of a minute in the middle; before and after it a wave."""
    stage.step()
    if 90 <= step < 102:
        return
    wave = 1 + 0.4 * math.sin(step / 9) + (1.2 if 102 <= step < 110 else 0)
    latency = 0.15 * wave + (30.0 / (step - 100) if 102 <= step < 125 else 0)
    stage.settle(assignment, round(180 * wave), Outcome.PUT, latency)
    stage.settle(assignment, 6, Outcome.PUT, latency * 8)
    stage.settle(assignment, round(40 * wave), Outcome.SUPERSEDED, latency)
    stage.settle(assignment, 12, Outcome.DELETED, latency)
    if step % 20 == 0:
        stage.settle(assignment, 9, Outcome.DEAD_LETTERED, latency)


def _leave_some_unsettled(stage: PageStage, assignments: Sequence[Assignment]) -> None:
    for place, assignment in enumerate(assignments):
        stage.ledger.committed({assignment: assignment.watermark})
        if place % 2:
            offsets = range(assignment.position, assignment.position + 20 * place)
            stage.ledger.track(assignment, offsets)
            stage.ledger.count_bytes(600_000 * place)
            stage.clock.pass_by(0.4)


def _block_some(stage: PageStage, assignments: Sequence[Assignment]) -> None:
    stage.status.enter(State.RUNNING, "running")
    stage.status.block(
        Block("images", BlockReason.TARGET), "index pictures: 404 NoSuchVectorIndex: the index does not exist"
    )
    stage.status.block(
        Block("vectors", BlockReason.RECORD_STUCK, 1),
        "vectors/1 offset 10421",
        quote="500 InternalError: secret-content",
    )
    stage.paused |= {a.partition for a in assignments if a.partition.topic == "images"}
    for place, reason in enumerate((Reason.DIMENSION, Reason.REFUSED, Reason.DIMENSION, Reason.METADATA)):
        stage.metrics.dead_letters.labels("vectors", reason.value).inc(41 - 10 * place)
        letter = DeadLettered("vectors", place, 10_400 + place, reason, stage.wall() - 60 * (4 - place))
        stage.status.dead_lettered(letter)


def _count_requests(stage: PageStage) -> None:
    metrics = stage.metrics
    for index, operation, code, count in (
        ("docs", "PutVectors", "200", 41_877),
        ("docs", "PutVectors", "429", 312),
        ("docs", "PutVectors", "503", 24),
        ("docs", "PutVectors", "error", 3),
        ("docs", "DeleteVectors", "204", 2_020),
        ("pictures", "GetVectorIndex", "404", 29),
    ):
        metrics.requests.labels(index, operation, code).inc(count)
    metrics.retries.labels("throttled").inc(312)
    metrics.retries.labels("server").inc(24)
    metrics.unknown_outcomes.labels("docs").inc(3)
    metrics.in_flight.labels("docs").set(5)
    for index in ("docs", "pictures"):
        metrics.in_flight_limit.labels(index).set(8)
    metrics.buffer_limit.set(256 * 2**20)
    for metric in (metrics.last_put, metrics.last_poll, metrics.last_commit):
        metric.set(stage.wall() + 1)
