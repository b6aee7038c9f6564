"""When offsets are committed: at intervals, without movement now and then, and once more at the end."""

from collections.abc import Callable, Sequence
from typing import Final

from worker.ledger import Assignment, Ledger, Phase
from worker.ports import Source

ANYWAY_SECONDS: Final = 5.0  # a commit shows a static member that another process has replaced it


class Committer:
    """Commits the watermarks of the open partitions. `clock` is in seconds."""

    def __init__(self, source: Source, ledger: Ledger, *, interval_seconds: float, clock: Callable[[], float]) -> None:
        self._source = source
        self._ledger = ledger
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._due_at = 0.0
        self._committed_at = 0.0

    def commit_if_due(self) -> None:
        """Commit the watermarks that moved, once in an interval; all of them where none was committed for `ANYWAY_SECONDS`.

        What moved may be left out of commits for a while, since it was refused. That delays no commit of the others.
        """
        now = self._clock()
        if now < self._due_at:
            return
        self._due_at = now + self._interval_seconds
        assignments = self._open_assignments()
        watermarks = self._ledger.watermarks(assignments)
        moved = {assignment: at for assignment, at in watermarks.items() if at != assignment.committed}
        is_begun = bool(moved) and self._source.commit(moved)
        if not is_begun and watermarks and now - self._committed_at >= ANYWAY_SECONDS:
            is_begun = self._source.commit(watermarks)
        if is_begun:
            self._committed_at = now

    def commit_last(self, timeout: float) -> bool:
        """Commit all watermarks and wait `timeout` seconds at most; returns whether the broker acknowledged."""
        self._open_assignments()
        return self._source.commit_now(self._ledger.watermarks(), timeout)

    def _open_assignments(self) -> Sequence[Assignment]:
        """Return the open partitions. First move the watermark of each with nothing outstanding to its position."""
        found = [assignment for assignment in self._ledger.assignments() if assignment.phase is Phase.OPEN]
        self._source.positions([assignment for assignment in found if not assignment.buffered])
        return found
