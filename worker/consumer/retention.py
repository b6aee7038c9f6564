"""When retention deletes a record that is not settled yet: by its age, and by how fast the log's start comes nearer.

A broker does not say how old the record at an offset is, but which is the first that is not older than a time. So the age is
found by bisection, all partitions at once, without reading a record: twelve small requests to each leader find it to a
fiftieth of the time that is left. Kafka deletes whole segments, so a record may stay longer than is said here, never shorter.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from kafka import TopicPartition

from worker.consumer.survey_requests import Found

_ROUNDS: Final = 12
_PRECISION: Final = 0.02  # of the time that is left
_LEAST_MS: Final = 1_000
_SAMPLES: Final = 60  # of a log's start, once a minute

Ask = Callable[[Mapping[TopicPartition, int]], Mapping[TopicPartition, Found]]
"""Asks for the first record not older than a time, in milliseconds; what is not answered is left out."""


@dataclass
class _Search:
    """The record at `offset` is not older than `low` and not younger than `high`, in milliseconds of Unix time."""

    offset: int
    kept_ms: float
    low: int
    high: int
    is_begun: bool = False

    @property
    def next(self) -> int:
        return (self.low + self.high) // 2 if self.is_begun else self.low

    def is_over(self, now_ms: int) -> bool:
        left = self.low + self.kept_ms - now_ms
        return self.is_begun and self.high - self.low <= max(_LEAST_MS, _PRECISION * left)

    def enter(self, found: Found) -> None:
        """Narrow the search by the answer to `next`."""
        asked = self.next
        self.is_begun = True
        if found.offset == self.offset:
            self.low = self.high = found.timestamp
        elif 0 <= found.offset < self.offset:
            self.low = min(self.high, max(asked, found.timestamp))
        else:  # by the first answer, which is about `low`, it is older than retention allows: the search is over
            self.high = asked


class RecordAges:
    """Finds how old records are. What was found of an offset is kept while it is asked for."""

    def __init__(self) -> None:
        self._known: dict[TopicPartition, tuple[int, int]] = {}  # the offset, and its time or one before it

    def times(
        self, offsets: Mapping[TopicPartition, int], kept_seconds: Mapping[str, float], now: float, ask: Ask
    ) -> dict[TopicPartition, float]:
        """Return for each offset a time in Unix seconds at which its record was not written yet, and not much before it was.

        `kept_seconds` has the age, by topic, at which retention deletes. An offset whose search had no answers is left out.
        """
        now_ms = round(now * 1000)
        self._known = {tp: known for tp, known in self._known.items() if tp in offsets}
        found = {tp: known[1] for tp, known in self._known.items() if known[0] == offsets[tp]}
        searches = {
            tp: self._begin(tp, offset, kept_seconds, now_ms) for tp, offset in offsets.items() if tp not in found
        }
        for _ in range(_ROUNDS):
            asked = {tp: search.next for tp, search in searches.items() if not search.is_over(now_ms)}
            if not asked:
                break
            answers = ask(asked)
            for tp in asked.keys() - answers.keys():
                del searches[tp]
            for tp, answer in answers.items():
                searches[tp].enter(answer)
        for tp, search in searches.items():
            found[tp] = search.low
            self._known[tp] = (search.offset, search.low)
        return {tp: low / 1000 for tp, low in found.items()}

    def _begin(self, tp: TopicPartition, offset: int, kept_seconds: Mapping[str, float], now_ms: int) -> _Search:
        kept_ms = kept_seconds[tp.topic] * 1000
        low = max(0, now_ms - round(kept_ms))
        before = self._known.get(tp)
        if before is not None and before[0] < offset:
            low = max(low, before[1])  # a later record is not older
        return _Search(offset, kept_ms, min(low, now_ms), now_ms)


class LogAdvance:
    """How fast the start of each log comes nearer, for a limit in bytes, and where the limits may not be read."""

    def __init__(self) -> None:
        self._samples: dict[TopicPartition, deque[tuple[float, int]]] = {}

    def note(self, starts: Mapping[TopicPartition, int], now: float) -> None:
        """Note where the logs start at `now`; those that are not among them are forgotten."""
        self._samples = {tp: self._samples.get(tp, deque(maxlen=_SAMPLES)) for tp in starts}
        for tp, start in starts.items():
            samples = self._samples[tp]
            if samples and samples[-1][1] > start:  # another log has the partition's name
                samples.clear()
            samples.append((now, start))

    def seconds_until(self, tp: TopicPartition, offset: int) -> float:
        """Return in how many seconds the log starts behind `offset`, at its rate of the last hour; infinite for never."""
        samples = self._samples.get(tp)
        if not samples:
            return math.inf
        (began, first), (ended, last) = samples[0], samples[-1]
        return max(0, offset - last) * (ended - began) / (last - first) if last > first and ended > began else math.inf
