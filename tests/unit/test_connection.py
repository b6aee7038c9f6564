"""The consumer's connection: made, lost, and made again, without a line of log for each attempt."""

import pytest

from tests.support.app import TOPIC, App
from worker.app.connection import Connection
from worker.telemetry.state import State

MISSING = f"kafka has no such topic: {TOPIC}"


class Bench(App):
    """A connection by itself."""

    def __init__(self, partitions: int = 1, retry_seconds: float = 30.0) -> None:
        super().__init__(partitions)
        self.connection = Connection(
            self.source, self.status, retry_seconds=retry_seconds, clock=self.clock, wait=self.stop.wait
        )


def test_a_connection_is_made_once() -> None:
    bench = Bench()
    assert (bench.connection.is_up, bench.connection.connect(), bench.connection.connect()) == (False, True, True)
    assert (bench.connection.is_up, bench.cluster.members) == (True, [bench.source])


@pytest.mark.parametrize(("retry_seconds", "waited"), [(30.0, 5.0), (2.0, 2.0)])
def test_an_attempt_that_failed_is_made_again_after_a_while(retry_seconds: float, waited: float) -> None:
    bench = Bench(0, retry_seconds)
    assert bench.connection.connect() is False
    failed_at = bench.clock()
    bench.cluster.make_topic(TOPIC, 1)
    while not bench.connection.connect():
        assert bench.clock() < failed_at + 60
    assert bench.clock() - failed_at == pytest.approx(waited, abs=0.5)


def test_while_it_waits_it_returns_early_where_the_worker_is_to_stop() -> None:
    bench = Bench(0)
    bench.connection.connect()
    bench.stop.set()
    before = bench.clock()
    assert (bench.connection.connect(), bench.clock()) == (False, before)


def test_a_problem_is_logged_once_however_often_it_is_met(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(0)
    for _ in range(50):
        bench.connection.connect()
    assert [(r.getMessage(), r.__dict__["error"], r.__dict__["again_in"]) for r in caplog.records] == [
        ("not connected", MISSING, 5.0)
    ]
    assert bench.state() == (State.STARTING, MISSING)


def test_a_problem_that_comes_back_after_a_connection_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    for _ in range(2):
        bench.clock.advance(10.0)
        assert bench.connection.connect()
        bench.source.poll(0.0)
        bench.source.is_cut_off = True
        bench.clock.advance(bench.lease.session_seconds)
        assert bench.connection.poll(0.0) == []
        assert bench.connection.is_up is False
        bench.source.is_cut_off = False
    assert [record.getMessage() for record in caplog.records] == ["not connected"] * 2


def test_a_connection_lost_while_draining_is_not_made_again_and_the_state_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.connection.connect()
    bench.source.poll(0.0)
    bench.status.enter(State.DRAINING, "stop requested")
    bench.source.is_cut_off = True
    bench.clock.advance(bench.lease.session_seconds)
    assert bench.connection.poll_while_draining(0.0) == []
    assert (bench.connection.is_up, bench.state()) == (False, (State.DRAINING, "stop requested"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_only_a_connection_that_is_up_is_closed() -> None:
    bench = Bench()
    bench.connection.connect()
    bench.connection.close(1.0)
    assert (bench.connection.is_up, bench.cluster.members) == (False, [])
    bench.cluster.members.append(bench.source)
    bench.connection.close(1.0)
    assert bench.cluster.members == [bench.source]
