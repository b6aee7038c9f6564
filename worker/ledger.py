"""The ledger: which offsets are outstanding, what became of each record, and how far each partition may be committed.

It is the one structure that all threads share, and it has the one lock. A period of ownership of a partition is an
`Assignment`; whatever is done to its records carries it, so that a result which comes after the partition was given
back finds its assignment fenced and changes nothing.

    OPENING ──open──▶ OPEN ──close──▶ CLOSING ──fence──▶ FENCED
       └───────────────┴────────────fence────────────────▲
"""

import logging
import operator
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum, StrEnum
from itertools import islice
from typing import Final, NamedTuple, Protocol

log = logging.getLogger("worker.offsets")

_LEADER_EPOCHS: Final = 64  # of an assignment that are kept; there is one more with each election of a leader


class OutOfOrder(ValueError):
    """Offsets that do not ascend, or are below what was read already: tracked, they would make the watermark a lie."""


class Outcome(StrEnum):
    """The final outcome of a record; the label `outcome` of the metric `oss_vectors_records_settled_total`."""

    PUT = "put"
    DELETED = "deleted"
    SUPERSEDED = "superseded"
    IGNORED = "ignored"
    DEAD_LETTERED = "dead_lettered"
    RETURNED = "returned"


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Phase(Enum):
    """Where an assignment stands."""

    OPENING = "opening"  # assigned; nothing is read until its first offset is known
    OPEN = "open"
    CLOSING = "closing"  # being given back: what is on the wire may still be settled, nothing else is sent
    FENCED = "fenced"  # given back or lost: results are ignored


class Assignment:
    """One period of ownership of a partition. Its state belongs to the ledger, and is changed under its lock."""

    __slots__ = (
        "_outstanding",
        "_polled",
        "_unsettled",
        "committed",
        "epoch",
        "is_live",
        "is_open",
        "leader_epochs",
        "newest",
        "on_wire",
        "partition",
        "phase",
        "position",
    )

    def __init__(self, partition: Partition, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self.phase = Phase.OPENING
        self.is_live = True  # OPENING or OPEN; read without the lock, to leave early what need not be done any more
        self.is_open = False  # its first offset is known, so that its watermark means something
        self.position = 0  # the next offset to read
        self.committed: int | None = None
        self.newest = -1  # the newest offset tracked
        # (offset, epoch), ascending: what was read at this offset and behind it is of that leader's epoch, as far as the
        # next one. Replaced as a whole, so that it can be read without the lock.
        self.leader_epochs: tuple[tuple[int, int], ...] = ()
        self.on_wire = 0  # requests under way that carry its records
        self._outstanding: deque[int] = deque()  # tracked and not yet passed by the watermark, ascending
        self._unsettled: set[int] = set()  # of these, the ones without an outcome
        self._polled: deque[tuple[int, float]] = deque()  # (first offset, time) of each poll behind the watermark

    def __repr__(self) -> str:
        return f"<Assignment {self.partition} epoch {self.epoch} {self.phase.value}>"

    @property
    def watermark(self) -> int:
        """The lowest offset not yet settled; with nothing outstanding, the position."""
        return self._outstanding[0] if self._outstanding else self.position

    @property
    def buffered(self) -> int:
        """The count of records tracked and not settled."""
        return len(self._unsettled)

    @property
    def span(self) -> int:
        """The offsets from the watermark to the newest tracked one."""
        return self.newest + 1 - self._outstanding[0] if self._outstanding else 0

    def oldest_unsettled_age(self, now: float) -> float:
        """Seconds since the record at the watermark was polled; 0 with nothing outstanding."""
        return now - self._polled[0][1] if self._outstanding else 0.0

    def leader_epoch_at(self, offset: int) -> int:
        """Return the leader's epoch of what was read before `offset`; -1 where it is not known.

        With a commit of `offset` it tells whoever begins there whether the log is still the one that was read.
        """
        return next((epoch for begin, epoch in reversed(self.leader_epochs) if begin < offset), -1)

    def _note_leader_epoch(self, offset: int, epoch: int) -> None:
        if self.leader_epochs and self.leader_epochs[-1][1] == epoch:
            return
        watermark = self.watermark
        later = [begin for begin, _ in self.leader_epochs[1:]] + [offset]
        kept = (step for step, end in zip(self.leader_epochs, later, strict=True) if end >= watermark)
        self.leader_epochs = (*kept, (offset, epoch))[-_LEADER_EPOCHS:]

    def _track(self, offsets: Sequence[int], now: float) -> None:
        # Both at the speed of C: some 40 ns for each offset.
        if offsets[0] < self.position or not all(map(operator.lt, offsets, islice(offsets, 1, None))):
            raise OutOfOrder(
                f"offsets {_abridged(offsets)} of {self.partition}, where {self.position} or later is next"
            )
        self._outstanding.extend(offsets)
        self._unsettled.update(offsets)
        self._polled.append((offsets[0], now))
        self.newest = offsets[-1]
        self.position = max(self.position, offsets[-1] + 1)

    def _advance(self) -> None:
        outstanding, unsettled = self._outstanding, self._unsettled
        while outstanding and outstanding[0] not in unsettled:
            outstanding.popleft()
        watermark = outstanding[0] if outstanding else self.newest + 1
        polled = self._polled
        while len(polled) > 1 and polled[1][0] <= watermark:
            polled.popleft()
        if not outstanding:
            polled.clear()


def _abridged(offsets: Sequence[int]) -> str:
    return ", ".join(map(str, offsets[:5])) + (f", ... {offsets[-1]}" if len(offsets) > 5 else "")


class Tracked(Protocol):
    """What is settled: a record of an assignment, and the bytes that it held."""

    @property
    def assignment(self) -> Assignment: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...


class PartitionFigures(NamedTuple):
    """What one partition's gauges show."""

    partition: Partition
    watermark: int
    committed: int | None
    is_open: bool
    oldest_unsettled_age: float


class Books(NamedTuple):
    """One consistent reading of the ledger: consumed = all settled outcomes + buffered, for each topic."""

    consumed: dict[str, int]
    settled: dict[tuple[str, Outcome], int]
    buffered: dict[str, int]
    buffer_bytes: int
    partitions: list[PartitionFigures]


class Ledger:
    """Tracks and settles the offsets of all partitions that this process owns."""

    def __init__(
        self, topics: Iterable[str], clock: Callable[[], float], may_write: Callable[[], bool] = lambda: True
    ) -> None:
        """`may_write` returns whether the group still counts on this process (`worker.lease`)."""
        self._clock = clock
        self._may_write = may_write
        self._departed = threading.local()
        self._lock = threading.Lock()
        self._landed = threading.Condition(self._lock)
        self._assignments: dict[Partition, Assignment] = {}
        self._in_order: list[Assignment] | None = None  # the same, sorted; None when they have changed
        self._epochs = 0
        self._bytes = 0
        self._consumed = dict.fromkeys(topics, 0)
        self._settled = {(topic, outcome): 0 for topic in self._consumed for outcome in Outcome}

    # -- ownership

    def assign(self, partition: Partition) -> Assignment:
        """Begin a new period of ownership; one that still stands is fenced first."""
        with self._lock:
            if (stale := self._assignments.get(partition)) is not None:
                self._fence(stale)
            return self._begin(partition)

    def reassign(self, assignment: Assignment) -> Assignment | None:
        """Begin a new period of a partition that is still owned, fencing the old; None where it has gone meanwhile."""
        with self._lock:
            if self._assignments.get(assignment.partition) is not assignment or assignment.phase is Phase.CLOSING:
                return None
            self._fence(assignment)
            return self._begin(assignment.partition)

    def _begin(self, partition: Partition) -> Assignment:
        self._epochs += 1
        self._assignments[partition] = assignment = Assignment(partition, self._epochs)
        self._in_order = None
        return assignment

    def open(self, assignment: Assignment, position: int, committed: int | None, leader_epoch: int = -1) -> bool:
        """Begin reading at `position`; False where the partition has gone meanwhile.

        `leader_epoch` is that of what is before it, -1 where it is not known.
        """
        with self._lock:
            if assignment.phase is not Phase.OPENING:
                return False
            assignment.phase = Phase.OPEN
            assignment.is_open = True
            assignment.position = position
            assignment.newest = position - 1
            assignment.committed = committed
            assignment.leader_epochs = ((position - 1, leader_epoch),)
            return True

    def assignment(self, partition: Partition) -> Assignment | None:
        """Return who owns the partition now, None where this process does not."""
        return self._assignments.get(partition)

    @property
    def newest_epoch(self) -> int:
        """The epoch of the newest assignment; a later one has a higher epoch."""
        return self._epochs

    def assignments(self) -> list[Assignment]:
        """Return all that this process owns, in the order of topic and partition."""
        with self._lock:
            if self._in_order is None:
                self._in_order = sorted(self._assignments.values(), key=lambda assignment: assignment.partition)
            return list(self._in_order)

    def close(self, partitions: Iterable[Partition]) -> list[Assignment]:
        """Send nothing more of these; what is on the wire may land. Returns their assignments."""
        with self._lock:
            closing = [self._assignments[p] for p in partitions if p in self._assignments]
            for assignment in closing:
                assignment.phase = Phase.CLOSING
                assignment.is_live = False
            return closing

    def fence(self, partitions: Iterable[Partition]) -> int:
        """End the ownership of these; returns how many records are returned unsettled."""
        with self._lock:
            self._in_order = None
            return sum(self._fence(self._assignments.pop(p)) for p in partitions if p in self._assignments)

    def end(self, assignments: Iterable[Assignment]) -> int:
        """End these periods of ownership, as far as they stand; returns how many records are returned unsettled."""
        with self._lock:
            self._in_order = None
            standing = [a for a in assignments if self._assignments.get(a.partition) is a]
            return sum(self._fence(self._assignments.pop(assignment.partition)) for assignment in standing)

    def _fence(self, assignment: Assignment) -> int:
        assignment.phase = Phase.FENCED
        assignment.is_live = False
        returned = assignment.buffered
        self._settled[assignment.partition.topic, Outcome.RETURNED] += returned
        return returned

    # -- records

    def track(self, assignment: Assignment, offsets: Sequence[int]) -> bool:
        """Enter polled offsets, ascending, at least one; False where the partition is not open any more.

        Raises `OutOfOrder`, and has entered none of them, where they do not ascend or begin below the position.
        """
        with self._lock:
            if assignment.phase is not Phase.OPEN:
                return False
            assignment._track(offsets, self._clock())  # noqa: SLF001 - the ledger is what changes an assignment
            self._consumed[assignment.partition.topic] += len(offsets)
            return True

    def advance(self, assignment: Assignment, position: int, leader_epoch: int = -1) -> None:
        """Move an open partition's position, past offsets that no record has (transaction markers, compaction).

        `leader_epoch` is that of what was read last before it.
        """
        with self._lock:
            if assignment.phase is Phase.OPEN and position > assignment.position:
                assignment._note_leader_epoch(assignment.position, leader_epoch)  # noqa: SLF001 - the ledger is what changes an assignment
                assignment.position = position

    def note_leader_epoch(self, assignment: Assignment, offset: int, epoch: int) -> None:
        """Note that what is read of a partition from `offset` on was written under a leader of this epoch.

        Where nothing is read between two epochs, `offset` is the end of the earlier one's: the later one began somewhere
        in between, and what is before its first record may be of either.
        """
        with self._lock:
            assignment._note_leader_epoch(offset, epoch)  # noqa: SLF001 - the ledger is what changes an assignment

    def hold(self, size: int) -> None:
        """Enter bytes that are held: those of records until they are settled, and of a request's body; less than 0 frees."""
        with self._lock:
            self._bytes += size

    def settle(self, records: Iterable[Tracked], outcome: Outcome) -> int:
        """Enter a final outcome for each record and give their bytes free.

        Returns how many counted; those of an assignment that was fenced do not. Neither does what has no outcome to wait
        for: settled before, or never tracked. It changes nothing, and is logged, for it is a fault of the worker.
        """
        freed = 0
        counts: dict[Assignment, int] = {}
        strays: list[Tracked] = []
        fenced = Phase.FENCED
        with self._lock:
            for record in records:
                assignment = record.assignment
                if assignment.phase is not fenced:
                    unsettled = assignment._unsettled  # noqa: SLF001 - the ledger is what changes an assignment
                    if record.offset not in unsettled:
                        strays.append(record)
                        continue
                    unsettled.remove(record.offset)
                    counts[assignment] = counts.get(assignment, 0) + 1
                freed += record.size
            self._bytes -= freed
            for assignment, count in counts.items():
                assignment._advance()  # noqa: SLF001 - the ledger is what changes an assignment
                self._settled[assignment.partition.topic, outcome] += count
        for stray in strays:
            log.error(
                "settled what was not outstanding: a fault of the worker, and without effect",
                extra={
                    "topic": stray.assignment.partition.topic,
                    "partition": stray.assignment.partition.partition,
                    "offset": stray.offset,
                    "outcome": outcome.value,
                },
            )
        return sum(counts.values())

    def discard(self, records: Iterable[Tracked]) -> None:
        """Give free the bytes of records whose assignment is closing or fenced; they are counted when it is fenced."""
        with self._lock:
            self._bytes -= sum(record.size for record in records)

    def first_undecided(
        self, topic: str, given_up: Mapping[Assignment, Collection[int]]
    ) -> list[tuple[Partition, int]]:
        """Return each partition's first offset that is neither settled nor, by `given_up`, known to be a dead letter."""
        found = []
        with self._lock:
            for partition, assignment in self._assignments.items():
                if partition.topic == topic:
                    unsettled, given = assignment._unsettled, given_up.get(assignment, ())  # noqa: SLF001 - the ledger's own
                    outstanding = assignment._outstanding  # noqa: SLF001 - likewise
                    first = next((o for o in outstanding if o in unsettled and o not in given), None)
                    found += [] if first is None else [(partition, first)]
        return found

    # -- the wire

    def depart(self, assignments: Collection[Assignment]) -> bool:
        """Note that a request of this thread with records of these is about to leave.

        False, and nothing noted, unless all are live and the lease holds. After `close` has returned, no request with the
        partition's records leaves: either it departed before and is counted in `on_wire`, or it does not depart.
        """
        with self._lock:
            if not (self._may_write() and all(assignment.is_live for assignment in assignments)):
                return False
            for assignment in assignments:
                assignment.on_wire += 1
        self._departed.assignments = assignments
        return True

    @property
    def may_write(self) -> bool:
        """Whether the lease holds: the group still counts on this process."""
        return self._may_write()

    def may_leave(self, assignments: Collection[Assignment] | None = None) -> bool:
        """Return whether what departed may still leave: the last look, just before its bytes go.

        Without `assignments` it is about the last departure of this thread, until that has landed, and True where there is
        none. Between departure and here may lie a freeze, after which the partitions are lost and the process is a member
        again: so it is not enough that the lease holds.
        """
        departed = getattr(self._departed, "assignments", None) if assignments is None else assignments
        if departed is None:
            return True
        return self._may_write() and all(assignment.phase is not Phase.FENCED for assignment in departed)

    def land(self, assignments: Collection[Assignment]) -> None:
        """Note that the request is answered or given up, and its outcome entered."""
        with self._lock:
            for assignment in assignments:
                assignment.on_wire -= 1
            self._landed.notify_all()
        self._departed.assignments = None

    # -- what is committed and shown

    def watermarks(self, assignments: Iterable[Assignment] | None = None) -> dict[Assignment, int]:
        """Return the watermark of each partition whose first offset is known; of all, unless some are named."""
        with self._lock:
            chosen = self._assignments.values() if assignments is None else assignments
            return {assignment: assignment.watermark for assignment in chosen if assignment.is_open}

    def committed(self, offsets: dict[Assignment, int]) -> None:
        """Note what the broker has acknowledged."""
        with self._lock:
            for assignment, offset in offsets.items():
                assignment.committed = offset

    @property
    def buffer_bytes(self) -> int:
        """Bytes held by records that are tracked and not settled."""
        return self._bytes

    def outstanding(self) -> int:
        """Return how many records are tracked and not settled."""
        with self._lock:
            return sum(assignment.buffered for assignment in self._assignments.values())

    def books(self) -> Books:
        """Return one consistent reading of everything."""
        with self._lock:
            now = self._clock()
            buffered = dict.fromkeys(self._consumed, 0)
            for assignment in self._assignments.values():
                buffered[assignment.partition.topic] += assignment.buffered
            return Books(
                dict(self._consumed),
                dict(self._settled),
                buffered,
                self._bytes,
                [
                    PartitionFigures(
                        assignment.partition,
                        assignment.watermark,
                        assignment.committed,
                        assignment.is_open,
                        assignment.oldest_unsettled_age(now),
                    )
                    for assignment in self._assignments.values()
                ],
            )
