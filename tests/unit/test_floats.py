"""Long lists of numbers are read apart, and only where that reads what the other decoder would."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from worker.records.floats import WORTH_ITS_CALLS, with_numbers_apart
from worker.records.formats.at_once import StrictRecord

pytest.importorskip("simdjson")
decode = msgspec.json.Decoder(StrictRecord).decode
apart = with_numbers_apart(decode, WORTH_ITS_CALLS)


def test_a_list_of_numbers_becomes_an_array_of_the_same_values() -> None:
    record = apart(b'{"metadata":{"t":"]"},"data":{"float32": [1, 2.5, -3e-7]},"key":"a"}')
    numbers: Any = record.data.float32
    assert isinstance(numbers, np.ndarray)
    assert (record.key, record.metadata, numbers.tolist()) == ("a", {"t": "]"}, [1.0, 2.5, -3e-7])


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"data": {"float32": "AACAPw=="}}, id="base64"),
        pytest.param({"x": {"float32": [7]}, "data": {"float32": [1.5]}}, id="the name in what is ignored"),
        pytest.param({"data": {"float32": []}}, id="an empty list"),
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_the_other_decoder(value: object) -> None:
    body = json.dumps(value).encode()
    assert np.array_equal(apart(body).data.float32, decode(body).data.float32)


def test_short_vectors_are_left_to_the_other_decoder() -> None:
    assert with_numbers_apart(decode, WORTH_ITS_CALLS - 1) is decode
