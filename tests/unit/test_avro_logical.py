"""Kafka Connect's and Debezium's logical types in Avro: a row has the same metadata as in Connect's JSON."""

import base64
import json
from typing import Any, Final

import pytest

from tests.support.registry import FakeSource, avro, by_id, prefix
from tests.unit.test_avro import plain, record, refused, written
from worker.records.decode import Decoder, Put
from worker.records.formats.connect_schema import text_of_time
from worker.records.formats.shape import shape_of
from worker.records.target import Target
from worker.registry.book import AskingBook
from worker.registry.client import SchemaText

VARIABLE: Final[dict[str, Any]] = {
    "type": "record",
    "name": "VariableScaleDecimal",
    "namespace": "io.debezium.data",
    "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
    "connect.version": 1,
    "connect.name": "io.debezium.data.VariableScaleDecimal",
}


def time_of(name: str, base: str = "long") -> dict[str, object]:
    """Return the schema of a time as the converters of Connect write it."""
    return {"type": base, "connect.version": 1, "connect.name": name}


def decoder(**more: Any) -> Decoder:
    """Return a decoder of Debezium's rows."""
    shape = shape_of("id", "embedding", ["day", "at", "price"], "")
    target = Target("docs", 2, "cosine")
    return Decoder(
        target,
        max_fragment_bytes=10**6,
        key_values="stringify",
        metadata_values="stringify",
        envelope="debezium",
        shape=shape,
        **more,
    )


def test_a_row_of_debezium_is_the_same_vector_in_avro_and_in_connects_json() -> None:
    names = {"day": "io.debezium.time.Date", "at": "io.debezium.time.MicroTimestamp"}
    row = record(
        ("id", VARIABLE),
        ("embedding", {"type": "array", "items": "double"}),
        ("day", time_of(names["day"], "int")),
        ("at", ["null", time_of(names["at"])]),
        ("price", ["null", "io.debezium.data.VariableScaleDecimal"]),
    )
    change = record(("after", ["null", row]), ("op", "string")) | {"name": "Envelope"}
    after = {
        "id": {"scale": 0, "value": b"\x11"},
        "embedding": [0.5, 1.0],
        "day": 20786,
        "at": 1790000000123456,
        "price": {"scale": 2, "value": b"\x04\xd2"},
    }
    source = FakeSource()
    source.schemas = {by_id(7): SchemaText("AVRO", json.dumps(change))}
    in_avro = decoder(schemas=AskingBook(source)).decode(
        None, prefix(7) + avro(change, {"after": after, "op": "c"}), ()
    )

    def as_json(value: Any) -> Any:
        return value | {"value": base64.b64encode(value["value"]).decode()} if isinstance(value, dict) else value

    fields = [{"type": "int64", "name": name, "field": field} for field, name in names.items()]
    fields += [{"type": "struct", "name": VARIABLE["connect.name"], "field": field} for field in ("id", "price")]
    schema = {"type": "struct", "fields": [{"type": "struct", "field": "after", "fields": fields}]}
    payload = {"after": {name: as_json(value) for name, value in after.items()}, "op": "c"}
    in_json = decoder().decode(None, json.dumps({"schema": schema, "payload": payload}).encode(), ())

    assert isinstance(in_avro, Put)
    assert isinstance(in_json, Put)
    assert (in_avro.key, json.loads(in_avro.fragment)) == (in_json.key, json.loads(in_json.fragment))
    assert in_avro.key == "17"
    assert json.loads(in_avro.fragment)["metadata"] == {
        "day": "2026-11-29",
        "at": "2026-09-21T14:13:20.123456Z",
        "price": "12.34",
    }


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (time_of("io.debezium.time.Date", "int"), 20786, "2026-11-29"),
        (time_of("io.debezium.time.Time", "int"), 3_723_004, "01:02:03.004"),
        (time_of("io.debezium.time.MicroTime"), 3_723_000_005, "01:02:03.000005"),
        (time_of("io.debezium.time.NanoTime"), 3_723_000_000_006, "01:02:03.000000006"),
        (time_of("io.debezium.time.Timestamp"), 1_790_000_000_000, "2026-09-21T14:13:20Z"),
        (time_of("io.debezium.time.NanoTimestamp"), 1, "1970-01-01T00:00:00.000000001Z"),
        (time_of("org.apache.kafka.connect.data.Timestamp"), 5, "1970-01-01T00:00:00.005Z"),
        ({**time_of("org.apache.kafka.connect.data.Date", "int"), "logicalType": "date"}, 1, "1970-01-02"),
        (
            {**time_of("io.debezium.time.MicroTimestamp"), "logicalType": "timestamp-millis"},
            5,
            "1970-01-01T00:00:00.005Z",
        ),
        pytest.param(time_of("io.debezium.time.MicroTimestamp"), 2**63 - 1, 2**63 - 1, id="infinity"),
        pytest.param(time_of("io.debezium.time.Date", "int"), 2**31 - 1, 2**31 - 1, id="infinite date"),
        pytest.param(time_of("io.debezium.time.Time", "int"), -1, -1, id="no time of a day"),
        pytest.param(time_of("io.debezium.time.Year", "int"), 2026, 2026, id="a number"),
        pytest.param(time_of("io.debezium.time.Date", "string"), "as it is", "as it is", id="of another type"),
        pytest.param({"type": "int", "connect.name": 5}, 5, 5, id="no name"),
    ],
    ids=lambda each: each.get("connect.name") if isinstance(each, dict) else "",
)
def test_a_time_with_connects_name_becomes_text_and_what_is_none_stays(kind: Any, value: Any, text: Any) -> None:
    assert written(record(("f", ["null", kind])), {"f": value}) == {"f": text}
    name = kind["connect.name"]
    if "logicalType" not in kind and isinstance(text, str) and isinstance(value, int):
        assert text_of_time(name)(value) == text  # type: ignore[misc]  # it is one of those in the table


@pytest.mark.parametrize(
    ("scale", "value", "text"),
    [
        (2, b"\x04\xd2", "12.34"),
        (0, b"\xff", "-1"),
        (-2, b"\x05", "500"),
        (3, b"\x01", "0.001"),
        (2, b"", {"scale": 2, "value": b""}),
        (1001, b"\x01", {"scale": 1001, "value": b"\x01"}),
        (2, b"\x01" * 513, {"scale": 2, "value": b"\x01" * 513}),
    ],
)
def test_a_decimal_with_a_scale_of_its_own_becomes_text_and_what_is_none_stays(
    scale: int, value: bytes, text: Any
) -> None:
    schema = record(("a", VARIABLE), ("b", ["null", "io.debezium.data.VariableScaleDecimal"]))
    one = {"scale": scale, "value": value}
    assert written(schema, {"a": one, "b": one}) == {"a": text, "b": text}


def oracle_number(places: int, **more: Any) -> dict[str, Any]:
    """Return the schema of a NUMBER as Kafka Connect's JDBC source writes it: the precision is 64 whatever the scale is."""
    name = "org.apache.kafka.connect.data.Decimal"
    properties = {"connect.version": 1, "connect.parameters": {"scale": str(places)}, "connect.name": name}
    return {"type": "bytes", "scale": places, "precision": 64, **properties, "logicalType": "decimal", **more}


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (oracle_number(127), b"\x11", f"0.{'0' * 125}17"),
        (oracle_number(-2), b"\x05", "500"),
        (oracle_number(2), b"\x04\xd2", "12.34"),
        pytest.param(oracle_number(127), b"", b"", id="no number"),
        pytest.param(oracle_number(127, scale="127"), b"\x11", b"\x11", id="no scale"),
        pytest.param(oracle_number(1001), b"\x11", b"\x11", id="too many places"),
        pytest.param(oracle_number(127, type="string"), "17", "17", id="of another type"),
    ],
    ids=lambda each: str(each["scale"]) if isinstance(each, dict) else "",
)
def test_a_number_of_oracle_becomes_text_as_in_connects_json(kind: Any, value: Any, text: Any) -> None:
    body = value.encode() if isinstance(value, str) else value
    assert plain(record(("f", kind)), bytes([2 * len(body)]) + body) == {"f": text}


def test_a_record_of_that_name_without_connects_stays_a_map() -> None:
    plain = {name: value for name, value in VARIABLE.items() if name != "connect.name"}
    assert written(record(("a", plain)), {"a": {"scale": 2, "value": b"\x01"}}) == {"a": {"scale": 2, "value": b"\x01"}}


def test_the_places_of_many_decimals_are_bounded() -> None:
    schema = {"type": "array", "items": VARIABLE}
    assert "longer" in refused(schema, avro(schema, [{"scale": 1000, "value": b"\x01"}] * 9000))
