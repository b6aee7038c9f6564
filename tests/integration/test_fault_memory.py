"""Memory is bounded in bytes, whatever the sizes of the records and however slow the service."""

import random
from contextlib import closing

from kafka import KafkaProducer

from tests.support.broker import TopicFactory
from tests.support.worker import (
    LIMIT_S,
    Record,
    Scrape,
    StageFactory,
    WorkerFactory,
    publish_with,
    read_topic,
    vector_record,
    wait_for,
)
from worker.consumer.source import MAX_POLL_RECORDS

MB = 1024 * 1024
DIMENSION = 1024
BUFFER = 4 * MB
# The bytes of the value and of its fragment, and what the objects take.
ONE_POLL = MAX_POLL_RECORDS * (2 * 12 * DIMENSION + 1000)
BATCH, SLOTS = 100, 2
# Of the requests in flight, which count too.
BODIES = SLOTS * BATCH * (12 * DIMENSION + 100)


def rss(now: Scrape) -> float:
    ((_, value),) = now.samples["process_resident_memory_bytes"]
    return value


def test_a_flood_before_a_slow_service_stays_within_the_buffer_and_the_group(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=6, dimension=DIMENSION)
    drawn = random.Random(3)
    vectors = [[round(drawn.random(), 8) for _ in range(DIMENSION)] for _ in range(50)]
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", latency_seconds=0.7)
    worker = start_worker(
        stage.settings(
            buffer__max_bytes=BUFFER,
            batch__max_records=BATCH,
            delivery__max_in_flight=SLOTS,
            kafka__session_timeout_ms=6000,
            kafka__max_poll_interval_ms=6000,
        )
    ).wait_ready()
    before = rss(worker.metrics())
    records = [vector_record(f"key-{one}", vectors[one % 50]) for one in range(2500)]
    stage.publish(records)
    readings: list[Scrape] = []

    def all_are_settled() -> bool:
        readings.append(worker.metrics())
        return readings[-1].settled == 2500

    wait_for(all_are_settled, "all records are settled", timeout=2 * LIMIT_S, told=worker.last_words)

    assert len(stage.dump()) == 2500
    most = max(one.total("buffer_bytes") for one in readings)
    assert BUFFER <= most <= BUFFER + ONE_POLL + BODIES
    assert max(one.total("paused_partitions") for one in readings) == 6
    worker.wait_until(lambda m: m.total("paused_partitions") == 0 and m.total("buffer_bytes") == 0, "all are resumed")
    # 30 MB of values came, twice as much with their fragments.
    assert max(rss(one) for one in readings) - before < 130 * MB
    now = readings[-1]
    assert now.total("rebalances_total", event="assigned") == 1
    assert now.total("rebalances_total", event="revoked") + now.total("rebalances_total", event="lost") == 0
    assert all(one.imbalances() == {} for one in readings)


def test_a_partition_whose_watermark_stands_still_is_paused_at_its_span(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=2)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", keys=["stuck"], status=503)
    span = 300
    worker = start_worker(stage.settings(buffer__max_offset_span=span, batch__max_records=1)).wait_ready()
    stage.publish([vector_record("stuck", [1.0] * 4, partition=0)])
    wait_for(lambda: stage.requests("PutVectors"), "it was tried")
    stage.publish([vector_record(f"a-{one}", [1.0] * 4, partition=0) for one in range(2000)])
    stage.publish([vector_record(f"b-{one}", [1.0] * 4, partition=1) for one in range(300)])

    now = worker.wait_until(
        lambda m: m.total("paused_partitions") == 1 and m.buffered == 1, "one partition is paused, the rest is written"
    )
    assert span <= now.consumed - 300 <= span + MAX_POLL_RECORDS
    assert now.state == "running"
    wait_for(lambda: stage.committed().get(1) == 300, "the other partition goes on")
    assert stage.committed().get(0, 0) == 0
    stage.emulator.clear_faults(stage.bucket)
    stage.wait_committed_to_the_end(worker)

    assert len(stage.dump()) == 2301
    worker.wait_until(lambda m: m.total("paused_partitions") == 0, "it is resumed")


DEEP = 2_000_000
MONSTERS = {
    "arrays within arrays": Record(b"k", b'{"key":"k","data":' + b"[" * DEEP),
    "maps within maps": Record(b"k", b'{"x":' * (DEEP // 4)),
    "closed arrays within arrays": Record(b"k", b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "packed maps within maps": Record(b"k", b"\x81\xa1x" * (DEEP // 2)),
    "packed arrays within arrays": Record(b"k", b"\x81\xa1x" + b"\x91" * DEEP),
    "an array that claims four billion": Record(b"k", b"\x81\xa4data\x81\xa7float32\xdd\xff\xff\xff\xff"),
    "bytes that claim four billion": Record(b"k", b"\x81\xa4data\x81\xa7float32\xc6\xff\xff\xff\xff"),
    "a map that claims four billion": Record(b"k", b"\xdf\xff\xff\xff\xff"),
    "a megabyte of key": Record(b"k" * MB, b'{"data":{"float32":[1,2,3,4]}}'),
    "a megabyte of key in the value": Record(b"k", b'{"key":"' + b"k" * MB + b'","data":{"float32":[1,2,3,4]}}'),
    "a million numbers": Record(b"k", b'{"key":"k","data":{"float32":[' + b"1," * MB + b"1]}}"),
    "five megabytes of nothing": Record(b"k", b" " * (5 * MB)),
    "a number of a megabyte": Record(b"k", b'{"key":"k","data":{"float32":[' + b"9" * MB + b"]}}"),
    "five thousand headers": Record(b"k", b"x", [(f"header-{one}", b"x" * 20) for one in range(5000)]),
    "a header of two megabytes": Record(b"k", b"x", [("large", b"x" * (2 * MB))]),
}


def test_monsters_are_one_dead_letter_each_and_their_neighbours_are_written(
    new_stage: StageFactory, new_topic: TopicFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    topic = new_topic(1, max_message_bytes=str(16 * MB))
    letters = new_topic(1, max_message_bytes=str(16 * MB))
    # 5 MB of what is ignored around a good vector is no monster.
    large = Record(b"large", b'{"key":"large","data":{"float32":[1,2,3,4]},"more":"' + b"x" * (5 * MB) + b'"}')
    many = Record(b"many", b'{"data":{"float32":[1,2,3,4]}}', [(f"header-{one}", b"x") for one in range(5000)])
    records = [one for pair in zip(MONSTERS.values(), goods(), strict=True) for one in pair] + [large, many]
    with closing(KafkaProducer(bootstrap_servers=stage.broker.bootstrap, max_request_size=16 * MB)) as producer:
        publish_with(producer, topic, records)
    worker = start_worker(
        stage.settings(
            routes={topic: stage.index},
            dead_letter_topic=letters,
            dead_letter__limit_ratio=1,
            dead_letter__limit_min=1000,
            buffer__max_bytes=BUFFER,
        )
    )

    now = worker.wait_settled(len(records))

    assert now.outcomes() == {"put": len(MONSTERS) + 2, "dead_lettered": len(MONSTERS)}
    assert stage.dump().keys() == {f"good-{one}" for one in range(len(MONSTERS))} | {"large", "many"}
    found = read_topic(stage.broker.bootstrap, letters)
    for (name, record), letter in zip(MONSTERS.items(), found, strict=True):
        assert (letter.key, letter.value) == (record.key, record.value), name
        assert letter.headers[: len(record.headers)] == list(record.headers), name
        told = dict(letter.headers)
        assert len(told["__connect.errors.exception.message"]) < 1000, name
    assert rss(now) < 700 * MB
    assert worker.terminate() == 0


def goods() -> list[Record]:
    return [vector_record(f"good-{one}", [1.0, 2.0, 3.0, 4.0]) for one in range(len(MONSTERS))]
