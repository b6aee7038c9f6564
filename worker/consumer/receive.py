"""How fetched bytes become messages: the client's receive path, with two copies of a byte where it makes ten.

kafka-python reads a response in pieces of 4 KiB, joins them, copies them into a frame, the frame into bytes, a record
batch into an array, and each value twice out of that. Of large records that is most of what it costs to read them. Here
a response is received where it stays, and a value is cut out of it at once. All else, from when to fetch to what a
transaction hides, is left to the client.

It takes the client's parts at their inner names. Where a later client has others, its own path is left as it is.
"""

import functools
import itertools
import logging
import operator
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from ssl import SSLWantReadError, SSLWantWriteError
from typing import Any, Final

import msgspec
import numpy as np
from kafka import errors as kafka_errors
from kafka.consumer.fetcher import Fetcher
from kafka.net.connection import KafkaConnection
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.protocol.consumer import IsolationLevel
from kafka.protocol.parser import KafkaProtocol
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.legacy_records import LegacyRecordBatch

from worker.consumer import client_config
from worker.consumer.unpack import UnpackError, unpack

log = logging.getLogger("worker.wire")

_LENGTH_BYTES: Final = 4  # of a frame, before it
_KEPT_BYTES: Final = client_config.FETCH_MAX_BYTES + 64 * 1024  # a full fetch, and what is around it
_LENGTH_AT: Final = 8  # in a record batch of any format
_MAGIC_AT: Final = 16  # likewise
_FORMAT: Final = 2
_LONG: Final = (1 << 64) - 1
_VARINT_BYTES: Final = 10  # at most, for 64 bits
_LEAST_BYTES: Final = 14  # of a message of the oldest format, behind offset and length
_LAST_OFFSET: Final = (1 << 63) - 2  # the offset behind it is one too
_KEY_BYTES: Final = 4  # of a transaction's marker: a version and a kind
_ABORT: Final = 0
MAX_HEADERS: Final = 16_384
"""The most headers of one record. Each takes two bytes of a batch or more, and some 64 of memory; a poll brings 500 records."""


class Message(msgspec.Struct, frozen=True, gc=False):  # it is part of no cycle
    """A message as the worker takes it; see `batch.Message`.

    A header's name that is not UTF-8 has its bytes as lone surrogates (PEP 383), and
    gives them back with `encode(errors="surrogateescape")`.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    leader_epoch: int = -1  # of its batch: how often the partition's leader had changed; -1 where the format has none


def fits_the_client() -> bool:
    """Tell whether the client has the parts that are replaced here, and calls them where they are expected."""
    return (
        "_sock_recv" in KafkaTCPTransport._read_from_sock.__code__.co_names  # noqa: SLF001 - see above
        and KafkaSSLTransport._read_from_sock is KafkaTCPTransport._read_from_sock  # noqa: SLF001 - likewise
        and {"parser", "receive_bytes"} <= set(KafkaConnection.data_received.__code__.co_names)
        and all(hasattr(KafkaProtocol, name) for name in ("_process_response", "_validate_frame_size"))
        and "PartitionRecords" in Fetcher._parse_fetched_data.__code__.co_names  # noqa: SLF001 - likewise
    )


# -- from the socket to a response


def receive_to_the_end(transport: Any) -> None:
    """Let a transport hand over what came just before the end of its connection, which the client drops."""
    if not fits_the_client():
        return
    receive = transport._sock_recv  # noqa: SLF001 - see above

    def data_first() -> tuple[bytes, Exception | None]:
        data, error = receive()
        return data, None if data else error  # the end comes again, with nothing before it

    transport._sock_recv = data_first  # noqa: SLF001 - likewise


def receive_in_place(connection: Any) -> None:
    """Let a connection receive its responses where they stay, from the next one on."""
    if not fits_the_client():
        return
    frames = _Frames(connection.transport._sock, connection.parser)  # noqa: SLF001 - see above
    connection.transport._sock_recv = frames.receive  # noqa: SLF001 - likewise
    connection.parser.receive_bytes = frames.responses
    connection.close_future.add_both(lambda _: frames.close())


class _Frames:
    """The responses of one connection, from the socket to the client's parser of them.

    `receive` and `responses` stand in for two methods that the client calls one after the other.
    """

    def __init__(self, sock: Any, parser: Any) -> None:
        self._recv_into: Callable[[memoryview], int] = sock.recv_into
        # What TLS has decrypted already, no selector tells of.
        self._pending: Callable[[], int] = getattr(sock, "pending", lambda: 0)
        self._parse: Callable[[_Frame], Any] = parser._process_response  # noqa: SLF001 - see above
        self._check_size: Callable[[int], None] = parser._validate_frame_size  # noqa: SLF001 - likewise
        self._memory = np.empty(0, np.uint8)
        self._length = bytearray(_LENGTH_BYTES)
        self._frame: memoryview | None = None  # None while its length is read
        self._missing = memoryview(self._length)  # what is still to be filled
        self._whole: list[memoryview] = []

    def receive(self) -> tuple[Sequence[int], Exception | None]:
        """Read what there is, up to the end of a response.

        Returns something as long as what was read, which the client counts, and the error that ends the connection.
        """
        count = 0
        try:
            while not self._whole or self._pending():
                received = self._recv_into(self._missing)
                if not received and count:
                    break  # what came before the end is read first; the end comes again
                if not received:
                    return b"", kafka_errors.KafkaConnectionError("socket disconnected")
                count += received
                self._missing = self._missing[received:]
                if not self._missing:
                    self._turn_over()
        except (BlockingIOError, InterruptedError, SSLWantReadError, SSLWantWriteError):
            pass
        except kafka_errors.KafkaProtocolError as error:
            return b"", error
        except Exception as error:  # whatever it is, the connection ends, and another one is made
            return b"", kafka_errors.KafkaConnectionError(error)
        return range(count), None

    def _turn_over(self) -> None:
        """Go on with the response whose length is known now, or with the length of the next one."""
        if self._frame is None:
            size = int.from_bytes(self._length, "big", signed=True)
            self._check_size(size)
            self._frame = self._missing = self._room(size)
        if not self._missing:
            self._whole.append(self._frame)
            self._frame, self._missing = None, memoryview(self._length)

    def _room(self, size: int) -> memoryview:
        """Return memory for a response: that of the one before, once nobody looks at it any more."""
        if size > len(self._memory) or sys.getrefcount(self._memory) > 2:
            fresh = np.empty(size, np.uint8)
            if size > _KEPT_BYTES:
                return fresh.data
            self._memory = fresh
        return self._memory.data[:size]

    def responses(self, _received: object) -> list[Any]:
        """Return the responses that are whole, decoded, each with its correlation id."""
        whole, self._whole = self._whole, []
        return [self._parse(_Frame(frame)) for frame in whole]

    def close(self) -> None:
        """Give the memory free: parser and frames hold each other, and wait for the garbage collector."""
        self._memory = np.empty(0, np.uint8)
        self._frame, self._missing = None, memoryview(self._length)
        self._whole = []


class _Frame:
    """A response as the client's parser reads it, without copies."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def read(self, count: int | None = None) -> bytes | memoryview:
        """Return the next `count` bytes, or where that is None all that is left, as a view."""
        if count is None:
            begin, self._at = self._at, len(self._view)
            return self._view[begin:]
        begin, self._at = self._at, min(self._at + count, len(self._view))
        return bytes(self._view[begin : self._at])

    def seek(self, at: int) -> None:
        self._at = at

    def tell(self) -> int:
        return self._at


# -- from a response to messages


def read_in_place(consumer: Any) -> None:
    """Let a consumer cut messages out of responses at once."""
    if not fits_the_client():
        log.warning("another kafka-python than was tested: its own receive path is used, which costs more")
        return
    known = _Known(consumer._subscription)  # noqa: SLF001 - see above
    consumer._fetcher.PartitionRecords = functools.partial(PartitionRecords, known=known)  # noqa: SLF001 - likewise


class _Known:
    """What the consumer knows of its partitions, which the client does not tell those who read a response."""

    def __init__(self, subscription: Any) -> None:
        self._subscription = subscription
        self._left: dict[Any, int] = {}  # where batches beyond the end were left for the next response

    def leader_epoch(self, tp: Any, offset: int) -> int:
        """Return the epoch of what was read before `offset`; -1 where it is not known.

        The client forgets it with each response that brings nothing, and then cannot see any more that a log was cut.
        """
        state = self._subscription.assignment.get(tp)
        position = None if state is None else state.position
        return int(position.leader_epoch) if position is not None and position.offset == offset else -1

    def is_for_the_next_response(self, tp: Any, batch: Any) -> bool:
        """Return whether a batch ends beyond the partition's end, and may not any more in the next response.

        The end comes with the response, and the broker looks at it before it looks at the records:

        1. It notes the end. 2. A batch is written, and copied by all. 3. It reads, that batch too.

        The next response knows a later end. A batch that is beyond that too has a damaged offset, which no checksum
        covers: raises `CorruptRecordError`.
        """
        state = self._subscription.assignment.get(tp)
        end = None if state is None else state.highwater
        if end is None or batch.base_offset < end:
            self._left.pop(tp, None)
            return False
        if self._left.get(tp) == batch.base_offset:
            raise kafka_errors.CorruptRecordError(f"a batch at offset {batch.base_offset}, and the log ends at {end}")
        self._left[tp] = batch.base_offset
        return True


class _Batch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python ships no types
    """A record batch of format 2 that stays where it is: between `begin` and `end` of the partition's bytes."""

    def __init__(self, view: memoryview, whole: bytes, end: int) -> None:
        # All that the client's own does, but the copy.
        self._buffer = view
        self._header_data = self.HEADER_STRUCT.unpack_from(view)
        self._pos = self.HEADER_STRUCT.size
        self._num_records = self._header_data[12]
        self._next_record_index = 0
        self._decompressed = False
        self.whole, self.begin, self.end = whole, end - len(view), end

    def messages(self) -> Iterator[Message]:
        """Cut out the messages. Raises the client's `CorruptRecordError` and `UnsupportedCodecError`."""
        if not 0 <= self.records_count <= self.last_offset_delta + 1:
            raise kafka_errors.CorruptRecordError(
                f"{self.records_count} records in a batch of {self.last_offset_delta + 1} offsets"
            )
        if not self.records_count:
            return iter(())  # all were compacted away
        codec = self.compression_type
        if codec == self.CODEC_NONE:
            return _messages(self.whole, self.begin + self._pos, self.end, self)
        self._assert_has_codec(codec)
        try:
            data = unpack(codec, self._buffer[self._pos :])
        except UnpackError as error:
            raise kafka_errors.CorruptRecordError(f"the batch at offset {self.base_offset} {error}") from None
        return _messages(data, 0, len(data), self)

    def is_abort_marker(self) -> bool:
        """Return whether it is the end of a transaction that was aborted."""
        if not self.is_control_batch or not self.records_count:
            return False
        key = next(self.messages()).key
        if key is None or len(key) < _KEY_BYTES:
            raise kafka_errors.CorruptRecordError(f"a transaction's marker with the key {key!r}")
        return int.from_bytes(key[2:_KEY_BYTES], "big") == _ABORT


class _OldBatch(LegacyRecordBatch):  # type: ignore[misc]  # likewise
    """A message of format 0 or 1, or several in a packed one, as the client reads it, but for what has no bound there."""

    def _decompress(self, key_offset: int) -> bytes:
        if self.compression_type == self.CODEC_LZ4 and self.magic == 0:
            unpacked: bytes = super()._decompress(key_offset)
            return unpacked
        self._assert_has_codec(self.compression_type)
        try:
            return unpack(self.compression_type, self._packed(key_offset))
        except UnpackError as error:
            raise kafka_errors.CorruptRecordError(f"the messages up to offset {self.base_offset} {error}") from None

    def _packed(self, key_offset: int) -> memoryview:
        (key_size,) = struct.unpack_from(">i", self._buffer, key_offset)
        at = key_offset + self.KEY_LENGTH + max(key_size, 0)
        (size,) = struct.unpack_from(">i", self._buffer, at)
        at += self.VALUE_LENGTH
        if key_size < -1 or not 0 <= size <= len(self._buffer) - at:
            raise kafka_errors.CorruptRecordError(f"a packed message with {key_size} and {size} bytes")
        packed: memoryview = self._buffer[at : at + size]
        return packed

    def _read_all_headers(self) -> list[tuple[Any, int]]:
        found, at = [], 0
        while at < len(self._buffer):
            header = self._read_header(at)
            found.append((header, at))
            at += self.LOG_OVERHEAD + header[1]
            if header[1] < _LEAST_BYTES or at > len(self._buffer):
                raise kafka_errors.CorruptRecordError(f"a message of {header[1]} bytes")
        offsets = [header[0] for header, _ in found]
        if not found or not all(map(operator.lt, offsets, offsets[1:])):
            raise kafka_errors.CorruptRecordError(f"messages whose offsets do not ascend, up to {self.base_offset}")
        return found

    def _read_key_value(self, at: int) -> tuple[bytes | None, bytes | None]:
        parts: list[bytes | None] = []
        for _ in range(2):
            (size,) = struct.unpack_from(">i", self._buffer, at)
            at += self.KEY_LENGTH
            if not -1 <= size <= len(self._buffer) - at:
                raise kafka_errors.CorruptRecordError(f"a message with a key or value of {size} bytes")
            parts.append(None if size < 0 else bytes(self._buffer[at : at + size]))
            at += max(size, 0)
        return parts[0], parts[1]


def _batches(whole: bytes) -> Iterator[_Batch | _OldBatch]:
    """Return the record batches of a partition in a response, whose last one the broker may have cut off."""
    at = 0
    view = memoryview(whole)
    while len(whole) - at >= DefaultRecordBatch.AFTER_LEN_OFFSET:
        (length,) = struct.unpack_from(">i", whole, at + _LENGTH_AT)
        begin, at = at, at + DefaultRecordBatch.AFTER_LEN_OFFSET + length
        if length < _LEAST_BYTES:
            raise kafka_errors.CorruptRecordError(f"a batch of {length} bytes")
        if at > len(whole):
            return
        magic = whole[begin + _MAGIC_AT]
        if magic < _FORMAT:
            yield _OldBatch(view[begin:at], magic)
        elif magic > _FORMAT or at - begin < DefaultRecordBatch.HEADER_STRUCT.size:
            raise kafka_errors.CorruptRecordError(f"a batch of format {magic} and {length} bytes")
        else:
            yield _Batch(view[begin:at], whole, at)


class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # likewise
    """The records of a partition in a response. Where the client's own is right, it follows that, record for record.

    All that it hands over has ascending offsets, at the one that was asked for or above, each within the range that its
    batch gives. What would break this is corrupt.
    """

    def __init__(
        self, fetch_offset: int, tp: Any, records: Any, *, known: _Known | None = None, **options: Any
    ) -> None:
        super().__init__(fetch_offset, tp, records, **options)
        self._known = known
        if known is not None:
            self.leader_epoch = known.leader_epoch(tp, fetch_offset)

    def _unpack_records(self, _tp: Any, records: Any, *_deserializers: object) -> Iterator[Message]:
        behind = 0  # where the batch before ended
        for batch in _batches(records._buffer):  # noqa: SLF001 - see above
            if self.check_crcs and not batch.validate_crc():
                raise self._corrupt("record batch", batch.base_offset)
            is_old = isinstance(batch, _OldBatch)  # of which the offset is that of its last message
            last = batch.base_offset if is_old else batch.last_offset
            if not (0 if is_old else behind) <= batch.base_offset <= last <= _LAST_OFFSET or last < max(
                self.fetch_offset, behind
            ):
                raise kafka_errors.CorruptRecordError(
                    f"a batch of the offsets {batch.base_offset} to {last}, where {max(self.fetch_offset, behind)} is next"
                )
            if self._known is not None and self._known.is_for_the_next_response(self.topic_partition, batch):
                break
            self.bytes_read += batch.size_in_bytes
            if is_old:
                yield from self._of_old_format(batch, behind)
            else:
                yield from self._of_format_2(batch)
            self.next_fetch_offset = behind = last + 1  # what was compacted away at its end is not asked for again
        self.drain()

    def _of_format_2(self, batch: _Batch) -> Iterator[Message]:
        self.leader_epoch = batch.leader_epoch
        if self._is_left_out(batch):
            return
        messages = batch.messages()
        if batch.base_offset < self.fetch_offset:
            messages = itertools.dropwhile(self._maybe_skip_record, messages)
        for message in messages:
            self.next_fetch_offset = message.offset + 1
            yield message
        self.records_read += batch.records_count

    def _is_left_out(self, batch: _Batch) -> bool:
        """Return whether the batch is a transaction's marker, or of one that was aborted."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if batch.is_abort_marker():
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)

    def _of_old_format(self, batch: _OldBatch, behind: int) -> Iterator[Message]:
        self.leader_epoch = -1
        before = behind - 1
        for record in batch:
            if self.check_crcs and not record.validate_crc():
                raise self._corrupt("record", record.offset)
            if not before < record.offset <= batch.base_offset:
                raise kafka_errors.CorruptRecordError(
                    f"a message at offset {record.offset} behind {before}, in a batch that ends at {batch.base_offset}"
                )
            before = record.offset
            self.records_read += 1
            if record.offset < self.fetch_offset:
                continue
            self.next_fetch_offset = record.offset + 1
            timestamp = -1 if record.timestamp is None else record.timestamp
            yield Message(record.offset, timestamp, record.key, record.value, ())

    def _corrupt(self, what: str, offset: int) -> Any:
        return kafka_errors.CorruptRecordError(
            f"{what} of partition {self.topic_partition} at offset {offset} failed its crc check"
        )


def _messages(data: bytes, at: int, end: int, batch: _Batch) -> Iterator[Message]:
    """Cut the records of a batch out of `data`, from `at` to `end`. All numbers in them but one are zigzag varints.

    Most numbers have one byte, which is looked at in place. Raises `CorruptRecordError`, and has not handed over the
    batch's last offset then: behind that, the rest would be passed over.
    """
    base_offset, last_offset, first_timestamp = batch.base_offset, batch.last_offset, batch.first_timestamp
    # That of all records where the topic has the broker's time.
    fixed_timestamp = batch.max_timestamp if batch.timestamp_type == batch.LOG_APPEND_TIME else None
    leader_epoch = batch.leader_epoch
    before = base_offset - 1
    try:
        for last_of_this in range(last_offset + 1 - batch.records_count, last_offset + 1):  # each needs room behind it
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
        raise kafka_errors.CorruptRecordError(f"the record behind offset {before} cannot be read: {error}") from None


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
