"""The watchdog counts its looks at a main loop that does not turn."""

from worker.app.watchdog import Watchdog
from worker.telemetry.state import Status

LOOK = Watchdog.LOOK_SECONDS


class Bench:
    """A watchdog that may see the main loop still at three looks, and what it ends the process with."""

    def __init__(self, still_seconds: float = 3 * LOOK) -> None:
        self.status = Status(1.0)
        self.reasons: list[str] = []
        self.watchdog = Watchdog(self.status, still_seconds=still_seconds, end=self.reasons.append)


def test_a_main_loop_that_does_not_turn_ends_the_process_with_the_time_in_the_reason() -> None:
    bench = Bench()
    ended = [bench.watchdog.look() for _ in range(4)]  # the first look sees where the main loop is
    assert (ended, bench.reasons) == ([False, False, False, True], ["the main loop has not turned for 15 s"])


def test_a_turn_between_two_looks_begins_the_count_again() -> None:
    bench = Bench()
    for turn in range(10):
        bench.status.turned(2.0 + turn)
        assert [bench.watchdog.look() for _ in range(3)] == [False] * 3
    assert bench.reasons == []


def test_time_that_passes_without_looks_does_not_count() -> None:
    """The process was stopped for an hour: at the next look the main loop has not turned, but may before the next."""
    bench = Bench()
    bench.watchdog.look()
    bench.status.turned(3600.0)
    assert [bench.watchdog.look(), bench.watchdog.look()] == [False, False]
    assert bench.reasons == []


def test_one_look_is_the_least_that_it_waits_for() -> None:
    bench = Bench(still_seconds=0.1)
    assert [bench.watchdog.look(), bench.watchdog.look()] == [False, True]
