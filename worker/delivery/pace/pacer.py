"""The pace of one index: whether a request may leave now, and what its answer says about the next one.

Nothing here waits. It returns how long to wait, so that the caller can be woken earlier.
"""

import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from worker.delivery.pace.gate import Gate
from worker.delivery.pace.in_flight import InFlightLimit
from worker.delivery.pace.rate import UNLIMITED, AdaptiveRate
from worker.ports import Pace


class Admission(NamedTuple):
    """`delay` is 0 if the request may leave, else the seconds after which to ask again.

    `for_room`: too many are in flight, and it may leave earlier, when one of them is answered.
    """

    delay: float
    is_probe: bool = False
    for_room: bool = False
    at: float = 0.0  # when it left, in the clock's seconds
    vectors: int = 0
    was_full: bool = False  # it was the last for which there was room


class Verdict(Enum):
    """What became of an admitted request."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # for its content; that takes the service another time than to accept it
    THROTTLED = "throttled"  # the service asks for less
    FAILED = "failed"  # a server's error, or no answer
    DENIED = "denied"  # credentials, or no such index: it says nothing of how much the service can accept
    NOT_SENT = "not sent"

    @property
    def is_judged(self) -> bool:
        """Whether the service looked at the content and judged it."""
        return self in (Verdict.ACCEPTED, Verdict.REFUSED)


class Pacer:
    """The pace of one index: its gate, its requests and vectors a second, and its requests in flight.

    Thread-safe. An admitted request must be followed by `answered`. A caller that has to wait keeps its place in a queue:
    callers that ask later are admitted after it, so none waits for ever.
    """

    ROOM_SECONDS: Final = 1.0  # the longest that a request waits for room before it asks again
    OUTAGE_FAILURES: Final = 3  # without a good answer between them, which count as an outage

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
        self._now_in_flight = 0
        self._failures = 0
        self._waiting: deque[object] = deque()

    @property
    def vectors_per_second(self) -> float:
        """The rate in force; 0 for no limit."""
        return self._vectors.rate

    @property
    def in_flight_limit(self) -> int:
        """How many requests may be in flight."""
        return self._in_flight.limit

    def pace(self) -> Pace:
        """Return the limits as they are now, and why."""
        with self._lock:
            return Pace(
                self._vectors.rate,
                self._vectors.cause,
                self._in_flight.limit,
                self._in_flight.cause,
                self._vectors.throttled_at,
                self._gate.closed_until,
            )

    @property
    def has_room(self) -> bool:
        """Whether another request may be in flight."""
        return self._now_in_flight < self._in_flight.limit

    def is_next(self, who: object) -> bool:
        """Return whether there is room, and no one waits before `who`."""
        with self._lock:
            return self._is_next(who)

    def _is_next(self, who: object) -> bool:
        return self.has_room and (not self._waiting or self._waiting[0] == who)

    def admit(self, vectors: int, who: object = None) -> Admission:
        """Let one request of so many vectors leave, or return when to ask again, and keep the place of `who` until then.

        `who` identifies the caller, by a value that is equal each time. A caller that does not ask again must `leave`.
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
            self._requests.spend(1, now)
            self._vectors.spend(vectors, now)
            self._now_in_flight += 1
            return Admission(0.0, self._gate.enter(), at=now, vectors=vectors, was_full=not self.has_room)

    def leave(self, who: object) -> bool:
        """Give up the place of `who`; False if it had none."""
        with self._lock:
            return self._leave(who)

    def _leave(self, who: object) -> bool:
        if who not in self._waiting:
            return False
        self._waiting.remove(who)
        return True

    def close_for(self, seconds: float) -> None:
        """Let nothing more leave for so long, then one probe."""
        with self._lock:
            self._gate.close(self._clock() + seconds)

    def answered(self, admission: Admission, verdict: Verdict, size: int = 0) -> None:
        """Note what became of an admitted request with a body of `size` bytes."""
        with self._lock:
            now = self._clock()
            self._now_in_flight -= 1
            if admission.is_probe:
                self._gate.answered(well=verdict.is_judged)
            if verdict is Verdict.ACCEPTED:
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
                self._requests.spend(-1, now)
                self._vectors.spend(-admission.vectors, now)

    def _failed(self, admission: Admission, now: float) -> None:
        self._failures += 1
        if self._failures > 1:  # one among good answers may be its own fault
            self._in_flight.failed(admission.at, now)
        if self._failures >= self.OUTAGE_FAILURES:
            self._requests.restart(now)
            self._vectors.restart(now)
