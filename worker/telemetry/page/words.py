"""Numbers, times and sizes as the page shows them."""

from datetime import UTC, datetime
from typing import Final

_MESSAGE_SHOWN: Final = 600  # characters; /readyz has the whole


NONE: Final = "\u2013"


def count_of(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def rate_of(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}" if value >= 0.1 else f"{value:.2f}"


def plain(value: float) -> str:
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
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def ago(moment: float, wall: float) -> str:
    return f"{duration(max(0.0, wall - moment))} ago" if moment else "not yet"


def utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def shortened(text: str) -> str:
    return text if len(text) <= _MESSAGE_SHOWN else text[:_MESSAGE_SHOWN] + " ..."


def whole(value: float | None) -> str:
    """An offset, as other tools write it."""
    return NONE if value is None else f"{value:.0f}"
