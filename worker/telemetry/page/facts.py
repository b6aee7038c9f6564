"""What the page shows that is no metric: why limits are what they are, how blocks are retried, shares of dead letters."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from worker.ports import Pace
from worker.telemetry.kafka_facts import GroupMember
from worker.telemetry.service import NotAccepted
from worker.telemetry.state import Attempts, Block, Status


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


class Facts(NamedTuple):
    """One reading of them."""

    not_accepted: Sequence[NotAccepted]  # the one that has failed for the longest first
    paces: Mapping[str, Pace]  # by index
    attempts: Mapping[Block, Attempts]
    shares: Sequence[Share]
    members: Sequence[GroupMember]  # of the group


def facts_in(status: Status, shares: Sequence[Share], members: Sequence[GroupMember]) -> Facts:
    """Return what a status knows beside its state and its blocks, with the shares and the members of the group."""
    service = status.service
    return Facts(service.not_accepted(), service.paces(), status.attempts(), shares, members)
