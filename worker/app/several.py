"""Reads the messages of a topic that may have several records each (`records.many = "split"`).

The records of a message share its bytes and its offset. Each is routed, decoded, batched and settled by itself.

A message of many bad records would make as many dead letters, each as large as the message. So the first
`OWN_DEAD_LETTERS` bad records of a message have one each, and one more is for all the others. In the ledger these others count
as one record.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from worker.app.decoded import ITEM_BYTES, dead_letter_of
from worker.app.decoded import Decoded as Sorted
from worker.app.decoders import shape_of
from worker.app.parking import Parked, Parking
from worker.app.pieces import Piece, PieceReader, bytes_of
from worker.app.routers import NO_INDEX, Reads, Router, outcome_of
from worker.delivery.batch import Item
from worker.errors import RecordError
from worker.ledger import Assignment, Ledger
from worker.ports import DeadLetter, Message
from worker.records.decode import Decoded
from worker.records.formats.contract import Headers
from worker.records.formats.shared import around_of
from worker.records.several import Cutter
from worker.settings.tables import Route, Settings

OWN_DEAD_LETTERS: Final = 20

_Around = tuple[bytes | None, Headers]


def cutter_of(route: Route, settings: Settings) -> Cutter | None:
    """Return what cuts the messages of a route, None where each is one record."""
    records = settings.records_of(route.topic)
    return Cutter(records.format, records.fields.records, shape_of(records)) if records.many == "split" else None


class Reading(NamedTuple):
    """What one record of a message asks for, or why it can never be written. `value` is what was read.

    `element` is its place in a message with several, None where the message is one record.
    """

    element: int | None
    value: bytes | None
    decoded: Decoded | RecordError


def read_each(router: Reads, cutter: Cutter | None, message: Message) -> Iterator[Reading]:
    """Yield what each record of a message asks for, for commands; every index must be known."""
    value = message.value
    try:
        pieces = None if cutter is None or value is None else cutter.cut(value)
    except RecordError as error:
        yield Reading(None, value, error)
        return
    if pieces is None:
        yield Reading(None, value, outcome_of(router, message.key, value, message.headers))
    key, headers = around_of(message)
    for element, piece in enumerate(pieces or ()):
        own = bytes(piece)
        yield Reading(element, own, outcome_of(router, key, own, headers))


class SeveralReader:
    """Cuts, routes and decodes the messages of one topic. Only the main loop calls it."""

    def __init__(self, router: Router, cutter: Cutter, ledger: Ledger, parking: Parking) -> None:
        self._pieces = PieceReader(router, parking)
        self._cutter = cutter
        self._ledger = ledger

    def read(self, assignment: Assignment, messages: Iterable[Message]) -> Sorted:
        """Read messages that are tracked. A record that is wrong in any way costs itself, and none of the others."""
        found = Sorted()
        for message in messages:
            size = 0
            try:
                size = bytes_of(message)
                pieces = None if message.value is None else self._cutter.cut(message.value)
            except RecordError as error:
                found.add_bad(_letter(assignment, message, size, error))
                continue
            except Exception as error:  # a fault of the worker, which shows with this message
                found.add_bad(_letter(assignment, message, size, RecordError.internal(error)))
                continue
            if pieces is None:
                whole = Piece(message, message.value, ITEM_BYTES + size)
                bad = self._pieces.read(found, assignment, whole)
                found.add_bad(bad and bad.letter(assignment))
            elif not pieces:
                found.ignored.append(Item(assignment, message, "", None, ITEM_BYTES + size))
                found.size += ITEM_BYTES + size
            else:
                self._read_pieces(found, assignment, message, pieces, size)
        return found

    def read_parked(self, assignment: Assignment, parked: Iterable[Sequence[Parked]]) -> Sorted:
        """Read what waited for its index, the records of each message together.

        The ledger knows these records, so each that is bad needs an outcome of its own.
        """
        found = Sorted()
        for waited in parked:
            around = around_of(waited[0].message)
            bad = [one for each in waited if (one := self._pieces.read(found, assignment, _waited(each, around)))]
            own = [one.letter(assignment) for one in bad[: OWN_DEAD_LETTERS + 1]]
            others = [one.undescribed.letter(assignment) for one in bad[OWN_DEAD_LETTERS + 1 :]]
            if others:
                own[-1] = _of_several(own[-1], len(others) + 1)
            for letter in own:
                found.add_bad(letter)
            found.joined += others
            found.size += sum(letter.size for letter in others)
        return found

    def _read_pieces(
        self,
        found: Sorted,
        assignment: Assignment,
        message: Message,
        pieces: Sequence[msgspec.Raw | bytes],
        shared_bytes: int,
    ) -> None:
        """Read the records of one message, which the ledger gets to know."""
        letters: list[DeadLetter] = []
        others = 0
        counted = []
        around = around_of(message)
        for element, piece in enumerate(pieces):
            bad = self._pieces.read(found, assignment, Piece(message, bytes(piece), ITEM_BYTES, element, around))
            if bad is None or len(letters) <= OWN_DEAD_LETTERS:
                counted.append(element)
            else:
                others += 1
            if bad is not None and len(letters) <= OWN_DEAD_LETTERS:
                letters.append(bad.letter(assignment))
        if others:
            letters[-1] = _of_several(letters[-1], others + 1)
        self._ledger.split(assignment, message.offset, counted, shared_bytes)
        found.widths[message.offset] = len(counted)
        for letter in letters:
            found.add_bad(letter)


def _waited(parked: Parked, around: _Around) -> Piece:
    message, element = parked.message, parked.element
    if element is None:
        return Piece(message, message.value, ITEM_BYTES + bytes_of(message))
    return Piece(message, parked.value, ITEM_BYTES, element, around)


def _letter(assignment: Assignment, message: Message, size: int, error: RecordError) -> DeadLetter:
    return dead_letter_of(NO_INDEX, assignment, message, ITEM_BYTES + size, error)


def _of_several(letter: DeadLetter, count: int) -> DeadLetter:
    """Return the dead letter for this record and all that are bad behind it in its message."""
    text = f"{count} more records of this message are bad, the first of them at {letter.element}: {letter.text}"
    return msgspec.structs.replace(letter, text=text, elements=count)
