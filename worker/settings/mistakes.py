"""How a mistake in the settings is worded: what is wrong, where it is, and what to do."""

import difflib
from collections.abc import Iterable
from typing import Any, Final

from worker.words import clean

SHOWN_CHARACTERS: Final = 200  # of a wrong value


def quoted(value: Any) -> str:
    """Return a wrong value for a message, on one line and cut where it is long."""
    return clean(repr(value), SHOWN_CHARACTERS)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the known name that was probably meant, to be put behind a mistake; "" where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
