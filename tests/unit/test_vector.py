"""A vector in each of its forms becomes the same text, and is refused for the same reasons."""

import struct
from collections.abc import Callable

import numpy as np
import pytest

from worker.errors import Reason, RecordError
from worker.records.formats.contract import UnreadNumbers, Vector
from worker.records.target import Target
from worker.records.vector import Vectors, beyond_float32

FORMS: dict[str, Callable[[list[float]], Vector]] = {
    "list": lambda numbers: numbers,
    "bytes": lambda numbers: struct.pack(f"<{len(numbers)}f", *numbers),
    "array": lambda numbers: np.array(numbers, np.float64),
    "unread": lambda numbers: UnreadNumbers(len(numbers), lambda: numbers),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
in_float64 = pytest.mark.parametrize("form", [FORMS[name] for name in ("list", "array", "unread")])


def refusal(vector: Vector) -> RecordError:
    with pytest.raises(RecordError) as raised:
        Vectors(Target("docs", 3, "cosine")).json(vector)
    return raised.value


@every_form
def test_every_form_is_rounded_to_float32_and_written_alike(form: Callable[[list[float]], Vector]) -> None:
    assert Vectors(Target("docs", 3, "cosine")).json(form([0.1, -2.0, 0.0])) == b"[0.1,-2.0,0.0]"


@every_form
@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ([1.0, 2.0], Reason.DIMENSION),
        ([0.0, -0.0, 0.0], Reason.ZERO_VECTOR),
        ([1.0, float("nan"), 2.0], Reason.NOT_FINITE),
        ([1.0, float("inf"), 2.0], Reason.NOT_FINITE),
    ],
)
def test_every_form_is_refused_alike(
    form: Callable[[list[float]], Vector], numbers: list[float], reason: Reason
) -> None:
    assert refusal(form(numbers)).reason is reason


@in_float64
def test_a_number_beyond_float32_is_named_with_its_place(form: Callable[[list[float]], Vector]) -> None:
    error = refusal(form([1.0, -1e300, 2.0]))
    assert (error.reason, "number 1 of data.float32 is -1e+300, beyond" in error.message) == (Reason.NOT_FINITE, True)
    assert error.message == beyond_float32("number 1 of data.float32 is -1e+300,").message


@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("count", [8, 1536])
def test_float32_that_was_read_as_float64_names_the_setting_that_reads_it(order: str, count: int) -> None:
    numbers = np.random.default_rng(1).normal(size=count)
    sign = {"le": "<", "be": ">"}[order]
    read = np.frombuffer(numbers.astype(f"{sign}f4").tobytes(), f"{sign}f8").astype("<f8")
    vectors = Vectors(Target("docs", count, "cosine"), vector_bytes=f"float64-{order}")  # type: ignore[arg-type]  # it is one of them
    with pytest.raises(RecordError) as raised:
        vectors.json(read)
    assert f'records.vector_bytes = "float32-{order}" reads them' in raised.value.message
    of_another = np.random.default_rng(1).normal(size=count - 1)
    with pytest.raises(RecordError, match="most likely of another model"):
        vectors.json(of_another)


def test_an_array_longer_than_one_step_of_its_conversion_is_converted_whole() -> None:
    numbers = np.arange(1, 1202, dtype=np.float64)
    text = Vectors(Target("docs", 1201, "cosine")).json(numbers)
    assert text == b"[" + b",".join(b"%d.0" % number for number in range(1, 1202)) + b"]"


def test_all_zeros_are_written_where_the_index_does_not_measure_an_angle() -> None:
    assert Vectors(Target("docs", 2, "euclidean")).json([0.0, 0.0]) == b"[0.0,0.0]"
