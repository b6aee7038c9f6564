"""Structured logs on stderr: JSON for machines, text for a terminal.

A line is a message and fields, `log.info("index found", extra={"index": "docs", "dimension": 1024})`. Whatever a message, a
field or an error contains, it is written as one line of bounded length, it cannot forge another line, and no secret that this
process knows is in it.

A field has one type and one meaning in all lines of the worker (a test reads all log calls):

    topic, partition    a partition: text and integer, always two fields; `topic` alone is the whole topic
    partitions          some partitions by name: a list of texts "topic/partition"
    offset, from, to    offsets
    reason              a value of `errors.Reason` or `errors.BlockReason`
    error               what went wrong, in words
    detail              why the worker is in its state, in words
"""

import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from itertools import islice
from types import TracebackType
from typing import Any, Final

import msgspec

from worker.redaction import redact
from worker.settings.tables import Log

FIELD_CHARACTERS: Final = 2000  # of a message, and of a field
EXCEPTION_CHARACTERS: Final = 32_000
FIELDS: Final = 50
_ELEMENTS: Final = 50  # of a list or table in a field
_DEPTH: Final = 4
_ERRORS: Final = 4  # of a chain of errors that caused each other
_CUT: Final = "…"
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_OWN: Final = frozenset({"time", "level", "logger", "message", "exception"})  # what a JSON line has besides the fields

_OF_MISSING_TOPICS: Final = frozenset(
    {"Topic %s not found in cluster metadata", "Topic %s is not authorized for this client"}
)

# What a terminal acts on instead of showing it, and what UTF-8 cannot encode. JSON escapes the first 32 by itself.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_UNSAFE_IN_JSON: Final = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", ""))
_SHORT: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def configure(settings: Log) -> None:
    """Send the log of this process to stderr, as `[log]` says; repeated lines of the Kafka client are folded.

    `log.level` is for the worker's own lines. No library logs at DEBUG, at any level: at DEBUG they log all that passes
    through them, passwords and records too.
    """
    text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    handler.addFilter(_without_bytes)
    handler.addFilter(_is_not_said_elsewhere)
    handler.addFilter(Fold(interval=30.0, prefix="kafka"))
    level = settings.level.upper()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if settings.level == "debug" else level)
    logging.getLogger("worker").setLevel(level)
    # kafka-python logs an error for every attempt while a broker is away; the worker logs it once, in its own words.
    logging.getLogger("kafka").setLevel(logging.INFO if settings.level == "debug" else logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.getLogger("alibabacloud_oss_v2").setLevel(logging.ERROR)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given as `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object in each line: time (RFC 3339, UTC), level, logger, message, and the fields.

    A field with the name of one of the first four, or `exception`, has an underscore appended.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": _json_text(record.name),
            "message": _json_text(_message(record)),
        }
        for name, value in _bounded(fields(record)):
            shown = _json_text(name)
            line[f"{shown}_" if shown in _OWN else shown] = _json_field(value)
        if record.exc_info and record.exc_info[1] is not None:
            exception = "\n".join(_exception_lines(record.exc_info[1], _json_text))
            line["exception"] = _cut(exception, EXCEPTION_CHARACTERS)
        return msgspec.json.encode(line).decode()


class TextFormatter(logging.Formatter):
    """Time, level, message, then the fields as name=value. The lines of a traceback follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        extra = "".join(f" {escaped(name)}={escaped(_text_of(value))}" for name, value in _bounded(fields(record)))
        line = f"{moment} {record.levelname.lower():7} {escaped(_message(record))}{extra}"
        if record.exc_info and record.exc_info[1] is not None:
            exception = "\n".join(f"    {below}" for below in _exception_lines(record.exc_info[1], escaped))
            line = f"{line}\n{_cut(exception, EXCEPTION_CHARACTERS)}"
        return line


def escaped(text: str) -> str:
    """Return text as one line of at most `FIELD_CHARACTERS`; what a terminal acts on is written as Python escapes it."""
    return _cut(_UNSAFE.sub(_escape, redact(text, FIELD_CHARACTERS + 1)), FIELD_CHARACTERS)


def _json_text(text: str) -> str:
    """Return the same for JSON, which escapes line breaks and the like by itself."""
    return _cut(_UNSAFE_IN_JSON.sub(_escape, redact(text, FIELD_CHARACTERS + 1)), FIELD_CHARACTERS)


def _escape(found: re.Match[str]) -> str:
    character = found.group()
    number = ord(character)
    return _SHORT.get(character) or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + _CUT


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # the arguments do not fit the message, or one of them has no text
        return f"{_text_of(record.msg)} (its arguments do not fit: {type(error).__name__})"


def _bounded(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for number, (name, value) in enumerate(given.items()):
        if number == FIELDS:
            yield "fields_left_out", len(given) - FIELDS
            return
        yield str(name), value


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # a field without a text must not cost the line
        return f"<{type(value).__name__} without a text: {type(error).__name__}>"


def _json_field(value: object) -> Any:
    """Return a field as a JSON value; one that is too long becomes the beginning of its text."""
    found = _json_value(value, _DEPTH)
    if isinstance(found, (dict, list)):
        encoded = msgspec.json.encode(found)
        if len(encoded) > FIELD_CHARACTERS:
            return _cut(encoded.decode(), FIELD_CHARACTERS)
    return found


def _json_value(value: object, depth: int) -> Any:
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else _json_text(_text_of(value))
    if isinstance(value, Enum):
        return _json_value(value.value, depth)
    if depth and isinstance(value, Mapping):
        return {
            _json_text(_text_of(name)): _json_value(element, depth - 1)
            for name, element in islice(value.items(), _ELEMENTS)
        }
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [_json_value(element, depth - 1) for element in islice(value, _ELEMENTS)]
    return _json_text(_text_of(value))


def _exception_lines(error: BaseException, shown: Any) -> Iterator[str]:
    """Yield the lines of an error and of those that led to it, oldest first; `shown` makes a text fit for a line."""
    chain: list[tuple[BaseException, str]] = []
    current: BaseException | None = error
    why = ""
    while current is not None and len(chain) < _ERRORS and all(current is not seen for seen, _ in chain):
        chain.append((current, why))
        why = "It was the cause of:" if current.__cause__ else "While it was handled:"
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    for each, after in reversed(chain):
        yield from _traceback_lines(each.__traceback__)
        words = shown(_text_of(each))
        yield f"{type(each).__qualname__}: {words}" if words else type(each).__qualname__
        if after:
            yield after


def _traceback_lines(place: TracebackType | None) -> Iterator[str]:
    if place is None:
        return
    yield "Traceback (most recent call last):"
    for entry in traceback.format_tb(place, limit=-20):
        yield from (_UNSAFE.sub(_escape, line) for line in entry.rstrip("\n").split("\n"))


def _without_bytes(record: logging.LogRecord) -> bool:
    """Replace bytes in what a library logs: kafka-python logs the whole response that it cannot read, records and all."""
    if isinstance(record.args, tuple) and not record.name.startswith("worker"):
        record.args = tuple(
            f"<{len(each)} bytes>" if isinstance(each, (bytes, bytearray, memoryview)) else each for each in record.args
        )
    return True


def _is_not_said_elsewhere(record: logging.LogRecord) -> bool:
    """Drop what kafka-python logs of a missing topic with each answer: the worker logs it once, and when it is over."""
    return not (record.name == "kafka.cluster" and record.msg in _OF_MISSING_TOPICS)


class Fold(logging.Filter):
    """Passes a warning of the same place once in `interval` seconds, with a count of those that it dropped in between.

    Only loggers whose name begins with `prefix` are folded. Network errors are logged without their traceback. `clock` is in
    monotonic seconds: a wall clock that is set back would silence the place until it is there again.
    """

    def __init__(self, interval: float, prefix: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval = interval
        self._prefix = prefix
        self._clock = clock
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        if not record.name.startswith(self._prefix) or record.levelno < logging.WARNING:
            return True
        place, now = (record.pathname, record.lineno), self._clock()
        shown_at, left_out = self._seen.get(place, (float("-inf"), 0))
        if now - shown_at < self._interval:
            self._seen[place] = (shown_at, left_out + 1)
            return False
        self._seen[place] = (now, 0)
        if left_out:
            record.left_out = left_out
        if record.exc_info and isinstance(record.exc_info[1], OSError):
            # The place in the client where a connection broke is of no use, and a traceback looks like a fault of the worker.
            record.error, record.exc_info = repr(record.exc_info[1]), None
        return True


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
