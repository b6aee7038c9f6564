"""Files with a record in each line, and what every reader of files yields."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from worker.errors import FatalError

MOST_LINE_BYTES: Final = 64 * 1024 * 1024
"""A longer line is no record: the largest body of PutVectors is smaller. It bounds the memory of one line."""
_CHUNK_BYTES: Final = 1 << 20


class Row(NamedTuple):
    """One record of a file: its number, from 1, and its value as JSON; None is a tombstone of `key`."""

    number: int
    value: bytes | None
    key: str | None = None


class Rows(NamedTuple):
    """The records of a file. `total` is None where it is not known. `unit` names what is counted: "line" or "row"."""

    total: int | None
    unit: str
    read: Callable[[int], Iterator[Row]]
    """Yields the rows from a number on."""


def json_lines(path: Path | None, stdin: IO[bytes]) -> Rows:
    """Return the records of a file with a JSON value in each line, also gzip (`.gz`); of stdin where there is no path.

    Empty lines are passed over, and counted as lines.
    """
    total = None if path is None or path.suffix == ".gz" or not path.is_file() else _count_lines(path)

    def read(first: int) -> Iterator[Row]:
        for number, line in _lines(path, stdin):
            if number >= first and line.strip():
                yield Row(number, line.rstrip(b"\r\n"))

    return Rows(total, "line", read)


def tombstones(path: Path) -> Rows:
    """Return a null value for each line of a file of keys."""

    def read(first: int) -> Iterator[Row]:
        for number, line in _lines(path, None):
            if number >= first and line.strip():
                try:
                    yield Row(number, None, line.rstrip(b"\r\n").decode())
                except UnicodeDecodeError:
                    raise FatalError(f"line {number} of {path} is not UTF-8") from None

    return Rows(_count_lines(path), "line", read)


def _lines(path: Path | None, stdin: IO[bytes] | None) -> Iterator[tuple[int, bytes]]:
    if path is None:
        assert stdin is not None  # noqa: S101 - one of the two is given; the type checker wants it said
        yield from _bounded(stdin, "standard input")
        return
    opened: Any = gzip.open if path.suffix == ".gz" else Path.open
    with opened(path, "rb") as file:
        yield from _bounded(file, str(path))


def _bounded(file: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if len(line) > MOST_LINE_BYTES:
            raise FatalError(f"line {number} of {name} is longer than {MOST_LINE_BYTES} bytes: is it JSON Lines?")
        yield number, line


def _count_lines(path: Path) -> int:
    """Count the lines of a file; the last one counts without its line break too."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")
