"""The vector's key: the value's own, or else the Kafka key."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from worker.errors import Reason, RecordError
from worker.records.choices import Envelope, KeyFormat, KeyValues
from worker.records.enveloped_key import EnvelopedKey
from worker.records.formats.connect_schema import Logical
from worker.records.formats.integers import integer_text
from worker.records.formats.paths import Template
from worker.records.formats.shared import Header, SharedHeaders, SharedKey
from worker.records.formats.values import UNREADABLE
from worker.records.limits import KEY_MAX_CHARACTERS
from worker.records.target import LIMIT_SOURCE

# The text of a record of Kafka Connect, as Java prints it. Its `id` may be anything, so nothing reads it.
_STRUCT: Final = b"Struct{"
_BINARY: Final = frozenset((b"\x00", _STRUCT[:1]))  # how a key begins that may be no text
_AS_TEXT: Final = ": StringSerializer writes it as text"
_INTEGERS: Final = {2: "ShortSerializer", 4: "IntegerSerializer", 8: "LongSerializer"}  # by the bytes that they write
_PREFIX_BYTES: Final = 5
# Not those that text has: tab, line feed and carriage return.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Headers that name the schema of a Kafka key which has no prefix: those of Confluent's and Apicurio's serializers.
_SCHEMA_HEADERS: Final = frozenset(("__key_schema_id", "apicurio.key.contentId", "apicurio.key.globalId"))
_decode_json: Final = msgspec.json.Decoder(str).decode
_check_json: Final = msgspec.json.Decoder(msgspec.Raw).decode


class Keys:
    """Chooses and checks the keys of one route; `key_format` says how its Kafka keys are written.

    `template` is where the key of a record is; in an envelope the Kafka key has the same fields.
    """

    def __init__(
        self,
        key_format: KeyFormat,
        key_values: KeyValues = "strict",
        envelope: Envelope = "none",
        template: Template | None = None,
    ) -> None:
        self._is_loose = key_values == "stringify"
        is_enveloped = envelope in ("connect", "debezium")
        self._enveloped = EnvelopedKey(template, is_loose=self._is_loose) if is_enveloped else None
        self._is_utf8 = key_format == "utf8"
        self._is_plain = self._is_utf8 and not is_enveloped

    def choose(self, own: str | None, kafka_key: bytes | None, headers: Sequence[Header] = ()) -> str:
        """Return the value's own key, or the Kafka key where it has none. Raises `RecordError`."""
        key = self.of_message(kafka_key, headers) if own is None else own
        if 1 <= len(key) <= KEY_MAX_CHARACTERS:
            return key
        found = f"has {len(key)} characters" if key else "is empty"
        raise RecordError(Reason.KEY, f"the key {found}; allowed are 1 to {KEY_MAX_CHARACTERS} ({LIMIT_SOURCE})")

    def is_mismatch(self, key: str, kafka_key: bytes) -> bool:
        """Return whether the Kafka key is another than the vector's key."""
        if self._is_plain:
            return kafka_key != key.encode()
        try:
            return self.from_kafka(kafka_key) != key
        except RecordError:
            return True

    def enveloped(self, kafka_key: bytes | None) -> tuple[bytes, Logical] | None:
        """Return what a Kafka key has in its envelope, as JSON, and its logical types; None where it has none.

        Raises `RecordError`.
        """
        if self._enveloped is None or kafka_key is None:
            return None
        read = self._enveloped.payload
        return kafka_key.once(read) if type(kafka_key) is SharedKey else read(kafka_key)

    def is_quoted(self, kafka_key: bytes) -> bool:
        """Return whether a Kafka key that became the vector's key is a JSON string with its quotes."""
        return self._is_utf8 and in_quotes(kafka_key) is not None

    def is_map(self, kafka_key: bytes) -> bool:
        """Return whether a Kafka key that became the vector's key is a JSON map, which only an envelope's route looks into."""
        return self._is_plain and kafka_key[:1] == b"{" and _is_json(kafka_key)

    def of_message(self, kafka_key: bytes | None, headers: Sequence[Header]) -> str:
        """Return the Kafka key as the key of a vector, unless the headers say that it is no text. Raises `RecordError`."""
        if headers and self._is_utf8 and kafka_key is not None:
            _refuse_by_schema(kafka_key, headers)
        return self.from_kafka(kafka_key)

    def from_kafka(self, kafka_key: bytes | None) -> str:
        """Return the Kafka key as text, as the settings say that it is written. Raises `RecordError`."""
        if type(kafka_key) is SharedKey:
            return kafka_key.once(self.from_kafka)
        if kafka_key is None:
            raise RecordError(
                Reason.KEY, 'neither the value nor the message has a key; one of "key" and the Kafka key is needed'
            )
        if kafka_key[:1] in _BINARY:
            _refuse_no_text(kafka_key)
        if self._enveloped is not None and (enveloped := self._enveloped.text(kafka_key)) is not None:
            return enveloped
        try:
            if self._is_utf8:
                return kafka_key.decode()
            if self._is_loose and (text := integer_text(kafka_key.strip())) is not None:
                return text
            return _decode_json(kafka_key)
        except UnicodeDecodeError as error:
            hint = f", as in {integer}{_AS_TEXT}" if (integer := _integer_of(kafka_key)) else ""
            raise RecordError(
                Reason.KEY, f"the Kafka key is not UTF-8: {error.reason} at byte {error.start}{hint}"
            ) from None
        except msgspec.DecodeError as error:
            hint = '; records.key_values = "stringify" accepts integers' if integer_text(kafka_key.strip()) else ""
            raise RecordError(
                Reason.KEY, f'the Kafka key is not a JSON string (records.key_format = "json"): {error}{hint}'
            ) from None


def in_quotes(json: bytes) -> str | None:
    """Return the text of a JSON string, None for anything else."""
    if json[:1] != b'"':
        return None
    try:
        return _decode_json(json)
    except UNREADABLE:
        return None


def has_control_character(key: str) -> bool:
    """Return whether a key has a character that no text has, as binary forms have whose bytes happen to be UTF-8."""
    return _CONTROL.search(key) is not None


def _refuse_no_text(kafka_key: bytes) -> None:
    """Raise `RecordError` for a Kafka key that is no text that its producer meant."""
    if kafka_key[:1] == b"\x00":
        integer = _integer_of(kafka_key)
        found = [] if integer and len(kafka_key) < _PREFIX_BYTES else ["a schema registry's prefix does"]
        found += [f"{integer} does"] if integer else []
        raise RecordError(
            Reason.KEY,
            f"the Kafka key begins with 0x00, as {' or '.join(found)}; as a vector's key it would name the wrong vector"
            f"{_AS_TEXT if integer else ''}",
        )
    if kafka_key.startswith(_STRUCT) and kafka_key.rstrip().endswith(b"}"):
        raise RecordError(
            Reason.KEY,
            "the Kafka key is the text of a Struct of Kafka Connect, as its StringConverter writes it; as a vector's key it "
            "would name the wrong vector: set key.converter of the connector to org.apache.kafka.connect.json.JsonConverter",
        )


def _refuse_by_schema(kafka_key: bytes, headers: Sequence[Header]) -> None:
    """Raise `RecordError` for a Kafka key that a schema wrote whose id is in a header: Avro's texts begin with their length.

    JSON Schema's are JSON. Of JSON that is a number nothing says that it is not Avro.
    """
    name = headers.once(_schema_header) if type(headers) is SharedHeaders else _schema_header(headers)
    if not name or (kafka_key.once(_is_json) if type(kafka_key) is SharedKey else _is_json(kafka_key)):
        return
    raise RecordError(
        Reason.KEY,
        f"the header {name} says that the serializer of a schema registry wrote the Kafka key; as a vector's key its bytes "
        f'would name the wrong vector{_AS_TEXT}; records.key_format = "json" reads a key of JSON Schema; where the key is text, '
        "the producer has passed on a header of another record: let it remove that",
    )


def _schema_header(headers: Sequence[Header]) -> str:
    """Return the name of a header that names the schema of the Kafka key, "" where there is none."""
    return next((name for name, content in headers if name in _SCHEMA_HEADERS and content is not None), "")


def _is_json(kafka_key: bytes) -> bool:
    """Return whether a Kafka key is a string or a map in JSON."""
    try:
        _check_json(kafka_key)
    except UNREADABLE:
        return False
    return kafka_key.lstrip()[:1] in (b'"', b"{")


def _integer_of(kafka_key: bytes) -> str:
    """Return which integer has as many bytes as a key, "" where none has."""
    size = len(kafka_key)
    return f"an integer of {size} bytes by {_INTEGERS[size]}" if size in _INTEGERS else ""
