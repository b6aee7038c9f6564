"""What the service did lately, index by index: since when it has accepted nothing, and the pace of its requests.

Slots and finders write it, the page and /readyz read it. Times are in seconds of the monotonic clock.
"""

import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import msgspec

from worker.errors import SinkError
from worker.ports import Pace
from worker.telemetry.page.words import duration
from worker.words import clean

SHOWN_AFTER_SECONDS: Final = 10.0  # without an accepted request; a single failure is retried in less
INDEXES_NAMED: Final = 5  # in sentences, at most
_WORDS_CHARACTERS: Final = 200


class NotAccepted(msgspec.Struct, frozen=True):
    """An index whose requests fail: none was accepted or judged since `since`, of `requests` that were sent.

    `words` are the last answer's status and code, or why no answer came. They quote no record.
    """

    index: str
    since: float
    requests: int
    words: str

    def sentence(self, now: float) -> str:
        """Return it in words."""
        return f"no request accepted for {duration(max(0.0, now - self.since))}: {self.words}"


class Service:
    """What the service did lately. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._not_accepted: dict[str, NotAccepted] = {}
        self._paces: dict[str, Callable[[], Pace]] = {}

    def failed(self, index: str, error: SinkError) -> None:
        """Note a request that was sent, and neither accepted nor refused for its content."""
        words = words_of(error)
        with self._lock:
            before = self._not_accepted.get(index)
            since = self._clock() if before is None else before.since
            requests = 1 if before is None else before.requests + 1
            self._not_accepted[index] = NotAccepted(index, since, requests, words)

    def works(self, index: str) -> None:
        """Note that the service accepted or judged a request, or that none waits for it any more."""
        if index in self._not_accepted:
            with self._lock:
                self._not_accepted.pop(index, None)

    def accepts_nothing(self, index: str, seconds: float) -> bool:
        """Return whether requests of an index fail, more than one of them, and none was accepted or judged for so long."""
        one = self._not_accepted.get(index)
        return one is not None and one.requests > 1 and self._clock() - one.since >= seconds

    def not_accepted(self) -> list[NotAccepted]:
        """Return the indexes whose requests fail, the one that has failed for the longest first."""
        with self._lock:
            return sorted(self._not_accepted.values(), key=lambda one: one.since)

    def watch_pace(self, index: str, pace: Callable[[], Pace]) -> None:
        """Read the pace of an index from this function."""
        self._paces[index] = pace

    def paces(self) -> dict[str, Pace]:
        """Return the pace of each index."""
        return {index: pace() for index, pace in self._paces.items()}

    def sentences(self) -> list[str]:
        """Return what to say of the indexes whose requests have failed for a while: of the first ones, and how many others."""
        now = self._clock()
        lasting = [one for one in self.not_accepted() if now - one.since >= SHOWN_AFTER_SECONDS]
        named = [f"index {one.index}: {one.sentence(now)}" for one in lasting[:INDEXES_NAMED]]
        left_out = len(lasting) - INDEXES_NAMED
        return named + ([f"and the same of {left_out:,} other indexes"] if left_out > 0 else [])


def words_of(error: SinkError) -> str:
    """Return the status and code of an answer, or why none came.

    The service's own message is left out, since it may quote a record.
    """
    if not error.status:
        return clean(error.message, _WORDS_CHARACTERS)
    if 200 <= error.status <= 299:
        return f"{error.status}, but the answer does not show that the service has done it"
    return f"{error.status} {error.code or _phrase(error.status)}".rstrip()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
