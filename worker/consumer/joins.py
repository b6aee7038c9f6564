"""Joins that the group refuses until a person changes something: why, and what to do about it."""

import logging
from collections.abc import Callable
from typing import Final

from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.consumer.repeats import Repeats
from worker.settings.tables import Kafka

log = logging.getLogger("worker.joins")

JOINING: Final = "joining the group"
NO_COORDINATOR: Final = (
    "its coordinator is not there: start the broker that leads the group's partition of __consumer_offsets, or correct the "
    "way to it"
)
_RETRY_SECONDS: Final = 5.0
_LATELY_SECONDS: Final = 30.0  # after the next join was due, in which its answer would have come


class Joins:
    """What the group last answered to a join. Only the main loop calls it."""

    def __init__(self, settings: Kafka, retry_seconds: float, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._retry_seconds = min(retry_seconds, _RETRY_SECONDS)
        self._clock = clock
        self._repeats = Repeats(clock)
        self._again_at = 0.0
        self.refusal = ""
        """Why the group refuses this member, "" where it does not."""

    @property
    def waits_for(self) -> str:
        """What a process that is no member waits for."""
        return f"{JOINING}: {self.refusal}" if self.refusal else JOINING

    @property
    def wait_seconds(self) -> float:
        """How long the next join has to wait; 0 where it need not."""
        return max(0.0, self._again_at - self._clock()) if self.refusal else 0.0

    @property
    def was_refused_lately(self) -> bool:
        """Whether the group refused the last join a moment ago. Later a refusal says nothing of who answers now."""
        return bool(self.refusal) and self._clock() - self._again_at < _LATELY_SECONDS

    def forget_refusal(self) -> None:
        """Note that the group has accepted this member."""
        self.refusal = ""
        self._repeats.clear()

    def note_refusal(self, error: BaseException) -> bool:
        """Note and log the group's refusal; return False where the error is another one."""
        advice = self._advice(error)
        if advice is None:
            return False
        self._again_at = self._clock() + self._retry_seconds
        self.refusal = (
            f"the group {self._settings.group_id!r} refuses this member: {advice} ({client_config.describe(error)})"
        )
        if self._repeats.admit(self.refusal):
            log.error("join refused", extra={"error": self.refusal, "again_in": self._retry_seconds})
        return True

    def _advice(self, error: BaseException) -> str | None:
        settings = self._settings
        advice: dict[type[BaseException], str] = {
            kafka_errors.InconsistentGroupProtocolError: (
                "its members use another assignor than cooperative-sticky, or it is no group of consumers; stop them, or "
                "set another kafka.group_id"
            ),
            kafka_errors.GroupMaxSizeReachedError: (
                "it has as many members as the brokers allow; stop some, or raise group.max.size of the brokers"
            ),
            kafka_errors.InvalidSessionTimeoutError: (
                f"kafka.session_timeout_ms = {settings.session_timeout_ms} is outside group.min.session.timeout.ms and "
                "group.max.session.timeout.ms of the brokers"
            ),
            kafka_errors.InvalidGroupIdError: "the brokers do not allow this kafka.group_id",
            kafka_errors.GroupAuthorizationFailedError: "this user may not use it; grant READ on the group",
        }
        return next((text for kind, text in advice.items() if isinstance(error, kind)), None)
