"""Ends the process when the main loop makes no more turns."""

import threading
from collections.abc import Callable
from typing import Final

from worker.telemetry.state import Status


class Watchdog:
    """Calls `end` with the reason when the main loop has not turned for `still_seconds`.

    Such a process looks alive and does nothing. The watchdog counts its own checks, not the time. So a process that was stopped
    for an hour (SIGSTOP, a suspended machine) makes a turn again before the watchdog has checked often enough.
    """

    LOOK_SECONDS: Final = 5.0

    def __init__(self, status: Status, *, still_seconds: float, end: Callable[[str], None]) -> None:
        self._status = status
        self._most = max(1, round(still_seconds / self.LOOK_SECONDS))
        self._end = end
        self._seen = 0.0  # at the last check: when the main loop had last made a turn
        self._still = 0  # checks since then
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def dead_threads(self) -> list[str]:
        """Return the thread's name if it ended although it was not asked to."""
        return [] if self._stop.is_set() or self._thread.is_alive() else [self._thread.name]

    def look(self) -> bool:
        """Check once, `LOOK_SECONDS` after the last time; returns whether it ended the process."""
        turned = self._status.read().last_turn
        self._still = self._still + 1 if turned == self._seen else 0
        self._seen = turned
        if self._still < self._most:
            return False
        self._end(f"the main loop has not turned for {self._still * self.LOOK_SECONDS:.0f} s")
        return True

    def _run(self) -> None:
        while not self._stop.wait(self.LOOK_SECONDS):
            if self.look():
                return
