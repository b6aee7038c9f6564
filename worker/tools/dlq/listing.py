"""What is in the dead-letter topic: counts, and one dead letter whole."""

import base64
import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from worker.deadletters.headers import ERROR_MESSAGE, REFERENCE, STAGE, rfc3339
from worker.tools.dlq.letters import DeadLetterRead
from worker.words import clean

_SHOWN_NUMBERS: Final = 6  # of a vector
_SHOWN_BYTES: Final = 2000  # of a value that is no JSON
_SHOWN_BINARY_BYTES: Final = 192  # likewise, of one that is no text either
_UNKNOWN: Final = "(unknown)"


class Counts:
    """How many dead letters there are, by what people ask for first."""

    def __init__(self) -> None:
        self.total = 0
        self.elements = 0
        """How many are of records of messages that have several."""
        self.examples: dict[str, str] = {}
        """The place of the newest dead letter of each reason."""
        self.by: dict[str, Counter[str]] = {
            name: Counter() for name in ("reason", "topic", "code", "index", "hour", "written by")
        }

    def add(self, letter: DeadLetterRead) -> None:
        """Count one."""
        told = letter.headers
        values = {
            "reason": told.reason,
            "topic": told.topic,
            "code": told.error_code,
            "index": told.index,
            "hour": _hour(letter.failed_at),
            "written by": told.author.value,
        }
        self.total += 1
        self.elements += told.element is not None
        self.examples[told.reason or _UNKNOWN] = str(letter.place)
        for name, value in values.items():
            if value or name != "code":
                self.by[name][value or _UNKNOWN] += 1

    def as_json(self, topic: str) -> dict[str, Any]:
        """Return them for programs."""
        by = {name.replace(" ", "_"): dict(sorted(counter.items())) for name, counter in self.by.items()}
        return {
            "version": 1,
            "topic": topic,
            "total": self.total,
            "elements": self.elements,
            "by": by,
            "examples": self.examples,
        }

    def lines(self, topic: str) -> Iterable[str]:
        """Yield them for people."""
        yield f"{topic}: {self.total} dead letters"
        if self.elements:
            yield f"{self.elements} of them are of records of messages with several"
        for name, counter in self.by.items():
            if counter:
                yield f"{name}:" if name.endswith(" by") else f"by {name}:"
                rows = sorted(counter.items()) if name == "hour" else counter.most_common()
                for value, count in rows:
                    example = f", such as {self.examples[value]}" if name == "reason" else ""
                    yield f"  {count:>8}  {clean(value, 100)}{example}"


def shown(letter: DeadLetterRead, newer: str, replay: str, own: bytes | None = None) -> Iterable[str]:
    """Yield one dead letter for people, its vector shortened.

    `newer` says whether its key has a newer version, `replay` whether it may be replayed. `own` is its record, where the message
    has several.
    """
    told, message = letter.headers, letter.message
    yield f"dead letter   {letter.place}"
    yield f"reason        {told.reason or _UNKNOWN}"
    yield f"what is wrong {clean(told.values.get(ERROR_MESSAGE, ''), 2000) or _UNKNOWN}"
    yield f"source        {told.topic}/{told.partition} at {told.offset}" if told.topic else f"source        {_UNKNOWN}"
    if told.element is not None:
        others = f" and {told.elements - 1} more behind it" if told.elements > 1 else ""
        yield f"element       {told.element}{others}, of a message with several records"
    failed_at = rfc3339(told.failed_at.timestamp()) if told.failed_at is not None else _UNKNOWN
    yield f"failed at     {failed_at}, stage {clean(told.values.get(STAGE, ''), 50) or _UNKNOWN}"
    yield f"written by    {told.author.value}"
    if told.http_status is not None:
        yield f"the service   {told.http_status} {told.error_code}, request {told.request_id}, attempts {told.attempts}"
    yield f"newer version {newer}"
    yield f"replay        {replay}"
    yield f"key           {_text(message.key)}"
    yield "headers"
    yield from (f"  {clean(name, 200)}: {_text(value)}" for name, value in told.source)
    if letter.element is not None and told.value_size is None:
        yield "record"
        yield f"  {value_text(own) if own is not None else 'not cut out by these settings (records.many, records.fields.records)'}"
    yield "value"
    if told.value_size is None:
        yield f"  {value_text(message.value)}"
    else:
        yield f"  left out, {told.value_size} bytes: {clean(told.values.get(REFERENCE, ''), 300)}"


def _hour(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:00Z")
    except (ValueError, OverflowError, OSError):
        return ""


def _text(data: bytes | None) -> str:
    if data is None:
        return "null"
    try:
        return json.dumps(clean(data.decode(), _SHOWN_BYTES), ensure_ascii=False)
    except UnicodeDecodeError:
        return f"base64 {base64.b64encode(data[:_SHOWN_BINARY_BYTES]).decode()}"


def value_text(data: bytes | None) -> str:
    """Return a value for people, the vector in it shortened."""
    if data is None:
        return "null: a tombstone"
    try:
        record = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return f"{len(data)} bytes: {_text(data[:_SHOWN_BYTES])}"
    return clean(json.dumps(_shortened(record), ensure_ascii=False), 2 * _SHOWN_BYTES)


def _shortened(value: Any) -> Any:
    """Return a JSON value with its long lists of numbers cut."""
    if isinstance(value, dict):
        return {name: _shortened(one) for name, one in value.items()}
    if isinstance(value, list) and len(value) > _SHOWN_NUMBERS and all(isinstance(one, (int, float)) for one in value):
        return [*value[:_SHOWN_NUMBERS], f"... {len(value)} numbers"]
    if isinstance(value, str) and len(value) > 200:
        return f"{value[:200]}... {len(value)} characters"
    return value
