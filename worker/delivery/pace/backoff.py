"""How long a failed request waits before it is sent again."""

import random


class Backoff:
    """Full-jitter exponential delays: the n-th is uniform in [0, min(most, initial * 2^n)] seconds.

    After "Exponential Backoff and Jitter" (AWS Architecture Blog): full jitter spreads a crowd's retries best.
    """

    def __init__(self, initial: float, most: float, rng: random.Random) -> None:
        self._initial = initial
        self._most = most
        self._rng = rng

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after the failed attempt; the first attempt is 1."""
        ceiling = self._initial * 2.0 ** min(attempt - 1, 64)
        return self._rng.uniform(0.0, min(self._most, ceiling))

    def jitter(self) -> float:
        """Return what is added to a delay that the service asked for: uniform in [0, initial] seconds."""
        return self._rng.uniform(0.0, self._initial)
