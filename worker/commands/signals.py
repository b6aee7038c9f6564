"""How signals end a command: the first one lets it finish what it has begun, a second one ends the process at once."""

import os
import signal
from types import FrameType

from worker.app.stop import Stop
from worker.commands.exit_codes import SIGNAL_BASE


def stop_on_signals() -> Stop:
    """Return what SIGINT and SIGTERM set."""
    stop = Stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(SIGNAL_BASE + number)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop
