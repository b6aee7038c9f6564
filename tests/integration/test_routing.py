"""A topic whose records choose their index, on a real broker: shards and tenants, one that is blocked, and the commands."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import command
from tests.support.worker import Record, Scrape, Stage, StageFactory, WorkerFactory, wait_for
from worker.records.shards import shard_of

SHARDS = 3


def with_indexes(stage: Stage, names: Sequence[str], **route: Any) -> dict[str, str]:
    """Make indexes in the stage's bucket, and return settings with this route of its topic."""
    for name in names:
        stage.emulator.new_index(bucket=stage.bucket, index=name)
    environment = stage.settings(records__tombstones="delete")
    return environment | {"OSS_VECTORS_ROUTES": json.dumps([{"topic": stage.topic, **route}])}


def held(stage: Stage, names: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Return what each index holds, by key."""
    return {
        name: {
            key: [float(number) for number in one.data] for key, one in stage.emulator.dump(stage.bucket, name).items()
        }
        for name in names
    }


def of_tenant(key: str, tenant: str, number: float) -> Record:
    value = json.dumps({"key": key, "data": {"float32": [number, 1, 2, 3]}, "metadata": {"tenant": tenant}})
    return Record(key.encode(), value.encode(), headers=[("tenant", tenant.encode())])


def puts(m: Scrape) -> int:
    outcomes = m.outcomes()
    return outcomes.get("put", 0) + outcomes.get("superseded", 0)


def test_shards_are_written_verified_and_found(
    new_stage: StageFactory, start_worker: WorkerFactory, tmp_path: Path
) -> None:
    stage = new_stage(partitions=2)
    names = [f"shard{number}" for number in range(SHARDS)]
    settings = with_indexes(stage, names, index=names, index_by="key")
    file = tmp_path / "records.jsonl"
    vectors = {f"key-{number}": [float(number), 1.0, 2.0, 3.0] for number in range(120)}
    file.write_text("".join(json.dumps({"key": k, "data": {"float32": v}}) + "\n" for k, v in vectors.items()))
    dry = command(settings, "produce", file, "--dry-run")
    assert (dry.code, dry.out) == (
        0,
        "120 records would be accepted by the worker and written to index shard0, shard1, shard2; nothing was sent\n",
    )
    assert command(settings, "produce", file).code == 0
    worker = start_worker(settings).wait_ready()
    worker.wait_settled(120)
    stage.publish([Record(b"key-7", None)])
    del vectors["key-7"]
    worker.wait_settled(121)
    assert held(stage, names) == {
        name: {key: vector for key, vector in vectors.items() if shard_of(key, SHARDS) == place}
        for place, name in enumerate(names)
    }
    stage.wait_committed_to_the_end(worker)
    same = command(settings, "verify", "--json", "--rate", "0")
    assert (same.code, json.loads(same.out)["keys"], json.loads(same.out)["index"]) == (0, 120, ",".join(names))

    shown = command(settings, "shard", "key-5")
    own = names[shard_of("key-5", SHARDS)]
    assert (shown.code, shown.out) == (0, f"{own}\n")
    checked = command(settings, "check", "--json")
    assert {name for name in names if f'"subject": "{name}"' in checked.out} == set(names)


@pytest.mark.parametrize("index_by", ["header:tenant", "field:metadata.tenant"])
def test_one_blocked_index_holds_up_its_own_records_alone(
    new_stage: StageFactory, start_worker: WorkerFactory, index_by: str
) -> None:
    stage = new_stage(partitions=1)
    names = ["acmedocs", "globexdocs"]
    settings = with_indexes(stage, names, index_by=index_by, indexes={"acme": names[0], "globex": names[1]})
    stage.emulator.fault(bucket=stage.bucket, index=names[1], operation="PutVectors", status=403, code="AccessDenied")
    worker = start_worker(settings).wait_ready()
    stage.publish(
        [
            of_tenant("same", "acme", 1),
            of_tenant("same", "globex", 2),
            *[of_tenant(f"a{number}", "acme", number) for number in range(50)],
            of_tenant("lost", "hooli", 3),
        ]
    )
    blocked = worker.wait_until(lambda m: puts(m) == 51 and m.blocks(), "the other index is complete")
    assert (blocked.blocks(), blocked.state) == ({(stage.topic, "credentials")}, "running")
    assert (len(held(stage, names)["acmedocs"]), held(stage, names)["globexdocs"]) == (51, {})
    wait_for(lambda: stage.committed().get(0) == 1, "the watermark waits for the blocked record")
    stage.publish([of_tenant("later", "acme", 4)])
    worker.wait_until(lambda m: puts(m) == 52, "the partition is read on")

    stage.emulator.clear_faults(stage.bucket)
    worker.wait_settled(54)
    found = held(stage, names)
    assert (found["acmedocs"]["same"][0], found["globexdocs"]) == (1.0, {"same": [2.0, 1.0, 2.0, 3.0]})
    stage.wait_committed_to_the_end(worker)
    [letter] = stage.dead_letters()
    headers = dict(letter.headers)
    assert (headers["oss-vectors.reason"], headers["oss-vectors.index"]) == (b"no_route", b"")
    assert command(settings, "verify", "--rate", "0").code == 0


def test_an_index_that_is_missing_at_the_start_holds_up_its_own_records_alone(
    new_stage: StageFactory, start_worker: WorkerFactory, tmp_path: Path
) -> None:
    stage = new_stage(partitions=1)
    settings = with_indexes(
        stage, ["acmedocs"], index_by="header:tenant", indexes={"acme": "acmedocs", "globex": "globexdocs"}
    )
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps({"key": "k", "data": {"float32": [1, 2, 3, 4]}}))
    stage.publish([of_tenant("k", "globex", 9), of_tenant("a", "acme", 1)])
    worker = start_worker(settings)
    blocked = worker.wait_until(lambda m: puts(m) == 1, "the other index is written")
    assert (blocked.blocks(), blocked.state, blocked.buffered) == ({(stage.topic, "target")}, "running", 1)
    stage.emulator.new_index(bucket=stage.bucket, index="globexdocs")
    worker.wait_settled(2)
    done = command(settings, "produce", file, "--header", "tenant=globex")
    assert done.code == 0, done.err
    worker.wait_settled(3)
    assert held(stage, ["globexdocs"]) == {"globexdocs": {"k": [1.0, 2.0, 3.0, 4.0]}}
    assert worker.metrics().blocks() == set()
