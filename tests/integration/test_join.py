"""A worker that has started joins its group, every time, also on a machine that is busy."""

import sys
import time
import uuid
from collections.abc import Iterator

import pytest

from tests.support.bounded import running
from tests.support.broker import TopicFactory
from tests.support.worker import Record, publish
from worker.consumer.source import KafkaSource, RevokeHooks
from worker.ledger import Assignment, Ledger
from worker.local.broker import Broker
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

STARTS = 50
PARTITIONS = 6
SESSION_S = 120.0  # after which a lost join would be mended
DEADLINE_S = 100.0  # below that: a join that comes late was not lost
BUSY = "while True: pass"


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Two processes that take all they get of the processors."""
    hog = [sys.executable, "-c", BUSY]
    with running(hog), running(hog):
        yield


class Joiner:
    """One start: a source with a group of its own, driven as the main loop drives it."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.ledger = Ledger([topic], time.monotonic)
        status = Status(time.monotonic())
        self.metrics = Metrics(self.ledger, status, [topic], [])
        self.source = KafkaSource(
            Kafka(
                bootstrap_servers=(bootstrap,),
                group_id=f"join-{uuid.uuid4().hex[:12]}",
                session_timeout_ms=round(SESSION_S * 1000),
            ),
            [topic],
            ledger=self.ledger,
            status=status,
            metrics=self.metrics,
            hooks=RevokeHooks(lambda: None, lambda: None),
            retry_seconds=1.0,
            clock=time.monotonic,
            wall=time.time,
        )
        self.opened: set[Assignment] = set()
        self.read: set[int] = set()

    def turn(self) -> None:
        """One turn of the main loop, as far as joining and reading go."""
        for assignment in self.ledger.assignments():
            if assignment not in self.opened and self.source.open(assignment):
                self.opened.add(assignment)
        for assignment, _ in self.source.poll(0.2):
            self.read.add(assignment.partition.partition)
        self.source.steer(dict.fromkeys(self.opened, True))

    def joins(self) -> str:
        """Start, and return what is missing when the deadline has come, "" if nothing is."""
        self.source.start()
        deadline = time.monotonic() + DEADLINE_S
        while not (self.source.is_member and len(self.read) == PARTITIONS):
            if time.monotonic() > deadline:
                return f"member {self.source.is_member}, opened {len(self.opened)}, read {sorted(self.read)}"
            self.turn()
        return ""


@pytest.mark.timeout(900)
def test_of_50_starts_on_a_busy_machine_all_join_and_read(
    broker: Broker, new_topic: TopicFactory, busy_machine: None
) -> None:
    topic = new_topic(PARTITIONS)
    publish(broker.bootstrap, topic, [Record(None, b"x", partition=number) for number in range(PARTITIONS)])

    outcomes = []
    for _ in range(STARTS):
        joiner = Joiner(broker.bootstrap, topic)
        outcomes.append(joiner.joins())
        # A member that was made anew would hide a join that was lost.
        assert joiner.metrics.kafka_errors.labels("group")._value.get() == 0
        joiner.source.close(1.0)

    assert outcomes == [""] * STARTS
