"""The decoder for the records of an index, as the settings say; the commands judge records with the same one."""

from worker.oss.dialect import Envelope
from worker.records.choices import Format
from worker.records.decode import Decoder
from worker.records.formats import shape
from worker.records.formats.by_schema import Schemas
from worker.records.formats.contract import Options
from worker.records.formats.shape import Shape
from worker.records.target import Target
from worker.settings.tables import Records, Settings


def shape_of(records: Records) -> Shape:
    """Return where the parts of records are. The settings were checked, so that their paths are paths."""
    fields = records.fields
    return shape.shape_of(fields.key, fields.vector, fields.metadata, fields.delete)


def options_of(records: Records, dimension: int = 1) -> Options:
    """Return what a format may depend on."""
    return Options(
        dimension,
        records.metadata_values,
        shape_of(records),
        records.key_format,
        records.key_values,
        records.vector_bytes,
        records.envelope,
    )


def decoder_of(
    target: Target,
    settings: Settings,
    topic: str,
    *,
    record_format: Format | None = None,
    longest_index: str | None = None,
    schemas: Schemas | None = None,
) -> Decoder:
    """Return the decoder for records of a topic that go to an index; `record_format` replaces the setting's.

    `schemas` are those of the registry. A record may be as large as fits a request of its own to `longest_index`, the index
    itself by default.
    """
    records = settings.records_of(topic)
    return Decoder(
        target,
        max_fragment_bytes=settings.batch.max_bytes - Envelope.of(longest_index or target.index).put_overhead,
        format=record_format or records.format,
        key_format=records.key_format,
        metadata_values=records.metadata_values,
        tombstones=records.tombstones,
        key_values=records.key_values,
        vector_bytes=records.vector_bytes,
        envelope=records.envelope,
        shape=shape_of(records),
        schemas=schemas,
        suspect=records.suspect,
        many=records.many,
    )
