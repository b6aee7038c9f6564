"""Protobuf: bodies of one schema as MessagePack, by descriptors that protoc has compiled.

    numbers, bool, string, bytes, repeated    as in MessagePack
    message, group          a map of its fields by their names in the schema
    map                     a map; a name that is a number or a boolean becomes its text
    enum                    the symbol, as text; the number where there is no such symbol
    Timestamp, Duration     text: 2026-01-31T12:30:00.000000000Z, 3.500000000s
    StringValue, ...        the value
    Struct, Value, ListValue    what they say
    confluent.type.Decimal  text with all its places
    google.type.Date, TimeOfDay, Decimal    text: 2026-01-31, 12:30:00.000000000, what it says

A time, a date or a decimal that is out of its range remains a map of its fields.

A field that says whether it is there (`optional`, proto2, a message, a member of a oneof) and is not, is left out. Any other
is in the message also where it was not sent: a number as 0, a boolean as false, an enum as its first symbol. An empty text,
empty bytes and an empty list are left out, so that an empty key lets the Kafka key count.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import date, time
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import numpy as np
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError, Message

from worker.errors import Reason, RecordError
from worker.records.formats.framing import Framed
from worker.registry import protoc, texts
from worker.registry.bounds import MOST_ADDED, TOO_LONG
from worker.registry.client import SchemaText, UnusableSchema
from worker.registry.descriptors import Originals, simplify
from worker.registry.indexes import end_of_indexes, read_indexes
from worker.registry.packed import DOUBLE, SINGLE, Packed, as_list
from worker.words import clean

MOST_VALUES: Final = 200_000
"""Of one message, but for lists of numbers and texts."""
_NOT_UTF8: Final = "a string is not UTF-8"
_MESSAGES_KEPT: Final = 100  # of one schema, by their indexes

_encode: Final = msgspec.msgpack.Encoder().encode
_encode_json: Final = msgspec.json.Encoder().encode

_Plain: TypeAlias = Callable[[Any], Any]
_Add: TypeAlias = Callable[[Any, dict[str, Any]], None]


class _Broken(Exception):
    """A body is not what its schema says; the message says how."""


class ProtobufReader:
    """Reads bodies of one schema. Raises `UnusableSchema` where that cannot be."""

    encoding = "Protobuf"

    def __init__(self, schema: SchemaText) -> None:
        found = protoc.compiled(schema)
        self._file: FileDescriptorProto = found.file[-1]
        self._pool = descriptor_pool.DescriptorPool()
        originals = simplify(found.file)
        try:
            for file in found.file:
                self._pool.Add(file)
        except TypeError as error:  # what the pool raises for descriptors that it does not accept
            raise UnusableSchema(f"its descriptors are refused: {clean(str(error), 300)}") from None
        if not self._file.message_type:
            raise UnusableSchema("it has no message")
        self._plain = _Plains(originals, self._pool)
        self._messages: dict[bytes | str, tuple[type[Message], _Plain]] = {}

    def plain(self, framed: Framed, /) -> bytes:
        """Return a body as MessagePack. Raises `RecordError`."""
        at = 0
        try:
            if framed.message_name:
                message, plain = self._of(framed.message_name, lambda: self._by_name(framed.message_name))
            elif framed.indexes is None:
                at = end_of_indexes(framed.body)
                message, plain = self._of(framed.body[:at], lambda: self._by_indexes(framed.body[:at]))
            else:
                indexes = framed.indexes[: end_of_indexes(framed.indexes)] if framed.indexes else b"\0"
                message, plain = self._of(indexes, lambda: self._by_indexes(indexes))
            self._plain.begin()
            return _encode(plain(message.FromString(framed.body[at:])))
        except DecodeError as error:
            problem = f"{clean(str(error), 200)}"
        except UnicodeDecodeError:
            problem = _NOT_UTF8
        except RecursionError:
            problem = "it is nested too deep"
        except IndexError:
            problem = "its message indexes are cut short"
        except (_Broken, ValueError, OverflowError) as error:
            problem = str(error)
        raise RecordError(Reason.MALFORMED, f"the Protobuf is not as its schema says: {problem}")

    def _of(self, said: bytes | str, find: Callable[[], str]) -> tuple[type[Message], _Plain]:
        """Return the class of a message and what makes it plain, from what the body says of it."""
        known = self._messages.get(said)
        if known is None:
            descriptor: Descriptor = self._pool.FindMessageTypeByName(find())
            try:
                known = (message_factory.GetMessageClass(descriptor), self._plain.of_message(descriptor))
            except RecursionError:
                self._plain.forget()  # what was half made would read such messages as empty
                raise
            if len(self._messages) < _MESSAGES_KEPT:
                self._messages[said] = known
        return known

    def _by_indexes(self, said: bytes) -> str:
        """Return the name of the message that the indexes lead to: its place in the file, then in the message around it."""
        among: Any = self._file.message_type
        names = [self._file.package] if self._file.package else []
        for index in read_indexes(said):
            if not 0 <= index < len(among):
                raise _Broken(f"its message indexes lead to number {index} of {len(among)} messages")
            names.append(among[index].name)
            among = among[index].nested_type
        return ".".join(names)

    def _by_name(self, name: str) -> str:
        package = f"{self._file.package}." if self._file.package else ""
        for full in (name, f"{package}{name}"):
            try:
                self._pool.FindMessageTypeByName(full)
            except KeyError:
                continue
            return full
        raise _Broken(f"its schema has no message {clean(name, 200)}")


class _Plains:
    """Makes what turns messages into plain values, one for each descriptor; and counts the values of one message."""

    def __init__(self, originals: Originals, pool: descriptor_pool.DescriptorPool) -> None:
        self.maps = originals.maps
        self.unchecked = originals.unchecked
        self._enums = originals.enums
        self._pool = pool
        self._made: dict[str, list[_Add]] = {}
        self._values = 0
        self._added = 0
        self._at_most = 0

    def begin(self) -> None:
        """Begin the count of another message."""
        self._values = self._added = self._at_most = 0

    def expect(self, values: int, added: int = 0) -> None:
        """Count values that are about to be read, and the bytes that the schema adds to them."""
        self._values += values
        self._added += added
        if self._values > MOST_VALUES:
            raise _Broken(f"it has more than {MOST_VALUES} values")
        if self._added > MOST_ADDED:
            raise _Broken(TOO_LONG)

    def forget(self) -> None:
        """Forget what was made."""
        self._made.clear()

    def enum_of(self, field: FieldDescriptor) -> EnumDescriptor | None:
        """Return the enum that a field is of, if it is of one."""
        name = self._enums.get(field.full_name)
        return None if name is None else self._pool.FindEnumTypeByName(name)

    def of_message(self, descriptor: Descriptor) -> _Plain:
        """Return what makes a message of this descriptor plain."""
        special = _SPECIAL.get(descriptor.full_name)
        if special is not None and _FIELDS.get(descriptor.full_name, set()).issubset(descriptor.fields_by_name):
            return lambda message: special(message, self.expect)
        made = self._made
        name = descriptor.full_name
        if name not in made:
            made[name] = []  # so that a message that contains itself is made once
            made[name] += [_field(field, self) for field in descriptor.fields]

        fields = made[name]
        names = sum(len(field.name) for field in descriptor.fields)

        def plain(message: Any) -> dict[str, Any]:
            self.expect(len(fields) + 1)
            self._at_most += names
            found: dict[str, Any] = {}
            for add in fields:
                add(message, found)
            if self._at_most > MOST_ADDED:  # now it is worth while to count those that are there
                self.expect(0, sum(map(len, found)))
            return found

        return plain


def _field(field: FieldDescriptor, plains: _Plains) -> _Add:
    """Return what adds a field to the plain value of its message."""
    name, kind = field.name, field.message_type
    if kind is not None and kind.full_name in plains.maps:
        return _map(name, kind.fields_by_name, plains)
    if field.is_repeated:
        return _repeated(field, plains)
    element = _element(field, plains)
    if field.has_presence:
        known = _numbers_of_closed(plains.enum_of(field))

        def add_if_there(message: Any, found: dict[str, Any]) -> None:
            if message.HasField(name):
                value = getattr(message, name)
                if known is None or value in known:
                    found[name] = element(value)

        return add_if_there
    leave_out_empty = field.cpp_type == FieldDescriptor.CPPTYPE_STRING  # texts and bytes

    def add(message: Any, found: dict[str, Any]) -> None:
        value = getattr(message, name)
        if value or not leave_out_empty:
            found[name] = element(value)

    return add


def _numbers_of_closed(enum: EnumDescriptor | None) -> frozenset[int] | None:
    """Return the numbers of a closed enum, as those of proto2 are: any other in a body is as if it was not there."""
    return frozenset(enum.values_by_number) if enum is not None and enum.is_closed else None


_PACKED: Final = {FieldDescriptor.CPPTYPE_FLOAT: SINGLE, FieldDescriptor.CPPTYPE_DOUBLE: DOUBLE}


def _repeated(field: FieldDescriptor, plains: _Plains) -> _Add:
    if field.cpp_type in _PACKED:
        return _floats(field.name, _PACKED[field.cpp_type])
    if field.message_type is not None or plains.enum_of(field) is not None:
        return _list(field, plains)
    return _values(field.name, may_be_no_utf8=field.full_name in plains.unchecked)


def _floats(name: str, packed: Packed) -> _Add:
    def add(message: Any, found: dict[str, Any]) -> None:
        if values := getattr(message, name):
            numbers = np.array(values, packed.plain)
            found[name] = as_list(packed.items(numbers), len(numbers))

    return add


def _values(name: str, *, may_be_no_utf8: bool) -> _Add:
    def add(message: Any, found: dict[str, Any]) -> None:
        if values := getattr(message, name):
            found[name] = plain = list(values)
            if may_be_no_utf8:
                _check_utf8(plain)

    return add


def _list(field: FieldDescriptor, plains: _Plains) -> _Add:
    name, element, known = field.name, _element(field, plains), _numbers_of_closed(plains.enum_of(field))

    def add(message: Any, found: dict[str, Any]) -> None:
        if values := getattr(message, name):
            plains.expect(len(values))
            if plain := [element(value) for value in values if known is None or value in known]:
                found[name] = plain

    return add


def _map(name: str, of_entry: Mapping[str, FieldDescriptor], plains: _Plains) -> _Add:
    element = _element(of_entry["value"], plains)
    known = _numbers_of_closed(plains.enum_of(of_entry["value"]))
    has_text_keys = of_entry["key"].type == FieldDescriptor.TYPE_STRING
    are_unchecked = of_entry["key"].full_name in plains.unchecked

    def add(message: Any, found: dict[str, Any]) -> None:
        if entries := getattr(message, name):
            plains.expect(len(entries))
            kept = entries if known is None else [entry for entry in entries if entry.value in known]
            if has_text_keys:  # in either, the last entry of a key counts
                plain = {entry.key: entry.value for entry in kept}
                if are_unchecked:
                    _check_utf8(plain)
            else:  # numbers as names: in a `dict`, they themselves would collide in a foreseeable way
                plain = {_encode_json(entry.key).decode(): entry.value for entry in kept}
            if element is _text:
                _check_utf8(plain.values())
            elif element is not _as_it_is:
                plain = {key: element(value) for key, value in plain.items()}
            if plain:
                found[name] = plain

    return add


def _element(field: FieldDescriptor, plains: _Plains) -> _Plain:
    """Return what makes one value of a field plain."""
    if (enum := plains.enum_of(field)) is not None:
        # Of two symbols of one number the first counts, as in the library's JSON.
        return _symbol({value.number: value.name for value in reversed(enum.values)}, plains)
    if field.message_type is not None:
        return plains.of_message(field.message_type)
    return _text if field.full_name in plains.unchecked else _as_it_is


def _symbol(symbols: Mapping[int, str], plains: _Plains) -> _Plain:
    def plain(number: int) -> str | int:
        symbol = symbols.get(number)
        if symbol is None:
            return number
        plains.expect(0, len(symbol))
        return symbol

    return plain


def _as_it_is(value: Any) -> Any:
    return value


def _text(value: Any) -> Any:
    if type(value) is bytes:  # proto2 lets a string be any bytes, and then the library returns them as such
        raise _Broken(_NOT_UTF8)
    return value


def _check_utf8(values: Iterable[Any]) -> None:
    """Refuse strings that are not UTF-8, as `_text`."""
    if bytes in map(type, values):
        raise _Broken(_NOT_UTF8)


class _Expect(Protocol):
    def __call__(self, values: int, added: int = 0, /) -> None: ...


def _or_fields(text: Callable[[Any, _Expect], str]) -> Callable[[Any, _Expect], Any]:
    """Return what writes a message as text. Where it is out of its range it is a map of its fields, as any other message."""

    def plain(message: Any, expect: _Expect) -> Any:
        try:
            return text(message, expect)
        except (ValueError, OverflowError, TypeError):  # TypeError: another message has this name
            names = [field.name for field in message.DESCRIPTOR.fields]
            expect(len(names) + 1, sum(map(len, names)))
            return {name: getattr(message, name) for name in names}

    return plain


def _moment(message: Any, _expect: _Expect) -> str:
    return texts.of_moment(message.seconds * 10**9 + _nanos(message), 9)


def _date(message: Any, _expect: _Expect) -> str:
    return date(message.year, message.month, message.day).isoformat()


def _time_of_day(message: Any, _expect: _Expect) -> str:
    return f"{time(message.hours, message.minutes, message.seconds).isoformat()}.{_nanos(message):09}"


def _nanos(message: Any) -> int:
    nanos: int = message.nanos
    if not 0 <= nanos < 10**9:
        raise ValueError(f"{nanos} nanoseconds are not within a second")
    return nanos


def _span(message: Any, _expect: _Expect) -> str:
    total = message.seconds * 10**9 + message.nanos
    whole, fraction = divmod(abs(total), 10**9)
    return f"{'-' if total < 0 else ''}{whole}.{fraction:09}s"


def _wrapped(message: Any, _expect: _Expect) -> Any:
    return message.value


def _struct(message: Any, expect: _Expect) -> dict[str, Any]:
    expect(len(message.fields))
    return {entry.key: _json_value(entry.value, expect) for entry in message.fields}


def _json_list(message: Any, expect: _Expect) -> list[Any]:
    expect(len(message.values))
    return [_json_value(value, expect) for value in message.values]


def _json_value(message: Any, expect: _Expect) -> Any:
    kind = message.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    value = getattr(message, kind)
    if kind == "struct_value":
        return _struct(value, expect)
    return _json_list(value, expect) if kind == "list_value" else value


def _decimal(message: Any, expect: _Expect) -> str:
    if not 0 <= message.scale <= _MOST_SCALE:
        raise ValueError(f"a Decimal has the scale {message.scale}")
    expect(0, message.scale)
    return texts.of_decimal(message.value, message.scale)


_MOST_SCALE: Final = 1_000
_WRAPPERS: Final = ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
_SPECIAL: Final[Mapping[str, Callable[[Any, _Expect], Any]]] = {
    "google.protobuf.Timestamp": _or_fields(_moment),
    "google.protobuf.Duration": _span,
    **{f"google.protobuf.{kind}Value": _wrapped for kind in _WRAPPERS},
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _json_value,
    "google.protobuf.ListValue": _json_list,
    "google.type.Date": _or_fields(_date),
    "google.type.TimeOfDay": _or_fields(_time_of_day),
    "google.type.Decimal": _wrapped,
    "confluent.type.Decimal": _or_fields(_decimal),
}
_FIELDS: Final[Mapping[str, set[str]]] = {
    "google.type.Date": {"year", "month", "day"},
    "google.type.TimeOfDay": {"hours", "minutes", "seconds", "nanos"},
    "google.type.Decimal": {"value"},
    "confluent.type.Decimal": {"value", "scale"},
}
"""That a message must have to be one of these: a reference may bring another one of the same name."""
