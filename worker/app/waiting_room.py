"""Messages that are tracked and not decoded yet, in the order in which they were read. Only the main loop uses it.

They wait for their schema, or for a turn of the main loop that has time for them (`portions.py`). Behind a message that waits
all later ones of its partition wait too: one of them may have the same key, and would be written first.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter

from worker.app.parking import Parked
from worker.ledger import Assignment


class WaitingRoom:
    """Keeps messages by their assignment, with the schema that the first of them waits for, if it waits for one."""

    def __init__(self, is_here: Callable[[Hashable], bool]) -> None:
        """`is_here` returns whether a schema is here."""
        self._is_here = is_here
        self._waiting: dict[Assignment, list[Parked]] = {}
        self._schemas: dict[Assignment, Hashable] = {}

    def holds(self, assignment: Assignment) -> bool:
        """Return whether messages of the assignment wait."""
        return assignment in self._waiting

    def add(self, assignment: Assignment, parked: Iterable[Parked], schema: Hashable = None) -> None:
        """Keep messages, at least one; `schema` is what the first of them waits for, None where it waits only for time.

        They may come before those that wait already: messages that waited for their index are older.
        """
        waiting = self._waiting.setdefault(assignment, [])
        was_first = waiting[0] if waiting else None
        waiting += parked
        waiting.sort(key=attrgetter("offset"))
        if waiting[0] is was_first:
            return
        if schema is None:
            self._schemas.pop(assignment, None)
        else:
            self._schemas[assignment] = schema

    def wanted(self) -> dict[Hashable, frozenset[str]]:
        """Return the schemas that are waited for, each with the topics that wait for it."""
        wanted: dict[Hashable, frozenset[str]] = {}
        for assignment, schema in self._schemas.items():
            wanted[schema] = wanted.get(schema, frozenset()) | {assignment.partition.topic}
        return wanted

    def ready(self) -> list[Assignment]:
        """Return the assignments whose first message can be decoded now; the one that was popped from last comes last."""
        schemas = self._schemas
        return [each for each in self._waiting if each not in schemas or self._is_here(schemas[each])]

    def pop(self, assignment: Assignment, most: int) -> Sequence[Parked]:
        """Return the first messages of an assignment that is ready, and keep them no longer.

        They are `most`, or fewer: either all of them waited for their index before, or none did. If the last is one record of
        a message, the other records of that message that wait come with it.
        """
        waiting = self._waiting.pop(assignment)
        self._schemas.pop(assignment, None)
        was_routed = waiting[0].was_routed
        end = next((at for at, each in enumerate(waiting[:most]) if each.was_routed is not was_routed), most)
        while end < len(waiting) and waiting[end].offset == waiting[end - 1].offset:
            end += 1
        if rest := waiting[end:]:
            self._waiting[assignment] = rest
        return waiting[:end]

    def pop_returned(self) -> list[Parked]:
        """Return what waits and belongs to partitions that were given back, and keep it no longer."""
        gone = [assignment for assignment in self._waiting if not assignment.is_live]
        for assignment in gone:
            self._schemas.pop(assignment, None)
        return [parked for assignment in gone for parked in self._waiting.pop(assignment)]
