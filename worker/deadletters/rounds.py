"""Writes the dead letters that wait, a round at a time: send all of it, wait once for all, settle each or keep it.

A round is bounded, because none of its dead letters is settled before all are acknowledged or have failed.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from worker.deadletters.blocks import Unavailable
from worker.deadletters.entry import Entry, Problem, RetryCause, drop_given_back
from worker.deadletters.lease_check import LeaseCheck
from worker.deadletters.retry_queue import RetryQueue
from worker.deadletters.sender import Sender
from worker.deadletters.settlement import Settlement
from worker.errors import NotSent
from worker.ledger import Ledger

KEPT_BYTES: Final = 16 * 1024 * 1024  # of dead letters that wait for the broker; what is beyond is read again
_ROUND_COUNT: Final = 100  # dead letters of one round
_ROUND_BYTES: Final = 4 * 1024 * 1024  # so much is sent in the time for one, also where broker or machine is slow
_ISOLATE_AFTER: Final = 3  # failures of one dead letter, while others are acknowledged


class Rounds:
    """The dead letters that may be written, and the rounds that write them. `clock` is in monotonic seconds."""

    def __init__(
        self,
        *,
        sender: Sender,
        retries: RetryQueue,
        settlement: Settlement,
        unavailable: Unavailable,
        ledger: Ledger,
        lease: LeaseCheck,
        retry_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._sender = sender
        self._retries = retries
        self._settlement = settlement
        self._unavailable = unavailable
        self._ledger = ledger
        self._lease = lease
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._waiting: list[Entry] = []
        self._next_at = 0.0

    @property
    def waiting(self) -> Sequence[Entry]:
        """Return the dead letters that are not written yet."""
        return self._waiting

    @property
    def next_at(self) -> float:
        """Return when the next round may begin."""
        return self._next_at

    def add(self, entries: Sequence[Entry]) -> None:
        """Add dead letters that may be written."""
        self._waiting.extend(entries)

    def drop_given_back(self) -> None:
        """Discard the dead letters whose partition was given back."""
        self._waiting = drop_given_back(self._waiting, self._ledger)

    def write(self, is_stopping: Callable[[], bool]) -> None:
        """Write until each is acknowledged or in the retry queue, or the broker accepts no more for now."""
        while self._waiting and not is_stopping() and self._clock() >= self._next_at and self._lease.may_write():
            count = _round_count(self._waiting)
            some, rest = self._waiting[:count], self._waiting[count:]
            self._waiting = rest + self._write_round(some)
        self._release_bytes()

    def _release_bytes(self) -> None:
        """Release the bytes of dead letters that wait for the broker, beyond `KEPT_BYTES`."""
        kept, size = [], 0
        for entry in self._waiting:
            size += entry.bytes
            if size <= KEPT_BYTES:
                kept.append(entry)
            else:
                message = f"the dead letter of {entry} waits for the dead-letter topic"
                self._retries.add(entry, RetryCause.NO_ROOM, message)
        self._waiting = kept

    def _write_round(self, entries: list[Entry]) -> list[Entry]:
        """Send all, wait for each; returns those to retry, those that were not tried first.

        Where one is at fault itself, those that failed beside it are sent again, each alone: they shared a record batch.
        """
        departed = [entry for entry in entries if self._ledger.begin_request((entry.assignment,))]
        # The others: the lease has run out since, or their partition was given back.
        left_out = drop_given_back([entry for entry in entries if entry not in departed], self._ledger)
        problems = self._sender.attempt(departed)
        if len(departed) > 1 and any(problem is not None and problem.is_own for problem in problems):
            problems = self._attempt_alone(departed, problems)
        failed: list[tuple[bool, Entry]] = [(False, entry) for entry in left_out]
        for entry, first_problem in zip(departed, problems, strict=True):
            if (problem := self._conclude(entry, first_problem)) is not None:
                failed.append((problem.was_tried, entry))
        if departed and not failed:
            self._unavailable.unblock()
        for entry in departed:
            self._ledger.end_request((entry.assignment,))
        return [entry for _, entry in sorted(failed, key=lambda one: one[0])]

    def _attempt_alone(self, entries: list[Entry], problems: list[Problem | None]) -> list[Problem | None]:
        """Send each that failed alone. After a failure of the broker the others are not tried."""
        found: list[Problem | None] = []
        broker_failed: Problem | None = None
        for entry, problem in zip(entries, problems, strict=True):
            if problem is None or broker_failed is not None:
                found.append(None if problem is None else broker_failed)
                continue
            (alone,) = self._sender.attempt([entry])
            if alone is not None and alone.is_of_the_broker:
                broker_failed = alone._replace(was_tried=False)
            found.append(alone)
        return found

    def _conclude(self, entry: Entry, problem: Problem | None) -> Problem | None:
        """Settle a dead letter, or queue it to be retried alone; returns the problem where it is retried with the others.

        A failure of the broker delays the next round.
        """
        if problem is not None and problem.is_own:
            problem = self._sender.attempt_reference(entry, problem)
        if problem is None:
            self._settlement.settle(entry)
        elif isinstance(problem.error, NotSent):
            return problem
        elif problem.is_own:
            self._retries.add(entry, RetryCause.of(problem), entry.not_written(problem))
        elif self._is_isolated(entry, problem):
            self._retries.add(entry, RetryCause.REFUSED, entry.not_written(problem))
        else:
            self._settlement.count_broker_failure(problem)
            self._unavailable.block(f"the dead letter of {entry} was not accepted: {problem}")
            if self._ledger.may_write:
                self._next_at = self._clock() + self._retry_seconds
            return problem
        return None

    def _is_isolated(self, entry: Entry, problem: Problem) -> bool:
        """Note a failure of the broker, and return whether this dead letter must be its cause: others were acknowledged."""
        if problem.was_tried:
            if not entry.failures:
                entry.acknowledged_before = self._settlement.acknowledged
            entry.failures += 1
        return entry.failures >= _ISOLATE_AFTER and self._settlement.acknowledged > entry.acknowledged_before


def _round_count(entries: Sequence[Entry]) -> int:
    """Return how many of the first dead letters make a round: at least one, which may be of any size."""
    sizes = accumulate(entry.bytes for entry in entries[:_ROUND_COUNT])
    return max(1, sum(size <= _ROUND_BYTES for size in sizes))
