"""Debezium's placeholders of a value that PostgreSQL did not send: of a large column (TOAST) that the change did not change.

Each type of a column has its own form of one text:

    text, json, hstore as map    the text
    bytea                        its bytes, which JSON has as base64 or hexadecimal (binary.handling.mode)
    hstore as JSON               {"the text":"the text"}
    uuid[]                       the UUID that Java makes of its bytes
    numbers[]                    the codes of its characters
    any other array              a list of one of the texts above

They are known by the default of `unavailable.value.placeholder`.
"""

import base64
import binascii
import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Final

from worker.errors import Reason, RecordError

TOAST: Final = "__debezium_unavailable_value"

_BYTES: Final = TOAST.encode()
_HEXADECIMAL: Final = _BYTES.hex()
_UUID: Final = uuid.UUID(bytes=hashlib.md5(_BYTES, usedforsecurity=False).digest(), version=3)
_NUMBERS: Final = [*_BYTES]
SIZE: Final = len(_NUMBERS)
"""How many numbers the placeholder of an array of numbers has."""
_MAP: Final = {TOAST: TOAST}
_OF_NUMBERS: Final = ([*map(str, _NUMBERS)], [f"{number}.0" for number in _NUMBERS])  # under stringify
TEXTS: Final = frozenset(
    (
        TOAST, base64.b64encode(_BYTES).decode(), _HEXADECIMAL, _HEXADECIMAL.upper(), str(_UUID),
        json.dumps(_MAP, separators=(",", ":")), json.dumps(_MAP),
    )
)  # fmt: skip
"""The placeholders that are a text."""
LONGEST: Final = max(map(len, TEXTS))
"""Characters of a text; no placeholder has more bytes either."""
# What base64 holds of a placeholder: its bytes, or what it reads hexadecimal digits as.
_DATA: Final = frozenset((_BYTES, *(binascii.a2b_base64(text) for text in (_HEXADECIMAL, _HEXADECIMAL.upper()))))
_PARTS: Final = (*(text.encode() for text in TEXTS), *(",".join(map(str, _NUMBERS)).encode(),))


def is_unchanged(value: object) -> bool:
    """Return whether a text, or a list of texts or numbers, is a placeholder."""
    if type(value) is str:
        return len(value) <= LONGEST and value in TEXTS
    if type(value) is not list:
        return False
    if len(value) == 1:
        return type(value[0]) is str and is_unchanged(value[0])
    return len(value) == SIZE and (value == _NUMBERS or value in _OF_NUMBERS)


def are_unchanged_bytes(data: bytes) -> bool:
    """Return whether bytes, or what base64 holds, are a placeholder."""
    return len(data) <= LONGEST and data in _DATA


def are_unchanged_numbers(numbers: Iterable[float]) -> bool:
    """Return whether numbers are the placeholder of an array of numbers."""
    return is_unchanged([*numbers])


def has_unchanged(row: bytes) -> bool:
    """Return whether a row in JSON has a placeholder in it, as Kafka Connect writes them. Only for messages."""
    return any(part in row for part in _PARTS)


def unchanged(where: str) -> RecordError:
    """Return the error of a column that has a placeholder."""
    return RecordError(
        Reason.MALFORMED,
        f"{where} is an unchanged TOAST column, which PostgreSQL does not send ({TOAST}): the row has no value of it. "
        "ALTER TABLE ... REPLICA IDENTITY FULL, or Debezium's reselect post-processor, makes Debezium send it",
    )
