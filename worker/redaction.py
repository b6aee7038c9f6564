"""The secrets that this process knows, taken out of every text that leaves it.

No text is meant to hold one. This is for the text of a library's error that quotes what it was given.
"""

import base64
import re
import threading
from typing import Final
from urllib.parse import unquote, unquote_to_bytes, urlsplit

HIDDEN: Final = "********"
_SHORTEST: Final = 8  # characters; a shorter secret is part of too many words
_MOST_KEPT: Final = 64  # credentials that are renewed add theirs; the oldest are forgotten

_lock = threading.Lock()
_by_age: dict[str, None] = {}
_known: tuple[re.Pattern[str] | None, int] = (
    None,
    0,
)  # what finds each, and the longest; replaced as a whole, without a lock


def remember(*secrets: str | None) -> None:
    """Note secrets, so that `redact` hides them from now on. Those shorter than eight characters are left out."""
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
    """Note the password of a URL: as it is written, decoded, and as a header for basic authentication carries it."""
    try:
        parts = urlsplit(url)
        user, password = parts.username or "", parts.password or ""
    except ValueError:
        return
    if password:
        basic = base64.b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode()
        remember(password, unquote(password), basic)


def redact(text: str, most: int) -> str:
    """Return at least the first `most` characters of the text, every known secret in them replaced by asterisks.

    A secret that reaches beyond is replaced too. The cost is bounded by `most`, not by the length of the text.
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
