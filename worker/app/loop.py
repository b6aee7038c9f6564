"""The worker: its state, and the main loop that moves records from the source to the lanes."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from worker.app.stop import Stop
from worker.app.targets import TargetFinder
from worker.consumer.ends import EndWatcher
from worker.deadletters.limit import Limit
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.batch import Batch, Item, OpenBatch
from worker.delivery.courier import observe_latency
from worker.delivery.lane import Lane
from worker.errors import BlockReason, BrokerUnavailable, FatalError, RecordError
from worker.ledger import Assignment, Ledger, Outcome, OutOfOrder, Phase
from worker.ports import DeadLetter, Message, Polled, SealReason, Source
from worker.records.decode import Decoder, Delete, Put, Target
from worker.settings.tables import Settings
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import State, Status

log = logging.getLogger("worker.loop")


_ANSWERS_SHOWN: Final = 5  # of indexes that the service has not told of, in a reason


POLL_SECONDS: Final = 0.4  # the longest the main loop waits for messages; what an idle worker costs hangs on it


RESUME_SHARE: Final = 0.75  # of a limit that paused fetching, below which it goes on


# Of the header __connect.errors.class.name: it stays as it is when the decoder moves.
_RAISED_BY: Final = "worker.record.Decoder"
ITEM_BYTES: Final = 600  # what the objects of one record hold besides its bytes


HEADER_BYTES: Final = 100  # likewise of one header


COMMIT_ANYWAY_SECONDS: Final = 5.0  # a commit is what tells a static member that another took its place


LEAVE_SECONDS: Final = 5.0  # of the drain, for the commit and leaving the group


STOP_SECONDS: Final = 1.0  # for all helpers to end; one that still waits for an answer is left to end with the process


class Route(NamedTuple):
    """One topic on its way to one index: how it is decoded, and the lane that it shares with others of the index."""

    topic: str
    lane: Lane
    decoder: Decoder


class Parts(NamedTuple):
    """What the worker is wired of."""

    settings: Settings
    source: Source
    lanes: Mapping[str, Lane]
    dead_letters: DeadLetterWriter
    limit: Limit
    watcher: EndWatcher
    ledger: Ledger
    status: Status
    metrics: Metrics
    clock: Callable[[], float]
    wall: Callable[[], float]


class Worker:
    """The main loop. `stop` is set by a signal; `run` returns after the drain, and raises `FatalError`."""

    def __init__(self, parts: Parts, stop: Stop) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._source = parts.source
        self._ledger = parts.ledger
        self._status = parts.status
        self._metrics = parts.metrics
        self._clock = parts.clock
        self._stop = stop
        self._routes: dict[str, Route] = {}
        self._open_batches: dict[str, OpenBatch] = {}
        self._targets = TargetFinder(
            parts.lanes, parts.settings.routes, parts.settings.delivery, parts.metrics, clock=parts.clock
        )
        self._connected = False
        self._start_again_at = 0.0
        self._waits_for = "starting"
        self._next_commit = 0.0
        self._last_commit = 0.0
        self._buffer_full = False
        self._too_far: set[Assignment] = set()

    def run(self) -> None:
        """Work until `stop` is set, then drain."""
        try:
            self._start_helpers()
            while not self._stop.is_set():
                self._turn()
            self._drain()
        except FatalError as error:
            self._status.enter(State.FAILED, str(error))
            raise
        except Exception as error:
            log.exception("the main loop failed")
            self._status.enter(State.FAILED, repr(error))
            raise FatalError(f"the main loop failed, the log has where: {error!r}") from error
        finally:
            self._stop_helpers()
        self._status.enter(State.STOPPED, "drained")

    def _turn(self) -> None:
        self._status.turned(self._clock())
        self._check_helpers()
        if self._connect():
            self._wire_found_targets()
            self._open_partitions()
            self._take_in_new_records()
            self._seal_due_batches()
            self._steer()
            self._commit_now_and_then()
        self._tell()

    # -- starting

    def _start_helpers(self) -> None:
        metrics, settings = self._metrics, self._settings
        metrics.buffer_limit.set(settings.buffer.max_bytes)
        for lane in self._parts.lanes.values():
            lane.start()
        self._targets.start()
        self._parts.dead_letters.start()
        self._parts.watcher.start()

    def _check_helpers(self) -> None:
        dead = [name for lane in self._parts.lanes.values() for name in lane.dead_threads()]
        dead += [] if self._parts.dead_letters.is_alive else ["dead-letters"]
        dead += [] if self._parts.watcher.is_alive else ["end-offsets"]
        dead += self._targets.dead_threads()
        if dead:
            raise FatalError(f"a thread ended without being told to: {', '.join(dead)}; the log above has its error")

    def _connect(self) -> bool:
        """Connect the consumer, or wait a little until the next try."""
        if self._connected:
            return True
        if self._clock() < self._start_again_at:
            self._stop.wait(POLL_SECONDS)
            return False
        try:
            self._source.start()
        except BrokerUnavailable as error:
            self._not_connected(error)
            return False
        self._connected = True
        self._waits_for = "joining the group"
        return True

    def _not_connected(self, error: BrokerUnavailable) -> None:
        self._connected = False
        again_in = min(self._settings.delivery.retry_max_seconds, 5.0)
        self._start_again_at = self._clock() + again_in
        if str(error) != self._waits_for:
            log.error("not connected", extra={"error": str(error), "again_in": again_in})
        self._waits_for = str(error)
        self._status.enter(State.STARTING, self._waits_for)

    def _wire_found_targets(self) -> None:
        """Make routes of the topics whose index has answered."""
        for index, found in self._targets.take():
            lane = self._parts.lanes[index]
            batch = self._settings.batch
            self._open_batches[index] = OpenBatch(
                lane.envelope, max_records=batch.max_records, max_bytes=batch.max_bytes, max_age=batch.max_age_seconds
            )
            for topic in lane.topics:
                self._routes[topic] = Route(topic, lane, self._decoder(found, lane))
            log.info(
                "index found",
                extra={"index": index, "dimension": found.dimension, "distance_metric": found.distance_metric},
            )

    def _decoder(self, target: Target, lane: Lane) -> Decoder:
        records = self._settings.records
        return Decoder(
            target,
            max_fragment_bytes=self._settings.batch.max_bytes - lane.envelope.put_overhead,
            format=records.format,
            key_format=records.key_format,
            metadata_values=records.metadata_values,
            tombstones=records.tombstones,
        )

    def _open_partitions(self) -> None:
        """Begin reading newly assigned partitions whose first offset is known; none waits for another."""
        if not self._parts.dead_letters.is_ready:
            return
        opened = False
        for assignment in self._ledger.assignments():
            if assignment.phase is Phase.OPENING and assignment.partition.topic in self._routes:
                opened |= self._source.open(assignment)
        if opened:
            self._parts.watcher.look_now()

    # -- records

    def _take_in_new_records(self) -> None:
        try:
            polled = self._source.poll(self._poll_seconds())
        except BrokerUnavailable as error:
            self._not_connected(error)
            return
        for part in polled:
            self._take_in(part)

    def _poll_seconds(self) -> float:
        """Wait for messages no longer than until the next batch is due."""
        now = self._clock()
        due = [at for batch in self._open_batches.values() if (at := batch.due_at()) is not None]
        return min(POLL_SECONDS, max(0.0, min(due, default=now + POLL_SECONDS) - now))

    def _take_in(self, polled: Polled) -> None:
        """Track, decode and batch the messages of one partition."""
        assignment, messages = polled
        offsets = [message.offset for message in messages]
        if not self._track(assignment, offsets):
            return
        route = self._routes[assignment.partition.topic]
        items, letters, ignored, held = self._decode(route, assignment, messages)
        self._parts.limit.note_read(assignment, offsets, [letter.offset for letter in letters])
        self._ledger.count_bytes(held)
        for letter in letters:
            self._parts.dead_letters.submit(letter)
        if ignored:
            self._ledger.settle(ignored, Outcome.IGNORED)
            observe_latency(self._metrics, ignored, self._parts.wall())
        self._batch(route, items)

    def _track(self, assignment: Assignment, offsets: Sequence[int]) -> bool:
        """Track offsets; False where the partition is not open any more, or they come in an order that cannot be."""
        try:
            return self._ledger.track(assignment, offsets)
        except OutOfOrder as error:
            self._source.refuse(assignment, str(error))
            return False

    def _decode(
        self, route: Route, assignment: Assignment, messages: Sequence[Message]
    ) -> tuple[list[Item], list[DeadLetter], list[Item], int]:
        """Return what goes to the index, what is bad, what asks for nothing, and the bytes that all of it holds."""
        items: list[Item] = []
        ignored: list[Item] = []
        letters: list[DeadLetter] = []
        mismatches = held = 0
        decode = route.decoder.decode
        for message in messages:
            size = ITEM_BYTES
            try:
                key, value = message.key, message.value
                size += (len(value) if value else 0) + (len(key) if key else 0)
                if message.headers:
                    size += _header_bytes(message)
                decoded = decode(value, key)
                if type(decoded) is Put:
                    size += len(decoded.fragment)
                    mismatches += decoded.key_mismatch
                    items.append(Item(assignment, message, decoded.key, decoded.fragment, size))
                elif type(decoded) is Delete:
                    items.append(Item(assignment, message, decoded.key, None, size))
                else:
                    ignored.append(Item(assignment, message, "", None, size))
            except RecordError as error:
                letters.append(_dead_letter(route, assignment, message, size, error))
            except Exception as error:  # whatever it is, it costs this record and not the group
                letters.append(_dead_letter(route, assignment, message, size, RecordError.internal(error)))
            held += size
        if mismatches:
            self._metrics.key_mismatch.labels(route.topic).inc(mismatches)
        return items, letters, ignored, held

    def _batch(self, route: Route, items: list[Item]) -> None:
        if not items:
            return
        lane, batch = route.lane, self._open_batches[route.lane.index]
        batch.limit_bytes(lane.max_body_bytes())
        now = self._clock()
        for item in items:
            sealed = batch.add(item, now)
            if sealed is not None:
                lane.submit(sealed)

    def _seal_due_batches(self) -> None:
        now = self._clock()
        for index, batch in self._open_batches.items():
            due = batch.due_at()
            if due is not None and due <= now:
                self._submit(index, batch.seal(SealReason.AGE))

    def _submit(self, index: str, batch: Batch | None) -> None:
        if batch is not None:
            self._parts.lanes[index].submit(batch)

    # -- steering

    def _steer(self) -> None:
        """Pause what is blocked, too far ahead, or too much; resume what is not any more."""
        self._buffer_full = _hysteresis(
            self._ledger.buffer_bytes, self._settings.buffer.max_bytes, was_above=self._buffer_full
        )
        span = self._settings.buffer.max_offset_span
        assignments = self._ledger.assignments()
        self._too_far = {a for a in assignments if _hysteresis(a.span, span, was_above=a in self._too_far)}
        self._source.steer({assignment: self._is_wanted(assignment) for assignment in assignments})

    def _is_wanted(self, assignment: Assignment) -> bool:
        """Return whether records of a partition are wanted now."""
        if self._buffer_full or assignment.phase is not Phase.OPEN or assignment in self._too_far:
            return False
        reasons = self._status.blocks_of(*assignment.partition)
        return not reasons or all(reason.is_read_on for reason in reasons)

    def _commit_now_and_then(self) -> None:
        now = self._clock()
        if now < self._next_commit or not self._connected:
            return
        self._next_commit = now + self._settings.kafka.commit_interval_seconds
        assignments = [a for a in self._ledger.assignments() if a.phase is Phase.OPEN]
        self._source.positions([a for a in assignments if not a.buffered])
        watermarks = self._ledger.watermarks(assignments)
        moved = {assignment: at for assignment, at in watermarks.items() if at != assignment.committed}
        if not moved and now - self._last_commit < COMMIT_ANYWAY_SECONDS:
            return
        due = moved or watermarks
        if due and self._source.commit(due):
            self._last_commit = now

    def _tell(self) -> None:
        """Enter the state that holds now."""
        if not self._connected:
            return
        if not self._source.is_member:
            self._status.enter(State.STARTING, self._source.waits_for)
            return
        assignments = self._ledger.assignments()
        if self._nothing_can_move(assignments):
            blocks = self._status.read().blocks
            self._status.enter(State.BLOCKED, "; ".join(f"{block}: {message}" for block, message in blocks.items()))
        elif not self._parts.dead_letters.is_ready:
            self._status.enter(State.STARTING, "looking for the dead-letter topic")
        elif assignments and not any(assignment.partition.topic in self._routes for assignment in assignments):
            self._status.enter(State.STARTING, self._why_no_index())
        else:
            self._status.enter(State.RUNNING, "running")

    def _nothing_can_move(self, assignments: Sequence[Assignment]) -> bool:
        """Tell whether all that is assigned is blocked, or nothing is since none of the topics is there any more."""
        if assignments:
            return all(self._status.blocks_of(*assignment.partition) for assignment in assignments)
        unreadable = BlockReason.PARTITION_UNREADABLE
        return all(unreadable in self._status.blocks_of(topic) for topic in self._settings.topics)

    def _why_no_index(self) -> str:
        answers = [f"index {index}: {answer}" for index, answer in self._targets.last_answers().items()]
        return "; ".join(["waiting for the service to tell of its indexes", *answers[:_ANSWERS_SHOWN]])

    # -- the end

    def _drain(self) -> None:
        """Finish what is in flight and take nothing new, within the deadline; commit and leave."""
        self._status.enter(State.DRAINING, "told to stop")
        total = self._settings.shutdown.drain_seconds
        leave_seconds = min(LEAVE_SECONDS, total / 2)
        started = self._clock()
        for index, batch in self._open_batches.items():
            self._submit(index, batch.seal(SealReason.DRAIN))
        while self._connected and not self._is_idle() and self._clock() - started < total - leave_seconds:
            self._status.turned(self._clock())
            self._source.steer({})
            self._pass_over_new_records()
        for lane in self._parts.lanes.values():
            lane.stop()
        self._parts.dead_letters.stop(STOP_SECONDS / 2)
        left = self._leave(started + total) if self._connected else self._ledger.outstanding()
        if left:
            log.warning("not settled in time; these come again", extra={"records": left})

    def _pass_over_new_records(self) -> None:
        """Poll for the membership's sake. What comes all the same is tracked, so that the watermark stays before it."""
        try:
            polled = self._source.poll(0.05)
        except BrokerUnavailable as error:
            log.warning("not a member any more while draining", extra={"error": str(error)})
            self._connected = False
            return
        for assignment, messages in polled:
            self._track(assignment, [message.offset for message in messages])

    def _is_idle(self) -> bool:
        return self._parts.dead_letters.is_idle and all(lane.is_idle for lane in self._parts.lanes.values())

    def _leave(self, deadline: float) -> int:
        """Commit and leave the group; returns how many records that gives back unsettled."""
        assignments = self._ledger.assignments()
        self._source.positions([a for a in assignments if a.phase is Phase.OPEN and not a.buffered])
        remaining = max(0.5, deadline - self._clock())
        if not self._source.commit_now(self._ledger.watermarks(assignments), remaining / 2):
            log.warning("the last commit failed; what it would have told comes again")
        left = self._ledger.outstanding()  # leaving fences them, and they are outstanding no more
        self._source.close(max(0.5, (deadline - self._clock()) / 2))
        self._connected = False
        return left

    def _stop_helpers(self) -> None:
        for lane in self._parts.lanes.values():
            lane.stop()
        if self._connected:
            self._source.close(1.0)
        deadline = self._clock() + STOP_SECONDS
        self._targets.join(deadline - self._clock())
        self._parts.dead_letters.stop(max(0.0, deadline - self._clock()))
        self._parts.watcher.stop()
        for lane in self._parts.lanes.values():
            lane.join(max(0.0, deadline - self._clock()))


def _header_bytes(message: Message) -> int:
    return sum(len(name) + len(value or b"") + HEADER_BYTES for name, value in message.headers)


def _dead_letter(route: Route, assignment: Assignment, message: Message, size: int, error: RecordError) -> DeadLetter:
    return DeadLetter(
        assignment,
        message,
        size,
        route.lane.index,
        error.reason,
        error.message,
        _RAISED_BY,
        f"{type(error).__module__}.{type(error).__qualname__}",
    )


def _hysteresis(value: int, limit: int, *, was_above: bool) -> bool:
    return value >= limit or (was_above and value >= limit * RESUME_SHARE)
