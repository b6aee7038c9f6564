"""Batches: records of one index for one request, with every key once.

A newer version of a key replaces the older one in the open batch. The older one is kept with it (`Item.older`), since it is
sent instead if the service refuses the newer. Sealed batches do not change.
"""

from collections.abc import Iterable

import msgspec

from worker.ledger import Assignment
from worker.oss.dialect import Envelope
from worker.ports import Message, SealReason


class Item(msgspec.Struct, eq=False, gc=False):  # it is part of no cycle
    """One record on its way to the index.

    `element` is its place in a message that has several records, else None.
    `fragment` is its element of a PutVectors request, None for a delete. `size` is its share of the buffer, in bytes. `older`
    has the versions of the same key that it replaced, oldest first, None if there are none; these have no list themselves.
    It is one list, and no chain from each version to the one before: C frees a chain by recursion, and a key may have so many
    versions that the stack of a thread would not be enough.
    """

    assignment: Assignment
    message: Message
    key: str
    fragment: bytes | None
    size: int
    older: "list[Item] | None" = None
    element: int | None = None

    @property
    def offset(self) -> int:
        """The record's offset in its partition."""
        return self.message.offset

    def versions(self) -> Iterable["Item"]:
        """Return this version and those that it replaced, newest first."""
        yield self
        if self.older:
            yield from reversed(self.older)

    def supersede(self, older: "Item") -> None:
        """Take the place of an older version, and of those that this one had replaced."""
        versions = older.older
        if versions is None:
            versions = [older]
        else:
            older.older = None
            versions.append(older)
        if self.older is not None:
            versions += self.older
        self.older = versions

    def give_way(self) -> "Item | None":
        """Let the newest of the versions that it replaced take its place, and return that one; None if there is none."""
        versions, self.older = self.older, None
        if not versions:
            return None
        newest = versions.pop()
        newest.older = versions or None
        return newest


class Batch(msgspec.Struct, eq=False, frozen=True):
    """A sealed batch: the newest version of each key, in the order in which the keys first came.

    `size` is the bytes of its PutVectors body.
    """

    items: dict[str, Item]
    size: int
    reason: SealReason


class OpenBatch:
    """The open batch of one index, and the rules that seal it."""

    def __init__(self, envelope: Envelope, *, max_records: int, max_bytes: int, max_age: float) -> None:
        self._overhead = envelope.put_overhead
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._items: dict[str, Item] = {}
        self._size = self._overhead
        self._opened_at = 0.0

    def add(self, item: Item, now: float) -> Batch | None:
        """Add an item; returns the batch that this sealed, if any.

        If the item does not fit, the open batch is sealed for its bytes, and the item opens the next one. `now` is in seconds
        of a monotonic clock. The limit of bytes is never exceeded, since each item fits alone.
        """
        sealed = None
        items, size = self._items, body_bytes(item)
        older = items.get(item.key)
        growth = size if older is None else size - body_bytes(older)
        if self._size + growth - 1 > self._max_bytes and items:
            sealed = self.seal(SealReason.BYTES)
            items, older, growth = self._items, None, size
        if not items:
            self._opened_at = now
        if older is not None:
            item.supersede(older)
        items[item.key] = item
        self._size += growth
        # One item never seals twice: with room for one record only, no batch is open when the next one comes.
        return self.seal(SealReason.COUNT) if len(items) >= self._max_records else sealed

    def due_at(self) -> float | None:
        """Return when it is to be sealed for its age, in the clock's seconds; None while it is empty."""
        return self._opened_at + self._max_age if self._items else None

    def seal(self, reason: SealReason) -> Batch | None:
        """Return the batch, sealed, and begin the next one; None if it is empty."""
        if not self._items:
            return None
        size = self._size - 1 if self._size > self._overhead else self._size  # no comma after the last element
        batch = Batch(self._items, size, reason)
        self._items = {}
        self._size = self._overhead
        return batch

    def limit_bytes(self, max_bytes: int) -> None:
        """Limit this batch and later ones to `max_bytes`; a record that has more is sent alone."""
        self._max_bytes = max_bytes


def body_bytes(item: Item) -> int:
    """Return how many bytes of a PutVectors body are the item's."""
    return len(item.fragment) + 1 if item.fragment is not None else 0
