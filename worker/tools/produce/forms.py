"""The form in which a record is published: JSON with numbers, JSON with base64, or MessagePack."""

import base64
import binascii
from typing import Any, Final

import msgspec
import numpy as np
import orjson

FORMS: Final = ("json", "base64", "msgpack")
LONG_VECTOR: Final = 128
"""Numbers of a vector from which base64 is the default: it costs the worker about half, and fewer bytes on Kafka."""


def default_form(dimension: int, records_format: str) -> str:
    """Return the form that suits an index and `records.format`."""
    if records_format == "msgpack":
        return "msgpack"
    return "base64" if dimension >= LONG_VECTOR else "json"


def written(value: bytes, form: str) -> bytes:
    """Return a valid JSON record in a form. What is already in it is returned as it is, with every byte."""
    try:
        record: dict[str, Any] = orjson.loads(value.removeprefix(b"\xef\xbb\xbf"))
        vector = record["data"]["float32"]
    except (ValueError, KeyError, TypeError):  # valid for the worker, and not for this reader: a lone surrogate, say
        return value
    is_text = isinstance(vector, str)
    if form == ("base64" if is_text else "json"):
        return value
    try:
        numbers = base64.b64decode(vector) if is_text else np.asarray(vector, dtype="<f4").tobytes()
    except (ValueError, TypeError, binascii.Error):
        return value
    if form == "base64":
        record["data"]["float32"] = base64.b64encode(numbers).decode()
    elif form == "json":
        record["data"]["float32"] = np.frombuffer(numbers, "<f4")
    else:
        record["data"]["float32"] = numbers
        return msgspec.msgpack.encode(record)
    return orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)
