"""One index: a queue of sealed batches, and the slots that deliver them.

Batches leave in the order in which they were sealed. One waits while another before it, in flight or queued, shares a key
with it that has no outcome yet. So each key's versions are written in order, and batches without a common key are in flight
side by side. A slot keeps its batch until each record of it has its outcome, or what is left of it rests; see `courier.py`.

One bad record must not stop the others. So a batch that keeps failing, or what is left of it, rests: it gives up its slot
until it may be sent again. A newer version of such a record takes its place, as in an open batch, and the rest of the newer
version's batch does not wait. In an outage all batches fail: of those that may fail for that, only a few rest. So the service gets
few requests then, and few good records have failed so often that another 500 would be blamed on them.

So there are few places for what rests. A batch keeps its place while it is in a slot for its next attempt. One that finds none
free, each time that it fails, changes places with one that may be sent again: that one goes on in its slot. So none that rests
waits for a slot without end, whatever fails in the slots.

A slot is a thread, and starts when there is a batch for it. `kept` of them stay when there is none. Beyond these, and two, no
more start than the index may have requests in flight, and none while it is blocked. So many indexes do not make many threads
that only wait.
"""

import threading
from collections import deque
from collections.abc import Collection
from itertools import islice
from typing import Final

from worker.delivery.batch import Batch
from worker.delivery.chunk import operation_of
from worker.delivery.courier import Courier
from worker.delivery.flight import Flight
from worker.delivery.index_state import IndexState
from worker.delivery.pace.pacer import Pacer
from worker.oss.dialect import Envelope
from worker.ports import Operation, Sink
from worker.telemetry.metrics import Metrics

_LEAST_SLOTS: Final = 2
_LOOK_AHEAD: Final = 16  # queued batches that are searched for one that may leave
# Batches. So many bad ones in a row, beside those in the slots, look like an outage.
_MOST_RESTING_IN_OUTAGE: Final = 16
_MOST_RESTING: Final = 100  # records; a single one sends a request every `retry_max_seconds`, on average twice as often
_RESTING_SHARE: Final = 4  # one slot in four, and at least one, may be busy with batches that rested


class Lane:
    """The queue and the slots of one index. The courier delivers for all slots; `sink` is asked only to cut connections."""

    def __init__(
        self,
        state: IndexState,
        pacer: Pacer,
        courier: Courier,
        *,
        sink: Sink,
        metrics: Metrics,
        slots: int,
        kept: int | None = None,
    ) -> None:
        """`slots` is how many batches may be in flight; `kept` is how many slots stay without one, all by default."""
        self.index = state.index
        self.topics = state.topics
        self.state = state
        self.pacer = pacer
        self.sink = sink
        self._courier = courier
        self._metrics = metrics
        self._slots = slots
        self._kept = slots if kept is None else kept
        self._lock = threading.Lock()
        self._arrival = threading.Condition(self._lock)  # on which idle slots wait for a batch
        self._queue: deque[Batch] = deque()
        self._in_flight: list[Flight] = []  # of which each has a slot
        self._resting: list[Flight] = []
        self._continuing: deque[Flight] = deque()  # in flight; the slot that becomes free next goes on with one of them
        self._is_turn_of_queue = False  # after a batch that rested
        self._threads: list[threading.Thread] = []
        self._started = 0  # slots, in all
        self._idle = 0  # slots that wait for a batch
        self._is_open = False  # for slots to start

    @property
    def envelope(self) -> Envelope:
        """The envelope of the index's requests."""
        return self._courier.envelope

    def max_body_bytes(self) -> int:
        """Return the most bytes that the body of the next batches may have."""
        return self.state.max_body_bytes()

    # -- batches

    def submit(self, batch: Batch) -> None:
        """Queue a sealed batch; returns at once. Batches are delivered in the order of this call, key by key."""
        self._metrics.sealed(self.index, len(batch.items), batch.size, batch.reason)
        with self._lock:
            self._queue.append(batch)
            self._arrival.notify()
            self._start_slot_if_needed()

    def pop(self) -> Flight | None:
        """Return the next batch that may leave, or continue; it is then in flight. None if there is none now.

        Hand it to `done` when its delivery has returned.
        """
        with self._lock:
            return self._pop()

    def _pop(self) -> Flight | None:
        if self._continuing:
            return self._continuing.popleft()
        if len(self._in_flight) >= self._slots:
            return None
        while True:
            resting, place = self._due(), self._first_free()
            if resting is not None and (place is None or not self._is_turn_of_queue):
                self._resting.remove(resting)
                self._is_turn_of_queue = True
                return self._leaves(resting)
            if place is None:
                return None
            self._is_turn_of_queue = False
            batch = self._queue[place]
            del self._queue[place]
            flight = Flight(self._without_resting_keys(batch))
            if flight.chunks:  # else all of it has taken the place of what rests
                return self._leaves(flight)

    def _leaves(self, flight: Flight) -> Flight:
        self._in_flight.append(flight)
        return flight

    def _next_resting(self) -> tuple[Flight, float] | None:
        """Return the resting batch that is to continue first, and when; None if there is none, or enough of them have a slot."""
        for flight in self._resting:
            if not flight.is_live:
                return flight, 0.0  # to be dropped
        if not self._resting or sum(one.has_place for one in self._in_flight) >= max(1, self._slots // _RESTING_SHARE):
            return None
        flight = min(self._resting, key=Flight.due_at)
        return flight, flight.due_at()

    def _due(self) -> Flight | None:
        """Return the resting batch that is to continue now, None if there is none."""
        found = self._next_resting()
        return found[0] if found is not None and found[1] <= self.state.clock() else None

    def _first_free(self) -> int | None:
        """Return the place in the queue of the first batch that may leave."""
        ahead = [flight.keys for flight in self._in_flight]
        ahead += [flight.keys for flight in self._resting if not flight.is_live]  # until a slot has dropped it
        for place, batch in enumerate(islice(self._queue, _LOOK_AHEAD)):
            keys = batch.items.keys()
            if all(keys.isdisjoint(others) for others in ahead):
                return place
            ahead.append(keys)
        return None

    def _without_resting_keys(self, batch: Batch) -> Batch:
        """Return the batch without newer versions of records that rest, whose place these take."""
        items = batch.items
        for flight in self._resting:
            if items.keys().isdisjoint(flight.keys):
                continue
            newer = {key: items[key] for key in flight.keys if key in items}
            flight.supersede(newer, self._room(), self.state.clock())
            self._arrival.notify()  # an idle slot may send it now
            items = {key: item for key, item in items.items() if key not in flight.keys}
        return batch if items is batch.items else Batch(items, batch.size, batch.reason)

    def _room(self) -> int:
        """Return how many bytes of records a body may have now, each with the comma behind it."""
        return self.max_body_bytes() - self.envelope.put_overhead + 1

    def _note_freed(self) -> None:
        """Let slots check whether a batch that waited for a key may leave."""
        with self._lock:
            if self._queue:
                self._arrival.notify_all()
                self._start_slot_if_needed()

    def done(self, flight: Flight) -> None:
        """Note that the batch is not in flight any more, or should rest. Those that waited for its keys may leave.

        If it was the last one that would find out that the index is not blocked any more, it is unblocked:

        1. A batch is refused, which blocks the topics. It is kept, and retried slowly.
        2. Its partitions are given back, and its records are dropped.
        3. The topics are not read while they are blocked, so no request would find out that the block is over.
        """
        with self._lock:
            self._in_flight.remove(flight)
            if flight.chunks:
                self._rest(flight)
            self.state.failing = sum(one.has_place for one in (*self._resting, *self._in_flight))
            if self._queue or self._resting:
                self._arrival.notify_all()
                self._start_slot_if_needed()
        if self.state.is_stopping:
            return
        if self.is_idle:
            self.state.note_works()
        if self.state.is_blocked:
            self.state.forget_denied_but(self._operations_left())

    def _rest(self, flight: Flight) -> None:
        """Let a batch that should rest give up its slot, if it has a place, or finds one."""
        continues = None if flight.has_place or self._has_room_for(flight) else self._continues_instead_of(flight)
        if continues is not None:
            self._continuing.append(self._leaves(continues))
        if continues is not flight:
            flight.rest()
            self._resting.append(flight)

    def _continues_instead_of(self, flight: Flight) -> Flight:
        """Return a batch that rests and may be sent again, which loses its place; the flight itself if there is none."""
        now = self.state.clock()
        is_of_outage = flight.may_be_of_outage()  # of which few rest: a place of another one is not for it
        due = [one for one in self._resting if one.due_at() <= now and (one.rests_in_outage or not is_of_outage)]
        if not due:
            return flight
        other = min(due, key=Flight.due_at)
        self._resting.remove(other)
        other.has_place = False
        return other

    def _has_room_for(self, flight: Flight) -> bool:
        """Return whether a batch may rest beside those that have a place."""
        placed = [*self._resting, *(one for one in self._in_flight if one.has_place)]
        if flight.may_be_of_outage():
            return sum(one.rests_in_outage for one in placed) < _MOST_RESTING_IN_OUTAGE
        return sum(len(one.keys) for one in placed) < _MOST_RESTING

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued, in flight or at rest."""
        with self._lock:
            return not self._queue and not self._in_flight and not self._resting

    def _operations_left(self) -> set[Operation]:
        """Return what is still to be tried: the operations of what is queued, in flight, or at rest because it was denied."""
        with self._lock:
            found = {chunk.operation for flight in self._resting for chunk in flight.chunks if chunk.is_denied}
            found.update(*(flight.operations for flight in self._in_flight))
            found.update(operation_of([item]) for batch in self._queue for item in batch.items.values())
            return found

    # -- slots

    def start(self) -> None:
        """Let slots start, as there are batches."""
        self._courier.show_pace()
        with self._lock:
            self._is_open = True
            for _ in range(len(self._queue)):
                self._start_slot_if_needed()

    def _start_slot_if_needed(self) -> None:
        """Start a slot where a batch waits for one; a slot that waits for a batch takes it first."""
        if not self._is_open or self.state.is_stopping or len(self._queue) <= self._idle:
            return
        if len(self._threads) >= min(self._slots, self._most_slots()):
            return
        thread = threading.Thread(target=self._run, name=f"slot-{self.index}-{self._started}", daemon=True)
        self._started += 1
        self._threads.append(thread)
        thread.start()

    def _most_slots(self) -> int:
        """Return how many slots are of use. Two always are: an answer to one batch may show that another is at fault."""
        least = max(_LEAST_SLOTS, self._kept)
        return least if self.state.is_blocked else max(least, self.pacer.in_flight_limit + 1)

    def stop(self) -> None:
        """End the slots, and give up what is in flight; what was not settled stays so."""
        self.state.stop()
        with self._lock:
            self._arrival.notify_all()
        self.abort()

    def abort(self, threads: Collection[int] | None = None) -> None:
        """Cut the connections on which slots wait for an answer; with `threads`, only of those that have one of these numbers."""
        with self._lock:  # no slot ends meanwhile, whose number another thread could have by then
            for thread in self._threads:
                if thread.ident is not None and (threads is None or thread.ident in threads):
                    self.sink.abort(thread.ident)

    def wake(self) -> None:
        """Let slots that wait to send check again: partitions were given back."""
        self.state.wake()
        with self._lock:
            if self._resting:
                self._arrival.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for the slots to end, so many seconds in all."""
        deadline = self.state.clock() + timeout
        for thread in [*self._threads]:
            thread.join(max(0.0, deadline - self.state.clock()))

    def dead_threads(self) -> list[str]:
        """Return the names of slots that ended though the lane was not stopped."""
        if self.state.is_stopping:
            return []
        with self._lock:
            return [thread.name for thread in self._threads if thread.ident is not None and not thread.is_alive()]

    def _run(self) -> None:
        while self._deliver_next():
            pass  # no local variable keeps the last batch while the next one is waited for

    def _deliver_next(self) -> bool:
        """Wait for a batch and deliver it; False if the lane stopped before, or enough other slots wait for one."""
        flight = self._wait_for_batch()
        if flight is None:
            return False
        try:
            self._courier.deliver(flight, self._note_freed)
        finally:
            self.done(flight)
        return True

    def _wait_for_batch(self) -> Flight | None:
        with self._lock:
            while True:
                if self.state.is_stopping and not self._continuing:
                    # What rests is given up, by a slot as everything else.
                    return self._leaves(self._resting.pop()) if self._resting else None
                flight = self._pop()
                if flight is not None:
                    return flight
                # One slot waits for what rests.
                if self._idle >= max(self._kept, bool(self._resting)):
                    self._threads.remove(threading.current_thread())
                    return None
                self._idle += 1
                try:
                    self._arrival.wait(self._seconds_until_due())
                finally:
                    self._idle -= 1

    def _seconds_until_due(self) -> float | None:
        found = self._next_resting()
        return None if found is None else max(0.0, found[1] - self.state.clock())
