"""Records in MessagePack, where names may be any value."""

import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from worker.records.floats import Float64s
from worker.records.formats.at_once import TwoWayReader, record_type
from worker.records.formats.contract import Format, Options, Scalar
from worker.records.formats.envelopes import ENVELOPES, EnvelopeReader
from worker.records.formats.fields import FieldReader
from worker.records.formats.first_byte import Read
from worker.records.formats.json import JsonFields
from worker.records.formats.mapped import MappedReader
from worker.records.formats.metadata_fields import METADATA_ALLOWED
from worker.records.formats.values import NO_TEXT, Cutter, Kind, Raw

_MAP_BYTES: Final = (*range(0x80, 0x90), 0xDE, 0xDF)


class MsgpackFormat:
    """Reads records in MessagePack."""

    def __init__(self, options: Options) -> None:
        self.read: Final = _reader(options).read

    def beginnings(self) -> Mapping[bytes, Read]:
        """Return how a message in MessagePack may begin, and what reads it then."""
        return dict.fromkeys((bytes((first,)) for first in _MAP_BYTES), self.read)


def _reader(options: Options) -> Format:
    if options.is_fixed:
        return _fixed(options)
    fields = MsgpackFields(options.metadata_values, options.vector_bytes)
    if options.envelope in ENVELOPES:
        return EnvelopeReader(fields, options, JsonFields(options.metadata_values, options.vector_bytes))
    return MappedReader(fields, options)


def _fixed(options: Options) -> Format:
    return TwoWayReader(
        msgspec.msgpack.Decoder(record_type(options.metadata_values)).decode,
        sys.maxsize,
        MsgpackFields(options.metadata_values),
    )


def _kinds() -> tuple[Kind, ...]:
    kinds = [Kind.NOTHING] * 256
    for kind, bytes_ in (
        (Kind.NUMBER, (*range(0x80), *range(0xCA, 0xD4), *range(0xE0, 0x100))),
        (Kind.MAP, _MAP_BYTES),
        (Kind.LIST, (*range(0x90, 0xA0), 0xDC, 0xDD)),
        (Kind.STRING, (*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB)),
        (Kind.NULL, (0xC0,)),
        (Kind.BOOLEAN, (0xC2, 0xC3)),
        (Kind.BINARY, (0xC4, 0xC5, 0xC6)),
        (Kind.EXTENSION, (0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9))),
    ):
        for first in bytes_:
            kinds[first] = kind
    return tuple(kinds)


class MsgpackFields(FieldReader):
    """Reads the fields of a record in MessagePack."""

    name = "MessagePack"
    kind_of_byte = _kinds()
    decode_list = staticmethod(msgspec.msgpack.Decoder(list[Raw]).decode)
    decode_text = staticmethod(msgspec.msgpack.Decoder(str).decode)
    decode_texts = staticmethod(msgspec.msgpack.Decoder(list[str]).decode)
    decode_number = staticmethod(msgspec.msgpack.Decoder(int | float | bool).decode)
    decode_floats = staticmethod(msgspec.msgpack.Decoder(list[float]).decode)
    decode_binary = staticmethod(msgspec.msgpack.Decoder(bytes).decode)
    _decode_members = staticmethod(msgspec.msgpack.Decoder(dict[str, Raw]).decode)

    def decoder(self, kind: Any) -> Callable[[Any], Any]:
        """Return what decodes MessagePack."""
        return msgspec.msgpack.Decoder(kind).decode

    def encode(self, scalar: Scalar) -> Raw:
        """Return MessagePack."""
        return msgspec.Raw(msgspec.msgpack.encode(scalar))

    def numbers_at_once(self, dimension: int) -> Callable[[Raw], list[float] | Float64s | None]:  # noqa: ARG002 - its numbers cost what their bytes do
        """Return what decodes a list."""
        return self.decode_floats

    def integer(self, raw: Raw) -> str | None:
        """Return the digits of an integer."""
        number = self.decode_number(raw)
        return str(number) if type(number) is int else None

    def begins_a_list(self, text: Raw) -> bool:
        """Return whether a string begins with a bracket."""
        return _string_bytes(text).startswith(b"[")

    def cut(self, body: bytes, cutter: Cutter) -> Any:
        """Cut a value into members."""
        try:
            try:
                return cutter.decode(body)
            except msgspec.ValidationError:
                kind = self.kind(msgspec.Raw(body))
                if kind is not Kind.MAP:
                    raise self.no_record(f"it is a {kind.value}; allowed is a map") from None
                return cutter.kind(**self._pick(body, cutter.kind))  # a name is no string
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.no_whole(body, error) from None

    def cut_part(self, part: Raw, cutter: Cutter) -> Any:
        """Cut a map within a value into members."""
        try:
            return cutter.decode(part)
        except msgspec.ValidationError:
            return cutter.kind(**self._pick(bytes(part), cutter.kind))

    def _pick(self, body: bytes, fields: type[msgspec.Struct]) -> dict[str, Raw]:
        """Return the members of a map that are fields of that type, where some names are no strings."""
        names = zip(fields.__struct_encode_fields__, fields.__struct_fields__, strict=True)
        known = {encoded.encode(): name for encoded, name in names}
        picked = {}
        for name, value in self._pairs(body):
            if self.kind(name) is Kind.STRING and (field := known.get(_string_bytes(name))) is not None:
                picked[field] = value
        return picked

    def members(self, metadata: Raw) -> tuple[dict[str, Raw], str]:
        try:
            return self._decode_members(metadata), ""
        except msgspec.ValidationError:
            pass  # a name is no string
        except NO_TEXT:
            raise self.no_text(metadata, "a name in metadata") from None
        members, fault = {}, ""
        for name, value in self._pairs(bytes(metadata)):
            kind = self.kind(name)
            if kind is Kind.STRING:
                members[self.text(name, "a name in metadata")] = value
            else:
                fault = fault or f"metadata has a name that is a {kind.value}; {METADATA_ALLOWED}"
        return members, fault

    def _pairs(self, body: bytes) -> Iterable[tuple[Raw, Raw]]:
        """Return names and values of a map. Its bytes after the header are those of a list of twice as many elements.

        They do not become a `dict`: it hashes names that are numbers in a foreseeable way, and with many that collide it
        needs minutes.
        """
        first, header = body[0], {0xDE: 3, 0xDF: 5}.get(body[0], 1)
        size = int.from_bytes(body[1:header], "big") if header > 1 else first & 0x0F
        elements = iter(
            self.decode_list(msgspec.Raw(struct.pack(">BI", 0xDD, min(2 * size, 0xFFFFFFFF)) + body[header:]))
        )
        return zip(elements, elements, strict=True)


def _string_bytes(raw: Raw) -> bytes:
    """Return a MessagePack string without its header."""
    data = bytes(raw)
    return data[{0xD9: 2, 0xDA: 3, 0xDB: 5}.get(data[0], 1) :]
