"""A record read slowly, by the rules of the README and by nothing else: what the fast decoder is compared with.

It uses Python's own JSON parser and a MessagePack reader of its own, and nothing of the worker.
"""

import base64
import json
import math
import re
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

Pairs = list[tuple[Any, Any]]

KEY_CHARACTERS: Final = 1024
METADATA_BYTES: Final = 40 * 1024
FILTERABLE_BYTES: Final = 2 * 1024
FILTERABLE_KEYS: Final = 10
FLOAT32_OVERFLOW: Final = 2.0**128 - 2.0**103
MOST_DIGITS: Final = 4300  # of an integer that Python turns into text


class Map(NamedTuple):
    """A map with all its members in their order, also those of one name."""

    members: Pairs

    def last(self) -> dict[str, Any]:
        """Return the last value of each name that is a string."""
        return {name: value for name, value in self.members if isinstance(name, (str, NoText))}  # type: ignore[misc]  # what is no text is compared like a name


class NoText(NamedTuple):
    """A string that is no text."""

    content: bytes


class Number(NamedTuple):
    """A number: its value as float64, and whether it was written as an integer (then exactly)."""

    value: float
    integer: int | None = None


class Extension(NamedTuple):
    """A value of a MessagePack extension type."""

    content: bytes


class Expected(NamedTuple):
    """What a record asks for: the key, the vector's numbers as float32, and the metadata."""

    key: str
    numbers: tuple[float, ...]
    metadata: dict[str, Any] | None


class Bad(Exception):
    """The record can never be written; `reason` is that of its dead letter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Rules(NamedTuple):
    """The index, and the settings."""

    dimension: int
    cosine: bool
    stringify: bool
    non_filterable: frozenset[str]


def read(value: bytes, kafka_key: bytes | None, rules: Rules) -> Expected:
    """Return what the record asks for, or raise `Bad`; any format, Kafka keys in UTF-8."""
    record = parse(value)
    if not isinstance(record, Map):
        raise Bad("malformed")
    fields = record.last()
    own = fields.get("key")
    if own is not None and not isinstance(own, str):
        raise Bad("malformed")
    vector = _vector(fields.get("data"))
    key = _key(own, kafka_key)
    return Expected(key, _numbers(vector, rules), _metadata(fields.get("metadata"), rules))


def parse(value: bytes) -> Any:
    """Return the value whole, nothing resolved."""
    if not value:
        raise Bad("malformed")
    if value[0] == 0:
        return _parse_after_prefix(value)
    if value[0] in b"{ \t\r\n" or value.startswith(b"\xef\xbb\xbf"):
        return _parse_json(value.removeprefix(b"\xef\xbb\xbf"))
    if 0x80 <= value[0] <= 0x8F or value[0] in (0xDE, 0xDF):
        reader = _Reader(value)
        record = reader.value()
        if reader.place != len(value):
            raise Bad("malformed")
        return record
    raise Bad("malformed")


def _parse_after_prefix(value: bytes) -> Any:
    if re.match(rb"\x00\{\x00[\t\r\n -~]", value):  # UTF-16
        raise Bad("malformed")
    body = value[5:].removeprefix(b"\xef\xbb\xbf")
    if not body.lstrip(b" \t\r\n").startswith(b"{"):
        raise Bad("malformed" if _is_list_or_string(body) else "unsupported_encoding")
    try:
        return _parse_json(body)
    except Bad:
        inside = body.lstrip(b" \t\r\n")[1:].lstrip(b" \t\r\n")
        begins_otherwise = bool(inside) and inside[:1] not in (b'"', b"}")
        if begins_otherwise or any(byte < 0x20 and byte not in b"\t\r\n" for byte in body):  # Avro, Protobuf
            raise Bad("unsupported_encoding") from None
        raise


def _is_list_or_string(body: bytes) -> bool:
    if not body.lstrip(b" \t\r\n").startswith((b"[", b'"')):
        return False
    try:
        _parse_json(body)
    except Bad:
        return False
    return True


# -- JSON


def _parse_json(body: bytes) -> Any:
    def refuse(_: str) -> None:
        raise Bad("malformed")

    try:
        parsed = json.loads(
            body.decode("utf-8", "surrogateescape"),
            object_pairs_hook=Map,
            parse_constant=refuse,
            parse_int=_json_integer,
            parse_float=lambda text: Number(float(text)),
        )
    except ValueError:
        raise Bad("malformed") from None
    return _with_no_text(parsed)


def _json_integer(text: str) -> Number:
    if len(text.lstrip("-")) <= MOST_DIGITS:
        try:
            return Number(float(int(text)), int(text))
        except OverflowError:
            return Number(math.inf, int(text))
    return Number(math.inf)


def _with_no_text(parsed: Any) -> Any:
    """Put `NoText` in the place of strings that have no UTF-8: it was none, or it is half of a surrogate pair."""
    if isinstance(parsed, str):
        try:
            parsed.encode()
        except UnicodeEncodeError:
            return NoText(parsed.encode("utf-8", "surrogatepass"))
        return parsed
    if isinstance(parsed, Map):
        return Map([(_with_no_text(name), _with_no_text(value)) for name, value in parsed.members])
    return [_with_no_text(element) for element in parsed] if isinstance(parsed, list) else parsed


# -- MessagePack


class _Reader:
    """Reads MessagePack by its specification."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def take(self, count: int) -> bytes:
        if self.place + count > len(self.data):
            raise Bad("malformed")
        self.place += count
        return self.data[self.place - count : self.place]

    def size(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def value(self) -> Any:  # noqa: C901, PLR0911 - the table of the specification, row by row
        first = self.take(1)[0]
        if first <= 0x7F:
            return Number(first, first)
        if first <= 0x8F:
            return self.map(first & 0x0F)
        if first <= 0x9F:
            return self.list(first & 0x0F)
        if first <= 0xBF:
            return self.string(first & 0x1F)
        if first >= 0xE0:
            return Number(first - 0x100, first - 0x100)
        if first in (0xC4, 0xC5, 0xC6):
            return self.take(self.size(1 << (first - 0xC4)))
        if first in (0xC7, 0xC8, 0xC9):
            return Extension(self.take(self.size(1 << (first - 0xC7)) + 1))
        if 0xD4 <= first <= 0xD8:
            return Extension(self.take((1 << (first - 0xD4)) + 1))
        if 0xCC <= first <= 0xD3:
            integer = int.from_bytes(self.take(1 << ((first - 0xCC) % 4)), "big", signed=first >= 0xD0)
            return Number(float(integer), integer)
        table: dict[int, Callable[[], Any]] = {
            0xC0: lambda: None,
            0xC2: lambda: False,
            0xC3: lambda: True,
            0xCA: lambda: Number(struct.unpack(">f", self.take(4))[0]),
            0xCB: lambda: Number(struct.unpack(">d", self.take(8))[0]),
            0xD9: lambda: self.string(self.size(1)),
            0xDA: lambda: self.string(self.size(2)),
            0xDB: lambda: self.string(self.size(4)),
            0xDC: lambda: self.list(self.size(2)),
            0xDD: lambda: self.list(self.size(4)),
            0xDE: lambda: self.map(self.size(2)),
            0xDF: lambda: self.map(self.size(4)),
        }
        if first not in table:
            raise Bad("malformed")
        return table[first]()

    def string(self, length: int) -> Any:
        content = self.take(length)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return NoText(content)

    def list(self, length: int) -> Any:
        return [self.value() for _ in range(length)]

    def map(self, length: int) -> Map:
        return Map([(self.value(), self.value()) for _ in range(length)])


# -- the rules


def _key(own: str | None, kafka_key: bytes | None) -> str:
    if own is None:
        if kafka_key is None or kafka_key.startswith(b"\x00"):
            raise Bad("key")
        try:
            own = kafka_key.decode()
        except UnicodeDecodeError:
            raise Bad("key") from None
    if not 1 <= len(own) <= KEY_CHARACTERS:
        raise Bad("key")
    return own


def _vector(data: Any) -> bytes | list[Number]:
    if not isinstance(data, Map):
        raise Bad("malformed")
    vector = data.last().get("float32")
    if isinstance(vector, str):
        return _in_text(vector)
    if type(vector) is bytes or (isinstance(vector, list) and all(isinstance(number, Number) for number in vector)):
        return vector
    raise Bad("malformed")


def _in_text(text: str) -> bytes | list[Number]:
    """Return what a vector in text holds: a list of numbers, or base64 in any dress."""
    if "," in text or text.lstrip().startswith("["):
        inner = text.strip().removeprefix("[").removesuffix("]")
        elements = inner.split(",") if inner.strip() else []
        if not all(re.fullmatch(r"[ \t\r\n]*-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?[ \t\r\n]*", one) for one in elements):
            raise Bad("malformed")
        return [Number(float(one)) for one in elements]
    one_line = text.replace("\r", "").replace("\n", "")
    length = len(one_line.rstrip("="))
    is_standard, is_url = (re.fullmatch(rf"[A-Za-z0-9{two}]*={{0,2}}", one_line) for two in ("+/", "_-"))
    if length % 4 == 1 or len(one_line) not in (length, length + -length % 4) or not (is_standard or is_url):
        raise Bad("malformed")
    return base64.b64decode(one_line.rstrip("=") + "=" * (-length % 4), altchars=None if is_standard else b"-_")


def _numbers(vector: bytes | list[Number], rules: Rules) -> tuple[float, ...]:
    if isinstance(vector, bytes):
        if len(vector) % 4:
            raise Bad("malformed")
        numbers = list(struct.unpack(f"<{len(vector) // 4}f", vector))
    else:
        numbers = [number.value for number in vector]
    if len(numbers) != rules.dimension:
        raise Bad("dimension")
    if not all(abs(number) < FLOAT32_OVERFLOW for number in numbers):  # nor is NaN
        raise Bad("not_finite")
    rounded = struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers))
    if rules.cosine and not any(rounded):
        raise Bad("zero_vector")
    return rounded


def _metadata(metadata: Any, rules: Rules) -> dict[str, Any] | None:
    if metadata is None:
        return None
    if not isinstance(metadata, Map):
        raise Bad("metadata")
    values = metadata.last()
    flat = [element for value in values.values() for element in (value if isinstance(value, list) else [value])]
    if any(isinstance(text, NoText) for text in [*values, *flat]):
        raise Bad("malformed")
    if any(not isinstance(name, str) for name, _ in metadata.members):
        raise Bad("metadata")
    read: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list):
            read[name] = [_scalar(element, rules) for element in value if element is not None or not rules.stringify]
        elif value is not None or not rules.stringify:
            read[name] = _scalar(value, rules)
    _check_limits(read, rules)
    return read


def _scalar(value: Any, rules: Rules) -> str:
    if isinstance(value, str):
        return value
    if rules.stringify and isinstance(value, bool):
        return "true" if value else "false"
    if rules.stringify and isinstance(value, Number):
        if value.integer is not None:
            return str(value.integer)
        if math.isfinite(value.value):
            return shortest(value.value)
    raise Bad("metadata")


def shortest(number: float) -> str:
    """Return the shortest text of a float64 as JSON has it, in the form that `canonical` compares."""
    return canonical(repr(number))


def canonical(text: str) -> str:
    """Return a number's text in one form: programs differ in when they write an exponent, and in how they write it."""
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?", text) or not re.search(r"[.eE]", text):
        return text
    return f"{float(text)!r}"


def _check_limits(metadata: dict[str, Any], rules: Rules) -> None:
    total = filterable = keys = 0
    for name, value in metadata.items():
        texts = value if isinstance(value, list) else [value]
        size = len(name.encode()) + sum(len(text.encode()) for text in texts)
        total += size
        if name not in rules.non_filterable:
            filterable += size
            keys += 1
    if total > METADATA_BYTES or filterable > FILTERABLE_BYTES or keys > FILTERABLE_KEYS:
        raise Bad("metadata")
