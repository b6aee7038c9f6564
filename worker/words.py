"""Texts from outside (of the service, a broker, a record), made fit for a log line, a header and a page."""

import re
from collections.abc import Sequence
from typing import Final

from worker.redaction import redact

MESSAGE_CHARACTERS: Final = 500
CODE_CHARACTERS: Final = 100
_CUT: Final = "…"
# Control characters (C0 and C1), line and paragraph separators, marks that change the direction of text, and single
# surrogates, which no encoding can represent.
_NOT_TEXT: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
_WHITE_SPACE: Final = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029")


def clean(text: str, most: int = MESSAGE_CHARACTERS) -> str:
    """Return the text as one line of at most `most` characters, which UTF-8 can encode and a terminal only shows.

    Each run of white space becomes one space. What is no text becomes U+FFFD. Secrets that this process knows are hidden.
    The cost is bounded by `most`, not by the length of the text.
    """
    text = redact(text, 2 * most + 1)
    if len(text) > 2 * most:
        text = text[: 2 * most] + _CUT
    return _cut(" ".join(_NOT_TEXT.sub(_replacement, text).split()), most)


def with_room(texts: Sequence[str], most: int) -> list[str]:
    """Return the texts, each cut to its share of `most` characters."""
    return [_cut(text, most // len(texts)) for text in texts]


def and_more(count: int, what: str) -> list[str]:
    """Return a text that says how many more there are of something that has a plural with s; nothing for none."""
    return [f"and {count:,} more {what}{'s' if count > 1 else ''}"] if count > 0 else []


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + _CUT


def visible(text: str) -> str:
    """Return the text with U+FFFD in place of what is no text; line breaks and tabs are kept. For a page."""
    return _NOT_TEXT.sub(lambda found: found.group() if found.group() in "\n\t" else "\ufffd", text)


def _replacement(found: re.Match[str]) -> str:
    return " " if found.group() in _WHITE_SPACE else "\ufffd"
