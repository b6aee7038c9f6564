"""From bytes to a validated vector: every reason to refuse one, every shape, every limit."""

import base64
import json
import random
import re
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.samples import TARGET
from worker.errors import Reason, RecordError
from worker.records.decode import Decoder, Delete, Ignore, Put
from worker.records.formats.shape import shape_of
from worker.records.target import Target

pack = msgspec.msgpack.encode
MIB = 1024 * 1024
BOM = b"\xef\xbb\xbf"
REGISTRY = b"\x00\x00\x00\x00\x2a"  # schema id 42
VECTOR = [1.0, 2.5, -3.0]
VECTOR_BYTES = struct.pack("<3f", *VECTOR)
VECTOR_BASE64 = base64.b64encode(VECTOR_BYTES).decode()
FRAGMENT = b'{"key":"doc-1","data":{"float32":[1.0,2.5,-3.0]}}'


def decoder(target: Target = TARGET, max_fragment_bytes: int = MIB, **settings: Any) -> Decoder:
    return Decoder(target, max_fragment_bytes=max_fragment_bytes, **settings)


def value(vector: object = VECTOR, key: object = "doc-1", **fields: object) -> bytes:
    """Return a record in JSON."""
    return json.dumps({"key": key, "data": {"float32": vector}, **fields}).encode()


def with_numbers(text: str) -> bytes:
    """Return a record in JSON whose list of numbers is written as given."""
    return b'{"key":"doc-1","data":{"float32":[%s]}}' % text.encode()


def with_metadata(text: bytes) -> bytes:
    """Return a record in JSON whose metadata is written as given."""
    return b'{"key":"doc-1","data":{"float32":[1,2,3]},"metadata":%s}' % text


def packed_with_metadata(metadata: bytes) -> bytes:
    """Return a record in MessagePack whose metadata is written as given."""
    return pack({"key": "doc-1", "data": {"float32": VECTOR}})[:1].replace(b"\x82", b"\x83") + (
        pack({"key": "doc-1", "data": {"float32": VECTOR}})[1:] + pack("metadata") + metadata
    )


def put(value: bytes | None, kafka_key: bytes | None = b"doc-1", by: Decoder | None = None) -> Put:
    """Decode a record that is a vector to write."""
    decoded = (by or decoder()).decode(kafka_key, value, ())
    assert isinstance(decoded, Put)
    return decoded


def refusal(value: bytes | None, kafka_key: bytes | None = b"doc-1", by: Decoder | None = None) -> RecordError:
    """Decode a record that can never be written."""
    with pytest.raises(RecordError) as raised:
        (by or decoder()).decode(kafka_key, value, ())
    return raised.value


def metadata_of(fragment: bytes) -> object:
    return json.loads(fragment)["metadata"]


# -- shapes


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value(), id="JSON list"),
        pytest.param(value(VECTOR_BASE64), id="JSON base64"),
        pytest.param(b" \t\r\n" + value() + b"\n ", id="white space around"),
        pytest.param(BOM + value(), id="byte order mark"),
        pytest.param(BOM + b"\n" + value(), id="byte order mark and white space"),
        pytest.param(REGISTRY + value(), id="registry prefix before JSON"),
        pytest.param(REGISTRY + BOM + value(), id="registry prefix and byte order mark"),
        pytest.param(pack({"key": "doc-1", "data": {"float32": VECTOR}}), id="MessagePack list"),
        pytest.param(pack({"key": "doc-1", "data": {"float32": VECTOR_BASE64}}), id="MessagePack base64"),
        pytest.param(pack({"key": "doc-1", "data": {"float32": VECTOR_BYTES}}), id="MessagePack raw"),
        pytest.param(b"\xde\x00\x02" + pack({"key": "doc-1", "data": {"float32": VECTOR}})[1:], id="MessagePack map16"),
        pytest.param(
            b"\xdf\x00\x00\x00\x02" + pack({"key": "doc-1", "data": {"float32": VECTOR}})[1:], id="MessagePack map32"
        ),
        pytest.param(value(later={"a": [1, None]}, id=7), id="unknown fields"),
        pytest.param(value(metadata=None), id="null metadata"),
        pytest.param(with_metadata(b" null ").replace(b"1,2,3", b"1,2.5,-3"), id="null metadata in white space"),
        pytest.param(pack({"key": "doc-1", "data": {"float32": VECTOR}, "metadata": None}), id="MessagePack null metadata"),
        pytest.param(with_numbers("1,2.5,-3"), id="ints and floats"),
        pytest.param(b'{"key":"\\u0064oc-1","data":{"float32":[1,2.5,-3]}}', id="escaped key"),
        pytest.param(b'{"key":"doc-1","data":{"float32":[1,2.5,-3]},"x":"\xff"}', id="unknown field is not UTF-8"),
        pytest.param(b'{"key":"doc-1","data":{"float32":[1,2.5,-3],"x":"\\ud800"},"\\udc00":1}', id="unknown field is half a surrogate pair"),
        pytest.param(b'{"x":"\\\\ud800 \\ud83d\\ude00 \\ud83d","key":"doc-1","data":{"float32":[1,2.5,-3]}}', id="half a surrogate pair after a whole one"),
        pytest.param(b'{"key":7,"key":"doc-1","data":{"float32":[1,2.5,-3]}}', id="two keys, the first is no string"),
        pytest.param(b'{"key":"\xff","key":"\\ud800","key":"doc-1","data":{"float32":[1,2.5,-3]}}', id="two keys, the first is no text"),
        pytest.param(b'{"key":"doc-1","data":[],"data":{"float32":"?","float32":[1,2.5,-3]}}', id="two vectors, the first is none"),
        pytest.param(b'{"key":"doc-1","metadata":7,"data":{"float32":[1,2.5,-3]},"metadata":null}', id="two metadata, the first is a number"),
        pytest.param(b"\x84\xa3key\x07" + pack({"key": "doc-1", "data": {"float32": VECTOR}, "metadata": None})[1:], id="MessagePack, two keys"),
        pytest.param(b"\x85\x01\x02\x81\x01\x01\xc0\xc4\x03key\x09" + pack({"key": "doc-1", "data": {"float32": VECTOR}})[1:], id="MessagePack, names that are no strings"),
        pytest.param(b"\x83\xa1x\xa1\xff" + pack({"key": "doc-1", "data": {"float32": VECTOR}})[1:], id="MessagePack, unknown field is not UTF-8"),
        pytest.param(b"\x82" + pack("key") + pack("doc-1") + pack("data") + b"\x82\xc3\x01" + pack("float32") + pack(VECTOR), id="MessagePack, a name in data that is no string"),
    ],
)  # fmt: skip
def test_a_record_in_any_shape_becomes_the_same_fragment(value: bytes) -> None:
    assert put(value) == Put("doc-1", FRAGMENT, key_mismatch=False)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        pytest.param("json", value(), id="JSON"),
        pytest.param("json", BOM + value(), id="JSON after a mark"),
        pytest.param("msgpack", pack({"key": "doc-1", "data": {"float32": VECTOR}}), id="MessagePack"),
    ],
)
def test_a_record_in_the_format_that_is_set_is_taken(form: str, value: bytes) -> None:
    assert put(value, by=decoder(format=form)).fragment == FRAGMENT


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        pytest.param("json", pack({"data": {"float32": VECTOR}}), "byte 0x81, which begins no record; expected a JSON map", id="MessagePack"),
        pytest.param("msgpack", value(), "byte 0x7b, which begins no record; expected a MessagePack map", id="JSON"),
        pytest.param("msgpack", BOM + value(), "byte 0xef, which begins no record", id="JSON after a mark"),
    ],
)  # fmt: skip
def test_a_record_in_another_format_than_the_one_set_is_malformed(form: str, value: bytes, expected: str) -> None:
    error = refusal(value, by=decoder(format=form))
    assert (error.reason, expected in error.message) == (Reason.MALFORMED, True)


def test_metadata_is_passed_on_as_it_is() -> None:
    metadata = {"title": 'x "é" 😀', "tags": ["a", "", "b"], "": "", "none": []}
    assert metadata_of(put(value(metadata=metadata)).fragment) == metadata
    assert metadata_of(put(pack({"data": {"float32": VECTOR}, "metadata": metadata})).fragment) == metadata


# -- what can never be written


DEEP = b"[" * 100_000
DEEP_PACKED = b"\x91" * 100_000

REFUSED: list[tuple[str, bytes | None, bytes | None, Reason, str]] = [
    ("empty value", b"", b"k", Reason.MALFORMED, r"empty \(0 bytes\); a record is a JSON or MessagePack map"),
    ("text", b"hello", b"k", Reason.MALFORMED, "begins with byte 0x68, .* expected a JSON or MessagePack map"),
    ("a list", b"[1]", b"k", Reason.MALFORMED, "begins with byte 0x5b"),
    ("a list after white space", b" [1]", b"k", Reason.MALFORMED, "not a vector record: Expected `object`, got `array`"),
    ("white space alone", b"  ", b"k", Reason.MALFORMED, "nothing in it but white space"),
    ("half a mark", BOM[:2], b"k", Reason.MALFORMED, "begins with byte 0xef"),
    ("a mark alone", BOM, b"k", Reason.MALFORMED, "nothing in it but white space"),
    ("cut short", value()[:-1], b"k", Reason.MALFORMED, "no whole JSON map: Input data was truncated"),
    ("trailing bytes", value() + b"x", b"k", Reason.MALFORMED, "trailing characters"),
    ("two records", value() + value(), b"k", Reason.MALFORMED, "trailing characters"),
    ("MessagePack cut short", pack({"data": {"float32": VECTOR}})[:-1], b"k", Reason.MALFORMED, "no whole MessagePack map: Input data was truncated"),
    ("MessagePack trailing bytes", pack({"data": {"float32": VECTOR}}) + b"x", b"k", Reason.MALFORMED, "trailing characters"),
    ("MessagePack header alone", b"\xdf\xff\xff\xff\xff", b"k", Reason.MALFORMED, "truncated"),
    ("NaN in JSON", with_numbers("NaN,1,2"), b"k", Reason.MALFORMED, "JSON is malformed.*, which is NaN; JSON has none"),
    ("Infinity in JSON", with_numbers("-Infinity,1,2"), b"k", Reason.MALFORMED, "which is -Infinity; JSON has none"),
    ("no data", b"{}", b"k", Reason.MALFORMED, "it has no data; needed is data.float32"),
    ("null data", b'{"data":null}', b"k", Reason.MALFORMED, "data is a null; allowed is a map with float32"),
    ("no vector", b'{"data":{}}', b"k", Reason.MALFORMED, "data has no float32"),
    ("null vector", value(None), b"k", Reason.MALFORMED, "data.float32 is a null; allowed are a list of numbers"),
    ("vector of another type", value({"a": 1}), b"k", Reason.MALFORMED, "data.float32 is a map; allowed are a list of numbers"),
    ("a boolean in the vector", value([True, 1, 2]), b"k", Reason.MALFORMED, "number 0 of data.float32 is a boolean; allowed are numbers"),
    ("a string in the vector", value(["1", 1, 2]), b"k", Reason.MALFORMED, "number 0 of data.float32 is a string"),
    ("a null in the vector", value([None, 1, 2]), b"k", Reason.MALFORMED, "number 0 of data.float32 is a null"),
    ("a boolean in MessagePack", pack({"data": {"float32": [1, 2, True]}}), b"k", Reason.MALFORMED, "number 2 of data.float32 is a boolean"),
    ("not base64", value("AAA?"), b"k", Reason.MALFORMED, "not base64.*; allowed are a list of numbers, also as text, or base64 of float32-le"),
    ("base64 cut short", value("AAAAA"), b"k", Reason.MALFORMED, "not base64"),
    ("base64 with too little padding", value("AA="), b"k", Reason.MALFORMED, "not base64"),
    ("base64 of two alphabets", value("AA+_"), b"k", Reason.MALFORMED, "not base64"),
    ("base64 with a space in it", value("AACAPwAA gD8AAIA/"), b"k", Reason.MALFORMED, "not base64"),
    ("text with a word in it", value("[1,2,three]"), b"k", Reason.MALFORMED, "text that is no list of numbers"),
    ("text with a list in it", value("[1,2,[3]]"), b"k", Reason.MALFORMED, "element 2 of the text in data.float32 is no number"),
    ("text with too few numbers", value("1,2"), b"k", Reason.DIMENSION, "has 2 numbers"),
    ("text beyond float64", value("1,2,1e999"), b"k", Reason.NOT_FINITE, "beyond the range of float32"),
    ("a column that PostgreSQL did not send", value("__debezium_unavailable_value"), b"k", Reason.MALFORMED, "unchanged TOAST column"),
    ("base64 beyond ASCII", value("ÀÀÀÀ"), b"k", Reason.MALFORMED, "not base64"),
    ("base64 of half a float", value("AAAA"), b"k", Reason.MALFORMED, "3 bytes, which are no whole float32s of 4 bytes each"),
    ("raw bytes of half a float", pack({"data": {"float32": b"12345"}}), b"k", Reason.MALFORMED, "5 bytes, which are no whole float32s"),
    ("key of another type", value(key=5), b"k", Reason.MALFORMED, "key is a number; allowed is a string"),
    ("key of bytes", pack({"key": b"x", "data": {"float32": VECTOR}}), b"k", Reason.MALFORMED, "key is a binary; allowed is a string"),
    ("key is not UTF-8", b'{"key":"\xff","data":{"float32":[1,2,3]}}', b"k", Reason.MALFORMED, "a string that is not UTF-8"),
    ("key is half a surrogate pair", b'{"key":"\\ud800","data":{"float32":[1,2,3]}}', b"k", Reason.MALFORMED, "surrogate"),
    ("key is not UTF-8 in MessagePack", pack({"key": "~", "data": {"float32": VECTOR}}).replace(b"~", b"\xff"), b"k", Reason.MALFORMED, "a string that is not UTF-8"),
    ("metadata is not UTF-8 after a number", with_metadata(b'{"n":1,"t":"\xe9"}'), b"k", Reason.MALFORMED, "a string that is not UTF-8; in metadata 't'"),
    ("metadata is not UTF-8 in a list after a number", with_metadata(b'{"t":[1,"\xe9"]}'), b"k", Reason.MALFORMED, "a string that is not UTF-8; in metadata 't'"),
    ("a name in metadata is not UTF-8", with_metadata(b'{"n":1,"\xe9":"x"}'), b"k", Reason.MALFORMED, "a string that is not UTF-8; in a name in metadata"),
    ("MessagePack metadata is not UTF-8 after a number", packed_with_metadata(b"\x82\xa1n\x01\xa1t\xa1\xe9"), b"k", Reason.MALFORMED, "a string that is not UTF-8; in metadata 't'"),
    ("a MessagePack name is not UTF-8 beside a number", packed_with_metadata(b"\x82\x01\x01\xa1\xe9\xa1x"), b"k", Reason.MALFORMED, "a string that is not UTF-8; in a name in metadata"),
    ("a name in metadata is half a surrogate pair", with_metadata(b'{"\\ud83d":"x"}'), b"k", Reason.MALFORMED, "half of a surrogate pair.*in a name in metadata"),
    ("the last of two keys is no string", b'{"key":"a","key":7,"data":{"float32":[1,2,3]}}', b"k", Reason.MALFORMED, "key is a number"),
    ("the last of two data has no vector", b'{"data":{"float32":[1,2,3]},"data":{}}', b"k", Reason.MALFORMED, "data has no float32"),
    ("metadata is not UTF-8", with_metadata(b'{"a":"\xff"}'), b"k", Reason.MALFORMED, "a string that is not UTF-8"),
    ("metadata has half a surrogate pair", with_metadata(b'{"a":"\\udc00"}'), b"k", Reason.MALFORMED, "half of a surrogate pair.*in metadata 'a'"),
    ("unknown field nested deep", b'{"x":' + DEEP, b"k", Reason.MALFORMED, "JSON is nested too deep"),
    ("metadata nested deep", with_metadata(b'{"a":' + DEEP + b"]" * 100_000 + b"}"), b"k", Reason.MALFORMED, "JSON is nested too deep"),
    ("MessagePack nested deep", b"\x81\xa1x" + DEEP_PACKED, b"k", Reason.MALFORMED, "MessagePack is nested too deep"),
    ("MessagePack metadata nested deep", packed_with_metadata(b"\x81\xa1a" + DEEP_PACKED + b"\x01"), b"k", Reason.MALFORMED, "MessagePack is nested too deep"),
    ("registry prefix before Avro", REGISTRY + b"\x02abc", b"k", Reason.UNSUPPORTED_ENCODING, r"schema id 42\).* is not a JSON map; Avro and Protobuf are not read"),
    ("registry prefix before MessagePack", REGISTRY + pack({"data": {}}), b"k", Reason.UNSUPPORTED_ENCODING, "schema id 42"),
    ("registry prefix before nothing", REGISTRY, b"k", Reason.UNSUPPORTED_ENCODING, "schema id 42"),
    ("half a registry prefix", REGISTRY[:3], b"k", Reason.UNSUPPORTED_ENCODING, "begins with 0x00 and ends after 3 bytes; expected JSON"),
    ("registry prefix before broken JSON", REGISTRY + b"{", b"k", Reason.MALFORMED, "truncated"),
    ("registry prefix before JSON cut short", REGISTRY + value()[:-1], b"k", Reason.MALFORMED, "truncated"),
    ("registry prefix before JSON with NaN", REGISTRY + with_numbers("NaN,1,2"), b"k", Reason.MALFORMED, "which is NaN"),
    ("registry prefix before JSON without a vector", REGISTRY + b"\n{ }", b"k", Reason.MALFORMED, "it has no data"),
    ("registry prefix before Avro that begins with a tab", REGISTRY + b"\x09abc", b"k", Reason.UNSUPPORTED_ENCODING, "schema id 42"),
    ("registry prefix before Avro that begins with a line feed", REGISTRY + b"\x0aabcde", b"k", Reason.UNSUPPORTED_ENCODING, "schema id 42"),
    ("registry prefix before Avro that begins with a return", REGISTRY + b"\x0dabc", b"k", Reason.UNSUPPORTED_ENCODING, "schema id 42"),
    ("registry prefix before Avro that begins with a space", REGISTRY + b"\x20" + b"d" * 16, b"k", Reason.UNSUPPORTED_ENCODING, "schema id 42"),
    ("registry prefix before Avro that begins with a bracket", REGISTRY + b"\x7babc", b"k", Reason.UNSUPPORTED_ENCODING, "schema id 42"),
    ("registry prefix before Avro that begins with a space and a bracket", REGISTRY + b"\x20\x7b\x00\x01", b"k", Reason.UNSUPPORTED_ENCODING, "schema id 42"),
    ("registry prefix before a list", REGISTRY + b" [1]", b"k", Reason.MALFORMED, "schema id 42.*the JSON behind it is a list"),
    ("registry prefix before what begins as a list", REGISTRY + b" [1\x00", b"k", Reason.UNSUPPORTED_ENCODING, "not a JSON map"),
    ("registry prefix before UTF-16", REGISTRY + value().decode().encode("utf-16-le"), b"k", Reason.MALFORMED, "what follows looks like UTF-16"),
    ("UTF-32 without a mark", value().decode().encode("utf-32-be"), b"k", Reason.MALFORMED, "looks like UTF-32"),
    ("gzip", b"\x1f\x8b\x08\x00", b"k", Reason.MALFORMED, "looks like gzip; expected a JSON or MessagePack map"),
    ("a pickle", b"\x80\x04\x95\x00", b"k", Reason.MALFORMED, "looks like a Python pickle"),
    ("UTF-16 without a mark", value().decode().encode("utf-16-le"), b"k", Reason.MALFORMED, "looks like UTF-16"),
    ("UTF-16 of the other order without a mark", value().decode().encode("utf-16-be"), b"k", Reason.MALFORMED, "looks like UTF-16"),
    ("float64 in base64", value(base64.b64encode(struct.pack("<3d", *VECTOR)).decode()), b"k", Reason.DIMENSION, "has 6 numbers.*24 bytes would be as many float64"),
    ("float16 in base64", value(base64.b64encode(struct.pack("<3e", *VECTOR)).decode()), b"k", Reason.MALFORMED, "no whole float32s.*6 bytes would be as many float16"),
    ("no key at all", value(key=None), None, Reason.KEY, 'neither the value nor the message has a key; one of "key" and the Kafka key'),
    ("empty key", value(key=""), b"k", Reason.KEY, "the key is empty; allowed are 1 to 1024"),
    ("empty Kafka key", value(key=None), b"", Reason.KEY, "the key is empty; allowed are 1 to 1024"),
    ("key too long", value(key="a" * 1025), b"k", Reason.KEY, "has 1025 characters; allowed are 1 to 1024"),
    ("Kafka key too long", value(key=None), b"a" * 1025, Reason.KEY, "has 1025 characters; allowed are 1 to 1024"),
    ("Kafka key is not UTF-8", value(key=None), b"ab\xff", Reason.KEY, "the Kafka key is not UTF-8: invalid start byte at byte 2"),
    ("Kafka key is half a character", value(key=None), b"\xc3", Reason.KEY, "the Kafka key is not UTF-8: unexpected end of data"),
    ("Kafka key with a registry prefix", value(key=None), REGISTRY + b"k", Reason.KEY, "begins with 0x00, as a schema registry's prefix does"),
    ("Kafka key of one zero byte", value(key=None), b"\x00", Reason.KEY, "begins with 0x00"),
    ("too few numbers", value([1, 2]), b"k", Reason.DIMENSION, "has 2 numbers, the index docs has 3 dimensions"),
    ("too many numbers", value([1, 2, 3, 4]), b"k", Reason.DIMENSION, "has 4 numbers, the index docs has 3 dimensions"),
    ("no numbers", value([]), b"k", Reason.DIMENSION, "has 0 numbers"),
    ("no bytes", value(""), b"k", Reason.DIMENSION, "has 0 numbers"),
    ("too few raw numbers", pack({"data": {"float32": b"\0" * 8}}), b"k", Reason.DIMENSION, "has 2 numbers"),
    ("too many in base64", value(base64.b64encode(b"\0" * 16).decode()), b"k", Reason.DIMENSION, "has 4 numbers"),
    ("NaN in MessagePack", pack({"data": {"float32": [1, 2, float("nan")]}}), b"k", Reason.NOT_FINITE, "number 2 of data.float32 is nan; allowed are finite float32 numbers"),
    ("infinity in MessagePack", pack({"data": {"float32": [1, float("-inf"), 2]}}), b"k", Reason.NOT_FINITE, "number 1 of data.float32 is -inf"),
    ("NaN in raw bytes", pack({"data": {"float32": struct.pack("<3f", 1, float("nan"), 2)}}), b"k", Reason.NOT_FINITE, "number 1 of data.float32 is nan"),
    ("infinity in base64", value("AACAfwAAgD8AAIA/"), b"k", Reason.NOT_FINITE, "number 0 of data.float32 is inf"),
    ("beyond the float32 range", with_numbers("3.40282353e38,3.5e38,1"), b"k", Reason.NOT_FINITE, r"number 1 of data.float32 is 3.5e\+38, beyond the range of float32"),
    ("the least beyond", with_numbers("3.4028235677973366e38,0,1"), b"k", Reason.NOT_FINITE, "number 0 .*beyond the range of float32"),
    ("negative beyond", with_numbers("0,1,-3.5e38"), b"k", Reason.NOT_FINITE, r"number 2 of data.float32 is -3.5e\+38"),
    ("beyond the float64 range", with_numbers("1e999,0,1"), b"k", Reason.NOT_FINITE, r"Number out of range - at `\$.data.float32\[0\]`; beyond"),
    ("a number of 400 digits", with_numbers("9" * 400 + ",0,1"), b"k", Reason.NOT_FINITE, "Number out of range"),
    ("a number of 5,000 digits", with_numbers("9" * 5000 + ",0,1"), b"k", Reason.NOT_FINITE, "Number out of range"),
    ("all zero", value([0, 0, 0]), b"k", Reason.ZERO_VECTOR, "all 3 numbers are zero as float32, and the index measures cosine distance"),
    ("all minus zero", value([-0.0, 0, -0.0]), b"k", Reason.ZERO_VECTOR, "all 3 numbers are zero"),
    ("zero as float32", with_numbers("1e-50,-1e-60,0"), b"k", Reason.ZERO_VECTOR, "zero as float32"),
    ("raw zeros", pack({"data": {"float32": b"\0" * 12}}), b"k", Reason.ZERO_VECTOR, "all 3 numbers are zero"),
    ("metadata is a list", value(metadata=[1]), b"k", Reason.METADATA, "metadata is a list; allowed is a map of strings to strings or lists of strings"),
    ("metadata is a string", value(metadata="x"), b"k", Reason.METADATA, "metadata is a string; allowed is a map"),
    ("metadata has a number", value(metadata={"a": "b", "n": 1}), b"k", Reason.METADATA, "metadata 'n' is a number; allowed .*stringify"),
    ("metadata has a boolean", value(metadata={"n": True}), b"k", Reason.METADATA, "metadata 'n' is a boolean"),
    ("metadata has a null", value(metadata={"n": None}), b"k", Reason.METADATA, "metadata 'n' is a null"),
    ("metadata has a map", value(metadata={"n": {}}), b"k", Reason.METADATA, "metadata 'n' is a map"),
    ("metadata has a number in a list", value(metadata={"n": ["a", 2]}), b"k", Reason.METADATA, "metadata 'n' holds a number in its list"),
    ("metadata has a null in a list", value(metadata={"n": ["a", None]}), b"k", Reason.METADATA, "metadata 'n' holds a null in its list"),
    ("metadata has a number of 5,000 digits", with_metadata(b'{"n":' + b"9" * 5000 + b"}"), b"k", Reason.METADATA, "metadata 'n' is a number; allowed is a map"),
    ("metadata has bytes", pack({"data": {"float32": VECTOR}, "metadata": {"n": b"x"}}), b"k", Reason.METADATA, "metadata 'n' is a binary"),
    ("metadata has a number as a key", packed_with_metadata(b"\x81\x01\xa1x"), b"k", Reason.METADATA, "has a name that is a number"),
    ("metadata has a map as a key", packed_with_metadata(b"\x81\x81\x01\x01\x01"), b"k", Reason.METADATA, "has a name that is a map; allowed is a map"),
    ("metadata has an extension type", packed_with_metadata(b"\x81\xa1n\xd4\x01\x01"), b"k", Reason.METADATA, "metadata 'n' is a value of an extension type"),
    ("metadata too large", value(metadata={"text": "x" * 40 * 1024}), b"k", Reason.METADATA, "metadata has 40964 bytes; allowed are 40960 bytes a vector"),
    ("filterable metadata too large", value(metadata={"a": "x" * 2048}), b"k", Reason.METADATA, "filterable metadata has 2049 bytes; allowed are 2048 bytes a vector"),
    ("too many filterable keys", value(metadata={str(n): "x" for n in range(11)}), b"k", Reason.METADATA, "metadata has 11 filterable keys; allowed are 10"),
    ("a tombstone", None, b"k", Reason.TOMBSTONE, 'the value is null, and records.tombstones is "dead-letter"; "delete" .* "ignore"'),
    ("more than a request holds", value(key="doc-1", metadata={"text": "x" * 1100}), b"k", Reason.TOO_LARGE, r"the record makes 11\d\d bytes of request, at most 1000 fit one alone \(batch.max_bytes\)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "kafka_key", "reason", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_a_record_that_can_never_be_written_is_refused_with_its_reason(
    value: bytes | None, kafka_key: bytes | None, reason: Reason, message: str
) -> None:
    limit = 1000 if reason is Reason.TOO_LARGE else MIB
    with pytest.raises(RecordError, match=message) as raised:
        decoder(max_fragment_bytes=limit).decode(kafka_key, value, ())
    assert raised.value.reason == reason
    assert str(raised.value) == raised.value.message


def test_the_table_holds_every_reason_that_a_record_has_by_itself() -> None:
    assert {case[3] for case in REFUSED} == set(Reason) - {
        Reason.REFUSED,
        Reason.ISOLATED_SERVER_ERROR,
        Reason.SUSPECT,  # test_suspects.py
        Reason.INTERNAL_ERROR,
        Reason.NO_ROUTE,
    }


@pytest.mark.parametrize("bad", [1, [1], {}, None], ids=["number", "list", "map", "null"])
def test_a_long_metadata_key_is_cut_in_the_message_since_that_becomes_a_header(bad: object) -> None:
    error = refusal(value(metadata={"k" * 500_000: bad}))
    assert (error.reason, len(error.message) < 500, "k" * 100 in error.message) == (Reason.METADATA, True, True)


# -- numbers


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        pytest.param("3.4028235e38,-3.4028235e38,1", b"[3.4028235e+38,-3.4028235e+38,1.0]", id="the largest float32"),
        pytest.param("3.40282356e38,0,1", b"[3.4028235e+38,0.0,1.0]", id="rounds down to the largest"),
        pytest.param("1e-45,0,0", b"[1e-45,0.0,0.0]", id="the smallest float32 is no zero"),
        pytest.param("-0.0,0,1", b"[-0.0,0.0,1.0]", id="minus zero beside others"),
        pytest.param("0.1,1e-50,1", b"[0.1,0.0,1.0]", id="too small becomes zero"),
        pytest.param("18446744073709551616,1,1", b"[1.8446744e+19,1.0,1.0]", id="an integer of 2^64"),
        pytest.param("9" * 38 + ",1,1", b"[1e+38,1.0,1.0]", id="an integer of 38 digits"),
        pytest.param("0.100000001490116119384765625,1,1", b"[0.1,1.0,1.0]", id="more digits than float32 has"),
    ],
)
def test_numbers_become_the_shortest_text_of_their_float32(numbers: str, expected: bytes) -> None:
    text = put(with_numbers(numbers)).fragment.partition(b'"float32":')[2][:-2]
    assert text.replace(b"e+", b"e") == expected.replace(b"e+", b"e")


def test_a_zero_vector_under_euclidean_is_written() -> None:
    by = decoder(Target("docs", 3, "euclidean"))
    assert put(value([0, -0.0, 0]), by=by).fragment == b'{"key":"doc-1","data":{"float32":[0.0,-0.0,0.0]}}'


def test_a_denormal_of_zero_and_sign_bytes_alone_is_no_zero_vector() -> None:
    raw = bytes.fromhex("00800000" + "80000000" + "00000080")
    assert json.loads(put(pack({"data": {"float32": raw}})).fragment)["data"]["float32"][0] > 0


# -- keys


@pytest.mark.parametrize("character", ["a", "é", "漢", "😀"], ids=["1 byte", "2 bytes", "3 bytes", "4 bytes"])
@pytest.mark.parametrize("where", ["value", "Kafka key"])
def test_key_lengths_are_counted_in_characters(character: str, where: str) -> None:
    def attempt(length: int) -> str:
        key = character * length
        decoded = decoder().decode(key.encode(), value(key=key if where == "value" else None), ())
        assert isinstance(decoded, Put)
        return decoded.key

    assert [len(attempt(length)) for length in (1, 1024)] == [1, 1024]
    for length in (0, 1025):
        with pytest.raises(RecordError) as raised:
            attempt(length)
        assert raised.value.reason == Reason.KEY


@pytest.mark.parametrize(
    ("key_format", "kafka_key", "in_value", "expected"),
    [
        pytest.param("utf8", b"k", None, ("k", False), id="the Kafka key where the value has none"),
        pytest.param("utf8", "é".encode(), None, ("é", False), id="a Kafka key beyond ASCII"),
        pytest.param("utf8", b'"k"', None, ('"k"', False), id="quotes are part of the key"),
        pytest.param("utf8", b"k", "k", ("k", False), id="both the same"),
        pytest.param("utf8", b"other", "k", ("k", True), id="the value's key wins"),
        pytest.param("utf8", b"\xff", "k", ("k", True), id="the Kafka key is not UTF-8 and not needed"),
        pytest.param("utf8", REGISTRY, "k", ("k", True), id="the Kafka key has a prefix and is not needed"),
        pytest.param("utf8", None, "k", ("k", False), id="no Kafka key"),
        pytest.param("json", b'"k"', None, ("k", False), id="JSON Kafka key"),
        pytest.param("json", b'"\\u00e9"', None, ("é", False), id="JSON Kafka key with an escape"),
        pytest.param("json", b'"k"', "k", ("k", False), id="JSON, both the same"),
        pytest.param("json", b'"other"', "k", ("k", True), id="JSON, the value's key wins"),
        pytest.param("json", b"{", "k", ("k", True), id="the Kafka key is not JSON and not needed"),
    ],
)
def test_the_vectors_key_and_whether_the_kafka_key_differs(
    key_format: str, kafka_key: bytes | None, in_value: str | None, expected: tuple[str, bool]
) -> None:
    decoded = put(value(key=in_value), kafka_key, decoder(key_format=key_format))
    assert (decoded.key, decoded.key_mismatch) == expected


@pytest.mark.parametrize(
    "kafka_key",
    [b"k", b"5", b"null", b'["k"]', b'"k', b'"k"x', b'"\\ud800"', b'"\xff"', b"", b"\x00\x00\x00\x00\x01\"k\"", b'""'],
    ids=["bare", "number", "null", "list", "cut", "trailing", "surrogate", "not UTF-8", "empty", "prefix", "empty string"],
)  # fmt: skip
def test_a_kafka_key_that_is_no_json_string_is_refused_where_it_is_needed(kafka_key: bytes) -> None:
    assert refusal(value(key=None), kafka_key, decoder(key_format="json")).reason == Reason.KEY


# -- tombstones


@pytest.mark.parametrize(
    ("key", "envelope", "can_delete"),
    [
        ("", "none", True),
        ("id", "none", True),
        ("$kafka.key", "none", True),
        ("{tenant}/{id}", "none", False),
        ("{tenant}/{id}", "connect", True),
        ("{$kafka.key}/1", "none", False),
        ("$header.id", "none", False),
        ("$header.id", "connect", False),
    ],
)
def test_a_tombstone_is_advised_to_delete_only_where_it_names_the_key(
    key: str, envelope: Any, can_delete: bool
) -> None:
    made = decoder(shape=shape_of(key, "data.float32", "metadata", ""), envelope=envelope)
    message = refusal(None, b"doc-1", made).message
    assert ('"delete" would delete the vector' in message) is can_delete
    assert ("records.fields.delete" in message) is not can_delete


def test_a_tombstone_deletes_where_that_is_set() -> None:
    assert decoder(tombstones="delete").decode(b"doc-1", None, ()) == Delete("doc-1")
    assert decoder(tombstones="delete", key_format="json").decode(b'"doc-1"', None, ()) == Delete("doc-1")


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"\x00a", b"a" * 1025])
def test_a_tombstone_without_a_usable_key_deletes_nothing(key: bytes | None) -> None:
    assert refusal(None, key, decoder(tombstones="delete")).reason == Reason.KEY


@pytest.mark.parametrize("key", [None, b"doc-1", b"\xff"])
def test_a_tombstone_is_passed_over_where_that_is_set(key: bytes | None) -> None:
    assert decoder(tombstones="ignore").decode(key, None, ()) == Ignore()


@pytest.mark.parametrize("path", ["", "$kafka.key", "{$kafka.key}/1"])
def test_a_kafka_key_whose_schema_is_in_a_header_names_no_vector(path: str) -> None:
    shape = shape_of(path, "data.float32", "metadata", "")
    made, headers = decoder(tombstones="delete", shape=shape), [("__key_schema_id", b"\0\0\0\0\7")]
    for body in (value(key=None), None):
        with pytest.raises(RecordError, match="__key_schema_id") as raised:
            made.decode(b"\x0adoc-1", body, headers)
        assert raised.value.reason is Reason.KEY


def test_a_record_with_a_key_of_its_own_needs_no_kafka_key_that_is_text() -> None:
    found = decoder().decode(b"\x0adoc-1", value(), [("__key_schema_id", b"\0\0\0\0\7")])
    assert found == Put("doc-1", FRAGMENT, key_mismatch=True)


def test_an_empty_value_is_no_tombstone() -> None:
    assert refusal(b"", b"doc-1", decoder(tombstones="delete")).reason == Reason.MALFORMED


# -- metadata


@pytest.mark.parametrize(
    ("metadata", "beyond"),
    [
        pytest.param({"text": "x" * (40 * 1024 - 4)}, {"text": "x" * (40 * 1024 - 3)}, id="40 KiB in all"),
        pytest.param({"text": ["é" * 10238, "é" * 10240]}, {"text": ["é" * 10238, "é" * 10240, "x"]}, id="40 KiB in lists, in UTF-8"),
        pytest.param({"a": "x" * 2047}, {"a": "x" * 2048}, id="2 KiB filterable"),
        pytest.param({"é": "漢" * 682}, {"é": "漢" * 682 + "x"}, id="2 KiB filterable, in UTF-8"),
        pytest.param({"a": "x" * 2047, "text": "y" * 9999}, {"a": "x" * 2047, "b": ""}, id="2 KiB beside what is not filterable"),
        pytest.param({"a": ['"' * 1000, "\n" * 1047]}, {"a": ['"' * 1000, "\n" * 1048]}, id="without quotes and escapes"),
        pytest.param({str(n): "" for n in range(10)}, {str(n): "" for n in range(11)}, id="10 filterable keys"),
        pytest.param({"text": "", **{str(n): "" for n in range(10)}}, {"text": "", **{str(n): "" for n in range(11)}}, id="10 keys beside what is not filterable"),
    ],
)  # fmt: skip
def test_metadata_is_taken_up_to_its_limit_and_refused_beyond(metadata: object, beyond: object) -> None:
    assert metadata_of(put(value(metadata=metadata)).fragment) == metadata
    assert refusal(value(metadata=beyond)).reason == Reason.METADATA


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        pytest.param({"a": 1, "b": -2.5, "c": 1e300}, {"a": "1", "b": "-2.5", "c": "1e300"}, id="numbers"),
        pytest.param({"a": True, "b": False}, {"a": "true", "b": "false"}, id="booleans"),
        pytest.param({"a": None, "b": "x"}, {"b": "x"}, id="a null is dropped"),
        pytest.param({"a": None}, {}, id="nothing is left"),
        pytest.param({"a": [1, "x", True, None, 0.5]}, {"a": ["1", "x", "true", "0.5"]}, id="lists"),
        pytest.param({"a": "1", "b": ["true"]}, {"a": "1", "b": ["true"]}, id="strings stay"),
        pytest.param({"a": 2**64}, {"a": "18446744073709551616"}, id="a large integer"),
    ],
)
def test_stringify_turns_numbers_and_booleans_into_their_json_text(metadata: object, expected: object) -> None:
    texts = metadata_of(put(value(metadata=metadata), by=decoder(metadata_values="stringify")).fragment)
    assert json.loads(json.dumps(texts).replace("e+", "e")) == expected


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        pytest.param(value(metadata={"a": {"b": 1}}), "metadata 'a' holds a map; allowed are strings, numbers, booleans", id="map"),
        pytest.param(value(metadata={"a": [["b"]]}), "metadata 'a' holds a list; allowed", id="list in a list"),
        pytest.param(value(metadata="x"), "metadata is a string", id="not a map"),
        pytest.param(pack({"data": {"float32": VECTOR}, "metadata": {"a": b"x"}}), "metadata 'a' holds a binary", id="bytes"),
        pytest.param(pack({"data": {"float32": VECTOR}, "metadata": {"a": float("nan")}}), "is nan, which JSON cannot express", id="NaN"),
        pytest.param(pack({"data": {"float32": VECTOR}, "metadata": {"a": [float("inf")]}}), "is inf", id="infinity in a list"),
        pytest.param(with_metadata(b'{"n":' + b"9" * 5000 + b"}"), "out of range", id="5,000 digits"),
        pytest.param(packed_with_metadata(b"\x81\x81\x01\x01\x01"), "has a name that is a map", id="a map as a key"),
        pytest.param(value(metadata={"a": ["x" * 2047, 12]}), "filterable metadata has 2050 bytes", id="too large as text"),
    ],
)  # fmt: skip
def test_stringify_refuses_what_has_no_text(encoded: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message) as raised:
        decoder(metadata_values="stringify").decode(b"k", encoded, ())
    assert raised.value.reason == Reason.METADATA


# -- size


def test_a_fragment_of_just_the_size_that_fits_is_taken_and_one_byte_more_is_not() -> None:
    assert put(value(), by=decoder(max_fragment_bytes=len(FRAGMENT))).fragment == FRAGMENT
    assert refusal(value(), by=decoder(max_fragment_bytes=len(FRAGMENT) - 1)).reason == Reason.TOO_LARGE


# -- what nobody foresaw


class Nonsense(Exception):
    """No exception that anybody raises."""


@pytest.mark.parametrize(
    "error", [Nonsense("secret"), MemoryError(), RecursionError(), UnicodeError("secret")], ids=repr
)
@pytest.mark.parametrize("where", ["_read", "_choose_key", "_vector_json", "_metadata_member", "_put"])
def test_whatever_reading_a_record_raises_is_that_records_dead_letter(
    monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    by = decoder()
    monkeypatch.setattr(by, where, fail)
    refused = refusal(value(), by=by)
    assert refused.reason is Reason.INTERNAL_ERROR
    assert re.search(
        rf"failed with {type(error).__name__} at tests.unit.test_decode:\d+ in fail, called from worker.records.decode:\d+ in (decode|_put)",
        refused.message,
    )
    assert "secret" not in refused.message


def test_an_interrupt_while_a_record_is_read_is_not_taken_for_the_records_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    by = decoder()
    monkeypatch.setattr(by, "_put", interrupt)
    with pytest.raises(KeyboardInterrupt):
        by.decode(b"k", value(), ())


@pytest.mark.parametrize("depth", range(900, 1000))
@pytest.mark.parametrize("form", ["JSON", "MessagePack"])
def test_a_value_nested_near_the_limit_is_malformed_or_has_wrong_metadata(form: str, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth if form == "JSON" else b"\x91" * depth + b"\xc0"
    encoded = with_metadata(nested) if form == "JSON" else packed_with_metadata(nested)
    assert refusal(encoded).reason in (Reason.MALFORMED, Reason.METADATA)


# -- for any record

text = st.text(st.characters(codec="utf-8"), max_size=12)
floats = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-3.4e38, 3.4e38),
    st.integers(-(2**70), 2**70),
)
metadatas = st.none() | st.dictionaries(text, text | st.lists(text, max_size=3), max_size=10)


@st.composite
def valid_records(draw: st.DrawFn) -> tuple[bytes, list[float], str, object]:
    """Return a record's bytes, and the numbers, key and metadata in it."""
    numbers: list[float] = draw(st.lists(floats, min_size=1, max_size=6))
    key = draw(text.filter(bool))
    metadata = draw(metadatas)
    packed = np.array(numbers, "<f4").tobytes()
    vector: Any = numbers
    shape = draw(st.sampled_from(["list", "base64", "raw"]))
    is_json = shape != "raw" and draw(st.booleans())
    if shape == "base64":
        vector = base64.b64encode(packed).decode()
    elif shape == "raw":
        vector = packed
    elif not is_json:  # MessagePack has no integers beyond 64 bits
        vector = [float(number) for number in numbers]
    fields: dict[str, Any] = {"key": key, "data": {"float32": vector}}
    if metadata is not None or draw(st.booleans()):
        fields["metadata"] = metadata
    if is_json:
        prefix = draw(st.sampled_from([b"", BOM, REGISTRY, b" \n"]))
        return prefix + json.dumps(fields, ensure_ascii=draw(st.booleans())).encode(), numbers, key, metadata
    return pack(fields), numbers, key, metadata


@given(valid_records())
@example((value([16777217, 1e16, 0.1]), [16777217, 1e16, 0.1], "doc-1", None))
def test_the_fragment_of_a_valid_record_reads_back_bit_for_bit(record: tuple[bytes, list[float], str, object]) -> None:
    encoded, numbers, key, metadata = record
    decoded = put(encoded, key.encode(), decoder(Target("docs", len(numbers), "euclidean")))
    read = json.loads(decoded.fragment)
    vector = read["data"].pop("float32")
    assert np.array(vector, "<f4").tobytes() == np.array(numbers, "<f4").tobytes()
    assert read == {"key": key, "data": {}} | ({} if metadata is None else {"metadata": metadata})
    assert (decoded.key, decoded.key_mismatch) == (key, False)


@given(valid_records())
def test_the_fragment_of_a_valid_record_is_never_longer_than_needed(
    record: tuple[bytes, list[float], str, object],
) -> None:
    encoded, numbers, _, _ = record
    fragment = put(encoded, None, decoder(Target("docs", len(numbers), "euclidean"))).fragment
    read = json.loads(fragment, parse_float=str)
    texts = read["data"]["float32"]
    read["data"]["float32"] = []
    around = json.dumps(read, ensure_ascii=False, separators=(",", ":")).encode()
    assert len(fragment) == len(around) + len(",".join(texts))
    for number in texts:
        digits = number.partition("e")[0].replace(".", "").lstrip("-0").rstrip("0")
        wanted = np.format_float_scientific(np.float32(number), trim="-").partition("e")[0].replace(".", "")
        assert len(digits) <= len(wanted.lstrip("-"))


every_decoder = st.builds(
    decoder,
    st.sampled_from([TARGET, Target("docs", 1, "euclidean")]),
    st.sampled_from([10, MIB]),
    format=st.sampled_from(["auto", "json", "msgpack"]),
    key_format=st.sampled_from(["utf8", "json"]),
    metadata_values=st.sampled_from(["strict", "stringify"]),
    tombstones=st.sampled_from(["dead-letter", "delete", "ignore"]),
)
beginnings = st.sampled_from(
    [b"", b"{", b'{"data":{"float32":[', BOM, REGISTRY, b"\x81\xa4data\x81\xa7float32", b"\xde"]
)
anything = st.none() | st.builds(bytes.__add__, beginnings, st.binary(max_size=60))


@st.composite
def mutated_records(draw: st.DrawFn) -> bytes:
    """Return a valid record after some random edits."""
    encoded = bytearray(draw(valid_records())[0])
    rng = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(1, 4))):
        place = rng.randrange(len(encoded) + 1)
        edit = rng.choice(["set", "insert", "cut", "end"])
        if edit == "insert":
            encoded[place:place] = rng.choice(
                [b"[", b"}", b"null", b"1e999", b"\xff", b"\\ud800", b"\xc1", b"\x91", b"9" * 30]
            )
        elif edit == "set":
            encoded[place : place + 1] = bytes([rng.randrange(256)])
        elif edit == "cut":
            del encoded[place : place + rng.randrange(1, 9)]
        else:
            del encoded[place:]
    return bytes(encoded)  # fmt: skip


odd_metadata = st.builds(
    packed_with_metadata,
    st.binary(max_size=30).map(lambda tail: b"\x82\xa1n\x01\xa1t" + tail) | st.binary(min_size=1, max_size=40),
) | st.builds(
    with_metadata,
    st.lists(
        st.sampled_from([b'"n":', b"1", b",", b'"\xe9"', b"{", b"}", b"[", b"]", b'"\\ud83d"', b"null", b"1e999", b"9" * 4400]),
        max_size=12,
    ).map(lambda parts: b"{" + b"".join(parts) + b"}"),
)  # fmt: skip


@given(anything | mutated_records() | odd_metadata, st.none() | st.binary(max_size=8), every_decoder)
def test_any_bytes_are_decoded_or_refused_with_a_reason(
    encoded: bytes | None, key: bytes | None, decoder: Decoder
) -> None:
    try:
        outcome: object = decoder.decode(key, encoded, ())
    except RecordError as error:
        outcome = error.reason if 0 < len(error.message.encode()) < 1000 else error
    assert isinstance(outcome, (Put, Delete, Ignore, Reason))
    assert outcome is not Reason.INTERNAL_ERROR


@given(mutated_records(), every_decoder)
def test_what_is_taken_of_a_broken_record_is_still_json_with_finite_numbers(encoded: bytes, decoder: Decoder) -> None:
    try:
        decoded = decoder.decode(b"k", encoded, ())
    except RecordError:
        return
    assert isinstance(decoded, Put)
    read = json.loads(decoded.fragment, parse_constant=pytest.fail)
    assert (read["key"], np.isfinite(np.array(read["data"]["float32"], "<f4")).all()) == (decoded.key, True)
