"""What the core asks of the outside: messages, a source, a sink, and a place for dead letters. Imports no client."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

import msgspec

from worker.errors import Reason
from worker.ledger import Assignment
from worker.records.target import Target


class Message(Protocol):
    """A message as it came from the topic; `timestamp` is in milliseconds since 1970, negative where there is none."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class BareMessage(NamedTuple):
    """The place of a message whose bytes were released."""

    offset: int
    timestamp: int
    key: None = None
    value: None = None
    headers: tuple[()] = ()


class SealReason(StrEnum):
    """Why a batch was sealed; the label `reason` of the metric `oss_vectors_batches_total`."""

    COUNT = "count"
    BYTES = "bytes"
    AGE = "age"
    DRAIN = "drain"


class SchemaAnswer(StrEnum):
    """What the registry said of a schema; the label `result` of the metric `oss_vectors_schema_requests_total`."""

    FOUND = "found"
    UNKNOWN = "unknown"  # it does not have the schema
    UNUSABLE = "unusable"  # it has the schema, which reads nothing
    UNAVAILABLE = "unavailable"  # no answer, a denial, or an answer that no registry gives


class LimitCause(StrEnum):
    """Why a limit of the pace is what it is."""

    UNLIMITED = "unlimited"  # the settings give no bound, and the service has not throttled yet
    CONFIGURED = "configured"  # it has reached the bound of the settings
    STARTING = "starting"  # it still grows from where it begins
    THROTTLED = "throttled"  # the service asked for less
    SLOW = "slow"  # answers took longer the more requests were in flight
    OUTAGE = "outage"  # requests failed, or got no answer
    GROWING = "growing"  # it grows again after it fell


class Pace(NamedTuple):
    """The limits of one index now, and why. Times are in seconds of the monotonic clock.

    `vectors_per_second` 0 is no limit. `throttled_at` is when the rate last fell, None if it never did. `closed_until` is
    when the next request may go, while the index asked for a pause or is blocked, else None.
    """

    vectors_per_second: float
    rate_cause: LimitCause
    in_flight_limit: int
    in_flight_cause: LimitCause
    throttled_at: float | None = None
    closed_until: float | None = None


class Polled(NamedTuple):
    """Messages of one partition, ascending by offset, at least one."""

    assignment: Assignment
    messages: Sequence[Message]


class Source(Protocol):
    """Where records come from. Only the main loop calls it."""

    def start(self) -> None:
        """Connect and subscribe. Raises `BrokerUnavailable`, after which it may be called again."""

    def poll(self, timeout: float) -> list[Polled]:
        """Return messages of open partitions that are still owned, waiting `timeout` seconds at most.

        Raises `Fenced`, and `BrokerUnavailable` where membership was lost and `start` is to be called again.
        """

    def open(self, assignment: Assignment) -> bool:
        """Begin reading a partition at its committed offset; return False where that cannot be known yet."""

    def refuse(self, assignment: Assignment, problem: str) -> None:
        """Treat what was polled of a partition as unreadable: block it, and read it again from its position later."""

    def steer(self, fetch: Mapping[Assignment, bool]) -> None:
        """Fetch the partitions that are mapped to True, as far as they can be read, and pause all others."""

    def positions(self, assignments: Iterable[Assignment]) -> None:
        """Enter into the ledger how far partitions with nothing outstanding were read."""

    def commit(self, offsets: Mapping[Assignment, int]) -> bool:
        """Begin a commit, whose result enters the ledger later; return False where none can be begun now.

        What was refused lately is left out; where that is all of it, no commit is begun.
        """

    def commit_now(self, offsets: Mapping[Assignment, int], timeout: float) -> bool:
        """Commit and wait `timeout` seconds at most; return whether the broker acknowledged."""

    @property
    def is_member(self) -> bool:
        """Whether the group was joined."""

    @property
    def waits_for(self) -> str:
        """What a process that is no member waits for, with the group's reason where it refuses."""

    def close(self, timeout: float) -> None:
        """Give back all partitions and leave the group, within about `timeout` seconds."""


class Operation(StrEnum):
    """What a sink is asked to do, in the service's words; the label `operation` of `oss_vectors_requests_total`."""

    PUT = "PutVectors"
    DELETE = "DeleteVectors"
    DESCRIBE = "GetVectorIndex"
    GET = "GetVectors"  # of the commands alone


WRITER_OPERATIONS: Final = (Operation.PUT, Operation.DELETE, Operation.DESCRIBE)
"""What the worker asks for."""


class Sink(Protocol):
    """Where batches go. Every call is one attempt, bounded by the time-outs of the settings, and raises `SinkError`."""

    def put(self, body: bytes) -> int:
        """Send a PutVectors body; returns the HTTP status."""

    def delete(self, body: bytes) -> int:
        """Send a DeleteVectors body; returns the HTTP status."""

    def describe(self, index: str) -> Target:
        """Ask for an index's dimension, metric and metadata keys; it must be ready for writes."""

    def abort(self, thread_id: int) -> None:
        """Cut the connection on which that thread waits for an answer, if it does."""

    def close(self) -> None:
        """Close all connections."""


class Refusal(NamedTuple):
    """What the service answered, without the error that carried it: its traceback keeps the request's body."""

    status: int
    code: str
    request_id: str


class DeadLetter(msgspec.Struct, frozen=True, eq=False):
    """A record that can never be written, and why. `refusal` is the service's answer, if there was one.

    `element` is its place in a message that has several records, from 0; None in any other. `elements` is how many records of
    the message it is for: one, or the rest of those that are bad where there are many.
    """

    assignment: Assignment
    message: Message
    size: int
    index: str
    reason: Reason
    text: str
    raised_by: str
    error_class: str
    refusal: Refusal | None = None
    attempts: int = 0
    element: int | None = None
    elements: int = 1

    @property
    def offset(self) -> int:
        """The record's offset in its partition."""
        return self.message.offset


class DeadLetters(Protocol):
    """Where dead letters go. They are settled once the broker has acknowledged them."""

    def submit(self, dead_letter: DeadLetter) -> None:
        """Queue a dead letter; returns at once."""
