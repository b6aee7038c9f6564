"""The naive chain, the component floor, and this worker's parts, on the same record batches.

Each returns the CPU seconds of this process for all records, of all its threads, and the bytes that it sent.
"""

import gc
import hashlib
import multiprocessing
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import msgspec
import numpy as np
import orjson

from tests.bench import data
from tests.bench import naive as naive_script
from tests.bench.naive import REQUEST_RECORDS
from tests.support.bounded import END_S, join, thread
from worker.app.components import Components
from worker.app.lanes import LaneContext, make_lane
from worker.app.loop import Worker
from worker.app.stop import Stop
from worker.app.targets import TargetFinder
from worker.consumer.record_batches import Message
from worker.deadletters.limit import Limit
from worker.delivery.batch import Item
from worker.delivery.pace.backoff import Backoff
from worker.ledger import Assignment, Ledger, Partition, Phase
from worker.oss.dialect import Envelope
from worker.oss.sink import OssSink
from worker.ports import DeadLetter, Polled
from worker.records.decode import Decoder, Put
from worker.records.target import Target
from worker.settings import tables
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

TOPIC: Final = "bench"
INDEX: Final = "bench"
POLL_RECORDS: Final = 500
BARRIER_S: Final = 120.0
_CREDENTIALS: Final = {"OSS_ACCESS_KEY_ID": "bench", "OSS_ACCESS_KEY_SECRET": "bench"}


class Cost(NamedTuple):
    """CPU seconds of the process, wall seconds, and bytes of request bodies."""

    cpu: float
    wall: float
    sent: int


class _Stopwatch:
    def __enter__(self) -> Self:
        gc.collect()
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu, self.wall = time.process_time() - self._cpu, time.perf_counter() - self._wall


# -- naive


def naive(batches: Sequence[bytes], dimension: int, port: int) -> Cost:
    """json.loads, checks in Python, the SDK's put_vectors."""
    client, adapter = naive_script.make_client(port)
    with _Stopwatch() as watch:
        waiting: list[dict[str, Any]] = []
        for batch in batches:
            for message in data.messages(batch):
                waiting.append(naive_script.checked(message.value, dimension))
                if len(waiting) == REQUEST_RECORDS:
                    naive_script.put(client, waiting)
                    waiting = []
        if waiting:
            naive_script.put(client, waiting)
    return Cost(watch.cpu, watch.wall, adapter.sent)


# -- components


class _Data(msgspec.Struct):
    float32: list[float]


class _Record(msgspec.Struct):
    key: str
    data: _Data
    metadata: dict[str, str | list[str]]


def floor(values: Sequence[bytes], _dimension: int) -> Cost:
    """Decode with msgspec, write a float32 array with orjson, and MD5 of that: the parts alone."""
    decode = msgspec.json.Decoder(_Record).decode
    arrays = [np.array(decode(value).data.float32, np.float32) for value in values]
    md5 = hashlib.md5(usedforsecurity=False)
    with _Stopwatch() as watch:
        for value, array in zip(values, arrays, strict=True):
            decode(value)
            md5.update(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))
    return Cost(watch.cpu, watch.wall, 0)


def core(values: Sequence[bytes], dimension: int) -> Cost:
    """This worker's decode, its fragments joined to bodies, and their MD5."""
    decode = Decoder(Target(INDEX, dimension, "cosine"), max_fragment_bytes=1 << 24).decode
    envelope = Envelope.of(INDEX)
    sent = 0
    with _Stopwatch() as watch:
        for first in range(0, len(values), REQUEST_RECORDS):
            fragments = [decode(None, value, ()).fragment for value in values[first : first + REQUEST_RECORDS]]  # type: ignore[union-attr]  # they are all puts
            body = b"".join((envelope.put_head, b",".join(fragments), envelope.tail))
            hashlib.md5(body, usedforsecurity=False).digest()
            sent += len(body)
    return Cost(watch.cpu, watch.wall, sent)


# -- this worker


class _BatchSource:
    """Hands out record batches as the consumer would, and stops the worker when all was settled."""

    is_member = True

    def __init__(self, batches: Sequence[bytes], ledger: Ledger, stop: Stop) -> None:
        self._batches = list(reversed(batches))
        self._ledger = ledger
        self._stop = stop
        self._rest: list[Any] = []

    def start(self) -> None:
        self._assignment = self._ledger.assign(Partition(TOPIC, 0))

    def poll(self, timeout: float) -> list[Polled]:
        if self._assignment.phase is not Phase.OPEN or self._ledger.buffer_bytes > 200 << 20:
            time.sleep(min(timeout, 0.01))
            return []
        if not self._rest and self._batches:
            self._rest = data.own_messages(self._batches.pop())
        if not self._rest:
            if not self._ledger.outstanding():
                self._stop.set()
            time.sleep(min(timeout, 0.01))
            return []
        taken, self._rest = self._rest[:POLL_RECORDS], self._rest[POLL_RECORDS:]
        return [Polled(self._assignment, taken)]

    def open(self, assignment: Assignment) -> bool:
        return self._ledger.open(assignment, 0, None)

    def refuse(self, assignment: Assignment, problem: str) -> None: ...

    @property
    def waits_for(self) -> str:
        return ""

    def steer(self, fetch: Mapping[Assignment, bool]) -> None: ...

    def positions(self, assignments: Iterable[Assignment]) -> None: ...

    def commit(self, offsets: Mapping[Assignment, int]) -> bool:
        self._ledger.committed(dict(offsets))
        return True

    def commit_now(self, offsets: Mapping[Assignment, int], timeout: float) -> bool:
        return True

    def close(self, timeout: float) -> None: ...


class _NoDeadLetters:
    """No record of the benchmark is bad."""

    is_ready = is_idle = True

    def dead_threads(self) -> list[str]:
        return []

    def start(self) -> None: ...

    def stop(self, timeout: float) -> None: ...

    def submit(self, letter: DeadLetter) -> None:
        raise AssertionError(letter.text)


class _NoWatcher:
    def dead_threads(self) -> list[str]:
        return []

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def look_now(self) -> None: ...


def settings(port: int, dimension: int, **delivery: Any) -> tables.Settings:
    """Return the defaults, on the sink, without a rate limit of our own."""
    return tables.Settings(
        routes=(tables.Route(topic=TOPIC, index=INDEX, dimension=dimension, distance_metric="cosine"),),
        kafka=tables.Kafka(),
        oss=tables.Oss(region="cn-hangzhou", bucket="bench", account_id="1", endpoint=f"http://127.0.0.1:{port}"),
        records=tables.Records(),
        registry=tables.Registry(),
        batch=tables.Batch(max_bytes=20 << 20),
        delivery=tables.Delivery(**({"vectors_per_second": 0.0} | delivery)),
        buffer=tables.Buffer(),
        dead_letter=tables.DeadLetter(),
        http=tables.Http(),
        log=tables.Log(),
        shutdown=tables.Shutdown(),
    )


def worker(batches: Sequence[bytes], dimension: int, port: int, **delivery: Any) -> Cost:
    """This worker's main loop, lanes and sink; only the consumer is replaced, by one that hands out the batches."""
    chosen = settings(port, dimension, **delivery)
    stop = Stop()
    ledger = Ledger((TOPIC,), time.monotonic)
    status = Status(time.monotonic())
    metrics = Metrics(ledger, status, (TOPIC,), (INDEX,))
    sink = OssSink(chosen.oss, _CREDENTIALS, max_connections=chosen.delivery.max_in_flight + 2)
    dead_letters: Any = _NoDeadLetters()
    backoff = Backoff(0.5, 30.0, random.Random(0))
    context = LaneContext(
        sink,
        ledger,
        dead_letters,
        status,
        metrics,
        chosen.delivery,
        chosen.batch,
        10,
        backoff,
        time.monotonic,
        time.time,
    )
    watcher: Any = _NoWatcher()
    source = _BatchSource(batches, ledger, stop)
    lanes = {INDEX: make_lane(INDEX, (TOPIC,), context)}
    components = Components(
        chosen, source, lanes, TargetFinder(lanes, chosen.routes, chosen.delivery, metrics), dead_letters, Limit(chosen.dead_letter, time.time),
        watcher, ledger, status, metrics, time.monotonic, time.time,
    )  # fmt: skip
    with _Stopwatch() as watch:
        Worker(components, stop).run()
    sink.close()
    written = metrics.registry.get_sample_value("oss_vectors_records_settled_total", {"topic": TOPIC, "outcome": "put"})
    assert written == sum(len(data.messages(batch)) for batch in batches)
    sent = metrics.registry.get_sample_value("oss_vectors_uploaded_bytes_total", {"index": INDEX})
    return Cost(watch.cpu, watch.wall, int(sent or 0))


def longest_wait(run: Callable[[], object]) -> float:
    """Run it, and return the longest time in seconds that another thread, which wants to go on every 2 ms, had to wait."""
    over = threading.Event()
    waits = [0.0]

    def tick() -> None:
        while not over.is_set():
            before = time.perf_counter()
            time.sleep(0.002)
            waits.append(time.perf_counter() - before - 0.002)

    ticker = thread(tick)
    run()
    over.set()
    join(ticker)
    return max(waits)


# -- beside the CPU


def records_per_second(processes: int, count: int, dimension: int, port: int) -> float:
    """Run this worker's chain on so many records in each of so many processes at once; returns records of them all a second."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(processes + 1)
    running = [
        spawn.Process(target=_one_of_several, args=(barrier, count, dimension, port), daemon=True)
        for _ in range(processes)
    ]
    for process in running:
        process.start()
    barrier.wait(BARRIER_S)
    began = time.perf_counter()
    barrier.wait(BARRIER_S)
    ended = time.perf_counter()
    for process in running:
        process.join(END_S)
    return processes * count / (ended - began)


def _one_of_several(barrier: Any, count: int, dimension: int, port: int) -> None:
    batches = data.batches(data.values(count, dimension, "json17"))
    worker(batches[:1], dimension, port)
    barrier.wait(BARRIER_S)
    worker(batches, dimension, port)
    barrier.wait(BARRIER_S)


def memory_of_a_batch(values: Sequence[bytes], dimension: int, port: int) -> float:
    """Decode a batch's values and send it; returns the most memory that took beside the values, in bodies of the request."""
    decode = Decoder(Target(INDEX, dimension, "cosine"), max_fragment_bytes=1 << 24).decode
    chosen = settings(port, dimension)
    sink = OssSink(chosen.oss, _CREDENTIALS, max_connections=1)
    sink.describe(INDEX)  # the first request loads what the others find loaded
    partition = Assignment(Partition(TOPIC, 0), 0)
    tracemalloc.start()
    items = []
    for place, value in enumerate(values):
        put = decode(None, value, ())
        assert isinstance(put, Put)
        items.append(Item(partition, Message(place, 0, None, value, ()), put.key, put.fragment, 0))
    body = Envelope.of(INDEX).put_body([item.fragment or b"" for item in items])
    sink.put(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sink.close()
    return peak / len(body)
