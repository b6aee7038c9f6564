"""What protoc has made of a Protobuf schema, changed so that no body can cost the library more than its bytes.

What the bodies mean stays the same; the readers (protobuf.py) do what the library no longer does.

    map         a list of messages of `key` and `value`, as which it is in the body. The library would build a hash table, whose
                places for numbers anyone can foresee: half a megabyte of keys that collide takes it four seconds.
    enum        an int32. Of a closed enum the library searches each value among all that there are, one by one.
    extension   none: it is an unknown field. The library would search those that a message has, one by one.

No other thread runs in that time.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from worker.registry.bounds import MOST_NAME
from worker.registry.client import UnusableSchema
from worker.words import clean


class Originals(NamedTuple):
    """What the descriptors said: the full names of messages that are entries of maps, and of each field's enum."""

    maps: frozenset[str]
    enums: dict[str, str]


def simplify(files: Iterable[FileDescriptorProto]) -> Originals:
    """Change descriptors, and return what they said. Raises `UnusableSchema` where a name is too long."""
    maps: set[str] = set()
    enums: dict[str, str] = {}
    for file in files:
        file.ClearField("extension")
        _check_enums(file.enum_type, file.package)
        for name, message in _messages(file.message_type, file.package):
            message.ClearField("extension")
            _check_enums(message.enum_type, name)
            if message.options.map_entry:
                message.options.ClearField("map_entry")
                maps.add(name)
            for field in message.field:
                full = _checked(name, field.name)
                if field.type == FieldDescriptorProto.TYPE_ENUM:
                    enums[full] = field.type_name.removeprefix(".")
                    field.type = FieldDescriptorProto.TYPE_INT32
                    field.ClearField("type_name")
                    field.ClearField("default_value")
    return Originals(frozenset(maps), enums)


def _messages(messages: Iterable[DescriptorProto], around: str) -> Iterator[tuple[str, DescriptorProto]]:
    """Yield messages and those in them, each with its full name."""
    for message in messages:
        name = _checked(around, message.name)
        yield name, message
        yield from _messages(message.nested_type, name)


def _check_enums(enums: Iterable[EnumDescriptorProto], around: str) -> None:
    for enum in enums:
        name = _checked(around, enum.name)
        for value in enum.value:
            _checked(name, value.name)


def _checked(*parts: str) -> str:
    """Return a full name."""
    name = ".".join(part for part in parts if part)
    if len(name) > MOST_NAME:
        raise UnusableSchema(
            f"it has a name of {len(name)} characters, {clean(name, 50)}; at most {MOST_NAME} are read"
        )
    return name
