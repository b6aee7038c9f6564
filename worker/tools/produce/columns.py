"""Parquet: a column for each part of a record. Rows are read some at a time, whatever the size of the file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from worker.errors import FatalError
from worker.extras import pip_command
from worker.tools.produce.rows import Row, Rows, problem, record

_ROWS_AT_ONCE: Final = 256
_BUFFER_BYTES: Final = 1 << 20  # of each column; pyarrow would read whole row groups ahead


class Columns(NamedTuple):
    """The names of the columns. `metadata` None takes every other column, of those in `known` if there are any known."""

    key: str = "key"
    vector: str = "vector"
    metadata: Sequence[str] | None = None
    known: Sequence[str] | None = None


def parquet(path: Path, columns: Columns) -> Rows:
    """Return the rows of a Parquet file. Raises `FatalError` where it is none, or lacks a column."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - large, and needed for this form alone
        import pyarrow.parquet as pq  # noqa: PLC0415 - with it
    except ModuleNotFoundError:
        raise FatalError(f"Parquet needs pyarrow: {pip_command('parquet')}") from None
    unreadable = (OSError, ValueError, pa.ArrowException)
    try:
        file = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except unreadable as error:
        raise FatalError(f"{path} cannot be read as Parquet: {error}") from None
    wanted = _wanted(path, file.schema_arrow, columns)

    def read(first: int) -> Iterator[Row]:
        groups, number = _groups_from(file.metadata, first)
        try:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=groups, columns=wanted):
                cells = {name: batch.column(name) for name in wanted}
                for at in range(batch.num_rows):
                    number += 1
                    if number >= first:
                        yield _row(number, at, cells, columns)
        except unreadable as error:
            raise FatalError(f"{path} cannot be read beyond row {number}: {error}") from None

    return Rows(file.metadata.num_rows, "row", read)


def _wanted(path: Path, schema: Any, columns: Columns) -> list[str]:
    """Return the names of the columns to read."""
    names = schema.names
    others = [name for name in names if name not in (columns.key, columns.vector)]
    if columns.known is not None:
        others = [name for name in others if name in columns.known]
    wanted = list(
        dict.fromkeys([columns.key, columns.vector, *(others if columns.metadata is None else columns.metadata)])
    )
    if missing := [name for name in wanted if name not in names]:
        raise FatalError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}")
    if twice := sorted({name for name in wanted if names.count(name) > 1}):
        raise FatalError(f"{path} has more than one column {', '.join(twice)}")
    kind = schema.field(columns.vector).type
    if not _is_vector(kind):
        raise FatalError(
            f"column {columns.vector} of {path} holds {kind}: it must hold lists of numbers, float32 as bytes, or base64 text"
        )
    return wanted


def _is_vector(kind: Any) -> bool:
    from pyarrow import types  # noqa: PLC0415 - as above

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = kind.value_type
        return bool(types.is_floating(inner) or types.is_integer(inner) or types.is_decimal(inner))
    texts = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_string, types.is_large_string)
    return any(one(kind) for one in texts)


def _groups_from(metadata: Any, first: int) -> tuple[list[int], int]:
    """Return the row groups from the one that has row `first` on, and the count of rows before them."""
    before = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if before + rows >= first:
            return list(range(group, metadata.num_row_groups)), before
        before += rows
    return [], before


def _row(number: int, at: int, cells: dict[str, Any], columns: Columns) -> Row:
    """Return the row at this place of a batch."""
    try:
        found = {name: cell[at].as_py() for name, cell in cells.items() if name != columns.vector}
        key = found.pop(columns.key, None)
        metadata = {name: value for name, value in found.items() if value is not None}
        return record(number, key, _vector(cells[columns.vector][at]), metadata)
    except (ValueError, ArithmeticError) as error:  # text that is not UTF-8, and times that Python cannot hold
        return problem(number, str(error))


def _vector(cell: Any) -> Any:
    """Return what a cell holds: an array of numbers, bytes, text or None. Raises `ValueError`."""
    if not cell.is_valid or not hasattr(cell, "values"):
        return cell.as_py()
    values = cell.values
    if values.null_count:
        raise ValueError("the vector contains null")
    if not str(values.type).startswith(("float", "double", "halffloat")):
        values = values.cast("float64", safe=False)
    return values.to_numpy(zero_copy_only=False)
