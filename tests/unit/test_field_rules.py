"""Mistakes in [records] and [routes.records]: each with the name of its setting, all at once."""

import json
from typing import Any, Final

import pytest

from tests.unit.samples import NEEDED
from worker.errors import SettingsError
from worker.settings.load import load
from worker.settings.tables import Fields, Records, Settings


def environment(fields: Any = None, **route: Any) -> dict[str, str]:
    found = NEEDED | {"OSS_VECTORS_ROUTES": json.dumps([{"topic": "vectors", "index": "docs", **route}])}
    return found if fields is None else found | {"OSS_VECTORS_RECORDS__FIELDS": json.dumps(fields)}


def settings(fields: Any = None, **route: Any) -> Settings:
    return load(None, environment(fields, **route)).settings


def mistakes(fields: Any = None, **route: Any) -> str:
    with pytest.raises(SettingsError) as raised:
        load(None, environment(fields, **route))
    return "\n".join(raised.value.mistakes)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"key": "a..b"}, 'records.fields.key = "a..b": a name is expected'),
        ({"vector": "$kafka.key"}, 'records.fields.vector = "$kafka.key": it must be in the value'),
        ({"metadata": ["a.x", "b.x"]}, "records.fields.metadata = "),
        ({"delete": "$x"}, 'records.fields.delete = "$x": what begins with $ is'),
        (
            {"vektor": "v"},
            "records.fields.vektor (in OSS_VECTORS_RECORDS__FIELDS) is not a setting; did you mean vector?",
        ),
        ({"vector": ""}, "records.fields.vector = "),
        ({"key": 5}, "records.fields.key = 5 (from OSS_VECTORS_RECORDS__FIELDS): Expected `str`"),
        ({"metadata": 5}, "records.fields.metadata = 5"),
        (5, "records.fields = "),
    ],
)
def test_a_wrong_field_is_named(fields: Any, words: str) -> None:
    assert words in mistakes(fields)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ({"fields": {"key": "a..b"}}, 'routes[0].records.fields.key = "a..b": a name is expected'),
        ({"format": "jso"}, 'routes[0].records.format = "jso"'),
        ({"fildes": {}}, "routes[0].records.fildes (in OSS_VECTORS_ROUTES) is not a setting; did you mean fields?"),
        ({"fields": {"vektor": "v"}}, "routes[0].records.fields.vektor"),
        ({"fields": 5}, "routes[0].records.fields = 5"),
        (5, "routes[0].records = 5"),
    ],
)
def test_a_wrong_setting_of_a_route_is_named_with_its_route(records: Any, words: str) -> None:
    assert words in mistakes(records=records)


def test_mistakes_of_all_routes_are_told_at_once() -> None:
    told = mistakes({"key": "{"}, records={"format": "x", "fields": {"vector": "a["}})
    assert "records.fields.key" in told
    assert "routes[0].records.format" in told


def test_a_route_changes_what_it_names_and_keeps_the_rest() -> None:
    made = settings({"key": "id", "metadata": ["a", "b"]}, records={"format": "json", "fields": {"key": "x"}})
    assert made.records == Records(fields=Fields(key="id", metadata=("a", "b")))
    assert made.records_of("vectors") == Records(format="json", fields=Fields(key="x", metadata=("a", "b")))
    assert made.records_of("other") == made.records


def test_a_table_of_metadata_is_replaced_as_a_whole() -> None:
    made = settings({"metadata": {"a": "x"}}, records={"fields": {"metadata": {"b": "y"}}})
    assert made.records_of("vectors").fields.metadata == {"b": "y"}


def test_the_services_own_shape_needs_no_settings() -> None:
    assert settings().records_of("vectors") == Records()


def test_an_attribute_needs_the_envelope_that_has_it() -> None:
    told = mistakes({"key": "$attribute.subject"}, index_by="field:$attribute.tenant", index=[], indexes={"a": "x"})
    assert "records.fields: $attribute.subject is an attribute of a CloudEvent, and needs records.envelope" in told
    assert 'routes[0].index_by = "field:$attribute.tenant": an attribute of a CloudEvent' in told
    made = settings(records={"envelope": "cloudevents", "fields": {"key": "$attribute.subject"}})
    assert made.records_of("vectors").envelope == "cloudevents"


ALONE: Final = {"vector": "$kafka.value"}


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ({"format": "json"}, 'so routes[0].records.format = "json" has to be "auto"'),
        ({"format": "msgpack"}, 'so routes[0].records.format = "msgpack" has to be "auto"'),
        ({"envelope": "debezium"}, 'so routes[0].records.envelope = "debezium" has to be "none"'),
        ({"many": "split"}, 'so routes[0].records.many = "split" has to be "reject"'),
        ({"fields": {**ALONE, "key": "id"}}, 'routes[0].records.fields.key = "id": id is not around the value'),
        ({"fields": {**ALONE, "metadata": ["x"]}}, "routes[0].records.fields.metadata = "),
        ({"fields": {**ALONE, "delete": "op"}}, 'routes[0].records.fields.delete = "op"'),
    ],
)
def test_a_value_that_is_a_vector_alone_is_not_parsed(records: Any, words: str) -> None:
    told = mistakes(records={"fields": ALONE, **records})
    assert words in told
    assert "records.fields." in told
    assert "value" in told


def test_a_vector_alone_may_be_beside_topics_that_a_registry_reads() -> None:
    made = load(None, environment(ALONE) | {"OSS_VECTORS_REGISTRY__URL": "https://registry.example"})
    assert made.settings.records_of("vectors").fields.vector == "$kafka.value"


def test_a_vector_alone_is_not_routed_by_a_field() -> None:
    indexes = {"index": [], "indexes": {"a": "x"}}
    told = mistakes(ALONE, index_by="field:tenant", **indexes)
    assert 'routes[0].index_by = "field:tenant": a field of the value, which is not parsed' in told
    for index_by in ("header:tenant", "field:$header.tenant", "field:$kafka.key"):
        assert settings(ALONE, index_by=index_by, **indexes).records.fields.vector == "$kafka.value"


def test_a_vector_alone_needs_no_other_setting() -> None:
    made = settings(records={"fields": ALONE, "vector_bytes": "float64-be", "tombstones": "delete"})
    assert made.records_of("vectors").fields.vector == "$kafka.value"
    told = mistakes(index_by="field:$kafka.value", index=[], indexes={"a": "x"})
    assert "$kafka.value is for the vector alone" in told
