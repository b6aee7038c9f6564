"""The prefix that the serializers of a schema registry write: 0x00, then the schema's id as four bytes, big-endian.

What follows is read by another format. Today that is JSON, with or without a JSON Schema; Avro and Protobuf are recognised
and refused by name.
"""

import re
from collections.abc import Mapping
from typing import Final

from worker.errors import Reason, RecordError
from worker.records.formats.contract import Format, Headers, Record
from worker.records.formats.first_byte import Read
from worker.records.formats.framing import PREFIX, PREFIX_BYTES
from worker.records.formats.hints import resembles
from worker.records.formats.values import BYTE_ORDER_MARK

_UTF_16: Final = b"\x00{\x00"  # big-endian, without a byte order mark
_JSON_MAP: Final = re.compile(rb"[ \t\r\n]*\{")
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
                raise _no_json(value) from None
            raise


def _after_prefix(value: bytes) -> bytes:
    body = value[PREFIX_BYTES:].removeprefix(BYTE_ORDER_MARK)
    if value.startswith(_UTF_16):
        raise RecordError(Reason.MALFORMED, f"the value looks like {resembles(value)}; expected JSON in UTF-8")
    if len(value) < PREFIX_BYTES:
        raise RecordError(
            Reason.UNSUPPORTED_ENCODING, f"the value begins with 0x00 and ends after {len(value)} bytes; expected JSON"
        )
    if not _JSON_MAP.match(body):
        raise _no_json(value)
    return body


def _no_json(value: bytes) -> RecordError:
    schema_id = int.from_bytes(value[1:PREFIX_BYTES], "big")
    return RecordError(
        Reason.UNSUPPORTED_ENCODING,
        f"the value has a schema registry's prefix (schema id {schema_id}) and what follows is not a JSON map; Avro and "
        "Protobuf are not read without a registry (registry.url), JSON (also with JSON Schema) and MessagePack are",
    )
