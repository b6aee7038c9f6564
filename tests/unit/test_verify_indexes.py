"""`verify` of a topic with several indexes: a key in two indexes is two vectors, and each index is asked for its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.app import good, settings
from tests.support.fakes import FakeMessage
from tests.support.routed import TENANTS, sharded
from worker.app.routers import Router, router_of
from worker.oss.lookup import Stored
from worker.records.shards import shard_of
from worker.records.target import Target
from worker.settings import tables
from worker.settings.tables import Route
from worker.tools.verify.compare import shown_states
from worker.tools.verify.indexes import NamedLookup
from worker.tools.verify.versions import DELETED, Reading, index_and_key


def router(route: Route) -> Router:
    made = router_of(route, settings(routes=(route,), records=tables.Records(tombstones="delete")))
    for name in route.index_names:
        made.add(Target(name, 3, "cosine"))
    return made


def of(offset: int, tenant: bytes, value: bytes | None) -> FakeMessage:
    return FakeMessage(offset, value, b"k", headers=(("tenant", tenant),))


class Index:
    """One index, which notes what it is asked for."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self.asked: list[list[str]] = []

    def get(self, keys: Sequence[str]) -> Mapping[str, Stored]:
        self.asked.append(list(keys))
        return {key: Stored([1.0, 2.0, 3.0], None) for key in keys if key in self.keys}


def test_a_key_in_two_indexes_is_two_vectors() -> None:
    reading = Reading(router(TENANTS), set(), names_index=True)
    records = [of(0, b"acme", good("k")), of(1, b"globex", good("k")), of(2, b"acme", None), of(3, b"hooli", good("k"))]
    found = list(reading.versions(0, records))
    assert [(name, version.offset) for name, version in found] == [
        ("acmedocs/k", 0),
        ("globexdocs/k", 1),
        ("acmedocs/k", 2),
    ]
    assert found[2][1].fingerprint == DELETED
    assert reading.counts["refused"] == 1


def test_the_name_of_a_vector_has_its_shard() -> None:
    reading = Reading(router(sharded("d1", "d2")), set(), names_index=True)
    records = [FakeMessage(number, good(f"a/{number}")) for number in range(20)]
    names = [name for name, _ in reading.versions(0, records)]
    assert names == [f"d{1 + shard_of(f'a/{number}', 2)}/a/{number}" for number in range(20)]
    assert index_and_key("d1/a/5") == ("d1", "a/5")


def test_a_topic_of_one_index_has_keys_alone() -> None:
    one: Any = router(Route(topic="vectors", index="docs"))
    assert [name for name, _ in Reading(one, set()).versions(0, [FakeMessage(0, good("a"))])] == ["a"]


def test_each_index_is_asked_for_its_own_keys() -> None:
    indexes = {"d1": Index(["a"]), "d2": Index(["a", "b"])}
    made: list[str] = []

    def lookup_of(name: str) -> Index:
        made.append(name)
        return indexes[name]

    lookup = NamedLookup(lookup_of)
    shown = shown_states(["d1/a", "d1/b", "d2/a"], lookup, lambda _: None)
    assert {name for name, state in shown.items() if state == DELETED} == {"d1/b"}
    assert (indexes["d1"].asked, indexes["d2"].asked) == ([["a", "b"]], [["a"]])
    shown_states(["d1/c"], lookup, lambda _: None)
    assert made == ["d1", "d2"]
