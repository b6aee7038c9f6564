"""A vector that is a string: base64 in any of its dresses, or a list of numbers written as text.

Text with a bracket or a comma in it is a list, as pgvector prints it: `[0.1,0.2]`, or `0.1,0.2`. All else is base64, of the
standard alphabet or that of URLs, with or without padding, with or without line breaks.
"""

import binascii
from typing import Final

import msgspec

from worker.errors import Reason, RecordError
from worker.records.formats.contract import UnreadNumbers
from worker.records.formats.hints import constant_at
from worker.records.formats.toast import are_unchanged_bytes, is_unchanged, unchanged
from worker.records.vector import beyond_float32
from worker.words import clean

_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_floats: Final = msgspec.json.Decoder(list[float]).decode
_NUMBER: Final = frozenset(b"-0123456789")
_KINDS: Final = {b"n": "null", b'"': "string", b"[": "list", b"{": "map"}
_URL_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def is_list(text: str) -> bool:
    """Return whether text is a list of numbers, and not base64. A data URL, which has a comma too, is no list."""
    return ("," in text and not text.startswith("data:")) or text.lstrip()[:1] == "["


def as_json(text: str) -> bytes:
    """Return a list that is written as text as JSON, if it is any."""
    text = text.strip()
    return (text if text.startswith("[") else f"[{text}]").encode()


def numbers(text: str, where: str) -> UnreadNumbers:
    """Return the numbers that are written as text. Raises `RecordError`."""
    json = as_json(text)
    try:
        elements = _decode_list(json)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RecordError(
            Reason.MALFORMED,
            f"{where} is text that is no list of numbers: {clean(str(error))}{constant_at(json, error)}",
        ) from None
    for place, element in enumerate(elements):
        if bytes(element)[0] not in _NUMBER:
            found = _KINDS.get(bytes(element)[:1], "boolean")
            raise RecordError(Reason.MALFORMED, f"element {place} of the text in {where} is no number: it is a {found}")

    def read() -> list[float]:
        try:
            return _decode_floats(json)
        except msgspec.ValidationError as error:
            raise beyond_float32(clean(str(error).replace("`$[", f"`$.{where}[")) + ";") from None

    return UnreadNumbers(len(elements), read)


def packed(text: str, where: str, allowed: str) -> bytes:
    """Return the bytes that base64 holds. Raises `RecordError`."""
    if is_unchanged(text):
        raise unchanged(where)
    try:
        data = _bytes_of(text)
    except ValueError:
        raise RecordError(Reason.MALFORMED, f"{where} is a string that is not base64; {allowed}") from None
    if are_unchanged_bytes(data):
        raise unchanged(where)
    return data


def _bytes_of(text: str) -> bytes:
    """Decode base64. Raises `ValueError`, also for text that has characters of both alphabets."""
    plain = text.encode("ascii").translate(None, b"\r\n")
    if b"-" in plain or b"_" in plain:
        if b"+" in plain or b"/" in plain:
            raise ValueError
        plain = plain.translate(_URL_TO_STANDARD)
    body = plain.rstrip(b"=")
    padding = -len(body) % 4
    if len(plain) - len(body) not in (0, padding):
        raise ValueError
    return binascii.a2b_base64(body + b"=" * padding, strict_mode=True)
