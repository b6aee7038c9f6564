"""From sealed batches to settled records: sending, retrying, bisecting.

A lane is one index: a queue of sealed batches in order, and slots that send them. A batch waits while one before it,
in flight or queued, shares a key with it; so every key sees its versions in order, and batches without a common key go
side by side. A slot keeps its batch until each record of it has its outcome, through every retry.

What an answer means for the batch:

    not sent     sent when the lease holds again, or given up with its partition; no attempt
    taken        settled as put or deleted, and the versions that it superseded with it
    transient    sent again after a full-jitter delay, without end; Retry-After closes the whole index that long
    refused      split until the bad record stands alone; that one is dead-lettered, and the version that it had
                 superseded is tried in its place, newest first
    500, again   while other requests of the index are taken: as refused; while none is: sent on, told as record_stuck.
                 So is every transient answer by which the service may mean the records (`Blame.CONTENT`)
    a proxy's    400, 413 or 422 (`Blame.WAY`): split likewise, but what is alone is sent on, told as record_stuck
    target       the index is blocked, probed every `retry_max_seconds`, and goes on when it works again
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from worker.delivery.batch import Batch, Envelope, Item
from worker.delivery.pace.backoff import Backoff
from worker.delivery.pace.pacer import Admission, Pacer, Verdict
from worker.errors import Blame, BlockReason, NotSent, Reason, Refused, RetryReason, SinkError, TargetError, Transient
from worker.ledger import Ledger, Outcome, Partition
from worker.oss.answers import CREDENTIAL_STATUSES
from worker.ports import BareMessage, DeadLetter, DeadLetters, Refusal, Sink
from worker.records.target import Target
from worker.settings.tables import Batch as BatchSettings
from worker.settings.tables import Delivery as DeliverySettings
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, Status

log = logging.getLogger("worker.delivery")


T = TypeVar("T")


SERVER_ERROR: Final = 500  # what the service answers to content that it cannot take, as well as to faults of its own


BISECT_AFTER: Final = 3  # answers that may blame the records


HALVE_AFTER_WRITE_TIMEOUTS: Final = 2


NARROW_SECONDS: Final = 600.0  # how long batches stay smaller after a body was too large for the connection


_NOT_SENT: Final = NotSent("a partition was given back, or the lease ran out, before the request left")


LEASE_LOOK_SECONDS: Final = 1.0  # the longest that what is held back waits until it looks again; it is woken before


# Of the header __connect.errors.class.name: it stays as it is when this file moves.
_RAISED_BY: Final = "worker.delivery.Courier"
_LOOK_AHEAD: Final = 16  # queued batches that are looked through for one that may go


class _Doubt:
    """How often a part got answers that may blame its records, and whether others were accepted meanwhile."""

    def __init__(self) -> None:
        self.count = 0
        self._taken_before = 0  # requests that the index had taken at the first of them

    def note(self, taken: int) -> None:
        if not self.count:
            self._taken_before = taken
        self.count += 1

    def others_pass(self, taken_when_sent: int) -> bool:
        """Return whether others were taken between the first of these answers and the part's last departure.

        What is taken after it left tells nothing of it: the outage ends, another request is taken, and then comes the
        answer of the outage to this one.
        """
        return bool(self.count) and taken_when_sent > self._taken_before


class _Part:
    """Some records of a batch, all puts or all deletes, on their way to one verdict; and what they have seen so far."""

    def __init__(self, items: list[Item]) -> None:
        self.hold(items)
        self.not_before = 0.0  # when it may be sent again, in the clock's seconds
        self.attempts = 0
        self.doubt = _Doubt()  # by the service, or by something on the way
        self.service_doubt = _Doubt()
        self.write_timeouts = 0
        self.taken_when_sent = 0  # requests that the index had taken when this last left
        self.is_held = False  # back, since the lease had run out

    def hold(self, items: list[Item]) -> None:
        """Be made of these, at least one."""
        self.items = items
        self.assignments = {item.assignment for item in items}

    @property
    def is_delete(self) -> bool:
        return self.items[0].fragment is None

    @property
    def is_alone(self) -> bool:
        return len(self.items) == 1

    @property
    def is_live(self) -> bool:
        """Tell whether all of it is still ours to send."""
        return all(assignment.is_live for assignment in self.assignments)

    @property
    def others_pass(self) -> bool:
        """Return whether others were taken between the first answer that may blame it and its last departure."""
        return self.doubt.others_pass(self.taken_when_sent)

    def halves(self) -> "list[_Part]":
        middle = len(self.items) // 2
        return [_Part(items) for items in (self.items[:middle], self.items[middle:]) if items]

    def note(self, error: SinkError, taken: int) -> None:
        self.attempts += 1
        if not isinstance(error, Transient):
            return
        if error.blame is not Blame.NOBODY:
            self.doubt.note(taken)
        if error.blame is Blame.CONTENT:
            self.service_doubt.note(taken)
        if error.while_sending:
            self.write_timeouts += 1


def _parts_of(items: Sequence[Item]) -> list[_Part]:
    """Return the puts among the items, and the deletes, as far as there are any."""
    puts = [item for item in items if item.fragment is not None]
    deletes = [item for item in items if item.fragment is None]
    return [_Part(chosen) for chosen in (puts, deletes) if chosen]


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
        self.last_answer = ""  # why the service has not told of the index yet
        self.envelope = Envelope.of(index)
        self.context = context
        self.pacer = Pacer(
            requests_per_second=context.delivery.requests_per_second,
            vectors_per_second=context.delivery.vectors_per_second,
            max_in_flight=context.delivery.max_in_flight,
            clock=context.clock,
        )
        self._lock = threading.Lock()
        self._arrival = threading.Condition(self._lock)  # on which idle slots wait for a batch
        self._change = threading.Condition(self._lock)  # on which those wait that have one, until they may send it
        self._queue: deque[Batch] = deque()
        self._in_flight: list[Batch] = []
        self._stopping = False
        self._narrowed: tuple[int, float] | None = None
        self._is_blocked = False
        self._threads: list[threading.Thread] = []

    # -- batches

    def submit(self, batch: Batch) -> None:
        """Queue a sealed batch; returns at once. Batches are delivered in the order of this call, key by key."""
        self.context.metrics.sealed(self.index, len(batch.items), batch.size, batch.reason)
        with self._lock:
            self._queue.append(batch)
            self._arrival.notify()

    def take(self) -> Batch | None:
        """Take the next batch that may go into flight, None where there is none now."""
        with self._lock:
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
        """Take the batch out of flight, so that those which waited for its keys may go.

        What blocked ends with the last batch: the records that were refused have gone with their partitions, nothing is
        read while the topics are blocked, and so nobody would ask again.
        """
        with self._lock:
            self._in_flight.remove(batch)
            if self._queue:
                self._arrival.notify_all()
            nobody_asks = self._is_blocked and not self._stopping and not self._queue and not self._in_flight
        if nobody_asks:
            self.unblock()

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is queued or in flight."""
        with self._lock:
            return not self._queue and not self._in_flight

    def answered(self, admission: Admission, verdict: Verdict, size: int = 0) -> None:
        """Tell the pace what became of a request, and those who wait for room that there is some."""
        self.pacer.answered(admission, verdict, size)
        self._show_pace()
        self.wake()

    def _show_pace(self) -> None:
        metrics = self.context.metrics
        metrics.in_flight_limit.labels(self.index).set(self.pacer.in_flight_limit)
        metrics.rate_limit.labels(self.index).set(self.pacer.vectors_per_second)

    def note_taken(self) -> None:
        """Count a request that the index took."""
        with self._lock:
            self.taken += 1

    def max_body_bytes(self) -> int:
        """Return the size that the next batches are held to."""
        narrowed = self._narrowed
        if narrowed is not None and self.context.clock() < narrowed[1]:
            return narrowed[0]
        return self.context.batch.max_bytes

    def narrow(self, body_bytes: int) -> None:
        """Hold batches to half of a body that was too large, for a while."""
        size = min(max(1024, body_bytes // 2), self.max_body_bytes())
        self._narrowed = (size, self.context.clock() + NARROW_SECONDS)
        log.warning(
            "a body was too large for the connection; batches stay smaller for a while",
            extra={"index": self.index, "max_bytes": size},
        )

    # -- slots

    def start(self) -> None:
        """Start the slots."""
        self._show_pace()
        for number in range(self.context.delivery.max_in_flight):
            thread = threading.Thread(target=self._run, name=f"slot-{self.index}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Give up what is in flight and end the slots; what was not settled stays so."""
        with self._lock:
            self._stopping = True
            self._arrival.notify_all()
            self._change.notify_all()
        self.abort()

    def abort(self) -> None:
        """Cut the connections on which slots wait for an answer."""
        for thread in self._threads:
            if thread.ident is not None:
                self.context.sink.abort(thread.ident)

    def wake(self) -> None:
        """Let slots that wait to send look: partitions were given back, or their turn with the pace may have come."""
        with self._lock:
            self._change.notify_all()

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
        with self._lock:
            while not self._stopping and not until():
                remaining = deadline - self.context.clock()
                if remaining <= 0:
                    return
                self._change.wait(remaining)

    def _run(self) -> None:
        courier = Courier(self)
        while self._deliver_next(courier):
            pass  # and nothing of the batch is held while the next one is waited for

    def _deliver_next(self, courier: "Courier") -> bool:
        """Wait for a batch and deliver it; tells whether there was one, before the lane stopped."""
        batch = self._wait_for_batch()
        if batch is None:
            return False
        try:
            courier.deliver(batch)
        finally:
            self.done(batch)
        return True

    def _wait_for_batch(self) -> Batch | None:
        with self._lock:
            while not self._stopping:
                batch = self._take()
                if batch is not None:
                    return batch
                self._arrival.wait()
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
                floor = min(error.retry_after or 0.0, self.context.delivery.retry_after_max_seconds)
                delay = self.context.backoff.delay(attempt) + floor
                self.last_answer = str(error)
                log.warning(
                    "index not known yet", extra={"index": self.index, "error": str(error), "again_in": round(delay, 1)}
                )
                self.pause(delay, lambda: False)
            except SinkError as error:
                if not is_needed and _may_not_ask(error):
                    log.warning(
                        "the index cannot be asked for; taken as the settings say",
                        extra={"index": self.index, "error": str(error)},
                    )
                    return None
                self.last_answer = str(error)
                self.block(error.block if isinstance(error, TargetError) else BlockReason.TARGET, error)
                self.pause(self.context.delivery.retry_max_seconds, lambda: False)
            else:
                return target
        return None

    def block(self, reason: BlockReason, error: SinkError) -> None:
        """Tell that nothing goes to this index."""
        with self._lock:
            self._is_blocked = True
            for topic in self.topics:
                self.context.status.block(Block(topic, reason), f"index {self.index}: {error}")

    def unblock(self) -> None:
        """Tell that the index takes requests again."""
        with self._lock:
            self._is_blocked = False
            for topic in self.topics:
                for reason in (BlockReason.CREDENTIALS, BlockReason.TARGET):
                    self.context.status.unblock(Block(topic, reason))

    def observed(self, operation: str, request: Callable[[], tuple[int, T]]) -> T:
        """Make a request and count it by its status and duration."""
        metrics, started = self.context.metrics, self.context.clock()
        code: str | None = "error"
        try:
            status, result = request()
            code = str(status)
        except NotSent:
            code = None
            raise
        except SinkError as error:
            code = str(error.status) if error.status else "error"
            raise
        else:
            return result
        finally:
            if code is not None:
                metrics.request_duration.labels(operation).observe(self.context.clock() - started)
                metrics.requests.labels(self.index, operation, code).inc()


class Courier:
    """Delivers one batch at a time, on one slot.

    A batch is one or two parts to begin with, its puts and its deletes; a part that is split makes two. Each step sends
    one part once, the one whose time has come first. So a part that fails does not hold up the others, and what the
    others meet tells whether the fault is the part's own.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._context = lane.context

    def deliver(self, batch: Batch) -> None:
        """Bring every record of the batch to its outcome; less only where its partition went or the lane stops."""
        parts = _parts_of(list(batch.items.values()))
        while parts:
            part = min(parts, key=lambda each: each.not_before)
            parts.remove(part)
            parts += self._step(part)

    def _step(self, part: _Part) -> list[_Part]:
        """Send a part once, when its time has come; returns what is left to do of it."""
        self._lane.pause(part.not_before - self._context.clock(), lambda: not part.is_live)
        if not part.is_live:
            return self._without_what_was_given_back(part)
        if self._lane.is_stopping:
            self._discard(part.items)
            return []
        if not self._context.ledger.may_write:
            self._hold_back(part)
            return [part]
        admission = self._admitted(part)
        if admission is None:
            return [part]
        part.is_held = False
        part.taken_when_sent = self._lane.taken
        if self._is_stuck(part):
            return self._probe(part, admission)
        error = self._attempt(part.items, admission)
        return [] if error is None else self._judge(part, error)

    def _hold_back(self, part: _Part) -> None:
        """Wait until the lease holds again, or the partitions are lost: another process may write newer versions by now.

        The part loses its place with the pace, which is for those who may go. Nothing of it counts as an attempt.
        """
        self._note_held_back(part)
        self._lane.pacer.leave(self)
        self._lane.wake()
        self._lane.pause(LEASE_LOOK_SECONDS, lambda: not part.is_live or self._context.ledger.may_write)

    def _note_held_back(self, part: _Part) -> None:
        if not part.is_held:
            part.is_held = True
            self._context.metrics.lease_waits.inc()

    def _is_stuck(self, part: _Part) -> bool:
        """Tell whether several records keep getting 500, or the like, together while nothing else of the index is taken.

        Whether the fault is theirs or the service's cannot be told from that alone: what shares a key with them waits.
        """
        return part.doubt.count >= BISECT_AFTER and not part.others_pass and not part.is_alone

    def _probe(self, part: _Part, admission: Admission) -> list[_Part]:
        """Send one record of a stuck part alone, each in its turn: if it is taken, the fault is in the rest, which is split."""
        place = part.attempts % len(part.items)
        one = part.items[place : place + 1]
        error = self._attempt(one, admission)
        if error is None:
            rest = _Part(part.items[:place] + part.items[place + 1 :])
            return [rest] if rest.is_alone else self._split(rest)
        return self._judge(part, error)

    def _body(self, items: list[Item]) -> bytes:
        envelope = self._lane.envelope
        return envelope.delete_body(items) if items[0].fragment is None else envelope.put_body(items)

    def _without_what_was_given_back(self, part: _Part) -> list[_Part]:
        """Return what of the part is still ours to send.

        An older version may be of another partition, which stays: producers that place one key in two partitions, or two
        topics of one index. It takes the place of the one that went.
        """
        gone = [item for item in part.items if not item.assignment.is_live]
        kept = [item for item in part.items if item.assignment.is_live]
        self._unstick(gone)  # it may have been told after the partition had been forgotten
        rest = _parts_of([item for item in map(self._successor, gone) if item is not None])
        if kept:
            part.hold(kept)
            rest.append(part)
        return rest

    def _successor(self, item: Item) -> Item | None:
        """Let go of an item's versions that were given back; returns the newest of the others, with those behind it."""
        versions = list(item.versions())
        live = [version for version in versions if version.assignment.is_live]
        self._context.ledger.discard([version for version in versions if not version.assignment.is_live])
        for version, older in zip(live, [*live[1:], None], strict=False):  # none live, none to link
            version.older = older
        return live[0] if live else None

    def _discard(self, items: Iterable[Item]) -> None:
        """Give free what records hold that will not be settled here; the ledger has counted them, or will, as returned."""
        self._context.ledger.discard(version for item in items for version in item.versions())

    def _admitted(self, part: _Part) -> Admission | None:
        """Return the leave of the index's pace; None where it had to be waited for, and something may have come between."""
        lane, pacer = self._lane, self._lane.pacer
        admission = pacer.admit(len(part.items), self)
        if admission.delay <= 0.0:
            lane.wake()
            return admission
        started = self._context.clock()
        if admission.for_room:
            lane.pause(admission.delay, lambda: not part.is_live or pacer.is_next(self))
        else:
            lane.pause(admission.delay, lambda: not part.is_live)
            self._context.metrics.rate_limit_wait.labels(lane.index).inc(self._context.clock() - started)
        if not part.is_live:
            pacer.leave(self)
            lane.wake()
        return None

    def _attempt(self, items: list[Item], admission: Admission) -> SinkError | None:
        """Send once; returns the error. A request that was taken is settled before it counts as landed."""
        lane, context = self._lane, self._context
        assignments = {item.assignment for item in items}
        body = self._body(items)  # made for each attempt: one that waits to be sent again holds its fragments alone
        if not context.ledger.depart(assignments):
            lane.answered(admission, Verdict.NOT_SENT)
            return _NOT_SENT
        context.ledger.hold(len(body))
        is_delete = items[0].fragment is None
        send = context.sink.delete if is_delete else context.sink.put
        context.metrics.in_flight.labels(lane.index).inc()
        verdict = Verdict.FAILED  # also where something fails that is nobody's answer
        error: SinkError | None = None
        try:
            lane.observed("DeleteVectors" if is_delete else "PutVectors", lambda: (send(body), None))
            verdict = Verdict.TAKEN
            self._settle_taken(items, Outcome.DELETED if is_delete else Outcome.PUT)
        except SinkError as refusal:
            error, verdict = refusal, _verdict(refusal)
        finally:
            context.metrics.in_flight.labels(lane.index).dec()
            if verdict is not Verdict.NOT_SENT:
                context.metrics.uploaded_bytes.labels(lane.index).inc(len(body))
            context.ledger.hold(-len(body))
            context.ledger.land(assignments)
            lane.answered(admission, verdict, len(body))
        if verdict.is_judged:
            lane.unblock()
        return error

    def _settle_taken(self, part: list[Item], outcome: Outcome) -> None:
        lane, context = self._lane, self._context
        lane.note_taken()
        now = context.wall()
        context.metrics.last_put.set(now)
        older = [version for item in part if item.older is not None for version in item.older.versions()]
        context.ledger.settle(part, outcome)
        if older:
            context.ledger.settle(older, Outcome.SUPERSEDED)
        observe_latency(context.metrics, [*part, *older], now)
        self._unstick(part)

    def _judge(self, part: _Part, error: SinkError) -> list[_Part]:
        """Return what an error makes of the part: split, dead-lettered, or to be sent again."""
        if isinstance(error, NotSent):
            if part.is_live:
                self._note_held_back(part)
            return [part]
        part.note(error, self._lane.taken)
        is_too_large = error.status == 413 or part.write_timeouts >= HALVE_AFTER_WRITE_TIMEOUTS
        if is_too_large and not part.is_alone:
            self._lane.narrow(sum(len(item.fragment or b"") for item in part.items))
            return self._split(part)
        if isinstance(error, Refused) or self._is_at_fault(part, error):
            return self._dead_letter(part, error) if part.is_alone else self._split(part)
        self._send_again(part, error)
        return [part]

    def _is_at_fault(self, part: _Part, error: SinkError) -> bool:
        """Return whether a part must itself be why it fails again and again: others were taken meanwhile.

        Something on the way that refuses a record alone may refuse it for what it is, or for its size, which those that
        pass have not: that record is not given up.
        """
        if not isinstance(error, Transient) or error.blame is Blame.NOBODY:
            return False
        if not part.is_alone:
            return part.doubt.count >= BISECT_AFTER and part.others_pass
        doubt, enough = part.service_doubt, self._context.isolated_attempts
        return error.blame is Blame.CONTENT and doubt.count >= enough and doubt.others_pass(part.taken_when_sent)

    def _split(self, part: _Part) -> list[_Part]:
        self._context.metrics.bisects.labels(self._lane.index).inc()
        return part.halves()

    def _send_again(self, part: _Part, error: SinkError) -> None:
        lane, context = self._lane, self._context
        log.warning(
            "request failed, will be sent again",
            extra={"index": lane.index, "records": len(part.items), "attempt": part.attempts, "error": str(error)},
        )
        if isinstance(error, TargetError):
            lane.block(error.block, error)
            lane.pacer.close_for(context.delivery.retry_max_seconds)
        elif isinstance(error, Transient):
            self._count_retry(error)
            if part.doubt.count >= context.isolated_attempts:
                self._tell_stuck(part, error)
            if error.retry_after is not None:
                floor = min(error.retry_after, context.delivery.retry_after_max_seconds)
                lane.pacer.close_for(floor + context.backoff.jitter())
            else:
                part.not_before = context.clock() + context.backoff.delay(part.attempts)

    def _count_retry(self, error: Transient) -> None:
        self._context.metrics.retries.labels(error.kind.value).inc()
        if error.unknown_outcome:
            self._context.metrics.unknown_outcomes.labels(self._lane.index).inc()

    def _tell_stuck(self, part: _Part, error: SinkError) -> None:
        first: dict[Partition, int] = {}
        for item in part.items:
            first[item.assignment.partition] = min(item.offset, first.get(item.assignment.partition, item.offset))
        for partition, offset in first.items():
            block = Block(partition.topic, BlockReason.RECORD_STUCK, partition.partition)
            self._context.status.block(block, f"{partition} offset {offset}", quote=str(error))

    def _dead_letter(self, part: _Part, error: SinkError) -> list[_Part]:
        """Give up the one record; the version whose place it had taken is tried in its stead."""
        item = part.items[0]
        older, item.older = item.older, None
        is_refused = error.status != SERVER_ERROR
        self._context.dead_letters.submit(
            DeadLetter(
                item.assignment,
                item.message,
                item.size,
                self._lane.index,
                Reason.REFUSED if is_refused else Reason.ISOLATED_SERVER_ERROR,
                f"the service refused the record alone: {error}",
                _RAISED_BY,
                f"{type(error).__module__}.{type(error).__name__}",
                Refusal(error.status, error.code, error.request_id),
                part.attempts,
            )
        )
        # The bytes are the dead letter's from here on; the batch keeps the item for its key until all of it is done.
        item.message, item.fragment = BareMessage(item.offset, item.message.timestamp), None
        self._unstick([item])
        return [_Part([older])] if older is not None else []

    def _unstick(self, items: Iterable[Item]) -> None:
        for topic, partition in {item.assignment.partition for item in items}:
            self._context.status.unblock(Block(topic, BlockReason.RECORD_STUCK, partition))


def _may_not_ask(error: SinkError) -> bool:
    return (
        isinstance(error, TargetError)
        and error.block is BlockReason.CREDENTIALS
        and error.status in CREDENTIAL_STATUSES
    )


def _verdict(error: SinkError) -> Verdict:
    if isinstance(error, NotSent):
        return Verdict.NOT_SENT
    if isinstance(error, Refused):
        return Verdict.REFUSED
    if isinstance(error, Transient):
        return Verdict.THROTTLED if error.kind is RetryReason.THROTTLED else Verdict.FAILED
    return Verdict.DENIED


def observe_latency(metrics: Metrics, items: Sequence[Item], now: float) -> None:
    """Observe the time from each record's timestamp to its outcome, topic by topic."""
    for topic in {item.assignment.partition.topic for item in items}:
        metrics.settled(
            topic, [item.message.timestamp for item in items if item.assignment.partition.topic == topic], now
        )
