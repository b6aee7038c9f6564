"""The ends of partitions, from the thread that asks for them to the metrics that show them."""

import threading
from collections.abc import Mapping

from worker.ledger import Partition


class EndOffsets:
    """The end of each partition, as the broker gave it last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[Partition, int] = {}
        self._highs: dict[Partition, int] = {}

    def update(self, ends: Mapping[Partition, int], highs: Mapping[Partition, int] | None = None) -> None:
        """Replace all. `highs` has the ends that include open transactions, where those were asked for."""
        with self._lock:
            self._ends = dict(ends)
            self._highs = dict(highs or {})

    def read(self) -> dict[Partition, int]:
        """Return all."""
        with self._lock:
            return dict(self._ends)

    def uncommitted(self) -> dict[Partition, int]:
        """Return how many offsets of each partition wait for a transaction to end, where that is known."""
        with self._lock:
            return {
                partition: max(0, high - self._ends[partition])
                for partition, high in self._highs.items()
                if partition in self._ends
            }
