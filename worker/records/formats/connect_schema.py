"""The schema that Kafka Connect's JsonConverter sends with a value: which of its fields mean something else than their JSON says.

Decimals, dates and times travel as base64 and as numbers. Their schema has the name of a logical type, and with it they
become the text that a person would write. All else of a schema changes nothing, and is ignored.
"""

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Final, TypeAlias

import msgspec

from worker.records.formats.values import UNREADABLE

Convert: TypeAlias = Callable[[bytes], str | None]
"""Returns the text of a value that is given as JSON; None where it is not of its type, or is null."""
Logical: TypeAlias = Mapping[tuple[str, ...], Convert]
"""By the names that lead to them, the fields of a logical type."""

DECIMAL: Final = "org.apache.kafka.connect.data.Decimal"
"""The name of a decimal whose scale is in its schema."""
VARIABLE_DECIMAL: Final = "io.debezium.data.VariableScaleDecimal"
"""The name of a decimal with a scale of its own: a map of `scale` and `value`."""
NONE: Final[Logical] = MappingProxyType({})
_MOST_SCHEMAS: Final = 32  # kept; a topic has few
_MOST_KEPT_BYTES: Final = 256 * 1024  # of a schema that is kept
_MOST_DECIMAL_BYTES: Final = 512
_MOST_SCALE: Final = 1000
_MOST_DEPTH: Final = 32
_LOGICAL: Final = (b"org.apache.kafka.connect.data.", b"io.debezium.")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Schema(msgspec.Struct, gc=False):
    type: str = ""
    field: str = ""
    name: str | None = None
    parameters: dict[str, str] | None = None
    fields: list[msgspec.Raw] = []


class _Variable(msgspec.Struct):
    scale: int
    value: str


_decode: Final = msgspec.json.Decoder(_Schema).decode
_decode_int: Final = msgspec.json.Decoder(int).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_variable: Final = msgspec.json.Decoder(_Variable).decode


class Schemas:
    """Compiles schemas, and keeps those that it compiled: each message has its own copy."""

    def __init__(self) -> None:
        self._known: dict[bytes, Logical] = {}

    def of(self, schema: bytes) -> Logical:
        """Return the fields of a logical type; none where it is no schema."""
        found = self._known.get(schema)
        if found is None:
            found = self._compiled(schema)
            if len(schema) <= _MOST_KEPT_BYTES:
                if len(self._known) >= _MOST_SCHEMAS:
                    self._known.clear()
                self._known[schema] = found
        return found

    @staticmethod
    def _compiled(schema: bytes) -> Logical:
        if not any(name in schema for name in _LOGICAL):
            return NONE
        found: dict[tuple[str, ...], Convert] = {}
        try:
            _collect(_decode(schema), (), found)
        except UNREADABLE:
            return NONE
        return found


def within(logical: Logical, name: str) -> Logical:
    """Return the fields that are within one."""
    return {names[1:]: convert for names, convert in logical.items() if names[:1] == (name,)} if logical else NONE


def _collect(schema: _Schema, names: tuple[str, ...], found: dict[tuple[str, ...], Convert]) -> None:
    if (convert := _convert_of(schema)) is not None:
        found[names] = _guarded(convert)
    elif len(names) < _MOST_DEPTH:
        for each in schema.fields:
            field = _decode(each)
            _collect(field, (*names, field.field), found)


def _convert_of(schema: _Schema) -> Convert | None:
    name = schema.name or ""
    if name == DECIMAL:
        try:
            scale = int((schema.parameters or {}).get("scale", "0"))
        except ValueError:
            return None
        return lambda json: _decimal(_decode_text(json), scale)
    if name == VARIABLE_DECIMAL:
        return _variable
    known = text_of_time(name)
    return None if known is None else _number_of(known)


def _guarded(read: Callable[[bytes], str | None]) -> Convert:
    def guarded(json: bytes) -> str | None:
        try:
            return read(json)
        except (*UNREADABLE, ValueError, OverflowError):
            return None

    return guarded


def _number_of(text: Callable[[int], str]) -> Convert:
    return lambda json: text(_decode_int(json))


def _variable(json: bytes) -> str | None:
    value = _decode_variable(json)
    return _decimal(value.value, value.scale)


def _decimal(text: str, scale: int) -> str | None:
    return text_of_decimal(base64.b64decode(text, validate=True), scale)


def text_of_decimal(data: bytes, scale: int) -> str | None:
    """Return a decimal, whose number without its point is two's complement, big-endian; None where it is too long to be written."""
    if not data or len(data) > _MOST_DECIMAL_BYTES or abs(scale) > _MOST_SCALE:
        return None
    number = int.from_bytes(data, "big", signed=True)
    digits = tuple(int(digit) for digit in str(abs(number)))
    return format(Decimal((number < 0, digits, -scale)), "f")


def text_of_time(name: str) -> Callable[[int], str] | None:
    """Return what writes numbers of the logical type of this name as a date or time; None where it is none of these.

    The function raises ValueError and OverflowError for what is no time.
    """
    return _TIMES.get(name)


def _days(number: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=number)).isoformat()


def _moment(units: int) -> Callable[[int], str]:
    """Return the text of so many units of a second since 1970, UTC."""

    def text(number: int) -> str:
        seconds, rest = divmod(number, units)
        whole = (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        return f"{whole.removesuffix('+00:00')}{_fraction(rest, units)}Z"

    return text


def _clock(units: int) -> Callable[[int], str]:
    """Return the text of so many units of a second since midnight."""

    def text(number: int) -> str:
        seconds, rest = divmod(number, units)
        if not 0 <= seconds <= 86_400:
            raise ValueError
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{_fraction(rest, units)}"

    return text


def _fraction(rest: int, units: int) -> str:
    return f".{rest:0{len(str(units)) - 1}}" if rest else ""


_TIMES: Final[dict[str, Callable[[int], str]]] = {
    "org.apache.kafka.connect.data.Date": _days,
    "org.apache.kafka.connect.data.Time": _clock(1000),
    "org.apache.kafka.connect.data.Timestamp": _moment(1000),
    "io.debezium.time.Date": _days,
    "io.debezium.time.Time": _clock(1000),
    "io.debezium.time.MicroTime": _clock(1_000_000),
    "io.debezium.time.NanoTime": _clock(1_000_000_000),
    "io.debezium.time.Timestamp": _moment(1000),
    "io.debezium.time.MicroTimestamp": _moment(1_000_000),
    "io.debezium.time.NanoTimestamp": _moment(1_000_000_000),
}
