"""Single values of a record, undecoded: what each is by its first byte, and what decodes it."""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from worker.errors import Reason, RecordError

Raw: TypeAlias = msgspec.Raw

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of bytes that it cannot decode, each by itself."""

NO_TEXT: Final = (msgspec.DecodeError, UnicodeDecodeError)
"""What msgspec raises of a string that is not UTF-8, in a value that it has read as a whole before: the first from 0.23 on."""


def _said_of_no_text() -> str:
    """Return the words of the installed msgspec for a string that is not UTF-8: nothing else of its error is about that alone."""
    try:
        msgspec.json.decode(b'"\xff"')
    except ValueError as error:
        return str(error)
    raise AssertionError("msgspec reads what is not UTF-8")


_SAID_OF_NO_TEXT: Final = _said_of_no_text()


def is_no_text(error: Exception) -> bool:
    """Return whether what msgspec raised of JSON is about a string that is not UTF-8, and not about what is around it."""
    return isinstance(error, UnicodeDecodeError) or str(error) == _SAID_OF_NO_TEXT


class Kind(Enum):
    """What a value is, as its first byte says; the value is the word for it in messages."""

    STRING = "string"
    NUMBER = "number"
    LIST = "list"
    MAP = "map"
    NULL = "null"
    BOOLEAN = "boolean"
    BINARY = "binary"
    EXTENSION = "value of an extension type"
    NOTHING = "nothing"


# JSON that is decoded at once may cost 2 seconds for each megabyte: numbers near the ends of the float64 range do. So that
# is bounded; longer parts are read step by step, where the numbers are counted before they are decoded.
AT_ONCE_BYTES: Final = 48 * 1024  # for key and metadata
BYTES_OF_A_NUMBER: Final = 24  # as Python writes a float64, with comma and space


class Cutter(NamedTuple):
    """Cuts maps into the members that `kind` names, undecoded. `decode` fails where a map is not as usual."""

    decode: Callable[[Any], Any]
    kind: type[msgspec.Struct]


class ValueReader:
    """Reads values in one encoding, which a subclass is for. Its methods raise `RecordError`; the decoders, what msgspec raises."""

    name: str
    kind_of_byte: tuple[Kind, ...]  # what a value is that begins with this byte
    decode_list: Callable[[Raw], list[Raw]]
    decode_text: Callable[[Raw], str]
    decode_texts: Callable[[Raw], list[str]]
    decode_number: Callable[[Raw], int | float | bool]
    decode_floats: Callable[[Raw], list[float]]
    decode_binary: Callable[[Raw], bytes]

    def kind(self, raw: Raw) -> Kind:
        """Return what a value is."""
        view = memoryview(raw)
        return self.kind_of_byte[view[0]] if view else Kind.NOTHING

    def kinds(self, values: list[Raw]) -> list[Kind]:
        """Return what each of the values is, none of them empty; in one go, for there may be a million."""
        kind_of_byte = self.kind_of_byte
        return [kind_of_byte[bytes(value)[0]] for value in values]

    def text(self, raw: Raw, where: str) -> str:
        """Decode a string; `where` is its place for a message."""
        try:
            return self.decode_text(raw)
        except NO_TEXT:
            raise self.no_text(raw, where) from None

    def no_text(self, raw: Raw, where: str) -> RecordError:
        """Return the error of a string that is no text, or of what has such a string in it."""
        return RecordError(Reason.MALFORMED, f"the {self.name} holds {self._what_is_no_text(raw)}; in {where}")

    def _what_is_no_text(self, _raw: Raw) -> str:
        return "a string that is not UTF-8"
