"""The numbers that bytes hold, as `records.vector_bytes` says: nothing is guessed from their length."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np

from worker.errors import Reason, RecordError
from worker.records.choices import VectorBytes
from worker.records.formats.contract import Vector

Unpack: TypeAlias = Callable[[bytes, str], Vector]
"""Returns the vector that bytes hold. The second argument is their place, for a message."""

_DTYPES: Final[dict[VectorBytes, str]] = {
    "float32-be": ">f4",
    "float64-le": "<f8",
    "float64-be": ">f8",
    "float16-le": "<f2",
}


def dtype_of(vector_bytes: VectorBytes) -> np.dtype[Any]:
    """Return numpy's type of such numbers."""
    return np.dtype(_DTYPES.get(vector_bytes, "<f4"))


def width_of(vector_bytes: VectorBytes) -> int:
    """Return how many bytes such a number has."""
    return dtype_of(vector_bytes).itemsize


def unpacker(vector_bytes: VectorBytes) -> Unpack:
    """Return what unpacks such bytes. Little-endian float32 is what the rest of the worker reads, and stays as it is."""
    if vector_bytes == "float32-le":
        return lambda data, _where: data
    dtype = dtype_of(vector_bytes)

    def unpack(data: bytes, where: str) -> Vector:
        if len(data) % dtype.itemsize:
            raise RecordError(
                Reason.MALFORMED,
                f"{where} has {len(data)} bytes, which are no whole numbers of {dtype.itemsize} bytes each "
                f'(records.vector_bytes = "{vector_bytes}")',
            )
        numbers = np.frombuffer(data, dtype)
        return numbers.astype("<f8") if dtype.itemsize == 8 else numbers.astype("<f4").tobytes()

    return unpack
