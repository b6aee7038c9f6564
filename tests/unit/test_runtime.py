"""The process is prepared before the libraries are loaded."""

import gc
import os
import subprocess
import sys

import pytest

from worker import runtime

SCRIPT = """
import gc, os, threading
from worker import runtime
with runtime.prepared():
    assert not gc.isenabled()
    import numpy
assert gc.isenabled()
print(os.environ["OPENBLAS_NUM_THREADS"], gc.get_freeze_count() > 10_000, len(os.listdir("/proc/self/task")))
"""


def run(**environ: str) -> list[str]:
    own = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env=own | environ, check=True, capture_output=True, text=True
    ).stdout.split()


def test_libraries_begin_no_threads_and_are_left_out_of_garbage_collections() -> None:
    assert run() == ["1", "True", "1"]


def test_what_the_environment_says_of_threads_stays() -> None:
    assert run(OPENBLAS_NUM_THREADS="2")[0] == "2"


def test_what_fails_while_loading_leaves_the_collector_on() -> None:
    with pytest.raises(ImportError), runtime.prepared():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()
