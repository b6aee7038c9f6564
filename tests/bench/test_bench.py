"""The benchmark works, no ratio of bytes is missed, and replicas come to terms."""

import statistics
import sys
from pathlib import Path

import pytest

from tests.bench import pacing, schemas
from tests.bench.pacing import Scenario
from tests.support.bounded import run_group

ROOT = Path(__file__).parents[2]
SEEDS = range(3)


@pytest.mark.timeout(900)
def test_the_benchmark_runs_and_meets_its_targets_that_are_counted_in_bytes() -> None:
    command = [sys.executable, "-m", "tests.bench", "--smoke", "--no-kafka"]
    ended = run_group(command, timeout=840, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("scenario", pacing.SCENARIOS[:6], ids=lambda scenario: scenario.name)
def test_replicas_that_share_a_limit_reach_it_together_and_in_fair_shares(scenario: Scenario) -> None:
    runs = [pacing.simulate(scenario, seed) for seed in SEEDS]
    assert statistics.median(run.goodput for run in runs) >= 0.9
    assert statistics.median(run.refused for run in runs) < 0.05
    assert statistics.median(run.fairness for run in runs) >= 0.9


def test_the_benchmark_of_schemas_decodes_every_encoding() -> None:
    assert schemas.measured(8, rounds=1, records=5).keys() == schemas.ENCODINGS.keys()


def test_after_an_outage_the_load_comes_back_in_a_ramp() -> None:
    scenario = next(each for each in pacing.SCENARIOS if each.away is not None)
    timeline = pacing.simulate(scenario, 0).timeline
    total = [sum(rates) for rates in zip(*timeline, strict=True)]
    began, ended = (int(at // 5) for at in scenario.away or ())
    assert max(total[began + 2 : ended]) < 0.5 * total[began - 1]
    assert max(total[ended:]) < 1.3 * pacing.LIMIT


def test_what_those_who_leave_took_is_taken_over() -> None:
    scenario = next(each for each in pacing.SCENARIOS if each.leave_at is not None)
    stayed = pacing.simulate(scenario, 0).timeline[0]
    left = int((scenario.leave_at or 0.0) // 5)
    assert stayed[left] < 0.3 * pacing.LIMIT
    assert stayed[left + 60] == pacing.LIMIT
