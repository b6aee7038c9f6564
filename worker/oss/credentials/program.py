"""Runs a program that prints something small, within bounds."""

import contextlib
import os
import select
import shlex
import signal
import subprocess
import threading
import time
from typing import Final

OUTPUT_BYTES: Final = 65_536
RUN_SECONDS: Final = 60.0  # as the Alibaba Cloud CLI allows


class ProgramError(Exception):
    """The program printed nothing that can be used; the message says why, and quotes neither it nor its command."""


class Program:
    """A command, split into words as a shell does, and run without one.

    Its stderr is thrown away and its stdin is empty. It is ended, with all that it started, when it runs too long or
    prints too much, and when the worker closes.
    """

    def __init__(self, command: str, seconds: float = RUN_SECONDS) -> None:
        self._words = shlex.split(command)
        self._seconds = seconds
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def run(self) -> bytes:
        """Return what it prints. Raises `ProgramError`. One thread may run it at a time."""
        process = self._started()
        try:
            output = self._output(process)
        finally:
            self._ended(process)
        if process.returncode:
            how = f"code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
            raise ProgramError(f"oss.credentials_process ended with {how}; run it by hand to see what it says")
        return output

    def close(self) -> None:
        """End the program if it runs, and start it no more."""
        with self._lock:
            self._is_closed = True
            if self._running is not None and self._running.returncode is None:
                _kill(self._running)

    def _started(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._is_closed:
                raise ProgramError("oss.credentials_process is not started: the worker ends")
            try:
                self._running = subprocess.Popen(  # noqa: S603 - the command is the operator's own setting
                    self._words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # so that all that it starts can be ended with it
                )
            except (OSError, ValueError) as error:  # ValueError: a null byte
                why = error.strerror if isinstance(error, OSError) else "a null byte in the command"
                raise ProgramError(f"oss.credentials_process cannot be started: {why}") from None
            return self._running

    def _output(self, process: "subprocess.Popen[bytes]") -> bytes:
        """Read to the end of the output and of the program."""
        assert process.stdout is not None  # noqa: S101 - it is a pipe; the type checker wants it said
        descriptor, deadline, parts, size = process.stdout.fileno(), time.monotonic() + self._seconds, [], 0
        too_long = f"oss.credentials_process did not end within {self._seconds:g} s, and was ended"
        readable = select.poll()
        readable.register(descriptor, select.POLLIN)
        while True:
            if not readable.poll(1000 * max(0.0, deadline - time.monotonic())):
                raise ProgramError(too_long)
            part = os.read(descriptor, OUTPUT_BYTES)
            if not part:
                break
            parts.append(part)
            size += len(part)
            if size > OUTPUT_BYTES:
                raise ProgramError(f"oss.credentials_process printed more than {OUTPUT_BYTES} bytes, and was ended")
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise ProgramError(too_long) from None
        return b"".join(parts)

    def _ended(self, process: "subprocess.Popen[bytes]") -> None:
        with self._lock:
            self._running = None
            if process.returncode is None:
                _kill(process)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the program and all that it started in its session."""
    with contextlib.suppress(ProcessLookupError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
