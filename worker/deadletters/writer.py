"""The dead-letter topic: records that can never be written, as they came, with what was wrong.

A dead letter counts once the broker has acknowledged it; until then its record is not settled, and none is passed over.
What keeps a letter from being written decides what waits for it:

    the limit, or no topic     parked: the topic, or the partition, is blocked until it is given back
    refused by the service     waits until all before it in reading order is decided, a minute at most, for the limit
    the broker, the topic      waits: every topic is blocked, and all of it is tried again
    the letter itself          written as a reference, which says why; where that is not wanted (too large), or cannot be
                               written either, held: its own partition is blocked, and it is tried again now and then

What is parked or held, and what waits beyond a few megabytes, keeps its place and lets its bytes go, for they would fill
the buffer and pause every partition. The record is read again from its topic when it can be written.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple, Protocol

from kafka import errors as kafka_errors

from worker.consumer import client_config, client_internals
from worker.deadletters.headers import Writer, build, build_reference
from worker.deadletters.letter import TOO_LARGE, Entry, Problem, Why
from worker.deadletters.limit import Limit
from worker.deadletters.producer import DELIVERY_TIMEOUT_MS, Producer
from worker.errors import BlockReason, NotSent
from worker.ledger import Assignment, Ledger, Outcome, Partition
from worker.ports import DeadLetter, Message
from worker.settings.tables import DeadLetter as DeadLetterSettings
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, DeadLettered, Status

log = logging.getLogger("worker.deadletter")


VERDICT_SECONDS: Final = 5.0  # how long a refused record waits for those before it while none of them is decided


LONGEST_VERDICT_SECONDS: Final = 60.0  # and while some are


KEPT_BYTES: Final = 16 * 1024 * 1024  # of letters that wait for the broker; what is beyond is read again


_AT_ONCE: Final = (
    100  # letters of one round, and their bytes: none is settled before all are acknowledged or have failed
)


_AT_ONCE_BYTES: Final = 4 * 1024 * 1024  # so much goes in the time for one, also where broker or machine is slow


_LOOK_SECONDS: Final = 0.05  # between looks whether all before a refused record is decided


_ISOLATE_AFTER: Final = 3  # failures of one letter, while others are acknowledged


_CLOSE_SECONDS: Final = 0.5


_LEASE_LOOK_SECONDS: Final = 0.2  # between looks whether a dead letter may be written again


_SLOWEST_BYTES_PER_SECOND: Final = 1024 * 1024  # to compress and to send a large letter


_OF_THE_LETTER: Final = (*TOO_LARGE, kafka_errors.InvalidRecordError, kafka_errors.InvalidTimestampError)


_NO_IDEMPOTENCE: Final = (kafka_errors.UnsupportedVersionError, kafka_errors.ClusterAuthorizationFailedError)


_GONE: Final = "the record is gone from the source topic"


class RecordSource(Protocol):
    """Where a record is read again."""

    def read(self, partition: Partition, offset: int) -> Message | None:
        """Return the record, None where it is gone. Raises kafka-python's errors."""

    def close(self) -> None:
        """Close what reading opened; it may be read from again."""


class _Front(NamedTuple):
    """The first place of a topic of which it is not known whether it becomes a dead letter, and since when that is so."""

    place: int | None
    since: float


class DeadLetterWriter:
    """Writes dead letters on a thread of its own, and settles each when the broker has acknowledged it.

    `clock` and `wall` are seconds, monotonic and of Unix time.
    """

    def __init__(
        self,
        settings: DeadLetterSettings,
        kafka: Kafka,
        *,
        topics: Sequence[str],
        ledger: Ledger,
        status: Status,
        metrics: Metrics,
        limit: Limit,
        producer: Callable[[bool], Producer],
        source: RecordSource,
        retry_seconds: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._kafka = kafka
        self._writer = Writer(kafka.group_id, kafka.client_id)
        self._topics = tuple(topics)
        self._ledger = ledger
        self._status = status
        self._metrics = metrics
        self._limit = limit
        self._make_producer = producer
        self._source = source
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._wall = wall
        self._idempotent = settings.idempotent != "false"
        self._producer: Producer | None = None
        self._condition = threading.Condition()
        self._queue: deque[tuple[DeadLetter, float]] = deque()  # with the time of each
        self._undecided: list[Entry] = []  # refused by the service, and not yet judged by the limit
        self._fronts: dict[str, _Front] = {}  # of topics with such records
        self._waiting: list[Entry] = []  # to be written
        self._parked: dict[Block, list[Entry]] = {}
        self._held: list[Entry] = []
        self._is_source_away = False  # in this round of what is held
        self._acknowledged = 0
        self._write_again_at = self._try_held_at = 0.0  # in the clock's seconds
        self._is_busy = False
        self._is_held_back = False  # since the lease had run out
        self._stopping = False
        self._ready = not settings.topic
        self._thread = threading.Thread(target=self._run, name="dead-letters", daemon=True)

    # -- for other threads

    def start(self) -> None:
        """Start the thread; it begins by finding the dead-letter topic."""
        self._thread.start()

    def submit(self, letter: DeadLetter) -> None:
        """Take a dead letter; returns at once."""
        with self._condition:
            self._queue.append((letter, self._clock()))
            self._condition.notify()

    @property
    def is_ready(self) -> bool:
        """Return whether the dead-letter topic was found, or none is wanted."""
        return self._ready

    @property
    def is_idle(self) -> bool:
        """Return whether nothing waits to be written that could be."""
        with self._condition:
            return not self._queue and not self._is_busy

    @property
    def is_alive(self) -> bool:
        """Return whether the thread runs, or was told to end."""
        return self._stopping or self._thread.is_alive()

    def stop(self, timeout: float) -> None:
        """End the thread; letters that were not acknowledged stay unsettled. `timeout` is in seconds."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._close_producer()  # else the thread waits on for the broker's word
        if self._thread.is_alive():
            self._thread.join(timeout)

    # -- the thread

    def _run(self) -> None:
        try:
            if self._settings.topic:
                self._find_topic()
            while (letters := self._next()) is not None:
                self._release_given_back()
                self._judge([Entry(letter, submitted_at) for letter, submitted_at in letters])
                del letters  # what is let go of them is gone
                self._write_waiting()
                self._write_held()
                self._unblock_if_none_waits()
        finally:
            self._close_producer()
            self._source.close()

    def _next(self) -> list[tuple[DeadLetter, float]] | None:
        """Wait for letters, or until something is to be tried again; None where the thread is to end."""
        with self._condition:
            self._is_busy = bool(self._undecided or self._waiting)
            if not self._stopping and not self._queue:
                self._condition.wait(self._seconds_to_wait())
            if self._stopping:
                return None
            letters = list(self._queue)
            self._queue.clear()
            self._is_busy = self._is_busy or bool(letters)
            return letters

    def _seconds_to_wait(self) -> float:
        now, seconds = self._clock(), self._retry_seconds
        if self._undecided:
            seconds = min(seconds, _LOOK_SECONDS)
        if self._is_held_back:  # when the others are due means nothing until the lease holds
            return _LOOK_SECONDS if self._undecided else _LEASE_LOOK_SECONDS
        if self._waiting:
            seconds = min(seconds, self._write_again_at - now)
        if self._held:
            seconds = min(seconds, self._try_held_at - now)
        return max(0.0, seconds)

    def _release_given_back(self) -> None:
        """Let go of letters whose partition was given back, and of what they blocked."""
        for block in list(self._parked):
            self._parked[block] = self._owned(self._parked[block])
            if not self._parked[block]:
                del self._parked[block]
                self._status.unblock(block)
        self._undecided = self._owned(self._undecided)
        self._waiting = self._owned(self._waiting)
        self._keep_held(self._owned(self._held))
        self._is_held_back = self._is_held_back and bool(self._waiting or self._held)

    def _owned(self, entries: list[Entry]) -> list[Entry]:
        gone = [entry.letter for entry in entries if not entry.is_live]
        if gone:
            self._ledger.discard(gone)
        return [entry for entry in entries if entry.is_live] if gone else entries

    def _pause(self) -> None:
        with self._condition:
            if not self._stopping:
                self._condition.wait(self._retry_seconds)

    def _find_topic(self) -> None:
        """Look for the dead-letter topic until it is there; until then nothing is consumed."""
        while not self._stopping:
            try:
                found = bool(self._connected().partitions_for(self._settings.topic))
                problem = f"the dead-letter topic {self._settings.topic!r} does not exist"
            except Exception as error:  # the client raises what it meets; each of them is told and tried again
                self._metrics.kafka_errors.labels(client_config.kind_of(error)).inc()
                problem = f"the dead-letter topic {self._settings.topic!r} {self._why_not_found(error)}"
                self._close_producer()
                found = False
            if found:
                self._unblock()
                self._ready = True
                return
            self._block(problem)
            self._pause()

    def _why_not_found(self, error: BaseException) -> str:
        """Return what is told of the dead-letter topic where asking for it failed."""
        problem = client_config.describe(error)
        unreachable = client_internals.unreachable_of_producer(self._producer)
        if unreachable:
            told = client_config.wrongly_advertised(unreachable)
            return f"cannot be looked for: kafka at {', '.join(self._kafka.bootstrap_servers)}: {told} ({problem})"
        # Where there is no such topic the client asks on until its time is up, and says that it timed out.
        asked = self._producer is not None and isinstance(error, kafka_errors.KafkaTimeoutError)
        return f"{'does not exist, as far as the broker told' if asked else 'cannot be looked for'}: {problem}"

    def _connected(self) -> Producer:
        if self._producer is None:
            try:
                self._producer = self._make_producer(self._idempotent)
            except _NO_IDEMPOTENCE:
                if not self._may_do_without_idempotence():
                    raise
                self._give_up_idempotence()
                self._producer = self._make_producer(self._idempotent)
        return self._producer

    def _may_do_without_idempotence(self) -> bool:
        return self._settings.idempotent == "auto" and self._idempotent

    def _give_up_idempotence(self) -> None:
        self._idempotent = False
        log.warning("the broker takes no idempotent producer; dead letters may be written twice after a fault")

    def _close_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(timeout=_CLOSE_SECONDS)
            except Exception as error:  # whatever it says to that, another one is made
                log.warning("producer not closed", extra={"error": client_config.describe(error)})

    def _block(self, problem: str) -> None:
        for topic in self._topics:
            self._status.block(Block(topic, BlockReason.DEAD_LETTER_UNAVAILABLE), problem)

    def _unblock(self) -> None:
        for topic in self._topics:
            self._status.unblock(Block(topic, BlockReason.DEAD_LETTER_UNAVAILABLE))

    def _unblock_if_none_waits(self) -> None:
        """End what the broker's refusal blocked, once nothing waits for it: the next letter finds out how it is."""
        if not self._waiting and not any(entry.why is Why.NO_ROOM for entry in self._held):
            self._unblock()

    # -- which letters may be written

    def _judge(self, entries: list[Entry]) -> None:
        """Sort letters, in their reading order, into those to write, to park, and not to judge yet."""
        for entry in entries:
            if entry.letter.refusal is not None:
                self._limit.note_bad(entry.partition, entry.letter.offset)
        undecided, self._undecided = self._undecided + self._owned(entries), []
        places = {entry: self._limit.place(entry.partition, entry.letter.offset) for entry in undecided}
        fronts: dict[str, _Front] = {}
        for entry in sorted(undecided, key=places.__getitem__):
            topic = entry.partition.topic
            if entry.letter.refusal is not None and topic not in fronts:
                fronts[topic] = self._front(entry, undecided)
            if entry.letter.refusal is not None and self._is_early(entry, places[entry], fronts[topic]):
                self._undecided.append(entry)
            elif self._may_be_written(entry):
                self._waiting.append(entry)
        waiting_topics = {entry.partition.topic for entry in self._undecided}
        self._fronts = {topic: front for topic, front in fronts.items() if topic in waiting_topics}

    def _front(self, entry: Entry, undecided: Iterable[Entry]) -> _Front:
        """Return how far a topic is decided now, and since when it is no further."""
        topic = entry.partition.topic
        place = self._first_undecided(topic, undecided)
        before = self._fronts.get(topic)
        if before is None:
            return _Front(place, entry.submitted_at)
        return before if before.place == place else _Front(place, self._clock())

    def _is_early(self, entry: Entry, place: int, front: _Front) -> bool:
        """Return whether a refused record is not to be judged yet: records before it may still turn out to be bad."""
        now = self._clock()
        is_open = front.place is not None and front.place < place
        is_moving = now - max(front.since, entry.submitted_at) < VERDICT_SECONDS
        return (
            is_open
            and is_moving
            and now - entry.submitted_at < LONGEST_VERDICT_SECONDS
            and self._may_go_on(entry.partition.topic)
        )

    def _may_go_on(self, topic: str) -> bool:
        return bool(self._settings.topic) and Block(topic, BlockReason.DEAD_LETTER_LIMIT) not in self._parked

    def _first_undecided(self, topic: str, undecided: Iterable[Entry]) -> int | None:
        """Return the first place of a topic of which it is not known whether it becomes a dead letter."""
        given_up: dict[Assignment, set[int]] = {}
        for entries in (undecided, self._waiting, self._held, *self._parked.values()):
            for entry in entries:
                given_up.setdefault(entry.letter.assignment, set()).add(entry.letter.offset)
        found = self._ledger.first_undecided(topic, given_up)
        return min((self._limit.place(*place) for place in found), default=None)

    def _may_be_written(self, entry: Entry) -> bool:
        topic, partition = entry.partition
        if not self._settings.topic:
            block = Block(topic, BlockReason.NO_DEAD_LETTER, partition)
            self._park(entry, block, f"there is no dead-letter topic for {entry}")
            return False
        if not self._may_go_on(topic) or not self._limit.allows(entry.partition, entry.letter.offset):
            message = (
                "more dead letters than dead_letter.limit_ratio allows: mend what sends them, or set "
                f"dead_letter.accept_until; the next is {entry}, {entry.letter.reason}"
            )
            self._park(entry, Block(topic, BlockReason.DEAD_LETTER_LIMIT), message)
            return False
        return True

    def _park(self, entry: Entry, block: Block, message: str) -> None:
        if block not in self._parked:
            self._status.block(block, message, quote=entry.letter.text)
        self._parked.setdefault(block, []).append(entry)
        entry.let_go(self._ledger)

    # -- writing them

    def _write_waiting(self) -> None:
        """Write what waits until each is acknowledged or held, or the broker takes no more for now."""
        while self._waiting and not self._stopping and self._clock() >= self._write_again_at and self._may_write():
            count = _count_at_once(self._waiting)
            some, rest = self._waiting[:count], self._waiting[count:]
            failed = self._write(some)
            self._waiting = rest + failed
            if failed and self._ledger.may_write:
                self._write_again_at = self._clock() + self._retry_seconds
        self._shed()

    def _may_write(self) -> bool:
        """Return whether the lease holds; where not, another process may own the partitions, and the letters wait.

        What the producer had queued before a freeze it sends when it wakes, at most the letters of one round (100): they
        are in the topic twice then, which is allowed, and no vector is older for it.
        """
        may_write = self._ledger.may_write
        if not may_write and not self._is_held_back:
            self._metrics.lease_waits.inc()
        self._is_held_back = not may_write
        return may_write

    def _shed(self) -> None:
        """Let the bytes of letters go that wait for the broker, beyond `KEPT_BYTES`."""
        kept, size = [], 0
        for entry in self._waiting:
            size += entry.bytes
            if size <= KEPT_BYTES:
                kept.append(entry)
            else:
                self._hold(entry, Why.NO_ROOM, f"the dead letter of {entry} waits for the dead-letter topic")
        self._waiting = kept

    def _write(self, entries: list[Entry]) -> list[Entry]:
        """Send all, wait for each; returns those that are to be tried again, those that were not tried first.

        Where one is at fault itself, those that failed beside it are sent again, each alone: they shared a batch with it.
        """
        departed = [entry for entry in entries if self._ledger.begin_request((entry.letter.assignment,))]
        held_back = self._owned([entry for entry in entries if entry not in departed])  # the lease ran out once more
        problems = self._attempt(departed)
        if len(departed) > 1 and any(problem is not None and problem.is_own for problem in problems):
            problems = self._attempt_alone(departed, problems)
        failed: list[tuple[bool, Entry]] = [(False, entry) for entry in held_back]
        for entry, first_problem in zip(departed, problems, strict=True):
            if (problem := self._conclude(entry, first_problem)) is not None:
                failed.append((problem.was_tried, entry))
        if not failed:
            self._unblock()
        for entry in departed:
            self._ledger.end_request((entry.letter.assignment,))
        return [entry for _, entry in sorted(failed, key=lambda one: one[0])]

    def _attempt_alone(self, entries: list[Entry], problems: list[Problem | None]) -> list[Problem | None]:
        again: list[Problem | None] = []
        gave_up: Problem | None = None
        for entry, problem in zip(entries, problems, strict=True):
            if problem is not None:
                (found,) = [gave_up] if gave_up is not None else self._attempt([entry])
                gave_up = gave_up or (found._replace(was_tried=False) if found and not found.is_own else None)
                again.append(found)
            else:
                again.append(None)
        return again

    def _conclude(self, entry: Entry, problem: Problem | None) -> Problem | None:
        """Settle a letter, or hold it; returns the problem where it is to be tried again soon."""
        if problem is not None and problem.is_own:
            problem = self._write_reference(entry, problem)
        if problem is None:
            self._settle(entry)
        elif isinstance(problem.error, NotSent):
            return problem
        elif problem.is_own:
            self._hold(entry, Why.TOO_LARGE if problem.is_too_large else Why.NOT_TAKEN, _not_written(entry, problem))
        elif self._is_isolated(entry, problem):
            self._hold(entry, Why.NOT_TAKEN, _not_written(entry, problem))
        else:
            self._count_failure(problem)
            self._block(f"the dead letter of {entry} was not taken: {problem}")
            return problem
        return None

    def _is_isolated(self, entry: Entry, problem: Problem) -> bool:
        """Note a failure of the broker, and return whether it must be this letter's: others were acknowledged meanwhile."""
        if problem.was_tried:
            if not entry.failures:
                entry.acknowledged_before = self._acknowledged
            entry.failures += 1
        return entry.failures >= _ISOLATE_AFTER and self._acknowledged > entry.acknowledged_before

    def _write_reference(self, entry: Entry, problem: Problem) -> Problem | None:
        """Write a letter that cannot be written whole as a reference, if that is wanted; returns what is wrong then."""
        if problem.is_too_large and self._settings.oversize != "reference":
            return problem
        (again,) = self._attempt([entry], why=f"the record cannot be written whole: {problem}")
        return again

    def _attempt(self, entries: list[Entry], *, why: str = "") -> list[Problem | None]:
        """Send all, wait for each, and return what went wrong with each. With `why` they are sent as references.

        An error of the broker that comes at once comes at the others too, each after some seconds: they are not tried. An
        idempotent producer that was told of an error other than a time-out takes nothing any more, and one that has not
        said in time what became of a letter may never say it, so the next attempt makes a new one.
        """
        sent: list[Any] = []
        for entry in entries:
            last = sent[-1] if sent else None
            if isinstance(last, Problem) and not last.is_own:
                sent.append(last._replace(was_tried=False))
            else:
                sent.append(self._send(entry, why))
        # One limit for all: were each given its own, a producer that says nothing would hold up a round for half an hour.
        size = sum(entry.bytes for entry in entries)
        until = self._clock() + DELIVERY_TIMEOUT_MS / 1000 + 1 + size / _SLOWEST_BYTES_PER_SECOND
        problems = [one if isinstance(one, Problem) else _outcome(one, max(0.0, until - self._clock())) for one in sent]
        is_silent = any(not isinstance(one, Problem) and not one.is_done for one in sent)
        errors = [problem.error for problem in problems if problem is not None]
        if any(isinstance(error, _NO_IDEMPOTENCE) for error in errors) and self._may_do_without_idempotence():
            self._give_up_idempotence()
        if is_silent or any(not isinstance(error, (kafka_errors.KafkaTimeoutError, NotSent)) for error in errors):
            self._close_producer()
        return problems

    def _send(self, entry: Entry, why: str) -> Any:
        """Return the producer's future, or the problem that came at once.

        Whatever comes of making the letter is its own; what comes of making the producer never is.
        """
        try:
            producer = self._connected()
        except Exception as error:  # the client raises what it meets; each of them is told and tried again
            return Problem(error, is_own=False)
        try:
            failed_at = self._wall()
            if why:
                made = build_reference(entry.letter, self._writer, failed_at=failed_at, sizes=entry.sizes, why=why)
            else:
                made = build(entry.letter, self._writer, failed_at=failed_at)
            if not self._ledger.may_send((entry.letter.assignment,)):
                return Problem(NotSent("the lease ran out"), is_own=False, was_tried=False)
            return producer.send(self._settings.topic, value=made.value, key=made.key, headers=made.headers)
        except (kafka_errors.KafkaError, OSError) as error:
            is_own = isinstance(error, _OF_THE_LETTER)
            if not is_own:  # one that failed for good raises from then on, and so does one that did not see the topic
                self._close_producer()
            return Problem(error, is_own)
        except Exception as error:  # whatever a record holds costs no more than its own letter
            return Problem(error, is_own=True)

    # -- letters that are held

    def _hold(self, entry: Entry, why: Why, message: str) -> None:
        """Block the letter's partition alone, and keep its place: the topic takes the others."""
        if why is not Why.NO_ROOM:
            self._metrics.dead_letter_writes.labels("failed").inc()
        self._status.block(entry.own_block, message)
        entry.why, entry.failures = why, 0
        entry.let_go(self._ledger)
        if not self._held:
            self._try_held_at = self._clock() + self._retry_seconds
        self._held.append(entry)

    def _write_held(self) -> None:
        """Try those again now and then, the smallest first; the topic's limit may have been raised."""
        if not self._held or self._clock() < self._try_held_at or not self._may_write():
            return
        failed: set[Why | None] = set()
        left: list[Entry] = []
        self._is_source_away = False
        for entry in sorted(self._held, key=_turn_of):
            if self._stopping or self._is_source_away or entry.why in failed or not self._is_written(entry):
                failed.add(entry.why)
                left.append(entry)
        self._source.close()
        self._keep_held(left)
        self._try_held_at = self._clock() + self._retry_seconds

    def _keep_held(self, left: list[Entry]) -> None:
        """Keep these of the held letters, and end what the others blocked."""
        if left is not self._held:
            blocks = {entry.own_block for entry in self._held} - {entry.own_block for entry in left}
            self._held = left
            for block in blocks:
                self._status.unblock(block)

    def _is_written(self, entry: Entry) -> bool:
        """Read a held letter's record again and write it; returns whether it needs to be held no longer."""
        try:
            message = self._source.read(entry.partition, entry.letter.offset)
            is_there = message is not None and entry.fill(message, self._ledger)
        except Exception as error:  # the client raises what it meets; each of them is told and tried again
            self._source.close()
            self._is_source_away = True
            entry.unread += 1
            unread = Problem(error, is_own=False)
            self._note_still_held(entry, f"the record of {entry} cannot be read again: {unread}", unread)
            return False
        if not self._ledger.begin_request((entry.letter.assignment,)):
            if entry.is_live:  # the lease ran out meanwhile
                entry.let_go(self._ledger)
                return False
            self._ledger.discard([entry.letter])
            return True
        (found,) = self._attempt([entry], why="" if is_there else _GONE)
        problem = self._write_reference(entry, found) if found is not None and found.is_own and is_there else found
        if problem is None:
            self._settle(entry)
            if not is_there:
                topic, partition = entry.partition
                log.error(
                    "%s; its dead letter is a reference",
                    _GONE,
                    extra={"topic": topic, "partition": partition, "offset": entry.letter.offset},
                )
        self._ledger.end_request((entry.letter.assignment,))
        if problem is not None:
            entry.let_go(self._ledger)
            if not isinstance(problem.error, NotSent):
                self._note_still_held(entry, _not_written(entry, problem), problem)
        return problem is None

    def _note_still_held(self, entry: Entry, message: str, problem: Problem) -> None:
        entry.failures += 1
        self._count_failure(problem)
        self._status.block(entry.own_block, message)

    def _count_failure(self, problem: Problem) -> None:
        self._metrics.dead_letter_writes.labels("failed").inc()
        self._metrics.kafka_errors.labels(client_config.kind_of(problem.error)).inc()

    # -- written

    def _settle(self, entry: Entry) -> None:
        letter = entry.letter
        self._acknowledged += 1
        self._metrics.dead_letter_writes.labels("ok").inc()
        topic, partition = entry.partition
        if self._ledger.settle((letter,), Outcome.DEAD_LETTERED):
            now = self._wall()
            self._metrics.dead_letters.labels(topic, letter.reason.value).inc()
            self._metrics.settled(topic, (letter.message.timestamp,), now)
            self._status.dead_lettered(DeadLettered(topic, partition, letter.offset, letter.reason, now))
        log.warning(
            "dead letter",
            extra={
                "topic": topic,
                "partition": partition,
                "offset": letter.offset,
                "reason": letter.reason.value,
                "error": letter.text,
            },
        )


def _count_at_once(entries: Sequence[Entry]) -> int:
    """Return how many of the first letters make a round: at least one, which may be of any size."""
    sizes = accumulate(entry.bytes for entry in entries[:_AT_ONCE])
    return max(1, sum(size <= _AT_ONCE_BYTES for size in sizes))


def _outcome(future: Any, seconds: float) -> Problem | None:
    """Wait so long for the broker's word; returns what is wrong, None where it was acknowledged."""
    try:
        future.get(timeout=seconds)
    except Exception as error:  # the client raises what it meets; each of them is told and tried again
        return Problem(error, is_own=isinstance(error, _OF_THE_LETTER))
    return None


def _turn_of(entry: Entry) -> tuple[int, int, int]:
    """The order in which held letters are tried: in turn, and where size is at fault the smallest first."""
    return entry.unread, 0 if entry.why is Why.TOO_LARGE else entry.failures, entry.bytes


def _not_written(entry: Entry, problem: Problem) -> str:
    what = "is too large" if problem.is_too_large else "cannot be written"
    return f"the dead letter of {entry} {what}: {problem}"
