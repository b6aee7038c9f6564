"""Dead letters that cannot be written, or are too many: blocked and told, none passed over, gone on with when mended."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from kafka.admin import NewTopic

from tests.support.broker import TopicFactory
from tests.support.worker import (
    Record,
    StageFactory,
    WorkerFactory,
    publish,
    read_topic,
    vector_record,
    wait_for,
)

GOOD = [1.0, 2.0, 3.0, 4.0]
BAD = b"no record"
# The client's own waiting is shorter than by default (20 s), and longer than what it asks of a broker at once.
QUICK_CLIENT = json.dumps({"delivery_timeout_ms": 3000, "request_timeout_ms": 2900, "max_block_ms": 1000})


def goods(count: int, partition: int, first: int = 0) -> list[Record]:
    return [vector_record(f"good-{partition}-{first + one}", GOOD, partition=partition) for one in range(count)]


def bads(count: int, partition: int = 0) -> list[Record]:
    return [Record(b"bad-%d" % one, BAD, partition=partition) for one in range(count)]


def told_by(letter: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in letter.headers}


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
    assert sorted({letter.key for letter in stage.dead_letters()}) == [b"bad-0", b"bad-1", b"bad-2"]
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
    # One in ten of the last 200, and at least 10.
    assert 10 <= now.total("dead_letters_total", topic=ill.topic) <= 51
    assert now.total("records_consumed_total", topic=ill.topic) <= 1000
    (blocked,) = worker.log_lines("blocked")
    assert "dead_letter.accept_until" in blocked["error"]
    assert worker.terminate() == 0
    first_held = ill.committed()[0]
    assert first_held < 2 * 60

    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    again = start_worker(settings | {"OSS_VECTORS_DEAD_LETTER__ACCEPT_UNTIL": until})
    ill.wait_committed_to_the_end(again)

    assert again.metrics().blocks() == set()
    places = [told_by(letter)["__connect.errors.offset"] for letter in ill.dead_letters() if is_of(letter, ill.topic)]
    assert {int(place) for place in places} == set(range(1, 2000, 2))
    assert len(ill.dump()) == 1000


def is_of(letter: Any, topic: str) -> bool:
    return told_by(letter)["__connect.errors.topic"] == topic


def test_when_the_first_20_are_all_bad_it_blocks_at_once(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage(partitions=1)
    stage.publish([*bads(300, 0), *goods(1, 0)])
    worker = start_worker(stage.settings())

    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "dead_letter_limit")}, "the topic is blocked")
    worker.wait_until(lambda m: m.state == "blocked", "the state is blocked")

    assert worker.terminate() == 0
    assert stage.committed() == {0: 20}
    assert len(stage.dead_letters()) == 20


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


LARGE = b"x" * 8000


def test_a_dead_letter_larger_than_the_topic_takes_blocks_its_partition_or_is_a_reference(
    new_stage: StageFactory, new_topic: TopicFactory, start_worker: WorkerFactory
) -> None:
    """All other dead letters are written: it is this record that is too large, not the topic that is missing."""
    stage = new_stage(partitions=2)
    other = new_stage(partitions=1)
    letters = new_topic(1, max_message_bytes="4000")
    routes = {stage.topic: stage.index, other.topic: stage.index}
    own = [("trace", b"1"), ("none", None)]
    stage.publish([*goods(2, 0), *bads(1, 0), Record(b"large", LARGE, own, partition=0), *bads(1, 0), *goods(2, 0, 2)])
    stage.publish([*goods(2, 1), *bads(1, 1)])
    settings = stage.settings(dead_letter_topic=letters, routes=routes, dead_letter__limit_ratio=1)
    worker = start_worker(settings).wait_ready()

    worker.wait_until(lambda m: (stage.topic, "dead_letter_unavailable") in m.blocks(), "it is told")
    publish(stage.broker.bootstrap, other.topic, [*goods(2, 0, 50), *bads(1, 0)])
    stage.publish([*goods(1, 1, 2), *bads(1, 1)])
    now = worker.wait_until(lambda m: m.buffered == 1, "all others are settled")
    now = worker.wait_until(lambda m: m.outcomes() == {"put": 9, "dead_lettered": 5}, "all others are settled")
    assert now.blocks() == {(stage.topic, "dead_letter_unavailable")}
    assert now.state == "running"
    wait_for(lambda: stage.committed() == {0: 3, 1: 5}, "it is not passed over", told=lambda: str(stage.committed()))
    assert worker.terminate() == 0
    assert b"large" not in [letter.key for letter in read_topic(stage.broker.bootstrap, letters)]

    again = start_worker(settings | {"OSS_VECTORS_DEAD_LETTER__OVERSIZE": "reference"})
    stage.wait_committed_to_the_end(again)

    assert again.metrics().blocks() == set()
    (letter,) = [one for one in read_topic(stage.broker.bootstrap, letters) if one.key == b"large"]
    assert letter.value is None
    assert letter.headers[:2] == [("trace", b"1"), ("none", b"")]
    told = told_by(letter)
    assert told["oss-vectors.value-size"] == str(len(LARGE))
    assert told["oss-vectors.null-headers"] == "none"
    place = (told["__connect.errors.topic"], told["__connect.errors.partition"], told["__connect.errors.offset"])
    assert place == (stage.topic, "0", "3")


def test_error_headers_of_an_earlier_failure_are_replaced_and_what_a_replay_wrote_stays(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    old = [
        ("own", b"1"),
        ("__connect.errors.topic", b"elsewhere"),
        ("__connect.errors.offset", b"77"),
        ("__connect.errors.exception.stacktrace", b"of another tool"),
        ("oss-vectors.reason", b"dimension"),
        ("oss-vectors.http-status", b"400"),
        ("oss-vectors.attempts", b"3"),
        ("oss-vectors.value-size", b"12"),
        ("oss-vectors.null-headers", b"gone"),
        ("oss-vectors.replays", b"2"),
        ("oss-vectors.replay-of", b"letters/0/5"),
    ]
    stage.publish([Record(b"k", BAD, old), Record(None, None, [("nothing", None)]), *goods(1, 0)])
    before = time.time()
    worker = start_worker(stage.settings())

    worker.wait_settled(3)

    replayed, empty = stage.dead_letters()
    names = [name for name, _ in replayed.headers]
    assert len(names) == len(set(names))
    told = told_by(replayed)
    assert datetime.fromisoformat(told.pop("oss-vectors.failed-at")).timestamp() >= before - 1
    kept = {name: told.get(name) for name, _ in old}
    assert kept == {
        "own": "1",
        "__connect.errors.topic": stage.topic,
        "__connect.errors.offset": "0",
        "__connect.errors.exception.stacktrace": None,
        "oss-vectors.reason": "malformed",
        "oss-vectors.http-status": None,
        "oss-vectors.attempts": None,
        "oss-vectors.value-size": None,
        "oss-vectors.null-headers": None,
        "oss-vectors.replays": "2",
        "oss-vectors.replay-of": "letters/0/5",
    }
    assert (empty.key, empty.value, empty.headers[0]) == (None, b"", ("nothing", b""))
    assert told_by(empty)["oss-vectors.null-headers"] == "nothing"
