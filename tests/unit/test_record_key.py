"""The key of a record that may be bad otherwise, in every shape."""

import json
from typing import Any

import msgspec
import pytest

from worker.app.decoders import options_of
from worker.records.record_key import key_reader
from worker.settings import tables


def key_of(value: Any, *, key: bytes | None = b"k", headers: Any = (), **settings: Any) -> set[str | None]:
    """Return the key that is read, of JSON, of MessagePack, and behind a registry's prefix."""
    read = key_reader(options_of(tables.with_changes(tables.Records(), settings)))
    json_ = json.dumps(value).encode()
    return {read(key, body, headers) for body in (json_, msgspec.msgpack.encode(value), b"\0\0\0\0\7" + json_)}


@pytest.mark.parametrize(
    ("settings", "value", "expected"),
    [
        ({"fields": {"key": "id", "vector": "v"}}, {"id": "a", "v": "?"}, "a"),
        ({"fields": {"key": "{t}/{id}", "vector": "v"}, "key_values": "stringify"}, {"t": "x", "id": 5}, "x/5"),
        ({"fields": {"key": "$header.id"}}, {}, "h"),
        ({"fields": {"key": "$kafka.key"}}, {"key": "no"}, "k"),
        ({"fields": {"vector": "v"}}, {"key": "own"}, "own"),
        ({"fields": {"vector": "v"}}, {}, "k"),
        ({"fields": {"key": "id"}}, {"key": "own"}, None),
        ({"fields": {"key": "id"}}, {"id": 5}, None),
    ],
)
def test_the_key_is_read_by_the_shape_whatever_the_rest_is(settings: Any, value: Any, expected: str | None) -> None:
    assert key_of(value, headers=[("id", b"h")], **settings) == {expected}


def test_of_the_services_own_shape_it_is_the_values_key_or_the_kafka_key() -> None:
    read = key_reader(options_of(tables.Records()))
    assert read(b"k", b'{"key":"a","data":5}', ()) == "a"
    assert read(b"k", msgspec.msgpack.encode({"key": "a"}), ()) == "a"
    assert read(b"k", b'\0\0\0\0\7{"key":"a"}', ()) == "a"
    for ignored in (b'{"n":"\\ud83d","key":"a"}', b"\x82\x07\x01\xa3key\xa1a", b'{"key":"\\ud83d","key":"a"}'):
        assert read(b"k", ignored, ()) == "a"
    assert [read(b"k", value, ()) for value in (b"{}", b"?", b"", None)] == ["k"] * 4
    assert [read(key, None, ()) for key in (None, b"\xff", b"\0k")] == [None] * 3


def test_a_kafka_key_whose_schema_is_in_a_header_is_not_shown_as_the_key() -> None:
    headers = [("__key_schema_id", b"\0\0\0\0\7")]
    for fields in (tables.Fields(), tables.Fields(vector="$kafka.value")):
        read = key_reader(options_of(tables.Records(fields=fields)))
        assert [read(b"\x0adoc-1", value, headers) for value in (None, bytes(12))] == [None, None]
        assert read(b"\x0adoc-1", None, ()) == "\ndoc-1"


def test_the_kafka_key_is_read_in_its_format() -> None:
    read = key_reader(options_of(tables.Records(key_format="json")))
    assert [read(key, None, ()) for key in (b'"k"', b"k", b"5")] == ["k", None, None]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("", "k"), ("$kafka.key", "k"), ("$header.id", "h"), ("{$header.id}/{$kafka.key}", "h/k"), ("$header.no", None)],
)
def test_of_a_vector_alone_it_is_around_the_value(path: str, expected: str | None) -> None:
    read = key_reader(options_of(tables.Records(fields=tables.Fields(key=path, vector="$kafka.value"))))
    headers = [("id", b"h")]
    assert {read(b"k", value, headers) for value in (bytes(12), b"", b'{"key": "no"}')} == {expected}
    assert read(b"k", None, headers) == "k"  # a null value is about the Kafka key
    assert read(b"\xff", None, headers) is None
