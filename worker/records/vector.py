"""The numbers of a vector: checked against the index, rounded to float32, and written as JSON."""

import math
import struct
from collections.abc import Collection
from typing import Any, Final, TypeAlias

import numpy as np
import orjson

from worker.errors import Reason, RecordError
from worker.records.choices import VectorBytes
from worker.records.floats import Float64s
from worker.records.formats.contract import UnreadNumbers, Vector
from worker.records.formats.vector_bytes import dtype_of
from worker.records.number_types import OF_ANOTHER_MODEL, are_numbers, raw_of, type_of_numbers
from worker.records.target import LIMIT_SOURCE, Target

Float32s: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_FLOAT32_OVERFLOW: Final = 2.0**128 - 2.0**103  # the least number that rounds to infinity as float32
# Numpy releases the GIL to convert more elements than this. A thread that waits for the GIL starts its wait again each time
# that it is released, so doing that for each record would keep such a thread waiting.
_WITH_THE_GIL: Final = 500
_FLOAT32: Final = np.dtype("<f4")
_MOST_BYTE: Final = 255
_OF_NULL: Final = ord("n")  # as a byte it is found several times faster than as bytes


class Vectors:
    """Checks and writes the vectors of one index."""

    def __init__(self, target: Target, where: str = "data.float32", vector_bytes: VectorBytes = "float32-le") -> None:
        """`where` is the place of the vector in a record, `vector_bytes` what its bytes were read as, for messages."""
        self._where = where
        self._vector_bytes = vector_bytes
        self._index = target.index
        self._dimension = target.dimension
        self._is_cosine = target.distance_metric == "cosine"
        self._pack = struct.Struct(f"<{target.dimension}f").pack

    def json(self, vector: Vector) -> bytes:
        """Return the vector as a JSON list of float32's shortest text, checked for length, range and zero.

        Raises `RecordError`.
        """
        return self.json_and_bytes(vector)[0]

    def json_and_bytes(self, vector: Vector) -> tuple[bytes, bytes]:
        """Return the same, and the numbers as little-endian float32."""
        if type(vector) is list:
            array = np.frombuffer(packed := self._packed_numbers(vector), _FLOAT32)
        elif type(vector) is bytes:
            array = np.frombuffer(packed := self._packed_bytes(vector), _FLOAT32)
        elif isinstance(vector, UnreadNumbers):
            return self.json_and_bytes(self._read(vector))
        else:
            array = self._rounded(vector)  # type: ignore[arg-type]  # the branches leave nothing else
            packed = array.tobytes()
        text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
        if _OF_NULL in text:  # orjson writes NaN and the infinities as null
            raise _not_finite(vector, array, self._where)
        if self._is_cosine and not array[0] and not array.any():
            raise RecordError(
                Reason.ZERO_VECTOR,
                f"all {self._dimension} numbers are zero as float32, and the index measures cosine distance, which a zero "
                f"vector has none of ({LIMIT_SOURCE})",
            )
        return text, packed

    def _read(self, numbers: UnreadNumbers) -> list[float]:
        if numbers.length != self._dimension:
            raise self._wrong_dimension(numbers.length, self._of_other_count(numbers.length))
        return numbers.read()

    def _packed_numbers(self, numbers: list[float]) -> bytes:
        if len(numbers) != self._dimension:
            raise self._wrong_dimension(len(numbers), self._of_other_count(numbers))
        try:
            return self._pack(*numbers)
        except OverflowError:
            place, number = next((i, n) for i, n in enumerate(numbers) if abs(n) >= _FLOAT32_OVERFLOW)
            raise _too_large(place, number, self._where) from None

    def _packed_bytes(self, data: bytes) -> bytes:
        if len(data) == 4 * self._dimension:
            return data
        hint = self._of_other_bytes(data)
        if len(data) % 4:
            raise RecordError(
                Reason.MALFORMED,
                f"{self._where} has {len(data)} bytes, which are no whole float32s of 4 bytes each{hint}",
            )
        raise self._wrong_dimension(len(data) // 4, hint)

    def _of_other_bytes(self, data: bytes) -> str:
        """Return what bytes most likely are, which were read and are float32 now, "" if it is not known."""
        return self._of_raw(raw_of(data, self._vector_bytes))

    def _of_other_float64s(self, numbers: Float64s) -> str:
        """Return likewise of numbers that were float64 as bytes, "" where the settings do not say so."""
        if not self._vector_bytes.startswith("float64"):
            return ""
        return self._of_raw(numbers.astype(dtype_of(self._vector_bytes)).tobytes())

    def _of_raw(self, raw: bytes) -> str:
        if raw and (found := type_of_numbers(raw, self._dimension)) is not None:
            kind = found.partition("-")[0]
            advice = f'records.vector_bytes = "{found}" reads them'
            return f" (its {len(raw)} bytes would be as many {kind} as the index has dimensions; {advice})"
        if are_numbers(raw, self._vector_bytes):
            return f" ({OF_ANOTHER_MODEL})"
        other = {self._dimension: "int8", self._dimension // 8: "bits"}.get(len(raw), "")
        if not raw or not other:
            return ""
        return f" (its {len(raw)} bytes would be as many {other} as the index has dimensions; publish float32)"

    def _of_other_count(self, numbers: Collection[float] | int) -> str:
        """Return what a list of numbers, or so many of them, may be, "" if it is not known."""
        count = numbers if isinstance(numbers, int) else len(numbers)
        if count == 4 * self._dimension and not isinstance(numbers, int) and _are_bytes(numbers):
            return " (they may be the bytes of as many float32 as the index has dimensions; publish the numbers)"
        if count > self._dimension and count % self._dimension == 0:
            return f" ({OF_ANOTHER_MODEL}; or {count // self._dimension} vectors one after the other: publish one record for each)"
        return ""

    def _rounded(self, numbers: Float64s) -> Float32s:
        if len(numbers) != self._dimension:
            hint = self._of_other_count(numbers) or self._of_other_float64s(numbers)
            raise self._wrong_dimension(len(numbers), hint)
        array = np.empty(len(numbers), np.float32)
        with np.errstate(over="ignore"):
            for begin in range(0, len(numbers), _WITH_THE_GIL):
                array[begin : begin + _WITH_THE_GIL] = numbers[begin : begin + _WITH_THE_GIL]
        return array

    def _wrong_dimension(self, found: int, hint: str = "") -> RecordError:
        return RecordError(
            Reason.DIMENSION,
            f"{self._where} has {found} numbers, the index {self._index} has {self._dimension} dimensions{hint}",
        )


def _are_bytes(numbers: Collection[float]) -> bool:
    """Return whether numbers are whole and as bytes are, with a sign or without one."""
    array = np.array(numbers, np.float64)
    is_whole = bool((array == np.floor(array)).all())
    return (
        is_whole
        and float(array.max() - array.min()) <= _MOST_BYTE
        and array.min() >= -128
        and array.max() <= _MOST_BYTE
    )


def beyond_float32(found: str) -> RecordError:
    """Return the error of a number that is outside the range of float32; `found` says which number it is."""
    return RecordError(Reason.NOT_FINITE, f"{found} beyond the range of float32, about ±3.4e38 ({LIMIT_SOURCE})")


def _not_finite(vector: list[float] | bytes | Float64s, array: Float32s, where: str) -> RecordError:
    place = int(np.flatnonzero(~np.isfinite(array))[0])
    number = float(array[place] if isinstance(vector, bytes) else vector[place])
    if math.isfinite(number):
        return _too_large(place, number, where)
    return RecordError(
        Reason.NOT_FINITE,
        f"number {place} of {where} is {number}; allowed are finite float32 numbers ({LIMIT_SOURCE})",
    )


def _too_large(place: int, number: float, where: str) -> RecordError:
    return beyond_float32(f"number {place} of {where} is {number!r},")
