"""Bodies are read as the library reads them by the schema itself, which knows maps and enums as what they are."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from tests.support.registry import by_id
from worker.errors import RecordError
from worker.records.formats.framing import Framed
from worker.registry import protoc
from worker.registry.client import SchemaText
from worker.registry.descriptors import FEW_SYMBOLS
from worker.registry.protobuf import ProtobufReader

BODIES: Final = 1_000
FIELDS: Final = """\
package p;
enum E { ZERO = 0; ONE = 1; TWO = 2; }
message R {
  optional string text = 1;
  repeated string texts = 2;
  optional E one = 3;
  repeated E many = 4;
  repeated E packed = 5 [packed = true];
  oneof either { string left = 6; E right = 7; R inner = 8; }
  map<string, string> strings = 9;
  map<string, E> enums = 10;
  map<int32, R> messages = 11;
  map<bool, E> flags = 12;
  repeated R children = 13;
  map<int32, string> names = 14;
}
"""
PROTO2: Final = f'syntax = "proto2"; {FIELDS.replace("enum E {", "enum E { option allow_alias = true; FIRST = 0;")}'
PROTO3: Final = f'syntax = "proto3"; {FIELDS}'
KINDS: Final = {1: "t", 2: "t", 3: "e", 4: "e", 5: "p", 6: "t", 7: "e", 8: "m", 9: "tt", 10: "te", 11: "em", 12: "be", 13: "m", 14: "et"}  # fmt: skip
"""Of each field: text, enum or other number, enums packed, message, boolean; key and value of a map."""


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128 * 128
    size = len(content)
    return bytes([number << 3 | 2, *([size] if size < 128 else [size & 0x7F | 0x80, size >> 7])]) + content


def of_kind(random_: random.Random, number: int, kind: str, depth: int) -> bytes:
    """Return a field with a value of a kind; now and then its number has no symbol, or its text is not UTF-8."""
    if kind == "t":
        return field(number, random_.choice([b"", b"a", b"b", "é".encode()] * 20 + [b"\xff"]))
    if kind == "p":
        return field(number, bytes(random_.choices([0, 1, 2, 7], k=random_.randrange(4))))
    if kind == "m":
        return field(number, body(random_, depth + 1))
    return bytes([number << 3, random_.choice([0, 1, 1, 2, 7] if kind == "e" else [0, 1])])


def of_entry(random_: random.Random, number: int, kinds: str, depth: int) -> bytes:
    """Return an entry of a map: key and value in any order, either of them missing, the key also twice."""
    parts = [of_kind(random_, 1, kinds[0], depth) for _ in range(random_.choice([0, 1, 1, 1, 2]))]
    if random_.random() < 0.8:
        parts.append(of_kind(random_, 2, kinds[1], depth))
    random_.shuffle(parts)
    return field(number, b"".join(parts))


def body(random_: random.Random, depth: int = 0) -> bytes:
    """Return fields in any order, each any number of times, also such that the schema does not have."""
    found = []
    for number in random_.choices([*KINDS, 15], k=random_.randrange(8 if depth < 2 else 1)):
        kind = KINDS.get(number, "e")
        if random_.random() < 0.03:
            kind = "e" if kind == "t" else "t"  # not of the kind that the schema says
        make = of_entry if len(kind) == 2 else of_kind
        found.append(make(random_, number, kind, depth))
    return b"".join(found)


def said(value: Any, of: Any) -> Any:
    """Return one value of a field as the worker would. Raises `UnicodeDecodeError` for a string that is not UTF-8."""
    if of.message_type is not None:
        return in_message(value)
    if of.enum_type is not None:
        symbol = of.enum_type.values_by_number.get(value)
        return value if symbol is None else symbol.name
    return value.decode() if isinstance(value, bytes) else value


def in_message(message: Message) -> dict[str, Any]:
    """Return what the library has read, in the form that the worker gives it."""
    found: dict[str, Any] = {}
    fields: Sequence[Any] = message.DESCRIPTOR.fields  # the stubs know two classes of them
    for each in fields:
        value = getattr(message, each.name)
        if isinstance(value, Mapping):
            of = each.message_type.fields_by_name
            entries = {key if isinstance(key, str) else msgspec.json.encode(key).decode(): value[key] for key in value}
            value = {key: said(item, of["value"]) for key, item in entries.items()}
        elif each.is_repeated:
            value = [said(item, each) for item in value]
        elif each.has_presence:
            if message.HasField(each.name):
                found[each.name] = said(value, each)
            continue
        else:
            value = said(value, each)
        if value or (each.enum_type is not None and not each.is_repeated):
            found[each.name] = value
    return found


def expected(message: type[Message], body: bytes) -> Any:
    """Return what the library says of a body, None where it is not to be read."""
    try:
        return in_message(message.FromString(body))
    except (DecodeError, UnicodeDecodeError):
        return None


def read(reader: ProtobufReader, body: bytes) -> Any:
    """Return what the worker says of it, None where it is malformed."""
    try:
        return msgspec.msgpack.decode(reader.plain(Framed(by_id(1), b"\0" + body)))
    except RecordError:
        return None


def both(text: str) -> tuple[ProtobufReader, type[Message]]:
    """Return the reader of a schema, and the library's class of its message."""
    schema = SchemaText("PROTOBUF", text)
    pool = DescriptorPool()
    for file in protoc.compiled(schema).file:
        pool.Add(file)
    return ProtobufReader(schema), GetMessageClass(pool.FindMessageTypeByName("p.R"))


@pytest.mark.parametrize(
    "text", [PROTO2, PROTO3, PROTO3.replace("optional ", "")], ids=["proto2", "proto3", "proto3 without optional"]
)
def test_random_bodies_are_read_as_the_library_reads_them(text: str) -> None:
    reader, message = both(text)
    random_ = random.Random(7)
    refused = 0
    for _ in range(BODIES):
        each = body(random_)
        theirs = expected(message, each)
        assert read(reader, each) == theirs, each.hex()
        refused += theirs is None
    assert 10 < refused < BODIES // 2


NOT_UTF8: Final = [
    pytest.param(field(1, b"\xff"), id="field"),
    pytest.param(field(2, b"a") + field(2, b"\xff"), id="list"),
    pytest.param(field(6, b"\xff"), id="oneof"),
    pytest.param(field(9, field(1, b"\xff") + field(2, b"v")), id="key"),
    pytest.param(field(9, field(1, b"k") + field(2, b"\xff")), id="value"),
    pytest.param(field(10, field(1, b"\xff") + b"\x10\x01"), id="key of enums"),
    pytest.param(field(14, b"\x08\x01" + field(2, b"\xff")), id="value of numbers"),
]


@pytest.fixture(scope="module")
def proto2() -> tuple[ProtobufReader, type[Message]]:
    return both(PROTO2)


@pytest.mark.parametrize("body", NOT_UTF8)
def test_a_string_of_proto2_that_is_not_utf_8_is_malformed(
    proto2: tuple[ProtobufReader, type[Message]], body: bytes
) -> None:
    with pytest.raises(RecordError, match="a string is not UTF-8"):
        proto2[0].plain(Framed(by_id(1), b"\0" + body))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"\x18\x01\x18\x07", {"one": "ONE"}),
        (b"\x18\x07\x18\x01", {"one": "ONE"}),
        (b"\x38\x01\x38\x07", {"right": "ONE"}),
        (field(6, b"a") + b"\x38\x07", {"left": "a"}),
    ],
)
def test_a_number_that_a_closed_enum_does_not_have_replaces_nothing(
    proto2: tuple[ProtobufReader, type[Message]], body: bytes, found: Mapping[str, Any]
) -> None:
    assert read(proto2[0], body) == expected(proto2[1], body) == found


def test_of_a_closed_enum_of_many_symbols_the_last_number_counts() -> None:
    symbols = "".join(f"S{number} = {number};" for number in range(3, 3 + FEW_SYMBOLS))
    reader, message = both(PROTO2.replace("TWO = 2;", f"TWO = 2; {symbols}"))
    body = b"\x18\x01" + b"\x18\xe8\x07"  # 1, then 1000
    assert (expected(message, body), read(reader, body)) == ({"one": "ONE"}, {})


def test_an_entry_with_a_field_that_the_schema_does_not_have_is_read(
    proto2: tuple[ProtobufReader, type[Message]],
) -> None:
    body = field(9, field(1, b"k") + field(2, b"v") + b"\x18\x01")
    assert (expected(proto2[1], body), read(proto2[0], body)) == ({}, {"strings": {"k": "v"}})
