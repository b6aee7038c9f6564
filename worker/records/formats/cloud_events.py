"""CloudEvents in both of their modes on Kafka.

    structured   the value is JSON with the attributes, and the record in `data`, or in `data_base64`
    binary       the value is the record, and the attributes are headers: ce_id, ce_source, ...

Both become the form of a binary one, which the format of the route reads: so an attribute is always a header.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from worker.errors import Reason, RecordError
from worker.records.formats import vector_text
from worker.records.formats.contract import Format, Headers, Record
from worker.records.formats.fields import NOTHING, FieldReader
from worker.records.formats.framing import without_prefix
from worker.records.formats.paths import ATTRIBUTE_PREFIX, header_of
from worker.records.formats.shared import SharedHeaders
from worker.records.formats.values import BYTE_ORDER_MARK, UNREADABLE, Kind, Raw
from worker.words import clean

_CONTENT_TYPE: Final = "content-type"
_STRUCTURED: Final = b"application/cloudevents"
_NAME_CHARACTERS: Final = 40
_WHITE: Final = b" \t\r\n"
_DATA: Final = ("specversion", "data", "data_base64")
_ADVICE: Final = {
    Kind.STRING: ", not a string, such as JSON that was encoded twice, or base64 (which is in data_base64)",
    Kind.LIST: '; records.many = "split" reads its records where records.envelope is "none"',
}
_Scalar = str | int | float | bool | None


class CloudEvents:
    """Reads the records of a route that are the data of CloudEvents, each by the format of the route."""

    def __init__(self, events: "Events", inner: Format) -> None:
        self._within = events.within
        self._inner = inner

    def read(self, key: bytes | None, value: bytes, headers: Headers) -> Record:
        """Return what the data of an event says. Raises `RecordError`."""
        data, with_attributes = self._within(value, headers)
        return self._inner.read(key, data, with_attributes)


class Events:
    """Opens CloudEvents. `attributes` are the names of those that count; `fields` reads JSON."""

    def __init__(self, fields: FieldReader, attributes: Iterable[str]) -> None:
        self._fields = fields
        self._names = tuple(dict.fromkeys(name for name in attributes if name not in _DATA))
        self._cutter = fields.cutter(
            msgspec.defstruct(
                "Event", [(f"f{at}", Raw, NOTHING) for at in range(len(_DATA) + len(self._names))],
                rename={f"f{at}": name for at, name in enumerate((*_DATA, *self._names))}, gc=False,
            )
        )  # fmt: skip
        self._decode: Callable[[Raw], Any] = msgspec.json.Decoder(_Scalar).decode

    def within(self, value: bytes, headers: Headers) -> tuple[bytes, Headers]:
        """Return the data of an event, and the headers that have its attributes. Raises `RecordError`."""
        if headers.once(_is_binary) if type(headers) is SharedHeaders else _is_binary(headers):
            return value, headers
        event = self._fields.cut(self._json(value, headers), self._cutter)
        specversion, data, data_base64 = (getattr(event, f"f{at}") for at in range(len(_DATA)))
        if self._fields.kind(specversion) is not Kind.STRING:
            raise _no_event(headers)
        attributes = self._attributes(event)
        more = headers.with_more(attributes) if type(headers) is SharedHeaders else [*headers, *attributes]
        return self._data(data, data_base64), more

    def _json(self, value: bytes, headers: Headers) -> bytes:
        body = without_prefix(value).removeprefix(BYTE_ORDER_MARK)
        begun = body.lstrip(_WHITE)
        if begun.startswith(b"["):
            raise RecordError(
                Reason.MALFORMED,
                'the value is a list, such as a batch of CloudEvents: records.many = "split" reads each of them beside '
                'records.envelope = "cloudevents"',
            )
        if not begun.startswith(b"{"):
            raise _no_event(headers)
        return body

    def _data(self, data: Raw, data_base64: Raw) -> bytes:
        kind = self._fields.kind(data_base64)
        if kind is Kind.STRING:
            text = self._fields.text(data_base64, "data_base64")
            return vector_text.packed(text, "data_base64", "allowed is base64")
        if kind not in (Kind.NOTHING, Kind.NULL):
            raise RecordError(Reason.MALFORMED, f"data_base64 of the CloudEvent is a {kind.value}; allowed is base64")
        kind = self._fields.kind(data)
        if kind in (Kind.NOTHING, Kind.NULL):  # an event without data may still say that its key is deleted
            return b"{}"
        if kind is not Kind.MAP:
            raise RecordError(
                Reason.MALFORMED,
                f'data of the CloudEvent is a {kind.value}; records.envelope = "cloudevents" reads data that is a map'
                f"{_ADVICE.get(kind, '')}",
            )
        return bytes(data)

    def _attributes(self, event: Any) -> Headers:
        found: list[tuple[str, bytes | None]] = []
        for at, name in enumerate(self._names, start=len(_DATA)):
            raw = getattr(event, f"f{at}")
            if self._fields.kind(raw) in (Kind.NOTHING, Kind.NULL):
                continue
            try:
                scalar = self._decode(raw)
            except UNREADABLE:
                raise RecordError(
                    Reason.MALFORMED, f"the attribute {name} of the CloudEvent is no single value"
                ) from None
            text = scalar if isinstance(scalar, str) else msgspec.json.encode(scalar).decode()
            found.append((header_of(name), text.encode()))
        return found


def _is_binary(headers: Headers) -> bool:
    has_attributes = False
    for name, value in headers:
        if name.lower() == _CONTENT_TYPE and value is not None and value.lower().startswith(_STRUCTURED):
            return False
        has_attributes = has_attributes or name == f"{ATTRIBUTE_PREFIX}specversion"
    return has_attributes


def _no_event(headers: Headers) -> RecordError:
    seen = headers.once(_like_an_attribute) if type(headers) is SharedHeaders else _like_an_attribute(headers)
    hint = (
        seen and f"; it has the header {seen}, and on Kafka the header is {ATTRIBUTE_PREFIX}specversion, in lower case"
    )
    return RecordError(
        Reason.MALFORMED,
        "the value is no CloudEvent: it has neither a header ce_specversion nor the attribute specversion in JSON "
        f'(records.envelope = "cloudevents"){hint}',
    )


def _like_an_attribute(headers: Headers) -> str:
    """Return the name of the header that has the version of the specification under another name, "" if none has."""
    return next((clean(name, _NAME_CHARACTERS) for name, _ in headers if name.lower().endswith("specversion")), "")
