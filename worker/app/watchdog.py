"""Ends the process when the main loop makes no more turns."""

import threading
from collections.abc import Callable
from typing import Final

from worker.telemetry.state import Status


class Watchdog:
    """Ends the process when the main loop does not turn any more, for such a process looks alive and does nothing.

    It counts its own looks, not the time: a process that was stopped for an hour (SIGSTOP, a suspended machine) turns
    again before it has looked often enough.
    """

    LOOK_SECONDS: Final = 5.0

    def __init__(self, status: Status, *, still_seconds: float, end: Callable[[str], None]) -> None:
        self._status = status
        self._looks = max(1, round(still_seconds / self.LOOK_SECONDS))
        self._end = end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        seen, still = 0.0, 0
        while not self._stop.wait(self.LOOK_SECONDS):
            turned = self._status.read().last_turn
            still = still + 1 if turned == seen else 0
            seen = turned
            if still >= self._looks:
                self._end(f"the main loop has not turned for {still * self.LOOK_SECONDS:.0f} s")
                return
