"""Steering: which partitions are fetched now, which are paused, and which cannot move at all."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from worker.errors import BlockReason
from worker.ledger import Assignment, Ledger, Phase
from worker.ports import Source
from worker.settings.tables import Buffer
from worker.telemetry.page.words import duration
from worker.telemetry.service import SHOWN_AFTER_SECONDS
from worker.telemetry.state import Block, Status

OLD_SECONDS: Final = 60.0  # a record without an outcome; in a mere backlog few are older
RESUME_SHARE: Final = 0.75  # of a limit: what was paused at the limit is resumed below this share of it


class Steering:
    """Pauses what is blocked, behind, too far ahead of its watermark, or more than the buffer holds; resumes it afterwards."""

    def __init__(
        self, settings: Buffer, indexes: Mapping[str, Sequence[str]], source: Source, ledger: Ledger, status: Status
    ) -> None:
        """`indexes` are those that the records of each topic go to."""
        self._indexes = indexes
        self._settings = settings
        self._source = source
        self._ledger = ledger
        self._status = status
        self._is_full = False
        self._too_far_ahead: set[Assignment] = set()

    def steer(self, now: float, behind: Collection[Assignment] = ()) -> None:
        """Pause and resume partitions as the buffer, their spans and the blocks are now, in the clock's seconds.

        Those of `behind` are paused: the main loop has read more of them than it had time for.
        """
        self._is_full = is_above(self._ledger.buffer_bytes, self._settings.max_bytes, was_above=self._is_full)
        assignments, span = self._ledger.assignments(), self._settings.max_offset_span
        self._too_far_ahead = {a for a in assignments if is_above(a.span, span, was_above=a in self._too_far_ahead)}
        self._source.steer({each: each not in behind and self._is_wanted(each) for each in assignments})
        self._status.warn("too far ahead", self._why_not_read_on(now))

    def _why_not_read_on(self, now: float) -> str:
        """Return which partition is not read on behind a record without an outcome, though no block says so; "" if none is."""
        waiting = [each for each in self._too_far_ahead if not self._status.blocks_of(*each.partition)]
        first = max(waiting, key=lambda each: each.oldest_unsettled_age(now), default=None)
        if first is None or (age := first.oldest_unsettled_age(now)) < OLD_SECONDS:
            return ""
        return (
            f"{first.partition} is not read on: its record at offset {first.watermark} has had no outcome for {duration(age)}, "
            f"and {first.span:,} offsets have been read from there on (buffer.max_offset_span)"
        )

    def _is_wanted(self, assignment: Assignment) -> bool:
        if self._is_full or assignment.phase is not Phase.OPEN or assignment in self._too_far_ahead:
            return False
        reasons = self._status.blocks_of(*assignment.partition)
        return not reasons or all(reason.is_still_fetched for reason in reasons)

    def is_blocked(self, assignment: Assignment) -> bool:
        """Return whether what blocks a partition keeps all of its records from moving.

        A stuck record alone does so only while no later one can pass: they are not fetched, or their indexes accept nothing.
        """
        reasons = self._status.blocks_of(*assignment.partition)
        if any(reason is not BlockReason.RECORD_STUCK for reason in reasons) or assignment in self._too_far_ahead:
            return bool(reasons)
        return bool(reasons) and self._accepts_nothing(assignment)

    def _accepts_nothing(self, assignment: Assignment) -> bool:
        """Return whether no index has accepted a record since one was stuck, or lately, where the buffer is full.

        So a few records that pass now and then do not change the state to and fro.
        """
        seconds = self._status.seconds_of(Block.of(assignment.partition, BlockReason.RECORD_STUCK))
        if self._is_full:
            seconds = min(seconds, SHOWN_AFTER_SECONDS)
        return all(
            self._status.service.accepts_nothing(index, seconds) for index in self._indexes[assignment.partition.topic]
        )


def is_above(value: int, limit: int, *, was_above: bool) -> bool:
    """Return whether a value counts as above its limit: from the limit on, until it is below `RESUME_SHARE` of it.

    Without this hysteresis a partition would be paused and resumed with every batch.
    """
    return value >= limit or (was_above and value >= limit * RESUME_SHARE)
