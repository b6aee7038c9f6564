"""The worker as a process of its own, and a stage for it: topics, a group and an index that no other test has.

What it shall do is compared with a model: the newest version of each key among the records below the committed offsets.
Waiting is polling a condition; one that does not come true in time fails with what was awaited and the worker's last
words.
"""

import functools
import http.client
import itertools
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.protocol.producer import ProduceRequest
from kafka.record.default_records import DefaultRecordBatchBuilder
from prometheus_client.parser import text_string_to_metric_families

from tests.support.bounded import join
from tests.support.broker import GroupFactory, TopicFactory
from tests.support.emulator import Emulator, JournalEntry, Stored
from worker.consumer import receive
from worker.local.broker import Broker
from worker.local.broker.server import FREE_PORTS
from worker.local.process import Process, spawn

LIMIT_S = 60.0
BUSY_S = 12.0
"""What a busy machine may add to what is to happen at once: above any hiccup, below the time-outs that would end it else."""
LOOK_S = 0.05
OUTCOMES = ("put", "deleted", "superseded", "ignored", "dead_lettered", "returned")
FINAL_OUTCOMES = OUTCOMES[:-1]

T = TypeVar("T")

_CHANCE = random.SystemRandom()
"""Not the generator that each test seeds again with the run's seed: tests that run beside it would get the same ports."""
_PORT_SHARES = 8  # more than there are pytest-xdist workers


def wait_for(condition: Callable[[], T], what: str, timeout: float = LIMIT_S, told: Callable[[], str] = str) -> T:
    """Return the condition's first value that is true; AssertionError with `what` and `told()` if none comes in time."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            message = f"in {timeout:.0f} s it did not come true that {what}\n{told()}"
            raise AssertionError(message)
        time.sleep(LOOK_S)
    return value


@functools.cache
def _own_ports() -> Iterator[int]:
    """The ports of this process among those that run tests, in random order, without end."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = FREE_PORTS[number % _PORT_SHARES :: _PORT_SHARES]
    return itertools.cycle(_CHANCE.sample(ports, len(ports)))


def free_port() -> int:
    """A port on the loopback address that is free at this moment and that no outgoing connection is given.

    It is bound only later, so each call returns another port, and none of those of the other pytest-xdist workers.
    """
    for candidate in itertools.islice(_own_ports(), 50):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", candidate)) != 0:
                return candidate
    raise AssertionError("of 50 ports none is free")


# -- records


@dataclass(frozen=True)
class Record:
    """What is published. `partition` None leaves it to the producer, by the key; `headers` may have null values."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int | None = None

    @property
    def is_beyond_the_client(self) -> bool:
        """Tell whether the producer's `send` would not take it."""
        return (self.key is None and self.value is None) or any(value is None for _, value in self.headers)


@dataclass(frozen=True)
class Place:
    """Where a published record is."""

    partition: int
    offset: int


def vector_record(key: str, vector: Sequence[float], partition: int | None = None, **fields: object) -> Record:
    """A record in JSON whose Kafka key is the vector's; `fields` are more of the value, such as `metadata`."""
    value = json.dumps({"key": key, "data": {"float32": list(vector)}, **fields}).encode()
    return Record(key.encode(), value, partition=partition)


def publish(bootstrap: str, topic: str, records: Iterable[Record], codec: str | None = None) -> list[Place]:
    """Publish in order, wait until all are acknowledged, and return where each is."""
    config = {"compression_type": codec, "linger_ms": 5, "request_timeout_ms": 20_000}
    with closing(KafkaProducer(bootstrap_servers=bootstrap, acks="all", **config)) as producer:
        return publish_with(producer, topic, records)


def publish_with(producer: Any, topic: str, records: Iterable[Record]) -> list[Place]:
    """As `publish`, with a producer that is there."""
    producer.partitions_for(topic)
    sent: list[Callable[[], Place]] = []
    for record in records:
        if record.is_beyond_the_client:
            producer.flush()
            sent.append(partial(Place, *_write_raw(producer, topic, record)))
        else:
            sent.append(_send(producer, topic, record))
    return [place() for place in sent]


def _send(producer: Any, topic: str, record: Record) -> Callable[[], Place]:
    future = producer.send(
        topic, key=record.key, value=record.value, headers=list(record.headers), partition=record.partition
    )

    def place() -> Place:
        told = future.get(timeout=LIMIT_S)
        return Place(told.partition, told.offset)

    return place


def _write_raw(producer: Any, topic: str, record: Record) -> tuple[int, int]:
    """Other clients write null header values, and records with neither key nor value; this one only refuses to."""
    number = record.partition or 0
    batch = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
    batch.append(0, None, record.key, record.value, list(record.headers))
    error, offset = write_batch(producer.config["bootstrap_servers"], topic, number, bytes(batch.build()))
    assert error == 0
    return number, offset


def write_batch(bootstrap: Any, topic: str, number: int, batch: bytes) -> tuple[int, int]:
    """Write a record batch as it is to a partition; return the broker's error code, 0 for none, and where it is."""
    topic_data = ProduceRequest.TopicProduceData
    partition = topic_data.PartitionProduceData(index=number, records=batch)
    request = ProduceRequest(
        transactional_id=None,
        acks=-1,
        timeout_ms=10_000,
        topic_data=[topic_data(name=topic, partition_data=[partition])],
        max_version=9,
    )

    async def send() -> Any:
        return await admin._manager.send(request)

    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        answer = admin._manager.run(send).responses[0].partition_responses[0]
    return answer.error_code, answer.base_offset


@dataclass(frozen=True)
class ReadRecord:
    """A record that was read, and where it is."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int = -1


def _read(partition: Any, message: Any) -> ReadRecord:
    place = (partition.partition, message.offset)
    return ReadRecord(*place, message.key, message.value, list(message.headers), message.timestamp)


def read_topic(bootstrap: str, topic: str, *, has_odd_names: bool = False) -> list[Any]:
    """All records of a topic up to its end of now, partition by partition.

    They are `ReadRecord`s. `has_odd_names`: a header's name may not be UTF-8, where the client's own receive path raises.
    """
    with closing(KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")) as consumer:
        if has_odd_names:
            receive.read_without_copies(consumer)
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        found: dict[Any, list[Any]] = {partition: [] for partition in partitions}

        def reached_the_end() -> bool:
            for partition, records in consumer.poll(timeout_ms=200).items():
                found[partition] += [_read(partition, record) for record in records]
            return all(consumer.position(partition) >= end for partition, end in ends.items())

        wait_for(reached_the_end, f"{topic} is read to its end")
    return [record for partition in partitions for record in found[partition] if record.offset < ends[partition]]


# -- the worker


def worker_settings(
    broker: Broker,
    emulator: Emulator,
    *,
    bucket: str,
    routes: Mapping[str, str],
    group: str,
    dead_letter_topic: str,
    **overrides: object,
) -> dict[str, str]:
    """The worker's whole environment. `overrides` are settings as `batch__max_records=10`; None leaves one out.

    Everything that waits is quicker than by default, and the HTTP port is a free one.
    """
    settings: dict[str, object] = {
        "routes": ",".join(f"{topic}:{index}" for topic, index in routes.items()),
        "kafka__bootstrap_servers": broker.bootstrap,
        "kafka__group_id": group,
        "kafka__session_timeout_ms": 6000,
        "kafka__revoke_seconds": 5,
        "kafka__commit_interval_seconds": 0.2,
        "oss__region": emulator.region,
        "oss__bucket": bucket,
        "oss__account_id": emulator.account,
        "oss__endpoint": emulator.url,
        "oss__read_timeout_seconds": 5,
        "batch__max_age_seconds": 0.1,
        "delivery__vectors_per_second": 0,
        "delivery__retry_initial_seconds": 0.05,
        "delivery__retry_max_seconds": 0.5,
        "dead_letter__topic": dead_letter_topic,
        "http__host": "127.0.0.1",
        "http__port": 0,
        "log__format": "json",
        "shutdown__drain_seconds": 15,
    }
    settings |= overrides
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OSS_")}
    environment |= {"OSS_ACCESS_KEY_ID": emulator.access_key_id, "OSS_ACCESS_KEY_SECRET": emulator.access_key_secret}
    return environment | {
        f"OSS_VECTORS_{name.upper()}": str(value) for name, value in settings.items() if value is not None
    }


class Scrape:
    """One reading of /metrics."""

    def __init__(self, text: str) -> None:
        self.samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.samples.setdefault(sample.name, []).append((dict(sample.labels), sample.value))

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; the name goes without `oss_vectors_`."""
        return sum(
            value for found, value in self.samples.get(f"oss_vectors_{name}", []) if labels.items() <= found.items()
        )

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The samples that have these labels, by another label's value."""
        rows = self.samples.get(f"oss_vectors_{name}", [])
        return {found[label]: value for found, value in rows if labels.items() <= found.items()}

    @property
    def consumed(self) -> int:
        """Records polled, of all topics."""
        return int(self.total("records_consumed_total"))

    @property
    def buffered(self) -> int:
        """Records tracked and not settled, of all topics."""
        return int(self.total("records_buffered"))

    def outcomes(self) -> dict[str, int]:
        """Settled records by outcome, of all topics, without those that are none."""
        counts = {one: int(self.total("records_settled_total", outcome=one)) for one in OUTCOMES}
        return {outcome: count for outcome, count in counts.items() if count}

    @property
    def settled(self) -> int:
        """Records with a final outcome, which is not `returned`."""
        return sum(int(self.total("records_settled_total", outcome=one)) for one in FINAL_OUTCOMES)

    def imbalances(self) -> dict[str, tuple[float, float]]:
        """The topics whose consumed records are not those settled and buffered, with the two sums."""
        sums = {
            topic: (
                consumed,
                self.total("records_settled_total", topic=topic) + self.total("records_buffered", topic=topic),
            )
            for topic, consumed in self.by("records_consumed_total", "topic").items()
        }
        return {topic: pair for topic, pair in sums.items() if pair[0] != pair[1]}

    @property
    def state(self) -> str:
        """The state in force."""
        return ",".join(state for state, value in self.by("state", "state").items() if value)

    def blocks(self) -> set[tuple[str, str]]:
        """(topic, reason) of what blocks."""
        rows = self.samples.get("oss_vectors_blocked", [])
        return {(labels["topic"], labels["reason"]) for labels, value in rows if value}


@dataclass(frozen=True)
class Answer:
    """An answer of the worker's port."""

    status: int
    body: str

    @property
    def json(self) -> dict[str, Any]:
        """The body as what it says."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class WorkerProcess:
    """A worker that runs, and what it says. `log` is the file that its standard output and error go to."""

    def __init__(self, settings: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self._process: Process = spawn(
                [sys.executable, "-m", "worker", "run"], env=settings, stdout=out, stderr=out
            )
        self._port = 0

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    # -- what it says

    def text(self) -> str:
        """All that it wrote."""
        return self.log.read_text(encoding="utf-8")

    def log_lines(self, message: str | None = None) -> list[dict[str, Any]]:
        """The lines of its log, those with this message if one is given; a line that is not JSON is {"text"}."""
        found = [_parsed(line) for line in self.text().splitlines()]
        return [line for line in found if message is None or line.get("message") == message]

    def last_words(self) -> str:
        """The end of its log, for a failed test to show."""
        return "\n".join(["the worker's log ends with:", *self.text().splitlines()[-15:]])

    @property
    def port(self) -> int:
        """Its HTTP port, as soon as the log tells it."""
        if not self._port:
            self._port = int(self.wait_line("http")["port"])
        return self._port

    def get(self, path: str) -> Answer:
        """GET a page."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())

    def metrics(self) -> Scrape:
        """Scrape /metrics."""
        return Scrape(self.get("/metrics").body)

    def readyz(self) -> Answer:
        """GET /readyz."""
        return self.get("/readyz")

    def healthz(self) -> Answer:
        """GET /healthz."""
        return self.get("/healthz")

    # -- waiting for it

    def is_running(self) -> bool:
        """Tell whether it has not ended."""
        return self._process.poll() is None

    def _running(self) -> bool:
        code = self._process.poll()
        if code is not None:
            message = f"the worker ended by itself with {code}\n{self.last_words()}"
            raise AssertionError(message)
        return True

    def wait_ready(self, timeout: float = LIMIT_S) -> Self:
        """Wait until /readyz answers 200."""
        wait_for(lambda: self._running() and self.readyz().status == 200, "/readyz is 200", timeout, self.last_words)
        return self

    def wait_until(self, condition: Callable[[Scrape], object], what: str, timeout: float = LIMIT_S) -> Scrape:
        """Return the first scrape that fulfils the condition."""

        def look() -> Scrape | None:
            self._running()
            scrape = self.metrics()
            return scrape if condition(scrape) else None

        def told() -> str:
            try:
                now = self.metrics()
            except OSError as error:
                return f"/metrics: {error}\n{self.last_words()}"
            figures = f"consumed {now.consumed}, {now.outcomes()}, buffered {now.buffered}, {now.state}, {now.blocks()}"
            return f"{figures}\n{self.last_words()}"

        return wait_for(look, what, timeout, told) or self.metrics()

    def wait_settled(self, records: int, timeout: float = LIMIT_S) -> Scrape:
        """Wait until so many records have their final outcome and nothing is buffered."""
        return self.wait_until(
            lambda now: now.settled >= records and not now.buffered, f"{records} records are settled", timeout
        )

    def wait_line(self, message: str, timeout: float = LIMIT_S) -> dict[str, Any]:
        """Wait for a log line with this message and return the first."""

        def look() -> list[dict[str, Any]]:
            self._running()
            return self.log_lines(message)

        return wait_for(look, f"the log says {message!r}", timeout, self.last_words)[0]

    # -- its end

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, timeout: float = LIMIT_S) -> int:
        """Wait for its end and return the exit code."""
        try:
            return self._process.wait(timeout)
        except TimeoutError:
            message = f"the worker still runs after {timeout:.0f} s\n{self.last_words()}"
            raise AssertionError(message) from None

    def terminate(self, timeout: float = LIMIT_S) -> int:
        """Send SIGTERM, wait for its end, and return the exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> int:
        """Send SIGKILL, as a crash would end it."""
        return self._process.kill()


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {"text": line}
    return found if isinstance(found, dict) else {"text": line}


class WorkerFactory(Protocol):
    """Starts workers that end with the test."""

    def __call__(self, settings: Mapping[str, str]) -> WorkerProcess: ...


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[WorkerFactory]:
    """The factory of workers. At the end all are gone, and none may have written a traceback."""
    started: list[WorkerProcess] = []

    def start(settings: Mapping[str, str]) -> WorkerProcess:
        started.append(WorkerProcess(settings, tmp_path / f"worker-{len(started)}.log"))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
    tracebacks = [line for worker in started for line in worker.log_lines() if "Traceback" in str(line)]
    assert tracebacks == []


class WatchedBooks:
    """Scrapes a worker all the while, in a thread, and keeps every reading in which the books do not balance."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="books", daemon=True)
        self.scrapes = 0
        self.imbalances: list[dict[str, tuple[float, float]]] = []

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            try:
                scrape = self._worker.metrics()
            except (OSError, http.client.HTTPException):  # the worker ends
                continue
            self.scrapes += 1
            if wrong := scrape.imbalances():
                self.imbalances.append(wrong)

    def __enter__(self) -> Self:
        assert self._worker.port
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        join(self._thread)


# -- the stage


@dataclass
class Published:
    """A record that was published, and where it is. `vector` None is a delete."""

    key: str
    vector: Sequence[float] | None
    place: Place


@dataclass
class Stage:
    """One topic with its dead-letter topic, group and index, on the shared broker and emulator."""

    broker: Broker
    emulator: Emulator
    admin: Any
    topic: str
    dead_letter_topic: str
    group: str
    bucket: str
    index: str
    partitions: int
    history: list[Published] = field(default_factory=list)

    @property
    def target(self) -> tuple[str, str]:
        """(bucket, index)."""
        return self.bucket, self.index

    def settings(self, **overrides: object) -> dict[str, str]:
        """A worker's environment for this stage."""
        own = {"bucket": self.bucket, "routes": {self.topic: self.index}, "group": self.group}
        given: dict[str, Any] = own | {"dead_letter_topic": self.dead_letter_topic} | overrides
        return worker_settings(self.broker, self.emulator, **given)

    def publish(self, records: Sequence[Record], codec: str | None = None) -> list[Place]:
        """Publish records, which the model does not learn of."""
        return publish(self.broker.bootstrap, self.topic, records, codec)

    def publish_versions(
        self, versions: Sequence[tuple[str, Sequence[float] | None]], codec: str | None = None
    ) -> None:
        """Publish (key, vector) in order, None for a tombstone; the model learns them."""
        with closing(
            KafkaProducer(bootstrap_servers=self.broker.bootstrap, compression_type=codec, linger_ms=5)
        ) as one:
            self.publish_versions_with(one, versions)

    def publish_versions_with(self, producer: Any, versions: Sequence[tuple[str, Sequence[float] | None]]) -> None:
        """As `publish_versions`, with a producer that is there."""
        records = [
            vector_record(key, vector) if vector is not None else Record(key.encode(), None) for key, vector in versions
        ]
        places = publish_with(producer, self.topic, records)
        self.history += [Published(key, vector, place) for (key, vector), place in zip(versions, places, strict=True)]

    def model(self, below: Mapping[int, int] | None = None) -> dict[str, list[float]]:
        """The newest version of each key; of the records below these offsets by partition, if they are given."""
        newest: dict[str, Published] = {}
        for one in self.history:
            if below is not None and one.place.offset >= below.get(one.place.partition, 0):
                continue
            if one.key not in newest or newest[one.key].place.offset < one.place.offset:
                newest[one.key] = one
        return {key: list(one.vector) for key, one in newest.items() if one.vector is not None}

    def dump(self) -> dict[str, list[float]]:
        """What the index holds, by key."""
        return {key: [float(number) for number in one.data] for key, one in self.stored().items()}

    def stored(self) -> dict[str, Stored]:
        """What the index holds, with metadata."""
        return self.emulator.dump(self.bucket, self.index)

    def committed(self) -> dict[int, int]:
        """The group's committed offsets of the topic, by partition."""
        try:
            found = self.admin.list_group_offsets(self.group)[self.group]
        except kafka_errors.CoordinatorNotAvailableError:
            return {}  # no group has ever been on this broker
        return {tp.partition: at.offset for tp, at in found.items() if tp.topic == self.topic and at.offset >= 0}

    def ends(self) -> dict[int, int]:
        """The topic's end offsets, by partition."""
        with closing(KafkaConsumer(bootstrap_servers=self.broker.bootstrap)) as consumer:
            ends = consumer.end_offsets([TopicPartition(self.topic, number) for number in range(self.partitions)])
        return {tp.partition: end for tp, end in ends.items()}

    def wait_committed_to_the_end(self, worker: WorkerProcess) -> None:
        """Wait until every partition is committed to its end."""

        def is_committed() -> bool:
            # The end moves until the broker has written a transaction's marker. With nothing to commit, a partition that never
            # had a record has no committed offset for a while.
            ends = self.ends()
            return {number: self.committed().get(number, 0) for number in ends} == ends

        wait_for(
            is_committed,
            "the committed offsets are the ends",
            told=lambda: f"committed {self.committed()}, ends {self.ends()}\n{worker.last_words()}",
        )

    def dead_letters(self, *, has_odd_names: bool = False) -> list[Any]:
        """All dead letters."""
        return read_topic(self.broker.bootstrap, self.dead_letter_topic, has_odd_names=has_odd_names)

    def requests(self, operation: str | None = None) -> list[JournalEntry]:
        """The emulator's journal of this bucket's index."""
        return [
            entry
            for entry in self.emulator.requests(bucket=self.bucket)
            if entry.index == self.index and operation in {None, entry.operation}
        ]


class StageFactory(Protocol):
    """Sets a stage that no other test has."""

    def __call__(self, partitions: int = 4, dimension: int = 4, distance_metric: str = "euclidean") -> Stage: ...


@pytest.fixture
def new_stage(
    broker: Broker, emulator: Emulator, admin: KafkaAdminClient, new_topic: TopicFactory, new_group: GroupFactory
) -> StageFactory:
    """The factory of stages."""

    def create(partitions: int = 4, dimension: int = 4, distance_metric: str = "euclidean") -> Stage:
        bucket, index = emulator.new_index(dimension, distance_metric)
        return Stage(
            broker, emulator, admin, new_topic(partitions), new_topic(), new_group(), bucket, index, partitions
        )

    return create


def versions_of(keys: int, count: int, seed: int = 0, first: int = 0) -> list[tuple[str, Sequence[float]]]:
    """So many versions of so many keys, drawn at random; the vector tells the version, from `first` on, and the key."""
    drawn = random.Random(seed)
    return [
        (f"key-{number}", [float(first + version), float(number), 0.5, 1.0])
        for version in range(count)
        for number in [drawn.randrange(keys)]
    ]


def key_overlaps(entries: Iterable[JournalEntry]) -> list[tuple[int, int, set[str]]]:
    """(number, number, common keys) of every two requests that were under way at once with a common key."""
    now = time.monotonic()
    found = []
    under_way: list[JournalEntry] = []
    for entry in sorted(entries, key=lambda one: one.started):
        if entry.operation not in {"PutVectors", "DeleteVectors"}:
            continue
        under_way = [one for one in under_way if (now if one.ended is None else one.ended) > entry.started]
        found += [
            (one.sequence, entry.sequence, common) for one in under_way if (common := set(one.keys) & set(entry.keys))
        ]
        under_way.append(entry)
    return found


def most_at_once(entries: Iterable[JournalEntry]) -> int:
    """How many requests were under way at once, at the most."""
    moments = [moment for one in entries if one.ended is not None for moment in ((one.started, 1), (one.ended, -1))]
    most = now = 0
    for _, step in sorted(moments, key=lambda moment: (moment[0], moment[1])):
        now += step
        most = max(most, now)
    return most
