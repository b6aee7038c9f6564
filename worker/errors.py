"""The exceptions of the worker, and what a caller does about each.

    WorkerError
    ├── SettingsError        the settings are wrong           the command prints every mistake and ends with code 78
    ├── RecordError          a record can never be written    the main loop dead-letters that record and continues
    ├── SchemaPending        the schema of a record is not    the main loop keeps the record, and those behind it,
    │                        here yet                         until the registry has answered
    ├── RegistryUnavailable  the schema registry gives no     block the topics that wait, ask again after a backoff
    │                        answer that can be used
    ├── FatalError           the process cannot continue      `run` ends with code 1; the message is its last line
    │   └── Fenced           another process has this         likewise; each replica needs a
    │                        member's group.instance.id       `kafka.group_instance_id` of its own
    ├── BrokerUnavailable    no broker answers, or the        the main loop connects again after a few seconds
    │                        login is refused
    └── SinkError            the service did not accept a request; the lane decides by the class:
        ├── Transient        it may accept it later           send it again after a backoff, without a cap
        ├── NotSent          it was not sent, or not all      send it when the lease holds, or give it up with its
        │                    of it                            partition; it counts as no attempt
        ├── Refused          it refuses the content           split the request until the bad record is alone,
        │                                                     dead-letter that one
        └── TargetError      it refuses the caller or the     block the index, probe it every
                             target                           `delivery.retry_max_seconds`

Only a `Transient` request is worth another attempt as it is. The class alone says so, whatever the status.
"""

import traceback
from collections.abc import Callable, Hashable, Sequence
from enum import Enum, StrEnum
from typing import Self

from worker.words import CODE_CHARACTERS, clean


class Reason(StrEnum):
    """Why a record can never be written; the value of the header `oss-vectors.reason`."""

    MALFORMED = "malformed"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    KEY = "key"
    DIMENSION = "dimension"
    NOT_FINITE = "not_finite"
    ZERO_VECTOR = "zero_vector"
    METADATA = "metadata"
    TOMBSTONE = "tombstone"
    TOO_LARGE = "too_large"
    SUSPECT = "suspect"
    NO_ROUTE = "no_route"
    INTERNAL_ERROR = "internal_error"
    REFUSED = "refused"
    ISOLATED_SERVER_ERROR = "isolated_server_error"


class BlockReason(StrEnum):
    """Why a topic, or one partition of it, is blocked; the label `reason` of the metric `oss_vectors_blocked`."""

    CREDENTIALS = "credentials"
    TARGET = "target"
    DEAD_LETTER_LIMIT = "dead_letter_limit"
    DEAD_LETTER_UNAVAILABLE = "dead_letter_unavailable"
    NO_DEAD_LETTER = "no_dead_letter"
    RECORD_STUCK = "record_stuck"
    PARTITION_UNREADABLE = "partition_unreadable"
    NO_COMMITTED_OFFSET = "no_committed_offset"
    OFFSET_OUT_OF_RANGE = "offset_out_of_range"
    REGISTRY = "registry"

    @property
    def is_still_fetched(self) -> bool:
        """Whether the main loop continues to fetch a partition that is blocked for this reason.

        The source itself pauses what cannot be read, and retries it. And if records that come after a stuck one are accepted,
        that shows that the stuck record is at fault.
        """
        return self in (
            self.RECORD_STUCK,
            self.PARTITION_UNREADABLE,
            self.NO_COMMITTED_OFFSET,
            self.OFFSET_OUT_OF_RANGE,
        )


class RetryReason(StrEnum):
    """Why a request is sent again; the label `reason` of the metric `oss_vectors_retries_total`."""

    THROTTLED = "throttled"
    SERVER = "server"
    NETWORK = "network"
    TIMEOUT = "timeout"


class Blame(Enum):
    """Whether the content of a request may be why it failed."""

    NONE = "none"  # no: an outage, a limit, the network
    PROXY = "proxy"  # a proxy may object to it: the record is searched for and reported, never dead-lettered
    # The service may object to it: the record is dead-lettered when it is alone and others of the index are accepted.
    CONTENT = "content"


class WorkerError(Exception):
    """The root of this tree."""

    @property
    def public_name(self) -> str:
        """The name of its class outside of this process, in `__connect.errors.exception.class.name`.

        It is a fixed text: it does not change if the class moves to another module.
        """
        return f"worker.errors.{type(self).__name__}"


class SettingsError(WorkerError):
    """The settings are wrong. `mistakes` has one line for each mistake, in the order of the settings."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


class RecordError(WorkerError):
    """One record can never be written. The message says what was found, what is allowed, and the limit's source.

    `suspect` is the cause where the record could be written, and `records.suspect` forbids it.
    """

    def __init__(
        self, reason: Reason, message: str | Callable[[], str], suspect: str = "", *, is_complete: bool = False
    ) -> None:
        """`is_complete`: what the value's bytes look like adds nothing to the message. A function makes it when it is read."""
        super().__init__(message)
        self.reason = reason
        self._message = message
        self.suspect = suspect
        self.is_complete = is_complete

    @property
    def message(self) -> str:
        """What was found, what is allowed, and the limit's source."""
        if not isinstance(self._message, str):
            self._message = self._message()
        return self._message

    def __str__(self) -> str:
        return self.message

    @classmethod
    def internal(cls, error: Exception) -> Self:
        """Return the error of a record whose reading failed by a fault of the worker.

        The message has the type and place of `error`, and not its text, which may quote the record.
        """
        return cls(
            Reason.INTERNAL_ERROR,
            f"reading the record failed with {type(error).__qualname__} at {place_of(error)}; "
            "that is a fault of the worker, please report it with this line",
        )


class SchemaPending(WorkerError):
    """The schema of a record is not here yet. `schema` is its name; the message says it too."""

    def __init__(self, schema: Hashable) -> None:
        super().__init__(f"{schema} is not here yet")
        self.schema = schema


class RegistryUnavailable(WorkerError):
    """The schema registry did not answer, or not as a registry does. No record is at fault. The message says what was tried."""


class FatalError(WorkerError):
    """The process cannot continue; it ends with exit code 1 and this message as its last line."""


class Fenced(FatalError):
    """Another process joined the group with this member's `kafka.group_instance_id`."""


class BrokerUnavailable(WorkerError):
    """No broker answered, or it refused the login. The message says what was tried."""


class SinkError(WorkerError):
    """The service did not accept a request.

    `status` is the HTTP status, 0 where no answer came. `code`, `message` and `request_id` are the service's own, made fit
    for a log line and a header (`worker.words`), "" where the answer has none.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", request_id: str = "") -> None:
        self.message = clean(message)
        super().__init__(self.message)
        self.status = status
        self.code = clean(code, CODE_CHARACTERS)
        self.request_id = clean(request_id, CODE_CHARACTERS)

    def __str__(self) -> str:
        answer = " ".join(word for word in (str(self.status or ""), self.code) if word)
        return f"{answer}: {self.message}" if answer else self.message


class Transient(SinkError):
    """Network faults, time-outs, 408, 429, 5xx, and answers that are not the service's: it may be accepted later.

    `retry_after` is the delay in seconds that the service asked for, or None. `unknown_outcome`: the request was sent and
    no answer came, so it may have been applied, or may still be. `while_sending`: its time was up before all of it was sent.
    `blame` says whether the request itself may be at fault.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: RetryReason,
        status: int = 0,
        code: str = "",
        request_id: str = "",
        retry_after: float | None = None,
        unknown_outcome: bool = False,
        while_sending: bool = False,
        blame: Blame = Blame.NONE,
    ) -> None:
        super().__init__(message, status=status, code=code, request_id=request_id)
        self.blame = blame
        self.kind = kind
        self.retry_after = retry_after
        self.unknown_outcome = unknown_outcome
        self.while_sending = while_sending


class NotSent(SinkError):
    """The request was stopped at the last moment: the service received nothing of it, or less than its whole body."""


class Refused(SinkError):
    """400, 413 or 422, answered by the service itself: the request, or a record in it, will never be accepted as it is."""


class TargetError(SinkError):
    """Credentials, permission or clock refused, or no such bucket or index: nothing is accepted until that is fixed."""

    def __init__(
        self, message: str, *, block: BlockReason, status: int = 0, code: str = "", request_id: str = ""
    ) -> None:
        super().__init__(message, status=status, code=code, request_id=request_id)
        self.block = block


def place_of(error: BaseException) -> str:
    """Return where the error was raised: module, line and function. If that is in a library, also where the worker called it."""
    frames = [
        (str(frame.f_globals.get("__name__", "?")), line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if not frames:
        return "a place that is not known"
    ours = next((frame for frame in reversed(frames) if frame[0].partition(".")[0] == "worker"), frames[-1])
    raised, called = ("{}:{} in {}".format(*frame) for frame in (frames[-1], ours))
    return raised if raised == called else f"{raised}, called from {called}"
