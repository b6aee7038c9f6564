"""The process is prepared before the libraries are loaded."""

import os
import subprocess
import sys

SCRIPT = """
import gc, os, threading
from worker.app import runtime
with runtime.prepared():
    assert not gc.isenabled()
    import numpy
assert gc.isenabled()
print(os.environ["OPENBLAS_NUM_THREADS"], gc.get_freeze_count() > 10_000, len(os.listdir("/proc/self/task")))
"""


FAILS = """
import gc
from worker.app import runtime
try:
    with runtime.prepared():
        raise ImportError
except ImportError:
    print(gc.isenabled())
"""


def run(script: str = SCRIPT, **environ: str) -> list[str]:
    own = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-c", script], env=own | environ, check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()


def test_libraries_begin_no_threads_and_are_left_out_of_garbage_collections() -> None:
    assert run() == ["1", "True", "1"]


def test_what_the_environment_says_of_threads_stays() -> None:
    assert run(OPENBLAS_NUM_THREADS="2")[0] == "2"


def test_what_fails_while_loading_leaves_the_collector_on() -> None:
    assert run(FAILS)[0] == "True"


def test_the_commands_are_loaded_without_what_is_to_be_prepared_for() -> None:
    assert run("import sys, worker.cli; print('numpy' in sys.modules)") == ["False"]
