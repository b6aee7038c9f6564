"""The form of a dead letter: what is written to the dead-letter topic, and how its headers are read again.

The headers of the source record come first, all of them, byte for byte; the worker's own come after them. One of these,
`oss-vectors.source-headers`, is the count of those before. So no name that a producer gave a header of its record misleads
a reader: `read_headers` separates the two, and so does a reader that takes the last header of each name, as Kafka
Connect's own tools do. Kafka Connect's error handler too appends its headers to those of the source record, without a count.

A record that cannot be written whole is written as a reference: where it is, what was wrong with it, and how large the
parts are that were left out. A reference is never larger than a few kilobytes.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from worker.ports import DeadLetter, Message
from worker.words import CODE_CHARACTERS, clean

# -- the names

CONNECT_PREFIX: Final = "__connect.errors."
SOURCE_TOPIC: Final = "__connect.errors.topic"
SOURCE_PARTITION: Final = "__connect.errors.partition"
SOURCE_OFFSET: Final = "__connect.errors.offset"
CONNECTOR_NAME: Final = "__connect.errors.connector.name"
TASK_ID: Final = "__connect.errors.task.id"
STAGE: Final = "__connect.errors.stage"
RAISED_BY: Final = "__connect.errors.class.name"
ERROR_CLASS: Final = "__connect.errors.exception.class.name"
ERROR_MESSAGE: Final = "__connect.errors.exception.message"
STACKTRACE: Final = "__connect.errors.exception.stacktrace"  # Kafka Connect's alone

WORKER_PREFIX: Final = "oss-vectors."
REASON: Final = "oss-vectors.reason"
INDEX: Final = "oss-vectors.index"
TIMESTAMP: Final = "oss-vectors.timestamp"
FAILED_AT: Final = "oss-vectors.failed-at"
SOURCE_HEADERS: Final = "oss-vectors.source-headers"
NULL_HEADERS: Final = "oss-vectors.null-headers"
NULL_HEADER_PLACES: Final = "oss-vectors.null-header-places"
HEADER_NAMES: Final = "oss-vectors.header-names"
HTTP_STATUS: Final = "oss-vectors.http-status"
ERROR_CODE: Final = "oss-vectors.error-code"
REQUEST_ID: Final = "oss-vectors.request-id"
ATTEMPTS: Final = "oss-vectors.attempts"
REFERENCE: Final = "oss-vectors.reference"
ELEMENT: Final = "oss-vectors.element"
ELEMENTS: Final = "oss-vectors.elements"
VALUE_SIZE: Final = "oss-vectors.value-size"
KEY_SIZE: Final = "oss-vectors.key-size"
HEADERS_SIZE: Final = "oss-vectors.headers-size"
REPLAYS: Final = "oss-vectors.replays"
REPLAY_OF: Final = "oss-vectors.replay-of"

_SHARED_NAMES: Final = (
    SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_OFFSET, CONNECTOR_NAME, TASK_ID, STAGE, RAISED_BY, ERROR_CLASS, ERROR_MESSAGE,
)  # fmt: skip
"""What the worker writes first, and Kafka Connect's error handler too, in this order."""

# -- the limits

REFERENCE_KEY_BYTES: Final = 1024  # a longer key is left out of a reference, as no vector has one
REFERENCE_HEADER_BYTES: Final = 1024  # likewise all headers together, where they have more
TEXT_CHARACTERS: Final = 2000  # of what was wrong with the record, which may quote it
_NAME_CHARACTERS: Final = 250  # of a topic, a group, an index, a class
_LARGEST_OFFSET: Final = 2**63 - 1
_LARGEST_COUNT: Final = 2**31 - 1  # of headers, bytes, attempts; a partition's number

Headers = list[tuple[str, bytes]]
"""What the client writes: it accepts no null value."""

SourceHeaders = Sequence[tuple[str, bytes | None]]
"""What the client reads."""


class Sizes(NamedTuple):
    """The bytes of a record's parts; None for one that is null. `headers` counts their names and values."""

    key: int | None
    value: int | None
    headers: int

    @classmethod
    def of(cls, message: Message) -> "Sizes":
        """Return the sizes of a message's parts."""
        headers = sum(len(name.encode("utf-8", "surrogatepass")) + len(value or b"") for name, value in message.headers)
        return cls(_size(message.key), _size(message.value), headers)


class Written(NamedTuple):
    """What the producer sends."""

    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def size(self) -> int:
        """Its bytes, without what the protocol adds."""
        return len(self.key or b"") + len(self.value or b"") + sum(len(n) + len(v) for n, v in self.headers)


class Writer(NamedTuple):
    """Who writes."""

    group_id: str
    client_id: str


class Replay(NamedTuple):
    """What a record says of itself: how often it was replayed, and which dead letter (`topic/partition/offset`) it was.

    A producer can write this too. It is true if that dead letter exists and came from the same key and partition.
    """

    times: int
    origin: str


class Author(StrEnum):
    """Who wrote the headers that say what was wrong."""

    WORKER = "worker"
    CONNECT = "connect"  # Kafka Connect's error handler
    UNKNOWN = "unknown"  # a release of the worker that wrote no count, another tool, or no writer: it is no dead letter


class DeadLetterHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter's headers, read. Texts that are not there are "", numbers and times None.

    A producer of the source topic cannot forge what a dead letter of WORKER or CONNECT says. Of one of UNKNOWN nothing is
    known but the names of its headers. Who may write to the dead-letter topic itself can write anything.
    """

    author: Author
    source: list[tuple[str, bytes | None]]
    """The source record's own headers, as it had them."""
    values: dict[str, str]
    """The texts of the error headers, by name."""
    reason: str
    topic: str
    partition: int | None
    offset: int | None
    index: str
    timestamp: datetime | None
    failed_at: datetime | None
    http_status: int | None
    error_code: str
    request_id: str
    attempts: int | None
    element: int | None
    """The place of the record in its message, where the message has several."""
    elements: int
    """For how many bad records of its message it is, from `element` on. More than 1 where there are many."""
    value_size: int | None
    """The bytes of the value that was left out: this is a reference."""
    replay: Replay | None
    """What the source record says of itself: see `Replay`."""


# -- writing


def build(dead_letter: DeadLetter, writer: Writer, *, failed_at: float) -> Written:
    """Return the dead letter with the whole record in it. `failed_at` is Unix time in seconds."""
    message = dead_letter.message
    headers = _source_headers(message.headers) + _own_headers(dead_letter, writer, failed_at, message.headers)
    return _writable(message.key, message.value, headers)


def build_reference(dead_letter: DeadLetter, writer: Writer, *, failed_at: float, sizes: Sizes, why: str) -> Written:
    """Return the dead letter without the value, and without a key and headers that are not small.

    `sizes` are those of the source record: the dead letter may have kept only its place. `why` says what keeps
    the whole record from being written.
    """
    message = dead_letter.message
    has_key = message.key is not None and len(message.key) <= REFERENCE_KEY_BYTES
    source = message.headers if sizes.headers <= REFERENCE_HEADER_BYTES else ()
    left_out = {REFERENCE: clean(why), VALUE_SIZE: str(sizes.value or 0)}
    if sizes.key is not None and not has_key:
        left_out[KEY_SIZE] = str(sizes.key)
    if sizes.headers and not source:
        left_out[HEADERS_SIZE] = str(sizes.headers)
    headers = _source_headers(source) + _own_headers(dead_letter, writer, failed_at, source) + _encoded(left_out)
    return _writable(message.key if has_key else None, None, headers)


def _source_headers(headers: SourceHeaders) -> Headers:
    return [(writable_name(name), value if value is not None else b"") for name, value in headers]


def _own_headers(dead_letter: DeadLetter, writer: Writer, failed_at: float, source: SourceHeaders) -> Headers:
    """Return the worker's own headers, to be written after these of the source."""
    partition, refusal = dead_letter.assignment.partition, dead_letter.refusal
    values: dict[str, Any] = {
        SOURCE_TOPIC: partition.topic,
        SOURCE_PARTITION: partition.partition,
        SOURCE_OFFSET: dead_letter.offset,
        CONNECTOR_NAME: clean(writer.group_id, _NAME_CHARACTERS),
        TASK_ID: clean(writer.client_id, _NAME_CHARACTERS),
        STAGE: "TASK_PUT" if refusal is not None else "VALUE_CONVERTER",
        RAISED_BY: clean(dead_letter.raised_by, _NAME_CHARACTERS),
        ERROR_CLASS: clean(dead_letter.error_class, _NAME_CHARACTERS),
        ERROR_MESSAGE: clean(dead_letter.text, TEXT_CHARACTERS),
        REASON: dead_letter.reason.value,
        INDEX: clean(dead_letter.index, _NAME_CHARACTERS),
        TIMESTAMP: _source_time(dead_letter.message.timestamp),
        FAILED_AT: rfc3339(failed_at),
        SOURCE_HEADERS: len(source),
    }
    if dead_letter.element is not None:
        values[ELEMENT] = dead_letter.element
        if dead_letter.elements > 1:
            values[ELEMENTS] = dead_letter.elements
    if nulls := {place: name for place, (name, value) in enumerate(source) if value is None}:
        values[NULL_HEADERS] = ",".join(nulls.values())
        values[NULL_HEADER_PLACES] = ",".join(map(str, nulls))
    if renamed := {place: name for place, (name, _) in enumerate(source) if writable_name(name) != name}:
        values[HEADER_NAMES] = json.dumps(renamed)
    if refusal is not None:
        values[HTTP_STATUS] = refusal.status
        values[ERROR_CODE] = clean(str(refusal.code), CODE_CHARACTERS)
        values[REQUEST_ID] = clean(str(refusal.request_id), CODE_CHARACTERS)
        values[ATTEMPTS] = dead_letter.attempts
    return _encoded(values)


def _encoded(values: dict[str, Any]) -> Headers:
    return [(name, str(value).encode(errors="backslashreplace")) for name, value in values.items()]


class _RawName(str):
    """A header's name that is not UTF-8: it is written with the bytes that it had.

    The client's producer takes names as text alone, and writes what their `encode` returns.
    """

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return super().encode(encoding, "surrogateescape" if errors == "strict" else errors)


def writable_name(name: str) -> str:
    """Return a header's name as the client can write it: with the bytes that it had, what has none as an escape."""
    if name.isascii():
        return name
    try:
        name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()
    return _RawName(name)


def _writable(key: bytes | None, value: bytes | None, headers: Headers) -> Written:
    """The client cannot write a message with neither key nor value: its value is written empty."""
    return Written(key, b"" if key is None and value is None else value, headers)


def _size(part: bytes | None) -> int | None:
    return None if part is None else len(part)


def _source_time(milliseconds: int) -> str:
    """Return it as text, empty where there is none, or none that a calendar has (microseconds, by a producer's mistake)."""
    try:
        return rfc3339(milliseconds / 1000) if milliseconds >= 0 else ""
    except (ValueError, OverflowError, OSError):
        return ""


def rfc3339(seconds: float) -> str:
    """Return a Unix time as RFC 3339, UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- reading


def read_headers(headers: SourceHeaders) -> DeadLetterHeaders:
    """Return a dead letter's headers, whatever names the source record gave to its own. Raises nothing, whatever they are."""
    if (start := _start_of_workers(headers)) is not None:
        values = _decoded(headers[start:])
        return _read(Author.WORKER, _as_it_was(headers[:start], values), values)
    if (start := _start_of_connects(headers)) is not None:
        return _read(Author.CONNECT, list(headers[:start]), _decoded(headers[start:]))
    source = [(name, value) for name, value in headers if not _is_error_header(name)]
    return _read(Author.UNKNOWN, source, _decoded(headers))


def _start_of_workers(headers: SourceHeaders) -> int | None:
    """Return the place of the worker's first header, None where the error headers are not as the worker writes them."""
    at = max((place for place, (name, _) in enumerate(headers) if name == SOURCE_HEADERS), default=None)
    start = None if at is None else _number(headers[at][1])
    if at is None or start is None or start >= at:
        return None
    names = [name for name, _ in headers[start:] if _is_error_header(name)]
    count = len(_SHARED_NAMES)
    is_as_written = tuple(names[:count]) == _SHARED_NAMES and headers[start][0] == SOURCE_TOPIC
    is_unmixed = len(set(names)) == len(names) and all(name.startswith(WORKER_PREFIX) for name in names[count:])
    return start if is_as_written and is_unmixed else None


def _start_of_connects(headers: SourceHeaders) -> int | None:
    """Return the place of the first header of Kafka Connect's error handler, None where its headers are not the last ones."""
    start = max((place for place, (name, _) in enumerate(headers) if name == SOURCE_TOPIC), default=None)
    if start is None:
        return None
    names = [name for name, _ in headers[start:]]
    expected = iter((*_SHARED_NAMES, STACKTRACE))  # without an exception, the last ones are not written
    return start if RAISED_BY in names and all(name in expected for name in names) else None


def _is_error_header(name: str) -> bool:
    return name.startswith((CONNECT_PREFIX, WORKER_PREFIX))


def _decoded(headers: SourceHeaders) -> dict[str, str]:
    return {name: (value or b"").decode(errors="replace") for name, value in headers if _is_error_header(name)}


def _as_it_was(headers: SourceHeaders, values: dict[str, str]) -> list[tuple[str, bytes | None]]:
    """Return the source's headers with the names and the null values that could not be written."""
    source = list(headers)
    for place, name in _names(values.get(HEADER_NAMES, "{}")).items():
        source[place : place + 1] = [(name, value) for _, value in source[place : place + 1]]
    for null in map(_number, values.get(NULL_HEADER_PLACES, "").split(",")):
        if null is not None:
            source[null : null + 1] = [(name, None) for name, _ in source[null : null + 1]]
    return source


def _read(author: Author, source: list[tuple[str, bytes | None]], values: dict[str, str]) -> DeadLetterHeaders:
    return DeadLetterHeaders(
        author=author,
        source=source,
        values=values,
        reason=values.get(REASON, ""),
        topic=values.get(SOURCE_TOPIC, ""),
        partition=_number(values.get(SOURCE_PARTITION)),
        offset=_number(values.get(SOURCE_OFFSET), most=_LARGEST_OFFSET),
        index=values.get(INDEX, ""),
        timestamp=_moment(values.get(TIMESTAMP, "")),
        failed_at=_moment(values.get(FAILED_AT, "")),
        http_status=_number(values.get(HTTP_STATUS)),
        error_code=values.get(ERROR_CODE, ""),
        request_id=values.get(REQUEST_ID, ""),
        attempts=_number(values.get(ATTEMPTS)),
        element=_number(values.get(ELEMENT)),
        elements=_number(values.get(ELEMENTS)) or 1,
        value_size=_number(values.get(VALUE_SIZE)),
        replay=claimed_replay(source),
    )


def claimed_replay(source: SourceHeaders) -> Replay | None:
    """Return what a source record says of its replay in its last two headers, None where it says nothing.

    `as_replayed` writes them there. Their truth is not known here: see `Replay`.
    """
    if [name for name, _ in source[-2:]] != [REPLAYS, REPLAY_OF]:
        return None
    times, origin = _number(source[-2][1]), (source[-1][1] or b"").decode(errors="replace")
    return Replay(times, origin) if times else None


def as_replayed(source: SourceHeaders, replay: Replay, *, is_again: bool) -> Headers:
    """Return the headers of a record on its way back to its topic.

    `is_again` says that its claim to be a replay is true: the new one replaces it, instead of being put behind it.
    """
    kept = source[:-2] if is_again else source
    return _source_headers(kept) + _encoded({REPLAYS: replay.times, REPLAY_OF: replay.origin})


def _number(value: bytes | str | None, most: int = _LARGEST_COUNT) -> int | None:
    """Return a number that was written as digits, and is not larger than `most`; None where it was not."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value or ""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    return number if is_number and (number := int(text)) <= most else None


def _moment(text: str) -> datetime | None:
    """Return a time that was written with its distance from UTC, None where it was not."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _names(text: str) -> dict[int, str]:
    try:
        return {int(place): str(name) for place, name in json.loads(text).items()}
    except (ValueError, AttributeError, RecursionError):
        return {}
