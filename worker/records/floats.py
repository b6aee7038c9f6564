"""The numbers of a JSON record, read by simdjson, which returns them without making a Python object of each.

msgspec decodes the rest of the record, with a placeholder instead of the list of numbers. For long vectors both together cost
about half of msgspec alone. Nothing is accepted that msgspec would refuse: it, or the caller, reads what is unusual.
"""

import base64
import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

try:
    from simdjson import Parser
except ImportError:  # it has no wheel for every Python; msgspec then reads the numbers too
    Parser = None  # type: ignore[assignment, misc]  # it is the class, or it is not there

Float64s: TypeAlias = NDArray[np.float64]

WORTH_ITS_CALLS: Final = 256  # numbers; for fewer, two parsers cost as much as one
_NAME: Final = b'"float32"'
_NAME_TO_LIST: Final = 32  # characters from the name's begin in which a list begins, white space and all
_STAND_IN_BYTES: Final = 12  # a multiple of three, so that base64 has no padding


class _Data(Protocol):
    float32: Any


class _Record(Protocol):
    @property
    def data(self) -> _Data: ...


R = TypeVar("R", bound=_Record)

_decode_floats: Final = msgspec.json.Decoder(list[float]).decode


def list_reader(dimension: int) -> Callable[[bytes], list[float] | Float64s]:
    """Return what decodes JSON that is one list of numbers. It raises what msgspec raises where it is not."""
    if Parser is None or dimension < WORTH_ITS_CALLS:
        return _decode_floats
    parse: Callable[[bytes], Any] = Parser().parse

    def read(text: bytes) -> list[float] | Float64s:
        if text.rfind(b"[") == 0:  # lists within it would be joined to one
            try:
                return np.frombuffer(parse(text).as_buffer(of_type="d"))
            except (ValueError, TypeError, RuntimeError):  # likewise
                pass
        return _decode_floats(text)

    return read


def with_numbers_apart(decode: Callable[[bytes], R], dimension: int) -> Callable[[bytes], R]:
    """Return a decoder of JSON records whose `data.float32` is an array of float64 where it was a list of numbers.

    `decode` is msgspec's; it is returned unchanged where vectors are short or simdjson is not installed. The decoder that
    is returned raises what `decode` raises, also for some records that `decode` would accept: its caller has another way to
    read them.

    1. The text from the name `"float32"` to the first closing bracket is cut out. A base64 string that no producer can
       know beforehand replaces it.
    2. `decode` reads the rest. If `data.float32` is that string, then what was cut out was the whole value at that place.
    3. Otherwise the name was found elsewhere, in the metadata for instance, and `decode` reads the record as it came.
    """
    if Parser is None or dimension < WORTH_ITS_CALLS:
        return decode
    parse: Callable[[bytes], Any] = Parser().parse
    stand_in = secrets.token_bytes(_STAND_IN_BYTES)
    quoted = b'"' + base64.b64encode(stand_in) + b'"'

    def decode_apart(body: bytes) -> R:
        name = body.find(_NAME)
        begin = body.find(b"[", name, name + _NAME_TO_LIST)
        end = body.find(b"]", begin) + 1
        if name < 0 or begin < 0 or end == 0:
            return decode(body)
        record = decode(body[:begin] + quoted + body[end:])
        if record.data.float32 != stand_in:
            return decode(body)
        try:
            record.data.float32 = np.frombuffer(parse(body[begin:end]).as_buffer(of_type="d"))
        except (ValueError, TypeError, RuntimeError):  # what the parser raises for what is no list of numbers
            return decode(body)
        return record

    return decode_apart
