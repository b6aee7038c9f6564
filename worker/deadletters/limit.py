"""The dead-letter limit: how many of a topic's records may be dead letters before something else must be wrong.

Every record has a place: its number in the order in which this process read its topic, from 0. A record that is read
again (its partition was given back and came again) keeps its place, so that each record counts once, however often it
is read. A dead letter is judged at its place, by the bad records that are known before it, whenever it is judged: how
far the reading has come meanwhile, and in which order the service refuses records, changes nothing.
"""

import threading
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from worker.ledger import Assignment, Partition
from worker.settings.rules import accept_until
from worker.settings.tables import DeadLetter as DeadLetterSettings
from worker.telemetry.page.facts import Share

FIRST_ALL_BAD: Final = 20
_MOST_RUNS: Final = 10_000  # of one partition, which is more than it has outstanding polls
_PRUNE_RUNS: Final = 32
_NONE: Final[Mapping[int, int]] = MappingProxyType({})
_KEPT_PLACES: Final = 1_000_000  # behind the newest, more than all partitions of a topic have outstanding


class _Run(NamedTuple):
    """Messages of one partition that were read one after the other: the first of `offsets` has the place `base`.

    Each has one place, for one record; `width` is the places of a message with several, which is a run of its own.
    """

    offsets: Sequence[int]
    base: int
    width: int = 1

    @property
    def last(self) -> int:
        return self.offsets[-1]


class _Reading:
    """The reading order of one topic, and which of its places are bad."""

    def __init__(self) -> None:
        self.count = 0
        self.bad = array("q")  # places, ascending
        self.first_bad: set[int] = set()  # of the first places, which are remembered for as long as they matter
        self._runs: dict[int, list[_Run]] = {}  # by partition, ascending

    def add(
        self, partition: int, offsets: Sequence[int], committed: int | None, widths: Mapping[int, int] = _NONE
    ) -> None:
        """Give places to what is read for the first time, and forget what was known of what is read again.

        `widths` has the counts of records of the messages that have several, by offset.
        """
        runs = self._runs.setdefault(partition, [])
        if runs and offsets[0] < runs[0].offsets[0]:  # reset by hand, or another topic of this name: all of it is new
            runs.clear()
        known = bisect_right(offsets, runs[-1].last) if runs else 0
        for offset in offsets[:known]:
            for element in range(widths.get(offset, 1)):
                self._forget_bad(self.place(partition, offset, element))
        for some in _apart(offsets[known:], widths):
            width = widths.get(some[0], 1)
            if width > 1:
                runs.append(_Run(range(some[0], some[0] + 1), self.count, width))
                self.count += width
            else:
                self._append(runs, some)
        _prune(runs, committed)

    def _append(self, runs: list[_Run], offsets: Sequence[int]) -> None:
        is_whole = offsets[-1] - offsets[0] == len(offsets) - 1
        before = runs[-1] if runs else None
        continues = (
            is_whole
            and before is not None
            and type(before.offsets) is range
            and before.offsets.stop == offsets[0]
            and before.base + len(before.offsets) == self.count
        )
        if continues and before is not None:
            runs[-1] = _Run(range(before.offsets[0], offsets[-1] + 1), before.base)
        else:
            kept = range(offsets[0], offsets[-1] + 1) if is_whole else array("q", offsets)
            runs.append(_Run(kept, self.count))
        self.count += len(offsets)

    def place(self, partition: int, offset: int, element: int = 0) -> int:
        """Return a record's place; where it is not known, the nearest that is, of its partition, or the next to come."""
        runs = self._runs.get(partition)
        if not runs or offset > runs[-1].last:
            return self.count
        run = runs[max(0, bisect_right(runs, offset, key=lambda run: run.offsets[0]) - 1)]
        return run.base + min(bisect_left(run.offsets, offset), len(run.offsets) - 1) + min(element, run.width - 1)

    def note_bad(self, place: int, window: int) -> None:
        at = bisect_left(self.bad, place)
        if at < len(self.bad) and self.bad[at] == place:
            return
        insort(self.bad, place)
        if place < FIRST_ALL_BAD:
            self.first_bad.add(place)
        oldest = self.count - window - _KEPT_PLACES
        if self.bad[0] < oldest - _KEPT_PLACES:
            del self.bad[: bisect_left(self.bad, oldest)]

    def _forget_bad(self, place: int) -> None:
        at = bisect_left(self.bad, place)
        if at < len(self.bad) and self.bad[at] == place:
            del self.bad[at]
            self.first_bad.discard(place)

    def bad_before(self, place: int, window: int) -> int:
        """Return how many of the `window` records that end with this place are bad, without this one."""
        return bisect_left(self.bad, place) - bisect_right(self.bad, place - window)


def _apart(offsets: Sequence[int], widths: Mapping[int, int]) -> Iterator[Sequence[int]]:
    """Yield offsets in their order, each that has several places by itself."""
    begin = 0
    for at in [at for at, offset in enumerate(offsets) if widths.get(offset, 1) > 1] if widths else ():
        if begin < at:
            yield offsets[begin:at]
        yield offsets[at : at + 1]
        begin = at + 1
    if begin < len(offsets):
        yield offsets[begin:]


def _prune(runs: list[_Run], committed: int | None) -> None:
    """Drop runs that are not read again, since they were committed; half of them at a time."""
    half = len(runs) // 2
    is_behind = len(runs) > _PRUNE_RUNS and committed is not None and runs[half].last < committed
    if is_behind or len(runs) > _MOST_RUNS:
        del runs[:half]


class Limit:
    """How many of a topic's records may be dead letters before something else must be wrong.

    A dead letter is refused when, with it, more than `limit_ratio` of the last `limit_window` records are bad and at
    least `limit_min` of those before it are, or when the first 20 records all were. So where every record is bad, 20 are
    written, and where most are, `limit_min`. `now` is Unix time in seconds. Thread-safe.
    """

    def __init__(self, settings: DeadLetterSettings, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._lock = threading.Lock()
        self._readings: dict[str, _Reading] = {}
        moment = accept_until(settings)
        self._accept_until = moment.timestamp() if moment else 0.0

    def note_read(
        self,
        assignment: Assignment,
        offsets: Sequence[int],
        bad: Collection[int],
        widths: Mapping[int, int] = _NONE,
    ) -> None:
        """Note messages that were read, by their offsets, ascending, at least one, and which of them are bad by themselves.

        `widths` has the counts of records of the messages that have several, by offset; which of these are bad is for `note_bad`.
        """
        topic, partition = assignment.partition
        with self._lock:
            reading = self._reading(topic)
            reading.add(partition, offsets, assignment.committed, widths)
            for offset in bad:
                reading.note_bad(reading.place(partition, offset), self._settings.limit_window)

    def note_bad(self, partition: Partition, offset: int, element: int | None = None) -> None:
        """Note a record that turned out to be bad after it was read."""
        with self._lock:
            reading = self._reading(partition.topic)
            reading.note_bad(reading.place(partition.partition, offset, element or 0), self._settings.limit_window)

    def place(self, partition: Partition, offset: int, element: int | None = None) -> int:
        """Return a record's place in the reading order of its topic."""
        with self._lock:
            return self._reading(partition.topic).place(partition.partition, offset, element or 0)

    def allows(self, partition: Partition, offset: int, element: int | None = None) -> bool:
        """Return whether the dead letter of this record may be written."""
        with self._lock:
            if self._now() < self._accept_until:
                return True
            reading = self._reading(partition.topic)
            window = self._settings.limit_window
            place = reading.place(partition.partition, offset, element or 0)
            if FIRST_ALL_BAD <= place < FIRST_ALL_BAD + window and len(reading.first_bad) == FIRST_ALL_BAD:
                return False
            before = reading.bad_before(place, window)
            is_too_much = before + 1 > self._settings.limit_ratio * min(place + 1, window)
            return not (is_too_much and before >= self._settings.limit_min)

    def shares(self) -> list[Share]:
        """Return the share of dead letters among the last records of each topic."""
        window, ratio, least = self._settings.limit_window, self._settings.limit_ratio, self._settings.limit_min
        with self._lock:
            return [
                Share(topic, reading.bad_before(reading.count, window + 1), min(reading.count, window), ratio, least)
                for topic, reading in self._readings.items()
            ]

    def _reading(self, topic: str) -> _Reading:
        return self._readings.setdefault(topic, _Reading())
