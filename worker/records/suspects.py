"""Suspect records: they can be written, and are most likely wrong.

A vector whose numbers came from the wrong bytes is a vector too, and a search finds it nowhere, or everywhere. Nothing fails,
so nobody looks. Each suspect has one cause:

    denormal    most numbers are so small that float32 has no full precision for them: integers, or text, read as float32
    magnitude   most numbers are below 1e-12 or above 1e12 (zero is neither): bytes in another order, or of another type
    norm        the norm is a millionth of the usual one of the route or less, or a million times as much or more. Only where the
                index measures cosine distance, which hides it
    quoted_key  the vector's key is the Kafka key, and that is a JSON string with its quotes, as `records.key_format = "json"`
                reads it; or it is a header that is a JSON string, as Kafka Connect's JsonConverter writes the text of headers
    map_key     the vector's key is the Kafka key, or has it in it, and that is a JSON map, as Kafka Connect's JsonConverter writes
                the keys of rows
    binary_key  the vector's key is the Kafka key, or has it in it, and has a control character: an integer or another binary
                form, whose bytes happen to be UTF-8

The usual norm is the median of the first vectors of a route that were not suspect. It is not kept over a restart: the first
`WARM_UP` vectors after one are not judged by it. Half of them may be wild, but for one, and it is right all the same. Once
`MOST_NORMS` are known it no longer changes, so a producer that is wrong for days is counted for days.
"""

import math
import statistics
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np

from worker.records.target import Target

Cause = Literal["denormal", "magnitude", "norm", "quoted_key", "map_key", "binary_key"]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)

WARM_UP: Final = 10  # vectors
MOST_NORMS: Final = 63  # the median of which is the usual norm
FACTOR: Final = 1e6  # of the usual norm, up and down
LEAST: Final = 1e-12
MOST: Final = 1e12
_LEAST_NORMAL: Final = float(np.finfo(np.float32).smallest_normal)
_SIGN: Final = 0x80


class Suspicion(NamedTuple):
    """Why a record is suspect: the label `cause` of the metric, and the sentence for a log line or a dead letter."""

    cause: Cause
    what: str


QUOTED_KEY: Final = Suspicion(
    "quoted_key",
    "the Kafka key is a JSON string, so the vector's key would have the quotes in it; "
    'records.key_format = "json" reads it without them',
)

QUOTED_HEADER: Final = Suspicion(
    "quoted_key",
    "a header is a JSON string, so the vector's key would have the quotes in it: set header.converter of the connector to "
    "org.apache.kafka.connect.storage.StringConverter",
)

MAP_KEY: Final = Suspicion(
    "map_key",
    "the Kafka key is a JSON map, as Kafka Connect's JsonConverter writes the keys of rows, and all of its text would be the "
    "vector's key: set records.fields.key to the path of the key in the value, and records.fields.delete instead of "
    'records.tombstones = "delete"; where the values are in an envelope too, records.envelope reads both',
)

BINARY_KEY: Final = Suspicion(
    "binary_key",
    "the vector's key has a control character, and the Kafka key is in it, as when an integer or another binary form is "
    "written by its own serializer: StringSerializer writes it as text",
)


class Suspects:
    """Judges the vectors of one route, and learns the usual norm from them."""

    def __init__(self, target: Target) -> None:
        self._dimension = target.dimension
        self._half = target.dimension // 2
        self._judges_norm = target.distance_metric == "cosine"
        self._norms: list[float] = []
        self._usual = 0.0
        # The first bytes of numbers that say by themselves that nothing is wrong, and those of smaller numbers.
        self._ordinary, self._smaller = (b"", b"") if self._judges_norm else _first_bytes(LEAST, MOST)

    def of(self, packed: bytes) -> Suspicion | None:
        """Return why a vector is suspect, None if it is not. It is finite little-endian float32s.

        Of most vectors only the first byte of each number is looked at, sign and exponent without its last bit. That is
        exact: a vector is judged number by number unless these bytes show that it cannot be suspect.
        """
        strange = packed[3::4].translate(None, self._ordinary)
        if not strange or (len(strange) <= self._half and not strange.translate(None, self._smaller)):
            return None
        return self._judge(np.frombuffer(packed, "<f4").astype(np.float64))

    def _judge(self, numbers: Any) -> Suspicion | None:
        sizes = np.abs(numbers)
        if (count := np.count_nonzero((sizes > 0) & (sizes < _LEAST_NORMAL))) > self._half:
            return Suspicion("denormal", f"{count} of {self._dimension} numbers are denormal, {_WRONG_BYTES}")
        if (count := np.count_nonzero((sizes > 0) & ((sizes < LEAST) | (sizes > MOST)))) > self._half:
            found = f"{count} of {self._dimension} numbers are below {LEAST:g} or above {MOST:g}"
            return Suspicion("magnitude", f"{found}, {_WRONG_BYTES}")
        return self._judge_norm(math.sqrt(float(numbers.dot(numbers)))) if self._judges_norm else None

    def _judge_norm(self, norm: float) -> Suspicion | None:
        if len(self._norms) >= WARM_UP and not self._usual / FACTOR < norm < self._usual * FACTOR:
            return Suspicion(
                "norm",
                f"the norm of the vector is {norm:.3g}, the usual one of this route {self._usual:.3g}; "
                "cosine distance hides the difference",
            )
        if len(self._norms) < MOST_NORMS:
            self._norms.append(norm)
            self._usual = statistics.median_low(self._norms)
            if len(self._norms) == MOST_NORMS:
                least, most = self._usual / FACTOR, self._usual * FACTOR / math.sqrt(self._dimension)
                self._ordinary, self._smaller = _first_bytes(max(least, LEAST), min(most, MOST))
        return None


def ordinary_numbers(packed: bytes, dtype: str) -> int:
    """Return how many of the numbers in bytes have an ordinary size, or are zero. `dtype` is numpy's name of their type.

    Bytes at the end that are no whole number are left out.
    """
    width = np.dtype(dtype).itemsize
    numbers = np.frombuffer(packed[: len(packed) // width * width], dtype)
    with np.errstate(invalid="ignore"):
        sizes = np.abs(numbers.astype(np.float64))
        return int(np.count_nonzero((sizes == 0) | ((sizes > LEAST) & (sizes < MOST))))


_WRONG_BYTES: Final = "as when bytes of another type or in another order are read as float32"


def _first_bytes(least: float, most: float) -> tuple[bytes, bytes]:
    """Return the first bytes of the float32 numbers of which all are from `least` to `most`, and of those that may be smaller."""
    begins = {first: math.ldexp(1.0, 2 * first - 127) for first in range(128)}  # four times as large with each
    ordinary = [first for first, begin in begins.items() if first and least <= begin and 4 * begin <= most]
    smaller = [first for first, begin in begins.items() if first not in ordinary and begin < least]
    return _with_signs(ordinary), _with_signs(smaller)


def _with_signs(firsts: list[int]) -> bytes:
    return bytes(firsts) + bytes(first | _SIGN for first in firsts)
