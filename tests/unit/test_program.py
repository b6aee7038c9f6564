"""A program that prints credentials, and what can go wrong with one. Real programs, without a shell."""

import os
import shlex
import sys
import time
from pathlib import Path

import pytest

from tests.support.bounded import join, thread
from tests.support.descriptors import open_descriptors
from worker.oss.credentials.program import OUTPUT_BYTES, Program, ProgramError

LIMIT_S = 30.0
SECRET = "secret-on-stderr"


def python(code: str, *arguments: object) -> str:
    """The command that runs this code."""
    return shlex.join([sys.executable, "-S", "-c", code, *map(str, arguments)])


def failure(program: Program) -> str:
    with pytest.raises(ProgramError) as raised:
        program.run()
    return str(raised.value)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_pid(path: Path) -> int:
    deadline = time.monotonic() + LIMIT_S
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(path.read_text())


def wait_dead(pid: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_it_prints_is_returned_and_its_words_are_split_as_a_shell_does() -> None:
    assert Program(python("import sys; print(sys.argv[1:])", "a b", "$HOME; echo")).run() == b"['a b', '$HOME; echo']\n"


def test_it_reads_nothing_from_this_process() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"typed at the terminal")
    os.close(write_end)
    before = os.dup(0)
    os.dup2(read_end, 0)
    try:
        assert Program(python("import sys; print(repr(sys.stdin.read()))")).run() == b"''\n"
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(read_end)


def test_a_program_that_fails_shows_neither_its_output_nor_its_command() -> None:
    code = f"import sys; print('{SECRET}'); sys.stderr.write('{SECRET}'); sys.exit(3)"
    told = failure(Program(python(code)))
    assert told == "oss.credentials_process ended with code 3; run it by hand to see what it says"


def test_a_program_that_is_killed_is_told_by_its_signal() -> None:
    assert "signal 9" in failure(Program(python("import os; os.kill(os.getpid(), 9)")))


@pytest.mark.parametrize("command", ["/nowhere/program", "/", "''", "program-of-nobody --key secret"])
def test_a_program_that_cannot_be_started_is_told_without_its_command(command: str) -> None:
    told = failure(Program(command))
    assert told.startswith("oss.credentials_process cannot be started: ")
    assert "secret" not in told


def test_a_program_that_prints_without_end_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = "import os,sys; open(sys.argv[1],'w').write(str(os.getpid()))\nwhile True: print('x' * 4096)"
    assert f"more than {OUTPUT_BYTES} bytes" in failure(Program(python(code, pid)))
    wait_dead(wait_for_pid(pid))


def test_a_program_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        "import os,subprocess,sys,time\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        "open(sys.argv[1],'w').write(str(child.pid)); time.sleep(600)"
    )
    assert "did not end within 2 s, and was ended" in failure(Program(python(code, pid), seconds=2.0))
    wait_dead(wait_for_pid(pid))


def test_a_program_that_closes_its_output_and_hangs_is_ended() -> None:
    code = "import os,time; os.close(1); time.sleep(600)"
    assert "did not end within 1 s" in failure(Program(python(code), seconds=1.0))


def test_closing_ends_a_program_that_runs_and_starts_no_other(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = Program(python("import os,sys,time; open(sys.argv[1],'w').write(str(os.getpid())); time.sleep(600)", pid))
    told: list[str] = []
    running = thread(lambda: told.append(failure(program)))
    wait_for_pid(pid)
    program.close()
    join(running)
    assert told == ["oss.credentials_process ended with signal 9; run it by hand to see what it says"]
    assert failure(program) == "oss.credentials_process is not started: the worker ends"


def test_running_leaves_neither_descriptors_nor_dead_processes() -> None:
    program = Program(python("print(1)"))
    program.run()
    before = open_descriptors()
    for _ in range(5):
        program.run()
    assert open_descriptors() - before == set()
