"""The bound on the time that hypothesis takes when a test fails."""

import os
import time

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import engine

from tests.support.hypothesis_profiles import SHRINK_SECONDS, VARIABLE


@pytest.mark.skipif(
    os.environ.get(VARIABLE, "default") != "default", reason="another profile shrinks as long as it likes"
)
def test_in_the_default_profile_shrinking_is_bounded() -> None:
    here = settings()
    assert engine.MAX_SHRINKING_SECONDS == SHRINK_SECONDS or Phase.shrink not in here.phases
    assert (here.deadline, here.report_multiple_bugs) == (None, False)


def test_what_the_profile_sets_is_what_the_engine_goes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    unbounded = runs_that_fail(monkeypatch, 60)
    assert runs_that_fail(monkeypatch, 0) < unbounded / 4


def runs_that_fail(monkeypatch: pytest.MonkeyPatch, limit_seconds: int) -> int:
    """Let hypothesis find and shrink a fault, on a clock that every run moves on; return how often the test failed."""
    monkeypatch.setattr(engine, "MAX_SHRINKING_SECONDS", limit_seconds)
    now = [0.0]
    failures = 0

    @settings(database=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
    @given(st.lists(st.integers(), max_size=50))
    def check(numbers: list[int]) -> None:
        nonlocal failures
        now[0] += 0.001
        if sum(numbers) > 1000:
            failures += 1
            raise ValueError("too much")

    with monkeypatch.context() as patched:
        patched.setattr(time, "perf_counter", lambda: now[0])
        with pytest.raises(ValueError, match="too much"):
            check()
    return failures
