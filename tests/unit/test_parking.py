"""What waits for an index: in its order, and no longer than its partition is ours."""

import pytest

from tests.support.fakes import FakeMessage
from worker.app.parking import Parked, Parking
from worker.assignment import Assignment, Partition


def assignment(number: int) -> Assignment:
    made = Assignment(Partition("vectors", number), number)
    made.is_live = True
    return made


@pytest.fixture
def two() -> tuple[Assignment, Assignment]:
    return assignment(0), assignment(1)


def test_what_waits_comes_out_once_and_in_its_order(two: tuple[Assignment, Assignment]) -> None:
    parking = Parking()
    for offset in (3, 1, 2):
        parking.add("docs", Parked(two[0], FakeMessage(offset, b""), 1))
    parking.add("other", Parked(two[1], FakeMessage(9, b""), 1))
    assert [one.offset for one in parking.pop("docs")] == [3, 1, 2]
    assert list(parking.pop("docs")) == []
    assert [one.offset for one in parking.pop("other")] == [9]


def test_what_was_given_back_is_dropped_from_every_index(two: tuple[Assignment, Assignment]) -> None:
    parking = Parking()
    for index in ("docs", "other"):
        for one in two:
            parking.add(index, Parked(one, FakeMessage(one.epoch, b""), 1))
    assert parking.pop_returned() == []
    two[1].is_live = False
    assert [one.offset for one in parking.pop_returned()] == [1, 1]
    assert parking.pop_returned() == []
    assert [one.offset for index in ("docs", "other") for one in parking.pop(index)] == [0, 0]
