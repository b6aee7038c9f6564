"""How thoroughly hypothesis looks: `default` for every run, `long` for a night; HYPOTHESIS_PROFILE names one.

Loaded as a pytest plugin, before the tests are collected.
"""

import os
from typing import Final

import pytest
from hypothesis import settings

VARIABLE: Final = "HYPOTHESIS_PROFILE"


def pytest_configure(config: pytest.Config) -> None:
    """Load the profile. No deadlines: on a shared machine they fail by chance."""
    settings.register_profile("default", deadline=None, max_examples=100, stateful_step_count=50)
    settings.register_profile("long", deadline=None, max_examples=5000, stateful_step_count=200)
    settings.load_profile(os.environ.get(VARIABLE, "default"))
