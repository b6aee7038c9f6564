"""Avro: bodies of one schema as MessagePack.

fastavro parses the schema: it checks it, and resolves names, namespaces and references. The bodies are read here, by functions
that are made of the parsed schema once. fastavro's own reader follows whatever a body claims: on Avro that is nested a
million levels deep it ends the process, and an array of 2^60 nulls it reads until the memory is full. It also reads an array
of floats number by number, which for 1,536 of them costs about forty times as much as here.

    null, boolean, int, long, float, double, string, array, map    as in MessagePack
    record                  a map
    union                   the value itself
    bytes, fixed            bytes
    enum                    its symbol, as text
    decimal                 text with all its places: 12.30
    uuid                    text
    date                    text: 2026-01-31
    time-millis, -micros    text: 12:30:00.000
    timestamp-millis, ...   text: 2026-01-31T12:30:00.000Z; local ones without the Z
    duration                text: P1M2DT3.000S
    connect.name            text, where the schema has no logicalType: dates, times and decimals of Kafka Connect and Debezium

A decimal, date or time that is out of its range remains bytes or a number; so does one whose schema is not valid.
A float stays a float32, and an array of floats or doubles is copied as a whole.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

import fastavro
import fastavro.schema
import msgspec
import numpy as np

from worker.errors import Reason, RecordError
from worker.records.formats.framing import Framed
from worker.registry import avro_logical as logical
from worker.registry.bounds import MOST_ADDED, MOST_DEPTH, TOO_LONG, parsed_json
from worker.registry.client import SchemaText, UnusableSchema
from worker.registry.packed import DOUBLE, SINGLE, Packed, as_list
from worker.words import clean

MOST_VALUES: Final = 200_000
"""Of one body, but for arrays of floats and doubles. Each costs under a microsecond or two, whatever the body claims."""
_VALUES_OF_A_BLOCK: Final = 5  # what a block of floats costs, whatever its length
_LONG_BITS: Final = 63

_encode: Final = msgspec.msgpack.Encoder().encode


class _Broken(Exception):
    """A body is not what its schema says; the message says how."""


class _Body:
    """One body, and how far it was read."""

    __slots__ = ("added", "at", "data", "depth", "values")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.depth = 0
        self.values = 0
        self.added = 0

    def number(self) -> int:
        """Read an int or a long: seven bits a byte, the lowest first, signs zigzag."""
        data, at = self.data, self.at
        byte = data[at]
        found, shift = byte & 0x7F, 7
        while byte & 0x80:
            if shift > _LONG_BITS:
                raise _Broken("a number has more than 64 bits")
            at += 1
            byte = data[at]
            found |= (byte & 0x7F) << shift
            shift += 7
        self.at = at + 1
        number = (found >> 1) ^ -(found & 1)
        if shift > _LONG_BITS and not -(2**63) <= number < 2**63:
            raise _Broken("a number has more than 64 bits")
        return number

    def take(self, size: int) -> bytes:
        """Read so many bytes."""
        at = self.at
        if not 0 <= size <= len(self.data) - at:
            raise _Broken(f"{size} bytes are announced, {len(self.data) - at} are left")
        self.at = at + size
        return self.data[at : self.at]

    def count(self) -> int:
        """Read how many items the next block of an array or map has, 0 at its end. It may be negative, with a size behind it."""
        count = self.number()
        if count < 0:
            self.number()
            return -count
        return count

    def end(self) -> None:
        """Expect the end."""
        if left := len(self.data) - self.at:
            raise _Broken(f"{left} bytes follow")

    def expect(self, values: int, added: int = 0) -> None:
        """Count values that are about to be read, and the bytes that the schema adds to them."""
        self.values += values
        self.added += added
        if self.values > MOST_VALUES:
            raise _Broken(f"it has more than {MOST_VALUES} values")
        if self.added > MOST_ADDED:
            raise _Broken(TOO_LONG)


_Read: TypeAlias = Callable[[_Body], Any]


def _null(_body: _Body) -> None:
    return None


def _boolean(body: _Body) -> bool:
    return body.take(1) != b"\0"


def _bytes(body: _Body) -> bytes:
    return body.take(body.number())


def _string(body: _Body) -> str:
    return body.take(body.number()).decode()


def _single(body: _Body) -> Any:
    return float(np.frombuffer(body.take(4), "<f4")[0])


def _double(body: _Body) -> Any:
    return float(np.frombuffer(body.take(8), "<f8")[0])


_PRIMITIVES: Final[Mapping[str, _Read]] = {
    "null": _null,
    "boolean": _boolean,
    "int": _Body.number,
    "long": _Body.number,
    "float": _single,
    "double": _double,
    "bytes": _bytes,
    "string": _string,
}


_PACKED: Final[Mapping[str, Packed]] = {"float": SINGLE, "double": DOUBLE}


def _floats(packed: Packed) -> _Read:
    """Return what reads an array of floats, as finished MessagePack."""
    size = packed.plain.itemsize

    def read(body: _Body) -> msgspec.Raw:
        blocks, total = [], 0
        while count := body.count():
            blocks.append(packed.items(np.frombuffer(body.take(count * size), packed.plain)))
            total += count
            body.expect(_VALUES_OF_A_BLOCK)
        return as_list(b"".join(blocks), total)

    return read


class _Reads:
    """Makes readers of a parsed schema, one for each named type."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._made: dict[str, _Read] = {}

    def of(self, schema: Any, depth: int = 0) -> _Read:
        """Return what reads values of a schema."""
        if depth > MOST_DEPTH:
            raise UnusableSchema(f"the schema is nested more than {MOST_DEPTH} levels deep")
        if isinstance(schema, str):
            return _PRIMITIVES.get(schema) or self._by_name(schema, depth)
        if isinstance(schema, list):
            return self._union(schema, depth)
        kind = schema["type"]
        if kind in ("record", "error", "enum", "fixed"):
            return self._by_name(schema["name"], depth, schema)
        if kind in ("array", "map"):
            return self._many(schema, depth)
        return logical.of(schema, self.of(kind, depth + 1))

    def _many(self, schema: Any, depth: int) -> _Read:
        """Return what reads an array or a map."""
        if schema["type"] == "map":
            return self._map(self.of(schema["values"], depth + 1))
        items = schema["items"]
        plain = items["type"] if isinstance(items, dict) else items
        if isinstance(plain, str) and plain in _PACKED:
            return _floats(_PACKED[plain])
        return self._array(self.of(items, depth + 1))

    def _by_name(self, name: str, depth: int, schema: Any = None) -> _Read:
        """Return what reads a named type. A type that contains itself finds its own reader when it is asked for one."""
        made = self._made
        if name in made:
            return made[name] if made[name] is not _unfinished else partial(self._read_later, name)
        definition = self._named.get(name) if schema is None else schema
        if definition is None:
            raise UnusableSchema(f"it refers to {clean(name, 200)}, which is not there")
        self._made[name] = _unfinished
        kind = definition["type"]
        if kind == "enum":
            read = _enum(tuple(definition["symbols"]))
        elif kind == "fixed":
            read = logical.of(definition, _fixed(int(definition["size"])))
        else:
            read = logical.of_record(definition, self._record(definition, depth))
        self._made[name] = read
        return read

    def _read_later(self, name: str, body: _Body) -> Any:
        return self._made[name](body)

    def _record(self, schema: Any, depth: int) -> _Read:
        fields = [(field["name"], self.of(field["type"], depth + 1)) for field in schema["fields"]]
        count = len(fields) + 1
        names = sum(len(name.encode(errors="replace")) for name, _ in fields)

        def read(body: _Body) -> dict[str, Any]:
            body.expect(count, names)
            body.depth += 1
            if body.depth > MOST_DEPTH:
                raise _Broken(f"records are nested more than {MOST_DEPTH} levels deep")
            found = {name: read_field(body) for name, read_field in fields}
            body.depth -= 1
            return found

        return read

    def _union(self, branches: list[Any], depth: int) -> _Read:
        reads = [self.of(branch, depth + 1) for branch in branches]
        most = len(reads)

        def read(body: _Body) -> Any:
            branch = body.number()
            if not 0 <= branch < most:
                raise _Broken(f"a union of {most} has no branch {branch}")
            return reads[branch](body)

        return read

    @staticmethod
    def _array(read_item: _Read) -> _Read:
        def read(body: _Body) -> list[Any]:
            found: list[Any] = []
            while count := body.count():
                body.expect(count)
                found += [read_item(body) for _ in range(count)]
            return found

        return read

    @staticmethod
    def _map(read_value: _Read) -> _Read:
        def read(body: _Body) -> dict[str, Any]:
            found: dict[str, Any] = {}
            while count := body.count():
                body.expect(count)
                for _ in range(count):
                    name = _string(body)
                    found[name] = read_value(body)
            return found

        return read


def _unfinished(_body: _Body) -> Any:
    raise AssertionError("a reader was used while it was made")


def _enum(symbols: tuple[str, ...]) -> _Read:
    def read(body: _Body) -> str:
        place = body.number()
        if not 0 <= place < len(symbols):
            raise _Broken(f"an enum of {len(symbols)} has no symbol {place}")
        symbol = symbols[place]
        body.expect(0, len(symbol))
        return symbol

    return read


def _fixed(size: int) -> _Read:
    return lambda body: body.take(size)


class AvroReader:
    """Reads bodies of one schema. Raises `UnusableSchema` where that cannot be."""

    encoding = "Avro"

    def __init__(self, schema: SchemaText) -> None:
        named: dict[str, Any] = {}
        try:
            for _, text in schema.references:
                fastavro.parse_schema(parsed_json(text), named_schemas=named)
            parsed = fastavro.parse_schema(parsed_json(schema.text), named_schemas=named)
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            RecursionError,
            fastavro.schema.SchemaParseException,
        ) as error:
            raise UnusableSchema(f"it is no Avro schema: {type(error).__name__}: {clean(str(error), 300)}") from None
        self._read = _Reads(named).of(parsed)

    def plain(self, framed: Framed, /) -> bytes:
        """Return a body as MessagePack. Raises `RecordError`."""
        body = _Body(framed.body)
        try:
            found = self._read(body)
            body.end()
            return _encode(found)
        except IndexError:
            problem = f"it ends before its schema does, after {len(body.data)} bytes"
        except UnicodeDecodeError as error:
            problem = f"a string is not UTF-8: {error.reason}"
        except RecursionError:
            problem = "it is nested too deep"
        except (_Broken, ValueError, OverflowError) as error:
            problem = str(error)
        raise RecordError(Reason.MALFORMED, f"the Avro is not as its schema says, at byte {body.at}: {problem}")
