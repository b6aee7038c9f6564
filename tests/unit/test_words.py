"""Words of others are made fit for a log line, a header and a page."""

import pytest

from worker.words import clean, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("two\nlines\r\nand\ttabs", "two lines and tabs"),
        ("  much   space  ", "much space"),
        ("half an emoji \ud83d", "half an emoji \ufffd"),
        ("\x1b[31mred\x07", "\ufffd[31mred\ufffd"),
        ("turned \u202e round", "turned \ufffd round"),
        ("line\u2028separator\x85next", "line separator next"),
        ("ß 日本 🎉", "ß 日本 🎉"),
        ("", ""),
    ],
)
def test_text_becomes_one_line_that_utf8_can_hold(text: str, expected: str) -> None:
    assert clean(text) == expected
    clean(text).encode()


def test_a_long_text_is_cut_and_says_so() -> None:
    assert clean("a" * 1_000_000, 10) == "a" * 9 + "…"


def test_a_text_of_the_length_allowed_is_whole() -> None:
    assert clean("a" * 10, 10) == "a" * 10


def test_what_a_page_shows_keeps_its_lines_and_nothing_that_acts() -> None:
    assert visible("a\n\tb  c\x1b\u202e\ud800\r") == "a\n\tb  c\ufffd\ufffd\ufffd\ufffd"
