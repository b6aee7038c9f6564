"""The stage, the faults, the model and the verdict."""

import contextlib
import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, Unpack

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from tests.chaos.poison import BROKEN, ODD_NAMES
from tests.chaos.rotation import RotatedKey
from tests.support.bounded import join
from tests.support.broker import create_topic
from tests.support.emulator import Fault, JournalEntry, running_emulator
from tests.support.proxy import Proxy
from tests.support.worker import Stage, WorkerProcess, free_port, read_topic, wait_for
from worker.deadletters.headers import rfc3339
from worker.local.broker import Broker

PARTITIONS: Final = 6
KEYS: Final = 300
MAX_WORKERS: Final = 3
SESSION_SECONDS: Final = 6
SETTLE_SECONDS: Final = 150.0  # in which more of every partition that is behind is committed
LOOK_SECONDS: Final = 0.2  # between looks at the committed offsets and the journal
QUEUED_LATENCY_SECONDS: Final = 0.5  # of the service while a worker is about to be frozen, so that it has work queued
RETIRED_KEY: Final = KEYS // 2  # keys from here on are written no more once the faults are half over
KIND: Final = "kind"  # the header that tells the model what a record is
GOOD, DELETE, BAD, REFUSED = "good", "delete", "bad", "refused"
_PART_OF_A_SECOND: Final = 0.05

_PAGE = "<html><head><title>%s</title></head><body><h1>%s</h1></body></html>"
PAGES: Final[tuple[tuple[int, str], ...]] = (
    (200, "Down for maintenance"),
    (204, "No Content"),
    (302, "Please log in"),
    (400, "Bad Request"),
    (403, "Access denied by the firewall"),
    (413, "Request Entity Too Large"),
    (502, "Bad Gateway"),
)


@dataclass
class Report:
    """What was done, and what came of it."""

    seed: int
    seconds: float = 0.0
    published: Counter[str] = field(default_factory=Counter)
    poison: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    vectors_written: int = 0
    lost: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    stale_writes: list[str] = field(default_factory=list)
    replayed: int = 0
    not_deleted: list[str] = field(default_factory=list)
    wrong_dead_letters: list[str] = field(default_factory=list)
    dead_letters: int = 0
    dead_letters_twice: int = 0
    imbalances: list[str] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Tell whether every promise held."""
        return not self._broken_promises()

    def _broken_promises(self) -> list[str]:
        return [
            *(self.lost + self.stale + self.stale_writes + self.not_deleted),
            *(self.wrong_dead_letters + self.imbalances + self.deaths),
        ]

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.published.items()))
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        poison = ", ".join(f"{count} {name}" for name, count in sorted(self.poison.items()))
        figures = {
            "requests": self.requests,
            "vectors and keys written": self.vectors_written,
            "records to write": self.published[GOOD] + self.published[DELETE],
            "dead letters": self.dead_letters,
            "of which written twice": self.dead_letters_twice,
            "lost": len(self.lost),
            "stale": len(self.stale),
            "not deleted": len(self.not_deleted),
            "stale writes": len(self.stale_writes),
            "older versions written again by a new owner": self.replayed,
            "wrong dead letters": len(self.wrong_dead_letters),
            "books out of balance": len(self.imbalances),
            "unexpected ends": len(self.deaths),
        }
        lines = [f"seed {self.seed}, {self.seconds:.0f} s, {sum(self.published.values())} records: {kinds}"]
        lines += [f"faults: {faults or 'none'}", f"poison: {poison}"]
        lines += [", ".join(f"{name} {count}" for name, count in figures.items())]
        return "\n".join(lines + self._broken_promises()[:20])


class Publisher:
    """Publishes versions of few keys in a thread, with deletes, broken records, and keys that the service refuses."""

    def __init__(self, bootstrap: str, topic: str, refused: Sequence[str], rng: random.Random, rate: float) -> None:
        self._topic = topic
        self._refused = refused
        self._rng = rng
        self._rate = rate
        self._stop = threading.Event()
        self._last_key = KEYS - 1
        self._version = 0
        self.counts: Counter[str] = Counter()
        self.poison: Counter[str] = Counter()
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap,
            linger_ms=5,
            compression_type="zstd",
            delivery_timeout_ms=120_000,
            max_block_ms=60_000,
            reconnect_backoff_max_ms=1_000,
        )
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def retire(self) -> None:
        """Write the last keys no more: what is stale of them stays stale, and is seen in the end."""
        self._last_key = RETIRED_KEY - 1

    def finish(self) -> None:
        """Stop, and wait until what was sent is there or given up."""
        self._stop.set()
        join(self._thread, limit_seconds=120)
        self._producer.flush(timeout=120)
        self._producer.close()

    def _run(self) -> None:
        while not self._stop.wait(_PART_OF_A_SECOND):
            for _ in range(max(1, round(self._rate * _PART_OF_A_SECOND))):
                with contextlib.suppress(Exception):  # what was not sent is not in the topic, which is what counts
                    self._send()

    def _send(self) -> None:
        kind, key, value = self._next()
        headers = [(KIND, kind.encode()), ("sequence", str(self._version).encode()), *self._odd_headers()]
        self._producer.send(self._topic, key=key, value=value, headers=headers)
        self.counts[kind] += 1

    def _next(self) -> tuple[str, bytes, bytes | None]:
        self._version += 1
        draw = self._rng.random()
        if draw < 0.01:
            name = self._rng.choice(list(BROKEN))
            self.poison[name] += 1
            return BAD, f"broken-{self._rng.randrange(20)}".encode(), BROKEN[name]
        if draw < 0.015:
            key = self._rng.choice(self._refused)
            return REFUSED, key.encode(), self._value(key)
        key = f"key-{min(self._rng.randint(0, self._last_key), self._rng.randint(0, self._last_key))}"
        return (DELETE, key.encode(), None) if draw < 0.06 else (GOOD, key.encode(), self._value(key))

    def _odd_headers(self) -> list[tuple[str, bytes]]:
        if self._rng.random() >= 0.02:
            return []
        self.poison["header name that is not UTF-8, or empty"] += 1
        return [(self._rng.choice(ODD_NAMES), b"\xff")]

    def _value(self, key: str) -> bytes:
        return json.dumps({"key": key, "data": {"float32": [float(self._version), 1.0, 2.0, 3.0]}}).encode()


class Observer:
    """Keeps, in a thread, what the service applied, and what the group had committed at which moment.

    A put of a record that lay below the committed offset when the request came is a stale write: who owns the partition
    has read from that offset on, and commits nothing that it still has to write. So its sender did not own it any more. A
    new owner that writes again what was not committed is none, though it may write an older version after a newer one.
    A request that had left before, which nobody can call back, came before the offset was committed.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._stop = threading.Event()
        self._entries: dict[int, JournalEntry] = {}
        self._committed: list[tuple[float, dict[int, int]]] = []
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def finish(self) -> list[JournalEntry]:
        """Look once more, stop, and return the journal."""
        self._stop.set()
        join(self._thread)
        self._look_at_the_journal()
        return list(self._entries.values())

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            with contextlib.suppress(Exception):  # the broker is down: what it had committed before is known
                self._look_at_the_group()
            self._look_at_the_journal()

    def _look_at_the_group(self) -> None:
        with closing(
            KafkaAdminClient(bootstrap_servers=self._stage.broker.bootstrap, request_timeout_ms=2_000)
        ) as admin:
            found = admin.list_group_offsets(self._stage.group)[self._stage.group]
        offsets = {tp.partition: at.offset for tp, at in found.items() if tp.topic == self._stage.topic}
        self._committed.append((time.monotonic(), offsets))

    def _look_at_the_journal(self) -> None:
        under_way = [number for number, entry in self._entries.items() if entry.ended is None]
        since = min(under_way, default=max(self._entries, default=0) + 1) - 1
        for entry in self._stage.emulator.requests(since, bucket=self._stage.bucket):
            self._entries[entry.sequence] = entry

    def judge(self, places: Mapping[float, tuple[int, int]]) -> tuple[list[str], int]:
        """Return the stale writes, and how often an older version came after a newer one; `places` by version."""
        puts = sorted((entry for entry in self._entries.values() if entry.firsts), key=lambda entry: entry.started)
        stale: list[str] = []
        known: dict[int, int] = {}
        looks = iter(self._committed)
        upcoming = next(looks, None)
        for entry in puts:
            while upcoming is not None and upcoming[0] < entry.started:
                known |= upcoming[1]
                upcoming = next(looks, None)
            for key, version in entry.changes:
                partition, offset = places[version or 0.0]
                if offset < known.get(partition, 0):
                    stale.append(
                        f"stale write: {key}, {partition}/{offset}, committed {known[partition]}, request {entry.sequence} "
                        f"at {rfc3339(entry.at)}, answered {entry.status}"
                    )
        return stale, self._replayed(puts)

    @staticmethod
    def _replayed(puts: Sequence[JournalEntry]) -> int:
        newest: dict[str, float] = {}
        count = 0
        for entry in sorted(puts, key=lambda entry: entry.change or 0):
            for key, version in entry.changes:
                count += (version or 0.0) < newest.get(key, 0.0)
                newest[key] = max(version or 0.0, newest.get(key, 0.0))
        return count


class Chaos:
    """One run: everything that it starts ends with it."""

    def __init__(self, seed: int, folder: Path, *, rate: float = 300.0, tell: Callable[[str], None] = print) -> None:
        self.report = Report(seed)
        self._rng = random.Random(seed)
        self._folder = folder
        self._rate = rate
        self._tell = tell
        self._workers: list[WorkerProcess] = []
        self._started = 0
        self._stack = ExitStack()
        self._actions: dict[str, Callable[[], None]] = {
            "worker killed": self.kill_worker,
            "worker stopped by SIGTERM": self.restart_worker,
            "worker frozen beyond its session with work queued": self.freeze_worker,
            "workers added or removed": self.scale,
            "broker killed": self.kill_broker,
            "broker connections cut": self.cut_broker,
            "broker swallowed": self.swallow_broker,
            "broker refused": self.refuse_broker,
            "service connections cut": self.cut_service,
            "service slow network": self.delay_service,
            "service swallowed": self.swallow_service,
            "service outage": self.outage,
            "service throttling": self.throttle,
            "service resets": self.resets,
            "service errors, some applied in part": self.errors,
            "service slow": self.slow_service,
            "a proxy's page in place of the answer": self.page_of_a_proxy,
            "a firewall refuses some records": self.refuse_by_firewall,
            "credentials replaced": self.rotate_credentials,
        }

    @property
    def actions(self) -> list[str]:
        """The names of all faults."""
        return list(self._actions)

    # -- the stage

    def __enter__(self) -> Self:
        port = free_port()
        self._broker_proxy = self._stack.enter_context(Proxy(port))
        config = {"advertised.listeners": f"CLIENTS://127.0.0.1:{self._broker_proxy.port}"}
        self._broker = self._stack.enter_context(Broker.start(port=port, config=config))
        self._emulator = self._stack.enter_context(running_emulator())
        self._service_proxy = self._stack.enter_context(Proxy(self._emulator.port))
        bucket, index = self._emulator.new_index(4)
        with closing(KafkaAdminClient(bootstrap_servers=self._broker.bootstrap)) as admin:
            topic, dead_letters = create_topic(admin, PARTITIONS), create_topic(admin, 1)
        self._stage = Stage(self._broker, self._emulator, None, topic, dead_letters, "chaos", bucket, index, PARTITIONS)
        self._refused = [f"refused-{number}" for number in range(10)]
        self._emulator.fault(bucket=bucket, refuse_keys=self._refused)
        self._key = RotatedKey(self._emulator, self._folder / "credentials.json")
        self._stack.callback(self._end_workers)
        self.start_worker()
        self._observer = Observer(self._stage)
        self._publisher = Publisher(self._broker.bootstrap, topic, self._refused, self._rng, self._rate)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _settings(self) -> dict[str, str]:
        return self._stage.settings(
            kafka__bootstrap_servers=f"127.0.0.1:{self._broker_proxy.port}",
            kafka__session_timeout_ms=SESSION_SECONDS * 1000,
            kafka__revoke_seconds=4,
            oss__endpoint=f"http://127.0.0.1:{self._service_proxy.port}",
            oss__credentials="file",
            oss__credentials_file=self._key.path,
            oss__read_timeout_seconds=3,
            oss__write_timeout_seconds=3,
            records__tombstones="delete",
            batch__max_records=50,
            delivery__retry_max_seconds=1,
            dead_letter__limit_ratio=0.5,
        )

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.send_signal(signal.SIGCONT)
            worker.kill()

    # -- faults of workers

    def start_worker(self) -> None:
        """Start one more."""
        self._started += 1
        self._workers.append(WorkerProcess(self._settings(), self._folder / f"worker-{self._started}.log"))

    def kill_worker(self) -> None:
        """SIGKILL one, and start another some time later."""
        victim = self._workers.pop(self._rng.randrange(len(self._workers)))
        victim.kill()
        time.sleep(self._rng.uniform(0, 2))
        self.start_worker()

    def restart_worker(self) -> None:
        """Stop one as an orchestrator does, and start another."""
        self._remove_worker()
        self.start_worker()

    def _remove_worker(self) -> None:
        victim = self._workers.pop(self._rng.randrange(len(self._workers)))
        try:
            code = victim.terminate(timeout=25)
        except AssertionError as error:
            victim.kill()
            self.report.deaths.append(str(error))
            return
        was_told_before_it_began = code == -signal.SIGTERM and not victim.log.read_bytes()
        if code and not was_told_before_it_began:
            self.report.deaths.append(f"a worker ended with {code} on SIGTERM: {victim.last_words()}")

    def freeze_worker(self) -> None:
        """Stop one that has work queued for longer than its session, so that others take its partitions, and wake it.

        The others write newer versions meanwhile, quickly, and commit them.
        """
        if len(self._workers) < 2:
            self.start_worker()
            time.sleep(SESSION_SECONDS)  # in which it has joined
        worker = self._rng.choice(self._workers)
        with self._faulty_service(operation="PutVectors", latency_seconds=QUEUED_LATENCY_SECONDS):
            time.sleep(self._rng.uniform(1, 3))
            worker.send_signal(signal.SIGSTOP)
        time.sleep(SESSION_SECONDS + self._rng.uniform(2, 6))
        worker.send_signal(signal.SIGCONT)

    def scale(self) -> None:
        """Add a worker, or remove one."""
        if len(self._workers) < MAX_WORKERS and self._rng.random() < 0.6:
            self.start_worker()
        elif len(self._workers) > 1:
            self._remove_worker()

    # -- faults of the broker

    def kill_broker(self) -> None:
        """SIGKILL the broker, and start it again some time later."""
        self._broker.kill()
        time.sleep(self._rng.uniform(0, 3))
        self._broker.restart()

    def cut_broker(self) -> None:
        """Reset all connections to the broker."""
        self._broker_proxy.cut()

    def swallow_broker(self) -> None:
        """Let nothing through to the broker, for shorter or longer than a session."""
        with self._broker_proxy.swallowing():
            time.sleep(self._rng.choice([2, SESSION_SECONDS + 2]))

    def refuse_broker(self) -> None:
        """Refuse all connections to the broker, for shorter or longer than a session."""
        with self._broker_proxy.refusing():
            time.sleep(self._rng.choice([2, SESSION_SECONDS + 2]))

    # -- faults of the service

    def cut_service(self) -> None:
        """Reset all connections to the service."""
        self._service_proxy.cut()

    def delay_service(self) -> None:
        """A slow network to the service."""
        with self._service_proxy.delaying(0.1):
            time.sleep(self._rng.uniform(1, 3))

    def swallow_service(self) -> None:
        """Let nothing through to the service; shorter than the read time-out, so that nothing is applied late."""
        with self._service_proxy.swallowing():
            time.sleep(self._rng.uniform(0.5, 2))

    @contextmanager
    def _faulty_service(self, **rule: Unpack[Fault]) -> Iterator[None]:
        rule["bucket"] = self._stage.bucket
        rule["seed"] = self._rng.randrange(1 << 30)
        number = self._emulator.fault(**rule)
        try:
            yield
        finally:
            self._emulator.clear_fault(number)  # and no other: the service never stops refusing what it refuses

    def _fault_for_a_while(self, **rule: Unpack[Fault]) -> None:
        with self._faulty_service(**rule):
            time.sleep(self._rng.uniform(1, 4))

    def outage(self) -> None:
        """Everything is answered 503."""
        self._fault_for_a_while(
            status=503, code="ServiceUnavailable", body=self._rng.choice(["json", "xml", "html", "truncated"])
        )

    def throttle(self) -> None:
        """Half of the requests are answered 429, with Retry-After."""
        self._fault_for_a_while(status=429, code="QpsLimitExceeded", probability=0.5, retry_after=1)

    def resets(self) -> None:
        """Half of the requests end in a reset, before or after they were applied."""
        self._fault_for_a_while(reset=self._rng.choice(["before", "after"]), probability=0.5)

    def errors(self) -> None:
        """Some requests are answered 500, with none, half or all of them applied."""
        self._fault_for_a_while(
            status=500, code="InternalError", probability=0.3, applies=self._rng.choice(["none", "half", "all"])
        )

    def slow_service(self) -> None:
        """Answers take longer."""
        self._fault_for_a_while(latency_seconds=self._rng.uniform(0.2, 1.0))

    def page_of_a_proxy(self) -> None:
        """Something on the way answers with a page of its own, and passes nothing on."""
        status, title = self._rng.choice(PAGES)
        headers = {"Content-Type": "text/html"} | ({"Location": "http://127.0.0.1:1/login"} if status == 302 else {})
        content = "" if status == 204 else _PAGE % (title, title)
        self.report.faults[f"a proxy's page: {status} {title}"] += 1
        self._fault_for_a_while(status=status, headers=headers, content=content)

    def refuse_by_firewall(self) -> None:
        """Something on the way refuses each request that has one of some keys, which are rewritten all the time."""
        status, title = self._rng.choice(
            [(200, "Request Rejected"), (403, "Forbidden"), (405, "Blocked"), (413, "Too Large")]
        )
        self.report.faults[f"a firewall refuses some records: {status} {title}"] += 1
        page, headers = _PAGE % (title, title), {"Content-Type": "text/html"}
        with ExitStack() as stack:
            for number in range(8):
                key = f"key-{number}{self._rng.randrange(10)}"
                stack.enter_context(
                    self._faulty_service(key_contains=key, status=status, headers=headers, content=page)
                )
            time.sleep(self._rng.uniform(4, 10))

    def rotate_credentials(self) -> None:
        """Replace the key that the service accepts, and the file that workers read it from."""
        # A worker that starts while the file is away would rightly end.
        wait_for(
            lambda: all(one.log_lines("http") or not one.is_running() for one in self._workers),
            "all have read their credentials",
        )
        way = self._rng.choice(list(self._key.ways))
        overlap_seconds = self._rng.choice([0.0, 0.5, 2.0])
        self.report.faults[f"credentials replaced: {way}, {overlap_seconds} s of both"] += 1
        self._key.rotate(way, overlap_seconds=overlap_seconds)

    # -- the run

    def storm(self, seconds: float, only: Sequence[str] | None = None) -> None:
        """Bring about faults for so long, one after the other, with some quiet between them."""
        started = time.monotonic()
        names = list(only or self._actions)
        while time.monotonic() - started < seconds:
            if time.monotonic() - started > seconds / 2:
                self._publisher.retire()
            name = self._rng.choice(names)
            self._tell(f"{time.monotonic() - started:6.1f} s  {name}")
            self._actions[name]()
            self.report.faults[name] += 1
            self._note_deaths()
            time.sleep(self._rng.uniform(0.2, 1.5))
        self.report.seconds += time.monotonic() - started

    def _note_deaths(self) -> None:
        for worker in list(self._workers):
            if not worker.is_running():
                self.report.deaths.append(f"a worker ended by itself: {worker.last_words()}")
                self._workers.remove(worker)
        if not self._workers:
            self.start_worker()

    def settle(self) -> None:
        """Stop publishing, and wait until everything is committed."""
        self._publisher.finish()
        self.report.published, self.report.poison = self._publisher.counts, self._publisher.poison
        self._tell("waiting until all is committed")
        bootstrap = self._broker.bootstrap
        partitions = [TopicPartition(self._stage.topic, number) for number in range(PARTITIONS)]
        with closing(
            KafkaConsumer(bootstrap_servers=bootstrap, group_id=self._stage.group, enable_auto_commit=False)
        ) as reader:
            ends = reader.end_offsets(partitions)
            while behind := self._behind(reader, ends):
                self._wait_for_a_commit(reader, ends, behind)

    @staticmethod
    def _behind(reader: KafkaConsumer, ends: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Return how many records are not committed, by partition."""
        left = {partition: end - (reader.committed(partition) or 0) for partition, end in ends.items()}
        return {partition: count for partition, count in left.items() if count > 0}

    def _wait_for_a_commit(
        self, reader: KafkaConsumer, ends: Mapping[TopicPartition, int], behind: Mapping[TopicPartition, int]
    ) -> None:
        """Wait until less is behind: a busy machine may take long for what a long storm left, but nothing may be stuck."""

        def is_less() -> bool:
            self._note_deaths()
            now = self._behind(reader, ends)
            return all(now.get(partition, 0) < count for partition, count in behind.items())

        def told() -> str:
            return f"{behind} {[worker.last_words() for worker in self._workers]}"

        wait_for(is_less, "more of each partition is committed", SETTLE_SECONDS, told)

    def judge(self) -> Report:
        """Hold the index, the dead letters and the books against the model."""
        records = read_topic(self._broker.bootstrap, self._stage.topic, has_odd_names=True)
        model = _model(records)
        index = self._stage.dump()
        report = self.report
        report.lost = [f"lost: {key}, {vector}" for key, vector in model.items() if key not in index]
        report.stale = [
            f"stale: {key} is {index[key]}, should be {vector}"
            for key, vector in model.items()
            if key in index and index[key] != vector
        ]
        report.not_deleted = [f"not deleted: {key}" for key in index if key not in model]
        self._judge_dead_letters(records)
        for worker in self._workers:
            if wrong := worker.metrics().imbalances():
                report.imbalances.append(str(wrong))
        journal = self._observer.finish()
        report.stale_writes, report.replayed = self._observer.judge(_places(records))
        report.requests = len(journal)
        report.vectors_written = sum(len(entry.keys) for entry in journal if entry.applied)
        return report

    def _judge_dead_letters(self, records: Sequence[Any]) -> None:
        expected = {_identity(record) for record in records if _kind(record) in (BAD, REFUSED)}
        found = Counter(_identity(letter) for letter in self._stage.dead_letters(has_odd_names=True))
        self.report.dead_letters = sum(found.values())
        self.report.dead_letters_twice = sum(count - 1 for count in found.values())
        self.report.wrong_dead_letters = [
            *(f"no dead letter for {one}" for one in expected - found.keys()),
            *(f"a dead letter of no bad record: {one}" for one in found.keys() - expected),
        ]


def _kind(record: Any) -> str:
    return str(dict(record.headers)[KIND].decode())


def _identity(record: Any) -> tuple[bytes, bytes, bytes]:
    return record.key or b"", record.value or b"", dict(record.headers)["sequence"]


def _places(records: Sequence[Any]) -> dict[float, tuple[int, int]]:
    """Return where each version that was published stands, (partition, offset)."""
    versions = [record for record in records if _kind(record) in (GOOD, REFUSED)]
    return {json.loads(one.value)["data"]["float32"][0]: (one.partition, one.offset) for one in versions}


def _model(records: Sequence[Any]) -> dict[str, list[float]]:
    """Apply the good records one by one, in the order of each partition."""
    index: dict[str, list[float]] = {}
    for record in records:
        kind = _kind(record)
        if kind == DELETE:
            index.pop(record.key.decode(), None)
        elif kind == GOOD:
            index[record.key.decode()] = json.loads(record.value)["data"]["float32"]
    return index


def run(
    seed: int,
    seconds: float,
    folder: Path,
    *,
    only: Sequence[str] | None = None,
    rate: float = 300.0,
    tell: Callable[[str], None] = print,
) -> Report:
    """Run a storm, let it settle, and judge."""
    with Chaos(seed, folder, rate=rate, tell=tell) as chaos:
        chaos.storm(seconds, only)
        chaos.settle()
        return chaos.judge()
