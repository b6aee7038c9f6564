"""JSON and MessagePack: the parts of one record, each read by itself, at a cost that its bytes bound.

Most records are decoded at once, by a typed decoder. What that one cannot decode, or is large, is read here step by step:
first cut into its parts, of which nothing is built, then each part that counts by the first byte of each of its values.
Both ways read the same record the same way; where they could differ, this one decides.

What both hold to, for both encodings:

- The value is well-formed as a whole.
- Of a name that is there twice in one map the last value counts, whatever the others are.
- What has no meaning here is ignored: other names, names that are no strings, and values that a later one replaces. Strings
  in what is ignored are not looked into; they may be no text.
- Strings in what counts (`key`, `data.float32`, and names, strings and lists of strings in `metadata`) are text: UTF-8,
  without half of a surrogate pair.
"""

import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

import msgspec

from worker.errors import Reason, RecordError
from worker.words import clean

Metadata: TypeAlias = dict[str, str | list[str]]

_VECTOR: Final = "allowed are a list of numbers, or base64 of little-endian float32"
_METADATA: Final = "allowed is a map of strings to strings or lists of strings (limit of PutVectors)"
_LOOSE_METADATA: Final = "allowed are strings, numbers, booleans, and lists of them"
_STRINGIFY: Final = ' (records.metadata_values = "stringify" turns numbers and booleans into text)'
_SHOWN_CHARACTERS: Final = 100  # of a name in a message, which becomes a header of the dead letter
_TOO_MUCH_TEXT: Final = 40 * 1024  # bytes; what the service keeps of a vector's metadata

_encode_scalar: Final = msgspec.json.Encoder().encode

Raw: TypeAlias = msgspec.Raw
_NOTHING: Final = msgspec.Raw(b"")  # the part of a record that is not there


class Kind(Enum):
    """What a value is, as its first byte says; the value is the word for it in messages."""

    STRING = "string"
    NUMBER = "number"
    LIST = "list"
    MAP = "map"
    NULL = "null"
    BOOLEAN = "boolean"
    BINARY = "binary"
    EXTENSION = "value of an extension type"
    NOTHING = "nothing"


class Parts(msgspec.Struct, gc=False):
    """A record, cut into the parts that count. None is decoded; what is not there is empty."""

    key: Raw = _NOTHING
    data: Raw = _NOTHING
    metadata: Raw = _NOTHING


class Numbers(NamedTuple):
    """A vector that is a list of numbers, none of them decoded, and how many they are."""

    raw: Raw
    length: int


class _DataParts(msgspec.Struct, gc=False):
    float32: Raw = _NOTHING


class Syntax(ABC):
    """One of the two encodings. Every method raises `RecordError`, and nothing else of its own."""

    name: str

    @abstractmethod
    def parts(self, body: bytes) -> Parts:
        """Cut a record into its parts, once it is well-formed as a whole."""

    def key(self, parts: Parts) -> str | None:
        """Return the record's own key, None where it has none."""
        kind = self._kind(parts.key)
        if kind is Kind.STRING:
            return self._text(parts.key, "key")
        if kind in (Kind.NULL, Kind.NOTHING):
            return None
        raise self._no_record(f"key is a {kind.value}; allowed is a string")

    def vector(self, parts: Parts) -> Numbers | bytes:
        """Return `data.float32`: a list of numbers, or the bytes that they are packed in, which may be base64."""
        kind = self._kind(parts.data)
        if kind is Kind.NOTHING:
            raise self._no_record("it has no data; needed is data.float32")
        if kind is not Kind.MAP:
            raise self._no_record(f"data is a {kind.value}; allowed is a map with float32")
        raw = self._data_parts(parts.data).float32
        kind = self._kind(raw)
        if kind is Kind.LIST:
            return Numbers(raw, self._count_numbers(raw))
        if kind is Kind.BINARY:
            return self._decode_binary(raw)
        if kind is Kind.NOTHING:
            raise self._no_record("data has no float32")
        if kind is not Kind.STRING:
            raise self._no_record(f"data.float32 is a {kind.value}; {_VECTOR}")
        try:
            return msgspec.convert(self._text(raw, "data.float32"), bytes)
        except msgspec.ValidationError:
            raise RecordError(Reason.MALFORMED, f"data.float32 is a string that is not base64; {_VECTOR}") from None

    def floats(self, numbers: Numbers) -> list[float]:
        """Decode a list of numbers in the range of float64."""
        try:
            return self._decode_floats(numbers.raw)
        except msgspec.ValidationError as error:
            place = clean(str(error).replace("`$[", "`$.data.float32["))
            raise RecordError(
                Reason.NOT_FINITE, f"{place}; beyond the range of float32, about ±3.4e38 (limit of PutVectors)"
            ) from None

    def metadata(self, parts: Parts, *, stringify: bool) -> Metadata | None:
        """Decode the metadata. With `stringify` numbers and booleans become their JSON text, and nulls are dropped."""
        kind = self._kind(parts.metadata)
        if kind in (Kind.NULL, Kind.NOTHING):
            return None
        if kind is not Kind.MAP:
            raise RecordError(Reason.METADATA, f"metadata is a {kind.value}; {_METADATA}")
        members, fault = self._members(parts.metadata)
        return _MetadataReader(self, members, fault, stringify=stringify).read()

    # -- what the two differ in

    _list: Callable[[Raw], list[Raw]]
    _decode_text: Callable[[Raw], str]
    _decode_texts: Callable[[Raw], list[str]]
    _decode_number: Callable[[Raw], int | float | bool]
    _decode_floats: Callable[[Raw], list[float]]
    _decode_binary: Callable[[Raw], bytes]
    _kinds: tuple[Kind, ...]

    @abstractmethod
    def _data_parts(self, data: Raw) -> _DataParts:
        """Cut `data`, which is a map, into the parts that count."""

    @abstractmethod
    def _members(self, metadata: Raw) -> tuple[dict[str, Raw], str]:
        """Cut the metadata, which is a map, into its members; and say what is wrong with a name, "" if nothing is."""

    # -- what they share

    def _kind(self, raw: Raw) -> Kind:
        view = memoryview(raw)
        return self._kinds[view[0]] if view else Kind.NOTHING

    def _count_numbers(self, vector: Raw) -> int:
        kinds = self._kinds_of(self._list(vector))
        for place, kind in enumerate(kinds):
            if kind is not Kind.NUMBER:
                raise self._no_record(f"number {place} of data.float32 is a {kind.value}; allowed are numbers")
        return len(kinds)

    def _kinds_of(self, elements: list[Raw]) -> list[Kind]:
        kinds = self._kinds
        return [kinds[bytes(element)[0]] for element in elements]  # in one go, for there may be a million

    def _text(self, raw: Raw, where: str) -> str:
        """Decode a string; `where` is its place for a message."""
        try:
            return self._decode_text(raw)
        except UnicodeDecodeError as error:
            raise self._no_text(bytes(raw), where, error) from None

    def _no_text(self, raw: bytes, where: str, error: UnicodeDecodeError) -> RecordError:
        if _HALF in raw:
            what = "half of a surrogate pair (\\ud800 to \\udfff by itself), which no encoding has a form for"
        else:
            what = f"a string that is not UTF-8: {error.reason}"
        return RecordError(Reason.MALFORMED, f"the {self.name} holds {what}; in {where}")

    def _no_record(self, what: str) -> RecordError:
        return RecordError(Reason.MALFORMED, f"the {self.name} is not a vector record: {what}")

    def _no_whole(self, body: bytes, error: Exception) -> RecordError:
        if isinstance(error, RecursionError):
            return RecordError(Reason.MALFORMED, f"the {self.name} is nested too deep")
        said = f"the value is no whole {self.name} map: {clean(str(error))}{_constant_at(body, error)}"
        known = resembles(body)
        return RecordError(Reason.MALFORMED, f"{said}; it looks like {known}" if known else said)


class _MetadataReader:
    """Reads the members of one metadata map.

    What is no text is reported before what has the wrong type: such a record is malformed, whatever else is wrong. So all
    strings are looked at, and the first other fault is kept until then. Numbers are decoded only while that can matter.
    """

    def __init__(self, syntax: Syntax, members: dict[str, Raw], fault: str, *, stringify: bool) -> None:
        self._syntax = syntax
        self._members = members
        self._fault = fault
        self._stringify = stringify
        self._text_bytes = 0

    def read(self) -> Metadata:
        """Return the metadata as it is written. Raises `RecordError`."""
        read: Metadata = {}
        for name, raw in self._members.items():
            if self._syntax._kind(raw) is Kind.LIST:  # noqa: SLF001 - it is a part of the syntax, in a class of its own
                read[name] = self._list(name, raw)
            else:
                read.update((name, text) for text in self._texts(name, [raw], in_list=False))
        if self._fault:
            raise RecordError(Reason.METADATA, self._fault)
        return read

    def _list(self, name: str, raw: Raw) -> list[str]:
        try:
            return self._syntax._decode_texts(raw)  # noqa: SLF001 - likewise; most are of strings alone
        except (msgspec.ValidationError, UnicodeDecodeError):
            return self._texts(name, self._syntax._list(raw), in_list=True)  # noqa: SLF001 - likewise

    def _texts(self, name: str, values: list[Raw], *, in_list: bool) -> list[str]:
        """Return the texts of values. What has none is left out: nulls that are dropped, and faults, which are noted."""
        decode, string = self._syntax._decode_text, Kind.STRING  # noqa: SLF001 - likewise
        texts = []
        for raw, kind in zip(values, self._syntax._kinds_of(values), strict=True):  # noqa: SLF001 - likewise
            if kind is string:
                try:
                    texts.append(decode(raw))
                except UnicodeDecodeError as error:
                    raise self._syntax._no_text(bytes(raw), f"metadata {shown(name)}", error) from None  # noqa: SLF001 - likewise
            elif not self._fault and (text := self._text_of_other(name, raw, kind, in_list=in_list)) is not None:
                texts.append(text)
        return texts

    def _text_of_other(self, name: str, raw: Raw, kind: Kind, *, in_list: bool) -> str | None:
        if self._stringify and kind is Kind.NULL:
            return None
        if self._stringify and kind in (Kind.NUMBER, Kind.BOOLEAN):
            return self._number(name, raw)
        self._fault = self._wrong(name, kind, in_list=in_list)
        return None

    def _number(self, name: str, raw: Raw) -> str | None:
        try:
            number = self._syntax._decode_number(raw)  # noqa: SLF001 - likewise
        except msgspec.ValidationError as error:
            self._fault = (
                f"metadata {shown(name)} holds what no metadata can hold: {clean(str(error))}; {_LOOSE_METADATA}"
            )
            return None
        text = scalar_text(number)
        if text is None:
            self._fault = f"metadata {shown(name)} holds {number!r}, which JSON has no text for"
            return None
        # The costliest numbers to decode have long texts, so this bounds what many of them cost.
        self._text_bytes += len(text)
        if self._text_bytes > _TOO_MUCH_TEXT:
            self._fault = f"metadata has numbers of more than {_TOO_MUCH_TEXT} bytes; allowed are {_TOO_MUCH_TEXT} bytes a vector (limit of PutVectors)"
        return text

    def _wrong(self, name: str, kind: Kind, *, in_list: bool) -> str:
        if self._stringify:
            return f"metadata {shown(name)} holds a {kind.value}; {_LOOSE_METADATA}"
        if in_list:
            return f"metadata {shown(name)} holds a {kind.value} in its list; {_METADATA}"
        hint = _STRINGIFY if kind in (Kind.NUMBER, Kind.BOOLEAN, Kind.NULL) else ""
        return f"metadata {shown(name)} is a {kind.value}; {_METADATA}{hint}"


# -- JSON


def _json_kinds() -> tuple[Kind, ...]:
    kinds = [Kind.NOTHING] * 256
    for first, kind in zip(b'"[{ntf', (Kind.STRING, Kind.LIST, Kind.MAP, Kind.NULL, *[Kind.BOOLEAN] * 2), strict=True):
        kinds[first] = kind
    for first in b"-0123456789":
        kinds[first] = Kind.NUMBER
    return tuple(kinds)


class JsonSyntax(Syntax):
    """JSON by RFC 8259, which has no NaN and no infinities."""

    name = "JSON"
    _kinds = _json_kinds()
    _list = staticmethod(msgspec.json.Decoder(list[Raw]).decode)
    _decode_text = staticmethod(msgspec.json.Decoder(str).decode)
    _decode_texts = staticmethod(msgspec.json.Decoder(list[str]).decode)
    _decode_number = staticmethod(msgspec.json.Decoder(int | float | bool).decode)
    _decode_floats = staticmethod(msgspec.json.Decoder(list[float]).decode)
    _decode_data_parts = staticmethod(msgspec.json.Decoder(_DataParts).decode)
    _decode_parts = staticmethod(msgspec.json.Decoder(Parts).decode)
    _decode_members = staticmethod(msgspec.json.Decoder(dict[str, Raw]).decode)

    def parts(self, body: bytes) -> Parts:
        """Cut a record into its parts. msgspec refuses half of a surrogate pair also in what is ignored."""
        try:
            return self._decode_parts(body)
        except msgspec.ValidationError as error:
            raise self._no_record(clean(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            without = _without_halves(body)
            if without == body:
                raise self._no_whole(body, error) from None
        try:
            return self._decode_parts(without)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._no_whole(body, error) from None

    def _data_parts(self, data: Raw) -> _DataParts:
        return self._decode_data_parts(data)

    def _members(self, metadata: Raw) -> tuple[dict[str, Raw], str]:
        try:
            return self._decode_members(metadata), ""
        except UnicodeDecodeError as error:
            raise self._no_text(bytes(metadata), "a name in metadata", error) from None


# Any escape, and in the second group one that is half of a surrogate pair. Pairs are tried first.
_ESCAPE: Final = re.compile(
    rb"""(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2} | \\u(?![dD][89a-fA-F]) | \\[^u])
       | (\\u[dD][89a-fA-F][0-9a-fA-F]{2})""",
    re.VERBOSE | re.DOTALL,
)
_ANY_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF: Final = b"\xff" * 6  # as long as the escape it stands for, and in no UTF-8


def _without_halves(body: bytes) -> bytes:
    """Put bytes that are no UTF-8 in the place of each half of a surrogate pair: a string that counts is refused for them."""
    if _ANY_HALF.search(body) is None:
        return body
    return _ESCAPE.sub(lambda escape: escape[1] or _HALF, body)


# -- MessagePack


def _msgpack_kinds() -> tuple[Kind, ...]:
    kinds = [Kind.NOTHING] * 256
    for kind, bytes_ in (
        (Kind.NUMBER, (*range(0x80), *range(0xCA, 0xD4), *range(0xE0, 0x100))),
        (Kind.MAP, (*range(0x80, 0x90), 0xDE, 0xDF)),
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


class MsgpackSyntax(Syntax):
    """MessagePack, whose names may be any value."""

    name = "MessagePack"
    _kinds = _msgpack_kinds()
    _list = staticmethod(msgspec.msgpack.Decoder(list[Raw]).decode)
    _decode_text = staticmethod(msgspec.msgpack.Decoder(str).decode)
    _decode_texts = staticmethod(msgspec.msgpack.Decoder(list[str]).decode)
    _decode_number = staticmethod(msgspec.msgpack.Decoder(int | float | bool).decode)
    _decode_floats = staticmethod(msgspec.msgpack.Decoder(list[float]).decode)
    _decode_binary = staticmethod(msgspec.msgpack.Decoder(bytes).decode)
    _decode_parts = staticmethod(msgspec.msgpack.Decoder(Parts).decode)
    _decode_data_parts = staticmethod(msgspec.msgpack.Decoder(_DataParts).decode)
    _decode_members = staticmethod(msgspec.msgpack.Decoder(dict[str, Raw]).decode)

    def parts(self, body: bytes) -> Parts:
        """Cut a record into its parts."""
        try:
            try:
                return self._decode_parts(body)
            except msgspec.ValidationError:  # a name is no string
                return Parts(**self._pick(body, Parts))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._no_whole(body, error) from None

    def _data_parts(self, data: Raw) -> _DataParts:
        try:
            return self._decode_data_parts(data)
        except msgspec.ValidationError:
            return _DataParts(**self._pick(bytes(data), _DataParts))

    def _pick(self, body: bytes, parts: type[msgspec.Struct]) -> dict[str, Raw]:
        """Return the members of a map that are fields of `parts`, where some names are no strings."""
        known = {name.encode(): name for name in parts.__struct_fields__}
        picked = {}
        for name, value in self._pairs(body):
            if self._kind(name) is Kind.STRING and (field := known.get(_string_bytes(name))) is not None:
                picked[field] = value
        return picked

    def _members(self, metadata: Raw) -> tuple[dict[str, Raw], str]:
        try:
            return self._decode_members(metadata), ""
        except UnicodeDecodeError as error:
            raise self._no_text(bytes(metadata), "a name in metadata", error) from None
        except msgspec.ValidationError:
            pass
        members, fault = {}, ""
        for name, value in self._pairs(bytes(metadata)):
            kind = self._kind(name)
            if kind is Kind.STRING:
                members[self._text(name, "a name in metadata")] = value
            else:
                fault = fault or f"metadata has a name that is a {kind.value}; {_METADATA}"
        return members, fault

    def _pairs(self, body: bytes) -> Iterable[tuple[Raw, Raw]]:
        """Return names and values of a map. Its bytes after the header are those of a list of twice as many elements.

        A `dict` of them would not do: it hashes names that are numbers in a way that anybody can foresee, and with many
        that collide it takes minutes.
        """
        first, header = body[0], {0xDE: 3, 0xDF: 5}.get(body[0], 1)
        size = int.from_bytes(body[1:header], "big") if header > 1 else first & 0x0F
        elements = iter(self._list(msgspec.Raw(struct.pack(">BI", 0xDD, min(2 * size, 0xFFFFFFFF)) + body[header:])))
        return zip(elements, elements, strict=True)


def _string_bytes(raw: Raw) -> bytes:
    """Return a MessagePack string without its header."""
    data = bytes(raw)
    return data[{0xD9: 2, 0xDA: 3, 0xDB: 5}.get(data[0], 1) :]


# -- words for messages


def shown(name: str) -> str:
    """Return a name of a record's metadata for a message: quoted, and cut."""
    return repr(name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}…")


def scalar_text(value: float) -> str | None:
    """Return the JSON text of a number or a boolean, None of NaN and the infinities, which JSON has no text for."""
    text = _encode_scalar(value).decode()
    return None if text == "null" else text


_CONSTANT: Final = re.compile(rb"-?(?:NaN|nan|Infinity|[Ii]nf)")
_PLACE: Final = re.compile(r"\(byte (\d+)\)")
_BEGINNINGS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\xff\x06\x00\x00sNaPpY", "snappy"),
    (b"\x82SNAPPY\x00", "snappy of xerial"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"PK\x03\x04", "a zip archive, as numpy's savez and torch's save write"),
    (b"\x93NUMPY", "an array as numpy's save writes it"),
    *((bytes((0x80, protocol)), "a Python pickle") for protocol in (2, 3, 4, 5)),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"{\x00", "UTF-16"),
    (b"\x00{\x00", "UTF-16"),
    (b"Obj\x01", "an Avro file"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xac\xed\x00\x05", "a serialized Java object"),
    (b"[", "a list, such as several records in one message"),
    (b'"', "a string, such as a record that was encoded as JSON twice"),
)  # fmt: skip


def resembles(value: bytes) -> str:
    """Return what the value looks like by its first bytes, "" where that is not known. A record may begin so too."""
    return next((name for beginning, name in _BEGINNINGS if value.startswith(beginning)), "")


def _constant_at(body: bytes, error: Exception) -> str:
    """Name NaN or an infinity where the error stands, which programs write that are not strict."""
    place = _PLACE.search(str(error))
    if place is None:
        return ""
    at = int(place[1])
    found = _CONSTANT.match(body, max(0, at - 1)) or _CONSTANT.match(body, at)
    return f", which is {found[0].decode()}; JSON has none, and vectors are of finite numbers" if found else ""
