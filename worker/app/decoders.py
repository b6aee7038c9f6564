"""The decoder for the records of an index, as the settings say; the commands judge records with the same one."""

from worker.oss.dialect import Envelope
from worker.records.choices import Format
from worker.records.decode import Decoder
from worker.records.target import Target
from worker.settings.tables import Settings


def decoder_of(
    target: Target, settings: Settings, *, record_format: Format | None = None, longest_index: str | None = None
) -> Decoder:
    """Return the decoder for records of an index; `record_format` replaces the setting's.

    A record may be as large as fits a request of its own to `longest_index`, the index itself by default.
    """
    records = settings.records
    return Decoder(
        target,
        max_fragment_bytes=settings.batch.max_bytes - Envelope.of(longest_index or target.index).put_overhead,
        format=record_format or records.format,
        key_format=records.key_format,
        metadata_values=records.metadata_values,
        tombstones=records.tombstones,
    )
