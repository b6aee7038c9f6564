"""The records of one request: a chunk of a batch, and what the service has said to it so far."""

from collections.abc import Sequence

from worker.delivery.batch import Item
from worker.errors import Blame, SinkError, Transient


class Doubt:
    """Counts answers that may blame a chunk's records, and knows whether other requests were accepted since the first."""

    def __init__(self) -> None:
        self.count = 0
        self._accepted_before = 0  # requests of the index that had been accepted at the first such answer

    def note(self, accepted: int) -> None:
        """Note such an answer; the index has accepted so many requests until now."""
        if not self.count:
            self._accepted_before = accepted
        self.count += 1

    def others_pass(self, accepted_when_sent: int) -> bool:
        """Return whether others were accepted between the first of these answers and the chunk's last attempt.

        What is accepted after that attempt left does not count:

        1. The chunk is sent during an outage.
        2. The outage ends, and another request is accepted.
        3. The answer to the chunk comes. It is still the outage's.
        """
        return bool(self.count) and accepted_when_sent > self._accepted_before


class Chunk:
    """Some records of a batch, all puts or all deletes, that are sent together until they have their outcome."""

    def __init__(self, items: list[Item]) -> None:
        self.replace_items(items)
        self.not_before = 0.0  # when it may be sent again, in the clock's seconds
        self.attempts = 0
        self.doubt = Doubt()  # by the service, or by something on the way
        self.service_doubt = Doubt()
        self.write_timeouts = 0
        self.accepted_when_sent = 0  # requests of the index that had been accepted when this was last sent
        self.waits_for_lease = False

    def replace_items(self, items: list[Item]) -> None:
        """Consist of these from now on, at least one."""
        self.items = items
        self.assignments = {item.assignment for item in items}

    @property
    def is_single(self) -> bool:
        """Whether it is one record."""
        return len(self.items) == 1

    @property
    def is_live(self) -> bool:
        """Whether all its partitions are still ours."""
        return all(assignment.is_live for assignment in self.assignments)

    @property
    def others_pass(self) -> bool:
        """Whether others were accepted between the first answer that may blame it and its last attempt."""
        return self.doubt.others_pass(self.accepted_when_sent)

    def halves(self) -> "list[Chunk]":
        """Return two chunks with its records, one if it is a single record."""
        middle = len(self.items) // 2
        return [Chunk(items) for items in (self.items[:middle], self.items[middle:]) if items]

    def note(self, error: SinkError, accepted: int) -> None:
        """Count an attempt that failed; the index has accepted so many requests until now."""
        self.attempts += 1
        if not isinstance(error, Transient):
            return
        if error.blame is not Blame.NONE:
            self.doubt.note(accepted)
        if error.blame is Blame.CONTENT:
            self.service_doubt.note(accepted)
        if error.while_sending:
            self.write_timeouts += 1


def chunks_of(items: Sequence[Item]) -> list[Chunk]:
    """Return the puts among the items as one chunk, and the deletes as another, as far as there are any."""
    puts = [item for item in items if item.fragment is not None]
    deletes = [item for item in items if item.fragment is None]
    return [Chunk(chosen) for chosen in (puts, deletes) if chosen]
