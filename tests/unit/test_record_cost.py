"""What reading one record costs is bounded by its bytes: a member that is held for longer is expelled from its group."""

import time
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import pytest

from tests.support.app import TOPIC, settings
from tests.unit import hostile_records
from worker.app.routers import router_of
from worker.app.several import cutter_of, read_each
from worker.errors import Reason, RecordError
from worker.records.choices import MetadataValues
from worker.records.decode import Decoder, Put
from worker.records.formats.shape import MOST_METADATA, shape_of
from worker.records.several import MOST_RECORDS
from worker.records.target import Target
from worker.settings.tables import Route

SECONDS: Final = 10.0  # of CPU; the promise is one, and this machine may be slow and busy
MEMORY: Final = 400e6  # bytes, for one megabyte of a record; a string of one byte becomes an object of many

SETTINGS: Final[tuple[tuple[int, MetadataValues], ...]] = ((3, "stringify"), (4096, "strict"))
DECODERS: Final = {
    (dimension, values): Decoder(
        Target("docs", dimension, "euclidean", frozenset({"a"})), max_fragment_bytes=8 << 20, metadata_values=values
    )
    for dimension, values in SETTINGS
}


def cost_of(decoder: Decoder, value: bytes) -> float:
    """Decode a record, which may well be bad, and return the CPU seconds that it took."""
    refused = None
    began = time.process_time()
    try:
        decoder.decode(b"k", value, ())
    except RecordError as error:
        refused = error
    cost = time.process_time() - began
    assert refused is None or (refused.reason is not Reason.INTERNAL_ERROR and len(refused.message) < 1000), refused
    return cost


@pytest.mark.parametrize("name", hostile_records.RECORDS)
def test_no_record_of_a_megabyte_costs_more_than_seconds(name: str) -> None:
    value = hostile_records.RECORDS[name]()
    assert hostile_records.MEGABYTE / 2 < len(value) <= hostile_records.MEGABYTE
    costs = {settings: cost_of(decoder, value) for settings, decoder in DECODERS.items()}
    assert max(costs.values()) < SECONDS, costs


PIECE: Final = b'{"key":"a","data":{"float32":[1,2,3]}}'
HEADERS: Final = tuple((f"{number:x}", b"") for number in range(100_000))  # half a megabyte
LONG: Final = "é".encode() * 300_000
SHORT: Final = b'{"v":[1,2,3]}'
AROUND: Final[dict[str, tuple[bytes, bytes, Any, dict[str, Any]]]] = {  # record, Kafka key, headers, settings
    "key": (b"{}", b"k", HEADERS, {"fields": {"key": "$header.x"}}),
    "metadata": (PIECE, b"k", HEADERS, {"fields": {"metadata": {"m": "$header.x"}}}),
    "long metadata": (SHORT, b"k", [("x", LONG)], {"fields": {"vector": "v", "metadata": {"m": "$header.x"}}}),
    "long key": (SHORT, b"k", [("x", LONG)], {"fields": {"vector": "v", "key": "{$header.x}/{key}"}}),
    "delete": (PIECE, b"k", HEADERS, {"fields": {"delete": "$header.x"}}),
    "attribute": (b"{}", b"k", HEADERS, {"envelope": "cloudevents", "fields": {"key": "$attribute.x"}}),
    "structured": (
        b'{"specversion":"1.0","x":"a","data":%s}' % PIECE, b"k", HEADERS,
        {"envelope": "cloudevents", "fields": {"key": "$attribute.x"}},
    ),
    "Kafka key": (SHORT, LONG, (), {"fields": {"vector": "v"}}),
    "Kafka key of JSON": (
        b'{"key":"a","v":[1,2,3]}', b'"%s"' % (b"\\n" * 300_000), (), {"key_format": "json", "fields": {"vector": "v"}},
    ),
    "Kafka key in an envelope": (b'{"payload":%s}' % PIECE, b'{"a":1%s}' % (b',"b":1' * 80_000), (), {"envelope": "connect"}),
    "Kafka key of deletes": (b'{"op":"d","before":null}', b'{"a":1%s}' % (b',"b":1' * 80_000), (), {"envelope": "debezium", "fields": {"key": "c"}}),
}  # fmt: skip


class Sent(NamedTuple):
    """A message."""

    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes | None]]
    offset: int = 0
    timestamp: int = 0


def seconds_of(message: Sent, route: Route) -> float:
    """Read a message of a topic whose messages have several records, and return the CPU seconds that it took."""
    changed = settings(routes=(route,))
    router = router_of(route, changed)
    router.add(Target("docs", 3, "euclidean"))
    began = time.process_time()
    read = sum(1 for _ in read_each(router, cutter_of(route, changed), message))
    assert read > 5_000
    return time.process_time() - began


@pytest.mark.parametrize("name", AROUND)
def test_records_of_one_message_do_not_each_cost_what_is_around_it(name: str) -> None:
    piece, key, headers, records = AROUND[name]
    value = b"[%s]" % hostile_records.repeated(piece, b",", min(400_000, MOST_RECORDS * len(piece)))
    message = Sent(key, value, headers)
    assert seconds_of(message, Route(topic=TOPIC, index="docs", records={"many": "split", **records})) < SECONDS


def test_a_header_that_chooses_the_index_of_many_records_is_searched_for_once() -> None:
    route = Route(topic=TOPIC, index=(), index_by="header:x", indexes={"default": "docs"}, records={"many": "split"})
    value = b"[%s]" % hostile_records.repeated(PIECE, b",", 400_000)
    assert seconds_of(Sent(b"k", value, HEADERS), route) < SECONDS


class Looked(tuple[tuple[str, bytes | None], ...]):
    """Headers that count how often they are looked through."""

    looks = 0

    def __reversed__(self) -> Iterator[tuple[str, bytes | None]]:
        Looked.looks += 1
        return iter(self[::-1])


def test_a_record_with_many_paths_to_its_headers_looks_through_them_once() -> None:
    shape = shape_of("", "data.float32", {f"m{number}": f"$header.{number:x}" for number in range(MOST_METADATA)}, "")
    made = Decoder(
        Target("docs", 3, "euclidean", frozenset(f"m{number}" for number in range(MOST_METADATA))),
        max_fragment_bytes=8 << 20,
        shape=shape,
    )
    found = made.decode(b"k", PIECE, Looked((*HEADERS, ("0", b"last"))))
    assert isinstance(found, Put)
    assert b'"m0":"last","m1":"",' in found.fragment
    assert Looked.looks <= 1


@pytest.mark.parametrize(
    "name",
    [
        "MessagePack a list of empty strings",
        "MessagePack a map that says it is long",
        "JSON many names",
        "JSON backslashes",
    ],
)
def test_no_record_of_a_megabyte_takes_memory_beyond_measure(name: str) -> None:
    value = hostile_records.RECORDS[name]()
    tracemalloc.start()
    try:
        cost_of(DECODERS[3, "stringify"], value)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
