"""Stand-ins that hold the contracts of the real things: a clock, the service, and the consumer with its cluster.

The fake service and the fake consumer pass the same suites as the real ones (`tests/contract/test_sink.py`,
`tests/contract/test_source.py`); what those suites do not ask, a test must not take from a fake.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Unpack

import msgspec

from tests.support.emulator import Fault
from worker.consumer.handover import RevokeHooks
from worker.errors import BlockReason, BrokerUnavailable, NotSent, RetryReason, SinkError, Transient
from worker.lease import Lease
from worker.ledger import Assignment, Ledger, Partition, Phase
from worker.local.emulator.answers import Rendered, answer_of, error_answer
from worker.local.emulator.faults import Faults, Rule
from worker.oss.answers import Answer, error_of
from worker.ports import Polled
from worker.records.target import Target
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, Status

Operation = Literal["PutVectors", "DeleteVectors", "GetVectorIndex"]
Stage = Literal["arrived", "applied"]
REQUEST_ID = "FAKE00000000000000000001"


class FakeClock:
    """A clock that does not move until a test advances it; seconds."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Read it."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


# -- the service


@dataclass(eq=False)
class Request:
    """One request as the fake saw it; `applied` are the keys that it changed, `status` is 0 where no answer went out."""

    operation: Operation
    keys: tuple[str, ...]
    body: bytes
    applied: tuple[str, ...] = ()
    status: int = 0


class _PutBody(msgspec.Struct, rename="camel"):
    index_name: str
    vectors: list[dict[str, Any]]


class _DeleteBody(msgspec.Struct, rename="camel"):
    index_name: str
    keys: list[str]


class _Cut(Exception):
    """The client's side of the connection was cut."""


def _take_all(_key: str, _element: dict[str, Any] | None) -> int:
    return 0


def _pass(_stage: Stage, _request: Request) -> None:
    return


class FakeSink:
    """The service in memory, for one index (`worker.oss.sink.Sink`).

    What goes wrong is said in four ways, asked in this order: `next_answers`, one for each request that comes (None is a
    good one); `fault`, the emulator's own rules; `max_body_bytes` (413); `judge`, which looks at each element (None for a
    delete) and returns the status that its whole request gets, 0 for none. `waypoint` is called when a request arrived and when it is applied, so that a test
    may let something else happen meanwhile. A request during which another one with a key of its own is under way is
    noted in `overlaps`.
    """

    def __init__(
        self,
        target: Target,
        *,
        judge: Callable[[str, dict[str, Any] | None], int] = _take_all,
        waypoint: Callable[[Stage, Request], None] = _pass,
        read_timeout: float = 30.0,
        max_body_bytes: int = 20 * 1024 * 1024,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self.target = target
        self._may_send = may_send
        self.status = "enable"
        self.vectors: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.overlaps: list[tuple[Request, Request]] = []
        self.next_answers: list[Rule | SinkError | None] = []
        self.read_timeout = read_timeout
        self.max_body_bytes = max_body_bytes
        self._judge = judge
        self._waypoint = waypoint
        self._lock = threading.Lock()
        self._faults = Faults()
        self._under_way: dict[int, Request] = {}
        self._cut: dict[int, threading.Event] = {}

    def fault(self, **rule: Unpack[Fault]) -> None:
        """Put a rule in force; see `worker.local.emulator.faults.Rule`."""
        with self._lock:
            self._faults.add(msgspec.convert(dict(rule), Rule))

    # -- the protocol

    def put(self, body: bytes) -> int:
        """Take a PutVectors body."""
        vectors = {element["key"]: element for element in msgspec.json.decode(body, type=_PutBody).vectors}
        return self._handle(Request("PutVectors", tuple(vectors), body), dict(vectors))

    def delete(self, body: bytes) -> int:
        """Take a DeleteVectors body."""
        keys = msgspec.json.decode(body, type=_DeleteBody).keys
        return self._handle(Request("DeleteVectors", tuple(keys), body), dict.fromkeys(keys))

    def describe(self, index: str) -> Target:
        """Return the index."""
        self._handle(Request("GetVectorIndex", (), index.encode()), {})
        if index != self.target.index:
            raise _refusal(404, "NoSuchVectorIndex", f"no index {index}")
        if self.status != "enable":
            message = f'index {index} is "{self.status}", not yet "enable"'
            raise Transient(message, kind=RetryReason.SERVER, status=200)
        return self.target

    def abort(self, thread_id: int) -> None:
        """Cut the connection on which that thread waits."""
        with self._lock:
            cut = self._cut.get(thread_id)
        if cut is not None:
            cut.set()

    def close(self) -> None:
        """Do nothing; there are no connections."""

    # -- how a request is answered

    def _handle(self, request: Request, elements: dict[str, dict[str, Any] | None]) -> int:
        me = threading.get_ident()
        if not self._may_send():
            raise NotSent("stopped before it was sent")
        with self._lock:
            self.requests.append(request)
            self.overlaps += [
                (other, request)
                for thread, other in self._under_way.items()
                if not self._cut[thread].is_set() and not set(other.keys).isdisjoint(request.keys)
            ]
            self._under_way[me] = request
            self._cut[me] = threading.Event()
            rule = self._rule(request)
        try:
            return self._answer(request, elements, rule, self._cut[me])
        except SinkError as error:
            request.status = error.status
            raise
        except _Cut:
            raise _no_answer("the connection was cut", RetryReason.NETWORK) from None
        finally:
            with self._lock:
                del self._under_way[me], self._cut[me]

    def _rule(self, request: Request) -> Rule | SinkError | None:
        if self.next_answers and request.operation != "GetVectorIndex":
            return self.next_answers.pop(0)
        return self._faults.take(request.operation, None, self.target.index, request.keys)

    def _answer(
        self,
        request: Request,
        elements: dict[str, dict[str, Any] | None],
        rule: Rule | SinkError | None,
        cut: threading.Event,
    ) -> int:
        self._pass("arrived", request, cut)
        if isinstance(rule, SinkError):
            raise rule
        if len(request.body) > self.max_body_bytes:
            raise _refusal(413, "EntityTooLarge", f"{len(request.body)} bytes")
        if rule is not None and rule.answers:
            self._go_wrong(request, elements, rule, cut)
            request.status = rule.status or 200  # an answer that looks like the service's own
            return request.status
        for key, element in elements.items():
            if (status := self._judge(key, element)) != 0:
                raise _refusal(status, "VectorIndexParameterInvalid", f"vector {key!r}")
        self._apply(request, elements)
        self._pass("applied", request, cut)
        request.status = 204 if request.operation == "DeleteVectors" else 200
        return request.status

    def _pass(self, stage: Stage, request: Request, cut: threading.Event) -> None:
        self._waypoint(stage, request)
        if cut.is_set():
            raise _Cut

    def _go_wrong(
        self, request: Request, elements: dict[str, dict[str, Any] | None], rule: Rule, cut: threading.Event
    ) -> None:
        share = {"none": 0, "half": (len(elements) + 1) // 2, "all": len(elements)}[rule.applies]
        good = {key: element for key, element in list(elements.items())[:share] if not self._judge(key, element)}
        if good:
            self._apply(request, good)
            self._pass("applied", request, cut)
        if rule.hang:
            if cut.wait(self.read_timeout):
                raise _Cut
            raise _no_answer("ReadTimeoutError: no answer", RetryReason.TIMEOUT)
        if rule.reset is not None:
            raise _no_answer("ConnectionResetError: the connection was reset", RetryReason.NETWORK)
        if rule.drip is not None:
            raise _no_answer("TimeoutError: the answer was not complete", RetryReason.TIMEOUT)
        error = _error_of(request.operation, answer_of(rule, request_id=REQUEST_ID, host="fake"))
        if error is not None:
            raise error

    def _apply(self, request: Request, elements: Mapping[str, dict[str, Any] | None]) -> None:
        with self._lock:
            for key, element in elements.items():
                if element is None:
                    self.vectors.pop(key, None)
                else:
                    self.vectors[key] = element
            request.applied = tuple(elements)


def _refusal(status: int, code: str, message: str) -> SinkError:
    error = _error_of("PutVectors", error_answer(status, code, message, request_id=REQUEST_ID, host="fake"))
    assert error is not None
    return error


def _error_of(operation: Operation, answer: Rendered) -> SinkError | None:
    return error_of(operation, Answer(answer.status, answer.headers, answer.content))


def _no_answer(message: str, kind: RetryReason) -> Transient:
    return Transient(message, kind=kind, unknown_outcome=True)


# -- the cluster and the consumer


@dataclass(frozen=True)
class FakeMessage:
    """A message as the consumer gives it."""

    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp: int = -1
    headers: Sequence[tuple[str, bytes | None]] = ()


@dataclass
class _Log:
    """One partition: its messages that a reader sees, ascending; offsets between them hold what no reader sees."""

    messages: list[FakeMessage] = field(default_factory=list)
    begin: int = 0
    end: int = 0


class FakeCluster:
    """Topics and one consumer group, in memory.

    Members are given partitions in turn; a partition that moves is first asked back from the member that has it, and
    given to the other when that has let go, as under cooperative-sticky.
    """

    def __init__(self, **partitions: int) -> None:
        self._logs: dict[Partition, _Log] = {}
        self.committed: dict[Partition, int] = {}
        self.members: list[FakeSource] = []
        self.owners: dict[Partition, FakeSource] = {}
        self.refuse_commits: Exception | None = None
        for topic, count in partitions.items():
            self.make_topic(topic, count)

    def make_topic(self, topic: str, partitions: int) -> None:
        """Make a topic, or make it have so many partitions."""
        for number in range(partitions):
            self._logs.setdefault(Partition(topic, number), _Log())

    def partitions(self, topics: Sequence[str]) -> list[Partition]:
        """Return the partitions of topics, in order."""
        return sorted(partition for partition in self._logs if partition.topic in topics)

    def produce(self, partition: Partition, values: Iterable[bytes | None]) -> list[int]:
        """Append messages and return their offsets."""
        log = self._logs[partition]
        offsets = []
        for value in values:
            log.messages.append(FakeMessage(log.end, value))
            offsets.append(log.end)
            log.end += 1
        return offsets

    def skip(self, partition: Partition, offsets: int) -> None:
        """Append what no reader sees: transaction markers, aborted records."""
        self._logs[partition].end += offsets

    def delete_before(self, partition: Partition, offset: int) -> None:
        """Drop what is older, as retention does."""
        log = self._logs[partition]
        log.begin = offset
        log.messages = [message for message in log.messages if message.offset >= offset]

    def begin(self, partition: Partition) -> int:
        """Return the oldest offset that is kept."""
        return self._logs[partition].begin

    def end(self, partition: Partition) -> int:
        """Return the offset that comes next."""
        return self._logs[partition].end

    def read(self, partition: Partition, position: int, most: int) -> tuple[list[FakeMessage], int]:
        """Return messages from `position` on, `most` at most, and where the next read begins."""
        log = self._logs[partition]
        found = [message for message in log.messages if message.offset >= position][:most]
        return found, (found[-1].offset + 1 if len(found) == most else log.end)

    def expel(self, member: "FakeSource") -> None:
        """Remove a member that left, or was not heard of for a session; its partitions go to the others."""
        if member in self.members:
            self.members.remove(member)
        self.owners = {partition: owner for partition, owner in self.owners.items() if owner is not member}

    def wanted(self) -> dict[Partition, "FakeSource"]:
        """Return who should have which partition; one that is well placed stays."""
        wanted: dict[Partition, FakeSource] = {}
        counts = dict.fromkeys(self.members, 0)
        topics = {topic for member in self.members for topic in member.topics}
        partitions = self.partitions(sorted(topics))
        most = -(-len(partitions) // max(1, len(self.members)))
        for partition in partitions:
            owner = self.owners.get(partition)
            if owner in counts and counts[owner] < most:
                wanted[partition] = owner
                counts[owner] += 1
        for partition in partitions:
            if partition not in wanted and counts:
                wanted[partition] = least = min(counts, key=counts.__getitem__)
                counts[least] += 1
        return wanted


class FakeSource:
    """A member of the cluster's group (`worker.ports.Source`).

    It makes the same calls of the ledger in the same order as the real one. A rebalance makes its steps in `poll`, one at
    a time: a revoke closes, waits over as many polls as the requests under way need, at most `revoke_seconds`, commits, and
    ends. A poll that finds nothing calls `idle` with the time-out, where a fake clock advances.
    """

    def __init__(
        self,
        cluster: FakeCluster,
        topics: Sequence[str],
        *,
        ledger: Ledger,
        status: Status,
        metrics: Metrics,
        hooks: RevokeHooks,
        clock: Callable[[], float],
        idle: Callable[[float], None],
        auto_offset_reset: Literal["earliest", "none", "latest"] = "earliest",
        revoke_seconds: float = 15.0,
        max_poll_records: int = 500,
        lease: Lease | None = None,
    ) -> None:
        self.topics = tuple(topics)
        self._cluster = cluster
        self._ledger = ledger
        self._status = status
        self._metrics = metrics
        self._hooks = hooks
        self._clock = clock
        self._idle = idle
        self._reset = auto_offset_reset
        self._revoke_seconds = revoke_seconds
        self._most = max_poll_records
        self._lease = lease or Lease(45.0, 300.0, clock)
        self.is_cut_off = False  # from the group: no heartbeat is answered, and no rebalance heard of
        self._read_at: dict[Partition, int] = {}
        self._fetched: set[Partition] = set()
        self._closing: list[Assignment] = []
        self._deadline = 0.0
        self._aborted = False

    # -- membership

    def start(self) -> None:
        """Join."""
        if missing := [topic for topic in self.topics if not self._cluster.partitions([topic])]:
            raise BrokerUnavailable(f"kafka has no such topic: {', '.join(missing)}")
        self._cluster.members.append(self)

    @property
    def is_member(self) -> bool:
        """Whether it joined."""
        return self in self._cluster.members

    @property
    def waits_for(self) -> str:
        """What it waits for while it is none."""
        return "joining the group"

    def poll(self, timeout: float) -> list[Polled]:
        """Make the next step of a rebalance, and return messages of open partitions that are fetched.

        A member that is not cut off has heartbeats answered. One whose last is a session old is none any more.
        """
        if self._lease.session_seconds <= self._lease.age() < math.inf:
            self._abandon()
            raise BrokerUnavailable(f"no member of the group for {self._lease.session_seconds:.0f} s; joining again")
        if not self.is_cut_off:
            self._lease.confirm(self._lease.now())
            self._rebalance()
        polled: list[Polled] = []
        for partition in sorted(self._fetched & self._read_at.keys()):
            assignment = self._ledger.assignment(partition)
            if assignment is not None and assignment.phase is Phase.OPEN and not self._reset_where_gone(assignment):
                messages, self._read_at[partition] = self._cluster.read(partition, self._read_at[partition], self._most)
                polled += [Polled(assignment, messages)] if messages else []
        if not polled:
            self._idle(timeout)
        return polled

    def _abandon(self) -> None:
        """Give up everything; the cluster has given it to others already."""
        self._cluster.expel(self)
        self._lease.end()
        self._lose(self._ledger.assignments())

    def lose(self) -> None:
        """Be put out of the group, as after a session time-out; nothing is committed. It joins again at once."""
        self._lose(self._ledger.begin_revoke(self._owned()))

    def close(self, timeout: float) -> None:
        """Give back all and leave."""
        if mine := self._owned():
            self._begin_revoke(mine)
            self._deadline = self._clock() + min(timeout, self._revoke_seconds)
            while not self._end_revoke():
                self._idle(0.02)
        self._cluster.expel(self)
        self._lease.end()
        self._metrics.paused_partitions.set(0)

    def _owned(self) -> list[Partition]:
        return [partition for partition, owner in self._cluster.owners.items() if owner is self]

    def _rebalance(self) -> None:
        if self._closing and not self._end_revoke():
            return
        wanted = self._cluster.wanted()
        owners = self._cluster.owners
        if gone := [p for p in self._owned() if wanted.get(p) is not self]:
            self._begin_revoke(gone)
            self._end_revoke()
        new = sorted(p for p, owner in wanted.items() if owner is self and owners.get(p) is None)
        for partition in new:
            owners[partition] = self
            self._ledger.assign(partition)
        if new:
            self._metrics.rebalances.labels("assigned").inc()

    def _begin_revoke(self, partitions: Sequence[Partition]) -> None:
        self._closing = self._ledger.begin_revoke(partitions)
        self._metrics.rebalances.labels("revoked").inc()
        self._hooks.wake()
        self._deadline, self._aborted = self._clock() + self._revoke_seconds, False

    def _end_revoke(self) -> bool:
        """Commit and end where nothing is under way any more, or the time is up; return False where it continues."""
        closing = self._closing
        if self._ledger.has_requests_in_flight(closing):
            if self._clock() < self._deadline:
                return False
            if not self._aborted:
                self._hooks.abort(self._ledger.threads_of(closing))
                self._aborted, self._deadline = True, self._clock() + 1.0
                return False
        self._closing = []
        if offsets := {a: at for a, at in self._ledger.watermarks(closing).items() if at != a.committed}:
            self.commit(offsets)
        self._end(closing)
        return True

    def _lose(self, assignments: Sequence[Assignment]) -> None:
        """End ownerships that were not revoked in order, and cut what is under way of them."""
        self._metrics.rebalances.labels("lost").inc()
        self._end(assignments)
        if threads := self._ledger.threads_of(assignments):
            self._hooks.abort(threads)

    def _end(self, assignments: Sequence[Assignment]) -> None:
        self._ledger.end(assignments)
        for partition in [assignment.partition for assignment in assignments]:
            self._read_at.pop(partition, None)
            self._fetched.discard(partition)
            if self._cluster.owners.get(partition) is self:
                del self._cluster.owners[partition]
            self._status.forget(*partition)
        self._hooks.wake()

    # -- reading

    def open(self, assignment: Assignment) -> bool:
        """Begin reading a partition at its committed offset."""
        partition = assignment.partition
        committed = self._cluster.committed.get(partition)
        problem = self._what_forbids(partition, committed) if self._reset == "none" else None
        for reason in (BlockReason.NO_COMMITTED_OFFSET, BlockReason.OFFSET_OUT_OF_RANGE):
            block = Block(partition.topic, reason, partition.partition)
            if reason is problem:
                self._status.block(block, f"{partition}: committed offset {committed}")
            else:
                self._status.unblock(block)
        if problem is not None:
            return False
        position = self._reset_offset(partition) if committed is None else committed
        if not self._ledger.open(assignment, position, committed):
            return False
        if committed is None and self._reset == "latest":
            skipped = position - self._cluster.begin(partition)
            self._metrics.skipped_offsets.labels(partition.topic, "reset_latest").inc(skipped)
        self._read_at[partition] = position
        return True

    def _what_forbids(self, partition: Partition, committed: int | None) -> BlockReason | None:
        if committed is None:
            return BlockReason.NO_COMMITTED_OFFSET
        inside = self._cluster.begin(partition) <= committed <= self._cluster.end(partition)
        return None if inside else BlockReason.OFFSET_OUT_OF_RANGE

    def _reset_offset(self, partition: Partition) -> int:
        return self._cluster.end(partition) if self._reset == "latest" else self._cluster.begin(partition)

    def _reset_where_gone(self, assignment: Assignment) -> bool:
        """Apply `auto_offset_reset` where what was to be read next is gone; return whether it was."""
        partition = assignment.partition
        position = self._read_at[partition]
        if self._cluster.begin(partition) <= position <= self._cluster.end(partition):
            return False
        if self._reset == "none":
            del self._read_at[partition]
            self._ledger.reassign(assignment)
            return True
        begin, end = self._cluster.begin(partition), self._cluster.end(partition)
        is_latest = self._reset == "latest" and position < begin
        target = end if is_latest else begin
        reason = "reset_latest" if is_latest else "retention"
        self._metrics.skipped_offsets.labels(partition.topic, reason).inc(max(0, target - position))
        self._metrics.truncated_offsets.labels(partition.topic).inc(max(0, position - end))
        if target < position and (restarted := self._ledger.reassign(assignment)) is not None:
            self._ledger.open(restarted, target, None)
        self._read_at[partition] = target
        return True

    def refuse(self, assignment: Assignment, problem: str) -> None:
        """Block it, and read it again from its position."""
        partition = assignment.partition
        if partition in self._read_at:
            self._read_at[partition] = assignment.position
            block = Block(partition.topic, BlockReason.PARTITION_UNREADABLE, partition.partition)
            self._status.block(block, f"{partition} offset {assignment.position}: {problem}")

    def steer(self, fetch: Mapping[Assignment, bool]) -> None:
        """Fetch the partitions that are mapped to True and pause the others."""
        self._fetched = {assignment.partition for assignment, is_wanted in fetch.items() if is_wanted}
        self._metrics.paused_partitions.set(sum(partition not in self._fetched for partition in self._owned()))

    def positions(self, assignments: Iterable[Assignment]) -> None:
        """Enter how far partitions were read."""
        for assignment in assignments:
            with contextlib.suppress(KeyError):  # it is not open
                self._ledger.advance(assignment, self._read_at[assignment.partition])

    # -- commits

    def commit(self, offsets: Mapping[Assignment, int]) -> bool:
        """Commit; the result is in the ledger at once."""
        return self.commit_now(offsets, 0.0) or True

    def commit_now(self, offsets: Mapping[Assignment, int], timeout: float) -> bool:
        """Commit; False where `FakeCluster.refuse_commits` says so."""
        if not offsets:
            return True
        if self._cluster.refuse_commits is not None:
            self._metrics.commits.labels("failed").inc()
            return False
        self._cluster.committed |= {assignment.partition: offset for assignment, offset in offsets.items()}
        self._metrics.commits.labels("ok").inc()
        self._ledger.committed(dict(offsets))
        return True
