"""Records are decoded at once, and step by step where they are long or not decodable so."""

import msgspec
import pytest

from worker.records.formats.at_once import TwoWayReader, record_type
from worker.records.formats.contract import UnreadNumbers
from worker.records.formats.json import JsonFields

VALUE = b'{"key":"a","data":{"float32":[1,2]},"metadata":{"t":"x"}}'


def reader(most_at_once: int) -> TwoWayReader:
    return TwoWayReader(msgspec.json.Decoder(record_type("strict")).decode, most_at_once, JsonFields("strict"))


def test_a_record_that_is_decoded_at_once_is_read_whole() -> None:
    record = reader(len(VALUE)).read(None, VALUE, ())
    assert (record.key, record.vector, record.metadata) == ("a", [1.0, 2.0], {"t": "x"})


@pytest.mark.parametrize(
    ("value", "most"),
    [
        pytest.param(VALUE, len(VALUE) - 1, id="longer than what is decoded at once"),
        pytest.param(VALUE.replace(b'"key"', b'"x":"\\ud800","key"'), 1000, id="not decodable at once"),
    ],
)
def test_any_other_record_is_read_by_field(value: bytes, most: int) -> None:
    record = reader(most).read(None, value, ())
    assert isinstance(record.vector, UnreadNumbers)
    assert (record.key, record.vector.read()) == ("a", [1.0, 2.0])
