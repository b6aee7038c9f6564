"""The lease: for how long a heartbeat lets this process write."""

import time

import pytest

from tests.support.fakes import FakeClock
from worker.lease import Lease, boottime


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def member(clock: FakeClock, session: float = 45.0, rebalance: float = 300.0) -> Lease:
    """A lease whose heartbeat, sent now, was accepted."""
    lease = Lease(session, rebalance, clock)
    lease.confirm(lease.now())
    return lease


def test_without_an_accepted_heartbeat_nothing_may_be_written(clock: FakeClock) -> None:
    lease = Lease(45.0, 300.0, clock)
    assert not lease.holds()
    lease.join(lease.now())
    assert not lease.holds()


@pytest.mark.parametrize(("session", "holds_for"), [(45.0, 40.5), (6.0, 5.0), (3.0, 2.25), (1800.0, 1620.0)])
def test_it_holds_for_a_session_less_its_margin(clock: FakeClock, session: float, holds_for: float) -> None:
    lease = member(clock, session)
    clock.advance(holds_for - 0.01)
    assert lease.holds()
    clock.advance(0.02)
    assert not lease.holds()


def test_it_counts_from_when_the_heartbeat_was_sent_not_from_its_answer(clock: FakeClock) -> None:
    lease = Lease(45.0, 300.0, clock)
    sent_at = lease.now()
    clock.advance(30.0)  # frozen, or a slow answer
    lease.confirm(sent_at)
    assert lease.age() == 30.0
    clock.advance(11.0)
    assert not lease.holds()


def test_an_answer_that_was_waiting_while_the_process_was_frozen_renews_nothing(clock: FakeClock) -> None:
    lease = member(clock)
    sent_at = lease.now()
    clock.advance(100.0)
    assert not lease.confirm(sent_at)
    assert not lease.holds()


def test_that_it_holds_again_is_returned_once(clock: FakeClock) -> None:
    lease = member(clock)
    clock.advance(41.0)
    assert lease.confirm(lease.now())
    clock.advance(1.0)
    assert not lease.confirm(lease.now())


def test_an_older_answer_that_comes_late_takes_nothing_away(clock: FakeClock) -> None:
    lease = member(clock)
    early = lease.now()
    clock.advance(3.0)
    lease.confirm(lease.now())
    lease.confirm(early)
    assert lease.age() == 0.0


def test_once_ended_only_a_later_heartbeat_begins_it_again(clock: FakeClock) -> None:
    lease = member(clock)
    sent_before = lease.now()
    clock.advance(1.0)
    lease.end()
    assert not lease.holds()
    lease.confirm(sent_before)
    assert not lease.holds()
    clock.advance(1.0)
    lease.confirm(lease.now())
    assert lease.holds()


def test_in_a_rebalance_heartbeats_renew_it_until_the_group_would_go_on_without_this_member(clock: FakeClock) -> None:
    """The group drops a member that does not join within the rebalance's time-out, however many heartbeats it sends."""
    lease = member(clock, session=45.0, rebalance=60.0)
    held = []
    for _ in range(30):
        clock.advance(3.0)
        lease.confirm(lease.now(), in_rebalance=True)
        held.append(lease.holds())
    dropped_at = 60.0
    assert held.index(False) * 3.0 < dropped_at
    assert held.index(False) * 3.0 > 45.0
    assert not any(held[held.index(False) :])


def test_a_sync_lets_heartbeats_of_the_next_rebalance_renew_it(clock: FakeClock) -> None:
    lease = Lease(45.0, 300.0, clock)
    clock.advance(1.0)
    lease.confirm(lease.now(), in_rebalance=True)
    assert not lease.holds()
    lease.join(lease.now())
    lease.confirm(lease.now(), in_rebalance=True)
    assert lease.holds()


def test_the_clock_runs_while_the_machine_sleeps_where_the_system_has_one() -> None:
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert abs(boottime() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1.0
    else:
        assert abs(boottime() - time.monotonic()) < 1.0
