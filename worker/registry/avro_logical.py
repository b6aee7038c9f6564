"""The logical types of Avro as text: those of its specification, and those of Kafka Connect and Debezium by their name."""

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from worker.records.formats.connect_schema import VARIABLE_DECIMAL, text_of_decimal, text_of_time
from worker.registry import texts


class Counts(Protocol):
    """A body, whose reading is bounded."""

    def expect(self, values: int, added: int = 0) -> None:
        """Count values that are about to be read, and the bytes that the schema adds to them."""


B = TypeVar("B", bound=Counts)

_MOST_SCALE: Final = 1_000
_CONNECT_NAME: Final = "connect.name"
"""What Confluent's and Apicurio's converters of Kafka Connect keep of a logical type's name. Debezium's types have nothing else."""
_TICKS: Final = {"millis": 3, "micros": 6, "nanos": 9}


def of(schema: Any, read: Callable[[B], Any]) -> Callable[[B], Any]:
    """Return what reads values of a logical type as text, where `read` reads the type below it.

    One that is not known, or not valid, is ignored, as Avro wants it.
    """
    base, name = schema["type"], schema.get("logicalType")
    if name == "decimal" and base in ("bytes", "fixed"):
        scale = schema.get("scale", 0)
        if isinstance(scale, int) and 0 <= scale <= _MOST_SCALE:
            return _decimal(read, scale)
    if name == "uuid" and base == "fixed" and schema.get("size") == 16:
        return lambda body: str(UUID(bytes=read(body)))
    if name == "duration" and base == "fixed" and schema.get("size") == 12:
        return lambda body: texts.of_duration(read(body))
    if base not in ("int", "long"):
        return read
    if isinstance(name, str):
        return _time(name, read)
    connect_name = schema.get(_CONNECT_NAME)
    text = text_of_time(connect_name) if isinstance(connect_name, str) else None
    return read if text is None else _connect_time(text, read)


def _connect_time(text: Callable[[int], str], read: Callable[[B], Any]) -> Callable[[B], Any]:
    """Return what reads a time as Connect's JSON has it. What is no time (Debezium's infinity) remains a number, as there."""

    def read_text(body: B) -> str | int:
        number: int = read(body)
        try:
            return text(number)
        except (ValueError, OverflowError):
            return number

    return read_text


def of_record(schema: Any, read: Callable[[B], Any]) -> Callable[[B], Any]:
    """Return what reads a record, or as text, if it is a decimal with a scale of its own. What is none remains a map."""
    if schema.get(_CONNECT_NAME) != VARIABLE_DECIMAL:
        return read

    def read_text(body: B) -> Any:
        found = read(body)
        scale, data = found.get("scale"), found.get("value")
        if not isinstance(scale, int) or not isinstance(data, bytes):
            return found
        text = text_of_decimal(data, scale)
        if text is None:
            return found
        body.expect(0, abs(scale))
        return text

    return read_text


def _decimal(read: Callable[[B], Any], scale: int) -> Callable[[B], Any]:
    def read_text(body: B) -> str:
        body.expect(0, scale)
        return texts.of_decimal(read(body), scale)

    return read_text


def _time(name: str, read: Callable[[B], Any]) -> Callable[[B], Any]:
    if name == "date":
        return lambda body: texts.of_date(read(body))
    kind, _, unit = name.rpartition("-")
    digits = _TICKS.get(unit, 0)
    if kind == "time" and digits:
        return lambda body: texts.of_time(read(body), digits)
    if kind in ("timestamp", "local-timestamp") and digits:
        zone = "Z" if kind == "timestamp" else ""
        return lambda body: texts.of_moment(read(body), digits, zone)
    return read
