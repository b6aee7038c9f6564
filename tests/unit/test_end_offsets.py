"""The ends of partitions, as the metrics read them."""

from worker.ledger import Partition
from worker.telemetry.end_offsets import EndOffsets

FIRST, SECOND, THIRD = (Partition("vectors", number) for number in range(3))


def test_an_update_replaces_all_that_was_known() -> None:
    ends = EndOffsets()
    ends.update({FIRST: 5, SECOND: 7})
    ends.update({SECOND: 8})
    assert ends.read() == {SECOND: 8}


def test_what_was_given_or_read_is_a_copy() -> None:
    ends, given = EndOffsets(), {FIRST: 5}
    ends.update(given)
    given[FIRST] = 6
    ends.read()[FIRST] = 7
    assert ends.read() == {FIRST: 5}


def test_offsets_of_open_transactions_are_known_where_both_ends_are() -> None:
    ends = EndOffsets()
    ends.update({FIRST: 5, SECOND: 5}, {FIRST: 9, SECOND: 4, THIRD: 9})
    assert ends.uncommitted() == {FIRST: 4, SECOND: 0}
