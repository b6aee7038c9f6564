"""Commits: what is sent to the group, and what its answer means to the ledger."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import MemberState

from worker.consumer import client_config
from worker.consumer.offset_requests import error_of
from worker.ledger import Assignment, Ledger, Partition, Phase
from worker.telemetry.metrics import Metrics

log = logging.getLogger("worker.source")

LOST_SECONDS: Final = 30.0  # after which a commit without an answer no longer delays the next one
REFUSED_SECONDS: Final = 30.0  # for which a partition is left out of commits after one of it was refused

_NO_ERROR: Final = 0
_REFUSALS: Final[Mapping[int, type[kafka_errors.KafkaError]]] = {
    error.errno: error
    for error in (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.TopicAuthorizationFailedError)
}
"""The codes of one partition that say nothing about the others."""


class Answered(NamedTuple):
    """What the broker answered about one partition: the offset that was to be committed, and the code."""

    offset: int
    code: int


class Commits:
    """Commits offsets and enters the answers into the ledger.

    `begin` and `commit_now` are called by the main loop. `enter_answer` is called by whichever thread has the answer.

    The client raises one error for a commit of which one partition was refused, although the broker has accepted the others:
    a topic that was deleted, or may not be read any more. So the answers are noted for each partition, as they come.
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
        show: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_fenced` is called where the answer says that another process has this one's `group_instance_id`.

        `show` shows a person what is refused; "" where nothing is.
        """
        self._ledger = ledger
        self._metrics = metrics
        self._count_error = count_error
        self._on_fenced = on_fenced
        self._clock = clock
        self._wall = wall
        self._show = show
        self._committing_since: float | None = None
        self._answered: dict[Partition, Answered] = {}
        self._lock = threading.Lock()  # guards `_refused`, and that the newest of it is shown
        self._refused: dict[Assignment, tuple[str, float]] = {}  # why, and until when it is left out

    def reset(self) -> None:
        """Expect no more answers: the consumer that would get them has been replaced."""
        self._committing_since = None

    def begin(self, consumer: Any, offsets: Mapping[Assignment, int]) -> bool:
        """Begin a commit; return False where another one waits for its answer, or the group rebalances.

        The broker refuses commits in a rebalance; what is revoked in it is committed there.
        """
        self._forget_fenced()
        now = self._clock()
        if self._committing_since is not None and now - self._committing_since < LOST_SECONDS:
            return False
        if consumer.group_metadata().state != MemberState.STABLE:
            return False
        sent = {one: at for one, at in offsets.items() if not self._is_left_out(one, now)}
        if not sent:
            return False
        self._committing_since = now
        try:
            consumer.commit_async(self.prepare(sent), callback=lambda _, result: self.enter_answer(sent, result))
        except Exception as error:  # where the client's IO thread has ended, it raises what ended that
            self.enter_answer(sent, error)
        return True

    def commit_now(self, consumer: Any, offsets: Mapping[Assignment, int], timeout: float) -> bool:
        """Commit and wait `timeout` seconds at most; return whether the broker acknowledged all of it.

        The client repeats a commit of which one topic does not exist until the time is over. So half of it is for all
        partitions, and the rest for those that were neither accepted nor refused.
        """
        deadline = self._clock() + timeout
        sent = {one: at for one, at in offsets.items() if one not in self._refused}
        if not sent:
            return False
        error = self._commit(consumer, sent, timeout / 2)
        rest = {one: at for one, at in sent.items() if not self._is_decided(one.partition, at)}
        if rest and isinstance(error, kafka_errors.KafkaTimeoutError):
            decided = {one: at for one, at in sent.items() if one not in rest}
            if decided:
                self.enter_answer(decided, error)
            sent, error = rest, self._commit(consumer, rest, deadline - self._clock())
        self.enter_answer(sent, error)
        return all(assignment.committed == at for assignment, at in offsets.items())

    def _commit(self, consumer: Any, offsets: Mapping[Assignment, int], timeout: float) -> BaseException | None:
        """Commit and wait; return the client's error."""
        try:
            consumer.commit(self.prepare(offsets), timeout_ms=max(1, round(timeout * 1000)))
        except Exception as error:  # as in `begin`
            failure: BaseException = error
            return failure
        return None

    def prepare(self, offsets: Mapping[Assignment, int]) -> dict[Any, Any]:
        """Forget older answers about these partitions, and return their offsets in the form that the client's calls need.

        Each has the leader's epoch of the record before it, and names the log that was read: a topic of the same name that
        is created later has the same offsets.
        """
        for assignment in offsets:
            self._answered.pop(assignment.partition, None)
        return {
            TopicPartition(*assignment.partition): OffsetAndMetadata(
                offset, assignment.log_id, assignment.leader_epoch_at(offset)
            )
            for assignment, offset in offsets.items()
        }

    # -- answers

    def note_answer(self, answered: Mapping[Partition, Answered]) -> None:
        """Note what the broker answered about each partition. The client's IO thread calls it, before `enter_answer`."""
        self._answered.update(answered)

    def is_answered(self, offsets: Mapping[Assignment, int]) -> bool:
        """Return whether the broker has answered to a commit of these offsets since `prepare`."""
        answered = {one: self._answered.get(one.partition) for one in offsets}
        return all(found is not None and found.offset == offsets[one] for one, found in answered.items())

    def error_of(self, offsets: Mapping[Assignment, int]) -> BaseException | None:
        """Return what the broker refused of a commit that it has answered, None where it has accepted all."""
        codes = {self._answered[one.partition].code for one in offsets} - {_NO_ERROR}
        return error_of(min(codes, default=None))

    def enter_answer(self, offsets: Mapping[Assignment, int], result: object) -> None:
        """Enter what became of a commit: an exception where it failed, or a part of it.

        Only what the broker has said of each partition counts. The client also regards a partition as committed that the
        answer leaves out.
        """
        self._committing_since = None
        answered = {one: self._answered.get(one.partition) for one in offsets}
        accepted = {one: at for one, at in offsets.items() if answered[one] == (at, _NO_ERROR)}
        if accepted:
            self._enter_accepted(accepted)
        if not isinstance(result, BaseException):
            return
        self._metrics.commits.labels("failed").inc()
        self._count_error(result)
        refused = {one: _REFUSALS[of.code] for one, of in answered.items() if of and of.code in _REFUSALS}
        if isinstance(result, kafka_errors.FencedInstanceIdError):
            self._on_fenced()
        elif refused:
            self._enter_refused(refused)
        else:
            log.warning("commit failed", extra={"error": client_config.describe(result)})

    def _enter_accepted(self, offsets: Mapping[Assignment, int]) -> None:
        self._metrics.commits.labels("ok").inc()
        self._metrics.last_commit.set(self._wall())
        if any(assignment.committed != offset for assignment, offset in offsets.items()):
            self._metrics.committed_moved.set(self._wall())
        self._ledger.committed(dict(offsets))
        for assignment in offsets:
            self.forget(assignment.partition)

    # -- partitions that are refused

    def _enter_refused(self, refused: Mapping[Assignment, type[kafka_errors.KafkaError]]) -> None:
        until = self._clock() + REFUSED_SECONDS
        for topic, error in sorted({(one.partition.topic, error.__name__) for one, error in refused.items()}):
            log.warning("commit failed", extra={"topic": topic, "error": error})
        with self._lock:
            self._refused.update({one: (error.__name__, until) for one, error in refused.items()})
            self._show_refused()

    def forget(self, partition: Partition) -> None:
        """Forget that the commit of a partition was refused: it was accepted, or is no longer owned. Any thread may call it."""
        with self._lock:
            found = [one for one in self._refused if one.partition == partition]
            for assignment in found:
                del self._refused[assignment]
            if found:
                self._show_refused()

    def _forget_fenced(self) -> None:
        """Show no longer what was refused of partitions that begin again, in another log or elsewhere."""
        with self._lock:
            if any(one.phase is Phase.FENCED for one in self._refused):
                self._show_refused()

    def _show_refused(self) -> None:
        """Show and count what is refused of what is still owned.

        The answer to a commit may be entered after the partition was given back, for which `forget` was called then.
        """
        self._refused = {one: why for one, why in self._refused.items() if one.phase is not Phase.FENCED}
        reasons = sorted({f"{one.partition.topic} ({why})" for one, (why, _) in self._refused.items()})
        counts = Counter(one.partition.topic for one in self._refused)
        for topic in self._metrics.topics:
            self._metrics.refused_commit_partitions.labels(topic).set(counts[topic])
        self._show(f"commits are refused for {', '.join(reasons)}" if reasons else "")

    def _is_left_out(self, assignment: Assignment, now: float) -> bool:
        refused = self._refused.get(assignment)
        return refused is not None and now < refused[1]

    def _is_decided(self, partition: Partition, offset: int) -> bool:
        """Return whether the broker has accepted this offset, or refused the partition."""
        answered = self._answered.get(partition)
        return answered is not None and (answered == (offset, _NO_ERROR) or answered.code in _REFUSALS)
