"""The memory of the container, from files as the kernel writes them for control groups of both versions."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from worker.telemetry.container import Memory, MemoryCollector, read_memory

V1_NONE = str(2**63 - 4096)
STAT_V2 = "anon 600\nfile 350\ninactive_file 300\nactive_file 50"
STAT_V1 = "cache 350\ninactive_file 1\ntotal_inactive_file 300"


def read(folder: Path, own: str, files: Mapping[str, str]) -> Memory | None:
    """Read groups that consist of these files; `own` is /proc/self/cgroup."""
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="ascii")
    (folder / "own").write_text(own, encoding="ascii")
    return read_memory(folder / "cgroup", folder / "own")


def v2(limit: str, used: str = "1000", below: str = "") -> dict[str, str]:
    return {f"{below}memory.max": limit, f"{below}memory.current": used, f"{below}memory.stat": STAT_V2}


def v1(limit: str, used: str = "1000", below: str = "memory/") -> dict[str, str]:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    return {f"{below}{name}": text for name, text in zip(names, (limit, used, STAT_V1), strict=True)}


def test_the_page_cache_that_can_be_freed_does_not_count(tmp_path: Path) -> None:
    assert read(tmp_path, "0::/\n", v2("2000")) == Memory(2000, 700)


def test_version_1_is_read_where_it_is_in_use(tmp_path: Path) -> None:
    own = "12:cpu,cpuacct:/x\n9:memory:/docker/abc\n1:name=systemd:/docker/abc\n"
    assert read(tmp_path, own, v1("2000")) == Memory(2000, 700)


@pytest.mark.parametrize(
    "files", [v2("max"), v1(V1_NONE), v2(""), v2("what is no number"), {}], ids=["max", "huge", "empty", "word", "none"]
)
def test_where_there_is_no_limit_there_is_no_memory(tmp_path: Path, files: dict[str, str]) -> None:
    assert read(tmp_path, "0::/\n", files) is None


def test_the_own_group_of_a_unit_is_found_below_the_root(tmp_path: Path) -> None:
    files = v2("max", below="system.slice/") | v2("3000", "900", "system.slice/worker.service/")
    assert read(tmp_path, "0::/system.slice/worker.service\n", files) == Memory(3000, 600)


def test_the_lowest_limit_counts_with_what_its_own_group_uses(tmp_path: Path) -> None:
    files = v2("2000", "1900", "slice/") | v2("3000", "900", "slice/worker/")
    assert read(tmp_path, "0::/slice/worker\n", files) == Memory(2000, 1600)


def test_a_limit_is_known_though_nothing_says_what_is_used(tmp_path: Path) -> None:
    assert read(tmp_path, "", {"memory.max": "2000"}) == Memory(2000, None)


def test_bytes_that_are_no_text_are_no_limit(tmp_path: Path) -> None:
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup" / "memory.max").write_bytes(b"\xff\xfe")
    assert read(tmp_path, "0::/\n", {}) is None


@pytest.mark.parametrize(
    ("memory", "expected"),
    [(Memory(2000, 700), (2000, 700)), (Memory(2000, None), (2000, None)), (None, (None, None))],
    ids=str,
)
def test_what_is_not_known_has_no_series(memory: Memory | None, expected: tuple[float | None, float | None]) -> None:
    registry = CollectorRegistry()
    registry.register(MemoryCollector(lambda: memory))
    names = ("oss_vectors_memory_limit_bytes", "oss_vectors_memory_used_bytes")
    assert tuple(registry.get_sample_value(name) for name in names) == expected
