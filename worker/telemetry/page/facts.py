"""What the page shows that is no metric: why limits are what they are, how blocks are retried, shares of dead letters.

What a status does not know is left out, and the page is silent about it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from worker.telemetry.state import Block, Status


class Share(NamedTuple):
    """How many of the last records of a topic are dead letters, and how many may be before the topic is blocked."""

    topic: str
    bad: int
    records: int
    limit_ratio: float
    limit_min: int

    @property
    def ratio(self) -> float:
        """The share of the records."""
        return self.bad / self.records if self.records else 0.0

    @property
    def is_near(self) -> bool:
        """Whether at least half of what is allowed is used up, of the share and of the least number."""
        return self.ratio >= self.limit_ratio / 2 and self.bad >= self.limit_min / 2


class NotAccepted(Protocol):
    """An index whose requests fail since a moment of the monotonic clock, and the last answer in a few words."""

    @property
    def index(self) -> str: ...

    @property
    def since(self) -> float: ...

    @property
    def words(self) -> str: ...


class Attempts(Protocol):
    """How a block is retried. Times are of the monotonic clock; `next_at` is None where a person must act first."""

    @property
    def since(self) -> float: ...

    @property
    def count(self) -> int: ...

    @property
    def next_at(self) -> float | None: ...


class Pace(Protocol):
    """Why the limits of an index are what they are. `throttled_at` is of the monotonic clock, None for never."""

    @property
    def rate_cause(self) -> str: ...

    @property
    def in_flight_cause(self) -> str: ...

    @property
    def throttled_at(self) -> float | None: ...


class Facts(NamedTuple):
    """One reading of them."""

    not_accepted: Sequence[NotAccepted]  # the one that has failed for the longest first
    paces: Mapping[str, Pace]  # by index
    attempts: Mapping[Block, Attempts]
    shares: Sequence[Share]


def facts_in(status: Status, shares: Sequence[Share]) -> Facts:
    """Return what a status knows beside its state and its blocks."""
    service: Any = getattr(status, "service", None)
    attempts: Any = getattr(status, "attempts", dict)
    return Facts(
        service.not_accepted() if service is not None else (),
        service.paces() if service is not None else {},
        attempts(),
        shares,
    )
