"""What reads a part of a record alone reads it as the decoder of the whole does, whatever else is in the value.

The key that is read alone says which dead letters are stale, and the routing value which index a record goes to. If such a
reader gave up where the decoder does not, the wrong vector would win, or the record would go to the wrong index.
"""

from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.app.decoders import options_of, shape_of
from worker.errors import RecordError
from worker.records.decode import Decoder, Ignore
from worker.records.record_key import key_reader
from worker.records.routing_value import reader_of
from worker.records.target import Target
from worker.settings import tables

pack = msgspec.msgpack.encode
OWN: Final = tables.Records()
MAPPED: Final = tables.Records(fields=tables.Fields(key="a.id", vector="a.v", metadata="", delete="op"))
IN_LIST: Final = tables.Records(fields=tables.Fields(key="l[1].id", vector="a.v", metadata="", delete="op"))


def decoder(records: tables.Records) -> Decoder:
    """Return the decoder of records with these settings."""
    return Decoder(Target("docs", 3, "cosine"), max_fragment_bytes=1 << 20, shape=shape_of(records))


def in_json(members: list[tuple[bytes, bytes]]) -> bytes:
    """Return a map of members that are JSON already."""
    return b"{%s}" % b",".join(b"%s:%s" % member for member in members)


def packed(members: list[tuple[bytes, bytes]]) -> bytes:
    """Return likewise a map of at most 15 members in MessagePack."""
    return bytes([0x80 | len(members)]) + b"".join(name + value for name, value in members)


JSON_NAMES: Final = [b'"a"', b'"key"', b'"id"', b'"x"', b'"\\u0061"', b'"\xff"', b'"\\ud800"']
JSON_VALUES: Final = [
    b"1", b"1e999", b"null", b"true", b'"k"', b'"\\u0064"', b'"\xff"', b'"\\ud83d"', b'"\\ud83d\\ude00"', b"{}", b'["\xff"]',
    b'{"id":"k"}', b'{"id":"\\ud800"}', b'[{"id":"k"},{"id":"\xff"}]',
]  # fmt: skip
PACKED_NAMES: Final = [
    *map(pack, ("a", "key", "id", "x")),
    b"\xa1\xff",
    b"\x01",
    b"\xc0",
    b"\xc4\x01a",
    b"\x81\x01\x01",
    b"\xd9\x01a",
]
PACKED_VALUES: Final = [
    *map(pack, (1, None, True, "k", {}, {"id": "k"}, [{"id": "k"}, {7: 1, "id": "l"}])), b"\xa1\xff", b"\xd4\1\1", b"\x81\x01\x02",
    b"\x91\xa1\xff", b"\x82\x01\x01\xa2id\xa1k",
]  # fmt: skip


def values(own: list[Any], records: Any) -> st.SearchStrategy[bytes]:
    """Return maps with the members that make a record, and others before, between and behind them."""
    names, others, encode = records
    more = st.lists(st.tuples(st.sampled_from(names), st.sampled_from(others)), max_size=4)
    return more.flatmap(lambda chosen: st.permutations([*own, *chosen]).map(encode))


JSON: Final = (JSON_NAMES, JSON_VALUES, in_json)
MSGPACK: Final = (PACKED_NAMES, PACKED_VALUES, packed)
IN_A: Final = st.one_of(
    values([(b'"id"', b'"k"'), (b'"v"', b"[1,2,3]")], JSON).map(lambda map_: ([(b'"a"', map_)], JSON)),
    values([(pack("id"), pack("k")), (pack("v"), pack([1, 2, 3]))], MSGPACK).map(
        lambda map_: ([(pack("a"), map_)], MSGPACK)
    ),
)
AT_THE_TOP: Final = st.sampled_from(
    [
        ([(b'"key"', b'"k"'), (b'"data"', b'{"float32":[1,2,3]}')], JSON),
        ([(pack("key"), pack("k")), (pack("data"), pack({"float32": [1, 2, 3]}))], MSGPACK),
    ]
)
WITH_A_LIST: Final = st.sampled_from(
    [
        ([(b'"a"', b'{"v":[1,2,3]}'), (b'"l"', b'[{"id":"\\ud800"},{"id":"k","n":"\\ud800"}]')], JSON),
        ([(pack("a"), pack({"v": [1, 2, 3]})), (pack("l"), b"\x92\x01\x82\x07\x01\xa2id\xa1k")], MSGPACK),
    ]
)


@pytest.mark.parametrize(
    ("records", "parts", "path"),
    [(OWN, AT_THE_TOP, "key"), (MAPPED, IN_A, "a.id"), (IN_LIST, WITH_A_LIST, "l[1].id")],
    ids=["own shape", "another shape", "a list"],
)
@given(data=st.data())
def test_the_key_and_the_routing_value_are_what_the_decoder_reads(
    records: tables.Records, parts: st.SearchStrategy[Any], path: str, data: st.DataObject
) -> None:
    value = data.draw(values(*data.draw(parts)))
    try:
        decoded = decoder(records).decode(b"kafka", value, ())
    except RecordError:
        return
    assert not isinstance(decoded, Ignore)
    assert key_reader(options_of(records))(b"kafka", value, ()) == decoded.key
    assert (reader_of(f"field:{path}", options_of(records))(b"kafka", value, ()) or "kafka") == decoded.key
