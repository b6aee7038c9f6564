"""How a signal tells the worker to stop."""

import time
from typing import Final


class Stop:
    """Told by a signal handler, so it takes no lock: `threading.Event` takes the one that its own wait holds."""

    _LOOK_SECONDS: Final = 0.05

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Tell the worker to stop."""
        self._is_set = True

    def is_set(self) -> bool:
        """Tell whether it was told."""
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait so long at most, and return what `is_set` tells then."""
        deadline = time.monotonic() + seconds
        while not self._is_set and (remaining := deadline - time.monotonic()) > 0:
            time.sleep(min(remaining, self._LOOK_SECONDS))
        return self._is_set
