"""The ledger: which offsets are outstanding, what became of each record, and how far each partition may be committed.

All threads share it, and one lock guards all of it. It keeps one `Assignment` for each period of ownership. It also keeps
the books: for each topic, consumed = the sum of all outcomes + buffered. The books change under the same lock and in the same
calls as the offsets, so that they balance in every reading. That is why they have no module of their own.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from worker.assignment import Assignment, OutOfOrder, Partition, Phase

# A module that uses the ledger needs these too.
__all__ = [
    "Assignment",
    "Books",
    "Ledger",
    "OutOfOrder",
    "Outcome",
    "Partition",
    "PartitionFigures",
    "Phase",
    "Tracked",
]

log = logging.getLogger("worker.offsets")


class Outcome(StrEnum):
    """The final outcome of a record; the label `outcome` of the metric `oss_vectors_records_settled_total`."""

    PUT = "put"
    DELETED = "deleted"
    SUPERSEDED = "superseded"
    IGNORED = "ignored"
    DEAD_LETTERED = "dead_lettered"
    RETURNED = "returned"


class Tracked(Protocol):
    """What the ledger needs of a record.

    `element` is its place in a message that was split (`Ledger.split`), from 0; None in any other. `size` is the number of
    bytes that were counted for it in `buffer_bytes`.
    """

    @property
    def assignment(self) -> Assignment: ...
    @property
    def offset(self) -> int: ...
    @property
    def element(self) -> int | None: ...
    @property
    def size(self) -> int: ...


class PartitionFigures(NamedTuple):
    """The values of one partition's gauges."""

    partition: Partition
    watermark: int
    committed: int | None
    is_open: bool
    oldest_unsettled_age: float


class Books(NamedTuple):
    """One consistent reading of the ledger: consumed = all settled outcomes + buffered, for each topic."""

    messages: dict[str, int]
    """Messages consumed: fewer than the records where a message has several."""
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
        self._begun: dict[int, Collection[Assignment]] = {}  # by the number of a thread: the assignments of its request
        self._lock = threading.Lock()
        self._assignments: dict[Partition, Assignment] = {}
        self._in_order: list[Assignment] | None = None  # the same, sorted; None when they have changed
        self._epochs = 0
        self._bytes = 0
        self._consumed = dict.fromkeys(topics, 0)
        self._messages = dict.fromkeys(self._consumed, 0)
        self._settled = {(topic, outcome): 0 for topic in self._consumed for outcome in Outcome}

    # -- ownership

    def assign(self, partition: Partition) -> Assignment:
        """Begin a new period of ownership. If there is an older one, it is fenced first."""
        with self._lock:
            if (stale := self._assignments.get(partition)) is not None:
                self._fence(stale)
            return self._begin(partition)

    def reassign(self, assignment: Assignment) -> Assignment | None:
        """Fence an assignment and begin a new one of its partition; None if the partition was given back meanwhile."""
        with self._lock:
            if self._assignments.get(assignment.partition) is not assignment or assignment.phase is Phase.REVOKING:
                return None
            self._fence(assignment)
            return self._begin(assignment.partition)

    def _begin(self, partition: Partition) -> Assignment:
        self._epochs += 1
        self._assignments[partition] = assignment = Assignment(partition, self._epochs)
        self._in_order = None
        return assignment

    def open(
        self, assignment: Assignment, position: int, committed: int | None, leader_epoch: int = -1, *, log_id: str = ""
    ) -> bool:
        """Begin reading at `position`; False if the partition was given back meanwhile.

        `leader_epoch` is that of the record before `position`, -1 if it is not known. `log_id` names the log in commits.
        """
        with self._lock:
            if assignment.phase is not Phase.OPENING:
                return False
            assignment.phase = Phase.OPEN
            assignment.is_open = True
            assignment.position = position
            assignment.newest = position - 1
            assignment.committed = committed
            assignment.log_id = log_id
            assignment.leader_epochs = ((position - 1, leader_epoch),)
            return True

    def assignment(self, partition: Partition) -> Assignment | None:
        """Return the partition's assignment, None if this process does not own it."""
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

    def begin_revoke(self, partitions: Iterable[Partition]) -> list[Assignment]:
        """Let no new request with their records begin, and return their assignments. Requests in flight may still settle."""
        with self._lock:
            revoking = [self._assignments[p] for p in partitions if p in self._assignments]
            for assignment in revoking:
                assignment.phase = Phase.REVOKING
                assignment.is_live = False
            return revoking

    def end(self, assignments: Iterable[Assignment]) -> int:
        """End these periods of ownership, and return how many unsettled records are returned. Skips those that have ended."""
        with self._lock:
            self._in_order = None
            owned = [a for a in assignments if self._assignments.get(a.partition) is a]
            return sum(self._fence(self._assignments.pop(assignment.partition)) for assignment in owned)

    def _fence(self, assignment: Assignment) -> int:
        assignment.phase = Phase.FENCED
        assignment.is_live = False
        returned = assignment.buffered
        self._settled[assignment.partition.topic, Outcome.RETURNED] += returned
        return returned

    # -- records

    def track(self, assignment: Assignment, offsets: Sequence[int]) -> bool:
        """Enter polled offsets, ascending, at least one; False if the partition is not open any more.

        Raises `OutOfOrder` if they do not ascend, or begin below the position. Then none of them is entered.
        """
        with self._lock:
            if assignment.phase is not Phase.OPEN:
                return False
            assignment.add(offsets, self._clock())
            self._consumed[assignment.partition.topic] += len(offsets)
            self._messages[assignment.partition.topic] += len(offsets)
            return True

    def split(self, assignment: Assignment, offset: int, elements: Sequence[int], shared_bytes: int) -> None:
        """Note that the message at this offset has these records, at least one; each is settled by its `element`.

        It counted as one record until now. Call it once, before any of them is settled. `shared_bytes` are those of the message.
        They are added to `buffer_bytes` until each record is settled or discarded, or released them.
        """
        with self._lock:
            assignment.share(offset, elements, shared_bytes)
            self._bytes += shared_bytes
            if assignment.phase is not Phase.FENCED and offset in assignment.unsettled:
                assignment.split(offset, elements)
                self._consumed[assignment.partition.topic] += len(elements) - 1

    def release(self, assignment: Assignment, offset: int, element: int) -> None:
        """Note that a record has its message in memory no more, although it is neither settled nor discarded."""
        with self._lock:
            self._bytes -= assignment.release(offset, element)

    def advance(self, assignment: Assignment, position: int, leader_epoch: int = -1) -> None:
        """Move an open partition's position, past offsets that no record has (transaction markers, compaction).

        `leader_epoch` is that of what was read last before it.
        """
        with self._lock:
            if assignment.phase is Phase.OPEN and position > assignment.position:
                assignment.add_leader_epoch(assignment.position, leader_epoch)
                assignment.position = position

    def note_leader_epoch(self, assignment: Assignment, offset: int, epoch: int) -> None:
        """Note that the records from `offset` on were written under a leader of this epoch.

        If offsets without records are between two epochs, it is unknown at which of them the later epoch began. Then `offset`
        is the one after the last record of the earlier epoch.
        """
        with self._lock:
            assignment.add_leader_epoch(offset, epoch)

    def count_bytes(self, size: int) -> None:
        """Add to `buffer_bytes`: the bytes of records until they are settled, and of a request's body. Negative subtracts."""
        with self._lock:
            self._bytes += size

    def settle(self, records: Iterable[Tracked], outcome: Outcome) -> int:
        """Enter a final outcome for each record, and subtract its bytes.

        Returns how many records were counted. Those of a fenced assignment are not counted; only their bytes are subtracted.
        A record that was settled before, or never tracked, is a fault of the worker: it is logged, and changes nothing.
        """
        freed = 0
        counts: dict[Assignment, int] = {}
        strays: list[Tracked] = []
        fenced = Phase.FENCED
        with self._lock:
            for record in records:
                assignment = record.assignment
                if assignment.phase is not fenced:
                    unsettled, offset = assignment.unsettled, record.offset
                    if assignment.elements and offset in assignment.elements:
                        is_outstanding = assignment.settle_element(offset, record.element)
                    elif is_outstanding := offset in unsettled:
                        unsettled.remove(offset)
                    if not is_outstanding:
                        strays.append(record)
                        continue
                    counts[assignment] = counts.get(assignment, 0) + 1
                freed += record.size
                if assignment.shared:
                    freed += assignment.release(record.offset, record.element)
            self._bytes -= freed
            for assignment, count in counts.items():
                assignment.advance_watermark()
                self._settled[assignment.partition.topic, outcome] += count
        for stray in strays:
            log.error(
                "a record was settled that was not outstanding: a fault of the worker, without effect",
                extra={
                    "topic": stray.assignment.partition.topic,
                    "partition": stray.assignment.partition.partition,
                    "offset": stray.offset,
                    "element": stray.element,
                    "outcome": outcome.value,
                },
            )
        return sum(counts.values())

    def discard(self, records: Iterable[Tracked]) -> None:
        """Subtract the bytes of records whose partition is being given back. They count as returned once it is fenced."""
        with self._lock:
            for record in records:
                self._bytes -= record.size + record.assignment.release(record.offset, record.element)

    def first_undecided(
        self, topic: str, given_up: Mapping[Assignment, Mapping[int, Collection[int | None]]]
    ) -> list[tuple[Partition, int, int]]:
        """Return each partition's first record that is neither settled nor given up, as partition, offset and element.

        `given_up` has the elements of the future dead letters, by offset. The element of a message that was not split is 0.
        """
        found = []
        with self._lock:
            for partition, assignment in self._assignments.items():
                if partition.topic == topic:
                    first = assignment.first_undecided(given_up.get(assignment, {}))
                    found += [] if first is None else [(partition, *first)]
        return found

    # -- requests

    def begin_request(self, assignments: Collection[Assignment]) -> bool:
        """Note that this thread is about to send a request with records of these; return False if it must not send it.

        It may send only if all of them are live and the lease holds. So each request of a partition that is being revoked
        either began before `begin_revoke`, and is counted in `requests_in_flight`, or gets False here.
        """
        with self._lock:
            if not (self._may_write() and all(assignment.is_live for assignment in assignments)):
                return False
            for assignment in assignments:
                assignment.requests_in_flight += 1
            self._begun[threading.get_ident()] = assignments
        return True

    @property
    def may_write(self) -> bool:
        """Whether the lease holds: the group still counts on this process."""
        return self._may_write()

    def may_send(self, assignments: Collection[Assignment] | None = None) -> bool:
        """Return whether a request that began may still be sent. This is the last check, just before its bytes go.

        `assignments` are those of the request. Without them it is the request that this thread began and has not ended; if
        there is none, the answer is True. It is not enough that the lease holds:

        1. A request begins, and the process is frozen before the bytes go.
        2. The group gives its partitions to another process, which writes newer versions.
        3. The process wakes, joins again, and has a lease again. The partitions' old assignments are fenced.
        """
        begun = self._begun.get(threading.get_ident()) if assignments is None else assignments
        if begun is None:
            return True
        return self._may_write() and all(assignment.phase is not Phase.FENCED for assignment in begun)

    def end_request(self, assignments: Collection[Assignment]) -> None:
        """Note that the request was answered or given up. The outcomes of its records must be entered before."""
        with self._lock:
            for assignment in assignments:
                assignment.requests_in_flight -= 1
            self._begun.pop(threading.get_ident(), None)

    def threads_of(self, assignments: Collection[Assignment]) -> set[int]:
        """Return the numbers of the threads whose request carries records of these, or of earlier ones of their partitions.

        Who gives a partition back has to wait for the earlier ones too:

        1. A request is sent with a version of a key, and its answer takes long.
        2. The topic is recreated, or its log was cut: `reassign` begins another ownership of the partition.
        3. A rebalance gives the partition to another process, which writes a newer version of the key.
        4. The service applies the request: the older version wins.
        """
        newest = {assignment.partition: assignment.epoch for assignment in assignments}
        with self._lock:
            return {
                thread
                for thread, begun in self._begun.items()
                if any(one.epoch <= newest.get(one.partition, -1) for one in begun)
            }

    def has_requests_in_flight(self, assignments: Collection[Assignment]) -> bool:
        """Return whether a request is in flight with records of these, or of earlier ones of their partitions.

        A thread that sends several dead letters at once is known by the last of them alone, so the others are counted here.
        """
        return any(one.requests_in_flight for one in assignments) or bool(self.threads_of(assignments))

    def is_on_the_wire(self, partition: Partition) -> bool:
        """Return whether a request is in flight with records of this partition, as it is owned now."""
        assignment = self._assignments.get(partition)
        return assignment is not None and assignment.requests_in_flight > 0

    # -- what is committed and shown

    def watermarks(self, assignments: Iterable[Assignment] | None = None) -> dict[Assignment, int]:
        """Return the watermark of each of the assignments whose first offset is known; without an argument, of all."""
        with self._lock:
            chosen = self._assignments.values() if assignments is None else assignments
            return {assignment: assignment.watermark for assignment in chosen if assignment.is_open}

    def committed(self, offsets: dict[Assignment, int]) -> None:
        """Note commits that the broker has acknowledged."""
        with self._lock:
            for assignment, offset in offsets.items():
                assignment.committed = offset

    @property
    def buffer_bytes(self) -> int:
        """Bytes of records that are tracked and not settled, and of requests' bodies."""
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
                dict(self._messages),
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
