"""Numbers, times and sizes as the page shows them."""

import re
from datetime import UTC, datetime
from typing import Final

_MESSAGE_SHOWN: Final = 600  # characters; /readyz and the log have more
_UNIT: Final = re.compile(r"(\d) (?=(?:ms|s|min|h|d|B|KiB|MiB|GiB|%|of|a second)\b|%)")
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
    """Return a duration in two units at the most, without seconds from ten minutes on."""
    if value is None:
        return NONE
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, seconds = divmod(round(value) if value < 600 else 60 * round(value / 60), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes < 10 else f"{minutes} min"


def rough(seconds: float) -> str:
    """Return a duration in whole seconds and without a second unit that is 0: for what lasts."""
    text = duration(max(0.0, round(seconds) if seconds >= 1 else seconds))
    return text.removesuffix(" 0 s").removesuffix(" 0 min").removesuffix(" 0 h")


def clock(seconds: float) -> str:
    """Return Unix time as the time of the day."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def counted(count: float, one: str, many: str) -> str:
    """Return a count with its noun."""
    return f"{count:,.0f} {one if count == 1 else many}"


def percent(share: float) -> str:
    """Return a share."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def held(text: str) -> str:
    """Return a text in which no line begins with a unit."""
    return _UNIT.sub("\\1\u00a0", text)


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
