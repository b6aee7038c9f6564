"""Whole processes on a real Kafka: this worker, and the naive script, on the same topic."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from tests.bench.chains import INDEX
from worker.local.broker import Broker

LIMIT_SECONDS = 120.0


class ProcessCost(NamedTuple):
    """CPU and wall seconds of a whole process, and the most memory that it had, in bytes."""

    cpu: float
    wall: float
    peak_rss: int


def fill(broker: Broker, records: Sequence[tuple[bytes, bytes]], partitions: int = 1) -> str:
    """Publish the records to a new topic, and make its dead-letter topic; returns the topic's name."""
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic(topic, partitions, 1), NewTopic(f"{topic}.dlq", 1, 1)])
    admin.close()
    producer = KafkaProducer(
        bootstrap_servers=broker.bootstrap, linger_ms=20, batch_size=1 << 20, max_request_size=1 << 24
    )
    for place, (key, value) in enumerate(records):
        producer.send(topic, key=key, value=value, partition=place % partitions)
    producer.flush()
    producer.close()
    return topic


def naive_process(broker: Broker, topic: str, records: int, dimension: int, port: int) -> ProcessCost:
    """Run the naive script to the end of the topic."""
    arguments = [broker.bootstrap, topic, str(records), str(dimension), str(port)]
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.naive", *arguments])
    return _cost(process, time.monotonic())


def worker_processes(
    broker: Broker, topic: str, dimension: int, port: int, count: int = 1, **overrides: object
) -> list[ProcessCost]:
    """Run so many workers of a new group until the topic is committed to its end, and stop them.

    The wall time is from the first record that any of them polled.
    """
    group = f"bench-{uuid.uuid4().hex[:8]}"
    started = time.monotonic()
    environment = _environment(broker, topic, group, dimension, port, overrides)
    processes = [
        subprocess.Popen([sys.executable, "-m", "worker", "run"], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    running = threading.Event()
    for process in processes:
        threading.Thread(target=_read_log, args=(process, running), daemon=True).start()
    running.wait(60)
    started = time.monotonic()
    _wait_committed(broker, topic, group)
    ended = time.monotonic()
    peaks = [_peak_rss(process) for process in processes]
    for process in processes:
        process.send_signal(signal.SIGTERM)
    costs = [_cost(process, started) for process in processes]
    return [cost._replace(wall=ended - started, peak_rss=peak) for cost, peak in zip(costs, peaks, strict=True)]


def _environment(
    broker: Broker, topic: str, group: str, dimension: int, port: int, overrides: Mapping[str, object]
) -> dict[str, str]:
    route = [{"topic": topic, "index": INDEX, "dimension": dimension, "distance_metric": "cosine"}]
    settings: dict[str, object] = {
        "routes": json.dumps(route),
        "kafka__bootstrap_servers": broker.bootstrap,
        "kafka__group_id": group,
        "oss__region": "cn-hangzhou",
        "oss__bucket": "bench",
        "oss__account_id": "1",
        "oss__endpoint": f"http://127.0.0.1:{port}",
        "batch__max_bytes": 20 << 20,
        "delivery__vectors_per_second": 0,
        "dead_letter__topic": f"{topic}.dlq",
        "http__host": "127.0.0.1",
        "http__port": 0,
        "log__format": "json",
    }
    settings |= overrides
    own = {f"OSS_VECTORS_{name.upper()}": str(value) for name, value in settings.items()}
    return dict(os.environ) | own | {"OSS_ACCESS_KEY_ID": "bench", "OSS_ACCESS_KEY_SECRET": "bench"}


def _read_log(process: "subprocess.Popen[str]", running: threading.Event) -> None:
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            if re.search(r'"state: running"', line):
                running.set()
            elif '"level":"error"' in line or "Traceback" in line:
                sys.stderr.write(line)


def _wait_committed(broker: Broker, topic: str, group: str) -> None:
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=group, enable_auto_commit=False)
    partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
    ends = consumer.end_offsets(partitions)
    deadline = time.monotonic() + LIMIT_SECONDS
    while any((consumer.committed(partition) or 0) < end for partition, end in ends.items()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{topic} was not committed to its end in {LIMIT_SECONDS:.0f} s")
        time.sleep(0.1)
    consumer.close()


def _cost(process: "subprocess.Popen[str] | subprocess.Popen[bytes]", started: float) -> ProcessCost:
    peak = 0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        peak = _peak_rss(process) or peak
        time.sleep(0.05)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise AssertionError(f"{process.args!r} ended with {process.returncode}")
    return ProcessCost(usage.ru_utime + usage.ru_stime, time.monotonic() - started, peak)


def _peak_rss(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> int:
    """Return the most memory that a process had so far, in bytes; 0 where it has ended.

    The kernel's own figure for an ended child begins with the parent's memory.
    """
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    except FileNotFoundError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
