"""Decides which dead letters may be written, by the limit, in reading order."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from worker.deadletters.entry import Entry, drop_given_back
from worker.deadletters.limit import Limit
from worker.errors import BlockReason
from worker.ledger import Assignment, Ledger, Partition
from worker.telemetry.state import Block, Status

VERDICT_SECONDS: Final = 5.0
"""That a refused record waits for those before it, if meanwhile none of them is decided and no request is sent that may decide one."""
LONGEST_VERDICT_SECONDS: Final = 60.0
"""That it waits in any case."""


class _Front(NamedTuple):
    """The first place of a topic whose record may still become a dead letter, and since when nothing can have changed that."""

    place: int | None
    since: float


class Admission:
    """Judges dead letters. `clock` is in monotonic seconds.

    The service refuses records in any order, and the limit counts those before a record. So a refused record waits until
    all before it are decided, `VERDICT_SECONDS` without progress at most. What may not be written blocks its topic or
    partition until that is given back.
    """

    def __init__(
        self, *, has_topic: bool, limit: Limit, ledger: Ledger, status: Status, clock: Callable[[], float]
    ) -> None:
        self._has_topic = has_topic
        self._limit = limit
        self._ledger = ledger
        self._status = status
        self._clock = clock
        self._undecided: list[Entry] = []  # refused by the service, and not yet judged
        self._fronts: dict[str, _Front] = {}  # of topics with such records
        self._blocked: dict[Block, list[Entry]] = {}  # may not be written, by what they block

    @property
    def has_undecided(self) -> bool:
        """Return whether some are to be judged later."""
        return bool(self._undecided)

    def drop_given_back(self) -> None:
        """Discard the dead letters whose partition was given back, and end what they blocked."""
        for block in list(self._blocked):
            self._blocked[block] = drop_given_back(self._blocked[block], self._ledger)
            if not self._blocked[block]:
                del self._blocked[block]
                self._status.unblock(block)
        self._undecided = drop_given_back(self._undecided, self._ledger)

    def admit(self, entries: Sequence[Entry], admitted_before: Iterable[Entry]) -> list[Entry]:
        """Judge new dead letters and those undecided, in their reading order; returns those that may be written.

        `admitted_before` are those that may be written and are not settled yet.
        """
        for entry in entries:
            if entry.was_refused:
                self._limit.note_bad(entry.partition, entry.offset, entry.element)
        undecided, self._undecided = self._undecided + drop_given_back(entries, self._ledger), []
        known = [*undecided, *admitted_before]
        places = {entry: self._limit.place(entry.partition, entry.offset, entry.element) for entry in undecided}
        admitted: list[Entry] = []
        fronts: dict[str, _Front] = {}
        for entry in sorted(undecided, key=places.__getitem__):
            topic = entry.partition.topic
            if entry.was_refused and topic not in fronts:
                fronts[topic] = self._front(entry, chain(known, admitted))
            if entry.was_refused and self._is_early(entry, places[entry], fronts[topic]):
                self._undecided.append(entry)
            elif self._is_allowed(entry):
                admitted.append(entry)
        waiting_topics = {entry.partition.topic for entry in self._undecided}
        self._fronts = {topic: front for topic, front in fronts.items() if topic in waiting_topics}
        return admitted

    def _front(self, entry: Entry, known: Iterable[Entry]) -> _Front:
        """Return how far a topic is decided now, and since when it is no further, with no request on its way that may change it.

        How long a request takes is the service's affair, and how long it is between two of them depends on the machine.
        """
        topic = entry.partition.topic
        place, partition = self._first_undecided(topic, known)
        before = self._fronts.get(topic)
        if partition is not None and self._ledger.is_on_the_wire(partition) and not self._is_stuck(partition):
            return _Front(place, self._clock())
        if before is None:
            return _Front(place, entry.submitted_at)
        return before if before.place == place else _Front(place, self._clock())

    def _is_stuck(self, partition: Partition) -> bool:
        """Return whether a record of the partition keeps failing: then a request on its way is hardly the one that decides it."""
        return BlockReason.RECORD_STUCK in self._status.blocks_of(*partition)

    def _first_undecided(self, topic: str, known: Iterable[Entry]) -> tuple[int | None, Partition | None]:
        """Return the first place of a topic whose record may still become a dead letter, and that record's partition."""
        given_up: dict[Assignment, dict[int, set[int | None]]] = {}
        for entry in chain(known, *self._blocked.values()):
            given_up.setdefault(entry.assignment, {}).setdefault(entry.offset, set()).add(entry.element)
        found = self._ledger.first_undecided(topic, given_up)
        return min(((self._limit.place(*record), record[0]) for record in found), default=(None, None))

    def _is_early(self, entry: Entry, place: int, front: _Front) -> bool:
        """Return whether a refused record is not to be judged yet: records before it may still turn out to be bad."""
        now = self._clock()
        is_open = front.place is not None and front.place < place
        is_moving = now - max(front.since, entry.submitted_at) < VERDICT_SECONDS
        is_in_time = now - entry.submitted_at < LONGEST_VERDICT_SECONDS
        return is_open and is_moving and is_in_time and self._has_topic and not self._is_above_limit(entry)

    def _is_above_limit(self, entry: Entry) -> bool:
        return Block(entry.partition.topic, BlockReason.DEAD_LETTER_LIMIT) in self._blocked

    def _is_allowed(self, entry: Entry) -> bool:
        topic, partition = entry.partition
        if not self._has_topic:
            block = Block(topic, BlockReason.NO_DEAD_LETTER, partition)
            self._block(entry, block, f"there is no dead-letter topic for {entry}")
            return False
        if self._is_above_limit(entry) or not self._limit.allows(entry.partition, entry.offset, entry.element):
            message = (
                "more dead letters than dead_letter.limit_ratio allows: fix what sends them, or set "
                f"dead_letter.accept_until; the next is {entry}, {entry.dead_letter.reason}"
            )
            self._block(entry, Block(topic, BlockReason.DEAD_LETTER_LIMIT), message)
            return False
        return True

    def _block(self, entry: Entry, block: Block, message: str) -> None:
        if block not in self._blocked:
            self._status.block(block, message, quote=entry.dead_letter.text)
        self._blocked.setdefault(block, []).append(entry)
        entry.release_bytes(self._ledger)
