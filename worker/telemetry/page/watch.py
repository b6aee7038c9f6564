"""Since when something is so: the page looks twice a second, whether or not someone reads it."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeVar

from worker.telemetry.page.figures import PASSED, Key, Sample
from worker.telemetry.state import Block, Reading, State

_K = TypeVar("_K")

_AT_WORK: Final = (State.RUNNING, State.BLOCKED)


class Watch:
    """Moments of the monotonic clock.

    `moved_at` is when a committed offset last moved, None if none has yet. `still_since` is since when records wait and none
    is settled, and `still_topics` the same by topic. `passed` has how many offsets were skipped or lost, by the count's name and
    labels, and when the last were. `open_since` is since when a partition has ended at the same offset because of an open
    transaction.
    """

    def __init__(self, now: float) -> None:
        self.has_run = False
        self.state_since = now
        self.moved_at: float | None = None
        self.still_since = now
        self.still_topics: dict[str, float] = {}
        self.passed: dict[Key, tuple[float, float]] = {}
        self.open_since: dict[Key, float] = {}
        self._ends: Mapping[Key, float] = {}
        self._state: State | None = None
        self._blocks: dict[Block, float] = {}
        self._notices: dict[str, float] = {}
        self._committed: dict[Key, float] = {}
        self._settled = 0.0
        self._by_topic: Mapping[str, float] = {}

    def observe(self, reading: Reading, now: float) -> None:
        """Note the state and the blocks."""
        if reading.state is not self._state:
            self._state, self.state_since = reading.state, now
        self.has_run |= reading.state in _AT_WORK
        self._blocks = {block: self._blocks.get(block, now) for block in reading.blocks}

    def follow(self, one: Sample) -> None:
        """Note what has moved since the sample before."""
        known = self._committed.items()
        if any(one.committed.get(key, offset) > offset for key, offset in known):
            self.moved_at = one.at
        self._committed = dict(one.committed)
        settled = sum(one.settled.values())
        if settled != self._settled or not any(one.lags.values()):
            self._settled, self.still_since = settled, one.at
        by_topic = {topic: count for (topic,), count in one.by_topic.items()}
        waiting = {topic for (topic, _), lag in one.lags.items() if lag}
        self.still_topics = _still_since(self.still_topics, waiting, one.at, self._by_topic, by_topic)
        self._by_topic = by_topic

        for key, count in one.counts.items():
            if key[0] in PASSED and count > self.passed.get(key, (0.0, 0.0))[0]:
                self.passed[key] = count, one.at

        # Where transactions begin and end all the time, some offsets always wait, and the end moves.
        waiting_at = {key for key, count in one.in_transactions.items() if count}
        self.open_since = _still_since(self.open_since, waiting_at, one.at, self._ends, one.ends)
        self._ends = one.ends

    def note(self, keys: Iterable[str], now: float) -> None:
        """Note which notices there are."""
        self._notices = {key: self._notices.get(key, now) for key in keys}

    def block_since(self, block: Block, now: float) -> float:
        """Return since when a block is there, as far as it was seen."""
        return self._blocks.get(block, now)

    def notice_since(self, key: str, now: float) -> float:
        """Return since when a notice is there, as far as it was seen."""
        return self._notices.get(key, now)


def _still_since(
    since: Mapping[_K, float],
    waiting: Collection[_K],
    now: float,
    before: Mapping[_K, float],
    after: Mapping[_K, float],
) -> dict[_K, float]:
    """Return since when the figure of each key that waits has not moved; `since` is that of the sample before."""
    return {key: since.get(key, now) if after.get(key) == before.get(key) else now for key in waiting}
