"""A dead letter on its way: the record, what is wrong with it, and what became of it so far."""

from enum import Enum
from typing import Final, NamedTuple

import msgspec
from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.deadletters.headers import TEXT_CHARACTERS, Sizes
from worker.errors import BlockReason
from worker.ledger import Ledger, Partition
from worker.ports import BareMessage, DeadLetter, Message
from worker.telemetry.state import Block
from worker.words import clean

_BARE_BYTES: Final = 600  # what a letter without its record's bytes takes


TOO_LARGE: Final = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)


class Why(Enum):
    """Why a letter is held. Of those held for one reason, one that fails ends the round for the others."""

    TOO_LARGE = "too large"
    NOT_TAKEN = "not taken"
    NO_ROOM = "no room"  # it waited for the broker, and its bytes were let go


class Problem(NamedTuple):
    """What kept a letter from being written, and whether that is the letter's own. `was_tried` is False where it was not sent."""

    error: BaseException
    is_own: bool
    was_tried: bool = True

    @property
    def is_too_large(self) -> bool:
        return isinstance(self.error, TOO_LARGE)

    def __str__(self) -> str:
        return clean(client_config.describe(self.error))


class Entry:
    """A letter on its way, and what became of it so far. It belongs to the writer's thread."""

    def __init__(self, letter: DeadLetter, submitted_at: float) -> None:
        self.letter = msgspec.structs.replace(letter, text=clean(letter.text, TEXT_CHARACTERS))
        self.submitted_at = submitted_at
        self.sizes = Sizes.of(letter.message)
        self.failures = 0
        self.unread = 0  # how often its record could not be read again
        self.acknowledged_before = 0  # letters of others, when it first failed
        self.why: Why | None = None
        self._whole_bytes = letter.size

    @property
    def partition(self) -> Partition:
        return self.letter.assignment.partition

    @property
    def is_live(self) -> bool:
        return self.letter.assignment.is_live

    @property
    def bytes(self) -> int:
        """The bytes of the whole record."""
        return (self.sizes.key or 0) + (self.sizes.value or 0) + self.sizes.headers

    @property
    def own_block(self) -> Block:
        """What a letter blocks that is held."""
        return Block(self.partition.topic, BlockReason.DEAD_LETTER_UNAVAILABLE, self.partition.partition)

    def __str__(self) -> str:
        return f"{self.partition} offset {self.letter.offset}"

    def let_go(self, ledger: Ledger) -> None:
        """Keep the record's place alone."""
        message = self.letter.message
        self._become(BareMessage(message.offset, message.timestamp), min(_BARE_BYTES, self._whole_bytes), ledger)

    def fill(self, message: Message, ledger: Ledger) -> bool:
        """Hold the record again; returns False where another record has its place: its topic was made again."""
        if (Sizes.of(message), message.timestamp) != (self.sizes, self.letter.message.timestamp):
            return False
        self._become(message, self._whole_bytes, ledger)
        return True

    def _become(self, message: Message, size: int, ledger: Ledger) -> None:
        ledger.count_bytes(size - self.letter.size)
        self.letter = msgspec.structs.replace(self.letter, message=message, size=size)
