"""Rates: a token bucket, and one that finds its share of a limit which others use too."""

import math
from typing import Final

from worker.oss.dialect import VECTORS_PER_SECOND
from worker.ports import LimitCause

UNLIMITED: Final = 0.0


class TokenBucket:
    """So many units a second, with a burst of one second. A rate of 0 means no limit.

    A request for more than the burst may leave when the bucket is full, and leaves it in debt. So a batch larger than one
    second's worth keeps the mean rate, and does not wait for ever.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._level = rate
        self._at = now

    @property
    def rate(self) -> float:
        """Units a second; 0 for no limit."""
        return self._rate

    def change(self, rate: float, now: float) -> None:
        """Change the rate. The level stays, but is at most one second's worth of the new rate."""
        self._refill(now)
        self._rate = rate
        self._level = min(self._level, rate)

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` may be spent; 0 if it may be now."""
        if self._rate == UNLIMITED:
            return 0.0
        self._refill(now)
        return max(0.0, (min(amount, self._rate) - self._level) / self._rate)

    def spend(self, amount: float, now: float) -> None:
        """Spend `amount`; `wait` has returned 0 for it."""
        if self._rate != UNLIMITED:
            self._refill(now)
            self._level -= amount

    def _refill(self, now: float) -> None:
        self._level = min(self._rate, self._level + (now - self._at) * self._rate)
        self._at = now


class AdaptiveRate:
    """A rate that finds its share of a limit which others use too: additive increase, multiplicative decrease.

    It begins at a quarter of `most` and doubles every two seconds (slow start), until the service throttles for the first
    time. From there on it grows by a fixed part of `most` each second, and falls to 70 % at a throttled answer. It grows only
    while requests wait for it and accepted answers come. It falls once for all requests that left before it last fell.
    The longer no answer was throttled, the faster it grows, with the cube of that time: then others have probably stopped
    (Ha, Rhee and Xu, "CUBIC", 2008). After an outage it restarts (`restart`).

    Replicas that share the limit all grow alike, and each is throttled, and falls, in proportion to its own rate; so
    their rates meet (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989).
    The numbers come from `python -m tests.bench.pacing`. They keep refusals rare: ten replicas at 2,500 vectors a second,
    500 in a request, make five requests a second together, of which a twentieth is one in four seconds.

    `most` is in units a second. With 0, no limit of our own, it is unlimited until the service throttles. Then it continues
    from the recent rate, or from what an index usually accepts, whichever is more. Times are in seconds of a monotonic clock.
    """

    BEGIN_SHARE: Final = 0.25  # of `most`
    DOUBLING_SECONDS: Final = 2.0
    GROWTH_SHARE: Final = 0.0004  # of `most`, each second
    GROWTH_SECONDS: Final = 30.0  # of growth by one answer at most, however long the one before is past
    FALL: Final = 0.7
    LEAST_SHARE: Final = 0.01  # of `most`: one that is always throttled still asks
    QUIET_SECONDS: Final = 80.0  # since the last throttled answer, after which it grows twice as fast
    RETURN_SHARE: Final = 0.25  # of the rate before an outage
    RECENT_SECONDS: Final = 5.0
    USUAL_MOST: Final = VECTORS_PER_SECOND

    def __init__(self, most: float, now: float) -> None:
        self._most = most
        self._scale = most
        self._slow_start_below = most
        self._bucket = TokenBucket(most * self.BEGIN_SHARE, now)
        self._held_back = False
        self._grown_at = self._fell_at = now
        self._is_away = False
        self._has_answered = True  # well, since it last fell
        self._recent = 0.0  # units spent, older ones faded
        self._faded_at = now
        self._cause = LimitCause.STARTING
        self.throttled_at: float | None = None
        """When it last fell for a throttled answer, None if it never did."""

    @property
    def rate(self) -> float:
        """Units a second in force; 0 for no limit."""
        return self._bucket.rate

    @property
    def cause(self) -> LimitCause:
        """Why the rate is what it is."""
        if self.rate == UNLIMITED:
            return LimitCause.UNLIMITED
        return LimitCause.CONFIGURED if self._most and self.rate >= self._most else self._cause

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` may be spent; 0 if it may be now."""
        delay = self._bucket.wait(amount, now)
        self._held_back |= delay > 0.0
        return delay

    def spend(self, amount: float, now: float) -> None:
        """Spend `amount`; `wait` has returned 0 for it."""
        self._bucket.spend(amount, now)
        self._fade(now)
        self._recent += amount

    def grow(self, now: float) -> None:
        """Note a good answer."""
        seconds, self._grown_at = min(now - self._grown_at, self.GROWTH_SECONDS), now
        held_back, self._held_back = self._held_back, False
        self._has_answered = True
        if self._is_away:  # it does not grow for the time of the outage
            self._is_away, self._fell_at, seconds = False, now, 0.0
        if not held_back or self.rate == UNLIMITED:
            return
        rate = self.rate
        if rate < self._slow_start_below:
            rate = min(rate * 2.0 ** (seconds / self.DOUBLING_SECONDS), self._slow_start_below)
        else:
            haste = 1.0 + ((now - self._fell_at) / self.QUIET_SECONDS) ** 3
            rate += self._scale * self.GROWTH_SHARE * haste * seconds
        if self._cause is not LimitCause.STARTING:
            self._cause = LimitCause.GROWING
        self._bucket.change(min(rate, self._most or math.inf), now)

    def fall(self, sent_at: float, now: float) -> None:
        """Note that a request which left at `sent_at` was throttled."""
        if sent_at < self._fell_at:
            return
        self._fell_at = self._grown_at = self.throttled_at = now
        self._cause = LimitCause.THROTTLED
        rate = self.rate
        if rate == UNLIMITED:
            self._fade(now)
            rate = self._scale = max(self.USUAL_MOST, self._recent / self.RECENT_SECONDS)
        rate = max(rate * self.FALL, self._scale * self.LEAST_SHARE)
        # Of several throttled answers in a row only the first shows where the limit is.
        if self._has_answered and not self._is_away:
            self._slow_start_below = rate
        self._has_answered = False
        self._bucket.change(rate, now)

    def restart(self, now: float) -> None:
        """Begin again with a slow start up to the old rate: after an outage all clients of the service come back at once.

        May be called again during the outage.
        """
        if self.rate == UNLIMITED or self._is_away:
            return
        self._is_away = True
        self._cause = LimitCause.OUTAGE
        self._slow_start_below = max(self._slow_start_below, self.rate)
        self._bucket.change(max(self.rate * self.RETURN_SHARE, self._scale * self.LEAST_SHARE), now)

    def _fade(self, now: float) -> None:
        self._recent *= math.exp((self._faded_at - now) / self.RECENT_SECONDS)
        self._faded_at = now
