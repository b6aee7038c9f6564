"""Records read field by field, in both encodings: what is read at once is read late here, to the same end."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from worker.errors import Reason, RecordError
from worker.records.formats.contract import UnreadNumbers
from worker.records.formats.fields import FieldReader
from worker.records.formats.json import JsonFields
from worker.records.formats.msgpack import MsgpackFields
from worker.records.formats.values import Kind

Encode = Callable[[Any], bytes]
ENCODINGS: list[tuple[type[FieldReader], Encode]] = [
    (JsonFields, msgspec.json.encode),
    (MsgpackFields, msgspec.msgpack.encode),
]
both = pytest.mark.parametrize(("fields", "encode"), ENCODINGS, ids=["JSON", "MessagePack"])


@both
def test_numbers_and_metadata_are_returned_unread(fields: type[FieldReader], encode: Encode) -> None:
    record = fields("strict").record(
        encode({"key": "a", "data": {"float32": [1, 2.5]}, "metadata": {"t": "x", "l": ["y"]}, "more": [{}]})
    )
    assert (record.key, callable(record.metadata)) == ("a", True)
    assert isinstance(record.vector, UnreadNumbers)
    assert (record.vector.length, record.vector.read()) == (2, [1.0, 2.5])
    assert callable(record.metadata)
    assert record.metadata() == {"t": "x", "l": ["y"]}


@both
def test_bad_metadata_is_no_fault_until_it_is_read(fields: type[FieldReader], encode: Encode) -> None:
    record = fields("strict").record(encode({"data": {"float32": [1]}, "metadata": {"n": 1}}))
    assert callable(record.metadata)
    with pytest.raises(RecordError, match="metadata 'n' is a number") as raised:
        record.metadata()
    assert raised.value.reason is Reason.METADATA


@both
def test_under_stringify_numbers_become_text_and_nulls_go(fields: type[FieldReader], encode: Encode) -> None:
    metadata = {"n": 1, "f": [0.5, True, None], "gone": None}
    record = fields("stringify").record(encode({"data": {"float32": [1]}, "metadata": metadata}))
    assert callable(record.metadata)
    assert record.metadata() == {"n": "1", "f": ["0.5", "true"]}


@both
@pytest.mark.parametrize(
    ("value", "kind"),
    [(1, Kind.NUMBER), (-1.5, Kind.NUMBER), ("a", Kind.STRING), ([], Kind.LIST), ({}, Kind.MAP), (None, Kind.NULL), (False, Kind.BOOLEAN)],
)  # fmt: skip
def test_a_value_is_known_by_its_first_byte(
    fields: type[FieldReader], encode: Encode, value: object, kind: Kind
) -> None:
    assert fields("strict").kind(msgspec.Raw(encode(value))) is kind
    assert fields("strict").kind(msgspec.Raw(b"")) is Kind.NOTHING


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (
            ["key", "a", "data", {"float32": [1.0]}, *["x", 1] * 9],
            "list",
        ),  # as long as 12 names and values with its length
        ([0.5] * 22, "list"),
        ([], "list"),
        ("key", "string"),
        (7, "number"),
        (None, "null"),
    ],
)
def test_a_value_in_messagepack_that_is_no_map_is_called_what_it_is(value: object, kind: str) -> None:
    with pytest.raises(RecordError, match=f"it is a {kind}; allowed is a map") as raised:
        MsgpackFields("strict").record(msgspec.msgpack.encode(value))
    assert raised.value.reason is Reason.MALFORMED


def test_six_bytes_ff_in_messagepack_are_not_reported_as_half_of_a_surrogate_pair() -> None:
    value = b"\x81\xa3key\xa6" + b"\xff" * 6
    with pytest.raises(RecordError, match=r"a string that is not UTF-8; in key"):
        MsgpackFields("strict").record(value)
