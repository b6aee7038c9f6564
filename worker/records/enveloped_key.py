"""Kafka keys in an envelope: what Kafka Connect's JsonConverter and Debezium write as the key of a message.

{"schema": ..., "payload": "doc-1"}     the key doc-1
{"schema": ..., "payload": {"id": 1}}   the field that records.fields.key names, or else `key`, or else the only one
{"id": 1}                               likewise, of a converter without schemas
{"id": "{\"$oid\": \"6f\"}"}             of MongoDB, where the only field is the JSON of the document's _id: {"_id": {"$oid": "6f"}}
doc-1                                   any other key is read as `records.key_format` says
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from worker.errors import Reason, RecordError
from worker.records.formats import connect_schema
from worker.records.formats.connect_schema import Logical
from worker.records.formats.halves import HALF, HALF_SAID, without_halves
from worker.records.formats.integers import integer_text
from worker.records.formats.paths import Path, Source, Step, Template
from worker.records.formats.values import UNREADABLE, is_no_text
from worker.words import clean

_Raw = msgspec.Raw
_decode_members: Final = msgspec.json.Decoder(dict[str, _Raw]).decode
_elements: Final = msgspec.json.Decoder(list[_Raw]).decode
_text: Final = msgspec.json.Decoder(str).decode
_raw: Final = msgspec.json.Decoder(_Raw).decode
_MOST_NAMES_SHOWN: Final = 10


class EnvelopedKey:
    """Reads the Kafka keys of a route."""

    def __init__(self, template: Template | None, *, is_loose: bool) -> None:
        is_in_value = template is not None and all(path.source is Source.VALUE for path in template.paths)
        self._template = template if is_in_value else None
        self._is_loose = is_loose
        self._is_of_documents = self._template is not None and all(
            path.steps[0] == "_id" for path in self._template.paths
        )
        self._schemas = connect_schema.Schemas()

    def payload(self, kafka_key: bytes) -> tuple[bytes, Logical] | None:
        """Return what a key has in its envelope, as JSON; None where it is no JSON map.

        Raises `RecordError` for a map with a name that is no text: as a text, it would be the key of another vector.
        """
        body = kafka_key.strip()
        if not body.startswith(b"{"):
            return None
        try:
            members = _members(body)
        except UNREADABLE as error:
            if is_no_text(error):
                raise _no_key_in(body, error) from None
            return None
        if members.keys() != {"schema", "payload"}:
            return self._as_in_document(body), connect_schema.NONE
        return self._as_in_document(bytes(members["payload"])), self._schemas.of(bytes(members["schema"]))

    def _as_in_document(self, payload: bytes) -> bytes:
        """Return a payload as the document has it, if it is one of MongoDB."""
        if not self._is_of_documents or not payload.startswith(b"{"):
            return payload
        try:
            members = _members(payload)
            text = _text(members["id"]).encode() if members.keys() == {"id"} else b""
            return b'{"_id":' + bytes(_raw(without_halves(text))) + b"}" if text else payload
        except UNREADABLE:
            return payload

    def text(self, kafka_key: bytes) -> str | None:
        """Return the key in the envelope, None where there is no envelope. Raises `RecordError`."""
        found = self.payload(kafka_key)
        if found is None:
            return None
        payload, logical = found
        try:
            return self._of_map(payload, logical) if payload.startswith(b"{") else self._scalar(payload, (), logical)
        except UNREADABLE as error:
            raise _no_key_in(payload, error) from None

    def _of_map(self, payload: bytes, logical: Logical) -> str:
        if self._template is not None:
            parts = (
                part if isinstance(part, str) else self._at(payload, part, logical) for part in self._template.parts
            )
            return "".join(parts)
        members = _members(payload)
        name = "key" if "key" in members else next(iter(members), "")
        if "key" not in members and len(members) != 1:
            raise RecordError(
                Reason.KEY, f"the Kafka key has {_shown(members)}; records.fields.key has to name its key"
            )
        return self._scalar(bytes(members[name]), (name,), logical)

    def _at(self, payload: bytes, path: Path, logical: Logical) -> str:
        part = payload
        for step in path.steps:
            part = _cut(part, step)
            if not part:
                raise RecordError(Reason.KEY, f"the Kafka key has no {path.text}, which records.fields.key needs")
        return self._scalar(part, path.steps, logical)

    def _scalar(self, part: bytes, steps: tuple[Step, ...], logical: Logical) -> str:
        names = tuple(step for step in steps if isinstance(step, str))
        if self._is_loose and names in logical and (text := logical[names](part)) is not None:
            return text
        if part.startswith(b'"') and (self._is_loose or names not in logical):  # a decimal's text is base64
            return _text(part)
        if self._is_loose and (text := integer_text(part)) is not None:
            return text
        hint = "" if self._is_loose else '; records.key_values = "stringify" accepts integers and decimals'
        raise RecordError(Reason.KEY, f"the Kafka key has no text in its envelope{hint}")


def _members(body: bytes) -> Mapping[str, _Raw]:
    """Cut a map into its members. Half of a surrogate pair makes no map of JSON another text: it costs its own string.

    Raises what msgspec raises, for a name that is no text too.
    """
    try:
        return _decode_members(body)
    except msgspec.DecodeError:
        without = without_halves(body)
        if without is body:
            raise
    return _decode_members(without)


def _no_key_in(body: bytes, error: Exception) -> RecordError:
    is_half = is_no_text(error) and HALF in without_halves(body)
    said = f"it holds {HALF_SAID}" if is_half else clean(str(error))
    return RecordError(Reason.KEY, f"the Kafka key is not what records.envelope says: {said}")


def _cut(part: bytes, step: Step) -> bytes:
    try:
        if isinstance(step, str):
            return bytes(_members(part).get(step, _Raw(b"")))
        elements = _elements(part)
        return bytes(elements[step]) if step < len(elements) else b""
    except msgspec.ValidationError:
        return b""


def _shown(members: Mapping[str, _Raw]) -> str:
    names = clean(", ".join(list(members)[:_MOST_NAMES_SHOWN]), 200)
    return f"the fields {names}" if names else "no fields"
