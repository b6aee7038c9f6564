"""What a value that is no record looks like: words for messages."""

import re
from typing import Final

_CONSTANT: Final = re.compile(rb"-?(?:NaN|nan|Infinity|[Ii]nf)")
_PLACE: Final = re.compile(r"\(byte (\d+)\)")
_BEGINNINGS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\xff\x06\x00\x00sNaPpY", "snappy"),
    (b"\x82SNAPPY\x00", "snappy of xerial"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"PK\x03\x04", "a zip archive, as numpy's savez and torch's save write"),
    (b"\x93NUMPY", "an array as numpy's save writes it"),
    *((bytes((0x80, protocol)), "a Python pickle") for protocol in (2, 3, 4, 5)),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"{\x00", "UTF-16"),
    (b"\x00{\x00", "UTF-16"),
    (b"Obj\x01", "an Avro file"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xac\xed\x00\x05", "a serialized Java object"),
    (b"[", 'a list, such as several records in one message, which records.many = "split" reads'),
    (b'"', "a string, such as a record that was encoded as JSON twice"),
)  # fmt: skip


def resembles(value: bytes) -> str:
    """Return what the value looks like by its first bytes, "" where that is not known. A record may begin so too."""
    return next((name for beginning, name in _BEGINNINGS if value.startswith(beginning)), "")


def constant_at(body: bytes, error: Exception) -> str:
    """Return words for NaN or an infinity at the place of the error, "" for other errors. Lenient programs write them."""
    place = _PLACE.search(str(error))
    if place is None:
        return ""
    at = int(place[1])
    found = _CONSTANT.match(body, max(0, at - 1)) or _CONSTANT.match(body, at)
    return f", which is {found[0].decode()}; JSON has none, and vectors are of finite numbers" if found else ""
