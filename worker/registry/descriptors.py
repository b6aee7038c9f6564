"""What protoc has made of a Protobuf schema, changed so that no body can cost the library more than its bytes.

What the bodies mean stays the same; the readers (protobuf.py) do what the library no longer does.

    map         a list of messages of `key` and `value`, as which it is in the body. The library would build a hash table, whose
                places for numbers anyone can foresee: half a megabyte of keys that collide takes it four seconds.
    enum        an int32, but for a field that is not repeated, and whose enum has few symbols. Of a closed enum the library searches
                each value among all that there are, one by one.
    extension   none: it is an unknown field. The library would search those that a message has, one by one.

No other thread runs in that time.

Two things are read otherwise than by the library:

1. An entry of a map with a field that its schema does not have. Python's library leaves out the whole entry. That is its own way:
   those of C++, Java and Go skip the field and keep the entry, as in any other message, and so do we. The library's reason is an
   entry whose value is no number of a closed enum, and of that the last value counts here.
2. A field of a closed enum with more than `FEW_SYMBOLS`, twice in a body, or in a `oneof` beside another: where the last is a
   number without a symbol, the field is left out. The library would keep what was there before. No serializer writes a field twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from worker.registry.bounds import MOST_NAME
from worker.registry.client import UnusableSchema
from worker.words import clean

FEW_SYMBOLS: Final = 256
"""Of a closed enum that the library reads itself: a megabyte of its numbers costs 0.05 s, where 30,000 symbols take 4 s."""


class Originals(NamedTuple):
    """What the descriptors said: the full names of messages that are entries of maps, and of each field's enum.

    `unchecked` has the strings that the library does not check to be UTF-8, as it does those of proto3.
    """

    maps: frozenset[str]
    enums: dict[str, str]
    unchecked: frozenset[str]


def simplify(files: Sequence[FileDescriptorProto]) -> Originals:
    """Change descriptors, and return what they said. Raises `UnusableSchema` where a name is too long."""
    maps: set[str] = set()
    enums: dict[str, str] = {}
    unchecked: set[str] = set()
    few = _enums_of_few_symbols(files)
    for file in files:
        file.ClearField("extension")
        for name, message in _messages(file.message_type, file.package):
            message.ClearField("extension")
            is_entry = message.options.map_entry
            if is_entry:
                message.options.ClearField("map_entry")
                maps.add(name)
            for field in message.field:
                full = _checked(name, field.name)
                if field.type == FieldDescriptorProto.TYPE_STRING and file.syntax != "proto3":
                    unchecked.add(full)
                if field.type != FieldDescriptorProto.TYPE_ENUM:
                    continue
                enum = enums[full] = field.type_name.removeprefix(".")
                if is_entry or field.label == FieldDescriptorProto.LABEL_REPEATED or enum not in few:
                    field.type = FieldDescriptorProto.TYPE_INT32
                    field.ClearField("type_name")
                    field.ClearField("default_value")
    return Originals(frozenset(maps), enums, frozenset(unchecked))


def _messages(messages: Iterable[DescriptorProto], around: str) -> Iterator[tuple[str, DescriptorProto]]:
    """Yield messages and those in them, each with its full name."""
    for message in messages:
        name = _checked(around, message.name)
        yield name, message
        yield from _messages(message.nested_type, name)


def _enums_of_few_symbols(files: Sequence[FileDescriptorProto]) -> set[str]:
    """Return the full names of these enums. Raises `UnusableSchema` where a name of any is too long."""
    around: list[tuple[str, Iterable[EnumDescriptorProto]]] = []
    for file in files:
        around.append((file.package, file.enum_type))
        around += [(name, message.enum_type) for name, message in _messages(file.message_type, file.package)]
    few: set[str] = set()
    for outer, enums in around:
        for enum in enums:
            name = _checked(outer, enum.name)
            for value in enum.value:
                _checked(name, value.name)
            if len(enum.value) <= FEW_SYMBOLS:
                few.add(name)
    return few


def _checked(*parts: str) -> str:
    """Return a full name."""
    name = ".".join(part for part in parts if part)
    if len(name) > MOST_NAME:
        raise UnusableSchema(
            f"it has a name of {len(name)} characters, {clean(name, 50)}; at most {MOST_NAME} are read"
        )
    return name
