"""The receive path that stands in for the client's: it reads what the client reads, and fails where it fails."""

import socket
import ssl
import struct
import tracemalloc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import crc32c
import numpy as np
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, InvalidReceiveError, KafkaConnectionError, UnsupportedCodecError
from kafka.future import Future
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.consumer import FetchRequest, FetchResponse, IsolationLevel
from kafka.protocol.parser import KafkaProtocol
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder

from tests.support.bounded import join, thread
from worker import wire

PARTITION = TopicPartition("records", 3)
CRC_AT, ATTRIBUTES_AT, COUNT_AT, RECORDS_AT = 17, 21, 57, 61


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


def mended(damaged: bytes) -> bytes:
    """The batch with the checksum of what is in it now."""
    return damaged[:CRC_AT] + struct.pack(">I", crc32c.crc32c(damaged[ATTRIBUTES_AT:])) + damaged[ATTRIBUTES_AT:]


def with_attributes(made: bytes, bits: int) -> bytes:
    """The batch with these bits of its attributes set."""
    (found,) = struct.unpack_from(">h", made, ATTRIBUTES_AT)
    return mended(made[:ATTRIBUTES_AT] + struct.pack(">h", found | bits) + made[ATTRIBUTES_AT + 2 :])


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
    client, own = read(Fetcher.PartitionRecords, data, **options), read(wire.PartitionRecords, data, **options)
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
    st.lists(st.tuples(st.lists(SAMPLES, min_size=1, max_size=5), st.integers(0, 4), st.integers(1, 90)), max_size=4),
    st.integers(0, 12),
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
    assert_alike(data + cut_off, from_offset=from_offset, at_a_time=at_a_time)


@given(st.data(), st.lists(SAMPLES, min_size=1, max_size=3), st.sampled_from([0, 0, 0, 1, 2, 3, 4]))
def test_a_damaged_batch_fails_as_it_does_for_the_client(
    data: st.DataObject, samples: list[Sample], codec: int
) -> None:
    made = bytearray(batch(0, samples, codec))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(COUNT_AT if codec else RECORDS_AT - 4, len(made) - 1))
        made[place] = data.draw(st.integers(0, 255))
    whole = mended(bytes(made)) if data.draw(st.booleans()) else bytes(made)
    assert_alike(whole)


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
    made = batch(0, [Sample(1, None, None, [])])[:RECORDS_AT] + records
    length = struct.pack(">i", len(made) - 12)
    found = assert_alike(mended(made[:8] + length + made[12:]))
    assert found.error is CorruptRecordError


def test_a_record_does_not_reach_into_the_next_batch() -> None:
    made = batch(0, [Sample(0, None, b"v", [])])
    assert made[RECORDS_AT:] == b"\x0e\x00\x00\x00\x01\x02v\x00"
    longer = b"\x1c\x00\x00\x00\x01\x10v\x00"  # a value of eight bytes, of which two are left
    found = assert_alike(mended(made[:RECORDS_AT] + longer) + batch(1, [Sample(0, None, b"v", [])]))
    assert (found.records, found.error) == ([], CorruptRecordError)


def test_the_broker_s_time_is_taken_where_the_topic_says_so() -> None:
    made = with_attributes(batch(0, [Sample(5, b"a", b"", []), Sample(9, b"b", b"", [])]), 0x08)
    assert [record[1] for record in assert_alike(made).records] == [9, 9]


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1, 2, 3])
def test_messages_of_the_old_formats_are_read(magic: int, codec: int) -> None:
    if magic == 0 and codec == 3:
        codec = 0  # lz4 came with the next one
    builder = LegacyRecordBatchBuilder(magic=magic, compression_type=codec, batch_size=1 << 20)
    for offset in range(3):
        builder.append(offset, 1000 + offset, b"key", bytes([offset]) * 50)
    found = assert_alike(bytes(builder.build()))
    assert [record[0] for record in found.records] == [0, 1, 2]


def test_a_message_without_a_time_has_a_negative_one() -> None:
    """The client says None, which is no number to reckon with."""
    builder = LegacyRecordBatchBuilder(magic=0, compression_type=0, batch_size=1 << 20)
    builder.append(0, None, b"key", b"value")
    ((_, timestamp, *_rest),) = read(wire.PartitionRecords, bytes(builder.build())).records
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
    made = batch(0, [Sample(1, None, None, [])])[:RECORDS_AT] + bytes([2 * len(record)]) + record
    found = assert_alike(mended(made[:8] + struct.pack(">i", len(made) - 12) + made[12:]))
    assert len(found.records) == 1


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


def test_a_marker_that_was_compacted_away_is_passed_over() -> None:
    """Its batch stays, with no record in it; the client fails there, each time that it comes to it."""
    whole = marker(1, 7, commit=False)
    empty = whole[:COUNT_AT] + bytes(4)
    one = [Sample(1, b"k", b"v", [])]
    data = batch(0, one) + mended(empty[:8] + struct.pack(">i", len(empty) - 12) + empty[12:]) + batch(2, one)
    assert read(Fetcher.PartitionRecords, data, isolation=1).error is RuntimeError
    found = read(wire.PartitionRecords, data, isolation=1)
    assert ([record[0] for record in found.records], found.next_offset, found.error) == ([0, 2], 3, None)


@pytest.mark.parametrize("magic", [3, 127, 128, 255])
def test_another_format_is_left_to_the_client(magic: int) -> None:
    made = batch(0, [Sample(1, b"k", b"v", [])])
    assert_alike(made[:16] + bytes([magic]) + made[17:])


def test_a_compressed_batch_is_held_once_while_its_messages_are_handed_out() -> None:
    data = batch(0, [Sample(1, None, bytes(100_000), [])] * 40, 1)
    part = wire.PartitionRecords(0, PARTITION, MemoryRecords(data))
    tracemalloc.start()
    taken = part.take(1)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(taken) == 1
    assert held < 1.5 * 40 * 100_000


def test_what_was_compacted_away_at_the_end_is_not_asked_for_again() -> None:
    made = bytearray(batch(0, [Sample(1, b"k", b"v", [])]))
    made[23:27] = struct.pack(">i", 41)  # the offset of the last record that the batch had
    assert assert_alike(mended(bytes(made))).next_offset == 42


# -- frames


def fetch_answer(correlation_id: int, records: bytes) -> bytes:
    """A response to a fetch, as it comes on the wire."""
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
        wire.receive_in_place(self)

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


def test_the_memory_of_a_response_is_used_again_once_nobody_looks_at_it(
    pair: tuple[Connection, socket.socket],
) -> None:
    frames = pair[0].parser.receive_bytes.__self__
    room = frames._room(1000)
    first = np.frombuffer(room, np.uint8)
    assert not np.shares_memory(first, np.frombuffer(frames._room(1000), np.uint8))  # somebody looks at it
    del first, room
    memory = frames._memory
    del memory
    before = frames._memory.ctypes.data
    frames._room(500)
    assert frames._memory.ctypes.data == before
    frames._room(1001)
    assert len(frames._memory) == 1001
    frames._room(wire._KEPT_BYTES + 1)
    assert len(frames._memory) == 1001  # one that is larger than any fetch is not kept


@pytest.mark.parametrize("length", [-1, 1 << 30])
def test_a_length_that_no_response_has_ends_the_connection(pair: tuple[Connection, socket.socket], length: int) -> None:
    connection, far = pair
    far.sendall(struct.pack(">i", length))
    assert isinstance(connection.turn()[1], InvalidReceiveError)


def test_the_end_of_a_connection_is_told(pair: tuple[Connection, socket.socket]) -> None:
    connection, far = pair
    far.sendall(fetch_answer(1, b"abc")[:-1])
    assert connection.turn()[1] is None
    far.close()
    assert isinstance(connection.turn()[1], KafkaConnectionError)


def test_a_reset_connection_is_told(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    connection.transport._sock.close()
    assert isinstance(connection.turn()[1], KafkaConnectionError)


def test_what_tls_has_decrypted_is_read_without_waiting_for_more() -> None:
    """No selector tells of what is decrypted already: responses that came in one TLS record are taken at once."""
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


def test_of_two_responses_that_wait_one_is_taken_at_a_time(pair: tuple[Connection, socket.socket]) -> None:
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
    assert wire.fits_the_client()


def test_a_client_with_other_parts_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KafkaTCPTransport, "_read_from_sock", lambda _self: None)
    near, far = socket.socketpair()
    with near, far:
        connection = Connection(near)
    assert not hasattr(connection.transport, "_sock_recv")
    consumer = SimpleNamespace(_fetcher=SimpleNamespace())
    wire.read_in_place(consumer)
    assert not hasattr(consumer._fetcher, "PartitionRecords")
