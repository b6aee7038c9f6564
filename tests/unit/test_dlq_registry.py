"""Dead letters of records that a schema registry describes: which vector they are about is read by it."""

from collections.abc import Iterator

import pytest

from tests.support.registry import AVRO, StandIn, avro, prefix, stand_in
from tests.unit.samples import NEEDED
from tests.unit.test_dlq import Bench, refused
from worker.errors import FatalError
from worker.settings.load import load
from worker.settings.tables import Settings
from worker.tools.dlq.letters import Place, dead_letters, stretches_of


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as found:
        found.register(AVRO)
        yield found


def settings(server: StandIn, **others: str) -> Settings:
    given = {"OSS_VECTORS_DEAD_LETTER__TOPIC": "dlq", "OSS_VECTORS_REGISTRY__URL": server.url, **others}
    return load(None, NEEDED | given).settings


def record(key: str, tenant: str = "acme") -> bytes:
    return prefix(1) + avro(AVRO, {"key": key, "data": {"float32": [1.0]}, "metadata": {"tenant": tenant}})


def keys(bench: Bench, *, with_keys: bool = True) -> list[str | None]:
    topics = bench.topics
    found = dead_letters(topics, stretches_of(topics, "dlq"), bench.settings, with_keys=with_keys)  # type: ignore[arg-type]  # topics in memory
    return [letter.key for letter in found]


def test_the_key_in_the_value_says_which_vector_it_is_about(server: StandIn) -> None:
    bench = Bench(settings=settings(server))
    for key in ("a", "b"):
        bench.fail(bench.publish(b"tenant", record(key)))
    assert keys(bench) == ["a", "b"]
    assert set(bench.decide().plan.replay) == {Place(0, 0), Place(0, 1)}  # of one Kafka key, and not of one vector
    bench.publish(b"another", record("a"))
    assert refused(bench.decide()) == {"stale": 1}


def test_the_field_that_chooses_the_index_is_read_too(server: StandIn) -> None:
    route = '{"topic":"vectors","index_by":"field:metadata.tenant","indexes":{"acme":"a","globex":"g"},"dimension":3}'
    bench = Bench(settings=settings(server, OSS_VECTORS_ROUTES=f"[{route}]"))
    bench.fail(bench.publish(b"k", record("a")))
    bench.publish(b"k", record("a", "globex"))  # the same key in another index
    assert refused(bench.decide()) == {}
    bench.publish(b"k", record("a"))
    assert refused(bench.decide()) == {"stale": 1}


def test_a_registry_that_is_away_ends_a_replay_and_not_a_list(server: StandIn) -> None:
    bench = Bench(settings=settings(server))
    bench.fail(bench.publish(b"k", record("a")))
    server.instead = lambda _: (503, b"")
    with pytest.raises(FatalError, match="the schema registry does not give schema id 1"):
        bench.decide()
    assert keys(bench, with_keys=False) == [None]


def test_of_several_records_each_is_read_without_the_registry(server: StandIn) -> None:
    bench = Bench(settings=settings(server, OSS_VECTORS_RECORDS__MANY="split"))
    bench.fail(bench.publish(b"k", b'[{"key":"a"},{"key":"b"}]'), element=1)
    bench.fail(bench.publish(b"k", record("c")))
    assert keys(bench) == ["b", "k"]
    assert server.asked == []
