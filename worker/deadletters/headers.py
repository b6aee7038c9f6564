"""The form of a dead letter: what is written to the dead-letter topic, and how its headers are read again.

The headers of the source record come first, all of them, byte for byte; the worker's own come after them. One of these,
`oss-vectors.source-headers`, is the count of those before. So whatever names a producer gave its headers, what it wrote
and what the worker wrote can be told apart: `read_headers` does that, and so does a reader that takes the last header of
each name, as Kafka Connect's own tools do.

A letter that cannot be written as it is has a reference form: it says where the record is, what was wrong with it, and
how large the parts are that were left out. A reference is never larger than a few kilobytes.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from worker.ports import DeadLetter, Message
from worker.words import CODE_CHARACTERS, clean

Headers = list[tuple[str, bytes]]
"""What the client writes: it takes no null value."""

REFERENCE_KEY_BYTES: Final = 1024  # a longer key is left out of a reference, as no vector has one
REFERENCE_HEADER_BYTES: Final = 1024  # likewise all headers together, where they have more
TEXT_CHARACTERS: Final = 2000  # of what was wrong with the record, which may quote it
_NAME_CHARACTERS: Final = 250  # of a topic, a group, an index, a class
_OWN_PREFIXES: Final = ("__connect.errors.", "oss-vectors.")
_SOURCE_HEADERS: Final = "oss-vectors.source-headers"
_NULL_PLACES: Final = "oss-vectors.null-header-places"
_NAMES: Final = "oss-vectors.header-names"
_REPLAYS: Final = "oss-vectors.replays"
_REPLAY_OF: Final = "oss-vectors.replay-of"


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
    """What the producer is given."""

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


class LetterHeaders(NamedTuple):
    """A dead letter's headers: those of the source record as it had them, and what the worker says of it."""

    source: list[tuple[str, bytes | None]]
    told: dict[str, str]


class Replay(NamedTuple):
    """What a record says of itself: how often it was replayed, and which dead letter (`topic/partition/offset`) it was.

    A producer can write this too. It is true if that dead letter exists and came from the same key and partition.
    """

    times: int
    origin: str


# -- writing


def build(letter: DeadLetter, writer: Writer, *, failed_at: float) -> Written:
    """Return the letter with the whole record in it. `failed_at` is Unix time in seconds."""
    message = letter.message
    headers = _source_headers(message.headers) + _told(letter, writer, failed_at, message.headers)
    return _writable(message.key, message.value, headers)


def build_reference(letter: DeadLetter, writer: Writer, *, failed_at: float, sizes: Sizes, why: str) -> Written:
    """Return the letter without the value, and without a key and headers that are not small.

    `sizes` are those of the source record, of which the letter may hold no more than its place. `why` says what keeps
    the whole record from being written.
    """
    message = letter.message
    has_key = message.key is not None and len(message.key) <= REFERENCE_KEY_BYTES
    source = message.headers if sizes.headers <= REFERENCE_HEADER_BYTES else ()
    told = {"oss-vectors.reference": clean(why), "oss-vectors.value-size": str(sizes.value or 0)}
    if sizes.key is not None and not has_key:
        told["oss-vectors.key-size"] = str(sizes.key)
    if sizes.headers and not source:
        told["oss-vectors.headers-size"] = str(sizes.headers)
    headers = _source_headers(source) + _told(letter, writer, failed_at, source) + _encoded(told)
    return _writable(message.key if has_key else None, None, headers)


def _source_headers(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    return [(writable_name(name), value if value is not None else b"") for name, value in headers]


def _told(letter: DeadLetter, writer: Writer, failed_at: float, source: Sequence[tuple[str, bytes | None]]) -> Headers:
    """Return the worker's own headers behind these of the source."""
    partition, refusal = letter.assignment.partition, letter.refusal
    told: dict[str, Any] = {
        "__connect.errors.topic": partition.topic,
        "__connect.errors.partition": partition.partition,
        "__connect.errors.offset": letter.offset,
        "__connect.errors.connector.name": clean(writer.group_id, _NAME_CHARACTERS),
        "__connect.errors.task.id": clean(writer.client_id, _NAME_CHARACTERS),
        "__connect.errors.stage": "TASK_PUT" if refusal is not None else "VALUE_CONVERTER",
        "__connect.errors.class.name": clean(letter.raised_by, _NAME_CHARACTERS),
        "__connect.errors.exception.class.name": clean(letter.error_class, _NAME_CHARACTERS),
        "__connect.errors.exception.message": clean(letter.text, TEXT_CHARACTERS),
        "oss-vectors.reason": letter.reason.value,
        "oss-vectors.index": clean(letter.index, _NAME_CHARACTERS),
        "oss-vectors.timestamp": _source_time(letter.message.timestamp),
        "oss-vectors.failed-at": rfc3339(failed_at),
        _SOURCE_HEADERS: len(source),
    }
    if nulls := {place: name for place, (name, value) in enumerate(source) if value is None}:
        told["oss-vectors.null-headers"] = ",".join(nulls.values())
        told[_NULL_PLACES] = ",".join(map(str, nulls))
    if renamed := {place: name for place, (name, _) in enumerate(source) if writable_name(name) != name}:
        told[_NAMES] = json.dumps(renamed)
    if refusal is not None:
        told["oss-vectors.http-status"] = refusal.status
        told["oss-vectors.error-code"] = clean(str(refusal.code), CODE_CHARACTERS)
        told["oss-vectors.request-id"] = clean(str(refusal.request_id), CODE_CHARACTERS)
        told["oss-vectors.attempts"] = letter.attempts
    return _encoded(told)


def _encoded(told: dict[str, Any]) -> Headers:
    return [(name, str(value).encode(errors="backslashreplace")) for name, value in told.items()]


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


def read_headers(headers: Sequence[tuple[str, bytes | None]]) -> LetterHeaders:
    """Return a dead letter's headers in their two parts, whatever names the source record gave to its own.

    Of a letter of a release that wrote no count, those with the worker's names are taken for the worker's.
    """
    at = max((place for place, (name, _) in enumerate(headers) if name == _SOURCE_HEADERS), default=None)
    count = _number(headers[at][1]) if at is not None else None
    if at is None or count is None or count > at:
        own = [one for one in headers if one[0].startswith(_OWN_PREFIXES)]
        return LetterHeaders([one for one in headers if not one[0].startswith(_OWN_PREFIXES)], _decoded(own))
    told = _decoded([one for one in headers[count:] if one[0].startswith(_OWN_PREFIXES)])
    source = list(headers[:count])
    for place, name in _names(told.get(_NAMES, "{}")).items():
        source[place : place + 1] = [(name, value) for _, value in source[place : place + 1]]
    for null in map(_number, told.get(_NULL_PLACES, "").split(",")):
        if null is not None:
            source[null : null + 1] = [(name, None) for name, _ in source[null : null + 1]]
    return LetterHeaders(source, told)


def claimed_replay(source: Sequence[tuple[str, bytes | None]]) -> Replay | None:
    """Return what a source record says of its replay in its last two headers, None where it says nothing.

    `as_replayed` writes them there. Their truth is not known here: see `Replay`.
    """
    if [name for name, _ in source[-2:]] != [_REPLAYS, _REPLAY_OF]:
        return None
    times, origin = _number(source[-2][1]), (source[-1][1] or b"").decode(errors="replace")
    return Replay(times, origin) if times else None


def as_replayed(source: Sequence[tuple[str, bytes | None]], replay: Replay, *, is_again: bool) -> Headers:
    """Return the headers of a record on its way back to its topic.

    `is_again` says that its claim to be a replay is true: the new one takes its place, instead of being put behind it.
    """
    kept = source[:-2] if is_again else source
    return _source_headers(kept) + _encoded({_REPLAYS: replay.times, _REPLAY_OF: replay.origin})


def _decoded(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    return {name: (value or b"").decode(errors="replace") for name, value in headers}


def _number(value: bytes | str | None) -> int | None:
    """Return a number that was written as digits, of a sane length; None where it was not."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _names(text: str) -> dict[int, str]:
    try:
        return {int(place): str(name) for place, name in json.loads(text).items()}
    except (ValueError, AttributeError):
        return {}
