"""Messages with several records on a real broker: written, refused one by one, over a crash, and with the commands."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tests.support.commands import command
from tests.support.worker import Record, StageFactory, WorkerFactory


def record(key: str, *numbers: float) -> dict[str, Any]:
    return {"key": key, "data": {"float32": numbers}}


def line(key: str, *numbers: float) -> bytes:
    return json.dumps(record(key, *numbers)).encode()


def headers_of(letter: Any) -> Mapping[str, str]:
    return {name: value.decode() for name, value in letter.headers}


def test_several_records_in_a_message_are_written_and_a_bad_one_is_repaired(
    new_stage: StageFactory, start_worker: WorkerFactory, tmp_path: Path
) -> None:
    stage = new_stage(partitions=1)
    settings = stage.settings(records__many="split")
    body = json.dumps({"vectors": [record("b1", 1, 2, 3, 4), record("b2", 1, 2), record("b3", 3, 2, 3, 4)]}).encode()
    file = tmp_path / "lists.jsonl"
    file.write_bytes(b"[" + line("f1", 1, 1, 1, 1) + b"," + line("f2", 2, 1, 1, 1) + b"]\n" + line("f3", 3, 1, 1, 1))
    assert command(settings, "produce", file).code == 0
    stage.publish(
        [
            Record(b"k", b"[" + line("l1", 1, 2, 3, 4) + b", " + line("l1", 9, 2, 3, 4) + b"]"),
            Record(None, body),
            Record(b"k", line("n1", 1, 2, 3, 4) + b"\n" + line("n2", 1, 2, 3, 4) + b"\n"),
            Record(b"k", msgspec.msgpack.encode([record("m1", 1, 2, 3, 4), record("refused", 1, 2, 3, 4)])),
            Record(b"k", b"[]"),
            Record(b"one", line("one", 1, 2, 3, 4)),
        ]
    )
    stage.emulator.fault(bucket=stage.bucket, keys=["refused"], operation="PutVectors", status=400)
    worker = start_worker(settings).wait_ready()
    scrape = worker.wait_settled(14)
    assert scrape.outcomes() == {
        "put": 10,
        "superseded": 1,
        "ignored": 1,
        "dead_lettered": 2,
    }
    assert scrape.total("messages_consumed_total", topic=stage.topic) == 8
    stage.wait_committed_to_the_end(worker)
    assert sorted(stage.dump()) == ["b1", "b3", "f1", "f2", "f3", "l1", "m1", "n1", "n2", "one"]
    assert stage.dump()["l1"] == [9.0, 2.0, 3.0, 4.0]

    letters = {headers_of(letter)["oss-vectors.reason"]: letter for letter in stage.dead_letters()}
    assert {reason: headers_of(one)["oss-vectors.element"] for reason, one in letters.items()} == {
        "dimension": "1",
        "refused": "1",
    }
    assert letters["dimension"].value == body
    edit = """sed 's/\\[1, 2\\]/[1, 2, 5, 6]/'"""
    done = command(settings, "dlq", "replay", "--reason", "dimension", "--edit", edit, "--yes")
    assert (done.code, "1 dead letter replayed" in done.out) == (0, True)
    worker.wait_settled(15)
    assert stage.dump()["b2"] == [1.0, 2.0, 5.0, 6.0]
    stage.wait_committed_to_the_end(worker)
    same = command(settings, "verify", "--json", "--rate", "0")
    assert (same.code, json.loads(same.out)["keys"], json.loads(same.out)["refused"]) == (0, 11, 2)


def test_after_a_crash_with_half_of_a_message_written_all_of_it_is(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    settings = stage.settings(records__many="split", batch__max_records=2, delivery__max_in_flight=1)
    keys = [f"k{number}" for number in range(6)]
    stage.publish([Record(b"x", b"[" + b",".join(line(key, 1, 2, 3, 4) for key in keys) + b"]")])
    rule = stage.emulator.fault(
        bucket=stage.bucket, keys=["k4"], operation="PutVectors", status=403, code="AccessDenied"
    )
    worker = start_worker(settings).wait_ready()
    half = worker.wait_until(lambda m: m.outcomes().get("put") == 4 and m.blocks(), "four are written")
    assert (half.buffered, stage.committed().get(0, 0)) == (2, 0)
    worker.kill()
    stage.emulator.clear_fault(rule)
    worker = start_worker(settings)
    worker.wait_settled(6)
    stage.wait_committed_to_the_end(worker)
    assert sorted(stage.dump()) == keys
