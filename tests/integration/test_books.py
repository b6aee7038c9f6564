"""The books balance in every scrape, whatever goes on meanwhile."""

import http.client
import itertools
import random
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.support.bounded import join, thread
from tests.support.broker import TopicFactory
from tests.support.worker import (
    Record,
    Stage,
    StageFactory,
    WorkerFactory,
    WorkerProcess,
    publish_with,
    vector_record,
    wait_for,
)

PAUSE_S = 0.003
YIELDING = """
import threading
import time
import types

import worker.ledger


class YieldingLock:
    def __init__(self):
        print("the ledger yields", flush=True)
        self._lock = threading.Lock()
        self.acquire = self._lock.acquire

    def release(self):
        self._lock.release()
        time.sleep(0.0003)

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()


worker.ledger.threading = types.SimpleNamespace(
    Lock=YieldingLock, Condition=threading.Condition, get_ident=threading.get_ident
)
"""
"""Runs first in the worker's process, and lets others run whenever the ledger's lock was let go.

Python itself changes threads so seldom that of thousands of scrapes none would fall between two readings of the ledger.
"""
LINE = re.compile(r"^oss_vectors_records_(consumed_total|settled_total|buffered)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Books:
    """What one scrape says of one topic."""

    consumed: float
    settled: Mapping[str, float]
    buffered: float

    @property
    def balance(self) -> float:
        """What is missing."""
        return self.consumed - sum(self.settled.values()) - self.buffered


def books_of(text: str) -> dict[str, Books]:
    """The books of each topic; quicker than a parser of the whole, so that there are more scrapes."""
    found: dict[str, dict[str, dict[str, float]]] = {"consumed_total": {}, "settled_total": {}, "buffered": {}}
    for name, text_of_labels, value in LINE.findall(text):
        labels = dict(LABEL.findall(text_of_labels))
        found[name].setdefault(labels["topic"], {})[labels.get("outcome", "")] = float(value)
    return {
        topic: Books(consumed[""], found["settled_total"][topic], found["buffered"][topic][""])
        for topic, consumed in found["consumed_total"].items()
    }


class Scraper:
    """Scrapes a worker all the time, on a thread, until the worker ends."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.readings: list[dict[str, Books]] = []
        self._port = worker.port
        self._stop = threading.Event()
        self._thread = thread(self._run, name="scraper")

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
                    connection.request("GET", "/metrics")
                    self.readings.append(books_of(connection.getresponse().read().decode()))
            except (OSError, http.client.HTTPException):  # the worker ends
                continue

    def stop(self) -> None:
        self._stop.set()
        join(self._thread)


def readings_of(scrapers: list[Scraper]) -> list[tuple[str, Books]]:
    """All topics' books in all scrapes so far."""
    return [books for scraper in scrapers for reading in list(scraper.readings) for books in reading.items()]


@contextmanager
def load(stage: Stage, topics: list[str]) -> Iterator[None]:
    """Publish without end: new versions of few keys, deletes, and now and then what is no vector."""
    stop = threading.Event()
    drawn = random.Random(1)

    def record(number: int, topic: str) -> Record:
        key = f"{topic}-{drawn.randrange(200)}"
        if number % 40 == 0:
            return Record(key.encode(), b"no vector")
        return Record(key.encode(), None) if number % 9 == 0 else vector_record(key, [float(number), 1.0, 2.0, 3.0])

    def run() -> None:
        numbers = itertools.count(1)
        with closing(KafkaProducer(bootstrap_servers=stage.broker.bootstrap, linger_ms=5)) as producer:
            while not stop.wait(0.04):
                for topic in topics:
                    publish_with(producer, topic, [record(next(numbers), topic) for _ in range(20)])

    loading = thread(run, name="load")
    try:
        yield
    finally:
        stop.set()
        join(loading)


@pytest.mark.timeout(600)
def test_the_books_balance_in_every_scrape_while_members_come_and_go_under_load_and_faults(
    new_stage: StageFactory, new_topic: TopicFactory, start_worker: WorkerFactory, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(YIELDING, encoding="utf-8")
    stage = new_stage(partitions=4)
    topics = [stage.topic, new_topic(3)]
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", probability=0.1, seed=1, status=503)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", probability=0.1, seed=2, reset="after")
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", probability=0.3, seed=3, latency_seconds=0.3)
    settings = stage.settings(
        routes=dict.fromkeys(topics, stage.index),
        batch__max_records=20,
        records__tombstones="delete",
        kafka__session_timeout_ms=2000,
        shutdown__drain_seconds=6,
        kafka__revoke_seconds=0.1,  # so that what waits behind the requests is given back unsettled
    ) | {"PYTHONPATH": str(tmp_path)}
    scrapers: list[Scraper] = []

    def start() -> WorkerProcess:
        worker = start_worker(settings)
        scrapers.append(Scraper(worker))
        return worker

    def owned_by_both(first: WorkerProcess, second: WorkerProcess) -> None:
        def owned() -> list[float]:
            return sorted(one.metrics().total("assigned_partitions") for one in (first, second))

        wait_for(lambda: owned() == [3, 4], "each has its share", told=second.last_words)

    try:
        with load(stage, topics):
            first = start().wait_ready()
            second = start()
            owned_by_both(first, second)
            assert first.terminate() == 0
            second.wait_until(lambda now: now.total("assigned_partitions") == 7, "the rest came to it")
            # It is worth looking: often, at both topics, and with something buffered.
            wait_for(lambda: len(readings_of(scrapers)) > 600, "the books were read often", timeout=300)
            wait_for(lambda: sum(1 for _, books in readings_of(scrapers) if books.buffered) > 100, "some were busy")
        assert second.terminate() == 0
        assert all("the ledger yields" in worker.text() for worker in (first, second))
    finally:
        for scraper in scrapers:
            scraper.stop()

    readings = readings_of(scrapers)
    assert [(topic, books) for topic, books in readings if books.balance] == []
    # They were seen at both topics, with something in every place that a record can be in.
    assert {topic for topic, _ in readings} == set(topics)
    for place in ("put", "deleted", "superseded", "dead_lettered", "returned"):
        assert any(books.settled[place] for _, books in readings), place
    for scraper, topic in itertools.product(scrapers, topics):
        consumed = [reading[topic].consumed for reading in scraper.readings]
        assert consumed == sorted(consumed)
