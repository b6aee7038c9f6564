"""Of which type the numbers in bytes most likely are. Only for messages: what bytes hold is never guessed to read them.

The size alone does not say it: 1,536 float64 are as many bytes as 3,072 float32 of another model. So the numbers are looked at.
Read as a type that is not theirs, many numbers have a size that no embedding has: the lower half of a float64 is any float32, and
a small float32 in the upper half of a float64 is smaller than 1e-12.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from worker.records.choices import VectorBytes

OF_ANOTHER_MODEL: Final = "most likely of another model, or of another value of its option dimensions"


class _Type(NamedTuple):
    dtype: str
    least: float
    most: float


_TYPES: Final[dict[VectorBytes, _Type]] = {
    "float32-le": _Type("<f4", 1e-6, 1e4),
    "float32-be": _Type(">f4", 1e-6, 1e4),
    "float64-le": _Type("<f8", 1e-12, 1e12),
    "float64-be": _Type(">f8", 1e-12, 1e12),
    "float16-le": _Type("<f2", 1e-3, 1e2),
}
_HALF_AS_WIDE: Final[dict[VectorBytes, VectorBytes]] = {
    "float64-le": "float32-le",
    "float64-be": "float32-be",
    "float32-le": "float16-le",
}
_NEARLY_ALL: Final = 0.9


def type_of_numbers(data: bytes, count: int) -> VectorBytes | None:
    """Return the type of which bytes most likely are so many numbers, None where no choice of the settings is likely."""
    width = len(data) // count
    if len(data) != width * count:
        return None
    return next((name for name in _TYPES if _width(name) == width and are_numbers(data, name)), None)


def are_numbers(data: bytes, name: VectorBytes) -> bool:
    """Return whether nearly all numbers of a type in bytes have the size that those of embeddings have. Zeros do not count.

    Numbers that were made of narrower ones end with zeros, and then fit the narrower type too.
    """
    if not _fit(data, name):
        return False
    wider = next((wide for wide, half in _HALF_AS_WIDE.items() if half == name), None)
    if wider is not None and _fit(data, wider) and _end_with_zeros(data, wider):
        return False
    half = _HALF_AS_WIDE.get(name)
    return half is None or not _fit(data, half) or _end_with_zeros(data, name)


def raw_of(data: bytes, name: VectorBytes) -> bytes:
    """Return the bytes as they came of bytes that were read as a type and made little-endian float32."""
    if name == "float32-le":
        return data
    with np.errstate(all="ignore"):
        raw: bytes = _numbers(data, "float32-le").astype(_TYPES[name].dtype).tobytes()
    return raw


def _width(name: VectorBytes) -> int:
    return np.dtype(_TYPES[name].dtype).itemsize


def _numbers(data: bytes, name: VectorBytes) -> Any:
    width = _width(name)
    return np.frombuffer(data[: len(data) // width * width], _TYPES[name].dtype)


def _fit(data: bytes, name: VectorBytes) -> bool:
    with np.errstate(all="ignore"):
        sizes = np.abs(_numbers(data, name).astype(np.float64))
        sizes = sizes[sizes != 0]  # NaN is counted, and is in no range
        _, least, most = _TYPES[name]
        return len(sizes) > 0 and bool(np.count_nonzero((sizes >= least) & (sizes <= most)) >= _NEARLY_ALL * len(sizes))


def _end_with_zeros(data: bytes, name: VectorBytes) -> bool:
    """Return whether the lower half of each number has no bits."""
    dtype = np.dtype(_TYPES[name].dtype)
    halves = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], f"u{dtype.itemsize // 2}")
    is_big = _TYPES[name].dtype[0] == ">"
    return not halves[1 if is_big else 0 :: 2].any()
