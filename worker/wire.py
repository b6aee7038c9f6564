"""How fetched bytes become messages: the client's receive path, with two copies of a byte where it makes ten.

kafka-python reads a response in pieces of 4 KiB, joins them, copies them into a frame, the frame into bytes, a record
batch into an array, and each value twice out of that. Of large records that is most of what it costs to read them. Here
a response is received where it stays, and a value is cut out of it at once. All else, from when to fetch to what a
transaction hides, is left to the client.

It takes the client's parts at their inner names. Where a later client has others, its own path is left as it is.
"""

import logging
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
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch

from worker import kafka_client

log = logging.getLogger(__name__)

_LENGTH_BYTES: Final = 4  # of a frame, before it
_KEPT_BYTES: Final = kafka_client.FETCH_MAX_BYTES + 64 * 1024  # a full fetch, and what is around it
_MAGIC_AT: Final = 16  # in a record batch of any format
_FORMAT: Final = 2
_VARINT_BYTES: Final = 10  # at most, for 64 bits


class Message(msgspec.Struct, frozen=True, gc=False):  # it is part of no cycle
    """A message as the worker takes it; see `batch.Message`."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


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
    consumer._fetcher.PartitionRecords = PartitionRecords  # noqa: SLF001 - see above


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
        """Cut out the messages. Raises the client's `CorruptRecordError`, and its errors of codecs."""
        if self.compression_type == self.CODEC_NONE:
            at, end = self.begin + self._pos, self.end
            data = self.whole
        else:
            self._maybe_uncompress()
            data = bytes(self._buffer)
            self._buffer = memoryview(data)  # and what it was copied of goes
            at, end = 0, len(data)
        fixed = self.max_timestamp if self.timestamp_type == self.LOG_APPEND_TIME else None
        return _messages(data, at, end, self.records_count, self.base_offset, self.first_timestamp, fixed)


class _Batches(MemoryRecords):  # type: ignore[misc]  # likewise
    """The record batches of a partition in a response; those of another format are the client's."""

    def next_batch(self) -> Any:
        view, end = self._next_slice, self._pos
        if view is None or len(view) < _Batch.HEADER_STRUCT.size or view[_MAGIC_AT] != _FORMAT:
            return super().next_batch()
        self._cache_next()
        return _Batch(view, self._buffer, end)


class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # likewise
    """The records of a partition in a response. Follows the client's, record for record.

    But for a transaction's marker that was compacted away: its batch is left, empty, and there the client fails for good.
    """

    def _unpack_records(self, _tp: Any, records: Any, *_deserializers: object) -> Iterator[Message]:
        batches = _Batches(records._buffer)  # noqa: SLF001 - see above
        batch: Any = None
        while (following := batches.next_batch()) is not None:
            batch = following
            if self.check_crcs and not batch.validate_crc():
                raise self._corrupt("record batch", batch.base_offset)
            self.bytes_read += batch.size_in_bytes
            if not isinstance(batch, _Batch):
                yield from self._of_old_format(batch)
                continue
            self.leader_epoch = batch.leader_epoch
            if self._is_left_out(batch):
                self.next_fetch_offset = batch.next_offset
                continue
            for message in batch.messages():
                self.next_fetch_offset = message.offset + 1
                yield message
            self.records_read += batch.records_count
        if isinstance(batch, _Batch):
            self.next_fetch_offset = batch.next_offset  # what was compacted away at its end is not asked for again
        self.drain()

    def _is_left_out(self, batch: _Batch) -> bool:
        """Tell whether the batch is a transaction's marker, or of one that was aborted."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if batch.records_count and self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)

    def _of_old_format(self, batch: Any) -> Iterator[Message]:
        for record in batch:
            if self.check_crcs and not record.validate_crc():
                raise self._corrupt("record", record.offset)
            self.records_read += 1
            self.next_fetch_offset = record.offset + 1
            timestamp = -1 if record.timestamp is None else record.timestamp
            yield Message(record.offset, timestamp, record.key, record.value, record.headers)

    def _corrupt(self, what: str, offset: int) -> Any:
        return kafka_errors.CorruptRecordError(
            f"{what} of partition {self.topic_partition} at offset {offset} failed its crc check"
        )


def _messages(
    data: bytes, at: int, end: int, count: int, base_offset: int, first_timestamp: int, fixed_timestamp: int | None
) -> Iterator[Message]:
    """Cut `count` records of format 2 out of `data`, from `at` to `end`. All numbers in them are zigzag varints.

    `fixed_timestamp` is that of all records where the topic has the broker's time. Most numbers have one byte, which is
    looked at in place.
    """
    try:
        for _ in range(count):
            number, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
            record_end = at + ((number >> 1) ^ -(number & 1))
            at = at + 1 if data[at] < 0x80 else _varint(data, at)[1]  # attributes, of which there are none
            number, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
            timestamp = (
                first_timestamp + ((number >> 1) ^ -(number & 1)) if fixed_timestamp is None else fixed_timestamp
            )
            number, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
            offset = base_offset + ((number >> 1) ^ -(number & 1))
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
            if at != record_end or at > end:
                raise kafka_errors.CorruptRecordError(f"a record ends at byte {at}, and should at {record_end}")
            yield Message(offset, timestamp, key, value, headers)
    except (ValueError, IndexError) as error:
        raise kafka_errors.CorruptRecordError(f"a record that cannot be read: {error!r}") from None
    if at != end:
        raise kafka_errors.CorruptRecordError(f"{end - at} bytes behind the last record of a batch")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned number at `at`, and where it ends. Raises `IndexError`, and `ValueError` where it does not end."""
    number = 0
    for place in range(_VARINT_BYTES):
        byte = data[at + place]
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    raise ValueError(f"a number of more than {_VARINT_BYTES} bytes")


def _headers(data: bytes, at: int, count: int) -> tuple[list[tuple[str, bytes | None]], int]:
    """Return the headers at `at`, and where they end."""
    if count < 0:
        raise ValueError(f"{count} headers")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        number, at = _varint(data, at)
        if number & 1:
            raise ValueError("a header without a name")
        begin, at = at, at + (number >> 1)
        name = data[begin:at].decode()
        number, at = _varint(data, at)
        value = None
        if not number & 1:
            begin, at = at, at + (number >> 1)
            value = data[begin:at]
        headers.append((name, value))
    return headers, at
