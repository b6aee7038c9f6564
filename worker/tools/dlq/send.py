"""Publishes dead letters to their source topics, in the order of their records."""

import shlex
import subprocess
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.deadletters.headers import Replay, as_replayed
from worker.errors import FatalError
from worker.ledger import Partition
from worker.ports import Message
from worker.tools.dlq.history import Candidate
from worker.tools.dlq.letters import DeadLetterRead
from worker.words import clean

EDIT_SECONDS: Final = 60.0
"""For the command of `--edit`, for each value."""
_ACKNOWLEDGE_SECONDS: Final = 60.0
_MOST_WAITING: Final = 500


class EditFailed(Exception):
    """The command of `--edit` failed on a value; the message says how."""


class Content(NamedTuple):
    """What is published of a dead letter."""

    key: bytes | None
    value: bytes | None


def edited(command: str, value: bytes | None) -> bytes:
    """Pipe a value through a command and return what it prints. Raises `EditFailed`."""
    try:
        done = subprocess.run(  # noqa: S603 - the command is the caller's own
            shlex.split(command), input=value or b"", capture_output=True, timeout=EDIT_SECONDS, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise EditFailed(f"{type(error).__name__}: {error}") from error
    if done.returncode:
        raise EditFailed(f"exit code {done.returncode}: {clean(done.stderr.decode(errors='replace'), 300)}")
    return done.stdout


class Sender:
    """Publishes and counts. `acknowledged` are those that the brokers have."""

    def __init__(self, producer: Any, dead_letter_topic: str, on_sent: Callable[[], None]) -> None:
        self.acknowledged = 0
        self._producer = producer
        self._topic = dead_letter_topic
        self._on_sent = on_sent
        self._waiting: deque[Any] = deque()

    def send(self, letter: DeadLetterRead, one: Candidate, content: Content) -> None:
        """Publish one. Raises `FatalError` where an earlier one, or this one, is not acknowledged."""
        times = one.claimed.times + 1 if one.claimed is not None else 1
        replay = Replay(times, f"{self._topic}/{letter.place.partition}/{letter.place.offset}")
        headers = as_replayed(letter.headers.source, replay, is_again=one.claimed is not None)
        try:
            future = self._producer.send(
                one.topic, key=content.key, value=content.value, headers=headers, partition=one.target
            )
        except kafka_errors.KafkaError as error:
            raise self._failed(error) from error
        self._waiting.append(future)
        while self._waiting and (len(self._waiting) > _MOST_WAITING or self._waiting[0].is_done):
            self._settle()

    def finish(self) -> None:
        """Wait until all are acknowledged. Raises `FatalError`."""
        while self._waiting:
            self._settle()

    def _settle(self) -> None:
        try:
            self._waiting.popleft().get(timeout=_ACKNOWLEDGE_SECONDS)
        except kafka_errors.KafkaError as error:
            self._waiting.clear()
            raise self._failed(error) from error
        self.acknowledged += 1
        self._on_sent()

    def _failed(self, error: Exception) -> FatalError:
        return FatalError(
            f"kafka did not accept a record: {client_config.describe(error)}; {self.acknowledged} were replayed. "
            "Repeat the command: what was replayed is not replayed again"
        )


def content_of(letter: DeadLetterRead, source: Callable[[Partition, int], Message | None]) -> Content | None:
    """Return the record of a dead letter; read from the source topic where it was left out, None where it is gone."""
    told, message = letter.headers, letter.message
    if told.value_size is None:
        return Content(message.key, message.value)
    found = source(Partition(told.topic, told.partition or 0), told.offset or 0)
    return None if found is None else Content(found.key, found.value)
