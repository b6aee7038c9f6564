"""The dead-letter topic: records that can never be written, as they came, with what was wrong.

A record is settled once the broker has acknowledged its dead letter. No dead letter is skipped. If one cannot be written, the
cause decides what else waits:

    the limit, or no topic     `admission.py`: the topic, or the partition, is blocked until it is given back
    refused by the service     `admission.py`: it waits until all records before it are decided, a minute at most
    the broker, the topic      `rounds.py`: every topic is blocked, and all dead letters are retried
    the dead letter itself     it is written as a reference, which says why. Where the settings do not want that (too large),
                               or it fails too, `retry_queue.py`: its own partition is blocked, and it is retried alone

A dead letter that is blocked or retried alone keeps its place and releases its bytes. So does each that waits after the first
few megabytes. Otherwise their bytes would fill the buffer and pause every partition. The record is read again from its topic
when it can be written.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final

from worker.deadletters.admission import Admission
from worker.deadletters.blocks import Unavailable
from worker.deadletters.entry import Entry
from worker.deadletters.headers import Writer
from worker.deadletters.lease_check import LeaseCheck
from worker.deadletters.limit import Limit
from worker.deadletters.producer import Producer
from worker.deadletters.retry_queue import RecordSource, RetryQueue
from worker.deadletters.rounds import Rounds
from worker.deadletters.sender import Sender
from worker.deadletters.settlement import Settlement
from worker.deadletters.topic import DeadLetterTopic
from worker.ledger import Ledger
from worker.ports import DeadLetter
from worker.settings.tables import DeadLetter as DeadLetterSettings
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status
from worker.telemetry.traces import NO_TRACES, Traces

_LOOK_SECONDS: Final = 0.05  # between checks whether all records before a refused one are decided
_LEASE_LOOK_SECONDS: Final = 0.2  # between checks whether the lease holds again


class DeadLetterWriter:
    """Writes dead letters on a thread of its own: the queue, the thread, and what it does in each turn.

    `producer` makes one, idempotent or not. `may_write` returns whether a topic may be written to, None where that is
    unknown. `clock` and `wall` are seconds, monotonic and of Unix time.
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
        may_write: Callable[[str], bool | None],
        source: RecordSource,
        retry_seconds: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
        traces: Traces = NO_TRACES,
    ) -> None:
        self._has_topic = bool(settings.topic)
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._source = source
        self._unavailable = Unavailable(topics, status, retry_seconds)
        self._lease = LeaseCheck(ledger, metrics)
        self._sender = Sender(
            settings,
            Writer(kafka.group_id, kafka.client_id),
            ledger=ledger,
            make_producer=producer,
            may_write=may_write,
            clock=clock,
            wall=wall,
            traces=traces,
        )
        self._topic = DeadLetterTopic(settings.topic, kafka, sender=self._sender, may_write=may_write, metrics=metrics)
        self._admission = Admission(has_topic=self._has_topic, limit=limit, ledger=ledger, status=status, clock=clock)
        settlement = Settlement(ledger=ledger, status=status, metrics=metrics, wall=wall)
        self._retries = RetryQueue(
            source=source,
            sender=self._sender,
            settlement=settlement,
            unavailable=self._unavailable,
            status=status,
            ledger=ledger,
            lease=self._lease,
            retry_seconds=retry_seconds,
            clock=clock,
        )
        self._rounds = Rounds(
            sender=self._sender,
            retries=self._retries,
            settlement=settlement,
            unavailable=self._unavailable,
            ledger=ledger,
            lease=self._lease,
            retry_seconds=retry_seconds,
            clock=clock,
        )
        self._condition = threading.Condition()
        self._queue: deque[tuple[DeadLetter, float]] = deque()  # each with the time at which it was submitted
        self._is_busy = False
        self._stopping = False
        self._ready = not self._has_topic
        self._thread = threading.Thread(target=self._run, name="dead-letters", daemon=True)

    # -- for other threads

    def start(self) -> None:
        """Start the thread; it begins by looking for the dead-letter topic."""
        self._thread.start()

    def submit(self, dead_letter: DeadLetter) -> None:
        """Queue a dead letter; returns at once."""
        with self._condition:
            self._queue.append((dead_letter, self._clock()))
            self._condition.notify()

    @property
    def is_ready(self) -> bool:
        """Whether dead letters can be written, as far as is known. True if the settings want none."""
        return self._ready

    @property
    def is_idle(self) -> bool:
        """Whether no dead letter waits that can be written now."""
        with self._condition:
            return not self._queue and not self._is_busy

    def dead_threads(self) -> list[str]:
        """Return the thread's name if it ended although it was not asked to."""
        return [] if self._stopping or self._thread.is_alive() else [self._thread.name]

    def stop(self, timeout: float) -> None:
        """End the thread; dead letters that were not acknowledged stay unsettled. `timeout` is in seconds."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._sender.close()  # otherwise the thread continues to wait for the broker's answer
        if self._thread.is_alive():
            self._thread.join(timeout)

    # -- the thread

    def _run(self) -> None:
        try:
            if self._has_topic:
                self._find_topic()
            while (submitted := self._next()) is not None:
                self._drop_given_back()
                self._admit([Entry(dead_letter, submitted_at) for dead_letter, submitted_at in submitted])
                del submitted  # otherwise it keeps the bytes that are released below
                self._rounds.write(self._is_stopping)
                self._retries.retry_due(self._is_stopping)
                self._unblock_if_none_waits()
        finally:
            self._sender.close()
            self._source.close()

    def _is_stopping(self) -> bool:
        return self._stopping

    def _find_topic(self) -> None:
        """Wait until the dead-letter topic is there and may be written to; until then nothing is consumed."""
        while not self._stopping:
            problem = self._topic.problem()
            if not problem:
                self._unavailable.unblock()
                self._ready = True
                return
            self._unavailable.block(problem)
            with self._condition:
                if not self._stopping:
                    self._condition.wait(self._retry_seconds)

    def _next(self) -> list[tuple[DeadLetter, float]] | None:
        """Wait for dead letters, or until a retry is due. None if the thread must end."""
        with self._condition:
            self._is_busy = self._admission.has_undecided or bool(self._rounds.waiting)
            if not self._stopping and not self._queue:
                self._condition.wait(self._seconds_to_wait())
            if self._stopping:
                return None
            submitted = list(self._queue)
            self._queue.clear()
            self._is_busy = self._is_busy or bool(submitted)
            return submitted

    def _seconds_to_wait(self) -> float:
        now, seconds = self._clock(), self._retry_seconds
        if self._admission.has_undecided:
            seconds = min(seconds, _LOOK_SECONDS)
        if self._lease.is_waiting:  # nothing can be written before the lease holds, whatever is due
            return _LOOK_SECONDS if self._admission.has_undecided else _LEASE_LOOK_SECONDS
        if self._rounds.waiting:
            seconds = min(seconds, self._rounds.next_at - now)
        if self._retries.entries:
            seconds = min(seconds, self._retries.next_at - now)
        return max(0.0, seconds)

    def _drop_given_back(self) -> None:
        self._admission.drop_given_back()
        self._rounds.drop_given_back()
        self._retries.drop_given_back()
        if not self._rounds.waiting and not self._retries.entries:
            self._lease.nothing_waits()

    def _admit(self, entries: list[Entry]) -> None:
        admitted_before = chain(self._rounds.waiting, self._retries.entries)
        self._rounds.add(self._admission.admit(entries, admitted_before))

    def _unblock_if_none_waits(self) -> None:
        """End the block of every topic if no dead letter waits for the broker. The next one shows whether it works again."""
        if not self._rounds.waiting and not self._retries.has_some_without_room:
            self._unavailable.unblock()
