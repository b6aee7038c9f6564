"""Whether this process is a member, and when its join was lost, on a clock that the test advances."""

from types import SimpleNamespace

import pytest
from kafka import errors as kafka_errors
from kafka.structs import MemberState

from tests.support.client import COORDINATOR, FakeConsumer
from tests.support.fakes import FakeClock
from worker.consumer.joins import JOINING, Joins
from worker.consumer.membership import COORDINATOR_GRACE_SECONDS, LOOK_SECONDS, Membership, lease_of
from worker.errors import Fenced
from worker.lease import Lease
from worker.settings.tables import Kafka

SETTINGS = Kafka(group_id="group", group_instance_id="replica-0")
SESSION = SETTINGS.session_timeout_ms / 1000
LONGEST_JOIN = SESSION + SETTINGS.max_poll_interval_ms / 1000
PENDING = SimpleNamespace(is_done=False)


class Bench:
    """A membership of which the test says what the client knows."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lease = Lease(SESSION, SETTINGS.max_poll_interval_ms / 1000, self.clock)
        self.joins = Joins(SETTINGS, 1.0, self.clock)
        self.aborts = 0
        self.refusal = ""  # of the last heartbeat
        self.membership = Membership(
            SETTINGS,
            self.lease,
            self.joins,
            abort=self._abort,
            clock=self.clock,
            heartbeat_refusal=lambda: self.refusal,
        )
        self.consumer = FakeConsumer()
        self.consumer.state = MemberState.REBALANCING

    def _abort(self) -> None:
        self.aborts += 1

    def join_group(self) -> None:
        self.consumer.state = MemberState.STABLE
        self.lease.confirm(self.clock())
        assert self.watch() == ""
        assert self.membership.is_member

    def watch(self, after: float = 0.0) -> str:
        self.clock.advance(after)
        return self.membership.watch(self.consumer)


def test_a_member_is_one_whose_heartbeat_was_answered_in_a_stable_group() -> None:
    bench = Bench()
    bench.consumer.state = MemberState.STABLE
    assert (bench.watch(), bench.membership.is_member) == ("", False)
    bench.join_group()


def test_a_join_that_nothing_awaits_is_lost_after_a_session() -> None:
    bench = Bench()
    assert bench.watch(SESSION - 0.1) == ""
    assert bench.watch(0.1) == f"no member of the group for {SESSION:.0f} s; joining again"


def test_a_join_that_the_broker_owes_an_answer_is_not_lost_until_no_join_can_take_so_long() -> None:
    bench = Bench()
    bench.consumer._coordinator._join_task = PENDING
    for _ in range(int(LONGEST_JOIN) - 1):
        assert bench.watch(1.0) == ""
    assert bench.watch(1.0) == ""  # it is no join that can be waited for any more, and counts from here
    assert "joining again" in bench.watch(SESSION)


def test_a_join_that_lasted_longer_than_a_session_is_given_time_for_its_first_heartbeat() -> None:
    bench = Bench()
    bench.join_group()
    bench.consumer.state = MemberState.REBALANCING
    bench.consumer._coordinator._join_task = PENDING
    for _ in range(int(SESSION) + 2):
        assert bench.watch(1.0) == ""
    bench.consumer._coordinator._join_task = None
    bench.consumer.state = MemberState.STABLE
    assert bench.watch(SESSION - 1.0) == ""
    assert "joining again" in bench.watch(1.0)


def test_a_member_whose_heartbeats_are_not_answered_is_none_after_a_session() -> None:
    bench = Bench()
    bench.join_group()
    assert bench.watch(SESSION - 0.1) == ""
    assert "joining again" in bench.watch(0.1 + LOOK_SECONDS)


def test_time_in_which_a_revoke_was_waited_for_does_not_count() -> None:
    bench = Bench()
    bench.membership.excuse(10.0)
    bench.membership.excuse(-5.0)
    assert bench.watch(SESSION + 9.9) == ""
    assert bench.watch(0.1) != ""


def test_a_join_that_the_group_refuses_was_not_lost() -> None:
    bench = Bench()
    for _ in range(30):
        assert bench.joins.note_refusal(kafka_errors.GroupAuthorizationFailedError())
        assert bench.watch(SESSION / 3) == ""
    assert "grant READ on the group" in bench.membership.waits_for


def test_a_join_without_an_answer_is_lost_after_a_session_also_where_the_one_before_was_refused() -> None:
    """The client may have lost it, or its IO thread may have failed: then it answers nothing any more."""
    bench = Bench()
    for _ in range(30):
        assert bench.joins.note_refusal(kafka_errors.GroupAuthorizationFailedError())
        assert bench.watch(SESSION / 3) == ""
    assert bench.watch(SESSION - 1.0) == ""
    assert bench.watch(1.0) == f"no member of the group for {SESSION:.0f} s; joining again"


def test_a_join_that_waits_after_others_were_refused_is_given_all_the_time_that_a_join_can_take() -> None:
    bench = Bench()
    for _ in range(2 * int(LONGEST_JOIN)):
        assert bench.joins.note_refusal(kafka_errors.GroupMaxSizeReachedError())
        assert bench.watch(1.0) == ""
    bench.consumer._coordinator._join_task = PENDING
    for _ in range(int(LONGEST_JOIN) - 1):
        assert bench.watch(1.0) == ""


def test_a_refusal_is_forgotten_once_the_group_is_stable_with_this_member() -> None:
    bench = Bench()
    assert bench.joins.note_refusal(kafka_errors.GroupMaxSizeReachedError())
    bench.join_group()
    assert bench.membership.waits_for == JOINING


def test_requests_are_cut_once_each_time_that_the_lease_runs_out() -> None:
    bench = Bench()
    bench.membership.abort_when_lease_runs_out()
    assert bench.aborts == 0  # there never was a lease
    for times in (1, 2):
        bench.lease.confirm(bench.clock())
        bench.membership.abort_when_lease_runs_out()
        assert bench.aborts == times - 1
        bench.clock.advance(SESSION)
        for _ in range(3):
            bench.membership.abort_when_lease_runs_out()
        assert bench.aborts == times


def test_what_is_said_when_nothing_may_be_written_is_what_the_group_answered(caplog: pytest.LogCaptureFixture) -> None:
    """The runbook takes unanswered heartbeats as the sign of a network fault, or of a process that was frozen."""
    bench = Bench()

    def said_after(seconds: float) -> str:
        caplog.clear()
        bench.clock.advance(seconds)
        bench.membership.abort_when_lease_runs_out()
        return "; ".join(message.partition(":")[0] for message in caplog.messages)

    def held() -> None:
        bench.clock.advance(1.0)
        bench.lease.confirm(bench.clock())
        bench.membership.abort_when_lease_runs_out()

    held()
    bench.lease.end()
    bench.lease.end()  # the answers to two requests
    expelled = said_after(0.0)
    held()
    silent = said_after(SESSION)
    held()
    for _ in range(SETTINGS.max_poll_interval_ms // 3000):
        bench.clock.advance(3.0)
        bench.lease.confirm(bench.clock(), in_rebalance=True)
    outlasted = said_after(0.0)
    held()
    bench.clock.advance(SESSION)
    bench.lease.end()  # the answer to the first heartbeat after the process was frozen
    frozen = said_after(0.0)
    assert expelled == "the group does not know this member any more"
    assert outlasted == "a rebalance of the group has lasted for most of kafka.max_poll_interval_ms"
    assert silent == frozen == "no heartbeat was answered for most of kafka.session_timeout_ms"


def test_a_refusal_of_heartbeats_is_named_where_the_lease_ran_out(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.refusal = "GroupAuthorizationFailedError"
    bench.join_group()
    bench.watch(SESSION)
    (line,) = caplog.messages
    assert line.startswith(
        "no heartbeat was accepted for most of kafka.session_timeout_ms (GroupAuthorizationFailedError): nothing is written"
    )


def test_an_ended_membership_has_no_lease_and_cuts_nothing_more() -> None:
    bench = Bench()
    bench.join_group()
    bench.membership.end()
    bench.membership.abort_when_lease_runs_out()
    assert (bench.membership.is_member, bench.lease.holds(), bench.aborts) == (False, False, 0)


def test_a_coordinator_that_is_not_there_is_the_reason_after_a_moment() -> None:
    bench = Bench()
    bench.consumer._manager._conns[COORDINATOR].connected = False
    bench.watch()
    bench.clock.advance(COORDINATOR_GRACE_SECONDS - 0.1)
    assert bench.membership.waits_for == JOINING
    bench.clock.advance(0.1)
    assert "its coordinator is not there" in bench.membership.waits_for
    assert "its coordinator is not there" in bench.watch(SESSION)


def test_a_new_consumer_has_a_session_of_its_own() -> None:
    bench = Bench()
    bench.clock.advance(SESSION)
    bench.membership.begin()
    assert bench.watch(SESSION - 0.1) == ""


def test_a_fenced_process_names_the_setting_that_two_have_in_common() -> None:
    bench = Bench()
    bench.membership.raise_if_fenced()
    bench.membership.fence()
    with pytest.raises(Fenced, match=r"'group' with kafka\.group_instance_id = 'replica-0'"):
        bench.membership.raise_if_fenced()


def test_the_lease_of_a_member_lasts_for_its_session() -> None:
    assert lease_of(SETTINGS).session_seconds == SESSION


def test_the_time_without_a_coordinator_counts_over_all_consumers_and_ends_with_it() -> None:
    bench = Bench()
    bench.join_group()
    bench.consumer._manager._conns.clear()
    seen = [bench.membership.coordinator_away_seconds()]
    for _ in range(3):
        bench.watch()
        bench.clock.advance(COORDINATOR_GRACE_SECONDS)
        seen.append(bench.membership.coordinator_away_seconds())
        bench.membership.end()  # the consumer is replaced
        bench.membership.begin()
    bench.consumer._manager._conns[COORDINATOR] = SimpleNamespace(connected=True)
    bench.watch()
    seen.append(bench.membership.coordinator_away_seconds())
    grace = COORDINATOR_GRACE_SECONDS
    assert seen == [0, grace, 2 * grace, 3 * grace, 0]


REFUSED = kafka_errors.GroupMaxSizeReachedError()


def test_a_coordinator_that_refuses_the_join_is_there_whether_it_was_found_before_or_may_not_be_looked_up() -> None:
    bench = Bench()
    bench.consumer._manager._conns.clear()
    bench.watch()  # the client has not found it yet
    for found in (True, False):
        if found:
            bench.consumer._manager._conns[COORDINATOR] = SimpleNamespace(connected=True)
        else:
            bench.consumer._manager._conns.clear()
        for _ in range(20):
            assert bench.joins.note_refusal(REFUSED)
            assert bench.watch(30.0) == ""
            assert bench.membership.coordinator_away_seconds() == 0
            assert "stop some, or raise group.max.size" in bench.membership.waits_for


def test_a_coordinator_that_went_away_after_it_had_refused_the_join_is_what_is_waited_for() -> None:
    bench = Bench()
    assert bench.joins.note_refusal(REFUSED)
    bench.watch()
    bench.consumer._manager._conns.clear()
    assert bench.watch(31.0) == ""
    assert bench.watch(COORDINATOR_GRACE_SECONDS) == ""
    assert bench.membership.coordinator_away_seconds() == COORDINATOR_GRACE_SECONDS
    assert "its coordinator is not there" in bench.membership.waits_for
    assert bench.joins.note_refusal(REFUSED)  # it is back
    bench.watch()
    assert (bench.membership.coordinator_away_seconds(), "group.max.size" in bench.membership.waits_for) == (0, True)


def test_nothing_is_said_of_a_coordinator_while_no_consumer_can_be_made() -> None:
    bench = Bench()
    bench.consumer._manager._conns.clear()
    bench.watch()
    bench.clock.advance(60.0)
    bench.membership.end()
    assert bench.membership.coordinator_away_seconds() == 60.0
    bench.membership.forget_coordinator()
    bench.clock.advance(3600.0)
    assert bench.membership.coordinator_away_seconds() == 0
    bench.membership.begin()
    bench.watch()
    assert bench.membership.waits_for == JOINING


def test_the_moment_in_which_each_start_looks_for_the_coordinator_is_no_time_without_one() -> None:
    bench = Bench()
    bench.consumer._manager._conns.clear()
    bench.watch()
    bench.watch(COORDINATOR_GRACE_SECONDS - 0.1)
    assert bench.membership.coordinator_away_seconds() == 0
