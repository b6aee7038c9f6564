"""The JSON Schema and the decoder agree on what a record is."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.unit.samples import TARGET
from worker.errors import RecordError
from worker.records.decode import Decoder, Put
from worker.records.schema import record_schema

DATA = {"float32": [1, 2.5, -3]}


def validator() -> Draft202012Validator:
    return Draft202012Validator(record_schema())


def is_taken(record: Any) -> bool:
    try:
        decoded = Decoder(TARGET, max_fragment_bytes=1 << 20).decode(b"kafka-key", json.dumps(record).encode(), ())
    except RecordError:
        return False
    return isinstance(decoded, Put)


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(record_schema())


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param({"key": "a", "data": DATA}, True, id="key and data"),
        pytest.param({"data": DATA}, True, id="no key"),
        pytest.param({"key": None, "data": DATA}, True, id="null key"),
        pytest.param({"data": {"float32": "AACAPwAAgD8AAIA/"}}, True, id="base64"),
        pytest.param({"data": DATA, "metadata": {"a": "b", "c": ["d", "e"], "f": []}}, True, id="metadata"),
        pytest.param({"data": DATA, "metadata": None}, True, id="null metadata"),
        pytest.param({"data": DATA, "metadata": {}}, True, id="empty metadata"),
        pytest.param({"data": {**DATA, "x": 1}, "later": {"x": 1}}, True, id="unknown fields"),
        pytest.param({"key": "é" * 1024, "data": DATA}, True, id="the longest key"),
        pytest.param({"key": "a" * 1025, "data": DATA}, False, id="key too long"),
        pytest.param({"key": "", "data": DATA}, False, id="empty key"),
        pytest.param({"key": 5, "data": DATA}, False, id="key is a number"),
        pytest.param({"key": "a"}, False, id="no data"),
        pytest.param({"data": {}}, False, id="no vector"),
        pytest.param({"data": None}, False, id="null data"),
        pytest.param({"data": [1, 2, 3]}, False, id="data is a list"),
        pytest.param({"data": {"float32": []}}, False, id="empty vector"),
        pytest.param({"data": {"float32": [1, "2", 3]}}, False, id="a string in the vector"),
        pytest.param({"data": {"float32": [1, True, 3]}}, False, id="a boolean in the vector"),
        pytest.param({"data": {"float32": None}}, False, id="null vector"),
        pytest.param({"data": DATA, "metadata": {"a": 1}}, False, id="metadata has a number"),
        pytest.param({"data": DATA, "metadata": {"a": [1]}}, False, id="metadata has a number in a list"),
        pytest.param({"data": DATA, "metadata": {"a": None}}, False, id="metadata has a null"),
        pytest.param({"data": DATA, "metadata": ["a"]}, False, id="metadata is a list"),
        pytest.param([], False, id="a list"),
        pytest.param("x", False, id="a string"),
    ],
)
def test_the_schema_and_the_decoder_judge_alike(record: Any, expected: bool) -> None:
    assert (validator().is_valid(record), is_taken(record)) == (expected, expected)
