"""The records of one request: a chunk of a batch, and what the service has said to it so far."""

from collections.abc import Sequence

from worker.delivery.batch import Item, body_bytes
from worker.delivery.doubt import SPLIT_AFTER, Doubt, ServiceDoubt
from worker.errors import Blame, RetryReason, SinkError, Transient
from worker.ports import Operation


class Chunk:
    """Some records of a batch, all puts or all deletes, that are sent together until they have their outcome.

    What blames its records counts only while others of its kind are accepted: the service may accept deletes while it can write
    nothing, since a delete of a key that the index does not have changes nothing. Whether the index can be reached, any request
    shows that is accepted.
    """

    def __init__(self, items: list[Item], *, is_proven: bool = False) -> None:
        self._set(items)
        self.not_before = 0.0  # when it may be sent again, in the clock's seconds
        self.attempts = 0  # how often it was sent in vain
        # All failures, also of versions that its record replaced; its others are all requests of the index, not only of its kind.
        self.failures = Doubt()
        self.records_doubt = Doubt()  # failures that the records may cause, whoever answered, or no one
        self.blamed = 0  # answers that may blame them, of the service or of something on the way
        self.service_doubt = ServiceDoubt()
        self.is_proven = is_proven  # a single record, of which a version failed while others were accepted
        self.write_timeouts = 0
        self.accepted_when_sent = 0  # requests of its kind that had been accepted when this was last sent
        self.accepted_in_all_when_sent = 0
        self.waits_for_lease = False
        self.is_denied = False  # its last answer blocked the index, so that it finds out when that is over
        self.may_grow = False  # newer versions of what rested together gather in it

    def with_version(self, item: Item) -> "Chunk":
        """Return what is sent instead of this single record: another version of its key.

        What was counted goes on counting: the key keeps failing, and its partition waits, whatever version is sent. But a
        version is blamed only after a failure of its own while others are accepted.
        """
        chunk = Chunk([item], is_proven=self.is_proven)
        chunk.not_before = self.not_before
        chunk.is_denied, chunk.may_grow = self.is_denied, self.may_grow
        chunk.failures, chunk.accepted_in_all_when_sent = self.failures, self.accepted_in_all_when_sent
        if chunk.operation is self.operation:
            chunk.records_doubt, chunk.service_doubt, chunk.blamed = self.records_doubt, self.service_doubt, self.blamed
            chunk.accepted_when_sent = self.accepted_when_sent
            chunk.service_doubt.begin_version()
        return chunk

    def replace_items(self, items: list[Item]) -> None:
        """Consist of these from now on, at least one. A record that is left alone is not blamed for what all together got."""
        if len(items) == 1 and not self.is_single:
            self.records_doubt, self.service_doubt, self.blamed = Doubt(), ServiceDoubt(), 0
        self._set(items)

    def _set(self, items: list[Item]) -> None:
        self.items = items
        self.assignments = {item.assignment for item in items}

    @property
    def operation(self) -> Operation:
        """What its requests ask for: its records are puts, or deletes."""
        return operation_of(self.items)

    @property
    def body_bytes(self) -> int:
        """How many bytes of a body are its records'."""
        return sum(map(body_bytes, self.items))

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
        """Whether it fails while others of its kind are accepted, the other half of what it was a part of among them."""
        return self.records_doubt.others_pass(self.accepted_when_sent)

    @property
    def keeps_failing(self) -> bool:
        """Whether it has failed so often that it may be the cause."""
        return self.records_doubt.count >= SPLIT_AFTER

    @property
    def may_be_of_outage(self) -> bool:
        """Whether its failures may be those of an outage: several records, or the service's 500, and no others are accepted."""
        return not self.is_single or (self.service_doubt.count > 0 and not self.fails_alone)

    def halves(self, accepted: int, accepted_in_all: int) -> "list[Chunk]":
        """Return two chunks with its records, one if it is a single record.

        So many requests of its kind, and in all, have been accepted until now. That one half is accepted afterwards counts for
        the other.
        """
        middle = len(self.items) // 2
        halves = [Chunk(items) for items in (self.items[:middle], self.items[middle:]) if items]
        for half in halves:
            half.records_doubt, half.failures = Doubt(accepted), Doubt(accepted_in_all)
        return halves

    @property
    def others_pass(self) -> bool:
        """Whether the index accepts others while it fails, of any kind."""
        return self.is_proven or self.failures.others_pass(self.accepted_in_all_when_sent)

    def delays_all(self, error: SinkError) -> bool:
        """Return whether an error that denies, or asks for a pause, does so for the whole index.

        What something on the way answers may be about these records alone. That is assumed of the first answers, and of later
        ones while the index accepts others.
        """
        if error.request_id or not error.status:
            return True
        return self.failures.count >= SPLIT_AFTER and not self.others_pass

    def note(self, error: SinkError, accepted: int, accepted_in_all: int, now: float) -> None:
        """Count an attempt that failed; so many requests of its kind, and in all, have been accepted until now."""
        self.attempts += 1
        self.failures.note(self.accepted_in_all_when_sent, accepted_in_all)
        self.is_denied = False
        if may_be_of_records(error):
            self.records_doubt.note(self.accepted_when_sent, accepted)
            self.is_proven = self.is_single and self.others_pass
        if not isinstance(error, Transient):
            return
        if error.blame is not Blame.NONE:
            self.blamed += 1
        if error.blame is Blame.CONTENT:
            self.service_doubt.note(self.accepted_when_sent, accepted, now)
        if error.while_sending:
            self.write_timeouts += 1


def operation_of(items: Sequence[Item]) -> Operation:
    """Return what a request with these records asks for; they are all puts or all deletes."""
    return Operation.DELETE if items[0].fragment is None else Operation.PUT


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
