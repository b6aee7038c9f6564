"""The value that chooses the index of a record: of a header, or of a field by its path.

A field is cut out of the value before the record is decoded, by what cuts the fields of a record too, and nothing else of the
value is decoded. So a value that a decoder reads has a routing value wherever it has the field. Where the value cannot be
read, or has no such field, there is no routing value; the record's decoder says what is wrong with it. A field that is a
string and no text (not UTF-8, or with half of a surrogate pair) is an error: it names no index, not even the default.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from worker.errors import RecordError
from worker.records.formats import paths
from worker.records.formats.by_schema import Schemas, plain_value
from worker.records.formats.cloud_events import Events
from worker.records.formats.contract import Headers, Options
from worker.records.formats.envelopes import opener
from worker.records.formats.fields import FieldReader
from worker.records.formats.framing import without_prefix
from worker.records.formats.integers import integer_text
from worker.records.formats.json import JsonFields
from worker.records.formats.leaves import Leaves
from worker.records.formats.msgpack import MsgpackFields
from worker.records.formats.shared import header_text
from worker.records.formats.values import BYTE_ORDER_MARK, UNREADABLE, Kind, Raw
from worker.records.members import is_messagepack

_NO_PLAIN_TEXT: Final = (b"\0", b"{", b"[", b'"', b"Struct{")

ReadValue: TypeAlias = Callable[[bytes | None, bytes | None, Headers], str | None]
"""Returns the text that chooses the index of a message, from its key, value and headers; None where there is none.

Raises `RecordError` where the field of the value is a string that is no text.
"""


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
    field: ReadValue = _Field(path, options).read
    field = field if schemas is None else _by_schema(field, schemas)
    return _in_event(field) if options.envelope == "cloudevents" else field


def _in_event(read: ReadValue, *attributes: str) -> ReadValue:
    """Return what reads the data and the attributes of a CloudEvent. An attribute that is no single value is an error."""
    json = JsonFields("strict")
    within, data_within = Events(json, attributes).within, Events(json, ()).within

    def is_event(value: bytes, headers: Headers) -> bool:
        try:
            data_within(value, headers)
        except RecordError:
            return False
        return True

    def read_within(key: bytes | None, value: bytes | None, headers: Headers) -> str | None:
        if value is None:  # the attributes of an event without data are headers
            return read(key, None, headers)
        try:
            data, with_attributes = within(value, headers)
        except RecordError:
            if not is_event(value, headers):
                return None
            raise
        return read(key, data, with_attributes)

    return read_within


def _by_schema(read: ReadValue, schemas: Schemas) -> ReadValue:
    """Return what reads a field also where the value has a schema; there is none in a value that cannot be read by it."""

    def read_plain(key: bytes | None, value: bytes | None, headers: Headers) -> str | None:
        try:
            plain = None if value is None else plain_value(schemas, value, headers)
        except RecordError:
            return None
        return read(key, plain, headers)

    return read_plain


def _of_kafka_key(options: Options) -> ReadValue:
    keys = options.keys

    def read(key: bytes | None, _value: bytes | None, _headers: Headers) -> str | None:
        try:
            return keys.from_kafka(key)
        except RecordError:
            return None if key is None else _of_no_key(key)

    return read


def _of_no_key(key: bytes) -> str | None:
    """Return the routing value of a Kafka key that is no key by `records.key_format`, None where it has none.

    It may choose an index all the same: a record may have its key elsewhere. With "json" it may be a number, or text that is
    no JSON.
    """
    text = key.strip()
    if (number := integer_text(text)) is not None:
        return number
    try:
        return None if text.startswith(_NO_PLAIN_TEXT) else text.decode() or None
    except UnicodeDecodeError:
        return None


def _of_header(name: str) -> ReadValue:
    def read(_key: bytes | None, _value: bytes | None, headers: Headers) -> str | None:
        try:
            return header_text(headers, name)  # of several the last counts, as in Kafka's own clients
        except RecordError:
            return None

    return read


class _Field:
    """Reads a field of JSON or MessagePack, cut out as a decoder cuts it. Numbers and booleans count as their JSON text."""

    def __init__(self, path: paths.Path, options: Options) -> None:
        self._where = path.text
        json, msgpack = JsonFields("strict"), MsgpackFields("strict")
        self._json = (json, *_cut(json, path.steps))
        self._msgpack = (msgpack, *_cut(msgpack, path.steps))
        self._open_json = opener(json, options.envelope)
        self._open_msgpack = opener(msgpack, options.envelope)

    def read(self, _key: bytes | None, value: bytes | None, _headers: Headers) -> str | None:
        if not value:
            return None
        try:
            if is_messagepack(value):
                record, is_json = self._open_msgpack(value)
            else:
                record, is_json = self._open_json(without_prefix(value).removeprefix(BYTE_ORDER_MARK))[0], True
            fields, cut, slot = self._json if is_json else self._msgpack
            part = cut(record)[slot]
        except RecordError:
            return None
        return self._text(fields, part)

    def _text(self, fields: FieldReader, part: Raw) -> str | None:
        """Return the field as text, None where it has none. Raises `RecordError` where it is a string that is no text."""
        kind = fields.kind(part)
        if kind is Kind.STRING:
            return fields.text(part, self._where)
        if kind not in (Kind.NUMBER, Kind.BOOLEAN):
            return None
        try:
            return msgspec.json.encode(fields.decode_number(part)).decode()
        except UNREADABLE:
            return None


def _cut(fields: FieldReader, steps: tuple[paths.Step, ...]) -> tuple[Callable[[bytes], Sequence[Raw]], int]:
    """Return what cuts the parts of a record, and which of them the steps lead to."""
    leaves = Leaves(fields, [steps])
    return leaves.read, leaves.slot(steps)
