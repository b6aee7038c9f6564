"""What the records of a topic ask for, key by key."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from worker.app.routers import Router
from worker.app.several import read_each
from worker.errors import RecordError
from worker.ports import Message
from worker.records.decode import Decoded, Decoder, Delete, Put
from worker.records.formats.contract import Headers
from worker.records.formats.shared import around_of
from worker.records.several import Cutter
from worker.tools.verify.refused import OTHERS

_PART_BYTES: Final = 12  # of a fingerprint: for the vector, and for the metadata
DELETED: Final = b""
"""The fingerprint of a key that the index does not hold."""


class Version(NamedTuple):
    """What one record asks for: a fingerprint of the vector and its metadata, or `DELETED`.

    `element` is its place in a message that has several records, else None. `has_dead_letter`: it was refused once. It may be in
    the index all the same, if the group read it again later.
    """

    partition: int
    offset: int
    fingerprint: bytes
    element: int | None = None
    has_dead_letter: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Its place in its partition: the later one is the newer version."""
        return self.offset, self.element or 0


def fingerprint(vector: Any, metadata: Any) -> bytes:
    """Return what identifies a vector, as float32 bit for bit, and its metadata, whatever the order of its names."""
    numbers = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    try:
        members = orjson.dumps(metadata or {}, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # what no record can ask for, and another program wrote: a number of 30 digits, say
        members = repr(sorted(metadata.items())).encode("utf-8", "surrogatepass")
    return b"".join(hashlib.blake2b(part, digest_size=_PART_BYTES).digest() for part in (numbers, members))


def differing_parts(one: bytes, other: bytes) -> str:
    """Return in words which parts of two fingerprints differ."""
    parts = {"vector": slice(0, _PART_BYTES), "metadata": slice(_PART_BYTES, None)}
    return " and ".join(name for name, part in parts.items() if one[part] != other[part])


def _asked_state(put: Put) -> bytes:
    record = orjson.loads(put.fragment)
    return fingerprint(record["data"]["float32"], record.get("metadata"))


class CannotCut(Exception):
    """A record cannot be cut out of its message as it came."""


class Reading:
    """Reads records as the worker does."""

    def __init__(
        self,
        decoder: Decoder | Router,
        refused: Collection[tuple[int, ...]],
        *,
        names_index: bool = False,
        cutter: Cutter | None = None,
    ) -> None:
        """`refused` has (partition, offset) of the records that have a dead letter, and the place of one of several.

        `cutter` cuts messages that may have several records.
        With `names_index` the name of a vector is `INDEX/KEY`, else its key: two indexes may each have a vector of one key.
        """
        self._names_index = names_index
        self.counts: Counter[str] = Counter()
        self._decoder = decoder
        self._refused = refused
        self._cutter = cutter

    def versions(self, partition: int, messages: Sequence[Message]) -> Iterable[tuple[str, Version]]:
        """Yield the name of a vector and what is asked for it, record by record.

        Of several records of one message about one vector it is the last that counts, and no other is yielded; of those that
        have a dead letter likewise. What cannot be read is not yielded: none of it was written.
        """
        for message in messages:
            last: dict[tuple[str, bool], tuple[str, Version]] = {}
            for name, version in self._of_message(partition, message):
                last[name, version.has_dead_letter] = name, version
            yield from last.values()

    def _of_message(self, partition: int, message: Message) -> Iterable[tuple[str, Version]]:
        around = around_of(message)
        for element, value, decoded in read_each(self._decoder, self._cutter, message):
            self.counts["records"] += 1
            place = (partition, message.offset) if element is None else (partition, message.offset, element)
            has_dead_letter = place in self._refused or self._is_among_others(place, decoded)
            # One that cannot be read may have no dead letter any more.
            if has_dead_letter or isinstance(decoded, RecordError):
                self.counts["refused"] += 1
            elif not isinstance(decoded, Put | Delete):
                self.counts["ignored"] += 1
            if isinstance(decoded, Put | Delete):
                state = DELETED if isinstance(decoded, Delete) else _asked_state(decoded)
                name = self._name(decoded.key, around, value)
                yield name, Version(partition, message.offset, state, element, has_dead_letter)

    def _is_among_others(self, place: tuple[int, ...], decoded: Decoded | RecordError) -> bool:
        """Return whether a record can be read, and is one of the many that share a dead letter, for being suspect."""
        is_suspect = isinstance(decoded, Put | Delete) and decoded.suspicion is not None
        return is_suspect and (*place[:2], OTHERS) in self._refused

    def value_of(self, message: Message, element: int | None) -> bytes | None:
        """Return a message's value, or one that has this record of it alone. Raises `CannotCut`."""
        if element is None or message.value is None:
            return message.value
        alone = None if self._cutter is None else self._cutter.only(message.value, element)
        if alone is None:
            raise CannotCut
        return alone

    def _name(self, key: str, around: tuple[bytes | None, Headers], value: bytes | None) -> str:
        if not self._names_index or not isinstance(self._decoder, Router):
            return key
        kafka_key, headers = around
        return f"{self._decoder.index_of(key, kafka_key, value, headers)}/{key}"


def index_and_key(name: str) -> tuple[str, str]:
    """Return what a name with its index is made of; the name of an index has no slash."""
    index, _, key = name.partition("/")
    return index, key


class Expected:
    """The newest version of each key that occurs in a stretch and was not refused. About 300 bytes for each key."""

    def __init__(self) -> None:
        self.newest: dict[str, Version] = {}
        self.in_several_partitions: set[str] = set()
        """Keys whose records are in several partitions: which of them is the newest is not defined."""

    def apply(self, versions: Iterable[tuple[str, Version]], *, ends_at: int) -> None:
        """Apply versions of one partition in their order. A key that occurs only from offset `ends_at` on is left out."""
        for key, version in versions:
            if version.has_dead_letter:
                continue
            known = self.newest.get(key)
            if known is None and version.offset >= ends_at:
                continue
            if known is not None and known.partition != version.partition:
                self.in_several_partitions.add(key)
            self.newest[key] = version
