"""The age of a record by bisection, against a log of which the test knows all times, and the advance of a log's start."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import pytest
from kafka import TopicPartition

from worker.consumer.retention import LogAdvance, RecordAges
from worker.consumer.survey_requests import Found

TP, OTHER = TopicPartition("vectors", 0), TopicPartition("vectors", 1)
DAY = 86_400.0
KEPT = 7 * DAY
NOW = 1_800_000_000.0


class Log:
    """Logs whose records have these times, in seconds, from offset `first` on; it answers as a broker does."""

    def __init__(self, first: int = 0, **_: object) -> None:
        self.times: dict[TopicPartition, Sequence[float]] = {}
        self.first = first
        self.rounds = 0
        self.silent: set[TopicPartition] = set()

    def ask(self, timestamps: Mapping[TopicPartition, int]) -> dict[TopicPartition, Found]:
        self.rounds += 1
        return {tp: self._find(self.times[tp], at) for tp, at in timestamps.items() if tp not in self.silent}

    def _find(self, times: Sequence[float], timestamp: int) -> Found:
        place = bisect_left(times, timestamp / 1000)
        return Found(self.first + place, round(times[place] * 1000)) if place < len(times) else Found(-1, -1)


def of(times: Sequence[float], first: int = 0) -> Log:
    log = Log(first)
    log.times[TP] = times
    return log


def left(found: Mapping[TopicPartition, float], tp: TopicPartition = TP) -> float:
    return found[tp] + KEPT - NOW


@pytest.mark.parametrize("age_share", [0.01, 0.3, 0.77, 0.98])
@pytest.mark.parametrize("first", [0, 5000])
def test_the_time_left_is_found_closely_and_never_too_late(age_share: float, first: int) -> None:
    """A record each minute for a week; the one that is `age_share` of the week old waits."""
    times = [NOW - KEPT + 60 * number for number in range(round(KEPT / 60))]
    number = round((1 - age_share) * len(times))
    log = of(times, first)
    found = left(RecordAges().times({TP: first + number}, {"vectors": KEPT}, NOW, log.ask))
    exact = times[number] + KEPT - NOW
    assert exact - max(0.03 * exact, KEPT / 2**10) <= found <= exact
    assert log.rounds <= 12


def test_a_record_that_is_older_than_retention_allows_is_deleted_at_any_moment() -> None:
    log = of([NOW - KEPT - DAY, NOW - KEPT - 60, NOW])
    assert left(RecordAges().times({TP: 1}, {"vectors": KEPT}, NOW, log.ask)) == 0
    assert log.rounds == 1


def test_an_offset_without_a_record_is_as_old_as_the_one_before_it() -> None:
    """It is a transaction's marker, or was compacted away."""
    log = Log()

    def ask(timestamps: Mapping[TopicPartition, int]) -> dict[TopicPartition, Found]:
        log.rounds += 1
        first, second = NOW - 3 * DAY, NOW - 2 * DAY
        at = timestamps[TP] / 1000
        found = (
            Found(0, round(first * 1000)) if at <= first else Found(2, round(second * 1000)) if at <= second else None
        )
        return {TP: found or Found(-1, -1)}

    found = left(RecordAges().times({TP: 1}, {"vectors": KEPT}, NOW, ask))
    assert KEPT - 3 * DAY <= found <= KEPT - 2 * DAY


def test_what_was_found_of_an_offset_is_not_asked_for_again_and_helps_with_later_ones() -> None:
    times = [NOW - KEPT + 60 * number for number in range(round(KEPT / 60))]
    log, ages = of(times), RecordAges()
    first = ages.times({TP: 5000}, {"vectors": KEPT}, NOW, log.ask)
    rounds = log.rounds
    assert ages.times({TP: 5000}, {"vectors": KEPT}, NOW + 60, log.ask) == first
    assert log.rounds == rounds
    later = ages.times({TP: 5001}, {"vectors": KEPT}, NOW + 60, log.ask)
    assert later[TP] >= first[TP]


def test_a_lower_offset_is_searched_from_the_beginning() -> None:
    """The log was cut, or the topic was created again."""
    log, ages = of([NOW - 6 * DAY, NOW - DAY]), RecordAges()
    ages.times({TP: 1}, {"vectors": KEPT}, NOW, log.ask)
    assert left(ages.times({TP: 0}, {"vectors": KEPT}, NOW, log.ask)) <= DAY


def test_a_partition_without_an_answer_is_left_out_and_costs_the_others_nothing() -> None:
    log = of([NOW - DAY])
    log.times[OTHER] = [NOW - DAY]
    log.silent.add(TP)
    found = RecordAges().times({TP: 0, OTHER: 0}, {"vectors": KEPT}, NOW, log.ask)
    assert found.keys() == {OTHER}
    assert left(found, OTHER) == pytest.approx(6 * DAY, abs=1)


# -- the advance of a log's start


def test_the_start_reaches_an_offset_at_its_rate() -> None:
    advance = LogAdvance()
    advance.note({TP: 1000}, 0.0)
    advance.note({TP: 1600}, 60.0)
    assert advance.seconds_until(TP, 2600) == 100
    assert advance.seconds_until(TP, 1500) == 0


def test_a_start_that_does_not_move_reaches_nothing() -> None:
    advance = LogAdvance()
    for minute in range(3):
        advance.note({TP: 1000}, minute * 60.0)
    assert [advance.seconds_until(TP, 2000), advance.seconds_until(OTHER, 2000)] == [math.inf, math.inf]


def test_a_start_that_goes_back_is_that_of_another_log() -> None:
    advance = LogAdvance()
    for seconds, start in ((0.0, 1000), (60.0, 1600), (120.0, 0)):
        advance.note({TP: start}, seconds)
    assert advance.seconds_until(TP, 100) == math.inf
    advance.note({TP: 60}, 180.0)
    assert advance.seconds_until(TP, 100) == 40


def test_the_rate_is_that_of_the_last_hour() -> None:
    advance = LogAdvance()
    advance.note({TP: 0}, 0.0)
    for minute in range(1, 121):
        advance.note({TP: 1_000_000 + minute}, minute * 60.0)
    assert advance.seconds_until(TP, 1_000_120 + 10) == pytest.approx(600)
