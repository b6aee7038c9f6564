"""Child processes that never outlive the process that started them.

Between a parent and its child runs a small supervisor: this file, as a program. Its standard input is a pipe, and only the
parent has the other end. So if the parent ends, even by SIGKILL, the supervisor reads an end of file:

    parent  --- signal numbers, one byte each; end of file: the parent is gone -->  supervisor  -- signals -->  child
    parent  <-- the child's pid, or why it did not start; end of file: it ended --  supervisor

Only the supervisor signals the child, and only before it has reaped it. So no signal reaches another process that got the same
pid. The supervisor runs in a session of its own. So Ctrl-C in a terminal reaches only the parent, which stops its children in
its own order. It imports the standard library only, because it starts without site packages to be quick.
"""

import os
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that the supervisor hands to the child."""
KILL_LIMIT_S = 60.0
"""The longest wait for a killed child to end. It ends at once, unless the machine is overloaded."""
ORPHAN_GRACE_S = 2.0
"""How long an orphaned child has between SIGTERM and SIGKILL."""


class Process:
    """A running child; its output streams are text in UTF-8. As a context manager it is terminated at the end."""

    def __init__(self, args: Sequence[str], supervisor: subprocess.Popen[str], control: IO[bytes], status: IO[bytes]):
        self.args = list(args)
        self._supervisor = supervisor
        self._control = control
        self._status = status
        self.pid = self._read_pid()

    def _read_pid(self) -> int:
        line = self._status.readline().decode()
        if line.startswith("pid "):
            return int(line.split()[1])
        self.wait()
        number, _, reason = line.removeprefix("error ").strip().partition(" ")
        raise OSError(int(number or 0), reason or "the supervisor ended", self.args[0])

    @property
    def stdout(self) -> IO[str] | None:
        """The child's standard output when it was asked for as a pipe; the reader closes it."""
        return self._supervisor.stdout

    @property
    def stderr(self) -> IO[str] | None:
        """The child's standard error when it was asked for as a pipe; the reader closes it."""
        return self._supervisor.stderr

    def fileno(self) -> int:
        """A descriptor for `select` that becomes readable when the child has ended. ValueError after `wait`."""
        return self._status.fileno()

    def poll(self) -> int | None:
        """The exit code, negative for the number of the signal that ended it; None while it runs."""
        return None if self._supervisor.poll() is None else self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """Wait at most `timeout` seconds and return the exit code, as `poll` does. TimeoutError if it still runs."""
        try:
            code = self._supervisor.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.args[0]} still runs after {timeout} s") from None
        self._control.close()
        self._status.close()
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the child itself; nothing happens when it has ended."""
        try:
            self._control.write(bytes([number]))
        except (BrokenPipeError, ValueError):  # the supervisor has ended with its child; `wait` closed the pipe
            return

    def terminate(self, timeout: float = 10.0) -> int:
        """Send SIGTERM, after `timeout` seconds SIGKILL, and return the exit code."""
        self.send_signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except TimeoutError:
            return self.kill()

    def kill(self) -> int:
        """Send SIGKILL, wait, and return the exit code. TimeoutError if it still runs after `KILL_LIMIT_S`."""
        self.send_signal(signal.SIGKILL)
        return self.wait(KILL_LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()


def spawn(
    args: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int | IO[bytes] | IO[str] | None = None,
    stderr: int | IO[bytes] | IO[str] | None = None,
    remove_if_orphaned: Path | None = None,
) -> Process:
    """Start a child that ends when this process does, however that ends.

    `args[0]` is a path or a name found on PATH; `env` is the child's whole environment (None: this process's own);
    `stdout` and `stderr` are what `subprocess.Popen` takes; standard input is empty. An orphaned child gets SIGTERM,
    `ORPHAN_GRACE_S` later SIGKILL, and then the folder `remove_if_orphaned` is deleted, for a parent that would have
    deleted it. OSError if it cannot be started. A process forked from this one without exec keeps the child alive too.
    """
    command = [os.fspath(arg) for arg in args]
    control_read, control_write = os.pipe()
    status_read, status_write = os.pipe()
    control = os.fdopen(control_write, "wb", buffering=0)
    status = os.fdopen(status_read, "rb")
    folder = "" if remove_if_orphaned is None else os.fspath(remove_if_orphaned)
    try:
        supervisor = subprocess.Popen(  # noqa: S603 - the caller's own command; no shell reads it
            [sys.executable, "-I", "-S", __file__, str(status_write), folder, *command],
            stdin=control_read,
            stdout=stdout,
            stderr=stderr,
            env=None if env is None else dict(env),
            cwd=cwd,
            pass_fds=[status_write],
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )
    except BaseException:
        control.close()
        status.close()
        raise
    finally:
        os.close(control_read)
        os.close(status_write)
    return Process(command, supervisor, control, status)


def starter_pipe() -> int | None:
    """Standard input's descriptor if it is a pipe whose other end, this process's starter, is there; else None.

    Its end of file then says that the starter is gone. A pipe that has already ended says nothing: many schedulers
    and CI runners start their jobs with one.
    """
    try:
        mode = os.fstat(0).st_mode
    except OSError:  # started with standard input closed
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return None
    readable, _, _ = select.select([0], [], [], 0)
    return None if readable and not os.read(0, 4096) else 0


class _Supervisor:
    """The process in between: signals the child on the parent's behalf, and on its own when the parent is gone."""

    def __init__(self, child: subprocess.Popen[bytes]):
        self.child = child
        self.orphaned = False

    def follow_parent(self) -> None:
        """Pass signals on until the parent is gone; then end the child. Runs beside the wait for the child's end."""
        while number := os.read(0, 1):
            self.child.send_signal(number[0])
        self.orphaned = True
        self.child.send_signal(signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_S)
        self.child.kill()

    def forward(self, number: int, _frame: FrameType | None) -> None:
        """Hand a signal meant for the whole process tree to the child, whose end ends the supervisor."""
        self.child.send_signal(number)

    def watch(self) -> int:
        """Wait for the child's end and return its exit code."""
        for number in _FORWARDED:
            signal.signal(number, self.forward)
        threading.Thread(target=self.follow_parent, daemon=True).start()
        return self.child.wait()


def _end_like(code: int) -> None:
    """Leave with the child's exit code, or by the signal that ended it, for the parent to see."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.stdout.flush()
    os._exit(code)  # without waiting for the thread that reads the pipe


def _main(status: int, folder: str, command: list[str]) -> None:
    os.set_inheritable(status, False)
    try:
        # A child begins as a shell's foreground command does: what this process's own parent ignored, such as the SIGINT
        # that a shell's background job ignores, would be ignored there too, and `send_signal` would do nothing.
        for number in _FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - the parent's own command; no shell reads it
    except OSError as error:
        os.write(status, f"error {error.errno} {error.strerror}\n".encode())
        return
    os.write(status, f"pid {child.pid}\n".encode())
    supervisor = _Supervisor(child)
    code = supervisor.watch()
    if supervisor.orphaned and folder:
        shutil.rmtree(folder, ignore_errors=True)
    _end_like(code)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
