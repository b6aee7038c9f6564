"""What a schema of Avro may be and may add to a body."""

import json
from typing import Any, Final

import pytest

from tests.support.registry import by_id
from worker.errors import RecordError
from worker.records.formats.framing import Framed
from worker.registry.avro import AvroReader
from worker.registry.bounds import MOST_ADDED, MOST_NAME, parsed_json
from worker.registry.client import SchemaText, UnusableSchema

LONG: Final = "n" * MOST_NAME


def read(items: Any, count: int, item: bytes) -> bytes:
    """Return what is read of an array of so many equal items."""
    schema = {"type": "array", "items": items}
    number = count << 1
    announced = bytes([number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14])
    body = announced + item * count + b"\0"
    return AvroReader(SchemaText("AVRO", json.dumps(schema))).plain(Framed(by_id(1), body))


@pytest.mark.parametrize(
    ("items", "item"),
    [
        ({"type": "enum", "name": "E", "symbols": [LONG]}, b"\0"),
        ({"type": "record", "name": "E", "fields": [{"name": LONG, "type": "null"}]}, b""),
        ({"type": "bytes", "logicalType": "decimal", "precision": 1_000, "scale": 1_000}, b"\2\0"),
    ],
)
def test_names_symbols_and_decimals_may_add_so_many_bytes_and_no_more(items: Any, item: bytes) -> None:
    few = MOST_ADDED // MOST_NAME
    assert len(read(items, few, item)) < 2 * MOST_ADDED
    with pytest.raises(RecordError, match=f"it is more than {MOST_ADDED} bytes longer"):
        read(items, few + 1, item)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "fixed", "name": f"{LONG}n", "size": 1},
        {"type": "fixed", "name": "F", "namespace": f"{LONG}n", "size": 1},
        {"type": "fixed", "name": "F", "aliases": ["G", f"{LONG}n"], "size": 1},
        {"type": "enum", "name": "E", "symbols": ["A", f"{LONG}n"]},
        {"type": "record", "name": "R", "fields": [{"name": f"{LONG}n", "type": "int"}]},
    ],
)
def test_a_name_that_is_longer_than_its_bound_makes_a_schema_unusable(schema: Any) -> None:
    with pytest.raises(UnusableSchema, match=f"a name of {MOST_NAME + 1} characters"):
        AvroReader(SchemaText("AVRO", json.dumps(schema)))


@pytest.mark.parametrize(
    "text", ['"int"', "[]", '{"symbols":5,"aliases":{},"name":[]}', '{"name":5,"symbols":[5,null]}']
)
def test_json_that_is_no_schema_is_left_to_what_parses_schemas(text: str) -> None:
    assert parsed_json(text) == json.loads(text)
