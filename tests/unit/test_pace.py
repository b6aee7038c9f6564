"""When a request may leave: delays, rates and the gate, on a clock that the tests move."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.samples import FakeClock
from worker.pace import Admission, Backoff, Gate, Pacer, TokenBucket


class Extreme(random.Random):
    """A source of chance that always gives one end of the range."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self._share


def pacer(clock: FakeClock, requests: float = 0.0, vectors: float = 0.0) -> Pacer:
    return Pacer(requests_per_second=requests, vectors_per_second=vectors, clock=clock)


# -- backoff


@pytest.mark.parametrize(
    ("attempt", "most"),
    [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (8, 30.0), (10_000, 30.0)],
)
def test_a_delay_is_anything_from_zero_to_a_ceiling_that_doubles_up_to_the_most(attempt: int, most: float) -> None:
    assert [Backoff(0.5, 30.0, Extreme(share)).delay(attempt) for share in (0.0, 1.0)] == [0.0, most]


def test_delays_fill_the_whole_range() -> None:
    backoff = Backoff(0.5, 30.0, random.Random(7))
    delays = [backoff.delay(7) for _ in range(3000)]
    tenths = [sum(3.0 * n <= delay < 3.0 * (n + 1) for delay in delays) for n in range(10)]
    assert [200 < count < 400 for count in tenths] == [True] * 10


def test_the_jitter_on_a_delay_asked_for_is_anything_up_to_the_initial_one() -> None:
    assert [Backoff(0.5, 30.0, Extreme(share)).jitter() for share in (0.0, 1.0)] == [0.0, 0.5]


# -- token buckets


def run_through(bucket: TokenBucket, amounts: list[float], clock: FakeClock) -> float:
    """Take all, each as soon as it may be; return the seconds that took."""
    started = clock()
    for amount in amounts:
        while (delay := bucket.wait(amount, clock())) > 0.0:
            clock.pass_by(max(delay, 1e-6))
        bucket.take(amount, clock())
    return clock() - started


@given(
    st.floats(0.5, 5000), st.lists(st.floats(0.1, 2000), min_size=1, max_size=60), st.lists(st.floats(0, 3), max_size=3)
)
def test_never_more_than_the_rate_and_one_seconds_burst_is_let_through(
    rate: float, amounts: list[float], idle: list[float]
) -> None:
    clock = FakeClock()
    bucket = TokenBucket(rate, clock())
    clock.pass_by(sum(idle))
    seconds = run_through(bucket, amounts, clock)
    # The last one may leave the bucket in debt, by as much as it is larger than the burst.
    assert sum(amounts) <= rate * (1.0 + seconds) + max(0.0, amounts[-1] - rate) + 1e-3 * rate


@pytest.mark.parametrize("amount", [1.0, 10.0, 37.0, 500.0], ids=["small", "ten", "uneven", "five seconds' worth"])
def test_the_mean_rate_is_the_one_set_whatever_the_size_of_the_batches(amount: float) -> None:
    clock = FakeClock()
    bucket = TokenBucket(100.0, clock())
    bucket.take(100, clock())
    count = 400
    seconds = run_through(bucket, [amount] * count, clock)
    assert amount * count / seconds == pytest.approx(100.0, rel=0.02)


def test_a_batch_larger_than_the_burst_goes_when_the_bucket_is_full_and_the_next_pays_for_it() -> None:
    bucket = TokenBucket(100.0, 0.0)
    assert bucket.wait(500, 0.0) == 0.0
    bucket.take(500, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(4.01)
    assert bucket.wait(500, 4.0) == pytest.approx(1.0)
    assert bucket.wait(500, 5.0) == 0.0


def test_a_rate_below_one_a_second_still_lets_requests_through() -> None:
    clock = FakeClock()
    assert run_through(TokenBucket(0.25, clock()), [1.0] * 5, clock) == pytest.approx(16.0, abs=0.01)


def test_idle_time_saves_up_one_second_and_no_more() -> None:
    bucket = TokenBucket(10.0, 0.0)
    bucket.take(10, 0.0)
    assert bucket.wait(10, 3600.0) == 0.0
    bucket.take(10, 3600.0)
    assert bucket.wait(1, 3600.0) == pytest.approx(0.1)


def test_without_a_rate_nothing_waits() -> None:
    bucket = TokenBucket(0.0, 0.0)
    bucket.take(1e9, 0.0)
    assert (bucket.wait(1e9, 0.0), bucket.rate) == (0.0, 0.0)


# -- the gate


def test_a_closed_gate_lets_one_probe_through_and_opens_on_its_good_answer() -> None:
    clock = FakeClock()
    gate = pacer(clock)
    gate.close_for(10.0)
    assert gate.admit(1) == Admission(10.0)
    clock.pass_by(9.5)
    assert gate.admit(1) == Admission(0.5)
    clock.pass_by(0.5)
    probe = gate.admit(1)
    others = [gate.admit(1) for _ in range(3)]
    assert (probe, [other.delay > 0 for other in others]) == (Admission(0.0, is_probe=True), [True] * 3)
    gate.answered(probe, well=True)
    assert [gate.admit(1) for _ in range(3)] == [Admission(0.0, is_probe=False)] * 3


def test_a_probe_with_a_bad_answer_closes_the_gate_again() -> None:
    clock = FakeClock()
    gate = pacer(clock)
    gate.close_for(1.0)
    clock.pass_by(1.0)
    probe = gate.admit(1)
    gate.close_for(2.0)
    gate.answered(probe, well=False)
    assert gate.admit(1) == Admission(2.0)


def test_after_a_probe_that_says_nothing_the_next_one_may_probe() -> None:
    clock = FakeClock()
    gate = pacer(clock)
    gate.close_for(1.0)
    clock.pass_by(1.0)
    gate.answered(gate.admit(1), well=False)
    assert gate.admit(1) == Admission(0.0, is_probe=True)


def test_late_answers_to_requests_from_before_the_gate_closed_do_not_open_it() -> None:
    clock = FakeClock()
    gate = pacer(clock)
    before = [gate.admit(1) for _ in range(2)]
    gate.close_for(10.0)
    gate.answered(before[0], well=True)
    assert gate.admit(1) == Admission(10.0)
    clock.pass_by(10.0)
    probe = gate.admit(1)
    gate.answered(before[1], well=True)
    assert (probe.is_probe, gate.admit(1).delay > 0.0) == (True, True)


def test_a_pause_asked_for_while_the_probe_is_under_way_outlasts_its_good_answer() -> None:
    clock = FakeClock()
    gate = pacer(clock)
    gate.close_for(1.0)
    clock.pass_by(1.0)
    probe = gate.admit(1)
    gate.close_for(60.0)
    gate.answered(probe, well=True)
    assert gate.admit(1) == Admission(60.0)
    clock.pass_by(60.0)
    gate.answered(gate.admit(1), well=True)
    assert gate.admit(1) == Admission(0.0, is_probe=False)


@pytest.mark.parametrize("pauses", [(5.0, 9.0), (9.0, 5.0)], ids=["longer last", "longer first"])
def test_of_several_pauses_the_longest_holds(pauses: tuple[float, float]) -> None:
    gate = pacer(FakeClock())
    for seconds in pauses:
        gate.close_for(seconds)
    assert gate.admit(1) == Admission(9.0)


def test_a_gate_that_was_never_closed_is_open() -> None:
    gate = Gate()
    assert (gate.is_open, gate.wait(0.0), gate.enter()) == (True, 0.0, False)


# -- together


def test_the_longest_of_all_waits_is_told_and_nothing_is_taken_for_it() -> None:
    clock = FakeClock()
    both = pacer(clock, requests=2.0, vectors=100.0)
    assert [both.admit(100).delay, both.admit(1).delay] == [0.0, pytest.approx(0.01)]
    assert both.admit(50).delay == pytest.approx(0.5)
    clock.pass_by(0.5)
    assert [both.admit(50).delay, both.admit(0).delay] == [0.0, 0.0]
    assert both.admit(0).delay == pytest.approx(0.5)


def test_the_probe_waits_for_the_rate_like_any_other() -> None:
    clock = FakeClock()
    slow = pacer(clock, vectors=10.0)
    slow.admit(10)
    slow.close_for(0.5)
    clock.pass_by(0.5)
    assert slow.admit(10).delay == pytest.approx(0.5)
    clock.pass_by(0.5)
    assert slow.admit(10) == Admission(0.0, is_probe=True)


def test_the_rate_in_force_is_told() -> None:
    assert (pacer(FakeClock(), vectors=2500.0).vectors_per_second, pacer(FakeClock()).vectors_per_second) == (2500.0, 0)
