"""What shards bring: one worker over one index and over four, each with the service's limit of vectors a second.

`python -m tests.bench.shards` prints vectors a second after the burst of the first seconds, and the ratio of one run. Kafka,
the emulator and the worker share the machine, so their CPU may be the limit where the service is not. `--cost` prints what
routing costs to decode beside a topic of one index instead.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.bench import data, kafka
from tests.support.app import TOPIC, settings
from tests.support.emulator import Emulator, running_emulator
from tests.support.worker import WorkerProcess, worker_settings
from worker.app.routers import router_of
from worker.local.broker import Broker
from worker.records.target import Target
from worker.settings.tables import Route

LIMIT: Final = 2500.0
DIMENSION: Final = 16
BURST_SECONDS: Final = 3.0
SECONDS: Final = 10.0
SHARDS: Final = (1, 4)


def rate(broker: Broker, emulator: Emulator, topic: str, shards: int) -> float:
    """Return how many vectors a second a worker writes over so many shards, after the first burst."""
    bucket = emulator.new_bucket()
    names = [f"docs{number}" for number in range(shards)]
    for name in names:
        emulator.new_index(DIMENSION, bucket=bucket, index=name)
        emulator.limits(bucket=bucket, index=name, vectors_per_second=LIMIT)
    environment = worker_settings(
        broker,
        emulator,
        bucket=bucket,
        routes={},
        group=f"shards-{shards}-{time.monotonic()}",
        dead_letter_topic="",
        delivery__vectors_per_second=LIMIT,
        batch__max_age_seconds=1.0,
    )
    environment["OSS_VECTORS_ROUTES"] = json.dumps([{"topic": topic, "index": names, "index_by": "key"}])
    with TemporaryDirectory() as folder:
        worker = WorkerProcess(environment, Path(folder) / "log")
        try:
            worker.wait_until(lambda m: m.settled > 0, "it writes")
            time.sleep(BURST_SECONDS)
            began, before = time.monotonic(), worker.metrics().settled
            time.sleep(SECONDS)
            return (worker.metrics().settled - before) / (time.monotonic() - began)
        finally:
            worker.kill()


def throughput() -> None:
    """Print the rates over one index and over four."""
    records = data.values(int(LIMIT * max(SHARDS) * (BURST_SECONDS + SECONDS + 4)), DIMENSION, "base64")
    with Broker.start() as broker, running_emulator() as emulator:
        topic = kafka.fill(broker, records, partitions=2)
        rates = {shards: rate(broker, emulator, topic, shards) for shards in SHARDS}
    for shards, found in rates.items():
        print(f"{shards} index(es): {found:.0f} vectors a second")  # noqa: T201 - what it is for
    print(f"ratio {rates[SHARDS[-1]] / rates[SHARDS[0]]:.2f}")  # noqa: T201 - likewise


def cost() -> None:
    """Print what each way to choose the index costs to decode, as a ratio to a topic of one index."""
    tenants = {"acme": "docs1", "globex": "docs2"}
    routes = {
        "one index": Route(topic=TOPIC, index="docs"),
        "4 shards": Route(topic=TOPIC, index=("docs1", "docs2", "docs3", "docs4"), index_by="key"),
        "header": Route(topic=TOPIC, index=(), index_by="header:tenant", indexes=tenants),
        "field": Route(topic=TOPIC, index=(), index_by="field:tenant", indexes=tenants),
    }
    for size in (128, 1536):
        values = [b'{"tenant":"acme",' + value[1:] for _, value in data.values(400, size, "base64")]
        decoders = {name: _decoder(route, size) for name, route in routes.items()}
        found: dict[str, list[float]] = {name: [] for name in routes}
        for _ in range(15):  # interleaved, so that what else the machine does meets all of them
            for name, decode in decoders.items():
                found[name].append(_seconds(decode, values))
        floor = min(found["one index"])
        for name, seconds in found.items():
            each = 1e6 * min(seconds) / len(values)
            print(f"{size:>5} numbers, {name}: {each:.1f} µs a record, {min(seconds) / floor:.2f}")  # noqa: T201 - likewise


def _decoder(route: Route, size: int) -> Callable[[bytes], object]:
    router = router_of(route, settings(routes=(route,)))
    for name in route.index_names:
        router.add(Target(name, size, "euclidean"))
    headers = (("tenant", b"acme"),)
    return lambda value: router.route(b"key", value, headers)


def _seconds(decode: Callable[[bytes], object], values: Sequence[bytes]) -> float:
    began = time.process_time()
    for value in values:
        decode(value)
    return time.process_time() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cost", action="store_true")
    (cost if parser.parse_args().cost else throughput)()
