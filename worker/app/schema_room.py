"""Messages whose schema is not here yet, in the order in which they were read. Only the main loop uses it.

Behind a message that waits all later ones of its partition wait too: one of them may have the same key, and would be
written first.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from operator import attrgetter

from worker.app.parking import Parked
from worker.ledger import Assignment


class SchemaRoom:
    """Keeps messages by their assignment, with the schema that the first of them waits for."""

    def __init__(self) -> None:
        self._waiting: dict[Assignment, list[Parked]] = {}
        self._schemas: dict[Assignment, Hashable] = {}

    def holds(self, assignment: Assignment) -> bool:
        """Return whether messages of the assignment wait."""
        return assignment in self._waiting

    def add(self, assignment: Assignment, parked: Iterable[Parked], schema: Hashable = None) -> None:
        """Keep messages; `schema` is what the first of them waits for, if it is known.

        They may come before those that wait already: messages that waited for their index are older.
        """
        waiting = self._waiting.setdefault(assignment, [])
        was_first = waiting[0].offset if waiting else None
        waiting += parked
        waiting.sort(key=attrgetter("offset"))
        if schema is not None and waiting[0].offset != was_first:
            self._schemas[assignment] = schema

    def wanted(self) -> dict[Hashable, frozenset[str]]:
        """Return the schemas that are waited for, each with the topics that wait for it."""
        wanted: dict[Hashable, frozenset[str]] = {}
        for assignment, schema in self._schemas.items():
            wanted[schema] = wanted.get(schema, frozenset()) | {assignment.partition.topic}
        return wanted

    def pop_ready(
        self, is_here: Callable[[Hashable], bool], most: int
    ) -> Iterator[tuple[Assignment, Sequence[Parked]]]:
        """Yield the first `most` messages of each assignment whose schema is here, and keep them no longer.

        While the caller has them, `holds` is true of the assignment only if more wait.
        """
        for assignment, schema in list(self._schemas.items()):
            if is_here(schema):
                waiting = self._waiting.pop(assignment)
                if rest := waiting[most:]:
                    self._waiting[assignment] = rest
                else:
                    del self._schemas[assignment]
                yield assignment, waiting[:most]

    def pop_returned(self) -> list[Parked]:
        """Return what waits and belongs to partitions that were given back, and keep it no longer."""
        gone = [assignment for assignment in self._waiting if not assignment.is_live]
        for assignment in gone:
            del self._schemas[assignment]
        return [parked for assignment in gone for parked in self._waiting.pop(assignment)]
