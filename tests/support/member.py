"""A source that a test drives as the main loop does, so that it can look inside."""

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.worker import LIMIT_S, wait_for
from worker.consumer.handover import RevokeHooks
from worker.consumer.membership import lease_of
from worker.consumer.source import KafkaSource
from worker.ledger import Assignment, Ledger, OutOfOrder, Partition, Phase
from worker.ports import Message, Source
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status


class Driven:
    """A source and its ledger, driven as the main loop drives them, but nothing is done with the records."""

    def __init__(self, source: Source, ledger: Ledger) -> None:
        self.source = source
        self.ledger = ledger
        self.opened: set[Assignment] = set()

    def turn(self, poll_seconds: float = 0.2) -> None:
        """Do one turn: open what was assigned, poll, track, and steer."""
        for assignment in self.ledger.assignments():
            if assignment.phase is Phase.OPENING and self.may_open(assignment) and self.source.open(assignment):
                self.opened.add(assignment)
        for assignment, messages in self.source.poll(poll_seconds):
            try:
                is_tracked = self.track(assignment, [message.offset for message in messages])
            except OutOfOrder as error:
                self.source.refuse(assignment, str(error))
            else:
                if is_tracked:
                    self.note_read(assignment.partition, messages)
        self.steer()

    def steer(self) -> None:
        """Fetch the open partitions that are wanted, and pause the others."""
        assignments = self.ledger.assignments()
        self.source.steer({one: one.phase is Phase.OPEN and self.is_wanted(one.partition) for one in assignments})

    # -- what a test may decide

    def may_open(self, _assignment: Assignment) -> bool:
        """Return whether an assignment is to be opened now."""
        return True

    def is_wanted(self, _partition: Partition) -> bool:
        """Return whether a partition is to be fetched now."""
        return True

    def track(self, assignment: Assignment, offsets: Sequence[int]) -> bool:
        """Track what was polled; raises `OutOfOrder`."""
        return self.ledger.track(assignment, offsets)

    def note_read(self, partition: Partition, messages: Sequence[Message]) -> None:
        """Note what was polled and tracked."""


class Member(Driven):
    """The worker's source with a group of its own, in this process."""

    source: KafkaSource

    def __init__(
        self, bootstrap: str, topic: str, session_seconds: float = 6.0, *, more: Sequence[str] = (), **kafka: Any
    ) -> None:
        topics = [topic, *more]
        own: dict[str, Any] = {
            "group_id": f"member-{uuid.uuid4().hex[:12]}",
            "session_timeout_ms": round(session_seconds * 1000),
        }
        ledger = Ledger(topics, time.monotonic)
        self.status = Status(time.monotonic())
        self.metrics = Metrics(ledger, self.status, topics, [])
        self.settings = Kafka(bootstrap_servers=(bootstrap,), **(own | kafka))
        source = KafkaSource(
            self.settings,
            topics,
            ledger=ledger,
            status=self.status,
            metrics=self.metrics,
            hooks=RevokeHooks(lambda: None, lambda _: None),
            retry_seconds=1.0,
            clock=time.monotonic,
            wall=time.time,
            lease=lease_of(self.settings),
        )
        super().__init__(source, ledger)
        self.unwanted: set[int] = set()  # numbers of partitions that are paused
        self.read: dict[int, list[int]] = {}  # offsets by the number of the partition
        self.seen: Callable[[Sequence[Message]], None] = lambda _: None  # is called with what was read

    def is_wanted(self, partition: Partition) -> bool:
        """Return whether a partition is none of the unwanted."""
        return partition.partition not in self.unwanted

    def note_read(self, partition: Partition, messages: Sequence[Message]) -> None:
        """Keep the offsets, and show the messages to the test."""
        self.seen(messages)
        self.read.setdefault(partition.partition, []).extend(message.offset for message in messages)

    @property
    def count(self) -> int:
        """How many records were read."""
        return sum(len(offsets) for offsets in self.read.values())

    def turns_until(self, condition: Callable[[], object], what: str, timeout: float = LIMIT_S) -> None:
        """Turn until a condition holds."""

        def look() -> object:
            self.turn()
            return condition()

        wait_for(look, what, timeout)

    def kafka_errors(self, kind: str) -> float:
        """How many errors of that kind were counted."""
        return float(self.metrics.kafka_errors.labels(kind)._value.get())

    def lost_members(self) -> float:
        """How often the member was found to be none, and replaced."""
        return self.kafka_errors("group")

    def lost_partitions(self) -> float:
        """How often partitions were given up that had not been revoked in order."""
        return float(self.metrics.rebalances.labels("lost")._value.get())
