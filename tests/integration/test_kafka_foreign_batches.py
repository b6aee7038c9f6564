"""Record batches as other producers write them: what the broker accepts is read, and costs nothing beside it."""

import gzip
import json
import struct
from collections.abc import Callable
from contextlib import closing
from typing import Any

import crc32c
import pytest
import snappy
from kafka import KafkaConsumer, TopicPartition
from kafka.codec import lz4_encode, snappy_encode, zstd_encode
from kafka.record.default_records import DefaultRecordBatchBuilder

from tests.support.worker import Stage, StageFactory, WorkerFactory, wait_for, write_batch
from worker.consumer import receive

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
ATTRIBUTES_AT, RECORDS_AT = 21, 61
XERIAL = snappy_encode(b"x")[:16]
SKIPPED_FRAME = struct.pack("<II", 0x184D2A50, 3) + b"abc"
CORRUPT, INVALID_RECORD, UNKNOWN = 2, 87, -1


def number(value: int) -> bytes:
    """A zigzag varint."""
    rest, written = value << 1 if value >= 0 else (-value << 1) - 1, bytearray()
    while rest >= 0x80:
        written.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes(written) + bytes([rest])


def counted(data: bytes) -> bytes:
    """Bytes behind their count."""
    return number(len(data)) + data


def record(delta: int, key: bytes, value: bytes, *, attributes: int = 0, headers: tuple[bytes, ...] = ()) -> bytes:
    """A record as it is written; each header has the value "1"."""
    names = number(len(headers)) + b"".join(counted(name) + counted(b"1") for name in headers)
    return counted(bytes([attributes]) + number(0) + number(delta) + counted(key) + counted(value) + names)


def batch(packed: bytes, count: int, codec: int = 0) -> bytes:
    """A batch of records that are packed already."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
    builder.append(0, None, b"", b"", [])
    made = bytearray(bytes(builder.build())[:RECORDS_AT] + packed)
    struct.pack_into(">i", made, 8, len(made) - 12)
    struct.pack_into(">hi", made, ATTRIBUTES_AT, codec, count - 1)
    struct.pack_into(">i", made, RECORDS_AT - 4, count)
    struct.pack_into(">I", made, ATTRIBUTES_AT - 4, crc32c.crc32c(bytes(made[ATTRIBUTES_AT:])))
    return bytes(made)


def value(key: str) -> bytes:
    """A good vector."""
    return json.dumps({"key": key, "data": {"float32": [1.0, 2.0, 3.0, 4.0]}}).encode()


def good(count: int) -> bytes:
    """Records that can be written."""
    return b"".join(record(n, b"key-%d" % n, value(f"key-{n}")) for n in range(count))


def write(stage: Stage, made: bytes, partition: int = 0) -> int:
    """Write a batch; returns the broker's error code."""
    return write_batch(stage.broker.bootstrap, stage.topic, partition, made)[0]


def xerial(data: bytes) -> bytes:
    """A stream of xerial's, with one block."""
    packed = bytes(snappy.compress(data))
    return bytes(XERIAL) + struct.pack(">i", len(packed)) + packed


ACCEPTED: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip, bytes behind it": (GZIP, lambda data: gzip.compress(data) + b"this is no member of it"),
    "gzip, members": (GZIP, lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:])),
    "snappy, bare": (SNAPPY, lambda data: bytes(snappy.compress(data))),
    "snappy, a second header": (SNAPPY, lambda data: xerial(data[:100]) + xerial(data[100:])),
    "snappy, less than a length behind it": (SNAPPY, lambda data: xerial(data) + b"\x00\x00\x00"),
    "lz4, bytes behind it": (LZ4, lambda data: bytes(lz4_encode(data)) + b"this is no frame"),
    "zstd, frames": (ZSTD, lambda data: zstd_encode(data[:100]) + SKIPPED_FRAME + zstd_encode(data[100:])),
}
REFUSED: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip, cut short": (GZIP, lambda data: gzip.compress(data)[:-40]),
    "gzip, a second member cut short": (GZIP, lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:])[:-40]),
    "snappy, a length below zero": (SNAPPY, lambda data: XERIAL + struct.pack(">i", -5) + data),
    "lz4, records in a second frame": (LZ4, lambda data: bytes(lz4_encode(data[:100])) + bytes(lz4_encode(data[100:]))),
    "zstd, bytes behind it": (ZSTD, lambda data: zstd_encode(data) + b"this is no frame"),
}


def test_what_the_broker_unpacks_is_unpacked(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage(partitions=len(ACCEPTED))
    for partition, (codec, pack) in enumerate(ACCEPTED.values()):
        assert write(stage, batch(pack(good(3)), 3, codec), partition) == 0, list(ACCEPTED)[partition]
    worker = start_worker(stage.settings())
    worker.wait_settled(3 * len(ACCEPTED))
    stage.wait_committed_to_the_end(worker)
    assert worker.metrics().blocks() == set()
    assert worker.metrics().outcomes().keys() <= {"put", "superseded"}
    assert stage.dump().keys() == {"key-0", "key-1", "key-2"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_unpacked_the_broker_refuses(new_stage: StageFactory, name: str) -> None:
    codec, pack = REFUSED[name]
    stage = new_stage(partitions=1)
    assert write(stage, batch(pack(good(3)), 3, codec)) in (CORRUPT, INVALID_RECORD, UNKNOWN)


def test_attributes_of_a_record_forge_no_offset(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    """Read as a varint, they made 321 of an offset; it was committed, and what followed was not read any more."""
    stage = new_stage(partitions=1)
    assert write(stage, batch(good(20), 20)) == 0
    length = 301
    inner = b"\x01" + number(length - 2)
    key = inner + bytes(length - len(inner))
    forging = record(0, key, value("forged"), attributes=0x80)
    assert write(stage, batch(forging, 1)) == 0
    assert write(stage, batch(good(20), 20)) == 0

    worker = start_worker(stage.settings())
    worker.wait_settled(41)
    stage.wait_committed_to_the_end(worker)

    assert stage.committed() == {0: 41}
    assert worker.metrics().consumed == 41
    assert "forged" in stage.dump()


def test_offsets_that_a_batch_does_not_have_stop_their_partition_alone(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    """The broker looks at the head of an unpacked batch alone."""
    stage = new_stage(partitions=4)
    assert write(stage, batch(good(5), 5), 0) == 0
    forged = {1: [0, 300, 2], 2: [0, 2, 1], 3: [0, 1, 1]}
    for partition, deltas in forged.items():
        assert write(stage, batch(good(5), 5), partition) == 0
        records = b"".join(record(delta, b"k", value("k")) for delta in deltas)
        assert write(stage, batch(records, 3), partition) == 0
        assert write(stage, batch(good(5), 5), partition) == 0

    worker = start_worker(stage.settings())
    expected = {(partition, "partition_unreadable") for partition in forged}
    wait_for(
        lambda: {(line["partition"], line["reason"]) for line in worker.log_lines("blocked")} == expected,
        "they are blocked",
    )
    assert write(stage, batch(good(5), 5), 0) == 0
    wait_for(
        lambda: stage.committed() == {0: 10, 1: 6, 2: 6, 3: 7}, "what is before is committed", told=worker.last_words
    )
    before = worker.metrics()
    now = worker.wait_until(
        lambda now: now.total("kafka_errors_total") > before.total("kafka_errors_total") + 2 * len(forged),
        "they are looked at again",
    )
    assert stage.committed() == {0: 10, 1: 6, 2: 6, 3: 7}
    assert (now.state, now.blocks()) == ("running", {(stage.topic, "partition_unreadable")})
    assert worker.log_lines("no longer blocked") == []


NAMES = (b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", b"", b"", "é".encode(), b"twice", b"twice")


def letters(stage: Stage) -> list[Any]:
    """The dead letters, with the bytes of their headers' names."""
    with closing(KafkaConsumer(bootstrap_servers=stage.broker.bootstrap)) as consumer:
        receive.read_without_copies(consumer)
        place = TopicPartition(stage.dead_letter_topic, 0)
        consumer.assign([place])
        consumer.seek(place, 0)
        found: list[Any] = []

        def read() -> bool:
            found.extend(consumer.poll(timeout_ms=200).get(place, ()))
            return bool(consumer.position(place) == consumer.end_offsets([place])[place])

        wait_for(read, "the dead letters are read")
        return found


def test_names_of_headers_cost_nothing_and_are_carried_byte_for_byte(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    many = tuple(b"name-%d" % n for n in range(10_000))
    records = [
        record(0, b"a", value("a"), headers=NAMES),
        record(1, b"b", b"no vector", headers=NAMES),
        record(2, b"c", value("c"), headers=many),
        record(3, b"d", b"no vector", headers=many),
        record(4, b"e", value("e")),
    ]
    assert write(stage, batch(b"".join(records), len(records))) == 0

    worker = start_worker(stage.settings(dead_letter__limit_ratio=0.9))
    worker.wait_settled(5)
    stage.wait_committed_to_the_end(worker)

    assert worker.metrics().outcomes() == {"put": 3, "dead_lettered": 2}
    assert worker.metrics().blocks() == set()
    first, second = letters(stage)
    carried = [(name.encode(errors="surrogateescape"), value) for name, value in first.headers[: len(NAMES)]]
    assert carried == [(name, b"1") for name in NAMES]
    assert [name.encode() for name, _ in second.headers[: len(many)]] == list(many)
    assert stage.dump().keys() == {"a", "c", "e"}


def test_a_bomb_stops_its_partition_alone_and_takes_little_memory(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=2)
    bomb = batch(zstd_encode(record(0, b"k", bytes(300_000_000))), 1, ZSTD)
    assert len(bomb) < 100_000
    assert write(stage, bomb, 1) == 0
    assert write(stage, batch(good(5), 5), 0) == 0

    worker = start_worker(stage.settings())
    worker.wait_settled(5)
    now = worker.wait_until(lambda now: now.blocks() == {(stage.topic, "partition_unreadable")}, "it is blocked")
    assert now.state == "running"
    assert "unpacks to more bytes than one batch may have" in worker.log_lines("blocked")[0]["error"]
    ((_, resident),) = now.samples["process_resident_memory_bytes"]
    assert resident < 450_000_000
