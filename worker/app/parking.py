"""Messages whose index was not found yet, in the order in which they were read. Only the main loop uses it.

A topic with several indexes is read as soon as one of them is found and the service has answered for the others. Messages
for an index that is missing, or may not be used, wait here as they came, tracked and counted in the buffer.
"""

from collections.abc import Sequence
from typing import NamedTuple

from worker.ledger import Assignment
from worker.ports import Message


class Parked(NamedTuple):
    """A message that waits to be decoded, or one record of it. `size` is its share of the buffer, in bytes.

    `element` is the place of the record in a message that has several, and `value` its bytes; else both are None. `was_routed`:
    it was read once, as far as its index. So the ledger and the limit of dead letters know it as the record that it is.
    """

    assignment: Assignment
    message: Message
    size: int
    element: int | None = None
    value: bytes | None = None
    was_routed: bool = False

    @property
    def offset(self) -> int:
        """The record's offset in its partition."""
        return self.message.offset


class Parking:
    """Keeps messages by the index that they wait for."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Parked]] = {}

    def add(self, index: str, parked: Parked) -> None:
        """Keep a message."""
        self._waiting.setdefault(index, []).append(parked)

    def pop(self, index: str) -> Sequence[Parked]:
        """Return what waits for an index, in the order of `add`, and keep it no longer."""
        return self._waiting.pop(index, ())

    def pop_returned(self) -> list[Parked]:
        """Return what waits and belongs to partitions that were given back, and keep it no longer."""
        if not self._waiting:
            return []
        gone = {
            each.assignment for waiting in self._waiting.values() for each in waiting if not each.assignment.is_live
        }
        if not gone:
            return []
        returned = [each for waiting in self._waiting.values() for each in waiting if each.assignment in gone]
        kept = {name: [e for e in waiting if e.assignment not in gone] for name, waiting in self._waiting.items()}
        self._waiting = {name: waiting for name, waiting in kept.items() if waiting}
        return returned
