"""The secrets that this process knows, removed from every text that leaves it.

No text should have one. This is for errors of a library whose text quotes what the library was given.
"""

import base64
import re
import threading
from typing import Final
from urllib.parse import unquote, unquote_to_bytes, urlsplit

HIDDEN: Final = "********"
_SHORTEST: Final = 8  # characters; a shorter text is part of too many words
_MOST_KEPT: Final = 64  # renewed credentials add theirs; the oldest are forgotten

_lock = threading.Lock()
_by_age: dict[str, None] = {}
# A pattern that finds each secret, and the length of the longest. Replaced as a whole, so that it is read without the lock.
_known: tuple[re.Pattern[str] | None, int] = (None, 0)


def remember(*secrets: str | None) -> None:
    """Add secrets, so that `redact` hides them from now on. Those shorter than eight characters are left out."""
    global _known  # noqa: PLW0603 - one set of secrets for each process, as there is one log
    long_enough = [secret for secret in secrets if secret is not None and len(secret) >= _SHORTEST]
    with _lock:
        for secret in long_enough:
            _by_age.pop(secret, None)
            _by_age[secret] = None
        for oldest in list(_by_age)[:-_MOST_KEPT]:
            del _by_age[oldest]
        longest_first = sorted(_by_age, key=len, reverse=True)
        if longest_first:
            _known = re.compile("|".join(map(re.escape, longest_first))), len(longest_first[0])


def remember_url(url: str) -> None:
    """Add the password of a URL: as it is written, decoded, and as a header for basic authentication has it."""
    try:
        parts = urlsplit(url)
        user, password = parts.username or "", parts.password or ""
    except ValueError:
        return
    if password:
        basic = base64.b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode()
        remember(password, unquote(password), basic)


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
