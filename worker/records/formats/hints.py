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
    (b"Obj\x01", "an Avro file"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xac\xed\x00\x05", "a serialized Java object"),
    (b'"', "a string, such as a record that was encoded as JSON twice"),
)  # fmt: skip
_LIST: Final = re.compile(rb"\[[ \t\r\n]*([^ \t\r\n]?)")
_RECORDS: Final = 'a list, such as several records in one message, which records.many = "split" reads'
_WIDE: Final = (("utf-32-le", "UTF-32"), ("utf-32-be", "UTF-32"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"))
_JSON_BEGINS: Final = re.compile(r'[{\["][\t\r\n -~]')
_WIDE_BYTES: Final = 64  # that are looked at, of whole characters in each of them


def resembles(value: bytes) -> str:
    """Return what the value looks like by its first bytes, "" where that is not known. A record may begin so too."""
    if name := wide_text(value):
        return name
    if found := _LIST.match(value):
        return _RECORDS if found[1] in (b"{", b"]", b"") else "a list"
    return next((name for beginning, name in _BEGINNINGS if value.startswith(beginning)), "")


def wide_text(value: bytes) -> str:
    """Return UTF-16 or UTF-32 where a value begins as JSON in that encoding, with or without its mark, "" where it does not."""
    begin = value[:_WIDE_BYTES]
    if b"\x00" not in begin:
        return ""
    for codec, name in _WIDE:
        text = begin[: len(begin) // 4 * 4].decode(codec, "replace").lstrip("\ufeff \t\r\n")
        if _JSON_BEGINS.match(text):
            return name
    return ""


def constant_at(body: bytes, error: Exception) -> str:
    """Return words for NaN or an infinity at the place of the error, "" for other errors. Lenient programs write them."""
    place = _PLACE.search(str(error))
    if place is None:
        return ""
    at = int(place[1])
    found = _CONSTANT.match(body, max(0, at - 1)) or _CONSTANT.match(body, at)
    return f", which is {found[0].decode()}; JSON has none, and vectors are of finite numbers" if found else ""
