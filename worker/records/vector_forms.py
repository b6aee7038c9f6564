"""Forms that a vector may have in a value, by which it is found where no setting leads to it. Only for messages."""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from worker.records.first_bytes import bytes_of_base64, is_base64, is_json_in_base64
from worker.records.formats.values import Kind, Raw
from worker.records.members import MSGPACK, Encoding, text_of
from worker.records.number_types import are_numbers, type_of_numbers

VECTORS: Final = ("float32", "embedding", "vector", "values", "embeddings", "vectors", "vec", "emb", "dense_vector")
"""Names that vectors have."""
_NDARRAY: Final = b"\xc4\x02nd"  # the first name of an array of msgpack-numpy, which is bytes
_FLOATS: Final = (0xCA, 0xCB)  # how they begin in MessagePack
_FRACTION: Final = re.compile(rb"[.eE]")
_LOOKED_AT: Final = 16  # elements of a list
_TEXT_BYTES: Final = 40  # a shorter text is no vector
NUMBER_MAPS: Final = frozenset(("$numberDouble", "$numberDecimal", "N", "doubleValue"))
FORMS_NOT_READ: Final = {
    "ndarray": "an array as msgpack-numpy packs it: publish array.tobytes(), or array.tolist()",
    "numbers in maps": "numbers that are each in a map, as MongoDB and DynamoDB write them: publish plain numbers",
    "sparse": "a sparse vector, by its indices and values: publish all of its numbers",
    "strings": "a list of numbers that are strings: publish numbers",
    "typed array": "a typed array as JSON.stringify writes it: publish Array.from(it)",
    "string": (
        "bytes that were packed as a string, as MessagePack did before it had a type of bytes: pack them as bin "
        "(use_bin_type=True in Python, WriteExt in Go's codec)"
    ),
    "buffer": "a Buffer as JSON.stringify writes it: publish a list of numbers, or base64",
    "lists": "a list of several vectors, which have no keys: publish one record for each",
}


def packed(encoding: Encoding, name: str, raw: Raw, dimension: int) -> str:
    """Return what packed numbers under a name are called, "" if it is something else."""
    sizes = (4 * dimension, 8 * dimension, 2 * dimension)
    if encoding.kind(raw) is Kind.BINARY:
        data = bytes(raw)
        header = next((header for header in (2, 3, 5) if len(data) - header in sizes), 0)
        return _type_of(data[header:], dimension, "as bytes") if header else ""
    if len(memoryview(raw)) < min(_TEXT_BYTES, 2 * dimension):
        return ""
    text = text_of(encoding, raw)
    if not text:
        return packed_as_string(encoding, raw, dimension)
    if text[:1] == "[" and text.count(",") == dimension - 1:
        return "a vector as text"
    digits = text.rstrip("=")
    if len(digits) * 3 // 4 not in sizes or not (name in VECTORS or is_base64(text)):
        return ""
    return _type_of(bytes_of_base64(digits), dimension, "in base64")


def packed_as_string(encoding: Encoding, raw: Raw, dimension: int) -> str:
    """Return the form of numbers that are the bytes of a string in MessagePack and no text, "" if it is something else."""
    if encoding is not MSGPACK or encoding.kind(raw) is not Kind.STRING or text_of(encoding, raw):
        return ""
    data = bytes(raw)
    size = len(data) - {0xD9: 2, 0xDA: 3, 0xDB: 5}.get(data[0], 1)
    return "string" if size in (2 * dimension, 4 * dimension, 8 * dimension) else ""


def _type_of(data: bytes, dimension: int, form: str) -> str:
    """Return what bytes are called that are as long as a vector, "" where they are most likely none."""
    found = type_of_numbers(data, dimension)
    if len(data) == 4 * dimension and found in (None, "float32-le"):
        return f"float32 {form}"
    if found is not None:
        return f"{found} {form}"
    return f"{len(data) // 4} float32 {form}" if are_numbers(data, "float32-le") else ""


def form_of_map(encoding: Encoding, raw: Raw, members: Mapping[str, Raw]) -> str:
    """Return the form of a vector that is a map, "" if it is something else."""
    names = list(islice(members, 3))
    if names[:2] == ["0", "1"]:
        return "typed array"
    if names == ["type", "data"] and b"Buffer" in bytes(members["type"]):
        return "buffer"
    if {"indices", "values"} <= members.keys() and encoding.kind(members["indices"]) is Kind.LIST:
        return "sparse" if encoding.elements(members["indices"]) else ""
    return "ndarray" if bytes(memoryview(raw)[1:5]) == _NDARRAY else ""


def json_in(text: str) -> str:
    """Return what is said of a string that has JSON in it, "" for another."""
    if text[:1] in ("{", "["):
        return "is a string that has JSON in it: publish it as a map, not as text"
    is_packed = len(text) > _TEXT_BYTES and text.isascii() and is_json_in_base64(text[: 2 * _TEXT_BYTES].encode())
    return "is a string that has JSON in base64 in it: publish it as a map, not as text" if is_packed else ""


def are_whole(encoding: Encoding, elements: Sequence[Raw]) -> bool:
    """Return whether the first elements of a list are written as numbers without a fraction."""
    first = map(bytes, elements[:_LOOKED_AT])
    if encoding is MSGPACK:
        return not any(element[0] in _FLOATS for element in first)
    return not any(_FRACTION.search(element) for element in first)


def is_number(text: str) -> bool:
    try:
        float(text[:_TEXT_BYTES])
    except ValueError:
        return False
    return True
