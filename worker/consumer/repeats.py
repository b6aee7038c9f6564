"""Log messages that repeat: which of them are logged."""

from collections.abc import Callable
from typing import Final

REPEAT_SECONDS: Final = 30.0
LEAST_SECONDS: Final = 1.0


class Repeats:
    """Admits a message that differs from the one before, at most one a second, and the same one every 30 s."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged = ""
        self._logged_at = float("-inf")
        self.left_out = 0
        """How many were not logged before the last one that was."""
        self._left_out_since = 0

    def admit(self, message: str) -> bool:
        """Remember a message and return True if it is to be logged now; else count it as left out."""
        now = self._clock()
        if now - self._logged_at < (REPEAT_SECONDS if message == self._logged else LEAST_SECONDS):
            self._left_out_since += 1
            return False
        self._logged, self._logged_at = message, now
        self.left_out, self._left_out_since = self._left_out_since, 0
        return True

    def clear(self) -> None:
        """Forget the last message, so that it is logged when it comes again."""
        self._logged = ""
