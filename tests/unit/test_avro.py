"""Avro becomes MessagePack: as fastavro reads it, whatever is written, and bounded, whatever a body claims."""

import datetime as dt
import json
import math
import time
import uuid
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.registry import avro, by_id
from worker.errors import Reason, RecordError
from worker.records.formats.framing import Framed
from worker.registry.avro import MOST_VALUES, AvroReader
from worker.registry.bounds import MOST_DEPTH
from worker.registry.client import SchemaText, UnusableSchema

MEGABYTE: Final = 1_000_000
SECONDS: Final = 10.0  # of CPU; the promise is one, and this machine may be slow and busy


def reader(schema: Any, *references: tuple[str, Any]) -> AvroReader:
    """Return a reader of this schema, and of those that it refers to."""
    others = tuple((name, json.dumps(text)) for name, text in references)
    return AvroReader(SchemaText("AVRO", json.dumps(schema), others))


def plain(schema: Any, body: bytes) -> Any:
    return msgspec.msgpack.decode(reader(schema).plain(Framed(by_id(1), body)))


def written(schema: Any, value: Any) -> Any:
    """Return what is read of a value that fastavro writes."""
    return plain(schema, avro(schema, value))


def refused(schema: Any, body: bytes) -> str:
    with pytest.raises(RecordError) as raised:
        reader(schema).plain(Framed(by_id(1), body))
    assert raised.value.reason is Reason.MALFORMED
    return raised.value.message


def number(value: int) -> bytes:
    """Return a long in Avro."""
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value & ~0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def record(*fields: tuple[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields]}


def deep(levels: int) -> Any:
    """Return a schema of arrays in arrays."""
    schema: Any = "long"
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


LONG: Final = st.integers(-(2**63), 2**63 - 1)
VALUES: Final = [
    ("boolean", st.booleans()),
    ("int", st.integers(-(2**31), 2**31 - 1)),
    ("long", LONG),
    ("float", st.floats(width=32, allow_nan=False)),
    ("double", st.floats(allow_nan=False)),
    ("string", st.text()),
    ("bytes", st.binary()),
    ({"type": "array", "items": "long"}, st.lists(LONG)),
    ({"type": "array", "items": "float"}, st.lists(st.floats(width=32, allow_nan=False))),
    ({"type": "array", "items": {"type": "double"}}, st.lists(st.floats(allow_nan=False))),
    ({"type": "array", "items": ["null", "string"]}, st.lists(st.none() | st.text())),
    ({"type": "map", "values": ["null", "long"]}, st.dictionaries(st.text(), st.none() | LONG)),
    ({"type": "map", "values": {"type": "array", "items": "string"}}, st.dictionaries(st.text(), st.lists(st.text()))),
    (["null", "boolean", "string", "bytes"], st.none() | st.booleans() | st.text() | st.binary()),
    ({"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}, st.sampled_from("ABC")),
    ({"type": "fixed", "name": "F", "size": 4}, st.binary(min_size=4, max_size=4)),
]


@given(st.data())
def test_what_fastavro_writes_is_read_as_it_was(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(VALUES))), unique=True, min_size=1))
    schema = record(*((f"f{place}", VALUES[place][0]) for place in chosen))
    value = {f"f{place}": data.draw(VALUES[place][1]) for place in chosen}
    assert written(schema, value) == value


@given(st.data())
def test_no_bytes_do_more_than_be_refused(data: st.DataObject) -> None:
    schema = record(*((f"f{place}", kind) for place, (kind, _) in enumerate(VALUES)))
    body = data.draw(st.binary() | st.builds(lambda cut: bytes(100)[:cut], st.integers(0, 100)))
    try:
        plain(schema, body)
    except RecordError as error:
        assert error.reason is Reason.MALFORMED  # noqa: PT017 - it may also be read


def test_not_a_number_is_left_for_the_checks() -> None:
    assert math.isnan(written({"type": "array", "items": "float"}, [math.nan])[0])


def test_an_array_in_several_blocks_is_one_list() -> None:
    one, two = b"\x00\x00\x80\x3f", b"\x00\x00\x00\x40"
    body = number(1) + one + number(-2) + number(8) + two + two + number(0)
    assert plain({"type": "array", "items": "float"}, body) == [1.0, 2.0, 2.0]
    body = number(2) + number(5) + number(6) + number(-1) + number(1) + number(7) + number(0)
    assert plain({"type": "array", "items": "long"}, body) == [5, 6, 7]


MOMENT: Final = dt.datetime(2026, 1, 31, 12, 30, 0, 5000, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, Decimal("-12.30"), "-12.30"),
        (
            {"type": "fixed", "name": "D", "size": 8, "logicalType": "decimal", "precision": 9, "scale": 1},
            Decimal("4.5"),
            "4.5",
        ),
        ({"type": "string", "logicalType": "uuid"}, uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (
            {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"},
            uuid.UUID(int=1).bytes,
            str(uuid.UUID(int=1)),
        ),
        ({"type": "int", "logicalType": "date"}, dt.date(2026, 1, 31), "2026-01-31"),
        ({"type": "int", "logicalType": "time-millis"}, dt.time(12, 30), "12:30:00.000"),
        ({"type": "long", "logicalType": "time-micros"}, dt.time(12, 30), "12:30:00.000000"),
        ({"type": "long", "logicalType": "timestamp-millis"}, MOMENT, "2026-01-31T12:30:00.005Z"),
        ({"type": "long", "logicalType": "timestamp-micros"}, MOMENT, "2026-01-31T12:30:00.005000Z"),
        ({"type": "long", "logicalType": "timestamp-nanos"}, 1, "1970-01-01T00:00:00.000000001Z"),
        ({"type": "long", "logicalType": "local-timestamp-millis"}, 1, "1970-01-01T00:00:00.001"),
        ({"type": "fixed", "name": "P", "size": 12, "logicalType": "duration"}, bytes(12), "P0M0DT0.000S"),
        ({"type": "long", "logicalType": "of-nobody"}, 3, 3),
        ({"type": "string", "logicalType": "timestamp-millis"}, "as it is", "as it is"),
    ],
    ids=lambda each: each["logicalType"] if isinstance(each, dict) else "",
)
def test_a_logical_type_becomes_text_and_one_that_is_not_known_is_ignored(kind: Any, value: Any, text: Any) -> None:
    assert written(record(("f", ["null", kind])), {"f": value}) == {"f": text}


INFINITE: Final = 9_223_372_036_825_200_000
"""What PostgreSQL's driver for Java says of the time `infinity`, in milliseconds."""


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        ({"type": "int", "logicalType": "date"}, number(2**31 - 1), 2**31 - 1),
        ({"type": "int", "logicalType": "time-millis"}, number(86_400_000), 86_400_000),
        ({"type": "long", "logicalType": "time-micros"}, number(-1), -1),
        ({"type": "long", "logicalType": "timestamp-millis"}, number(INFINITE), INFINITE),
        ({"type": "long", "logicalType": "local-timestamp-micros"}, number(2**63 - 1), 2**63 - 1),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 4},
            number(129) + b"\x01" * 129,
            b"\x01" * 129,
        ),
    ],
    ids=lambda each: each["logicalType"] if isinstance(each, dict) else "",
)
def test_a_value_out_of_the_range_of_its_logical_type_stays_as_it_is(kind: Any, body: bytes, value: Any) -> None:
    assert plain(record(("f", kind), ("last", "int")), body + number(5)) == {"f": value, "last": 5}


def decimal(**more: Any) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", **more}


def fixed(**more: Any) -> dict[str, Any]:
    return {"type": "fixed", "name": "D", "size": 4, "logicalType": "decimal", **more}


@pytest.mark.parametrize(
    "kind",
    [
        decimal(precision=64, scale=127),
        decimal(precision=5, scale=-2),
        decimal(precision=5, scale="2"),
        decimal(precision=5, scale=True),
        decimal(precision=0, scale=0),
        decimal(precision=-5),
        decimal(precision="5"),
        fixed(precision=10),
        fixed(precision=9, scale=10),
    ],
    ids=str,
)
def test_a_decimal_that_is_not_valid_is_what_is_below_it(kind: Any) -> None:
    body = b"\0\0\4\xd2"
    assert plain(record(("f", ["null", kind])), number(1) + (b"" if "size" in kind else number(4)) + body) == {
        "f": body
    }


@pytest.mark.parametrize("kind", [decimal(scale=2), fixed(scale=2, precision=9)], ids=str)
def test_a_decimal_needs_no_precision_and_may_fill_its_bytes(kind: Any) -> None:
    body = b"\0\0\4\xd2"
    assert plain(record(("f", kind)), (b"" if "size" in kind else number(4)) + body) == {"f": "12.34"}


@pytest.mark.parametrize(
    ("kind", "default", "body", "value"),
    [
        ("string", None, number(1) + b"a", "a"),
        ("int", "0", number(7), 7),
        (["null", "int"], "null", number(1) + number(7), 7),
        ({"type": "array", "items": "int"}, None, number(0), []),
        ("double", 0, bytes(8), 0.0),
        ({"type": "enum", "name": "E", "symbols": ["A"], "default": 5}, 5, number(0), "A"),
        ("long", {"name": "n" * 2_000, "logicalType": "decimal"}, number(7), 7),
        ("long", deep(400), number(7), 7),
    ],
    ids=lambda each: str(each)[:40],
)
def test_a_default_is_not_looked_at(kind: Any, default: Any, body: bytes, value: Any) -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "f", "type": kind, "default": default}]}
    assert plain(schema, body) == {"f": value}


def test_a_field_may_be_named_as_what_is_not_looked_at() -> None:
    assert written(
        record(("default", "long"), ("logicalType", "string")), {"default": 1, "logicalType": "decimal"}
    ) == {
        "default": 1,
        "logicalType": "decimal",
    }


def test_a_type_of_another_schema_is_found_by_its_name() -> None:
    inner = {"type": "record", "name": "Inner", "namespace": "a.b", "fields": [{"name": "x", "type": "long"}]}
    outer = {
        "type": "record",
        "name": "Outer",
        "namespace": "a.b",
        "fields": [{"name": "one", "type": "Inner"}, {"name": "more", "type": {"type": "array", "items": "a.b.Inner"}}],
    }
    found = reader(outer, ("a.b.Inner", inner)).plain(Framed(by_id(1), number(5) + number(1) + number(6) + number(0)))
    assert msgspec.msgpack.decode(found) == {"one": {"x": 5}, "more": [{"x": 6}]}


LIST: Final = record(("value", "long"), ("next", ["null", "R"]))


def test_a_type_that_contains_itself_is_read() -> None:
    value = {"value": 1, "next": {"value": 2, "next": {"value": 3, "next": None}}}
    assert written(LIST, value) == value


@pytest.mark.parametrize(
    ("schema", "body", "said"),
    [
        ("string", number(5) + b"abcd", "5 bytes are announced, 4 are left"),
        ("string", number(-5) + b"abcd", "-5 bytes are announced"),
        ("string", number(2) + b"\xff\xfe", "not UTF-8"),
        ("long", b"", "ends before its schema does"),
        ("long", b"\xff" * 11, "more than 64 bits"),
        ("long", b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        ("long", number(1) + b"x", "1 bytes follow"),
        (["null", "long"], number(2), "no branch 2"),
        (["null", "long"], number(-1), "no branch -1"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, number(1), "no symbol 1"),
    ],
)
def test_a_body_that_is_not_as_its_schema_says_is_refused_in_words(schema: Any, body: bytes, said: str) -> None:
    assert said in refused(schema, body)


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        pytest.param(record(("n", ["null", "R"])), b"\x02" * MEGABYTE, id="records in records, a million deep"),
        pytest.param(
            record(("n", {"type": "array", "items": "R"})), b"\x02" * MEGABYTE, id="records in arrays, a million deep"
        ),
        pytest.param({"type": "array", "items": "null"}, number(2**60) + b"\0", id="2^60 nulls"),
        pytest.param(
            {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}, number(2**62), id="2^62 times nothing"
        ),
        pytest.param({"type": "array", "items": "double"}, number(2**62), id="2^62 doubles"),
        pytest.param({"type": "array", "items": "float"}, b"\x02\0\0\0\0" * 200_000, id="many blocks"),
        pytest.param({"type": "array", "items": "boolean"}, number(MEGABYTE) + b"\1" * MEGABYTE, id="a million booleans"),
        pytest.param({"type": "array", "items": {"type": "array", "items": "int"}}, number(MEGABYTE) + bytes(MEGABYTE), id="a million lists"),
        pytest.param({"type": "map", "values": "null"}, number(500_000) + b"\x02a" * 500_000, id="half a million names"),
        pytest.param("bytes", number(2**40), id="a terabyte of bytes"),
    ],
)  # fmt: skip
def test_no_megabyte_costs_more_than_its_bound_whatever_it_claims(schema: Any, body: bytes) -> None:
    made = reader(schema)
    begun = time.process_time()
    with pytest.raises(RecordError):
        made.plain(Framed(by_id(1), body))
    assert time.process_time() - begun < SECONDS


def test_the_largest_body_that_is_read_costs_no_more() -> None:
    count = MOST_VALUES - 1
    made = reader({"type": "array", "items": "long"})
    begun = time.process_time()
    made.plain(Framed(by_id(1), number(count) + (b"\xff" * 4 + b"\x01") * count + number(0)))
    assert time.process_time() - begun < SECONDS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "5",
        "{}",
        '"nobody"',
        '{"type": "record", "name": "R", "fields": [{"name": "f", "type": "missing"}]}',
        json.dumps(deep(MOST_DEPTH + 1)),
        "[" * 100_000,
        '{"type":' * 3000 + '"long"' + "}" * 3000,
    ],
)
def test_what_is_no_schema_is_said_to_be_none(text: str) -> None:
    with pytest.raises(UnusableSchema):
        AvroReader(SchemaText("AVRO", text))
