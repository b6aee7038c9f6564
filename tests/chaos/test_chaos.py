"""Short storms, one of each sort; `python -m tests.chaos` runs long ones."""

import os
import sys
from pathlib import Path

import pytest

from tests.chaos.storm import Chaos
from tests.support.bounded import run_group

SECONDS = float(os.environ.get("CHAOS_SECONDS", "20"))
SEED = int(os.environ.get("CHAOS_SEED", "20260101"))

SORTS = {
    "workers killed, frozen, added and removed under a slow service": [
        "worker killed",
        "worker stopped by SIGTERM",
        "worker frozen beyond its session with work queued",
        "workers added or removed",
        "service slow",
    ],
    "broker killed, cut off, refused and swallowed": [
        "broker killed",
        "broker connections cut",
        "broker swallowed",
        "broker refused",
    ],
    "service down, throttling, resetting, half applying": [
        "service connections cut",
        "service slow network",
        "service swallowed",
        "service outage",
        "service throttling",
        "service resets",
        "service errors, some applied in part",
    ],
    "pages of a proxy, and credentials replaced": [
        "a proxy's page in place of the answer",
        "a firewall refuses some records",
        "credentials replaced",
    ],
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("faults", SORTS.values(), ids=list(SORTS))
def test_after_a_storm_nothing_is_lost_stale_or_stuck(faults: list[str]) -> None:
    # A process of its own: while a broker is away the client that publishes leaves many sockets to the collector.
    command = [sys.executable, "-m", "tests.chaos", "--minutes", str(SECONDS / 60), "--seed", str(SEED)]
    command += [f"--only={fault}" for fault in faults]
    done = run_group(command, timeout=SECONDS + 600)
    assert done.returncode == 0, done.stdout
    assert "lost 0, stale 0, not deleted 0, stale writes 0," in done.stdout


def test_every_fault_of_the_storm_is_of_some_sort(tmp_path: Path) -> None:
    named = {fault for faults in SORTS.values() for fault in faults}
    assert set(Chaos(SEED, tmp_path).actions) == named
