"""What every reader of files yields: rows, each a record or what is wrong with it."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

MOST_ROW_BYTES: Final = 64 * 1024 * 1024
"""A larger row is no record: the largest body of PutVectors is smaller. It bounds the memory of one row."""


class Row(NamedTuple):
    """One record of a file: its number, from 1, and its value as JSON; None is a tombstone of `key`.

    `problem` says why the file has no readable record here; `value` then says the same, for the file of bad records.
    """

    number: int
    value: bytes | None
    key: str | None = None
    problem: str | None = None


class Rows(NamedTuple):
    """The records of a file. `total` is None where it is not known. `unit` names what is counted: "line" or "row"."""

    total: int | None
    unit: str
    read: Callable[[int], Iterator[Row]]
    """Yields the rows from a number on."""


def problem(number: int, text: str) -> Row:
    """Return the row of a record that cannot be read."""
    return Row(number, json.dumps({"row": number, "problem": text}).encode(), problem=text)


def record(number: int, key: Any, vector: Any, metadata: Mapping[str, Any]) -> Row:
    """Return a row of a record. `vector` is an array of numbers, bytes of float32, base64 text, or None.

    What has no form in JSON is a problem. Whether the rest is a record is for the worker's decoder to say.
    """
    try:
        parts = [b'{"key":', _json(key), b',"data":{"float32":', _vector(vector), b"}"]
        if metadata:
            parts += [b',"metadata":', _json(metadata)]
    except (TypeError, ValueError) as error:  # also of text that UTF-8 cannot encode
        return problem(number, f"it cannot be written as JSON: {error}")
    return Row(number, b"".join([*parts, b"}"]))


def _vector(vector: Any) -> bytes:
    if vector is None or isinstance(vector, str):
        return _json(vector)
    if not isinstance(vector, bytes):
        import numpy as np  # noqa: PLC0415 - files of lines do without it

        with np.errstate(over="ignore"):  # what float32 cannot hold becomes an infinity, which the decoder refuses
            vector = vector.astype("<f4").tobytes()
    return b'"' + base64.b64encode(vector) + b'"'


def _json(part: Any) -> bytes:
    return json.dumps(part, ensure_ascii=False, allow_nan=False, default=_text).encode()


def _text(part: Any) -> str:
    """Return the text of what JSON has no form for, and a table often has."""
    if isinstance(part, date | datetime | time):
        return part.isoformat()
    if isinstance(part, Decimal | UUID):
        return str(part)
    raise TypeError(f"there is a value of type {type(part).__name__}")
