"""A member of a group in this process: the worker's source, driven as its main loop does, so that a test can look inside."""

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.worker import wait_for
from worker.consumer.source import KafkaSource, RevokeHooks
from worker.ledger import Assignment, Ledger
from worker.ports import Message
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status


class Member:
    """A source with a group of its own, driven as the main loop drives it."""

    def __init__(
        self, bootstrap: str, topic: str, session_seconds: float = 6.0, *, more: Sequence[str] = (), **kafka: Any
    ) -> None:
        topics = [topic, *more]
        own: dict[str, Any] = {
            "group_id": f"member-{uuid.uuid4().hex[:12]}",
            "session_timeout_ms": round(session_seconds * 1000),
        }
        self.ledger = Ledger(topics, time.monotonic)
        self.status = Status(time.monotonic())
        self.metrics = Metrics(self.ledger, self.status, topics, [])
        self.settings = Kafka(bootstrap_servers=(bootstrap,), **(own | kafka))
        self.source = KafkaSource(
            self.settings,
            topics,
            ledger=self.ledger,
            status=self.status,
            metrics=self.metrics,
            hooks=RevokeHooks(lambda: None, lambda: None),
            retry_seconds=1.0,
            clock=time.monotonic,
            wall=time.time,
        )
        self.opened: set[Assignment] = set()
        self.held: set[int] = set()
        self.read: dict[int, list[int]] = {}
        self.seen: Callable[[Sequence[Message]], None] = lambda _: None

    def turn(self) -> None:
        """One turn of the main loop, as far as joining and reading go."""
        for assignment in self.ledger.assignments():
            if assignment not in self.opened and self.source.open(assignment):
                self.opened.add(assignment)
        for assignment, messages in self.source.poll(0.1):
            offsets = [message.offset for message in messages]
            self.ledger.track(assignment, offsets)
            self.seen(messages)
            self.read.setdefault(assignment.partition.partition, []).extend(offsets)
        self.steer()

    def steer(self) -> None:
        """Pause the partitions that are in `held`, and fetch the others."""
        self.source.steer({one: one.partition.partition not in self.held for one in self.opened})

    @property
    def count(self) -> int:
        """How many records were read."""
        return sum(len(offsets) for offsets in self.read.values())

    def turns_until(self, condition: Callable[[], object], what: str) -> None:
        """Turn until a condition holds."""

        def look() -> object:
            self.turn()
            return condition()

        wait_for(look, what)

    def kafka_errors(self, kind: str) -> float:
        """How many errors of that kind were counted."""
        return float(self.metrics.kafka_errors.labels(kind)._value.get())

    def lost_members(self) -> float:
        """How often the watchdog made a member anew."""
        return self.kafka_errors("group")

    def lost_partitions(self) -> float:
        """How often partitions were given up that had not been revoked in order."""
        return float(self.metrics.rebalances.labels("lost")._value.get())
