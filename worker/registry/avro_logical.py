"""The logical types of Avro as text: those of its specification, and those of Kafka Connect and Debezium by their name."""

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from worker.records.formats.connect_schema import DECIMAL, VARIABLE_DECIMAL, text_of_decimal, text_of_time
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

    One that is not known, or not valid, is ignored, as Avro wants it. So is it for a value that is out of the type's range, such as
    PostgreSQL's infinity: the number remains, or the bytes.
    """
    base, name, connect_name = schema["type"], schema.get("logicalType"), schema.get(_CONNECT_NAME)
    scale = schema.get("scale", 0)
    if base in ("bytes", "fixed") and isinstance(scale, int) and abs(scale) <= _MOST_SCALE:
        if name == "decimal":  # it is valid, or `parsed_json` would have dropped its name
            return _decimal(read, scale, texts.of_decimal)
        if connect_name == DECIMAL:
            return _decimal(read, scale, text_of_decimal)
    if name == "uuid" and base == "fixed" and schema.get("size") == 16:
        return lambda body: str(UUID(bytes=read(body)))
    if name == "duration" and base == "fixed" and schema.get("size") == 12:
        return lambda body: texts.of_duration(read(body))
    if base not in ("int", "long"):
        return read
    if isinstance(name, str):
        text = _text_of_time(name)
    else:
        text = text_of_time(connect_name) if isinstance(connect_name, str) else None
    return read if text is None else _written(read, text)


def _written(read: Callable[[B], Any], text: Callable[[Any], str | None]) -> Callable[[B], Any]:
    """Return what reads a value as text. What is out of its range remains as it is, as in Connect's JSON."""

    def read_text(body: B) -> Any:
        value = read(body)
        try:
            found = text(value)
        except (ValueError, OverflowError):
            return value
        return value if found is None else found

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


def _decimal(read: Callable[[B], Any], scale: int, text: Callable[[bytes, int], str | None]) -> Callable[[B], Any]:
    read_text = _written(read, lambda unscaled: text(unscaled, scale))

    def read_counted(body: B) -> Any:
        body.expect(0, abs(scale))
        return read_text(body)

    return read_counted


def _text_of_time(name: str) -> Callable[[int], str] | None:
    """Return what writes numbers of a logical type of Avro as a date or time; None where it is none of these."""
    if name == "date":
        return texts.of_date
    kind, _, unit = name.rpartition("-")
    digits = _TICKS.get(unit, 0)
    if kind == "time" and digits:
        return lambda ticks: texts.of_time(ticks, digits)
    if kind in ("timestamp", "local-timestamp") and digits:
        zone = "Z" if kind == "timestamp" else ""
        return lambda ticks: texts.of_moment(ticks, digits, zone)
    return None
