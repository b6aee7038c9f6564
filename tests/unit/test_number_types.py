"""The type that bytes most likely have, of vectors as models make them."""

from typing import Any, Final, get_args

import numpy as np
import pytest

from worker.records.choices import VectorBytes
from worker.records.formats.vector_bytes import dtype_of
from worker.records.number_types import are_numbers, raw_of, type_of_numbers

COUNT: Final = 768
TYPES: Final[tuple[VectorBytes, ...]] = get_args(VectorBytes)


def vectors() -> dict[str, Any]:
    """Return vectors of float64, by what they are like."""
    random = np.random.default_rng(1)
    normal = random.standard_normal(COUNT)
    sparse = np.where(random.random(COUNT) < 0.6, 0.0, np.abs(normal))
    return {
        "of length 1": normal / np.linalg.norm(normal),
        "of numbers near 1": normal,
        "of large numbers": 20 * normal,
        "with few digits": np.round(normal, 4),
        "of quarters": np.round(4 * normal) / 4,
        "with many zeros": sparse,
        "made of float32": normal.astype("<f4").astype("<f8"),
        "made of float16": (normal / 10).astype("<f2").astype("<f8"),
        "made of bfloat16": (normal.astype("<f4").view("<u4") & 0xFFFF0000).view("<f4").astype("<f8"),
    }


KINDS: Final = vectors()
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize("name", TYPES)
def test_the_type_of_a_vector_is_found_by_its_numbers(name: VectorBytes, kind: str) -> None:
    data = KINDS[kind].astype(dtype_of(name)).tobytes()
    assert type_of_numbers(data, COUNT) == name
    assert are_numbers(data, name)


@every_kind
@pytest.mark.parametrize("name", ["float32-le", "float32-be"])
def test_float32_of_another_model_are_no_other_type(name: VectorBytes, kind: str) -> None:
    data = KINDS[kind].astype(dtype_of(name)).tobytes()
    for count in (COUNT // 2, 2 * COUNT, COUNT + 1, COUNT // 4, 8 * COUNT):
        assert type_of_numbers(data, count) is None


def test_what_is_no_vector_has_no_type() -> None:
    for data in (np.random.default_rng(2).bytes(8 * COUNT), bytes(8 * COUNT), b"text" * 2 * COUNT, b""):
        for count in (COUNT, 2 * COUNT, 4 * COUNT):
            assert type_of_numbers(data, count) is None


@pytest.mark.parametrize("name", ["float32-le", "float32-be", "float16-le"])
def test_the_bytes_as_they_came_are_made_of_those_that_were_read(name: VectorBytes) -> None:
    data = KINDS["of length 1"].astype(dtype_of(name)).tobytes()
    assert raw_of(np.frombuffer(data, dtype_of(name)).astype("<f4").tobytes(), name) == data
