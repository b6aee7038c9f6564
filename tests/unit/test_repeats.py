"""Messages that come again and again."""

from tests.support.fakes import FakeClock
from worker.consumer.repeats import LEAST_SECONDS, REPEAT_SECONDS, Repeats


def test_the_same_message_is_let_through_once_in_a_while_with_how_many_were_left_out() -> None:
    clock = FakeClock()
    repeats = Repeats(clock)
    let_through = []
    for second in range(2 * round(REPEAT_SECONDS)):
        if repeats.admit("no leader"):
            let_through.append((second, repeats.left_out))
        clock.advance(1.0)
    assert let_through == [(0, 0), (30, 29)]


def test_another_message_is_let_through_at_once_but_two_of_them_make_no_flood() -> None:
    clock = FakeClock()
    repeats = Repeats(clock)
    let_through = 0
    for turn in range(100):  # ten seconds
        let_through += repeats.admit(f"error {turn % 2}")
        clock.advance(0.1)
    assert 2 <= let_through <= 10 / LEAST_SECONDS


def test_what_is_over_is_news_when_it_comes_again() -> None:
    clock = FakeClock()
    repeats = Repeats(clock)
    assert repeats.admit("refused")
    clock.advance(LEAST_SECONDS)
    assert not repeats.admit("refused")
    repeats.clear()
    assert repeats.admit("refused")
