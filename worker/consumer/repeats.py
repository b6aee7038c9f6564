"""Messages that come again and again: which of them are logged."""

from collections.abc import Callable
from typing import Final

REPEAT_SECONDS: Final = 30.0
LEAST_SECONDS: Final = 1.0


class Repeats:
    """Lets a message through that differs from the one before, at most one a second, and the same again every 30 s."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said = ""
        self._said_at = float("-inf")
        self.left_out = 0
        """How many were left out before the one that was let through last."""
        self._held_back = 0

    def is_due(self, message: str) -> bool:
        """Return whether the message is to be logged now; it is remembered if so, and counted if not."""
        now = self._clock()
        if now - self._said_at < (REPEAT_SECONDS if message == self._said else LEAST_SECONDS):
            self._held_back += 1
            return False
        self._said, self._said_at = message, now
        self.left_out, self._held_back = self._held_back, 0
        return True

    def clear(self) -> None:
        """Forget what was said, so that it is news when it comes again."""
        self._said = ""
