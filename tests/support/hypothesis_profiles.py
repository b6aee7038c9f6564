"""How thoroughly hypothesis looks: `default` for every run, `long` for a night; HYPOTHESIS_PROFILE names one.

Loaded as a pytest plugin, before the tests are collected.
"""

import os
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import Phase, settings
from hypothesis.internal.conjecture import engine

VARIABLE: Final = "HYPOTHESIS_PROFILE"
SHRINK_SECONDS: Final = 30
"""How long a failing example may be made smaller in the default profile: a run must end, also when it fails."""
_LIMIT_NAME: Final = "MAX_SHRINKING_SECONDS"


def pytest_configure(config: pytest.Config) -> None:
    """Load the profile. No deadlines: on a shared machine they fail by chance."""
    name = os.environ.get(VARIABLE, "default")
    phases = _bound_shrinking() if name == "default" else tuple(Phase)
    # After the first fault it would look for others, up to twice as long.
    settings.register_profile(
        "default", deadline=None, max_examples=100, stateful_step_count=50, report_multiple_bugs=False, phases=phases
    )
    settings.register_profile("long", deadline=None, max_examples=5000, stateful_step_count=200)
    settings.load_profile(name)


def _bound_shrinking() -> Sequence[Phase]:
    """Bound the time that shrinking takes, which is 300 s for each fault else, and return the phases to run.

    Hypothesis has no setting for it. Where its engine no longer has the constant that we set, nothing is shrunk.
    """
    if not hasattr(engine, _LIMIT_NAME):
        return [phase for phase in Phase if phase not in {Phase.shrink, Phase.explain}]
    setattr(engine, _LIMIT_NAME, SHRINK_SECONDS)
    return tuple(Phase)
