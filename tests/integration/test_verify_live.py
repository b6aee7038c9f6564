"""`verify` while the worker writes, while the service is busy or away, and with the longest vectors there are.

OSS_VECTORS_TEST_VERIFY_RUNS says how often it looks while the worker writes; 2 without it.
"""

import json
import os
import random
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
from kafka import KafkaProducer

from tests.support.bounded import join, thread
from tests.support.commands import command
from tests.support.worker import Stage, StageFactory, WorkerFactory, wait_for

RUNS = int(os.environ.get("OSS_VECTORS_TEST_VERIFY_RUNS", "2"))


def write_all_the_while(stage: Stage, stop: threading.Event) -> None:
    """Publish versions and tombstones of a few keys until it is to stop."""
    chance = random.Random(3)
    with closing(KafkaProducer(bootstrap_servers=stage.broker.bootstrap, linger_ms=5)) as producer:
        number = 0
        while not stop.wait(0.005):
            number += 1
            key = f"key-{chance.randrange(50)}"
            record = json.dumps({"key": key, "data": {"float32": [number, 1.0, 2.0, 3.0]}}).encode()
            producer.send(stage.topic, key=key.encode(), value=None if chance.random() < 0.2 else record)


def test_what_the_worker_writes_meanwhile_is_no_difference(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=3)
    settings = stage.settings(records__tombstones="delete")
    start_worker(settings).wait_ready()
    stop = threading.Event()
    writer = thread(write_all_the_while, stage, stop)
    try:
        wait_for(lambda: sum(stage.committed().values()) > 100, "the worker commits")
        found = [command(settings, "verify", "--rate", 0) for _ in range(RUNS)]
    finally:
        stop.set()
        join(writer)
    assert [(one.code, one.out.splitlines()[1:]) for one in found] == [
        (0, ["no difference: the index holds what the topic asks for"])
    ] * RUNS


def test_answers_of_megabytes_are_read_and_a_busy_service_is_waited_for(
    new_stage: StageFactory, start_worker: WorkerFactory, tmp_path: Path
) -> None:
    stage = new_stage(partitions=1, dimension=4096)
    settings = stage.settings()
    vectors = np.random.default_rng(1).normal(size=(120, 4096)).astype("f4")
    np.savez(tmp_path / "records.npz", keys=np.array([f'"ä\\{number}' for number in range(120)]), vectors=vectors)
    assert command(settings, "produce", tmp_path / "records.npz").code == 0
    worker = start_worker(settings).wait_ready()
    worker.wait_settled(120)
    stage.wait_committed_to_the_end(worker)
    worker.terminate()

    stage.emulator.fault(operation="GetVectors", bucket=stage.bucket, skip=1, count=2, status=429, retry_after=1)
    done = command(settings, "verify", "--json", "--rate", 0)
    report = json.loads(done.out)
    assert (done.code, report["keys"], report["differences"]) == (0, 120, []), done.err

    wrong = command(settings | {"OSS_ACCESS_KEY_SECRET": "not-the-secret"}, "verify")
    assert (wrong.code, "SignatureDoesNotMatch" in wrong.last_error) == (1, True), wrong.last_error
    route = json.dumps([{"topic": stage.topic, "index": "nowhere", "dimension": 4096, "distance_metric": "euclidean"}])
    missing = command(settings | {"OSS_VECTORS_ROUTES": route}, "verify")
    assert (missing.code, "refuses to read index nowhere" in missing.last_error) == (1, True), missing.last_error
    full = command(settings, "verify", "--keys", tmp_path / "no" / "file")
    assert (full.code, "cannot be written: No such file or directory" in full.last_error) == (1, True)
