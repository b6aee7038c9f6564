"""Where a message says which schema of a registry it was written by: in the value's prefix, or in a header.

    prefix                      0x00, the schema's id as four bytes, big-endian; then the body (Confluent's serializers, and
                                those of Apicurio and Karapace that are set to be compatible)
    __value_schema_id           a header: 0x00 and the id, or 0x01 and the schema's GUID as 16 bytes; for Protobuf the
                                message indexes follow. The whole value is the body (Confluent)
    apicurio.value.contentId    a header: the id as eight bytes, big-endian. The whole value is the body (Apicurio)
    apicurio.value.globalId     likewise, another number of the same schema
    apicurio.protobuf.type      a header beside these two: the name of the Protobuf message
    apicurio.value.encoding     likewise: BINARY, or JSON where Avro is written as JSON, which is not read

A header counts before the prefix, as in Confluent's own readers.
"""

from enum import Enum
from typing import Final, NamedTuple
from uuid import UUID

from worker.errors import Reason, RecordError
from worker.records.formats.contract import Headers
from worker.records.formats.hints import wide_text

PREFIX: Final = b"\x00"
PREFIX_BYTES: Final = 5

_CONFLUENT: Final = "__value_schema_id"
_CONTENT_ID: Final = "apicurio.value.contentId"
_GLOBAL_ID: Final = "apicurio.value.globalId"
_MESSAGE_NAME: Final = "apicurio.protobuf.type"
_ENCODING: Final = "apicurio.value.encoding"
_HEADERS: Final = frozenset((_CONFLUENT, _CONTENT_ID, _GLOBAL_ID))
_BESIDE: Final = frozenset((_MESSAGE_NAME, _ENCODING))
_OF_GUID: Final = b"\x01"
_GUID_BYTES: Final = 16
_APICURIO_BYTES: Final = 8
# As big-endian text in UTF-16 that begins with a tab has it; no registry has given so many ids.
_LEAST_OF_UTF_16: Final = 0x09000000


class Kind(Enum):
    """By what a registry knows a schema; the value is the word for it in messages."""

    ID = "schema id"
    GUID = "schema GUID"
    CONTENT_ID = "Apicurio content id"
    GLOBAL_ID = "Apicurio global id"


class SchemaId(NamedTuple):
    """The name of one schema, which never changes. `text` is what a request has in its path."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind.value} {self.text}"


class Framed(NamedTuple):
    """A body, the schema that it was written by, and what says which message of a Protobuf schema it is.

    `indexes` are the bytes of the message indexes, None where they are at the beginning of the body. `message_name` says it
    instead, where it is not "": the body then begins with the message itself.
    """

    schema: SchemaId
    body: bytes
    indexes: bytes | None = None
    message_name: str = ""


def without_prefix(value: bytes) -> bytes:
    """Return a value without the prefix, if it has one: before JSON it says nothing that is needed to read it."""
    return value[PREFIX_BYTES:] if value.startswith(PREFIX) else value


def framed(value: bytes, headers: Headers) -> Framed | None:
    """Return the body and its schema, None where the message names no schema. Raises `RecordError`."""
    if headers:
        found = {name: content for name, content in headers if name in _HEADERS and content is not None}
        if found:
            return _by_header(found, value, headers)
    if value[:1] != PREFIX:
        return None
    if len(value) < PREFIX_BYTES:
        raise RecordError(
            Reason.UNSUPPORTED_ENCODING,
            f"the value begins with 0x00 and ends after {len(value)} bytes; a schema registry's prefix has {PREFIX_BYTES}",
        )
    number = int.from_bytes(value[1:PREFIX_BYTES], "big")
    if number >= _LEAST_OF_UTF_16 and (name := wide_text(value)):
        raise RecordError(Reason.MALFORMED, f"the value looks like {name}; expected JSON in UTF-8")
    if number == 0:
        raise RecordError(
            Reason.UNSUPPORTED_ENCODING,
            "the value has a schema registry's prefix with the schema id 0, which no registry gives; Apicurio's own prefix has "
            "nine bytes: let its serializers write the one of five, or the id in a header",
        )
    return Framed(SchemaId(Kind.ID, str(number)), value[PREFIX_BYTES:])


def schema_in_header(headers: Headers) -> str:
    """Return what says which schema a header names, "" where none does. Only for messages."""
    names = {name for name, content in headers if content is not None}
    name = next((each for each in (_CONFLUENT, _CONTENT_ID, _GLOBAL_ID) if each in names), "")
    try:
        found = framed(b"", headers) if name else None
    except RecordError:
        return ""
    return "" if found is None else f"the header {name} names {found.schema}"


def _by_header(found: dict[str, bytes], value: bytes, headers: Headers) -> Framed:
    if (content := found.get(_CONFLUENT)) is not None:
        if content[:1] == _OF_GUID and len(content) > _GUID_BYTES:
            guid = str(UUID(bytes=content[1 : 1 + _GUID_BYTES]))
            return Framed(SchemaId(Kind.GUID, guid), value, content[1 + _GUID_BYTES :])
        if content[:1] == PREFIX and len(content) >= PREFIX_BYTES:
            number = int.from_bytes(content[1:PREFIX_BYTES], "big")
            return Framed(SchemaId(Kind.ID, str(number)), value, content[PREFIX_BYTES:])
        raise _no_id(_CONFLUENT, content, "0x00 and an id of four bytes, or 0x01 and a GUID of 16")
    beside = {each: content for each, content in headers if each in _BESIDE and content}
    if beside.get(_ENCODING) == b"JSON":
        raise RecordError(
            Reason.UNSUPPORTED_ENCODING,
            f"the header {_ENCODING} says JSON: Avro as JSON is not read; let Apicurio's serializer write BINARY "
            "(apicurio.registry.avro.encoding)",
        )
    for header, kind in ((_CONTENT_ID, Kind.CONTENT_ID), (_GLOBAL_ID, Kind.GLOBAL_ID)):
        if (content := found.get(header)) is not None:
            if len(content) != _APICURIO_BYTES:
                raise _no_id(header, content, f"a number of {_APICURIO_BYTES} bytes")
            schema = SchemaId(kind, str(int.from_bytes(content, "big")))
            return Framed(schema, value, b"", beside.get(_MESSAGE_NAME, b"").decode(errors="replace"))
    raise AssertionError("one of the headers is there")


def _no_id(header: str, content: bytes, expected: str) -> RecordError:
    return RecordError(
        Reason.UNSUPPORTED_ENCODING,
        f"the header {header} has {len(content)} bytes that name no schema; expected {expected}",
    )
