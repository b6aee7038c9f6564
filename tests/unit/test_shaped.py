"""`produce`: rows become messages of the shape that the topic's records have, and say what the row says."""

import base64
import json
import struct
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.app import settings
from worker.app.decoders import decoder_of, options_of
from worker.errors import FatalError, Reason, RecordError
from worker.records.formats.contract import Options
from worker.records.target import Target
from worker.settings import tables
from worker.tools.produce import columns, rows
from worker.tools.produce.publish import Judge, Message
from worker.tools.produce.rows import Row
from worker.tools.produce.run import Options as Asked
from worker.tools.produce.run import _check_form, _form, _is_shaped, _with_known_columns
from worker.tools.produce.shaped import Shaped

NUMBERS: Final = [1.0, -2.5, 0.375]
RAW: Final = struct.pack("<3f", *NUMBERS)
ALONE: Final = {"vector": "$kafka.value"}
FLAT: Final = {"key": "id", "vector": "doc.vec", "metadata": {"title": "doc.title", "lang": "$header.lang"}}


def records_of(fields: Any, **changed: Any) -> tables.Records:
    return tables.with_changes(tables.Records(), {"fields": fields, **changed})


def shaped(fields: Any, form: str = "json", headers: Any = (), **changed: Any) -> Shaped:
    """Return what makes messages of a topic whose records are read with these settings."""
    records = records_of(fields, **changed)
    route = tables.Route(topic="vectors", index="docs", records={"fields": fields, **changed})
    decoder = decoder_of(Target("docs", 3, "cosine"), settings(routes=(route,)), "vectors")
    judge = Judge(decoder, decoder, form="", key_format=records.key_format, headers=headers)
    return Shaped(judge, decoder, options_of(records, 3), form=form, headers=headers)


def row(key: Any = "a", vector: Any = NUMBERS, metadata: Any = None) -> Row:
    members = {"key": key, "data": {"float32": vector}} | ({} if metadata is None else {"metadata": metadata})
    return Row(1, json.dumps(members).encode())


def refused(made: Shaped, one: Row) -> RecordError:
    with pytest.raises(RecordError) as raised:
        made.message(one)
    return raised.value


# -- values that are a vector alone


@pytest.mark.parametrize(
    ("vector_bytes", "form"),
    [("float32-le", "<3f"), ("float32-be", ">3f"), ("float64-le", "<3d"), ("float64-be", ">3d"), ("float16-le", "<3e")],
)
@pytest.mark.parametrize("vector", [NUMBERS, base64.b64encode(RAW).decode()])
def test_the_value_is_the_bytes_that_the_worker_reads(vector_bytes: str, form: str, vector: Any) -> None:
    made = shaped(ALONE, vector_bytes=vector_bytes).message(row(vector=vector))
    assert made == Message(b"a", struct.pack(form, *NUMBERS), [])


def test_key_and_metadata_are_in_headers_beside_those_of_the_command() -> None:
    fields = {**ALONE, "key": "$header.id", "metadata": {"title": "$header.t", "lang": "$header.l"}}
    made = shaped(fields, headers=[("l", b"de")], metadata_values="stringify")
    assert made.message(row(metadata={"title": 5, "lang": None})) == Message(
        b"a", RAW, [("l", b"de"), ("id", b"a"), ("t", b"5")]
    )


def test_an_array_of_numpy_is_what_its_bytes_are() -> None:
    vector = np.array([0.1, 1e-40, 3e38], "<f4")
    assert shaped(ALONE).message(rows.record(1, "a", vector, {})).value == vector.tobytes()


def test_numbers_that_the_bytes_cannot_hold_are_not_published_as_others() -> None:
    error = refused(shaped(ALONE, vector_bytes="float16-le"), row(vector=[0.1, 0.2, 0.3]))
    assert 'cannot be stored exactly as records.vector_bytes = "float16-le"' in error.message


def test_a_key_that_is_to_be_in_quotes_gets_them() -> None:
    assert shaped(ALONE, key_format="json").message(row("ä")).key == '"ä"'.encode()


def test_a_tombstone_has_no_value_and_what_is_no_row_says_why() -> None:
    assert shaped(ALONE, tombstones="delete").message(Row(1, None, "a")) == Message(b"a", None, ())
    assert refused(shaped(ALONE), rows.problem(1, "no key")).message == "no key"


# -- other shapes


@pytest.mark.parametrize(
    ("form", "vector"), [("json", NUMBERS), ("base64", base64.b64encode(RAW).decode()), ("msgpack", RAW)]
)
def test_each_part_is_where_its_path_leads(form: str, vector: Any) -> None:
    made = shaped(FLAT, form).message(row(metadata={"title": "x", "lang": "de"}))
    value = made.value or b""
    read = msgspec.msgpack.decode(value) if form == "msgpack" else json.loads(value)
    assert read == {"id": "a", "doc": {"title": "x", "vec": vector}}
    assert (made.key, [*made.headers]) == (b"a", [("lang", b"de")])


def test_metadata_in_the_value_keeps_its_types_and_a_map_is_one() -> None:
    metadata = {"page": 12345678901234567890123, "tags": ["a"], "none": None}
    made = shaped({"key": "id", "vector": "v", "metadata": "meta.all"}, metadata_values="stringify")
    read = json.loads(made.message(row(metadata=metadata)).value or b"")
    assert read == {"id": "a", "v": NUMBERS, "meta": {"all": {"page": metadata["page"], "tags": ["a"]}}}
    assert "meta" not in json.loads(made.message(row()).value or b"")
    listed = shaped({"key": "id", "vector": "v", "metadata": ["doc.page"]}, metadata_values="stringify")
    assert json.loads(listed.message(row(metadata={"page": 3})).value or b"")["doc"] == {"page": 3}


@pytest.mark.parametrize("form", ["json", "base64", "msgpack"])
def test_the_vector_is_the_same_whatever_the_form(form: str) -> None:
    vector = np.array([0.1, 1e-40, -3.4e38], "<f4")
    made = shaped({"key": "id", "vector": "v"}, form, vector_bytes="float64-be")
    value = made.message(rows.record(1, "a", vector, {})).value or b""
    read = (msgspec.msgpack.decode(value) if form == "msgpack" else json.loads(value))["v"]
    if form == "json":
        assert np.array(read, "<f4").tobytes() == vector.tobytes()
    else:
        assert np.frombuffer(read if form == "msgpack" else base64.b64decode(read), ">f8").tolist() == vector.tolist()


def test_a_name_that_is_the_key_too_is_the_key() -> None:
    made = shaped({"key": "id", "vector": "v", "metadata": ["id"]})
    assert json.loads(made.message(row()).value or b"") == {"id": "a", "v": NUMBERS}
    assert "another key" in refused(made, row(metadata={"id": "b"})).message


# -- what is refused


@pytest.mark.parametrize(
    ("one", "fields", "reason", "words"),
    [
        (row(None), ALONE, Reason.KEY, "the row has no key"),
        (row(5), ALONE, Reason.MALFORMED, "key is a number"),
        (row(metadata={"title": "x"}), ALONE, Reason.METADATA, "metadata 'title' has no place in this topic's records"),
        (row(metadata={"x": ["a"]}), {**ALONE, "metadata": ["$header.x"]}, Reason.METADATA, "a list of texts"),
        (row(metadata={"x": 5}), {**ALONE, "metadata": ["$header.x"]}, Reason.METADATA, "metadata 'x' is a number"),
        (row(metadata={"k": "b"}), {**ALONE, "metadata": {"k": "$kafka.key"}}, Reason.MALFORMED, "another metadata"),
        (row(vector=[1, 2]), ALONE, Reason.DIMENSION, "$kafka.value has 2 numbers"),
        (row(vector=[0, 0, 0]), ALONE, Reason.ZERO_VECTOR, "zero"),
        (row(vector=[1, 2, 1e39]), ALONE, Reason.NOT_FINITE, "not finite as float32"),
        (row(vector=base64.b64encode(RAW[:-1]).decode()), ALONE, Reason.MALFORMED, "11 bytes"),
        (rows.record(1, "a", np.array([1, np.nan, 1], "<f4"), {}), ALONE, Reason.NOT_FINITE, "not finite"),
        (row(), {**ALONE, "delete": "$kafka.key"}, Reason.MALFORMED, "its headers delete"),
    ],
)
def test_a_row_that_the_worker_would_not_read_so_is_bad(one: Row, fields: Any, reason: Reason, words: str) -> None:
    if "delete" in fields:
        one = row("d")
    error = refused(shaped(fields), one)
    assert (error.reason, words in error.message) == (reason, True), error.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({**ALONE, "key": "{$kafka.key}/{$header.t}"}, "makes the key of several parts"),
        ({"key": "ids[0]", "vector": "v"}, "leads to an element of a list"),
        ({"key": "id", "vector": "doc.v", "metadata": "doc"}, "doc.v is within doc"),
    ],
)
def test_a_shape_whose_parts_have_no_single_place_is_refused(fields: Any, words: str) -> None:
    with pytest.raises(FatalError, match=words.replace("[", ".")):
        shaped(fields)


# -- which files, and which columns


def asked(file: str | None, form: str | None = None, metadata: Any = None) -> Asked:
    return Asked(
        file, None, form, "none", 0.0, False, None, 1, None, None, columns.Columns(metadata=metadata), False
    )  # fmt: skip


def shape_of(fields: Any, **changed: Any) -> Options:
    return options_of(records_of(fields, **changed))


def test_rows_of_tables_are_shaped_and_lines_only_where_the_value_is_a_vector_alone() -> None:
    files = ("a.jsonl", "a.parquet", "a.npy", "a.npz", None)
    assert [_is_shaped(asked(file), shape_of({})) for file in files] == [False] * 5
    assert [_is_shaped(asked(file), shape_of(FLAT)) for file in files] == [False, True, True, True, False]
    assert [_is_shaped(asked(file), shape_of(ALONE)) for file in files] == [True] * 5
    tombstones = asked(None)._replace(tombstones=Path("keys"))
    assert not _is_shaped(tombstones, shape_of(ALONE))


ROUTE: Final = tables.Route(topic="vectors", index="docs")


@pytest.mark.parametrize(
    ("file", "form", "fields", "changed", "words"),
    [
        ("a.npz", "json", ALONE, {}, "are the bytes of vectors: leave out --format"),
        ("a.jsonl", "json", FLAT, {}, "are published as the file has them: leave out --format"),
        ("a.npz", None, FLAT, {"envelope": "debezium"}, "in an envelope or a list: write the file as JSON Lines"),
        ("a.npz", None, FLAT, {"many": "split"}, "in an envelope or a list: write the file as JSON Lines"),
        ("a.npz", "msgpack", FLAT, {"format": "json"}, "the worker would refuse every record in msgpack"),
        ("a.jsonl", None, FLAT, {"format": "msgpack"}, "its shape is not that of produce"),
    ],
)
def test_a_form_that_the_topic_does_not_have_is_refused(
    file: str, form: str | None, fields: Any, changed: Any, words: str
) -> None:
    records = records_of(fields, **changed)
    given, shape = asked(file, form), options_of(records)
    with pytest.raises(FatalError, match=words):
        _check_form(given, ROUTE, records, shape, is_shaped=_is_shaped(given, shape))


@pytest.mark.parametrize(
    ("file", "form", "fields", "changed", "expected"),
    [
        ("a.npz", None, ALONE, {"vector_bytes": "float64-le"}, "bytes of float64-le"),
        ("a.npz", None, FLAT, {}, "json"),
        ("a.npz", "base64", FLAT, {}, "base64"),
        ("a.npz", None, FLAT, {"format": "msgpack"}, "msgpack"),
        ("a.jsonl", None, FLAT, {}, ""),
        ("a.jsonl", None, {}, {}, "json"),
    ],
)
def test_the_form_is_that_of_the_topic(file: str, form: str | None, fields: Any, changed: Any, expected: str) -> None:
    records = records_of(fields, **changed)
    given, shape = asked(file, form), options_of(records)
    is_shaped = _is_shaped(given, shape)
    _check_form(given, ROUTE, records, shape, is_shaped=is_shaped)
    assert _form(given, records, shape, [Target("docs", 3, "cosine")], is_shaped=is_shaped) == expected


@pytest.mark.parametrize(
    ("fields", "metadata", "expected"),
    [
        (ALONE, None, {}),
        ({**ALONE, "metadata": {"title": "$header.t", "none": "$header.n"}}, None, {"title": "x"}),
        ({**ALONE, "metadata": {"title": "$header.t"}}, ["lang"], {"lang": "de"}),
        ({"vector": "v"}, None, {"title": "x", "lang": "de"}),
    ],
)
def test_of_a_table_the_columns_are_metadata_that_the_topic_has_a_place_for(
    fields: Any, metadata: Any, expected: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"key": ["a"], "vector": [NUMBERS], "title": ["x"], "lang": ["de"]}), path)
    given = _with_known_columns(asked("a.parquet", metadata=metadata), shape_of(fields))
    (found,) = columns.parquet(path, given.columns).read(1)
    assert json.loads(found.value or b"").get("metadata", {}) == expected
