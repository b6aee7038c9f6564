"""Which schema a message names: by the prefix of its value, or by a header."""

import uuid

import pytest

from worker.errors import Reason, RecordError
from worker.records.formats.contract import Headers
from worker.records.formats.framing import Framed, Kind, SchemaId, framed, schema_in_header

GUID = uuid.UUID("89791762-2336-4186-9674-299b90a802e2")
BODY = b"\x00body"


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


@pytest.mark.parametrize("value", [b"", b"{}", b"\x80", b"\x01\x00\x00\x00\x01"])
def test_a_value_without_the_prefix_names_no_schema(value: bytes) -> None:
    assert framed(value, (("h", b"x"), ("__key_schema_id", b"\x00\x00\x00\x00\x01"))) is None


def test_the_prefix_is_the_id_and_the_rest_is_the_body() -> None:
    assert framed(b"\x00\x00\x00\x10\xe1abc", ()) == Framed(SchemaId(Kind.ID, "4321"), b"abc")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("__value_schema_id", b"\x01" + GUID.bytes)], Framed(SchemaId(Kind.GUID, str(GUID)), BODY, b"")),
        (
            [("__value_schema_id", b"\x01" + GUID.bytes + b"\x02\x02")],
            Framed(SchemaId(Kind.GUID, str(GUID)), BODY, b"\x02\x02"),
        ),
        ([("__value_schema_id", b"\x00\x00\x00\x00\x07")], Framed(SchemaId(Kind.ID, "7"), BODY, b"")),
        ([("apicurio.value.contentId", number(9))], Framed(SchemaId(Kind.CONTENT_ID, "9"), BODY, b"")),
        (
            [("apicurio.value.globalId", number(2**40)), ("apicurio.protobuf.type", b"Record")],
            Framed(SchemaId(Kind.GLOBAL_ID, str(2**40)), BODY, b"", "Record"),
        ),
        (
            [
                ("apicurio.value.globalId", number(1)),
                ("apicurio.value.contentId", number(2)),
                ("apicurio.value.encoding", b"BINARY"),
            ],
            Framed(SchemaId(Kind.CONTENT_ID, "2"), BODY, b""),
        ),
    ],
    ids=["guid", "guid and indexes", "id", "content id", "global id and type", "both of Apicurio"],
)
def test_a_header_names_the_schema_and_the_whole_value_is_the_body(headers: Headers, expected: Framed) -> None:
    assert framed(BODY, headers) == expected


@pytest.mark.parametrize(
    ("value", "headers", "named"),
    [
        (b"\x00", (), "ends after 1 bytes"),
        (b"\x00\x00\x00\x01", (), "ends after 4 bytes"),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00\x07x", (), "Apicurio"),
        (BODY, (("__value_schema_id", b"\x01short"),), "__value_schema_id has 6 bytes"),
        (BODY, (("__value_schema_id", b""),), "__value_schema_id has 0 bytes"),
        (BODY, (("__value_schema_id", b"\x05" * 17),), "__value_schema_id has 17 bytes"),
        (BODY, (("apicurio.value.globalId", b"7"),), "apicurio.value.globalId has 1 bytes"),
        (
            b'{"a": 1}',
            (("apicurio.value.contentId", number(7)), ("apicurio.value.encoding", b"JSON")),
            "apicurio.value.encoding says JSON: Avro as JSON is not read.*avro.encoding",
        ),
    ],
)
def test_what_names_no_schema_is_refused_by_name(value: bytes, headers: Headers, named: str) -> None:
    with pytest.raises(RecordError, match=named) as raised:
        framed(value, headers)
    assert raised.value.reason is Reason.UNSUPPORTED_ENCODING


@pytest.mark.parametrize("text", ['{"key": "a"}', '\n\t[{"key"', '\t{"key"'])
def test_text_in_utf_16_has_no_prefix_although_it_begins_so(text: str) -> None:
    with pytest.raises(RecordError, match="looks like UTF-16; expected JSON in UTF-8") as raised:
        framed(text.encode("utf-16-be"), ())
    assert raised.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("schema_id", [1, 0x10000000, 0x7B000001, 0x7FFFFFFF])
def test_a_large_id_before_what_is_no_wide_text_is_an_id(schema_id: int) -> None:
    value = b"\0" + schema_id.to_bytes(4, "big") + b'{"key":"a"}'
    assert framed(value, ()) == Framed(SchemaId(Kind.ID, str(schema_id)), b'{"key":"a"}')


def test_a_header_whose_value_is_null_names_none() -> None:
    assert framed(b"{}", (("__value_schema_id", None),)) is None


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ((), ""),
        ((("__value_schema_id", None),), ""),
        ((("__value_schema_id", b"short"),), ""),
        ((("__value_schema_id", b"\x00\x00\x00\x00\x07"),), "the header __value_schema_id names schema id 7"),
        ((("apicurio.value.globalId", number(7)),), "the header apicurio.value.globalId names Apicurio global id 7"),
    ],
)
def test_the_header_that_names_a_schema_is_called_by_its_name(headers: Headers, words: str) -> None:
    assert schema_in_header(headers) == words
