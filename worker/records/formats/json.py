"""Records in JSON by RFC 8259, which has no NaN and no infinities."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from worker.records.floats import Float64s, list_reader, with_numbers_apart
from worker.records.formats.at_once import TwoWayReader, record_type
from worker.records.formats.contract import Format, Headers, Options, Record, Scalar
from worker.records.formats.envelopes import ENVELOPES, EnvelopeReader
from worker.records.formats.fields import FieldReader
from worker.records.formats.first_byte import Read
from worker.records.formats.halves import HALF, HALF_SAID, without_halves
from worker.records.formats.integers import integer_text
from worker.records.formats.mapped import MappedReader
from worker.records.formats.values import AT_ONCE_BYTES, BYTE_ORDER_MARK, BYTES_OF_A_NUMBER, NO_TEXT, Cutter, Kind, Raw
from worker.words import clean


class JsonFormat:
    """Reads records in JSON. Long lists of numbers are read by a parser of their own (`records/floats.py`)."""

    def __init__(self, options: Options) -> None:
        self.read: Final = _reader(options).read

    def beginnings(self) -> Mapping[bytes, Read]:
        """Return how a message in JSON may begin, and what reads it then."""
        return {**dict.fromkeys((b"{", b" ", b"\t", b"\r", b"\n"), self.read), BYTE_ORDER_MARK: self._read_after_mark}

    def _read_after_mark(self, key: bytes | None, value: bytes, headers: Headers) -> Record:
        return self.read(key, value[len(BYTE_ORDER_MARK) :], headers)


def _reader(options: Options) -> Format:
    if options.is_fixed:
        return _fixed(options)
    fields = JsonFields(options.metadata_values, options.vector_bytes)
    return EnvelopeReader(fields, options, fields) if options.envelope in ENVELOPES else MappedReader(fields, options)


def _fixed(options: Options) -> Format:
    return TwoWayReader(
        with_numbers_apart(msgspec.json.Decoder(record_type(options.metadata_values)).decode, options.dimension),
        AT_ONCE_BYTES + BYTES_OF_A_NUMBER * options.dimension,
        JsonFields(options.metadata_values),
    )


def _kinds() -> tuple[Kind, ...]:
    kinds = [Kind.NOTHING] * 256
    for first, kind in zip(b'"[{ntf', (Kind.STRING, Kind.LIST, Kind.MAP, Kind.NULL, *[Kind.BOOLEAN] * 2), strict=True):
        kinds[first] = kind
    for first in b"-0123456789":
        kinds[first] = Kind.NUMBER
    return tuple(kinds)


class JsonFields(FieldReader):
    """Reads the fields of a record in JSON."""

    name = "JSON"
    kind_of_byte = _kinds()
    decode_list = staticmethod(msgspec.json.Decoder(list[Raw]).decode)
    decode_text = staticmethod(msgspec.json.Decoder(str).decode)
    decode_texts = staticmethod(msgspec.json.Decoder(list[str]).decode)
    decode_number = staticmethod(msgspec.json.Decoder(int | float | bool).decode)
    decode_floats = staticmethod(msgspec.json.Decoder(list[float]).decode)
    _decode_members = staticmethod(msgspec.json.Decoder(dict[str, Raw]).decode)

    def decoder(self, kind: Any) -> Callable[[Any], Any]:
        """Return what decodes JSON."""
        return msgspec.json.Decoder(kind).decode

    def encode(self, scalar: Scalar) -> Raw:
        """Return JSON."""
        return msgspec.Raw(msgspec.json.encode(scalar))

    def numbers_at_once(self, dimension: int) -> Callable[[Raw], list[float] | Float64s | None]:
        """Return what decodes a list that is not too long for its dimension."""
        read, most = list_reader(dimension), AT_ONCE_BYTES + BYTES_OF_A_NUMBER * dimension
        return lambda raw: read(text) if len(text := bytes(raw)) <= most else None

    def integer(self, raw: Raw) -> str | None:
        """Return the digits of an integer."""
        return integer_text(bytes(raw))

    def begins_a_list(self, text: Raw) -> bool:
        """Return whether a string begins with a bracket."""
        return bytes(text)[:2] == b'"['

    def cut(self, body: bytes, cutter: Cutter) -> Any:
        """Cut a value into members. msgspec refuses half of a surrogate pair also in what is ignored."""
        try:
            return cutter.decode(body)
        except msgspec.ValidationError as error:
            raise self.no_record(clean(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            without = without_halves(body)
            if without == body:
                raise self.no_whole(body, error) from None
        try:
            return cutter.decode(without)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.no_whole(body, error) from None

    def cut_part(self, part: Raw, cutter: Cutter) -> Any:
        """Cut a map within a value into members."""
        return cutter.decode(part)

    def members(self, metadata: Raw) -> tuple[dict[str, Raw], str]:
        try:
            return self._decode_members(metadata), ""
        except NO_TEXT:
            raise self.no_text(metadata, "a name in metadata") from None

    def _what_is_no_text(self, raw: Raw) -> str:
        if HALF in bytes(raw):
            return HALF_SAID
        return super()._what_is_no_text(raw)
