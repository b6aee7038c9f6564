"""The prefix that the serializers of a schema registry write: 0x00, then the schema's id as four bytes, big-endian.

What follows is read by another format. Today that is JSON, with or without a JSON Schema; Avro and Protobuf are recognised
and refused by name.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from worker.errors import Reason, RecordError
from worker.records.formats.contract import Format, Headers, Record
from worker.records.formats.first_byte import Read
from worker.records.formats.framing import PREFIX, PREFIX_BYTES
from worker.records.formats.hints import wide_text
from worker.records.formats.values import BYTE_ORDER_MARK, UNREADABLE

_JSON_MAP: Final = re.compile(rb"[ \t\r\n]*\{")
_OTHER_JSON: Final = re.compile(rb'[ \t\r\n]*([\["])')
_decode_raw: Final = msgspec.json.Decoder(msgspec.Raw).decode
# Of what does not parse: whether it is JSON with a mistake, or Avro whose first byte is that of a bracket.
_BEGINS_AS_JSON_MAP: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*(?:["}]|\Z)')

_NOT_IN_JSON: Final = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f]"
)  # JSON escapes them; Avro and Protobuf are full of them


class RegistryFormat:
    """Reads records behind a schema registry's prefix, by a format for JSON."""

    def __init__(self, json: Format) -> None:
        self._json = json

    def beginnings(self) -> Mapping[bytes, Read]:
        """Return how a message with the prefix begins, and what reads it then."""
        return {PREFIX: self.read}

    def read(self, key: bytes | None, value: bytes, headers: Headers) -> Record:
        """Return what the value says after its prefix. Raises `RecordError`."""
        body = _after_prefix(value)
        try:
            return self._json.read(key, body, headers)
        except RecordError:
            if not _BEGINS_AS_JSON_MAP.match(body) or _NOT_IN_JSON.search(body):
                raise (_other_json(value, body) or _no_json(value)) from None
            raise


def _after_prefix(value: bytes) -> bytes:
    body = value[PREFIX_BYTES:].removeprefix(BYTE_ORDER_MARK)
    if len(value) < PREFIX_BYTES:
        raise RecordError(
            Reason.UNSUPPORTED_ENCODING, f"the value begins with 0x00 and ends after {len(value)} bytes; expected JSON"
        )
    if not _JSON_MAP.match(body):
        raise _other_json(value, body) or _no_json(value)
    return body


def _other_json(value: bytes, body: bytes) -> RecordError | None:
    """Return the error of JSON that is no map in UTF-8, None where it is no JSON at all."""
    if name := wide_text(value):  # without a mark, big-endian text begins with 0x00
        return RecordError(Reason.MALFORMED, f"the value looks like {name}; expected JSON in UTF-8")
    if name := wide_text(body):
        return RecordError(
            Reason.MALFORMED, f"{_prefix(value)} and what follows looks like {name}; expected JSON in UTF-8"
        )
    kind = _OTHER_JSON.match(body)
    if kind is None:
        return None
    try:
        _decode_raw(body)
    except UNREADABLE:
        return None
    what = "list" if kind[1] == b"[" else "string"
    return RecordError(Reason.MALFORMED, f"{_prefix(value)} and the JSON behind it is a {what}; expected a map")


def _prefix(value: bytes) -> str:
    schema_id = int.from_bytes(value[1:PREFIX_BYTES], "big")
    return f"the value has a schema registry's prefix (schema id {schema_id})"


def _no_json(value: bytes) -> RecordError:
    return RecordError(
        Reason.UNSUPPORTED_ENCODING,
        f"{_prefix(value)} and what follows is not a JSON map; Avro and Protobuf are not read without a registry "
        "(registry.url), JSON (also with JSON Schema) and MessagePack are",
    )
