"""Records that ask for nothing that can be written: each is one dead letter, and costs nobody else anything."""

from typing import Final

from tests.unit.hostile_records import colliding_names, in_json, packed
from worker.deadletters.headers import writable_name

_VECTOR_OF_FOUR: Final = b"[1,2,3,4]"
_PACKED_VECTOR_OF_FOUR: Final = b"\x94\x01\x02\x03\x04"
_IN_JSON: Final = in_json(b'{"t":"a"}', _VECTOR_OF_FOUR)
_IN_MESSAGEPACK: Final = packed(b"\x81\xa1t\xa1a", _PACKED_VECTOR_OF_FOUR)

BROKEN: Final[dict[str, bytes]] = {
    "nothing": b"",
    "text": b"no record",
    "too few numbers": b'{"data": {"float32": [1, 2]}}',
    "text in the vector": b'{"data": {"float32": [1, 2, 3, "4"]}}',
    "empty key": b'{"key": "", "data": {"float32": [1, 2, 3, 4]}}',
    "number too large": b'{"key": "x", "data": {"float32": [1, 2, 3, 1e39]}}',
    "number in metadata": b'{"key": "x", "data": {"float32": [1, 2, 3, 4]}, "metadata": {"n": 1}}',
    "Avro": b"\x00\x00\x00\x00\x07avro",
    "number before text that is not UTF-8": in_json(b'{"n":1,"t":"\xe9"}', _VECTOR_OF_FOUR),
    "the same in MessagePack": packed(b"\x82\xa1n\x01\xa1t\xa1\xe9", _PACKED_VECTOR_OF_FOUR),
    "key that is not UTF-8": b'{"key":"\xff","data":{"float32":[1,2,3,4]}}',
    "half an emoji": in_json(b'{"t":"\\ud83d"}', _VECTOR_OF_FOUR),
    "colliding names in metadata": packed(colliding_names(bits=14), _PACKED_VECTOR_OF_FOUR),
    "colliding names of the record": colliding_names(bits=14),
    "names that are numbers": packed(b"\x82\x01\x01\x02\x02", _PACKED_VECTOR_OF_FOUR),
    "lists in lists": b"[" * 100_000,
    "maps in maps": in_json(b'{"a":' * 50_000, _VECTOR_OF_FOUR),
    "lists in lists in metadata": in_json(b'{"a":%s%s}' % (b"[" * 50_000, b"]" * 50_000), _VECTOR_OF_FOUR),
    "lists in lists in MessagePack": packed(b"\x81\xa1a" + b"\x91" * 50_000 + b"\xc0", _PACKED_VECTOR_OF_FOUR),
    "list that claims four billion": packed(b"\x80", b"\xdd\xff\xff\xff\xff"),
    "JSON cut in a name": _IN_JSON[:4],
    "JSON cut in its metadata": _IN_JSON[:-4],
    "JSON cut at its end": _IN_JSON[:-1],
    "MessagePack cut in its metadata": _IN_MESSAGEPACK[:-2],
    "MessagePack cut at its end": _IN_MESSAGEPACK[:-1],
    "MessagePack and more behind it": _IN_MESSAGEPACK + b"\xc0",
}
"""By their names, their values; for an index of four dimensions."""

ODD_NAMES: Final = tuple(
    writable_name(name.decode(errors="surrogateescape")) for name in (b"\xff\xfe", b"caf\xe9", b"")
)
"""Names of headers that are not UTF-8, or empty; they cost no record anything."""
