"""How the page writes durations: two units at most, and no seconds where they say nothing."""

import pytest

from worker.telemetry.page.words import duration, rough


@pytest.mark.parametrize(
    ("seconds", "exact", "lasting"),
    [
        (0.0124, "12 ms", "12 ms"),
        (4.26, "4.3 s", "4.0 s"),
        (59.4, "59 s", "59 s"),
        (60.0, "1 min 0 s", "1 min"),
        (599.4, "9 min 59 s", "9 min 59 s"),
        (599.8, "10 min", "10 min"),
        (750.0, "12 min", "12 min"),  # "12 min 30 s" breaks in its tile
        (3599.0, "1 h 0 min", "1 h"),
        (5_400.0, "1 h 30 min", "1 h 30 min"),
        (86_400.0, "1 d 0 h", "1 d"),
    ],
)
def test_a_duration_has_two_units_and_no_seconds_from_ten_minutes_on(seconds: float, exact: str, lasting: str) -> None:
    assert (duration(seconds), rough(seconds)) == (exact, lasting)
