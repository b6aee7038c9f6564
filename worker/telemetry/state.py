"""The state of the worker with its reason, what blocks which topic, and the last dead letters.

The threads that know it write it; metrics, health and the page read it. It has a lock of its own, since nothing here
decides what happens to a record.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import islice
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from worker.errors import BlockReason, Reason
from worker.telemetry.service import Service
from worker.words import and_more, clean, with_room

log = logging.getLogger("worker.state")

REASON_CHARACTERS: Final = 4000
BLOCKS_NAMED: Final = 10  # in words, at most
WARNINGS_NAMED: Final = 5
BLOCKS_CHARACTERS: Final = 3000  # of all blocks that are named
WARNINGS_CHARACTERS: Final = 1000
_MESSAGE_CHARACTERS: Final = 1000
DEAD_LETTERS_KEPT: Final = 3  # of each reason, so that many of one do not replace the few of another


class State(StrEnum):
    """The worker's state; the label `state` of the metric `oss_vectors_state`."""

    STARTING = "starting"
    RUNNING = "running"
    BLOCKED = "blocked"  # no assigned partition makes progress, or no topic exists
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Block(NamedTuple):
    """What makes no progress: a topic, one partition of it, or its records for one of its indexes, and why."""

    topic: str
    reason: BlockReason
    partition: int | None = None
    of_index: str | None = None  # where the topic's other indexes make progress

    @classmethod
    def of(cls, partition: tuple[str, int], reason: BlockReason) -> "Block":
        """Return the block of one partition, which is given by its topic and number."""
        topic, number = partition
        return cls(topic, reason, number)

    @property
    def fields(self) -> dict[str, str | int]:
        """The block as fields of a log line; `partition` and `index` only where it is of one of them."""
        partition = {} if self.partition is None else {"partition": self.partition}
        index = {} if self.of_index is None else {"index": self.of_index}
        return {"topic": self.topic, **partition, **index, "reason": self.reason.value}

    def __str__(self) -> str:
        where = self.topic if self.partition is None else f"{self.topic}/{self.partition}"
        return f"{where}: {self.reason.value}"


class Attempts(msgspec.Struct, frozen=True):
    """How a block is retried: since when it is in force, how many attempts were made, and when it is tried next.

    Times are in seconds of the monotonic clock. `next_at` is None where nothing is tried before a person acts.
    """

    since: float
    count: int
    next_at: float | None


class DeadLettered(NamedTuple):
    """Where a dead letter came from, and why. It contains nothing of the record. `at` is Unix time in seconds."""

    topic: str
    partition: int
    offset: int
    reason: Reason
    at: float


class _Words(NamedTuple):
    """The message of a block, and the rest of it, which may quote a record."""

    message: str
    quote: str

    def __str__(self) -> str:
        return f"{self.message}: {self.quote}" if self.quote else self.message


class _Held(NamedTuple):
    """What one owner reports of a block."""

    words: _Words
    attempts: Attempts


class Reading(NamedTuple):
    """One reading of the status. `blocks` has a message for each, which may quote a record.

    `title` has the reason in a few words where the state's name says too little, else it is "".
    """

    state: State
    reason: str
    blocks: dict[Block, str]
    last_turn: float
    title: str = ""


class Status:
    """The state and the blocks of this process. `clock` is in monotonic seconds."""

    def __init__(
        self,
        now: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        indexes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`indexes` has how many indexes the records of a topic go to, where they are several."""
        self.service = Service(clock)
        """What the service did lately."""
        self._clock = clock
        self._indexes = indexes
        self._lock = threading.Lock()
        self._state = State.STARTING
        self._reason = "starting"
        self._title = ""
        self._blocks: dict[Block, dict[str, _Held]] = {}  # by who holds it
        self._reasons: dict[str, dict[int | None, list[BlockReason]]] = {}  # of the blocks, by topic and partition
        self._dead_letters: dict[Reason, deque[DeadLettered]] = {}
        self._warnings: dict[str, str] = {}
        self._last_turn = now

    def enter(self, state: State, reason: str, title: str = "") -> None:
        """Enter a state; a change is logged. `title` has the reason in a few words where the state's name says too little."""
        reason = clean(reason, REASON_CHARACTERS)
        with self._lock:
            changed = state is not self._state or (reason != self._reason and state is not State.RUNNING)
            self._state, self._reason, self._title = state, reason, title
        if changed:
            level = logging.WARNING if state in (State.BLOCKED, State.FAILED) else logging.INFO
            log.log(level, "state: %s", state.value, extra={"detail": reason})

    def warn(self, name: str, message: str) -> None:
        """Note by a name what is wrong although it stops nothing yet; "" ends it. /readyz has it, whatever the state is."""
        with self._lock:
            if message:
                self._warnings[name] = clean(message, _MESSAGE_CHARACTERS)
            else:
                self._warnings.pop(name, None)

    def warnings(self) -> list[str]:
        """Return what is wrong although it stops nothing yet, the oldest first."""
        with self._lock:
            return list(self._warnings.values())

    def warnings_in_words(self) -> list[str]:
        """Return the warnings: the oldest of them, and how many more there are."""
        if not self._warnings:
            return []
        warnings = self.warnings()
        named = with_room(warnings[:WARNINGS_NAMED], WARNINGS_CHARACTERS)
        return named + and_more(len(warnings) - WARNINGS_NAMED, "warning")

    def turned(self, now: float) -> None:
        """Note that the main loop made a turn, at `now` seconds of the monotonic clock."""
        self._last_turn = now

    def block(
        self, block: Block, message: str, quote: str = "", *, retry_in: float | None = None, owner: str = ""
    ) -> None:
        """Note that a topic or partition is blocked; the first time is logged. Each attempt that fails calls it again.

        `quote` is the rest of the message where it may quote a record: the log and /readyz show it, the page does not.
        `retry_in` is in how many seconds it is tried next, None where nothing is tried before a person acts. `owner` names
        the one of several parts that report the same block: it ends when each of them has ended it.
        """
        words = _Words(clean(message, _MESSAGE_CHARACTERS), clean(quote, _MESSAGE_CHARACTERS))
        with self._lock:
            held = self._blocks.setdefault(block, {})
            is_new = not held
            before = held[owner].attempts if owner in held else None
            held[owner] = _Held(words, _attempted(before, self._clock(), retry_in))
            if is_new:
                self._index()
        if is_new:
            log.error("blocked", extra={**block.fields, "error": str(words)})

    def unblock(self, block: Block, *, owner: str = "") -> None:
        """Note that a block has ended for this owner; where it was the last one, that too is logged."""
        if block not in self._blocks:
            return
        with self._lock:
            held = self._blocks.get(block, {})
            has_ended = held.pop(owner, None) is not None and not held
            if has_ended:
                del self._blocks[block]
                self._index()
        if has_ended:
            log.info("no longer blocked", extra={**block.fields})

    def forget(self, topic: str, partition: int) -> None:
        """Drop the blocks of one partition, since it was given back."""
        if partition not in self._reasons.get(topic, ()):
            return
        with self._lock:
            self._blocks = {b: held for b, held in self._blocks.items() if (b.topic, b.partition) != (topic, partition)}
            self._index()

    def _index(self) -> None:
        """Index the blocks by what they stop; a thread that reads the index meanwhile keeps the one that it has."""
        reasons: dict[str, dict[int | None, list[BlockReason]]] = {}
        of_indexes: dict[str, list[Block]] = {}
        for block in self._blocks:
            if block.of_index is None:
                reasons.setdefault(block.topic, {}).setdefault(block.partition, []).append(block.reason)
            else:
                of_indexes.setdefault(block.topic, []).append(block)
        for topic, blocks in of_indexes.items():  # they stop the topic where they are all that it has
            if len({block.of_index for block in blocks}) >= self._indexes.get(topic, 1):
                own = reasons.setdefault(topic, {}).setdefault(None, [])
                own += [reason for reason in dict.fromkeys(block.reason for block in blocks) if reason not in own]
        self._reasons = reasons

    def blocks_of(self, topic: str, partition: int | None = None) -> list[BlockReason]:
        """Return what blocks a topic as a whole; for a partition also what blocks it alone."""
        reasons = self._reasons.get(topic)
        if reasons is None:
            return []
        own = () if partition is None else reasons.get(partition, ())
        return [*reasons.get(None, ()), *own]

    def read(self) -> Reading:
        """Return one consistent reading."""
        with self._lock:
            blocks = {block: _joined(held) for block, held in self._blocks.items()}
            return Reading(self._state, self._reason, blocks, self._last_turn, self._title)

    def blocks_in_words(self) -> list[str]:
        """Return the blocks with their messages: the first of each kind, the oldest others, and how many more there are."""
        if not self._blocks:
            return []
        with self._lock:
            firsts: dict[BlockReason, Block] = {}
            for block in self._blocks:
                firsts.setdefault(block.reason, block)  # so that many of one kind do not hide the only one of another
            named = list(islice(dict.fromkeys([*firsts.values(), *self._blocks]), BLOCKS_NAMED))
            words = [f"{block}: {_joined(self._blocks[block])}" for block in named]
            left_out = len(self._blocks) - len(named)
        return with_room(words, BLOCKS_CHARACTERS) + and_more(left_out, "block")

    def messages(self) -> dict[Block, str]:
        """Return the message of each block, without what may quote a record."""
        with self._lock:
            return {
                block: "; ".join(one.words.message for one in held.values()) for block, held in self._blocks.items()
            }

    def seconds_of(self, block: Block) -> float:
        """Return for how long a block has been in force, by the last of its owners that reported it; infinity where it is not."""
        with self._lock:
            since = [one.attempts.since for one in self._blocks.get(block, {}).values()]
            return self._clock() - max(since) if since else math.inf

    def attempts(self) -> dict[Block, Attempts]:
        """Return how each block is retried, by the first of its owners."""
        with self._lock:
            return {block: next(iter(held.values())).attempts for block, held in self._blocks.items()}

    def dead_lettered(self, record: DeadLettered) -> None:
        """Note a dead letter that was written."""
        with self._lock:
            self._dead_letters.setdefault(record.reason, deque(maxlen=DEAD_LETTERS_KEPT)).append(record)

    def dead_letters(self) -> list[DeadLettered]:
        """Return the last `DEAD_LETTERS_KEPT` dead letters of each reason, the newest first."""
        with self._lock:
            kept = [each for of_reason in self._dead_letters.values() for each in of_reason]
        return sorted(kept, key=lambda each: each.at, reverse=True)


def _joined(held: Mapping[str, _Held]) -> str:
    return "; ".join(str(one.words) for one in held.values())


def _attempted(before: Attempts | None, now: float, retry_in: float | None) -> Attempts:
    """Return the attempts with one more, which failed at `now`.

    What is reported before the next attempt was due is of the attempt before: several slots, or several dead letters, fail
    together.
    """
    next_at = None if retry_in is None else now + retry_in
    if before is None:
        return Attempts(now, 1, next_at)
    is_same = before.next_at is not None and now < before.next_at
    return Attempts(before.since, before.count + (not is_same), next_at)
