"""`produce` and `verify` as a user calls them: a file to the topic, through the worker, and a proof of the index."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import alibabacloud_oss_v2.vectors as sdk
import numpy as np
import pytest
from kafka import TopicPartition
from kafka.partitioner.default import murmur2

from tests.support.bounded import running
from tests.support.commands import command
from tests.support.worker import Stage, StageFactory, WorkerFactory, read_topic, wait_for


def line(key: str, number: float, **fields: Any) -> str:
    """Return a record of four dimensions."""
    return json.dumps({"key": key, "data": {"float32": [number, 1.0, 2.0, 3.0]}} | fields)


@pytest.fixture
def stage(new_stage: StageFactory) -> Stage:
    """A stage of three partitions."""
    return new_stage(partitions=3)


@pytest.fixture
def settings(stage: Stage) -> dict[str, str]:
    """The stage's settings, with tombstones as deletes."""
    return stage.settings(records__tombstones="delete")


def lines_in(path: Path, lines: list[str]) -> Path:
    """Write lines to a file."""
    path.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
    return path


# -- produce


def test_records_are_published_where_javas_producers_would_put_them(
    stage: Stage, settings: dict[str, str], tmp_path: Path
) -> None:
    file = lines_in(tmp_path / "records.jsonl", [line(f"key-{number}", number) for number in range(60)])
    done = command(settings, "produce", file)
    assert (done.code, done.out.splitlines()[0]) == (0, f"60 records sent to {stage.topic} as json, all acknowledged")
    records = read_topic(stage.broker.bootstrap, stage.topic)
    assert {record.key: record.value for record in records} == {
        f"key-{number}".encode(): line(f"key-{number}", number).encode() for number in range(60)
    }
    assert all(record.partition == (murmur2(record.key) & 0x7FFFFFFF) % 3 for record in records)


@pytest.mark.parametrize("form", ["json", "base64", "msgpack"])
def test_each_form_reaches_the_index(
    stage: Stage, settings: dict[str, str], start_worker: WorkerFactory, form: str
) -> None:
    worker = start_worker(settings).wait_ready()
    records = "\n".join(line(f"key-{number}", number, metadata={"n": str(number)}) for number in range(5)).encode()
    assert command(settings, "produce", "-", "--format", form, stdin=records).code == 0
    worker.wait_settled(5)
    assert {key: list(one.data) for key, one in stage.stored().items()} == {
        f"key-{number}": [number, 1.0, 2.0, 3.0] for number in range(5)
    }


def test_the_first_bad_line_ends_it_and_start_line_continues(
    stage: Stage, settings: dict[str, str], tmp_path: Path
) -> None:
    file = lines_in(tmp_path / "records.jsonl", [line("a", 1), line("b", 2), "{", line("c", 3)])
    done = command(settings, "produce", file)
    assert (done.code, done.out.splitlines()[0]) == (1, f"2 records sent to {stage.topic} as json, all acknowledged")
    assert done.last_error.startswith("error: line 3: malformed: ")
    assert "--start-line 3" in done.last_error
    file.write_text(file.read_text(encoding="utf-8").replace("{\n", line("x", 9) + "\n", 1), encoding="utf-8")
    assert command(settings, "produce", file, "--start-line", 3).code == 0
    assert sorted(record.key for record in read_topic(stage.broker.bootstrap, stage.topic)) == [b"a", b"b", b"c", b"x"]


def test_bad_lines_are_left_out_and_kept_in_a_file(stage: Stage, settings: dict[str, str], tmp_path: Path) -> None:
    bad = '{"key": "b", "data": {"float32": [1]}}'
    file = lines_in(tmp_path / "records.jsonl", [line("a", 1), bad, "{", line("c", 3)])
    done = command(settings, "produce", file, "--skip-bad", "--bad-file", tmp_path / "bad.jsonl")
    assert done.code == 0
    assert "2 bad lines left out: dimension: 1, malformed: 1" in done.err
    assert (tmp_path / "bad.jsonl").read_text(encoding="utf-8") == f"{bad}\n{{\n"
    assert len(read_topic(stage.broker.bootstrap, stage.topic)) == 2


def test_a_dry_run_publishes_nothing(stage: Stage, settings: dict[str, str], tmp_path: Path) -> None:
    file = lines_in(tmp_path / "records.jsonl", [line("a", 1), line("b", 2)])
    done = command(settings, "produce", file, "--dry-run")
    assert (done.code, done.out) == (
        0,
        f"2 records would be accepted by the worker and written to index {stage.index}; nothing was sent\n",
    )
    assert read_topic(stage.broker.bootstrap, stage.topic) == []


def test_tombstones_delete(stage: Stage, settings: dict[str, str], start_worker: WorkerFactory, tmp_path: Path) -> None:
    worker = start_worker(settings).wait_ready()
    command(settings, "produce", lines_in(tmp_path / "records.jsonl", [line("a", 1), line("b", 2)]))
    assert command(settings, "produce", "--tombstones", lines_in(tmp_path / "keys", ["a"])).code == 0
    worker.wait_settled(3)
    assert stage.dump().keys() == {"b"}


def test_tombstones_that_the_worker_would_dead_letter_are_refused(stage: Stage, tmp_path: Path) -> None:
    done = command(stage.settings(), "produce", "--tombstones", lines_in(tmp_path / "keys", ["a"]))
    assert done.code == 1
    assert done.last_error.startswith("error: line 1: tombstone: ")


def test_an_archive_of_arrays_is_published(stage: Stage, settings: dict[str, str], tmp_path: Path) -> None:
    vectors = np.ones((7, 4), dtype=np.float32)
    np.savez(tmp_path / "records.npz", keys=np.array([f"k{number}" for number in range(7)]), vectors=vectors)
    done = command(settings, "produce", tmp_path / "records.npz")
    assert (done.code, done.out.splitlines()[0]) == (0, f"7 records sent to {stage.topic} as json, all acknowledged")


def test_ctrl_c_says_where_to_continue_and_everything_before_is_there(
    stage: Stage, settings: dict[str, str], tmp_path: Path
) -> None:
    file = lines_in(tmp_path / "records.jsonl", [line(f"key-{number}", number) for number in range(5000)])
    produce = [sys.executable, "-m", "worker", "produce", str(file), "--rate", "100"]
    with running(produce, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(lambda: read_topic(stage.broker.bootstrap, stage.topic), "records come")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    at = int(err.strip().rpartition("--start-line ")[2])
    sent = {int(json.loads(record.value)["key"][4:]) for record in read_topic(stage.broker.bootstrap, stage.topic)}
    assert sent == set(range(at - 1))


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "give FILE, or --tombstones"),
        (("nowhere.jsonl",), 2, "does not exist"),
        (("-", "--topic", "other"), 1, "no route has the topic other"),
        (("-", "--start-line", "0"), 2, "x>=1"),
    ],
)
def test_wrong_usage_of_produce_is_told_in_words(
    settings: dict[str, str], arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = command(settings, "produce", *arguments)
    assert done.code == code
    assert told in done.err


def test_an_unreachable_broker_is_one_line(settings: dict[str, str], tmp_path: Path) -> None:
    file = lines_in(tmp_path / "records.jsonl", [line("a", 1)])
    done = command(settings | {"OSS_VECTORS_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}, "produce", file)
    assert (done.code, done.last_error.startswith("error: kafka at 127.0.0.1:1 cannot be reached: ")) == (1, True)


# -- verify


@pytest.fixture
def written(stage: Stage, settings: dict[str, str], start_worker: WorkerFactory, tmp_path: Path) -> Stage:
    """A topic of two versions of 30 keys, some of them deleted, and one bad record; the worker has written it all."""
    worker = start_worker(settings).wait_ready()
    lines = [line(f"key-{number}", version) for version in (1, 2) for number in range(30)]
    assert command(settings, "produce", lines_in(tmp_path / "records.jsonl", lines)).code == 0
    keys = lines_in(tmp_path / "keys", [f"key-{number}" for number in range(25, 30)])
    assert command(settings, "produce", "--tombstones", keys).code == 0
    stage.publish_versions([("key-0", [1.0])])
    worker.wait_settled(66)
    stage.wait_committed_to_the_end(worker)
    worker.terminate()
    return stage


def change(stage: Stage, key: str, vector: list[float] | None, **metadata: str) -> None:
    """Change the index behind the worker's back."""
    client = stage.emulator.client()
    where = {"bucket": stage.bucket, "index_name": stage.index}
    if vector is None:
        client.delete_vectors(sdk.models.DeleteVectorsRequest(**where, keys=[key]))
    else:
        one = {"key": key, "data": {"float32": vector}} | ({"metadata": metadata} if metadata else {})
        client.put_vectors(sdk.models.PutVectorsRequest(**where, vectors=[one]))


def test_an_index_that_is_right_is_proved_so(written: Stage, settings: dict[str, str]) -> None:
    done = command(settings, "verify")
    assert (done.code, done.out.splitlines()) == (
        0,
        [
            f"{written.topic}: 66 records, 1 refused, 30 keys; index {written.index}",
            "no difference: the index holds what the topic asks for",
        ],
    )


def test_an_index_is_not_proved_by_what_retention_has_left(written: Stage, settings: dict[str, str]) -> None:
    assert command(settings, "verify", "--strict").code == 0
    written.admin.delete_records({TopicPartition(written.topic, 0): 1})
    done = command(settings, "verify")
    assert (done.code, done.out.splitlines()[-1].partition(";")[0]) == (0, "no difference in what was compared")
    done = command(settings, "verify", "--strict")
    assert (done.code, "not proved to be complete" in done.err.splitlines()[-1]) == (1, True)


def test_each_planted_difference_is_found_and_repaired(
    written: Stage, settings: dict[str, str], start_worker: WorkerFactory, tmp_path: Path
) -> None:
    change(written, "key-1", None)
    change(written, "key-2", [1.0, 1.0, 2.0, 3.0])
    change(written, "key-3", [2.0, 1.0, 2.0, 3.5])
    change(written, "key-4", [2.0, 1.0, 2.0, 3.0], title="x")
    change(written, "key-26", [1.0, 1.0, 2.0, 3.0])
    done = command(settings, "verify", "--json", "--keys", tmp_path / "found.jsonl")
    found = {one["key"]: one["kind"] for one in json.loads(done.out)["differences"]}
    assert (done.code, found) == (
        3,
        {"key-1": "missing", "key-2": "stale", "key-3": "different", "key-4": "different", "key-26": "not_deleted"},
    )
    assert len((tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines()) == 5

    done = command(settings, "verify", "--repair", "--yes")
    assert (done.code, done.out.splitlines()[-1].partition(";")[0]) == (3, "published again: 5")
    worker = start_worker(settings).wait_ready()
    worker.wait_settled(5)
    written.wait_committed_to_the_end(worker)
    assert command(settings, "verify").code == 0


def test_a_repair_asks_first(written: Stage, settings: dict[str, str]) -> None:
    change(written, "key-1", None)
    before = len(read_topic(written.broker.bootstrap, written.topic))
    done = command(settings, "verify", "--repair", stdin=b"n\n")
    assert (done.code, len(read_topic(written.broker.bootstrap, written.topic))) == (3, before)


def test_a_group_that_committed_nothing_is_told(settings: dict[str, str]) -> None:
    done = command(settings, "verify")
    assert done.code == 1
    assert "has committed nothing of these records" in done.last_error
