"""The order of every key when the service refuses some of its versions: as if records were applied one by one."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from tests.support.worker import Place, Stage, StageFactory, WorkerFactory, key_overlaps

REFUSED = 6666.0  # a vector that begins with it is refused
GOOD_TAIL = [1.0, 2.0, 3.0]

Vector = list[float] | None  # None is a delete


@dataclass(frozen=True)
class Version:
    """One version of a key."""

    key: str
    vector: Vector

    @property
    def is_refused(self) -> bool:
        return self.vector is not None and self.vector[0] == REFUSED


def put(key: str, number: float) -> Version:
    return Version(key, [number, *GOOD_TAIL])


def refused(key: str, number: float) -> Version:
    """A version that the service refuses; the number tells it from others."""
    return Version(key, [REFUSED, number, 2.0, 3.0])


def delete(key: str) -> Version:
    return Version(key, None)


CHAINS: Mapping[str, Sequence[Version]] = {
    "newest": [put("newest", 1), put("newest", 2), refused("newest", 3)],
    "newest two": [put("newest two", 1), put("newest two", 2), refused("newest two", 3), refused("newest two", 4)],
    "middle": [put("middle", 1), refused("middle", 2), put("middle", 3)],
    "oldest": [refused("oldest", 1), put("oldest", 2)],
    "all": [refused("all", 1), refused("all", 2), refused("all", 3)],
    "put, delete, refused": [put("pdr", 1), delete("pdr"), refused("pdr", 2)],
    "put, refused, delete": [put("prd", 1), refused("prd", 2), delete("prd")],
    "put, refused, delete, put": [put("prdp", 1), refused("prdp", 2), delete("prdp"), put("prdp", 3)],
    "put, delete, refused, put": [put("pdrp", 1), delete("pdrp"), refused("pdrp", 2), put("pdrp", 3)],
    "put, delete, put, refused": [put("pdpr", 1), delete("pdpr"), put("pdpr", 2), refused("pdpr", 3)],
    "refused, delete, refused": [put("rdr", 0), refused("rdr", 1), delete("rdr"), refused("rdr", 2)],
}


def one_by_one(versions: Sequence[Version]) -> dict[str, list[float]]:
    """The model: what the service takes, in order."""
    index: dict[str, list[float]] = {}
    for version in versions:
        if version.vector is None:
            index.pop(version.key, None)
        elif not version.is_refused:
            index[version.key] = version.vector
    return index


def publish_all(stage: Stage, versions: Sequence[Version]) -> dict[Place, Version]:
    stage.publish_versions([(version.key, version.vector) for version in versions])
    return {one.place: version for one, version in zip(stage.history[-len(versions) :], versions, strict=True)}


def refuse(stage: Stage) -> None:
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", body_contains=f"[{REFUSED:.0f}", status=400)


def dead_places(stage: Stage) -> list[Place]:
    told = [dict(letter.headers) for letter in stage.dead_letters()]
    return [Place(int(one["__connect.errors.partition"]), int(one["__connect.errors.offset"])) for one in told]


@pytest.mark.parametrize("max_records", [500, 7, 1])
def test_the_newest_version_that_is_taken_stands_in_one_batch_or_in_many(
    new_stage: StageFactory, start_worker: WorkerFactory, max_records: int
) -> None:
    stage = new_stage(partitions=1)
    refuse(stage)
    # All chains side by side, version by version, so that a batch of any size holds parts of many.
    longest = max(len(chain) for chain in CHAINS.values())
    versions = [chain[step] for step in range(longest) for chain in CHAINS.values() if step < len(chain)]
    places = publish_all(stage, versions)
    worker = start_worker(
        stage.settings(batch__max_records=max_records, records__tombstones="delete", dead_letter__limit_ratio=1)
    )

    now = worker.wait_settled(len(versions))

    assert stage.dump() == one_by_one(versions)
    dead = dead_places(stage)
    assert len(dead) == len(set(dead))
    assert all(places[place].is_refused for place in dead)
    if max_records == 1:  # no version is superseded, so that each is seen by the service
        assert set(dead) == {place for place, version in places.items() if version.is_refused}
    assert now.outcomes()["dead_lettered"] == len(dead)
    assert key_overlaps(stage.requests()) == []


def test_a_chain_of_refused_versions_is_tried_from_the_newest_down(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    refuse(stage)
    chain = [put("k", 1), put("k", 2), refused("k", 3), refused("k", 4), refused("k", 5)]
    publish_all(stage, [put("other", 1), *chain])
    worker = start_worker(stage.settings())

    now = worker.wait_settled(6)

    assert stage.dump() == one_by_one([put("other", 1), *chain])
    # Tried from the newest down: 2 is put, and 1, which it superseded, is not. The limit judges, and so writes, in reading order.
    assert now.outcomes() == {"put": 2, "superseded": 1, "dead_lettered": 3}
    assert [place.offset for place in dead_places(stage)] == [3, 4, 5]


def test_random_histories_with_refusals_deletes_and_faults(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=3)
    drawn = random.Random(7)
    versions = []
    for number in range(1500):
        key, chance = f"key-{drawn.randrange(60)}", drawn.random()
        versions.append(delete(key) if chance < 0.15 else refused(key, number) if chance < 0.25 else put(key, number))
    stage.emulator.fault(bucket=stage.bucket, probability=0.1, seed=1, status=503)
    stage.emulator.fault(bucket=stage.bucket, probability=0.05, seed=2, reset="after")
    stage.emulator.fault(bucket=stage.bucket, probability=0.05, seed=3, status=500, applies="half")
    refuse(stage)
    places = publish_all(stage, versions)
    worker = start_worker(
        stage.settings(batch__max_records=25, records__tombstones="delete", dead_letter__limit_ratio=1)
    )

    worker.wait_settled(len(versions), timeout=60)
    stage.wait_committed_to_the_end(worker)

    assert stage.dump() == one_by_one(versions)
    dead = dead_places(stage)
    assert len(dead) == len(set(dead))
    assert all(places[place].is_refused for place in dead)
    assert worker.metrics().imbalances() == {}


def test_a_refused_delete_leaves_what_was_before_it(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage(partitions=1)
    stage.emulator.fault(bucket=stage.bucket, operation="DeleteVectors", keys=["kept"], status=400)
    publish_all(stage, [put("kept", 1), put("gone", 1), delete("kept"), delete("gone")])
    worker = start_worker(stage.settings(records__tombstones="delete"))

    worker.wait_settled(4)

    assert stage.dump() == {"kept": [1.0, *GOOD_TAIL]}
    assert [(letter.key, letter.value) for letter in stage.dead_letters()] == [(b"kept", None)]
