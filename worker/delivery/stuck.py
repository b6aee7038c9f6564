"""Which records of an index keep failing without end, for the person on call."""

import threading
from collections.abc import Iterable

from worker.delivery.batch import Item
from worker.errors import BlockReason, SinkError
from worker.ledger import Partition
from worker.telemetry.state import Block, Status


class StuckRecords:
    """Reports the partitions of records that are stuck, until none of these is left. Thread-safe."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._partitions: dict[str, Partition] = {}  # by the record's key
        self._lock = threading.Lock()

    def report(self, items: Iterable[Item], error: SinkError, retry_in: float) -> None:
        """Report records that failed again, and are sent again in so many seconds."""
        first: dict[Partition, int] = {}
        with self._lock:
            for item in items:
                partition = self._partitions[item.key] = item.assignment.partition
                first[partition] = min(item.offset, first.get(partition, item.offset))
            for partition, offset in first.items():
                where = f"{partition} offset {offset}"
                self._status.block(_block_of(partition), where, quote=str(error), retry_in=retry_in)

    def clear(self, items: Iterable[Item]) -> None:
        """Forget records that have their outcome, or are not ours any more."""
        if not self._partitions:
            return
        with self._lock:
            cleared = {self._partitions.pop(item.key) for item in items if item.key in self._partitions}
            for partition in cleared.difference(self._partitions.values()):
                self._status.unblock(_block_of(partition))


def _block_of(partition: Partition) -> Block:
    return Block(partition.topic, BlockReason.RECORD_STUCK, partition.partition)
