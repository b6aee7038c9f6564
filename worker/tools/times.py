"""Times that a person types: RFC 3339, or how long ago."""

import re
from datetime import datetime
from typing import Any, Final

import click

_AGO: Final = re.compile(r"(\d{1,9})\s*([smhd])\Z")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Time(click.ParamType):  # type: ignore[type-arg]  # older releases of click take none
    """A Unix time in seconds, from RFC 3339 with its offset (`2026-01-31T12:00:00Z`), or `30m`, `2h`, `7d` ago."""

    name = "time"

    def __init__(self, now: Any) -> None:
        self._now = now

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it. Fails as wrong usage."""
        if isinstance(value, float):
            return value
        if ago := _AGO.match(value.strip()):
            return float(self._now()) - int(ago[1]) * _SECONDS[ago[2]]
        try:
            at = datetime.fromisoformat(value.strip())
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            self.fail(
                f"{value!r} is no time: give 2026-01-31T12:00:00Z (with Z or an offset), or 30m, 2h, 7d ago", param, ctx
            )
        return at.timestamp()
