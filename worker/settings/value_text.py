"""What the text of a setting may contain, wherever it comes from.

A variable, or a file of its own, loses the white space around its value: `echo` and editors end what they write with a
line break, and `export A=" b"` is easily written by mistake. In the settings file, and inside JSON, white space around a value
was written on purpose, so it is reported as a mistake. Invisible characters are refused everywhere.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from worker.redaction import HIDDEN
from worker.words import clean

# Text in which a space at either end can be right. A password keeps all but a line break at its end.
_SPACES_COUNT: Final = frozenset({"sasl_plain_password", "ssl_password", "password", "non_filterable_metadata_keys"})
_LINES_ALLOWED: Final = frozenset({"credentials_process"})  # a command, split as a shell does
_NEVER: Final = frozenset({"Cc", "Cs"})  # control characters, and halves of a pair of surrogates
_NOT_IN_NAMES: Final = frozenset(
    {"Cc", "Cs", "Cf", "Zl", "Zp"}
)  # also what has no width or turns the direction of text
_SHOWN_CHARACTERS: Final = 200
_VISIBLE_ASCII: Final = re.compile("[!-~]+")
_BYTE_ORDER_MARK: Final = "\ufeff"
# A login in an address, several lines, a key in PEM, or JSON: a secret that was written where only its name belongs.
_MAY_BE_SECRET: Final = re.compile(r'@|\S[ \t]*[\r\n]\s*\S|-----BEGIN|\{\s*"')
_NO_NAME_OF_A_FILE: Final = re.compile(r'[\r\n{"]|-----BEGIN')
_BEGINS_A_PATH: Final = ("/", "./", "../", "~/")


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


def may_be_secret(value: Any) -> bool:
    """Return whether a wrong value looks like a secret in the wrong place, so that no message may show it.

    A table, where there should be none, is what belongs into a file of its own.
    """
    return isinstance(value, Mapping) or any(_MAY_BE_SECRET.search(text) for text in _texts(value))


def possible_secrets(value: Any) -> Iterator[str]:
    """Yield each text in a value that looks like a secret in the wrong place, in every form in which a message may quote it."""
    for text in _texts(value):
        if _MAY_BE_SECRET.search(text):
            yield from (text, *text.splitlines(), json.dumps(text)[1:-1], repr(text)[1:-1])


def shown_path(path: Any, *, of_secret: bool = False) -> str:
    """Return the name of a file for a message, hidden where it may be the content that belongs into the file.

    The value of a setting is quoted, a path is not. `of_secret`: the file contains a secret, which people often give instead of the path.
    """
    text = str(path)
    is_hidden = _NO_NAME_OF_A_FILE.search(text) or (of_secret and not text.strip().startswith(_BEGINS_A_PATH))
    if is_hidden:
        return HIDDEN
    return clean(text if isinstance(path, Path) else repr(path), _SHOWN_CHARACTERS)


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
            return f"it contains U+{ord(character):04X}, a character that cannot be seen"
    if name not in _SPACES_COUNT and text != text.strip():
        return "white space before or after it"
    return ""
