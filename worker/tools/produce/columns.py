"""Files with a column for each part of a record: Parquet, and NumPy's arrays. Rows are read some at a time."""

import base64
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
import orjson

from worker.errors import FatalError
from worker.extras import pip_command
from worker.tools.produce.rows import Row, Rows

_ROWS_AT_ONCE: Final = 1024


class Columns(NamedTuple):
    """The names of the columns. `metadata` None takes every other column."""

    key: str = "key"
    vector: str = "vector"
    metadata: Sequence[str] | None = None


def parquet(path: Path, columns: Columns) -> Rows:
    """Return the rows of a Parquet file. Raises `FatalError` where it is none, or lacks a column."""
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415 - large, and needed for this form alone
    except ModuleNotFoundError:
        raise FatalError(f"Parquet needs pyarrow: {pip_command('parquet')}") from None
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise FatalError(f"{path} cannot be read as Parquet: {error}") from None
    names = file.schema_arrow.names
    others = [name for name in names if name not in (columns.key, columns.vector)]
    metadata = others if columns.metadata is None else list(columns.metadata)
    missing = [name for name in (columns.key, columns.vector, *metadata) if name not in names]
    if missing:
        raise FatalError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}")

    def read(first: int) -> Iterator[Row]:
        number = 0
        wanted = [columns.key, columns.vector, *metadata]
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted):
            if number + batch.num_rows < first:
                number += batch.num_rows
                continue
            for row in batch.to_pylist():
                number += 1
                if number >= first:
                    told = {name: row[name] for name in metadata if row[name] is not None}
                    yield Row(number, _value(row[columns.key], row[columns.vector], told))

    return Rows(file.metadata.num_rows, "row", read)


def npy(path: Path, keys: Path | None) -> Rows:
    """Return the rows of an array of two dimensions, with their keys from a file that has one in each line."""
    if keys is None:
        raise FatalError(f"{path} holds vectors alone: name the file of their keys, one a line, with --keys")
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FatalError(f"{path} cannot be read as an array: {error}") from None
    _check_shape(vectors.shape, vectors.dtype, path)
    texts = keys.read_text(encoding="utf-8").splitlines()
    if len(texts) != len(vectors):
        raise FatalError(f"{path} has {len(vectors)} rows, {keys} has {len(texts)} keys")

    def read(first: int) -> Iterator[Row]:
        for number in range(first, len(vectors) + 1):
            yield Row(number, _value(texts[number - 1], vectors[number - 1], {}))

    return Rows(len(vectors), "row", read)


def npz(path: Path) -> Rows:
    """Return the rows of the arrays `vectors` and `keys` of an archive, without reading it whole."""
    shape, kind = _member(path, "vectors")
    _check_shape(shape, kind, path)
    (count, *_), kind = _member(path, "keys")
    if kind.kind not in "US":
        raise FatalError(f"{path}: the array keys holds {kind}, it must hold text")
    if count != shape[0]:
        raise FatalError(f"{path} has {shape[0]} vectors and {count} keys")

    def read(first: int) -> Iterator[Row]:
        pairs = zip(_rows_of(path, "keys"), _rows_of(path, "vectors"), strict=True)
        for number, (key, vector) in enumerate(pairs, start=1):
            if number >= first:
                yield Row(number, _value(key.decode() if isinstance(key, bytes) else str(key), vector, {}))

    return Rows(shape[0], "row", read)


def _member(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            return _header(file)
    except KeyError:
        raise FatalError(f"{path} has no array named {name}: it must have keys and vectors") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
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
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        shape, kind = _header(file)
        width = kind.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        for begin in range(0, shape[0], _ROWS_AT_ONCE):
            count = min(_ROWS_AT_ONCE, shape[0] - begin)
            yield from np.frombuffer(file.read(width * count), kind).reshape(count, *shape[1:])


def _check_shape(shape: Sequence[int], kind: np.dtype[Any], path: Path) -> None:
    if len(shape) != 2 or kind.kind != "f":
        raise FatalError(f"{path} holds {kind} of shape {tuple(shape)}: it must hold floats, a row for each vector")


def _value(key: Any, vector: Any, metadata: dict[str, Any]) -> bytes:
    """Return a row as a record. What is no record is written all the same: the judge says what is wrong with it."""
    try:
        data: Any = base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
    except (TypeError, ValueError):
        data = vector
    record = {"key": key, "data": {"float32": data}} | ({"metadata": metadata} if metadata else {})
    return orjson.dumps(record, default=str, option=orjson.OPT_SERIALIZE_NUMPY)
