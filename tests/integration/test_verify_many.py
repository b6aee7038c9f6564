"""`verify` over a topic of many records with planted differences of each kind: all are found, and none is invented.

The count of records is 4,000, or what OSS_VECTORS_TEST_VERIFY_RECORDS says; 200000 takes some minutes. The peak of memory
and the seconds are printed (`pytest -s`).
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition

from tests.support.worker import Stage, StageFactory
from worker.oss.sink import OssSink
from worker.settings.load import load

RECORDS = int(os.environ.get("OSS_VECTORS_TEST_VERIFY_RECORDS", "4000"))
KEYS = max(100, RECORDS // 2)
PLANTED = max(10, RECORDS // 1000)  # of each kind
MOST_BYTES = 160_000_000 + 700 * KEYS
"""Of the command: what its clients need, and what grows with the keys."""

MEASURED = """
import atexit, re, sys
from pathlib import Path
from worker.cli import main
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr))
main(sys.argv[1:])
"""
"""The command, with its peak of memory in KiB as the last word on stderr."""

Versions = dict[str, list[float | None]]


def vector(number: float) -> list[float]:
    """Return a vector that names its version."""
    return [number, 0.1, -0.0, 1e-20]


def published(stage: Stage) -> Versions:
    """Publish versions and tombstones of keys that are drawn at random; return the versions of each key in order."""
    chance = random.Random(7)
    versions: Versions = {}
    with closing(KafkaProducer(bootstrap_servers=stage.broker.bootstrap, acks="all", linger_ms=20)) as producer:
        for number in range(RECORDS):
            key = f"key-{chance.randrange(KEYS)}"
            version = None if chance.random() < 0.1 else float(number + 1)
            versions.setdefault(key, []).append(version)
            record = {"key": key, "data": {"float32": vector(version or 0)}, "metadata": {"n": str(number)}}
            producer.send(stage.topic, key=key.encode(), value=json.dumps(record).encode() if version else None)
        producer.flush(120)
    return versions


def commit_to_the_end(stage: Stage) -> None:
    """Commit as the worker does once it has written everything."""
    with closing(KafkaConsumer(bootstrap_servers=stage.broker.bootstrap, group_id=stage.group)) as consumer:
        places = [TopicPartition(stage.topic, number) for number in range(stage.partitions)]
        consumer.assign(places)
        consumer.commit({tp: OffsetAndMetadata(end, "", -1) for tp, end in consumer.end_offsets(places).items()})


def plant(versions: Versions) -> tuple[dict[str, float], dict[str, str]]:
    """Return what the index holds, version by key, and the kind of each difference by key."""
    chance = random.Random(8)
    held = {key: some[-1] for key, some in versions.items() if some[-1] is not None}
    kinds: dict[str, str] = {}
    candidates = {
        "missing": [key for key in versions if key in held],
        "different": [key for key in versions if key in held],
        "stale": [key for key, some in versions.items() if key in held and some[-2:-1] not in ([], [None])],
        "not_deleted": [key for key in versions if key not in held],
    }
    for kind, keys in candidates.items():
        for key in chance.sample([one for one in keys if one not in kinds], min(PLANTED, len(keys) // 2)):
            kinds[key] = kind
            if kind == "missing":
                del held[key]
            else:
                held[key] = versions[key][-2] or 0 if kind == "stale" else -5.0
    return held, kinds


def bodies(stage: Stage, held: dict[str, float]) -> Iterator[bytes]:
    """Yield requests that write what the index holds."""
    items = sorted(held.items())
    for begin in range(0, len(items), 500):
        vectors = [
            {"key": key, "data": {"float32": vector(one)}, "metadata": {"n": str(int(one) - 1)}}
            for key, one in items[begin : begin + 500]
        ]
        yield json.dumps({"indexName": stage.index, "vectors": vectors}).encode()


def test_of_many_records_each_planted_difference_is_found_and_none_is_invented(new_stage: StageFactory) -> None:
    stage = new_stage(partitions=4)
    settings = stage.settings(records__tombstones="delete")
    versions = published(stage)
    held, kinds = plant(versions)
    own = {name: value for name, value in settings.items() if name.startswith("OSS_")}
    with closing(OssSink(load(None, own).settings.oss, own, max_connections=1)) as sink:
        for body in bodies(stage, held):
            sink.put(body)
    commit_to_the_end(stage)

    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "verify", "--json", "--rate", "0"],
        env=settings,
        capture_output=True,
        timeout=300 + RECORDS / 200,
        check=False,
    )
    seconds = time.monotonic() - began
    assert done.returncode == 3, done.stderr.decode()
    report: dict[str, Any] = json.loads(done.stdout)
    peak = int(done.stderr.split()[-1]) * 1024
    sys.stdout.write(f"{RECORDS} records, {len(versions)} keys: {seconds:.1f} s, at most {peak / 1e6:.0f} MB\n")
    assert (report["records"], report["keys"]) == (RECORDS, len(versions))
    assert {one["key"]: one["kind"] for one in report["differences"]} == kinds
    assert set(kinds.values()) == {"missing", "different", "stale", "not_deleted"}
    assert peak < MOST_BYTES
