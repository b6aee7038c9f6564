"""Short storms, one of each sort; `python -m tests.chaos` runs long ones."""

import os
from pathlib import Path

import pytest

from tests.chaos.storm import Chaos, run

SECONDS = float(os.environ.get("CHAOS_SECONDS", "20"))
SEED = int(os.environ.get("CHAOS_SEED", "20260101"))

SORTS = {
    "workers killed, paused, added and removed under a slow service": [
        "worker killed",
        "worker stopped by SIGTERM",
        "worker paused beyond its session",
        "workers added or removed",
        "service slow",
    ],
    "broker killed, cut off and swallowed": ["broker killed", "broker connections cut", "broker swallowed"],
    "service down, throttling, resetting, half applying": [
        "service connections cut",
        "service slow network",
        "service swallowed",
        "service outage",
        "service throttling",
        "service resets",
        "service errors, some applied in part",
    ],
}


@pytest.mark.parametrize("faults", SORTS.values(), ids=list(SORTS))
def test_after_a_storm_nothing_is_lost_stale_or_stuck(faults: list[str], tmp_path: Path) -> None:
    report = run(SEED, SECONDS, tmp_path, only=faults)
    assert report.is_clean, str(report)
    assert sum(report.faults.values()) > 0


def test_every_fault_of_the_storm_is_of_some_sort(tmp_path: Path) -> None:
    named = {fault for faults in SORTS.values() for fault in faults}
    assert set(Chaos(SEED, tmp_path).actions) == named
