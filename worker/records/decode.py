"""From the bytes of a Kafka message to a validated vector and its finished JSON fragment.

The limits are those of PutVectors as the service documents them ("Upload vectors", PutVectors); a record is refused here
only where the service could never take it. Where the documentation leaves the measure open (the size of metadata), the
smallest reading is applied, and the service has the last word.
"""

import math
import re
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import orjson

from worker.errors import Reason, RecordError
from worker.records.choices import Format, KeyFormat, MetadataValues, Tombstones
from worker.records.floats import Float64s, with_numbers_apart
from worker.records.limits import (
    FILTERABLE_MAX_BYTES,
    FILTERABLE_MAX_KEYS,
    KEY_MAX_CHARACTERS,
    METADATA_MAX_BYTES,
)
from worker.records.syntax import (
    JsonSyntax,
    Metadata,
    MsgpackSyntax,
    Numbers,
    Parts,
    Syntax,
    resembles,
    scalar_text,
    shown,
)

_LIMIT_SOURCE: Final = "limit of PutVectors"

_FLOAT32_OVERFLOW: Final = 2.0**128 - 2.0**103  # the least number that rounds to infinity as float32
# Numpy releases the GIL to convert more elements. Done for each record, that keeps threads which wait for it from ever
# asking for it: their wait begins anew each time.
_WITH_THE_GIL: Final = 500

_JSON_FIRST_BYTES: Final = frozenset(b"{ \t\r\n")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_MSGPACK_MAP_BYTES: Final = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})
_REGISTRY_PREFIX: Final = 0x00
_REGISTRY_PREFIX_BYTES: Final = 5
_UTF_16: Final = b"\x00{\x00"  # of the other byte order, without a mark
_JSON_MAP: Final = re.compile(rb"[ \t\r\n]*\{")
# Of what does not parse: whether it is JSON with a mistake, or Avro whose first byte is that of a bracket.
_BEGINS_AS_JSON_MAP: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*(?:["}]|\Z)')

# JSON that is decoded at once may cost 2 seconds for each megabyte: numbers near the ends of the float64 range do. So that
# is bounded; longer records are read step by step, where the numbers are counted before they are decoded.
_AT_ONCE_BYTES: Final = 48 * 1024  # for key and metadata
_BYTES_OF_A_NUMBER: Final = 24  # as Python writes a float64, with comma and space


class Target(msgspec.Struct, frozen=True):
    """The index that a route writes to, as far as records are judged by it.

    `dimension` is the count of numbers in a vector; `distance_metric` is "cosine" or "euclidean".
    """

    index: str
    dimension: int
    distance_metric: str
    non_filterable_metadata_keys: frozenset[str] = frozenset()


class Put(msgspec.Struct, frozen=True, gc=False):
    """A vector to write: its key, and its element of the request's `vectors` list as finished JSON."""

    key: str
    fragment: bytes
    key_mismatch: bool


class Delete(msgspec.Struct, frozen=True, gc=False):
    """A vector to delete."""

    key: str


class Ignore(msgspec.Struct, frozen=True, gc=False):
    """A record that asks for nothing: a tombstone under `records.tombstones = "ignore"`."""


Decoded = Put | Delete | Ignore
IGNORE: Final = Ignore()


class Data(msgspec.Struct, gc=False):
    """`data`: numbers, or little-endian float32 as bytes, which JSON writes as base64."""

    float32: list[float] | bytes


# What stringify takes. A value of any type would be built of whatever a record holds, and a map whose names are numbers
# that collide takes minutes to build.
Scalar: TypeAlias = str | int | float | bool | None
LooseMetadata: TypeAlias = dict[str, str | int | float | bool | list[Scalar] | None]


class StrictRecord(msgspec.Struct, gc=False):
    """One vector record, its metadata as the service takes it. Fields that are not named here are ignored."""

    data: Data
    key: str | None = None
    metadata: Metadata | None = None


class LooseRecord(msgspec.Struct, gc=False):
    """One vector record, its metadata as it comes, to be turned into what the service takes."""

    data: Data
    key: str | None = None
    metadata: LooseMetadata | None = None


Whole: TypeAlias = StrictRecord | LooseRecord
Vector: TypeAlias = list[float] | bytes | Float64s

_decode_json_key: Final = msgspec.json.Decoder(str).decode
_UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what msgspec raises, each by itself


class _Encoding(msgspec.Struct, frozen=True):
    """One of the two encodings: how it decodes a record at once, and step by step where that does not do."""

    decode: Callable[[bytes], Whole]
    most_at_once: int  # bytes of a record that is decoded at once
    syntax: Syntax


def _encodings(metadata_values: MetadataValues, dimension: int) -> tuple[_Encoding, _Encoding]:
    whole: Any = StrictRecord if metadata_values == "strict" else LooseRecord
    return (
        _Encoding(
            with_numbers_apart(msgspec.json.Decoder(whole).decode, dimension),
            _AT_ONCE_BYTES + _BYTES_OF_A_NUMBER * dimension,
            JsonSyntax(),
        ),
        _Encoding(msgspec.msgpack.Decoder(whole).decode, sys.maxsize, MsgpackSyntax()),
    )


class Decoder:
    """Decodes and validates the records of one route.

    `max_fragment_bytes` is the size of the largest fragment that still fits a request alone.
    """

    def __init__(
        self,
        target: Target,
        *,
        max_fragment_bytes: int,
        format: Format = "auto",  # noqa: A002 - the setting's name
        key_format: KeyFormat = "utf8",
        metadata_values: MetadataValues = "strict",
        tombstones: Tombstones = "dead-letter",
    ) -> None:
        self._target = target
        self._dimension = target.dimension
        self._cosine = target.distance_metric == "cosine"
        self._max_fragment_bytes = max_fragment_bytes
        self._format = format
        self._key_format = key_format
        self._stringify = metadata_values == "stringify"
        self._tombstones = tombstones
        self._json, self._msgpack = _encodings(metadata_values, target.dimension)
        self._pack = struct.Struct(f"<{target.dimension}f").pack

    def decode(self, value: bytes | None, kafka_key: bytes | None) -> Decoded:
        """Return what the message asks for.

        Raises `RecordError`, and nothing else, where it can never be written, with one of the fixed reasons. What goes
        wrong here in a way that nobody foresaw is one of them: it costs this record, not the worker.
        """
        try:
            if value is None:
                return self._tombstone(kafka_key)
            encoding, body = self._encoding_of(value)
            try:
                record = encoding.decode(body) if len(body) <= encoding.most_at_once else None
            except _UNDECODABLE:
                record = None
            if record is None:
                return self._decode_step_by_step(encoding.syntax, value, body, kafka_key)
            key = self._vector_key(record.key, kafka_key)
            vector = self._float32_text(record.data.float32)
            metadata: Any = record.metadata  # strict metadata, unless it is to be turned into that
            return self._put(key, vector, _stringified(metadata) if self._stringify else metadata, kafka_key)
        except RecordError:
            raise
        except Exception as error:
            raise RecordError.internal(error) from error

    def _put(self, key: str, vector: bytes, metadata: Metadata | None, kafka_key: bytes | None) -> Put:
        fragment = b"".join(
            (b'{"key":', orjson.dumps(key), b',"data":{"float32":', vector, self._metadata_json(metadata), b"}")
        )
        if len(fragment) > self._max_fragment_bytes:
            raise RecordError(
                Reason.TOO_LARGE,
                f"the record makes {len(fragment)} bytes of request, at most {self._max_fragment_bytes} fit one alone "
                "(batch.max_bytes)",
            )
        return Put(key, fragment, kafka_key is not None and self._is_mismatch(key, kafka_key))

    def _decode_step_by_step(self, syntax: Syntax, value: bytes, body: bytes, kafka_key: bytes | None) -> Put:
        """Decode what was not decoded at once.

        Of several faults the first is told: in the form of the value, the key, the vector; then in what they are.
        """
        try:
            parts = self._parts(syntax, value, body)
            own, vector = syntax.key(parts), syntax.vector(parts)
            key = self._vector_key(own, kafka_key)
            if isinstance(vector, Numbers) and vector.length != self._dimension:
                raise self._wrong_dimension(vector.length)
            text = self._float32_text(syntax.floats(vector) if isinstance(vector, Numbers) else vector)
            return self._put(key, text, syntax.metadata(parts, stringify=self._stringify), kafka_key)
        except RecursionError:  # a few frames deeper than where it was well-formed
            raise RecordError(Reason.MALFORMED, f"the {syntax.name} is nested too deep") from None

    def _parts(self, syntax: Syntax, value: bytes, body: bytes) -> Parts:
        try:
            return syntax.parts(body)
        except RecordError:
            if value[0] == _REGISTRY_PREFIX and not _BEGINS_AS_JSON_MAP.match(body):
                raise _not_json(value) from None
            raise

    def _tombstone(self, kafka_key: bytes | None) -> Delete | Ignore:
        if self._tombstones == "ignore":
            return IGNORE
        if self._tombstones == "dead-letter":
            raise RecordError(
                Reason.TOMBSTONE,
                'the value is null; records.tombstones says what that means: it is "dead-letter", "delete" would delete '
                'the vector, "ignore" would pass it over',
            )
        return Delete(self._vector_key(None, kafka_key))

    def _encoding_of(self, value: bytes) -> tuple[_Encoding, bytes]:
        """Return the encoding, by the first byte, and the value without what is before the record."""
        if not value:
            raise RecordError(Reason.MALFORMED, "the value is empty (0 bytes); a record is a JSON or MessagePack map")
        first = value[0]
        if first == _REGISTRY_PREFIX:
            return self._json, _after_registry_prefix(value)
        if self._format != "msgpack":
            if first in _JSON_FIRST_BYTES:
                return self._json, value
            if value.startswith(_BYTE_ORDER_MARK):
                return self._json, value[len(_BYTE_ORDER_MARK) :]
        if self._format != "json" and first in _MSGPACK_MAP_BYTES:
            return self._msgpack, value
        known = resembles(value)
        expected = {"auto": "a JSON or MessagePack map", "json": "a JSON map", "msgpack": "a MessagePack map"}
        raise RecordError(
            Reason.MALFORMED,
            f"the value begins with byte 0x{first:02x}, which begins no record{f': it looks like {known}' if known else ''}; "
            f'expected {expected[self._format]} (records.format = "{self._format}")',
        )

    def _vector_key(self, key: str | None, kafka_key: bytes | None) -> str:
        """Return the value's own key, or where it has none the Kafka key; of a length that the service takes."""
        if key is None:
            key = self._key_from_kafka(kafka_key)
        if 1 <= len(key) <= KEY_MAX_CHARACTERS:
            return key
        found = f"has {len(key)} characters" if key else "is empty"
        raise RecordError(Reason.KEY, f"the key {found}; allowed are 1 to {KEY_MAX_CHARACTERS} ({_LIMIT_SOURCE})")

    def _key_from_kafka(self, kafka_key: bytes | None) -> str:
        if kafka_key is None:
            raise RecordError(
                Reason.KEY, 'neither the value nor the message has a key; one of "key" and the Kafka key is needed'
            )
        if kafka_key[:1] == b"\x00":
            raise RecordError(
                Reason.KEY,
                "the Kafka key begins with 0x00, as a schema registry's prefix does; as a vector's key it would name "
                "the wrong vector",
            )
        try:
            return kafka_key.decode() if self._key_format == "utf8" else _decode_json_key(kafka_key)
        except UnicodeDecodeError as error:
            raise RecordError(Reason.KEY, f"the Kafka key is not UTF-8: {error.reason} at byte {error.start}") from None
        except msgspec.DecodeError as error:
            raise RecordError(
                Reason.KEY, f'the Kafka key is not a JSON string (records.key_format = "json"): {error}'
            ) from None

    def _is_mismatch(self, key: str, kafka_key: bytes) -> bool:
        if self._key_format == "utf8":
            return kafka_key != key.encode()
        try:
            return self._key_from_kafka(kafka_key) != key
        except RecordError:
            return True

    def _float32_text(self, vector: Vector) -> bytes:
        """Return the vector as a JSON list of float32's shortest text, checked for length, range and zero."""
        if type(vector) is list:
            array = np.frombuffer(self._packed_numbers(vector), "<f4")
        elif type(vector) is bytes:
            array = np.frombuffer(self._packed_bytes(vector), "<f4")
        else:
            array = self._rounded(vector)  # type: ignore[arg-type]  # the branches leave nothing else
        text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
        if b"n" in text:  # orjson writes NaN and the infinities as null
            raise _not_finite(vector, array)
        if self._cosine and not array[0] and not array.any():
            raise RecordError(
                Reason.ZERO_VECTOR,
                f"all {self._dimension} numbers are zero as float32, and the index measures cosine distance, which a zero "
                f"vector has none of ({_LIMIT_SOURCE})",
            )
        return text

    def _rounded(self, numbers: Float64s) -> np.ndarray[Any, np.dtype[np.float32]]:
        if len(numbers) != self._dimension:
            raise self._wrong_dimension(len(numbers))
        array = np.empty(len(numbers), np.float32)
        with np.errstate(over="ignore"):
            for begin in range(0, len(numbers), _WITH_THE_GIL):
                array[begin : begin + _WITH_THE_GIL] = numbers[begin : begin + _WITH_THE_GIL]
        return array

    def _packed_numbers(self, numbers: list[float]) -> bytes:
        if len(numbers) != self._dimension:
            raise self._wrong_dimension(len(numbers))
        try:
            return self._pack(*numbers)
        except OverflowError:
            place, number = next((i, n) for i, n in enumerate(numbers) if abs(n) >= _FLOAT32_OVERFLOW)
            raise _beyond_float32(place, number) from None

    def _packed_bytes(self, data: bytes) -> bytes:
        if len(data) == 4 * self._dimension:
            return data
        other = {8 * self._dimension: "float64", 2 * self._dimension: "float16"}.get(len(data))
        hint = f" (its {len(data)} bytes would be as many {other} as the index has dimensions)" if other else ""
        if len(data) % 4:
            raise RecordError(
                Reason.MALFORMED,
                f"data.float32 has {len(data)} bytes, which are no whole float32s of 4 bytes each{hint}",
            )
        raise self._wrong_dimension(len(data) // 4, hint)

    def _wrong_dimension(self, found: int, hint: str = "") -> RecordError:
        return RecordError(
            Reason.DIMENSION,
            f"data.float32 has {found} numbers, the index {self._target.index} has {self._dimension} dimensions{hint}",
        )

    def _metadata_json(self, metadata: Metadata | None) -> bytes:
        """Return what follows the vector: the end of `data`, and `"metadata":{...}` where the record has it."""
        if metadata is None:
            return b"}"
        text = orjson.dumps(metadata)
        # The text is longer than what the limits count, so most metadata need not be counted.
        if len(text) > FILTERABLE_MAX_BYTES or len(metadata) > FILTERABLE_MAX_KEYS:
            self._check_metadata_limits(metadata)
        return b'},"metadata":' + text

    def _check_metadata_limits(self, metadata: Metadata) -> None:
        """Sizes are UTF-8 bytes of keys and values, without quotes and commas."""
        total = filterable = filterable_keys = 0
        for key, value in metadata.items():
            texts = (value,) if isinstance(value, str) else value
            size = len(key.encode()) + sum(len(text.encode()) for text in texts)
            total += size
            if key not in self._target.non_filterable_metadata_keys:
                filterable += size
                filterable_keys += 1
        if total > METADATA_MAX_BYTES:
            raise _metadata_limit(f"metadata has {total} bytes", f"{METADATA_MAX_BYTES} bytes a vector")
        if filterable > FILTERABLE_MAX_BYTES:
            raise _metadata_limit(
                f"filterable metadata has {filterable} bytes", f"{FILTERABLE_MAX_BYTES} bytes a vector"
            )
        if filterable_keys > FILTERABLE_MAX_KEYS:
            raise _metadata_limit(f"metadata has {filterable_keys} filterable keys", f"{FILTERABLE_MAX_KEYS}")


def _after_registry_prefix(value: bytes) -> bytes:
    """Return what follows a schema registry's prefix: 0x00, then the schema's id as four bytes, big-endian."""
    body = value[_REGISTRY_PREFIX_BYTES:].removeprefix(_BYTE_ORDER_MARK)
    if value.startswith(_UTF_16):
        raise RecordError(Reason.MALFORMED, f"the value looks like {resembles(value)}; expected JSON in UTF-8")
    if len(value) < _REGISTRY_PREFIX_BYTES:
        raise RecordError(
            Reason.UNSUPPORTED_ENCODING, f"the value begins with 0x00 and ends after {len(value)} bytes; expected JSON"
        )
    if not _JSON_MAP.match(body):
        raise _not_json(value)
    return body


def _not_json(value: bytes) -> RecordError:
    schema_id = int.from_bytes(value[1:_REGISTRY_PREFIX_BYTES], "big")
    return RecordError(
        Reason.UNSUPPORTED_ENCODING,
        f"the value has a schema registry's prefix (schema id {schema_id}) and what follows is not a JSON map; Avro and "
        "Protobuf are not read, JSON (also with JSON Schema) and MessagePack are",
    )


def _stringified(metadata: LooseMetadata | None) -> Metadata | None:
    """Return the metadata with numbers and booleans as their JSON text, and without nulls."""
    if metadata is None:
        return None
    return {
        key: [_scalar_text(key, element) for element in value if element is not None]
        if isinstance(value, list)
        else _scalar_text(key, value)
        for key, value in metadata.items()
        if value is not None
    }


def _scalar_text(key: str, value: str | float) -> str:
    if isinstance(value, str):
        return value
    text = scalar_text(value)
    if text is None:
        raise RecordError(Reason.METADATA, f"metadata {shown(key)} holds {value!r}, which JSON has no text for")
    return text


def _metadata_limit(found: str, allowed: str) -> RecordError:
    return RecordError(Reason.METADATA, f"{found}; allowed are {allowed} ({_LIMIT_SOURCE})")


def _not_finite(vector: Vector, array: np.ndarray[Any, np.dtype[np.float32]]) -> RecordError:
    place = int(np.flatnonzero(~np.isfinite(array))[0])
    number = float(array[place] if isinstance(vector, bytes) else vector[place])
    if math.isfinite(number):
        return _beyond_float32(place, number)
    return RecordError(
        Reason.NOT_FINITE,
        f"number {place} of data.float32 is {number}; allowed are finite float32 numbers ({_LIMIT_SOURCE})",
    )


def _beyond_float32(place: int, number: float) -> RecordError:
    return RecordError(
        Reason.NOT_FINITE,
        f"number {place} of data.float32 is {number!r}, beyond the range of float32, about ±3.4e38 ({_LIMIT_SOURCE})",
    )
