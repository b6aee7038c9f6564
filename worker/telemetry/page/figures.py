"""The page's figures: read from the metrics, kept for 15 minutes."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry

STEP_SECONDS: Final = 5.0  # between two samples of the ring
STEPS: Final = 180  # that the ring keeps: 15 minutes
_RECENT_SECONDS: Final = 60.0  # "last minute"
_FLOW_SECONDS: Final = 120.0  # for what is published and how the lag moves: the ends are asked for every 15 s
_ENDS_ARE_OLD_SECONDS: Final = 25.0
_LEAST_FLOW_SECONDS: Final = 10.0

_PREFIX: Final = "oss_vectors_"
PASSED: Final = ("skipped_offsets", "truncated_offsets")  # counts of offsets that no reading brings back
_COUNTED: Final = (
    "retries_total",
    "kafka_errors_total",
    "unknown_outcomes_total",
    *(f"{name}_total" for name in PASSED),
)
_COUNTED_FAILURES: Final = ("commits_total", "dead_letter_writes_total")
_OF_PARTITIONS: Final = ("end_offset", "consumer_lag_records", "committed_offset", "open_transaction_offsets")

Key = tuple[str, ...]
Labels = Mapping[str, str]
_NOTHING: Final[Mapping[Key, float]] = MappingProxyType({})
Points = list[tuple[float, float | None]]  # (seconds ago, value), the oldest first


class Figures:
    """One reading of the registry. Metrics are named without `oss_vectors_`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows: dict[str, list[tuple[Labels, float]]] = {}
        for family in registry.collect():
            for sample in family.samples:
                self._rows.setdefault(sample.name.removeprefix(_PREFIX), []).append((sample.labels, sample.value))

    def rows(self, name: str) -> list[tuple[Labels, float]]:
        """Return (labels, value) of each sample of a metric."""
        return self._rows.get(name, [])

    def value(self, name: str) -> float:
        """Return the sum over all labels."""
        return sum(value for _, value in self.rows(name))

    def by(self, name: str, *labels: str) -> dict[Key, float]:
        """Return the sums over all other labels, by the values of these."""
        sums: dict[Key, float] = {}
        for found, value in self.rows(name):
            key = tuple(found[label] for label in labels)
            sums[key] = sums.get(key, 0.0) + value
        return sums


class Sample(NamedTuple):
    """What the ring keeps of the figures: counters, so that two samples give a rate. `at` is monotonic, in seconds."""

    at: float
    settled: dict[Key, float]  # by outcome
    latency: dict[float, float]  # records by upper bound in seconds, cumulative
    counts: dict[Key, float]  # requests, retries and errors, by name and labels
    ends: Mapping[Key, float] = _NOTHING  # of partitions, by topic and number, as the next three
    lags: Mapping[Key, float] = _NOTHING
    committed: Mapping[Key, float] = _NOTHING
    in_transactions: Mapping[Key, float] = _NOTHING  # offsets that wait for a transaction to end
    by_topic: Mapping[Key, float] = _NOTHING  # settled


def sample(figures: Figures, now: float) -> Sample:
    """Return what the ring keeps of the figures."""
    counts = {
        ("requests", *key): value for key, value in figures.by("requests_total", "index", "operation", "code").items()
    }
    for name in _COUNTED:
        for labels, value in figures.rows(name):
            counts[name.removesuffix("_total"), *labels.values()] = value
    for name in _COUNTED_FAILURES:
        counts[name.removesuffix("_total"), "failed"] = figures.by(name, "result").get(("failed",), 0.0)
    buckets = figures.by("record_latency_seconds_bucket", "le")
    latency = {float(bound): buckets[bound,] for (bound,) in buckets}
    ends, lags, committed, in_transactions = (figures.by(name, "topic", "partition") for name in _OF_PARTITIONS)
    settled, by_topic = (figures.by("records_settled_total", label) for label in ("outcome", "topic"))
    of_partitions = ends, lags, committed, in_transactions, by_topic
    return Sample(now, settled, dict(sorted(latency.items())), counts, *of_partitions)


def topics_behind(older: Sample | None, newer: Sample, seconds: float) -> set[str]:
    """Return the topics with a partition that waits, and needs more than so many seconds at the rate between two samples.

    Each partition counts alone: what is settled of others brings its records no nearer. What has not waited at both times is a
    record on its way. What is not known of the older sample counts as waiting.
    """
    behind = set()
    for key, lag in newer.lags.items():
        lag_before = lag if older is None else older.lags.get(key, lag)
        moved = 0.0
        if older is not None and key in older.lags:
            moved = (newer.ends[key] - lag) - (older.ends[key] - lag_before)  # of the watermark
            moved *= seconds / max(newer.at - older.at, 1e-9)
        if lag and lag_before and lag > moved:
            behind.add(key[0])
    return behind


def quantile(share: float, older: Sample, newer: Sample) -> float | None:
    """Return the latency in seconds below which `share` of the records were that were settled between two samples.

    It is interpolated within its bucket, as `histogram_quantile` does; None where no record was settled.
    """
    cumulative = [(bound, count - older.latency.get(bound, 0.0)) for bound, count in newer.latency.items()]
    if not cumulative or cumulative[-1][1] <= 0:
        return None
    wanted = share * cumulative[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in cumulative:
        if count >= wanted and not math.isinf(bound):
            return lower + (bound - lower) * (wanted - below) / max(count - below, 1e-9)
        if not math.isinf(bound):
            lower, below = bound, count
    return lower


class Flow(NamedTuple):
    """Records a second, None where it is not known: how many are published, and by how many the lag grows."""

    published: float | None
    trend: float | None


def flow_of(samples: Sequence[Sample]) -> Flow:
    """Return the flow between two samples, on the partitions that both know.

    The ends are asked for at intervals, and the lag falls between two answers. So it goes from one answer to another while
    answers bring something new, and else from the last one that did.
    """
    changed = [new for old, new in pairwise(samples) if new.ends != old.ends]
    if changed and samples[-1].at - changed[-1].at > _ENDS_ARE_OLD_SECONDS:
        samples = samples[samples.index(changed[-1]) :]
    elif len(changed) >= 2:
        samples = changed
    if len(samples) < 2 or (seconds := samples[-1].at - samples[0].at) < _LEAST_FLOW_SECONDS:
        return Flow(None, None)
    return Flow(
        _growth(samples[0].ends, samples[-1].ends, seconds), _growth(samples[0].lags, samples[-1].lags, seconds)
    )


def _growth(older: Mapping[Key, float], newer: Mapping[Key, float], seconds: float) -> float | None:
    known = older.keys() & newer.keys()
    return sum(newer[key] - older[key] for key in known) / seconds if known else None


class Step(NamedTuple):
    """What one step of the charts shows: records settled a second by outcome, the quantiles of their latency, lag and flow."""

    at: float
    rates: dict[Key, float]
    p50: float | None
    p99: float | None
    lag: float | None
    published: float | None


def _step(older: Sample, newer: Sample, flow: Flow) -> Step:
    seconds = max(newer.at - older.at, 1e-9)
    rates = {key: (count - older.settled.get(key, 0.0)) / seconds for key, count in newer.settled.items()}
    lag = sum(newer.lags.values()) if newer.lags else None
    return Step(newer.at, rates, quantile(0.5, older, newer), quantile(0.99, older, newer), lag, flow.published)


class History:
    """The ring: the steps of the last minutes, and the samples of the last two."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=math.ceil(_FLOW_SECONDS / STEP_SECONDS) + 1)
        self.steps: deque[Step] = deque(maxlen=STEPS)

    def add(self, one: Sample) -> None:
        """Keep a sample, and drop the oldest."""
        before = self._samples[-1] if self._samples else None
        self._samples.append(one)
        if before is not None:
            self.steps.append(_step(before, one, self.flow()))

    def flow(self) -> Flow:
        """Return the flow of the last two minutes."""
        return flow_of(list(self._samples))

    def is_due(self, now: float) -> bool:
        """Return whether it is time for another sample."""
        return not self._samples or now - self._samples[-1].at >= STEP_SECONDS

    def recent(self, now: float) -> Sample | None:
        """Return the sample of a minute ago, else the oldest; None where that is less than a second old."""
        old = [one for one in self._samples if now - one.at >= _RECENT_SECONDS]
        found = old[-1] if old else self._samples[0] if self._samples else None
        return found if found is not None and now - found.at >= 1.0 else None
