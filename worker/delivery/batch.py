"""Batches: what goes to the index in one piece, with every key once.

A newer version of a key takes the older one's place in the open batch; the older one stays behind it, since it stands
again should the service refuse the newer. Sealed batches do not change.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from worker.ledger import Assignment
from worker.ports import Message, SealReason

MAX_RECORDS: Final = 500  # vectors in a PutVectors request, and keys in a DeleteVectors request


class Item(msgspec.Struct, eq=False, gc=False):  # it is part of no cycle
    """One record on its way to the index.

    `fragment` is its element of a PutVectors request, None for a delete. `size` is what it holds of the buffer, in
    bytes. `older` is the version of the same key whose place it took.
    """

    assignment: Assignment
    message: Message
    key: str
    fragment: bytes | None
    size: int
    older: "Item | None" = None

    @property
    def offset(self) -> int:
        """The record's offset in its partition."""
        return self.message.offset

    def versions(self) -> Iterable["Item"]:
        """This version and those whose place it took, newest first."""
        version: Item | None = self
        while version is not None:
            yield version
            version = version.older


class Batch(msgspec.Struct, eq=False, frozen=True):
    """A sealed batch: the newest version of each key, in the order in which the keys first came.

    `size` is the bytes of its PutVectors body.
    """

    items: dict[str, Item]
    size: int
    reason: SealReason

    def shares_a_key_with(self, other: "Batch") -> bool:
        """Tell whether the two could overtake each other with one key."""
        return not self.items.keys().isdisjoint(other.items.keys())


class Envelope(msgspec.Struct, frozen=True):
    """The bytes of a request around its elements, for one index."""

    put_head: bytes
    delete_head: bytes
    tail: bytes = b"]}"

    @classmethod
    def of(cls, index: str) -> "Envelope":
        """Return the envelope of the index's requests."""
        head = b'{"indexName":' + msgspec.json.encode(index)
        return cls(head + b',"vectors":[', head + b',"keys":[')

    @property
    def put_overhead(self) -> int:
        """The bytes of a PutVectors body besides its fragments and the commas between them."""
        return len(self.put_head) + len(self.tail)

    def put_body(self, items: Sequence[Item]) -> bytes:
        """Return the PutVectors body of the items, which are all puts, at least one."""
        fragments = [item.fragment or b"" for item in items]
        fragments[0] = self.put_head + fragments[0]
        fragments[-1] += self.tail
        return b",".join(fragments)

    def delete_body(self, items: Sequence[Item]) -> bytes:
        """Return the DeleteVectors body of the items' keys."""
        return self.delete_head + b",".join([msgspec.json.encode(item.key) for item in items]) + self.tail


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
        """Take the item, and return the batch that this sealed, if one.

        An item that does not fit goes into the next batch, and so the one before it is sealed for its bytes. `now` is
        in seconds of a monotonic clock. A limit of bytes is never passed, for the item alone fits.
        """
        sealed = None
        items, size = self._items, _body_bytes(item)
        older = items.get(item.key)
        growth = size if older is None else size - _body_bytes(older)
        if self._size + growth - 1 > self._max_bytes and items:
            sealed = self.seal(SealReason.BYTES)
            items, older, growth = self._items, None, size
        if not items:
            self._opened_at = now
        item.older = older
        items[item.key] = item
        self._size += growth
        # One item never seals twice: with room for one record only, no batch is open when the next one comes.
        return self.seal(SealReason.COUNT) if len(items) >= self._max_records else sealed

    def due_at(self) -> float | None:
        """Return when its age is up, in the clock's seconds; None while it is empty."""
        return self._opened_at + self._max_age if self._items else None

    def seal(self, reason: SealReason) -> Batch | None:
        """Return what was gathered, None where that is nothing, and begin anew."""
        if not self._items:
            return None
        size = self._size - 1 if self._size > self._overhead else self._size  # no comma after the last element
        batch = Batch(self._items, size, reason)
        self._items = {}
        self._size = self._overhead
        return batch

    def hold_to(self, max_bytes: int) -> None:
        """Hold this batch and later ones to `max_bytes`; a record that alone has more still goes, alone."""
        self._max_bytes = max_bytes


def _body_bytes(item: Item) -> int:
    return len(item.fragment) + 1 if item.fragment is not None else 0
