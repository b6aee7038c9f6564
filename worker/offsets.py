"""The ledger: which offsets are outstanding, what became of each record, and how far each partition may be committed.

It is the one structure that all threads share, and it has the one lock. A period of ownership of a partition is an
`Assignment`; whatever is done to its records carries it, so that a result which comes after the partition was given
back finds its assignment fenced and changes nothing.

    OPENING ──open──▶ OPEN ──close──▶ CLOSING ──fence──▶ FENCED
       └───────────────┴────────────fence────────────────▲
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum, StrEnum
from typing import NamedTuple, Protocol


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
        "_settled",
        "committed",
        "epoch",
        "is_live",
        "is_open",
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
        self.on_wire = 0  # requests under way that carry its records
        self._outstanding: deque[int] = deque()  # tracked and not yet passed by the watermark, ascending
        self._settled: set[int] = set()  # of these, the settled ones
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
        return len(self._outstanding) - len(self._settled)

    @property
    def span(self) -> int:
        """The offsets from the watermark to the newest tracked one."""
        return self.newest + 1 - self._outstanding[0] if self._outstanding else 0

    def oldest_unsettled_age(self, now: float) -> float:
        """Seconds since the record at the watermark was polled; 0 with nothing outstanding."""
        return now - self._polled[0][1] if self._outstanding else 0.0

    def _track(self, offsets: Sequence[int], now: float) -> None:
        self._outstanding.extend(offsets)
        self._polled.append((offsets[0], now))
        self.newest = offsets[-1]
        self.position = max(self.position, offsets[-1] + 1)

    def _advance(self) -> None:
        outstanding, settled = self._outstanding, self._settled
        while outstanding and outstanding[0] in settled:
            settled.remove(outstanding.popleft())
        watermark = outstanding[0] if outstanding else self.newest + 1
        polled = self._polled
        while len(polled) > 1 and polled[1][0] <= watermark:
            polled.popleft()
        if not outstanding:
            polled.clear()


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

    def __init__(self, topics: Iterable[str], clock: Callable[[], float]) -> None:
        self._clock = clock
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

    def open(self, assignment: Assignment, position: int, committed: int | None) -> bool:
        """Begin reading at `position`; False where the partition has gone meanwhile."""
        with self._lock:
            if assignment.phase is not Phase.OPENING:
                return False
            assignment.phase = Phase.OPEN
            assignment.is_open = True
            assignment.position = position
            assignment.newest = position - 1
            assignment.committed = committed
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
        """Enter polled offsets, ascending, at least one; False where the partition is not open any more."""
        with self._lock:
            if assignment.phase is not Phase.OPEN:
                return False
            assignment._track(offsets, self._clock())  # noqa: SLF001 - the ledger is what changes an assignment
            self._consumed[assignment.partition.topic] += len(offsets)
            return True

    def advance(self, assignment: Assignment, position: int) -> None:
        """Move an open partition's position, past offsets that no record has (transaction markers, compaction)."""
        with self._lock:
            if assignment.phase is Phase.OPEN:
                assignment.position = max(assignment.position, position)

    def hold(self, size: int) -> None:
        """Enter bytes that are held: those of records until they are settled, and of a request's body; less than 0 frees."""
        with self._lock:
            self._bytes += size

    def settle(self, records: Iterable[Tracked], outcome: Outcome) -> int:
        """Enter a final outcome for each record and give their bytes free.

        Returns how many counted; those of an assignment that was fenced do not.
        """
        freed = 0
        counts: dict[Assignment, int] = {}
        fenced = Phase.FENCED
        with self._lock:
            for record in records:
                freed += record.size
                assignment = record.assignment
                if assignment.phase is not fenced:
                    assignment._settled.add(record.offset)  # noqa: SLF001 - the ledger is what changes an assignment
                    counts[assignment] = counts.get(assignment, 0) + 1
            self._bytes -= freed
            for assignment, count in counts.items():
                assignment._advance()  # noqa: SLF001 - the ledger is what changes an assignment
                self._settled[assignment.partition.topic, outcome] += count
        return sum(counts.values())

    def discard(self, records: Iterable[Tracked]) -> None:
        """Give free the bytes of records whose assignment is closing or fenced; they are counted when it is fenced."""
        with self._lock:
            self._bytes -= sum(record.size for record in records)

    # -- the wire

    def depart(self, assignments: Collection[Assignment]) -> bool:
        """Note that a request with records of these is about to leave; False, and nothing noted, unless all are live.

        After `close` has returned, no request with the partition's records leaves: either it departed before and is
        counted in `on_wire`, or it does not depart.
        """
        with self._lock:
            if not all(assignment.is_live for assignment in assignments):
                return False
            for assignment in assignments:
                assignment.on_wire += 1
            return True

    def land(self, assignments: Collection[Assignment]) -> None:
        """Note that the request is answered or given up, and its outcome entered."""
        with self._lock:
            for assignment in assignments:
                assignment.on_wire -= 1
            self._landed.notify_all()

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
