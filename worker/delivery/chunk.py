"""The records of one request: a chunk of a batch, and what the service has said to it so far."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from worker.delivery.batch import Item
from worker.errors import Blame, RetryReason, SinkError, Transient

SPLIT_AFTER: Final = 3  # failures for which a chunk may be the cause


class Doubt:
    """Counts failures for which a chunk may be the cause, and knows whether others are accepted while it fails.

    Only its last failures count: in an outage nothing is accepted between them, whatever was accepted before.
    """

    def __init__(self, accepted: int | None = None) -> None:
        """`accepted` is how many requests of the index have been accepted until now, where that counts as a failure before."""
        self.count = 0
        self._accepted = deque(
            () if accepted is None else (accepted,), maxlen=SPLIT_AFTER
        )  # at each of the last failures

    def note(self, accepted: int) -> None:
        """Note a failure; the index has accepted so many requests until now."""
        self._accepted.append(accepted)
        self.count += 1

    def others_pass(self, accepted_when_sent: int) -> bool:
        """Return whether others were accepted between the first of the last failures and the chunk's last attempt.

        What is accepted after that attempt left does not count:

        1. The chunk is sent during an outage.
        2. The outage ends, and another request is accepted.
        3. The answer to the chunk comes. It is still the outage's.
        """
        return bool(self.count) and accepted_when_sent > self._accepted[0]


class Chunk:
    """Some records of a batch, all puts or all deletes, that are sent together until they have their outcome."""

    def __init__(self, items: list[Item], records_doubt: Doubt | None = None, *, is_proven: bool = False) -> None:
        self.replace_items(items)
        self.not_before = 0.0  # when it may be sent again, in the clock's seconds
        self.attempts = 0
        self.records_doubt = (
            records_doubt or Doubt()
        )  # failures that the records may cause, whoever answered, or no one
        self.blamed = 0  # answers that may blame them, of the service or of something on the way
        self.service_doubt = Doubt()
        self.is_proven = is_proven  # a single record, of which a version failed while others were accepted
        self.write_timeouts = 0
        self.accepted_when_sent = 0  # requests of the index that had been accepted when this was last sent
        self.waits_for_lease = False

    def replace_items(self, items: list[Item]) -> None:
        """Consist of these from now on, at least one."""
        self.items = items
        self.assignments = {item.assignment for item in items}

    @property
    def is_delete(self) -> bool:
        """Whether its records are deletes."""
        return self.items[0].fragment is None

    @property
    def is_single(self) -> bool:
        """Whether it is one record."""
        return len(self.items) == 1

    @property
    def is_live(self) -> bool:
        """Whether all its partitions are still ours."""
        return all(assignment.is_live for assignment in self.assignments)

    @property
    def fails_alone(self) -> bool:
        """Whether it fails while others are accepted, the other half of the chunk that it was a part of among them."""
        return self.records_doubt.others_pass(self.accepted_when_sent)

    @property
    def keeps_failing(self) -> bool:
        """Whether it has failed so often that it may be the cause."""
        return self.records_doubt.count >= SPLIT_AFTER

    @property
    def may_be_of_outage(self) -> bool:
        """Whether its failures may be those of an outage: several records, or the service's 500, and no others are accepted."""
        return not self.is_single or (self.service_doubt.count > 0 and not self.fails_alone)

    def halves(self, accepted: int) -> "list[Chunk]":
        """Return two chunks with its records, one if it is a single record; the index has accepted so many requests until now."""
        middle = len(self.items) // 2
        return [Chunk(items, Doubt(accepted)) for items in (self.items[:middle], self.items[middle:]) if items]

    def note(self, error: SinkError, accepted: int) -> None:
        """Count an attempt that failed; the index has accepted so many requests until now."""
        self.attempts += 1
        if may_be_of_records(error):
            self.records_doubt.note(accepted)
            self.is_proven = self.is_proven or (self.is_single and self.fails_alone)
        if not isinstance(error, Transient):
            return
        if error.blame is not Blame.NONE:
            self.blamed += 1
        if error.blame is Blame.CONTENT:
            self.service_doubt.note(accepted)
        if error.while_sending:
            self.write_timeouts += 1


def may_be_of_records(error: SinkError) -> bool:
    """Return whether the records may be why a request failed: the error blames them, or is not the service's word.

    A proxy or firewall refuses the text of one record with any status, or by cutting the connection. It has seen none of what
    was not sent: for want of credentials, or of a connection.
    """
    if isinstance(error, Transient):
        was_sent = bool(error.status) or error.unknown_outcome
        is_blamed = error.blame is not Blame.NONE
        return error.kind is not RetryReason.THROTTLED and was_sent and (is_blamed or not error.request_id)
    return bool(error.status) and not error.request_id


def chunks_of(items: Sequence[Item]) -> list[Chunk]:
    """Return the puts among the items as one chunk, and the deletes as another, as far as there are any."""
    puts = [item for item in items if item.fragment is not None]
    deletes = [item for item in items if item.fragment is None]
    return [Chunk(chosen) for chosen in (puts, deletes) if chosen]
