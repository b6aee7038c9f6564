"""When a request may leave: delays, rates and the gate, on a clock that the tests move."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.samples import FakeClock
from worker.delivery.pace.backoff import Backoff
from worker.delivery.pace.gate import Gate
from worker.delivery.pace.in_flight import InFlightLimit
from worker.delivery.pace.pacer import Admission, Pacer, Verdict
from worker.delivery.pace.rate import AdaptiveRate, TokenBucket
from worker.ports import LimitCause, Pace


class Extreme(random.Random):
    """A source of chance that always gives one end of the range."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self._share


def pacer(clock: FakeClock, requests: float = 0.0, vectors: float = 0.0, most: int = 100) -> Pacer:
    """Return a pacer with room for `most` requests from the start."""
    made = Pacer(requests_per_second=requests, vectors_per_second=vectors, max_in_flight=most, clock=clock)
    made._in_flight._limit = float(most)
    return made


def seen(admission: Admission) -> tuple[float, bool]:
    return admission.delay, admission.is_probe


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
        bucket.spend(amount, clock())
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
    bucket.spend(100, clock())
    count = 400
    seconds = run_through(bucket, [amount] * count, clock)
    assert amount * count / seconds == pytest.approx(100.0, rel=0.02)


def test_a_batch_larger_than_the_burst_goes_when_the_bucket_is_full_and_the_next_pays_for_it() -> None:
    bucket = TokenBucket(100.0, 0.0)
    assert bucket.wait(500, 0.0) == 0.0
    bucket.spend(500, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(4.01)
    assert bucket.wait(500, 4.0) == pytest.approx(1.0)
    assert bucket.wait(500, 5.0) == 0.0


def test_a_rate_below_one_a_second_still_lets_requests_through() -> None:
    clock = FakeClock()
    assert run_through(TokenBucket(0.25, clock()), [1.0] * 5, clock) == pytest.approx(16.0, abs=0.01)


def test_idle_time_saves_up_one_second_and_no_more() -> None:
    bucket = TokenBucket(10.0, 0.0)
    bucket.spend(10, 0.0)
    assert bucket.wait(10, 3600.0) == 0.0
    bucket.spend(10, 3600.0)
    assert bucket.wait(1, 3600.0) == pytest.approx(0.1)


def test_without_a_rate_nothing_waits() -> None:
    bucket = TokenBucket(0.0, 0.0)
    bucket.spend(1e9, 0.0)
    assert (bucket.wait(1e9, 0.0), bucket.rate) == (0.0, 0.0)


# -- the gate


def test_a_closed_gate_lets_one_probe_through_and_opens_on_its_good_answer() -> None:
    clock = FakeClock()
    gate = pacer(clock)
    gate.close_for(10.0)
    assert seen(gate.admit(1)) == (10.0, False)
    clock.pass_by(9.5)
    assert seen(gate.admit(1)) == (0.5, False)
    clock.pass_by(0.5)
    probe = gate.admit(1)
    others = [gate.admit(1) for _ in range(3)]
    assert (seen(probe), [other.delay > 0 for other in others]) == ((0.0, True), [True] * 3)
    gate.answered(probe, Verdict.ACCEPTED)
    assert [seen(gate.admit(1)) for _ in range(3)] == [(0.0, False)] * 3


def test_a_probe_with_a_bad_answer_closes_the_gate_again() -> None:
    clock = FakeClock()
    gate = pacer(clock)
    gate.close_for(1.0)
    clock.pass_by(1.0)
    probe = gate.admit(1)
    gate.close_for(2.0)
    gate.answered(probe, Verdict.NOT_SENT)
    assert seen(gate.admit(1)) == (2.0, False)


def test_after_a_probe_that_says_nothing_the_next_one_may_probe() -> None:
    clock = FakeClock()
    gate = pacer(clock)
    gate.close_for(1.0)
    clock.pass_by(1.0)
    gate.answered(gate.admit(1), Verdict.NOT_SENT)
    assert seen(gate.admit(1)) == (0.0, True)


def test_late_answers_to_requests_from_before_the_gate_closed_do_not_open_it() -> None:
    clock = FakeClock()
    gate = pacer(clock)
    before = [gate.admit(1) for _ in range(2)]
    gate.close_for(10.0)
    gate.answered(before[0], Verdict.ACCEPTED)
    assert seen(gate.admit(1)) == (10.0, False)
    clock.pass_by(10.0)
    probe = gate.admit(1)
    gate.answered(before[1], Verdict.ACCEPTED)
    assert (probe.is_probe, gate.admit(1).delay > 0.0) == (True, True)


def test_a_pause_asked_for_while_the_probe_is_under_way_outlasts_its_good_answer() -> None:
    clock = FakeClock()
    gate = pacer(clock)
    gate.close_for(1.0)
    clock.pass_by(1.0)
    probe = gate.admit(1)
    gate.close_for(60.0)
    gate.answered(probe, Verdict.ACCEPTED)
    assert seen(gate.admit(1)) == (60.0, False)
    clock.pass_by(60.0)
    gate.answered(gate.admit(1), Verdict.ACCEPTED)
    assert seen(gate.admit(1)) == (0.0, False)


@pytest.mark.parametrize("pauses", [(5.0, 9.0), (9.0, 5.0)], ids=["longer last", "longer first"])
def test_of_several_pauses_the_longest_holds(pauses: tuple[float, float]) -> None:
    gate = pacer(FakeClock())
    for seconds in pauses:
        gate.close_for(seconds)
    assert seen(gate.admit(1)) == (9.0, False)


def test_a_gate_that_was_never_closed_is_open() -> None:
    gate = Gate()
    assert (gate.is_open, gate.wait(0.0), gate.enter()) == (True, 0.0, False)


# -- together


def at_full_rate(clock: FakeClock, requests: float = 0.0, vectors: float = 0.0) -> Pacer:
    """Return a pacer that is through with its slow start, and has a second's burst saved up."""
    made = pacer(clock, requests, vectors)
    for rate in (made._requests, made._vectors):
        rate._bucket.change(rate._most, clock())
    clock.pass_by(10.0)
    return made


def test_the_longest_of_all_waits_is_told_and_nothing_is_taken_for_it() -> None:
    clock = FakeClock()
    both = at_full_rate(clock, requests=2.0, vectors=100.0)
    assert [both.admit(100).delay, both.admit(1).delay] == [0.0, pytest.approx(0.01)]
    assert both.admit(50).delay == pytest.approx(0.5)
    clock.pass_by(0.5)
    assert [both.admit(50).delay, both.admit(0).delay] == [0.0, 0.0]
    assert both.admit(0).delay == pytest.approx(0.5)


def test_the_probe_waits_for_the_rate_like_any_other() -> None:
    clock = FakeClock()
    slow = at_full_rate(clock, vectors=10.0)
    slow.admit(10)
    slow.close_for(0.5)
    clock.pass_by(0.5)
    assert slow.admit(10).delay == pytest.approx(0.5)
    clock.pass_by(0.5)
    assert seen(slow.admit(10)) == (0.0, True)


# -- the adaptive rate


def busy(rates: AdaptiveRate, clock: FakeClock, seconds: float, *, well: bool = True) -> None:
    """Send as much as it lets through, every answer good or every one throttled."""
    until = clock() + seconds
    while clock() < until:
        if rates.wait(10.0, clock()) > 0.0:
            clock.pass_by(0.05)
            continue
        rates.spend(10.0, clock())
        if well:
            rates.grow(clock())
        else:
            rates.fall(clock(), clock())


def test_a_rate_begins_at_a_quarter_and_doubles_every_two_seconds_up_to_the_most() -> None:
    clock = FakeClock()
    rates = AdaptiveRate(1000.0, clock())
    seen_rates = [rates.rate]
    for _ in range(3):
        busy(rates, clock, 2.0)
        seen_rates.append(rates.rate)
    assert seen_rates == [250.0, *(pytest.approx(r, rel=0.15) for r in (500.0, 1000.0)), 1000.0]


def test_a_rate_that_holds_nothing_back_does_not_grow() -> None:
    clock = FakeClock()
    rates = AdaptiveRate(1000.0, clock())
    for _ in range(100):
        clock.pass_by(1.0)
        assert rates.wait(1.0, clock()) == 0.0
        rates.spend(1.0, clock())
        rates.grow(clock())
    assert rates.rate == 250.0


def test_a_throttled_answer_takes_three_tenths_and_ends_the_slow_start() -> None:
    clock = FakeClock()
    rates = AdaptiveRate(1000.0, clock())
    busy(rates, clock, 10.0)
    rates.fall(clock(), clock())
    assert rates.rate == pytest.approx(700.0)
    busy(rates, clock, 40.0)
    assert rates.rate == pytest.approx(716.5, abs=1.0)


def test_a_rate_falls_once_for_all_requests_that_left_before_it_fell() -> None:
    clock = FakeClock()
    rates = AdaptiveRate(1000.0, clock())
    busy(rates, clock, 10.0)
    left = clock()
    clock.pass_by(0.1)
    for _ in range(5):
        rates.fall(left, clock())
    assert rates.rate == pytest.approx(700.0)
    rates.fall(clock(), clock())
    assert rates.rate == pytest.approx(490.0)


def test_a_rate_never_falls_so_far_that_nothing_asks_any_more() -> None:
    clock = FakeClock()
    rates = AdaptiveRate(1000.0, clock())
    busy(rates, clock, 600.0, well=False)
    assert rates.rate == pytest.approx(10.0)


def test_after_a_long_quiet_the_share_of_those_who_went_is_taken_over() -> None:
    clock = FakeClock()
    rates = AdaptiveRate(1000.0, clock())
    busy(rates, clock, 10.0)
    for _ in range(10):
        clock.pass_by(0.1)
        rates.fall(clock(), clock())
        rates.grow(clock())
    shared = rates.rate
    busy(rates, clock, 60.0)
    slowly = rates.rate
    busy(rates, clock, 400.0)
    assert (shared < 50.0, slowly < 90.0, rates.rate) == (True, True, 1000.0)


def test_after_an_outage_the_load_comes_back_in_a_ramp_to_what_it_was() -> None:
    clock = FakeClock()
    paced = at_full_rate(clock, vectors=1000.0)
    for _ in range(2 * Pacer.OUTAGE_FAILURES):
        paced.answered(paced.admit(10), Verdict.FAILED)
    assert paced.vectors_per_second == pytest.approx(250.0)
    passed = []
    for _ in range(10):
        before = clock()
        count = 0
        while clock() - before < 1.0:
            admission = paced.admit(10)
            if admission.delay:
                clock.pass_by(0.01)
            else:
                paced.answered(admission, Verdict.ACCEPTED)
                count += 10
        passed.append(count)
    assert passed[1:] == sorted(passed[1:])  # the first second has what was saved up, a second's worth
    assert (passed[0] <= 600, passed[-1] >= 950) == (True, True)


def test_a_failure_among_good_answers_is_no_outage() -> None:
    clock = FakeClock()
    paced = at_full_rate(clock, vectors=1000.0)
    for verdict in [Verdict.FAILED, Verdict.ACCEPTED] * 5:
        paced.answered(paced.admit(10), verdict)
    assert paced.vectors_per_second == 1000.0


@pytest.mark.parametrize(("each", "after"), [(1000.0, 7000.0), (10.0, 1750.0)], ids=["much went", "little went"])
def test_without_a_limit_of_our_own_the_rate_is_what_went_lately_once_the_service_throttles(
    each: float, after: float
) -> None:
    clock = FakeClock()
    rates = AdaptiveRate(0.0, clock())
    for _ in range(300):
        assert rates.wait(each, clock()) == 0.0
        rates.spend(each, clock())
        rates.grow(clock())
        clock.pass_by(0.1)
    assert rates.rate == 0.0
    rates.fall(clock(), clock())
    fallen = rates.rate
    busy(rates, clock, 10.0)
    assert fallen == pytest.approx(after, rel=0.02)
    assert fallen < rates.rate < 1.02 * fallen


# -- the in-flight limit


class Service:
    """Works on `workers` requests at once, each for `seconds`; the others queue."""

    def __init__(self, workers: int, seconds: float) -> None:
        self.workers = workers
        self.seconds = seconds

    def settle(self, limit: InFlightLimit, clock: FakeClock, rounds: int) -> list[int]:
        """Keep as many under way as the limit lets, for so many answers; returns the limit after each."""
        free_at = [clock()] * self.workers
        under_way: list[tuple[float, float, bool]] = []
        limits = []
        for _ in range(rounds):
            while len(under_way) < limit.limit:
                begins = max(clock(), min(free_at))
                free_at[free_at.index(min(free_at))] = begins + self.seconds
                under_way.append((begins + self.seconds, clock(), len(under_way) + 1 >= limit.limit))
            under_way.sort()
            done, sent, was_full = under_way.pop(0)
            clock.now = max(clock.now, done)
            limit.answered(1000, sent, clock(), was_full=was_full)
            limits.append(limit.limit)
        return limits


@pytest.mark.parametrize(("workers", "most", "least_end", "most_end"), [(100, 8, 8, 8), (2, 16, 2, 5), (4, 64, 4, 10)])
def test_the_limit_grows_until_requests_make_each_other_slower(
    workers: int, most: int, least_end: int, most_end: int
) -> None:
    limits = Service(workers, 0.1).settle(InFlightLimit(most), FakeClock(), 600)
    assert all(least_end <= limit <= most_end for limit in limits[300:])


def test_a_service_that_becomes_slower_for_good_is_no_reason_to_stay_at_the_least() -> None:
    clock = FakeClock()
    limit = InFlightLimit(8)
    Service(100, 0.1).settle(limit, clock, 100)
    fallen = min(Service(100, 0.5).settle(limit, clock, 300))
    regained = Service(100, 0.5).settle(limit, clock, 2000)[-1]
    assert (fallen < 8, regained) == (True, 8)


def test_the_limit_stays_where_it_holds_nothing_back() -> None:
    clock = FakeClock()
    limit = InFlightLimit(8)
    for _ in range(100):
        limit.answered(1000, clock(), clock(), was_full=False)
    assert limit.limit == 2


def test_a_larger_body_that_takes_longer_is_no_sign_of_a_queue() -> None:
    clock = FakeClock()
    limit = InFlightLimit(8)
    for size, seconds in [(1000, 0.1), (1_000_000, 1.0)] * 50:
        limit.answered(size, clock() - seconds, clock(), was_full=True)
    assert limit.limit == 8


def test_failures_halve_the_limit_once_a_round_and_leave_two() -> None:
    clock = FakeClock()
    limit = InFlightLimit(64)
    limit._limit = 64.0
    left = clock()
    clock.pass_by(1.0)
    seen_limits = []
    for sent_at in (left, left, clock(), clock(), clock(), clock(), clock(), clock()):
        limit.failed(sent_at, clock())
        seen_limits.append(limit.limit)
    assert seen_limits == [32, 32, 16, 8, 4, 2, 2, 2]


def test_one_request_at_most_stays_one() -> None:
    limit = InFlightLimit(1)
    for _ in range(10):
        limit.answered(1000, 0.0, 0.1, was_full=True)
    limit.failed(0.0, 0.2)
    assert limit.limit == 1


def test_there_is_room_for_as_many_as_the_limit_and_an_answer_makes_room() -> None:
    paced = Pacer(requests_per_second=0, vectors_per_second=0, max_in_flight=8, clock=FakeClock())
    first, second, third = (paced.admit(1) for _ in range(3))
    assert [first.delay, second.delay, third.for_room, paced.has_room] == [0.0, 0.0, True, False]
    paced.answered(first, Verdict.NOT_SENT)
    assert [paced.has_room, paced.admit(1).delay] == [True, 0.0]


def test_who_has_to_wait_keeps_its_place_before_those_who_ask_later() -> None:
    paced = Pacer(requests_per_second=0, vectors_per_second=0, max_in_flight=8, clock=FakeClock())
    first, _second = paced.admit(1, "a"), paced.admit(1, "b")
    assert [paced.admit(1, who).for_room for who in ("c", "d")] == [True, True]
    paced.answered(first, Verdict.NOT_SENT)
    assert [paced.is_next(who) for who in ("a", "d", "c")] == [False, False, True]
    assert [paced.admit(1, who).delay > 0.0 for who in ("a", "d", "c")] == [True, True, False]


def test_who_leaves_gives_up_its_place() -> None:
    paced = Pacer(requests_per_second=0, vectors_per_second=0, max_in_flight=8, clock=FakeClock())
    first, _second = paced.admit(1, "a"), paced.admit(1, "b")
    assert [paced.admit(1, who).for_room for who in ("c", "d")] == [True, True]
    paced.leave("c")
    paced.answered(first, Verdict.NOT_SENT)
    assert paced.admit(1, "d").delay == 0.0


def test_what_was_not_sent_gives_its_share_of_the_rate_back() -> None:
    clock = FakeClock()
    paced = at_full_rate(clock, requests=1.0, vectors=100.0)
    paced.answered(paced.admit(100), Verdict.NOT_SENT)
    assert paced.admit(100).delay == 0.0


def outage(paced: Pacer, clock: FakeClock, seconds: float) -> None:
    """Fail as often as it takes to be an outage, and let time pass."""
    for _ in range(Pacer.OUTAGE_FAILURES):
        clock.pass_by(5.0)
        paced.answered(paced.admit(1), Verdict.FAILED)
    clock.pass_by(seconds)


def test_the_first_good_answer_after_an_outage_is_the_ramps_foot_however_long_it_was() -> None:
    clock = FakeClock()
    paced = at_full_rate(clock, vectors=1000.0)
    while paced.admit(500).delay == 0.0:
        pass
    outage(paced, clock, 60.0)
    paced.answered(paced.admit(1), Verdict.ACCEPTED)
    assert paced.vectors_per_second == pytest.approx(250.0)


def test_outages_one_after_the_other_do_not_forget_the_rate_before_the_first() -> None:
    clock = FakeClock()
    rates = AdaptiveRate(1000.0, clock())
    busy(rates, clock, 10.0)
    for _ in range(4):
        rates.restart(clock())
        rates.grow(clock())
    assert rates.rate < 11.0
    busy(rates, clock, 20.0)
    assert rates.rate == 1000.0


def test_a_spell_of_nothing_but_refusals_does_not_forget_the_rate_at_its_begin() -> None:
    clock = FakeClock()
    rates = AdaptiveRate(1000.0, clock())
    busy(rates, clock, 10.0)
    for _ in range(20):
        clock.pass_by(3.0)
        rates.fall(clock(), clock())
    assert rates.rate == pytest.approx(10.0)
    busy(rates, clock, 20.0)
    assert rates.rate == pytest.approx(700.0, rel=0.03)


def test_refusals_that_are_answered_at_once_do_not_make_writes_look_slow() -> None:
    clock = FakeClock()
    paced = pacer(clock, most=8)
    for verdict, seconds in ([(Verdict.ACCEPTED, 0.1)] * 6 + [(Verdict.REFUSED, 0.005)] * 6) * 10:
        admission = paced.admit(1)
        clock.pass_by(seconds)
        paced.answered(admission, verdict, 1000)
    assert paced.in_flight_limit == 8


def test_one_failure_among_good_answers_leaves_the_limit_alone() -> None:
    paced = pacer(FakeClock(), most=8)
    for verdict in [Verdict.FAILED, Verdict.ACCEPTED] * 10:
        paced.answered(paced.admit(1), verdict)
    assert paced.in_flight_limit == 8


def test_a_rate_that_was_held_back_long_ago_grows_by_no_more_than_it_may() -> None:
    clock = FakeClock()
    rates = AdaptiveRate(1000.0, clock())
    rates.spend(500.0, clock())
    assert rates.wait(500.0, clock()) > 0.0
    clock.pass_by(30 * 86400.0)
    rates.grow(clock())
    assert rates.rate == 1000.0


def test_one_slow_answer_among_many_is_no_queue() -> None:
    clock = FakeClock()
    limit = InFlightLimit(8)
    limit._limit = 8.0
    for seconds in [0.1] * 20 + [0.45] + [0.1] * 20:
        limit.answered(1000, clock() - seconds, clock(), was_full=False)
    assert limit.limit == 8


# -- why the limits are what they are


def test_a_rate_says_that_it_was_throttled_and_then_that_it_grows_again() -> None:
    clock = FakeClock()
    rates = AdaptiveRate(1000.0, clock())
    seen_causes = [(rates.cause, rates.throttled_at)]
    for seconds in (2.0, 10.0):
        busy(rates, clock, seconds)
        seen_causes.append((rates.cause, rates.throttled_at))
    rates.fall(clock(), clock())
    fell_at = clock()
    seen_causes.append((rates.cause, rates.throttled_at))
    busy(rates, clock, 2.0)
    seen_causes.append((rates.cause, rates.throttled_at))
    rates.restart(clock())
    seen_causes.append((rates.cause, rates.throttled_at))
    assert seen_causes == [
        (LimitCause.STARTING, None),
        (LimitCause.STARTING, None),
        (LimitCause.CONFIGURED, None),
        (LimitCause.THROTTLED, fell_at),
        (LimitCause.GROWING, fell_at),
        (LimitCause.OUTAGE, fell_at),
    ]


def test_a_rate_without_a_bound_has_a_cause_once_it_was_throttled() -> None:
    clock = FakeClock()
    rates = AdaptiveRate(0.0, clock())
    before = rates.cause
    rates.fall(clock(), clock())
    assert (before, rates.cause) == (LimitCause.UNLIMITED, LimitCause.THROTTLED)


def test_the_limit_in_flight_says_why_it_fell_and_then_that_it_grows_again() -> None:
    clock = FakeClock()
    limit = InFlightLimit(3)
    causes = [limit.cause]
    for _ in range(4):
        limit.answered(1000, clock() - 0.1, clock(), was_full=True)
    causes.append(limit.cause)
    for _ in range(9):
        limit.answered(1000, clock() - 1.0, clock(), was_full=True)
    causes.append(limit.cause)
    clock.pass_by(1.0)
    limit.failed(clock(), clock())
    causes.append(limit.cause)
    for _ in range(30):
        limit.answered(1000, clock() - 0.1, clock(), was_full=False)
    limit.answered(1000, clock() - 0.1, clock(), was_full=True)
    causes.append(limit.cause)
    assert causes == [
        LimitCause.STARTING,
        LimitCause.CONFIGURED,
        LimitCause.SLOW,
        LimitCause.OUTAGE,
        LimitCause.GROWING,
    ]


def test_the_pace_has_the_limits_with_their_causes_and_when_the_next_request_may_go() -> None:
    clock = FakeClock()
    paced = Pacer(requests_per_second=0.0, vectors_per_second=1000.0, max_in_flight=8, clock=clock)
    assert paced.pace() == Pace(250.0, LimitCause.STARTING, 2, LimitCause.STARTING)
    paced.answered(paced.admit(10), Verdict.THROTTLED)
    paced.close_for(7.0)
    assert paced.pace() == Pace(175.0, LimitCause.THROTTLED, 2, LimitCause.STARTING, clock(), clock() + 7.0)
