"""Messages with several records: what is cut, into what, and what is one record."""

import json
from typing import Any, Literal

import msgspec
import pytest

from worker.errors import Reason, RecordError
from worker.records.formats.shape import shape_of
from worker.records.several import MOST_RECORDS, Cutter

pack = msgspec.msgpack.encode
PREFIX = b"\x00\x00\x00\x00\x07"


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def cut(value: bytes, path: str = "", record_format: Literal["auto", "json", "msgpack"] = "auto") -> list[bytes] | None:
    """Return the records of a message as bytes."""
    pieces = Cutter(record_format, path).cut(value)
    return None if pieces is None else [bytes(piece) for piece in pieces]


@pytest.mark.parametrize(
    ("value", "records"),
    [
        pytest.param(b'[{"a":1}, {"b": 2}]', [b'{"a":1}', b'{"b": 2}'], id="a list"),
        pytest.param(b' \n[{"a":1}]', [b'{"a":1}'], id="a list behind white space"),
        pytest.param(b"\xef\xbb\xbf[1]", [b"1"], id="a list behind a byte order mark"),
        pytest.param(PREFIX + b"[1, 2]", [b"1", b"2"], id="a list behind a registry's prefix"),
        pytest.param(b"[]", [], id="an empty list"),
        pytest.param(b'{"vectors": [1], "indexName": "i"}', [b"1"], id="the body of a PutVectors request"),
        pytest.param(b'{"data": [{"index": 0}], "model": "m"}', [b'{"index": 0}'], id="an embedding API's answer"),
        pytest.param(b'{"data": [1], "vectors": [2]}', [b"1"], id="both lists"),
        pytest.param(b'{"a":1}\n\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}'], id="JSON lines"),
        pytest.param(b'{oops\n{"a":1}\n{"b":', [b"{oops", b'{"a":1}', b'{"b":'], id="JSON lines, two of them bad"),
        pytest.param(pack([{"a": 1}, 2]), [pack({"a": 1}), b"\x02"], id="a list in MessagePack"),
        pytest.param(pack({"vectors": [1]}), [b"\x01"], id="a PutVectors body in MessagePack"),
        pytest.param(pack({"data": [1]}), [b"\x01"], id="an answer in MessagePack"),
        pytest.param(pack({7: 1, "vectors": [1]}), [b"\x01"], id="a map with a name that is no string"),
        pytest.param(b'{"n":"\\ud800","vectors":[{}]}', [b"{}"], id="half a surrogate pair beside the list"),
        pytest.param(
            b'[{"a":"\\ud800"},{"b":1}]', [b'{"a":"\xff\xff\xff\xff\xff\xff"}', b'{"b":1}'], id="half a surrogate pair"
        ),
        pytest.param(b'[{"a":"\xff"},1]', [b'{"a":"\xff"}', b"1"], id="one that is not UTF-8"),
    ],
)
def test_the_records_are_cut_out_as_they_are(value: bytes, records: list[bytes]) -> None:
    assert cut(value) == records


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b'{"key":"a","data":{"float32":[1]},"vectors":[1]}', id="a record that has vectors too"),
        pytest.param(b'{"key":"a"}', id="a map without a list"),
        pytest.param(b'{\n "key": "a"\n}', id="a record over several lines"),
        pytest.param(b'{\n "key": [\n{"a": 1},\n  {"b": 2}\n ]\n', id="a record over several lines, cut short"),
        pytest.param(b'{"vectors":[\n{"a":NaN},\n{"b":1}\n]}', id="a broken body, an element on each line"),
        pytest.param(b'{"vectors":[\n{"b":1}\n', id="a body with one element, cut short"),
        pytest.param(b'{"key":"a"', id="a record that is cut short"),
        pytest.param(b'"[1]"', id="a string"),
        pytest.param(b"", id="nothing"),
        pytest.param(PREFIX, id="a prefix alone"),
        pytest.param(b"\x00\x00", id="half a prefix"),
        pytest.param(PREFIX + b"\x0aavro", id="a prefix before what is no JSON"),
        pytest.param(pack({"data": {"float32": [1]}}), id="a record in MessagePack"),
        pytest.param(b"\x82\x01", id="MessagePack that is cut short"),
    ],
)
def test_any_other_message_is_one_record_for_its_format_to_judge(value: bytes) -> None:
    assert cut(value) is None


@pytest.mark.parametrize(
    ("vector", "metadata", "value"),
    [
        ("data", "", {"key": "a", "data": [1.5, 2.5]}),
        ("vectors", "", {"key": "a", "vectors": [1.5, 2.5]}),
        ("data[0].embedding", "", {"key": "a", "data": [{"embedding": [1.5]}]}),
        ("v", ["data", "vectors"], {"key": "a", "v": [1.5], "data": ["x"], "vectors": ["y"]}),
    ],
)
def test_what_is_a_list_in_a_record_is_no_list_of_records(vector: str, metadata: Any, value: Any) -> None:
    cutter = Cutter("auto", shape=shape_of("key", vector, metadata, ""))
    for one, several in ((pack(value), pack([value, 5])), (as_json(value), as_json([value, 5]))):
        assert cutter.cut(one) is None
        assert list(map(bytes, cutter.cut(several) or ()))[:1] == [one]
        assert cutter.only(several, 0) == one


@pytest.mark.parametrize("encode", [as_json, pack])
@pytest.mark.parametrize("path", ["", "data"])
def test_rows_that_a_change_deletes_are_no_records(path: str, encode: Any) -> None:
    change: dict[str, Any] = {"data": [{"id": "1", "v": [1.5]}], "isDdl": False, "type": "DELETE"}
    with pytest.raises(RecordError, match="the message deletes the rows in its data") as raised:
        cut(encode(change), path)
    assert raised.value.reason is Reason.MALFORMED
    for kind in ("INSERT", "UPDATE", "x" * 99, "\u00e9", 5, None):
        assert cut(encode({**change, "type": kind}), path) == [encode(change["data"][0])]
    assert cut(encode({"items": change["data"], "type": "DELETE"}), "items") == [encode(change["data"][0])]


@pytest.mark.parametrize("field", ["data", "vectors"])
def test_what_is_a_map_in_a_record_may_be_a_list_of_records(field: str) -> None:
    shape = shape_of("", f"{field}.float32", field, "")
    assert [bytes(each) for each in Cutter("auto", shape=shape).cut(b'{"%s":[1]}' % field.encode()) or ()] == [b"1"]


@pytest.mark.parametrize(
    ("record_format", "value"), [("json", pack([1])), ("msgpack", b"[1]"), ("msgpack", b'{"vectors":[1]}')]
)
def test_what_the_setting_does_not_allow_is_not_cut(record_format: Literal["json", "msgpack"], value: bytes) -> None:
    assert cut(value, record_format=record_format) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("items", {"items": [1, 2]}),
        ("a.b[1]", {"a": {"b": [0, [1, 2]]}, "items": [9]}),
        ('"a.b"', {"a.b": [1, 2]}),
    ],
)
def test_a_path_leads_to_the_list(path: str, value: Any) -> None:
    assert cut(json.dumps(value).encode(), path) == [b"1", b"2"]
    assert cut(pack(value), path) == [b"\x01", b"\x02"]
    assert cut(b'{"z":"\\ud800",' + json.dumps(value).encode()[1:], path) == [b"1", b"2"]
    assert cut(pack({7: 1, None: 2, **value}), path) == [b"\x01", b"\x02"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(b'{"b": [1]}', "there is no a.b in the JSON; records.fields.records", id="nothing there"),
        pytest.param(b'{"a": 5}', "there is no a.b in the JSON", id="no map on the way"),
        pytest.param(b"[1]", "there is no a.b in the JSON", id="a list at the top"),
        pytest.param(b'{"a": {"b": 5}}', "a.b is a number in the JSON", id="a number"),
        pytest.param(pack({"a": {"b": "x"}}), "a.b is a string in the MessagePack", id="a string in MessagePack"),
        pytest.param(b'{"a": {"b": [', "the value is no whole JSON with records: Input data was truncated", id="short"),
        pytest.param(b"\x81\xa1a", "the value is no whole MessagePack with records", id="short MessagePack"),
    ],
)
def test_a_list_that_is_not_where_the_path_says_makes_the_message_bad(value: bytes, words: str) -> None:
    with pytest.raises(RecordError, match=words) as caught:
        cut(value, "a.b")
    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(b'[{"a": 1}, {"a": NaN}]', "which is NaN; JSON has none", id="NaN"),
        pytest.param(b'[\n{"a": NaN},\n{"b": 1}\n]', "which is NaN; JSON has none", id="an element on each line"),
        pytest.param(b' [\n{"a": NaN}\n{"b": 1}\n]', "which is NaN; JSON has none", id="likewise, without commas"),
        pytest.param(b"[1, ", "no whole JSON with records: Input data was truncated", id="cut short"),
        pytest.param(b"\x92\x01", "no whole MessagePack with records", id="MessagePack that is cut short"),
        pytest.param(b"\x93NUMPY\x01\x00v\x00{", "an array as numpy's save writes it", id="what numpy's save writes"),
        pytest.param('[{"key":"a"}]'.encode("utf-16-le"), "it looks like UTF-16", id="UTF-16"),
        pytest.param(b"\x92\x00\x80\x3f" * 9, "it looks like float32 numbers as bytes", id="bare float32"),
        pytest.param(b"[" * 100_000, "nested too deep", id="too deep"),
    ],
)
def test_a_list_that_is_not_well_formed_makes_the_message_bad(value: bytes, words: str) -> None:
    with pytest.raises(RecordError, match=words):
        cut(value)


def test_too_many_records_make_the_message_bad() -> None:
    assert len(cut(b"[" + b"1," * (MOST_RECORDS - 1) + b"1]") or []) == MOST_RECORDS
    with pytest.raises(RecordError, match=f"{MOST_RECORDS + 1} records; at most {MOST_RECORDS}") as caught:
        cut(b"[" + b"1," * MOST_RECORDS + b"1]")
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("path", "value", "alone"),
    [
        pytest.param("", b'[{"a": 1.50}, {"b":2}]', b'{"a": 1.50}', id="of a list"),
        pytest.param("", b'{"vectors":[{"a":1}]}', b'{"a":1}', id="of a body"),
        pytest.param("", PREFIX + b'[{"a":1}]', PREFIX + b'{"a":1}', id="behind a prefix"),
        pytest.param("", b'{"a":1}\n{"b":2}', b'{"a":1}', id="of lines"),
        pytest.param("", pack([{"a": 1}]), pack({"a": 1}), id="in MessagePack"),
        pytest.param("x.y", b'{"x":{"y":[{"a":1},2],"z":3}}', b'{"x":{"y":[{"a":1}]}}', id="by a path"),
        pytest.param(
            "x[1]", pack({"x": [0, [{"a": 1}]]}), pack({"x": [None, [{"a": 1}]]}), id="by a path, MessagePack"
        ),
    ],
)
def test_one_record_alone_makes_a_message_that_is_read_as_that_record(path: str, value: bytes, alone: bytes) -> None:
    assert Cutter("auto", path).only(value, 0) == alone
    again = cut(alone, path)
    assert again is None or len(again) == 1


@pytest.mark.parametrize("value", [b'{"a":1}', b"[1]", b"[1", b'[1,"\\udfff"]'])
def test_a_record_that_cannot_be_cut_out_as_it_came_is_not(value: bytes) -> None:
    assert Cutter("auto").only(value, 1) is None
    assert Cutter("auto").only(value, -1) is None
