"""What a value is that no format reads, by its bytes alone, and what its producer can do. Only for messages."""

import base64
import binascii
import re
import uuid
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from worker.records.formats.hints import wide_text
from worker.records.formats.msgpack import MsgpackFields
from worker.records.formats.values import BYTE_ORDER_MARK, UNREADABLE, Kind
from worker.records.formats.vector_alone import NUMPY
from worker.records.number_types import OF_ANOTHER_MODEL, are_numbers, type_of_numbers


class Look(NamedTuple):
    """What a value looks like, and what to do then."""

    like: str
    advice: str


_COMPRESS: Final = "publish the record itself, and let the producer compress whole batches (compression.type)"
_NUMPY: Final = "publish a record with array.tobytes() in MessagePack, or array.tolist() in JSON"
_ONE_BY_ONE: Final = "publish each row as a record; oss-vectors-worker produce does that from a Parquet or NumPy file"
_UTF_8: Final = "encode the JSON as UTF-8"
_OTHER: Final = "publish JSON or MessagePack"
_JSON_ITSELF: Final = "publish the JSON itself"
_PICKLE: Final = Look("a Python pickle", "a pickle can run code, so it is not read; publish JSON or MessagePack")
_SPLIT: Final = 'set records.many = "split", or publish one record in a message'
_AS_RECORD: Final = 'a record is a map: {"key": ..., "data": {"float32": [...]}}'

_BEGINNINGS: Final = (
    (b"\x1f\x8b", Look("gzip", _COMPRESS)),
    (b"\x28\xb5\x2f\xfd", Look("zstd", _COMPRESS)),
    (b"\x04\x22\x4d\x18", Look("lz4", _COMPRESS)),
    (b"\xff\x06\x00\x00sNaPpY", Look("snappy", _COMPRESS)),
    (b"\x82SNAPPY\x00", Look("snappy of xerial", _COMPRESS)),
    (b"BZh", Look("bzip2", _COMPRESS)),
    (b"\xfd7zXZ\x00", Look("xz", _COMPRESS)),
    (b"\x02\x21\x4c\x18", Look("lz4", _COMPRESS)),
    (b"LZ4Block", Look("lz4 of Java", _COMPRESS)),
    (b"\x50\x2a\x4d\x18", Look("zstd", _COMPRESS)),
    (b"\x5d\x00\x00", Look("lzma", _COMPRESS)),
    (b"\x78\x01", Look("zlib", _COMPRESS)),
    (b"\x78\x5e", Look("zlib", _COMPRESS)),
    (b"\x78\x9c", Look("zlib", _COMPRESS)),
    (b"\x78\xda", Look("zlib", _COMPRESS)),
    (b"PK\x03\x04", Look("a zip archive", _NUMPY)),
    (NUMPY, Look("an array as numpy's save writes it", _NUMPY)),
    *(
        (bytes((0x80, protocol)), _PICKLE)
        for protocol in (2, 3, 4, 5)
    ),
    (b"\xff\xfe", Look("UTF-16", _UTF_8)),
    (b"\xfe\xff", Look("UTF-16", _UTF_8)),
    (b"Obj\x01", Look("an Avro file", "publish each record by itself, with a schema registry or as JSON")),
    (b"PAR1", Look("a Parquet file", _ONE_BY_ONE)),
    (b"ARROW1", Look("an Arrow file", _ONE_BY_ONE)),
    (b"\xff\xff\xff\xff", Look("an Arrow stream", _ONE_BY_ONE)),
    (b"ORC", Look("an ORC file", _ONE_BY_ONE)),
    (b"\x89HDF", Look("an HDF5 file", _ONE_BY_ONE)),
    (b":)\n", Look("Smile", _OTHER)),
    (b"\xe0\x01\x00\xea", Look("Amazon Ion", _OTHER)),
    (b"\x1e", Look("a JSON text sequence (RFC 7464)", "publish one record in a message, or lines without the byte 0x1e")),
    (b"\xac\xed\x00\x05", Look("a serialized Java object", "use a serializer that writes JSON")),
    (b"\xd9\xd9\xf7", Look("CBOR", _OTHER)),
    (b"b'{", Look("the text of Python bytes", "publish the bytes, not str() of them")),
    (b'b"{', Look("the text of Python bytes", "publish the bytes, not str() of them")),
    (b"{'", Look("the text of a Python dict", "write it with json.dumps, not with str or repr")),
    (b"[object", Look("the text of a JavaScript object", "write it with JSON.stringify")),
    (b"%7B", Look("JSON in the encoding of a URL", _JSON_ITSELF)),
    (b"%7b", Look("JSON in the encoding of a URL", _JSON_ITSELF)),
    (b"{&quot;", Look("JSON in the encoding of HTML", _JSON_ITSELF)),
    (b'{\\"', Look("JSON whose quotes are escaped", _JSON_ITSELF)),
)  # fmt: skip

_GLUE_BYTES: Final = 18
_APICURIO_BYTES: Final = 9
_AVRO_BYTES: Final = 10  # of the prefix of a single object
_WHITE: Final = b" \t\r\n"
_LOOKED_AT: Final = 64
_BEGIN_BYTES: Final = 256
_MOST_BEFORE_PACKED: Final = 8
_BEGINS_TEXT: Final = b'{[" \t\r\n<'
_ALONE: Final = 'set records.fields.vector = "$kafka.value"'
_CBOR_MAP: Final = re.compile(rb"[\xa1-\xb7\xbf][\x61-\x77]\w")
_JAVA_MAP: Final = re.compile(rb"\{[A-Za-z_][\w.]*=")
_JAVA_OBJECT: Final = re.compile(rb"(?:\[+[A-Z]|[\w.$]+)@[0-9a-f]{4,8}\s*")
_UNQUOTED: Final = re.compile(rb"\{\s*[A-Za-z_$][\w$]*\s*:")
_MARKUP: Final = re.compile(rb"<[A-Za-z!?]")
_NUMBERS: Final = re.compile(rb"\[?\s*[-+]?[0-9.]+(?:[eE][-+]?\d+)?\s*[,;\s]")
_NUMBER: Final = re.compile(rb"-?\d[\d.]*(?:[eE][-+]?\d+)?\s*")
_NUMBERS_OF_MESSAGEPACK: Final = ((b"\xca", 5), (b"\xcb", 9))  # first byte and size
_HEXADECIMAL: Final = re.compile("[0-9a-fA-F]+")
_NUMBERS_APART: Final = re.compile(r"\[?\s*[-+]?\d[\d.eE+-]*(?:\s*;\s*|\s+)[-+]?\d")
_NUMBERS_IN_BRACES: Final = re.compile(r"[{(]\s*[-+]?\d[\d.eE+-]*\s*[,)}]")
_BARE_POINT: Final = re.compile(r"(?:^|[\[,\s])[-+]?(?:\.\d|\d+\.[,\]\s])")
_SPARSE: Final = re.compile(r"\{[\d:.,eE+\-\s]*\}/\d+")
_ARRAY_IN_WORDS: Final = re.compile(r"(?:array|tensor|Vector|DenseVector|ndarray)\(")
_URL_BASE64: Final = re.compile("[A-Za-z0-9+/_-]+")
_TO_STANDARD: Final = str.maketrans("-_", "+/")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}")
_FEWEST_CHARACTERS: Final = 8  # of base64 that is called so
_PROTOBUF: Final = re.compile(rb"\x0a[\x01-\x7f][\x21-\x7a\x7c\x7e]")
_OLD_PICKLE: Final = re.compile(rb"\((?:[dl]p\d*|c[A-Za-z_][\w.]*)\n|[}\]]q\x00|c[A-Za-z_][\w.]*\n\w+\n")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_NO_ASCII_TEXT: Final = re.compile(rb"[\x00-\x08\x0e-\x1f\x80-\xff]")
_MESSAGEPACK_LISTS: Final = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))
_whole: Final = msgspec.msgpack.Decoder(msgspec.Raw).decode
_json: Final = msgspec.json.Decoder(msgspec.Raw).decode


def look_of(value: bytes, dimension: int) -> Look | None:
    """Return what a value looks like, None where that is not known. A record may begin so too."""
    checks = (_wide, _prefixed, _beginning, _raw_floats, _list, _text, _binary, _encoded, _behind)
    for recognise in checks:
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
    for matches, words in _TEXTS:
        if matches(text):
            return words
    return "" if text[:1] == "[" or "," in text else _wrong_base64(text)


def _wrong_base64(text: str) -> str:
    packed = "".join(text.split()).rstrip("=")
    if _URL_BASE64.fullmatch(packed):
        if len(packed) % 4 == 1:
            return f"is base64 that was cut: {len(packed)} characters are no whole bytes"
        return "mixes the two alphabets of base64 (+/ and -_), has spaces, or has the wrong number of = at its end"
    return "has characters that base64 does not have" if packed else ""


def _is_hexadecimal(text: str) -> bool:
    digits = text[2:] if text.startswith(("0x", "\\x")) else text
    return len(digits) % 8 == 0 and _HEXADECIMAL.fullmatch(digits) is not None


_ARRAYS: Final[tuple[tuple[Callable[[str], object], str], ...]] = (
    (
        lambda text: _NUMBERS_APART.match(text[:_LOOKED_AT]),
        "is numbers without commas between them: publish a list, or separate them by commas",
    ),
    (
        lambda text: _NUMBERS_IN_BRACES.match(text[:_LOOKED_AT]),
        "is numbers in braces or parentheses: publish a list, or put them in brackets, as pgvector prints them",
    ),
    (
        lambda text: _BARE_POINT.search(text[:_LOOKED_AT]),
        "has numbers without a digit on both sides of the point (1. or .1): publish a list, or write 1.0 and 0.1",
    ),
    (
        _SPARSE.fullmatch,
        "is a sparse vector, as pgvector prints a sparsevec: publish all of its numbers",
    ),
    (_ARRAY_IN_WORDS.match, "is the text of an array of a program: publish a list of numbers"),
)
_TEXTS: Final[tuple[tuple[Callable[[str], object], str], ...]] = (
    (lambda text: text.startswith("data:"), "is a data URL: publish only what is behind its comma"),
    (_is_hexadecimal, "looks like hexadecimal: publish base64"),
    *_ARRAYS,
)


def look_of_array(text: str) -> str:
    """Return what is said of a string that has an array of numbers in another form than JSON, "" for any other."""
    if text[:1] not in ("[", "{", "(", "a", "t", "v", "D", "n"):
        return ""
    return next((words for matches, words in _ARRAYS if matches(text)), "")


def is_base64(text: str) -> bool:
    """Return whether a text has the characters of base64 alone."""
    return _URL_BASE64.fullmatch(text.rstrip("=")) is not None


def bytes_of_base64(text: str) -> bytes:
    """Return the bytes of base64 without its padding, of either alphabet; nothing where it is none."""
    try:
        return base64.b64decode(text.translate(_TO_STANDARD) + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def look_of_packed(data: bytes) -> str:
    """Return what is said of the bytes that should be the numbers of a vector, "" if nothing is known."""
    look = _beginning(data, 0)
    if look is not None:
        return f"it holds what looks like {look.like}"
    return "it holds numbers as text: publish the list itself" if _NUMBERS.match(data[:_LOOKED_AT]) else ""


def is_json_in_base64(text: bytes) -> bool:
    """Return whether text is base64 of JSON that is a map or a list."""
    begin = text[:_LOOKED_AT]
    try:
        data = base64.b64decode(begin[: len(begin) // 4 * 4], validate=True)
    except (binascii.Error, ValueError):
        return False
    return data[:1] in (b"{", b"[") and not _CONTROL.search(data)


def _wide(value: bytes, _dimension: int) -> Look | None:
    name = wide_text(value)
    return Look(name, _UTF_8) if name else None


def _prefixed(value: bytes, _dimension: int) -> Look | None:
    """Return which prefix of a registry it has that is not Confluent's."""
    number = int.from_bytes(value[1:_APICURIO_BYTES], "big")
    if value[:5] == bytes(5) and len(value) > _APICURIO_BYTES and value[5:8] == bytes(3) and number:
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
    if value[:2] == b"\xc3\x01" and len(value) >= _AVRO_BYTES:
        fingerprint = int.from_bytes(value[2:_AVRO_BYTES], "little")
        return Look(
            f"Avro's encoding of a single object (schema fingerprint {fingerprint:016x})",
            "use the serializer of a schema registry (registry.url), or publish JSON or MessagePack",
        )
    return None


def _raw_floats(value: bytes, dimension: int) -> Look | None:
    if value[:1] in _BEGINS_TEXT and _is_utf_8(value):
        return None
    found = type_of_numbers(value, dimension)
    if found is None and len(value) == 4 * dimension:
        found = "float32-le"
    if found is not None:
        setting = "" if found == "float32-le" else f' and records.vector_bytes = "{found}"'
        return Look(
            f"the numbers of a vector alone ({dimension} {found.partition('-')[0]}s)",
            f"{_ALONE}{setting}, or publish a MessagePack map with the bytes in data.float32, so that it can have a key",
        )
    if len(value) in (2 * dimension, 8 * dimension) and are_numbers(value, "float32-le"):
        return Look(
            f"the numbers of a vector alone ({len(value) // 4} float32s, and the index has {dimension} dimensions)",
            f"they are {OF_ANOTHER_MODEL}",
        )
    return None


def _is_utf_8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _list(value: bytes, _dimension: int) -> Look | None:
    if value[:1] and value[0] in _MESSAGEPACK_LISTS:
        return _list_in_messagepack(value)
    value = _begun(value)
    if not value.startswith(b"["):
        return None
    inner = value[1:_LOOKED_AT].lstrip()
    if inner[:1] in (b"{", b""):
        return Look("a list of records", _SPLIT)
    if inner[:1] == b"[":
        return Look("a list of vectors", f"publish one record for each; {_AS_RECORD}")
    if inner[:2] == b'"{':
        return Look("a list of JSON strings", "publish the inner texts as they are; they were encoded as JSON twice")
    return Look("the numbers of a vector alone", _AS_RECORD) if _NUMBERS.match(value[:_LOOKED_AT]) else None


def _list_in_messagepack(value: bytes) -> Look | None:
    try:
        _whole(value)  # its elements are not made, since there may be millions
    except UNREADABLE:
        return None
    at = {0xDC: 3, 0xDD: 5}.get(value[0], 1)
    kind = MsgpackFields.kind_of_byte[value[at]] if at < len(value) else Kind.NOTHING
    if kind in (Kind.MAP, Kind.NOTHING):
        return Look("a list of records in MessagePack", _SPLIT)
    if kind is Kind.NUMBER:
        return Look("the numbers of a vector alone, in MessagePack", _AS_RECORD)
    return Look("a list in MessagePack", f"name the fields of the record; {_AS_RECORD}")


def _text(value: bytes, _dimension: int) -> Look | None:
    value = _begun(value)
    if value.startswith(b'"'):
        inner = value[1:_LOOKED_AT].replace(b"\\n", b" ").lstrip(b'\\" \t')
        if inner[:1] in (b"{", b"["):
            return Look("JSON within a JSON string", "publish the inner text as it is; it was encoded as JSON twice")
        if is_json_in_base64(value[1:].partition(b'"')[0]):
            return Look("JSON in base64, within a JSON string", _JSON_ITSELF)
        return Look("a JSON string", _AS_RECORD)
    if (len(value) <= _LOOKED_AT and _NUMBER.fullmatch(value)) or (value[:1], len(value)) in _NUMBERS_OF_MESSAGEPACK:
        return Look("a single number, such as one of a vector that is in no record", _AS_RECORD)
    if value.rstrip() in (b"null", b"true", b"false"):
        return Look("a single JSON value", f"{_AS_RECORD}; a tombstone has no value at all (null bytes)")
    return None


def _begun(value: bytes) -> bytes:
    """Return a text without what may be before JSON."""
    return value.removeprefix(BYTE_ORDER_MARK).lstrip(_WHITE)


def _beginning(value: bytes, _dimension: int) -> Look | None:
    return next((look for beginning, look in _BEGINNINGS if value.startswith(beginning)), None)


def _binary(value: bytes, _dimension: int) -> Look | None:
    checks: tuple[tuple[Callable[[bytes], object], Look], ...] = (
        (_is_safetensors, Look("a file of safetensors", _NUMPY)),
        (_CBOR_MAP.match, Look("CBOR", _OTHER)),
        (_JAVA_MAP.match, Look("the text of a Java map", "use a serializer that writes JSON")),
        (_JAVA_OBJECT.fullmatch, Look("the text of a Java object", "use a serializer that writes JSON")),
        (_UNQUOTED.match, Look("JSON whose names have no quotes, as in JavaScript", "write it with JSON.stringify")),
        (_MARKUP.match, Look("XML or HTML", _OTHER)),
        (_OLD_PICKLE.match, _PICKLE),
        (_PROTOBUF.match, Look("Protobuf without a schema registry's prefix", "use the registry's serializer, or publish JSON")),
        (_NUMBERS.match, Look("numbers as text", _AS_RECORD)),
    )  # fmt: skip
    if _is_bson(value):
        return Look("BSON", _OTHER)
    begun = value.removeprefix(BYTE_ORDER_MARK)[
        :_BEGIN_BYTES
    ]  # a pattern may cost much more than the bytes it looks at
    return next((look for matches, look in checks if matches(begun)), None)


def _is_bson(value: bytes) -> bool:
    return len(value) > 5 and int.from_bytes(value[:4], "little") == len(value) and value[-1] == 0


def _is_safetensors(value: bytes) -> bool:
    return value[4:10] == b'\x00\x00\x00\x00{"'


def _encoded(value: bytes, _dimension: int) -> Look | None:
    """Return what text holds that is base64 or hexadecimal."""
    begin = value[:_LOOKED_AT]
    if is_json_in_base64(begin):
        return Look("JSON in base64", _JSON_ITSELF)
    if begin.startswith(b"H4sI"):
        return Look("gzip in base64", _COMPRESS)
    if begin[:4].lower() == b"7b22" and not begin.strip(b"0123456789abcdefABCDEF"):
        return Look("JSON in hexadecimal", _JSON_ITSELF)
    return None


def _behind(value: bytes, _dimension: int) -> Look | None:
    """Return what is said of JSON that does not begin with the value."""
    at = value.find(b'{"', 1, _LOOKED_AT)
    if at < 1 or value[:1] in (b"{", b"["):
        return None
    try:
        _json(value[at:])
    except UNREADABLE:
        if at > _MOST_BEFORE_PACKED or not _NO_ASCII_TEXT.search(value[:at]):
            return None
        return Look("JSON that was compressed without a header, by snappy or lz4", _COMPRESS)
    return Look(f"JSON behind {at} bytes of something else", "publish the JSON alone, with nothing before it")
