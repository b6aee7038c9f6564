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


class Block(NamedTuple):
    """What cannot move: a topic, or one partition of it, and why."""

    topic: str
    reason: BlockReason
    partition: int | None = None

    def __str__(self) -> str:
        where = self.topic if self.partition is None else f"{self.topic}/{self.partition}"
        return f"{where}: {self.reason.value}"


class Reading(NamedTuple):
    """One reading of the status. `blocks` has a message for each."""

    state: State
    reason: str
    blocks: dict[Block, str]
    last_turn: float


class Status:
    """The state and the blocks of this process."""

    def __init__(self, now: float) -> None:
        self._lock = threading.Lock()
        self._state = State.STARTING
        self._reason = "starting"
        self._blocks: dict[Block, str] = {}
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

    def block(self, block: Block, message: str) -> None:
        """Note that a topic or partition cannot move; the first time is logged."""
        with self._lock:
            new = block not in self._blocks
            self._blocks[block] = message
        if new:
            log.error("blocked", extra={"what": str(block), "error": message})

    def unblock(self, block: Block) -> None:
        """Note that it is over; that too is logged."""
        if block not in self._blocks:
            return
        with self._lock:
            was = self._blocks.pop(block, None)
        if was is not None:
            log.info("no longer blocked", extra={"what": str(block)})

    def forget(self, topic: str, partition: int) -> None:
        """Drop what was noted of one partition, since it was given back."""
        with self._lock:
            self._blocks = {
                b: message for b, message in self._blocks.items() if (b.topic, b.partition) != (topic, partition)
            }

    def blocks_of(self, topic: str, partition: int) -> list[BlockReason]:
        """Return what blocks a partition, by itself or with its topic."""
        if not self._blocks:
            return []
        with self._lock:
            return [b.reason for b in self._blocks if b.topic == topic and b.partition in (None, partition)]

    def read(self) -> Reading:
        """Return one consistent reading."""
        with self._lock:
            return Reading(self._state, self._reason, dict(self._blocks), self._last_turn)
