"""When a request may leave: retry delays, token buckets, and the gate that an index closes.

Nothing here waits; everything answers how long to wait, so that the caller can be woken for a better reason.
"""

import random
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

UNLIMITED: Final = 0.0


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


class TokenBucket:
    """So many units a second, with a burst of one second. A rate of 0 means no limit.

    A request for more than the burst is let through when the bucket is full and leaves it in debt, so that a batch
    larger than one second's worth keeps the mean rate instead of never going.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._level = rate
        self._at = now

    @property
    def rate(self) -> float:
        """Units a second; 0 for no limit."""
        return self._rate

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` may be taken; 0 where it may be now."""
        if self._rate == UNLIMITED:
            return 0.0
        self._refill(now)
        return max(0.0, (min(amount, self._rate) - self._level) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, which `wait` has let through."""
        if self._rate != UNLIMITED:
            self._refill(now)
            self._level -= amount

    def _refill(self, now: float) -> None:
        self._level = min(self._rate, self._level + (now - self._at) * self._rate)
        self._at = now


class Admission(NamedTuple):
    """`delay` is 0 where the request may leave, else the seconds after which to ask again."""

    delay: float
    is_probe: bool = False


class Gate:
    """Closed while an index asks for a pause or refuses everything; afterwards one probe goes first.

    CLOSED until a time, then HALF-OPEN: one request passes as the probe and the others wait for its answer, which opens
    the gate or closes it again. Answers to requests that left before it closed say nothing about it.
    """

    _LOOK_AGAIN: Final = 0.05  # seconds until those who wait for the probe's answer ask again

    def __init__(self) -> None:
        self._closed_until: float | None = None
        self._probed: float | None = None  # until when it was closed as the probe left
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Tell whether requests pass freely."""
        return self._closed_until is None

    def close(self, until: float) -> None:
        """Let nothing pass before `until`; of several, the latest holds."""
        self._closed_until = until if self._closed_until is None else max(self._closed_until, until)

    def wait(self, now: float) -> float:
        """Return the seconds to wait; 0 where the caller may go."""
        if self._closed_until is None:
            return 0.0
        if now < self._closed_until:
            return self._closed_until - now
        return self._LOOK_AGAIN if self._probing else 0.0

    def enter(self) -> bool:
        """Note that the caller goes, and tell whether as the probe."""
        self._probing = not self.is_open
        self._probed = self._closed_until
        return self._probing

    def answered(self, *, well: bool) -> None:
        """Note the probe's answer: a good one opens the gate; after one that closed nothing, the next may probe.

        The probe leaves, an older request's answer closes the gate anew, the probe's good answer comes: the newer pause
        holds.
        """
        self._probing = False
        if well and self._closed_until == self._probed:
            self._closed_until = None


class Pacer:
    """The pace of one index: its gate, its requests and its vectors a second. Safe for several threads."""

    def __init__(self, *, requests_per_second: float, vectors_per_second: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        now = clock()
        self._requests = TokenBucket(requests_per_second, now)
        self._vectors = TokenBucket(vectors_per_second, now)
        self._gate = Gate()

    @property
    def vectors_per_second(self) -> float:
        """The rate in force; 0 for no limit."""
        return self._vectors.rate

    def admit(self, vectors: int) -> Admission:
        """Let one request of so many vectors leave, or tell when to ask again."""
        with self._lock:
            now = self._clock()
            delay = max(self._gate.wait(now), self._requests.wait(1, now), self._vectors.wait(vectors, now))
            if delay > 0.0:
                return Admission(delay)
            self._requests.take(1, now)
            self._vectors.take(vectors, now)
            return Admission(0.0, self._gate.enter())

    def close_for(self, seconds: float) -> None:
        """Let nothing more leave for so long, then one probe."""
        with self._lock:
            self._gate.close(self._clock() + seconds)

    def answered(self, admission: Admission, *, well: bool) -> None:
        """Note what became of an admitted request: `well` if the service took or judged it."""
        if admission.is_probe:
            with self._lock:
                self._gate.answered(well=well)
