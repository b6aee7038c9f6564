"""When credentials and certificates end, as far as it is known."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from worker.settings.certificates import end_of_authorities, end_of_own
from worker.settings.tables import Settings

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


def certificate_ends(settings: Settings) -> dict[str, End]:
    """Return the end of each certificate that the settings name, by its use.

    It is the end of what connections are made with. kafka-python reads its files for each new connection, so theirs are read again.
    The sessions with the service and with the registry keep the authorities that they began with.
    """
    kafka = settings.kafka
    ends: dict[str, End] = {}
    if kafka.ssl_certfile:
        ends["kafka-client"] = EndOfFile(Path(kafka.ssl_certfile), end_of_own)
    if kafka.ssl_cafile:
        ends["kafka-ca"] = EndOfFile(Path(kafka.ssl_cafile), end_of_authorities)
    for use, path in (("oss-ca", settings.oss.ca_file), ("registry-ca", settings.registry.ca_file)):
        if path:
            ends[use] = _as_it_is_now(end_of_authorities(Path(path)))
    return ends


def _as_it_is_now(end: float | None) -> End:
    return lambda: end


class ExpiryCollector:
    """The metrics of ends. `certificates` has one for each use. What has no known end has no series."""

    def __init__(self) -> None:
        self.credentials: End = lambda: None
        self.certificates: Mapping[str, End] = {}

    def collect(self) -> Iterator[Metric]:
        """Return the metrics, as prometheus-client asks for them."""
        credentials = GaugeMetricFamily(
            "oss_vectors_credentials_expiry_timestamp_seconds",
            "When the service's credentials in use expire, Unix time. There is no series where that is not known, and none while no request is "
            "sent, except for oss.credentials = file.",
            unit="seconds",
        )
        certificates = GaugeMetricFamily(
            "oss_vectors_certificate_expiry_timestamp_seconds",
            "When the certificate that connections are made with expires, Unix time, for each file that the settings name; of several "
            "authorities, the last one. That of oss-ca and registry-ca is what was read at start.",
            labels=["use"],
            unit="seconds",
        )
        if (end := self.credentials()) is not None:
            credentials.add_metric([], end)
        for use, read in self.certificates.items():
            if (end := read()) is not None:
                certificates.add_metric([use], end)
        yield from (credentials, certificates)
