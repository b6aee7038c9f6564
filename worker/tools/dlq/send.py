"""Publishes dead letters to their source topics."""

import shlex
import subprocess
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.deadletters.headers import HEADERS_SIZE, Replay, SourceHeaders, as_replayed
from worker.errors import FatalError
from worker.ledger import Partition
from worker.ports import Message
from worker.tools.dlq.candidates import Candidate, Source, source_of
from worker.tools.dlq.letters import DeadLetterRead
from worker.words import clean

EDIT_SECONDS: Final = 60.0
"""For the command of `--edit`, for each value."""
_ACKNOWLEDGE_SECONDS: Final = 60.0


SourceRecord = Callable[[Partition, int], Message | None]
"""Reads the record of a source topic at an offset, None where it is gone. Raises kafka-python's errors."""


class EditFailed(Exception):
    """The command of `--edit` failed on a value; the message says how."""


class Content(NamedTuple):
    """What is published of a dead letter. It has the headers of the source record."""

    key: bytes | None
    value: bytes | None
    headers: SourceHeaders


class Sent(NamedTuple):
    """A dead letter that was handed to the producer."""

    one: Candidate
    future: Any


def edited(command: str, value: bytes) -> bytes:
    """Pipe a value through a command and return what it prints. Raises `EditFailed`."""
    try:
        done = subprocess.run(  # noqa: S603 - the command is the caller's own
            shlex.split(command),
            input=value,
            capture_output=True,
            timeout=EDIT_SECONDS,
            check=False,
            start_new_session=True,  # so that Ctrl-C does not reach it, and what was begun is finished
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise EditFailed(f"{type(error).__name__}: {clean(str(error), 300)}") from error
    if done.returncode:
        raise EditFailed(f"exit code {done.returncode}: {clean(done.stderr.decode(errors='replace'), 300)}")
    if not done.stdout:
        raise EditFailed("it printed nothing")
    return done.stdout


class Sender:
    """Publishes and counts. `acknowledged` are those that the brokers have."""

    def __init__(self, producer: Any, dead_letter_topic: str, on_sent: Callable[[], None]) -> None:
        self.acknowledged = 0
        self._producer = producer
        self._topic = dead_letter_topic
        self._on_sent = on_sent
        self._waiting: deque[Sent] = deque()

    def send(self, one: Candidate, content: Content) -> None:
        """Publish one. Raises `FatalError` where the client does not accept it."""
        replay = Replay(one.replays + 1, f"{self._topic}/{one.place.partition}/{one.place.offset}")
        headers = as_replayed(content.headers, replay, is_again=one.replays > 0)
        value = b"" if content.key is None and content.value is None else content.value  # the client writes no other
        try:
            future = self._producer.send(
                one.source.topic, key=content.key, value=value, headers=headers, partition=one.target
            )
        except (kafka_errors.KafkaError, AssertionError, ValueError) as error:
            raise self._failed(one, error) from error
        self._waiting.append(Sent(one, future))

    def finish(self) -> None:
        """Wait until all are acknowledged. Raises `FatalError`."""
        while self._waiting:
            one, future = self._waiting.popleft()
            try:
                future.get(timeout=_ACKNOWLEDGE_SECONDS)
            except kafka_errors.KafkaError as error:
                self.acknowledged += sum(later.future.succeeded() for later in self._waiting)
                self._waiting.clear()
                raise self._failed(one, error) from error
            self.acknowledged += 1
            self._on_sent()

    def _failed(self, one: Candidate, error: Exception) -> FatalError:
        return FatalError(
            f"kafka did not accept dead letter {one.place} on {one.source.topic}: {client_config.describe(error)}; "
            f"{self.acknowledged} were replayed. Repeat the command to continue: nothing is replayed twice"
        )


def content_of(letter: DeadLetterRead, one: Candidate, source: SourceRecord) -> Content | None:
    """Return the record of a dead letter; read from the source topic where it was left out, None where it is gone.

    Raises `FatalError` where the source topic cannot be read.
    """
    told, message = letter.headers, letter.message
    if not one.is_reference:
        return Content(message.key, message.value, told.source)
    found = _read(source, one.source)
    if found is None or not one.is_about(found):
        return None
    return Content(found.key, found.value, found.headers if HEADERS_SIZE in told.values else told.source)


def value_of(letter: DeadLetterRead, source: SourceRecord) -> bytes | None:
    """Return the value of a dead letter, read from the source topic where it was left out. Raises `FatalError`."""
    if letter.headers.value_size is None:
        return letter.message.value
    place = source_of(letter)
    found = _read(source, place) if place is not None else None
    if found is None or len(found.value or b"") != letter.headers.value_size:
        raise FatalError(f"the value was left out of dead letter {letter.place}, and the source topic does not have it")
    return found.value


def _read(source: SourceRecord, at: Source) -> Message | None:
    try:
        return source(at.place, at.offset)
    except (kafka_errors.KafkaError, OSError) as error:
        raise FatalError(f"{at.place} cannot be read: {client_config.describe(error)}") from error
