"""Dead letters that are retried alone, each from its record in the source topic, while the topic accepts the others.

Each blocks its own partition, and keeps the record's place alone: the bytes of many would fill the buffer and pause every
partition.
"""

import logging
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Protocol

from worker.deadletters.blocks import Unavailable
from worker.deadletters.entry import Entry, Problem, RetryCause, drop_given_back
from worker.deadletters.lease_check import LeaseCheck
from worker.deadletters.sender import Sender
from worker.deadletters.settlement import Settlement
from worker.errors import NotSent
from worker.ledger import Assignment, Ledger, Partition
from worker.ports import Message
from worker.telemetry.state import Status

log = logging.getLogger("worker.deadletter")

_GONE: Final = "the record is gone from the source topic"
_UNREADABLE_SECONDS: Final = 30.0  # of a pass, if a partition cannot be read; all other dead letters wait meanwhile
_BLAMES_NOT_THE_BROKER: Final = 3  # failures of one dead letter, after which it shows no longer that the broker is away


class RecordSource(Protocol):
    """Where a record is read again."""

    def read(self, partition: Partition, offset: int) -> Message | None:
        """Return the record, None where it is gone. Raises kafka-python's errors."""

    def close(self) -> None:
        """Close what reading opened; it may be read from again."""


class _Result(Enum):
    """What one retry came to."""

    DONE = "written, or given back"
    FAILED = "not written"
    UNREADABLE = "the source topic cannot be read"


class RetryQueue:
    """Retries dead letters now and then, the smallest first; the topic's limit may have been raised."""

    def __init__(
        self,
        *,
        source: RecordSource,
        sender: Sender,
        settlement: Settlement,
        unavailable: Unavailable,
        status: Status,
        ledger: Ledger,
        lease: LeaseCheck,
        retry_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._sender = sender
        self._settlement = settlement
        self._unavailable = unavailable
        self._status = status
        self._ledger = ledger
        self._lease = lease
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._entries: list[Entry] = []
        self._failed_reads: dict[Assignment, int] = {}  # of those that could not be read the last time
        self._next_at = 0.0

    @property
    def entries(self) -> Sequence[Entry]:
        """Return the dead letters that are retried."""
        return self._entries

    @property
    def next_at(self) -> float:
        """Return when the next retry is due."""
        return self._next_at

    @property
    def has_some_without_room(self) -> bool:
        """Return whether one is here only because it waited for the broker and its bytes were released.

        One whose partition cannot be read does not count, nor one that failed often: while every topic is blocked for it, no
        other dead letter comes that would show whether the broker accepts any.
        """
        return any(
            entry.retry_cause is RetryCause.NO_ROOM
            and entry.assignment not in self._failed_reads
            and entry.failures < _BLAMES_NOT_THE_BROKER
            for entry in self._entries
        )

    def add(self, entry: Entry, cause: RetryCause, message: str) -> None:
        """Block the dead letter's partition alone, with this message, and release its bytes."""
        if cause is not RetryCause.NO_ROOM:
            self._settlement.count_failed_write()
        self._status.block(entry.own_block, message, retry_in=self._retry_seconds)
        entry.retry_cause, entry.failures = cause, 0
        entry.release_bytes(self._ledger)
        if not self._entries:
            self._next_at = self._clock() + self._retry_seconds
        self._entries.append(entry)

    def drop_given_back(self) -> None:
        """Discard the dead letters whose partition was given back, and end what they blocked."""
        self._keep(drop_given_back(self._entries, self._ledger))

    def retry_due(self, is_stopping: Callable[[], bool]) -> None:
        """Retry all, if it is time for that and the lease holds.

        A partition that cannot be read costs seconds. So only one of its dead letters is tried, behind those of all others.
        """
        if not self._entries or self._clock() < self._next_at or not self._lease.may_write():
            return
        began = self._clock()
        failed: set[RetryCause | None] = set()
        unreadable: set[Assignment] = set()
        left: list[Entry] = []
        for entry in sorted(self._entries, key=self._order):
            is_late = bool(unreadable) and self._clock() - began >= _UNREADABLE_SECONDS
            is_in_vain = entry.assignment in unreadable or entry.retry_cause in failed
            if is_stopping() or is_late or is_in_vain:
                left.append(entry)
                continue
            result = self._retry(entry)
            if result is _Result.UNREADABLE:
                unreadable.add(entry.assignment)
            elif result is _Result.FAILED:
                failed.add(entry.retry_cause)
            if result is not _Result.DONE:
                left.append(entry)
        self._source.close()
        self._keep(left)
        self._next_at = self._clock() + self._retry_seconds

    def _order(self, entry: Entry) -> tuple[int, int, int]:
        """Those come first whose partition, and which themselves, failed least; where the size is at fault, the smallest."""
        failures = 0 if entry.retry_cause is RetryCause.TOO_LARGE else entry.failures
        return self._failed_reads.get(entry.assignment, 0), failures, entry.bytes

    def _keep(self, left: list[Entry]) -> None:
        """Keep these, and end what only the others blocked."""
        blocks = {entry.own_block for entry in self._entries} - {entry.own_block for entry in left}
        self._entries = left
        assignments = {entry.assignment for entry in left}
        self._failed_reads = {one: count for one, count in self._failed_reads.items() if one in assignments}
        for block in blocks:
            self._status.unblock(block)

    def _retry(self, entry: Entry) -> _Result:
        """Read a dead letter's record again and write it."""
        try:
            message = self._source.read(entry.partition, entry.offset)
            is_there = message is not None and entry.restore(message, self._ledger)
        except Exception as error:  # the client raises errors of every kind; each is reported and retried
            self._source.close()
            self._failed_reads[entry.assignment] = self._failed_reads.get(entry.assignment, 0) + 1
            unread = Problem(error, is_own=False)
            self._note_failure(entry, f"the record of {entry} cannot be read again: {unread}", unread)
            return _Result.UNREADABLE
        self._failed_reads.pop(entry.assignment, None)
        if not self._ledger.begin_request((entry.assignment,)):
            return self._given_back_or_failed(entry)
        problem = self._write(entry, is_there=is_there)
        self._ledger.end_request((entry.assignment,))
        if problem is None:
            self._unavailable.unblock()
            return _Result.DONE
        entry.release_bytes(self._ledger)
        if isinstance(problem.error, NotSent):
            return self._given_back_or_failed(entry)
        if problem.is_own:
            entry.retry_cause = RetryCause.of(problem)
        self._note_failure(entry, entry.not_written(problem), problem)
        return _Result.FAILED

    def _given_back_or_failed(self, entry: Entry) -> _Result:
        """Discard a dead letter that may not be sent, since its partition was given back; else the lease has run out."""
        if entry.assignment.is_live:
            entry.release_bytes(self._ledger)
            return _Result.FAILED
        self._ledger.discard([entry.dead_letter])
        return _Result.DONE

    def _write(self, entry: Entry, *, is_there: bool) -> Problem | None:
        """Write it, as a reference where its record is gone, and settle it; returns why it was not written."""
        (problem,) = self._sender.attempt([entry], why="" if is_there else _GONE)
        if problem is not None and problem.is_own and is_there:
            problem = self._sender.attempt_reference(entry, problem)
        if problem is not None:
            return problem
        self._settlement.settle(entry)
        if not is_there:
            topic, partition = entry.partition
            log.error(
                "%s; its dead letter is a reference",
                _GONE,
                extra={"topic": topic, "partition": partition, "offset": entry.offset},
            )
        return None

    def _note_failure(self, entry: Entry, message: str, problem: Problem) -> None:
        entry.failures += 1
        self._settlement.count_broker_failure(problem)
        self._status.block(entry.own_block, message, retry_in=self._retry_seconds)
