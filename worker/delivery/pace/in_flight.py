"""How many requests may be in flight at once."""

import math
from typing import Final

from worker.ports import LimitCause


class InFlightLimit:
    """How many requests may be in flight at once: as many as do not make each other slower.

    It grows by one for each round of answers while requests wait for it. It falls by a tenth, once a round, while answers take
    more than twice as long as at their best in the last minutes; so requests do not queue in the service. A request that fails
    without an answer, or with a server's error, halves it. It is two or more, so that one request without an answer does not
    stop all others. After "Vegas" (Brakmo and Peterson, "TCP Vegas", 1995), on smoothed times.

    Times are compared among bodies of about one size, since a larger body takes longer by itself.
    """

    LEAST: Final = 2.0  # also where it begins
    SMOOTHING: Final = 0.25
    SLOW: Final = 2.0
    FALL: Final = 0.9
    FAILED_FALL: Final = 0.5
    BEST_OF_SECONDS: Final = 60.0  # the best of the current such period and of the one before
    SMALLEST_SECONDS: Final = 0.005  # faster answers show the scheduler's noise, not the service's load

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._least = min(self.LEAST, self._most)
        self._limit = self._least
        self._fell_at = -math.inf
        self._cause = LimitCause.STARTING
        self._recent: dict[int, float] = {}
        self._best: dict[int, tuple[float, float, float]] = {}  # when the period began, its best, and the one before's

    @property
    def limit(self) -> int:
        """Requests that may be in flight."""
        return int(self._limit)

    @property
    def cause(self) -> LimitCause:
        """Why the limit is what it is."""
        return LimitCause.CONFIGURED if self._limit >= self._most else self._cause

    def answered(self, size: int, sent_at: float, now: float, *, was_full: bool) -> None:
        """Note an answer to a body of `size` bytes; `was_full` if as many were in flight as might be."""
        seconds, best = self._smoothed(size.bit_length(), max(now - sent_at, self.SMALLEST_SECONDS), now)
        if seconds > self.SLOW * best:
            self._fall(self.FALL, sent_at, now, LimitCause.SLOW)
        elif was_full:
            if self._cause is not LimitCause.STARTING:
                self._cause = LimitCause.GROWING
            self._limit = min(self._most, self._limit + 1.0 / self._limit)

    def failed(self, sent_at: float, now: float) -> None:
        """Note that a request got no answer, or a server's error."""
        self._fall(self.FAILED_FALL, sent_at, now, LimitCause.OUTAGE)

    def _fall(self, factor: float, sent_at: float, now: float, cause: LimitCause) -> None:
        if sent_at >= self._fell_at:
            self._fell_at, self._cause = now, cause
            self._limit = max(self._least, self._limit * factor)

    def _smoothed(self, octave: int, seconds: float, now: float) -> tuple[float, float]:
        """Return the smoothed time of bodies of that size, and its recent best."""
        recent = self._recent.get(octave, seconds)
        recent += self.SMOOTHING * (seconds - recent)
        self._recent[octave] = recent
        began, best, before = self._best.get(octave, (now, math.inf, math.inf))
        if now - began > self.BEST_OF_SECONDS:
            began, best, before = now, math.inf, best
        best = min(best, recent)
        self._best[octave] = (began, best, before)
        return recent, min(best, before)
