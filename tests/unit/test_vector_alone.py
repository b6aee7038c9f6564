"""Values that are the bytes of a vector and nothing else: the vector, and the parts of the record around it."""

import base64
import gzip
import io
import json
import struct
from typing import Any, Final, get_args

import msgspec
import numpy as np
import pytest

from tests.unit.test_vector_bytes import FORMS
from worker.errors import Reason, RecordError
from worker.records.choices import VectorBytes
from worker.records.decode import IGNORE, Decoded, Decoder, Delete, Put
from worker.records.formats.contract import Headers
from worker.records.formats.shape import shape_of
from worker.records.target import Target

NUMBERS: Final = [1.0, -2.5, 0.375]
VALUE: Final = struct.pack("<3f", *NUMBERS)


def decoder(
    key: str = "", metadata: Any = "metadata", delete: str = "", dimension: int = 3, **settings: Any
) -> Decoder:
    shape = shape_of(key, "$kafka.value", metadata, delete)
    return Decoder(Target("docs", dimension, "cosine"), max_fragment_bytes=1 << 20, shape=shape, **settings)


def decoded(made: Decoder, value: bytes | None = VALUE, key: bytes | None = b"k", headers: Headers = ()) -> Decoded:
    return made.decode(key, value, headers)


def put(made: Decoder, value: bytes = VALUE, key: bytes | None = b"k", headers: Headers = ()) -> dict[str, Any]:
    """Return the vector to write, as the request has it."""
    found = decoded(made, value, key, headers)
    assert isinstance(found, Put)
    read: dict[str, Any] = json.loads(found.fragment)
    assert read["key"] == found.key
    return read


def refused(made: Decoder, value: bytes | None = VALUE, key: bytes | None = b"k", headers: Headers = ()) -> RecordError:
    with pytest.raises(RecordError) as raised:
        decoded(made, value, key, headers)
    return raised.value


# -- the vector


class _NoSchemas:
    """A registry's schemas, none of which is to be asked for."""

    def reader(self, schema: object, /) -> Any:
        raise AssertionError(schema)


def test_a_registry_is_not_asked_for_bytes_that_begin_as_its_prefix() -> None:
    value = b"\x00\x00\x00\x00\x07" + bytes(3) + struct.pack("<f", 1.5)
    headers = [("apicurio.value.globalId", bytes(8))]
    assert put(decoder(schemas=_NoSchemas()), value, headers=headers)["data"]["float32"][2] == 1.5


@pytest.mark.parametrize("vector_bytes", get_args(VectorBytes))
def test_the_bytes_are_read_as_the_setting_says(vector_bytes: VectorBytes) -> None:
    made = decoder(vector_bytes=vector_bytes)
    assert put(made, struct.pack(FORMS[vector_bytes], *NUMBERS)) == {"key": "k", "data": {"float32": NUMBERS}}


@pytest.mark.parametrize("first", [0x00, 0x0A, 0x20, 0x22, 0x3C, 0x5B, 0x7B, 0x80, 0x9F, 0xC4, 0xDE, 0xFF])
def test_no_first_byte_is_taken_for_a_format_a_prefix_or_text(first: int) -> None:
    value = bytes((first, 0, 0, 0x3F)) * 3
    assert np.array(put(decoder(), value)["data"]["float32"], "<f4").tobytes() == value


def test_bytes_that_are_text_are_a_vector_where_they_are_as_long_as_one() -> None:
    value = b"[0.1,0.2,0.]"
    assert np.array(put(decoder(), value)["data"]["float32"], "<f4").tobytes() == value


@pytest.mark.parametrize("vector_bytes", get_args(VectorBytes))
@pytest.mark.parametrize("numbers", [0, 2, 4])
def test_another_count_of_numbers_is_a_dead_letter_that_names_the_bytes(
    vector_bytes: VectorBytes, numbers: int
) -> None:
    width = struct.calcsize(FORMS[vector_bytes]) // 3
    error = refused(decoder(vector_bytes=vector_bytes), bytes((1,)) * (numbers * width))
    assert error.reason is Reason.DIMENSION
    assert f"$kafka.value has {numbers} numbers, the index docs has 3 dimensions" in error.message
    wanted = f"the value has {numbers * width} bytes; wanted are {3 * width}, which are 3 numbers of {width} bytes each"
    assert f'{wanted} (records.vector_bytes = "{vector_bytes}")' in error.message


@pytest.mark.parametrize("vector_bytes", get_args(VectorBytes))
def test_bytes_that_are_no_whole_numbers_are_malformed_as_in_base64(vector_bytes: VectorBytes) -> None:
    width = struct.calcsize(FORMS[vector_bytes]) // 3
    error = refused(decoder(vector_bytes=vector_bytes), bytes(3 * width - 1))
    assert error.reason is Reason.MALFORMED
    assert f"$kafka.value has {3 * width - 1} bytes, which are no whole" in error.message
    assert f"wanted are {3 * width}" in error.message


@pytest.mark.parametrize(
    ("vector_bytes", "found", "advised"),
    [
        ("float32-le", "<3d", "float64-le"),
        ("float32-le", "<3e", "float16-le"),
        ("float64-le", "<3f", "float32-le"),
        ("float64-be", "<3e", "float16-le"),
        ("float16-le", "<3f", "float32-le"),
        ("float16-le", "<3d", "float64-le"),
    ],
)
def test_bytes_of_another_width_get_the_setting_that_reads_them(
    vector_bytes: VectorBytes, found: str, advised: str
) -> None:
    message = refused(decoder(vector_bytes=vector_bytes), struct.pack(found, *NUMBERS)).message
    assert message.count(f'records.vector_bytes = "{advised}"') == 1


def saved(numbers: list[float]) -> bytes:
    """Return what numpy's save writes."""
    file = io.BytesIO()
    np.save(file, np.array(numbers, "<f4"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (saved(NUMBERS), "it looks like an array as numpy's save writes it: publish array.tobytes()"),
        (b"[0.1, 0.2, 0.3]", "it looks like a list of numbers as text, and only bytes are read"),
        (b"0.1,0.2,0.3", "it looks like a list of numbers as text, and only bytes are read"),
        (base64.b64encode(VALUE), "it looks like base64, and only bytes are read: publish the bytes themselves"),
        (
            b'{"id": "a", "vec": [1, 2]}',
            "it is a map, its fields are id, vec: records.fields.vector has to name the path",
        ),
        (msgspec.msgpack.encode({"id": "a", "vec": VALUE}), "it is a map, its fields are id, vec"),
        (gzip.compress(VALUE, mtime=0), "it looks like gzip: publish the bytes of the vector as they are"),
        (b"\x80\x04pickle", "it looks like a Python pickle"),
    ],
    ids=["numpy", "a list", "numbers", "base64", "JSON", "MessagePack", "gzip", "a pickle"],
)
def test_what_is_no_vector_is_named(value: bytes, words: str) -> None:
    assert words in refused(decoder(), value).message


def test_what_numpy_saves_is_no_vector_even_where_it_is_as_long_as_one() -> None:
    value = saved([1.0] * 32)
    error = refused(decoder(dimension=32, vector_bytes="float64-le"), value)
    assert (len(value), error.reason) == (8 * 32, Reason.MALFORMED)
    assert "numpy's save" in error.message


def test_numbers_are_checked_as_ever() -> None:
    assert refused(decoder(), bytes(12)).reason is Reason.ZERO_VECTOR
    assert refused(decoder(), struct.pack("<3f", 1.0, float("nan"), 1.0)).message.startswith(
        "number 1 of $kafka.value is"
    )


def test_bytes_in_the_other_order_are_suspect_or_get_the_setting_that_reads_them() -> None:
    swapped = struct.pack(">3f", *NUMBERS)
    found = decoded(decoder(), swapped)
    assert isinstance(found, Put)
    assert found.suspicion is not None
    assert found.suspicion.cause == "denormal"
    assert refused(decoder(suspect="dead-letter"), swapped).reason is Reason.SUSPECT
    not_finite = bytes((0x3F, 0x80, 0x80, 0x7F)) * 3  # big-endian 1.00390613
    error = refused(decoder(), not_finite)
    assert error.reason is Reason.NOT_FINITE
    assert 'set records.vector_bytes = "float32-be"' in error.message


# -- the key


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "k"),
        ("$kafka.key", "k"),
        ("$header.doc id", "h"),
        ("{$header.tenant}/{$kafka.key}", "t/k"),
        ("doc-{$kafka.key}", "doc-k"),
    ],
)
def test_the_key_is_around_the_value(path: str, expected: str) -> None:
    headers = [("doc id", b"old"), ("doc id", b"h"), ("tenant", b"t")]
    assert put(decoder(path), headers=headers)["key"] == expected


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "neither the value nor the message has a key"),
        ("$kafka.key", "there is no $kafka.key, or it is null; records.fields.key needs it"),
        ("$header.id", "there is no $header.id, or it is null; records.fields.key needs it"),
        ("{$header.none}-x", "there is no $header.none, or it is null"),
    ],
)
def test_without_a_key_it_is_a_dead_letter(path: str, words: str) -> None:
    error = refused(decoder(path), key=None, headers=[("id", None)])
    assert (error.reason, words in error.message) == (Reason.KEY, True), error.message


def test_the_kafka_key_is_read_in_its_format_and_quotes_are_suspect() -> None:
    assert put(decoder(key_format="json"), key=b'"k"')["key"] == "k"
    assert put(decoder(key_format="json", key_values="stringify"), key=b"17")["key"] == "17"
    found = decoded(decoder(), key=b'"k"')
    assert isinstance(found, Put)
    assert found.suspicion is not None
    assert found.suspicion.cause == "quoted_key"
    assert refused(decoder(), key=b"\xff").reason is Reason.KEY


def test_a_key_in_a_header_that_is_not_the_kafka_key_is_noted() -> None:
    found = [decoded(decoder("$header.id"), key=key, headers=[("id", b"k")]) for key in (b"k", b"other", None)]
    assert [one.key_mismatch for one in found if isinstance(one, Put)] == [False, True, False]


# -- the metadata


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("metadata", None),
        ("", None),
        (
            {"lang": "$header.l", "from": "$kafka.key", "no": "$header.no", "null": "$header.null"},
            {"lang": "d\u00e9", "from": "k"},
        ),
        (["$header.l"], {"l": "d\u00e9"}),
        (["$header.no"], None),
    ],
)
def test_the_metadata_is_in_headers(metadata: Any, expected: Any) -> None:
    headers = [("l", b"old"), ("l", "d\u00e9".encode()), ("null", None), ("metadata", b"x")]
    assert put(decoder(metadata=metadata), headers=headers).get("metadata") == expected


@pytest.mark.parametrize("made", [decoder(metadata=["$header.l"]), decoder("$header.l"), decoder(delete="$header.l")])
def test_a_header_that_is_no_text_is_a_dead_letter_that_names_it(made: Decoder) -> None:
    error = refused(made, headers=[("l", b"\xff")])
    assert (error.reason, "the header l is not UTF-8" in error.message) == (Reason.MALFORMED, True)


def test_metadata_beyond_the_limits_is_refused_as_ever() -> None:
    assert refused(decoder(metadata=["$header.l"]), headers=[("l", b"x" * 3000)]).reason is Reason.METADATA


# -- deletes


def test_a_null_value_does_what_the_setting_says_to_the_kafka_key() -> None:
    header = [("id", b"h")]
    assert refused(decoder("$header.id"), None, headers=header).reason is Reason.TOMBSTONE
    assert decoded(decoder(tombstones="ignore"), None) is IGNORE
    assert decoded(decoder("$header.id", tombstones="delete"), None, headers=header) == Delete("k")


@pytest.mark.parametrize("mark", [b"true", b"d", b"1", b"DELETE"])
def test_a_header_deletes_whatever_the_value_is(mark: bytes) -> None:
    for value in (b"", VALUE, b"none"):
        found = decoded(decoder("$header.id", delete="$header.op"), value, headers=[("id", b"h"), ("op", mark)])
        assert found == Delete("h")
    assert put(decoder(delete="$header.op"), headers=[("op", b"u")])["key"] == "k"
