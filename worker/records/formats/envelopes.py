"""The envelopes of Kafka Connect and of Debezium: what is within, undecoded, and what it asks for.

    connect    {"schema": ..., "payload": {the record}}
    debezium   {"before": ..., "after": {the record}, "op": "c", ...}, alone or as the payload of the above;
               of MongoDB before and after are the text of a document in JSON

An envelope is opened in the encoding of its message; what is within is read by the reader of the route.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from worker.errors import Reason, RecordError
from worker.records.formats import connect_schema
from worker.records.formats.around import Around
from worker.records.formats.connect_schema import Logical
from worker.records.formats.contract import Headers, Operation, Options, Record
from worker.records.formats.fields import NOTHING, FieldReader
from worker.records.formats.halves import without_halves
from worker.records.formats.mapped import MappedReader
from worker.records.formats.shared import SharedKey
from worker.records.formats.values import UNREADABLE, Kind, Raw
from worker.words import clean

_PUTS: Final = frozenset({"c", "r", "u"})
_FULL_DOCUMENT: Final = '; the connector of MongoDB sends it with capture.mode = "change_streams_update_full"'
_OF_CONNECT: Final = frozenset(("schema", "payload"))
_OF_HEARTBEATS: Final = frozenset(("ts_ms", "ts_us", "ts_ns"))
_OF_TRANSACTIONS: Final = _OF_HEARTBEATS | {"status", "id", "event_count", "data_collections"}
_MARKS: Final = ("BEGIN", "END")  # of a transaction
_OF_SCHEMAS: Final = frozenset(("ddl", "tableChanges"))


class _Connect(msgspec.Struct, gc=False):
    schema: Raw = NOTHING
    payload: Raw = NOTHING


class _Change(msgspec.Struct, gc=False):
    before: Raw = NOTHING
    after: Raw = NOTHING
    op: Raw = NOTHING
    message: Raw = NOTHING
    source: Raw = NOTHING
    payload: Raw = NOTHING
    schema: Raw = NOTHING


_OF_CHANGES: Final = {*_Change.__struct_fields__, *_OF_TRANSACTIONS, *_OF_SCHEMAS, "databaseName", "schemaName"}
"""Names that Debezium's own messages have: by a column of such a name no row is known."""


class Opened(NamedTuple):
    """What is within an envelope: the operation that it says, the record, and which of its fields are of a logical type."""

    operation: Operation
    record: Raw = NOTHING
    logical: Logical = connect_schema.NONE
    is_text: bool = False  # the record is JSON, whatever the encoding around it


class Envelope(ABC):
    """Opens the envelopes of one route in one encoding. `needs_schema` is whether decimals and dates count.

    `vector` is the column that a row has its vector in, "" where nobody asks for that.
    """

    def __init__(self, fields: FieldReader, *, needs_schema: bool, vector: str = "") -> None:
        self._fields = fields
        self._needs_schema = needs_schema
        self._vector = vector
        self._schemas = connect_schema.Schemas()
        self._decode_members: Callable[[bytes], Mapping[str, Raw]] = fields.decoder(dict[str, Raw])

    @abstractmethod
    def open(self, value: bytes) -> Opened:
        """Return what is within. Raises `RecordError`."""

    def _logical(self, schema: Raw) -> Logical:
        return self._schemas.of(bytes(schema)) if self._needs_schema else connect_schema.NONE

    def _members(self, body: bytes) -> Mapping[str, Raw]:
        """Return the members of a map, none where a name is no text. For the few messages that may be no records."""
        try:
            return self._decode_members(without_halves(body))
        except UNREADABLE:
            return {}


class Connect(Envelope):
    """Kafka Connect's JsonConverter with schemas."""

    def __init__(self, fields: FieldReader, *, needs_schema: bool, vector: str = "") -> None:
        super().__init__(fields, needs_schema=needs_schema, vector=vector)
        self._cutter = fields.cutter(_Connect)

    def open(self, value: bytes) -> Opened:
        """Return the payload."""
        found = self._fields.cut(value, self._cutter)
        kind = self._fields.kind(found.payload)
        if kind is Kind.MAP:
            return Opened(Operation.PUT, found.payload, self._logical(found.schema))
        if kind is Kind.NULL and _is_of_connect(self._members(value)):
            return Opened(Operation.TOMBSTONE)
        what = "there is no payload" if kind is Kind.NOTHING else f"payload is a {kind.value}"
        raise self._fields.no_record(
            f'{what}; records.envelope = "connect" reads {{"schema", "payload"}}, where payload is a map, and "none" '
            "reads a record without them"
        )


class Debezium(Envelope):
    """Changes of rows, as Debezium's connectors send them before they are unwrapped."""

    def __init__(self, fields: FieldReader, *, needs_schema: bool, vector: str = "") -> None:
        super().__init__(fields, needs_schema=needs_schema, vector="" if vector in _OF_CHANGES else vector)
        self._cutter = fields.cutter(_Change)

    def open(self, value: bytes) -> Opened:
        """Return the row and its operation."""
        fields = self._fields
        change, logical = fields.cut(value, self._cutter), connect_schema.NONE
        if fields.kind(change.op) is Kind.NOTHING and fields.kind(change.payload) is Kind.MAP:
            logical = self._logical(change.schema)
            change = fields.cut_part(change.payload, self._cutter)
        kind = fields.kind(change.op)
        if kind is Kind.NOTHING and (operation := self._without_operation(value)) is not None:
            return Opened(operation)
        if kind is not Kind.STRING:
            what = "there is no op" if kind is Kind.NOTHING else f"op is a {kind.value}"
            raise fields.no_record(
                f'{what}; records.envelope = "debezium" reads changes with before, after and op, and "none" reads rows that were '
                "unwrapped"
            )
        op = fields.text(change.op, "op")
        if op in _PUTS:
            row, is_text = self._row(change.after, op)
            return Opened(Operation.PUT, row, connect_schema.within(logical, "after"), is_text)
        if op == "d":
            if fields.kind(change.before) is Kind.NOTHING and not self._is_delete(change, self._members(value)):
                raise fields.no_record('there is neither before nor source, and op is "d": it is no change of Debezium')
            before, is_text = self._row_or_document(change.before)
            return Opened(Operation.DELETE, before, connect_schema.within(logical, "before"), is_text)
        if op == "m" and self._is_message(change) and not self._is_row(self._own_members(self._members(value))):
            return Opened(Operation.IGNORE)
        if op == "t":
            raise RecordError(
                Reason.MALFORMED,
                'op is "t": the table was truncated. A truncate names no keys, so the vectors of its rows stay: delete '
                'them, or set "skipped.operations" of the connector to "t"',
            )
        raise fields.no_record(f"op is {clean(op, 20)!r}; known are c, r, u, d, t and m")

    def _row(self, after: Raw, op: str) -> tuple[Raw, bool]:
        """Return the row, and whether it is text. Raises `RecordError` where there is none."""
        row, is_text = self._row_or_document(after)
        if row is not NOTHING:
            return row, is_text
        kind = self._fields.kind(after)
        what = "there is no after" if kind is Kind.NOTHING else f"after is a {kind.value}"
        hint = _FULL_DOCUMENT if op == "u" and kind is Kind.NULL else ""
        raise self._fields.no_record(f'{what}, and op is "{op}", which needs the row in it{hint}')

    def _row_or_document(self, raw: Raw) -> tuple[Raw, bool]:
        """Return a row, or a document of MongoDB, and whether it is text; `NOTHING` for anything else."""
        kind = self._fields.kind(raw)
        if kind is Kind.STRING:
            text = self._fields.text(raw, "the document")
            return (msgspec.Raw(text.encode()), True) if text.startswith("{") else (NOTHING, False)
        return (raw, False) if kind is Kind.MAP else (NOTHING, False)

    def _is_message(self, change: _Change) -> bool:
        """Return whether a change is no row: of pg_logical_emit_message, or a mark of how far all is sent (Spanner, TiCDC).

        A row without an envelope may have a column `op` too.
        """
        if self._fields.kind(change.message) is Kind.MAP:
            return True
        without_row = all(
            self._fields.kind(each) in (Kind.NOTHING, Kind.NULL) for each in (change.before, change.after)
        )
        return without_row and self._fields.kind(change.source) is Kind.MAP

    def _is_delete(self, change: _Change, members: Mapping[str, Raw]) -> bool:
        """Return whether a change without `before` is a delete, and no row without an envelope that has a column `op`.

        CockroachDB's deletes have neither `before` nor `source`, but `after`, which is null.
        """
        own = self._own_members(members)
        has_names_of_changes = self._fields.kind(change.after) is not Kind.NOTHING or own.keys() <= _OF_CHANGES
        return self._fields.kind(change.source) is Kind.MAP or (has_names_of_changes and not self._is_row(own))

    def _own_members(self, members: Mapping[str, Raw]) -> Mapping[str, Raw]:
        """Return the members of a message of Debezium, out of Kafka Connect's envelope."""
        return self._members(bytes(members["payload"])) if _is_of_connect(members) else members

    def _is_row(self, members: Mapping[str, Raw]) -> bool:
        """Return whether a message has the column of the vector beside its other names, as only a row without an envelope has."""
        return bool(self._vector) and self._vector in members

    def _without_operation(self, value: bytes) -> Operation | None:
        """Return what a message that has no `op` asks for, None where it is nothing that Debezium sends."""
        members = self._members(value)
        if _is_of_connect(members) and self._fields.kind(members["payload"]) is Kind.NULL:
            return Operation.TOMBSTONE
        members = self._own_members(members)
        if self._is_row(members):
            return None
        try:
            return Operation.IGNORE if without_row(members, self._fields.kind, self._fields.decode_text) else None
        except UNREADABLE:
            return None


def without_row(members: Mapping[str, Raw], kind: Callable[[Raw], Kind], text: Callable[[Raw], str]) -> str:
    """Return what else Debezium sends than changes of rows, "" for anything else. It raises what `text` raises.

    A row may have a column of any name: so a single name does not decide.
    """
    names = members.keys()
    if "ts_ms" in names and names <= _OF_HEARTBEATS:
        return "a heartbeat of Debezium"
    is_whole = "event_count" in names or names <= _OF_TRANSACTIONS  # Protobuf leaves out what is null
    if {"id", "status"} <= names and is_whole and kind(members["status"]) is Kind.STRING:
        return "a mark of a transaction, of Debezium" if text(members["status"]) in _MARKS else ""
    is_of_source = "databaseName" in names or kind(members.get("source", NOTHING)) is Kind.MAP
    if is_of_source and not names.isdisjoint(_OF_SCHEMAS) and names.isdisjoint(("before", "after")):
        return "a change of a schema, of Debezium"
    return ""


def _is_of_connect(members: Mapping[str, Raw]) -> bool:
    """Return whether a map has a payload, and nothing beside it but its schema: a row may have a column of that name."""
    return "payload" in members and members.keys() <= _OF_CONNECT


ENVELOPES: Final[dict[str, type[Envelope]]] = {"connect": Connect, "debezium": Debezium}


def opener(fields: FieldReader, envelope: str) -> Callable[[bytes], tuple[bytes, bool]]:
    """Return what opens a value: it returns the record in it, empty where there is none, or raises `RecordError`.

    The second it returns is whether the record is JSON, whatever the encoding around it.
    """
    if envelope not in ENVELOPES:
        return lambda value: (value, False)
    open_value = ENVELOPES[envelope](fields, needs_schema=False).open

    def opened(value: bytes) -> tuple[bytes, bool]:
        found = open_value(value)
        return bytes(found.record), found.is_text

    return opened


class EnvelopeReader:
    """Reads the records of one route that are in envelopes, in one encoding. `key_fields` reads JSON, as Kafka keys are."""

    def __init__(self, fields: FieldReader, options: Options, key_fields: FieldReader) -> None:
        vector = str(options.shape.vector.steps[0])
        self._open = ENVELOPES[options.envelope](fields, needs_schema=True, vector=vector).open
        self._inner = MappedReader(fields, options)
        self._in_json = self._inner if key_fields is fields else MappedReader(key_fields, options)
        self._keys = options.keys
        self._template = options.shape.key

    def read(self, key: bytes | None, value: bytes, headers: Headers) -> Record:
        """Return what the record in an envelope says. Raises `RecordError`."""
        opened = self._open(value)
        if opened.operation is Operation.PUT:
            reader = self._in_json if opened.is_text else self._inner
            return reader.record(bytes(opened.record), Around(key, headers, opened.logical))
        if opened.operation is Operation.DELETE:
            return Record(self._deleted(opened, key, headers), operation=Operation.DELETE)
        return Record(None, operation=opened.operation)

    def key(self, key: bytes | None, value: bytes, headers: Headers) -> str | None:
        """Return the key of the record in an envelope, None where it has none of its own. Raises `RecordError`."""
        opened = self._open(value)
        if opened.operation is Operation.PUT:
            reader = self._in_json if opened.is_text else self._inner
            return reader.key(bytes(opened.record), Around(key, headers, opened.logical))
        return self._deleted(opened, key, headers) if opened.operation is Operation.DELETE else None

    def _key_in(self, key: bytes | None, enveloped: tuple[bytes, Logical], headers: Headers) -> str | None:
        payload, logical = enveloped
        return self._in_json.key(payload, Around(key, headers, logical))

    def _deleted(self, opened: Opened, key: bytes | None, headers: Headers) -> str | None:
        """Return the key of a row that is gone: of what was before, or else of the Kafka key; None for all of the Kafka key."""
        body = bytes(opened.record)
        if body:
            try:
                reader = self._in_json if opened.is_text else self._inner
                return reader.key(body, Around(key, headers, opened.logical))
            except RecordError as error:
                if error.reason is not Reason.KEY:
                    raise
        enveloped = self._keys.enveloped(key)
        if enveloped is not None and enveloped[0].startswith(b"{"):
            if type(key) is SharedKey:
                return key.once(self._key_in, enveloped, headers)
            return self._key_in(key, enveloped, headers)
        if self._template is not None and len(self._template.parts) > 1:
            raise RecordError(
                Reason.KEY,
                f"the row is deleted, and neither before nor the Kafka key has the fields of {self._template.text} "
                "(records.fields.key)",
            )
        return None
