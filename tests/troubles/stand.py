"""Brokers, the emulator, Prometheus and Alertmanager, which all troubles share, and one thread that publishes."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from tests.support.bounded import join, thread
from tests.support.cluster import running_cluster
from tests.support.emulator import Emulator, running_emulator
from tests.support.fronted_broker import BriefAdmin
from tests.troubles.case import Case
from worker.local.broker import Broker

OFFSETS_PARTITIONS: Final = 4
SILENT_SECONDS: Final = 20.0
"""After how long without an acknowledgement a producer is replaced."""
CONFIG: Final[Mapping[str, str]] = {
    "group.initial.rebalance.delay.ms": "500",
    "log.retention.check.interval.ms": "10000",
    "log.initial.task.delay.ms": "1000",
}


@dataclass
class Stand:
    """What the troubles share: `nodes` is a cluster whose second node may go away, `alone` a broker of one node."""

    nodes: Sequence[Broker]
    alone: Broker
    emulator: Emulator
    folder: Path
    coordinators: dict[int, int] = field(default_factory=dict)

    def group(self, job: str, node: int) -> str:
        """Return a name of a group whose coordinator is that node."""
        names = (f"{job}-{number}" for number in range(1000))
        return next(name for name in names if self.coordinators[_java_hash(name) % OFFSETS_PARTITIONS] == node)


def _java_hash(text: str) -> int:
    """Return the absolute value of Java's hash of a text, by which Kafka chooses the partition of a group's offsets."""
    number = 0
    for character in text:
        number = (31 * number + ord(character)) & 0xFFFFFFFF
    return number if number < 1 << 31 else (1 << 32) - number


@contextmanager
def running_stand(folder: Path) -> Iterator[Stand]:
    """Start the brokers and the emulator."""
    with ExitStack() as stack:
        nodes = stack.enter_context(running_cluster(folder / "cluster", 2, CONFIG))
        alone = stack.enter_context(Broker.start(config=CONFIG))
        stand = Stand(nodes, alone, stack.enter_context(running_emulator()), folder)
        _commit_once(nodes[0].bootstrap)
        described = BriefAdmin(nodes[0].bootstrap).describe_topics(["__consumer_offsets"])
        stand.coordinators = _leaders(described)
        assert set(stand.coordinators.values()) == {1, 2}, described
        yield stand


def _leaders(described: Any) -> dict[int, int]:
    (topic,) = described
    return {
        one["partition_index"] if "partition_index" in one else one["partition"]: one.get(
            "leader_id", one.get("leader")
        )
        for one in topic["partitions"]
    }


def _commit_once(bootstrap: str) -> None:
    """Commit in a group, so that the topic of the offsets is created over all nodes."""
    partition = TopicPartition("__none", 0)
    with closing(KafkaConsumer(bootstrap_servers=bootstrap, group_id="first")) as consumer:
        consumer.assign([partition])
        with contextlib.suppress(Exception):  # there is no such topic; looking for the coordinator is what counts
            consumer.commit({partition: OffsetAndMetadata(0, "", -1)})


class Publisher:
    """Publishes for all cases, a little each second: one thread and one producer for each broker, and one for what loses its leader.

    A producer whose records are not acknowledged any more is replaced, so that one trouble does not keep records from the others.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self._stop = threading.Event()
        together: dict[tuple[str, bool], list[Case]] = {}
        for one in cases:
            together.setdefault((one.broker.bootstrap, one.placed), []).append(one)
        self._threads = [thread(self._run, bootstrap, mine) for (bootstrap, _), mine in together.items()]

    def _run(self, bootstrap: str, mine: Sequence[Case]) -> None:
        producer, acknowledged = None, _Acknowledged()
        while not self._stop.wait(1.0):
            if producer is None or acknowledged.seconds_ago() > SILENT_SECONDS:
                _close(producer)
                producer, acknowledged = _producer(bootstrap), _Acknowledged()
            if producer is None:
                continue
            for case in mine:
                for record in case.records(time.monotonic()):
                    with contextlib.suppress(Exception):  # the trouble is that it cannot be sent
                        stamp = None if case.timestamp_ms is None else case.timestamp_ms()
                        sent = producer.send(
                            case.topic,
                            key=record.key,
                            value=record.value,
                            partition=record.partition,
                            timestamp_ms=stamp,
                        )
                        sent.add_callback(acknowledged.note)
        _close(producer)

    def close(self) -> None:
        """Publish nothing more."""
        self._stop.set()
        join(*self._threads)


class _Acknowledged:
    """When the last record of a producer was acknowledged; its making counts as one."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def note(self, _metadata: object) -> None:
        self._at = time.monotonic()

    def seconds_ago(self) -> float:
        return time.monotonic() - self._at


def _producer(bootstrap: str) -> Any:
    """Return a producer that neither repeats nor orders what it sends, None while the broker is away."""
    options = {"acks": 1, "retries": 0, "enable_idempotence": False, "linger_ms": 50, "max_block_ms": 1000}
    with contextlib.suppress(Exception):
        return KafkaProducer(bootstrap_servers=bootstrap, **options)
    return None


def _close(producer: Any) -> None:
    if producer is not None:
        with contextlib.suppress(Exception):
            producer.close(timeout=2)
