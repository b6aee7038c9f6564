"""What a test starts ends in bounded time: the helpers that see to it, and that no test waits without a limit."""

import ast
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bounded import join, run_group, running, thread
from tests.support.worker import wait_for

TESTS = Path(__file__).parents[1]
FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py"))
HELPERS = "support/bounded.py"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    with running([sys.executable, "-c", DEAF], stop_seconds=0.05, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
    assert (process.returncode, process.stdout.closed) == (-signal.SIGKILL, True)


def test_a_process_is_gone_also_after_a_test_that_failed() -> None:
    with pytest.raises(ZeroDivisionError), running(["sleep", "600"]) as process:
        raise ZeroDivisionError
    assert process.returncode == -signal.SIGTERM


def test_what_a_command_has_started_is_gone_with_it() -> None:
    ended = run_group(["bash", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"], timeout=60)
    wait_for(lambda: not is_running(ended.stdout.strip()), "the command's own child has ended")


def is_running(process_id: str) -> bool:
    """Whether a process is there, and is no corpse that nobody has buried yet."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", process_id], capture_output=True, text=True, check=False, timeout=60
    )
    return listed.stdout.strip()[:1] not in {"", "Z"}


def test_a_thread_that_does_not_end_fails_the_test_with_its_stack() -> None:
    release = threading.Event()
    stuck = thread(release.wait, 600, name="stuck")
    try:
        with pytest.raises(AssertionError, match=r"(?s)there still run:\nstuck\n.*threading\.py"):
            join(stuck, limit_seconds=0.01)
    finally:
        release.set()
    join(stuck)


@pytest.mark.parametrize("file", FILES)
def test_no_test_waits_without_a_limit(file: str) -> None:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert file == HELPERS or list(unbounded(tree)) == []


@pytest.mark.parametrize(
    "code",
    [
        "thread.join()",
        "process.wait()",
        "process.communicate()",
        "queue.get()",
        "process.wait(timeout=None)",
        "subprocess.run(['x'], check=True)",
        "subprocess.Popen(['x'])",
        "threading.Thread(target=work)",
    ],
)
def test_what_waits_without_a_limit_is_found(code: str) -> None:
    assert len(list(unbounded(ast.parse(f"def test():\n    {code}\n")))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "thread.join(5)",
        "', '.join(names)",
        "worker.wait()",
        "process.wait(timeout=5)",
        "subprocess.run(['x'], timeout=5)",
        "threading.Thread(target=work, daemon=True)",
    ],
)
def test_what_waits_with_a_limit_is_let_through(code: str) -> None:
    assert list(unbounded(ast.parse(f"def test():\n    {code}\n"))) == []


def unbounded(tree: ast.AST) -> Iterator[str]:
    """Yield the line and the fault of each call that may wait for ever, or start what nothing ends."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            fault = fault_of(node, node.func)
            if fault:
                yield f"line {node.lineno}: {ast.unparse(node.func)} {fault}"


def fault_of(call: ast.Call, function: ast.Attribute) -> str:
    """What is wrong with a call; "" if nothing."""
    owner = ast.unparse(function.value)
    options = {option.arg: option.value for option in call.keywords}
    limit = options.get("timeout", call.args[0] if call.args else None)
    has_limit = limit is not None and ast.unparse(limit) != "None"
    if owner == "subprocess":
        if function.attr == "Popen":
            return f"starts what nothing ends; use running() of {HELPERS}"
        waits = function.attr in {"run", "call", "check_call", "check_output"}
        return "needs timeout=" if waits and "timeout" not in options else ""
    if owner == "threading" and function.attr == "Thread":
        return "" if "daemon" in options else f"may keep the process from ending; use thread() of {HELPERS}"
    # A `WorkerProcess` waits for a limit of its own, and a metric's value is there at once.
    is_bounded = has_limit or owner == "worker" or owner.endswith("._value")
    if function.attr in {"join", "wait", "get", "communicate"} and not is_bounded:
        return f"needs a limit; for threads there is join() of {HELPERS}"
    return ""
