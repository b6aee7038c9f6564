"""Lists of floats as finished MessagePack, copied as a whole: no Python object is made of each number."""

from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

_LIST_OF_32_BITS: Final = b"\xdd"


class Packed(NamedTuple):
    """How numbers of one size are written little-endian, and in MessagePack: big-endian, behind a byte that says what each is."""

    plain: "np.dtype[Any]"
    tagged: "np.dtype[Any]"
    tag: int

    def items(self, numbers: Numbers) -> bytes:
        """Return the numbers as items of a list."""
        written = np.empty(len(numbers), self.tagged)
        written["tag"] = self.tag
        written["number"] = numbers
        return written.tobytes()


SINGLE: Final = Packed(np.dtype("<f4"), np.dtype([("tag", "u1"), ("number", ">f4")]), 0xCA)
DOUBLE: Final = Packed(np.dtype("<f8"), np.dtype([("tag", "u1"), ("number", ">f8")]), 0xCB)


def as_list(items: bytes, count: int) -> msgspec.Raw:
    """Return so many items as a list."""
    return msgspec.Raw(_LIST_OF_32_BITS + count.to_bytes(4, "big") + items)
