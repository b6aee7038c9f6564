"""The record batches of Kafka: from the bytes of a partition to messages, with one copy of each key and value.

The layout is that of Apache Kafka's `DefaultRecordBatch` and `DefaultRecord` (format 2). What does not fit it is corrupt.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from kafka import errors as kafka_errors

from worker.consumer.client_internals.old_batches import LEAST_BYTES, OldBatch
from worker.consumer.client_internals.receiving import checksum
from worker.consumer.unpack import CODECS, UnpackError, unpack

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, leader's epoch, magic, CRC, attributes, last offset's delta, first and highest timestamp, producer's
id and epoch, base sequence, number of records."""
_BEFORE_LENGTH_ENDS: Final = 12  # bytes of base offset and length, which the length leaves out
_LENGTH_AT: Final = 8  # in a record batch of any format
_MAGIC_AT: Final = 16  # likewise
_CHECKED_FROM: Final = 21  # the checksum is that of the attributes and all after them
_FORMAT: Final = 2
_CODEC_BITS: Final = 0x07
_LOG_APPEND_TIME_BIT: Final = 0x08
_TRANSACTIONAL_BIT: Final = 0x10
_CONTROL_BIT: Final = 0x20
_LONG: Final = (1 << 64) - 1
_VARINT_BYTES: Final = 10  # at most, for 64 bits
_KEY_BYTES: Final = 4  # of a transaction's marker: a version and a kind
_ABORT: Final = 0
MAX_HEADERS: Final = 16_384
"""The most headers of one record. Each is two bytes of a batch or more, and some 64 of memory; a poll returns 500 records."""


class Message(msgspec.Struct, frozen=True, gc=False):  # it is part of no cycle
    """A message, as `worker.ports.Message` describes it.

    A header's name that is not UTF-8 has its bytes as lone surrogates (PEP 383); `encode(errors="surrogateescape")` returns
    them.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    leader_epoch: int = -1  # of its batch: how often the partition's leader had changed; -1 where the format has none


class Batch:
    """A record batch of format 2: a view of the partition's bytes, `data`, from `begin` to `end`."""

    __slots__ = (
        "_attributes",
        "_begin",
        "_crc",
        "_data",
        "_end",
        "_first_timestamp",
        "_last_offset_delta",
        "_max_timestamp",
        "base_offset",
        "leader_epoch",
        "producer_id",
        "records_count",
    )

    def __init__(self, data: bytes, begin: int, end: int) -> None:
        (
            self.base_offset,
            _length,
            self.leader_epoch,
            _magic,
            self._crc,
            self._attributes,
            self._last_offset_delta,
            self._first_timestamp,
            self._max_timestamp,
            self.producer_id,
            _producer_epoch,
            _base_sequence,
            self.records_count,
        ) = _HEADER.unpack_from(data, begin)
        self._data, self._begin, self._end = data, begin, end

    @property
    def last_offset(self) -> int:
        """The last offset of the batch's range, whose record may have been compacted away."""
        return int(self.base_offset + self._last_offset_delta)

    @property
    def size_in_bytes(self) -> int:
        """The bytes of the whole batch."""
        return self._end - self._begin

    @property
    def is_control_batch(self) -> bool:
        """Whether it is a transaction's marker, which no consumer is given."""
        return bool(self._attributes & _CONTROL_BIT)

    @property
    def is_transactional(self) -> bool:
        """Whether it is part of a transaction."""
        return bool(self._attributes & _TRANSACTIONAL_BIT)

    @property
    def has_producer_id(self) -> bool:
        """Whether its producer is idempotent or transactional."""
        return bool(self.producer_id >= 0)

    def has_right_checksum(self) -> bool:
        """Return whether the checksum is that of the bytes."""
        return bool(self._crc == checksum(memoryview(self._data)[self._begin + _CHECKED_FROM : self._end]))

    def messages(self) -> Iterator[Message]:
        """Return the messages. Raises `CorruptRecordError` and `UnsupportedCodecError`."""
        if not 0 <= self.records_count <= self._last_offset_delta + 1:
            raise kafka_errors.CorruptRecordError(
                f"{self.records_count} records in a batch of {self._last_offset_delta + 1} offsets"
            )
        if not self.records_count:
            return iter(())  # all were compacted away
        codec = self._attributes & _CODEC_BITS
        begin = self._begin + _HEADER.size
        if not codec:
            return self._messages(self._data, begin, self._end)
        if codec not in CODECS:
            raise kafka_errors.UnsupportedCodecError(f"a batch with the codec {codec}")
        try:
            data = unpack(codec, memoryview(self._data)[begin : self._end])
        except UnpackError as error:
            raise kafka_errors.CorruptRecordError(f"the batch at offset {self.base_offset} {error}") from None
        return self._messages(data, 0, len(data))

    def is_abort_marker(self) -> bool:
        """Return whether it is the end of a transaction that was aborted."""
        if not self.is_control_batch or not self.records_count:
            return False
        key = next(self.messages()).key
        if key is None or len(key) < _KEY_BYTES:
            raise kafka_errors.CorruptRecordError(f"a transaction's marker with the key {key!r}")
        return int.from_bytes(key[2:_KEY_BYTES], "big") == _ABORT

    def _messages(self, data: bytes, at: int, end: int) -> Iterator[Message]:
        """Cut the records out of `data`, from `at` to `end`. All numbers in them but one are zigzag varints.

        Most numbers have one byte, which is read here without a call. Raises `CorruptRecordError`, and has not yielded the
        batch's last offset then: the rest would be skipped.
        """
        base_offset, last_offset, first_timestamp = self.base_offset, self.last_offset, self._first_timestamp
        # That of all records where the topic has the broker's time.
        fixed_timestamp = self._max_timestamp if self._attributes & _LOG_APPEND_TIME_BIT else None
        leader_epoch = self.leader_epoch
        before = base_offset - 1
        try:
            for last_of_this in range(
                last_offset + 1 - self.records_count, last_offset + 1
            ):  # each needs room behind it
                number, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
                record_end = at + ((number >> 1) ^ -(number & 1))
                if record_end > end:
                    raise kafka_errors.CorruptRecordError(f"a record ends at byte {record_end}, its batch at {end}")
                at += 1  # attributes, one byte of which no bit has a meaning
                number, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
                timestamp = (
                    first_timestamp + ((number >> 1) ^ -(number & 1)) if fixed_timestamp is None else fixed_timestamp
                )
                number, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
                offset = base_offset + ((number >> 1) ^ -(number & 1))
                if not before < offset <= last_of_this:
                    raise kafka_errors.CorruptRecordError(
                        f"a record at offset {offset} behind {before}, where {last_of_this} is the last one possible"
                    )
                before = offset
                number, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
                key = None
                if not number & 1:  # not negative
                    begin, at = at, at + (number >> 1)
                    key = data[begin:at]
                number, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
                value = None
                if not number & 1:
                    begin, at = at, at + (number >> 1)
                    value = data[begin:at]
                number, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
                headers: Sequence[tuple[str, bytes | None]] = ()
                if number:
                    headers, at = _headers(data, at, (number >> 1) ^ -(number & 1))
                if at != record_end:
                    raise kafka_errors.CorruptRecordError(f"a record ends at byte {at}, and should at {record_end}")
                if last_of_this == last_offset and at != end:
                    raise kafka_errors.CorruptRecordError(f"{end - at} bytes behind the last record of a batch")
                yield Message(offset, timestamp, key, value, headers, leader_epoch)
        except (ValueError, IndexError) as error:
            raise kafka_errors.CorruptRecordError(
                f"the record behind offset {before} cannot be read: {error}"
            ) from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned number at `at`, and where it ends. Raises `IndexError`, and `ValueError` where it does not end."""
    number = 0
    for place in range(_VARINT_BYTES):
        byte = data[at + place]
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number & _LONG, at + place + 1
    raise ValueError(f"a number of more than {_VARINT_BYTES} bytes")


def _headers(data: bytes, at: int, count: int) -> tuple[list[tuple[str, bytes | None]], int]:
    """Return the headers at `at`, and where they end."""
    if not 0 <= count <= MAX_HEADERS:
        raise ValueError(f"{count} headers, of {MAX_HEADERS} at most")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        number, at = _varint(data, at)
        if number & 1:
            raise ValueError("a header without a name")
        begin, at = at, at + (number >> 1)
        name = data[begin:at].decode(errors="surrogateescape")
        number, at = _varint(data, at)
        value = None
        if not number & 1:
            begin, at = at, at + (number >> 1)
            value = data[begin:at]
        headers.append((name, value))
    return headers, at


def batches_of(data: bytes) -> Iterator[Batch | OldBatch]:
    """Yield the record batches of a partition in a response, whose last one the broker may have cut off."""
    at = 0
    view = memoryview(data)
    while len(data) - at >= _BEFORE_LENGTH_ENDS:
        (length,) = struct.unpack_from(">i", data, at + _LENGTH_AT)
        begin, at = at, at + _BEFORE_LENGTH_ENDS + length
        if length < LEAST_BYTES:
            raise kafka_errors.CorruptRecordError(f"a batch of {length} bytes")
        if at > len(data):
            return
        magic = data[begin + _MAGIC_AT]
        if magic < _FORMAT:
            yield OldBatch(view[begin:at], magic)
        elif magic > _FORMAT or at - begin < _HEADER.size:
            raise kafka_errors.CorruptRecordError(f"a batch of format {magic} and {length} bytes")
        else:
            yield Batch(data, begin, at)
