"""The lease: for how long this process may write what it has read. It is the fencing of frozen processes.

If the group gets no heartbeat of a member for a session time-out, it gives the member's partitions to others. It counts from
when it received the last heartbeat, which is never before the member sent it. This process counts from when it *sent* the
last heartbeat that was accepted. So it never believes to be a member for longer than the group does:

1. The heartbeat is sent at 0 s, and the group gets it at 0.1 s. Its answer comes at 0.2 s.
2. The process is frozen (SIGSTOP, a suspended or migrated machine, a throttled container), or cannot reach the group.
3. At 45.1 s, with the default session, the group gives its partitions away, and the new owner writes newer versions.
4. The process wakes with requests that are ready to be sent. Its lease ran out at 40.5 s: none of them is sent.

The lease is looked at when a request begins, and once more just before its bytes go to the system. What remains is a request
whose bytes the system had before the process was frozen.
"""

import math
import time
from collections.abc import Callable
from typing import Final

MARGIN_SHARE: Final = 0.1
LEAST_MARGIN_SECONDS: Final = 1.0
MOST_MARGIN_SHARE: Final = 0.25  # so that of three heartbeats in a session one may be late


def boottime() -> float:
    """Return seconds of a clock that also runs while the machine sleeps, where the system has one (Linux)."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Lease:
    """Whether the group still counts on this process. All times are in seconds of `clock`.

    It holds for a session time-out less a margin, from when the last heartbeat that the group accepted was sent. The margin
    is a tenth of the session, at least a second. In that time a request that was sent at the last moment arrives, or is cut,
    before the group gives the partitions away; the clocks of two machines differ by much less. The margin is at most a quarter
    of the session. Any thread may read it; only one thread may call `confirm`.
    """

    def __init__(self, session_seconds: float, rebalance_seconds: float, clock: Callable[[], float] = boottime) -> None:
        self.session_seconds = session_seconds
        self._rebalance_seconds = rebalance_seconds
        margin = min(max(session_seconds * MARGIN_SHARE, LEAST_MARGIN_SECONDS), session_seconds * MOST_MARGIN_SHARE)
        self._seconds = session_seconds - margin
        self._clock = clock
        self._confirmed_at = -math.inf
        self._stable_at = -math.inf
        self._ended_at = -math.inf
        self._outlasted_at = -math.inf  # when a heartbeat was sent that a long rebalance kept from renewing it
        self.was_cut_short = False
        """Whether it held when `end` was called, and no heartbeat was accepted since."""

    def now(self) -> float:
        """Read the clock. Read it before the heartbeat is handed to the client, and pass it to `confirm`."""
        return self._clock()

    def confirm(self, sent_at: float, *, in_rebalance: bool = False) -> bool:
        """Note that the group accepted a heartbeat sent at `sent_at`; returns whether the lease had run out, and holds now.

        `in_rebalance`: the answer was that a rebalance waits for this member to join again. That renews its session. But the
        group drops a member that does not join within `rebalance_seconds`, however many heartbeats it sends. The rebalance
        began after the last heartbeat without that answer was sent, so the time counts from there.
        """
        if sent_at <= self._ended_at:
            return False
        if not in_rebalance:
            self._stable_at = max(self._stable_at, sent_at)
        elif sent_at + self.session_seconds > self._stable_at + self._rebalance_seconds:
            self._outlasted_at = max(self._outlasted_at, sent_at)
            return False
        had_run_out = not self.holds()
        self._confirmed_at = max(self._confirmed_at, sent_at)
        self.was_cut_short = False
        return had_run_out and self.holds()

    def join(self, sent_at: float) -> None:
        """Note that a rebalance ended with this member in the group: the next one begins after `sent_at`."""
        if sent_at > self._ended_at:
            self._stable_at = max(self._stable_at, sent_at)

    def end(self) -> None:
        """Note that the membership has ended: no heartbeat that was sent until now confirms it."""
        if self._confirmed_at > -math.inf:  # else it has ended before
            self.was_cut_short = self.holds()
        self._ended_at = self._clock()
        self._confirmed_at = self._stable_at = self._outlasted_at = -math.inf

    def holds(self) -> bool:
        """Return whether this process may write."""
        return self._clock() - self._confirmed_at < self._seconds

    @property
    def is_outlasted(self) -> bool:
        """Whether the group answers heartbeats, but a rebalance has lasted for so long that they do not renew it."""
        return self._outlasted_at > self._confirmed_at

    def age(self) -> float:
        """Return the seconds since the last accepted heartbeat was sent; infinite if there is none."""
        return self._clock() - self._confirmed_at
