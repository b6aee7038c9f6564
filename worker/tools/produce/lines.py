"""Files with a record, or a key, in each line: plain, gzip (`.gz`), and pipes, which a signal ends while they are silent."""

import gzip
import io
import os
import select
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from worker.errors import FatalError
from worker.tools.produce.rows import MOST_ROW_BYTES, Row, Rows, problem

_CHUNK_BYTES: Final = 1 << 20
_LOOK_SECONDS: Final = 0.2  # between two looks at whether a signal came, while a pipe is silent

IsStopping = Callable[[], bool]


def json_lines(path: Path | None, stdin: IO[bytes] | None, is_stopping: IsStopping = lambda: False) -> Rows:
    """Return the records of a file with a JSON value in each line; of stdin where there is no path.

    Empty lines are passed over, and counted as lines.
    """

    def read(first: int) -> Iterator[Row]:
        for number, line in _lines(path, stdin, is_stopping):
            if number >= first and line.strip():
                yield Row(number, line.rstrip(b"\r\n"))

    return Rows(_total(path), "line", read)


def tombstones(path: Path, is_stopping: IsStopping = lambda: False) -> Rows:
    """Return a null value for each line of a file of keys."""

    def read(first: int) -> Iterator[Row]:
        for number, key in keys(path, is_stopping):
            if number >= first and key != "":
                yield Row(number, None, key) if key is not None else problem(number, "the key is not UTF-8")

    return Rows(_total(path), "line", read)


def keys(path: Path, is_stopping: IsStopping = lambda: False) -> Iterator[tuple[int, str | None]]:
    """Yield the number and the key of each line; None where it is not UTF-8. Only line breaks end a key."""
    for number, line in _lines(path, None, is_stopping):
        try:
            yield number, line.rstrip(b"\r\n").decode()
        except UnicodeDecodeError:
            yield number, None


def count_lines(path: Path) -> int:
    """Count the lines of a file; the last one counts without its line break too."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")


def pipe(descriptor: int, is_stopping: IsStopping) -> IO[bytes]:
    """Return the buffered file of a descriptor. It ends, as at the end of the file, once `is_stopping`."""
    return io.BufferedReader(_Pipe(descriptor, is_stopping), _CHUNK_BYTES)


class _Pipe(io.RawIOBase):
    """Reads a descriptor, and looks for a signal while nothing comes: Python resumes a read that a signal interrupted."""

    def __init__(self, descriptor: int, is_stopping: IsStopping) -> None:
        self._descriptor = descriptor
        self._is_stopping = is_stopping

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there, at least a byte; 0 at the end, or once it is to stop."""
        while not self._is_stopping():
            if select.select([self._descriptor], [], [], _LOOK_SECONDS)[0]:
                return os.readv(self._descriptor, [buffer])
        return 0

    def close(self) -> None:
        """Close the descriptor, unless it is standard input."""
        if not self.closed and self._descriptor > 0:
            os.close(self._descriptor)
        super().close()


def _total(path: Path | None) -> int | None:
    return None if path is None or path.suffix == ".gz" or not path.is_file() else count_lines(path)


def _lines(path: Path | None, stdin: IO[bytes] | None, is_stopping: IsStopping) -> Iterator[tuple[int, bytes]]:
    """Yield number and line. Raises `FatalError` where the file cannot be read on."""
    name = "standard input" if path is None else str(path)
    number = 0
    try:
        with _opened(path, stdin, is_stopping) as file:
            while line := file.readline(MOST_ROW_BYTES + 1):
                if is_stopping():  # the line may be half of one
                    return
                number += 1
                if len(line) > MOST_ROW_BYTES:
                    raise FatalError(
                        f"line {number} of {name} is longer than {MOST_ROW_BYTES} bytes: is it JSON Lines?"
                    )
                yield number, line
    except EOFError:
        if not is_stopping():
            raise FatalError(f"{name} is cut short: its gzip data has no end; line {number} was the last one") from None
    except (OSError, zlib.error) as error:
        raise FatalError(f"{name} cannot be read beyond line {number}: {_told(error)}") from None


@contextmanager
def _opened(path: Path | None, stdin: IO[bytes] | None, is_stopping: IsStopping) -> Iterator[Any]:
    """Yield the open file. A pipe with a name is opened without waiting for its writer: see `_Pipe`."""
    if path is None:
        if stdin is None:
            raise FatalError("standard input is closed: name a file, or let a program write to a pipe")
        yield stdin
        return
    with path.open("rb") if path.is_file() else pipe(os.open(path, os.O_RDONLY | os.O_NONBLOCK), is_stopping) as file:
        yield gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file


def _told(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
