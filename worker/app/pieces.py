"""One record on its way to an index: routed, decoded, and sorted by what happens next.

A piece is what is read as one record: a message, or one of several records of a message (`several.py`).
"""

from typing import NamedTuple

from worker.app.decoded import Decoded, dead_letter_of, header_bytes, suspicion_of
from worker.app.parking import Parked, Parking
from worker.app.routers import NO_INDEX, Router
from worker.delivery.batch import Item
from worker.errors import RecordError, SchemaPending
from worker.ledger import Assignment
from worker.ports import DeadLetter, Message
from worker.records.decode import Delete, Put
from worker.records.formats.contract import Headers


class Piece(NamedTuple):
    """What is read as one record. `size` is its share of the buffer, in bytes.

    `element` is its place in a message with several, None where `value` is the message's own. `around` is the Kafka key and the
    headers, where other records have them too, else None.
    """

    message: Message
    value: bytes | None
    size: int
    element: int | None = None
    around: tuple[bytes | None, Headers] | None = None


def bytes_of(message: Message) -> int:
    """Return the bytes of a message in memory, without its objects."""
    size = len(message.value or b"") + len(message.key or b"")
    return size + header_bytes(message) if message.headers else size


class Bad(NamedTuple):
    """A piece that can never be written: the index that it would go to, its share of the buffer in bytes, and why."""

    piece: Piece
    to: str
    size: int
    error: RecordError

    @property
    def undescribed(self) -> "Bad":
        """The same without a message, which costs time: another's dead letter is for it too."""
        return self._replace(error=RecordError(self.error.reason, "", self.error.suspect))

    def letter(self, assignment: Assignment) -> DeadLetter:
        """Return its dead letter."""
        return dead_letter_of(self.to, assignment, self.piece.message, self.size, self.error, self.piece.element)


class PieceReader:
    """Reads the records of one topic. Those whose index was not found yet are parked. Only the main loop calls it."""

    def __init__(self, router: Router, parking: Parking) -> None:
        self._router = router
        self._parking = parking

    def read(self, found: Decoded, assignment: Assignment, piece: Piece) -> Bad | None:
        """Add one record to what was found; returns what it is, not added, where it can never be written.

        Raises `SchemaPending` where its schema is not here yet, and nothing else.
        """
        message, value, size, element, around = piece
        key, headers = around or (message.key, message.headers)
        index = NO_INDEX
        try:
            index, decoded = self._router.route(key, value, headers)
            if suspicion := suspicion_of(decoded):
                found.note_suspect(assignment, message, suspicion)
            if type(decoded) is Put:
                size += len(decoded.fragment)
                found.mismatches += decoded.key_mismatch and element is None  # one Kafka key cannot be that of several
                item = Item(assignment, message, decoded.key, decoded.fragment, size, element=element)
                found.by_index.setdefault(index, []).append(item)
            elif type(decoded) is Delete:
                item = Item(assignment, message, decoded.key, None, size, element=element)
                found.by_index.setdefault(index, []).append(item)
            elif decoded is None:
                size += 0 if element is None else len(value or b"")
                own = None if element is None else value
                self._parking.add(index, Parked(assignment, message, size, element, own, was_routed=True))
            elif isinstance(decoded, RecordError):
                return Bad(piece, index, size, decoded)
            else:
                found.ignored.append(Item(assignment, message, "", None, size, element=element))
        except SchemaPending:
            raise
        except Exception as error:  # a fault of the worker, which shows with this record
            return Bad(piece, index, size, RecordError.internal(error))
        found.size += size
        return None
