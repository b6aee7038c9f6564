"""Apache Kafka on this machine: it serves, it keeps what it is told to keep, and it never outlives its starter."""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from tests.support.bounded import running
from tests.support.broker import create_topic
from worker.local.broker import Broker, BrokerError
from worker.local.process import Process, spawn

PROC = Path("/proc")
on_linux = pytest.mark.skipif(not PROC.exists(), reason="looks into /proc")

COMMAND = [sys.executable, "-m", "worker", "local", "broker"]
LIMIT_S = 60.0


def produce(bootstrap: str, topic: str, values: list[bytes], codec: str | None = None) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", compression_type=codec, linger_ms=20)
    try:
        for sent in [producer.send(topic, value, partition=0) for value in values]:
            sent.get(timeout=LIMIT_S)
    finally:
        producer.close()


def consume(bootstrap: str, topic: str, count: int, group: str | None = None) -> list[bytes]:
    """The values of the first `count` records, or fewer if there are no more of them within the limit."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest")
    values: list[bytes] = []
    try:
        consumer.partitions_for_topic(topic)
        if group is None:
            consumer.assign([TopicPartition(topic, 0)])
        else:
            consumer.subscribe([topic])
        deadline = time.monotonic() + LIMIT_S
        while len(values) < count and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=1000).values():
                values.extend(record.value for record in records)
    finally:
        consumer.close()
    return values


@contextlib.contextmanager
def command(*options: str, env: Mapping[str, str] | None = None) -> Iterator[Process]:
    """The command `local broker`, which ends with the test in any case."""
    child = spawn([*COMMAND, *options], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    with child, child.stdout, child.stderr:
        yield child


def announced_port(child: Process) -> int:
    """The port in the line that says that the broker answers."""
    assert child.stdout is not None
    line = child.stdout.readline()
    found = re.fullmatch(r"Apache Kafka 4\.3\.1 on 127\.0\.0\.1:(\d+)\n", line)
    assert found is not None, line
    return int(found[1])


@dataclass
class Java:
    """A running Java process and the supervisor that is its parent, with handles that tell their ends."""

    pid: int
    handles: list[int]

    def await_end(self, limit_s: float) -> bool:
        """Whether both end within the limit."""
        deadline = time.monotonic() + limit_s
        ended = [select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0] for handle in self.handles]
        return all(ended)


@contextlib.contextmanager
def java_in(folder: Path) -> Iterator[Java]:
    """The one Java process that works in a folder below this one."""
    pids = [int(entry.name) for entry in PROC.glob("[0-9]*") if works_in(entry, folder) and "java" in name_of(entry)]
    assert len(pids) == 1
    parent = int((PROC / str(pids[0]) / "stat").read_text().rpartition(")")[2].split()[1])
    java = Java(pids[0], [os.pidfd_open(pid) for pid in (pids[0], parent)])
    try:
        yield java
    finally:
        for handle in java.handles:
            os.close(handle)


def works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink().is_relative_to(folder)
    except OSError:  # it ended, or is another user's
        return False


def name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text()
    except OSError:  # it ended
        return ""


def listening_addresses(pid: int) -> set[str]:
    """The local addresses that a process listens on, as the kernel writes them: hexadecimal, in the host's order."""
    sockets = set()
    for descriptor in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            sockets.add(str(descriptor.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_records_come_back_in_order_with_every_codec(broker: Broker, topic: str, codec: str) -> None:
    values = [b"%d " % number * 500 for number in range(100)]

    produce(broker.bootstrap, topic, values, codec)

    assert consume(broker.bootstrap, topic, len(values)) == values


def test_a_group_reads_every_partition(broker: Broker, topic: str, group: str) -> None:
    produce(broker.bootstrap, topic, [b"first", b"second"])

    assert consume(broker.bootstrap, topic, 2, group) == [b"first", b"second"]


@on_linux
def test_it_listens_on_loopback_only(broker: Broker) -> None:
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}

    assert broker.pid is not None
    addresses = listening_addresses(broker.pid)

    assert addresses != set()
    assert addresses - loopback == set()


@on_linux
def test_sigterm_ends_the_command_with_0_and_leaves_nothing(tmp_path: Path) -> None:
    with command("--port", "0", env={**os.environ, "TMPDIR": str(tmp_path)}) as child:
        port = announced_port(child)
        with java_in(tmp_path) as java:
            child.send_signal(signal.SIGTERM)
            code = child.wait(LIMIT_S)
            ended = java.await_end(0)
        assert child.stderr is not None
        said = child.stderr.read()

    assert (code, said, ended) == (0, "", True)
    assert list(tmp_path.iterdir()) == []
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0


@on_linux
def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    with command("--port", "0", env={**os.environ, "TMPDIR": str(tmp_path)}) as child:
        announced_port(child)
        with java_in(tmp_path) as java:
            child.kill()
            ended = java.await_end(5.0)

    assert ended is True
    assert list(tmp_path.iterdir()) == []


def test_it_ends_when_the_pipe_from_its_starter_closes() -> None:
    with running([*COMMAND, "--port", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()

        child.stdin.close()

        assert child.wait(LIMIT_S) == 0


def test_sigterm_during_the_start_ends_it_with_0(tmp_path: Path) -> None:
    with command("--port", "0", "--data", str(tmp_path / "data")) as child:
        deadline = time.monotonic() + LIMIT_S
        while not (tmp_path / "data" / "kafka.log").exists() and time.monotonic() < deadline:
            select.select([child], [], [], 0.02)  # Java is being started; nothing announces it
        code = child.terminate(LIMIT_S)

    assert code == 0


def test_a_data_folder_keeps_records_over_a_restart_of_the_command(tmp_path: Path) -> None:
    options = ["--port", "0", "--data", str(tmp_path / "data")]
    with command(*options) as child:
        bootstrap = f"127.0.0.1:{announced_port(child)}"
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        topic = create_topic(admin)
        admin.close()
        produce(bootstrap, topic, [b"kept"])
        child.terminate(LIMIT_S)

    with command(*options) as child:
        values = consume(f"127.0.0.1:{announced_port(child)}", topic, 1)

    assert values == [b"kept"]


def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "--port", str(port)], check=False, capture_output=True, text=True, timeout=LIMIT_S
        )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: port {port} on 127.0.0.1 is in use; choose another, or 0 for a free one\n"


def test_a_broker_that_dies_at_its_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"(?s)died at its start.*num\.io\.threads"):
        Broker.start(tmp_path, config={"num.io.threads": "none"})


def test_acknowledged_records_survive_a_kill_and_the_address_stays() -> None:
    with Broker.start() as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        topic = create_topic(admin)
        admin.close()
        values = [b"%d" % number for number in range(200)]
        address = broker.bootstrap
        produce(address, topic, values)

        broker.kill()
        assert broker.pid is None
        broker.restart()

        assert broker.bootstrap == address
        assert consume(address, topic, len(values)) == values
    assert broker.data.exists() is False


def test_a_child_process_gives_its_exit_code_or_the_signal_that_ended_it() -> None:
    with spawn([sys.executable, "-c", "raise SystemExit(7)"]) as child:
        assert child.wait(LIMIT_S) == 7

    with spawn(["sleep", "600"]) as child:
        os.kill(child.pid, signal.SIGSEGV)
        assert child.wait(LIMIT_S) == -signal.SIGSEGV


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_a_child_process_also_where_this_process_ignores_it(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        child = spawn(["sleep", "600"])
    finally:
        signal.signal(number, before)
    with child:
        child.send_signal(number)
        assert child.wait(LIMIT_S) == -number


def test_a_child_process_that_ignores_sigterm_is_killed() -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    child = spawn([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        child.stdout.readline()

        assert child.terminate(timeout=0.1) == -signal.SIGKILL


def test_a_child_process_that_cannot_start_raises_oserror() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        spawn(["no-such-program"])
