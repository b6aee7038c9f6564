"""`python -m tests.bench`: see the package."""

import argparse
import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from tests.bench import chains, data, kafka, shapes
from tests.bench.chains import Cost
from tests.bench.naive import REQUEST_RECORDS
from tests.bench.sink import sink
from worker.local.broker import Broker

SIZES: Final = (128, 384, 1536, 3072)
SMOKE_SIZES: Final = (128, 1536)


class Target(NamedTuple):
    """A ratio's goal: at least, or at most."""

    goal: float
    at_least: bool = True
    of_bytes: bool = False  # counted in bytes, so the same on every machine: a smoke run fails where it is missed

    def is_met(self, ratio: float) -> bool:
        """Tell whether it is met."""
        return ratio >= self.goal if self.at_least else ratio <= self.goal


class Row(NamedTuple):
    """One ratio: of its rounds the median, the least and the most."""

    name: str
    size: int
    median: float
    least: float
    most: float
    target: Target | None

    def cells(self) -> list[str]:
        """Return it as text."""
        met = "" if self.target is None else ("met" if self.target.is_met(self.median) else "[red]missed[/]")
        sign = "" if self.target is None else f"{'≥' if self.target.at_least else '≤'} {self.target.goal:g}"
        return [self.name, str(self.size), f"{self.median:.2f}", f"{self.least:.2f} … {self.most:.2f}", sign, met]


def _row(name: str, size: int, ratios: Sequence[float], target: Target | None = None) -> Row:
    return Row(name, size, statistics.median(ratios), min(ratios), max(ratios), target)


class Bench:
    """The rounds of one run."""

    def __init__(self, *, rounds: int, records: int, console: Console) -> None:
        self.rows: list[Row] = []
        self.figures: dict[str, Any] = {}
        self._rounds = rounds
        self._records = records
        self._console = console

    def _note(self, *rows: Row) -> None:
        self.rows += rows
        for row in rows:
            self._console.print("  ".join(row.cells()))

    def in_process(self, size: int) -> None:
        """The naive chain, the floor and this worker's parts, interleaved."""
        count = max(200, self._records * 1536 // size)
        records = {name: data.values(count, size, name) for name in data.ENCODINGS}
        batches = {name: data.batches(found) for name, found in records.items()}
        values = [value for _, value in records["json17"]]
        costs: dict[str, list[Cost]] = {}

        def measure(name: str, run: Callable[[], Cost]) -> None:
            costs.setdefault(name, []).append(run())

        with sink(size) as port:
            chains.worker(batches["json17"], size, port)  # the first of its kind loads what the others find loaded
            for _ in range(self._rounds):
                measure("naive", lambda: chains.naive(batches["json17"], size, port))
                measure("floor", lambda: chains.floor(values, size))
                measure("core", lambda: chains.core(values, size))
                for name, found in batches.items():
                    measure(name, lambda found=found: chains.worker(found, size, port))  # type: ignore[misc]  # a bound default
        self.figures[f"in process, {size}"] = {
            name: {
                "cpu microseconds a record": [round(cost.cpu / count * 1e6, 1) for cost in found],
                "bytes": found[0].sent,
            }
            for name, found in costs.items()
        }
        self._note_in_process(size, costs)

    def _note_in_process(self, size: int, costs: dict[str, list[Cost]]) -> None:
        def ratio(over: str, under: str) -> list[float]:
            return [a.cpu / b.cpu for a, b in zip(costs[over], costs[under], strict=True)]

        naive_goal = {128: Target(6), 1536: Target(8)}.get(size)
        # For short vectors what the Kafka client does for each record is as much as the floor itself.
        whole = Target(1.4, at_least=False)
        half = Target(2) if size == 1536 else None
        self._note(
            _row("naive chain / worker, CPU", size, ratio("naive", "json17"), naive_goal),
            _row("decode, encode, MD5 / floor, CPU", size, ratio("core", "floor"), Target(1.25, at_least=False)),
            _row("whole worker / floor, CPU", size, ratio("json17", "floor"), whole),
            _row("JSON list / base64, CPU", size, ratio("json17", "base64"), half),
            _row("JSON list / MessagePack raw, CPU", size, ratio("json17", "msgpack-raw"), half),
            _row("17 digits / short numbers, CPU", size, ratio("json17", "json-short")),
            _row(
                "body / json.dumps, bytes",
                size,
                [costs["json17"][0].sent / costs["naive"][0].sent],
                Target(0.58, at_least=False, of_bytes=True),
            ),
        )

    def other_shapes(self, size: int) -> None:
        """A mapped record beside one of the service's own shape, decoded alone."""
        names = (shapes.OWN, "flat, list of numbers")
        found = shapes.costs(size, max(100, self._records // 8), self._rounds * 3, names)
        own, flat = (found[name] for name in names)
        self._note(_row("mapped / own shape, JSON list, CPU", size, [a / b for a, b in zip(flat, own, strict=True)]))

    def on_kafka(self, broker: Broker, size: int) -> None:
        """The worker and the naive script as processes, interleaved."""
        count = max(2000, min(100_000, self._records * 10 * 1536 // size))
        topic = kafka.fill(broker, data.values(count, size, "json17"), partitions=2)
        ours, theirs = [], []
        with sink(size) as port:
            for _ in range(self._rounds):
                theirs.append(kafka.naive_process(broker, topic, count, size, port))
                ours.append(kafka.worker_process(broker, topic, size, port))
        self.figures[f"on Kafka, {size}"] = {
            "records": count,
            "worker": {
                "records per CPU second": [round(count / cost.cpu) for cost in ours],
                "records per second": [round(count / cost.wall) for cost in ours],
                "peak MB": [round(cost.peak_rss / 1e6) for cost in ours],
                "bytes sent": ours[0].sent,
            },
            "naive": {
                "records per CPU second": [round(count / cost.cpu) for cost in theirs],
                "peak MB": [round(cost.peak_rss / 1e6) for cost in theirs],
                "bytes sent": theirs[0].sent,
            },
        }
        goal = {128: Target(7), 1536: Target(12)}.get(size)
        self._note(
            _row(
                "end to end: naive script / worker, CPU",
                size,
                [n.cpu / w.cpu for n, w in zip(theirs, ours, strict=True)],
                goal,
            ),
        )

    def on_duty(self, broker: Broker, size: int) -> None:
        """A worker with its default settings: memory and answers under a flood, latency at a tenth of the load, idle."""
        records = data.values(max(4000, self._records * 8), size, "json17")
        with sink(size, 1.0) as slow, sink(size, 0.1) as quick:
            duty = kafka.on_duty(broker, records, size, (slow, quick))
        self.figures[f"on duty, {size}"] = duty._asdict()
        at_most = functools.partial(Target, at_least=False)
        self._note(
            _row("flood, slow service: peak memory, MB", size, [duty.flood_peak_rss / 1e6], at_most(400)),
            _row("flood: slowest /metrics, ms", size, [duty.flood_slowest_scrape * 1000], at_most(100)),
            _row("flood: heartbeat late by, ms", size, [duty.flood_latest_heartbeat * 1000], at_most(100)),
            _row("tenth of the load: share within 1.2 s", size, [duty.share_in_time], Target(0.99)),
            _row("idle: share of a core", size, [duty.idle_cpu], at_most(0.01)),
        )

    def beside_the_cpu(self, size: int) -> None:
        """What two processes do beside one, and what memory a batch takes."""
        count = max(1000, self._records * 2)
        batch = [value for _, value in data.values(REQUEST_RECORDS, size, "json17")]
        with sink(size) as port:
            scaled = [
                chains.records_per_second(2, count, size, port) / chains.records_per_second(1, count, size, port)
                for _ in range(self._rounds)
            ]
            bodies = [chains.memory_of_a_batch(batch, size, port)]
        self._note(
            _row("two processes / one, in process, records a second", size, scaled, Target(1.6)),
            _row(
                "memory of a batch, besides its messages / its body",
                size,
                bodies,
                Target(2.5, at_least=False, of_bytes=True),
            ),
        )

    def limit_with_latency(self, size: int) -> None:
        """One worker against a service that answers after 100 ms: vectors a second, of the service's 2,500."""
        count = max(2500, self._records * 4)
        batches = data.batches(data.values(count, size, "json17"))
        with sink(size, 0.1) as port:
            costs = [chains.worker(batches, size, port) for _ in range(self._rounds)]
            held = [chains.longest_wait(lambda: chains.worker(batches, size, port)) for _ in range(self._rounds)]
        shares = [count / cost.wall / 2500 for cost in costs]
        self._note(
            _row("of 2,500 vectors/s, service of 100 ms", size, shares, Target(0.9)),
            _row(
                "longest wait of another thread, ms",
                size,
                [each * 1000 for each in held],
                Target(50, at_least=False),
            ),
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="small; exit 1 only on errors and on a missed target that is counted in bytes",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="draw the worker's flame graph (SVG) with py-spy")
    parser.add_argument("--sizes", help="dimensions, comma separated")
    parser.add_argument("--rounds", type=int, help="interleaved rounds")
    parser.add_argument("--no-kafka", action="store_true", help="leave the processes on Kafka out")
    given = parser.parse_args()
    if given.profile:
        _profile(given.profile)
        return
    sizes = [int(size) for size in given.sizes.split(",")] if given.sizes else SMOKE_SIZES if given.smoke else SIZES
    rounds = given.rounds or (2 if given.smoke else 5)
    console = Console(highlight=False)
    bench = Bench(rounds=rounds, records=200 if given.smoke else 2000, console=console)
    for size in sizes:
        bench.in_process(size)
    for size in shapes.SIZES:
        bench.other_shapes(size)
    bench.limit_with_latency(1536)
    bench.beside_the_cpu(1536)
    if not given.no_kafka:
        with Broker.start() as broker:
            for size in sizes:
                bench.on_kafka(broker, size)
            if not given.smoke:
                bench.on_duty(broker, 1536)
    _show(bench, console)
    if given.json:
        rows = [row._asdict() | {"target": row.target and row.target.goal} for row in bench.rows]
        given.json.write_text(json.dumps({"ratios": rows, "figures": bench.figures}, indent=2))
    # What is measured in time says nothing on a machine that does other work: it is shown, and judged by a reader.
    missed = [
        f"{row.name} at {row.size}"
        for row in bench.rows
        if row.target and row.target.of_bytes and not row.target.is_met(row.median)
    ]
    if given.smoke and missed:
        console.print(f"[red]missed:[/] {', '.join(missed)}")
        sys.exit(1)


def _show(bench: Bench, console: Console) -> None:
    table = Table("ratio", "size", "median", "least … most", "target", "")
    for row in bench.rows:
        table.add_row(*row.cells())
    console.print(table)
    console.print_json(json.dumps(bench.figures))


_PROFILED: Final = """
from worker import runtime
with runtime.prepared():
    from tests.bench.__main__ import profiled
profiled()
"""


def _profile(path: Path) -> None:
    """Draw where this worker's chain spends its time, in all of its threads and in native code: a flame graph."""
    command = [sys.executable, "-c", _PROFILED]
    py_spy = ["py-spy", "record", "--native", "--rate", "100", "--output", str(path)]
    subprocess.run([*py_spy, "--", *command], check=True, timeout=600)


def profiled() -> None:
    """Run this worker's chain for some seconds, as far as it goes without Kafka."""
    batches = data.batches(data.values(4000, 1536, "json17"))
    with sink(1536) as port:
        for _ in range(10):
            chains.worker(batches, 1536, port)


if __name__ == "__main__":
    main()
