"""The value that chooses the index: of headers and of fields, and none where it cannot be read."""

import json
from typing import Any

import msgspec
import pytest

from worker.app.decoders import options_of
from worker.errors import Reason, RecordError
from worker.records.routing_value import reader_of
from worker.settings import tables

RECORD = {"key": "a", "data": {"float32": [1.5] * 8}, "metadata": {"tenant": "acme", "list": [{"id": 7}], "a.b": "dot"}}


def read(
    index_by: str, value: bytes | None = b"{}", headers: Any = (), key: bytes | None = None, **records: Any
) -> str | None:
    return reader_of(index_by, options_of(tables.Records(**records)))(key, value, headers)


@pytest.mark.parametrize("encode", [lambda v: json.dumps(v).encode(), msgspec.msgpack.encode], ids=["json", "msgpack"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.tenant", "acme"),
        ("key", "a"),
        ('metadata."a.b"', "dot"),
        ("metadata.list[0].id", "7"),
        ("metadata.list[1].id", None),
        ("metadata.none", None),
        ("key.none", None),
        ("metadata", None),
    ],
)
def test_a_field_is_found_by_its_path(encode: Any, path: str, expected: str | None) -> None:
    assert read(f"field:{path}", encode(RECORD)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [('"x"', "x"), ("5", "5"), ("true", "true"), ("1.5", "1.5"), ("null", None), ("[1]", None), ('{"a":1}', None)],
)
def test_numbers_and_booleans_count_as_their_json_text(text: str, expected: str | None) -> None:
    assert read("field:t", b'{"t":%s}' % text.encode()) == expected


@pytest.mark.parametrize(
    "value",
    [None, b"", b"no json", b'{"t":"x"', b'["t"]', b"\x81\xa1t", b"\x00\x00", b'{"t":' + b"[" * 100_000],
    ids=["null", "empty", "text", "cut", "a list", "cut MessagePack", "a cut prefix", "deep"],
)
def test_what_cannot_be_read_has_no_value(value: bytes | None) -> None:
    assert read("field:t", value) is None


@pytest.mark.parametrize(
    ("value", "envelope"),
    [
        (b'{"t":"\xff"}', "none"),
        (b'{"t":"x\\ud83d"}', "none"),
        (b"\x81\xa1t\xa1\xff", "none"),
        (b'{"op":"c","after":"{\\"t\\":\\"\\\\ud83d\\"}"}', "debezium"),
        (b'{"specversion":"1.0","data":{"t":"\\ud83d"}}', "cloudevents"),
    ],
)
def test_a_field_that_is_no_text_is_an_error_and_not_a_missing_value(value: bytes, envelope: Any) -> None:
    with pytest.raises(RecordError, match=r"; in t$") as raised:
        read("field:t", value, envelope=envelope)
    assert raised.value.reason is Reason.MALFORMED


def test_an_attribute_that_is_no_text_is_an_error_likewise() -> None:
    with pytest.raises(RecordError, match="the attribute t of the CloudEvent"):
        read("field:$attribute.t", b'{"specversion":"1.0","t":"\\ud83d"}', envelope="cloudevents")
    assert read("field:$attribute.t", b'{"t":"\\ud83d"}', envelope="cloudevents") is None  # it is no event


@pytest.mark.parametrize(
    "value",
    [b'{"n":"\\ud83d","t":"x"}', b'{"n":"\xff","t":"x"}', b'{"t":"\\ud83d","t":"x"}', b"\x82\x07\x01\xa1t\xa1x", b"\x82\xa1t\xa1x\xc0\xc0"],
)  # fmt: skip
def test_what_a_record_ignores_does_not_hide_the_field(value: bytes) -> None:
    assert read("field:t", value) == "x"


@pytest.mark.parametrize(
    "before", [b"", b" \n", b"\xef\xbb\xbf", b"\x00\x00\x00\x00\x05", b"\x00\x00\x00\x00\x05\xef\xbb\xbf"]
)
def test_what_may_be_before_json_does_not_count(before: bytes) -> None:
    assert read("field:t", before + b'{"t":"x"}') == "x"


@pytest.mark.parametrize("encode", [lambda v: json.dumps(v).encode(), msgspec.msgpack.encode], ids=["json", "msgpack"])
def test_a_field_of_a_document_of_mongodb_is_found_in_its_text(encode: Any) -> None:
    change = {"op": "c", "before": None, "after": json.dumps({"tenant": "acme"})}
    assert read("field:tenant", encode(change), envelope="debezium") == "acme"


def test_of_a_name_that_is_there_twice_the_last_value_counts() -> None:
    assert read("field:t", b'{"t":"x","t":"y"}') == "y"


def test_of_several_headers_the_last_one_counts() -> None:
    headers = [("tenant", b"x"), ("tenant", b"y"), ("other", b"z")]
    assert read("header:tenant", headers=headers) == "y"
    assert read("field:$header.tenant", headers=headers) == "y"


@pytest.mark.parametrize("headers", [[], [("Tenant", b"x")], [("tenant", None)], [("tenant", b"\xff")]])
def test_a_header_that_is_missing_null_or_no_text_has_no_value(headers: Any) -> None:
    assert read("header:tenant", headers=headers) is None


def test_the_kafka_key_can_choose() -> None:
    assert read("field:$kafka.key", key=b"acme") == "acme"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b'"acme"', "acme"),
        (b"17", "17"),
        (b" 17\n", "17"),
        (b"acme", "acme"),
        (b'"acme', None),
        (b"{}", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("envelope", ["none", "connect"])
def test_the_kafka_key_is_read_as_its_format_says(key: bytes | None, expected: str | None, envelope: str) -> None:
    assert read("field:$kafka.key", key=key, key_format="json", envelope=envelope) == expected


def test_a_kafka_key_that_is_no_text_chooses_nothing() -> None:
    for key in (b"\xff", b"\x00\x00\x00\x00\x07acme", b"Struct{id=1}"):
        assert read("field:$kafka.key", key=key) is None


CHANGE = {"before": {"tenant": "old"}, "after": {"tenant": "new"}, "op": "u"}
EVENT = {"specversion": "1.0", "id": "e", "source": "s", "type": "t", "tenant": "acme", "data": RECORD}


@pytest.mark.parametrize(
    ("envelope", "index_by", "value", "expected"),
    [
        ("connect", "field:metadata.tenant", {"schema": {}, "payload": RECORD}, "acme"),
        ("connect", "field:payload.key", {"schema": {}, "payload": RECORD}, None),
        ("connect", "field:metadata.tenant", {"schema": {}, "payload": None}, None),
        ("connect", "field:metadata.tenant", RECORD, None),
        ("debezium", "field:tenant", CHANGE, "new"),
        ("debezium", "field:tenant", {"schema": {}, "payload": CHANGE}, "new"),
        ("debezium", "field:tenant", {**CHANGE, "op": "d", "after": None}, "old"),
        ("debezium", "field:tenant", {"op": "d", "before": None}, None),
        ("debezium", "field:tenant", {"ts_ms": 1}, None),
        ("debezium", "field:tenant", {"op": "t"}, None),
        ("cloudevents", "field:metadata.tenant", EVENT, "acme"),
        ("cloudevents", "field:$attribute.tenant", EVENT, "acme"),
        ("cloudevents", "field:$attribute.none", EVENT, None),
        ("cloudevents", "field:$attribute.tenant", RECORD, None),
    ],
)
def test_a_field_is_read_within_the_envelope(envelope: str, index_by: str, value: Any, expected: str | None) -> None:
    assert read(index_by, json.dumps(value).encode(), envelope=envelope) == expected
    if envelope != "cloudevents":
        assert read(index_by, msgspec.msgpack.encode(value), envelope=envelope) == expected


def test_an_attribute_of_a_binary_event_is_a_header_also_of_a_null_value() -> None:
    headers = [("ce_specversion", b"1.0"), ("ce_tenant", b"acme")]
    for value in (b"{}", msgspec.msgpack.encode(RECORD), None):
        assert read("field:$attribute.tenant", value, headers, envelope="cloudevents") == "acme"
    assert read("field:metadata.tenant", json.dumps(RECORD).encode(), headers, envelope="cloudevents") == "acme"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b'{"schema":{},"payload":"k"}', "k"),
        (b"k", "k"),
        (b'{"a":[1]}', None),
        (b'{"a":"k\\ud83d"}', None),
        (b'{"\\ud83d":"k"}', None),
        (None, None),
    ],
)
def test_the_kafka_key_is_read_within_its_envelope(key: bytes | None, expected: str | None) -> None:
    assert read("field:$kafka.key", key=key, envelope="connect") == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b'"acme"', "acme"),
        (b"acme", "acme"),
        (b"7", "7"),
        (b"1.5", "1.5"),
        (b"true", "true"),
        (b'{"a":1}', None),
        (b"[1]", None),
        (b'"acme', None),
        (b"\x00\x00\x00\x00\x07acme", None),
        (b"\xff", None),
        (b"", None),
        (None, None),
    ],
)
def test_a_kafka_key_that_is_no_key_in_json_still_chooses_an_index(key: bytes | None, expected: str | None) -> None:
    assert read("field:$kafka.key", key=key, key_format="json") == expected
