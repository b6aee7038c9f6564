"""Routers: where each message goes, by which rules it is judged there, and which have no index."""

from typing import Any

import pytest

from tests.support.app import TOPIC, good, settings
from tests.support.routed import TENANTS, sharded
from worker.app.routers import NO_INDEX, Router, agreement, router_of, shard_siblings
from worker.errors import Reason, RecordError
from worker.records.decode import Delete, Ignore, Put
from worker.records.shards import shard_of
from worker.records.target import Target
from worker.settings import tables
from worker.settings.tables import Route

SHARDS = ("d1", "d2", "d3")
WITH_DEFAULT = Route(topic=TOPIC, index=(), index_by="header:tenant", indexes={"acme": "acmedocs", "default": "other"})
BY_FIELD = Route(topic=TOPIC, index=(), index_by="field:metadata.tenant", indexes={"acme": "acmedocs"})
ACME = (("tenant", b"acme"),)
HUGE = b'{"key":"k","data":{"float32":[1,2,3]},"metadata":{"t":"%s"}}' % (b"x" * 3000)


def router(route: Route, *targets: Target, tombstones: Any = "dead-letter", **changed: Any) -> Router:
    """Return a router that knows these indexes, all of the route by default."""
    made = router_of(route, settings(routes=(route,), records=tables.Records(tombstones=tombstones), **changed))
    for target in targets or [Target(name, 3, "cosine") for name in route.index_names]:
        made.add(target)
    return made


def reason_of(outcome: object) -> Reason:
    assert isinstance(outcome, RecordError), outcome
    return outcome.reason


def test_the_key_of_the_value_chooses_the_shard() -> None:
    one = router(sharded(*SHARDS))
    for number in range(50):
        found = one.route(b"kafka", good(f"k{number}"), ())
        assert (found.to, type(found.decoded)) == (SHARDS[shard_of(f"k{number}", 3)], Put)
        assert one.index_of(f"k{number}", None, None, ()) == found.to


def test_a_tombstone_and_a_record_of_one_key_go_to_one_shard() -> None:
    one = router(sharded(*SHARDS), tombstones="delete")
    for key in (b"a", b"b", b"c", b"d"):
        assert one.route(key, None, ()).to == one.route(key, good(key.decode()), ()).to
        assert one.route(key, None, ()).decoded == Delete(key.decode())


def test_a_shard_that_is_not_found_yet_gets_no_answer() -> None:
    one = router(sharded(*SHARDS), Target("d1", 3, "cosine"))
    found = {one.route(None, good(f"k{number}"), ()) for number in range(50)}
    assert {each.to for each in found if each.decoded is None} == {"d2", "d3"}
    assert {each.to for each in found if each.decoded is not None} == {"d1"}


def test_a_bad_record_of_an_unknown_shard_names_no_index() -> None:
    found = router(sharded(*SHARDS)).route(None, b"no json", ())
    assert (found.to, reason_of(found.decoded)) == (NO_INDEX, Reason.MALFORMED)


def test_each_shard_judges_by_its_own_metadata_keys() -> None:
    strict, wide = Target("d1", 3, "cosine"), Target("d2", 3, "cosine", frozenset({"t"}))
    for order in ((strict, wide), (wide, strict)):
        one = router(sharded("d1", "d2"), *order)
        outcomes: dict[str, set[type]] = {}
        for number in range(20):
            found = one.route(None, HUGE.replace(b'"k"', b'"k%d"' % number), ())
            outcomes.setdefault(found.to, set()).add(type(found.decoded))
        assert outcomes == {"d1": {RecordError}, "d2": {Put}}


def test_a_record_whose_metadata_only_a_missing_shard_may_accept_waits_for_that_shard() -> None:
    one = router(sharded("d1", "d2"), Target("d1", 3, "cosine"))
    values = [HUGE.replace(b'"k"', b'"k%d"' % number) for number in range(20)]
    found = {shard_of(f"k{number}", 2): one.route(None, value, ()) for number, value in enumerate(values)}
    assert (found[0].to, reason_of(found[0].decoded)) == (NO_INDEX, Reason.METADATA)
    assert found[1] == ("d2", None)
    one.add(Target("d2", 3, "cosine", frozenset({"t"})))
    outcomes = [(routed.to, type(routed.decoded)) for routed in (one.route(None, value, ()) for value in values)]
    assert {kind for to, kind in outcomes if to == "d2"} == {Put}


def test_a_record_that_no_shard_may_accept_does_not_wait_for_one_that_is_missing() -> None:
    one = router(sharded("d1", "d2"), Target("d1", 3, "cosine"))
    for number in range(20):
        found = one.route(None, b'{"key":"k%d","data":{"float32":[1,2]}}' % number, ())
        assert (found.to, reason_of(found.decoded)) == (NO_INDEX, Reason.DIMENSION)


def test_a_record_that_all_shards_refuse_waits_for_none() -> None:
    one = router(sharded("d1", "d2"))
    found = {reason_of(one.route(None, HUGE.replace(b'"k"', b'"k%d"' % number), ()).decoded) for number in range(20)}
    assert found == {Reason.METADATA}


def test_the_kafka_key_says_which_shard_a_record_waits_for_where_its_value_has_no_key() -> None:
    one = router(sharded("d1", "d2"), Target("d1", 3, "cosine"))
    names = [name for name in (f"k{number}" for number in range(20)) if shard_of(name, 2) == 1]
    assert one.route(names[0].encode(), HUGE.replace(b'"key":"k",', b""), ()) == ("d2", None)


def test_the_largest_record_is_the_same_for_every_shard() -> None:
    long_name = "d" * 63
    one = router(sharded("d1", long_name), batch=tables.Batch(max_bytes=1024))
    sizes: dict[str, set[int]] = {}
    for number in range(10, 30):
        for size in range(800, 1000):
            value = b'{"key":"k%d","data":{"float32":[1,2,3]},"metadata":{"t":"%s"}}' % (number, b"x" * size)
            found = one.route(None, value, ())
            if isinstance(found.decoded, Put):
                sizes.setdefault(found.to, set()).add(size)
    assert set(sizes) == {"d1", long_name}
    assert max(sizes["d1"]) == max(sizes[long_name])


def test_a_header_chooses_the_index_also_for_a_tombstone() -> None:
    one = router(TENANTS, tombstones="delete")
    assert one.route(None, good("a"), ACME).to == "acmedocs"
    assert one.route(b"a", None, [("tenant", b"globex")]) == ("globexdocs", Delete("a"))


def test_a_record_is_judged_by_the_rules_of_its_index() -> None:
    one = router(TENANTS, Target("acmedocs", 3, "cosine"), Target("globexdocs", 4, "cosine"))
    assert isinstance(one.route(None, good("a"), ACME).decoded, Put)
    found = one.route(None, good("a"), [("tenant", b"globex")])
    assert (found.to, reason_of(found.decoded)) == ("globexdocs", Reason.DIMENSION)


@pytest.mark.parametrize("headers", [[("tenant", b"hooli")], [], [("tenant", None)], [("tenant", b"\xff")]])
def test_a_value_without_an_index_is_a_dead_letter(headers: Any) -> None:
    found = router(TENANTS).route(None, good("a"), headers)
    assert (found.to, reason_of(found.decoded)) == (NO_INDEX, Reason.NO_ROUTE)
    assert "tenant" in str(found.decoded)


@pytest.mark.parametrize("headers", [[("tenant", b"hooli")], [], [("tenant", b"default")]])
def test_a_value_without_an_index_goes_to_the_default(headers: Any) -> None:
    assert router(WITH_DEFAULT).route(None, good("a"), headers).to == "other"


@pytest.mark.parametrize("route", [TENANTS, WITH_DEFAULT, BY_FIELD], ids=["header", "default", "field"])
def test_a_tombstone_that_names_no_index_is_a_dead_letter_and_deletes_nothing(route: Route) -> None:
    found = router(route, tombstones="delete").route(b"a", None, ())
    assert (found.to, reason_of(found.decoded)) == (NO_INDEX, Reason.NO_ROUTE)
    assert "needs the header" in str(found.decoded)


def test_a_tombstone_that_deletes_nothing_needs_no_index() -> None:
    assert isinstance(router(TENANTS, tombstones="ignore").route(b"a", None, ()).decoded, Ignore)
    assert reason_of(router(TENANTS).route(b"a", None, ()).decoded) is Reason.TOMBSTONE


def test_a_value_that_cannot_be_read_says_so_and_not_that_it_has_no_index() -> None:
    one = router(BY_FIELD)
    assert reason_of(one.route(None, b"no json", ()).decoded) is Reason.MALFORMED
    assert reason_of(one.route(None, good("a"), ()).decoded) is Reason.NO_ROUTE


@pytest.mark.parametrize("tenant", [b'"acme\\ud83d"', b'"\xff"'])
def test_a_record_whose_field_is_no_text_is_malformed_and_does_not_go_to_the_default(tenant: bytes) -> None:
    indexes = {"acme": "acmedocs", "default": "other"}
    value = b'{"key":"a","data":{"float32":[1,2,3]},"metadata":{"tenant":"acme"},"tenant":%s}' % tenant
    by_top, by_metadata = (
        router(Route(topic=TOPIC, index=(), index_by=index_by, indexes=indexes))
        for index_by in ("field:tenant", "field:metadata.tenant")
    )
    found = by_top.route(None, value, ())
    assert (found.to, reason_of(found.decoded)) == (NO_INDEX, Reason.MALFORMED)
    assert by_top.index_of("a", None, value, ()) is None
    assert by_metadata.route(None, value, ()).to == "acmedocs"  # what is ignored hides nothing


def test_a_field_chooses_the_index() -> None:
    value = b'{"key":"a","data":{"float32":[1,2,3]},"metadata":{"tenant":"acme"}}'
    assert router(BY_FIELD).route(None, value, ()).to == "acmedocs"


def test_a_router_decodes_as_a_decoder_does() -> None:
    one = router(TENANTS)
    assert isinstance(one.decode(None, good("a"), ACME), Put)
    with pytest.raises(RecordError):
        one.decode(None, good("a"), ())


def test_shards_agree_in_dimension_and_metric_alone() -> None:
    one, other = Target("d1", 3, "cosine"), Target("d2", 3, "cosine", frozenset({"t"}))
    assert agreement(one, {"d2": other}) == ""
    assert "dimension of d1 is 3, of d2 it is 4" in agreement(one, {"d2": Target("d2", 4, "cosine")})
    assert "distance_metric" in agreement(one, {"d2": Target("d2", 3, "euclidean")})


def test_the_siblings_of_a_shard_are_those_of_all_its_logical_indexes() -> None:
    routes = (sharded("d1", "d2"), sharded("d2", "d3"), Route(topic="other", index="d1"), TENANTS)
    assert shard_siblings("d2", routes) == {"d1", "d3"}
    assert shard_siblings("acmedocs", routes) == frozenset()


@pytest.mark.parametrize(
    ("records", "value"),
    [
        ({"envelope": "debezium"}, b'{"op":"d","before":{"key":"k"}}'),
        ({"envelope": "connect", "tombstones": "delete"}, b'{"schema":null,"payload":null}'),
        ({"fields": {"delete": "gone"}}, b'{"key":"k","gone":true}'),
    ],
)
def test_a_delete_that_does_not_say_its_index_does_not_go_to_the_default(records: Any, value: bytes) -> None:
    indexes = {"acme": "acmedocs", "default": "other"}
    route = Route(topic=TOPIC, index=(), index_by="field:tenant", indexes=indexes, records=records)
    found = router(route).route(b"k", value, ())
    assert (found.to, reason_of(found.decoded)) == (NO_INDEX, Reason.NO_ROUTE)


@pytest.mark.parametrize(
    ("tenant", "index"),
    [
        (b'"acme"', "acmedocs"),
        (b'"quoted"', "quoteddocs"),
        (b'"globex"', "other"),
        (b'"acme', "other"),
        (b'""', "other"),
        (b'"%s"' % (b"x" * 2000), "other"),
    ],
)
def test_a_header_in_the_quotes_of_a_json_string_finds_its_index(tenant: bytes, index: str) -> None:
    indexes = {"acme": "acmedocs", '"quoted"': "quoteddocs", "quoted": "acmedocs", "default": "other"}
    one = router(Route(topic=TOPIC, index=(), index_by="header:tenant", indexes=indexes))
    assert one.route(None, good("a"), [("tenant", tenant)]).to == index
    assert one.index_of("a", None, good("a"), [("tenant", tenant)]) == index


def test_an_index_may_be_named_by_a_kafka_key_with_its_quotes() -> None:
    route = Route(
        topic=TOPIC, index=(), index_by="field:$kafka.key", indexes={'"acme"': "acmedocs", "default": "other"},
        records={"key_format": "json"},
    )  # fmt: skip
    assert [router(route).route(key, good("a"), []).to for key in (b'"acme"', b"acme", b'"globex"')] == [
        "acmedocs", "acmedocs", "other",
    ]  # fmt: skip


def test_a_deleted_row_goes_to_the_index_that_it_was_in() -> None:
    indexes = {"acme": "acmedocs", "default": "other"}
    route = Route(topic=TOPIC, index=(), index_by="field:tenant", indexes=indexes, records={"envelope": "debezium"})
    found = router(route).route(b"k", b'{"op":"d","before":{"key":"k","tenant":"acme"}}', ())
    assert (found.to, found.decoded) == ("acmedocs", Delete("k"))
    assert isinstance(router(route).route(b"k", None, ()).decoded, Ignore)


def test_a_tombstone_in_an_envelope_is_one_also_where_nothing_chooses_its_index() -> None:
    route = Route(
        topic=TOPIC, index=(), index_by="field:tenant", indexes={"a": "adocs"}, records={"envelope": "connect"}
    )
    assert reason_of(router(route).route(b"k", b'{"schema":null,"payload":null}', ()).decoded) is Reason.TOMBSTONE


def test_records_without_an_index_do_not_change_which_vectors_of_an_index_are_usual() -> None:
    made = router(TENANTS)
    for number in range(20):
        value = b'{"key":"%d","data":{"float32":[1e9,1e9,1e9]}}' % number
        assert reason_of(made.route(None, value, [("tenant", b"unknown")]).decoded) is Reason.NO_ROUTE
    found = made.route(None, good("a"), ACME).decoded
    assert isinstance(found, Put)
    assert found.suspicion is None
