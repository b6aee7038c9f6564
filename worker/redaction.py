"""The secrets that this process knows, removed from every text that leaves it.

No text should have one. This is for errors of a library whose text quotes what the library was given.
"""

import base64
import re
import threading
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, unquote_to_bytes, urlsplit

HIDDEN: Final = "********"
_SHORTEST: Final = 8  # characters; a shorter text is part of too many words
_MOST_RENEWED: Final = 64  # credentials that are renewed; the oldest are forgotten

_lock = threading.Lock()
_kept: set[str] = set()
_renewed: dict[str, None] = {}  # by age
# A pattern that finds each secret, and the length of the longest. Replaced as a whole, so that it is read without the lock.
_known: tuple[re.Pattern[str] | None, int] = (None, 0)


def remember(*secrets: str | None) -> None:
    """Add secrets, so that `redact` hides them for as long as this process runs.

    Those shorter than eight characters are left out.
    """
    with _lock:
        _kept.update(_long_enough(secrets))
        _make_pattern()


def remember_renewed(*secrets: str | None) -> None:
    """Add secrets that others will replace. Of these only the newest 64 are hidden, so that they do not become ever more."""
    with _lock:
        for secret in _long_enough(secrets):
            _renewed.pop(secret, None)
            _renewed[secret] = None
        for oldest in list(_renewed)[:-_MOST_RENEWED]:
            del _renewed[oldest]
        _make_pattern()


def _long_enough(secrets: Iterable[str | None]) -> list[str]:
    return [secret for secret in secrets if secret is not None and len(secret) >= _SHORTEST]


def _make_pattern() -> None:
    global _known  # noqa: PLW0603 - one set of secrets for each process, as there is one log
    longest_first = sorted(_kept.union(_renewed), key=len, reverse=True)
    if longest_first:
        _known = re.compile("|".join(map(re.escape, longest_first))), len(longest_first[0])


def remember_login(user: str | bytes, password: str | bytes) -> None:
    """Add a login as a header for basic authentication has it; of a text, its UTF-8."""
    if password:
        user, password = (part.encode() if isinstance(part, str) else part for part in (user, password))
        remember(base64.b64encode(user + b":" + password).decode())


def remember_url(url: str) -> None:
    """Add the password of a URL: as it is written, decoded, and as a header for basic authentication has it."""
    try:
        parts = urlsplit(url)
        user, password = parts.username or "", parts.password or ""
    except ValueError:
        return
    if password:
        remember(password, unquote(password))
        remember_login(unquote_to_bytes(user), unquote_to_bytes(password))


def redact(text: str, most: int) -> str:
    """Return at least the first `most` characters of the text, with asterisks in place of every known secret in them.

    A secret that begins in them and ends behind them is replaced too. The cost is bounded by `most`, not by the length of
    the text.
    """
    pattern, longest = _known
    parts = []
    place, left = 0, most
    while pattern is not None and left > 0:
        found = pattern.search(text, place, place + left + longest)
        if found is None or found.start() >= place + left:
            break
        parts += [text[place : found.start()], HIDDEN]
        left -= found.start() - place + len(HIDDEN)
        place = found.end()
    return "".join([*parts, text[place : place + max(0, left)]])
