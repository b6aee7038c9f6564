"""Record batches of the formats 0 and 1, read by the client, with bounds for what has none there.

Brokers since 4.0 have none of them. An older broker may return what an old producer wrote.
"""

import operator
import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from kafka import errors as kafka_errors
from kafka.record.legacy_records import LegacyRecordBatch

from worker.consumer.unpack import UnpackError, unpack

LEAST_BYTES: Final = 14
"""Of a message of the oldest format, after its offset and its length."""


class OldRecord(NamedTuple):
    """One message. `timestamp`: in milliseconds, -1 where the format has none."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    has_right_checksum: bool


class OldBatch(LegacyRecordBatch):  # type: ignore[misc]  # kafka-python ships no types
    """One message, or several in a compressed one. Its offset is that of its last message."""

    def records(self, *, check_crcs: bool) -> Iterator[OldRecord]:
        """Return the messages. Raises `CorruptRecordError` and `UnsupportedCodecError`."""
        for record in self:
            timestamp = -1 if record.timestamp is None else record.timestamp
            is_right = not check_crcs or record.validate_crc()
            yield OldRecord(record.offset, timestamp, record.key, record.value, is_right)

    @property
    def last_offset(self) -> int:
        """The offset of its last message."""
        return int(self.base_offset)

    def has_right_checksum(self) -> bool:
        """Return whether the checksum is that of the bytes."""
        return bool(self.validate_crc())

    def _decompress(self, key_offset: int) -> bytes:
        if self.compression_type == self.CODEC_LZ4 and self.magic == 0:
            unpacked: bytes = super()._decompress(key_offset)  # its frames have a header checksum of their own
            return unpacked
        self._assert_has_codec(self.compression_type)
        try:
            return unpack(self.compression_type, self._compressed(key_offset))
        except UnpackError as error:
            raise kafka_errors.CorruptRecordError(f"the messages up to offset {self.base_offset} {error}") from None

    def _compressed(self, key_offset: int) -> memoryview:
        (key_size,) = struct.unpack_from(">i", self._buffer, key_offset)
        at = key_offset + self.KEY_LENGTH + max(key_size, 0)
        (size,) = struct.unpack_from(">i", self._buffer, at)
        at += self.VALUE_LENGTH
        if key_size < -1 or not 0 <= size <= len(self._buffer) - at:
            raise kafka_errors.CorruptRecordError(f"a compressed message with {key_size} and {size} bytes")
        compressed: memoryview = self._buffer[at : at + size]
        return compressed

    def _read_all_headers(self) -> list[tuple[Any, int]]:
        found, at = [], 0
        while at < len(self._buffer):
            header = self._read_header(at)
            found.append((header, at))
            at += self.LOG_OVERHEAD + header[1]
            if header[1] < LEAST_BYTES or at > len(self._buffer):
                raise kafka_errors.CorruptRecordError(f"a message of {header[1]} bytes")
        offsets = [header[0] for header, _ in found]
        if not found or not all(map(operator.lt, offsets, offsets[1:])):
            raise kafka_errors.CorruptRecordError(f"messages whose offsets do not ascend, up to {self.base_offset}")
        return found

    def _read_key_value(self, at: int) -> tuple[bytes | None, bytes | None]:
        fields: list[bytes | None] = []
        for _ in range(2):
            (size,) = struct.unpack_from(">i", self._buffer, at)
            at += self.KEY_LENGTH
            if not -1 <= size <= len(self._buffer) - at:
                raise kafka_errors.CorruptRecordError(f"a message with a key or value of {size} bytes")
            fields.append(None if size < 0 else bytes(self._buffer[at : at + size]))
            at += max(size, 0)
        return fields[0], fields[1]
