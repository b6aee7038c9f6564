"""The receive path that stands in for the client's: it reads what the client reads, and fails where it fails."""

import socket
import ssl
import struct
import tracemalloc
import weakref
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import crc32c
import numpy as np
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from kafka import OffsetAndMetadata, TopicPartition
from kafka.codec import gzip_encode, zstd_encode
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, InvalidReceiveError, KafkaConnectionError, UnsupportedCodecError
from kafka.future import Future
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.consumer import FetchRequest, FetchResponse, IsolationLevel
from kafka.protocol.parser import KafkaProtocol
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder

from tests.support.bounded import join, thread
from worker.consumer import client_check, receive, record_batches
from worker.consumer.partition_records import PartitionRecords
from worker.consumer.unpack import unpack

PARTITION = TopicPartition("records", 3)
CRC_AT, ATTRIBUTES_AT, LAST_DELTA_AT, COUNT_AT, RECORDS_AT = 17, 21, 23, 57, 61


# -- record batches


class Sample(NamedTuple):
    """One record, as it is written."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def batch(
    first: int,
    samples: list[Sample],
    codec: int = 0,
    *,
    producer: int = -1,
    transactional: bool = False,
    gaps: int = 1,
) -> bytes:
    """A record batch whose offsets begin at `first`, every `gaps`-th there."""
    builder = DefaultRecordBatchBuilder(2, codec, transactional, producer, 0 if producer >= 0 else -1, 0, 1 << 24)
    for place, sample in enumerate(samples):
        assert builder.append(place * gaps, sample.timestamp, sample.key, sample.value, sample.headers) is not None
    made = bytearray(builder.build())
    made[0:8] = struct.pack(">q", first)
    return bytes(made)


def with_right_checksum(damaged: bytes) -> bytes:
    """The batch with the checksum of what is in it now."""
    return damaged[:CRC_AT] + struct.pack(">I", crc32c.crc32c(damaged[ATTRIBUTES_AT:])) + damaged[ATTRIBUTES_AT:]


def with_attributes(made: bytes, bits: int) -> bytes:
    """The batch with these bits of its attributes set."""
    (found,) = struct.unpack_from(">h", made, ATTRIBUTES_AT)
    return with_right_checksum(made[:ATTRIBUTES_AT] + struct.pack(">h", found | bits) + made[ATTRIBUTES_AT + 2 :])


def with_head(made: bytes, at: int, form: str, value: int) -> bytes:
    """The batch with another field in its head."""
    changed = bytearray(made)
    struct.pack_into(form, changed, at, value)
    return with_right_checksum(bytes(changed))


class Read(NamedTuple):
    """What came of a partition's bytes, taken so many at a time."""

    records: list[tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]
    next_offset: int
    leader_epoch: int
    counted: tuple[int, int] | None
    error: type[Exception] | None


def read(
    kind: Any,
    data: bytes,
    *,
    from_offset: int = 0,
    at_a_time: int = 1000,
    isolation: int = 0,
    aborted: Any = (),
    check_crcs: bool = True,
) -> Read:
    """Read a partition's bytes as the fetcher does."""
    counted: list[tuple[int, int]] = []
    aggregator = SimpleNamespace(record=lambda _tp, size, count: counted.append((size, count)))
    part = kind(
        from_offset,
        PARTITION,
        MemoryRecords(data),
        isolation_level=IsolationLevel.build_from(isolation),
        aborted_transactions=list(aborted),
        check_crcs=check_crcs,
        metric_aggregator=aggregator,
    )
    records, error = [], None
    try:
        while part:
            records += part.take(at_a_time)
    except Exception as raised:
        error = type(raised)
    # Where there is no time the client says None.
    found = [(r.offset, -1 if r.timestamp is None else r.timestamp, r.key, r.value, list(r.headers)) for r in records]
    return Read(found, part.next_fetch_offset, part.leader_epoch, counted[0] if counted else None, error)


def assert_alike(data: bytes, **options: Any) -> Read:
    """Read it both ways; returns what both found."""
    client, own = read(Fetcher.PartitionRecords, data, **options), read(PartitionRecords, data, **options)
    assert own._replace(counted=None) == client._replace(counted=None)
    if client.counted is not None and own.counted is not None:
        assert own.counted[1] == client.counted[1]
        assert own.counted[0] > 0 or not own.records
    return own


TEXT = st.binary(max_size=300)
SAMPLES = st.builds(
    Sample,
    st.integers(0, 1 << 45),
    st.none() | TEXT,
    st.none() | TEXT | st.binary(min_size=9000, max_size=9000),
    st.lists(st.tuples(st.text(max_size=5), st.none() | TEXT), max_size=3),
)


@given(
    st.lists(
        st.tuples(st.lists(SAMPLES, min_size=1, max_size=5), st.integers(0, 4), st.integers(1, 90)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 500),
    st.integers(1, 4),
    st.binary(max_size=80),
)
def test_records_are_read_as_the_client_reads_them(
    batches: list[tuple[list[Sample], int, int]], from_offset: int, at_a_time: int, tail: bytes
) -> None:
    first, data = 0, b""
    for samples, codec, gaps in batches:
        data += batch(first, samples, codec, gaps=gaps)
        first += len(samples) * gaps
    cut_off = batch(first, [Sample(1, b"k", b"v", [])])[: len(tail)]  # the broker ends a response anywhere
    samples, _, gaps = batches[0]
    within_the_first = from_offset % ((len(samples) - 1) * gaps + 1)  # as the broker begins it
    assert_alike(data + cut_off, from_offset=within_the_first, at_a_time=at_a_time)


# -- what Java reads


class Corrupt(Exception):
    """What the reference takes for corrupt."""


class Cursor:
    """The bytes of records as Java's client goes through them, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if not 0 <= count <= len(self.data) - self.at:
            raise Corrupt
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        """A zigzag varint of up to 64 bits."""
        value = 0
        for place in range(10):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                value &= (1 << 64) - 1
                return (value >> 1) ^ -(value & 1)
        raise Corrupt

    def counted(self) -> bytes | None:
        """Bytes behind their count, None where that is below zero."""
        count = self.number()
        return None if count < 0 else self.take(count)


def reference(made: bytes, records: bytes) -> list[tuple[int, int, bytes | None, bytes | None, list[Any]]]:
    """Read a batch's unpacked records as `DefaultRecord.readFrom` of Java's client does, each within its own bytes.

    Beside that, offsets ascend, within what the head of the batch gives. Raises `Corrupt`.
    """
    head = DefaultRecordBatch.HEADER_STRUCT.unpack_from(made)
    base, last_delta, first_timestamp, count = head[0], head[6], head[7], head[12]
    whole, found, newest = Cursor(records), [], -1
    if not 0 <= count <= last_delta + 1:
        raise Corrupt
    for _ in range(count):
        one = Cursor(whole.counted() or b"")
        one.take(1)
        timestamp, delta = first_timestamp + one.number(), one.number()
        key, value = one.counted(), one.counted()
        headers = []
        names = one.number()
        if not 0 <= names <= len(one.data):
            raise Corrupt
        for _ in range(names):
            name = one.counted()
            if name is None:
                raise Corrupt
            headers.append((name.decode(errors="surrogateescape"), one.counted()))
        if one.at != len(one.data) or not newest < delta <= last_delta:
            raise Corrupt
        newest = delta
        found.append((base + delta, timestamp, key, value, headers))
    if count and whole.at != len(records):
        raise Corrupt
    return found


def assert_as_java(made: bytes) -> Read:
    """Read one batch without a codec, and hold what comes of it against the reference."""
    own = read(PartitionRecords, made)
    try:
        expected = reference(made, made[RECORDS_AT:])
    except Corrupt:
        assert own.error is CorruptRecordError
    else:
        assert (own.records, own.error) == (expected, None)
    return own


def with_records(records: bytes, count: int = 1, last_delta: int = 0, base: int = 0) -> bytes:
    """A batch with a right checksum and these bytes as its records."""
    made = bytearray(batch(base, [Sample(1, None, None, [])])[:RECORDS_AT] + records)
    struct.pack_into(">i", made, 8, len(made) - 12)
    struct.pack_into(">i", made, LAST_DELTA_AT, last_delta)
    struct.pack_into(">i", made, COUNT_AT, count)
    return with_right_checksum(bytes(made))


@given(st.data(), st.lists(SAMPLES, min_size=1, max_size=3))
def test_a_damaged_batch_fails_where_java_fails(data: st.DataObject, samples: list[Sample]) -> None:
    made = bytearray(batch(0, samples))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(COUNT_AT, len(made) - 1))
        made[place] = data.draw(st.integers(0, 255))
    assert_as_java(with_right_checksum(bytes(made)))


@given(st.data(), st.lists(SAMPLES, min_size=1, max_size=3), st.integers(1, 4))
def test_a_damaged_packed_batch_is_read_in_order_or_is_corrupt(
    data: st.DataObject, samples: list[Sample], codec: int
) -> None:
    made = bytearray(batch(0, samples, codec))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(COUNT_AT, len(made) - 1))
        made[place] = data.draw(st.integers(0, 255))
    found = read(PartitionRecords, with_right_checksum(bytes(made)))
    offsets = [record[0] for record in found.records]
    assert found.error in (None, CorruptRecordError)
    assert offsets == sorted(set(offsets))
    assert all(0 <= offset < len(samples) for offset in offsets)


@given(st.binary(max_size=120), st.integers(0, 3), st.integers(0, 3))
def test_any_bytes_as_records_are_read_as_java_reads_them(records: bytes, count: int, last_delta: int) -> None:
    assert_as_java(with_records(records, count, last_delta))


@given(st.data(), st.lists(st.lists(SAMPLES, min_size=1, max_size=3), min_size=1, max_size=3), st.integers(0, 4))
def test_whatever_is_damaged_offsets_ascend_and_the_next_one_does_not_go_back(
    data: st.DataObject, batches: list[list[Sample]], codec: int
) -> None:
    """Heads too, of which offset, length, epoch and format have no checksum."""
    first, made = 7, bytearray()
    for samples in batches:
        made += batch(first, samples, codec)
        first += len(samples)
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    found = read(PartitionRecords, bytes(made), from_offset=7, check_crcs=data.draw(st.booleans()))
    offsets = [record[0] for record in found.records]
    assert offsets == sorted(set(offsets))
    assert all(offset >= 7 for offset in offsets)
    assert found.next_offset >= max([6, *offsets]) + 1
    assert found.next_offset < 1 << 63


def test_a_flipped_bit_is_a_corrupt_record() -> None:
    good, bad = batch(0, [Sample(1, b"k", b"v", [])]), bytearray(batch(1, [Sample(1, b"k", b"v", [])]))
    bad[-3] ^= 1
    found = assert_alike(good + bytes(bad))
    assert (len(found.records), found.next_offset, found.error) == (1, 1, CorruptRecordError)


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_codec_is_told_as_the_client_tells_it(codec: int) -> None:
    found = assert_alike(with_attributes(batch(0, [Sample(1, b"k", b"v", [])]), codec))
    assert found.error is UnsupportedCodecError


@pytest.mark.parametrize(
    "records",
    [
        b"\x80" * 12,  # a number that does not end
        b"\x0c\x00\x00\x00\x01\x01\x01",  # a header count below zero
        b"\x10\x00\x00\x00\x01\x01\x02\x01\x01",  # a header without a name
        b"\x1c\x00" + b"\x80" * 10 + b"\x00\x00\x01\x01\x00",  # a number of eleven bytes
        b"\x0c\x00\x00\x00\x01\x01\x00\x00",  # a byte too many
        b"\x7e\x00\x00\x00\x01\x01\x00",  # shorter than it says
        b"\x0c\x00\x00\x00\x01\x7e\x00",  # a value beyond the end
        b"",
    ],
)
def test_records_of_a_wrong_structure_are_corrupt(records: bytes) -> None:
    assert assert_as_java(with_records(records)).error is CorruptRecordError


ONE = [Sample(1, b"k", b"v", [])]


def number(value: int) -> bytes:
    """A zigzag varint."""
    rest, written = (value << 1) ^ (value >> 63), bytearray()
    while rest >= 0x80:
        written.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes(written) + bytes([rest])


def record(
    delta: int, value: bytes = b"v", *, attributes: int = 0, headers: bytes = b"\x00", timestamp: int = 0
) -> bytes:
    """A record without a key, as it is written."""
    body = bytes([attributes]) + number(timestamp) + number(delta) + b"\x01" + number(len(value)) + value + headers
    return number(len(body)) + body


@pytest.mark.parametrize("attributes", [0x01, 0x7F, 0x80, 0xFF])
def test_the_attributes_of_a_record_are_one_byte_whatever_is_in_it(attributes: int) -> None:
    """As a varint 0x80 would take the next byte along, and with it every number would be another."""
    records = record(0, attributes=attributes, timestamp=7) + record(1)
    found = assert_as_java(with_records(records, count=2, last_delta=1, base=20))
    assert [(one[0], one[1], one[3]) for one in found.records] == [(20, 8, b"v"), (21, 1, b"v")]


def test_attributes_that_the_client_takes_for_a_varint_forge_no_offset() -> None:
    """The client finds each number one place further on, and what was the length of the key is an offset to it."""
    key = b"\x01" + number(299) + bytes(298)
    body = b"\x80" + number(0) + number(0) + number(len(key)) + key + number(0) + number(0)
    forged = with_records(number(len(body)) + body, base=20)
    assert [one[0] for one in read(Fetcher.PartitionRecords, forged).records] == [321]
    assert [one[:4] for one in assert_as_java(forged).records] == [(20, 1, key, b"")]


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param([0, 301], id="beyond the batch"),
        pytest.param([0, 3], id="one beyond the batch"),
        pytest.param([0, -1], id="before the batch"),
        pytest.param([0, 2, 1], id="out of order"),
        pytest.param([0, 1, 1], id="twice"),
        pytest.param([0, (1 << 62)], id="far away"),
    ],
)
@pytest.mark.parametrize("codec", [0, 1, 4])
def test_an_offset_that_its_batch_does_not_have_is_corrupt(deltas: list[int], codec: int) -> None:
    records = b"".join(map(record, deltas))
    made = with_records(records, count=len(deltas), last_delta=2, base=20)
    if codec:
        packed = {1: gzip_encode, 4: zstd_encode}[codec](records)
        made = with_attributes(with_records(packed, count=len(deltas), last_delta=2, base=20), codec)
    found = read(PartitionRecords, made, from_offset=20)
    assert found.error is CorruptRecordError
    assert [one[0] for one in found.records] in ([20], [20, 21])
    # Whatever was read of it, it is not passed over: the next response begins within it.
    again = read(PartitionRecords, made + batch(23, ONE), from_offset=found.next_offset)
    assert (again.records, again.next_offset, again.error) == ([], found.next_offset, CorruptRecordError)


def test_what_is_behind_a_record_with_the_last_offset_is_not_passed_over() -> None:
    for records, count in ((record(2) + record(1), 2), (record(2) + b"\xff", 2), (record(2) + b"\x00", 1)):
        found = read(PartitionRecords, with_records(records, count=count, last_delta=2) + batch(3, ONE))
        assert (found.records, found.next_offset, found.error) == ([], 0, CorruptRecordError)


@pytest.mark.parametrize(
    ("second", "from_offset"),
    [
        pytest.param(batch(20, ONE), 20, id="the same again"),
        pytest.param(batch(10, ONE), 20, id="before it"),
        pytest.param(batch(21, ONE * 3), 20, id="within it"),
        pytest.param(with_head(batch(22, ONE), LAST_DELTA_AT, ">i", -1), 20, id="ends before it begins"),
        pytest.param(with_head(batch(22, ONE), COUNT_AT, ">i", 2), 20, id="more records than offsets"),
        pytest.param(with_head(batch(22, ONE), COUNT_AT, ">i", -1), 20, id="less than no records"),
        pytest.param(with_head(batch(22, ONE), COUNT_AT, ">i", (1 << 31) - 1), 20, id="two thousand million records"),
        pytest.param(with_head(batch(22, ONE), 0, ">q", -5), 20, id="a negative offset"),
        pytest.param(with_head(batch(22, ONE), 0, ">q", (1 << 63) - 1), 20, id="the last number there is"),
    ],
)
def test_a_batch_that_does_not_follow_the_one_before_is_corrupt(second: bytes, from_offset: int) -> None:
    found = read(PartitionRecords, batch(20, ONE * 2) + second + batch(40, ONE), from_offset=from_offset)
    assert ([one[0] for one in found.records], found.error) == ([20, 21], CorruptRecordError)
    assert found.next_offset == 22


def test_a_batch_of_what_was_read_already_is_corrupt_and_nothing_goes_back() -> None:
    found = read(PartitionRecords, batch(0, ONE * 3), from_offset=5)
    assert (found.records, found.next_offset, found.error) == ([], 5, CorruptRecordError)


def test_a_bad_record_before_the_offset_that_was_asked_for_does_not_take_the_position_back() -> None:
    made = with_records(record(0) + record(0) + record(2), count=3, last_delta=5)
    found = read(PartitionRecords, made, from_offset=4)
    assert (found.records, found.next_offset, found.error) == ([], 4, CorruptRecordError)


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(number(-3) + record(0), id="a record of less than nothing"),
        pytest.param(number(1 << 40) + record(0), id="a record beyond everything"),
        pytest.param(record(0, headers=number(1 << 31)), id="two thousand million headers"),
        pytest.param(record(0, headers=number(1) + number(-1) + number(-1)), id="a header without a name"),
        pytest.param(record(0, headers=number(1) + number(1 << 31) + b"n"), id="a name beyond the record"),
        pytest.param(record(0, headers=number(1) + number(1) + b"n" + number(900)), id="a header's value beyond it"),
        pytest.param(record(0, headers=number(2) + number(0) + number(-1)), id="a header fewer"),
        pytest.param(number(7) + record(0)[1:] + record(1)[1:], id="one over another"),
        pytest.param(record(0) + b"\x00", id="a byte behind the last one"),
    ],
)
def test_lengths_that_do_not_fit_together_are_corrupt(records: bytes) -> None:
    behind = batch(1, [Sample(1, bytes(5000), bytes(5000), [])])  # which none of them may reach into
    made = with_records(records)
    assert assert_as_java(made).error is CorruptRecordError
    found = read(PartitionRecords, made + behind)
    assert (found.records, found.error) == ([], CorruptRecordError)


def test_a_count_that_is_a_lie_costs_no_memory() -> None:
    records = record(0, headers=number(1 << 31)) + bytes(4_000_000)
    made = with_records(records)
    tracemalloc.start()
    assert read(PartitionRecords, made).error is CorruptRecordError
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def packed_in_an_old_format(magic: int, offsets: list[int], last: int) -> bytes:
    """Messages with these offsets in one that is packed, whose offset the broker gave."""
    inner = b""
    for offset in offsets:
        builder = LegacyRecordBatchBuilder(magic=magic, compression_type=0, batch_size=1 << 20)
        builder.append(0, 1000, b"key", b"value")
        inner += struct.pack(">q", offset) + bytes(builder.build())[8:]
    outer = LegacyRecordBatchBuilder(magic=magic, compression_type=0, batch_size=1 << 20)
    outer.append(0, 1000, None, gzip_encode(inner))
    made = bytearray(outer.build())
    made[17] = 1  # the codec
    made[12:16] = struct.pack(">I", zlib.crc32(made[16:]))
    return as_the_broker_keeps_it(bytes(made), last)


@pytest.mark.parametrize("magic", [0, 1])
def test_messages_of_the_old_formats_ascend_too(magic: int) -> None:
    def offsets(given: list[int], last: int, from_offset: int = 20) -> tuple[list[int], type[Exception] | None]:
        first = packed_in_an_old_format(magic, given, last)
        found = read(PartitionRecords, first, from_offset=from_offset)
        assert found.next_offset >= from_offset
        return [one[0] for one in found.records], found.error

    base = 20 if magic == 0 else 0  # relative ones in the later format
    assert offsets([base, base + 1, base + 5], 25) == ([20, 21, 25], None)
    assert offsets([base, base + 1, base + 5], 25, from_offset=21) == ([21, 25], None)
    assert offsets([base, base + 3, base + 2, base + 5], 25) == ([], CorruptRecordError)
    assert offsets([base, base], 20)[1] is CorruptRecordError
    assert offsets([base, base + 1, base + 5], 25, from_offset=26) == ([], CorruptRecordError)
    if magic == 0:
        assert offsets([20, 321], 21) == ([20], CorruptRecordError)


@pytest.mark.parametrize("length", [-12, -20, 0, 13, 1 << 30])
def test_a_length_in_an_old_format_that_leads_nowhere_is_corrupt(length: int) -> None:
    """At -12 the client finds the same message again, without end, and keeps each."""
    inner = struct.pack(">qi", 0, length) + bytes(30)
    outer = LegacyRecordBatchBuilder(magic=1, compression_type=0, batch_size=1 << 20)
    outer.append(0, 1000, None, gzip_encode(inner))
    made = bytearray(outer.build())
    made[17] = 1
    made[12:16] = struct.pack(">I", zlib.crc32(made[16:]))
    assert read(PartitionRecords, bytes(made)).error is CorruptRecordError


def test_old_and_new_formats_in_one_response_follow_each_other() -> None:
    old = packed_in_an_old_format(1, [0, 1], 21)
    found = read(PartitionRecords, old + batch(22, ONE), from_offset=20)
    assert ([one[0] for one in found.records], found.next_offset, found.error) == ([20, 21, 22], 23, None)
    found = read(PartitionRecords, batch(22, ONE) + old, from_offset=20)
    assert ([one[0] for one in found.records], found.next_offset, found.error) == ([22], 23, CorruptRecordError)


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_batch_that_unpacks_to_more_than_the_limit_is_corrupt(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = batch(0, [Sample(1, None, bytes(100_000), [])], codec)
    assert read(PartitionRecords, made).error is None
    monkeypatch.setattr(record_batches, "unpack", lambda codec, data: unpack(codec, data, 100_000))
    assert read(PartitionRecords, made).error is CorruptRecordError


# -- headers


NOT_UTF_8 = [b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", b"\x80", b"ok\xc3"]


def test_the_names_of_headers_keep_their_bytes() -> None:
    names = [*NOT_UTF_8, b"", b"", "é".encode(), b"twice", b"twice"]
    written = number(len(names)) + b"".join(number(len(name)) + name + number(-1) for name in names)
    found = read(PartitionRecords, with_records(record(0, headers=written)))
    ((*_, headers),) = found.records
    assert [name.encode(errors="surrogateescape") for name, _ in headers] == names
    assert [value for _, value in headers] == [None] * len(names)


@pytest.mark.parametrize("codec", [0, 4])
def test_a_record_may_have_very_many_headers_and_not_more(codec: int) -> None:
    most = record_batches.MAX_HEADERS
    for count, error in ((10_000, None), (most, None), (most + 1, CorruptRecordError)):
        made = batch(0, [Sample(1, b"k", b"v", [("name", None)] * count)], codec)
        found = read(PartitionRecords, made)
        assert found.error is error
        assert [len(one[4]) for one in found.records] == ([] if error else [count])


def test_a_record_does_not_reach_into_the_next_batch() -> None:
    made = batch(0, [Sample(0, None, b"v", [])])
    assert made[RECORDS_AT:] == b"\x0e\x00\x00\x00\x01\x02v\x00"
    longer = b"\x1c\x00\x00\x00\x01\x10v\x00"  # a value of eight bytes, of which two are left
    found = assert_alike(with_right_checksum(made[:RECORDS_AT] + longer) + batch(1, [Sample(0, None, b"v", [])]))
    assert (found.records, found.error) == ([], CorruptRecordError)


def test_the_broker_s_time_is_taken_where_the_topic_says_so() -> None:
    made = with_attributes(batch(0, [Sample(5, b"a", b"", []), Sample(9, b"b", b"", [])]), 0x08)
    assert [record[1] for record in assert_alike(made).records] == [9, 9]


def as_the_broker_keeps_it(made: bytes, last: int) -> bytes:
    """A packed message of an old format with the offset of the last one in it."""
    return struct.pack(">q", last) + made[8:]


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1, 2, 3])
def test_messages_of_the_old_formats_are_read(magic: int, codec: int) -> None:
    if magic == 0 and codec == 3:
        codec = 0  # lz4 came with the next one
    builder = LegacyRecordBatchBuilder(magic=magic, compression_type=codec, batch_size=1 << 20)
    for offset in range(3):
        builder.append(offset, 1000 + offset, b"key", bytes([offset]) * 50)
    found = assert_alike(as_the_broker_keeps_it(bytes(builder.build()), 2 if codec else 0))
    assert [record[0] for record in found.records] == [0, 1, 2]


def test_a_message_without_a_time_has_a_negative_one() -> None:
    """The client says None, which is no number to reckon with."""
    builder = LegacyRecordBatchBuilder(magic=0, compression_type=0, batch_size=1 << 20)
    builder.append(0, None, b"key", b"value")
    ((_, timestamp, *_rest),) = read(PartitionRecords, bytes(builder.build())).records
    assert timestamp == -1


@pytest.mark.parametrize("check_crcs", [True, False])
def test_checksums_are_looked_at_where_the_settings_say_so(check_crcs: bool) -> None:
    good = batch(0, [Sample(1, b"k", b"v", [])])
    bad = good[:-2] + b"w" + good[-1:]
    old = LegacyRecordBatchBuilder(magic=1, compression_type=0, batch_size=1 << 20)
    old.append(0, 1000, b"key", b"value")
    bad_old = bytes(old.build())[:-1] + b"f"
    for data in (bad, bad_old):
        found = assert_alike(data, check_crcs=check_crcs)
        assert (found.error, len(found.records)) == ((CorruptRecordError, 0) if check_crcs else (None, 1))


@pytest.mark.parametrize("bytes_of_number", [9, 10])
def test_a_number_may_have_all_bytes_of_a_long(bytes_of_number: int) -> None:
    timestamp = b"\x80" * (bytes_of_number - 1) + b"\x00"
    record = b"\x00" + timestamp + b"\x00\x01\x01\x00"
    assert len(assert_as_java(with_records(bytes([2 * len(record)]) + record)).records) == 1


def marker(first: int, producer: int, *, commit: bool) -> bytes:
    """The end of a transaction."""
    control = Sample(1, struct.pack(">hh", 0, int(commit)), bytes(6), [])
    return with_attributes(batch(first, [control], producer=producer, transactional=True), 0x20)


@pytest.mark.parametrize("isolation", [0, 1])
def test_what_a_transaction_hides_is_left_out(isolation: int) -> None:
    one = [Sample(1, b"k", b"v", [])]
    data = (
        batch(0, one, producer=7, transactional=True)
        + batch(1, one, producer=8, transactional=True)
        + batch(2, one)
        + marker(3, 7, commit=False)
        + marker(4, 8, commit=True)
        + batch(5, one, producer=7, transactional=True)
        + marker(6, 7, commit=True)
    )
    aborted = [SimpleNamespace(producer_id=7, first_offset=0)]
    found = assert_alike(data, isolation=isolation, aborted=aborted)
    assert [record[0] for record in found.records] == ([0, 1, 2, 5] if isolation == 0 else [1, 2, 5])
    assert found.next_offset == 7


def test_where_an_aborted_batch_ends_is_known_when_the_next_one_fails() -> None:
    one = [Sample(1, b"k", b"v", [])]
    bad = batch(1, one)
    data = batch(0, one, producer=7, transactional=True) + bad[:-2] + b"w" + bad[-1:]
    found = assert_alike(data, isolation=1, aborted=[SimpleNamespace(producer_id=7, first_offset=0)])
    assert (found.next_offset, found.records, found.error) == (1, [], CorruptRecordError)


def test_a_transaction_that_begins_within_a_batch_s_offsets_hides_it() -> None:
    """The broker tells the first offset, which compaction may have taken."""
    data = batch(0, [Sample(1, b"k", b"v", [])] * 2, producer=7, transactional=True)
    found = assert_alike(data, isolation=1, aborted=[SimpleNamespace(producer_id=7, first_offset=1)])
    assert found.records == []


@pytest.mark.parametrize("codec", [0, 1])
@pytest.mark.parametrize("tail", [b"", b"more"])
def test_a_marker_may_be_packed_and_its_key_longer(codec: int, tail: bytes) -> None:
    """Java reads both; the client fails at them, and for a packed one looks into the packed bytes."""
    one = [Sample(1, b"k", b"v", [])]
    control = Sample(1, struct.pack(">hh", 0, 0) + tail, bytes(600), [])
    end = with_attributes(batch(1, [control], codec, producer=7, transactional=True), 0x20)
    data = batch(0, one, producer=7, transactional=True) + end + batch(2, one, producer=7, transactional=True)
    found = read(PartitionRecords, data, isolation=1, aborted=[SimpleNamespace(producer_id=7, first_offset=0)])
    assert ([record[0] for record in found.records], found.next_offset, found.error) == ([2], 3, None)


@pytest.mark.parametrize("key", [None, b"", b"\x00\x00\x00"])
def test_a_marker_without_a_kind_is_corrupt(key: bytes | None) -> None:
    end = with_attributes(batch(0, [Sample(1, key, bytes(6), [])], producer=7, transactional=True), 0x20)
    found = read(PartitionRecords, end, isolation=1)
    assert (found.next_offset, found.error) == (0, CorruptRecordError)


def test_a_marker_that_was_compacted_away_is_passed_over() -> None:
    """Its batch stays, with no record in it; the client fails there, each time that it comes to it."""
    whole = marker(1, 7, commit=False)
    empty = whole[:COUNT_AT] + bytes(4)
    one = [Sample(1, b"k", b"v", [])]
    data = (
        batch(0, one) + with_right_checksum(empty[:8] + struct.pack(">i", len(empty) - 12) + empty[12:]) + batch(2, one)
    )
    assert read(Fetcher.PartitionRecords, data, isolation=1).error is RuntimeError
    found = read(PartitionRecords, data, isolation=1)
    assert ([record[0] for record in found.records], found.next_offset, found.error) == ([0, 2], 3, None)


@pytest.mark.parametrize("magic", [3, 127, 128, 255])
def test_another_format_is_corrupt(magic: int) -> None:
    """No checksum covers the format: the client reads what it does not know as the newest that it knows."""
    good = batch(0, [Sample(1, b"k", b"v", [])])
    made = batch(1, [Sample(1, b"k", b"v", [])])
    found = read(PartitionRecords, good + made[:16] + bytes([magic]) + made[17:])
    assert (len(found.records), found.next_offset, found.error) == (1, 1, CorruptRecordError)


def test_a_compressed_batch_is_held_once_while_its_messages_are_handed_out() -> None:
    data = batch(0, [Sample(1, None, bytes(100_000), [])] * 40, 1)
    part = PartitionRecords(0, PARTITION, MemoryRecords(data))
    tracemalloc.start()
    taken = part.take(1)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(taken) == 1
    assert held < 1.5 * 40 * 100_000


def test_what_was_compacted_away_at_the_end_is_not_asked_for_again() -> None:
    made = bytearray(batch(0, [Sample(1, b"k", b"v", [])]))
    made[23:27] = struct.pack(">i", 41)  # the offset of the last record that the batch had
    assert assert_alike(with_right_checksum(bytes(made))).next_offset == 42


# -- what the consumer knows


class Consumer:
    """What of a consumer is used: where it stands in a partition, and where the partition ends."""

    def __init__(self, position: int, leader_epoch: int, end: int | None) -> None:
        self.state = SimpleNamespace(position=OffsetAndMetadata(position, "", leader_epoch), highwater=end)
        self._subscription = SimpleNamespace(assignment={PARTITION: self.state})
        self._fetcher = SimpleNamespace(_parse_fetched_data=None)
        receive.read_without_copies(self)

    def own_again(self) -> None:
        """Lose the partition, and get it back."""
        self.state = SimpleNamespace(**vars(self.state))
        self._subscription.assignment[PARTITION] = self.state

    def read(self, data: bytes) -> Read:
        """Read a response, and note where it ends."""
        found = read(self._fetcher.PartitionRecords, data, from_offset=self.state.position.offset)
        self.state.position = OffsetAndMetadata(found.next_offset, "", found.leader_epoch)
        return found


def with_epoch(made: bytes, epoch: int) -> bytes:
    """The batch as a leader of that epoch wrote it."""
    return made[:12] + struct.pack(">i", epoch) + made[16:]


def test_the_epoch_of_what_was_read_outlives_a_response_that_brings_nothing() -> None:
    consumer = Consumer(20, 3, 20)
    assert consumer.read(b"").leader_epoch == 3
    consumer.state.highwater = 21
    assert consumer.read(with_epoch(batch(20, ONE), 4)).leader_epoch == 4
    assert consumer.read(b"").leader_epoch == 4
    consumer.state.position = OffsetAndMetadata(5, "", 4)
    stale = read(consumer._fetcher.PartitionRecords, b"", from_offset=7)  # of a position that is not the one any more
    assert stale.leader_epoch == -1


def test_a_message_carries_the_epoch_of_its_batch() -> None:
    part = PartitionRecords(
        0, PARTITION, MemoryRecords(with_epoch(batch(0, ONE * 2), 3) + with_epoch(batch(2, ONE, 1), 5))
    )
    assert [message.leader_epoch for message in part.take(10)] == [3, 3, 5]


def test_a_batch_beyond_the_end_is_left_for_the_next_response_and_is_corrupt_there() -> None:
    consumer = Consumer(20, 0, 21)
    data = batch(20, ONE) + batch(21 + (1 << 40), ONE)
    found = consumer.read(data)
    assert ([one[0] for one in found.records], found.next_offset, found.error) == ([20], 21, None)
    again = consumer.read(data[len(batch(20, ONE)) :])
    assert (again.records, again.next_offset, again.error) == ([], 21, CorruptRecordError)


def test_a_batch_that_was_left_in_an_ownership_that_has_ended_is_left_once_more() -> None:
    """The first response after a partition came back may have an end that is as old."""
    consumer = Consumer(20, 0, 21)
    beyond = batch(21, ONE)
    consumer.read(batch(20, ONE) + beyond)
    consumer.own_again()
    found = consumer.read(beyond)
    assert (found.records, found.next_offset, found.error) == ([], 21, None)
    assert consumer.read(beyond).error is CorruptRecordError


def test_a_batch_that_was_written_just_after_the_end_was_noted_is_read_with_the_next_response() -> None:
    consumer = Consumer(20, 0, 21)
    assert [one[0] for one in consumer.read(batch(20, ONE) + batch(21, ONE)).records] == [20]
    consumer.state.highwater = 22
    found = consumer.read(batch(21, ONE) + batch(22, ONE))
    assert ([one[0] for one in found.records], found.next_offset, found.error) == ([21], 22, None)
    consumer.state.highwater = 23
    assert [one[0] for one in consumer.read(batch(22, ONE)).records] == [22]


# -- frames


def fetch_answer(correlation_id: int, records: bytes) -> bytes:
    """A response to a fetch, as a broker sends it."""
    part = FetchResponse.FetchableTopicResponse.PartitionData(
        partition_index=0, error_code=0, high_watermark=9, records=records
    )
    topic = FetchResponse.FetchableTopicResponse(topic="records", partitions=[part])
    answer = FetchResponse(version=11, throttle_time_ms=0, error_code=0, session_id=0, responses=[topic])
    answer.with_header(correlation_id=correlation_id)
    return bytes(answer.encode(framed=True, header=True))


class Connection:
    """What of the client's connection is used: a transport with its socket, and the parser."""

    def __init__(self, sock: Any) -> None:
        self.parser = KafkaProtocol(client_id="test")
        self.transport = SimpleNamespace(_sock=sock)
        self.close_future = Future()
        receive.receive_without_copies(self)

    def expect(self, count: int) -> None:
        """Note so many fetches as sent."""
        for _ in range(count):
            self.parser.send_request(FetchRequest(version=11, topics=[], forgotten_topics_data=[], rack_id=""))

    def turn(self) -> tuple[int, Exception | None, list[bytes]]:
        """Receive once; returns how much came, the error, and the records of the responses that are whole."""
        received, error = self.transport._sock_recv()
        answers = [] if error else self.parser.receive_bytes(received)
        return len(received), error, [answer.responses[0].partitions[0].records for _, answer in answers]


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield Connection(near), far


@pytest.mark.parametrize("sizes", [[0], [1, 70_000, 3], [5] * 40])
@pytest.mark.parametrize("piece", [1 << 20, 4096, 7, 1])
def test_responses_are_the_same_in_whatever_pieces_they_come(
    pair: tuple[Connection, socket.socket], sizes: list[int], piece: int
) -> None:
    connection, far = pair
    expected = [bytes([place]) * size for place, size in enumerate(sizes)]
    sent = b"".join(fetch_answer(place + 1, records) for place, records in enumerate(expected))
    pieces = [sent[at : at + piece] for at in range(0, len(sent), piece)] if len(sent) / piece < 5000 else [sent]
    connection.expect(len(sizes))
    count = 0
    found: list[bytes] = []
    for each in pieces:
        for at in range(0, len(each), 50_000):  # what a socket pair takes
            far.sendall(each[at : at + 50_000])
            while True:
                received, error, records = connection.turn()
                assert error is None
                count, found = count + received, found + records
                if not received:
                    break
    assert (found, count) == (expected, len(sent))


def test_the_memory_of_a_response_is_used_again_once_nothing_refers_to_it(
    pair: tuple[Connection, socket.socket],
) -> None:
    frames = pair[0].parser.receive_bytes.__self__
    room = frames._room(1000)
    first = np.frombuffer(room, np.uint8)
    assert not np.shares_memory(first, np.frombuffer(frames._room(1000), np.uint8))  # something refers to it
    del first, room
    memory = frames._memory
    del memory
    before = frames._memory.ctypes.data
    frames._room(500)
    assert frames._memory.ctypes.data == before
    frames._room(1001)
    assert len(frames._memory) == 1001
    frames._room(receive._KEPT_BYTES + 1)
    assert len(frames._memory) == 1001  # one that is larger than any fetch is not kept


@pytest.mark.parametrize("length", [-1, 1 << 30])
def test_a_length_that_no_response_has_ends_the_connection(pair: tuple[Connection, socket.socket], length: int) -> None:
    connection, far = pair
    far.sendall(struct.pack(">i", length))
    assert isinstance(connection.turn()[1], InvalidReceiveError)


def test_the_end_of_a_connection_is_reported(pair: tuple[Connection, socket.socket]) -> None:
    connection, far = pair
    far.sendall(fetch_answer(1, b"abc")[:-1])
    assert connection.turn()[1] is None
    far.close()
    assert isinstance(connection.turn()[1], KafkaConnectionError)


def test_a_reset_connection_is_reported(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    connection.transport._sock.close()
    assert isinstance(connection.turn()[1], KafkaConnectionError)


def test_what_tls_has_decrypted_is_read_without_waiting_for_more() -> None:
    """No selector reports what is decrypted already: responses that came in one TLS record are read at once."""
    authority = trustme.CA()
    here, there = (ssl.SSLContext(kind) for kind in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER))
    authority.configure_trust(here)
    authority.issue_cert("localhost").configure_cert(there)
    near, far = socket.socketpair()
    with near, far:
        far_end: list[ssl.SSLSocket] = []
        serving = thread(lambda: far_end.append(there.wrap_socket(far, server_side=True)), name="tls-server")
        wrapped = here.wrap_socket(near, server_hostname="localhost")
        join(serving)
        wrapped.setblocking(False)
        connection = Connection(wrapped)
        connection.expect(5)
        with far_end[0] as server, wrapped:
            server.sendall(b"".join(fetch_answer(place + 1, bytes([place]) * 100) for place in range(5)))
            found: list[bytes] = []
            for _ in range(3):  # the first may see what the handshake left
                found += connection.turn()[2]
                if found:
                    break
            assert found == [bytes([place]) * 100 for place in range(5)]


def test_of_two_responses_that_wait_one_is_read_at_a_time(pair: tuple[Connection, socket.socket]) -> None:
    """Others on the client's thread come in between, heartbeats among them."""
    connection, far = pair
    connection.expect(2)
    far.sendall(fetch_answer(1, b"a") + fetch_answer(2, b"b"))
    assert [connection.turn()[2] for _ in range(2)] == [[b"a"], [b"b"]]


def test_a_closed_connection_holds_no_memory(pair: tuple[Connection, socket.socket]) -> None:
    connection, far = pair
    frames = connection.parser.receive_bytes.__self__
    far.sendall(fetch_answer(1, bytes(50_000))[:40_000])
    connection.turn()
    memory = weakref.ref(frames._memory)
    connection.close_future.success(None)
    assert memory() is None


class FailingSocket:
    """A socket that has nothing but an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def recv_into(self, _memory: memoryview) -> int:
        raise self._error


def test_what_came_before_the_end_is_read_first(pair: tuple[Connection, socket.socket]) -> None:
    connection, far = pair
    connection.expect(1)
    far.sendall(fetch_answer(1, b"abc") + b"\x00")
    far.close()
    assert connection.turn()[1:] == (None, [b"abc"])
    assert connection.turn() == (1, None, [])
    assert isinstance(connection.turn()[1], KafkaConnectionError)


def test_whatever_fails_while_reading_ends_the_connection() -> None:
    assert isinstance(Connection(FailingSocket(ValueError())).turn()[1], KafkaConnectionError)


@pytest.mark.parametrize("error", [BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError])
def test_what_only_asks_for_patience_ends_nothing(error: type[Exception]) -> None:
    assert Connection(FailingSocket(error())).turn() == (0, None, [])


def test_the_client_has_what_is_replaced() -> None:
    assert client_check.has_receive_path()


def test_a_client_with_other_parts_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(KafkaTCPTransport, "_read_from_sock", lambda _self: None)
    client_check.has_receive_path.cache_clear()
    try:
        near, far = socket.socketpair()
        with near, far:
            connection = Connection(near)
        assert not hasattr(connection.transport, "_sock_recv")
        consumer = SimpleNamespace(_fetcher=SimpleNamespace())
        receive.read_without_copies(consumer)
        assert not hasattr(consumer._fetcher, "PartitionRecords")
    finally:
        client_check.has_receive_path.cache_clear()
    (told,) = caplog.records
    assert "its own receive path is used" in told.message
    assert "kafka.net.transport.KafkaTCPTransport._read_from_sock._sock_recv" in told.missing  # type: ignore[attr-defined]
