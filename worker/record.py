"""From the bytes of a Kafka message to a validated vector and its finished JSON fragment.

The limits are those of PutVectors as the service documents them ("Upload vectors", PutVectors); a record is refused here
only where the service could never take it. Where the documentation leaves the measure open (the size of metadata), the
smallest reading is applied, and the service has the last word.
"""

import binascii
import math
import struct
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
import orjson

from worker.errors import Reason, RecordError
from worker.floats import Float64s, with_numbers_apart

KEY_MAX_CHARACTERS: Final = 1024
METADATA_MAX_BYTES: Final = 40 * 1024
FILTERABLE_MAX_BYTES: Final = 2 * 1024
FILTERABLE_MAX_KEYS: Final = 10
_LIMIT_SOURCE: Final = "limit of PutVectors"
_VECTOR: Final = "allowed are a list of numbers, or base64 of little-endian float32"

_FLOAT32_OVERFLOW: Final = 2.0**128 - 2.0**103  # the least number that rounds to infinity as float32
# Numpy releases the GIL to convert more elements. Done for each record, that keeps threads which wait for it from ever
# asking for it: their wait begins anew each time.
_WITH_THE_GIL: Final = 500
_SHOWN_CHARACTERS: Final = 100  # of a key in a message, which becomes a header of the dead letter

_JSON_FIRST_BYTES: Final = frozenset(b"{ \t\r\n")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_MSGPACK_MAP_BYTES: Final = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})
_REGISTRY_PREFIX: Final = 0x00
_REGISTRY_PREFIX_BYTES: Final = 5


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


class TextData(msgspec.Struct, gc=False):
    """`data` in MessagePack as some write it: base64 as in JSON, where bytes would do."""

    float32: list[float] | str


class Record(msgspec.Struct, gc=False):
    """One vector record as far as its metadata is not decoded. Fields that are not named here are ignored."""

    data: Data
    key: str | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"null")


class TextRecord(msgspec.Struct, gc=False):
    """A record with such data."""

    data: TextData
    key: str | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"\xc0")


StrictMetadata: TypeAlias = dict[str, str | list[str]]
LooseMetadata: TypeAlias = dict[str, Any]


class StrictRecord(msgspec.Struct, gc=False):
    """One vector record, its metadata as the service takes it."""

    data: Data
    key: str | None = None
    metadata: StrictMetadata | None = None


class LooseRecord(msgspec.Struct, gc=False):
    """One vector record, its metadata as it comes, to be turned into what the service takes."""

    data: Data
    key: str | None = None
    metadata: LooseMetadata | None = None


Whole: TypeAlias = StrictRecord | LooseRecord
Vector: TypeAlias = list[float] | bytes | Float64s
Format = Literal["auto", "json", "msgpack"]
KeyFormat = Literal["utf8", "json"]
MetadataValues = Literal["strict", "stringify"]
Tombstones = Literal["dead-letter", "delete", "ignore"]

_encode_scalar: Final = msgspec.json.Encoder().encode
_decode_json_key: Final = msgspec.json.Decoder(str).decode
_UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what msgspec raises, each by itself


class _Syntax(msgspec.Struct, frozen=True):
    """One of the two encodings: how it decodes a record at once, and step by step where that fails.

    Step by step tells which part is wrong, and takes what is right in parts only: a field that is there twice, once wrong.
    """

    name: str
    decode: Callable[[bytes], Whole]
    decode_record: Callable[[bytes], Record]
    decode_metadata: Callable[[msgspec.Raw], LooseMetadata | None]


def _syntaxes(metadata_values: MetadataValues, dimension: int) -> tuple[_Syntax, _Syntax]:
    whole: Any = StrictRecord if metadata_values == "strict" else LooseRecord
    metadata: Any = (StrictMetadata if metadata_values == "strict" else LooseMetadata) | None
    json_syntax = _Syntax(
        "JSON",
        with_numbers_apart(msgspec.json.Decoder(whole).decode, dimension),
        msgspec.json.Decoder(Record).decode,
        msgspec.json.Decoder(metadata).decode,
    )
    msgpack_syntax = _Syntax(
        "MessagePack",
        msgspec.msgpack.Decoder(whole).decode,
        _msgpack_decode(),
        msgspec.msgpack.Decoder(metadata).decode,
    )
    return json_syntax, msgpack_syntax


def _msgpack_decode() -> Callable[[bytes], Record]:
    """A type cannot hold both strings and bytes for msgspec, so base64 in MessagePack, which is rare, takes two looks."""
    decode_record = msgspec.msgpack.Decoder(Record).decode
    decode_text = msgspec.msgpack.Decoder(TextRecord).decode

    def decode(body: bytes) -> Record:
        try:
            return decode_record(body)
        except msgspec.ValidationError as error:
            if "`str`" not in str(error):
                raise
            text = decode_text(body)
            vector = text.data.float32
            return Record(Data(_from_base64(vector) if isinstance(vector, str) else vector), text.key, text.metadata)

    return decode


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
        self._json, self._msgpack = _syntaxes(metadata_values, target.dimension)
        self._pack = struct.Struct(f"<{target.dimension}f").pack

    def decode(self, value: bytes | None, kafka_key: bytes | None) -> Decoded:
        """Return what the message asks for.

        Raises `RecordError` where it can never be written, with one of the fixed reasons.
        """
        if value is None:
            return self._tombstone(kafka_key)
        syntax, body = self._syntax_of(value)
        try:
            record = syntax.decode(body)
        except _UNDECODABLE:
            record = self._decode_step_by_step(syntax, body, kafka_key)
        key = self._vector_key(record.key, kafka_key)
        vector = self._float32_text(record.data.float32)
        fragment = b"".join(
            (b'{"key":', orjson.dumps(key), b',"data":{"float32":', vector, self._metadata_json(record.metadata), b"}")
        )
        if len(fragment) > self._max_fragment_bytes:
            raise RecordError(
                Reason.TOO_LARGE,
                f"the record makes {len(fragment)} bytes of request, at most {self._max_fragment_bytes} fit one alone "
                "(batch.max_bytes)",
            )
        return Put(key, fragment, kafka_key is not None and self._is_mismatch(key, kafka_key))

    def _decode_step_by_step(self, syntax: _Syntax, body: bytes, kafka_key: bytes | None) -> Whole:
        """Decode what could not be decoded at once. Of several faults the key's is told first, then the vector's."""
        record = _decode_record(syntax, body)
        self._vector_key(record.key, kafka_key)
        self._float32_text(record.data.float32)
        return LooseRecord(record.data, record.key, _decode_metadata(syntax, record.metadata))

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

    def _syntax_of(self, value: bytes) -> tuple[_Syntax, bytes]:
        """Tell the encoding by the first byte, and strip what stands before the record."""
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
        expected = {"auto": "a JSON or MessagePack map", "json": "a JSON map", "msgpack": "a MessagePack map"}
        raise RecordError(
            Reason.MALFORMED,
            f"the value begins with byte 0x{first:02x}, which begins no record; expected {expected[self._format]} "
            f'(records.format = "{self._format}")',
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
        if len(data) % 4:
            raise RecordError(
                Reason.MALFORMED, f"data.float32 has {len(data)} bytes, which are no whole float32s of 4 bytes each"
            )
        if len(data) // 4 != self._dimension:
            raise self._wrong_dimension(len(data) // 4)
        return data

    def _wrong_dimension(self, found: int) -> RecordError:
        return RecordError(
            Reason.DIMENSION,
            f"data.float32 has {found} numbers, the index {self._target.index} has {self._dimension} dimensions",
        )

    def _metadata_json(self, metadata: LooseMetadata | None) -> bytes:
        """Return what follows the vector: the end of `data`, and `"metadata":{...}` where the record has it."""
        if metadata is None:
            return b"}"
        if self._stringify:
            metadata = {key: _stringified(key, value) for key, value in metadata.items() if value is not None}
        text = orjson.dumps(metadata)
        # The text is longer than what the limits count, so most metadata need not be counted.
        if len(text) > FILTERABLE_MAX_BYTES or len(metadata) > FILTERABLE_MAX_KEYS:
            self._check_metadata_limits(metadata)
        return b'},"metadata":' + text

    def _check_metadata_limits(self, metadata: dict[str, str | list[str]]) -> None:
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
    body = value[_REGISTRY_PREFIX_BYTES:]
    if len(value) < _REGISTRY_PREFIX_BYTES:
        raise RecordError(
            Reason.UNSUPPORTED_ENCODING, f"the value begins with 0x00 and ends after {len(value)} bytes; expected JSON"
        )
    body = body.removeprefix(_BYTE_ORDER_MARK)
    if not body or body[0] not in _JSON_FIRST_BYTES:
        schema_id = int.from_bytes(value[1:_REGISTRY_PREFIX_BYTES], "big")
        raise RecordError(
            Reason.UNSUPPORTED_ENCODING,
            f"the value has a schema registry's prefix (schema id {schema_id}) and what follows is not JSON; Avro and "
            "Protobuf are not read, JSON (also with JSON Schema) and MessagePack are",
        )
    return body


def _from_base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error is one, and so is a character beyond ASCII
        raise RecordError(
            Reason.MALFORMED, f"data.float32 is a string that is not base64: {error}; {_VECTOR}"
        ) from None


def _decode_record(syntax: _Syntax, body: bytes) -> Record:
    try:
        return syntax.decode_record(body)
    except msgspec.ValidationError as error:
        message = str(error)
        if message.startswith("Number out of range") and "$.data.float32" in message:
            raise RecordError(
                Reason.NOT_FINITE, f"{message}; beyond the range of float32, about ±3.4e38 ({_LIMIT_SOURCE})"
            ) from None
        if message.startswith("Invalid base64"):
            raise RecordError(Reason.MALFORMED, f"data.float32 is a string that is not base64; {_VECTOR}") from None
        raise RecordError(Reason.MALFORMED, f"the {syntax.name} is not a vector record: {message}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(syntax, error) from None


def _decode_metadata(syntax: _Syntax, raw: msgspec.Raw) -> LooseMetadata | None:
    try:
        return syntax.decode_metadata(raw)
    except msgspec.ValidationError:
        raise RecordError(Reason.METADATA, _what_is_wrong_with_metadata(syntax, raw)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(syntax, error) from None


def _malformed(syntax: _Syntax, error: Exception) -> RecordError:
    if isinstance(error, RecursionError):
        return RecordError(Reason.MALFORMED, f"the {syntax.name} is nested too deep")
    if isinstance(error, UnicodeDecodeError):
        return RecordError(Reason.MALFORMED, f"the {syntax.name} holds a string that is not UTF-8: {error.reason}")
    return RecordError(Reason.MALFORMED, f"the value is no whole {syntax.name} map: {error}")


def _what_is_wrong_with_metadata(syntax: _Syntax, raw: msgspec.Raw) -> str:
    """Name the first wrong value; msgspec's own message does not say its key."""
    allowed = f"allowed is a map of strings to strings or lists of strings ({_LIMIT_SOURCE})"
    try:
        loose = msgspec.json.decode(raw) if syntax.name == "JSON" else msgspec.msgpack.decode(raw, strict=False)
    except msgspec.DecodeError as error:  # a number of thousands of digits, a map as a key
        return f"metadata holds what no metadata can hold: {error}; {allowed}"
    if not isinstance(loose, dict):
        return f"metadata is a {_type_name(loose)}; {allowed}"
    for key, value in loose.items():
        if not isinstance(key, str):
            return f"metadata has a key that is a {_type_name(key)}; {allowed}"
        if isinstance(value, list) and (wrong := next((v for v in value if not isinstance(v, str)), None)) is not None:
            return f"metadata {_shown(key)} holds a {_type_name(wrong)} in its list; {allowed}"
        if not isinstance(value, (str, list)):
            return f'metadata {_shown(key)} is a {_type_name(value)}; {allowed} (records.metadata_values = "stringify" turns numbers and booleans into text)'
    return f"metadata holds a null in a list; {allowed}"


def _stringified(key: str, value: object) -> str | list[str]:
    """Return the value with numbers and booleans as their JSON text; nulls in lists are dropped."""
    if isinstance(value, list):
        return [_scalar_text(key, element) for element in value if element is not None]
    return _scalar_text(key, value)


def _scalar_text(key: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        text = _encode_scalar(value).decode()
        if text != "null":  # NaN and the infinities, which JSON has no text for
            return text
        raise RecordError(Reason.METADATA, f"metadata {_shown(key)} holds {value!r}, which JSON has no text for")
    raise RecordError(
        Reason.METADATA,
        f"metadata {_shown(key)} holds a {_type_name(value)}; allowed are strings, numbers, booleans, and lists of them",
    )


def _shown(key: str) -> str:
    return repr(key if len(key) <= _SHOWN_CHARACTERS else f"{key[:_SHOWN_CHARACTERS]}…")


def _type_name(value: object) -> str:
    names = {dict: "map", list: "list", str: "string", bool: "boolean", int: "number", float: "number", bytes: "binary"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


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
