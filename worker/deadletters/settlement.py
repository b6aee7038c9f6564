"""What is counted, logged and settled once a dead letter was written, or was not."""

import logging
from collections.abc import Callable

from worker.consumer import client_config
from worker.deadletters.entry import Entry, Problem
from worker.ledger import Ledger, Outcome
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import DeadLettered, Status

log = logging.getLogger("worker.deadletter")


class Settlement:
    """Settles dead letters, and counts writes. `wall` is Unix time in seconds."""

    def __init__(self, *, ledger: Ledger, status: Status, metrics: Metrics, wall: Callable[[], float]) -> None:
        self._ledger = ledger
        self._status = status
        self._metrics = metrics
        self._wall = wall
        self._acknowledged = 0

    @property
    def acknowledged(self) -> int:
        """Return how many dead letters the broker has acknowledged so far."""
        return self._acknowledged

    def settle(self, entry: Entry) -> None:
        """Settle a dead letter that the broker has acknowledged."""
        dead_letter = entry.dead_letter
        self._acknowledged += 1
        self._metrics.dead_letter_writes.labels("ok").inc()
        topic, partition = entry.partition
        if self._ledger.settle((dead_letter,), Outcome.DEAD_LETTERED):
            now = self._wall()
            self._metrics.dead_letters.labels(topic, dead_letter.reason.value).inc()
            self._metrics.settled(topic, (dead_letter.message.timestamp,), now)
            self._status.dead_lettered(DeadLettered(topic, partition, entry.offset, dead_letter.reason, now))
        log.warning(
            "dead letter",
            extra={
                "topic": topic,
                "partition": partition,
                "offset": entry.offset,
                "element": dead_letter.element,
                "reason": dead_letter.reason.value,
                "error": dead_letter.text,
            },
        )

    def count_failed_write(self) -> None:
        """Count a dead letter that was not written."""
        self._metrics.dead_letter_writes.labels("failed").inc()

    def count_broker_failure(self, problem: Problem) -> None:
        """Count a dead letter that was not written, and the error of the client or the broker."""
        self.count_failed_write()
        self._metrics.kafka_errors.labels(client_config.kind_of(problem.error)).inc()
