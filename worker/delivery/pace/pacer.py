"""The pace of one index: whether a request may leave now, and what its answer says about the next one.

Nothing here waits. Everything returns how long to wait, so that the caller can be woken for a better reason.
"""

import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from worker.delivery.pace.gate import Gate
from worker.delivery.pace.in_flight import InFlightLimit
from worker.delivery.pace.rate import UNLIMITED, AdaptiveRate


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
