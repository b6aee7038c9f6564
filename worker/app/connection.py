"""The consumer's connection to its group: made, lost, and made again."""

import logging
from collections.abc import Callable
from typing import Final

from worker.errors import BrokerUnavailable
from worker.ports import Polled, Source
from worker.telemetry.state import State, Status

log = logging.getLogger("worker.loop")

WAIT_SECONDS: Final = 0.4  # for which the main loop waits at most, for messages or for the next attempt to connect
NOT_CONNECTED: Final = "not connected to Kafka"  # title of the state, for people
_LONGEST_RETRY_SECONDS: Final = 5.0


class Connection:
    """Connects the source, and connects it again after a while where that fails or the connection is lost.

    `wait` waits for so many seconds, or less where the worker is to stop.
    """

    def __init__(
        self,
        source: Source,
        status: Status,
        *,
        retry_seconds: float,
        clock: Callable[[], float],
        wait: Callable[[float], object],
    ) -> None:
        self._source = source
        self._status = status
        self._retry_seconds = min(retry_seconds, _LONGEST_RETRY_SECONDS)
        self._clock = clock
        self._wait = wait
        self._is_up = False
        self._retry_at = 0.0
        self._last_problem = ""

    @property
    def is_up(self) -> bool:
        """Whether the source is connected. It may still wait to join its group."""
        return self._is_up

    def connect(self) -> bool:
        """Connect if that is due, else wait a little. Returns whether the source is connected."""
        if self._is_up:
            return True
        if self._clock() < self._retry_at:
            self._wait(WAIT_SECONDS)
            return False
        try:
            self._source.start()
        except BrokerUnavailable as error:
            self._note_failure(error, NOT_CONNECTED)
            return False
        self._is_up = True
        self._last_problem = ""
        return True

    def poll(self, timeout: float) -> list[Polled]:
        """Return new messages; none if the poll shows that the connection is lost."""
        try:
            return self._source.poll(timeout)
        except BrokerUnavailable as error:
            self._note_failure(error)
            return []

    def poll_while_draining(self, timeout: float) -> list[Polled]:
        """Return new messages. A connection that is lost now is not made again, and the state does not change."""
        try:
            return self._source.poll(timeout)
        except BrokerUnavailable as error:
            log.warning("no longer a member of the group while draining", extra={"error": str(error)})
            self._is_up = False
            return []

    def close(self, timeout: float) -> None:
        """Leave the group within about `timeout` seconds, if it is connected."""
        if self._is_up:
            self._source.close(timeout)
        self._is_up = False

    def _note_failure(self, error: BrokerUnavailable, title: str = "") -> None:
        self._is_up = False
        self._retry_at = self._clock() + self._retry_seconds
        problem = str(error)
        if problem != self._last_problem:  # one line for each problem, not for each attempt
            log.error("not connected", extra={"error": problem, "again_in": self._retry_seconds})
        self._last_problem = problem
        self._status.enter(State.STARTING, problem, title)
