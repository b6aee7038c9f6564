"""Numbers, times and sizes as the page shows them."""

from datetime import UTC, datetime
from typing import Final

_MESSAGE_SHOWN: Final = 600  # characters; /readyz has all of it
NONE: Final = "\u2013"


def count_of(value: float | None) -> str:
    """Return a count with separators."""
    return NONE if value is None else f"{value:,.0f}"


def rate_of(value: float | None) -> str:
    """Return a rate a second, with fewer digits the higher it is."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}" if value >= 0.1 else f"{value:.2f}"


def plain(value: float) -> str:
    """Return a number of a scale."""
    return f"{value:,.1f}".removesuffix(".0")


def duration(value: float | None) -> str:
    """Return a duration in two units at the most."""
    if value is None:
        return NONE
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def sized(value: float) -> str:
    """Return bytes in the unit that fits."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def ago(moment: float, wall: float) -> str:
    """Return how long ago a moment was, both in Unix time; 0 is never."""
    return f"{duration(max(0.0, wall - moment))} ago" if moment else "not yet"


def utc(seconds: float) -> str:
    """Return Unix time as date and time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def shortened(text: str) -> str:
    """Return a message, cut where it is too long for the page."""
    return text if len(text) <= _MESSAGE_SHOWN else text[:_MESSAGE_SHOWN] + " ..."


def whole(value: float | None) -> str:
    """Return an offset, without separators, as other tools write it."""
    return NONE if value is None else f"{value:.0f}"
