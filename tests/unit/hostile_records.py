"""Records of one megabyte that are made to cost as much as they can: in numbers, names, escapes, nesting, repetition."""

import base64
import functools
import struct
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np

MEGABYTE: Final = 1_000_000
pack = msgspec.msgpack.encode


def repeated(element: bytes, between: bytes = b"", most: int = MEGABYTE - 200) -> bytes:
    """Return an element as often as it fits."""
    return between.join([element] * (most // len(element + between)))


def numbered(form: bytes, between: bytes = b",") -> bytes:
    """Return a form with 0, 1, 2, ... in it, as often as it fits."""
    return between.join(form % number for number in range((MEGABYTE - 200) // (len(form % 100_000) + len(between))))


def in_json(metadata: bytes, vector: bytes = b"[1,2,3]") -> bytes:
    """Return a record in JSON."""
    return b'{"key":"k","data":{"float32":%s},"metadata":%s}' % (vector, metadata)


def packed(metadata: bytes, vector: bytes = pack([1.0, 2.0, 3.0])) -> bytes:
    """Return a record in MessagePack."""
    return b"\x83\xa3key\xa1k\xa4data\x81\xa7float32" + vector + b"\xa8metadata" + metadata


def _many(code: int, elements: bytes, count: int) -> bytes:
    return bytes([code]) + count.to_bytes(4, "big") + elements


def list_of(element: bytes) -> bytes:
    """Return a MessagePack list of as many of them as fit."""
    elements = repeated(element)
    return _many(0xDD, elements, len(elements) // len(element))


def map_of(member: bytes) -> bytes:
    """Return a MessagePack map of as many of them as fit."""
    members = repeated(member)
    return _many(0xDF, members, len(members) // len(member))


@functools.cache
def colliding_names(bits: int = 18) -> bytes:
    """Return a MessagePack map whose names are integers that a dict finds a place for only after many looks.

    With the default these are tens of thousands, and the map has nearly a megabyte. A dict of 2^bits places looks for a name at its hash, which for an integer is itself, then at 5 i + 1 + perturb, where
    perturb is the hash, shifted right by 5 with each look. So, once that is zero, all names go the same way round.

    1. A third of the places is filled, in the order of that way, by one name each. The dict has then grown to this size.
    2. Names are searched for that find every place filled until their perturb is zero. They begin the way where they are
       then, and go it to the end of what is filled, which each of them moves on by one.
    """
    size = 1 << bits
    filled = size // 3 + 10
    way = [0]
    while len(way) < filled:
        way.append((5 * way[-1] + 1) % size)
    step_of = np.full(size, size, np.int64)
    step_of[way] = np.arange(filled)
    found: list[tuple[int, int]] = []
    for first in range(size, 1 << 25, 1 << 22):
        names = np.arange(first, min(first + (1 << 22), 1 << 25))
        places, perturb = names % size, names.copy()
        for _ in range(5):
            kept = step_of[places] < size
            names, places, perturb = names[kept], places[kept], perturb[kept] >> 5
            places = (5 * places + perturb + 1) % size
        found += zip(step_of[places].tolist(), names.tolist(), strict=True)
    found.sort()
    names_in_order = way + [name for _, name in found[: size * 61 // 100 - filled]]
    members = b"".join(struct.pack(">BIB", 0xCE, name, 1) for name in names_in_order)
    return _many(0xDF, members, len(names_in_order))


NUMBERS: Final = (
    b"1e308", b"1e-320", b"9e-324", b"2e-308", b"1.7976931348623157e308", b"2.2250738585072011e-308", b"1." + b"9" * 18 + b"e-300",
    b"1." + b"9" * 25 + b"e-300", b"1." + b"9" * 800 + b"e-300", b"9" * 20, b"9" * 300, b"9" * 4300, b"9" * 4301, b"1e999", b"1e-999",
    b"0e" + b"9" * 50, b"1",
)  # fmt: skip


def _tree(leaf: bytes) -> bytes:
    """Return a map of as many maps as fit, each with 64 maps of 64 leaves."""
    for _ in range(2):
        leaf = b"{%s}" % b",".join(b'"%c":%s' % (first, leaf) for first in range(0x40, 0x7F) if first != 0x5C)
    return b"{%s}" % numbered(b'"%%d":%s' % leaf)


_JSON: Final[dict[str, Callable[[], bytes]]] = {
    "one number of a million digits": lambda: in_json(b'{"a":%s}' % (b"9" * (MEGABYTE - 200))),
    "one number with an exponent of a million digits": lambda: in_json(b'{"a":1e%s}' % (b"9" * (MEGABYTE - 200))),
    "a vector of one number of a million digits": lambda: in_json(b"{}", b"[%s,1,2]" % (b"9" * (MEGABYTE - 200))),
    "a vector of one fraction of a million digits": lambda: in_json(b"{}", b"[0.%s,1,2]" % (b"9" * (MEGABYTE - 200))),
    "many names": lambda: in_json(b"{%s}" % numbered(b'"%d":""')),
    "many names with numbers": lambda: in_json(b"{%s}" % numbered(b'"%d":1')),
    "many names with lists of maps": lambda: in_json(b"{%s}" % numbered(b'"%d":[{}]')),
    "one name again and again": lambda: in_json(b"{%s}" % repeated(b'"":1', b",")),
    "key again and again": lambda: b"{%s}" % repeated(b'"key":"\\ud800"', b","),
    "data again and again": lambda: b"{%s}" % repeated(b'"data":{}', b","),
    "float32 in metadata again and again": lambda: in_json(b"{%s}" % repeated(b'"float32":[1]', b",")),
    "long text": lambda: in_json(b'{"a":"%s"}' % (b"x" * (MEGABYTE - 200))),
    "long key": lambda: b'{"key":"%s","data":{"float32":[1,2,3]}}' % (b"x" * (MEGABYTE - 200)),
    "long name": lambda: in_json(b'{"%s":1}' % (b"x" * (MEGABYTE - 200))),
    "escaped text": lambda: in_json(b'{"a":"%s"}' % repeated(b"\\u00e9")),
    "escapes before half a surrogate pair": lambda: in_json(b'{"a":"%s\\ud800"}' % repeated(b"\\n")),
    "half surrogate pairs": lambda: in_json(b'{"a":"%s"}' % repeated(b"\\ud800")),
    "half surrogate pairs between escapes": lambda: in_json(b'{"a":"%s"}' % repeated(b"\\n\\ud800")),
    "surrogate pairs and a half": lambda: in_json(b'{"a":"%s\\ud800"}' % repeated(b"\\ud83d\\ude00")),
    "ignored half surrogate pairs": lambda: (
        b'{"x":"%s","data":{"float32":[1,2,3]}}' % repeated(b"\\ud800", most=MEGABYTE - 300)
    ),
    "backslashes": lambda: in_json(b'{"a":"%s\\ud800"}' % repeated(b"\\\\")),
    "an open string of escapes": lambda: b'{"a":"' + repeated(b"\\ud800"),
    "brackets": lambda: in_json(b'{"a":%s}' % (b"[" * (MEGABYTE - 200))),
    "braces": lambda: in_json(repeated(b'{"a":')),
    "maps in maps, 64 in each": lambda: _tree(b"{}"),
    "lists of maps in maps, 64 in each": lambda: _tree(b"[{}]"),
    "many short lists": lambda: in_json(b'{"a":[%s]}' % repeated(b"[]", b",")),
    "many empty strings": lambda: in_json(b'{"a":[%s]}' % repeated(b'""', b",")),
    "many nulls": lambda: in_json(b'{"a":[%s]}' % repeated(b"null", b",")),
    "many strings in the vector": lambda: in_json(b"{}", b"[%s]" % repeated(b'""', b",")),
    "a vector in base64": lambda: in_json(b"{}", b'"%s"' % base64.b64encode(b"\0" * (MEGABYTE // 4 * 3 - 300))),
    "a vector in base64 that is none": lambda: in_json(b"{}", b'"%s?"' % (b"A" * (MEGABYTE - 200))),
    "white space": lambda: b" " * (MEGABYTE - 1) + b"{",
    "white space behind a registry's prefix": lambda: b"\0\0\0\0\7" + b" " * (MEGABYTE - 200),
    "white space and a bracket behind a registry's prefix": lambda: (
        b"\0\0\0\0\7{" + b" " * (MEGABYTE - 200) + b"x"
    ),
    "text that is not UTF-8": lambda: in_json(b'{"a":1,"b":"%s"}' % (b"\xff" * (MEGABYTE - 200))),
    "wide text": lambda: in_json(b'{"a":1,"b":["%s"]}' % repeated("😀".encode())),
}  # fmt: skip

_PACKED: Final[dict[str, Callable[[], bytes]]] = {
    "names that collide": lambda: packed(colliding_names()),
    "names that collide, of a map in metadata": lambda: packed(b"\x81\xa1a" + colliding_names()),
    "names that collide, of the record": colliding_names,
    "names that collide, of data": lambda: b"\x82\xa3key\xa1k\xa4data" + colliding_names(),
    "names that collide, ignored": lambda: b"\x82\xa1x" + colliding_names() + pack("data") + pack({"float32": [1, 2, 3]}),
    "names that are numbers": lambda: packed(map_of(b"\x01\x01")),
    "names that are null": lambda: map_of(b"\xc0\xc0"),
    "names that are maps": lambda: packed(map_of(b"\x80\x01")),
    "one name again and again": lambda: packed(map_of(b"\xa0\x01")),
    "one name after a number": lambda: packed(map_of(b"\xa1\xe9\x01") + b""),
    "a list of numbers": lambda: packed(b"\x81\xa1a" + list_of(b"\x01")),
    "a list of large numbers": lambda: packed(b"\x81\xa1a" + list_of(b"\xcb" + struct.pack(">d", 1.7976931348623157e308))),
    "a list of small numbers": lambda: packed(b"\x81\xa1a" + list_of(b"\xcb" + struct.pack(">d", 5e-324))),
    "a list of empty strings": lambda: packed(b"\x81\xa1a" + list_of(b"\xa0")),
    "a list of empty maps": lambda: packed(b"\x81\xa1a" + list_of(b"\x80")),
    "a list of empty extensions": lambda: packed(b"\x81\xa1a" + list_of(b"\xc7\x00\x01")),
    "a list of times": lambda: packed(b"\x81\xa1a" + list_of(b"\xd6\xff\x01\x01\x01\x01")),
    "a list in a list": lambda: packed(b"\x81\xa1a" + b"\x91" * (MEGABYTE - 200)),
    "lists that say they are long": lambda: packed(b"\x81\xa1a" + repeated(b"\xdd\xff\xff\xff\xff")),
    "maps that say they are long": lambda: packed(repeated(b"\xdf\xff\xff\xff\xff")),
    "a map that says it is long": lambda: b"\xdf\xff\xff\xff\xff" + b"\x01" * (MEGABYTE - 200),
    "text that says it is long": lambda: packed(b"\x81\xa1a\xdb\xff\xff\xff\xff" + b"x" * (MEGABYTE - 200)),
    "a vector of numbers": lambda: packed(b"\x80", list_of(b"\x01")),
    "a vector of numbers and a null": lambda: packed(b"\x80", list_of(b"\x01")[:-1] + b"\xc0"),
    "a vector of strings": lambda: packed(b"\x80", list_of(b"\xa0")),
    "a vector in base64": lambda: packed(b"\x80", pack(base64.b64encode(b"\0" * (MEGABYTE // 4 * 3 - 300)).decode())),
    "a vector in bytes": lambda: packed(b"\x80", pack(b"\0" * (MEGABYTE - 200))),
    "text that is not UTF-8": lambda: packed(b"\x82\xa1a\x01\xa1b" + pack("x" * (MEGABYTE - 200))[:-1] + b"\xff"),
    "many names": lambda: packed(
        _many(0xDF, b"".join(b"\xa6%06d\x01" % number for number in range(MEGABYTE // 9)), MEGABYTE // 9)
    ),
}  # fmt: skip


def _with_numbers(number: bytes) -> dict[str, Callable[[], bytes]]:
    name = f"{number[:12].decode()} ({len(number)} characters)"
    return {
        f"JSON vector of {name}": lambda: in_json(b"{}", b"[%s]" % repeated(number, b",")),
        f"JSON vector of {name}, last a null": lambda: in_json(b"{}", b"[%s,null]" % repeated(number, b",")),
        f"JSON metadata list of {name}": lambda: in_json(b'{"a":[%s]}' % repeated(number, b",")),
        f"JSON metadata list of {name}, last a map": lambda: in_json(b'{"a":[%s,{}]}' % repeated(number, b",")),
        f"JSON metadata of {name}": lambda: in_json(b"{%s}" % repeated(b'"a":' + number, b",")),
        f"JSON ignored {name}": lambda: b'{"x":[%s],"data":{"float32":[1,2,3]}}' % repeated(number, b","),
        f"JSON vectors again and again of {name}": lambda: (
            b"{%s}" % repeated(b'"data":{"float32":[%s,1,2]}' % number, b",")
        ),
    }


RECORDS: Final[dict[str, Callable[[], bytes]]] = {
    **{name: make for number in NUMBERS for name, make in _with_numbers(number).items()},
    **{f"JSON {name}": make for name, make in _JSON.items()},
    **{f"MessagePack {name}": make for name, make in _PACKED.items()},
}
"""By their names, what makes them; none is longer than a megabyte."""
