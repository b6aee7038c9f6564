"""When credentials and certificates end, as far as it is known."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

End = Callable[[], float | None]
"""Returns Unix time in seconds, None where it is not known."""


class EndOfFile:
    """The end of what is in a file, read again when the file changes. `read` returns it, None where there is none."""

    def __init__(self, path: Path, read: Callable[[Path], float | None]) -> None:
        self._path = path
        self._read = read
        self._stamp: tuple[int, ...] = ()
        self._end: float | None = None

    def __call__(self) -> float | None:
        """Return the end. A file that is away for a moment keeps the one that was read last."""
        try:
            status = self._path.stat()
        except OSError:
            return self._end
        stamp = (status.st_mtime_ns, status.st_ino, status.st_dev, status.st_size)
        if stamp != self._stamp:
            self._end, self._stamp = self._read(self._path), stamp
        return self._end


class ExpiryCollector:
    """The metrics of ends. `certificates` has one for each use. What has no known end has no series."""

    def __init__(self) -> None:
        self.credentials: End = lambda: None
        self.certificates: Mapping[str, End] = {}

    def collect(self) -> Iterator[Metric]:
        """Return the metrics, as prometheus-client asks for them."""
        credentials = GaugeMetricFamily(
            "oss_vectors_credentials_expiry_timestamp_seconds",
            "When the service's credentials in use expire, Unix time; there is no series where that is not known.",
            unit="seconds",
        )
        certificates = GaugeMetricFamily(
            "oss_vectors_certificate_expiry_timestamp_seconds",
            "When the certificate in a file that the settings name expires, Unix time; of several authorities, the last one.",
            labels=["use"],
            unit="seconds",
        )
        if (end := self.credentials()) is not None:
            credentials.add_metric([], end)
        for use, read in self.certificates.items():
            if (end := read()) is not None:
                certificates.add_metric([use], end)
        yield from (credentials, certificates)
