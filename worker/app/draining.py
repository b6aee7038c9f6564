"""Draining: finish what is in flight, commit and leave the group, all within `shutdown.drain_seconds`."""

import logging
from typing import Final

from worker.app.committer import Committer
from worker.app.components import Components
from worker.app.connection import Connection
from worker.app.intake import Intake
from worker.telemetry.state import State

log = logging.getLogger("worker.loop")

LEAVE_SECONDS: Final = 5.0  # of the drain, kept for the last commit and for leaving the group
DEAD_LETTERS_SECONDS: Final = 0.5  # for the thread of the dead letters to end
_LEAST_SECONDS: Final = 0.5  # for the last commit, and for leaving, however late it is
_POLL_SECONDS: Final = 0.05
_TRACES_SECONDS: Final = 3.0  # for the last spans, at most, while nothing else is left to do


class Drain:
    """Runs once, when the worker is to stop."""

    def __init__(self, components: Components, connection: Connection, intake: Intake, committer: Committer) -> None:
        self._source = components.source
        self._lanes = components.lanes
        self._dead_letters = components.dead_letters
        self._traces = components.traces
        self._ledger = components.ledger
        self._status = components.status
        self._clock = components.clock
        self._seconds = components.settings.shutdown.drain_seconds
        self._connection = connection
        self._intake = intake
        self._committer = committer

    def run(self) -> None:
        """Drain. What is not settled when the time is up comes again, to the next owner of its partition."""
        self._status.enter(State.DRAINING, "stop requested")
        deadline = self._clock() + self._seconds
        self._intake.seal_all()
        self._finish_in_flight(deadline - min(LEAVE_SECONDS, self._seconds / 2))
        for lane in self._lanes.values():
            lane.stop()
        self._dead_letters.stop(DEAD_LETTERS_SECONDS)
        self._traces.flush()
        if left := self._leave(deadline):
            log.warning("not settled in time; these come again", extra={"records": left})
        self._traces.close(min(_TRACES_SECONDS, max(0.0, deadline - self._clock())))

    def _finish_in_flight(self, deadline: float) -> None:
        while self._connection.is_up and not self._is_idle() and self._clock() < deadline:
            self._status.turned(self._clock())
            self._source.steer({})
            self._track_without_taking_in()

    def _track_without_taking_in(self) -> None:
        """Poll, to remain a member. Messages that still come are tracked, so that the watermark stays before them."""
        for assignment, messages in self._connection.poll_while_draining(_POLL_SECONDS):
            self._intake.track(assignment, [message.offset for message in messages])

    def _is_idle(self) -> bool:
        """Return whether nothing is in flight. The lanes come first: what ends there last may become a dead letter."""
        return all(lane.is_idle for lane in self._lanes.values()) and self._dead_letters.is_idle

    def _leave(self, deadline: float) -> int:
        """Commit and leave the group; returns how many records are not settled."""
        if not self._connection.is_up:
            return self._ledger.outstanding()
        if not self._committer.commit_last(max(_LEAST_SECONDS, deadline - self._clock()) / 2):
            log.warning("the last commit failed: what was settled since the one before comes again")
        left = self._ledger.outstanding()  # leaving fences them; after that none is outstanding
        self._connection.close(max(_LEAST_SECONDS, (deadline - self._clock()) / 2))
        return left
