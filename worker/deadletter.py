"""The dead-letter topic: records that can never be written, as they came, with what was wrong.

A dead letter counts once the broker has acknowledged it. While the broker refuses it, or the topic is missing, the
source topic is blocked and the letter is tried again; none is passed over.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from worker import client_internals, client_network, kafka_client
from worker.config import DeadLetter as DeadLetterSettings
from worker.config import Kafka, accept_until
from worker.delivery import DeadLetter
from worker.errors import BlockReason
from worker.metrics import Metrics
from worker.offsets import Ledger, Outcome
from worker.state import Block, DeadLettered, Status

log = logging.getLogger(__name__)

_AT_ONCE: Final = 100
_CLOSE_SECONDS: Final = 0.5
_MAX_BLOCK_MS: Final = 5_000
_DELIVERY_TIMEOUT_MS: Final = 20_000
_MAX_REQUEST_BYTES: Final = 100 * 1024 * 1024  # the broker's limit decides, not the client's of 1 MiB
_FIRST_ALL_BAD: Final = 20
_TOO_LARGE: Final = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_ERROR_HEADER_PREFIX: Final = "__connect.errors."
_OWN_HEADERS: Final = frozenset(
    f"oss-vectors.{name}"
    for name in (
        *("reason", "index", "timestamp", "failed-at", "null-headers", "value-size"),
        *("http-status", "error-code", "request-id", "attempts"),
    )
)

Headers = list[tuple[str, bytes]]


class Producer(Protocol):
    """What of kafka-python's producer is used."""

    def send(self, topic: str, *, value: bytes | None, key: bytes | None, headers: Headers) -> Any:
        """Queue a message; returns a future."""

    def partitions_for(self, topic: str) -> set[int]:
        """Return a topic's partitions, none where it does not exist."""

    def close(self, timeout: float | None = None) -> None:
        """Close."""


class _Producer(KafkaProducer):  # type: ignore[misc]  # kafka-python ships no types
    """Closes whatever it still has to send, which is kept until it is acknowledged, by this producer or by the next.

    The client's own `close` waits for that, and where it does not go it raises, leaves its thread running, and raises once
    more when the process ends.
    """

    def close(self, timeout: float | None = None, null_logger: bool = False) -> None:
        if not getattr(self, "_closed", True):
            self._sender.force_close()
        super().close(timeout=timeout, null_logger=null_logger)


def make_producer(settings: Kafka, *, idempotent: bool) -> Producer:
    """Return a producer that waits for all replicas. Raises kafka-python's errors."""
    config = {
        "acks": "all",
        "linger_ms": 5,
        "max_block_ms": _MAX_BLOCK_MS,
        "delivery_timeout_ms": _DELIVERY_TIMEOUT_MS,
        "max_request_size": _MAX_REQUEST_BYTES,
        "enable_idempotence": idempotent,
        "kafka_client": client_network.make_client,
    }
    producer: Producer = _Producer(**(config | kafka_client.connection(settings, KafkaProducer.DEFAULT_CONFIG)))
    return producer


class Limit:
    """How many of a topic's records may be dead letters before something else must be wrong.

    It is reached when more than `limit_ratio` of the last `limit_window` records, and at least `limit_min`, were bad, or
    when the first 20 all were. Safe for several threads.
    """

    def __init__(self, settings: DeadLetterSettings, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._lock = threading.Lock()
        self._read: dict[str, int] = {}
        self._bad_first: dict[str, int] = {}  # records that were bad before the first good one
        self._has_good: set[str] = set()
        self._bad: dict[str, deque[int]] = {}
        self._bad_ever: dict[str, int] = {}
        moment = accept_until(settings)
        self._accept_until = moment.timestamp() if moment else 0.0

    def note_read(self, topic: str, good: int, bad: int, bad_first: int | None = None) -> None:
        """Note records that were read, and how many of them were good as far as can be told by themselves.

        `bad_first` is how many were bad before the first good one; None where nothing is known of their order: none.
        """
        with self._lock:
            self._read[topic] = self._read.get(topic, 0) + good + bad
            if topic not in self._has_good:
                leading = (0 if good else bad) if bad_first is None else bad_first
                self._bad_first[topic] = self._bad_first.get(topic, 0) + leading
            if good:
                self._has_good.add(topic)

    def allows(self, topic: str) -> bool:
        """Tell whether one more dead letter may be written, and note it if so."""
        with self._lock:
            bad = self._bad.setdefault(topic, deque())
            read = self._read.get(topic, 0)
            while bad and bad[0] <= read - self._settings.limit_window:
                bad.popleft()
            if self._now() >= self._accept_until and self._is_reached(topic, len(bad), read):
                return False
            bad.append(read)
            self._bad_ever[topic] = self._bad_ever.get(topic, 0) + 1
            return True

    def _is_reached(self, topic: str, bad: int, read: int) -> bool:
        bad_ever = self._bad_ever.get(topic, 0)
        first_were_bad = bad_ever == _FIRST_ALL_BAD and self._bad_first.get(topic, 0) >= _FIRST_ALL_BAD
        if first_were_bad or (bad_ever >= _FIRST_ALL_BAD and topic not in self._has_good):
            return True
        share = bad / max(1, min(read, self._settings.limit_window))
        return bad >= self._settings.limit_min and share > self._settings.limit_ratio


class _Parked(NamedTuple):
    """A letter held back by the limit, or for want of a dead-letter topic, and what that blocks."""

    letter: DeadLetter
    block: Block


class DeadLetterWriter:
    """Writes dead letters on a thread of its own, and settles each when the broker has acknowledged it."""

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
        retry_seconds: float,
        wall: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._kafka = kafka
        self._topics = tuple(topics)
        self._ledger = ledger
        self._status = status
        self._metrics = metrics
        self._limit = limit
        self._make_producer = producer
        self._retry_seconds = retry_seconds
        self._wall = wall
        self._idempotent = settings.idempotent != "false"
        self._producer: Producer | None = None
        self._condition = threading.Condition()
        self._queue: deque[DeadLetter] = deque()
        self._parked: list[_Parked] = []
        self._oversized: list[DeadLetter] = []
        self._try_oversized_at = 0.0  # in the clock's seconds
        self._writing = 0
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
            self._queue.append(letter)
            self._condition.notify()

    @property
    def is_ready(self) -> bool:
        """Tell whether the dead-letter topic was found, or none is wanted."""
        return self._ready

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing waits to be written that could be."""
        with self._condition:
            return not self._queue and not self._writing

    @property
    def is_alive(self) -> bool:
        """Tell whether the thread runs, or was told to end."""
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
                try:
                    self._write(letters)
                    self._write_oversized()
                finally:
                    with self._condition:
                        self._writing = 0
        finally:
            self._close_producer()

    def _next(self) -> list[DeadLetter] | None:
        with self._condition:
            if not self._stopping and not self._queue:
                self._condition.wait(self._retry_seconds)
            self._forget_parked()
            if self._stopping:
                return None
            letters = [self._queue.popleft() for _ in range(min(_AT_ONCE, len(self._queue)))]
            self._writing = len(letters)
            return letters

    def _forget_parked(self) -> None:
        """Let go of letters whose partition was given back, and of what they blocked."""
        gone = [parked for parked in self._parked if not parked.letter.assignment.is_live]
        self._ledger.discard([parked.letter for parked in gone])
        self._parked = [parked for parked in self._parked if parked.letter.assignment.is_live]
        for block in {parked.block for parked in gone} - {parked.block for parked in self._parked}:
            self._status.unblock(block)

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
                self._metrics.kafka_errors.labels(kafka_client.kind_of(error)).inc()
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
        problem = kafka_client.describe(error)
        unreachable = client_internals.unreachable_of_producer(self._producer)
        if unreachable:
            told = kafka_client.wrongly_advertised(unreachable)
            return f"cannot be looked for: kafka at {', '.join(self._kafka.bootstrap_servers)}: {told} ({problem})"
        # Where there is no such topic the client asks on until its time is up, and says that it timed out.
        asked = self._producer is not None and isinstance(error, kafka_errors.KafkaTimeoutError)
        return f"{'does not exist, as far as the broker told' if asked else 'cannot be looked for'}: {problem}"

    def _connected(self) -> Producer:
        if self._producer is None:
            try:
                self._producer = self._make_producer(self._idempotent)
            except (kafka_errors.UnsupportedVersionError, kafka_errors.ClusterAuthorizationFailedError):
                self._give_up_idempotence()
                self._producer = self._make_producer(self._idempotent)
        return self._producer

    def _give_up_idempotence(self) -> None:
        if self._settings.idempotent == "true" or not self._idempotent:
            raise kafka_errors.UnsupportedVersionError("the broker takes no idempotent producer")
        self._idempotent = False
        log.warning("the broker takes no idempotent producer; dead letters may be written twice after a fault")

    def _close_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(timeout=_CLOSE_SECONDS)
            except kafka_errors.KafkaError as error:
                log.warning("producer not closed", extra={"error": kafka_client.describe(error)})

    def _block(self, problem: str) -> None:
        for topic in self._topics:
            self._status.block(Block(topic, BlockReason.DEAD_LETTER_UNAVAILABLE), problem)

    def _unblock(self) -> None:
        for topic in self._topics:
            self._status.unblock(Block(topic, BlockReason.DEAD_LETTER_UNAVAILABLE))

    def _write(self, letters: list[DeadLetter]) -> None:
        """Write letters until each is acknowledged, held, or its partition given back.

        Then nothing blocks any more: what was given back blocked only with its partition, and the next dead letter finds
        out anew.
        """
        if not letters:
            return
        waiting = self._owned([letter for letter in letters if self._may_be_written(letter)])
        while waiting and not self._stopping:
            waiting = self._send(waiting)
            if waiting:
                self._pause()
                waiting = self._owned(waiting)
        if not waiting:
            self._unblock()

    def _may_be_written(self, letter: DeadLetter) -> bool:
        topic, partition = letter.assignment.partition
        if not self._settings.topic:
            block = Block(topic, BlockReason.NO_DEAD_LETTER, partition)
            self._park(letter, block, f"there is no dead-letter topic for {_where(letter)}")
            return False
        if not self._limit.allows(topic):
            message = (
                "more dead letters than dead_letter.limit_ratio allows: mend what sends them, or set "
                f"dead_letter.accept_until; the next is {_where(letter)}, {letter.reason}"
            )
            self._park(letter, Block(topic, BlockReason.DEAD_LETTER_LIMIT), message)
            return False
        return True

    def _park(self, letter: DeadLetter, block: Block, message: str) -> None:
        self._status.block(block, message, quote=letter.text)
        self._parked.append(_Parked(letter, block))

    def _owned(self, letters: list[DeadLetter]) -> list[DeadLetter]:
        self._ledger.discard(letter for letter in letters if not letter.assignment.is_live)
        return [letter for letter in letters if letter.assignment.is_live]

    def _send(self, letters: list[DeadLetter]) -> list[DeadLetter]:
        """Send all, wait for each; returns those that failed. One that is too large by itself is held, and not returned."""
        departed = [letter for letter in letters if self._ledger.depart((letter.assignment,))]
        self._ledger.discard(letter for letter in letters if letter not in departed)
        problems = self._attempt(departed)
        failed = []
        for letter, first_problem in zip(departed, problems, strict=True):
            problem = first_problem
            if isinstance(problem, _TOO_LARGE) and len(departed) > 1:  # which of them it was, the client does not say
                (problem,) = self._attempt([letter])
            if isinstance(problem, _TOO_LARGE) and self._settings.oversize == "reference":
                (problem,) = self._attempt([letter], with_value=False)
            if problem is None:
                self._settle(letter)
            elif isinstance(problem, _TOO_LARGE):
                self._hold_oversized(letter, problem)
            else:
                self._note_failure(letter, problem)
                failed.append(letter)
            self._ledger.land((letter.assignment,))
        return failed

    def _attempt(self, letters: list[DeadLetter], *, with_value: bool = True) -> list[BaseException | None]:
        """Send all, wait for each, and return what went wrong with each.

        An error that comes at once comes at the others too, each after some seconds: they are not tried. An idempotent
        producer that was told of an error other than a time-out takes nothing any more, so the next attempt makes a new one.
        """
        futures: list[Any] = []
        for letter in letters:
            gave_up = futures and isinstance(futures[-1], BaseException) and not isinstance(futures[-1], _TOO_LARGE)
            futures.append(futures[-1] if gave_up else self._send_one(letter, with_value=with_value))
        problems = [_outcome(future) for future in futures]
        if any(problem and not isinstance(problem, kafka_errors.KafkaTimeoutError) for problem in problems):
            self._close_producer()
        return problems

    # -- letters larger than the topic takes

    def _hold_oversized(self, letter: DeadLetter, problem: BaseException) -> None:
        """Block the letter's partition alone: the topic takes the others."""
        self._metrics.dead_letter_writes.labels("failed").inc()
        self._status.block(_oversize_block(letter), f"the dead letter of {_where(letter)} is too large: {problem}")
        self._oversized.append(letter)

    def _write_oversized(self) -> None:
        """Try those again now and then, for the topic's limit may have been raised."""
        if not self._oversized or time.monotonic() < self._try_oversized_at:
            return
        self._try_oversized_at = time.monotonic() + self._retry_seconds
        held, self._oversized = self._oversized, []
        failed = self._send(self._owned(held))
        self._oversized = failed + self._oversized
        if not failed:
            self._unblock()
        for block in {_oversize_block(one) for one in held} - {_oversize_block(one) for one in self._oversized}:
            self._status.unblock(block)

    def _send_one(self, letter: DeadLetter, *, with_value: bool) -> Any:
        """Return the producer's future, or the error that came at once."""
        try:
            return self._post(letter, with_value=with_value)
        except _TOO_LARGE as error:
            return error
        except (
            Exception
        ) as error:  # a producer that failed for good raises from then on: the next attempt makes a new one
            self._close_producer()
            return error

    def _post(self, letter: DeadLetter, *, with_value: bool) -> Any:
        message = letter.message
        headers = build_headers(
            letter,
            group_id=self._kafka.group_id,
            client_id=self._kafka.client_id,
            failed_at=self._wall(),
            without_value=not with_value,
        )
        value = message.value if with_value else None
        return self._connected().send(
            self._settings.topic, value=_writable(message.key, value), key=message.key, headers=headers
        )

    def _note_failure(self, letter: DeadLetter, problem: BaseException) -> None:
        self._metrics.dead_letter_writes.labels("failed").inc()
        self._metrics.kafka_errors.labels(kafka_client.kind_of(problem)).inc()
        self._block(f"the dead letter of {_where(letter)} was not taken: {kafka_client.describe(problem)}")

    def _settle(self, letter: DeadLetter) -> None:
        self._metrics.dead_letter_writes.labels("ok").inc()
        self._unblock()
        topic, partition = letter.assignment.partition
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


def _outcome(future: Any) -> BaseException | None:
    """Wait for the broker's word; returns the error, None where it was acknowledged."""
    if isinstance(future, BaseException):
        return future
    try:
        future.get(timeout=_DELIVERY_TIMEOUT_MS / 1000 + 1)
    except Exception as error:  # the client raises what it meets; each of them is told and tried again
        return error
    return None


def _oversize_block(letter: DeadLetter) -> Block:
    return Block(
        letter.assignment.partition.topic, BlockReason.DEAD_LETTER_UNAVAILABLE, letter.assignment.partition.partition
    )


def _where(letter: DeadLetter) -> str:
    return f"{letter.assignment.partition} offset {letter.offset}"


def _writable(key: bytes | None, value: bytes | None) -> bytes | None:
    """The client cannot write a message with neither key nor value: its value is written empty."""
    return b"" if key is None and value is None else value


def build_headers(
    letter: DeadLetter, *, group_id: str, client_id: str, failed_at: float, without_value: bool = False
) -> Headers:
    """Return the source record's headers, and on top of them what was wrong. `failed_at` is Unix time in seconds."""
    source = [(name, value) for name, value in letter.message.headers if not _is_of_an_earlier_failure(name)]
    headers = [(name, value if value is not None else b"") for name, value in source]
    partition = letter.assignment.partition
    refusal = letter.refusal
    told = {
        "__connect.errors.topic": partition.topic,
        "__connect.errors.partition": str(partition.partition),
        "__connect.errors.offset": str(letter.offset),
        "__connect.errors.connector.name": group_id,
        "__connect.errors.task.id": client_id,
        "__connect.errors.stage": "TASK_PUT" if refusal is not None else "VALUE_CONVERTER",
        "__connect.errors.class.name": letter.raised_by,
        "__connect.errors.exception.class.name": letter.error_class,
        "__connect.errors.exception.message": letter.text,
        "oss-vectors.reason": letter.reason.value,
        "oss-vectors.index": letter.index,
        "oss-vectors.timestamp": _source_time(letter.message.timestamp),
        "oss-vectors.failed-at": rfc3339(failed_at),
    }
    if nulls := [name for name, value in source if value is None]:
        told["oss-vectors.null-headers"] = ",".join(nulls)
    if without_value:
        told["oss-vectors.value-size"] = str(len(letter.message.value or b""))
    if refusal is not None:
        told["oss-vectors.http-status"] = str(refusal.status)
        told["oss-vectors.error-code"] = refusal.code
        told["oss-vectors.request-id"] = refusal.request_id
        told["oss-vectors.attempts"] = str(letter.attempts)
    return headers + [(name, value.encode()) for name, value in told.items()]


def _is_of_an_earlier_failure(name: str) -> bool:
    """A record that fails again after a replay tells of its newest failure alone."""
    return name.startswith(_ERROR_HEADER_PREFIX) or name in _OWN_HEADERS


def _source_time(milliseconds: int) -> str:
    """Return it as text, empty where there is none, or none that a calendar has (microseconds, by a producer's mistake)."""
    try:
        return rfc3339(milliseconds / 1000) if milliseconds >= 0 else ""
    except (ValueError, OverflowError, OSError):
        return ""


def rfc3339(seconds: float) -> str:
    """Return a Unix time as RFC 3339, UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
