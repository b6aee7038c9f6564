"""Records of other shapes: each way to name a part, what is refused, and the same record as the service's own shape."""

import base64
import json
import struct
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import hostile_records
from tests.unit.test_record_cost import SECONDS, cost_of
from tests.unit.test_record_rules import LONG, NON_FILTERABLE, SHORT, records
from worker.errors import Reason, RecordError
from worker.records.choices import KeyValues, MetadataValues
from worker.records.decode import Decoded, Decoder, Delete, Put
from worker.records.formats.contract import Headers
from worker.records.formats.mapped import MappedReader
from worker.records.formats.paths import parse
from worker.records.formats.shape import FIXED, shape_of
from worker.records.formats.values import AT_ONCE_BYTES
from worker.records.target import Target

TARGET: Final = Target("docs", SHORT, "euclidean", NON_FILTERABLE)
VECTOR: Final = [1.0, 2.0, 3.0]
ENCODERS: Final = (msgspec.json.encode, msgspec.msgpack.encode)


def decoder(
    key: str = "", vector: str = "vec", metadata: Any = "", delete: str = "", target: Target = TARGET, **settings: Any
) -> Decoder:
    shape = shape_of(key, vector, metadata, delete)
    return Decoder(target, max_fragment_bytes=1 << 20, shape=shape, **settings)


def decoded(value: Any, made: Decoder, *, key: bytes | None = None, headers: Headers = ()) -> Decoded:
    """Return what both encodings say, which must be the same."""
    found = [made.decode(key, encode(value), headers) for encode in ENCODERS]
    assert found[0] == found[1]
    return found[0]


def refused(value: Any, made: Decoder, *, key: bytes | None = None, headers: Headers = ()) -> RecordError:
    """Return why both encodings refuse it, which must be the same but for their names."""
    errors = []
    for encode in ENCODERS:
        with pytest.raises(RecordError) as raised:
            made.decode(key, encode(value), headers)
        errors.append(raised.value)
    assert errors[0].reason is errors[1].reason
    assert len({error.message.replace("JSON", "MessagePack") for error in errors}) == 1
    return errors[0]


def put(value: Any, made: Decoder, *, key: bytes | None = None, headers: Headers = ()) -> dict[str, Any]:
    """Return the vector to write, as the request has it."""
    found = decoded(value, made, key=key, headers=headers)
    assert isinstance(found, Put)
    read: dict[str, Any] = json.loads(found.fragment)
    assert read["key"] == found.key
    return read


KEYS: Final[list[tuple[str, str, Any, str]]] = [
    ("a name", "id", {"id": "a"}, "a"),
    ("a name in a name", "doc.id", {"doc": {"id": "a"}}, "a"),
    ("an element", "ids[1]", {"ids": ["x", "a"]}, "a"),
    ("a name in an element", "docs[0].id", {"docs": [{"id": "a"}]}, "a"),
    ("a name with a dot", '"doc.id"', {"doc.id": "a", "doc": {"id": "b"}}, "a"),
    ("a name twice on the way", "doc.id", {"doc": {"id": "a", "x": 1}}, "a"),
    ("a template", "{tenant}/{doc.id}", {"tenant": "t", "doc": {"id": "a"}}, "t/a"),
    ("a template of one path", "doc-{id}", {"id": "a"}, "doc-a"),
    ("braces in a template", "{{{id}}}", {"id": "a"}, "{a}"),
    ("the Kafka key", "$kafka.key", {"id": "b"}, "k"),
    ("the Kafka key in a template", "{$kafka.key}/{id}", {"id": "a"}, "k/a"),
    ("a header", "$header.doc id", {}, "h"),
    ("a header in a template", "{$header.doc id}:{id}", {"id": "a"}, "h:a"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "expected"), [case[1:] for case in KEYS], ids=[case[0] for case in KEYS])
def test_the_key_is_where_the_setting_says(path: str, value: Any, expected: str) -> None:
    headers = [("doc id", b"old"), ("doc id", b"h")]
    assert put({**value, "vec": VECTOR}, decoder(path), key=b"k", headers=headers)["key"] == expected


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("id", {"id": 17}, "17"),
        ("id", {"id": -3}, "-3"),
        ("id", {"id": 9007199254740993}, "9007199254740993"),
        ("id", {"id": 18446744073709551615}, "18446744073709551615"),
        ("{tenant}/{id}", {"tenant": 4, "id": 5}, "4/5"),
    ],
)
def test_an_integer_is_a_key_by_its_digits_under_stringify(path: str, value: Any, expected: str) -> None:
    assert put({**value, "vec": VECTOR}, decoder(path, key_values="stringify"))["key"] == expected
    error = refused({**value, "vec": VECTOR}, decoder(path))
    assert error.reason is Reason.MALFORMED
    assert 'records.key_values = "stringify"' in error.message


@pytest.mark.parametrize("header", [b"\0\0\0\5", b"\0\0\0\0\7doc-1"])
def test_a_key_in_a_header_that_is_binary_is_refused(header: bytes) -> None:
    error = refused({"vec": VECTOR}, decoder("$header.id"), key=b"k", headers=[("id", header)])
    assert (error.reason, error.message.partition(":")[0]) == (Reason.KEY, "$header.id begins with 0x00")


@pytest.mark.parametrize("number", ["1.0", "1e3", "0.5", "1E2"])
def test_a_number_that_is_no_integer_is_no_key(number: str) -> None:
    value = b'{"id":%s,"vec":[1,2,3]}' % number.encode()
    with pytest.raises(RecordError, match="with a fraction or an exponent"):
        decoder("id", key_values="stringify").decode(None, value, ())


def test_digits_of_json_stay_as_they_are_however_many() -> None:
    digits = "9" * 1000
    made = decoder("id", key_values="stringify")
    assert isinstance(put := made.decode(None, b'{"id":%s,"vec":[1,2,3]}' % digits.encode(), ()), Put)
    assert put.key == digits
    with pytest.raises(RecordError, match="has 1025 characters"):
        made.decode(None, b'{"id":%s,"vec":[1,2,3]}' % (b"9" * 1025), ())


@pytest.mark.parametrize("path", ["id", "doc.id", "ids[3]", "{tenant}/{id}", "$header.id"])
@pytest.mark.parametrize("value", [{}, {"id": None, "doc": None, "ids": [], "tenant": "t"}, {"doc": 5, "ids": {}}])
def test_a_named_key_that_is_not_there_is_a_dead_letter_and_no_other_key(path: str, value: Any) -> None:
    error = refused({**value, "key": "other", "vec": VECTOR}, decoder(path), key=b"k")
    assert error.reason is Reason.KEY
    assert "records.fields.key needs it" in error.message


def test_a_kafka_key_that_is_named_and_not_there_is_a_dead_letter() -> None:
    assert refused({"key": "other", "vec": VECTOR}, decoder("$kafka.key")).reason is Reason.KEY


def test_without_a_named_key_it_is_the_field_key_or_else_the_kafka_key() -> None:
    assert put({"key": "own", "vec": VECTOR}, decoder(), key=b"k")["key"] == "own"
    assert put({"key": None, "vec": VECTOR}, decoder(), key=b"k")["key"] == "k"
    assert put({"vec": VECTOR}, decoder(), key=b"k")["key"] == "k"


def test_a_vector_of_a_wrong_form_is_reported_before_a_key_that_is_not_there() -> None:
    assert refused({"vec": "?"}, decoder("id")).reason is Reason.MALFORMED


@pytest.mark.parametrize("header", [b"\xff", b""])
def test_a_header_that_is_no_key_is_a_dead_letter(header: bytes) -> None:
    error = refused({"vec": VECTOR}, decoder("$header.id"), headers=[("id", header)])
    assert error.reason is (Reason.KEY if header == b"" else Reason.MALFORMED)


# -- vectors

packed: Final = struct.pack("<3f", *VECTOR)


@pytest.mark.parametrize(
    "vector",
    [
        pytest.param(VECTOR, id="a list"),
        pytest.param(base64.b64encode(packed).decode(), id="base64"),
        pytest.param(base64.urlsafe_b64encode(packed).decode().rstrip("="), id="base64 of URLs"),
        pytest.param("AACAPw\r\nAAAEAA\nAEBA\n", id="base64 with line breaks"),
        pytest.param("[1.0, 2.0, 3.0]", id="text with brackets"),
        pytest.param(" [1,2,3] ", id="text with white space"),
        pytest.param("1,2.0,3e0", id="text with commas"),
    ],
)
def test_a_vector_is_read_in_every_form(vector: Any) -> None:
    for made in (decoder("id", "a.b"), decoder("id", "c[1]")):
        assert put({"id": "x", "a": {"b": vector}, "c": [0, vector]}, made)["data"] == {"float32": VECTOR}


def test_bytes_are_a_vector_in_messagepack() -> None:
    found = decoder("id").decode(None, msgspec.msgpack.encode({"id": "x", "vec": packed}), ())
    assert isinstance(found, Put)
    assert json.loads(found.fragment)["data"] == {"float32": VECTOR}


@pytest.mark.parametrize("dimension", [SHORT, LONG])
@pytest.mark.parametrize(
    ("element", "reason", "words"),
    [
        ("null", Reason.MALFORMED, "number 1 of vec is a null"),
        ("[2]", Reason.MALFORMED, "number 1 of vec is a list"),
        ('"2"', Reason.MALFORMED, "number 1 of vec is a string"),
        ("true", Reason.MALFORMED, "number 1 of vec is a boolean"),
        ("1e999", Reason.NOT_FINITE, "beyond the range of float32"),
        ("1e39", Reason.NOT_FINITE, "number 1 of vec is 1e.39"),
        ("1,2", Reason.DIMENSION, "vec has"),
    ],
)
def test_a_bad_number_is_named_by_the_vectors_path(element: str, reason: Reason, words: str, dimension: int) -> None:
    made = decoder("id", target=Target("docs", dimension, "cosine"))
    numbers = ",".join(["1", element, *["1"] * (dimension - 2)])
    with pytest.raises(RecordError, match=words) as raised:
        made.decode(None, f'{{"id":"a","vec":[{numbers}]}}'.encode(), ())
    assert raised.value.reason is reason


@pytest.mark.parametrize("value", [{}, {"vec": None}, {"vec": {}}, {"vec": 5}, {"vec": True}])
def test_a_vector_that_is_not_there_or_none_is_named_by_its_path(value: Any) -> None:
    error = refused({"id": "a", **value}, decoder("id"))
    assert error.reason is Reason.MALFORMED
    assert "vec" in error.message


def test_a_vector_that_postgresql_did_not_send_is_a_dead_letter_in_words() -> None:
    word = "__debezium_unavailable_value"
    numbers = [*word.encode()]  # what Debezium writes for an array of numbers
    for unavailable in (word, base64.b64encode(word.encode()).decode(), numbers, [float(one) for one in numbers]):
        error = refused({"id": "a", "vec": unavailable}, decoder("id"))
        assert error.reason is Reason.MALFORMED
        assert "vec is an unchanged TOAST column" in error.message


@pytest.mark.parametrize("dimension", [28, 512])
def test_an_array_that_postgresql_did_not_send_is_no_vector_whatever_the_dimension(dimension: int) -> None:
    numbers = [*b"__debezium_unavailable_value"]
    made = decoder("id", target=Target("docs", dimension, "euclidean"))
    error = refused({"vec": numbers}, made)  # the form of the vector counts before the key
    assert (error.reason, "vec is an unchanged TOAST column" in error.message) == (Reason.MALFORMED, True)


def test_numbers_that_are_nearly_those_of_an_array_that_was_not_sent_are_a_vector() -> None:
    numbers = [*b"__debezium_unavailable_value"]
    made = decoder("id", target=Target("docs", 28, "euclidean"))
    other = [*numbers[:-1], 0]
    assert put({"id": "a", "vec": other}, made)["data"]["float32"] == other


# -- metadata

LONG_TEXT: Final = "x" * AT_ONCE_BYTES  # with it, metadata is read step by step
MEMBERS: Final = {"title": "x", "tags": ["a", "b"], "page": 3, "nothing": None, "in": {"lang": "de"}}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("", None),
        ("in", {"lang": "de"}),
        ("nothing", None),
        ("not.there", None),
        (["title", "tags"], {"title": "x", "tags": ["a", "b"]}),
        (["in.lang", "not.there"], {"lang": "de"}),
        (["not.there"], None),
        (["title", "page", "nothing"], {"title": "x", "page": "3"}),
        ({"name": "title", "first": "tags[0]"}, {"name": "x", "first": "a"}),
        ({"from": "$kafka.key", "tenant": "$header.tenant", "no": "$header.no"}, {"from": "k", "tenant": "t"}),
    ],
)
def test_metadata_is_a_map_or_parts_each_under_a_name(metadata: Any, expected: Any) -> None:
    made = decoder("id", metadata=metadata, metadata_values="stringify")
    found = put({"id": "a", "vec": VECTOR, **MEMBERS}, made, key=b"k", headers=[("tenant", b"t")])
    assert found.get("metadata") == expected


@pytest.mark.parametrize("metadata", ["in", ["a"], {"b": "in.a"}])
@pytest.mark.parametrize("wrong", [1, True, None, {"x": "y"}, [1], [None]])
def test_metadata_of_a_wrong_type_is_a_dead_letter_as_ever(metadata: Any, wrong: Any) -> None:
    error = refused({"id": "a", "vec": VECTOR, "a": wrong, "in": {"a": wrong}}, decoder("id", metadata=metadata))
    assert error.reason is Reason.METADATA


BYTEA: Final = base64.b64encode(b"__debezium_unavailable_value").decode()
HEXADECIMAL: Final = b"__debezium_unavailable_value".hex()
UUID: Final = "b68a35a7-17ad-35b3-af2a-ae46edb4545a"  # as Java's UUID.nameUUIDFromBytes makes it of the placeholder
HSTORE: Final = '{"__debezium_unavailable_value":"__debezium_unavailable_value"}'


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize("placeholder", [BYTEA, HEXADECIMAL, UUID, HSTORE])
def test_every_placeholder_is_no_metadata_no_key_and_no_vector(placeholder: str, encode: Any) -> None:
    good = {"id": "a", "vec": VECTOR, "text": "x"}
    for loose in (False, True):
        made = decoder("id", metadata=["text"], metadata_values="stringify" if loose else "strict")
        for wrong in ({"text": placeholder}, {"text": [placeholder]}, {"id": placeholder}, {"vec": [placeholder]}):
            with pytest.raises(RecordError, match="is an unchanged TOAST column"):
                made.decode(None, encode({**good, **wrong}), ())
        for fine in (placeholder[1:], [placeholder, placeholder], f" {placeholder}"):
            assert isinstance(made.decode(None, encode({**good, "text": fine}), ()), Put)


@pytest.mark.parametrize("vector", [BYTEA, BYTEA.rstrip("="), HEXADECIMAL, HEXADECIMAL.upper(), HSTORE, UUID])
@pytest.mark.parametrize("vector_bytes", ["float32-le", "float16-le"])
def test_a_vector_as_bytes_that_postgresql_did_not_send_is_none_whatever_they_hold(
    vector: str, vector_bytes: Any
) -> None:
    dimension = 21 if vector_bytes == "float16-le" else 7  # as many as the placeholder would have
    made = decoder("id", target=Target("docs", dimension, "euclidean"), vector_bytes=vector_bytes)
    assert "vec is an unchanged TOAST column" in refused({"id": "a", "vec": vector}, made).message


def test_bytes_that_postgresql_did_not_send_are_no_vector_in_messagepack() -> None:
    made = decoder("id", target=Target("docs", 7, "euclidean"))
    with pytest.raises(RecordError, match="vec is an unchanged TOAST column"):
        made.decode(None, msgspec.msgpack.encode({"id": "a", "vec": b"__debezium_unavailable_value"}), ())


@pytest.mark.parametrize("metadata", ["in", ["title", "text"]])
def test_a_column_that_postgresql_did_not_send_is_no_metadata(metadata: Any) -> None:
    word = "__debezium_unavailable_value"
    loose = decoder("id", metadata=metadata, metadata_values="stringify")
    for made, unavailable in (
        (decoder("id", metadata=metadata), word),
        (decoder("id", metadata=metadata), [word]),
        (loose, [word]),
        (loose, [*word.encode()]),
        (loose, [float(number) for number in word.encode()]),
    ):
        for title in ("x", LONG_TEXT):
            members = {"title": title, "text": unavailable}
            error = refused({"id": "a", "vec": VECTOR, **members, "in": members}, made)
            assert error.reason is Reason.MALFORMED
            assert "metadata 'text' is an unchanged TOAST column" in error.message


def test_a_key_that_postgresql_did_not_send_is_none() -> None:
    error = refused({"id": "__debezium_unavailable_value", "vec": VECTOR}, decoder("id"))
    assert "id is an unchanged TOAST column" in error.message


# -- deletes


IN_QUOTES: Final = ['"d"', '"True"', " d", "true \n", ' "1" ']
DELETED: Final = ["true", "True", "TRUE", "d", "D", "delete", "DELETE", "Delete", "1", *IN_QUOTES]
NO_MARKS: Final = ['"d', 'd"', '""', "d d", "d" * 100_000, " " * 100_000]
KEPT: Final = ["false", "c", "u", "I", "0", "2", "", "y", "deleted", "update", *NO_MARKS]


@pytest.mark.parametrize("says", [True, 1, 1.0, *DELETED])
def test_a_record_that_says_so_deletes_its_key(says: Any) -> None:
    assert decoded({"id": "a", "vec": None, "__deleted": says}, decoder("id", delete="__deleted")) == Delete("a")


@pytest.mark.parametrize("says", [False, 0, 0.0, None, *KEPT])
def test_a_record_that_says_anything_else_is_put(says: Any) -> None:
    assert put({"id": "a", "vec": VECTOR, "op": says}, decoder("id", delete="op"))["key"] == "a"


@pytest.mark.parametrize(("digits", "deletes"), [("1." + "0" * 38, True), ("0." + "0" * 38, False)])
def test_a_mark_may_be_a_decimal_with_all_its_places(digits: str, deletes: bool) -> None:
    value = f'{{"id":"a","vec":{json.dumps(VECTOR)},"op":{digits}}}'.encode()
    found = decoder("id", delete="op").decode(None, value, ())
    assert isinstance(found, Delete) is deletes


@pytest.mark.parametrize("says", [2, -1, 0.5, 1790000000000, 2**63])
def test_a_mark_that_is_another_number_is_malformed_since_its_row_may_be_deleted(says: Any) -> None:
    error = refused({"id": "a", "vec": VECTOR, "deleted_at": says}, decoder("id", delete="deleted_at"))
    assert (error.reason, "deleted_at is a number other than 0 and 1" in error.message) == (Reason.MALFORMED, True)


@pytest.mark.parametrize("says", [{"string": "true"}, {}, ["d"], []])
def test_a_mark_that_is_a_map_or_a_list_is_malformed_since_its_row_may_be_deleted(says: Any) -> None:
    error = refused({"id": "a", "vec": VECTOR, "op": says}, decoder("id", delete="op"))
    assert (error.reason, "allowed for records.fields.delete" in error.message) == (Reason.MALFORMED, True)


def test_a_mark_that_is_bytes_is_malformed_likewise() -> None:
    value = msgspec.msgpack.encode({"id": "a", "vec": VECTOR, "op": b"d"})
    with pytest.raises(RecordError, match=r"op is a binary; allowed for records\.fields\.delete") as raised:
        decoder("id", delete="op").decode(None, value, ())
    assert raised.value.reason is Reason.MALFORMED


def test_a_kafka_key_that_is_1_in_any_form_is_a_key_and_no_mark() -> None:
    for key, deletes in ((b"1", False), (b'"1"', False), (b'"d"', True)):
        found = decoded({"id": "a", "vec": VECTOR}, decoder("id", delete="$kafka.key"), key=key)
        assert isinstance(found, Delete) is deletes


@pytest.mark.parametrize(
    ("header", "deletes"),
    [*((says.encode(), True) for says in DELETED), *((says.encode(), False) for says in KEPT), (None, False)],
)
def test_a_header_can_say_that_the_key_is_deleted(header: bytes | None, deletes: bool) -> None:
    found = decoded({"id": "a", "vec": VECTOR}, decoder("id", delete="$header.op"), headers=[("op", header)])
    assert isinstance(found, Delete) is deletes


@pytest.mark.parametrize("says", [b"1e999", b"-1e999", b"9e99999"])
def test_a_number_beyond_float64_is_malformed_likewise(says: bytes) -> None:
    value = b'{"id":"a","vec":%s,"op":%s}' % (json.dumps(VECTOR).encode(), says)
    with pytest.raises(RecordError, match="op is a number other than 0 and 1") as raised:
        decoder("id", delete="op").decode(None, value, ())
    assert raised.value.reason is Reason.MALFORMED


def test_a_delete_needs_the_named_key() -> None:
    assert refused({"key": "b", "op": "d"}, decoder("id", delete="op"), key=b"k").reason is Reason.KEY
    assert decoded({"op": "d"}, decoder(delete="op"), key=b"k") == Delete("k")


# -- the service's own shape, read as any other


def own_shape(
    dimension: int, metadata_values: MetadataValues, key_values: KeyValues = "strict"
) -> tuple[Decoder, Decoder]:
    """Return the decoder of the service's own shape, and one that finds the same parts as those of any shape."""
    target = Target("docs", dimension, "cosine", NON_FILTERABLE)
    shapes = (FIXED, FIXED._replace(delete=parse("there.is.none")))
    first, second = (
        Decoder(target, max_fragment_bytes=1 << 20, metadata_values=metadata_values, key_values=key_values, shape=shape)
        for shape in shapes
    )
    return first, second


PAIRS: Final = {
    (dimension, values): own_shape(dimension, values)
    for dimension in (SHORT, LONG)
    for values in ("strict", "stringify")
}  # fmt: skip


def outcome(made: Decoder, value: bytes, key: bytes | None) -> object:
    """Return what it asks for, or why it is refused; the words may differ."""
    try:
        return made.decode(key, value, ())
    except RecordError as error:
        return error.reason


@given(records(), st.sampled_from([b"k", None, b"\xff", b""]))
def test_the_services_own_shape_is_read_as_a_mapped_one(value: bytes, kafka_key: bytes | None) -> None:
    for case, (fixed, mapped) in PAIRS.items():
        assert outcome(mapped, value, kafka_key) == outcome(fixed, value, kafka_key), case


texts = st.text(st.characters(codec="utf-8"), max_size=8)
scalars = st.one_of(
    texts, st.integers(-(2**63), 2**64 - 1), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)
)
members = st.dictionaries(texts.filter(bool), st.one_of(texts, scalars, st.lists(texts, max_size=3)), max_size=5)
numbers = st.lists(st.floats(-10, 10, width=32), min_size=SHORT, max_size=SHORT)


@given(texts, numbers, members, st.sampled_from(["strict", "stringify"]), st.sampled_from(ENCODERS))
def test_a_flat_record_is_the_same_as_one_of_the_services_own_shape(
    key: str, vector: list[float], metadata: dict[str, Any], values: MetadataValues, encode: Any
) -> None:
    fixed = Decoder(TARGET, max_fragment_bytes=1 << 20, metadata_values=values)
    own = encode({"key": key, "data": {"float32": vector}, "metadata": metadata})
    expected = outcome(fixed, own, b"k")
    paths = {name: f'm."{name}"' for name in metadata if not set(name) & set('"\\') and name.isprintable()}
    if len(paths) == len(metadata) and metadata:
        flat = encode({"id": key, "v": {"x": [vector]}, "m": metadata})
        made = decoder("id", "v.x[0]", paths, metadata_values=values)
        assert outcome(made, flat, b"k") == expected
    nested = encode({"doc": {"id": key}, "v": vector, "in": [{"m": metadata}]})
    assert outcome(decoder("doc.id", "v", "in[0].m", metadata_values=values), nested, b"k") == expected


# -- the bounds

HOSTILE_NAMES: Final = [*hostile_records.RECORDS]
HOSTILE: Final = decoder(
    "key", "data.float32", ["metadata.a", "metadata.b", "x[1].y[2].z"], "metadata.a[0].a[0].a", key_values="stringify"
)
OF_A_MAP: Final = decoder(
    "key", "data.float32", "metadata", metadata_values="stringify", target=Target("docs", LONG, "cosine")
)


@pytest.mark.parametrize("name", [*HOSTILE_NAMES[::7], "MessagePack a vector of numbers and a null"])
def test_no_record_of_a_megabyte_costs_more_than_seconds_under_a_mapping(name: str) -> None:
    value = hostile_records.RECORDS[name]()
    assert max(cost_of(made, value) for made in (HOSTILE, OF_A_MAP)) < SECONDS


def test_a_shape_is_compiled_once_for_each_encoding_of_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    original = MappedReader.__init__

    def counted(self: MappedReader, *given: Any) -> None:
        made.append(self)
        original(self, *given)

    monkeypatch.setattr(MappedReader, "__init__", counted)
    one = decoder("id")
    count = len(made)
    for _ in range(3):
        one.decode(None, b'{"id":"a","vec":[1,2,3]}', ())
    assert count == len(made) > 0
