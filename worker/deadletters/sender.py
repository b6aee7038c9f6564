"""Sends dead letters and waits for the broker's answers. Owns the producer, and replaces one that has become useless."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.deadletters.entry import TOO_LARGE, Entry, Problem
from worker.deadletters.headers import Writer, build, build_reference
from worker.deadletters.producer import DELIVERY_TIMEOUT_MS, Producer, refuses_idempotence
from worker.errors import NotSent
from worker.ledger import Ledger
from worker.settings.tables import DeadLetter as DeadLetterSettings
from worker.telemetry.traces import NO_TRACES, Span, Traces

log = logging.getLogger("worker.deadletter")

_CLOSE_SECONDS: Final = 0.5
_SLOWEST_BYTES_PER_SECOND: Final = 1024 * 1024  # to compress and to send a large dead letter
_OF_THE_DEAD_LETTER: Final = (*TOO_LARGE, kafka_errors.InvalidRecordError, kafka_errors.InvalidTimestampError)


class Sender:
    """Sends dead letters. `clock` and `wall` are seconds, monotonic and of Unix time.

    Only the writer's thread calls it, except that any thread may call `close`.
    """

    def __init__(
        self,
        settings: DeadLetterSettings,
        writer: Writer,
        *,
        ledger: Ledger,
        make_producer: Callable[[bool], Producer],
        may_write: Callable[[str], bool | None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        traces: Traces = NO_TRACES,
    ) -> None:
        self._traces = traces
        self._settings = settings
        self._writer = writer
        self._ledger = ledger
        self._make_producer = make_producer
        self._may_write = may_write
        self._clock = clock
        self._wall = wall
        self._is_idempotent = settings.idempotent != "false"
        self._producer: Producer | None = None

    @property
    def producer(self) -> Producer | None:
        """Return the producer, None where there is none now."""
        return self._producer

    def connect(self) -> Producer:
        """Return the producer, a new one where there is none. Raises kafka-python's errors."""
        if self._producer is None:
            try:
                self._producer = self._make_producer(self._is_idempotent)
            except kafka_errors.KafkaError as error:
                if not (refuses_idempotence(error) and self._may_give_up_idempotence()):
                    raise
                self._give_up_idempotence()
                self._producer = self._make_producer(self._is_idempotent)
        return self._producer

    def close(self) -> None:
        """Close the producer, whatever it has still to send; the next attempt makes another."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(timeout=_CLOSE_SECONDS)
            except Exception as error:  # whatever that raises, another one is made
                log.warning("producer not closed", extra={"error": client_config.describe(error)})

    def attempt(self, entries: Sequence[Entry], *, why: str = "") -> list[Problem | None]:
        """Send all, wait for each, and return what went wrong with each. With `why` they are sent as references.

        An error of the broker that comes at once would come for the others too, each after some seconds: they are not
        tried. The next attempt makes a new producer after one that got an error other than a time-out, since an
        idempotent producer sends nothing after that, and after one that did not answer in time.
        """
        sent: list[Any] = []
        spans: list[Span] = []
        for entry in entries:
            spans.append(self._traces.dead_letter(self._settings.topic, entry.dead_letter))
            last = sent[-1] if sent else None
            if isinstance(last, Problem) and last.is_of_the_broker:
                sent.append(last._replace(was_tried=False))
            else:
                sent.append(self._send(entry, why))
        problems = self._wait_for_all(sent, sum(entry.bytes for entry in entries))
        for span, problem in zip(spans, problems, strict=True):
            if problem is None or problem.was_tried:
                span.written(None if problem is None else problem.error)
        is_silent = any(not isinstance(one, Problem) and not one.is_done for one in sent)
        errors = [problem.error for problem in problems if problem is not None]
        if any(map(refuses_idempotence, errors)) and self._may_give_up_idempotence():
            self._give_up_idempotence()
        if is_silent or any(not isinstance(error, (kafka_errors.KafkaTimeoutError, NotSent)) for error in errors):
            self.close()
        return problems

    def attempt_reference(self, entry: Entry, problem: Problem) -> Problem | None:
        """Send one that cannot be written whole as a reference, if the settings allow it; returns what is wrong then."""
        if problem.is_too_large and self._settings.oversize != "reference":
            return problem
        (found,) = self.attempt([entry], why=f"the record cannot be written whole: {problem}")
        return found

    def _wait_for_all(self, sent: Sequence[Any], size: int) -> list[Problem | None]:
        """One limit for all: were each given its own, a producer that does not answer would block a round for half an hour."""
        until = self._clock() + DELIVERY_TIMEOUT_MS / 1000 + 1 + size / _SLOWEST_BYTES_PER_SECOND
        return [one if isinstance(one, Problem) else _answer(one, max(0.0, until - self._clock())) for one in sent]

    def _send(self, entry: Entry, why: str) -> Any:
        """Return the producer's future, or the problem that came at once.

        An error while the message is made is the dead letter's own; an error while the producer is made never is.
        """
        try:
            producer = self.connect()
        except Exception as error:  # the client raises errors of every kind; each is reported and retried
            return Problem(error, is_own=False)
        try:
            failed_at = self._wall()
            if why:
                made = build_reference(entry.dead_letter, self._writer, failed_at=failed_at, sizes=entry.sizes, why=why)
            else:
                made = build(entry.dead_letter, self._writer, failed_at=failed_at)
            if not self._ledger.may_send((entry.assignment,)):
                return Problem(NotSent("the lease ran out"), is_own=False, was_tried=False)
            return producer.send(self._settings.topic, value=made.value, key=made.key, headers=made.headers)
        except (kafka_errors.KafkaError, OSError) as error:
            is_own = isinstance(error, _OF_THE_DEAD_LETTER)
            if not is_own:  # one that failed for good raises from then on, and so does one that did not see the topic
                self.close()
            return Problem(error, is_own)
        except Exception as error:  # whatever a record contains costs no more than its own dead letter
            return Problem(error, is_own=True)

    def _may_give_up_idempotence(self) -> bool:
        """A user who may not write gets no producer id either: that says nothing of idempotence."""
        is_left_to_us = self._settings.idempotent == "auto" and self._is_idempotent
        return is_left_to_us and self._may_write(self._settings.topic) is not False

    def _give_up_idempotence(self) -> None:
        self._is_idempotent = False
        log.warning("the broker accepts no idempotent producer; dead letters may be written twice after a fault")


def _answer(future: Any, seconds: float) -> Problem | None:
    """Wait so long for the broker's answer; returns what is wrong, None where it acknowledged."""
    try:
        future.get(timeout=seconds)
    except Exception as error:  # the client raises errors of every kind; each is reported and retried
        return Problem(error, is_own=isinstance(error, _OF_THE_DEAD_LETTER))
    return None
