"""What reading one record costs is bounded by its bytes: a member that is held for longer is expelled from its group."""

import time
import tracemalloc
from typing import Final

import pytest

from tests.unit import hostile_records
from worker.errors import Reason, RecordError
from worker.records.choices import MetadataValues
from worker.records.decode import Decoder, Target

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
        decoder.decode(value, b"k")
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
