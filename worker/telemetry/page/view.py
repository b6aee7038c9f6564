"""All that one page shows."""

from collections.abc import Collection
from typing import NamedTuple

from worker.ledger import Outcome, Partition
from worker.telemetry.page.facts import Facts
from worker.telemetry.page.figures import Figures, Flow, History, Key, Sample, quantile
from worker.telemetry.page.watch import Watch
from worker.telemetry.state import Block, DeadLettered, Reading


class View(NamedTuple):
    """All that one page shows. `recent` is the sample of a minute ago; `now` is monotonic, `wall` Unix time."""

    figures: Figures
    current: Sample
    recent: Sample | None
    history: History
    reading: Reading
    messages: dict[Block, str]
    dead_letters: list[DeadLettered]
    paused: Collection[Partition]
    settings: str
    now: float
    wall: float
    uptime: float
    facts: Facts
    watch: Watch
    flow: Flow

    @property
    def lag(self) -> float | None:
        """The lag of the partitions that this process owns."""
        return sum(self.current.lags.values()) if self.current.lags else None

    @property
    def settled(self) -> float | None:
        """The records settled a second in the last minute, without those that were returned."""
        rates = [self.a_second(outcome) for outcome in Outcome if outcome is not Outcome.RETURNED]
        return sum(rate for rate in rates if rate is not None) if self.recent is not None else None

    def utc_of(self, moment: float) -> float:
        """Return a moment of the monotonic clock as Unix time."""
        return self.wall - (self.now - moment)

    def a_second(self, outcome: Outcome) -> float | None:
        """Return the records settled a second in the last minute, None in the first second."""
        if self.recent is None:
            return None
        key = (outcome.value,)
        count = self.current.settled.get(key, 0.0) - self.recent.settled.get(key, 0.0)
        return count / (self.current.at - self.recent.at)

    def latency(self, share: float) -> float | None:
        """Return this quantile of the record latency in the last minute, in seconds."""
        return quantile(share, self.recent, self.current) if self.recent is not None else None

    def in_last_minute(self, key: Key) -> float | None:
        """Return how much a count has grown in the last minute, None in the first second."""
        if self.recent is None:
            return None
        return self.current.counts.get(key, 0.0) - self.recent.counts.get(key, 0.0)
