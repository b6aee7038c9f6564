"""When failures show that the records are at fault for them."""

import math
from collections.abc import Iterable

import pytest

from worker.delivery.doubt import Doubt, ServiceDoubt


def test_others_pass_only_if_they_were_accepted_after_the_first_doubt_and_before_the_last_attempt() -> None:
    doubt = Doubt()
    assert not doubt.others_pass(accepted_when_sent=7)
    doubt.note(7, accepted=7)
    doubt.note(7, accepted=9)  # the first answer counts, not this one
    assert not doubt.others_pass(accepted_when_sent=7)
    assert doubt.others_pass(accepted_when_sent=8)


def test_what_was_accepted_before_the_last_failures_does_not_count() -> None:
    doubt = Doubt()
    for accepted in (7, 9, 9, 9):
        doubt.note(accepted, accepted)
    assert not doubt.others_pass(accepted_when_sent=9)
    assert doubt.others_pass(accepted_when_sent=10)
    assert doubt.count == 4


def blamed_at(
    failures: Iterable[tuple[int, int]],
    *,
    needed: int,
    lasting: float = math.inf,
    others_fail: bool = False,
    is_rewritten: bool = False,
) -> list[int]:
    """Return after which failures, one a second, the version that is sent is blamed; each may be of a newer version.

    A failure is how many of the others had been accepted when its request left, and when its answer came.
    """
    doubt, found = ServiceDoubt(), []
    for second, (accepted_when_sent, accepted) in enumerate(failures):
        if is_rewritten:
            doubt.begin_version()
        doubt.note(accepted_when_sent, accepted, float(second))
        if doubt.blames_version(needed, lasting=lasting, now=float(second), others_fail=others_fail):
            found.append(second)
    return found


def at_once(*accepted: int) -> list[tuple[int, int]]:
    """Return failures during which nothing is accepted."""
    return [(each, each) for each in accepted]


def test_a_record_is_blamed_after_two_failures_in_a_row_while_others_pass() -> None:
    assert blamed_at(at_once(7, 7, 7, 8, 8, 8, 8, 8, 9, 10), needed=3) == [4, 5, 9]


def test_no_record_is_blamed_before_it_has_failed_as_often_as_the_settings_say() -> None:
    assert blamed_at(at_once(*range(8)), needed=6) == [5, 6, 7]


@pytest.mark.parametrize(("needed", "first"), [(1, 1), (2, 1), (3, 2)])
def test_fewer_failures_are_enough_where_the_settings_say_so(needed: int, first: int) -> None:
    assert blamed_at(at_once(*range(4)), needed=needed) == list(range(first, 4))


def test_a_single_acceptance_counts_for_two_failures_also_if_it_comes_while_one_is_under_way() -> None:
    assert blamed_at([(7, 7), (7, 7), (7, 8), (8, 8), (8, 8), (8, 8)], needed=3) == [4]


def test_after_a_silence_in_which_others_fail_too_three_acceptances_are_needed() -> None:
    failures = [*at_once(7, 7, 7), (7, 8), *at_once(8, 8, 9, 9, 10)]
    assert blamed_at(failures, needed=4) == [5, 6, 7, 8]
    assert blamed_at(failures, needed=4, others_fail=True) == [8]


def test_without_a_silence_it_does_not_matter_whether_others_fail() -> None:
    assert blamed_at(at_once(7, 7, 8, 8, 8, 8, 9, 9), needed=4, others_fail=True) == [3, 4, 7]


def test_a_key_that_is_rewritten_all_the_time_is_blamed_once_a_row_of_failures_lasts() -> None:
    failures = at_once(7, 8, 9, 9, 9, 9, 9, 10, 11, 12, 13, 14)
    assert blamed_at(failures, needed=4, is_rewritten=True) == []
    assert blamed_at(failures, needed=4, is_rewritten=True, lasting=3.0) == [4, 10, 11]
    assert blamed_at(failures, needed=4, is_rewritten=True, lasting=4.0) == [11]


def test_a_single_acceptance_is_no_row_of_failures_that_lasts() -> None:
    assert blamed_at(at_once(7, 7, 8, 8, 8, 8), needed=3, is_rewritten=True, lasting=0.0) == []
