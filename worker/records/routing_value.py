"""The value that chooses the index of a record: of a header, or of a field by its path.

A field is cut out of the value before the record is decoded, step by step along its path, and nothing else of the value is
decoded. Where the value cannot be read, or has no such field, there is no routing value; the record's decoder says what is
wrong with it.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from worker.errors import RecordError
from worker.records.formats import paths
from worker.records.formats.by_schema import Schemas, plain_value
from worker.records.formats.cloud_events import Events
from worker.records.formats.contract import Headers, Options
from worker.records.formats.envelopes import opener
from worker.records.formats.framing import without_prefix
from worker.records.formats.json import JsonFields
from worker.records.formats.msgpack import MsgpackFields
from worker.records.formats.values import BYTE_ORDER_MARK, UNREADABLE

ReadValue: TypeAlias = Callable[[bytes | None, bytes | None, Headers], str | None]
"""Returns the text that chooses the index of a message, from its key, value and headers; None where there is none."""

_MAPS_OF_MSGPACK: Final = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_NOTHING: Final = msgspec.Raw(b"")
_Scalar = str | int | float | bool | None


def reader_of(index_by: str, options: Options, schemas: Schemas | None = None) -> ReadValue:
    """Return what reads the routing value of `index_by = "header:NAME"` or `"field:PATH"`.

    The envelope of `options` is opened first: a path leads through the record in it. `schemas` are those of the registry; where
    the record of a message has one that is not here yet, what is returned raises `SchemaPending`.
    """
    kind, _, name = index_by.partition(":")
    if kind == "header":
        return _of_header(name)
    path = paths.parse(name)
    if path.source is paths.Source.HEADER:
        return _of_header(path.name)
    if path.source is paths.Source.KAFKA_KEY:
        return _of_kafka_key(options)
    if path.source is paths.Source.ATTRIBUTE:
        return _in_event(_of_header(paths.header_of(path.name)), path.name)
    field: ReadValue = _Field(path.steps, options).read
    field = field if schemas is None else _by_schema(field, schemas)
    return _in_event(field) if options.envelope == "cloudevents" else field


def _in_event(read: ReadValue, *attributes: str) -> ReadValue:
    """Return what reads the data and the attributes of a CloudEvent."""
    within = Events(JsonFields("strict"), attributes).within

    def read_within(key: bytes | None, value: bytes | None, headers: Headers) -> str | None:
        if value is None:  # the attributes of an event without data are headers
            return read(key, None, headers)
        try:
            data, with_attributes = within(value, headers)
        except RecordError:
            return None
        return read(key, data, with_attributes)

    return read_within


def _by_schema(read: ReadValue, schemas: Schemas) -> ReadValue:
    """Return what reads a field also where the value has a schema; there is none in a value that cannot be read by it."""

    def read_plain(key: bytes | None, value: bytes | None, headers: Headers) -> str | None:
        try:
            return read(key, None if value is None else plain_value(schemas, value, headers), headers)
        except RecordError:
            return None

    return read_plain


def _of_kafka_key(options: Options) -> ReadValue:
    keys = options.keys

    def read(key: bytes | None, _value: bytes | None, _headers: Headers) -> str | None:
        if keys.enveloped(key) is None:
            return _text(key)
        try:
            return keys.from_kafka(key)
        except RecordError:
            return None

    return read


def _of_header(name: str) -> ReadValue:
    def read(_key: bytes | None, _value: bytes | None, headers: Headers) -> str | None:
        for own, value in reversed(headers):  # of several the last counts, as in Kafka's own clients
            if own == name:
                return _text(value)
        return None

    return read


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


class _Field:
    """Reads a field of JSON or MessagePack. Numbers and booleans count as their JSON text."""

    def __init__(self, steps: tuple[paths.Step, ...], options: Options) -> None:
        self._json = _Cut(msgspec.json.Decoder, steps)
        self._msgpack = _Cut(msgspec.msgpack.Decoder, steps)
        self._open_json = opener(JsonFields("strict"), options.envelope)
        self._open_msgpack = opener(MsgpackFields("strict"), options.envelope)

    def read(self, _key: bytes | None, value: bytes | None, _headers: Headers) -> str | None:
        if not value:
            return None
        try:
            if value[0] in _MAPS_OF_MSGPACK:
                record, is_json = self._open_msgpack(value)
                return (self._json if is_json else self._msgpack).text(record)
            record, _ = self._open_json(without_prefix(value).removeprefix(BYTE_ORDER_MARK))
            return self._json.text(record)
        except (*UNREADABLE, RecordError):
            return None


class _Cut:
    """Cuts one field out of values in one encoding."""

    def __init__(self, decoder: Callable[[Any], Any], steps: tuple[paths.Step, ...]) -> None:
        self._cuts = [cut_of(decoder, step) for step in steps]
        self._decode: Callable[[Any], _Scalar] = decoder(_Scalar).decode

    def text(self, record: bytes) -> str | None:
        """Return the field as text, None where it is not there. Raises what msgspec raises."""
        part: Any = record
        for cut in self._cuts:
            part = cut(part)
            if not bytes(part):
                return None
        found = self._decode(part)
        if isinstance(found, str) or found is None:
            return found
        return msgspec.json.encode(found).decode()


def cut_of(decoder: Callable[[Any], Any], step: paths.Step) -> Callable[[Any], Any]:
    """Return what cuts the named member out of a map, or an element out of a list; an empty part where it is not there."""
    if isinstance(step, int):
        elements = decoder(list[msgspec.Raw]).decode

        def element(part: Any) -> Any:
            found = elements(part)
            return found[step] if step < len(found) else _NOTHING

        return element
    kind = msgspec.defstruct("Member", [("member", msgspec.Raw, _NOTHING)], rename={"member": step}, gc=False)
    decode = decoder(kind).decode
    return lambda part: decode(part).member
