"""Membership in the group: whether this process is a member, and whether the client has lost its join.

The client can lose a join that new metadata or a changed subscription caused. `poll` continues as if nothing were wrong:

1. A poll begins the join, and returns before the answer is there.
2. The answer comes. The client regards the join as done.
3. The next poll does not wait for the rest of it: the process is no member, and does not try to become one.

So a process gets a new consumer if it is no member for a session time-out and no join of it waits for the broker's answer.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, Final

from kafka.structs import MemberState

from worker.consumer import client_internals
from worker.consumer.joins import JOINING, NO_COORDINATOR, Joins
from worker.errors import Fenced
from worker.lease import Lease
from worker.settings.tables import Kafka

log = logging.getLogger("worker.source")

COORDINATOR_GRACE_SECONDS: Final = 3.0  # to find the group's coordinator, which takes a moment at each start
LOOK_SECONDS: Final = 1.0  # between looks at the membership, once joined


def lease_of(settings: Kafka) -> Lease:
    """Return a lease for a member with these settings. It does not hold before the first heartbeat."""
    return Lease(settings.session_timeout_ms / 1000, settings.max_poll_interval_ms / 1000)


class Membership:
    """Watches the membership and its lease. Only the main loop calls it, except that any thread may call `fence`."""

    def __init__(
        self,
        settings: Kafka,
        lease: Lease,
        joins: Joins,
        *,
        abort: Callable[[], None],
        clock: Callable[[], float],
        heartbeat_refusal: Callable[[], str] = lambda: "",
    ) -> None:
        """`abort` cuts the requests in flight. `heartbeat_refusal` returns the error that the last heartbeat was answered with."""
        self._settings = settings
        self._lease = lease
        self._joins = joins
        self._abort = abort
        self._clock = clock
        self._heartbeat_refusal = heartbeat_refusal
        self._was_cut = True  # whether the requests in flight were cut since the lease ran out; at first there are none
        self._stable_at = clock()  # when it last was a member
        self._member_at = clock()  # when it last was a member or was joining
        self._joining_at = -math.inf  # when a join of it last waited for an answer
        self._coordinator_away_since: float | None = None  # over all consumers, one after the other
        self._look_again_at = 0.0
        self._fenced: Fenced | None = None
        self.is_member = False
        """Whether the group was joined."""

    def begin(self) -> None:
        """Start all times again: there is a new consumer, or the group has just answered."""
        self._stable_at = self._member_at = self._clock()

    def end(self) -> None:
        """Note that the membership was lost, and was not ended by this process: nothing may be written any more."""
        self._lease.end()
        self._was_cut = True
        self.is_member = False

    def forget_coordinator(self) -> None:
        """Note that there is no consumer, and none could be made: nothing is known of the coordinator."""
        self._coordinator_away_since = None

    def leave(self) -> None:
        """Note that this process has left the group, which ended its lease."""
        self.is_member = False

    @property
    def waits_for(self) -> str:
        """What a process that is no member waits for, with the group's reason where it refuses."""
        return f"{JOINING}: {NO_COORDINATOR}" if self.coordinator_away_seconds() else self._joins.waits_for

    def coordinator_away_seconds(self) -> float:
        """Return for how long no broker has coordinated the group, 0.0 while one does, or for less than each start needs.

        A new consumer does not start it again: while the coordinator is away, the consumer is replaced once in each session.
        Any thread may call it.
        """
        since = self._coordinator_away_since
        seconds = 0.0 if since is None else self._clock() - since
        return seconds if seconds >= COORDINATOR_GRACE_SECONDS else 0.0

    # -- fencing

    def fence(self) -> None:
        """Note that another process has replaced this one in the group. Any thread may call it."""
        self._fenced = Fenced(
            f"another process joined the group {self._settings.group_id!r} with "
            f"kafka.group_instance_id = {self._settings.group_instance_id!r}; each replica needs a value of its own"
        )

    def raise_if_fenced(self) -> None:
        """Raise `Fenced` if another process has replaced this one."""
        if self._fenced is not None:
            raise self._fenced

    # -- the lease

    def abort_when_lease_runs_out(self) -> None:
        """Cut the requests in flight, once, as a revoke does: other processes may soon write newer versions."""
        if self._lease.holds():
            self._was_cut = False
        elif not self._was_cut:
            self._was_cut = True
            log.warning(self._why_not_held(), extra={"session_timeout_ms": self._settings.session_timeout_ms})
            self._abort()

    def _why_not_held(self) -> str:
        if self._lease.was_cut_short:
            return (
                "the group does not know this member any more: nothing is written until it has joined again; look at the "
                "log of the broker that coordinates the group"
            )
        if self._lease.is_outlasted:
            return (
                "a rebalance of the group has lasted for most of kafka.max_poll_interval_ms: nothing is written until it "
                "has ended; look for a member that does not join"
            )
        if refusal := self._heartbeat_refusal():
            return (
                f"no heartbeat was accepted for most of kafka.session_timeout_ms ({refusal}): nothing is written until one "
                "is; look at this user's rights on the group, and at the log of the broker that coordinates it"
            )
        return (
            "no heartbeat was answered for most of kafka.session_timeout_ms: nothing is written until one is; "
            "look at the way to the brokers, and whether this process was frozen"
        )

    # -- joins that were lost

    def excuse(self, seconds: float) -> None:
        """Do not count seconds in which the main loop could not check, because it waited for a revoke."""
        self._member_at += max(0.0, seconds)

    def watch(self, consumer: Any) -> str:
        """Return why the consumer must be replaced: it is no member and does not join. "" if it may stay.

        One session after the last answered heartbeat was sent it is no member any more: the group gives its partitions to
        others. But a join that ended a moment ago, perhaps after more than a session, first needs a heartbeat of its own.
        """
        self._look_for_coordinator(consumer)
        if self._joins.refusal:
            if consumer.group_metadata().state == MemberState.STABLE:
                self._joins.forget_refusal()
            elif not self.is_member and self._joins.was_refused_lately:
                self.begin()
                return ""  # a join that is refused was not lost; the next one may be, or the client may have failed
        now = self._clock()
        self.abort_when_lease_runs_out()
        if self.is_member and now < self._look_again_at and self._lease.holds():
            return ""
        self._look_again_at = now + LOOK_SECONDS
        age = self._lease.age()
        if consumer.group_metadata().state == MemberState.STABLE and age < self._lease.session_seconds:
            self._stable_at = self._member_at = now - age
            self.is_member = True
        elif client_internals.is_joining(consumer) and now - self._stable_at < self._longest_join_seconds():
            self._member_at = self._joining_at = now
        elif self._seconds_without_group(now, age) >= self._lease.session_seconds:
            problem = f"no member of the group for {now - self._stable_at:.0f} s; joining again"
            return f"{problem}: {NO_COORDINATOR}" if self.coordinator_away_seconds() else problem
        return ""

    def _look_for_coordinator(self, consumer: Any) -> None:
        """Note whether the group has a coordinator. One that refuses this member is there, also where the client may not look it up."""
        if self._joins.was_refused_lately or client_internals.has_coordinator(consumer):
            self._coordinator_away_since = None
        elif self._coordinator_away_since is None:
            self._coordinator_away_since = self._clock()

    def _seconds_without_group(self, now: float, age: float) -> float:
        """Return the seconds since the last answered heartbeat was sent, or since a join last waited for its answer.

        Without any heartbeat, what `excuse` was called with does not count.
        """
        return now - self._member_at if age == math.inf else min(age, now - self._joining_at)

    def _longest_join_seconds(self) -> float:
        return (self._settings.max_poll_interval_ms + self._settings.session_timeout_ms) / 1000
