"""Completes the message of a record that cannot be read: what it looks like, and what its producer or a setting can do.

It is called once a record has failed, so a good record costs nothing for it. What it costs is bounded by the value's bytes.
The message names fields and settings, never a value of the record.
"""

import re
from functools import partial
from typing import Final

from worker.errors import Reason, RecordError
from worker.records.choices import VectorBytes
from worker.records.first_bytes import look_of, look_of_no_vector, look_of_packed
from worker.records.foreign import Foreign, names_shown
from worker.records.formats.contract import Headers
from worker.records.formats.framing import schema_in_header, without_prefix
from worker.records.formats.hints import wide_text
from worker.records.formats.paths import WHOLE_VALUE
from worker.records.formats.toast import TOAST
from worker.records.formats.values import Kind
from worker.records.formats.vector_alone import NUMPY
from worker.records.formats.vector_bytes import width_of
from worker.records.members import Fields, fields_of, first_name_kind, is_messagepack
from worker.records.number_types import type_of_numbers
from worker.records.suspects import ordinary_numbers
from worker.records.target import Target
from worker.words import clean

_CHARACTERS: Final = 420  # of what is added
_SURROGATE_IN_UTF_8: Final = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_SECOND_MAP: Final = re.compile(rb"\}[ \t\r\n]*\{")
_NAMED: Final = "looks like"  # by the format that read it
_NO_VECTOR: Final = ("not base64", "no list of numbers")  # of a string
_SETTING: Final = "records.envelope"
_WITHOUT_REGISTRY: Final = (
    'a topic with records.many = "split" is read without the registry, whatever registry.url says'
)


class Looks:
    """Completes messages for one route. `vector_path` and all behind it are what its settings say."""

    def __init__(
        self,
        target: Target,
        *,
        vector_path: str = "data.float32",
        envelope: str = "none",
        is_many: bool = False,
        vector_bytes: VectorBytes = "float32-le",
        has_registry: bool = False,
    ) -> None:
        self._dimension = target.dimension
        self._is_many = is_many
        self._has_registry = has_registry
        self._vector_bytes = vector_bytes
        self._vector_path = vector_path
        self._is_vector_alone = vector_path == WHOLE_VALUE.text
        self._foreign = Foreign(target.dimension, vector_path, envelope, is_many=is_many)

    def completed(self, error: RecordError, value: bytes | None, vector: object, headers: Headers = ()) -> RecordError:
        """Return the error with what is to be added to its message. `vector` is what a format read, if it did.

        It is found when the message is read: of many bad records in one message most are never described.
        """
        return RecordError(error.reason, partial(self._message, error, value, vector, headers), error.suspect)

    def _message(self, error: RecordError, value: bytes | None, vector: object, headers: Headers) -> str:
        try:
            if self._is_vector_alone:
                hint = self._of_vector_alone(error, value or b"", vector)
            else:
                hint = self._of_schema(error, value or b"", headers) or self.hint(error, value or b"", vector)
        except Exception:
            return error.message
        return f"{error.message}; {clean(hint, _CHARACTERS)}" if hint else error.message

    def _of_schema(self, error: RecordError, value: bytes, headers: Headers) -> str:
        """Return what would read a value that is no record by itself and names a schema, "" for any other."""
        if self._has_registry or error.reason not in (Reason.MALFORMED, Reason.UNSUPPORTED_ENCODING):
            return ""
        is_record = value.lstrip()[:1] in (b"{", b"[") or fields_of(value) is not None
        if not is_record and (named := schema_in_header(headers)):
            return f"{named}: {_WITHOUT_REGISTRY if self._is_many else 'set registry.url'}"
        return _WITHOUT_REGISTRY if self._is_many and error.reason is Reason.UNSUPPORTED_ENCODING else ""

    def hint(self, error: RecordError, value: bytes, vector: object) -> str:
        """Return what is to be added, "" if nothing is known."""
        data = self._foreign.data_of(value)
        words = self._hint(error, data, vector)
        if data is value or WHOLE_VALUE.text not in words:
            return words
        return f"the event has what looks like the bytes of a vector alone: let it have a map with them at {self._vector_path}"

    def _hint(self, error: RecordError, value: bytes, vector: object) -> str:
        if isinstance(vector, bytes) and (error.reason is Reason.DIMENSION or "no whole float32s" in error.message):
            return self._packed(value, vector)
        if error.reason in (Reason.MALFORMED, Reason.UNSUPPORTED_ENCODING):
            return self._unread(error, value)
        if error.reason is Reason.KEY and "neither the value nor" in error.message:
            fields = self._record_in(value)
            return "" if fields is None else self._foreign.key_words(fields)
        if error.reason is Reason.NOT_FINITE and isinstance(vector, bytes):
            return self._byte_order(vector)
        if error.reason is Reason.METADATA and " is a string; allowed is a map" in error.message:
            return "publish it as a map, not as the text of one"
        return ""

    def _record_in(self, value: bytes) -> Fields | None:
        """Return the record in a value, out of the envelope of the settings; None where there is none."""
        fields = fields_of(value)
        return None if fields is None else self._foreign.record_of(fields)

    def _unread(self, error: RecordError, value: bytes) -> str:
        if "not UTF-8" in error.message:
            fields = self._record_in(value)
            return (fields and self._foreign.string_words(fields)) or _no_utf_8(value)
        if "trailing" in error.message and _NAMED not in error.message and (words := self._trailing(value)):
            return words
        if _SETTING in error.message or TOAST in error.message:  # the format has said it all
            return ""
        if (fields := fields_of(value)) is not None:
            record = self._foreign.record_of(fields)
            return "" if record is None else self._of_fields(error, record)
        if first_name_kind(value) is Kind.BINARY:
            return "its names are bytes: encode them as strings"
        return self._of_bytes(error, value)

    def _of_fields(self, error: RecordError, fields: Fields) -> str:
        is_text = any(words in error.message for words in _NO_VECTOR)
        return self._foreign.text_words(fields) if is_text else self._foreign.words(fields)

    def _of_bytes(self, error: RecordError, value: bytes) -> str:
        is_after_prefix = error.reason is Reason.MALFORMED and not wide_text(value)
        look = look_of(without_prefix(value) if is_after_prefix else value, self._dimension)
        if look is None:
            return ""
        return look.advice if _NAMED in error.message else f"it looks like {look.like}: {look.advice}"

    def _trailing(self, value: bytes) -> str:
        """Return what is said of what follows a whole value, "" if nothing is known of it."""
        if first_name_kind(value) is Kind.STRING:
            return (
                'something follows the record: publish one in a message, or a list of them with records.many = "split"'
            )
        if value.endswith(b"\0") and not is_messagepack(value):
            return "NUL bytes follow the record: publish it without them"
        if not _SECOND_MAP.search(value):
            return ""
        if self._is_many:
            return (
                'a second map follows the first: records.many = "split" reads one whole record on each line, or a list'
            )
        return (
            "a second map follows the first, as in JSON Lines: "
            'set records.many = "split", or publish one record in a message'
        )

    def _packed(self, value: bytes, vector: bytes) -> str:
        """Return what is said of bytes that are no vector: of what they hold, or of hexadecimal digits, which are base64 too."""
        fields = self._record_in(value)
        words = "" if fields is None else self._foreign.text_words(fields)
        if "hexadecimal" in words:
            return words
        return look_of_packed(vector)

    def _of_vector_alone(self, error: RecordError, value: bytes, vector: object) -> str:
        """Return likewise of a value that should be the bytes of a vector alone."""
        if error.reason is Reason.NOT_FINITE and isinstance(vector, bytes):
            return self._byte_order(vector)
        return self._no_vector(value, error.message) if error.reason in (Reason.MALFORMED, Reason.DIMENSION) else ""

    def _no_vector(self, value: bytes, message: str) -> str:
        """Return what the value is instead, "" where it is as long as a vector."""
        if value.startswith(NUMPY):
            return look_of_no_vector(value)
        width = width_of(self._vector_bytes)
        wanted = width * self._dimension
        if len(value) == wanted:
            return ""
        sizes = (
            f"the value has {len(value)} bytes; wanted are {wanted}, which are {self._dimension} numbers of {width} bytes "
            f'each (records.vector_bytes = "{self._vector_bytes}")'
        )
        look = self._other_width(value, message) or look_of_no_vector(value)
        if not look and (fields := fields_of(value)) is not None:
            look = (
                f"it is a map, {names_shown(fields.members)}: records.fields.vector has to name the path of its vector"
            )
        return f"{sizes}; {look}" if look else sizes

    def _other_width(self, value: bytes, message: str) -> str:
        """Return what says that bytes are as many numbers of another width, "" if they are not, or it was said."""
        found = type_of_numbers(value, self._dimension)
        if found is None or "would be as many" in message:
            return ""
        return f'they would be as many numbers of {width_of(found)} bytes: records.vector_bytes = "{found}"'

    def _byte_order(self, packed: bytes) -> str:
        if self._vector_bytes != "float32-le" or len(packed) % 4:
            return ""
        count = len(packed) // 4
        if 2 * ordinary_numbers(packed, "<f4") > count or ordinary_numbers(packed, ">f4") < count:
            return ""
        return (
            'read as big-endian float32 all of its numbers would be ordinary: set records.vector_bytes = "float32-be"'
        )


def _no_utf_8(value: bytes) -> str:
    if _SURROGATE_IN_UTF_8.search(value):
        return "it has half of a surrogate pair in UTF-8, as CESU-8 and Java's modified UTF-8 have: encode the text as UTF-8"
    return "it may be Latin-1, Windows-1252 or GBK: encode the text as UTF-8"
