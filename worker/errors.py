"""The exceptions of the worker.

    WorkerError
    ├── SettingsError          the settings are wrong: every mistake, told at once
    ├── RecordError            one record can never be written: a reason and a message
    ├── FatalError             the process must end, with the reason
    │   └── Fenced             another process has this member's group.instance.id
    ├── BrokerUnavailable      the broker cannot be reached, or refuses the login: tried again
    └── SinkError              the service did not take a request
        ├── Transient          it may take the same request later: retried without end
        ├── Refused            it refuses the request for its content: bisected, then dead-lettered
        └── TargetError        it refuses the caller or the target: blocks the index until it works again

The class alone says whether the same request is worth another attempt: that of `Transient` is, and no other.
"""

import traceback
from collections.abc import Sequence
from enum import StrEnum
from typing import Self


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
    INTERNAL_ERROR = "internal_error"
    REFUSED = "refused"
    ISOLATED_SERVER_ERROR = "isolated_server_error"


class BlockReason(StrEnum):
    """Why a topic's partitions cannot move; the label `reason` of the metric `oss_vectors_blocked`."""

    CREDENTIALS = "credentials"
    TARGET = "target"
    DEAD_LETTER_LIMIT = "dead_letter_limit"
    DEAD_LETTER_UNAVAILABLE = "dead_letter_unavailable"
    NO_DEAD_LETTER = "no_dead_letter"
    RECORD_STUCK = "record_stuck"
    PARTITION_UNREADABLE = "partition_unreadable"
    NO_COMMITTED_OFFSET = "no_committed_offset"
    OFFSET_OUT_OF_RANGE = "offset_out_of_range"

    @property
    def is_read_on(self) -> bool:
        """Tell whether the partition is read on all the same.

        The source itself tries again what cannot be read; and what comes after a stuck record tells, once it is taken,
        that the record is at fault.
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


class WorkerError(Exception):
    """The root of this tree."""


class SettingsError(WorkerError):
    """Wrong settings. `mistakes` has one line for each, in the order of the settings."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


class RecordError(WorkerError):
    """One record can never be written. The message says what was found, what is allowed, and the limit's source."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    @classmethod
    def internal(cls, error: Exception) -> Self:
        """Return what becomes of a record that could not be read for a fault of the worker.

        The message has the error's type and place, and not its words, which may quote the record.
        """
        return cls(
            Reason.INTERNAL_ERROR,
            f"reading the record failed with {type(error).__qualname__} at {place_of(error)}; "
            "that is a fault of the worker, please report it with this line",
        )


class FatalError(WorkerError):
    """The worker cannot go on; it ends with exit code 1 and this message as its last line."""


class Fenced(FatalError):
    """Another process joined the group with this member's `kafka.group_instance_id`."""


class BrokerUnavailable(WorkerError):
    """No broker answered, or it refused the login; the message says what was tried."""


class SinkError(WorkerError):
    """The service did not take a request.

    `status` is the HTTP status, 0 where no answer came. `code`, `message` and `request_id` are the service's own words,
    empty where it said none.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.request_id = request_id

    def __str__(self) -> str:
        said = " ".join(part for part in (str(self.status or ""), self.code) if part)
        return f"{said}: {self.message}" if said else self.message


class Transient(SinkError):
    """Network faults, time-outs, 408, 429 and 5xx: the same request may be taken later.

    `retry_after` is the delay in seconds that the service asked for, or None. `unknown_outcome` says that the request
    may have been applied, or may still be: it left, and no answer came back.
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
    ) -> None:
        super().__init__(message, status=status, code=code, request_id=request_id)
        self.kind = kind
        self.retry_after = retry_after
        self.unknown_outcome = unknown_outcome
        self.while_sending = while_sending


class Refused(SinkError):
    """400, 413, 422: the request, or a record in it, will never be taken as it is."""


class TargetError(SinkError):
    """Refused credentials, permission or clock; a missing bucket or index: nothing will be taken until it is mended."""

    def __init__(
        self, message: str, *, block: BlockReason, status: int = 0, code: str = "", request_id: str = ""
    ) -> None:
        super().__init__(message, status=status, code=code, request_id=request_id)
        self.block = block


def place_of(error: BaseException) -> str:
    """Return where the error was raised: module, line and function; and where the worker called that, if it is another."""
    frames = [
        (str(frame.f_globals.get("__name__", "?")), line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if not frames:
        return "a place that is not known"
    ours = next((frame for frame in reversed(frames) if frame[0].partition(".")[0] == "worker"), frames[-1])
    raised, called = ("{}:{} in {}".format(*frame) for frame in (frames[-1], ours))
    return raised if raised == called else f"{raised}, called from {called}"
