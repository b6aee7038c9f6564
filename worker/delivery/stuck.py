"""Which records of an index keep failing without end, for the person on call."""

import threading
from collections.abc import Iterable

from worker.delivery.batch import Item
from worker.errors import BlockReason, SinkError
from worker.ledger import Partition
from worker.telemetry.state import Block, Status

_Place = tuple[Partition, int, int | None]


class StuckRecords:
    """Reports the partitions of records that are stuck, until none of these is left. Thread-safe."""

    def __init__(self, status: Status, index: str) -> None:
        self._status = status
        self._index = index  # records of one partition may go to several
        self._partitions: dict[_Place, Partition] = {}
        self._lock = threading.Lock()

    def report(self, items: Iterable[Item], error: SinkError, retry_in: float) -> None:
        """Report records that failed again, and are sent again in so many seconds."""
        first: dict[Partition, int] = {}
        with self._lock:
            for item in items:
                partition = self._partitions[_place_of(item)] = item.assignment.partition
                first[partition] = min(item.offset, first.get(partition, item.offset))
            for partition, offset in first.items():
                where = f"{partition} offset {offset}"
                self._status.block(
                    Block.of(partition, BlockReason.RECORD_STUCK),
                    where,
                    quote=str(error),
                    retry_in=retry_in,
                    owner=self._index,
                )

    def clear(self, items: Iterable[Item]) -> None:
        """Forget records that have their outcome or are not ours any more, and those that they superseded."""
        if not self._partitions:
            return
        places = [_place_of(version) for item in items for version in item.versions()]
        with self._lock:
            cleared = {self._partitions.pop(place) for place in places if place in self._partitions}
            for partition in cleared.difference(self._partitions.values()):
                self._status.unblock(Block.of(partition, BlockReason.RECORD_STUCK), owner=self._index)


def _place_of(item: Item) -> _Place:
    return item.assignment.partition, item.offset, item.element
