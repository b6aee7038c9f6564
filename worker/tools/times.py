"""Times that a person types: RFC 3339, or how long ago."""

import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

import click

_AGO: Final = re.compile(r"(\d{1,9})\s*([smhd])\Z")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parsed(option: str, text: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Return a Unix time in seconds, from `2026-01-31T12:00:00Z` with its offset, or from `30m`, `2h`, `7d` ago.

    Raises click's `BadParameter` for anything else: a time without an offset could be another hour elsewhere.
    """
    if text is None:
        return None
    if ago := _AGO.match(text.strip()):
        return now() - int(ago[1]) * _SECONDS[ago[2]]
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise click.BadParameter(
            f"{text!r} is no time: give 2026-01-31T12:00:00Z (with Z or an offset), or 30m, 2h, 7d ago",
            param_hint=option,
        )
    return at.timestamp()
