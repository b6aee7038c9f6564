"""Handing partitions over in a rebalance: what it does to the ledger, and what it waits for.

All of it runs on the client's IO thread, which may await nothing but the client's own futures and timers. It touches the
ledger, the lease and `commit_async`.
"""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

from kafka import AsyncConsumerRebalanceListener, TopicPartition
from kafka import errors as kafka_errors

from worker.consumer import client_internals
from worker.consumer.commits import Commits
from worker.consumer.partitions import GONE, names_of, pause_at_zero
from worker.lease import Lease
from worker.ledger import Assignment, Ledger, Partition
from worker.telemetry.metrics import Metrics

log = logging.getLogger("worker.source")

COMMIT_SECONDS: Final = 5.0  # for the answer to the last commit of partitions that are revoked
LOOK_SECONDS: Final = 0.02  # between checks whether the wait is over
ABORT_SECONDS: Final = 1.0  # for requests to end whose connection was cut
# Both waits once the worker is to stop: the main loop waits for them.
STOPPING_SECONDS: Final = 0.5


class RevokeHooks(NamedTuple):
    """What a revocation calls: `wake` wakes those that wait to send, `abort` cuts the requests in flight.

    `abort` is called with the numbers of the threads whose requests are to be cut, or with None for all. `is_stopping` returns
    whether the worker is to stop.
    """

    wake: Callable[[], None]
    abort: Callable[[Collection[int] | None], None]
    is_stopping: Callable[[], bool] = lambda: False


class Handover:
    """Assigns partitions and gives them back. Only the client's IO thread calls it; `lose` is also for the main loop."""

    def __init__(
        self,
        *,
        revoke_seconds: float,
        lease: Lease,
        ledger: Ledger,
        metrics: Metrics,
        hooks: RevokeHooks,
        commits: Commits,
        on_end: Callable[[Partition], None],
        clock: Callable[[], float],
    ) -> None:
        """`on_end` is called for each partition whose ownership ended."""
        self._revoke_seconds = revoke_seconds
        self._lease = lease
        self._ledger = ledger
        self._metrics = metrics
        self._hooks = hooks
        self._commits = commits
        self._on_end = on_end
        self._clock = clock
        self.commit_seconds = COMMIT_SECONDS
        """How long the last commit may wait for its answer; less while the worker leaves the group."""

    def assign(self, consumer: Any, assigned: Iterable[TopicPartition]) -> None:
        """Pause newly assigned partitions at offset 0; the main loop opens them."""
        for tp in sorted(assigned):
            with contextlib.suppress(*GONE):
                pause_at_zero(consumer, tp)
                self._ledger.assign(Partition(tp.topic, tp.partition))
        self._metrics.rebalances.labels("assigned").inc()
        log.info("partitions assigned", extra={"partitions": names_of(assigned)})

    async def revoke(self, consumer: Any, revoked: Iterable[TopicPartition]) -> None:
        """Wait for what is in flight, commit, and end the ownership.

        It may be called for the same partitions again while it still runs: the second call finds them closing, waits
        with the first, and commits the same.
        """
        partitions = [Partition(tp.topic, tp.partition) for tp in revoked]
        closing = self._ledger.begin_revoke(partitions)
        if not closing:
            return  # before the first join, and once more when the consumer is closed
        self._metrics.rebalances.labels("revoked").inc()
        await self._wait_for_answers(consumer, closing)
        await self._commit(consumer, closing)
        returned = self._end_and_cut(closing)
        log.info("partitions revoked", extra={"partitions": names_of(revoked), "returned": returned})

    async def _wait_for_answers(self, consumer: Any, closing: Sequence[Assignment]) -> None:
        """Wait until no request with records of these is under way; cut the connections of these after `kafka.revoke_seconds`.

        Requests of an earlier ownership of their partitions count as well: `Ledger.threads_of` says why. Where the lease runs
        out meanwhile, all requests are cut at once, also those of other partitions: another process may write newer versions
        of any. The wait is the client's own timer, so that heartbeats continue. The main loop is in `poll` or `close` all the
        while, where no signal reaches it: this looks whether the worker is to stop.
        """
        self._hooks.wake()
        deadline = self._clock() + self._revoke_seconds
        aborted = lost_lease = is_hurried = False
        while self._ledger.has_requests_in_flight(closing):
            now = self._clock()
            if not is_hurried and self._hooks.is_stopping():
                is_hurried, deadline = True, min(deadline, now + STOPPING_SECONDS)
            loses_lease = not (lost_lease or self._lease.holds())
            if now >= deadline or loses_lease:
                if aborted and not loses_lease:
                    return
                self._hooks.abort(None if loses_lease else self._ledger.threads_of(closing))
                aborted, lost_lease = True, lost_lease or loses_lease
                deadline = now + (STOPPING_SECONDS if is_hurried else ABORT_SECONDS)
            await client_internals.sleep(consumer, LOOK_SECONDS)

    async def _commit(self, consumer: Any, closing: Sequence[Assignment]) -> None:
        """Commit what moved, and wait for the answer, but not for as long as the client would for a silent broker.

        That the client's future succeeds is no answer. Where the group's coordinator is not known, it is the future of the
        look-up, and the commit is sent when that has succeeded.
        """
        offsets = {a: at for a, at in self._ledger.watermarks(closing).items() if at != a.committed}
        if not offsets:
            return
        deadline = self._clock() + self.commit_seconds
        result: object
        try:
            future = consumer.commit_async(self._commits.prepare(offsets))
            while not self._commits.is_answered(offsets):
                if future.is_done:
                    await future  # which raises the error where it failed
                if self._clock() >= deadline:
                    raise kafka_errors.KafkaTimeoutError("no answer to the last commit")  # noqa: TRY301 - one way out for all
                await client_internals.sleep(consumer, LOOK_SECONDS)
            result = self._commits.error_of(offsets)
        except Exception as error:  # whatever it is, the partitions are given back
            result = error
        self._commits.enter_answer(offsets, result)

    def _end(self, assignments: Sequence[Assignment]) -> int:
        """End these periods of ownership, and no later one of a partition that was assigned again meanwhile.

        Return how many records are returned unsettled.
        """
        returned = self._ledger.end(assignments)
        for assignment in assignments:
            self._on_end(assignment.partition)
        self._hooks.wake()
        return returned

    def _end_and_cut(self, assignments: Sequence[Assignment]) -> int:
        """End these periods of ownership, and cut their requests in flight. Return how many records are returned.

        In this order, so that none escapes: a request that begins after the end is refused. One that began before is cut,
        even if it had no connection yet when requests were first cut.
        """
        returned = self._end(assignments)
        if threads := self._ledger.threads_of(assignments):
            self._hooks.abort(threads)
        return returned

    def give_up(self, consumer: Any, lost: Iterable[TopicPartition]) -> None:
        """End the ownership at once: another process may have these already, so nothing is committed.

        The client would still claim them:

        1. It joins again, and claims the partitions that it lost.
        2. The group gives some of them to another member, and withholds them until this one has revoked them.
        3. This one has nothing to revoke. No consumer reads them until the next rebalance.

        So the client is made to forget what it had.
        """
        client_internals.forget_assignment(consumer)
        self.lose(self._ledger.begin_revoke([Partition(tp.topic, tp.partition) for tp in lost]))

    def lose(self, assignments: Sequence[Assignment]) -> None:
        """End ownerships that were not revoked in order.

        The alert on lost partitions sees nothing but the count that is made here.
        """
        self._metrics.rebalances.labels("lost").inc()
        returned = self._end_and_cut(assignments)
        partitions = names_of(assignment.partition for assignment in assignments)
        log.warning("partitions lost", extra={"partitions": partitions, "returned": returned})


class RebalanceListener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """Hands the rebalances of one consumer over while `is_current()`: until that consumer is abandoned."""

    def __init__(self, handover: Handover, consumer: Any, is_current: Callable[[], bool]) -> None:
        self._handover = handover
        self._consumer = consumer
        self._is_current = is_current

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        if self._is_current():
            self._handover.assign(self._consumer, assigned)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        if self._is_current():
            await self._handover.revoke(self._consumer, revoked)

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        if self._is_current():
            self._handover.give_up(self._consumer, lost)
