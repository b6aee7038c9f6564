"""Suspect records of a topic: counted by their cause, and logged with a place where one is found."""

import logging
from collections.abc import Callable
from typing import NamedTuple

from worker.consumer.repeats import Repeats
from worker.ledger import Partition
from worker.telemetry.metrics import Metrics

log = logging.getLogger("worker.loop")


class Seen(NamedTuple):
    """The suspects of one cause: the first of them, and how many there were."""

    partition: Partition
    offset: int
    what: str
    records: int = 1


class SuspectReports:
    """Counts suspects, and logs one of each topic and cause every 30 s at most."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._repeats: dict[tuple[str, str], Repeats] = {}

    def add(self, suspects: dict[str, Seen]) -> None:
        """Count the suspects of one topic, by their causes."""
        for cause, seen in suspects.items():
            topic, partition = seen.partition
            self._metrics.suspect_vectors.labels(topic, cause).inc(seen.records)
            repeats = self._repeats.setdefault((topic, cause), Repeats(self._clock))
            if repeats.admit(cause):
                log.warning(
                    "a record is suspect",
                    extra={
                        "topic": topic,
                        "partition": partition,
                        "offset": seen.offset,
                        "cause": cause,
                        "error": seen.what,
                        "left_out": repeats.left_out,
                    },
                )
