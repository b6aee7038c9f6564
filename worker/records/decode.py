"""The pipeline from a Kafka message to what it asks for: read by a format, checked, written as a JSON fragment."""

from typing import Final

import msgspec
import orjson

from worker.errors import FatalError, Reason, RecordError, SchemaPending
from worker.records.choices import (
    Envelope,
    Format,
    KeyFormat,
    KeyValues,
    Many,
    MetadataValues,
    Suspect,
    Tombstones,
    VectorBytes,
)
from worker.records.formats.by_schema import Schemas
from worker.records.formats.contract import Headers, Operation, Options, Record
from worker.records.formats.paths import Source
from worker.records.formats.shape import FIXED, Shape
from worker.records.formats.shared import header_text
from worker.records.formats.table import format_of
from worker.records.keys import has_control_character, in_quotes
from worker.records.looks import Looks
from worker.records.metadata import MetadataWriter
from worker.records.suspects import BINARY_KEY, MAP_KEY, QUOTED_HEADER, QUOTED_KEY, Suspects, Suspicion
from worker.records.target import Target
from worker.records.vector import Vectors


class Put(msgspec.Struct, frozen=True, gc=False):
    """A vector to write: its key, and its element of the request's `vectors` list as finished JSON."""

    key: str
    fragment: bytes
    key_mismatch: bool
    suspicion: Suspicion | None = None


class Delete(msgspec.Struct, frozen=True, gc=False):
    """A vector to delete."""

    key: str
    suspicion: Suspicion | None = None


class Ignore(msgspec.Struct, frozen=True, gc=False):
    """A message that asks for nothing, such as a tombstone under `records.tombstones = "ignore"`."""


Decoded = Put | Delete | Ignore
IGNORE: Final = Ignore()
_PUT: Final = Operation.PUT  # a global name: to look it up in its class would cost more than the comparison


class Decoder:
    """Decodes and validates the records of one route, by one format, which is chosen here.

    `max_fragment_bytes` is the size of the largest fragment that fits into a request of its own. `schemas` are those of the
    registry, if the settings name one. The other settings are those of `[records]`.
    """

    def __init__(
        self,
        target: Target,
        *,
        max_fragment_bytes: int,
        format: Format = "auto",  # noqa: A002 - the setting's name
        key_format: KeyFormat = "utf8",
        metadata_values: MetadataValues = "strict",
        tombstones: Tombstones = "dead-letter",
        key_values: KeyValues = "strict",
        vector_bytes: VectorBytes = "float32-le",
        envelope: Envelope = "none",
        shape: Shape = FIXED,
        schemas: Schemas | None = None,
        suspect: Suspect = "write",
        many: Many = "reject",
    ) -> None:
        """`many` changes only what is said of a record: messages are cut into records before."""
        self._max_fragment_bytes = max_fragment_bytes
        # After a delete, Debezium sends a tombstone for the topic's compaction.
        self._tombstones = tombstones if envelope != "debezium" else "ignore"
        self._delete_advice = (
            '"delete" would delete the vector,'
            if shape.is_kafka_key(is_enveloped=envelope == "connect")
            else "it names only the Kafka key, and records.fields.key is another one: use records.fields.delete to delete;"
        )
        options = Options(target.dimension, metadata_values, shape, key_format, key_values, vector_bytes, envelope)
        keys = options.keys
        self._read = format_of(format, options, schemas).read
        self._choose_key = keys.choose
        self._is_mismatch = keys.is_mismatch
        self._vector_json = Vectors(target, shape.vector.text, vector_bytes).json_and_bytes
        self._is_quoted, self._is_map = keys.is_quoted, keys.is_map
        # The key that `$kafka.key` leads to has the quotes of the Kafka key too, alone or within a template.
        key_paths = () if shape.key is None else shape.key.paths
        self._takes_kafka_key = any(path.source is Source.KAFKA_KEY for path in key_paths)
        self._headers_in_key = tuple(path.name for path in key_paths if path.source is Source.HEADER)
        self._takes_around = self._takes_kafka_key or bool(self._headers_in_key)
        self._suspicion_of = Suspects(target).of
        self._looks = Looks(
            target,
            vector_path=shape.vector.text,
            envelope=envelope,
            is_many=many == "split",
            vector_bytes=vector_bytes,
            has_registry=schemas is not None,
        )
        self._refuses_suspects = suspect == "dead-letter"
        self._metadata_member = MetadataWriter(target, metadata_values).member

    def decode(self, key: bytes | None, value: bytes | None, headers: Headers) -> Decoded:
        """Return what the message asks for.

        Raises `RecordError` where it can never be written, with one of the fixed reasons. An unexpected error becomes one too
        (`internal_error`): it costs this record, not the worker. Nothing else is raised but `SchemaPending`, where the schema
        of the message is not here yet; in a command `FatalError`, where it cannot be had.
        """
        record = None
        try:
            if value is None:
                return self._tombstone(key, headers)
            record = self._read(key, value, headers)
            if record.operation is _PUT:
                return self._put(record, key, headers)
            return self._other(record, key, headers)
        except (SchemaPending, FatalError):
            raise
        except RecordError as error:
            if error.is_complete:
                raise
            raise self._looks.completed(error, value, record and record.vector, headers) from None
        except Exception as error:
            raise RecordError.internal(error) from error

    def _put(self, record: Record, kafka_key: bytes | None, headers: Headers) -> Put:
        key = self._choose_key(record.key, kafka_key, headers)
        vector, packed = self._vector_json(record.vector)
        metadata = self._metadata_member(record.metadata)
        fragment = b"".join((b'{"key":', orjson.dumps(key), b',"data":{"float32":', vector, b"}", metadata, b"}"))
        if len(fragment) > self._max_fragment_bytes:
            raise RecordError(
                Reason.TOO_LARGE,
                f"the record makes {len(fragment)} bytes of request, at most {self._max_fragment_bytes} fit one alone "
                "(batch.max_bytes)",
            )
        suspicion = self._suspicion_of(packed)
        if suspicion is None and (record.key is None or self._takes_around):
            suspicion = self._suspicion_of_key(key, record.key, kafka_key, headers)
        if suspicion is not None and self._refuses_suspects:
            raise _suspect(suspicion)
        return Put(key, fragment, kafka_key is not None and self._is_mismatch(key, kafka_key), suspicion)

    def _delete(self, own_key: str | None, kafka_key: bytes | None, headers: Headers) -> Delete:
        key = self._choose_key(own_key, kafka_key, headers)
        is_around = own_key is None or self._takes_around
        suspicion = self._suspicion_of_key(key, own_key, kafka_key, headers) if is_around else None
        if suspicion is not None and self._refuses_suspects:
            raise _suspect(suspicion)
        return Delete(key, suspicion)

    def _suspicion_of_key(
        self, key: str, own_key: str | None, kafka_key: bytes | None, headers: Headers
    ) -> Suspicion | None:
        """Return why a vector's key is suspect that is the Kafka key or a header, or has one in it."""
        if key.isprintable() and '"' not in key:
            return None
        if own_key is not None:
            texts = (header_text(headers, name) or "" for name in self._headers_in_key)
            if any(in_quotes(text.encode()) is not None for text in texts):
                return QUOTED_HEADER
            if not self._takes_kafka_key:
                return None
        if kafka_key is not None:
            if self._is_quoted(kafka_key):
                return QUOTED_KEY
            if self._is_map(kafka_key):
                return MAP_KEY
        return BINARY_KEY if has_control_character(key) else None

    def _other(self, record: Record, kafka_key: bytes | None, headers: Headers) -> Delete | Ignore:
        if record.operation is Operation.IGNORE:
            return IGNORE
        if record.operation is Operation.TOMBSTONE:
            return self._tombstone(kafka_key, headers)
        return self._delete(record.key, kafka_key, headers)

    def _tombstone(self, key: bytes | None, headers: Headers) -> Delete | Ignore:
        if self._tombstones == "ignore":
            return IGNORE
        if self._tombstones == "dead-letter":
            raise RecordError(
                Reason.TOMBSTONE,
                f'the value is null, and records.tombstones is "dead-letter"; {self._delete_advice} '
                '"ignore" would skip the record',
            )
        return self._delete(None, key, headers)


def _suspect(suspicion: Suspicion) -> RecordError:
    return RecordError(
        Reason.SUSPECT, f'{suspicion.what} (records.suspect = "dead-letter"; "write" would write it)', suspicion.cause
    )
