"""The form in which a record is published: JSON with numbers, JSON with base64, or MessagePack."""

import base64
from typing import Final

import msgspec
import numpy as np
import orjson

from worker.errors import FatalError
from worker.records.formats.values import BYTE_ORDER_MARK

FORMS: Final = ("json", "base64", "msgpack")
AS_IN_FILE: Final = ""
LONG_VECTOR: Final = 128
"""Numbers of a vector from which base64 is the default: it costs the worker about half, and fewer bytes on Kafka."""

_json: Final = msgspec.json.decode


def default_form(dimension: int, records_format: str) -> str:
    """Return the form that suits an index and `records.format`."""
    if records_format == "msgpack":
        return "msgpack"
    return "base64" if dimension >= LONG_VECTOR else "json"


def check_form(form: str, records_format: str) -> None:
    """Raise `FatalError` where the worker would not read this form, by `records.format`."""
    if records_format != "auto" and (form == "msgpack") != (records_format == "msgpack"):
        raise FatalError(
            f'records.format is "{records_format}", so the worker would refuse every record in {form}: leave out --format'
        )


def written(value: bytes, form: str) -> bytes:
    """Return a valid JSON record in a form. What is already in it is returned as it is, with every byte.

    In the forms of JSON the other parts keep their bytes: a number in the metadata keeps all its digits. In MessagePack what
    has no form is returned as it is, too.
    """
    try:
        record = _json(value.removeprefix(BYTE_ORDER_MARK), type=dict[str, msgspec.Raw])
        data = _json(record["data"], type=dict[str, msgspec.Raw])
        vector = _json(data["float32"], type=str | list[float])
        if form == ("base64" if isinstance(vector, str) else "json"):
            return value
        numbers = base64.b64decode(vector) if isinstance(vector, str) else _float32(vector)
        if form == "msgpack":
            whole = orjson.loads(value.removeprefix(BYTE_ORDER_MARK))
            whole["data"]["float32"] = numbers
            return msgspec.msgpack.encode(whole)
        data["float32"] = msgspec.Raw(_text_of(numbers, form))
        record["data"] = msgspec.Raw(msgspec.json.encode(data))
        return msgspec.json.encode(record)
    except (ValueError, KeyError, TypeError, OverflowError):  # valid for the worker, and not for these readers
        return value


def _float32(vector: list[float]) -> bytes:
    with np.errstate(over="ignore"):
        return np.array(vector, dtype="<f4").tobytes()


def _text_of(numbers: bytes, form: str) -> bytes:
    if form == "base64":
        return b'"' + base64.b64encode(numbers) + b'"'
    return orjson.dumps(np.frombuffer(numbers, "<f4"), option=orjson.OPT_SERIALIZE_NUMPY)
