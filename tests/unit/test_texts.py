"""Dates, times and decimals as text."""

from collections.abc import Callable

import pytest

from worker.registry import texts


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: texts.of_date(0), "1970-01-01"),
        (lambda: texts.of_date(-719162), "0001-01-01"),
        (lambda: texts.of_date(2932896), "9999-12-31"),
        (lambda: texts.of_time(45_296_789, 3), "12:34:56.789"),
        (lambda: texts.of_time(0, 6), "00:00:00.000000"),
        (lambda: texts.of_moment(1_700_000_000_123, 3), "2023-11-14T22:13:20.123Z"),
        (lambda: texts.of_moment(-1, 6, ""), "1969-12-31T23:59:59.999999"),
        (lambda: texts.of_decimal(b"\x04\xce", 2), "12.30"),
        (lambda: texts.of_decimal(b"\xff", 3), "-0.001"),
        (lambda: texts.of_decimal(b"", 0), "0"),
        (lambda: texts.of_decimal(b"\x05", 2), "0.05"),
        (lambda: texts.of_duration(bytes([1, 0, 0, 0, 2, 0, 0, 0, 0xBC, 0x0B, 0, 0])), "P1M2DT3.004S"),
    ],
)
def test_the_text_of_a_value(made: Callable[[], str], text: str) -> None:
    assert made() == text


@pytest.mark.parametrize(
    "made",
    [
        lambda: texts.of_date(2932897),
        lambda: texts.of_date(2**40),
        lambda: texts.of_date(-719163),
        lambda: texts.of_time(86_400_000, 3),
        lambda: texts.of_time(-1, 3),
        lambda: texts.of_moment(2**63, 3),
        lambda: texts.of_decimal(b"\x01" * 129, 2),
    ],
)
def test_what_has_no_text_is_refused(made: Callable[[], str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        made()
