"""The dead-letter limit counts in reading order, whatever is in hand, and however often a record is read."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.samples import FakeClock, opened
from worker.deadletters.limit import FIRST_ALL_BAD, Limit
from worker.ledger import Assignment, Ledger, Partition
from worker.settings.tables import DeadLetter as Settings
from worker.telemetry.page.facts import Share


def new_assignment(partition: int = 0, topic: str = "vectors") -> Assignment:
    return opened(Ledger([topic], FakeClock()), topic, partition)


def backlog(count: int, bad: Sequence[int], **settings: Any) -> list[int]:
    """Read all of a backlog before the first dead letter is judged; return the offsets of those that may be written."""
    limit, assignment = Limit(Settings(**settings), FakeClock()), new_assignment()
    for first in range(0, count, 500):
        offsets = range(first, min(count, first + 500))
        limit.note_read(assignment, offsets, [offset for offset in bad if offset in offsets])
    return [offset for offset in bad if limit.allows(assignment.partition, offset)]


@pytest.mark.parametrize(
    ("count", "every"), [(20_000, 33), (8_000, 20), (6_000, 13), (5_000, 10)], ids=["3 %", "5 %", "8 %", "10 %"]
)
def test_up_to_the_ratio_nothing_of_a_backlog_is_refused(count: int, every: int) -> None:
    bad = range(every - 1, count, every)
    assert backlog(count, bad) == list(bad)


@pytest.mark.parametrize("count", [21, 300, 20_000])
def test_when_the_first_twenty_are_all_bad_the_next_is_not_allowed(count: int) -> None:
    assert backlog(count, range(count)) == list(range(20))


@pytest.mark.parametrize("every", [2, 3, 8], ids=["50 %", "33 %", "12 %"])
def test_above_the_ratio_no_more_than_the_least_count_is_allowed(every: int) -> None:
    bad = range(every - 1, 2000, every)
    assert backlog(2000, bad)[:60] == [*bad[:50]]


def test_one_good_record_among_the_first_leaves_it_to_the_ratio() -> None:
    assert backlog(500, range(1, 500), limit_min=30) == list(range(1, 31))


def test_behind_good_ones_the_share_of_the_window_is_allowed() -> None:
    assert backlog(3000, range(2000, 3000)) == list(range(2000, 2100))


def test_fewer_than_the_least_count_do_not_reach_it_whatever_their_share() -> None:
    assert backlog(51, range(1, 51), limit_window=100) == list(range(1, 51))


def test_the_window_moves_on() -> None:
    first, later = range(1000, 1100), range(2100, 2200)
    assert backlog(3000, [*first, *later]) == [*first, *later]


def test_the_first_twenty_are_forgotten_when_the_window_has_moved_past_them() -> None:
    """For what `accept_until` let pass does not count for ever."""
    assert backlog(3000, [*range(20), 2000]) == [*range(20), 2000]


def test_topics_have_a_limit_each_over_all_their_partitions() -> None:
    limit = Limit(Settings(), FakeClock())
    parts = [new_assignment(partition) for partition in range(2)]
    other = new_assignment(topic="images")
    for first in range(0, 20, 5):
        for one in parts:
            limit.note_read(one, range(first, first + 5), range(first, first + 5))
    limit.note_read(other, range(30), [29])
    assert [limit.allows(parts[0].partition, offset) for offset in range(20)] == [True] * 10 + [False] * 10
    assert limit.allows(other.partition, 29)


def test_until_accept_until_the_limit_does_not_block_and_then_it_does() -> None:
    clock = FakeClock(now=0.0)
    limit, assignment = Limit(Settings(accept_until="1970-01-01T01:00:00Z"), clock), new_assignment()
    limit.note_read(assignment, range(61), range(61))
    before = [limit.allows(assignment.partition, offset) for offset in range(60)]
    clock.pass_by(3600.0)
    assert (before, limit.allows(assignment.partition, 60)) == ([True] * 60, False)


def test_what_is_read_again_counts_once() -> None:
    """Forty bad records of 400 that are read five times are forty, of four hundred."""
    limit = Limit(Settings(), FakeClock())
    for _ in range(5):
        assignment = new_assignment()
        limit.note_read(assignment, range(400), range(0, 400, 10))
    assert all(limit.allows(assignment.partition, offset) for offset in range(0, 400, 10))
    assert limit.place(assignment.partition, 399) == 399
    limit.note_read(assignment, range(400, 411), range(400, 411))
    allowed = [limit.allows(assignment.partition, offset) for offset in range(400, 411)]
    assert allowed == [True] * 10 + [False]


def test_a_record_that_is_good_when_it_is_read_again_is_no_longer_bad() -> None:
    limit, assignment = Limit(Settings(limit_min=1, limit_ratio=0.01), FakeClock()), new_assignment()
    limit.note_read(assignment, range(10), [3])
    refused_before = limit.allows(assignment.partition, 5)
    limit.note_bad(assignment.partition, 5)
    limit.note_read(new_assignment(), range(10), [])
    assert (refused_before, limit.allows(assignment.partition, 5)) == (False, True)


def test_a_partition_that_begins_again_before_all_that_is_known_is_new() -> None:
    limit, assignment = Limit(Settings(), FakeClock()), new_assignment()
    limit.note_read(assignment, range(1000, 1100), [])
    limit.note_read(assignment, range(100), [])
    assert [limit.place(assignment.partition, offset) for offset in (0, 99)] == [100, 199]


def test_what_was_committed_takes_no_memory() -> None:
    """Two partitions in turn, so that no run continues the one before it."""
    limit, parts = Limit(Settings(), FakeClock()), [new_assignment(number) for number in range(2)]
    for offset in range(20_000):
        for one in parts:
            one.committed = offset
            limit.note_read(one, [offset], [])
    runs = limit._readings["vectors"]._runs
    assert max(len(each) for each in runs.values()) < 100
    assert limit.place(parts[0].partition, 19_999) == 39_998


# -- against a slow reference, which has the whole reading order


class Reference:
    """Every record once, in the order in which it was first read, and whether it is known to be bad."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._order: list[tuple[Partition, int, int]] = []
        self._bad: set[tuple[Partition, int, int]] = set()

    def read(self, partition: Partition, offsets: Sequence[int], bad: Sequence[int], widths: Mapping[int, int]) -> None:
        for offset in offsets:
            for element in range(widths.get(offset, 1)):
                record = (partition, offset, element)
                self._bad.discard(record)
                if record not in self._order:
                    self._order.append(record)
        self._bad |= {(partition, offset, 0) for offset in bad}

    def refuse(self, partition: Partition, offset: int, element: int) -> None:
        self._bad.add((partition, offset, element))

    def allows(self, partition: Partition, offset: int, element: int = 0) -> bool:
        place, window = self._order.index((partition, offset, element)), self._settings.limit_window
        is_first_all_bad = all(record in self._bad for record in self._order[:FIRST_ALL_BAD])
        if is_first_all_bad and FIRST_ALL_BAD <= place < FIRST_ALL_BAD + window:
            return False
        last = self._order[max(0, place + 1 - window) : place]
        before = sum(record in self._bad for record in last)
        share = (before + 1) / (len(last) + 1)
        return not (before >= self._settings.limit_min and share > self._settings.limit_ratio)


@given(st.data())
def test_every_verdict_is_that_of_the_whole_reading_order(data: st.DataObject) -> None:
    """Partitions are read in turn, with gaps between offsets, and again from any offset, and records refused at any time.

    Some messages have several records.
    """
    draw = data.draw
    settings = Settings(
        limit_ratio=draw(st.sampled_from([0.125, 0.25, 0.5])),
        limit_window=draw(st.integers(1, 40)),
        limit_min=draw(st.integers(1, 12)),
    )
    limit, reference = Limit(settings, FakeClock()), Reference(settings)
    gaps = {number: draw(st.sampled_from([1, 1, 2])) for number in range(3)}
    widths = {offset: draw(st.sampled_from([2, 3, 9])) for offset in draw(st.sets(st.integers(0, 30), max_size=9))}
    read = dict.fromkeys(gaps, 0)  # messages
    often_bad = draw(st.booleans())
    for _ in range(draw(st.integers(1, 12))):
        number = draw(st.sampled_from(sorted(gaps)))
        assignment = new_assignment(number)
        begin = draw(st.integers(0, read[number])) if draw(st.integers(0, 3)) == 0 else read[number]
        end = begin + draw(st.integers(1, 15))
        read[number] = max(read[number], end)
        offsets = [place * gaps[number] for place in range(begin, end)]
        bad = [offset for offset in offsets if draw(st.integers(0, 9)) < (9 if often_bad else 2)]
        limit.note_read(assignment, offsets, bad, widths)
        reference.read(assignment.partition, offsets, bad, widths)
        for _ in range(draw(st.integers(0, 4))):
            number = draw(st.sampled_from([one for one in read if read[one]]))
            partition, offset = Partition("vectors", number), draw(st.integers(0, read[number] - 1)) * gaps[number]
            element = draw(st.integers(0, widths.get(offset, 1) - 1))
            limit.note_bad(partition, offset, element)
            reference.refuse(partition, offset, element)
            assert limit.allows(partition, offset, element) == reference.allows(partition, offset, element)
        for offset in bad:
            verdicts = [one.allows(assignment.partition, offset) for one in (limit, reference)]
            assert verdicts[0] == verdicts[1], offset


def test_the_share_of_dead_letters_is_that_of_the_last_records_of_each_topic() -> None:
    settings = Settings(limit_window=100, limit_ratio=0.2, limit_min=7)
    limit = Limit(settings, FakeClock())
    limit.note_read(new_assignment(), range(50), [0, 1, 49])
    assert limit.shares() == [Share("vectors", 3, 50, 0.2, 7)]
    limit.note_read(new_assignment(topic="images"), range(10), [])
    limit.note_read(new_assignment(), range(50, 149), [148])
    assert limit.shares() == [Share("vectors", 2, 100, 0.2, 7), Share("images", 0, 10, 0.2, 7)]
    limit.note_bad(Partition("vectors", 0), 100)
    assert limit.shares()[0].bad == 3
