"""Messages with several records, and how they are cut (`records.many = "split"`).

    [{...}, {...}]                      a list, in JSON or MessagePack
    {"vectors": [{...}, {...}]}         the body of a PutVectors request, whose other members are ignored
    {"data": [{...}, {...}]}            an answer of an embedding API, likewise
    {...}\\n{...}\\n                      JSON lines, of which empty ones do not count
    whatever `fields.records` leads to  which must be there, then

Each record is cut out as it is, undecoded, and read like a message of its own, with the Kafka key and the headers of its
message. Any other message is one record.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from typing import Any, Final

import msgspec

from worker.errors import Reason, RecordError
from worker.records.changes import CANAL_DELETES
from worker.records.choices import Format
from worker.records.formats import paths
from worker.records.formats.fields import FieldReader
from worker.records.formats.framing import PREFIX_BYTES, without_prefix
from worker.records.formats.halves import HALF, without_halves
from worker.records.formats.hints import constant_at, resembles, wide_text
from worker.records.formats.json import JsonFields
from worker.records.formats.leaves import Leaves
from worker.records.formats.msgpack import MsgpackFields
from worker.records.formats.shape import FIXED, Shape
from worker.records.formats.values import BYTE_ORDER_MARK, UNREADABLE, Kind, Raw, ValueReader
from worker.records.number_types import are_numbers
from worker.words import clean

MOST_RECORDS: Final = 50_000
"""Of one message. Each costs time and memory, also one that is wrong and has a byte."""

_DATA: Final = ("data",)
_TYPE: Final = ("type",)
_LONGEST_TYPE: Final = 16  # bytes
_LINES_LOOKED_AT: Final = 100
_WHITE: Final = b" \t\r\n"
_FLOAT32_BYTES: Final = 4
_NOTHING: Final = msgspec.Raw(b"")
_JSON: Final = JsonFields("strict")
_MSGPACK: Final = MsgpackFields("strict")
_json_raw: Final = msgspec.json.Decoder(Raw).decode


class _Lists(msgspec.Struct, gc=False):
    """The members of a map that may be lists of records. A record has `data` that is no list. `type` is of a change."""

    data: Raw = _NOTHING
    vectors: Raw = _NOTHING
    type: Raw = _NOTHING


class Cutter:
    """Cuts the messages of one topic. `path` leads to the list of records; "" recognises the list by its form.

    `shape` is that of a record: what it says is a list in a record is no list of records.
    """

    def __init__(self, record_format: Format, path: str = "", shape: Shape = FIXED) -> None:
        self._format = record_format
        self._path = path
        self._steps = paths.parse(path).steps if path else ()
        own = _own_lists(shape)
        self._json = _Lead(_JSON, self._steps, own)
        self._msgpack = _Lead(_MSGPACK, self._steps, own)

    def cut(self, value: bytes) -> Sequence[Raw | bytes] | None:
        """Return the records of a message, None where it is one record itself, or no format recognises it.

        Raises `RecordError` where the list of records is not where the settings say, or has too many.
        """
        body, is_json = self._body(value)
        if is_json:
            return _counted(self._of_json(body))
        if self._format == "json" or not body or _MSGPACK.kind_of_byte[body[0]] not in (Kind.MAP, Kind.LIST):
            return None
        return _counted(self._of_msgpack(body))

    def only(self, value: bytes, element: int) -> bytes | None:
        """Return a message that has the record at this place alone, None where it cannot be cut out as it came."""
        try:
            pieces = self.cut(value)
        except RecordError:
            return None
        if pieces is None or not 0 <= element < len(pieces):
            return None
        record = msgspec.Raw(bytes(pieces[element]))
        if HALF in bytes(record):
            return None
        body, is_json = self._body(value)
        encode: Callable[[Any], bytes] = msgspec.json.encode if is_json else msgspec.msgpack.encode
        prefix = value[:PREFIX_BYTES] if body is not value and value[0] == 0 else b""
        return prefix + (encode(self._enclosed(record)) if self._steps else bytes(record))

    def _enclosed(self, record: Raw) -> Any:
        """Return a value in which the path leads to a list of this record."""
        made: Any = [record]
        for step in reversed(self._steps):
            made = {step: made} if isinstance(step, str) else [None] * step + [made]
        return made

    def _body(self, value: bytes) -> tuple[bytes, bool]:
        """Return the value without what is before its JSON, and whether it is JSON."""
        body = without_prefix(value).removeprefix(BYTE_ORDER_MARK)
        first = body[:1] if body[:1] not in _WHITE else body.lstrip(_WHITE)[:1]
        if first in (b"{", b"[") and (self._format != "msgpack" or value[:1] == b"\x00"):
            return body, True
        return (b"" if value[:1] == b"\x00" else value), False

    def _of_json(self, body: bytes) -> Sequence[Raw | bytes] | None:
        try:
            return self._found(self._json, body)
        except UNREADABLE as error:
            if not self._steps and (lines := _lines(body)):
                return lines
            without = without_halves(body)  # half of a surrogate pair costs its own record only
            if without is not body:
                with suppress(*UNREADABLE):
                    return self._found(self._json, without)
            self._refuse(_JSON, body, error)
            return None

    def _of_msgpack(self, body: bytes) -> Sequence[Raw] | None:
        try:
            return self._found(self._msgpack, body)
        except UNREADABLE as error:
            self._refuse(_MSGPACK, body, error)
            return None

    def _found(self, lead: "_Lead", body: bytes) -> Sequence[Raw] | None:
        """Return the records. Raises what msgspec raises where the value is not well-formed, and `RecordError`."""
        if not self._steps:
            return lead.recognised(body)
        found = lead.follow(body)
        kind = lead.values.kind(found)
        if kind is Kind.LIST:
            return lead.values.decode_list(found)
        what = f"there is no {self._path}" if kind is Kind.NOTHING else f"{self._path} is a {kind.value}"
        raise RecordError(
            Reason.MALFORMED,
            f"{what} in the {lead.values.name}; records.fields.records says that it is a list of records",
        )

    def _refuse(self, values: ValueReader, body: bytes, error: Exception) -> None:
        """Raise `RecordError` for several records that are not well-formed; what may be one record is left to its format."""
        if not self._steps and values.kind(msgspec.Raw(body.lstrip(_WHITE))) is not Kind.LIST:
            return
        said = "it is nested too deep" if isinstance(error, RecursionError) else clean(str(error))
        said = f"the value is no whole {values.name} with records: {said}{constant_at(body, error)}"
        known = _resembles(values, body)
        raise RecordError(Reason.MALFORMED, f"{said}; it looks like {known}" if known else said) from None


class _Lead:
    """What leads to the list of records in one encoding. It cuts maps as a decoder of records does."""

    def __init__(self, values: FieldReader, steps: tuple[paths.Step, ...], own: frozenset[paths.Step]) -> None:
        self.values = values
        self._own = own
        self._leaves = Leaves(values, [steps, *([_TYPE] if steps == _DATA else [])] if steps else ())
        self._slot = self._leaves.slot(steps)
        self._type_slot = self._leaves.slot(_TYPE) if steps == _DATA else -1
        self._lists = values.cutter(_Lists)
        self._check_whole = values.decoder(Raw)

    def follow(self, body: bytes) -> Raw:
        """Return what the path leads to, empty where it leads nowhere. Raises what msgspec raises."""
        try:
            parts = self._leaves.read(body)
        except RecordError:
            self._check_whole(body)
            return _NOTHING  # the value is no map
        if self._type_slot >= 0:
            self._refuse_deletes(parts[self._type_slot])
        return parts[self._slot]

    def recognised(self, body: bytes) -> list[Raw] | None:
        """Return the records of a list, or of a map with one; None where there is none. Raises what msgspec raises."""
        values = self.values
        kind = values.kind(msgspec.Raw(body.lstrip(_WHITE) if values is _JSON else body))
        if kind is Kind.LIST:
            return values.decode_list(msgspec.Raw(body))
        if kind is not Kind.MAP:
            return None
        try:
            lists: _Lists = values.cut(body, self._lists)
        except RecordError:
            self._check_whole(body)
            return None
        if values.kind(lists.data) is Kind.LIST and "data" not in self._own:
            self._refuse_deletes(lists.type)
            return values.decode_list(lists.data)
        is_record = "vectors" in self._own or values.kind(lists.data) is not Kind.NOTHING
        if not is_record and values.kind(lists.vectors) is Kind.LIST:
            return values.decode_list(lists.vectors)
        return None

    def _refuse_deletes(self, change: Raw) -> None:
        """Raise `RecordError` for rows that a change of Canal deletes: the rows do not say so, and would be written."""
        if self.values.kind(change) is not Kind.STRING or len(bytes(change)) > _LONGEST_TYPE:
            return
        with suppress(*UNREADABLE):
            if self.values.decode_text(change) == CANAL_DELETES:
                raise RecordError(
                    Reason.MALFORMED,
                    'the message deletes the rows in its data ("type" is "DELETE", as Canal, TiCDC and Flink write it), and a '
                    "row by itself does not say so: it would be written; publish the changes in Debezium's form "
                    '(records.envelope = "debezium")',
                    is_complete=True,
                )


def _resembles(values: ValueReader, body: bytes) -> str:
    """Return what a value looks like that begins as several records do, "" where that is not known."""
    if values is _JSON:
        return wide_text(body)
    is_float32 = len(body) % _FLOAT32_BYTES == 0 and are_numbers(body, "float32-le")
    return "float32 numbers as bytes, without a record around them" if is_float32 else resembles(body)


def _own_lists(shape: Shape) -> frozenset[paths.Step]:
    """Return the members of a record that may be lists."""
    return frozenset(
        path.steps[0]
        for path in shape.paths
        if path.source is paths.Source.VALUE
        and path is not shape.metadata  # which is a map, there
        and (len(path.steps) == 1 or isinstance(path.steps[1], int))
    )


def _counted(records: Sequence[Raw | bytes] | None) -> Sequence[Raw | bytes] | None:
    if records is not None and len(records) > MOST_RECORDS:
        raise RecordError(
            Reason.TOO_LARGE, f"the message has {len(records)} records; at most {MOST_RECORDS} of one message are read"
        )
    return records


def _lines(body: bytes) -> list[bytes] | None:
    """Return the lines of a text that is JSON lines, None where it is none.

    A line that is wrong costs only itself. So it is enough that one of the first lines is a whole map. No line of a longer map
    is, if its lines are indented; and in a list with an element on each line, a comma or a bracket is at the end of the line
    before.
    """
    lines = [line for line in body.split(b"\n") if line.strip(_WHITE)]
    if len(lines) < 2 or lines[0].lstrip(_WHITE).startswith(b"["):
        return None
    begun = (line for before, line in pairwise((b"", *lines)) if line.startswith(b"{") and not _goes_on(before))
    return [line.strip(_WHITE) for line in lines] if any(map(_is_whole, islice(begun, _LINES_LOOKED_AT))) else None


def _goes_on(line: bytes) -> bool:
    """Return whether what is on the next line belongs to the same list."""
    return line.rstrip(_WHITE).endswith((b",", b"["))


def _is_whole(line: bytes) -> bool:
    try:
        _json_raw(without_halves(line))
    except UNREADABLE:
        return False
    return True
