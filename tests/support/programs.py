"""Programs that are no Python packages, which a machine may lack."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def search_path() -> str:
    """Return where programs are looked for: with the Python that runs the tests, since some are packages of it, then PATH."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def program(name: str) -> str:
    """Return the program's path; where there is none the test is skipped, or fails if CI_REQUIRES_ALL is 1."""
    path = shutil.which(name, path=search_path())
    if path is None:
        reason = f"{name} is neither on the PATH nor beside this Python"
        if os.environ.get("CI_REQUIRES_ALL") == "1":
            pytest.fail(f"{reason}, and CI_REQUIRES_ALL wants every test to run")
        pytest.skip(reason)
    return path
