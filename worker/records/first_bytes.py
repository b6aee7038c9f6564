"""What a value is that no format reads, by its bytes alone, and what its producer can do. Only for messages."""

import base64
import binascii
import re
import uuid
from collections.abc import Callable
from typing import Final, NamedTuple

from worker.records.formats.vector_alone import NUMPY


class Look(NamedTuple):
    """What a value looks like, and what to do then."""

    like: str
    advice: str


_COMPRESS: Final = "publish the record itself, and let the producer compress whole batches (compression.type)"
_NUMPY: Final = "publish a record with array.tobytes() in MessagePack, or array.tolist() in JSON"
_ONE_BY_ONE: Final = "publish each row as a record; oss-vectors-worker produce does that from a Parquet or NumPy file"
_UTF_8: Final = "encode the JSON as UTF-8"
_AS_RECORD: Final = 'a record is a map: {"key": ..., "data": {"float32": [...]}}'

_BEGINNINGS: Final = (
    (b"\x1f\x8b", Look("gzip", _COMPRESS)),
    (b"\x28\xb5\x2f\xfd", Look("zstd", _COMPRESS)),
    (b"\x04\x22\x4d\x18", Look("lz4", _COMPRESS)),
    (b"\xff\x06\x00\x00sNaPpY", Look("snappy", _COMPRESS)),
    (b"\x82SNAPPY\x00", Look("snappy of xerial", _COMPRESS)),
    (b"BZh", Look("bzip2", _COMPRESS)),
    (b"\xfd7zXZ\x00", Look("xz", _COMPRESS)),
    (b"\x78\x01", Look("zlib", _COMPRESS)),
    (b"\x78\x9c", Look("zlib", _COMPRESS)),
    (b"\x78\xda", Look("zlib", _COMPRESS)),
    (b"PK\x03\x04", Look("a zip archive", _NUMPY)),
    (NUMPY, Look("an array as numpy's save writes it", _NUMPY)),
    *(
        (bytes((0x80, protocol)), Look("a Python pickle", "a pickle can run code, so it is not read; publish JSON or MessagePack"))
        for protocol in (2, 3, 4, 5)
    ),
    (b"\xff\xfe\x00\x00", Look("UTF-32", _UTF_8)),
    (b"\xff\xfe", Look("UTF-16", _UTF_8)),
    (b"\xfe\xff", Look("UTF-16", _UTF_8)),
    (b"{\x00", Look("UTF-16", _UTF_8)),
    (b"\x00{\x00", Look("UTF-16", _UTF_8)),
    (b"Obj\x01", Look("an Avro file", "publish each record by itself, with a schema registry or as JSON")),
    (b"PAR1", Look("a Parquet file", _ONE_BY_ONE)),
    (b"ARROW1", Look("an Arrow file", _ONE_BY_ONE)),
    (b"\xac\xed\x00\x05", Look("a serialized Java object", "use a serializer that writes JSON")),
    (b"\xd9\xd9\xf7", Look("CBOR", "publish JSON or MessagePack")),
    (b"b'{", Look("the text of Python bytes", "publish the bytes, not str() of them")),
    (b'b"{', Look("the text of Python bytes", "publish the bytes, not str() of them")),
    (b"{'", Look("the text of a Python dict", "write it with json.dumps, not with str or repr")),
    (b"[object", Look("the text of a JavaScript object", "write it with JSON.stringify")),
    (b"eyJ", Look("JSON in base64", "publish the JSON itself")),
    (b"eyA", Look("JSON in base64", "publish the JSON itself")),
    (b"%7B", Look("JSON in the encoding of a URL", "publish the JSON itself")),
)  # fmt: skip

_GLUE_BYTES: Final = 18
_APICURIO_BYTES: Final = 9
_BEGINS_TEXT: Final = b'{[" \t\r\n<'
_ALONE: Final = 'set records.fields.vector = "$kafka.value"'
_CBOR_MAP: Final = re.compile(rb"[\xa1-\xb7\xbf][\x61-\x77]\w")
_JAVA_MAP: Final = re.compile(rb"\{[A-Za-z_][\w.]*=")
_NUMBERS: Final = re.compile(rb"\[?\s*[-+]?[0-9.]+(?:[eE][-+]?\d+)?\s*[,;\s]")
_HEXADECIMAL: Final = re.compile("[0-9a-fA-F]+")
_NUMBERS_APART: Final = re.compile(r"\[?\s*[-+]?\d[\d.eE+-]*(?:\s*;\s*|\s+)[-+]?\d")
_URL_BASE64: Final = re.compile("[A-Za-z0-9+/_-]+")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}")
_FEWEST_CHARACTERS: Final = 8  # of base64 that is called so
_PROTOBUF: Final = re.compile(rb"\x0a[\x01-\x7f][\x21-\x7a\x7c\x7e]")


def look_of(value: bytes, dimension: int) -> Look | None:
    """Return what a value looks like, None where that is not known. A record may begin so too."""
    for recognise in (_registry, _beginning, _raw_floats, _list, _text, _binary):
        if (look := recognise(value, dimension)) is not None:
            return look
    return None


def look_of_no_vector(value: bytes) -> str:
    """Return what a value is that should be the bytes of a vector and nothing else, "" if it is not known."""
    if value.startswith(NUMPY):
        return "it looks like an array as numpy's save writes it: publish array.tobytes()"
    if (look := _beginning(value, 0)) is not None:
        return f"it looks like {look.like}: publish the bytes of the vector as they are"
    try:
        text = value.decode().strip()
    except UnicodeDecodeError:
        return ""
    if text[:1] == "[" or _NUMBERS.match(text[:64].encode()):
        return "it looks like a list of numbers as text, and only bytes are read: publish what array.tobytes() makes of them"
    if len(text) >= _FEWEST_CHARACTERS and _BASE64.fullmatch(text):
        return "it looks like base64, and only bytes are read: publish the bytes themselves"
    return ""


def look_of_text(text: str) -> str:
    """Return what is said of a string that should be a vector in base64, "" if nothing is known."""
    text = text.strip()
    if text.startswith("data:"):
        return "is a data URL: publish only what is behind its comma"
    if len(text) % 8 == 0 and _HEXADECIMAL.fullmatch(text):
        return "looks like hexadecimal: publish base64"
    if _NUMBERS_APART.match(text[:64]):
        return "is numbers without commas between them: publish a list, or separate them by commas"
    packed = "".join(text.split()).rstrip("=")
    if _URL_BASE64.fullmatch(packed):
        if len(packed) % 4 == 1:
            return f"is base64 that was cut: {len(packed)} characters are no whole bytes"
        return "mixes the two alphabets of base64 (+/ and -_), has spaces, or has the wrong number of = at its end"
    return "has characters that base64 does not have" if packed else ""


def _registry(value: bytes, _dimension: int) -> Look | None:
    if value[:5] == bytes(5) and len(value) > _APICURIO_BYTES and value[5:8] == bytes(3):
        number = int.from_bytes(value[1:_APICURIO_BYTES], "big")
        return Look(
            f"Apicurio's prefix of 0x00 and 8 bytes (global id {number})",
            "have its serializer write ids of 4 bytes, as Confluent's does (Legacy4ByteIdHandler, or Default4ByteIdHandler)",
        )
    if value[:1] == b"\x03" and value[1:2] in (b"\x00", b"\x05") and len(value) >= _GLUE_BYTES:
        version = uuid.UUID(bytes=value[2:_GLUE_BYTES])
        compressed = ", compressed by zlib" if value[1] else ""
        return Look(
            f"the prefix of AWS Glue's schema registry (schema version {version}{compressed})",
            "Glue's registry is not read; publish JSON or MessagePack without the prefix",
        )
    return None


def _raw_floats(value: bytes, dimension: int) -> Look | None:
    sizes = {
        4 * dimension: ("float32", ""),
        8 * dimension: ("float64", ' and records.vector_bytes = "float64-le"'),
        2 * dimension: ("float16", ' and records.vector_bytes = "float16-le"'),
    }
    if len(value) not in sizes or (value[:1] in _BEGINS_TEXT and _is_utf_8(value)):
        return None
    kind, setting = sizes[len(value)]
    return Look(
        f"the numbers of a vector alone ({dimension} {kind}s)",
        f"{_ALONE}{setting}, or publish a MessagePack map with the bytes in data.float32, so that it can have a key",
    )


def _is_utf_8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _list(value: bytes, _dimension: int) -> Look | None:
    if not value.startswith(b"["):
        return None
    inner = value[1:64].lstrip()
    if inner[:1] in (b"{", b""):
        return Look("a list of records", 'set records.many = "split", or publish one record in a message')
    if inner[:1] == b"[":
        return Look("a list of vectors", f"publish one record for each; {_AS_RECORD}")
    return Look("the numbers of a vector alone", _AS_RECORD) if _NUMBERS.match(value[:64]) else None


def _text(value: bytes, _dimension: int) -> Look | None:
    if value.startswith(b'"'):
        inner = value[1:64].replace(b"\\n", b" ").lstrip()
        if inner[:1] in (b"{", b"["):
            return Look("JSON within a JSON string", "publish the inner text as it is; it was encoded as JSON twice")
        if _is_base64_json(value[1:65]):
            return Look("JSON in base64, within a JSON string", "publish the JSON itself")
        return Look("a JSON string", _AS_RECORD)
    if value.startswith(b"<"):
        return Look("XML or HTML", "publish JSON or MessagePack")
    if value.strip()[:5] in (b"null", b"true", b"false"):
        return Look("a single JSON value", f"{_AS_RECORD}; a tombstone has no value at all (null bytes)")
    return None


def _is_base64_json(text: bytes) -> bool:
    try:
        return base64.b64decode(text[: len(text) // 4 * 4], validate=True)[:1] == b"{"
    except (binascii.Error, ValueError):
        return False


def _beginning(value: bytes, _dimension: int) -> Look | None:
    return next((look for beginning, look in _BEGINNINGS if value.startswith(beginning)), None)


def _binary(value: bytes, _dimension: int) -> Look | None:
    checks: tuple[tuple[Callable[[bytes], object], Look], ...] = (
        (_is_bson, Look("BSON", "publish JSON or MessagePack")),
        (_CBOR_MAP.match, Look("CBOR", "publish JSON or MessagePack")),
        (_JAVA_MAP.match, Look("the text of a Java map", "use a serializer that writes JSON")),
        (_PROTOBUF.match, Look("Protobuf without a schema registry's prefix", "use the registry's serializer, or publish JSON")),
        (_NUMBERS.match, Look("numbers as text", _AS_RECORD)),
    )  # fmt: skip
    return next((look for matches, look in checks if matches(value)), None)


def _is_bson(value: bytes) -> bool:
    return len(value) > 5 and int.from_bytes(value[:4], "little") == len(value) and value[-1] == 0
