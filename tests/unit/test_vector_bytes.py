"""What bytes hold is what the setting says, and never what their length suggests."""

import base64
import json
import struct
from typing import Final, get_args

import msgspec
import pytest

from worker.errors import Reason, RecordError
from worker.records.choices import VectorBytes
from worker.records.decode import Decoder, Put
from worker.records.formats.vector_bytes import unpacker
from worker.records.target import Target

NUMBERS: Final = (1.0, -2.5, 0.375)
FORMS: Final[dict[VectorBytes, str]] = {
    "float32-le": "<3f",
    "float32-be": ">3f",
    "float64-le": "<3d",
    "float64-be": ">3d",
    "float16-le": "<3e",
}


def decoder(vector_bytes: VectorBytes) -> Decoder:
    return Decoder(Target("docs", 3, "cosine"), max_fragment_bytes=10_000, vector_bytes=vector_bytes)


@pytest.mark.parametrize("vector_bytes", get_args(VectorBytes))
def test_bytes_and_base64_are_read_as_the_setting_says(vector_bytes: VectorBytes) -> None:
    data = struct.pack(FORMS[vector_bytes], *NUMBERS)
    texts = (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode().rstrip("="))
    for value in (
        *(msgspec.json.encode({"key": "a", "data": {"float32": text}}) for text in texts),
        *(msgspec.msgpack.encode({"key": "a", "data": {"float32": vector}}) for vector in (data, *texts)),
    ):
        found = decoder(vector_bytes).decode(None, value, ())
        assert isinstance(found, Put)
        assert json.loads(found.fragment)["data"]["float32"] == list(NUMBERS)


@pytest.mark.parametrize("vector_bytes", get_args(VectorBytes))
def test_numbers_that_are_written_out_are_the_same_under_every_setting(vector_bytes: VectorBytes) -> None:
    for vector in (list(NUMBERS), str(list(NUMBERS))):
        found = decoder(vector_bytes).decode(b"a", msgspec.json.encode({"data": {"float32": vector}}), ())
        assert isinstance(found, Put)
        assert json.loads(found.fragment)["data"]["float32"] == list(NUMBERS)


@pytest.mark.parametrize(
    ("vector_bytes", "size"), [("float32-be", 4), ("float64-le", 8), ("float64-be", 8), ("float16-le", 2)]
)
def test_bytes_that_are_no_whole_numbers_are_malformed(vector_bytes: VectorBytes, size: int) -> None:
    with pytest.raises(RecordError, match=rf"vec has {size + 1} bytes, .* {size} bytes each.*{vector_bytes}") as raised:
        unpacker(vector_bytes)(b"\0" * (size + 1), "vec")
    assert raised.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("vector_bytes", "number", "reason"),
    [
        ("float64-le", 1e300, Reason.NOT_FINITE),
        ("float64-be", float("nan"), Reason.NOT_FINITE),
        ("float32-be", float("inf"), Reason.NOT_FINITE),
        ("float16-le", float("-inf"), Reason.NOT_FINITE),
        ("float64-le", 0.0, Reason.ZERO_VECTOR),
    ],
)
def test_numbers_are_judged_as_ever(vector_bytes: VectorBytes, number: float, reason: Reason) -> None:
    data = struct.pack(FORMS[vector_bytes], number, 0, 0)
    with pytest.raises(RecordError) as raised:
        decoder(vector_bytes).decode(b"a", msgspec.msgpack.encode({"data": {"float32": data}}), ())
    assert raised.value.reason is reason
    with pytest.raises(RecordError) as raised:
        decoder(vector_bytes).decode(
            b"a", msgspec.msgpack.encode({"data": {"float32": data[: len(data) * 2 // 3]}}), ()
        )
    assert raised.value.reason is Reason.DIMENSION
