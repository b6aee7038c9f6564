"""From the topic to the index: every codec, format and tombstone; the index ends as the newest versions say."""

import base64
import json
import struct
from collections.abc import Sequence

import msgspec
import pytest

from tests.support.broker import TopicFactory
from tests.support.worker import (
    BUSY_S,
    Record,
    StageFactory,
    WatchedBooks,
    WorkerFactory,
    publish,
    vector_record,
    versions_of,
    wait_for,
)

VECTOR = [0.25, -1.5, 3.0, 1e-3]
AS_FLOAT32 = list(struct.unpack("<4f", struct.pack("<4f", *VECTOR)))
RAW = struct.pack("<4f", *VECTOR)
BASE64 = base64.b64encode(RAW).decode()


def test_every_codec_and_partition_and_every_count_adds_up(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=6)
    codecs = [None, "gzip", "snappy", "lz4", "zstd"]
    for number, codec in enumerate(codecs):
        stage.publish_versions(versions_of(keys=300, count=1000, seed=number, first=number * 1000), codec)
    published = 1000 * len(codecs)

    worker = start_worker(stage.settings(batch__max_records=100))
    with WatchedBooks(worker) as books:
        now = worker.wait_settled(published)
        stage.wait_committed_to_the_end(worker)
        ends = {str(number): float(end) for number, end in stage.ends().items()}
        now = worker.wait_until(
            lambda m: m.by("committed_offset", "partition") == ends, "the metrics tell of the commits"
        )

    assert stage.dump() == stage.model()
    assert books.scrapes > 5
    assert books.imbalances == []

    requests = stage.requests("PutVectors")
    outcomes = now.outcomes()
    assert now.consumed == published
    assert outcomes == {"put": sum(len(entry.keys) for entry in requests), "superseded": published - outcomes["put"]}
    assert now.total("requests_total", operation="PutVectors", code="200") == len(requests)
    assert now.total("batches_total") == len(requests)
    assert now.total("batch_records_count") == len(requests)
    assert now.total("batch_records_sum") == outcomes["put"]
    assert now.total("batch_bytes_sum") == sum(entry.body_bytes for entry in requests)
    assert now.total("uploaded_bytes_total") == sum(entry.body_bytes for entry in requests)
    assert now.total("record_latency_seconds_count", topic=stage.topic) == published
    assert now.total("requests_in_flight") == 0
    assert now.total("buffer_bytes") == 0
    assert now.total("key_mismatch_total") == 0
    for gauge in ("watermark_offset", "end_offset"):
        assert now.by(gauge, "partition", topic=stage.topic) == ends
    assert now.by("consumer_lag_records", "partition") == dict.fromkeys(ends, 0.0)
    assert (now.total("assigned_partitions"), now.total("paused_partitions")) == (6, 0)
    assert now.state == "running"


def test_two_topics_go_to_two_indexes_of_other_dimension_and_metric(
    new_stage: StageFactory, new_topic: TopicFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(dimension=4, distance_metric="euclidean")
    stage.emulator.new_index(2, "cosine", bucket=stage.bucket, index="other")
    other = new_topic(2)
    zero = [0.0, 0.0]
    stage.publish([vector_record("a", VECTOR), vector_record("zero", zero * 2), vector_record("short", [1.0, 2.0])])
    publish(
        stage.broker.bootstrap,
        other,
        [vector_record("a", [1.0, 2.0]), vector_record("zero", zero), vector_record("long", VECTOR)],
    )

    worker = start_worker(stage.settings(routes={stage.topic: stage.index, other: "other"}))
    now = worker.wait_settled(6)

    assert stage.dump() == {"a": AS_FLOAT32, "zero": [0.0] * 4}
    assert {key: list(one.data) for key, one in stage.emulator.dump(stage.bucket, "other").items()} == {"a": [1.0, 2.0]}
    settled = {
        (labels["topic"], labels["reason"]): count
        for labels, count in now.samples["oss_vectors_dead_letters_total"]
        if count
    }
    assert settled == {(stage.topic, "dimension"): 1, (other, "zero_vector"): 1, (other, "dimension"): 1}


def test_every_format_in_one_topic(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage(partitions=2)

    def text(key: str | None, numbers: object, **fields: object) -> bytes:
        return json.dumps({**({"key": key} if key else {}), "data": {"float32": numbers}, **fields}).encode()

    def packed(key: str | None, numbers: object, **fields: object) -> bytes:
        return msgspec.msgpack.encode({**({"key": key} if key else {}), "data": {"float32": numbers}, **fields})

    values = {
        "json list": text("json list", VECTOR),
        "json base64": text("json base64", BASE64),
        "json white space": b" \r\n\t" + text("json white space", VECTOR),
        "json byte order mark": b"\xef\xbb\xbf" + text("json byte order mark", VECTOR),
        "registry": b"\x00\x00\x00\x01\x02" + text("registry", VECTOR),
        "msgpack list": packed("msgpack list", VECTOR),
        "msgpack raw": packed("msgpack raw", RAW),
        "msgpack base64": packed("msgpack base64", BASE64),
        "key of Kafka": text(None, VECTOR),
        "key of Kafka, packed": packed(None, RAW),
        "unknown fields": text("unknown fields", VECTOR, source={"page": 3}, model=None),
        "metadata": text("metadata", VECTOR, metadata={"title": "ü", "tags": ["a", "b"]}),
        "metadata, packed": packed("metadata, packed", RAW, metadata={"title": "ü", "tags": ["a", "b"]}),
    }
    stage.publish([Record(key.encode(), value) for key, value in values.items()])
    stage.publish([Record(b"not its key", text("key of the value", VECTOR)), Record(None, text("no key", VECTOR))])

    worker = start_worker(stage.settings())
    now = worker.wait_settled(len(values) + 2)

    assert now.outcomes() == {"put": len(values) + 2}
    assert now.total("key_mismatch_total", topic=stage.topic) == 1
    assert stage.dump() == dict.fromkeys([*values, "key of the value", "no key"], AS_FLOAT32)
    metadata = {key: one.metadata for key, one in stage.stored().items() if one.metadata}
    assert metadata == {key: {"title": "ü", "tags": ["a", "b"]} for key in ("metadata", "metadata, packed")}


HISTORY: list[tuple[str, Sequence[float] | None]] = [
    ("put", [1.0] * 4),
    ("deleted", [1.0] * 4),
    ("put again", [1.0] * 4),
    ("deleted", None),
    ("put again", None),
    ("never there", None),
    ("put again", [2.0] * 4),
    ("put", [3.0] * 4),
    ("deleted twice", [1.0] * 4),
    ("deleted twice", None),
    ("deleted twice", [2.0] * 4),
    ("deleted twice", None),
]


@pytest.mark.parametrize("max_records", [500, 1])
def test_tombstones_delete_in_order(new_stage: StageFactory, start_worker: WorkerFactory, max_records: int) -> None:
    stage = new_stage(partitions=2)
    stage.emulator.fault(bucket=stage.bucket, latency_seconds=0.02)
    stage.publish_versions(HISTORY)

    worker = start_worker(stage.settings(records__tombstones="delete", batch__max_records=max_records))
    now = worker.wait_settled(len(HISTORY))
    stage.wait_committed_to_the_end(worker)

    assert stage.dump() == stage.model() == {"put": [3.0] * 4, "put again": [2.0] * 4}
    one_by_one = {"put": 7, "deleted": 5}
    in_one_batch = {"put": 2, "deleted": 3, "superseded": 7}
    assert now.outcomes() in ([one_by_one] if max_records == 1 else [in_one_batch])


def test_tombstones_can_be_ignored(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage(partitions=1)
    stage.publish_versions([("kept", [1.0] * 4), ("kept", None), ("never there", None)])

    worker = start_worker(stage.settings(records__tombstones="ignore"))
    now = worker.wait_settled(3)
    stage.wait_committed_to_the_end(worker)

    assert now.outcomes() == {"put": 1, "ignored": 2}
    assert stage.dump() == {"kept": [1.0] * 4}


def test_tombstones_are_dead_letters_unless_told_otherwise(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    stage.publish_versions([("kept", [1.0] * 4), ("kept", None)])

    worker = start_worker(stage.settings())
    now = worker.wait_settled(2)
    stage.wait_committed_to_the_end(worker)

    assert now.outcomes() == {"put": 1, "dead_lettered": 1}
    assert stage.dump() == {"kept": [1.0] * 4}
    assert [(letter.key, letter.value) for letter in stage.dead_letters()] == [(b"kept", None)]


def test_records_that_come_later_are_written_within_the_batch_age(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    worker = start_worker(stage.settings(batch__max_age_seconds=0.1)).wait_ready()
    worker.wait_until(lambda m: m.total("assigned_partitions") == stage.partitions, "all partitions are assigned")

    stage.publish_versions([("late", VECTOR)])
    wait_for(lambda: stage.dump() == {"late": AS_FLOAT32}, "the record is in the index", timeout=BUSY_S)
    stage.wait_committed_to_the_end(worker)

    assert worker.terminate() == 0
