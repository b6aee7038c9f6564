"""How a signal stops the worker."""

import pytest

from tests.support.fakes import FakeClock
from worker.app.stop import Stop


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_it_waits_as_long_as_it_may_while_it_is_not_set(clock: FakeClock) -> None:
    before = clock()
    assert Stop(clock, clock.advance).wait(3.0) is False
    assert clock() - before == pytest.approx(3.0)


def test_it_returns_soon_after_it_was_set(clock: FakeClock) -> None:
    before = clock()

    def sleep(seconds: float) -> None:
        clock.advance(seconds)
        if clock() - before >= 1.0:
            stop.set()

    stop = Stop(clock, sleep)
    assert stop.wait(3.0) is True
    assert clock() - before == pytest.approx(1.0, abs=0.1)


def test_one_that_is_set_does_not_wait(clock: FakeClock) -> None:
    before = clock()
    stop = Stop(clock, clock.advance)
    stop.set()
    assert (stop.wait(3.0), stop.is_set(), clock()) == (True, True, before)
