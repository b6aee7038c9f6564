"""Protobuf's message indexes, which say which message of a schema a body is. `ValueError` says what is wrong with them."""

from typing import Final

_MOST_INDEXES: Final = 64  # as deep as messages may be nested in a schema


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a zigzag number, and where it ends. IndexError where the data ends before."""
    found, shift = 0, 0
    while shift <= 28:  # 32 bits
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return (found >> 1) ^ -(found & 1), at
        shift += 7
    raise ValueError("its message indexes are no numbers of 32 bits")


def end_of_indexes(data: bytes) -> int:
    """Return where the indexes end with which a body begins. IndexError where it ends before."""
    if data[0] == 0:  # the usual case: the first message of the file
        return 1
    count, at = _varint(data, 0)
    if not 0 <= count <= _MOST_INDEXES:
        raise ValueError(f"it announces {count} message indexes; at most {_MOST_INDEXES} are read")
    for _ in range(count):
        _, at = _varint(data, at)
    return at


def read_indexes(data: bytes) -> list[int]:
    """Return the indexes: the place of a message in the file, then in the message around it."""
    count, at = _varint(data, 0)
    found = []
    for _ in range(count):
        index, at = _varint(data, at)
        found.append(index)
    return found or [0]
