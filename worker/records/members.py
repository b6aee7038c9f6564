"""A value that is cut into its members, which stay bytes, and each of them likewise. Only for messages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from worker.records.formats.framing import without_prefix
from worker.records.formats.json import JsonFields
from worker.records.formats.msgpack import MsgpackFields
from worker.records.formats.values import BYTE_ORDER_MARK, UNREADABLE, Kind, Raw

NOTHING: Final = msgspec.Raw(b"")


class Encoding(NamedTuple):
    """Cuts values of one encoding. What it calls raises what msgspec raises."""

    members: Callable[[Any], Mapping[str, Raw]]
    elements: Callable[[Any], Sequence[Raw]]
    text: Callable[[Any], str]
    kinds: tuple[Kind, ...]

    def kind(self, raw: Raw) -> Kind:
        """Return what a value is."""
        view = memoryview(raw)
        return self.kinds[view[0]] if view else Kind.NOTHING


JSON: Final = Encoding(
    msgspec.json.Decoder(dict[str, Raw]).decode,
    msgspec.json.Decoder(list[Raw]).decode,
    msgspec.json.Decoder(str).decode,
    JsonFields.kind_of_byte,
)
MSGPACK: Final = Encoding(
    msgspec.msgpack.Decoder(dict[str, Raw]).decode,
    msgspec.msgpack.Decoder(list[Raw]).decode,
    msgspec.msgpack.Decoder(str).decode,
    MsgpackFields.kind_of_byte,
)


class Fields(NamedTuple):
    """A value that is a map: its encoding, and its members."""

    encoding: Encoding
    members: Mapping[str, Raw]


def fields_of(value: bytes) -> Fields | None:
    """Return the fields of a value, None where it is no map of names."""
    body = without_prefix(value).removeprefix(BYTE_ORDER_MARK)
    encoding = MSGPACK if is_messagepack(body) else JSON
    try:
        return Fields(encoding, encoding.members(body))
    except UNREADABLE:
        return None


def members_of(encoding: Encoding, raw: Raw) -> Mapping[str, Raw] | None:
    """Return the members of a map, None where it is none, or cannot be read."""
    if encoding.kind(raw) is not Kind.MAP:
        return None
    try:
        return encoding.members(raw)
    except UNREADABLE:
        return None


def text_of(encoding: Encoding, raw: Raw) -> str:
    """Return a string, "" where it is none, or cannot be read."""
    try:
        return encoding.text(raw)
    except UNREADABLE:
        return ""


def is_messagepack(value: bytes) -> bool:
    """Return whether a value begins as a map in MessagePack."""
    return bool(value) and MsgpackFields.kind_of_byte[value[0]] is Kind.MAP


def first_name_kind(value: bytes) -> Kind:
    """Return what the first name of a map in MessagePack is, nothing where the value is no such map."""
    at = {0xDE: 3, 0xDF: 5}.get(value[0], 1) if is_messagepack(value) else len(value)
    return MsgpackFields.kind_of_byte[value[at]] if at < len(value) else Kind.NOTHING
