"""The key of a record without the rest of it, as far as it can be read: for what is said of records that are wrong otherwise."""

from collections.abc import Callable
from typing import TypeAlias

from worker.errors import RecordError
from worker.records.formats.around import Around
from worker.records.formats.by_schema import Schemas, plain_value
from worker.records.formats.cloud_events import Events
from worker.records.formats.contract import Headers, Options
from worker.records.formats.envelopes import ENVELOPES, EnvelopeReader
from worker.records.formats.fields import FieldReader
from worker.records.formats.framing import without_prefix
from worker.records.formats.json import JsonFields
from worker.records.formats.leaves import Leaves
from worker.records.formats.mapped import MappedReader
from worker.records.formats.msgpack import MsgpackFields
from worker.records.formats.shape import KEY_PATH
from worker.records.formats.values import BYTE_ORDER_MARK
from worker.records.formats.vector_alone import VectorAlone

ReadKey: TypeAlias = Callable[[bytes | None, bytes | None, Headers], str | None]
"""Returns the key of the vector that a message is about, from its key, value and headers; None where it cannot be read."""

OwnKey: TypeAlias = Callable[[bytes | None, bytes, Headers], str | None]


def key_reader(options: Options, schemas: Schemas | None = None) -> ReadKey:
    """Return what reads the keys of a route's records; `schemas` are those of the registry, and raise what they raise."""
    if options.shape.is_vector_alone:
        return _key_around(options)
    keys = options.keys
    own: OwnKey = _OwnKey().read if options.is_fixed else _MappedKey(options).read
    if schemas is not None:
        own = _by_schema(own, schemas)
    if options.envelope == "cloudevents":
        own = _in_events(own, options)

    def read(key: bytes | None, value: bytes | None, headers: Headers) -> str | None:
        try:
            found = own(key, value, headers) if value else None
            return keys.of_message(key, headers) if found is None else found
        except RecordError:
            return None

    return read


def _key_around(options: Options) -> ReadKey:
    """Return what reads the keys of records whose value is a vector alone. A null value is about the Kafka key."""
    keys, reader = options.keys, VectorAlone(options)

    def read(key: bytes | None, value: bytes | None, headers: Headers) -> str | None:
        try:
            found = None if value is None else reader.key(key, headers)
            return keys.of_message(key, headers) if found is None else found
        except RecordError:
            return None

    return read


class _OwnKey:
    """Reads the keys of records of the service's own shape, cut out as a decoder cuts them."""

    def __init__(self) -> None:
        encodings: tuple[FieldReader, ...] = (JsonFields("strict"), MsgpackFields("strict"))
        self._readers = [(fields, Leaves(fields, [KEY_PATH.steps])) for fields in encodings]

    def read(self, _key: bytes | None, value: bytes, _headers: Headers) -> str | None:
        """Return the key, None where neither encoding has one that is text."""
        body = without_prefix(value).removeprefix(BYTE_ORDER_MARK)
        for fields, leaves in self._readers:
            try:
                return fields.key(leaves.read(body)[0], KEY_PATH.text)
            except RecordError:
                continue
        return None


class _MappedKey:
    """Reads the keys of records of another shape. A shape that names a key has no other one."""

    def __init__(self, options: Options) -> None:
        json = JsonFields(options.metadata_values, options.vector_bytes)
        msgpack = MsgpackFields(options.metadata_values, options.vector_bytes)
        self._read = (_key_of(json, options), _key_of(msgpack, options))

    def read(self, key: bytes | None, value: bytes, headers: Headers) -> str | None:
        """Return the key. Raises `RecordError` where neither encoding has it."""
        body = without_prefix(value)
        of_json, of_msgpack = self._read
        try:
            return of_json(key, body.removeprefix(BYTE_ORDER_MARK), headers)
        except RecordError:
            return of_msgpack(key, body, headers)


def _key_of(fields: FieldReader, options: Options) -> OwnKey:
    if options.envelope in ENVELOPES:
        return EnvelopeReader(fields, options, JsonFields(options.metadata_values)).key
    reader = MappedReader(fields, options)
    return lambda key, body, headers: reader.key(body, Around(key, headers))


def _by_schema(own: OwnKey, schemas: Schemas) -> OwnKey:
    return lambda key, value, headers: own(key, plain_value(schemas, value, headers), headers)


def _in_events(own: OwnKey, options: Options) -> OwnKey:
    within = Events(JsonFields(options.metadata_values), options.shape.attributes).within

    def read(key: bytes | None, value: bytes, headers: Headers) -> str | None:
        data, with_attributes = within(value, headers)
        return own(key, data, with_attributes)

    return read
