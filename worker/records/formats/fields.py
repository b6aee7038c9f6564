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
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from worker.errors import Reason, RecordError
from worker.records.choices import MetadataValues, VectorBytes
from worker.records.floats import Float64s
from worker.records.formats import vector_text
from worker.records.formats.contract import Metadata, Record, Scalar, UnreadNumbers, Vector
from worker.records.formats.hints import constant_at, resembles
from worker.records.formats.metadata_fields import METADATA_ALLOWED, MetadataReader
from worker.records.formats.toast import is_unchanged, unchanged
from worker.records.formats.values import Cutter, Kind, Raw, ValueReader
from worker.records.formats.vector_bytes import unpacker
from worker.records.vector import beyond_float32
from worker.words import clean

NOTHING: Final = msgspec.Raw(b"")  # a field that is not there
_INTEGERS: Final = ' (records.key_values = "stringify" accepts integers too)'


class RawFields(msgspec.Struct, gc=False):
    """A record, cut into the fields that count. None is decoded; what is not there is empty."""

    key: Raw = NOTHING
    data: Raw = NOTHING
    metadata: Raw = NOTHING
    specversion: Raw = NOTHING


class RawData(msgspec.Struct, gc=False):
    """`data`, cut likewise."""

    float32: Raw = NOTHING


class RawAttributes(msgspec.Struct, gc=False):
    """The attributes that every CloudEvent has, cut out of a structured one likewise."""

    specversion: Raw = NOTHING
    id: Raw = NOTHING
    source: Raw = NOTHING
    type: Raw = NOTHING


class FieldReader(ValueReader, ABC):
    """Reads the fields of records in one encoding. Every method raises `RecordError`, and nothing else of its own.

    `where` is always the place of a value, for a message.
    """

    def __init__(self, metadata_values: MetadataValues, vector_bytes: VectorBytes = "float32-le") -> None:
        self.is_loose = metadata_values == "stringify"
        self._unpack = unpacker(vector_bytes)
        self._vector_allowed = f"allowed are a list of numbers, also as text, or base64 of {vector_bytes}"
        self._fields = self.cutter(RawFields)
        self._data = self.cutter(RawData)
        self._required = self.cutter(RawAttributes)

    def record(self, value: bytes) -> Record:
        """Return what the value says. The numbers of a list and the metadata are left to be read."""
        try:
            fields = self.cut(value, self._fields)
            if fields.specversion is not NOTHING:
                self.refuse_cloud_event(value)
            return Record(
                self.key(fields.key, "key"), self._vector(fields.data), partial(self.metadata, fields.metadata)
            )
        except RecursionError:  # a few frames deeper than where it was well-formed
            raise self.too_deep() from None

    @abstractmethod
    def decoder(self, kind: Any) -> Callable[[Any], Any]:
        """Return what decodes a value as a type."""

    @abstractmethod
    def encode(self, scalar: Scalar) -> Raw:
        """Return a single value in this encoding."""

    @abstractmethod
    def numbers_at_once(self, dimension: int) -> Callable[[Raw], list[float] | Float64s | None]:
        """Return what decodes a list of numbers at once. It fails, or returns None, where that must be done step by step."""

    def cutter(self, kind: type[msgspec.Struct]) -> Cutter:
        """Return what cuts maps into the members that a type names, undecoded."""
        return Cutter(self.decoder(kind), kind)

    @abstractmethod
    def cut(self, body: bytes, cutter: Cutter) -> Any:
        """Cut a value into members, once it is well-formed as a whole."""

    @abstractmethod
    def cut_part(self, part: Raw, cutter: Cutter) -> Any:
        """Cut a map, which is a part of a value that is well-formed, into members."""

    @abstractmethod
    def members(self, metadata: Raw) -> tuple[dict[str, Raw], str]:
        """Cut the metadata, which is a map, into its members; and say what is wrong with a name, "" if nothing is."""

    @abstractmethod
    def integer(self, raw: Raw) -> str | None:
        """Return the decimal text of a number, digit by digit; None where it is no integer."""

    @abstractmethod
    def begins_a_list(self, text: Raw) -> bool:
        """Return whether a string begins with a bracket."""

    def refuse_cloud_event(self, value: bytes) -> None:
        """Raise `RecordError` where a value is a structured CloudEvent: its record is within it."""
        attributes = self.cut(value, self._required)
        if all(self.kind(getattr(attributes, name)) is Kind.STRING for name in self._required.kind.__struct_fields__):
            raise RecordError(
                Reason.MALFORMED,
                'the value is a structured CloudEvent, whose record is in its data: set records.envelope = "cloudevents"',
            )

    def key(self, raw: Raw, where: str) -> str | None:
        """Return a key, None where it is null or not there."""
        kind = self.kind(raw)
        if kind is Kind.STRING:
            return self.text(raw, where)
        if kind in (Kind.NULL, Kind.NOTHING):
            return None
        hint = _INTEGERS if kind is Kind.NUMBER else ""
        raise self.no_record(f"{where} is a {kind.value}; allowed is a string{hint}")

    def _vector(self, data: Raw) -> Vector:
        kind = self.kind(data)
        if kind is Kind.NOTHING:
            raise self.no_record("it has no data; needed is data.float32")
        if kind is not Kind.MAP:
            raise self.no_record(f"data is a {kind.value}; allowed is a map with float32")
        raw = self.cut_part(data, self._data).float32
        if self.kind(raw) is Kind.NOTHING:
            raise self.no_record("data has no float32")
        return self.vector(raw, "data.float32")

    def vector(self, raw: Raw, where: str) -> Vector:
        """Return a vector: a list of numbers, also as text, or the bytes that they are packed in, which may be base64."""
        kind = self.kind(raw)
        if kind is Kind.LIST:
            return UnreadNumbers(self._count_numbers(raw, where), partial(self._floats, raw, where))
        if kind is Kind.BINARY:
            return self._unpack(self.decode_binary(raw), where)
        if kind is not Kind.STRING:
            raise self.no_record(f"{where} is a {kind.value}; {self._vector_allowed}")
        text = self.text(raw, where)
        if vector_text.is_list(text):
            return vector_text.numbers(text, where)
        return self._unpack(vector_text.packed(text, where, self._vector_allowed), where)

    def _count_numbers(self, vector: Raw, where: str) -> int:
        kinds = self.kinds(self.decode_list(vector))
        for place, kind in enumerate(kinds):
            if kind is not Kind.NUMBER:
                if kinds == [Kind.STRING] and is_unchanged(self.text(self.decode_list(vector)[0], where)):
                    raise unchanged(where)
                raise self.no_record(f"number {place} of {where} is a {kind.value}; allowed are numbers")
        return len(kinds)

    def _floats(self, raw: Raw, where: str) -> list[float]:
        """Decode a list of numbers in the range of float64."""
        try:
            return self.decode_floats(raw)
        except msgspec.ValidationError as error:
            raise beyond_float32(clean(str(error).replace("`$[", f"`$.{where}[")) + ";") from None

    def metadata(self, raw: Raw, where: str = "metadata") -> Metadata | None:
        """Decode the metadata. Under stringify numbers and booleans become their JSON text, and nulls are dropped."""
        kind = self.kind(raw)
        if kind in (Kind.NULL, Kind.NOTHING):
            return None
        if kind is not Kind.MAP:
            raise RecordError(Reason.METADATA, f"{where} is a {kind.value}; {METADATA_ALLOWED}")
        try:
            members, fault = self.members(raw)
            return MetadataReader(self, members, fault, is_loose=self.is_loose).read()
        except RecursionError:  # likewise
            raise self.too_deep() from None

    def no_record(self, what: str) -> RecordError:
        return RecordError(Reason.MALFORMED, f"the {self.name} is not a vector record: {what}")

    def too_deep(self) -> RecordError:
        return RecordError(Reason.MALFORMED, f"the {self.name} is nested too deep")

    def no_whole(self, body: bytes, error: Exception) -> RecordError:
        """Return the error of a value that is not well-formed."""
        if isinstance(error, RecursionError):
            return self.too_deep()
        if not body.strip():
            return RecordError(Reason.MALFORMED, "the value has nothing in it but white space; a record is a map")
        said = f"the value is no whole {self.name} map: {clean(str(error))}{constant_at(body, error)}"
        known = resembles(body)
        return RecordError(Reason.MALFORMED, f"{said}; it looks like {known}" if known else said)
