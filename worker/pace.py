"""When a request may leave: retry delays, rates and limits that adapt, and the gate that an index closes.

Nothing here waits; everything answers how long to wait, so that the caller can be woken for a better reason.
"""

import math
import random
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
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

    def change(self, rate: float, now: float) -> None:
        """Go on at another rate. What was saved up stays, as far as it is one second's worth of the new one."""
        self._refill(now)
        self._rate = rate
        self._level = min(self._level, rate)

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


class AdaptiveRate:
    """A rate that finds its share of a limit which others use too: additive increase, multiplicative decrease.

    It begins at a quarter of `most` and doubles every two seconds (slow start), until the service throttles for the first
    time. From there on it grows by a fixed part of `most` each second, and falls to 70 % at a throttled answer. It grows only
    while it holds requests back and good answers come, and falls once for all requests that left before it last fell.
    The longer no answer was throttled the faster it grows, with the cube of that time, for others have gone then (Ha, Rhee
    and Xu, "CUBIC", 2008). After an outage it begins anew (`begin_anew`).

    Replicas that share the limit all grow alike, and each is throttled, and falls, in proportion to its own rate; so
    their rates meet (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989).
    The numbers come from `python -m tests.bench.pacing`. They keep refusals rare: ten replicas at 2,500 vectors a second,
    500 in a request, make five requests a second together, of which a twentieth is one in four seconds.

    `most` is in units a second. With 0, no limit of our own, it is unlimited until the service throttles, and then goes
    on from what was let through lately, or from what services usually take, whichever is more. Times are in seconds of a monotonic clock.
    """

    BEGIN_SHARE: Final = 0.25  # of `most`
    DOUBLING_SECONDS: Final = 2.0
    GROWTH_SHARE: Final = 0.0004  # of `most`, each second
    GROWTH_SECONDS: Final = 30.0  # of growth by one answer at most, however long the one before is past
    FALL: Final = 0.7
    LEAST_SHARE: Final = 0.01  # of `most`: one that is always throttled still asks
    QUIET_SECONDS: Final = 80.0  # since the last throttled answer, after which it grows twice as fast
    RETURN_SHARE: Final = 0.25  # of the rate before an outage
    LATELY_SECONDS: Final = 5.0
    USUAL_MOST: Final = 2500.0  # vectors a second for an index ("Limits", OSS vector buckets)

    def __init__(self, most: float, now: float) -> None:
        self._most = most
        self._scale = most
        self._slow_start_below = most
        self._bucket = TokenBucket(most * self.BEGIN_SHARE, now)
        self._held_back = False
        self._grown_at = self._fell_at = now
        self._is_away = False
        self._has_answered = True  # well, since it last fell
        self._lately = 0.0  # units let through, older ones faded
        self._faded_at = now

    @property
    def rate(self) -> float:
        """Units a second in force; 0 for no limit."""
        return self._bucket.rate

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` may be taken; 0 where it may be now."""
        delay = self._bucket.wait(amount, now)
        self._held_back |= delay > 0.0
        return delay

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, which `wait` has let through."""
        self._bucket.take(amount, now)
        self._fade(now)
        self._lately += amount

    def grow(self, now: float) -> None:
        """Note a good answer."""
        seconds, self._grown_at = min(now - self._grown_at, self.GROWTH_SECONDS), now
        held_back, self._held_back = self._held_back, False
        self._has_answered = True
        if self._is_away:  # the time that it was away is no time to grow by
            self._is_away, self._fell_at, seconds = False, now, 0.0
        if not held_back or self.rate == UNLIMITED:
            return
        rate = self.rate
        if rate < self._slow_start_below:
            rate = min(rate * 2.0 ** (seconds / self.DOUBLING_SECONDS), self._slow_start_below)
        else:
            haste = 1.0 + ((now - self._fell_at) / self.QUIET_SECONDS) ** 3
            rate += self._scale * self.GROWTH_SHARE * haste * seconds
        self._bucket.change(min(rate, self._most or math.inf), now)

    def fall(self, sent_at: float, now: float) -> None:
        """Note that a request which left at `sent_at` was throttled."""
        if sent_at < self._fell_at:
            return
        self._fell_at = self._grown_at = now
        rate = self.rate
        if rate == UNLIMITED:
            self._fade(now)
            rate = self._scale = max(self.USUAL_MOST, self._lately / self.LATELY_SECONDS)
        rate = max(rate * self.FALL, self._scale * self.LEAST_SHARE)
        # A spell of nothing but refusals tells no share; its first one does.
        if self._has_answered and not self._is_away:
            self._slow_start_below = rate
        self._has_answered = False
        self._bucket.change(rate, now)

    def begin_anew(self, now: float) -> None:
        """Come back in a ramp, a slow start to where it was: the service is away, and all who write to it come back at once.

        May be called again while the service is away.
        """
        if self.rate == UNLIMITED or self._is_away:
            return
        self._is_away = True
        self._slow_start_below = max(self._slow_start_below, self.rate)
        self._bucket.change(max(self.rate * self.RETURN_SHARE, self._scale * self.LEAST_SHARE), now)

    def _fade(self, now: float) -> None:
        self._lately *= math.exp((self._faded_at - now) / self.LATELY_SECONDS)
        self._faded_at = now


class InFlightLimit:
    """How many requests may be under way at once: as many as do not make each other slower.

    It grows by one for each round of answers while it is what holds requests back, and falls by a tenth, once a round,
    while answers take more than twice as long as they did at their best in the last minutes; so the requests are where
    they are worked on, and do not queue in the service. A request that fails without an answer, or with a server's
    error, halves it. It stays at two or more, so that a request which nobody answers does not hold up all others. After "Vegas" (Brakmo and Peterson, "TCP Vegas", 1995), on smoothed times.

    Times are compared among bodies of about one size, since a larger body takes longer by itself.
    """

    LEAST: Final = 2.0  # also where it begins
    SMOOTHING: Final = 0.25
    SLOW: Final = 2.0
    FALL: Final = 0.9
    FAILED_FALL: Final = 0.5
    BEST_OF_SECONDS: Final = 60.0  # the best of the current such period and of the one before
    SMALLEST_SECONDS: Final = 0.005  # what is faster than that tells more of the scheduler than of the service

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._least = min(self.LEAST, self._most)
        self._limit = self._least
        self._fell_at = -math.inf
        self._recent: dict[int, float] = {}
        self._best: dict[int, tuple[float, float, float]] = {}  # when the period began, its best, and the one before's

    @property
    def limit(self) -> int:
        """Requests that may be under way."""
        return int(self._limit)

    def answered(self, size: int, sent_at: float, now: float, *, was_full: bool) -> None:
        """Note an answer to a body of `size` bytes; `was_full` if as many were under way as might be."""
        seconds, best = self._smoothed(size.bit_length(), max(now - sent_at, self.SMALLEST_SECONDS), now)
        if seconds > self.SLOW * best:
            self._fall(self.FALL, sent_at, now)
        elif was_full:
            self._limit = min(self._most, self._limit + 1.0 / self._limit)

    def failed(self, sent_at: float, now: float) -> None:
        """Note that a request got no answer, or a server's error."""
        self._fall(self.FAILED_FALL, sent_at, now)

    def _fall(self, factor: float, sent_at: float, now: float) -> None:
        if sent_at >= self._fell_at:
            self._fell_at = now
            self._limit = max(self._least, self._limit * factor)

    def _smoothed(self, octave: int, seconds: float, now: float) -> tuple[float, float]:
        """Return the smoothed time of bodies of that size, and the best that it was lately."""
        recent = self._recent.get(octave, seconds)
        recent += self.SMOOTHING * (seconds - recent)
        self._recent[octave] = recent
        began, best, before = self._best.get(octave, (now, math.inf, math.inf))
        if now - began > self.BEST_OF_SECONDS:
            began, best, before = now, math.inf, best
        best = min(best, recent)
        self._best[octave] = (began, best, before)
        return recent, min(best, before)


class Admission(NamedTuple):
    """`delay` is 0 where the request may leave, else the seconds after which to ask again.

    `for_room`: too many are under way, and it may leave earlier, when one of them is answered.
    """

    delay: float
    is_probe: bool = False
    for_room: bool = False
    at: float = 0.0  # when it left, in the clock's seconds
    vectors: int = 0
    was_full: bool = False  # it was the last for which there was room


class Verdict(Enum):
    """What became of an admitted request."""

    TAKEN = "taken"
    REFUSED = "refused"  # judged for what it holds, which takes another time than taking it
    THROTTLED = "throttled"  # the service asks for less
    FAILED = "failed"  # a server's error, or no answer
    DENIED = "denied"  # credentials, or no such index: it says nothing of how much the service can take
    NOT_SENT = "not sent"

    @property
    def is_judged(self) -> bool:
        """Tell whether the service looked at what it was sent, and judged it."""
        return self in (Verdict.TAKEN, Verdict.REFUSED)


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
    """The pace of one index: its gate, its requests and vectors a second, and its requests under way.

    Safe for several threads. An admitted request must be followed by `answered`. Who has to wait keeps its place: those who
    ask later are admitted after it, so nobody waits for ever while others come and go.
    """

    ROOM_SECONDS: Final = 1.0  # the longest that a request waits for room before it asks again
    OUTAGE_FAILURES: Final = 3  # without a good answer between them, after which the service is taken to be away

    def __init__(
        self, *, requests_per_second: float, vectors_per_second: float, max_in_flight: int, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        now = clock()
        self._requests = AdaptiveRate(requests_per_second, now)
        self._vectors = AdaptiveRate(vectors_per_second, now)
        self._in_flight = InFlightLimit(max_in_flight)
        self._gate = Gate()
        self._under_way = 0
        self._failures = 0
        self._waiting: deque[object] = deque()

    @property
    def vectors_per_second(self) -> float:
        """The rate in force; 0 for no limit."""
        return self._vectors.rate

    @property
    def in_flight_limit(self) -> int:
        """How many requests may be under way."""
        return self._in_flight.limit

    @property
    def has_room(self) -> bool:
        """Tell whether another request may be under way."""
        return self._under_way < self._in_flight.limit

    def is_next(self, who: object) -> bool:
        """Tell whether there is room, and nobody waits before `who`."""
        with self._lock:
            return self._is_next(who)

    def _is_next(self, who: object) -> bool:
        return self.has_room and (not self._waiting or self._waiting[0] is who)

    def admit(self, vectors: int, who: object = None) -> Admission:
        """Let one request of so many vectors leave, or tell when to ask again, and keep the place of `who` until then.

        Who does not ask again must `leave`.
        """
        with self._lock:
            is_next = self._is_next(who)
            now = self._clock()
            delay = max(self._gate.wait(now), self._requests.wait(1, now), self._vectors.wait(vectors, now))
            if delay > 0.0 or not is_next:
                if who is not None and who not in self._waiting:
                    self._waiting.append(who)
                return Admission(delay) if is_next else Admission(self.ROOM_SECONDS, for_room=True)
            self._leave(who)
            self._requests.take(1, now)
            self._vectors.take(vectors, now)
            self._under_way += 1
            return Admission(0.0, self._gate.enter(), at=now, vectors=vectors, was_full=not self.has_room)

    def leave(self, who: object) -> None:
        """Give up a place, if there is one."""
        with self._lock:
            self._leave(who)

    def _leave(self, who: object) -> None:
        if who in self._waiting:
            self._waiting.remove(who)

    def close_for(self, seconds: float) -> None:
        """Let nothing more leave for so long, then one probe."""
        with self._lock:
            self._gate.close(self._clock() + seconds)

    def answered(self, admission: Admission, verdict: Verdict, size: int = 0) -> None:
        """Note what became of an admitted request with a body of `size` bytes."""
        with self._lock:
            now = self._clock()
            self._under_way -= 1
            if admission.is_probe:
                self._gate.answered(well=verdict.is_judged)
            if verdict is Verdict.TAKEN:
                self._in_flight.answered(size, admission.at, now, was_full=admission.was_full)
            if verdict.is_judged:
                self._failures = 0
                self._requests.grow(now)
                self._vectors.grow(now)
            elif verdict is Verdict.THROTTLED:
                if self._requests.rate != UNLIMITED:  # else the vectors' rate alone finds its way
                    self._requests.fall(admission.at, now)
                self._vectors.fall(admission.at, now)
            elif verdict is Verdict.FAILED:
                self._failed(admission, now)
            elif verdict is Verdict.NOT_SENT:
                self._requests.take(-1, now)
                self._vectors.take(-admission.vectors, now)

    def _failed(self, admission: Admission, now: float) -> None:
        self._failures += 1
        if self._failures > 1:  # one among good answers may be its own fault
            self._in_flight.failed(admission.at, now)
        if self._failures >= self.OUTAGE_FAILURES:
            self._requests.begin_anew(now)
            self._vectors.begin_anew(now)
