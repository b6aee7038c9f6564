"""The memory of the container: its limit, and what counts against it, from the control group (version 2 or 1)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

_ROOT: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")
_NO_LIMIT: Final = 2**60  # version 1 shows a huge number where there is none


class Memory(NamedTuple):
    """Bytes. `used` is None where the control group does not show it."""

    limit: int
    used: int | None


class _Version(NamedTuple):
    """The names of one version's files."""

    limit: str
    usage: str
    reclaimable: str  # in memory.stat: the part of the page cache that the kernel frees before it ends a process


_V2: Final = _Version("memory.max", "memory.current", "inactive_file")
_V1: Final = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def read_memory(root: Path = _ROOT, own: Path = _OWN) -> Memory | None:
    """Return the lowest limit of this process's control groups, and what counts against it; None where there is none.

    `used` is what Kubernetes calls the working set. In a container the own group is usually the root of what is visible; a
    systemd unit is some levels below it.
    """
    found = [
        Memory(limit, _used(folder, version))
        for folder, version in _groups(root, own)
        if (limit := _number(folder / version.limit)) is not None and limit < _NO_LIMIT
    ]
    return min(found, key=lambda memory: memory.limit, default=None)


def _groups(root: Path, own: Path) -> Iterator[tuple[Path, _Version]]:
    """Yield the folders of the own group and of those above it."""
    paths = {_V2: "/", _V1: "/"}
    for line in _text(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            paths[_V2] = path
        elif "memory" in controllers.split(","):
            paths[_V1] = path
    for version, top in ((_V2, root), (_V1, root / "memory")):
        folder = top / paths[version].lstrip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(top):
                yield each, version


def _used(folder: Path, version: _Version) -> int | None:
    usage = _number(folder / version.usage)
    if usage is None:
        return None
    stat = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    reclaimable = stat.get(version.reclaimable, "")
    return max(0, usage - int(reclaimable)) if reclaimable.isdigit() else usage


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):  # it is not there, or not text
        return ""


class MemoryCollector:
    """The metrics of the container's memory; they have no series where there is no limit."""

    def __init__(self, read: Callable[[], Memory | None] = read_memory) -> None:
        self.read = read

    def collect(self) -> Iterator[Metric]:
        """Return the metrics, as prometheus-client asks for them."""
        limit = GaugeMetricFamily(
            "oss_vectors_memory_limit_bytes",
            "The memory that the container may have; there is no series where it has no limit.",
            unit="bytes",
        )
        used = GaugeMetricFamily(
            "oss_vectors_memory_used_bytes",
            "Memory that counts against the container's limit, without the page cache that is freed when needed.",
            unit="bytes",
        )
        memory = self.read()
        if memory is not None:
            limit.add_metric([], memory.limit)
            if memory.used is not None:
                used.add_metric([], memory.used)
        yield from (limit, used)
