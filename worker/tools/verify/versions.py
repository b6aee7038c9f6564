"""What the records of a topic ask for, key by key."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from worker.app.routers import Router
from worker.errors import RecordError
from worker.ports import Message
from worker.records.decode import Decoder, Delete, Put

_PART_BYTES: Final = 12  # of a fingerprint: for the vector, and for the metadata
DELETED: Final = b""
"""The fingerprint of a key that the index does not hold."""


class Version(NamedTuple):
    """What one record asks for: a fingerprint of the vector and its metadata, or `DELETED`."""

    partition: int
    offset: int
    fingerprint: bytes


def fingerprint(vector: Any, metadata: Any) -> bytes:
    """Return what identifies a vector, as float32 bit for bit, and its metadata, whatever the order of its names."""
    numbers = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    try:
        told = orjson.dumps(metadata or {}, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # what no record can ask for, and another program wrote: a number of 30 digits, say
        told = repr(sorted(metadata.items())).encode("utf-8", "surrogatepass")
    return b"".join(hashlib.blake2b(part, digest_size=_PART_BYTES).digest() for part in (numbers, told))


def differing_parts(one: bytes, other: bytes) -> str:
    """Return in words which parts of two fingerprints differ."""
    parts = {"vector": slice(0, _PART_BYTES), "metadata": slice(_PART_BYTES, None)}
    return " and ".join(name for name, part in parts.items() if one[part] != other[part])


class Reading:
    """Reads records as the worker does, without those that it refused."""

    def __init__(
        self, decoder: Decoder | Router, refused: Collection[tuple[int, int]], *, names_index: bool = False
    ) -> None:
        """`refused` has (partition, offset) of the records that have a dead letter.

        With `names_index` the name of a vector is `INDEX/KEY`, else its key: two indexes may each have a vector of one key.
        """
        self._names_index = names_index
        self.counts: Counter[str] = Counter()
        self._decoder = decoder
        self._refused = refused

    def versions(self, partition: int, messages: Sequence[Message]) -> Iterable[tuple[str, Version]]:
        """Yield the name of a vector and what is asked for it, record by record."""
        for message in messages:
            self.counts["records"] += 1
            place = (partition, message.offset)
            if place in self._refused:
                self.counts["refused"] += 1
                continue
            try:
                decoded = self._decoder.decode(message.key, message.value, message.headers)
            except RecordError:  # it has no dead letter any more, and none of its asks was written
                self.counts["refused"] += 1
                continue
            if isinstance(decoded, Put):
                record = orjson.loads(decoded.fragment)
                state = fingerprint(record["data"]["float32"], record.get("metadata"))
                yield self._name(decoded.key, message), Version(*place, state)
            elif isinstance(decoded, Delete):
                yield self._name(decoded.key, message), Version(*place, DELETED)
            else:
                self.counts["ignored"] += 1

    def _name(self, key: str, message: Message) -> str:
        if not self._names_index or not isinstance(self._decoder, Router):
            return key
        return f"{self._decoder.index_of(key, message.key, message.value, message.headers)}/{key}"


def index_and_key(name: str) -> tuple[str, str]:
    """Return what a name with its index is made of; the name of an index has no slash."""
    index, _, key = name.partition("/")
    return index, key


class Expected:
    """The newest version of each key that occurs in a stretch. About 300 bytes for each key."""

    def __init__(self) -> None:
        self.newest: dict[str, Version] = {}
        self.in_several_partitions: set[str] = set()
        """Keys whose records are in several partitions: which of them is the newest is not defined."""

    def apply(self, versions: Iterable[tuple[str, Version]], *, ends_at: int) -> None:
        """Apply versions of one partition in their order. A key that occurs only from offset `ends_at` on is left out."""
        for key, version in versions:
            known = self.newest.get(key)
            if known is None and version.offset >= ends_at:
                continue
            if known is not None and known.partition != version.partition:
                self.in_several_partitions.add(key)
            self.newest[key] = version
