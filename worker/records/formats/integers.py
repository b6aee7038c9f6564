"""Integers in JSON as text."""

import re
from typing import Final

_INTEGER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)")


def integer_text(json: bytes) -> str | None:
    """Return the decimal text of an integer in JSON, digit by digit; None for what is none, such as 1.0 and 1e3."""
    if _INTEGER.fullmatch(json) is None:
        return None
    return "0" if json == b"-0" else json.decode()
