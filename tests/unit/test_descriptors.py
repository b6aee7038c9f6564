"""Descriptors are changed so that no body costs more than its bytes, and mean what they meant before."""

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.support.registry import by_id
from worker.errors import RecordError
from worker.records.formats.framing import Framed
from worker.registry import protoc
from worker.registry.bounds import MOST_ADDED, MOST_NAME
from worker.registry.client import SchemaText, UnusableSchema
from worker.registry.descriptors import FEW_SYMBOLS
from worker.registry.protobuf import ProtobufReader

SECONDS: Final = 10.0  # of CPU, where it takes hundredths, and this machine may be slow and busy
MEGABYTE: Final = 1_000_000
CLOSED: Final = """\
syntax = "proto2";
package a.b;
enum E { ZERO = 0; ONE = 1; FAR = 1000000; }
message R {
  extensions 100 to 200;
  extend R { optional string more = 100; }
  optional E one = 1 [default = FAR];
  repeated E many = 2;
  repeated E packed = 3 [packed = true];
  map<int32, E> map = 4;
  map<string, R> maps = 5;
  optional R inner = 6;
}
extend R { optional string other = 101; }
"""


def schema(text: str) -> SchemaText:
    return SchemaText("PROTOBUF", text)


def plain(reader: ProtobufReader, body: bytes) -> Any:
    return msgspec.msgpack.decode(reader.plain(Framed(by_id(1), b"\0" + body)))


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(number: int, key: bytes, value: bytes) -> bytes:
    """Return an entry of a map."""
    return field(number, b"\x08" + key + b"\x10" + value)


def test_a_closed_enum_leaves_out_what_it_does_not_have_as_the_library_does() -> None:
    pool = DescriptorPool()
    for file in protoc.compiled(schema(CLOSED)).file:
        pool.Add(file)
    body = b"".join([b"\x08\x07", b"\x10\x01\x10\x07\x10\x00", field(3, b"\x01\x07\x01"), entry(4, b"\x01", b"\x01"), entry(4, b"\x02", b"\x07")])  # fmt: skip
    message: Message = GetMessageClass(pool.FindMessageTypeByName("a.b.R")).FromString(body)
    assert not message.HasField("one")
    assert [list(getattr(message, name)) for name in ("many", "packed", "map")] == [[1, 0], [1, 1], [1]]
    assert plain(ProtobufReader(schema(CLOSED)), body) == {
        "many": ["ONE", "ZERO"],
        "packed": ["ONE", "ONE"],
        "map": {"1": "ONE"},
    }


def test_a_closed_enum_with_nothing_that_it_has_is_left_out_altogether() -> None:
    body = b"\x08\x07" + b"\x10\x07" + field(3, b"\x07") + entry(4, b"\x01", b"\x07")
    assert plain(ProtobufReader(schema(CLOSED)), body) == {}


def test_symbols_and_the_default_of_a_field_that_was_not_sent() -> None:
    reader = ProtobufReader(schema(CLOSED))
    assert plain(reader, b"\x08" + varint(1_000_000)) == {"one": "FAR"}
    assert plain(reader, b"") == {}


def test_the_last_entry_of_a_key_counts_as_a_whole() -> None:
    reader = ProtobufReader(schema(CLOSED))
    inner = [b"\x0a\x01a" + field(2, body) for body in (b"\x08\x01", b"\x10\x01")]
    assert plain(reader, b"".join(field(5, each) for each in inner)) == {"maps": {"a": {"many": ["ONE"]}}}
    assert plain(reader, entry(4, b"\x05", b"\x00") + field(4, b"")) == {"map": {"5": "ZERO", "0": "ZERO"}}


def test_extensions_are_not_read_and_harm_nothing() -> None:
    assert plain(ProtobufReader(schema(CLOSED)), field(100, b"x") + b"\x08\x01" + field(101, b"y")) == {"one": "ONE"}


def of_colliding_numbers() -> tuple[str, bytes]:
    """Return a map whose keys the library's hash table puts in few places."""
    body = b"".join(entry(1, varint(at * ((1 << 32) + 1)), b"\x00") for at in range(80_000))
    return 'syntax = "proto3"; message R { map<int64, bool> m = 1; }', body


def of_a_large_closed_enum() -> tuple[str, bytes]:
    """Return values of an enum whose numbers are far from each other."""
    numbers = range(5_000, 95_000, 3)
    symbols = "".join(f"V{number} = {number};" for number in numbers)
    body = (b"\x10" + varint(numbers[-1])) * (MEGABYTE // 4)
    return f'syntax = "proto2"; message R {{ repeated E e = 1; optional E one = 2; }} enum E {{ {symbols} }}', body


def of_a_closed_enum_of_few_symbols() -> tuple[str, bytes]:
    """Return values of the largest enum that the library reads itself."""
    numbers = range(5_000, 5_000 + 3_000 * FEW_SYMBOLS, 3_000)
    symbols = "".join(f"V{number} = {number};" for number in numbers)
    body = (b"\x08" + varint(numbers[-1])) * (MEGABYTE // 4)
    return f'syntax = "proto2"; message R {{ optional E one = 1; }} enum E {{ {symbols} }}', body


def of_many_extensions() -> tuple[str, bytes]:
    """Return a message with many extensions, and the last of them again and again."""
    numbers = range(20_000, 40_000)
    fields = "".join(f"optional bool e{number} = {number};" for number in numbers)
    body = b"".join(varint(number << 3) + b"\x01" for number in numbers)
    body += (varint(numbers[-1] << 3) + b"\x01") * ((MEGABYTE - len(body)) // 4)
    return f'syntax = "proto2"; message R {{ extensions 20000 to max; }} extend R {{ {fields} }}', body


@pytest.mark.parametrize(
    "make",
    [of_colliding_numbers, of_a_large_closed_enum, of_a_closed_enum_of_few_symbols, of_many_extensions],
)
def test_no_megabyte_costs_more_than_its_bytes_by_what_its_schema_says(make: Callable[[], tuple[str, bytes]]) -> None:
    text, body = make()
    reader = ProtobufReader(schema(text))
    assert 0.7 * MEGABYTE < len(body) <= 1.1 * MEGABYTE
    begun = time.process_time()
    plain(reader, body)
    assert time.process_time() - begun < SECONDS


def read(text: str, body: bytes) -> bytes:
    """Return what is read of a body of a schema."""
    return ProtobufReader(schema(f'syntax = "proto3"; {text}')).plain(Framed(by_id(1), b"\0" + body))


@pytest.mark.parametrize(
    ("text", "element"),
    [
        (f"message R {{ repeated E e = 1; enum E {{ {'S' * 900} = 0; }} }}", b"\x08\x00"),
        (f"message R {{ map<string, E> e = 1; enum E {{ {'S' * 900} = 0; }} }}", b"\x0a\x07\x0a\x05%05x"),
        (f"message R {{ repeated I i = 1; message I {{ int32 {'f' * 900} = 1; }} }}", field(1, b"")),
        (f"message R {{ repeated I i = 1; message I {{ optional int32 {'f' * 900} = 1; }} }}", field(1, b"\x08\x01")),
        (
            'import "confluent/type/decimal.proto"; message R { repeated confluent.type.Decimal d = 1; }',
            field(1, b"\x0a\x01\x01\x18\xe8\x07"),
        ),
    ],
)
def test_names_and_symbols_may_add_so_many_bytes_and_no_more(text: str, element: bytes) -> None:
    def body(count: int) -> bytes:
        return b"".join(element % at if b"%" in element else element for at in range(count))

    few = MOST_ADDED // 1_010
    assert len(read(text, body(few))) < 2 * MOST_ADDED
    with pytest.raises(RecordError, match=f"it is more than {MOST_ADDED} bytes longer"):
        read(text, body(3 * few))


def test_names_of_fields_that_are_not_there_do_not_count() -> None:
    fields = "".join(f"optional int32 {'f' * 90}{number} = {number + 1};" for number in range(100))
    text = f"message R {{ repeated I i = 1; message I {{ {fields} }} }}"
    assert read(text, field(1, b"\x08\x01") * 1_500)


LONG: Final = "a" * (MOST_NAME - 10)


@pytest.mark.parametrize(
    "text",
    [
        f"package {LONG[:400]}; message {LONG[400:]}{'b' * 10} {{}}",
        f"message R {{ message {LONG} {{ message {'b' * 20} {{}} }} }}",
        f"message R {{ bool {LONG}{LONG} = 1; }}",
        f"message R {{ enum E {{ {LONG}{LONG} = 0; }} }}",
        f"message R {{}} enum {LONG}{LONG} {{ A = 0; }}",
    ],
)
def test_a_name_that_is_longer_than_its_bound_makes_a_schema_unusable(text: str) -> None:
    with pytest.raises(UnusableSchema, match=f"at most {MOST_NAME} are read"):
        ProtobufReader(schema(f'syntax = "proto3"; {text}'))
