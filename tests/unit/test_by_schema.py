"""A route with a registry: what names a schema is read by it, all else as without; field routing too."""

import base64
import json
import struct
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest

from tests.support.app import INDEX, settings
from tests.support.registry import AVRO, NAMESPACE, OF_RECORD, PROTOBUF, FakeSource, avro, by_id, prefix
from worker.app.decoders import decoder_of
from worker.app.routers import Routed, router_of
from worker.errors import Reason, RecordError, SchemaPending
from worker.records.decode import Decoder, Put
from worker.records.formats.framing import Kind, SchemaId
from worker.records.target import Target
from worker.registry.book import Book
from worker.registry.client import NoSuchSchema, SchemaText, UnusableSchema
from worker.settings.tables import Fields, Records, Route

TARGET: Final = Target(INDEX, 3, "cosine")
RECORD: Final = {"key": "a", "data": {"float32": [1.0, 2.0, 0.5]}, "metadata": {"title": "x"}}
FRAGMENT: Final = b'{"key":"a","data":{"float32":[1.0,2.0,0.5]},"metadata":{"title":"x"}}'
AVRO_BODY: Final = avro(AVRO, RECORD)
PROTOBUF_BODY: Final = (
    b"\x0a\x01a" + b"\x12\x0e\x0a\x0c" + bytes.fromhex("0000803f000000400000003f") + b"\x1a\x0a\x0a\x05title\x12\x01x"
)


@pytest.fixture(scope="module")
def book() -> Book:
    """The schemas of a registry, all here."""
    source = FakeSource()
    guid, content = SchemaId(Kind.GUID, str(NAMESPACE)), SchemaId(Kind.CONTENT_ID, "8")
    source.schemas = {
        by_id(1): SchemaText("AVRO", json.dumps(AVRO)),
        by_id(2): SchemaText("PROTOBUF", PROTOBUF),
        by_id(3): SchemaText("JSON", "{}"),
        by_id(4): NoSuchSchema(),
        by_id(5): UnusableSchema("it is broken"),
        by_id(6): SchemaText("AVRO", '"long"'),
        by_id(7): SchemaText("XML", "<>"),
        guid: SchemaText("PROTOBUF", PROTOBUF),
        content: SchemaText("AVRO", json.dumps(AVRO)),
    }
    made = Book(source)
    for schema in source.schemas:
        made.add(schema)
    return made


def decoder(book: Book, **chosen: Any) -> Decoder:
    return Decoder(TARGET, max_fragment_bytes=10_000, schemas=book, **chosen)


@pytest.mark.parametrize("record_format", ["auto", "json", "msgpack"])
@pytest.mark.parametrize(
    ("value", "headers"),
    [
        pytest.param(prefix(1) + AVRO_BODY, (), id="avro"),
        pytest.param(prefix(2) + OF_RECORD + PROTOBUF_BODY, (), id="protobuf"),
        pytest.param(prefix(3) + json.dumps(RECORD).encode(), (), id="json schema"),
        pytest.param(prefix(3) + b"\xef\xbb\xbf" + json.dumps(RECORD).encode(), (), id="json with a mark"),
        pytest.param(
            PROTOBUF_BODY, (("__value_schema_id", b"\x01" + NAMESPACE.bytes + OF_RECORD),), id="guid in a header"
        ),
        pytest.param(AVRO_BODY, (("apicurio.value.contentId", bytes(7) + b"\x08"),), id="content id in a header"),
    ],
)
def test_a_record_of_each_kind_is_written(book: Book, value: bytes, headers: Any, record_format: Any) -> None:
    assert decoder(book, format=record_format).decode(None, value, headers) == Put("a", FRAGMENT, False)


@pytest.mark.parametrize("value", [json.dumps(RECORD).encode(), msgspec.msgpack.encode(RECORD)])
def test_a_record_without_a_schema_is_read_as_without_a_registry(book: Book, value: bytes) -> None:
    assert decoder(book).decode(None, value, ()) == Put("a", FRAGMENT, False)


def test_a_schema_that_cannot_be_used_is_named_once_and_nothing_is_said_to_be_read(book: Book) -> None:
    with pytest.raises(RecordError) as raised:
        decoder(book).decode(b"k", prefix(5) + b"x", ())
    assert raised.value.message == "schema id 5 cannot be used: it is broken"


@pytest.mark.parametrize(
    ("number", "body", "reason", "named"),
    [
        (4, b"x", Reason.UNSUPPORTED_ENCODING, "does not know schema id 4"),
        (5, b"x", Reason.UNSUPPORTED_ENCODING, "schema id 5 cannot be used: it is broken"),
        (7, b"x", Reason.UNSUPPORTED_ENCODING, "'XML'"),
        (6, b"\x02", Reason.MALFORMED, r"read as Avro, schema id 6"),
        (1, b"\x02", Reason.MALFORMED, r"ends before its schema does.*read as Avro, schema id 1"),
        (1, b"\x02\x08abc", Reason.MALFORMED, "8|4 bytes are announced"),
        (2, OF_RECORD + b"\x0a\xff", Reason.MALFORMED, "read as Protobuf, schema id 2"),
        (3, b"{", Reason.MALFORMED, "read as JSON, schema id 3"),
    ],
)
def test_what_cannot_be_read_says_so_with_the_schemas_name(
    book: Book, number: int, body: bytes, reason: Reason, named: str
) -> None:
    with pytest.raises(RecordError, match=named) as raised:
        decoder(book).decode(b"k", prefix(number) + body, ())
    assert raised.value.reason is reason


def test_a_schema_that_is_not_here_is_waited_for(book: Book) -> None:
    with pytest.raises(SchemaPending) as raised:
        decoder(book).decode(b"k", prefix(99) + b"x", ())
    assert raised.value.schema == by_id(99)


def test_a_tombstone_needs_no_schema(book: Book) -> None:
    header = (("__value_schema_id", b"\x00\x00\x00\x00\x63"),)
    with pytest.raises(RecordError) as raised:
        decoder(book).decode(b"k", None, header)
    assert raised.value.reason is Reason.TOMBSTONE


BY_TITLE: Final = Route(topic="vectors", index=(), index_by="field:metadata.title", indexes={"x": INDEX})


@pytest.mark.parametrize(
    "value",
    [prefix(1) + AVRO_BODY, prefix(2) + OF_RECORD + PROTOBUF_BODY, prefix(3) + json.dumps(RECORD).encode()],
    ids=["avro", "protobuf", "json schema"],
)
def test_a_field_of_a_record_with_a_schema_chooses_the_index(book: Book, value: bytes) -> None:
    router = router_of(BY_TITLE, settings(routes=(BY_TITLE,)), schemas=book)
    router.add(TARGET)
    assert router.route(None, value, ()) == Routed(INDEX, Put("a", FRAGMENT, False))


def test_a_record_that_cannot_be_read_has_no_field_and_is_refused_for_what_it_is(book: Book) -> None:
    router = router_of(BY_TITLE, settings(routes=(BY_TITLE,)), schemas=book)
    router.add(TARGET)
    found = router.route(None, prefix(4) + b"x", ()).decoded
    assert isinstance(found, RecordError)
    assert found.reason is Reason.UNSUPPORTED_ENCODING
    with pytest.raises(SchemaPending):
        router.route(None, prefix(99) + b"x", ())


@pytest.mark.parametrize("mode", ["structured", "structured, of a schema", "binary"])
def test_the_data_of_an_event_may_have_a_schema_and_its_field_chooses_the_index(book: Book, mode: str) -> None:
    route = msgspec.structs.replace(BY_TITLE, records={"envelope": "cloudevents"})
    router = router_of(route, settings(routes=(route,)), schemas=book)
    router.add(TARGET)
    value, headers = prefix(1) + AVRO_BODY, [("ce_specversion", b"1.0")]
    if mode == "structured, of a schema":
        value, headers = prefix(3) + b'{"specversion":"1.0","data":%s}' % json.dumps(RECORD).encode(), []
        assert router_of(route, settings(routes=(route,))).index_of("a", None, value, headers) == INDEX
    elif mode == "structured":
        value, headers = b'{"specversion":"1.0","data_base64":"%s"}' % base64.b64encode(value), []
    assert router.route(None, value, headers) == Routed(INDEX, Put("a", FRAGMENT, False))


def test_a_header_chooses_the_index_also_where_the_value_cannot_be_read(book: Book) -> None:
    route = Route(topic="vectors", index=(), index_by="field:$header.tenant", indexes={"x": INDEX, "default": "others"})
    router = router_of(route, settings(routes=(route,)), schemas=book)
    for name in (INDEX, "others"):
        router.add(msgspec.structs.replace(TARGET, index=name))
    assert router.route(None, prefix(4) + b"x", [("tenant", b"x")]).to == INDEX


def test_the_paths_of_another_shape_hold_for_records_with_a_schema() -> None:
    schema = {
        "type": "record",
        "name": "Row",
        "fields": [
            {"name": "id", "type": "long"},
            {"name": "embedding", "type": {"type": "array", "items": "double"}},
            {"name": "title", "type": ["null", "string"]},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        ],
    }
    row = {"id": 2**53 + 1, "embedding": [1.0, 2.0, 0.5], "title": None, "at": 0, "price": Decimal("12.30")}
    source = FakeSource()
    source.schemas = {by_id(1): SchemaText("AVRO", json.dumps(schema))}
    made = Book(source)
    made.add(by_id(1))
    fields = Fields(key="id", vector="embedding", metadata=("title", "at", "price"))
    records = Records(fields=fields, key_values="stringify", metadata_values="stringify")
    found = decoder_of(TARGET, settings(records=records), "vectors", schemas=made).decode(
        None, prefix(1) + avro(schema, row), ()
    )
    assert isinstance(found, Put)
    assert json.loads(found.fragment) == {
        "key": "9007199254740993",
        "data": {"float32": [1.0, 2.0, 0.5]},
        "metadata": {"at": "1970-01-01T00:00:00.000Z", "price": "12.30"},
    }


def test_bytes_are_a_vector_as_the_settings_say() -> None:
    schema = {"type": "record", "name": "Row", "fields": [{"name": "vector", "type": "bytes"}]}
    source = FakeSource()
    source.schemas = {by_id(1): SchemaText("AVRO", json.dumps(schema))}
    made = Book(source)
    made.add(by_id(1))
    records = Records(fields=Fields(vector="vector"), vector_bytes="float32-be")
    value = prefix(1) + avro(schema, {"vector": struct.pack(">3f", 1, 2, 0.5)})
    found = decoder_of(TARGET, settings(records=records), "vectors", schemas=made).decode(b"a", value, ())
    assert found == Put("a", b'{"key":"a","data":{"float32":[1.0,2.0,0.5]}}', False)
