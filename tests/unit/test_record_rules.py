"""One rule for each question that a record can ask, in both encodings, at once and step by step: held by a slow reader."""

import json
import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit import slow_record
from worker.errors import RecordError
from worker.records.decode import Decoder, Put
from worker.records.target import Target

SHORT: Final = 3
LONG: Final = 300  # enough for the numbers to be read apart
NON_FILTERABLE: Final = frozenset({"text"})
MOST_BYTES: Final = 1 << 20
pack = msgspec.msgpack.encode

DECODERS: Final = {
    (dimension, stringify): Decoder(
        Target("docs", dimension, "cosine", NON_FILTERABLE),
        max_fragment_bytes=MOST_BYTES,
        metadata_values="stringify" if stringify else "strict",
    )
    for dimension in (SHORT, LONG)
    for stringify in (False, True)
}


def by_worker(value: bytes, kafka_key: bytes | None, dimension: int, *, stringify: bool) -> object:
    """Return what the worker makes of it, in a form that can be compared."""
    try:
        decoded = DECODERS[dimension, stringify].decode(kafka_key, value, ())
    except RecordError as error:
        return error.reason.value
    assert isinstance(decoded, Put)
    read = json.loads(decoded.fragment)
    assert read["key"] == decoded.key
    return slow_record.Expected(
        decoded.key, struct.unpack(f"<{dimension}f", struct.pack(f"<{dimension}f", *read["data"]["float32"])),
        compared(read.get("metadata")) if stringify else read.get("metadata"),
    )  # fmt: skip


def by_rules(value: bytes, kafka_key: bytes | None, dimension: int, *, stringify: bool) -> object:
    """Return what the rules make of it."""
    rules = slow_record.Rules(dimension, cosine=True, stringify=stringify, non_filterable=NON_FILTERABLE)
    try:
        expected = slow_record.read(value, kafka_key, rules)
    except slow_record.Bad as bad:
        return bad.reason
    return expected._replace(metadata=compared(expected.metadata)) if stringify else expected


def compared(metadata: Any) -> Any:
    """Return metadata whose numbers are in one form."""
    if isinstance(metadata, str):
        return slow_record.canonical(metadata)
    if isinstance(metadata, list):
        return [compared(text) for text in metadata]
    return metadata and {name: compared(value) for name, value in metadata.items()}


def check(value: bytes, kafka_key: bytes | None = b"k") -> None:
    """Compare the two, under every setting."""
    for dimension, stringify in DECODERS:
        expected = by_rules(value, kafka_key, dimension, stringify=stringify)
        assert by_worker(value, kafka_key, dimension, stringify=stringify) == expected, (dimension, stringify)


# -- records that ask the questions

names = st.sampled_from(["key", "data", "float32", "metadata", "x", "ключ", "key"])
odd_json = st.sampled_from(
    [b"1", b"-0", b"1e999", b"1E+2", b"0.1", b"-0.0", b"9" * 400, b"9" * 4301, b"18446744073709551616", b"1e-320", b"true", b"false", b"null", b'""', b'"a"', b'"\\u0061"', b'"\xff"', b'"\xed\xa0\x80"',
     b'"\\ud83d"', b'"\\ud83d\\ude00"', b'"\\\\ud83d"', b'"\\ude00\\ud83d"', b'"AACAPwAAAEAAAEBA"',
     b'"AAA"', b"[]", b"{}", b"[[1]]", b'{"a":{"b":1}}', b'["a",1,null,"\xff",true]', b'["a","b"]', b'{"a":1,"a":"x"}',
     b'"\\/\\b\\f"', b'"\xc3\xa9"', b"[null]", b'"' + b"x" * 2050 + b'"']
)  # fmt: skip
broken_json = st.sampled_from(
    [
        b"01",
        b"1.",
        b"NaN",
        b"-Infinity",
        b"nul",
        b'"\\ud8zz"',
        b'"\\q"',
        b'"\x01"',
        b"[1,]",
        b"{,}",
        b"{1:2}",
        b"\\ud800",
    ]
)
usual_json = st.sampled_from([b'"a"', b'"b"', b"null", b'["a","b"]', b'"\xc3\xa9"', b'"\\u0061"'])
json_names = st.sampled_from(
    [
        b'"key"',
        b'"data"',
        b'"float32"',
        b'"metadata"',
        b'"x"',
        b'"k\\u0065y"',
        b'"\xff"',
        b'"\\ud800"',
        b'"text"',
        b"1",
        b'"n"',
    ]
)


def json_vector(dimension: int) -> st.SearchStrategy[bytes]:
    """A list of numbers in JSON, of about this dimension, with at most two odd ones among them."""

    def build(odd: Sequence[tuple[int, bytes]], count: int, space: bytes) -> bytes:
        numbers = [b"%d.5" % number for number in range(count)]
        for place, text in odd:
            if numbers:
                numbers[place % len(numbers)] = text
        return b"[" + (b"," + space).join(numbers) + b"]"

    return st.builds(
        build,
        st.lists(st.tuples(st.integers(0, dimension), odd_json), max_size=2),
        st.sampled_from([dimension] * 6 + [dimension - 1, dimension + 1, 0]),
        st.sampled_from([b"", b" ", b"\n"]),
    )


def json_map(members: st.SearchStrategy[tuple[bytes, bytes]], most: int = 5) -> st.SearchStrategy[bytes]:
    """A map in JSON of such names and values."""
    return st.lists(members, max_size=most).map(
        lambda pairs: b"{" + b",".join(name + b":" + value for name, value in pairs) + b"}"
    )


def json_records(dimension: int) -> st.SearchStrategy[bytes]:
    """Records in JSON, most of them nearly right."""
    vector = json_vector(dimension) | odd_json
    data = json_map(st.tuples(st.just(b'"float32"') | json_names, vector), 3) | odd_json
    metadata = json_map(st.tuples(json_names, usual_json | usual_json | odd_json)) | usual_json
    member = st.one_of(
        st.tuples(st.just(b'"data"'), data),
        st.tuples(st.just(b'"data"'), json_vector(dimension).map(lambda numbers: b'{"float32":' + numbers + b"}")),
        st.tuples(st.just(b'"key"'), usual_json | usual_json | odd_json),
        st.tuples(st.just(b'"metadata"'), metadata),
        st.tuples(json_names, odd_json | metadata | data),
    )
    good = st.tuples(st.just(b'"data"'), json_vector(dimension).map(lambda numbers: b'{"float32":' + numbers + b"}"))
    body = st.builds(
        lambda before, one, after: b"{" + b",".join(n + b":" + v for n, v in [*before, one, *after]) + b"}",
        st.lists(member, max_size=2), good, st.lists(member, max_size=3),
    )  # fmt: skip
    before = st.sampled_from(
        [b""] * 6 + [b"\xef\xbb\xbf", b"\n", b"\0\0\0\0\7", b"\0\0\0\0\7\n", b"\0\0\0\0\7\xef\xbb\xbf"]
    )
    after = st.sampled_from([b""] * 16 + [b"\n", b"}", b"\0"])
    return st.builds(lambda *parts: b"".join(parts), before, body, after)


def _utf8(length: int) -> bytes:
    return b"\xd9" + bytes([length]) + b"x" * length


odd_packed = st.sampled_from(
    [b"\x00", b"\x7f", b"\xff", b"\xc0", b"\xc2", b"\xc3", b"\xa0", b"\xa1a", b"\xd9\x03key", b"\xda\x00\x01a", b"\xa1\xff",
     b"\xdb\0\0\0\x01b", b"\xa3\xed\xa0\x80", b"\xc4\x01a", b"\xc4\x0c" + struct.pack("<3f", 1, 2, 3), b"\xc5\x00\x00", b"\x90",
     b"\x91\x01", b"\x92\xa1a\xa1b", b"\x93\xa1a\x01\xa1\xff", b"\x80", b"\x81\xa1a\x01", b"\x81\x01\x01", b"\x82\xa1n\x01\xa1t\xa1\xe9",
     b"\xd4\x01\x01", b"\xc7\x00\x05", b"\xd6\xff\x01\x01\x01\x01", b"\xcb" + struct.pack(">d", float("nan")), b"\xca\x7f\x80\0\0",
     b"\xcb" + struct.pack(">d", 1e300), b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\0" * 7, b"\xcc\xff", b"\xd1\xff\x00", b"\xdc\x00\x01\x01",
     b"\xdd\0\0\0\0", b"\xde\0\0", b"\xdf\0\0\0\0", b"\xa4AAAA", b"\xb0AACAPwAAAEAAAEBA", b"\x91\xc0",
     b"\xd9\xf0" + b"y" * 240]
)  # fmt: skip
broken_packed = st.sampled_from(
    [b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xd9"]
)
usual_packed = st.sampled_from([pack("a"), pack("b"), pack(None), pack(["a", "b"]), pack("\u00e9"), b"\xd9\x01c"])
packed_names = st.sampled_from(
    [pack("key"), pack("data"), pack("float32"), pack("metadata"), b"\xd9\x03key", b"\xda\x00\x04data", pack("x"), pack("n"), b"\xa1\xff",
     b"\x01", b"\xc0", b"\xc4\x03key", b"\x81\x01\x01", b"\x91\x01", b"\xcb" + b"\0" * 8, pack("text")]
)  # fmt: skip


def packed_map(members: st.SearchStrategy[tuple[bytes, bytes]], most: int = 5) -> st.SearchStrategy[bytes]:
    """A map in MessagePack of such names and values."""
    return packed_members(st.lists(members, max_size=most))


def packed_members(members: st.SearchStrategy[list[tuple[bytes, bytes]]]) -> st.SearchStrategy[bytes]:
    """A map in MessagePack of these members, in one of its three forms."""

    def build(pairs: Sequence[tuple[bytes, bytes]], form: int) -> bytes:
        count = len(pairs)
        header = [bytes([0x80 | count]), b"\xde" + count.to_bytes(2, "big"), b"\xdf" + count.to_bytes(4, "big")][form]
        return header + b"".join(name + value for name, value in pairs)

    return st.builds(build, members, st.sampled_from([0, 0, 1, 2]))


def packed_vector(dimension: int) -> st.SearchStrategy[bytes]:
    """A vector in MessagePack, of about this dimension, with at most two odd numbers."""

    def build(odd: Sequence[tuple[int, bytes]], count: int) -> bytes:
        numbers = [pack(number + 0.5) for number in range(count)]
        for place, number in odd:
            if numbers:
                numbers[place % len(numbers)] = number
        return b"\xdc" + count.to_bytes(2, "big") + b"".join(numbers)

    counts = st.sampled_from([dimension] * 6 + [dimension - 1, dimension + 1, 0])
    raw = counts.map(lambda count: pack(b"".join(struct.pack("<f", number + 1) for number in range(count))))
    return st.builds(build, st.lists(st.tuples(st.integers(0, dimension), odd_packed), max_size=2), counts) | raw


def packed_records(dimension: int) -> st.SearchStrategy[bytes]:
    """Records in MessagePack, most of them nearly right."""
    data = packed_map(st.tuples(st.just(pack("float32")) | packed_names, packed_vector(dimension) | odd_packed), 3)
    metadata = packed_map(st.tuples(packed_names, usual_packed | usual_packed | odd_packed))
    good = packed_vector(dimension).map(lambda vector: b"\x81" + pack("float32") + vector)
    member = st.one_of(
        st.tuples(st.just(pack("data")), good | good | data | odd_packed),
        st.tuples(st.just(pack("key")), usual_packed | usual_packed | odd_packed),
        st.tuples(st.just(pack("metadata")), metadata | odd_packed),
        st.tuples(packed_names, odd_packed | metadata),
    )
    members = st.tuples(st.lists(member, max_size=2), good, st.lists(member, max_size=3)).map(
        lambda parts: [*parts[0], (pack("data"), parts[1]), *parts[2]]
    )
    return st.builds(bytes.__add__, packed_members(members), st.sampled_from([b""] * 16 + [b"\x00"]))


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Records in either encoding, some of them damaged by one edit."""
    dimension = draw(st.sampled_from([SHORT, SHORT, LONG]))
    value = draw(json_records(dimension) | packed_records(dimension))
    edit = draw(st.sampled_from(["none"] * 12 + ["set", "cut", "end", "insert"]))
    if edit == "none" or not value:
        return value
    place = draw(st.integers(0, len(value) - 1))
    if edit == "end":
        return value[:place]
    if edit == "cut":
        return value[:place] + value[place + draw(st.integers(1, 4)) :]
    new = draw(st.binary(min_size=1, max_size=1) | odd_json | broken_json | odd_packed | broken_packed)
    return value[:place] + new + value[place + (edit == "set") :]


@given(records(), st.sampled_from([b"k", None, b"\xff", b"\0\0\0\0\7k", b""]))
@example(b'{"data":{"float32":[1,2,3]},"metadata":{"n":1,"t":"\xe9"}}', b"k")
@example(b'{"key":7,"key":"a","data":5,"data":{"float32":[],"float32":[1,2,3]},"metadata":{"a":1,"a":"x"}}', b"k")
@example(b'{"x":"\xff","\\ud800":"\\ud800","data":{"float32":[1,2,3],"y":["\\udc00","\xff"]}}', b"k")
@example(b"\x83\x01\x02\xa4data\x82\x91\x01\x01\xa7float32\x93\x01\x02\x03\xa8metadata\x81\x01\xa1x", b"k")
@example(b'\x00\x00\x00\x00\x07{"data":{"float32":[0.5,1.5,2.5]}}\x00', b"k")  # Avro that begins as JSON does
@example(b'\x00\x00\x00\x00\x07{"data":{"float32":[0.5,1.5,2.5]}}x', b"k")
@example(b"\x00\x00\x00\x00\x07 [1]", b"k")
@example(b'\x00\x00\x00\x00\x07"a"', b"k")
@example(b"\x00\x00\x00\x00\x07[1", b"k")
def test_a_record_means_the_same_to_the_worker_and_to_a_slow_reader_of_the_rules(
    value: bytes, kafka_key: bytes | None
) -> None:
    check(value, kafka_key)


@pytest.mark.parametrize("dimension", [SHORT, LONG])
@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize(
    "other", [b"7", b"null", b'"?"', b"[1]", b'["x"]', b'[{"float32":[1]}]', b'"\xff"', b'"\\ud83d"', b"[1e999]", b"{}"]
)
def test_a_vector_that_is_there_twice_counts_last_at_every_dimension(other: bytes, where: str, dimension: int) -> None:
    numbers = b"[%s]" % b",".join([b"1.5"] * dimension)
    first, second = (other, numbers) if where == "before" else (numbers, other)
    for record in (
        b'{"data":{"float32":%s,"float32":%s}}' % (first, second),
        b'{"data":{"float32":%s},"data":{"float32":%s}}' % (first, second),
        b'{"data":%s,"data":{"float32":%s}}' % (first, second),
    ):
        check(record)
    good = by_worker(b'{"data":{"float32":%s,"float32":%s}}' % (first, second), b"k", dimension, stringify=False)
    assert (where == "before") == isinstance(good, slow_record.Expected)


def test_a_record_too_long_to_be_decoded_at_once_means_the_same() -> None:
    padding = b'"x":"%s"' % (b"y" * 200_000)
    for rest in (
        b'"key":"a","data":{"float32":[1,2.5,3]},"metadata":{"a":"b","c":["d"],"n":"1"}',
        b'"key":"a","data":{"float32":[1,2.5,3]},"metadata":{"a":1,"c":[true,null,1.5],"n":null}',
        b'"key":"a","data":{"float32":"AACAPwAAAEAAAEBA"}',
        b'"key":"a","data":{"float32":[1,2.5,3e38]},"metadata":null',
        b'"key":"a","data":{"float32":[%s]}' % b",".join([b"0.25"] * LONG),
        b'"key":"a","data":{"float32":[1,2.5,1e999]}',
        b'"key":"a","data":{"float32":[0,0,0]}',
    ):
        check(b"{" + padding + b"," + rest + b"}")
        check(b"{" + rest + b"," + padding + b"}")
