"""What the worker tells of itself: its state with the reason, and what blocks which topic.

Written by the threads that know, read by metrics and health. It has a lock of its own, for nothing here decides about
records.
"""

import logging
import threading
from enum import StrEnum
from typing import NamedTuple

from worker.errors import BlockReason

log = logging.getLogger(__name__)


class State(StrEnum):
    """The worker's state; the label `state` of the metric `oss_vectors_state`."""

    STARTING = "starting"
    RUNNING = "running"
    BLOCKED = "blocked"  # no assigned partition can move
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Reading(NamedTuple):
    """One reading of the status. `blocks` has a message for each topic and reason."""

    state: State
    reason: str
    blocks: dict[tuple[str, BlockReason], str]
    last_turn: float


class Status:
    """The state and the blocks of this process."""

    def __init__(self, now: float) -> None:
        self._lock = threading.Lock()
        self._state = State.STARTING
        self._reason = "starting"
        self._blocks: dict[tuple[str, BlockReason], str] = {}
        self._last_turn = now

    def enter(self, state: State, reason: str) -> None:
        """Enter a state; a change is logged."""
        with self._lock:
            changed = state is not self._state or (reason != self._reason and state is not State.RUNNING)
            self._state, self._reason = state, reason
        if changed:
            level = logging.WARNING if state in (State.BLOCKED, State.FAILED) else logging.INFO
            log.log(level, "state: %s", state.value, extra={"reason": reason})

    def turned(self, now: float) -> None:
        """Note that the main loop turned, at `now` seconds of the monotonic clock."""
        self._last_turn = now

    def block(self, topic: str, reason: BlockReason, message: str) -> None:
        """Note that a topic's partitions cannot move; the first time is logged."""
        with self._lock:
            new = (topic, reason) not in self._blocks
            self._blocks[topic, reason] = message
        if new:
            log.error("blocked", extra={"topic": topic, "reason": reason.value, "error": message})

    def unblock(self, topic: str, reason: BlockReason) -> None:
        """Note that it is over; that too is logged."""
        with self._lock:
            was = self._blocks.pop((topic, reason), None)
        if was is not None:
            log.info("no longer blocked", extra={"topic": topic, "reason": reason.value})

    def blocks_of(self, topic: str) -> list[BlockReason]:
        """Return what blocks a topic now."""
        if not self._blocks:
            return []
        with self._lock:
            return [reason for blocked, reason in self._blocks if blocked == topic]

    def read(self) -> Reading:
        """Return one consistent reading."""
        with self._lock:
            return Reading(self._state, self._reason, dict(self._blocks), self._last_turn)
