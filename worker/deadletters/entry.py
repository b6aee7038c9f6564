"""A dead letter on its way: the record, what is wrong with it, and what became of it so far."""

from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

import msgspec
from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.deadletters.headers import TEXT_CHARACTERS, Sizes
from worker.errors import BlockReason, NotSent
from worker.ledger import Assignment, Ledger, Partition
from worker.ports import BareMessage, DeadLetter, Message
from worker.telemetry.state import Block
from worker.words import clean

_BARE_BYTES: Final = 600  # memory of a dead letter without its record's bytes

TOO_LARGE: Final = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)


class Problem(NamedTuple):
    """Why a dead letter was not written. `is_own`: the dead letter itself is the cause. `was_tried`: it was sent."""

    error: BaseException
    is_own: bool
    was_tried: bool = True

    @property
    def is_too_large(self) -> bool:
        return isinstance(self.error, TOO_LARGE)

    @property
    def is_of_the_broker(self) -> bool:
        """Return whether other dead letters would fail likewise. One that was not sent, with its partition, shows nothing."""
        return not (self.is_own or isinstance(self.error, NotSent))

    def __str__(self) -> str:
        return clean(client_config.describe(self.error))


class RetryCause(Enum):
    """Why a dead letter is retried alone. After one of a cause has failed, the others of that cause are left for later."""

    TOO_LARGE = "too large"
    REFUSED = "refused"
    NO_ROOM = "no room"  # it waited for the broker, and its bytes were released

    @classmethod
    def of(cls, problem: Problem) -> "RetryCause":
        """Return the cause of a dead letter that is at fault itself."""
        return cls.TOO_LARGE if problem.is_too_large else cls.REFUSED


class Entry:
    """A dead letter on its way, and what became of it so far. It belongs to the writer's thread."""

    def __init__(self, dead_letter: DeadLetter, submitted_at: float) -> None:
        self.dead_letter = msgspec.structs.replace(dead_letter, text=clean(dead_letter.text, TEXT_CHARACTERS))
        self.submitted_at = submitted_at
        self.sizes = Sizes.of(dead_letter.message)
        self.failures = 0
        self.acknowledged_before = 0  # other dead letters, when this one first failed
        self.retry_cause: RetryCause | None = None
        self._whole_bytes = dead_letter.size
        self._shares_bytes = dead_letter.element is not None  # with the other records of its message

    @property
    def assignment(self) -> Assignment:
        return self.dead_letter.assignment

    @property
    def partition(self) -> Partition:
        return self.assignment.partition

    @property
    def offset(self) -> int:
        return self.dead_letter.offset

    @property
    def element(self) -> int | None:
        return self.dead_letter.element

    @property
    def was_refused(self) -> bool:
        """Return whether the service refused the record; else it was found bad when it was read."""
        return self.dead_letter.refusal is not None

    @property
    def bytes(self) -> int:
        """The bytes of the whole record."""
        return (self.sizes.key or 0) + (self.sizes.value or 0) + self.sizes.headers

    @property
    def own_block(self) -> Block:
        """What this dead letter blocks while it is retried alone."""
        return Block.of(self.partition, BlockReason.DEAD_LETTER_UNAVAILABLE)

    def __str__(self) -> str:
        place = f"{self.partition} offset {self.offset}"
        return place if self.element is None else f"{place} element {self.element}"

    def not_written(self, problem: Problem) -> str:
        """Return the message of the block for a dead letter that is at fault itself."""
        what = "is too large" if problem.is_too_large else "cannot be written"
        return f"the dead letter of {self} {what}: {problem}"

    def release_bytes(self, ledger: Ledger) -> None:
        """Keep only the record's place."""
        message = self.dead_letter.message
        self._replace(BareMessage(message.offset, message.timestamp), min(_BARE_BYTES, self._whole_bytes), ledger)
        if self._shares_bytes and self.element is not None:
            self._shares_bytes = False
            self._whole_bytes += self.bytes  # once it is read again it has a copy of its own
            ledger.release(self.assignment, self.offset, self.element)

    def restore(self, message: Message, ledger: Ledger) -> bool:
        """Keep the whole record again; returns False where another record is in its place: its topic was made again."""
        if (Sizes.of(message), message.timestamp) != (self.sizes, self.dead_letter.message.timestamp):
            return False
        self._replace(message, self._whole_bytes, ledger)
        return True

    def _replace(self, message: Message, size: int, ledger: Ledger) -> None:
        ledger.count_bytes(size - self.dead_letter.size)
        self.dead_letter = msgspec.structs.replace(self.dead_letter, message=message, size=size)


def drop_given_back(entries: Sequence[Entry], ledger: Ledger) -> list[Entry]:
    """Discard the dead letters whose partition was given back; returns the others."""
    gone = [entry.dead_letter for entry in entries if not entry.assignment.is_live]
    if gone:
        ledger.discard(gone)
    return [entry for entry in entries if entry.assignment.is_live]
