"""Programs that are no Python packages, which a machine may lack."""

import os
import shutil

import pytest


def program(name: str) -> str:
    """Return the program's path; where there is none the test is skipped, or fails if CI_REQUIRES_ALL is 1."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not on the PATH"
        if os.environ.get("CI_REQUIRES_ALL") == "1":
            pytest.fail(f"{reason}, and CI_REQUIRES_ALL wants every test to run")
        pytest.skip(reason)
    return path
