"""Whole processes on a real Kafka: this worker, and the naive script, on the same topic."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from tests.bench.chains import INDEX
from tests.support.bounded import end, running, thread
from worker.local.broker import Broker

LIMIT_SECONDS = 120.0
UNLIMITED = {"batch__max_bytes": 20 << 20, "delivery__vectors_per_second": 0}
FLOOD_SECONDS = 25.0
HEARTBEAT_SECONDS = 3.0  # the interval, with default settings
TENTH_RECORDS = 3000
IDLE_SECONDS = 10.0


class ProcessCost(NamedTuple):
    """CPU and wall seconds of a whole process, the most memory that it had, and the bodies that it sent; in bytes."""

    cpu: float
    wall: float
    peak_rss: int
    sent: int = 0


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
    command = [sys.executable, "-m", "tests.bench.naive", *arguments]
    with running(command, env=_as_installed(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        cost = _cost(process, time.monotonic())
        return cost._replace(sent=int(process.stdout.read()))


def worker_process(broker: Broker, topic: str, dimension: int, port: int) -> ProcessCost:
    """Run a worker of a new group until the topic is committed to its end, and stop it.

    The wall time is from the first record that it polled.
    """
    group = _new_group()
    with _running_worker(_environment(broker, topic, group, dimension, port, UNLIMITED)) as worker:
        worker.wait_running()
        started = time.monotonic()
        _wait_committed(broker, topic, group)
        ended = time.monotonic()
        peak, sent = _peak_rss(worker.process), int(_value(worker.metrics(), "oss_vectors_uploaded_bytes_total"))
        worker.process.send_signal(signal.SIGTERM)
        return _cost(worker.process, started)._replace(wall=ended - started, peak_rss=peak, sent=sent)


class Duty(NamedTuple):
    """What a worker with its default settings shows. Seconds and bytes."""

    flood_peak_rss: int  # a full topic, and a service that takes a second for each request
    flood_slowest_scrape: float
    flood_latest_heartbeat: float  # beyond the interval
    share_in_time: float  # at a tenth of the load: records settled within max_age, the service's time, and 100 ms
    idle_cpu: float  # share of a core


def on_duty(broker: Broker, records: Sequence[tuple[bytes, bytes]], dimension: int, ports: tuple[int, int]) -> Duty:
    """Run a worker with its default settings on a flood, at a tenth of the load, and idle.

    `ports` are those of a service that takes a second, and of one that takes 100 ms.
    """
    scrapes = []
    heartbeats = [0.0]
    topic = fill(broker, records, partitions=2)
    with _running_worker(_environment(broker, topic, _new_group(), dimension, ports[0], {})) as flood:
        flood.wait_running()
        until = time.monotonic() + FLOOD_SECONDS
        while time.monotonic() < until:
            before = time.monotonic()
            text = flood.metrics()
            scrapes.append(time.monotonic() - before)
            last = _value(text, "oss_vectors_kafka_client_last_heartbeat_timestamp_seconds")
            if last:
                heartbeats.append(time.time() - last - HEARTBEAT_SECONDS)
            time.sleep(0.05)
        peak = flood.end()
    topic = fill(broker, [], partitions=2)
    with _running_worker(_environment(broker, topic, _new_group(), dimension, ports[1], {})) as worker:
        worker.wait_running()
        _publish_slowly(broker, topic, records[:TENTH_RECORDS])
        time.sleep(3.0)
        text = worker.metrics()
        all_in_all = _value(text, "oss_vectors_record_latency_seconds_count")
        in_time = _value(text, "oss_vectors_record_latency_seconds_bucket", 'le="1.2"')
        cpu = _cpu_seconds(worker.process)
        time.sleep(IDLE_SECONDS)
        idle = (_cpu_seconds(worker.process) - cpu) / IDLE_SECONDS
    return Duty(peak, max(scrapes), max(heartbeats), in_time / all_in_all, idle)


def _publish_slowly(broker: Broker, topic: str, records: Sequence[tuple[bytes, bytes]]) -> None:
    """Publish 250 records a second, a tenth of what an index takes."""
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, max_request_size=1 << 24)
    # A record has its timestamp before the producer has its connection, which takes it some tenths of a second.
    producer.send(topic, key=records[0][0], value=records[0][1])
    producer.flush()
    began = time.monotonic()
    for place, (key, value) in enumerate(records):
        time.sleep(max(0.0, began + place / 250 - time.monotonic()))
        producer.send(topic, key=key, value=value, partition=place % 2)
    producer.flush()
    producer.close()


@contextmanager
def _running_worker(environment: Mapping[str, str]) -> Iterator["_Worker"]:
    """A worker that is gone at the end."""
    with running([sys.executable, "-m", "worker", "run"], env=environment, stderr=subprocess.PIPE) as process:
        yield _Worker(process)


class _Worker:
    """A worker process, and where its HTTP port is."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._running = threading.Event()
        self._port = 0
        thread(self._read_log)

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                if found := re.search(r'"message":"http","port":(\d+)', line):
                    self._port = int(found[1])
                elif '"state: running"' in line:
                    self._running.set()
                elif '"level":"error"' in line or "Traceback" in line:
                    sys.stderr.write(line)

    def wait_running(self) -> None:
        """Wait until it is a member of its group."""
        if not self._running.wait(60):
            raise AssertionError("the worker did not come to run")

    def metrics(self) -> str:
        """Return what it exports."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def end(self) -> int:
        """Stop it; returns the most memory that it had."""
        peak = _peak_rss(self.process)
        end(self.process, stop_seconds=60)
        return peak


def _value(text: str, name: str, label: str = "") -> float:
    """Return the sum of a metric's samples that have the label."""
    lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line) and label in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def _cpu_seconds(process: "subprocess.Popen[str]") -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _new_group() -> str:
    return f"bench-{uuid.uuid4().hex[:8]}"


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
        "dead_letter__topic": f"{topic}.dlq",
        "http__host": "127.0.0.1",
        "http__port": 0,
        "log__format": "json",
    }
    settings |= overrides
    own = {f"OSS_VECTORS_{name.upper()}": str(value) for name, value in settings.items()}
    return _as_installed() | own | {"OSS_ACCESS_KEY_ID": "bench", "OSS_ACCESS_KEY_SECRET": "bench"}


def _as_installed() -> dict[str, str]:
    """The environment without what keeps Python from storing compiled modules, as an installation does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


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
