"""The fields of one record, each read by itself, at a cost that its bytes bound.

Most records are decoded at once, by a typed decoder. A record that it cannot decode, or that is long, is read here: first it
is cut into its fields, which stay bytes, then each field that counts is read by the first byte of each of its values.

All encodings read by the same rules:

- The value is well-formed as a whole.
- Of a name that is there twice in one map the last value counts, whatever the others are.
- What has no meaning here is ignored: other names, names that are no strings, and values that a later one replaces. Strings
  in what is ignored are not looked into; they may be no text.
- Strings in what counts (`key`, `data.float32`, and names, strings and lists of strings in `metadata`) are text: UTF-8,
  without half of a surrogate pair.

Of several faults the first in this order is reported: in the form of the value, the key, the vector; then in what the key,
the vector and the metadata are. So numbers and metadata are returned unread.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import Final

import msgspec

from worker.errors import Reason, RecordError
from worker.records.choices import MetadataValues
from worker.records.formats.contract import Metadata, Record, UnreadNumbers
from worker.records.formats.hints import constant_at, resembles
from worker.records.formats.metadata_fields import METADATA_ALLOWED, MetadataReader
from worker.records.formats.values import Kind, Raw, ValueReader
from worker.records.vector import beyond_float32
from worker.words import clean

_VECTOR_ALLOWED: Final = "allowed are a list of numbers, or base64 of little-endian float32"
_NOTHING: Final = msgspec.Raw(b"")  # a field that is not there


class RawFields(msgspec.Struct, gc=False):
    """A record, cut into the fields that count. None is decoded; what is not there is empty."""

    key: Raw = _NOTHING
    data: Raw = _NOTHING
    metadata: Raw = _NOTHING


class RawData(msgspec.Struct, gc=False):
    """`data`, cut likewise."""

    float32: Raw = _NOTHING


class FieldReader(ValueReader, ABC):
    """Reads the fields of records in one encoding. Every method raises `RecordError`, and nothing else of its own."""

    def __init__(self, metadata_values: MetadataValues) -> None:
        self._is_loose = metadata_values == "stringify"

    def record(self, value: bytes) -> Record:
        """Return what the value says. The numbers of a list and the metadata are left to be read."""
        try:
            fields = self._cut(value)
            return Record(self._key(fields.key), self._vector(fields.data), partial(self._metadata, fields.metadata))
        except RecursionError:  # a few frames deeper than where it was well-formed
            raise self._too_deep() from None

    @abstractmethod
    def _cut(self, body: bytes) -> RawFields:
        """Cut a record into its fields, once it is well-formed as a whole."""

    @abstractmethod
    def _cut_data(self, data: Raw) -> RawData:
        """Cut `data`, which is a map, into the fields that count."""

    @abstractmethod
    def _members(self, metadata: Raw) -> tuple[dict[str, Raw], str]:
        """Cut the metadata, which is a map, into its members; and say what is wrong with a name, "" if nothing is."""

    def _key(self, raw: Raw) -> str | None:
        kind = self.kind(raw)
        if kind is Kind.STRING:
            return self.text(raw, "key")
        if kind in (Kind.NULL, Kind.NOTHING):
            return None
        raise self.no_record(f"key is a {kind.value}; allowed is a string")

    def _vector(self, data: Raw) -> UnreadNumbers | bytes:
        """Return `data.float32`: a list of numbers, or the bytes that they are packed in, which may be base64."""
        kind = self.kind(data)
        if kind is Kind.NOTHING:
            raise self.no_record("it has no data; needed is data.float32")
        if kind is not Kind.MAP:
            raise self.no_record(f"data is a {kind.value}; allowed is a map with float32")
        raw = self._cut_data(data).float32
        kind = self.kind(raw)
        if kind is Kind.LIST:
            return UnreadNumbers(self._count_numbers(raw), partial(self._floats, raw))
        if kind is Kind.BINARY:
            return self.decode_binary(raw)
        if kind is Kind.NOTHING:
            raise self.no_record("data has no float32")
        if kind is not Kind.STRING:
            raise self.no_record(f"data.float32 is a {kind.value}; {_VECTOR_ALLOWED}")
        try:
            return msgspec.convert(self.text(raw, "data.float32"), bytes)
        except msgspec.ValidationError:
            raise RecordError(
                Reason.MALFORMED, f"data.float32 is a string that is not base64; {_VECTOR_ALLOWED}"
            ) from None

    def _count_numbers(self, vector: Raw) -> int:
        kinds = self.kinds(self.decode_list(vector))
        for place, kind in enumerate(kinds):
            if kind is not Kind.NUMBER:
                raise self.no_record(f"number {place} of data.float32 is a {kind.value}; allowed are numbers")
        return len(kinds)

    def _floats(self, raw: Raw) -> list[float]:
        """Decode a list of numbers in the range of float64."""
        try:
            return self.decode_floats(raw)
        except msgspec.ValidationError as error:
            raise beyond_float32(clean(str(error).replace("`$[", "`$.data.float32[")) + ";") from None

    def _metadata(self, raw: Raw) -> Metadata | None:
        """Decode the metadata. Under stringify numbers and booleans become their JSON text, and nulls are dropped."""
        kind = self.kind(raw)
        if kind in (Kind.NULL, Kind.NOTHING):
            return None
        if kind is not Kind.MAP:
            raise RecordError(Reason.METADATA, f"metadata is a {kind.value}; {METADATA_ALLOWED}")
        try:
            members, fault = self._members(raw)
            return MetadataReader(self, members, fault, is_loose=self._is_loose).read()
        except RecursionError:  # likewise
            raise self._too_deep() from None

    def no_record(self, what: str) -> RecordError:
        return RecordError(Reason.MALFORMED, f"the {self.name} is not a vector record: {what}")

    def _too_deep(self) -> RecordError:
        return RecordError(Reason.MALFORMED, f"the {self.name} is nested too deep")

    def no_whole(self, body: bytes, error: Exception) -> RecordError:
        """Return the error of a value that is not well-formed."""
        if isinstance(error, RecursionError):
            return self._too_deep()
        said = f"the value is no whole {self.name} map: {clean(str(error))}{constant_at(body, error)}"
        known = resembles(body)
        return RecordError(Reason.MALFORMED, f"{said}; it looks like {known}" if known else said)
