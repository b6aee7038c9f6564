"""What a format does: from (key, value, headers) of a message to (key, vector, metadata, operation) of its record.

A format is made once for each route, from `Options`. It raises `RecordError` where the message can never be a record, and
keeps nothing of one message for the next.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from worker.records.choices import Envelope, KeyFormat, KeyValues, MetadataValues, VectorBytes
from worker.records.floats import Float64s
from worker.records.formats.shape import FIXED, Shape
from worker.records.keys import Keys

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]

Scalar: TypeAlias = str | int | float | bool | None
Metadata: TypeAlias = dict[str, str | list[str]]
LooseMetadata: TypeAlias = dict[str, str | int | float | bool | list[Scalar] | None]
AnyMetadata: TypeAlias = Metadata | LooseMetadata | Callable[[], Any] | None  # what is called returns one of the others


class Operation(Enum):
    """What a record asks for. Ignored are messages that are no records, such as a heartbeat in an envelope's stream.

    A tombstone is an envelope with nothing in it: it is what a null value is.
    """

    PUT = "put"
    DELETE = "delete"
    IGNORE = "ignore"
    TOMBSTONE = "tombstone"


class UnreadNumbers(NamedTuple):
    """A list of numbers that is not decoded yet: how many there are, and what decodes them in the range of float64."""

    length: int
    read: Callable[[], list[float]]


Vector: TypeAlias = list[float] | bytes | Float64s | UnreadNumbers


class Record(msgspec.Struct, gc=False):
    """What a message says, not yet checked against the index.

    `key` is the value's own key; without one the Kafka key is used. `vector` is numbers, or little-endian float32 as bytes.
    `metadata` is a map; or None, where there is none; or what reads it, in the form that the service accepts. Under
    `metadata_values = "stringify"` a map may contain values that are to become text. A deletion needs `key` alone.
    """

    key: str | None
    vector: Vector = b""
    metadata: AnyMetadata = None
    operation: Operation = Operation.PUT


class Options(NamedTuple):
    """What a format may depend on: the count of numbers in a vector, and what the settings of the route say."""

    dimension: int
    metadata_values: MetadataValues
    shape: Shape = FIXED
    key_format: KeyFormat = "utf8"
    key_values: KeyValues = "strict"
    vector_bytes: VectorBytes = "float32-le"
    envelope: Envelope = "none"

    @property
    def is_fixed(self) -> bool:
        """Whether records have the service's own shape, in the usual form."""
        settings = (self.shape, self.key_values, self.vector_bytes, self.envelope)
        return settings == (FIXED, "strict", "float32-le", "none")

    @property
    def keys(self) -> Keys:
        """What reads the keys of the route."""
        return Keys(self.key_format, self.key_values, self.envelope, self.shape.key)


class Format(Protocol):
    """Reads the messages of one route."""

    def read(self, key: bytes | None, value: bytes, headers: Headers, /) -> Record:
        """Return what the message says. Raises `RecordError`.

        The value is never null: `records.tombstones` says what that means.
        """
