"""How replicas that share an index's limit come to terms: a simulation with the real controllers on a clock of its own.

`python -m tests.bench.pacing` prints what 1, 3 and 10 replicas reach against a service that takes 2,500 vectors a second,
with and without a Retry-After; an outage in the middle; and replicas that leave. `--plot FILE` draws the rates (PNG, or
what the file's name ends in), `--json FILE` writes the figures.

Each replica is a `Pacer` and a `Backoff` as the worker wires them, with as many slots as it has by default and more
records than it can send. The service is a token bucket with a burst of one second; it answers after 100 ms, and 429
where the bucket is empty. `--emulator` also runs three replicas for two minutes against the emulator with such a limit,
lanes and connections and all.
"""

import argparse
import heapq
import json
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from tests.support.emulator import ACCOUNT, REGION, running_emulator
from worker.app.lanes import LaneContext, make_lane
from worker.consumer.record_batches import Message
from worker.delivery.batch import Batch as SealedBatch
from worker.delivery.batch import Item
from worker.delivery.pace.backoff import Backoff
from worker.delivery.pace.pacer import Pacer, Verdict
from worker.delivery.pace.rate import TokenBucket
from worker.ledger import Ledger, Outcome, Partition
from worker.oss.sink import OssSink
from worker.ports import DeadLetter, SealReason
from worker.settings.tables import Batch, Delivery, Oss
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

LIMIT: Final = 2500.0  # vectors a second, of the service
VECTORS: Final = 500  # in a request
SIZE: Final = VECTORS * 17_000  # bytes of its body
LATENCY: Final = 0.1
SECONDS: Final = 900.0
SEEDS: Final = 8
PARKED: Final = -1.0  # what a slot yields that waits for room


class Scenario(NamedTuple):
    """What happens in a run. Times are in seconds from its start."""

    name: str
    replicas: int
    retry_after: float | None = None
    away: tuple[float, float] | None = None  # when the service answers nothing but 503
    leave_at: float | None = None  # when all replicas but one are through with their records
    seconds: float = SECONDS


SCENARIOS: Final = (
    Scenario("one", 1),
    Scenario("three", 3),
    Scenario("ten", 10),
    Scenario("three, Retry-After 1 s", 3, retry_after=1.0),
    Scenario("ten, Retry-After 1 s", 10, retry_after=1.0),
    Scenario("ten, service away for a minute", 10, away=(400.0, 460.0)),
    Scenario("ten, of which nine leave", 10, leave_at=300.0, seconds=1200.0),
)


class Figures(NamedTuple):
    """What came of a run. `goodput` is the share of the limit that was taken while the service was there."""

    goodput: float
    refused: float  # share of all requests while the service was there
    fairness: float  # Jain's index of what each got in the second half: 1 all the same, 1/n one has all
    peak: float  # the most vectors a second that were sent in any second, as a share of the limit
    timeline: list[list[float]]  # for each replica the rate in force, every five seconds


class _Replica:
    def __init__(self, simulation: "_Simulation", number: int) -> None:
        delivery = Delivery()
        self.pacer = Pacer(
            requests_per_second=delivery.requests_per_second,
            vectors_per_second=delivery.vectors_per_second,
            max_in_flight=delivery.max_in_flight,
            clock=simulation.clock,
        )
        self.backoff = Backoff(
            delivery.retry_initial_seconds, delivery.retry_max_seconds, random.Random(simulation.seed * 100 + number)
        )
        self.slots = delivery.max_in_flight
        self.has_records = True
        self.taken = 0
        self.taken_late = 0
        self.parked: list[Iterator[float]] = []
        self._simulation = simulation

    def slot(self) -> Iterator[float]:
        """Send one batch after the other; yields the seconds to wait each time."""
        simulation = self._simulation
        attempt = 0
        who = object()
        while self.has_records:
            admission = self.pacer.admit(VECTORS, who)
            if admission.delay > 0.0:
                yield PARKED if admission.for_room else admission.delay
                continue
            simulation.unpark(self)
            yield LATENCY / 2
            verdict = simulation.arrive()
            yield LATENCY / 2
            self.pacer.answered(admission, verdict, SIZE)
            simulation.unpark(self)
            attempt = attempt + 1 if verdict is not Verdict.ACCEPTED else 0
            if verdict is Verdict.ACCEPTED:
                self.taken += VECTORS
                self.taken_late += VECTORS * (simulation.now > simulation.scenario.seconds / 2)
            elif verdict is Verdict.THROTTLED and simulation.scenario.retry_after is not None:
                self.pacer.close_for(simulation.scenario.retry_after + self.backoff.jitter())
            else:
                yield self.backoff.delay(attempt)


class _Simulation:
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self.now = 0.0
        self.requests = self.refused = 0
        self.sent: dict[int, int] = {}
        self._bucket = TokenBucket(LIMIT, 0.0)
        self._due: list[tuple[float, int, Iterator[float], _Replica]] = []
        self._order = 0
        self.replicas = [_Replica(self, number) for number in range(scenario.replicas)]
        for replica in self.replicas:
            for _ in range(replica.slots):
                self._at(random.Random(seed).random(), replica.slot(), replica)

    def clock(self) -> float:
        return self.now

    def arrive(self) -> Verdict:
        """Judge a request as it arrives."""
        self.sent[int(self.now)] = self.sent.get(int(self.now), 0) + VECTORS
        away = self.scenario.away
        if away is not None and away[0] <= self.now < away[1]:
            return Verdict.FAILED
        self.requests += 1
        if self._bucket.wait(VECTORS, self.now) > 0.0:
            self.refused += 1
            return Verdict.THROTTLED
        self._bucket.spend(VECTORS, self.now)
        return Verdict.ACCEPTED

    def run(self) -> Figures:
        timeline: list[list[float]] = [[] for _ in self.replicas]
        while self._due[0][0] < self.scenario.seconds:
            self.now, _, slot, replica = heapq.heappop(self._due)
            while len(timeline[0]) * 5.0 <= self.now:
                for each, rates in zip(self.replicas, timeline, strict=True):
                    rates.append(each.pacer.vectors_per_second * each.has_records)
            if self.scenario.leave_at is not None and self.now >= self.scenario.leave_at:
                for each in self.replicas[1:]:
                    each.has_records = False
            wait = next(slot, None)
            if wait == PARKED:
                replica.parked.append(slot)
            elif wait is not None:
                self._at(self.now + max(wait, 1e-6), slot, replica)
        return self._figures(timeline)

    def unpark(self, replica: _Replica) -> None:
        """Let the slots ask again that wait for their turn."""
        for slot in replica.parked:
            self._at(self.now + 1e-6, slot, replica)
        replica.parked = []

    def _at(self, time: float, slot: Iterator[float], replica: _Replica) -> None:
        self._order += 1
        heapq.heappush(self._due, (time, self._order, slot, replica))

    def _figures(self, timeline: list[list[float]]) -> Figures:
        away = self.scenario.away
        there = self.scenario.seconds - (away[1] - away[0] if away else 0.0)
        late = [replica.taken_late for replica in self.replicas if replica.has_records]
        return Figures(
            sum(replica.taken for replica in self.replicas) / (LIMIT * there),
            self.refused / self.requests,
            sum(late) ** 2 / (len(late) * sum(share**2 for share in late)),
            max(self.sent.values()) / LIMIT,
            timeline,
        )


def simulate(scenario: Scenario, seed: int) -> Figures:
    """Run a scenario; the same seed gives the same run."""
    return _Simulation(scenario, seed).run()


def on_emulator(replicas: int = 3, seconds: float = 120.0) -> Figures:
    """Run real lanes with real connections against an emulator that takes 2,500 vectors a second."""
    with running_emulator() as emulator:
        bucket, index = emulator.new_index(dimension=4)
        emulator.limits(bucket=bucket, vectors_per_second=LIMIT)
        emulator.fault(bucket=bucket, operation="PutVectors", latency_seconds=LATENCY)
        lanes = [_FedLane(emulator.endpoint, bucket, index, number) for number in range(replicas)]
        began = time.monotonic()
        timeline: list[list[float]] = [[] for _ in lanes]
        while (past := time.monotonic() - began) < seconds:
            for lane in lanes:
                lane.feed(late=past > seconds / 2)
            if past >= 5.0 * len(timeline[0]):
                for lane, rates in zip(lanes, timeline, strict=True):
                    rates.append(lane.lane.pacer.vectors_per_second)
            time.sleep(0.02)
        for lane in lanes:
            lane.lane.stop()
        late = [lane.taken - lane.taken_before_late for lane in lanes]
        taken = sum(lane.taken for lane in lanes)
        refused = sum(lane.count("requests_total", code="429") for lane in lanes)
        requests = refused + sum(lane.count("requests_total", code="200") for lane in lanes)
        return Figures(
            taken / (LIMIT * seconds),
            refused / requests,
            sum(late) ** 2 / (len(late) * sum(share**2 for share in late)),
            0.0,
            timeline,
        )


class _FedLane:
    """A lane that always has batches to send, as one replica has it."""

    def __init__(self, endpoint: str, bucket: str, index: str, number: int) -> None:
        delivery = Delivery()
        oss = Oss(region=REGION, bucket=bucket, account_id=ACCOUNT, endpoint=endpoint)
        credentials = {"OSS_ACCESS_KEY_ID": "test", "OSS_ACCESS_KEY_SECRET": "test"}
        self.ledger = Ledger(("bench",), time.monotonic)
        status = Status(0.0)
        self.metrics = Metrics(self.ledger, status, ("bench",), (index,))
        self._slots = delivery.max_in_flight
        self.lane = make_lane(
            index,
            ("bench",),
            LaneContext(
                OssSink(oss, credentials, max_connections=delivery.max_in_flight),
                self.ledger,
                _NoDeadLetters(),
                status,
                self.metrics,
                delivery,
                Batch(),
                10,
                Backoff(delivery.retry_initial_seconds, delivery.retry_max_seconds, random.Random(number)),
                time.monotonic,
                time.time,
            ),
        )
        self.taken_before_late = 0
        self._number = number
        self._offset = 0
        self._index = index
        self._assignment = self.ledger.assign(Partition("bench", number))
        self.ledger.open(self._assignment, 0, None)
        self.lane.start()

    @property
    def taken(self) -> int:
        """How many vectors the service took."""
        return self.ledger.books().settled["bench", Outcome.PUT]

    def count(self, name: str, **labels: str) -> float:
        """Return a counter's value."""
        every = {"index": self._index, "operation": "PutVectors", **labels}
        return self.metrics.registry.get_sample_value(f"oss_vectors_{name}", every) or 0.0

    def feed(self, *, late: bool) -> None:
        """Have two batches more than are in flight."""
        if not late:
            self.taken_before_late = self.taken
        while self.ledger.outstanding() < VECTORS * (self._slots + 2):
            offsets = range(self._offset, self._offset + VECTORS)
            self._offset += VECTORS
            self.ledger.track(self._assignment, offsets)
            items = {}
            for offset in offsets:
                key = f"{self._number}-{offset}"
                fragment = b'{"key":"%b","data":{"float32":[1.0,0.0,0.0,0.0]}}' % key.encode()
                items[key] = Item(self._assignment, Message(offset, -1, None, None, ()), key, fragment, 0)
            self.lane.submit(SealedBatch(items, 0, SealReason.COUNT))


class _NoDeadLetters:
    def submit(self, letter: DeadLetter) -> None:
        """No record of this is bad."""
        raise AssertionError(letter.text)


def main() -> None:
    """Print the figures of every scenario."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pacing", description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the rates over time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--emulator", action="store_true", help="also run real lanes against the emulator")
    given = parser.parse_args()
    runs = {scenario: [simulate(scenario, seed) for seed in range(SEEDS)] for scenario in SCENARIOS}
    table = Table("replicas", "goodput of the limit", "requests refused", "fairness", "peak second")
    for scenario, figures in runs.items():
        table.add_row(scenario.name, *(_spread([each[column] for each in figures]) for column in range(4)))
    if given.emulator:
        found = on_emulator()
        runs[Scenario("three real lanes on the emulator", 3, seconds=120.0)] = [found]
        table.add_row("three real lanes on the emulator", *(_spread([found[column]]) for column in range(3)), "")
    Console(highlight=False).print(table)
    if given.json:
        given.json.write_text(
            json.dumps({scenario.name: [each._asdict() for each in figures] for scenario, figures in runs.items()})
        )
    if given.plot:
        _plot({scenario: figures[0] for scenario, figures in runs.items()}, given.plot)


def _spread(values: list[Any]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} … {max(values):.3f})"


def _plot(runs: dict[Scenario, Figures], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(runs), 1, figsize=(10, 2.2 * len(runs)), constrained_layout=True)
    for axis, (scenario, figures) in zip(axes, runs.items(), strict=True):
        times = [5.0 * place for place in range(len(figures.timeline[0]))]
        axis.stackplot(times, figures.timeline, linewidth=0.3, edgecolor="white")
        axis.axhline(LIMIT, color="black", linewidth=0.8, linestyle="--")
        axis.set_title(f"{scenario.name}: rates in force, stacked; dashed the service's limit", fontsize=9, loc="left")
        axis.set_ylim(0, 1.5 * LIMIT)
        axis.set_xlim(0, scenario.seconds)
        axis.set_ylabel("vectors/s", fontsize=8)
    axes[-1].set_xlabel("seconds", fontsize=8)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
