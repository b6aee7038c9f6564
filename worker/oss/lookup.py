"""Looks keys up in one index, for the commands: GetVectors, asked again where the service is away for a moment."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from worker.errors import FatalError, SinkError, Transient
from worker.oss.sink import OssSink
from worker.settings.tables import Oss

KEYS_OF_A_REQUEST: Final = 100
"""The most keys of one request, as the service documents GetVectors."""
_MOST_ANSWER_BYTES: Final = 32 * 1024 * 1024  # of 100 vectors of 4,096 numbers, with 40 KB of metadata each
_TRIES: Final = 10
_FIRST_WAIT_SECONDS: Final = 0.5
_MOST_WAIT_SECONDS: Final = 30.0  # so an outage of two minutes is waited out
RETRY_AFTER_MAX_SECONDS: Final = 300.0
"""The longest that is waited where the service asks for a pause, as `delivery.retry_after_max_seconds` by default."""


class Stored(NamedTuple):
    """A vector as the index holds it."""

    vector: list[float]
    metadata: Mapping[str, Any] | None


class _Data(msgspec.Struct):
    float32: list[float]


class _Vector(msgspec.Struct):
    key: str
    data: _Data
    metadata: dict[str, Any] | None = None


class _Answer(msgspec.Struct):
    vectors: list[_Vector] | None = None  # many servers write null for an empty list


class IndexLookup:
    """Looks keys up in one index. Raises `SettingsError` where there are no credentials."""

    def __init__(
        self, settings: Oss, environ: Mapping[str, str], index: str, *, wait: Callable[[float], object] = time.sleep
    ) -> None:
        """`wait` waits so many seconds; it may raise to end the command."""
        self._sink = OssSink(settings, environ, max_connections=1, most_answer_bytes=_MOST_ANSWER_BYTES)
        self._index = index
        self._wait = wait

    def get(self, keys: Sequence[str]) -> dict[str, Stored]:
        """Return what the index holds of these keys, `KEYS_OF_A_REQUEST` at most. Raises `FatalError`."""
        body = msgspec.json.encode({"indexName": self._index, "keys": keys, "returnData": True, "returnMetadata": True})
        wait_seconds = _FIRST_WAIT_SECONDS
        for left in reversed(range(_TRIES)):
            try:
                answer = msgspec.json.decode(self._sink.get(body), type=_Answer)
            except Transient as error:
                if not left:
                    raise FatalError(f"the service was asked {_TRIES} times and did not answer: {error}") from error
                self._wait(min(max(wait_seconds, error.retry_after or 0.0), RETRY_AFTER_MAX_SECONDS))
                wait_seconds = min(2 * wait_seconds, _MOST_WAIT_SECONDS)
            except SinkError as error:
                raise FatalError(f"the service refuses to read index {self._index}: {error}") from error
            except (ValueError, RecursionError) as error:
                raise FatalError(f"the service answered GetVectors with what is no list of vectors: {error}") from error
            else:
                return {one.key: Stored(one.data.float32, one.metadata) for one in answer.vectors or ()}
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Close the connection."""
        self._sink.close()
