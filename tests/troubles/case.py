"""One trouble on its own topic, group, index and scrape job, and what was seen of it."""

import contextlib
import itertools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kafka.admin import ConfigResource, NewTopic

from tests.support.bounded import join, thread
from tests.support.emulator import Emulator
from tests.support.worker import Record, WorkerProcess, vector_record, worker_settings
from worker.local.broker import Broker

DIMENSION: Final = 4
RESTART_SECONDS: Final = 5.0
"""How long a supervisor waits before it starts a worker again."""
AS_SHIPPED: Final = (
    "kafka__session_timeout_ms",
    "kafka__revoke_seconds",
    "kafka__commit_interval_seconds",
    "oss__read_timeout_seconds",
    "batch__max_age_seconds",
    "delivery__vectors_per_second",
    "delivery__retry_initial_seconds",
    "delivery__retry_max_seconds",
    "shutdown__drain_seconds",
)
"""Settings that tests make quicker. Here the defaults hold, since it is them that a person on call has."""


class Supervised:
    """A worker that is started again whenever it ends; it may also be killed every so often."""

    def __init__(self, start: Callable[[], WorkerProcess], kill_every_seconds: float = 0.0) -> None:
        self._start = start
        self._kill_every = kill_every_seconds
        self._stop = threading.Event()
        self._thread = thread(self._run, name="supervisor")

    def _run(self) -> None:
        while not self._stop.is_set():
            process, began = self._start(), time.monotonic()
            while process.is_running() and not self._stop.wait(0.5):
                if self._kill_every and time.monotonic() - began > self._kill_every:
                    process.kill()
            process.kill()
            self._stop.wait(RESTART_SECONDS)

    def stop(self) -> None:
        """End it, and start nothing more."""
        self._stop.set()
        join(self._thread)


@dataclass
class Case:
    """Where one trouble happens. `broker` is who the workers ask, `admin` an administrator of it."""

    name: str
    job: str
    broker: Broker
    admin: Any
    emulator: Emulator
    folder: Path
    group: str
    ports: list[int]
    rate: float = 1.0
    partitions: int = 2
    placed: bool = False
    bad_every: int = 0
    poison_every: int = 0
    timestamp_ms: Callable[[], int] | None = None
    workers: list[WorkerProcess] = field(default_factory=list)
    supervised: list[Supervised] = field(default_factory=list)
    closing: list[Callable[[], None]] = field(default_factory=list)
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    overrides: dict[str, object] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    bucket: str = ""
    index: str = "vectors"
    lives: Iterator[int] = field(default_factory=itertools.count)
    sent: int = 0
    due: float = 0.0

    @property
    def topic(self) -> str:
        """The source topic."""
        return f"{self.job}.vectors"

    @property
    def dead_letters(self) -> str:
        """The dead-letter topic."""
        return f"{self.job}.dlq"

    # -- before the trouble

    def make_topic(self, name: str, nodes: Mapping[int, int] | None = None, **config: str) -> None:
        """Create a topic whose partitions are on the first node, but for those that `nodes` names. The dead-letter topic has one."""
        count = 1 if name == self.dead_letters else self.partitions
        placed = {number: [(nodes or {}).get(number, 1)] for number in range(count)}
        settings = {key.replace("_", "."): value for key, value in config.items()}
        topic = NewTopic(name, replica_assignments=placed, topic_configs=settings)
        self.admin.create_topics([topic], wait_for_metadata=True)

    def alter_topic(self, name: str, **config: str) -> None:
        """Change settings of a topic."""
        settings = {key.replace("_", "."): value for key, value in config.items()}
        self.admin.alter_configs([ConfigResource("TOPIC", name, settings)])

    def settings(self, **overrides: object) -> dict[str, str]:
        """A worker's environment, with the defaults of the product."""
        given: dict[str, Any] = {
            "routes": {self.topic: self.index},
            "bucket": self.bucket,
            "group": self.group,
            "dead_letter_topic": self.dead_letters,
            **dict.fromkeys(AS_SHIPPED),
            "http__port": self.ports[0],
            **self.overrides,
            **overrides,
        }
        return worker_settings(self.broker, self.emulator, **given) | self.environment

    def start(self, **overrides: object) -> WorkerProcess:
        """Start one more worker."""
        process = WorkerProcess(self.settings(**overrides), self.folder / f"{self.job}-{next(self.lives)}.log")
        self.workers.append(process)
        return process

    def supervise(self, kill_every_seconds: float = 0.0, **overrides: object) -> None:
        """Start a worker that is started again whenever it ends."""
        self.supervised.append(Supervised(lambda: self.start(**overrides), kill_every_seconds))

    def restart(self, **overrides: object) -> None:
        """End the workers as a deployment does, and start one with these settings from now on."""
        self.overrides |= overrides
        for process in self.workers:
            if process.is_running():
                process.terminate()
        self.start()

    # -- targets of the scrapes

    def targets(self, *ports: int) -> None:
        """Give Prometheus these targets in place of those before."""
        told = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
        path = self.folder / f"{self.job}.targets.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(told))
        fresh.rename(path)

    # -- records

    def records(self, now: float) -> list[Record]:
        """What is published now, by the rate."""
        if self.rate <= 0:
            self.due = 0.0
            return []
        self.due = self.due or now
        made = []
        while self.due <= now:
            self.due += 1 / self.rate
            made.append(self.record())
        return made

    def record(self) -> Record:
        """The next record: a good one, but for those that `bad_every` and `poison_every` say."""
        self.sent += 1
        key, partition = f"key-{self.sent % 500}", self.sent % self.partitions
        if self.poison_every and self.sent % self.poison_every == 0:
            key = f"poison-{self.sent}"
        vector = [float(self.sent), 1.0, 2.0, 3.0]
        is_bad = self.bad_every and self.sent % self.bad_every == 0
        return vector_record(key, vector[:2] if is_bad else vector, partition)

    # -- the end

    def close(self) -> None:
        """End all of it."""
        for supervised in self.supervised:
            supervised.stop()
        for process in self.workers:
            if process.is_running():
                process.send_signal(signal.SIGCONT)
                process.kill()
        for close in (self.undo.close, *self.closing):
            with contextlib.suppress(Exception):  # the trouble itself may have ended it
                close()
