"""NumPy's files: an archive of keys and vectors (`.npz`), or vectors alone (`.npy`) with a file of their keys.

Rows are read some at a time, whatever the size of the file. No Python object is ever read: that could run code.
"""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from worker.errors import FatalError
from worker.tools.produce import lines
from worker.tools.produce.rows import MOST_ROW_BYTES, Row, Rows, problem, record

_AT_ONCE_BYTES: Final = 1 << 20
_UNREADABLE: Final = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What zipfile and NumPy raise of a file that is none, is damaged, is encrypted, or is packed in an unknown way."""


def npy(path: Path, keys: Path | None) -> Rows:
    """Return the rows of an array of two dimensions, with their keys from a file that has one in each line."""
    if keys is None:
        raise FatalError(f"{path} holds vectors alone: name the file of their keys, one a line, with --keys")
    try:
        vectors = np.lib.format.open_memmap(path, mode="r")
    except _UNREADABLE as error:
        raise FatalError(f"{path} cannot be read as an array: {error}") from None
    _check_vectors(vectors.shape, vectors.dtype, path)
    if not keys.is_file():
        raise FatalError(f"{keys} is no regular file, and its lines have to be counted first")
    if (count := lines.count_lines(keys)) != len(vectors):
        raise FatalError(f"{path} has {len(vectors)} rows, {keys} has {count} keys")

    def read(first: int) -> Iterator[Row]:
        for number, key in lines.keys(keys):
            if number >= first:
                yield _row(number, key, vectors[number - 1])

    return Rows(len(vectors), "row", read)


def npz(path: Path) -> Rows:
    """Return the rows of the arrays `vectors` and `keys` of an archive, without reading it whole."""
    shape, kind = _member(path, "vectors")
    _check_vectors(shape, kind, path)
    of_keys, kind = _member(path, "keys")
    if kind.kind not in "US" or len(of_keys) != 1 or kind.itemsize > MOST_ROW_BYTES:
        raise FatalError(
            f"{path}: the array keys holds {kind} of shape {of_keys}, it must hold text, a key for each vector"
        )
    if of_keys[0] != shape[0]:
        raise FatalError(f"{path} has {shape[0]} vectors and {of_keys[0]} keys")

    def read(first: int) -> Iterator[Row]:
        pairs = zip(_rows_of(path, "keys"), _rows_of(path, "vectors"), strict=True)
        for number, (key, vector) in enumerate(pairs, start=1):
            if number >= first:
                yield _row(number, _text(key), vector)

    return Rows(shape[0], "row", read)


def _row(number: int, key: str | None, vector: Any) -> Row:
    return record(number, key, vector, {}) if key is not None else problem(number, "the key is not text in UTF-8")


def _text(key: bytes) -> str | None:
    """Return the text of a key; None where it is not UTF-8."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


def _member(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            return _header(file)
    except KeyError:
        raise FatalError(f"{path} has no array named {name}: it must have keys and vectors") from None
    except _UNREADABLE as error:
        raise FatalError(f"{path} cannot be read as an archive of arrays: {error}") from None


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return an array's shape and type, and leave the file at its first element."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, kind = read(file)
    if is_fortran and len(shape) > 1:
        raise ValueError("its elements are stored column by column; save numpy.ascontiguousarray of it")
    if kind.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    return shape, kind


def _rows_of(path: Path, name: str) -> Iterator[Any]:
    """Yield vectors as arrays, and keys as bytes in UTF-8 where they are text. Raises `FatalError`."""
    number = 0
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            shape, kind = _header(file)
            width = kind.itemsize * int(np.prod(shape[1:], dtype=np.int64))
            at_once = max(1, _AT_ONCE_BYTES // max(1, width))
            while number < shape[0]:
                count = min(at_once, shape[0] - number)
                data = file.read(width * count)
                if len(data) != width * count:
                    raise ValueError("it is cut short")
                yield from _rows_in(data, kind, width, count, shape[1:])
                number += count
    except _UNREADABLE as error:
        raise FatalError(f"the array {name} of {path} cannot be read beyond row {number}: {error}") from None


def _rows_in(data: bytes, kind: np.dtype[Any], width: int, count: int, inner: Sequence[int]) -> Iterator[Any]:
    if kind.kind == "f":
        yield from np.frombuffer(data, kind).reshape(count, *inner)
        return
    # NumPy fills texts up with zeros. A half of a surrogate pair keeps its bytes, which are no UTF-8.
    codec = "utf-32-be" if kind.str[0] == ">" else "utf-32-le"
    for begin in range(0, width * count, max(1, width)):
        cell = data[begin : begin + width]
        if kind.kind == "S":
            yield cell.rstrip(b"\x00")
        else:
            yield cell.decode(codec, "surrogatepass").rstrip("\x00").encode("utf-8", "surrogatepass")


def _check_vectors(shape: Sequence[int], kind: np.dtype[Any], path: Path) -> None:
    if len(shape) != 2 or kind.kind != "f":
        raise FatalError(f"{path} holds {kind} of shape {tuple(shape)}: it must hold floats, a row for each vector")
    if shape[1] * kind.itemsize > MOST_ROW_BYTES:
        raise FatalError(f"{path} has vectors of {shape[1]} numbers: no index has so many dimensions")
