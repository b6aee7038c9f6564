"""How Ctrl-C ends a command: the first one lets it finish what it has begun, the second one ends it at once."""

import os
import signal
from types import FrameType
from typing import Final

from worker.app.stop import Stop

_SIGNAL_EXIT: Final = 128  # and the signal's number, as a shell shows it


def stop_on_signals() -> Stop:
    """Return what SIGINT and SIGTERM set."""
    stop = Stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(_SIGNAL_EXIT + number)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop
