"""From sealed batches to settled records: sending, retrying, bisecting.

A lane is one index: a queue of sealed batches in order, and slots that send them. A batch waits while one before it,
in flight or queued, shares a key with it; so every key sees its versions in order, and batches without a common key go
side by side. A slot keeps its batch until each record of it has its outcome, through every retry.

What an answer means for the batch:

    taken        settled as put or deleted, and the versions that it superseded with it
    transient    sent again after a full-jitter delay, without end; Retry-After closes the whole index that long
    refused      split until the bad record stands alone; that one is dead-lettered, and the version that it had
                 superseded is tried in its place, newest first
    500, again   while other requests of the index are taken: as refused; while none is: sent on, told as record_stuck
    target       the index is blocked, probed every `retry_max_seconds`, and goes on when it works again
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from itertools import islice
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec

from worker.batch import Batch, Envelope, Item, Message
from worker.config import Batch as BatchSettings
from worker.config import Delivery as DeliverySettings
from worker.errors import BlockReason, Reason, Refused, RetryReason, SinkError, TargetError, Transient
from worker.metrics import Metrics
from worker.offsets import Assignment, Ledger, Outcome
from worker.oss import CREDENTIAL_STATUSES, Sink
from worker.pace import Admission, Backoff, Pacer
from worker.record import Target
from worker.state import Status

log = logging.getLogger(__name__)
T = TypeVar("T")

SERVER_ERROR: Final = 500  # what the service answers to content that it cannot take, as well as to faults of its own
BISECT_AFTER_SERVER_ERRORS: Final = 3
HALVE_AFTER_WRITE_TIMEOUTS: Final = 2
NARROW_SECONDS: Final = 600.0  # how long batches stay smaller after a body was too large for the connection
_LOOK_AHEAD: Final = 16  # queued batches that are looked through for one that may go


class DeadLetter(msgspec.Struct, frozen=True, eq=False):
    """A record that can never be written, with what is told of it. `refusal` is the service's answer, if it had one."""

    assignment: Assignment
    message: Message
    size: int
    index: str
    reason: Reason
    text: str
    raised_by: str
    error_class: str
    refusal: SinkError | None = None
    attempts: int = 0

    @property
    def offset(self) -> int:
        """The record's offset in its partition."""
        return self.message.offset


class DeadLetters(Protocol):
    """Where dead letters go. They are settled once the broker has acknowledged them."""

    def submit(self, letter: DeadLetter) -> None:
        """Take a dead letter; returns at once."""


class Verdict(Enum):
    """What became of one part of a batch."""

    TAKEN = auto()
    SPLIT = auto()
    DEAD = auto()
    ABANDONED = auto()  # its partitions were given back, or the process stops


class _Attempts:
    """What a part has seen so far, and what follows from it."""

    def __init__(self) -> None:
        self.count = 0
        self.server_errors = 0
        self.write_timeouts = 0
        self.taken_before = 0
        self.last: SinkError | None = None

    def note(self, error: SinkError, taken: int) -> None:
        self.last = error
        if error.status == SERVER_ERROR:
            if not self.server_errors:
                self.taken_before = taken
            self.server_errors += 1
        elif isinstance(error, Transient) and error.while_sending:
            self.write_timeouts += 1


class LaneContext(NamedTuple):
    """What every lane is wired to."""

    sink: Sink
    ledger: Ledger
    dead_letters: DeadLetters
    status: Status
    metrics: Metrics
    delivery: DeliverySettings
    batch: BatchSettings
    isolated_attempts: int
    backoff: Backoff
    clock: Callable[[], float]
    wall: Callable[[], float]


class Lane:
    """One index: its queue, its slots, its pace."""

    def __init__(self, index: str, topics: Sequence[str], context: LaneContext) -> None:
        self.index = index
        self.topics = tuple(topics)
        self.taken = 0  # requests that the index took
        self.envelope = Envelope.of(index)
        self.context = context
        self.pacer = Pacer(
            requests_per_second=context.delivery.requests_per_second,
            vectors_per_second=context.delivery.vectors_per_second,
            clock=context.clock,
        )
        self._condition = threading.Condition()
        self._queue: deque[Batch] = deque()
        self._in_flight: list[Batch] = []
        self._stopping = False
        self._narrowed: tuple[int, float] | None = None
        self._threads: list[threading.Thread] = []

    # -- batches

    def submit(self, batch: Batch) -> None:
        """Queue a sealed batch; returns at once. Batches are delivered in the order of this call, key by key."""
        self.context.metrics.sealed(self.index, len(batch.items), batch.size, batch.reason)
        with self._condition:
            self._queue.append(batch)
            self._condition.notify()

    def take(self) -> Batch | None:
        """Take the next batch that may go into flight, None where there is none now."""
        with self._condition:
            return self._take()

    def _take(self) -> Batch | None:
        if len(self._in_flight) >= self.context.delivery.max_in_flight:
            return None
        ahead = list(self._in_flight)
        for place, batch in enumerate(islice(self._queue, _LOOK_AHEAD)):
            if not any(batch.shares_a_key_with(other) for other in ahead):
                del self._queue[place]
                self._in_flight.append(batch)
                return batch
            ahead.append(batch)
        return None

    def done(self, batch: Batch) -> None:
        """Take the batch out of flight, so that those which waited for its keys may go."""
        with self._condition:
            self._in_flight.remove(batch)
            self._condition.notify_all()

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is queued or in flight."""
        with self._condition:
            return not self._queue and not self._in_flight

    def max_body_bytes(self) -> int:
        """Return the size that the next batches are held to."""
        narrowed = self._narrowed
        if narrowed is not None and self.context.clock() < narrowed[1]:
            return narrowed[0]
        return self.context.batch.max_bytes

    def narrow(self, body_bytes: int) -> None:
        """Hold batches to half of a body that was too large, for a while."""
        size = max(1024, body_bytes // 2)
        self._narrowed = (size, self.context.clock() + NARROW_SECONDS)
        log.warning(
            "a body was too large for the connection; batches stay smaller for a while",
            extra={"index": self.index, "max_bytes": size},
        )

    # -- slots

    def start(self) -> None:
        """Start the slots."""
        for number in range(self.context.delivery.max_in_flight):
            thread = threading.Thread(target=self._run, name=f"slot-{self.index}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Give up what is in flight and end the slots; what was not settled stays so."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self.abort()

    def abort(self) -> None:
        """Cut the connections on which slots wait for an answer."""
        for thread in self._threads:
            if thread.ident is not None:
                self.context.sink.abort(thread.ident)

    def wake(self) -> None:
        """Let slots that wait look again, since partitions were given back."""
        with self._condition:
            self._condition.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for the slots to end, so many seconds in all."""
        deadline = self.context.clock() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - self.context.clock()))

    def dead_threads(self) -> list[str]:
        """Return the names of slots that ended without being told to."""
        return [] if self._stopping else [thread.name for thread in self._threads if not thread.is_alive()]

    @property
    def is_stopping(self) -> bool:
        """Tell whether the slots are to end."""
        return self._stopping

    def pause(self, seconds: float, until: Callable[[], bool]) -> None:
        """Wait so long; less where the lane stops, or `until` comes true at a wake-up."""
        deadline = self.context.clock() + seconds
        with self._condition:
            while not self._stopping and not until():
                remaining = deadline - self.context.clock()
                if remaining <= 0:
                    return
                self._condition.wait(remaining)

    def _run(self) -> None:
        courier = Courier(self)
        while (batch := self._wait_for_batch()) is not None:
            try:
                courier.deliver(batch)
            finally:
                self.done(batch)

    def _wait_for_batch(self) -> Batch | None:
        with self._condition:
            while not self._stopping:
                batch = self._take()
                if batch is not None:
                    return batch
                self._condition.wait()
        return None

    # -- the target

    def describe(self, *, is_needed: bool) -> Target | None:
        """Ask the service for the index, until it answers; None where the lane stops before.

        While the answer is no, the lane's topics are blocked with the reason, and it is asked again. Where the answer is
        not needed, for the settings give it, and we may not ask, it is left at that: None.
        """
        attempt = 0
        while not self._stopping:
            attempt += 1
            try:
                target = self.observed("GetVectorIndex", lambda: (200, self.context.sink.describe(self.index)))
            except Transient as error:
                self.context.metrics.retries.labels(error.kind.value).inc()
                delay = self.context.backoff.delay(attempt) + (error.retry_after or 0.0)
                log.warning(
                    "index not known yet", extra={"index": self.index, "error": str(error), "again_in": round(delay, 1)}
                )
                self.pause(delay, lambda: False)
            except SinkError as error:
                if not is_needed and error.status in CREDENTIAL_STATUSES:
                    log.warning(
                        "the index cannot be asked for; taken as the settings say",
                        extra={"index": self.index, "error": str(error)},
                    )
                    return None
                self.block(error.block if isinstance(error, TargetError) else BlockReason.TARGET, error)
                self.pause(self.context.delivery.retry_max_seconds, lambda: False)
            else:
                self.unblock()
                return target
        return None

    def block(self, reason: BlockReason, error: SinkError) -> None:
        """Tell that nothing goes to this index."""
        for topic in self.topics:
            self.context.status.block(topic, reason, f"index {self.index}: {error}")

    def unblock(self) -> None:
        """Tell that the index takes requests again."""
        for topic in self.topics:
            for reason in (BlockReason.CREDENTIALS, BlockReason.TARGET):
                self.context.status.unblock(topic, reason)

    def observed(self, operation: str, request: Callable[[], tuple[int, T]]) -> T:
        """Make a request and count it by its status and duration."""
        metrics, started = self.context.metrics, self.context.clock()
        code = "error"
        try:
            status, result = request()
            code = str(status)
        except SinkError as error:
            code = str(error.status) if error.status else "error"
            raise
        else:
            return result
        finally:
            metrics.request_duration.labels(operation).observe(self.context.clock() - started)
            metrics.requests.labels(self.index, operation, code).inc()


class Courier:
    """Delivers one batch at a time, on one slot."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._context = lane.context

    def deliver(self, batch: Batch) -> None:
        """Bring every record of the batch to its outcome; less only where its partition went or the lane stops."""
        items = list(batch.items.values())
        puts = [item for item in items if item.fragment is not None]
        deletes = [item for item in items if item.fragment is None]
        work = [part for part in (deletes, puts) if part]
        while work:
            part = work.pop()
            verdict, part, attempts = self._until_final(part)
            if verdict is Verdict.SPLIT:
                self._context.metrics.bisects.labels(self._lane.index).inc()
                middle = len(part) // 2
                work += [part[middle:], part[:middle]]
            elif verdict is Verdict.DEAD:
                item = part[0]
                older, item.older = item.older, None
                self._dead_letter(item, attempts)
                if older is not None:
                    work.append([older])
            elif verdict is Verdict.ABANDONED:
                self._discard(part)

    def _until_final(self, part: list[Item]) -> tuple[Verdict, list[Item], _Attempts]:
        """Send a part, all puts or all deletes, until its verdict is final; returns what of it was still owned."""
        attempts = _Attempts()
        body = b""
        while True:
            owned = self._owned(part)
            if not owned or self._lane.is_stopping:
                return Verdict.ABANDONED, owned, attempts
            if len(owned) != len(part) or not body:
                part = owned
                body = self._body(part)
            admission = self._admitted(part)
            if admission is None:
                continue
            probe = self._probe(part, attempts)
            error = self._attempt(probe or part, self._body(probe) if probe else body, admission)
            if error is None:
                if not probe:
                    return Verdict.TAKEN, part, attempts
                part = part[1:]
                body = b""
                continue
            attempts.count += 1
            attempts.note(error, self._lane.taken)
            verdict = self._judge(part, len(body), attempts, error)
            if verdict is not None:
                return verdict, part, attempts
            self._wait_to_retry(part, attempts, error)

    def _body(self, part: list[Item]) -> bytes:
        envelope = self._lane.envelope
        return envelope.delete_body(part) if part[0].fragment is None else envelope.put_body(part)

    def _owned(self, part: list[Item]) -> list[Item]:
        """Return what of the part is still ours to send, and let go of the rest."""
        if all(item.assignment.is_live for item in part):
            return part
        self._discard([item for item in part if not item.assignment.is_live])
        return [item for item in part if item.assignment.is_live]

    def _discard(self, items: Iterable[Item]) -> None:
        """Give free what records hold whose partition was given back; the ledger has counted them as returned."""
        self._context.ledger.discard(version for item in items for version in item.versions())

    def _admitted(self, part: list[Item]) -> Admission | None:
        """Wait until the index's pace lets the part go; None where something came between."""
        admission = self._lane.pacer.admit(len(part))
        if admission.delay <= 0.0:
            return admission
        started = self._context.clock()
        self._lane.pause(admission.delay, lambda: not all(item.assignment.is_live for item in part))
        waited = self._context.clock() - started
        self._context.metrics.rate_limit_wait.labels(self._lane.index).inc(waited)
        return None

    def _probe(self, part: list[Item], attempts: _Attempts) -> list[Item] | None:
        """Return one record to send alone, where a batch keeps getting 500 and nothing else of the index is taken.

        Whether the fault is the batch's or the service's cannot be told from the batch alone: what shares a key with it
        waits behind it. If the one record is taken, others pass, and the rest is split.
        """
        stuck = attempts.server_errors >= BISECT_AFTER_SERVER_ERRORS and self._lane.taken == attempts.taken_before
        return part[:1] if stuck and len(part) > 1 else None

    def _attempt(self, part: list[Item], body: bytes, admission: Admission) -> SinkError | None:
        """Send once. A request that was taken is settled before it counts as landed."""
        lane, context = self._lane, self._context
        assignments = {item.assignment for item in part}
        if not context.ledger.depart(assignments):
            lane.pacer.answered(admission, well=False)
            return Transient("a partition was given back", kind=RetryReason.NETWORK)
        is_delete = part[0].fragment is None
        send = context.sink.delete if is_delete else context.sink.put
        context.metrics.uploaded_bytes.labels(lane.index).inc(len(body))
        context.metrics.in_flight.labels(lane.index).inc()
        error: SinkError | None = None
        try:
            lane.observed("DeleteVectors" if is_delete else "PutVectors", lambda: (send(body), None))
            self._settle_taken(part, Outcome.DELETED if is_delete else Outcome.PUT)
        except SinkError as refusal:
            error = refusal
        finally:
            context.metrics.in_flight.labels(lane.index).dec()
            context.ledger.land(assignments)
            lane.pacer.answered(admission, well=error is None or isinstance(error, Refused))
        if error is None or isinstance(error, Refused):
            lane.unblock()
        return error

    def _settle_taken(self, part: list[Item], outcome: Outcome) -> None:
        lane, context = self._lane, self._context
        lane.taken += 1
        now = context.wall()
        context.metrics.last_put.set(now)
        older = [version for item in part if item.older is not None for version in item.older.versions()]
        context.ledger.settle(part, outcome)
        if older:
            context.ledger.settle(older, Outcome.SUPERSEDED)
        observe_latency(context.metrics, [*part, *older], now)
        for topic in {item.assignment.partition.topic for item in part}:
            context.status.unblock(topic, BlockReason.RECORD_STUCK)

    def _judge(self, part: list[Item], body_bytes: int, attempts: _Attempts, error: SinkError) -> Verdict | None:
        """Tell what an error makes of the part; None where it is to be sent again."""
        alone = len(part) == 1
        if isinstance(error, Refused):
            if error.status == 413 and not alone:
                self._lane.narrow(body_bytes)
            return Verdict.DEAD if alone else Verdict.SPLIT
        if attempts.write_timeouts >= HALVE_AFTER_WRITE_TIMEOUTS and not alone:
            self._lane.narrow(body_bytes)
            return Verdict.SPLIT
        others_pass = self._lane.taken > attempts.taken_before
        if error.status == SERVER_ERROR and others_pass:
            if not alone:
                return Verdict.SPLIT if attempts.server_errors >= BISECT_AFTER_SERVER_ERRORS else None
            return Verdict.DEAD if attempts.server_errors >= self._context.isolated_attempts else None
        return None

    def _wait_to_retry(self, part: list[Item], attempts: _Attempts, error: SinkError) -> None:
        lane, context = self._lane, self._context
        if isinstance(error, TargetError):
            lane.block(error.block, error)
            lane.pacer.close_for(context.delivery.retry_max_seconds)
            return
        assert isinstance(error, Transient)  # noqa: S101 - the error tree has no other; the type checker wants it said
        context.metrics.retries.labels(error.kind.value).inc()
        if error.unknown_outcome:
            context.metrics.unknown_outcomes.labels(lane.index).inc()
        if len(part) == 1 and attempts.server_errors >= context.isolated_attempts:
            where = f"{part[0].assignment.partition} offset {part[0].offset}"
            context.status.block(part[0].assignment.partition.topic, BlockReason.RECORD_STUCK, f"{where}: {error}")
        log.warning(
            "request failed, will be sent again",
            extra={"index": lane.index, "records": len(part), "attempt": attempts.count, "error": str(error)},
        )
        if error.retry_after is not None:
            floor = min(error.retry_after, context.delivery.retry_after_max_seconds)
            lane.pacer.close_for(floor + context.backoff.jitter())
        else:
            delay = context.backoff.delay(attempts.count)
            lane.pause(delay, lambda: not all(item.assignment.is_live for item in part))

    def _dead_letter(self, item: Item, attempts: _Attempts) -> None:
        error = attempts.last
        isolated = error is not None and error.status == SERVER_ERROR
        self._context.dead_letters.submit(
            DeadLetter(
                item.assignment,
                item.message,
                item.size,
                self._lane.index,
                Reason.ISOLATED_SERVER_ERROR if isolated else Reason.REFUSED,
                f"the service refused the record alone: {error}",
                f"{__name__}.{type(self).__name__}",
                f"{type(error).__module__}.{type(error).__name__}",
                error,
                attempts.count,
            )
        )


def observe_latency(metrics: Metrics, items: Iterable[Item], now: float) -> None:
    """Observe the time from each record's timestamp to its outcome, topic by topic."""
    by_topic: dict[str, list[int]] = {}
    for item in items:
        by_topic.setdefault(item.assignment.partition.topic, []).append(item.message.timestamp)
    for topic, timestamps in by_topic.items():
        metrics.settled(topic, timestamps, now)
