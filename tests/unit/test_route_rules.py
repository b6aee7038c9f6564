"""How a route chooses its index: what fits together, and what each mistake is called."""

import json
from typing import Any

import pytest

from worker.errors import SettingsError
from worker.settings.load import load
from worker.settings.show import in_force
from worker.settings.tables import Route

NEEDED = {
    "OSS_VECTORS_OSS__REGION": "cn-hangzhou",
    "OSS_VECTORS_OSS__BUCKET": "my-bucket",
    "OSS_VECTORS_OSS__ACCOUNT_ID": "1",
}


def variables(*routes: dict[str, Any]) -> dict[str, str]:
    return {**NEEDED, "OSS_VECTORS_ROUTES": json.dumps(routes)}


def mistakes(*routes: dict[str, Any]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(None, variables(*routes))
    return list(caught.value.mistakes)


@pytest.mark.parametrize(
    ("route", "names"),
    [
        ({"index": "docs"}, ("docs",)),
        ({"index": ["d2", "d1"], "index_by": "key"}, ("d2", "d1")),
        ({"index": ["d1"], "index_by": "key"}, ("d1",)),
        ({"index_by": "header:tenant", "indexes": {"a": "x", "b": "y", "c": "x", "default": "z"}}, ("x", "y", "z")),
        ({"index_by": 'field:metadata."tenant.id"', "indexes": {"a": "x"}}, ("x",)),
        ({"index_by": "field:$header.tenant", "indexes": {"a": "x"}}, ("x",)),
    ],
    ids=["one", "shards in their order", "one shard", "header", "field", "a header as a path"],
)
def test_a_route_has_its_indexes_each_once(route: dict[str, Any], names: tuple[str, ...]) -> None:
    settings = load(None, variables({"topic": "a", **route})).settings
    assert (settings.routes[0].index_names, settings.indexes) == (names, names)


@pytest.mark.parametrize(
    ("route", "told"),
    [
        ({"index": ["d1", "d2"]}, 'routes[0].index is a list of indexes, which needs routes[0].index_by = "key"'),
        ({"index": "d1", "index_by": "key"}, 'routes[0].index_by = "key" needs a list of indexes, the shards, in routes[0].index'),
        ({"index": ["d1", "d1"], "index_by": "key"}, 'routes[0].index has "d1" twice'),
        ({"index": [], "index_by": "key"}, "routes[0].index is empty"),
        ({"index": ["d1", "9d"], "index_by": "key"}, 'routes[0].index = "9d": allowed is a letter'),
        ({"index": "d1", "indexes": {"a": "x"}}, 'routes[0].indexes needs routes[0].index_by = "header:NAME"'),
        ({"index": "d1", "index_by": "header:t", "indexes": {"a": "x"}}, "routes[0].index cannot be set with routes[0].indexes"),
        ({"index": "d1", "index_by": "header:t"}, "routes[0].indexes is needed with routes[0].index_by"),
        ({"index_by": "header:t", "indexes": {"a": "my-index"}}, 'routes[0].indexes.a = "my-index": allowed is a letter'),
        ({"index_by": "field:a..b", "indexes": {"a": "x"}}, 'routes[0].index_by = "field:a..b" is not a path: a name is expected'),
        ({"index_by": "field:$attribute.a", "indexes": {"a": "x"}}, 'which needs records.envelope = "cloudevents"'),
        ({"index": "d1", "index_by": "tenant"}, 'routes[0].index_by = "tenant"'),
        ({"index": "d1", "index_by": "header:"}, 'routes[0].index_by = "header:"'),
        ({"index_by": "key"}, "routes[0].index is needed"),
        ({"index": 5}, "routes[0].index = 5"),
        ({"index": ""}, "routes[0].index"),
    ],
)  # fmt: skip
def test_each_mistake_is_told_by_its_setting(route: dict[str, Any], told: str) -> None:
    found = mistakes({"topic": "a", **route})
    assert any(mistake.startswith(told) or told in mistake for mistake in found), found


def test_routes_that_share_a_shard_must_not_contradict_each_other() -> None:
    one = {"topic": "a", "index": ["d1", "d2"], "index_by": "key", "dimension": 3}
    assert mistakes(one, {"topic": "b", "index": "d2", "dimension": 4}) == [
        "routes: the routes to index 'd2' contradict each other: dimension is [3, 4]"
    ]


def test_the_settings_in_force_show_a_route_as_toml() -> None:
    route = {"topic": "a", "index_by": "header:t", "indexes": {"acme": "x", "a b": "y"}}
    lines = in_force(load(None, variables(route))).splitlines()
    assert 'indexes = { acme = "x", "a b" = "y" }' in lines
    assert "index = []" in lines


def test_a_route_of_one_index_is_as_it_was() -> None:
    assert Route(topic="a", index="docs").index_names == ("docs",)
    assert not Route(topic="a", index="docs").is_sharded
