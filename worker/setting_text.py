"""What the text of a setting may hold, wherever it comes from.

A variable, or a file of its own, loses the white space around its value: `echo` and editors end what they write with a
line break, and `export A=" b"` is written in a hurry. In the settings file, and inside JSON, white space around a value was
written on purpose, so it is a mistake and refused. Characters that nobody can see are refused everywhere.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Final

# Text in which a space at either end can be right. A password keeps all but a line break at its end.
_SPACES_COUNT: Final = frozenset({"sasl_plain_password", "ssl_password", "non_filterable_metadata_keys"})
_LINES_ALLOWED: Final = frozenset({"credentials_process"})  # a command, split as a shell does
_NEVER: Final = frozenset({"Cc", "Cs"})  # control characters, and halves of a pair of surrogates
_NOT_IN_NAMES: Final = frozenset(
    {"Cc", "Cs", "Cf", "Zl", "Zp"}
)  # also what has no width or turns the direction of text
_VISIBLE_ASCII: Final = re.compile("[!-~]+")
_BYTE_ORDER_MARK: Final = "\ufeff"


def stripped(name: str, text: str) -> str:
    """Return the value of a variable, or of a file of its own, for the setting `name`, without what surrounds it."""
    text = text.removeprefix(_BYTE_ORDER_MARK)
    return text.rstrip("\r\n") if name in _SPACES_COUNT else text.strip()


def problem(name: str, value: Any) -> str:
    """Return what is wrong with the text in the setting `name`, "" where nothing is. It never quotes the value."""
    return next((found for text in _texts(value) if (found := _problem(name, text))), "")


def credential_problem(text: str) -> str:
    """Return why a part of the credentials cannot be sent in a header, "" where it can. It never quotes the value."""
    if not text:
        return "is empty"
    return "" if _VISIBLE_ASCII.fullmatch(text) else "holds a character other than the visible ones of ASCII"


def _texts(value: Any) -> Iterator[str]:
    """Yield each text in a value, those in lists and tables too. The depth was bounded when the value was read."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, element in value.items():
            yield str(key)
            yield from _texts(element)
    elif isinstance(value, (list, tuple)):
        for element in value:
            yield from _texts(element)


def _problem(name: str, text: str) -> str:
    if name in _LINES_ALLOWED:
        text = text.replace("\n", " ").strip(" ")
    forbidden = _NEVER if name in _SPACES_COUNT else _NOT_IN_NAMES
    for character in text:
        if unicodedata.category(character) in forbidden:
            return f"it holds U+{ord(character):04X}, which cannot be seen"
    if name not in _SPACES_COUNT and text != text.strip():
        return "white space before or after it"
    return ""
