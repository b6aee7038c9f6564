"""Records of the service's own shape, decoded at once by a typed decoder, or field by field where that fails."""

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from worker.records.choices import MetadataValues
from worker.records.formats.contract import Headers, LooseMetadata, Metadata, Record
from worker.records.formats.fields import FieldReader
from worker.records.formats.values import UNREADABLE


class Data(msgspec.Struct, gc=False):
    """`data`: numbers, or little-endian float32 as bytes, which JSON writes as base64.

    The decoder makes a list or bytes; what reads long lists puts an array in its place.
    """

    float32: list[float] | bytes


class StrictRecord(msgspec.Struct, gc=False):
    """One vector record, its metadata as the service accepts it. Fields that are not named here are ignored.

    A CloudEvent has a `specversion`, which is text: it fails here, and is recognised where fields are read one by one.
    """

    data: Data
    key: str | None = None
    metadata: Metadata | None = None
    specversion: None = None


class LooseRecord(msgspec.Struct, gc=False):
    """One vector record, its metadata as it comes, to be turned into what the service accepts.

    The type of the metadata lists what stringify accepts. With any type allowed, a record could contain a map whose names are
    numbers that collide, and building it would need minutes.
    """

    data: Data
    key: str | None = None
    metadata: LooseMetadata | None = None
    specversion: None = None


WholeRecord: TypeAlias = StrictRecord | LooseRecord


def record_type(metadata_values: MetadataValues) -> type[WholeRecord]:
    """Return the type that a record is decoded to at once."""
    return StrictRecord if metadata_values == "strict" else LooseRecord


class TwoWayReader:
    """Reads records at once by `decode`; by `fields` those that are longer than `most_at_once` bytes, or fail.

    Both ways read the same record the same way. `fields.py` has the rules.
    """

    def __init__(self, decode: Callable[[bytes], WholeRecord], most_at_once: int, fields: FieldReader) -> None:
        self._decode = decode
        self._most_at_once = most_at_once
        self._read_by_field = fields.record

    def read(self, _key: bytes | None, value: bytes, _headers: Headers) -> Record:
        """Return what the value says. Raises `RecordError`."""
        if len(value) <= self._most_at_once:
            try:
                whole = self._decode(value)
            except UNREADABLE:
                return self._read_by_field(value)
            return Record(whole.key, whole.data.float32, whole.metadata)
        return self._read_by_field(value)
