"""Dates, times and decimals of Avro and Protobuf as text: ISO 8601, RFC 3339 and plain decimals. ValueError beyond their range."""

from datetime import date, timedelta
from typing import Final

_EPOCH: Final = date(1970, 1, 1)
_DAY: Final = 86_400
MOST_DECIMAL_BYTES: Final = 128
"""Of the number in a decimal. To write a number as text costs the square of its length."""


def of_date(days: int) -> str:
    """Return the date that is so many days after 1970-01-01."""
    return _date(days).isoformat()


def of_time(ticks: int, digits: int) -> str:
    """Return the time of day after so many ticks, of which a second has 10 ** `digits`."""
    seconds, fraction = divmod(ticks, 10**digits)
    if not 0 <= seconds < _DAY:
        raise ValueError(f"{ticks} is not within a day")
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:0{digits}}"


def of_moment(ticks: int, digits: int, zone: str = "Z") -> str:
    """Return the date and time so many ticks after 1970, of which a second has 10 ** `digits`."""
    days, rest = divmod(ticks, _DAY * 10**digits)
    return f"{_date(days).isoformat()}T{of_time(rest, digits)}{zone}"


def of_decimal(unscaled: bytes, scale: int) -> str:
    """Return a decimal, whose number without its point is two's complement, big-endian, all its places written."""
    if len(unscaled) > MOST_DECIMAL_BYTES:
        raise ValueError(f"a decimal has {len(unscaled)} bytes; at most {MOST_DECIMAL_BYTES} are read")
    number = int.from_bytes(unscaled, "big", signed=True)
    digits = f"{abs(number):0{scale + 1}}"
    whole = digits if scale == 0 else f"{digits[:-scale]}.{digits[-scale:]}"
    return f"-{whole}" if number < 0 else whole


def of_duration(twelve: bytes) -> str:
    """Return Avro's duration, three unsigned little-endian numbers: months, days and milliseconds."""
    months, days, millis = (int.from_bytes(twelve[at : at + 4], "little") for at in (0, 4, 8))
    return f"P{months}M{days}DT{millis // 1000}.{millis % 1000:03}S"


def _date(days: int) -> date:
    try:
        return _EPOCH + timedelta(days=days)
    except OverflowError:
        raise ValueError(f"{days} days from 1970 are outside of the years 1 to 9999") from None
