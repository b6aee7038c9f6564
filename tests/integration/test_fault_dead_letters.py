"""Dead letters that cannot be written, or are too many: blocked with a reason, none passed over, resumed when fixed."""

import json
import random
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, NewTopic

from tests.support.broker import TopicFactory
from tests.support.worker import (
    Record,
    Scrape,
    Stage,
    StageFactory,
    WorkerFactory,
    publish,
    publish_with,
    read_topic,
    vector_record,
    wait_for,
)
from worker.deadletters import headers as names
from worker.deadletters.headers import read_headers

GOOD = [1.0, 2.0, 3.0, 4.0]
BAD = b"no record"
# The client's own waiting is shorter than by default (20 s), and longer than what it asks of a broker at once.
QUICK_CLIENT = json.dumps({"delivery_timeout_ms": 3000, "request_timeout_ms": 2900, "max_block_ms": 1000})


def goods(count: int, partition: int, first: int = 0) -> list[Record]:
    return [vector_record(f"good-{partition}-{first + one}", GOOD, partition=partition) for one in range(count)]


def bads(count: int, partition: int = 0) -> list[Record]:
    return [Record(b"bad-%d" % one, BAD, partition=partition) for one in range(count)]


def headers_of(dead_letter: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in dead_letter.headers}


def test_a_dead_letter_topic_that_is_deleted_while_running_passes_nothing_over(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=2)
    worker = start_worker(stage.settings(kafka__client=QUICK_CLIENT)).wait_ready()
    stage.publish([*goods(5, 0), *bads(1, 0)])
    worker.wait_settled(6)
    stage.admin.delete_topics([stage.dead_letter_topic])
    wait_for(lambda: stage.dead_letter_topic not in stage.admin.list_topics(), "the topic is gone")

    stage.publish([*goods(5, 0, 5), *bads(3, 0), *goods(5, 1)])
    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "dead_letter_unavailable")}, "the topic is blocked")
    worker.wait_until(lambda m: m.state == "blocked", "the state is blocked")
    held = worker.wait_until(lambda m: m.buffered == 3, "the good ones that were read are written")
    wait_for(lambda: stage.committed() == {0: 11, 1: 5}, "all before the dead letters is committed")
    assert worker.readyz().status == 503
    assert held.outcomes() == {"put": 15, "dead_lettered": 1}
    # While it is blocked nothing more is read.
    stage.publish(goods(5, 1, 5))
    tried = held.total("dead_letter_writes_total", result="failed")
    worker.wait_until(lambda m: m.total("dead_letter_writes_total", result="failed") > tried, "it is tried again")
    assert worker.metrics().consumed == 19

    stage.admin.create_topics([NewTopic(stage.dead_letter_topic, 1, 1)], wait_for_metadata=True)
    now = worker.wait_settled(24, timeout=60)

    worker.wait_until(lambda m: not m.blocks() and m.state == "running", "nothing blocks any more")
    assert now.outcomes() == {"put": 20, "dead_lettered": 4}
    assert sorted({dead_letter.key for dead_letter in stage.dead_letters()}) == [b"bad-0", b"bad-1", b"bad-2"]
    assert now.imbalances() == {}


def test_without_a_dead_letter_topic_the_first_bad_record_blocks_its_partition_alone(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=3)
    stage.publish([*goods(4, 0), *bads(1, 0), *goods(4, 0, 4), *goods(4, 1), *goods(4, 2)])
    worker = start_worker(stage.settings(dead_letter__topic="")).wait_ready()

    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "no_dead_letter")}, "the partition is blocked")
    stage.publish([*goods(4, 0, 8), *goods(40, 1, 4), *goods(40, 2, 4)])
    now = worker.wait_until(lambda m: m.outcomes() == {"put": 96}, "the other partitions go on")
    wait_for(lambda: stage.committed() == {0: 4, 1: 44, 2: 44}, "the bad record is not passed over", told=str)

    assert (now.state, now.buffered, now.consumed) == ("running", 1, 97)
    (blocked,) = worker.log_lines("blocked")
    assert f"{stage.topic}/0 offset 4" in blocked["error"]
    assert stage.dead_letters() == []
    assert worker.terminate() == 0
    assert stage.committed() == {0: 4, 1: 44, 2: 44}


def test_above_the_limit_a_topic_blocks_before_it_has_drained_and_the_others_go_on(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    ill, well = new_stage(partitions=1), new_stage(partitions=1)
    ill.publish([one for number in range(1000) for one in (*goods(1, 0, number), *bads(1, 0))])
    well.publish([*goods(100, 0), *bads(5, 0)])
    limits = {"dead_letter__limit_min": 10, "dead_letter__limit_window": 200}
    routes = {ill.topic: ill.index, well.topic: well.index}
    well.bucket, well.index = ill.emulator.new_index(bucket=ill.bucket, index="other")
    routes[well.topic] = well.index
    settings = ill.settings(routes=routes, **limits)
    worker = start_worker(settings)

    worker.wait_until(lambda m: m.blocks() == {(ill.topic, "dead_letter_limit")}, "the topic is blocked")
    well.publish([*goods(500, 0, 100), *bads(5, 0)])
    now = worker.wait_until(
        lambda m: m.total("records_settled_total", topic=well.topic) == 610, "the other topic goes on"
    )
    # More than one in ten, and at least 10: the eleventh is the first that is held.
    assert now.total("dead_letters_total", topic=ill.topic) == 10
    (blocked,) = worker.log_lines("blocked")
    assert "dead_letter.accept_until" in blocked["error"]
    assert worker.terminate() == 0
    assert ill.committed()[0] == 21

    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    again = start_worker(settings | {"OSS_VECTORS_DEAD_LETTER__ACCEPT_UNTIL": until})
    ill.wait_committed_to_the_end(again)

    assert again.metrics().blocks() == set()
    places = [
        headers_of(dead_letter)[names.SOURCE_OFFSET]
        for dead_letter in ill.dead_letters()
        if is_of(dead_letter, ill.topic)
    ]
    assert {int(place) for place in places} == set(range(1, 2000, 2))
    assert len(ill.dump()) == 1000


def is_of(dead_letter: Any, topic: str) -> bool:
    return headers_of(dead_letter)[names.SOURCE_TOPIC] == topic


def test_when_the_first_20_are_all_bad_it_blocks_at_once(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage(partitions=1)
    stage.publish([*bads(300, 0), *goods(1, 0)])
    worker = start_worker(stage.settings())

    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "dead_letter_limit")}, "the topic is blocked")
    worker.wait_until(lambda m: m.state == "blocked", "the state is blocked")

    assert worker.terminate() == 0
    assert stage.committed() == {0: 20}
    assert len(stage.dead_letters()) == 20


@pytest.mark.parametrize(("count", "every"), [(20_000, 33), (8_000, 20), (6_000, 13)], ids=["3 %", "5 %", "8 %"])
def test_a_backlog_with_fewer_bad_records_than_the_limit_does_not_block(
    new_stage: StageFactory, start_worker: WorkerFactory, count: int, every: int
) -> None:
    stage = new_stage(partitions=3)
    stage.publish([mixed(number, every, partitions=3) for number in range(count)])
    worker = start_worker(stage.settings())

    now = worker.wait_settled(count, timeout=90)

    assert now.blocks() == set()
    assert now.outcomes() == {"put": count - count // every, "dead_lettered": count // every}


def mixed(number: int, every: int, partitions: int = 1) -> Record:
    """One in so many is bad, the last of each, in every partition."""
    partition = number // every % partitions
    if number % every == every - 1:
        return Record(b"bad", BAD, partition=partition)
    return vector_record(f"good-{number}", GOOD, partition=partition)


def test_a_backlog_with_more_bad_records_than_the_limit_stops_at_the_least_count(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    stage.publish([mixed(number, 8) for number in range(4000)])
    worker = start_worker(stage.settings())

    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "dead_letter_limit")}, "the topic is blocked")
    worker.wait_until(lambda m: m.total("dead_letters_total") == 50, "what may be written is written")

    assert worker.terminate() == 0
    assert len(stage.dead_letters()) == 50
    assert stage.committed() == {0: 8 * 50 + 7}


@pytest.mark.parametrize(("every", "allowed"), [(1, 20), (2, 50)], ids=["all", "every second"])
def test_where_the_service_refuses_records_it_stops_at_the_limit_as_well(
    new_stage: StageFactory, start_worker: WorkerFactory, every: int, allowed: int
) -> None:
    """Eight requests at a time, each split until its bad records are alone: they are refused in no order."""
    stage = new_stage(partitions=1)
    keys = [f"key-{number}" for number in range(800)]
    stage.emulator.fault(bucket=stage.bucket, refuse_keys=keys[every - 1 :: every])
    stage.publish([vector_record(key, GOOD) for key in keys])
    worker = start_worker(stage.settings(batch__max_records=50))

    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "dead_letter_limit")}, "the topic is blocked")
    assert worker.terminate() == 0
    assert 1 <= len(stage.dead_letters()) <= allowed


def test_a_time_until_which_dead_letters_are_accepted_that_is_over_accepts_none(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    stage.publish(bads(30))
    over = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    worker = start_worker(stage.settings(dead_letter__accept_until=over))

    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "dead_letter_limit")}, "the topic is blocked")
    assert worker.terminate() == 0
    assert len(stage.dead_letters()) == 20


LARGE = random.Random(0).randbytes(8000)  # which no codec makes smaller


def test_a_dead_letter_larger_than_the_topic_takes_blocks_its_partition_or_is_a_reference(
    new_stage: StageFactory, new_topic: TopicFactory, start_worker: WorkerFactory
) -> None:
    """All other dead letters are written: it is this record that is too large, not the topic that is missing."""
    stage = new_stage(partitions=2)
    other = new_stage(partitions=1)
    dead_letters = new_topic(1, max_message_bytes="4000")
    routes = {stage.topic: stage.index, other.topic: stage.index}
    own = [("trace", b"1"), ("none", None)]
    stage.publish([*goods(2, 0), *bads(1, 0), Record(b"large", LARGE, own, partition=0), *bads(1, 0), *goods(2, 0, 2)])
    stage.publish([*goods(2, 1), *bads(1, 1)])
    settings = stage.settings(dead_letter_topic=dead_letters, routes=routes, dead_letter__limit_ratio=1)
    worker = start_worker(settings).wait_ready()

    worker.wait_until(lambda m: (stage.topic, "dead_letter_unavailable") in m.blocks(), "it blocks")
    publish(stage.broker.bootstrap, other.topic, [*goods(2, 0, 50), *bads(1, 0)])
    stage.publish([*goods(1, 1, 2), *bads(1, 1)])
    now = worker.wait_until(lambda m: m.buffered == 1, "all others are settled")
    now = worker.wait_until(lambda m: m.outcomes() == {"put": 9, "dead_lettered": 5}, "all others are settled")
    assert now.blocks() == {(stage.topic, "dead_letter_unavailable")}
    assert now.state == "running"
    wait_for(lambda: stage.committed() == {0: 3, 1: 5}, "it is not passed over", told=lambda: str(stage.committed()))
    assert worker.terminate() == 0
    assert b"large" not in [dead_letter.key for dead_letter in read_topic(stage.broker.bootstrap, dead_letters)]

    again = start_worker(settings | {"OSS_VECTORS_DEAD_LETTER__OVERSIZE": "reference"})
    stage.wait_committed_to_the_end(again)

    assert again.metrics().blocks() == set()
    (dead_letter,) = [one for one in read_topic(stage.broker.bootstrap, dead_letters) if one.key == b"large"]
    assert dead_letter.value is None
    assert dead_letter.headers[:2] == [("trace", b"1"), ("none", b"")]
    values = headers_of(dead_letter)
    assert values[names.VALUE_SIZE] == str(len(LARGE))
    assert values[names.NULL_HEADERS] == "none"
    place = (values[names.SOURCE_TOPIC], values[names.SOURCE_PARTITION], values[names.SOURCE_OFFSET])
    assert place == (stage.topic, "0", "3")


MB = 1024 * 1024
LIMIT_OF_THE_TOPIC = 2 * MB


def incompressible(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def test_dead_letters_too_large_to_write_do_not_fill_the_buffer_and_are_written_when_they_can_be(
    new_stage: StageFactory, new_topic: TopicFactory, start_worker: WorkerFactory
) -> None:
    """Fifteen of 3 MB, in a buffer of 16 MB: the other partition goes on, and in the end each is written as it was."""
    stage = new_stage(partitions=2)
    dead_letters = new_topic(1, max_message_bytes=str(LIMIT_OF_THE_TOPIC))
    large_limit(stage, stage.topic, 8 * MB)
    large = [Record(b"large-%d" % number, incompressible(3 * MB, number), partition=0) for number in range(15)]
    settings = stage.settings(dead_letter_topic=dead_letters, dead_letter__limit_ratio=1, buffer__max_bytes=16 * MB)
    worker = start_worker(settings).wait_ready()
    before = rss(worker.metrics())
    publish_large(stage, large)
    worker.wait_until(lambda m: (stage.topic, "dead_letter_unavailable") in m.blocks(), "it blocks")

    stage.publish([*goods(2000, 1), *bads(5, 1)])
    now = worker.wait_until(lambda m: m.outcomes() == {"put": 2000, "dead_lettered": 5}, "the other partition goes on")
    assert (now.state, stage.committed().get(0, 0)) == ("running", 0)
    worker.wait_until(lambda m: m.total("buffer_bytes") < 100_000, "their bytes are let go")
    assert rss(worker.metrics()) - before < 150 * MB

    large_limit(stage, dead_letters, 8 * MB)
    stage.wait_committed_to_the_end(worker)

    worker.wait_until(lambda m: not m.blocks(), "nothing blocks any more")
    found = read_large(stage, dead_letters)
    assert {record.key: found[record.key] for record in large} == {record.key: record.value for record in large}
    assert worker.metrics().total("buffer_bytes") == 0


def test_a_dead_letter_whose_record_is_gone_when_it_could_be_written_is_a_reference(
    new_stage: StageFactory, new_topic: TopicFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    dead_letters = new_topic(1, max_message_bytes="4000")
    stage.publish([Record(b"large", incompressible(8000, 1), [("h", b"1")]), *goods(1, 0)])
    worker = start_worker(stage.settings(dead_letter_topic=dead_letters)).wait_ready()
    worker.wait_until(lambda m: (stage.topic, "dead_letter_unavailable") in m.blocks(), "it blocks")

    stage.admin.delete_records({TopicPartition(stage.topic, 0): 1})
    stage.wait_committed_to_the_end(worker)

    (dead_letter,) = read_topic(stage.broker.bootstrap, dead_letters)
    values = headers_of(dead_letter)
    assert (dead_letter.key, dead_letter.value, values[names.VALUE_SIZE], values[names.KEY_SIZE]) == (
        None,
        b"",
        "8000",
        "5",
    )
    assert (values[names.REFERENCE], values[names.SOURCE_OFFSET]) == (
        "the record is gone from the source topic",
        "0",
    )
    assert worker.log_lines("the record is gone from the source topic; its dead letter is a reference")
    assert worker.metrics().blocks() == set()


def test_a_bad_record_that_its_producer_had_compressed_below_the_limit_is_written_whole(
    new_stage: StageFactory, new_topic: TopicFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    dead_letters = new_topic(1, max_message_bytes="20000")
    value = b"[0.25, 0.5]" * 20_000
    stage.publish([Record(b"compressed", value)], codec="gzip")
    worker = start_worker(stage.settings(dead_letter_topic=dead_letters)).wait_ready()

    stage.wait_committed_to_the_end(worker)

    (dead_letter,) = read_topic(stage.broker.bootstrap, dead_letters)
    assert (dead_letter.value, names.REFERENCE in headers_of(dead_letter)) == (value, False)


@pytest.mark.parametrize(
    "record",
    [Record(incompressible(8000, 2), b"x"), Record(b"k", b"x", [("h", incompressible(8000, 3))])],
    ids=["key", "header"],
)
def test_a_reference_leaves_a_large_key_and_large_headers_out_too(
    new_stage: StageFactory, new_topic: TopicFactory, start_worker: WorkerFactory, record: Record
) -> None:
    stage = new_stage(partitions=1)
    dead_letters = new_topic(1, max_message_bytes="4000")
    stage.publish([record])
    worker = start_worker(
        stage.settings(dead_letter_topic=dead_letters, dead_letter__oversize="reference")
    ).wait_ready()

    stage.wait_committed_to_the_end(worker)

    (dead_letter,) = read_topic(stage.broker.bootstrap, dead_letters)
    found = read_headers(dead_letter.headers)
    source, values = found.source, found.values
    sizes = [values.get(name) for name in (names.VALUE_SIZE, names.KEY_SIZE, names.HEADERS_SIZE)]
    is_key = len(record.key or b"") == 8000
    assert (dead_letter.key, source, sizes) == (
        None if is_key else b"k",
        [],
        ["1", "8000" if is_key else None, None if is_key else "8001"],
    )


def large_limit(stage: Stage, topic: str, size: int) -> None:
    """Let a topic take messages of so many bytes."""
    stage.admin.alter_configs([ConfigResource("TOPIC", topic, {"max.message.bytes": str(size)})])


def publish_large(stage: Stage, records: Sequence[Record]) -> None:
    with closing(KafkaProducer(bootstrap_servers=stage.broker.bootstrap, max_request_size=16 * MB)) as producer:
        publish_with(producer, stage.topic, records)


def read_large(stage: Stage, topic: str) -> dict[bytes | None, bytes | None]:
    return {record.key: record.value for record in read_topic(stage.broker.bootstrap, topic)}


def rss(now: Scrape) -> float:
    ((_, value),) = now.samples["process_resident_memory_bytes"]
    return value


def test_a_records_own_headers_are_kept_whatever_their_names_and_the_workers_come_last(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    """What another tool wrote, or forged: a topic that is itself a dead-letter topic."""
    stage = new_stage(partitions=1)
    own: list[tuple[str, bytes | None]] = [
        ("own", b"1"),
        (names.SOURCE_TOPIC, b"elsewhere"),
        (names.STACKTRACE, b"of another tool"),
        (names.REASON, b"dimension"),
        (names.SOURCE_HEADERS, b"1"),
        (names.NULL_HEADERS, b"gone"),
        (names.REPLAYS, b"2"),
        (names.REPLAY_OF, b"vectors.dlq/0/5"),
    ]
    stage.publish([Record(b"k", BAD, own), Record(None, None, [("nothing", None)]), *goods(1, 0)])
    before = time.time()
    worker = start_worker(stage.settings())

    worker.wait_settled(3)

    first, empty = stage.dead_letters()
    read = read_headers(first.headers)
    source, values = read.source, read.values
    assert (source, first.headers[: len(own)]) == (own, own)
    assert datetime.fromisoformat(values[names.FAILED_AT]).timestamp() >= before - 1
    last = headers_of(first)
    for name, value in {names.SOURCE_TOPIC: stage.topic, names.REASON: "malformed"}.items():
        assert last[name] == values[name] == value
    assert names.REPLAYS not in values
    assert (empty.key, empty.value, empty.headers[0]) == (None, b"", ("nothing", b""))
    assert read_headers(empty.headers).source == [("nothing", None)]


def test_whatever_headers_a_record_has_it_costs_no_more_than_itself(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    many = [(f"h-{number}", b"x" * 20) for number in range(10_000)]
    odd: list[tuple[str, bytes | None]] = [("", b""), ("\u202e\n", None), ("same", b"\xff"), ("same", None)]
    stage.publish([Record(b"many", BAD, many), Record(b"odd", BAD, odd), *goods(5, 0)])
    worker = start_worker(stage.settings()).wait_ready()

    stage.wait_committed_to_the_end(worker)

    found = {dead_letter.key: read_headers(dead_letter.headers).source for dead_letter in stage.dead_letters()}
    assert found == {b"many": many, b"odd": odd}
    assert worker.metrics().blocks() == set()
