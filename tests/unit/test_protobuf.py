"""Protobuf becomes MessagePack by what protoc makes of the schema's text, and bounded, whatever a body claims."""

import functools
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.support.registry import PROTOBUF, by_id
from worker.errors import Reason, RecordError
from worker.records.formats.framing import Framed
from worker.registry import protoc
from worker.registry.client import SchemaText, UnusableSchema
from worker.registry.protobuf import MOST_VALUES, ProtobufReader

SECONDS: Final = 10.0  # of CPU; the promise is one, and this machine may be slow and busy
MEGABYTE: Final = 1_000_000

WHOLE: Final = """\
syntax = "proto3";
package com.example;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
import "confluent/meta.proto";
import "confluent/type/decimal.proto";
import "google/type/date.proto";
import "google/type/timeofday.proto";
import "google/type/decimal.proto";
import "google/type/month.proto";
import "other/place.proto";
message First { string a = 1; message Inner { string b = 1; } message Second { string c = 1; } }
message Whole {
  option (confluent.message_meta).doc = "all of it";
  enum Kind { NONE = 0; SOME = 1; }
  string text = 1;
  bytes raw = 2;
  int64 long = 3;
  bool flag = 4;
  Kind kind = 5;
  optional int32 maybe = 6;
  oneof either { string left = 7; int32 right = 8; }
  repeated float floats = 9;
  repeated double doubles = 10;
  repeated float unpacked = 11 [packed = false];
  repeated string texts = 12;
  repeated Kind kinds = 13;
  repeated Whole children = 14;
  Whole child = 15;
  map<string, string> map = 16;
  map<int64, bool> numbers = 17;
  map<bool, Whole> wholes = 18;
  google.protobuf.Timestamp at = 19;
  google.protobuf.Duration lasts = 20;
  google.protobuf.StringValue wrapped = 21;
  google.protobuf.Struct struct = 22;
  google.protobuf.Value any = 23;
  google.protobuf.ListValue list = 24;
  confluent.type.Decimal price = 25;
  other.Place place = 26;
  uint64 unsigned = 27;
  google.type.Date day = 28;
  google.type.TimeOfDay time = 29;
  google.type.Decimal amount = 30;
  optional google.type.Month month = 31;
}
"""
OTHER: Final = ("other/place.proto", 'syntax = "proto3"; package other; message Place { string name = 1; }')
NOT_THERE: Final = {"long": 0, "flag": False, "kind": "NONE", "unsigned": 0}
"""What a message has that says nothing: the fields that cannot say whether they are there."""
OF_WHOLE: Final = b"\x02\x02"
"""Its message indexes: one, which is 1."""


@pytest.fixture(scope="module")
def whole() -> ProtobufReader:
    """The reader of the schema above."""
    return ProtobufReader(SchemaText("PROTOBUF", WHOLE, (OTHER,)))


@functools.cache
def messages() -> DescriptorPool:
    """Return the messages of the schema as the library has them, for what writes."""
    pool = DescriptorPool()
    for file in protoc.compiled(SchemaText("PROTOBUF", WHOLE, (OTHER,))).file:
        pool.Add(file)
    return pool


def message(**fields: Any) -> Message:
    """Return a message with these fields."""
    return GetMessageClass(messages().FindMessageTypeByName("com.example.Whole"))(**fields)


def plain(reader: ProtobufReader, body: bytes, indexes: bytes = OF_WHOLE) -> Any:
    return msgspec.msgpack.decode(reader.plain(Framed(by_id(1), indexes + body)))


def read(reader: ProtobufReader, **fields: Any) -> Any:
    """Return what is read of a message with these fields, without what is in each."""
    found = plain(reader, message(**fields).SerializeToString())
    return {name: value for name, value in found.items() if name in fields or NOT_THERE.get(name, ...) != value}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"text": "a", "raw": b"\0\xff", "long": -(2**63), "flag": True, "unsigned": 2**64 - 1}, None),
        ({"kind": 1}, {"kind": "SOME"}),
        ({"kind": 7}, {"kind": 7}),
        ({"maybe": 0}, None),
        ({"left": ""}, None),
        ({"right": 5}, None),
        ({"floats": [0.5, 1.5], "doubles": [0.1], "unpacked": [2.5, 3.5]}, None),
        ({"texts": ["", "b"], "kinds": [0, 1, 9]}, {"texts": ["", "b"], "kinds": ["NONE", "SOME", 9]}),
        ({"map": {"a": "b", "": ""}}, None),
        ({"numbers": {-1: True, 2**62: False}}, {"numbers": {"-1": True, str(2**62): False}}),
        ({"wholes": {True: {"left": "x"}}}, {"wholes": {"true": {"left": "x", **NOT_THERE}}}),
        ({"child": {"children": [{}]}}, {"child": {"children": [NOT_THERE], **NOT_THERE}}),
        ({"at": {"seconds": 1_700_000_000, "nanos": 5}}, {"at": "2023-11-14T22:13:20.000000005Z"}),
        ({"lasts": {"seconds": -3, "nanos": -500_000_000}}, {"lasts": "-3.500000000s"}),
        ({"wrapped": {"value": ""}}, {"wrapped": ""}),
        ({"struct": {"a": [1, None, {"b": "c"}]}}, {"struct": {"a": [1.0, None, {"b": "c"}]}}),
        ({"any": {"bool_value": True}}, {"any": True}),
        ({"list": {"values": [{"string_value": "x"}, {}]}}, {"list": ["x", None]}),
        ({"price": {"value": b"\x04\xce", "scale": 2}}, {"price": "12.30"}),
        ({"day": {"year": 2026, "month": 1, "day": 31}}, {"day": "2026-01-31"}),
        ({"time": {"hours": 12, "minutes": 30, "nanos": 5}}, {"time": "12:30:00.000000005"}),
        ({"amount": {"value": "12.30"}}, {"amount": "12.30"}),
        ({"month": 2}, {"month": "FEBRUARY"}),
        ({"place": {"name": "here"}}, None),
    ],
    ids=lambda each: ",".join(each) if isinstance(each, dict) else "",
)  # fmt: skip
def test_what_each_kind_of_field_becomes(
    whole: ProtobufReader, fields: Mapping[str, Any], expected: Mapping[str, Any] | None
) -> None:
    assert read(whole, **fields) == (fields if expected is None else expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"at": {"seconds": 2**60, "nanos": 0}},
        {"at": {"seconds": 0, "nanos": 10**9}},
        {"price": {"value": b"\x01", "precision": 0, "scale": -1}},
        {"price": {"value": b"\x01" * 129, "precision": 0, "scale": 2}},
        {"day": {"year": 2026, "month": 1, "day": 0}},
        {"day": {"year": 0, "month": 1, "day": 31}},
        {"time": {"hours": 24, "minutes": 0, "seconds": 0, "nanos": 0}},
        {"time": {"hours": 0, "minutes": 0, "seconds": 0, "nanos": -1}},
    ],
    ids=str,
)
def test_a_date_time_or_decimal_out_of_its_range_stays_a_map(whole: ProtobufReader, fields: Mapping[str, Any]) -> None:
    assert read(whole, **fields) == fields


def test_a_field_that_was_not_sent_is_there_if_it_cannot_say_so_and_empty_text_is_not(whole: ProtobufReader) -> None:
    assert plain(whole, b"") == NOT_THERE


@pytest.mark.parametrize(
    ("indexes", "field"),
    [
        (b"\x00", "a"),
        (b"\x02\x00", "a"),
        (b"\x04\x00\x00", "b"),
        (b"\x04\x00\x02", "c"),
    ],
)
def test_the_message_indexes_lead_to_a_message_in_a_message(whole: ProtobufReader, indexes: bytes, field: str) -> None:
    assert plain(whole, b"\x0a\x01x", indexes) == {field: "x"}


def test_indexes_in_a_header_and_a_name_leave_the_whole_body_to_the_message(whole: ProtobufReader) -> None:
    body = b"\x0a\x01x"
    for framed in (
        Framed(by_id(1), body, b""),
        Framed(by_id(1), body, b"\x00"),
        Framed(by_id(1), body, b"", "First"),
        Framed(by_id(1), body, b"", "com.example.First"),
    ):
        assert msgspec.msgpack.decode(whole.plain(framed)) == {"a": "x"}


def nested(levels: int) -> bytes:
    body = b""
    for _ in range(levels):
        size, length = len(body), bytearray()
        while size > 0x7F:
            length.append(size & 0x7F | 0x80)
            size >>= 7
        body = b"\x7a" + bytes([*length, size]) + body
    return body


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (OF_WHOLE + b"\x0a\x05abc", "com.example.Whole"),
        (OF_WHOLE + b"\x0a\x01\xff", "com.example.Whole"),
        (b"", "cut short"),
        (b"\x02", "cut short"),
        (b"\x02\x06", "number 3 of 2 messages"),
        (b"\x02\x01", "number -1 of 2 messages"),
        (b"\x04\x00\x08", "number 4 of 2 messages"),
        (b"\x01", "announces -1 message indexes"),
        (b"\xfe\xff\xff\xff\x0f", "message indexes; at most"),
        (b"\xff" * 6, "no numbers of 32 bits"),
    ],
)
def test_a_body_that_is_not_as_its_schema_says_is_refused_in_words(
    whole: ProtobufReader, body: bytes, said: str
) -> None:
    with pytest.raises(RecordError) as raised:
        whole.plain(Framed(by_id(1), body))
    assert raised.value.reason is Reason.MALFORMED
    assert said in raised.value.message


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x72\x00" * (MEGABYTE // 2), id="half a million empty messages"),
        pytest.param(b"\x68\x00" * (MEGABYTE // 2), id="half a million enums"),
        pytest.param(nested(50_000), id="fifty thousand levels"),
        pytest.param(b"".join(b"\x82\x01\x06\x0a\x04%04x" % at for at in range(60_000)) * 2, id="many names, twice"),
        pytest.param(b"\xb2\x01\x08\x0a\x06\x0a\x00\x12\x02\x32\x00" * 90_000, id="structs in structs"),
        pytest.param(b"\x62\x00" * (MEGABYTE // 2), id="half a million empty texts"),
        pytest.param(b"\x5d\x00\x00\x80\x3f" * (MEGABYTE // 5), id="many floats, each by itself"),
    ],
)  # fmt: skip
def test_no_megabyte_costs_more_than_its_bound_whatever_it_claims(whole: ProtobufReader, body: bytes) -> None:
    begun = time.process_time()
    try:
        whole.plain(Framed(by_id(1), OF_WHOLE + body))
    except RecordError as error:
        assert error.reason is Reason.MALFORMED  # noqa: PT017 - some are read
    assert time.process_time() - begun < SECONDS


def test_a_long_chain_of_messages_is_refused_each_time() -> None:
    chain = "".join(f"message M{at} {{ M{at + 1} m = 1; M0 first = 2; }} " for at in range(350)) + "message M350 {}"
    reader = ProtobufReader(SchemaText("PROTOBUF", f'syntax = "proto3"; {chain}'))
    for _ in range(2):
        with pytest.raises(RecordError, match="nested too deep"):
            plain(reader, b"\x0a\x00", b"\x00")


def test_more_values_than_the_bound_are_refused_in_words(whole: ProtobufReader) -> None:
    with pytest.raises(RecordError, match=f"more than {MOST_VALUES} values"):
        whole.plain(Framed(by_id(1), OF_WHOLE + b"\x72\x00" * (MOST_VALUES // 2)))


@pytest.mark.parametrize(
    ("text", "references", "said"),
    [
        ("nonsense", (), "value.schema.proto:1:1"),
        ('syntax = "proto3"; message R { Missing m = 1; }', (), '"Missing" is not defined'),
        ('syntax = "proto3"; import "nowhere.proto"; message R {}', (), "nowhere.proto"),
        ('syntax = "proto3";', (), "no message"),
        (PROTOBUF, (("../outside.proto", ""),), "no name of a file"),
        (PROTOBUF, (("/etc/outside.proto", ""),), "no name of a file"),
        (PROTOBUF, (("a/../../b", ""),), "no name of a file"),
        (PROTOBUF, (("", ""),), "no name of a file"),
        (PROTOBUF, (("a", ""), ("a/b", "")), "as a file"),
        (PROTOBUF.replace("Envelope", "\ud800"), (), "surrogate"),
    ],
)
def test_what_is_no_schema_is_said_to_be_none(text: str, references: tuple[tuple[str, str], ...], said: str) -> None:
    with pytest.raises(UnusableSchema, match=said):
        ProtobufReader(SchemaText("PROTOBUF", text, references))


def test_a_message_that_a_reference_brings_under_a_known_name_is_read_as_any_other() -> None:
    own = 'syntax = "proto3"; package google.type; message Date { string text = 1; } message Decimal { Date day = 1; }'
    text = (
        'syntax = "proto3"; import "own.proto"; message R { google.type.Date day = 1; google.type.Decimal amount = 2; }'
    )
    reader = ProtobufReader(SchemaText("PROTOBUF", text, (("own.proto", own),)))
    day = b"\x0a\x01x"
    assert plain(reader, b"\x0a\x03" + day + b"\x12\x05\x0a\x03" + day, b"\0") == {
        "day": {"text": "x"},
        "amount": {"day": {"text": "x"}},
    }
