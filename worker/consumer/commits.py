"""Commits: what is sent to the group, and what its answer means to the ledger."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import MemberState

from worker.consumer import client_config
from worker.ledger import Assignment, Ledger
from worker.telemetry.metrics import Metrics

log = logging.getLogger("worker.source")

LOST_SECONDS: Final = 30.0  # after which a commit without an answer no longer delays the next one


class Commits:
    """Commits offsets and enters the answers into the ledger.

    `begin` and `commit_now` are called by the main loop. `enter_answer` is called by whichever thread has the answer.
    """

    def __init__(
        self,
        ledger: Ledger,
        metrics: Metrics,
        *,
        count_error: Callable[[BaseException], None],
        on_fenced: Callable[[], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`on_fenced` is called where the answer says that another process has this one's `group_instance_id`."""
        self._ledger = ledger
        self._metrics = metrics
        self._count_error = count_error
        self._on_fenced = on_fenced
        self._clock = clock
        self._wall = wall
        self._committing_since: float | None = None

    def reset(self) -> None:
        """Expect no more answers: the consumer that would get them has been replaced."""
        self._committing_since = None

    def begin(self, consumer: Any, offsets: Mapping[Assignment, int]) -> bool:
        """Begin a commit; return False where another one waits for its answer, or the group rebalances.

        The broker refuses commits in a rebalance; what is revoked in it is committed there.
        """
        now = self._clock()
        if self._committing_since is not None and now - self._committing_since < LOST_SECONDS:
            return False
        if consumer.group_metadata().state != MemberState.STABLE:
            return False
        self._committing_since = now
        sent = dict(offsets)
        try:
            consumer.commit_async(for_client(sent), callback=lambda _, result: self.enter_answer(sent, result))
        except kafka_errors.KafkaError as error:
            self.enter_answer(sent, error)
        return True

    def commit_now(self, consumer: Any, offsets: Mapping[Assignment, int], timeout: float) -> bool:
        """Commit and wait `timeout` seconds at most; return whether the broker acknowledged."""
        sent = dict(offsets)
        try:
            consumer.commit(for_client(sent), timeout_ms=max(1, round(timeout * 1000)))
        except kafka_errors.KafkaError as error:
            self.enter_answer(sent, error)
            return False
        self.enter_answer(sent, None)
        return True

    def enter_answer(self, offsets: Mapping[Assignment, int], result: object) -> None:
        """Enter what became of a commit: an exception where it failed."""
        self._committing_since = None
        if not isinstance(result, BaseException):
            self._metrics.commits.labels("ok").inc()
            self._metrics.last_commit.set(self._wall())
            if any(assignment.committed != offset for assignment, offset in offsets.items()):
                self._metrics.committed_moved.set(self._wall())
            self._ledger.committed(dict(offsets))
            return
        self._metrics.commits.labels("failed").inc()
        self._count_error(result)
        if isinstance(result, kafka_errors.FencedInstanceIdError):
            self._on_fenced()
        else:
            log.warning("commit failed", extra={"error": client_config.describe(result)})


def for_client(offsets: Mapping[Assignment, int]) -> dict[Any, Any]:
    """Return offsets in the form that the client's calls need, each with the leader's epoch of the record before it."""
    return {
        TopicPartition(*assignment.partition): OffsetAndMetadata(offset, "", assignment.leader_epoch_at(offset))
        for assignment, offset in offsets.items()
    }
