"""The service's own words: its operations on vectors, their bodies, and what it answers to one that it has done.

What is special to PutVectors is here; `delivery`, `sink` and `answers` use it from here. Another target of this kind is
another module like this one.

Two things are not here, since the layers below need them and each limit is stated once: the limits of one record
(`records/decode.py`, which also makes a record's fragment) and those of a batch (`settings/tables.py`). The names of the
operations are in `ports.py`, since the metrics have them as labels.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple

import msgspec

from worker.errors import RetryReason, Transient
from worker.ports import Operation
from worker.records.target import Target

VECTORS_PER_SECOND: Final = 2500.0
"""How many vectors a second one index accepts ("Limits", OSS vector buckets)."""
DESCRIBED: Final = 200
"""The status of an answer that describes an index."""


_ENABLED: Final = "enable"
_MOST_DIMENSIONS: Final = 65536  # more than any model has; the service allows 4096 today ("Limits", OSS vector buckets)


class Call(NamedTuple):
    """How an operation is called: its parameter in the URL, and the statuses that say that it was done."""

    parameter: str
    accepted: frozenset[int]


# The statuses are those that the operations' pages of the OSS API reference show.
CALLS: Final[Mapping[str, Call]] = MappingProxyType(
    {
        Operation.PUT: Call("putVectors", frozenset({200})),
        Operation.DELETE: Call("deleteVectors", frozenset({200, 204})),
        Operation.DESCRIBE: Call("getVectorIndex", frozenset({DESCRIBED})),
        Operation.GET: Call("getVectors", frozenset({200})),
    }
)


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

    def put_body(self, fragments: list[bytes]) -> bytes:
        """Return the PutVectors body of finished elements, at least one. It changes the list."""
        fragments[0] = self.put_head + fragments[0]
        fragments[-1] += self.tail
        return b",".join(fragments)

    def delete_body(self, keys: Sequence[str]) -> bytes:
        """Return the DeleteVectors body of the keys."""
        return self.delete_head + b",".join([msgspec.json.encode(key) for key in keys]) + self.tail


# -- the description of an index: many servers write null for what an index has not


class _Metadata(msgspec.Struct, rename="camel"):
    non_filterable_metadata_keys: list[str] | None = None


class _Index(msgspec.Struct, rename="camel"):
    dimension: Annotated[int, msgspec.Meta(ge=1, le=_MOST_DIMENSIONS)]
    distance_metric: str
    status: str | None = None
    metadata: _Metadata | None = None


class _Description(msgspec.Struct):
    index: _Index


def describe_body(index: str) -> bytes:
    """Return the GetVectorIndex body."""
    return msgspec.json.encode({"indexName": index})


def described(index: str, body: bytes) -> Target:
    """Return what an answer to GetVectorIndex says of the index.

    Raises `Transient` if it says nothing of an index, and while the index is being made: until it is enabled, writes can fail.
    """
    try:
        found = msgspec.json.decode(body, type=_Description).index
    except (ValueError, RecursionError) as error:  # of which msgspec's own and that of UTF-8 are kinds
        message = f"GetVectorIndex answered what is no index: {error}"
        raise Transient(message, kind=RetryReason.SERVER, status=DESCRIBED) from None
    if (found.status or _ENABLED).lower() != _ENABLED:
        message = f'index {index} is "{found.status}", not yet "{_ENABLED}"'
        raise Transient(message, kind=RetryReason.SERVER, status=DESCRIBED)
    keys = found.metadata.non_filterable_metadata_keys if found.metadata else None
    return Target(index, found.dimension, found.distance_metric.lower(), frozenset(keys or ()))
