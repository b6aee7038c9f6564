"""The members of one metadata map, read one by one."""

from typing import Final

import msgspec

from worker.errors import Reason, RecordError
from worker.records.formats.contract import Metadata
from worker.records.formats.values import NO_TEXT, Kind, Raw, ValueReader
from worker.records.limits import METADATA_MAX_BYTES
from worker.records.metadata import scalar_text, shown
from worker.records.target import LIMIT_SOURCE
from worker.words import clean

METADATA_ALLOWED: Final = f"allowed is a map of strings to strings or lists of strings ({LIMIT_SOURCE})"
_LOOSE_METADATA_ALLOWED: Final = "allowed are strings, numbers, booleans, and lists of them"
_NESTED: Final = (
    '; records.metadata_values = "stringify" does not take maps either: publish its members as names of their own (a_b), '
    "or the map as one string of JSON"
)
_STRINGIFY: Final = ' (records.metadata_values = "stringify" turns numbers and booleans into text)'


class MetadataReader:
    """Reads the members of one metadata map.

    A string that is no text is reported before a value of a wrong type: such a record is malformed, whatever else is wrong.
    So all strings are looked at, and the first other fault is kept until then. Numbers are decoded only while that can matter.
    """

    def __init__(self, values: ValueReader, members: dict[str, Raw], fault: str, *, is_loose: bool) -> None:
        self._values = values
        self._members = members
        self._fault = fault
        self._is_loose = is_loose
        self._text_bytes = 0

    def read(self) -> Metadata:
        """Return the metadata as it is written. Raises `RecordError`."""
        read: Metadata = {}
        for name, raw in self._members.items():
            if self._values.kind(raw) is Kind.LIST:
                read[name] = self._list(name, raw)
            else:
                read.update((name, text) for text in self._texts(name, [raw], in_list=False))
        if self._fault:
            raise RecordError(Reason.METADATA, self._fault)
        return read

    def _list(self, name: str, raw: Raw) -> list[str]:
        try:
            return self._values.decode_texts(raw)  # most are of strings alone
        except NO_TEXT:  # or another is no string
            return self._texts(name, self._values.decode_list(raw), in_list=True)

    def _texts(self, name: str, raws: list[Raw], *, in_list: bool) -> list[str]:
        """Return the texts of values. What has none is left out: nulls that are dropped, and faults, which are noted."""
        decode, string = self._values.decode_text, Kind.STRING
        texts = []
        for raw, kind in zip(raws, self._values.kinds(raws), strict=True):
            if kind is string:
                try:
                    texts.append(decode(raw))
                except NO_TEXT:
                    raise self._values.no_text(raw, f"metadata {shown(name)}") from None
            elif not self._fault and (text := self._text_of_other(name, raw, kind, in_list=in_list)) is not None:
                texts.append(text)
        return texts

    def _text_of_other(self, name: str, raw: Raw, kind: Kind, *, in_list: bool) -> str | None:
        if self._is_loose and kind is Kind.NULL:
            return None
        if self._is_loose and kind in (Kind.NUMBER, Kind.BOOLEAN):
            return self._number(name, raw)
        self._fault = self._wrong(name, kind, in_list=in_list)
        return None

    def _number(self, name: str, raw: Raw) -> str | None:
        try:
            text = scalar_text(name, self._values.decode_number(raw))
        except msgspec.ValidationError as error:
            self._fault = f"metadata {shown(name)} holds what no metadata can hold: {clean(str(error))}; {_LOOSE_METADATA_ALLOWED}"
            return None
        except RecordError as error:
            self._fault = error.message
            return None
        # The costliest numbers to decode have long texts, so this bounds what many of them cost.
        self._text_bytes += len(text)
        if self._text_bytes > METADATA_MAX_BYTES:
            self._fault = f"metadata has numbers of more than {METADATA_MAX_BYTES} bytes; allowed are {METADATA_MAX_BYTES} bytes a vector ({LIMIT_SOURCE})"
            return None
        return text

    def _wrong(self, name: str, kind: Kind, *, in_list: bool) -> str:
        if kind is Kind.MAP:
            allowed = _LOOSE_METADATA_ALLOWED if self._is_loose else METADATA_ALLOWED
            return f"metadata {shown(name)} {'holds' if in_list or self._is_loose else 'is'} a map; {allowed}{_NESTED}"
        if self._is_loose:
            return f"metadata {shown(name)} holds a {kind.value}; {_LOOSE_METADATA_ALLOWED}"
        hint = _STRINGIFY if kind in (Kind.NUMBER, Kind.BOOLEAN, Kind.NULL) else ""
        if in_list:
            return f"metadata {shown(name)} holds a {kind.value} in its list; {METADATA_ALLOWED}{hint}"
        return f"metadata {shown(name)} is a {kind.value}; {METADATA_ALLOWED}{hint}"
