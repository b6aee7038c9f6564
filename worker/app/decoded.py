"""What was decoded of some messages, sorted by what happens next, and how it is counted in the buffer."""

from collections.abc import Hashable
from typing import Final

from worker.app.suspect_reports import Seen
from worker.delivery.batch import Item
from worker.errors import RecordError
from worker.ledger import Assignment
from worker.ports import DeadLetter, Message
from worker.records.decode import Decoded as DecodedRecord
from worker.records.decode import Delete, Put

ITEM_BYTES: Final = 600  # the objects of one record in memory, besides its bytes
HEADER_BYTES: Final = 100  # likewise of one header

# Of the header __connect.errors.class.name: it stays as it is when the decoder moves.
_RAISED_BY: Final = "worker.record.Decoder"


class Decoded:
    """Messages of one partition, sorted by what happens to them next."""

    __slots__ = (
        "by_index",
        "dead_letters",
        "ignored",
        "items",
        "joined",
        "mismatches",
        "schema",
        "size",
        "suspects",
        "widths",
    )

    def __init__(self) -> None:
        self.items: list[Item] = []  # for the index of a topic that has one
        self.by_index: dict[str, list[Item]] = {}  # for the indexes of one that has several
        self.dead_letters: list[DeadLetter] = []
        self.joined: list[DeadLetter] = []  # bad ones that are in another's dead letter, of a message with many of them
        self.ignored: list[Item] = []  # these ask for nothing
        self.mismatches = 0  # records whose Kafka key is not the vector's key
        self.size = 0  # bytes of all messages in memory, without what the records of one message share
        self.suspects: dict[str, Seen] = {}  # by cause
        self.widths: dict[int, int] = {}  # how many records count of messages that have several, by offset
        self.schema: Hashable = None  # what the first message behind these waits for

    def add_bad(self, letter: DeadLetter | None) -> None:
        """Add a record that can never be written, if it is one."""
        if letter is not None:
            self.dead_letters.append(letter)
            self.size += letter.size

    def note_suspect(self, assignment: Assignment, message: Message, suspicion: tuple[str, str]) -> None:
        """Note that a record is suspect: the cause, and what was found."""
        cause, what = suspicion
        seen = self.suspects.get(cause)
        self.suspects[cause] = (
            Seen(assignment.partition, message.offset, what)
            if seen is None
            else seen._replace(records=seen.records + 1)
        )


def suspicion_of(decoded: DecodedRecord | RecordError | None) -> tuple[str, str] | None:
    """Return why a record is suspect, cause and what was found; None where it is not."""
    if isinstance(decoded, RecordError):
        return (decoded.suspect, decoded.message) if decoded.suspect else None
    return decoded.suspicion if isinstance(decoded, Put | Delete) else None


def header_bytes(message: Message) -> int:
    """Return the bytes of a message's headers in memory."""
    return sum(len(name) + len(value or b"") + HEADER_BYTES for name, value in message.headers)


def dead_letter_of(
    index: str, assignment: Assignment, message: Message, size: int, error: RecordError, element: int | None = None
) -> DeadLetter:
    """Return the dead letter of a message, or of one record of it, that cannot be read."""
    return DeadLetter(
        assignment=assignment,
        message=message,
        size=size,
        index=index,
        reason=error.reason,
        text=error.message,
        raised_by=_RAISED_BY,
        error_class=error.public_name,
        element=element,
    )
