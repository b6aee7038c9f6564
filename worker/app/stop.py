"""How a signal stops the worker."""

import time
from collections.abc import Callable
from typing import Final


class Stop:
    """A signal handler sets it, so it has no lock: `threading.Event.set` would wait for the lock of the `wait` that it interrupts.

    `clock` and `sleep` are in seconds.
    """

    _LOOK_SECONDS: Final = 0.05

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._is_set = False

    def set(self) -> None:
        """Ask the worker to stop."""
        self._is_set = True

    def is_set(self) -> bool:
        """Return whether the worker was asked to stop."""
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, so many seconds at most; returns whether it is."""
        deadline = self._clock() + seconds
        while not self._is_set and (remaining := deadline - self._clock()) > 0:
            self._sleep(min(remaining, self._LOOK_SECONDS))
        return self._is_set
