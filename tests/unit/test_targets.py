"""How the indexes of the routes are found: by the service's answer, compared with what the routes say."""

from collections.abc import Sequence

import pytest

from tests.support.bounded import END_S
from tests.support.lane import INDEX, TOPIC, Bench
from worker.app.targets import TargetFinder
from worker.errors import BlockReason, RetryReason, SinkError, TargetError, Transient
from worker.records.target import Target
from worker.settings.tables import Delivery, Route

FOUND = Target(INDEX, 4, "cosine", frozenset({"kept"}))
SAYS_NOTHING = Route(topic=TOPIC, index=INDEX)
SAYS_ALL = Route(topic=TOPIC, index=INDEX, dimension=4, distance_metric="cosine", non_filterable_metadata_keys=("own",))
UNAVAILABLE = Transient("try later", kind=RetryReason.SERVER, status=503, code="ServiceUnavailable")
DENIED = TargetError("not allowed", block=BlockReason.CREDENTIALS, status=403, code="AccessDenied")


class Service:
    """Answers in this order, and notes what is known and blocked at each question."""

    def __init__(self, bench: Bench, answers: Sequence[Target | SinkError]) -> None:
        self._bench = bench
        self._answers = list(answers)
        self.blocks: list[set[BlockReason]] = []
        self.last_answers: list[dict[str, str]] = []
        self.finder: TargetFinder

    def describe(self, _index: str) -> Target:
        self.blocks.append({block.reason for block in self._bench.status.read().blocks})
        self.last_answers.append(self.finder.last_answers())
        answer = self._answers.pop(0)
        if isinstance(answer, SinkError):
            raise answer
        return answer


def find(
    monkeypatch: pytest.MonkeyPatch, route: Route, *answers: Target | SinkError
) -> tuple[list[tuple[str, Target]], Service, Bench]:
    """Let the service answer until the index is found; return what was found, and the service and bench of it."""
    bench = Bench()
    service = Service(bench, answers)
    monkeypatch.setattr(bench.sink, "describe", service.describe)
    delivery = Delivery(retry_initial_seconds=0.01, retry_max_seconds=0.01)
    service.finder = TargetFinder({INDEX: bench.lane}, [route], delivery, bench.metrics)
    service.finder.start()
    service.finder.join(END_S)
    assert service.finder.dead_threads() == []
    return service.finder.pop_found(), service, bench


def test_an_index_is_what_the_service_says_where_the_route_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found, service, _ = find(monkeypatch, SAYS_NOTHING, FOUND)
    assert (found, service.finder.pop_found()) == ([(INDEX, FOUND)], [])


def test_the_metadata_keys_of_a_route_replace_those_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    route = Route(topic=TOPIC, index=INDEX, non_filterable_metadata_keys=("own",))
    ((_, target),), _, _ = find(monkeypatch, route, FOUND)
    assert target == Target(INDEX, 4, "cosine", frozenset({"own"}))


@pytest.mark.parametrize(
    "wrong",
    [Target(INDEX, 8, "cosine", frozenset()), Target(INDEX, 4, "euclidean", frozenset())],
    ids=["dimension", "metric"],
)
def test_a_route_that_contradicts_the_service_blocks_until_it_does_not(
    wrong: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, service, bench = find(monkeypatch, SAYS_ALL, wrong, FOUND)
    assert service.blocks == [set(), {BlockReason.TARGET}]
    assert [target.dimension for _, target in found] == [4]
    assert bench.status.read().blocks == {}


def test_a_route_that_says_all_is_used_where_the_service_does_not_let_us_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, bench = find(monkeypatch, SAYS_ALL, DENIED)
    assert found == [(INDEX, Target(INDEX, 4, "cosine", frozenset({"own"})))]
    assert bench.status.read().blocks == {}


def test_an_answer_that_is_needed_is_asked_for_until_it_comes_and_blocks_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, service, bench = find(monkeypatch, SAYS_NOTHING, UNAVAILABLE, DENIED, FOUND)
    assert found == [(INDEX, FOUND)]
    assert service.blocks == [set(), set(), {BlockReason.CREDENTIALS}]
    assert service.last_answers == [{}, {INDEX: str(UNAVAILABLE)}, {INDEX: str(DENIED)}]
    assert (service.finder.last_answers(), bench.status.read().blocks) == ({}, {})
