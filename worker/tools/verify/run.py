"""One verification, from the topic to the list of differences."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from worker.oss.lookup import Stored
from worker.tools.progress import Progress
from worker.tools.scan import Scanner, Stretch
from worker.tools.verify.compare import Difference, Lookup, differences, still_different
from worker.tools.verify.stretches import Span
from worker.tools.verify.versions import Expected, Reading, Version

ProgressOf = Callable[[str, int], Progress]
"""Makes a progress bar of a label and a total."""


class Result(NamedTuple):
    """What was found. `counts` has records, refused and ignored; `unclear` are keys in several partitions."""

    keys: int
    counts: Counter[str]
    differences: list[Difference]
    unclear: Collection[str]
    lost: int


class Throttle:
    """Keeps questions within a rate; 0 is no limit."""

    def __init__(
        self,
        lookup: Lookup,
        keys_per_second: float,
        wait: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup = lookup
        self._rate = keys_per_second
        self._wait = wait
        self._clock = clock
        self._free_at = clock()

    def get(self, keys: Sequence[str]) -> Mapping[str, Stored]:
        """Look keys up, once it may be."""
        if self._rate:
            now = self._clock()
            if self._free_at > now:
                self._wait(self._free_at - now)
            self._free_at = max(now, self._free_at) + len(keys) / self._rate
        return self._lookup.get(keys)


def verify(
    spans: Sequence[Span],
    *,
    scanner: Scanner,
    reading: Callable[[], Reading],
    lookup: Lookup,
    wait: Callable[[float], object],
    progress: ProgressOf,
) -> Result:
    """Return how the index differs from these spans of its topic. Raises `FatalError` where that cannot be known.

    `reading` makes a reader of records. Needs memory for each key that occurs, about 300 bytes.
    """
    expected, counts = _expected(spans, scanner, reading(), progress)
    judged = {key: version for key, version in expected.newest.items() if key not in expected.in_several_partitions}
    with progress("asking the index", len(judged)) as bar:
        different = still_different(judged, lookup, wait, bar.step)
    found: list[Difference] = []
    if different:
        found = differences(different, judged, _history(spans, different, scanner, reading(), progress))
    return Result(len(judged), counts, found, expected.in_several_partitions, sum(scanner.lost.values()))


def _expected(
    spans: Sequence[Span], scanner: Scanner, reading: Reading, progress: ProgressOf
) -> tuple[Expected, Counter[str]]:
    expected = Expected()
    ends = {span.partition: span.end for span in spans}
    stretches = [Stretch(span.partition, span.begin, span.committed) for span in spans]
    with progress("reading the topic", sum(one.size for one in stretches)) as bar:
        for partition, messages in scanner.read(stretches):
            expected.apply(reading.versions(partition.partition, messages), ends_at=ends[partition])
            bar.step(len(messages))
    return expected, reading.counts


def _history(
    spans: Sequence[Span], keys: Collection[str], scanner: Scanner, reading: Reading, progress: ProgressOf
) -> dict[str, list[Version]]:
    """Return all versions of these keys, from the first offset of their topic to its end of now."""
    history: dict[str, list[Version]] = {key: [] for key in keys}
    stretches = scanner.everything([span.partition for span in spans])
    with progress("reading the topic again", sum(one.size for one in stretches)) as bar:
        for partition, messages in scanner.read(stretches):
            for key, version in reading.versions(partition.partition, messages):
                if key in history:
                    history[key].append(version)
            bar.step(len(messages))
    return history
