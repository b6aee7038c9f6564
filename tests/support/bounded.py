"""Processes and threads of a test, which end in bounded time whatever they do.

`tests/unit/test_bounded.py` holds that tests start and await theirs through this module, or with a time limit of their own.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

STOP_S: Final = 15.0
"""How long a process has between SIGTERM and SIGKILL."""
END_S: Final = 60.0
"""How long the end of a killed process, or of a thread that has nothing left to do, may take on a busy machine."""


@contextmanager
def running(
    command: Sequence[str | Path], *, stop_seconds: float = STOP_S, **options: Any
) -> Iterator["subprocess.Popen[str]"]:
    """Start a process, its streams in text; `options` are those of `subprocess.Popen`. At the end it is gone."""
    process = subprocess.Popen(command, text=True, **options)
    try:
        yield process
    finally:
        end(process, stop_seconds)


def run_group(command: Sequence[str | Path], timeout: float, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, in a process group of its own, of which nothing is left then: also where the time is up.

    The output and the errors are one text. `subprocess.run` kills only the command; what that has started continues to run.
    """
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with running(command, start_new_session=True, **pipe, **options) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, output)


def end(process: "subprocess.Popen[Any]", stop_seconds: float = STOP_S) -> int:
    """End a process that may have ended already: SIGTERM, after `stop_seconds` SIGKILL. Closes its pipes, returns the code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    code = process.wait(END_S)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was written to it and not yet passed on has no reader any more
                stream.close()
    return code


def thread(work: Callable[..., object], *arguments: Any, name: str | None = None) -> threading.Thread:
    """Start a thread that keeps no process from ending."""
    started = threading.Thread(target=work, args=arguments, name=name, daemon=True)
    started.start()
    return started


def join(*threads: threading.Thread, limit_seconds: float = END_S) -> None:
    """Wait until threads have ended; AssertionError with their stacks if some have not within `limit_seconds` in all."""
    deadline = time.monotonic() + limit_seconds
    for one in threads:
        one.join(max(0.0, deadline - time.monotonic()))
    left = [one for one in threads if one.is_alive()]
    if left:
        raise AssertionError("\n".join([f"after {limit_seconds:.0f} s there still run:", *map(_stack, left)]))


def _stack(one: threading.Thread) -> str:
    frame = sys._current_frames().get(one.ident or 0)
    lines = [] if frame is None else traceback.format_stack(frame)
    return "".join([f"{one.name}\n", *lines])
