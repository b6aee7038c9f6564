"""The end: what is in flight is finished within the deadline, the rest stays unsettled; then commit and leave."""

import pytest

from tests.support.app import App
from worker.app.draining import LEAVE_SECONDS
from worker.delivery.lane import Lane
from worker.settings import tables
from worker.telemetry.state import State

TOTAL = 25.0
LEFT = "not settled in time; these come again"


class Bench(App):
    """A worker with `records` polled and not yet sealed, which is asked to stop."""

    def __init__(self, records: int = 0) -> None:
        super().__init__(shutdown=tables.Shutdown(drain_seconds=TOTAL))
        self.started()
        if records:
            self.publish(records)
            self.turn()
        self.stop.set()
        self.began_at = self.clock()

    def run_and_measure(self) -> float:
        """Run it to its end; returns the seconds that took."""
        self.run()
        return self.clock() - self.began_at


def warnings(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int | None]]:
    return [(record.getMessage(), record.__dict__.get("records")) for record in caplog.records]


def test_a_worker_with_nothing_in_flight_ends_at_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    assert bench.run_and_measure() == 0.0
    assert (bench.state(), bench.cluster.members, warnings(caplog)) == ((State.STOPPED, "drained"), [], [])


def test_open_batches_are_sealed_delivered_and_committed(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(3)
    bench.on_idle = bench.deliver
    assert bench.run_and_measure() < 1.0
    assert (len(bench.sink.vectors), bench.committed(), warnings(caplog)) == (3, {0: 3}, [])


def test_the_state_is_draining_meanwhile_and_the_main_loop_turns() -> None:
    bench = Bench(1)
    seen = []

    def look() -> None:
        seen.append((bench.state(), bench.clock() - bench.status.read().last_turn < 0.09))
        if len(seen) == 3:
            bench.deliver()

    bench.on_idle = look
    bench.run()
    assert seen == [((State.DRAINING, "stop requested"), True)] * 3


def test_what_is_not_settled_in_time_is_given_back_with_room_for_the_commit(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(3)
    assert TOTAL - LEAVE_SECONDS <= bench.run_and_measure() <= TOTAL
    assert (bench.committed(), bench.cluster.members) == ({0: 0}, [])
    assert warnings(caplog) == [(LEFT, 3)]
    assert (bench.ledger.outstanding(), bench.state()) == (0, (State.STOPPED, "drained"))


def test_a_dead_letter_that_is_not_written_is_waited_for() -> None:
    bench = Bench()
    bench.dead_letters.is_idle = False

    def finish() -> None:
        bench.dead_letters.is_idle = bench.clock() - bench.began_at >= 3.0

    bench.on_idle = finish
    assert 3.0 <= bench.run_and_measure() < 4.0


def test_a_dead_letter_of_the_last_request_is_waited_for_whenever_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def end_with_a_dead_letter(_lane: Lane) -> bool:
        bench.dead_letters.is_idle = bench.clock() - bench.began_at >= 3.0
        return True

    monkeypatch.setattr(Lane, "is_idle", property(end_with_a_dead_letter))
    assert 3.0 <= bench.run_and_measure() < 4.0


def test_nothing_new_is_fetched_and_what_comes_all_the_same_is_not_written(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(1)
    steps = 0

    def publish_then_deliver() -> None:
        nonlocal steps
        steps += 1
        if steps == 1:
            bench.publish(2)
        elif steps == 5:
            bench.deliver()

    bench.on_idle = publish_then_deliver
    bench.run()
    assert (len(bench.sink.vectors), bench.committed(), warnings(caplog)) == (1, {0: 1}, [])


def test_a_membership_lost_while_draining_ends_the_drain_without_a_commit(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(2)
    bench.source.is_cut_off = True
    bench.clock.advance(bench.lease.session_seconds - 1.0)
    commits = bench.commits()
    bench.run()
    assert bench.commits() == commits
    assert warnings(caplog)[0] == ("no longer a member of the group while draining", None)
    assert bench.state() == (State.STOPPED, "drained")


def test_a_last_commit_that_fails_is_logged_and_the_group_is_left(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(1)
    bench.on_idle = bench.deliver
    bench.cluster.refuse_commits = RuntimeError("no")
    bench.run()
    assert (bench.cluster.members, bench.committed()) == ([], {})
    assert [message for message, _ in warnings(caplog)] == [
        "the last commit failed: what was settled since the one before comes again"
    ]


def test_a_worker_that_never_connected_ends_at_once() -> None:
    app = App(partitions=0)
    app.turn()
    app.stop.set()
    before = app.clock()
    app.run()
    assert (app.clock(), app.state()) == (before, (State.STOPPED, "drained"))


class FakeTraces:
    """Traces that take as long as they are given to export what is left."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.calls: list[tuple[str, float]] = []

    def flush(self) -> None:
        self.calls.append(("flush", self._app.source.is_member))

    def close(self, seconds: float) -> None:
        self._app.clock.advance(seconds)
        self.calls.append(("close", seconds))


def test_what_is_left_of_the_traces_is_exported_beside_the_commit_and_within_the_deadline() -> None:
    bench = Bench(records=3)
    traces = FakeTraces(bench)
    bench.worker._drain._traces = traces  # type: ignore[assignment]  # the two calls of a drain
    assert bench.run_and_measure() <= TOTAL
    assert traces.calls == [("flush", True), ("close", 3.0)]
