"""Delivers batches: sends them, retries, splits them, and settles their records.

A courier belongs to one index and serves all its slots. What an answer means for a chunk of a batch:

    not sent     sent when the lease holds again, or dropped with its partition; this is no attempt
    accepted     settled as put or deleted, and the versions that it superseded with it
    transient    retried after a full-jitter delay, without end; Retry-After closes the gate of the index for that long
    refused      split until the bad record is alone; that one is dead-lettered, and the version that it had superseded is
                 tried instead, newest first
    500, again   treated as refused while others of its kind, puts or deletes, are accepted; while none is, retried and
                 reported as record_stuck. The same holds for each transient answer that may blame them (`Blame.CONTENT`)
    a proxy's    400, 413 or 422 (`Blame.PROXY`): split as well, but a single record is retried, and reported as record_stuck;
                 any other answer that is not the service's, and none at all, likewise, while others are accepted
    target       the index is blocked, probed every `retry_max_seconds`, and continues when the operation works again
    of a proxy   a target or a Retry-After that is not the service's delays its chunk alone: for two attempts, and for as long as
                 the index accepts any others. A limit's (429) Retry-After is kept by the chunk, others' are not

What keeps failing rests between its attempts: its slot delivers other batches.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from worker.delivery.batch import Item
from worker.delivery.chunk import Chunk, chunks_of, may_be_of_records, operation_of
from worker.delivery.flight import Flight
from worker.delivery.index_state import IndexState
from worker.delivery.pace.backoff import Backoff
from worker.delivery.pace.pacer import Admission, Pacer, Verdict
from worker.delivery.stuck import StuckRecords
from worker.errors import Blame, NotSent, Reason, Refused, RetryReason, SinkError, TargetError, Transient
from worker.ledger import Ledger, Outcome
from worker.oss.dialect import Envelope
from worker.ports import BareMessage, DeadLetter, DeadLetters, Operation, Refusal, Sink
from worker.settings.tables import Delivery
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status
from worker.telemetry.traces import NO_TRACES, Traces

log = logging.getLogger("worker.delivery")

SERVER_ERROR: Final = 500  # the service's answer to some content, as well as to faults of its own
SPLIT_AFTER_WRITE_TIMEOUTS: Final = 2
# Times `retry_max_seconds`, about as long as ten attempts take: so long must a key fail of which one failure a version is enough.
_LEAST_RETRIES: Final = 2
LEASE_LOOK_SECONDS: Final = 1.0  # between two checks of a lease that has run out; a wake-up checks it too

# Of the header __connect.errors.class.name: it stays as it is when this file moves.
_RAISED_BY: Final = "worker.delivery.Courier"
_NOT_SENT: Final = NotSent("a partition was given back, or the lease ran out, before the request left")


class Courier:
    """Delivers batches of one index; each slot calls `deliver` with a flight of its own.

    A batch begins as one or two chunks: its puts and its deletes. A split makes two chunks of one. Each step sends one chunk
    once: the one with the earliest `not_before`. So a chunk that fails does not delay the others, and the answers to the
    others show whether the fault is its own.
    """

    def __init__(
        self,
        state: IndexState,
        pacer: Pacer,
        *,
        envelope: Envelope,
        sink: Sink,
        ledger: Ledger,
        dead_letters: DeadLetters,
        status: Status,
        metrics: Metrics,
        delivery: Delivery,
        isolated_attempts: int,
        backoff: Backoff,
        wall: Callable[[], float],
        traces: Traces = NO_TRACES,
    ) -> None:
        self.envelope = envelope
        self._state = state
        self._pacer = pacer
        self._sink = sink
        self._ledger = ledger
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._delivery = delivery
        self._isolated_attempts = isolated_attempts
        self._backoff = backoff
        self._clock = state.clock
        self._wall = wall
        self._traces = traces
        self._stuck = StuckRecords(status, state.index)

    def deliver(self, flight: Flight, on_freed: Callable[[], None] = lambda: None) -> None:
        """Bring every record to its outcome, except where its partition is given back or the lane stops.

        Returns early, with chunks left, when the flight should rest; where it may not, call again with it. `on_freed` is called
        when some of its keys are free.
        """
        try:
            while flight.chunks:
                chunk = flight.take()
                attempts = chunk.attempts
                if flight.put_back(self._step(chunk, flight.chunks)):
                    on_freed()
                if flight.should_rest() and not self._state.is_stopping:
                    was_sent_in_vain = chunk.attempts > attempts
                    if was_sent_in_vain or flight.due_at() > self._clock():
                        return
        finally:
            self._leave_queue()

    def _step(self, chunk: Chunk, others: Collection[Chunk] = ()) -> list[Chunk]:
        """Send a chunk once, if it may be sent. Returns the chunks that are not finished.

        `others` are those of its batch. It waits no longer, and is not sent, where one of these is to be dropped first.
        """
        batch = [chunk, *others]
        seconds = chunk.not_before - self._clock()
        if seconds > 0.0:
            self._leave_queue()
        self._state.wait(seconds, lambda: _has_gone(batch))
        if not chunk.is_live:
            return self._without_revoked(chunk)
        if self._state.is_stopping:
            self._discard(chunk.items)
            return []
        if not self._ledger.may_write:
            self._wait_for_lease(chunk, batch)
            return [chunk]
        admission = self._admitted(chunk, batch)
        if admission is None:
            return [chunk]
        chunk.waits_for_lease = False
        chunk.accepted_when_sent = self._state.accepted(chunk.operation)
        chunk.accepted_in_all_when_sent = self._state.accepted_in_all
        if self._is_in_doubt(chunk):
            return self._try_one(chunk, admission)
        error = self._attempt(chunk.items, admission)
        return [] if error is None else self._judge(chunk, error)

    # -- before a request

    def _wait_for_lease(self, chunk: Chunk, batch: Collection[Chunk]) -> None:
        """Wait until the lease holds again, or the partitions are lost: another process may write newer versions by now.

        The slot leaves the pacer's queue, which is for those who may send. The wait does not count as an attempt.
        """
        self._note_lease_wait(chunk)
        self._leave_queue()
        self._state.wait(LEASE_LOOK_SECONDS, lambda: _has_gone(batch) or self._ledger.may_write)

    def _note_lease_wait(self, chunk: Chunk) -> None:
        if not chunk.waits_for_lease:
            chunk.waits_for_lease = True
            self._metrics.lease_waits.inc()

    def _without_revoked(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunks that are left without the records whose partitions are not ours any more.

        An older version may be of another partition, which is still ours: a producer may write one key to two partitions, or
        to two topics of one index. It is then sent instead of the newer one.
        """
        live = {assignment for assignment in chunk.assignments if assignment.is_live}  # once: it may change meanwhile
        gone = [item for item in chunk.items if item.assignment not in live]
        kept = [item for item in chunk.items if item.assignment in live]
        self._stuck.clear(gone)  # it may have been reported after the source had cleared the partition's blocks
        rest = chunks_of([item for item in map(self._successor, gone) if item is not None])
        if kept:
            chunk.replace_items(kept)
            rest.append(chunk)
        return rest

    def _successor(self, item: Item) -> Item | None:
        """Drop an item that was given back, and its versions that were; returns the newest of the others, which keeps these."""
        gone = [item]
        live: list[Item] = []
        for version in item.older or ():
            (live if version.assignment.is_live else gone).append(version)
        item.older = live or None
        self._ledger.discard(gone)
        return item.give_way()

    def _discard(self, items: Iterable[Item]) -> None:
        """Free the bytes of records that will not be settled here; the ledger counts them as returned."""
        self._ledger.discard(version for item in items for version in item.versions())

    def _admitted(self, chunk: Chunk, batch: Collection[Chunk]) -> Admission | None:
        """Return the pacer's admission; None after a wait, or where one of the batch is to be dropped, for then all is checked again."""
        if _has_gone(batch):
            return None
        me = threading.get_ident()  # the slot keeps its place in the pacer's queue
        admission = self._pacer.admit(len(chunk.items), me)
        if admission.delay <= 0.0:
            self._state.wake()
            return admission
        started = self._clock()
        if admission.for_room:
            self._state.wait(admission.delay, lambda: _has_gone(batch) or self._pacer.is_next(me))
        else:
            self._state.wait(admission.delay, lambda: _has_gone(batch))
            self._metrics.rate_limit_wait.labels(self._state.index).inc(self._clock() - started)
        return None

    def _leave_queue(self) -> None:
        """Give up the slot's place in the pacer's queue. A slot that kept its place and did not ask again would stop all others."""
        if self._pacer.leave(threading.get_ident()):
            self._state.wake()

    # -- a request

    def _attempt(self, items: list[Item], admission: Admission) -> SinkError | None:
        """Send once; returns the error. An accepted request is settled before its partitions may be given back."""
        operation = operation_of(items)
        is_delete = operation is Operation.DELETE
        assignments = {item.assignment for item in items}
        body = self._body(items)  # made for each attempt: while it waits for a retry, only the fragments are in memory
        if not self._ledger.begin_request(assignments):
            self._answered(admission, Verdict.NOT_SENT)
            return _NOT_SENT
        self._ledger.count_bytes(len(body))
        verdict = Verdict.FAILED  # also where an error of another kind is raised
        error: SinkError | None = None
        messages = (version.message for item in items for version in item.versions())
        span = self._traces.request(operation, self._state.index, messages, len(body))
        try:
            span.answered((self._sink.delete if is_delete else self._sink.put)(body), None)
            verdict = Verdict.ACCEPTED
            self._state.note_accepted(operation)
            self._settle_accepted(items, Outcome.DELETED if is_delete else Outcome.PUT)
        except SinkError as refusal:
            # Its traceback refers to this call, and so to the records, which are freed without the garbage collector.
            error, verdict = refusal.with_traceback(None), _verdict(refusal)
            span.answered(refusal.status, refusal)
        finally:
            self._ledger.count_bytes(-len(body))
            self._ledger.end_request(assignments)
            self._answered(admission, verdict, len(body))
        if verdict.is_judged:
            self._state.unblock(operation)
            self._state.note_works()
        elif error is not None and verdict is not Verdict.NOT_SENT:
            self._state.note_failed(error)
        return error

    def _body(self, items: list[Item]) -> bytes:
        if items[0].fragment is None:
            return self.envelope.delete_body([item.key for item in items])
        return self.envelope.put_body([item.fragment or b"" for item in items])

    def _settle_accepted(self, items: list[Item], outcome: Outcome) -> None:
        now = self._wall()
        self._metrics.last_put.set(now)
        self._metrics.last_accepted.labels(self._state.index).set(now)
        older = [version for item in items if item.older for version in item.older]
        self._ledger.settle(items, outcome)
        if older:
            self._ledger.settle(older, Outcome.SUPERSEDED)
        observe_latency(self._metrics, [*items, *older], now)
        self._stuck.clear(items)

    def _answered(self, admission: Admission, verdict: Verdict, size: int = 0) -> None:
        """Report to the pacer what became of a request, and wake those who wait for room."""
        self._pacer.answered(admission, verdict, size)
        self.show_pace()
        self._state.wake()

    def show_pace(self) -> None:
        """Set the gauges of the pace."""
        self._metrics.in_flight_limit.labels(self._state.index).set(self._pacer.in_flight_limit)
        self._metrics.rate_limit.labels(self._state.index).set(self._pacer.vectors_per_second)

    # -- an error

    def _judge(self, chunk: Chunk, error: SinkError, *, is_whole: bool = True) -> list[Chunk]:
        """Return what is left to do after an error: the chunk again, its halves, or nothing of it.

        `is_whole` says whether all of its records were sent, or only one of them.
        """
        if isinstance(error, NotSent):
            if chunk.is_live:
                self._note_lease_wait(chunk)
            return [chunk]
        chunk.note(error, self._state.accepted(chunk.operation), self._state.accepted_in_all, self._clock())
        is_refused = isinstance(error, Refused) or self._is_at_fault(chunk, error)
        is_given_up = is_refused and chunk.is_single
        self._count(error, is_retried=not is_given_up)
        if is_given_up:
            return self._dead_letter(chunk, error)
        is_too_large = error.status == 413 or chunk.write_timeouts >= SPLIT_AFTER_WRITE_TIMEOUTS
        if is_too_large and not chunk.is_single:
            # Deletes, and single records, are small: what is too large for them says nothing of the bodies of puts.
            if chunk.operation is Operation.PUT and is_whole:
                self._state.shrink_bodies(sum(len(item.fragment or b"") for item in chunk.items))
            return self._split(chunk)
        if is_refused:
            return self._split(chunk)
        self._retry_later(chunk, error)
        return [chunk]

    def _is_in_doubt(self, chunk: Chunk) -> bool:
        """Return whether a chunk of several records keeps failing, for what may be their fault, while no others are accepted.

        That does not show whether the records or the service is at fault: batches that share a key with the chunk wait for it.
        """
        return chunk.keeps_failing and not chunk.fails_alone and not chunk.is_single

    def _try_one(self, chunk: Chunk, admission: Admission) -> list[Chunk]:
        """Send one record of a chunk in doubt alone, another each time.

        If it is accepted, the fault is in the rest: that is split, if it is more than one record. For each part, the one that was
        accepted is another one.
        """
        place = chunk.attempts % len(chunk.items)
        one = chunk.items[place : place + 1]
        error = self._attempt(one, admission)
        if error is None:
            rest = Chunk(chunk.items[:place] + chunk.items[place + 1 :])
            if not rest.is_single:
                self._metrics.bisects.labels(self._state.index).inc()
            return rest.halves(chunk.accepted_when_sent, chunk.accepted_in_all_when_sent)
        return self._judge(chunk, error, is_whole=False)

    def _is_at_fault(self, chunk: Chunk, error: SinkError) -> bool:
        """Return whether the chunk itself must be the cause of its failures: others were accepted meanwhile.

        A proxy or firewall that refuses a single record may refuse it for its size or its text. The service has not refused
        it, so it is not dead-lettered.

        A record that the service answers with 500 is at fault after `isolated_attempts` failures of its key, as
        `ServiceDoubt.blames_version` describes.
        """
        if not chunk.is_single:
            return may_be_of_records(error) and chunk.keeps_failing and chunk.fails_alone
        if not isinstance(error, Transient) or error.blame is not Blame.CONTENT:
            return False
        return chunk.service_doubt.blames_version(
            self._isolated_attempts,
            lasting=_LEAST_RETRIES * self._delivery.retry_max_seconds,
            now=self._clock(),
            others_fail=self._state.failing > 1,
        )

    def _split(self, chunk: Chunk) -> list[Chunk]:
        self._metrics.bisects.labels(self._state.index).inc()
        return chunk.halves(self._state.accepted(chunk.operation), self._state.accepted_in_all)

    def _retry_later(self, chunk: Chunk, error: SinkError) -> None:
        log.warning(
            "request failed, will be sent again",
            extra={
                "index": self._state.index,
                "records": len(chunk.items),
                "attempt": chunk.attempts,
                "error": str(error),
            },
        )
        delays_all = chunk.delays_all(error)
        if isinstance(error, TargetError) and delays_all:
            chunk.is_denied = True
            denied = chunk.operation if error.request_id else None
            self._state.block(denied, error.block, error, self._delivery.retry_max_seconds)
            self._pacer.close_for(self._delivery.retry_max_seconds)
            return
        delay = self._backoff.delay(chunk.attempts)
        asked = error.retry_after if isinstance(error, Transient) else None
        is_limit = isinstance(error, Transient) and error.kind is RetryReason.THROTTLED
        if asked is not None and (delays_all or is_limit):
            delay = min(asked, self._delivery.retry_after_max_seconds) + self._backoff.jitter()
        if asked is not None and delays_all:
            self._pacer.close_for(delay)
        else:
            chunk.not_before = self._clock() + delay
        is_alone = chunk.is_single and not error.request_id and chunk.others_pass
        if (chunk.records_doubt.count if is_alone else chunk.blamed) >= self._isolated_attempts:
            self._stuck.report(chunk.items, error, delay)

    def _count(self, error: SinkError, *, is_retried: bool) -> None:
        """Count a failure, also where its records are sent apart from now on. The service's refusals are counted elsewhere."""
        if isinstance(error, Transient) and error.unknown_outcome:
            self._metrics.unknown_outcomes.labels(self._state.index).inc()
        if is_retried and (isinstance(error, Transient) or may_be_of_records(error)):
            kind = error.kind if isinstance(error, Transient) else RetryReason.NETWORK
            self._metrics.retries.labels(kind.value).inc()

    def _dead_letter(self, chunk: Chunk, error: SinkError) -> list[Chunk]:
        """Dead-letter the one record; the version that it had superseded is tried instead."""
        item = chunk.items[0]
        older = item.give_way()
        rest = [chunk.with_version(older)] if older is not None else []
        is_refused = error.status != SERVER_ERROR
        self._dead_letters.submit(
            DeadLetter(
                assignment=item.assignment,
                message=item.message,
                size=item.size,
                index=self._state.index,
                reason=Reason.REFUSED if is_refused else Reason.ISOLATED_SERVER_ERROR,
                text=f"the service refused the record alone: {error}",
                raised_by=_RAISED_BY,
                error_class=error.public_name,
                refusal=Refusal(error.status, error.code, error.request_id),
                attempts=chunk.attempts,
                element=item.element,
            )
        )
        # From here on the bytes count for the dead letter.
        item.message, item.fragment = BareMessage(item.offset, item.message.timestamp), None
        self._stuck.clear([item])
        return rest


def _has_gone(chunks: Iterable[Chunk]) -> bool:
    """Return whether a partition of these is not ours any more."""
    return not all(chunk.is_live for chunk in chunks)


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
