"""The histogram of record latencies, fast enough to observe each record."""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString


class RecordLatency:
    """A histogram by topic, which observes the records of a batch at once.

    prometheus-client's observes one value at a time, under its lock. That costs more than all else that is done to settle
    a record.
    """

    def __init__(self, name: str, documentation: str, *, topics: Iterable[str], buckets: Sequence[float]) -> None:
        """`buckets` are the upper bounds in seconds, ascending, without the infinite one."""
        self._name = name
        self._documentation = documentation
        self._bounds_ms = tuple(bound * 1000 for bound in buckets)
        self._names = [*map(floatToGoString, buckets), "+Inf"]
        self._lock = threading.Lock()
        self._counts = {topic: [0] * len(self._names) for topic in topics}
        self._sums_ms = dict.fromkeys(self._counts, 0.0)

    def observe(self, topic: str, timestamps_ms: Iterable[int], now_ms: float) -> None:
        """Observe `now_ms` less each timestamp, at least 0; a negative timestamp is none."""
        bounds = self._bounds_ms
        with self._lock:
            counts = self._counts[topic]
            total = 0.0
            for timestamp in timestamps_ms:
                if timestamp >= 0:
                    latency = now_ms - timestamp
                    if latency > 0.0:
                        total += latency
                        counts[bisect_left(bounds, latency)] += 1
                    else:
                        counts[0] += 1
            self._sums_ms[topic] += total

    def collect(self) -> Iterator[Metric]:
        """Return the metric, as prometheus-client asks for it."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=["topic"], unit="seconds")
        with self._lock:
            for topic, counts in self._counts.items():
                buckets = list(zip(self._names, accumulate(counts), strict=True))
                family.add_metric([topic], buckets, self._sums_ms[topic] / 1000)
        yield family
