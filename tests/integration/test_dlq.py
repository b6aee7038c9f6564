"""`dlq list`, `dlq show` and `dlq replay` as a person on call types them."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.admin import NewPartitions, NewTopic
from kafka.partitioner.default import murmur2

from tests.support.bounded import running
from tests.support.commands import Done, command
from tests.support.dead_letters import LEFT_OUT, write_dead_letters
from tests.support.worker import (
    Record,
    Stage,
    StageFactory,
    WorkerFactory,
    publish,
    read_topic,
    vector_record,
    wait_for,
)

Headers = list[tuple[str, bytes | None]]
FORGED: Headers = [
    ("trace", b"\x00\xff"),
    ("empty", b""),
    ("trace", b"again"),
    ("__connect.errors.topic", b"elsewhere"),
    ("oss-vectors.reason", b"key"),
    ("oss-vectors.source-headers", b"0"),
    ("oss-vectors.replays", b"9"),
    ("oss-vectors.replay-of", b"elsewhere/0/0"),
]


@pytest.fixture
def stage(new_stage: StageFactory) -> Stage:
    """A stage of three partitions."""
    return new_stage(partitions=3)


def source(stage: Stage, **fields: Any) -> list[Any]:
    """Return the source topic's records; those with these fields."""
    records = read_topic(stage.broker.bootstrap, stage.topic, has_odd_names=True)
    return [one for one in records if all(getattr(one, name) == value for name, value in fields.items())]


def dead_letters_of(stage: Stage, records: list[Record], **where: Any) -> None:
    """Publish records and write a dead letter of each of them."""
    places = publish(stage.broker.bootstrap, stage.topic, records)
    there = {(one.partition, one.offset): one for one in source(stage)}
    written = [there[place.partition, place.offset] for place in places]
    write_dead_letters(stage.broker.bootstrap, stage.topic, written, stage.dead_letter_topic, **where)


def dlq(stage: Stage, *arguments: object, stdin: bytes = b"", **settings: object) -> Done:
    """Run `dlq` with the stage's settings."""
    return command(stage.settings(**settings), "dlq", *arguments, stdin=stdin)


def replayed(done: Done) -> tuple[int, int, dict[str, int]]:
    """Return the exit code of a replay, how many it sent, and how many it refused by cause."""
    lines = done.out.splitlines()
    (sent,) = [line.split()[0] for line in lines if line.endswith(" replayed")] or ["0"]
    refused = Counter[str]()
    for line in lines:
        if " not replayed, " in line:
            refused[line.partition("not replayed, ")[2].partition(":")[0]] += int(line.split()[0])
    return done.code, int(sent), dict(refused)


def replay_of(stage: Stage, place: str, times: int = 1) -> Headers:
    """Return the headers that a replay has of its own."""
    name = f"{stage.dead_letter_topic}/{place.replace(':', '/')}"
    return [("oss-vectors.replays", str(times).encode()), ("oss-vectors.replay-of", name.encode())]


# -- with the worker


def test_what_is_wrong_is_found_repaired_and_replayed(
    stage: Stage, start_worker: WorkerFactory, tmp_path: Path
) -> None:
    worker = start_worker(stage.settings()).wait_ready()
    good = [1.0, 2.0, 3.0, 4.0]
    stage.publish(
        [
            vector_record("short-1", good[:3], partition=0),
            vector_record("short-2", good[:3], partition=0),
            vector_record("year", good, partition=1, metadata={"year": {"is": 2026}}),
            Record(b"broken", b'{"key": "broken", "data"', partition=2),
            vector_record("fine", good, partition=2),
        ]
    )
    worker.wait_settled(5)

    listed = json.loads(dlq(stage, "list", "--json").out)
    assert (listed["version"], listed["total"], listed["by"]["reason"]) == (
        1,
        4,
        {"dimension": 2, "malformed": 1, "metadata": 1},
    )
    assert (
        dlq(stage, "list", "--reason", "dimension").out.splitlines()[0] == f"{stage.dead_letter_topic}: 2 dead letters"
    )
    assert dlq(stage, "list", "--key", "year", "--since", "1h", "--topic", stage.topic).out.count("metadata") == 1
    assert dlq(stage, "list", "--until", "1h").out == f"{stage.dead_letter_topic}: 0 dead letters\n"

    shown = dlq(stage, "show", listed["examples"]["dimension"], "--value", tmp_path / "value").out
    assert "what is wrong data.float32 has 3 numbers" in shown
    assert f"source        {stage.topic}/0 at " in shown
    assert "newer version no" in shown
    assert json.loads((tmp_path / "value").read_bytes())["data"] == {"float32": good[:3]}

    edit = f"{sys.executable} -c \"import json, sys; r = json.load(sys.stdin); r['data']['float32'] += [4.0]; print(json.dumps(r))\""
    tried = dlq(stage, "replay", "--reason", "dimension", "--edit", edit, "--dry-run")
    assert (tried.code, "nothing was sent" in tried.out, len(source(stage))) == (0, True, 5)
    done = dlq(stage, "replay", "--reason", "dimension", "--edit", edit, "--yes")
    assert replayed(done) == (0, 2, {})
    worker.wait_settled(7)
    assert stage.dump() == {"fine": good, "short-1": good, "short-2": good}

    # What is not repaired comes back, and the newer dead letter is the one to replay.
    assert replayed(dlq(stage, "replay", "--reason", "malformed", "--yes")) == (0, 1, {})
    worker.wait_settled(8)
    assert replayed(dlq(stage, "replay", "--reason", "malformed", "--yes")) == (0, 1, {"replayed_before": 1})
    worker.wait_settled(9)
    assert replayed(dlq(stage, "replay", "--reason", "malformed", "--yes")) == (0, 1, {"replayed_before": 2})
    worker.wait_settled(10)
    assert replayed(dlq(stage, "replay", "--reason", "malformed", "--yes")) == (
        0,
        0,
        {"replayed_before": 3, "replayed_too_often": 1},
    )


# -- what is sent, and where


def test_a_record_goes_back_as_it_was(stage: Stage) -> None:
    records = [
        Record(b"bytes", b"\x00\x01 bytes", FORGED, partition=0),
        Record(b"tombstone", None, partition=1),
        Record(b"null header", b"v", [("none", None), ("caf\udce9", b"1")], partition=2),
        Record(b"left out", LEFT_OUT, [("many", b"h" * 2000)], partition=0),
        Record(b"k" * 2000, LEFT_OUT, [("few", b"h")], partition=0),
        Record(None, b'{"key": "in the value"}', partition=2),
    ]
    dead_letters_of(stage, [one for one in records if not one.is_beyond_the_client])
    null = Record(b"null header", b"v", [("none", None)], partition=2)
    dead_letters_of(stage, [null])
    before = len(source(stage))
    assert replayed(dlq(stage, "replay", "--all", "--yes")) == (0, 6, {})
    new = sorted(source(stage), key=lambda one: one.timestamp)[before:]
    names = [name for name, _ in new[0].headers[-2:]]
    assert names == ["oss-vectors.replays", "oss-vectors.replay-of"]
    assert {(one.key, one.value, tuple(one.headers[:-2])) for one in new} == {
        (b"bytes", b"\x00\x01 bytes", tuple(FORGED)),
        (b"tombstone", None, ()),
        (b"left out", LEFT_OUT, (("many", b"h" * 2000),)),
        (b"k" * 2000, LEFT_OUT, (("few", b"h"),)),
        (None, b'{"key": "in the value"}', ()),
        (b"null header", b"v", (("none", b""),)),
    }
    assert {dict(one.headers)["oss-vectors.replays"] for one in new} == {b"1"}
    assert replayed(dlq(stage, "replay", "--all", "--yes")) == (0, 0, {"replayed_before": 6})


def test_a_replay_goes_to_the_partition_that_its_key_has_now(stage: Stage) -> None:
    stage.admin.create_partitions({stage.topic: NewPartitions(7)})
    dead_letters_of(stage, [Record(f"key-{number}".encode(), b"v", partition=0) for number in range(20)])
    assert replayed(dlq(stage, "replay", "--all", "--yes")) == (0, 20, {})
    again = [one for one in source(stage) if one.headers]
    publish(stage.broker.bootstrap, stage.topic, [Record(one.key, b"by a producer") for one in again])
    by_producer = {one.key: one.partition for one in source(stage, value=b"by a producer")}
    assert {one.key: one.partition for one in again} == by_producer
    assert replayed(dlq(stage, "replay", "--all", "--yes")) == (0, 0, {"replayed_before": 20})


def test_what_kafka_connect_wrote_is_replayed_and_what_nobody_wrote_is_not(stage: Stage) -> None:
    (place,) = publish(stage.broker.bootstrap, stage.topic, [Record(b"k", b"v", FORGED, partition=1)])
    connects: Headers = [
        ("__connect.errors.topic", stage.topic.encode()),
        ("__connect.errors.partition", b"1"),
        ("__connect.errors.offset", str(place.offset).encode()),
        ("__connect.errors.connector.name", b"sink"),
        ("__connect.errors.task.id", b"0"),
        ("__connect.errors.stage", b"VALUE_CONVERTER"),
        ("__connect.errors.class.name", b"org.apache.kafka.connect.json.JsonConverter"),
    ]
    letters = [
        Record(b"k", b"v", [*FORGED, *connects]),
        Record(b"forged", b"v", [*connects, ("oss-vectors.reason", b"key")]),
    ]
    publish(stage.broker.bootstrap, stage.dead_letter_topic, letters)
    assert replayed(dlq(stage, "replay", "--all", "--yes")) == (0, 1, {"no_source": 1})
    (again,) = source(stage)[1:]
    assert (again.key, again.value, again.headers) == (b"k", b"v", [*FORGED, *replay_of(stage, "0:0")])


# -- what is refused


def test_each_cause_of_a_refusal(stage: Stage) -> None:
    dead_letters_of(
        stage,
        [
            Record(b"stale", b"old", partition=1),
            Record(b"twice", b"1", partition=1),
            Record(b"twice", b"2", partition=1),
            Record(None, b"no key", partition=0),
        ],
    )
    publish(stage.broker.bootstrap, stage.topic, [Record(b"stale", b"new", partition=1)])
    (same,) = source(stage, value=b"2")
    write_dead_letters(stage.broker.bootstrap, stage.topic, [same], stage.dead_letter_topic)
    write_dead_letters(stage.broker.bootstrap, "elsewhere", [same], stage.dead_letter_topic)
    write_dead_letters(stage.broker.bootstrap, "never-there", [same], stage.dead_letter_topic)
    # Of another life of the topic: it has another record at that offset, or none.
    other = Record(b"other", b"v", partition=1)
    (place,) = publish(stage.broker.bootstrap, stage.topic, [other])
    (now,) = source(stage, key=b"other")
    changed = type(now)(1, place.offset, b"changed", b"v", [], now.timestamp)
    beyond = type(now)(1, 1000, b"beyond", b"v", [], now.timestamp)
    gone = type(now)(99, 0, b"gone", b"v", [], now.timestamp)
    left_out = type(now)(1, place.offset, b"left out", LEFT_OUT, [], now.timestamp - 1)
    write_dead_letters(stage.broker.bootstrap, stage.topic, [changed, beyond, gone, left_out], stage.dead_letter_topic)

    routes = {stage.topic: stage.index, "never-there": stage.index}
    tried = dlq(stage, "replay", "--all", "--dry-run", routes=routes)
    assert replayed(tried) == (
        0,
        0,
        {
            "stale": 2,
            "same_record": 1,
            "key_unknown": 1,
            "foreign_topic": 1,
            "topic_gone": 1,
            "source_replaced": 3,
            "no_value": 1,
        },
    )
    assert f"{stage.dead_letter_topic}: 11 dead letters selected, 1 to replay" in tried.out
    assert replayed(dlq(stage, "replay", "--all", "--yes"))[:2] == (0, 1)
    assert "newer version yes, at offset " in dlq(stage, "show", "0:0").out

    forced = replayed(dlq(stage, "replay", "--all", "--yes", "--even-if-stale"))
    assert forced == (0, 6, {"replayed_before": 2, "foreign_topic": 2, "no_value": 1})
    values = [one.value for one in source(stage) if one.headers]
    assert sorted(values) == sorted([b"2", b"old", b"1", b"no key", b"v", b"v", b"v"])
    again = replayed(dlq(stage, "replay", "--all", "--yes", "--even-if-stale"))
    assert again == (0, 0, {"replayed_before": 8, "foreign_topic": 2, "no_value": 1})


def test_dead_letters_of_one_key_are_replayed_in_the_order_of_their_records(stage: Stage) -> None:
    stage.admin.create_partitions({stage.dead_letter_topic: NewPartitions(3)})
    publish(
        stage.broker.bootstrap, stage.topic, [Record(b"k", str(number).encode(), partition=0) for number in range(6)]
    )
    records = source(stage)
    for number in (5, 2, 4, 0, 3, 1):
        write_dead_letters(
            stage.broker.bootstrap, stage.topic, [records[number]], stage.dead_letter_topic, partition=number % 3
        )
    assert replayed(dlq(stage, "replay", "--all", "--dry-run")) == (0, 0, {"stale": 5})
    assert replayed(dlq(stage, "replay", "--all", "--yes", "--even-if-stale")) == (0, 6, {})
    assert [one.value for one in source(stage) if one.headers] == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_where_retention_removed_what_came_after_nothing_is_known(stage: Stage) -> None:
    dead_letters_of(stage, [Record(b"k", b"v", partition=0), Record(_key_of_partition(1), b"v", partition=1)])
    publish(stage.broker.bootstrap, stage.topic, [Record(b"other", b"v", partition=0)] * 3)
    stage.admin.delete_records({_partition(stage, 0): 3, _partition(stage, 1): 1})
    assert replayed(dlq(stage, "replay", "--all", "--dry-run"))[2] == {"history_removed": 1}
    assert "newer version not known" in dlq(stage, "show", "0:0").out


def _key_of_partition(number: int) -> bytes:
    """Return a key that belongs to this one of three partitions."""
    return next(key for one in range(99) if (murmur2(key := b"last-%d" % one) & 0x7FFFFFFF) % 3 == number)


def _partition(stage: Stage, number: int) -> Any:
    return TopicPartition(stage.topic, number)


def test_a_topic_that_was_made_again_has_other_records_at_its_offsets(stage: Stage) -> None:
    dead_letters_of(stage, [Record(b"k", b"v", partition=0)] * 2, failed_at=time.time())
    stage.admin.delete_topics([stage.topic])
    wait_for(lambda: stage.topic not in stage.admin.list_topics(), "the topic is gone")
    stage.admin.create_topics([NewTopic(stage.topic, 3, 1)], wait_for_metadata=True)
    publish(stage.broker.bootstrap, stage.topic, [Record(b"k", b"newer", partition=0)])
    assert replayed(dlq(stage, "replay", "--all", "--yes")) == (0, 0, {"source_replaced": 2})
    assert replayed(dlq(stage, "replay", "--all", "--yes", "--even-if-stale")) == (0, 2, {})
    assert replayed(dlq(stage, "replay", "--all", "--yes", "--even-if-stale")) == (0, 0, {"replayed_before": 2})


# -- how it ends


def test_an_edit_that_fails_sends_the_others(stage: Stage, tmp_path: Path) -> None:
    dead_letters_of(stage, [Record(str(number).encode(), b"v%d" % number, partition=0) for number in range(4)])
    dead_letters_of(stage, [Record(b"tombstone", None, partition=0)])
    program = tmp_path / "edit.py"
    program.write_text(
        "import sys; v = sys.stdin.read(); v == 'v1' and sys.exit('no'); v != 'v2' and print(v, end='!')"
    )
    done = dlq(stage, "replay", "--all", "--yes", "--edit", f"{sys.executable} {program}")
    assert replayed(done) == (1, 3, {"edit_failed": 2})
    assert "0:1: --edit failed: exit code 1: no" in done.err
    assert "0:2: --edit failed: it printed nothing" in done.err
    assert done.last_error.startswith("error: the command of --edit failed on 2 dead letters")
    assert {one.value for one in source(stage) if one.headers} == {b"v0!", b"v3!", None}


def test_an_edit_that_changes_the_key_is_refused(stage: Stage) -> None:
    dead_letters_of(stage, [Record(b"k", b'{"key": "k"}', partition=0)])
    edit = f'{sys.executable} -c "print(\'{{\\"key\\": \\"other\\"}}\')"'
    done = dlq(stage, "replay", "--all", "--yes", "--edit", edit)
    assert (replayed(done), "the key was k and is now other" in done.err) == ((1, 0, {"edit_failed": 1}), True)
    assert replayed(dlq(stage, "replay", "--all", "--yes", "--even-if-stale", "--edit", edit)) == (0, 1, {})


def test_it_asks_first(stage: Stage) -> None:
    dead_letters_of(stage, [Record(b"k", b"v", partition=0)])
    done = dlq(stage, "replay", "--all", stdin=b"n\n")
    assert (done.code, done.out.splitlines()[-1], len(source(stage))) == (0, "nothing was replayed", 1)
    assert dlq(stage, "replay", "--all").code == 1
    assert replayed(dlq(stage, "replay", "--all", stdin=b"y\n")) == (0, 1, {})


def start(stage: Stage, *arguments: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    """Begin a command, which is gone at the end of the block."""
    words = [sys.executable, "-m", "worker", "dlq", *arguments]
    return running(words, env=stage.settings(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


SLOW = "5"  # dead letters a second: a replay of hundreds cannot end before it is interrupted


def test_ctrl_c_leaves_nothing_half_done_and_repeating_it_continues(stage: Stage) -> None:
    dead_letters_of(stage, [Record(f"key-{number}".encode(), b"v", partition=0) for number in range(300)])
    with start(stage, "replay", "--all", "--yes", "--rate", SLOW) as process:
        wait_for(lambda: len(source(stage)) > 300, "a record is replayed")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    sent = len(source(stage)) - 300
    assert process.returncode == 1
    assert re.search(rf"\b{sent} dead letters? replayed", out), out
    assert err.strip().splitlines()[-1] == (
        "error: stopped by a signal; repeat the command to continue: nothing is replayed twice"
    )
    assert replayed(dlq(stage, "replay", "--all", "--yes")) == (0, 300 - sent, {"replayed_before": sent})
    assert len(source(stage)) == 600


def test_two_at_once_see_each_other(stage: Stage) -> None:
    dead_letters_of(stage, [Record(f"key-{number}".encode(), b"v", partition=0) for number in range(400)])
    with start(stage, "replay", "--all", "--yes", "--rate", SLOW) as first:
        wait_for(lambda: len(source(stage)) > 400, "a record is replayed")
        second = dlq(stage, "replay", "--all", "--yes")
        _, err = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "another replay of these dead letters is running" in err
    assert second.code in {0, 1}
    assert dlq(stage, "replay", "--all", "--yes").code == 0
    counts = Counter(one.key for one in source(stage))
    assert len(counts) == 400
    assert sum(counts.values()) - 800 <= 50  # at most a step of the slower one


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("replay",), "say which: "),
        (("replay", "--all", "--key", "k"), "--all selects everything"),
        (("replay", "--at", "17"), "is not PARTITION:OFFSET"),
        (("replay", "--all", "--edit", "no-such-command"), "there is no command no-such-command"),
        (("replay", "--reason", "dimensoin"), "'dimensoin' is not one of"),
        (("list", "--since", "yesterday"), "is no time"),
        (("show", "x"), "is not PARTITION:OFFSET"),
    ],
)
def test_wrong_usage_is_told_in_words(stage: Stage, arguments: tuple[str, ...], words: str) -> None:
    done = dlq(stage, *arguments)
    assert (done.code, words in done.err) == (2, True)


def test_what_cannot_be_done_is_one_line(stage: Stage, tmp_path: Path) -> None:
    assert dlq(stage, "show", "0:5").last_error == (
        f"error: {stage.dead_letter_topic} has no dead letter at 0:5; retention may have removed it"
    )
    assert dlq(stage, "list", dead_letter_topic="").last_error.startswith("error: dead_letter.topic is empty")
    assert dlq(stage, "list", dead_letter_topic="missing").last_error.startswith("error: kafka has no topic missing")
    dead_letters_of(stage, [Record(b"k", b"v", partition=0)])
    done = dlq(stage, "show", "0:0", "--value", tmp_path / "no" / "file")
    assert (done.code, done.last_error.endswith("cannot be written: No such file or directory")) == (1, True)
