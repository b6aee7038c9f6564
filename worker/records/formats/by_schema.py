"""The format of a route whose settings name a schema registry: what names a schema is read by it, all else as without.

    Avro, Protobuf  ──by the schema──▶  MessagePack  ──▶  the reader of MessagePack
    JSON Schema     ──the body as it is──▶  the reader of JSON; the schema is not asked what it allows
    no schema       ──▶  the format of `records.format`

So a record in Avro or Protobuf is read by the same rules, paths and checks as one in MessagePack.
"""

from typing import Final, Protocol

from worker.errors import RecordError
from worker.records.formats.contract import Format, Headers, Record
from worker.records.formats.framing import Framed, SchemaId, framed

AS_IT_IS: Final = "JSON"


class SchemaReader(Protocol):
    """Reads the bodies of one schema."""

    @property
    def encoding(self) -> str:
        """What the schema is of: Avro, Protobuf or JSON."""

    def plain(self, framed: Framed, /) -> bytes:
        """Return a body as MessagePack; of a JSON Schema as it is, in JSON.

        Raises `RecordError`, `is_complete` where it names the schema.
        """


class Schemas(Protocol):
    """The schemas of a registry, as far as they are here."""

    def reader(self, schema: SchemaId, /) -> SchemaReader:
        """Return what reads bodies of a schema.

        Raises `SchemaPending` where it is not here yet, and `RecordError` where the registry does not have it, or it is of no
        use.
        """


class BySchema:
    """Reads messages that name a schema by it, and all others by another format."""

    def __init__(self, schemas: Schemas, *, json: Format, msgpack: Format, without: Format) -> None:
        self._schemas = schemas
        self._json = json
        self._msgpack = msgpack
        self._without = without

    def read(self, key: bytes | None, value: bytes, headers: Headers) -> Record:
        """Return what the message says. Raises `RecordError`, and `SchemaPending` where its schema is not here yet."""
        try:
            found = framed(value, headers)
        except RecordError as error:
            raise RecordError(error.reason, error.message, is_complete=True) from None
        if found is None:
            return self._without.read(key, value, headers)
        reader = self._schemas.reader(found.schema)
        try:
            body = reader.plain(found)
            inner = self._json if reader.encoding == AS_IT_IS else self._msgpack
            return inner.read(key, body, headers)
        except RecordError as error:
            if error.is_complete:
                raise
            message = f"{error.message} (read as {reader.encoding}, {found.schema})"
            raise RecordError(error.reason, message, is_complete=True) from None


def plain_value(schemas: Schemas, value: bytes, headers: Headers) -> bytes:
    """Return a value as JSON or MessagePack, whichever its schema is read to; one without a schema as it is.

    Raises what `BySchema.read` raises.
    """
    found = framed(value, headers)
    return value if found is None else schemas.reader(found.schema).plain(found)
