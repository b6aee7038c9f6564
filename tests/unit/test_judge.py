"""What the commands judge records by: the indexes of a route, as the worker knows them."""

from typing import Any

import pytest

from tests.support.app import TOPIC, settings
from tests.support.routed import MISSING, sharded
from worker.errors import FatalError, RecordError
from worker.records.decode import Delete, Put
from worker.records.target import Target
from worker.settings.tables import Records, Route, Settings
from worker.tools import judge
from worker.tools.judge import router_for, targets_of, writing_suspects


class Service:
    """Says what the indexes are."""

    dimensions: dict[str, int] = {}  # noqa: RUF012 - set by each test

    def __init__(self, *_: Any, **__: Any) -> None:
        self.is_closed = False

    def describe(self, index: str) -> Target:
        if index not in self.dimensions:
            raise MISSING
        return Target(index, self.dimensions[index], "cosine", frozenset({"of the service"}))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "OssSink", Service)
    monkeypatch.setattr(Service, "dimensions", {"d1": 3, "d2": 3, "d3": 4})


def targets(route: Route, *others: Route) -> list[Target]:
    return targets_of(route, with_routes(route, *others), {})


def with_routes(*routes: Route) -> Settings:
    return settings(routes=routes)


@pytest.mark.usefixtures("service")
def test_the_metadata_keys_of_a_route_replace_those_of_the_service_as_in_the_worker() -> None:
    route = Route(topic=TOPIC, index="d1", non_filterable_metadata_keys=("own",))
    assert targets(route) == [Target("d1", 3, "cosine", frozenset({"own"}))]
    assert targets(Route(topic="b", index="d1"), route) == [Target("d1", 3, "cosine", frozenset({"own"}))]


@pytest.mark.usefixtures("service")
def test_what_the_service_says_is_used_where_the_route_says_nothing() -> None:
    assert targets(sharded("d1", "d2")) == [
        Target(name, 3, "cosine", frozenset({"of the service"})) for name in ("d1", "d2")
    ]


def test_a_route_that_says_all_asks_no_service() -> None:
    route = Route(topic=TOPIC, index=("d1", "d2"), index_by="key", dimension=3, distance_metric="cosine")
    assert [target.index for target in targets(route)] == ["d1", "d2"]


@pytest.mark.usefixtures("service")
def test_shards_that_differ_and_a_missing_index_end_the_command() -> None:
    with pytest.raises(FatalError, match="shards of one index must agree: dimension of d1 is 3, of d3 it is 4"):
        targets(sharded("d1", "d3"))
    with pytest.raises(FatalError, match="does not say what index d9 is"):
        targets(sharded("d1", "d9"))


@pytest.mark.usefixtures("service")
def test_a_router_for_a_command_knows_every_index() -> None:
    route = sharded("d1", "d2")
    router = router_for(route, targets(route), with_routes(route))
    for number in range(20):
        value = b'{"key":"k%d","data":{"float32":[1,2,3]}}' % number
        assert router.decode(None, value, ()) is not None


def test_a_command_that_must_know_what_was_written_judges_no_suspects() -> None:
    route = Route(topic=TOPIC, index="d1", dimension=3, distance_metric="cosine", records={"suspect": "dead-letter"})
    given = settings(routes=(route,), records=Records(tombstones="delete"))
    suspect = b'{"key":"k","data":{"float32":[1e-40,1e-40,1]}}'
    with pytest.raises(RecordError, match="are denormal"):
        router_for(route, targets(route), given).decode(None, suspect, ())
    router = router_for(route, targets(route), writing_suspects(given))
    assert isinstance(router.decode(None, suspect, ()), Put)
    assert isinstance(router.decode(b"k", None, ()), Delete)
