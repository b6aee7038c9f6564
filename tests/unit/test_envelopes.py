"""Records in the envelopes of Kafka Connect and Debezium: what is read, what is deleted, what is ignored, what is refused."""

import base64
import json
import re
import struct
from typing import Any, Final, cast

import msgspec
import pytest
from hypothesis import given

from tests.support.app import settings
from tests.unit import hostile_records
from tests.unit.test_mapped import members, numbers, outcome, texts
from tests.unit.test_record_cost import SECONDS, cost_of
from worker.app.decoders import decoder_of, options_of
from worker.errors import Reason, RecordError
from worker.records.choices import Envelope
from worker.records.decode import IGNORE, Decoder, Delete, Put
from worker.records.formats import connect_schema
from worker.records.record_key import key_reader
from worker.records.target import Target
from worker.settings import tables

VECTOR: Final = [1.0, 2.0, 3.0]
ENCODERS: Final = (msgspec.json.encode, msgspec.msgpack.encode)
ROW: Final = {"id": 7, "embedding": VECTOR, "title": "x"}
FIELDS: Final = {"key": "id", "vector": "embedding", "metadata": ["title"]}


def decoder(envelope: Envelope, **records: Any) -> Decoder:
    route = tables.Route(topic="vectors", index="docs", records={"envelope": envelope, **records})
    return decoder_of(Target("docs", 3, "cosine"), settings(routes=(route,)), "vectors")


def of_rows(**records: Any) -> Decoder:
    return decoder("debezium", **{"fields": FIELDS, "key_values": "stringify", **records})


def read(made: Decoder, value: Any, key: bytes | None = None, headers: Any = ()) -> Any:
    """Return what both encodings say, which must be the same."""
    found = [made.decode(key, encode(value), headers) for encode in ENCODERS]
    assert found[0] == found[1]
    return found[0]


def refused(made: Decoder, value: Any, key: bytes | None = None) -> RecordError:
    with pytest.raises(RecordError) as raised:
        read(made, value, key)
    return raised.value


def metadata_of(found: Any) -> Any:
    assert isinstance(found, Put)
    return json.loads(found.fragment).get("metadata")


# -- Kafka Connect

OWN: Final = {"key": "a", "data": {"float32": VECTOR}}


@pytest.mark.parametrize("schema", [None, {}, {"type": "struct", "fields": []}])
def test_the_payload_of_a_connect_record_is_the_record(schema: Any) -> None:
    assert read(decoder("connect"), {"schema": schema, "payload": OWN}) == read(decoder("none"), OWN)


@given(texts, numbers, members)
def test_a_record_in_a_payload_is_as_good_or_bad_as_alone(key: str, vector: list[float], metadata: Any) -> None:
    own = {"key": key, "data": {"float32": vector}, "metadata": metadata}
    for encode in ENCODERS:
        found = outcome(decoder("connect"), encode({"schema": {}, "payload": own}), b"k")
        assert found == outcome(decoder("none"), encode(own), b"k")


@pytest.mark.parametrize("value", [{}, OWN, {"schema": {}}, {"payload": 5}, {"payload": []}, {"payload": "x"}])
def test_what_has_no_payload_that_is_a_map_is_malformed(value: Any) -> None:
    error = refused(decoder("connect"), value, b"k")
    assert error.reason is Reason.MALFORMED
    assert 'records.envelope = "connect"' in error.message


def test_a_null_payload_is_a_tombstone() -> None:
    value = {"schema": None, "payload": None}
    assert refused(decoder("connect"), value, b"k").reason is Reason.TOMBSTONE
    assert read(decoder("connect", tombstones="ignore"), value, b"k") is IGNORE
    assert read(
        decoder("connect", tombstones="delete"), value, b'{"schema":{"type":"string"},"payload":"k"}'
    ) == Delete("k")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"plain", "plain"),
        (b"{not json", "{not json"),
        (b'{"schema":{"type":"string"},"payload":"k"}', "k"),
        (b'{"schema":null,"payload":{"id":"k"}}', "k"),
        (b'{"id":"k"}', "k"),
        (b'{"a":"x","key":"k"}', "k"),
    ],
)
def test_the_kafka_key_is_read_out_of_its_envelope(key: bytes, expected: str) -> None:
    value = {"schema": {}, "payload": {"data": {"float32": VECTOR}}}
    for made in (decoder("connect"), decoder("connect", fields={"key": "$kafka.key"})):
        found = read(made, value, key)
        assert isinstance(found, Put)
        assert (found.key, found.key_mismatch) == (expected, False)
    assert decoder("connect", tombstones="delete").decode(key, None, ()) == Delete(expected)


@pytest.mark.parametrize(
    "key",
    [
        b"\0\0\0\0\7k",
        b'{"schema":{},"payload":null}',
        b'{"a":"x","b":"y"}',
        b"{}",
        b'{"id":5}',
        b'{"id":["x"]}',
        b'{"id":1.5}',
        b'{"id":"x\\ud83d"}',
        b'{"schema":{},"payload":"x\\ud83d"}',
        b'{"id\\ud83d":"x"}',
    ],
)
def test_a_kafka_key_that_has_no_text_is_a_dead_letter(key: bytes) -> None:
    assert refused(decoder("connect"), {"payload": {"data": {"float32": VECTOR}}}, key).reason is Reason.KEY


@pytest.mark.parametrize("record_key", ["", "id"])
def test_half_of_a_surrogate_pair_does_not_make_another_text_of_a_kafka_key(record_key: str) -> None:
    key = b'{"schema":"\\ud83d","payload":{"id":"doc-1"%s}}' % (b',"note":"\\ud83d"' if record_key else b"")
    made = decoder("debezium", fields={"key": record_key})
    assert made.decode(key, b'{"op":"d","before":null}', ()) == Delete("doc-1")


def test_an_integer_in_a_kafka_key_is_its_digits_under_stringify() -> None:
    made = decoder("connect", key_values="stringify")
    assert (
        read(made, {"payload": {"data": {"float32": VECTOR}}}, b'{"schema":{},"payload":9007199254740993}').key
        == "9007199254740993"
    )


# -- what a schema changes

DECIMAL: Final = {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "2"}}
VARIABLE: Final = {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal", "fields": []}


def b64(number: int, size: int = 4) -> str:
    return base64.b64encode(number.to_bytes(size, "big", signed=True)).decode()


def of_type(name: str) -> dict[str, str]:
    return {"type": "int64", "name": name}


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        (DECIMAL, b64(1234), "12.34"),
        (DECIMAL, b64(-5), "-0.05"),
        (DECIMAL, b64(1200), "12.00"),
        (DECIMAL | {"parameters": {"scale": "0"}}, b64(17), "17"),
        (DECIMAL | {"parameters": {"scale": "-2"}}, b64(17), "1700"),
        (DECIMAL | {"parameters": {"scale": "9"}}, b64(10**30 + 1, 16), "1000000000000000000000.000000001"),
        (VARIABLE, {"scale": 1, "value": b64(15)}, "1.5"),
        (of_type("org.apache.kafka.connect.data.Date"), 20786, "2026-11-29"),
        (of_type("org.apache.kafka.connect.data.Timestamp"), -62_135_596_800_000, "0001-01-01T00:00:00Z"),
        (of_type("org.apache.kafka.connect.data.Time"), 3_723_004, "01:02:03.004"),
        (of_type("org.apache.kafka.connect.data.Timestamp"), 1_795_953_723_004, "2026-11-29T12:02:03.004Z"),
        (of_type("io.debezium.time.Date"), -1, "1969-12-31"),
        (of_type("io.debezium.time.MicroTime"), 3_723_000_004, "01:02:03.000004"),
        (of_type("io.debezium.time.NanoTime"), 3_723_000_000_004, "01:02:03.000000004"),
        (of_type("io.debezium.time.Timestamp"), -1, "1969-12-31T23:59:59.999Z"),
        (of_type("io.debezium.time.MicroTimestamp"), 1_795_953_723_000_000, "2026-11-29T12:02:03Z"),
        (of_type("io.debezium.time.NanoTimestamp"), 1_795_953_723_000_000_001, "2026-11-29T12:02:03.000000001Z"),
        ({"type": "int64"}, 20786, "20786"),
        (of_type("my.own.Type"), 20786, "20786"),
        (of_type("org.apache.kafka.connect.data.Date"), 10**12, "1000000000000"),
        (of_type("org.apache.kafka.connect.data.Date"), "x", "x"),
        (DECIMAL, "no base64!", "no base64!"),
    ],
)
def test_decimals_and_dates_become_text_under_stringify(schema: Any, value: Any, expected: str) -> None:
    inner = {"type": "struct", "fields": [{**schema, "field": "when"}, {"type": "string", "field": "title"}]}
    nested = {"type": "struct", "fields": [{**inner, "field": "m"}, {**schema, "field": "when"}]}
    payload = {"key": "a", "data": {"float32": VECTOR}, "m": {"when": value, "title": "x"}, "when": value}
    body = msgspec.json.encode({"schema": nested, "payload": payload})
    for metadata, wanted in (
        ("m", {"when": expected, "title": "x"}),
        ({"w": "when", "v": "m.when"}, {"w": expected, "v": expected}),
    ):
        made = decoder("connect", metadata_values="stringify", fields={"metadata": metadata})
        for _ in range(2):  # the schema is kept
            assert metadata_of(made.decode(None, body, ())) == wanted


def test_a_decimal_is_a_key_by_its_text_in_the_value_and_in_the_kafka_key() -> None:
    schema = {"type": "struct", "fields": [{**DECIMAL, "parameters": {"scale": "0"}, "field": "id"}]}
    made = of_rows(fields={"key": "id", "vector": "embedding", "metadata": ""})
    of_change = {"type": "struct", "fields": [{**schema, "field": "before"}, {**schema, "field": "after"}]}
    kafka_key = msgspec.json.encode({"schema": schema, "payload": {"id": b64(300)}})
    change = {"before": None, "after": {"id": b64(300), "embedding": VECTOR}, "op": "c"}
    found = made.decode(kafka_key, msgspec.json.encode({"schema": of_change, "payload": change}), ())
    assert isinstance(found, Put)
    assert (found.key, found.key_mismatch) == ("300", False)
    gone = {"before": None, "after": None, "op": "d"}
    assert made.decode(kafka_key, msgspec.json.encode({"schema": of_change, "payload": gone}), ()) == Delete("300")


@pytest.mark.parametrize("name", ["id", "key"])
def test_the_base64_of_a_decimal_is_no_key_without_stringify(name: str) -> None:
    field = {**DECIMAL, "parameters": {"scale": "0"}, "field": name}
    schema = {"type": "struct", "fields": [field]}
    fields = {"key": "" if name == "key" else name, "vector": "embedding", "metadata": ""}
    row = msgspec.json.encode({"schema": schema, "payload": {name: b64(17), "embedding": VECTOR}})
    loose = decoder("connect", fields=fields, key_values="stringify").decode(None, row, ())
    assert isinstance(loose, Put)
    assert loose.key == "17"
    with pytest.raises(RecordError, match=f'{name} is a decimal.*records.key_values = "stringify"') as raised:
        decoder("connect", fields=fields).decode(None, row, ())
    assert raised.value.reason is Reason.MALFORMED


def test_the_base64_of_a_decimal_in_a_kafka_key_is_no_key_without_stringify() -> None:
    schema = {"type": "struct", "fields": [{**DECIMAL, "parameters": {"scale": "0"}, "field": "id"}]}
    kafka_key = msgspec.json.encode({"schema": schema, "payload": {"id": b64(17)}})
    row = msgspec.json.encode({"data": {"float32": VECTOR}})
    body = b'{"schema":null,"payload":%s}' % row
    loose = decoder("connect", key_values="stringify").decode(kafka_key, body, ())
    assert isinstance(loose, Put)
    assert loose.key == "17"
    with pytest.raises(RecordError, match='"stringify" accepts integers and decimals') as raised:
        decoder("connect").decode(kafka_key, body, ())
    assert raised.value.reason is Reason.KEY


def test_a_type_of_a_nested_field_changes_nothing_of_the_map_around_it() -> None:
    nested = {"type": "struct", "field": "a", "fields": [{**VARIABLE, "field": "b"}]}
    schema = {"type": "struct", "fields": [{"type": "struct", "field": "m", "fields": [nested]}]}
    payload = {**OWN, "m": {"a": {"scale": 1, "value": b64(15), "b": None}}}
    made = decoder("connect", metadata_values="stringify", fields={"metadata": "m"})
    with pytest.raises(RecordError, match="metadata 'a' holds a map") as raised:
        made.decode(None, msgspec.json.encode({"schema": schema, "payload": payload}), ())
    assert raised.value.reason is Reason.METADATA


def test_without_stringify_a_date_is_a_number_that_is_refused() -> None:
    schema = {"type": "struct", "fields": [{**of_type("org.apache.kafka.connect.data.Date"), "field": "when"}]}
    value = {"schema": schema, "payload": {**OWN, "when": 20786}}
    assert refused(decoder("connect", fields={"metadata": ["when"]}), value).reason is Reason.METADATA


@pytest.mark.parametrize(
    "schema",
    [
        5,
        "x",
        [],
        {"fields": 5},
        {"fields": [5]},
        {"name": 5},
        {"fields": [{"name": "org.apache.kafka.connect.data.Date"}]},
    ],
)
def test_what_is_no_schema_changes_nothing(schema: Any) -> None:
    value = {"schema": {"x": "org.apache.kafka.connect.data.", "fields": [schema]}, "payload": OWN}
    assert read(decoder("connect", metadata_values="stringify"), value) == read(decoder("none"), OWN)


def test_only_so_many_schemas_are_kept_and_none_that_is_large() -> None:
    schemas = connect_schema.Schemas()
    for number in range(200):
        schemas.of(b'{"field":"%d"}' % number)
    schemas.of(b'{"field":"%s"}' % (b"x" * 300_000))
    assert 0 < len(schemas._known) <= 32
    assert max(map(len, schemas._known)) < 300_000


# -- Debezium


def change(op: str, before: Any = None, after: Any = None) -> dict[str, Any]:
    return {"before": before, "after": after, "source": {"table": "docs"}, "op": op, "ts_ms": 1790000000000}


def in_payload(value: Any) -> dict[str, Any]:
    return {"schema": {"type": "struct", "fields": []}, "payload": value}


@pytest.mark.parametrize("wrap", [lambda value: value, in_payload], ids=["alone", "in a payload"])
@pytest.mark.parametrize("op", ["c", "r", "u"])
def test_a_row_that_was_written_is_put(op: str, wrap: Any) -> None:
    found = read(of_rows(), wrap(change(op, None if op == "c" else {**ROW, "title": "old"}, ROW)))
    assert isinstance(found, Put)
    assert (found.key, metadata_of(found)) == ("7", {"title": "x"})


@pytest.mark.parametrize("wrap", [lambda value: value, in_payload], ids=["alone", "in a payload"])
@pytest.mark.parametrize(
    ("before", "key"),
    [
        ({"id": 7, "embedding": None}, None),
        (ROW, b"other"),
        (None, b"7"),
        (None, b'{"id":7}'),
        (None, b'{"schema":{},"payload":{"id":7}}'),
        ({"title": "x"}, b'{"schema":{},"payload":{"id":7,"tenant":"t"}}'),
    ],
)
def test_a_row_that_was_deleted_deletes_its_key(before: Any, key: bytes | None, wrap: Any) -> None:
    assert read(of_rows(), wrap(change("d", before)), key) == Delete("7")


def test_a_deleted_row_of_a_key_of_several_parts_needs_all_of_them() -> None:
    made = of_rows(fields={"key": "{tenant}/{id}", "vector": "embedding", "metadata": ""})
    assert read(made, change("d", None), b'{"tenant":"t","id":7}') == Delete("t/7")
    assert read(made, change("d", {"tenant": "t", "id": 7}), None) == Delete("t/7")
    for key in (b"7", None, b'{"id":7}'):
        assert refused(made, change("d", None), key).reason is Reason.KEY
    of_header = of_rows(fields={"key": "{$header.tenant}/{id}", "vector": "embedding", "metadata": ""})
    assert read(of_header, change("d", None), b'{"id":7}', [("tenant", b"t")]) == Delete("t/7")


def test_a_key_of_a_wrong_type_in_a_deleted_row_is_not_replaced_by_the_kafka_key() -> None:
    error = refused(of_rows(), change("d", {"id": {"a": 1}}), b"7")
    assert error.reason is Reason.MALFORMED


@pytest.mark.parametrize(("path", "kafka_key"), [('_id."$oid"', b'Struct{id={"$oid": "6f"}}'), ("id", b"Struct{id=1}")])
def test_a_deleted_row_under_the_text_of_a_struct_is_a_dead_letter(path: str, kafka_key: bytes) -> None:
    made = of_rows(fields={"key": path, "vector": "embedding", "metadata": ""})
    for before in (None, {"title": "x"}):
        error = refused(made, change("d", before=before), kafka_key)
        assert (error.reason, "JsonConverter" in error.message) == (Reason.KEY, True)


def test_a_deleted_row_without_any_key_is_a_dead_letter() -> None:
    assert refused(of_rows(), change("d", None), None).reason is Reason.KEY


def test_the_tombstone_after_a_delete_is_ignored_whatever_is_set() -> None:
    for tombstones in ("dead-letter", "delete", "ignore"):
        assert of_rows(tombstones=tombstones).decode(b'{"id":7}', None, ()) is IGNORE


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"ts_ms": 1790000000000}, id="a heartbeat"),
        pytest.param(
            {"source": {}, "ts_ms": 1, "databaseName": "d", "ddl": "CREATE TABLE", "tableChanges": []},
            id="a schema change",
        ),
        pytest.param({"source": {}, "ddl": "DROP TABLE"}, id="a schema change of an older Debezium"),
        pytest.param(
            {"status": "BEGIN", "id": "571", "event_count": None, "data_collections": None}, id="a transaction's begin"
        ),
        pytest.param({"status": "BEGIN", "id": "571", "ts_ms": 1}, id="a transaction's begin in Protobuf"),
        pytest.param({"status": "END", "id": "571", "event_count": 2, "other": 1}, id="a transaction's end"),
        pytest.param({"ts_ms": 1, "ts_us": 1000, "ts_ns": 1000000}, id="a heartbeat with finer times"),
        pytest.param(
            {"op": "m", "ts_ms": 1, "message": {"prefix": "x", "content": "eA=="}}, id="a message of PostgreSQL"
        ),
        pytest.param(
            {"before": None, "after": None, "op": "m", "ts_ms": 1, "source": {"table": "t", "low_watermark": 5}},
            id="a low watermark of Spanner",
        ),
        pytest.param({"source": {"commit_ts": 5}, "ts_ms": 1, "transaction": None, "op": "m"}, id="a mark of TiCDC"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda value: value, in_payload], ids=["alone", "in a payload"])
def test_what_is_no_row_is_ignored(value: Any, wrap: Any) -> None:
    assert read(of_rows(), wrap(value), b'{"serverName":"x"}') is IGNORE


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (change("t"), "op is .t.: the table was truncated"),
        (change("x", None, ROW), "op is 'x'; known are"),
        (change("c"), 'after is a null, and op is "c"'),
        (change("u"), "the connector of MongoDB sends it with capture.mode"),
        (change("c", None, "text"), 'after is a string, and op is "c"'),
        (change("c", None, "{text"), "the value is no whole JSON map"),
        ({"op": "u", "before": ROW}, "there is no after"),
        ({"op": 5, "after": ROW}, "op is a number"),
        ({"after": ROW, "ts_ms": 1}, "there is no op"),
        (ROW, "there is no op"),
        ({}, "there is no op"),
        ({"op": "m", "message": "text", **ROW}, "op is 'm'"),
        (in_payload({"op": "c", "after": [1]}), "after is a list"),
        (
            change("u", None, {**ROW, "embedding": "__debezium_unavailable_value"}),
            "embedding is an unchanged TOAST column",
        ),
        (
            change("u", None, {**ROW, "embedding": ["__debezium_unavailable_value"]}),
            "embedding is an unchanged TOAST column",
        ),
        (
            change("u", None, {**ROW, "embedding": [*b"__debezium_unavailable_value"]}),
            "embedding is an unchanged TOAST column",
        ),
        (
            change("u", None, {**ROW, "title": "__debezium_unavailable_value"}),
            "metadata 'title' is an unchanged TOAST column",
        ),
    ],
)
def test_a_change_that_cannot_be_written_says_why(value: Any, words: str) -> None:
    error = refused(of_rows(), value, b"7")
    assert error.reason is Reason.MALFORMED
    assert re.search(words, error.message)


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"status": "active"}, id="a status"),
        pytest.param({"status": "END"}, id="a status as marks have it"),
        pytest.param({"status": "active", "event_count": 5}, id="a status and a count"),
        pytest.param({"ts_ms": 1790000000000}, id="the time of a heartbeat"),
        pytest.param({"ddl": "x"}, id="the ddl of a schema change"),
        pytest.param({"ddl": "x", "source": "crawler"}, id="a ddl and a source that is no map"),
        pytest.param({"payload": None}, id="a payload that is null"),
        pytest.param({"payload": {"ts_ms": 1790000000000}}, id="a payload like a heartbeat"),
        pytest.param({"tableChanges": [], "source": {}, "after": None}, id="names of a change and of a schema change"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda value: value, in_payload], ids=["alone", "in a payload"])
def test_a_row_that_was_unwrapped_is_never_ignored_for_its_columns(columns: Any, wrap: Any) -> None:
    error = refused(of_rows(), wrap({**ROW, **columns}), b"7")
    assert (error.reason, "there is no op" in error.message) == (Reason.MALFORMED, True)


@pytest.mark.parametrize(
    "columns",
    [
        {"op": "m", "source": {"a": 1}},
        {"op": "m", "message": {"a": 1}},
        {"databaseName": "d", "ddl": "x"},
        {"ddl": "x", "source": {"a": 1}},
    ],
    ids=str,
)
@pytest.mark.parametrize("wrap", [lambda value: value, in_payload], ids=["alone", "in a payload"])
def test_a_row_with_the_names_of_debeziums_messages_is_not_ignored(columns: Any, wrap: Any) -> None:
    assert refused(of_rows(), wrap({**ROW, **columns}), b"7").reason is Reason.MALFORMED
    assert read(of_rows(), wrap({"before": None, **columns} if "op" in columns else columns)) is IGNORE


def test_a_message_of_debezium_is_ignored_although_the_vector_has_a_name_of_its_own() -> None:
    made = of_rows(fields={"key": "id", "vector": "message", "metadata": ""})
    assert read(made, {"op": "m", "message": {"prefix": "p"}, "source": {}}) is IGNORE


def test_a_row_with_a_column_like_the_mark_of_a_delete_deletes_nothing() -> None:
    for columns in ({}, {"source": "crawler"}, {"after": None}):
        error = refused(of_rows(), {**ROW, "op": "d", **columns}, b"doc-1")
        assert (error.reason, "neither before nor source" in error.message) == (Reason.MALFORMED, True)
    for columns in ({}, {"after": None}):  # a row without the vector, which is a column of another name
        row = {"id": 7, "title": "t", "op": "d", **columns, "embedding": None}
        assert refused(of_rows(), row, b"7").reason is Reason.MALFORMED


@pytest.mark.parametrize("wrap", [lambda value: value, in_payload], ids=["alone", "in a payload"])
@pytest.mark.parametrize(
    "change",
    [
        {"before": None},
        {"source": {}},
        {"before": {"id": 7}},
        {"after": None},  # of CockroachDB
        {"after": None, "ts_ns": 1790000000000000000},
        {},
    ],
    ids=str,
)
def test_a_delete_is_known_by_what_any_change_has(change: Any, wrap: Any) -> None:
    assert read(of_rows(), wrap({"op": "d", **change}), b"7") == Delete("7")


def test_a_record_of_the_service_is_never_ignored_for_a_time_beside_it() -> None:
    error = refused(of_rows(), {**OWN, "ts_ms": 1790000000000}, b"7")
    assert (error.reason, "there is no op" in error.message) == (Reason.MALFORMED, True)


def test_a_null_payload_of_a_change_is_the_tombstone_after_a_delete() -> None:
    for value in ({"schema": {"type": "struct"}, "payload": None}, {"payload": None}):
        assert read(of_rows(tombstones="dead-letter"), value, b'{"id":7}') is IGNORE


def test_a_null_column_named_payload_makes_no_tombstone_of_a_row() -> None:
    error = refused(decoder("connect", tombstones="delete"), {**OWN, "payload": None}, b"a")
    assert (error.reason, "payload is a null" in error.message) == (Reason.MALFORMED, True)


OBJECT_ID: Final = {"$oid": "596e275826f08b2730779e1f"}


@pytest.mark.parametrize("wrap", [lambda value: value, in_payload], ids=["alone", "in Kafka Connect"])
@pytest.mark.parametrize(
    ("path", "own", "expected"),
    [('_id."$oid"', OBJECT_ID, OBJECT_ID["$oid"]), ("_id", "a", "a"), ("_id", 7, "7"), ("{_id}/x", 7, "7/x")],
)
def test_a_document_of_mongodb_is_read_and_deleted_by_its_id(path: str, own: Any, expected: str, wrap: Any) -> None:
    made = of_rows(fields={"key": path, "vector": "embedding", "metadata": ["title"]})
    key = json.dumps({"id": json.dumps(own)}).encode()
    found = read(made, wrap(change("c", None, json.dumps({**ROW, "_id": own}))), key)
    assert (found.key, found.key_mismatch, metadata_of(found)) == (expected, False, {"title": "x"})
    assert read(made, wrap(change("d")), key) == Delete(expected)
    assert read(made, wrap(change("d", json.dumps({"_id": own}))), None) == Delete(expected)


@pytest.mark.parametrize(
    ("vector_bytes", "form"), [("float32-be", ">3f"), ("float64-le", "<3d"), ("float16-le", "<3e")]
)
def test_bytes_in_a_document_of_mongodb_are_read_as_the_setting_says(vector_bytes: str, form: str) -> None:
    text = base64.b64encode(struct.pack(form, *VECTOR)).decode()
    text = f"{text[:4]}\n{text[4:]}"  # not as most producers write it
    found = read(of_rows(vector_bytes=vector_bytes), change("c", None, json.dumps({**ROW, "embedding": text})))
    assert json.loads(found.fragment)["data"]["float32"] == VECTOR


@pytest.mark.parametrize("key", [b'{"id":"text"}', b'{"id":5}', b'{"id":""}', b'{"id":"1","x":2}'])
def test_a_kafka_key_that_is_none_of_mongodb_is_read_as_it_is(key: bytes) -> None:
    made = of_rows(fields={"key": "_id", "vector": "embedding"})
    assert refused(made, change("d"), key).reason is Reason.KEY


@pytest.mark.parametrize(
    "vector", ["[1.0,2,3e0]", [1, 2, 3], "1,2,3", base64.b64encode(b"\0\0\x80?\0\0\0@\0\0@@").decode()]
)
def test_vectors_of_every_connector_are_read(vector: Any) -> None:
    found = read(of_rows(), change("c", None, {**ROW, "embedding": vector}))
    assert json.loads(found.fragment)["data"]["float32"] == VECTOR


# -- the key alone


@pytest.mark.parametrize(
    ("envelope", "value", "key", "expected"),
    [
        ("connect", {"schema": {}, "payload": {"id": "a"}}, b"k", "a"),
        ("connect", {"schema": {}, "payload": None}, b'{"payload":"k","schema":{}}', "k"),
        ("debezium", change("u", None, {"id": 5, "embedding": "bad"}), b"k", "5"),
        ("debezium", change("d", {"id": 5}), b"k", "5"),
        ("debezium", change("d"), b'{"id":5}', "5"),
        ("debezium", change("t"), None, None),
        ("cloudevents", {"specversion": "1.0", "data": {"id": "a"}}, b"k", "a"),
    ],
)
def test_the_key_of_a_record_in_an_envelope_is_read_alone(
    envelope: str, value: Any, key: bytes | None, expected: str | None
) -> None:
    changed = {"envelope": envelope, "key_values": "stringify", "fields": FIELDS}
    options = options_of(tables.with_changes(tables.Records(), changed))
    assert key_reader(options)(key, json.dumps(value).encode(), ()) == expected


# -- the bounds

ENVELOPED: Final = {
    envelope: decoder(cast("Envelope", envelope), metadata_values="stringify", key_values="stringify", fields={"metadata": metadata})
    for envelope, metadata in (("connect", "metadata"), ("debezium", ["metadata.a", "x"]))
}  # fmt: skip
NAMES: Final = [*hostile_records.RECORDS]


@pytest.mark.parametrize("name", [*NAMES[::11], "MessagePack names that are maps", "JSON backslashes"])
def test_no_envelope_of_a_megabyte_costs_more_than_seconds(name: str) -> None:
    value = hostile_records.RECORDS[name]()
    if name.startswith("JSON"):
        wrapped = {
            "connect": [b'{"schema":%s,"payload":{}}' % value, b'{"schema":{},"payload":%s}' % value],
            "debezium": [b'{"op":"c","after":%s}' % value, b'{"schema":%s,"payload":{"op":"c","after":{}}}' % value],
        }
    else:
        wrapped = {
            "connect": [b"\x82\xa6schema\xc0\xa7payload" + value],
            "debezium": [b"\x82\xa2op\xa1c\xa5after" + value],
        }
    costs = [cost_of(ENVELOPED[envelope], body) for envelope, bodies in wrapped.items() for body in bodies]
    assert max(costs) < SECONDS, costs


@pytest.mark.parametrize(
    "schema",
    [
        b'{"type":"struct","fields":[%s]}'
        % b",".join([b'{"field":"a","name":"org.apache.kafka.connect.data.Date"}'] * 15_000),
        b'{"fields":[' * 60_000 + b'"org.apache.kafka.connect.data.Date"',
        b'{"fields":[' * 100 + b'"org.apache.kafka.connect.data.Date"' + b"]}" * 100,
    ],
)
def test_no_schema_costs_more_than_seconds(schema: bytes) -> None:
    assert cost_of(ENVELOPED["connect"], b'{"schema":%s,"payload":%s}' % (schema, msgspec.json.encode(OWN))) < SECONDS


@pytest.mark.parametrize(
    "key",
    [
        b"{" * 500_000,
        b'{"a":' * 100_000,
        b'{"schema":{},"payload":%s}' % (b"9" * 900_000),
        b'{"id":"%s"}' % (b"\\ud800" * 100_000),
    ],
)
def test_no_kafka_key_costs_more_than_seconds(key: bytes) -> None:
    began = cost_of(ENVELOPED["connect"], b'{"schema":{},"payload":{"data":{"float32":[1,2,3]}}}')
    made = ENVELOPED["connect"]
    with pytest.raises(RecordError) as raised:
        made.decode(key, b'{"schema":{},"payload":{"data":{"float32":[1,2,3]}}}', ())
    assert raised.value.reason is Reason.KEY
    assert began < SECONDS
