"""Which key a vector has, and whether the Kafka key is another; the table of refusals is in test_decode.py."""

import struct
from typing import Any

import pytest

from worker.errors import Reason, RecordError
from worker.records.choices import Envelope, KeyFormat
from worker.records.formats.shared import SharedHeaders, SharedKey
from worker.records.keys import Keys


@pytest.mark.parametrize(
    ("key_format", "own", "kafka_key", "expected"),
    [
        ("utf8", "own", b"kafka", "own"),
        ("utf8", None, b'"kafka"', '"kafka"'),
        ("json", None, b'"kafka"', "kafka"),
    ],
)
def test_the_values_own_key_comes_before_the_kafka_key(
    key_format: KeyFormat, own: str | None, kafka_key: bytes, expected: str
) -> None:
    assert Keys(key_format).choose(own, kafka_key) == expected


@pytest.mark.parametrize("own", ["", "x" * 1025])
def test_a_bad_own_key_is_refused_although_the_kafka_key_would_do(own: str) -> None:
    with pytest.raises(RecordError, match=r"allowed are 1 to 1024 \(limit of PutVectors\)"):
        Keys("utf8").choose(own, b"kafka")


@pytest.mark.parametrize(
    ("key_format", "kafka_key", "expected"),
    [("utf8", b"k", False), ("utf8", b'"k"', True), ("json", b'"k"', False), ("json", b"k", True)],
)
def test_a_kafka_key_differs_in_the_form_that_is_set(key_format: KeyFormat, kafka_key: bytes, expected: bool) -> None:
    assert Keys(key_format).is_mismatch("k", kafka_key) is expected


@pytest.mark.parametrize(("kafka_key", "expected"), [(b"17", "17"), (b" 17 ", "17"), (b'"k"', "k")])
def test_an_integer_in_json_is_a_key_by_its_digits_under_stringify(kafka_key: bytes, expected: str) -> None:
    assert Keys("json", "stringify").choose(None, kafka_key) == expected
    if kafka_key != b'"k"':
        with pytest.raises(RecordError, match="not a JSON string"):
            Keys("json").choose(None, kafka_key)


def test_an_integer_as_kafka_key_names_the_setting_that_accepts_it() -> None:
    with pytest.raises(RecordError, match=r'records.key_values = "stringify" accepts integers'):
        Keys("json").choose(None, b"17")
    assert Keys("json", "stringify").choose(None, b"17") == "17"


@pytest.mark.parametrize("kafka_key", [b'Struct{id={"$oid": "6f"}}', b"Struct{id=1}", b"Struct{}\n"])
@pytest.mark.parametrize("envelope", ["none", "connect", "debezium", "cloudevents"])
def test_the_text_of_a_struct_is_no_key(envelope: Envelope, kafka_key: bytes) -> None:
    keys = Keys("utf8", envelope=envelope)
    with pytest.raises(RecordError, match="StringConverter") as raised:
        keys.choose(None, kafka_key)
    assert raised.value.reason is Reason.KEY
    assert keys.choose("k", kafka_key) == "k"
    assert keys.is_mismatch("k", kafka_key)


UUID_IN_AVRO = b"H3b241101-e2bb-4255-8caf-4136c566a962"  # its length is the letter H


@pytest.mark.parametrize("name", ["__key_schema_id", "apicurio.key.contentId", "apicurio.key.globalId"])
@pytest.mark.parametrize("kafka_key", [UUID_IN_AVRO, b"\x0adoc-1", b'"seventeen letters', b"0", b"", b"doc-1"])
@pytest.mark.parametrize("envelope", ["none", "connect", "debezium", "cloudevents"])
def test_a_kafka_key_whose_schema_is_in_a_header_is_no_key(name: str, kafka_key: bytes, envelope: Envelope) -> None:
    keys, headers = Keys("utf8", envelope=envelope), [("other", b"x"), (name, bytes(8))]
    for of, around in ((kafka_key, headers), (SharedKey(kafka_key), SharedHeaders(headers))):
        for _ in range(2):
            with pytest.raises(RecordError, match=name) as raised:
                keys.choose(None, of, around)
            assert raised.value.reason is Reason.KEY
            assert keys.choose("k", of, around) == "k"


@pytest.mark.parametrize(
    ("key_format", "kafka_key", "headers", "expected"),
    [
        ("utf8", b"doc-1", [("__value_schema_id", bytes(5)), ("__key_schema_id", None)], "doc-1"),
        ("utf8", b'"doc-1"', [("__key_schema_id", bytes(5))], '"doc-1"'),
        ("utf8", b'{"id":1}', [("__key_schema_id", bytes(5))], '{"id":1}'),
        ("json", b'"doc-1"', [("__key_schema_id", bytes(5))], "doc-1"),
        ("json", b"17", [("__key_schema_id", bytes(5))], "17"),
    ],
)
def test_a_kafka_key_of_json_schema_is_read_as_the_settings_say(
    key_format: KeyFormat, kafka_key: bytes, headers: Any, expected: str
) -> None:
    assert Keys(key_format, "stringify").choose(None, kafka_key, headers) == expected


@pytest.mark.parametrize("kafka_key", [b"S", b"Struct", b"Struct{a", b"Structure{a}", b"a Struct{a}"])
def test_what_is_no_text_of_a_struct_is_a_key(kafka_key: bytes) -> None:
    assert Keys("utf8").choose(None, kafka_key) == kafka_key.decode()


@pytest.mark.parametrize(
    ("kafka_key", "words"),
    [
        (
            struct.pack(">q", 17),
            "0x00, as a schema registry's prefix does or an integer of 8 bytes by LongSerializer does;",
        ),
        (struct.pack(">i", 17), "0x00, as an integer of 4 bytes by IntegerSerializer does;"),
        (
            struct.pack(">i", -17),
            "not UTF-8: invalid start byte at byte 0, as in an integer of 4 bytes by IntegerSerializer:",
        ),
        (struct.pack(">h", 17), "0x00, as an integer of 2 bytes by ShortSerializer does;"),
    ],
)
def test_an_integer_by_its_own_serializer_is_called_so(kafka_key: bytes, words: str) -> None:
    with pytest.raises(RecordError) as raised:
        Keys("utf8").choose(None, kafka_key)
    assert words in raised.value.message
    assert raised.value.message.endswith(": StringSerializer writes it as text")


@pytest.mark.parametrize("kafka_key", [b"\x00\x00\x00\x00\x07\x02k", b"\x00"])
def test_another_key_that_begins_so_has_a_registrys_prefix(kafka_key: bytes) -> None:
    with pytest.raises(RecordError, match=r"0x00, as a schema registry's prefix does; .* wrong vector$"):
        Keys("utf8").choose(None, kafka_key)
