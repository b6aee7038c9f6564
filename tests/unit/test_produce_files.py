"""`produce`: files of every kind into rows, hostile ones among them."""

import base64
import gzip
import io
import json
import os
import tracemalloc
import zipfile
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.bounded import join, thread
from tests.unit.samples import line
from worker.errors import FatalError
from worker.tools.produce import arrays as array_files
from worker.tools.produce import columns, lines, rows
from worker.tools.produce.columns import Columns
from worker.tools.produce.rows import Row

NO_STDIN = io.BytesIO()


def numbers(value: bytes) -> list[float]:
    """Return the vector of a JSON record in base64."""
    found: list[float] = np.frombuffer(base64.b64decode(json.loads(value)["data"]["float32"]), "<f4").tolist()
    return found


# -- files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of three records, an empty line among them."""
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"\n".join([line("a"), b"", line("b"), line("c")]))
    return path


def test_lines_are_numbered_as_an_editor_numbers_them(file: Path) -> None:
    found = lines.json_lines(file, NO_STDIN)
    assert (found.total, [row.number for row in found.read(1)]) == (4, [1, 3, 4])
    assert [row.number for row in found.read(3)] == [3, 4]


def test_lines_come_from_standard_input_and_from_gzip(tmp_path: Path) -> None:
    packed = tmp_path / "records.jsonl.gz"
    packed.write_bytes(gzip.compress(line("a") + b"\r\n" + line("b") + b"\n"))
    for found in (
        lines.json_lines(packed, NO_STDIN),
        lines.json_lines(None, io.BytesIO(line("a") + b"\n" + line("b"))),
    ):
        assert (found.total, [row.value for row in found.read(1)]) == (None, [line("a"), line("b")])


def test_a_line_without_an_end_is_no_record_and_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_ROW_BYTES", 1000)
    stream = io.BytesIO(b"x" * 10_000_000)
    with pytest.raises(FatalError, match="line 1 of standard input is longer than 1000 bytes"):
        list(lines.json_lines(None, stream).read(1))
    assert stream.tell() <= 1001


def test_keys_become_tombstones(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("a\nb\n", encoding="utf-8")
    assert list(lines.tombstones(path).read(2)) == [Row(2, None, "b")]


def test_parquet_rows_become_records_with_the_other_columns_as_metadata(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    table = {"key": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]], "title": ["x", None], "tags": [["p"], ["q", "r"]]}
    pq.write_table(pa.table(table), path, row_group_size=1)
    found = columns.parquet(path, Columns())
    first, second = found.read(1)
    assert (found.total, numbers(first.value or b""), numbers(second.value or b"")) == (2, [1.0, 2.0], [3.0, 4.0])
    assert json.loads(first.value or b"")["metadata"] == {"title": "x", "tags": ["p"]}
    assert json.loads(second.value or b"")["metadata"] == {"tags": ["q", "r"]}
    assert [row.number for row in found.read(2)] == [2]


def test_parquet_without_the_column_names_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0]]}), path)
    with pytest.raises(FatalError, match="has no column key; it has id, vector"):
        columns.parquet(path, Columns())
    assert [json.loads(row.value or b"")["key"] for row in columns.parquet(path, Columns(key="id")).read(1)] == ["a"]


def arrays(folder: Path, count: int = 3, dimension: int = 2) -> tuple[Path, Path]:
    """Write an archive of keys and vectors, and the vectors alone; return their paths."""
    vectors = np.arange(count * dimension, dtype=np.float64).reshape(count, dimension)
    np.savez(folder / "a.npz", keys=np.array([f"k{number}" for number in range(count)]), vectors=vectors)
    np.save(folder / "a.npy", vectors)
    return folder / "a.npz", folder / "a.npy"


def test_arrays_become_records(tmp_path: Path) -> None:
    archive, alone = arrays(tmp_path)
    keys = tmp_path / "keys"
    keys.write_text("k0\nk1\nk2\n", encoding="utf-8")
    for found in (array_files.npz(archive), array_files.npy(alone, keys)):
        read = [(row.number, json.loads(row.value or b"")["key"], numbers(row.value or b"")) for row in found.read(2)]
        assert (found.total, read) == (3, [(2, "k1", [2.0, 3.0]), (3, "k2", [4.0, 5.0])])


def test_an_archive_larger_than_memory_is_read_row_by_row(tmp_path: Path) -> None:
    archive, _ = arrays(tmp_path, count=20_000, dimension=256)  # 40 MB of vectors
    tracemalloc.start()
    try:
        assert sum(1 for _ in array_files.npz(archive).read(1)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_row_group_larger_than_memory_is_read_a_part_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    vectors = pa.array(np.random.default_rng(1).normal(size=10_000 * 1024).astype("f4"))
    table = pa.table({"key": ["a"] * 10_000, "vector": pa.FixedSizeListArray.from_arrays(vectors, 1024)})
    pq.write_table(table, path, row_group_size=10_000)  # 40 MB
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in columns.parquet(path, Columns()).read(1))
    assert most < 8_000_000


@pytest.mark.parametrize(
    ("keys", "vectors", "told"),
    [
        (np.array(["a"]), np.zeros((2, 3)), "has 2 vectors and 1 keys"),
        (np.array([1, 2]), np.zeros((2, 3)), r"the array keys holds int64 of shape \(2,\), it must hold text"),
        (np.array(["a"]), np.zeros(3), r"shape \(3,\): it must hold floats, a row for each vector"),
        (np.array(["a"]), np.array([["x"]]), "it must hold floats"),
        (np.array(["a", "b"]), np.asfortranarray(np.ones((2, 3))), "column by column"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_words(tmp_path: Path, keys: Any, vectors: Any, told: str) -> None:
    np.savez(tmp_path / "a.npz", keys=keys, vectors=vectors)
    with pytest.raises(FatalError, match=told):
        array_files.npz(tmp_path / "a.npz")


def test_an_archive_that_is_none_or_lacks_an_array_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(FatalError, match="cannot be read as an archive"):
        array_files.npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w"):
        pass
    with pytest.raises(FatalError, match="has no array named vectors"):
        array_files.npz(tmp_path / "b.npz")


# -- hostile files


def problems(found: rows.Rows) -> list[str | None]:
    """Return what is wrong with each row, None for one that can be read."""
    return [row.problem for row in found.read(1)]


def values(found: rows.Rows) -> list[Any]:
    """Return the records of rows."""
    return [json.loads(row.value or b"") for row in found.read(1)]


def test_gzip_cut_short_names_the_last_line_that_was_whole(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl.gz"
    packed = gzip.compress(b"".join(line(f"k{number}") + b"\n" for number in range(5000)))
    path.write_bytes(packed[: len(packed) // 2])
    read = lines.json_lines(path, None).read(1)
    last = next(read)
    with pytest.raises(FatalError, match="is cut short: its gzip data has no end; line") as raised:
        for last in read:  # noqa: B007 - the last one is looked at
            pass
    assert f"line {last.number} " in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [b"no gzip at all\n", gzip.compress(b"x" * 1000, mtime=0)[:-12] + b"damaged data"],
    ids=["none", "damaged"],
)
def test_gzip_that_is_none_or_damaged_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(FatalError, match="cannot be read beyond line 0"):
        list(lines.json_lines(path, None).read(1))


def test_a_closed_standard_input_is_one_error() -> None:
    with pytest.raises(FatalError, match="standard input is closed"):
        list(lines.json_lines(None, None).read(1))


def test_a_pipe_with_a_name_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = thread(path.write_bytes, line("a") + b"\n" + line("b"))
    found = lines.json_lines(path, None)
    assert (found.total, [row.number for row in found.read(1)]) == (None, [1, 2])
    join(writer)


def test_a_pipe_of_keys_is_not_read_to_count_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = thread(path.write_bytes, b"a\nb\n")
    found = lines.tombstones(path)
    assert (found.total, [row.key for row in found.read(1)]) == (None, ["a", "b"])
    join(writer)


def test_a_signal_ends_a_pipe_that_is_silent_and_its_half_line_is_no_record() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, line("a") + b"\n" + line("b")[:10])
    looks = iter([False] * 20)
    with lines.pipe(read_end, lambda: next(looks, True)) as stream:
        found = list(lines.json_lines(None, stream, lambda: next(looks, True)).read(1))
    os.close(write_end)
    assert [row.number for row in found] == [1]


def test_keys_end_at_line_breaks_alone_and_must_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes("a\u2028b\x0b\x85c\r\nd\n".encode() + b"\xff\n")
    assert [row.key for row in lines.tombstones(path).read(1)] == ["a\u2028b\x0b\x85c", "d", None]
    assert problems(lines.tombstones(path)) == [None, None, "the key is not UTF-8"]


def parquet(folder: Path, **table: Any) -> rows.Rows:
    """Write a Parquet file of these columns and return its rows."""
    pq.write_table(pa.table({"key": ["a", "b"], "vector": [[1.0], [2.0]]} | table), folder / "a.parquet")
    return columns.parquet(folder / "a.parquet", Columns())


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.list_(pa.float16()), pa.large_list(pa.int32()), pa.list_(pa.float32(), 2), pa.list_(pa.decimal128(5, 2))],
    ids=str,
)  # fmt: skip
def test_parquet_vectors_may_be_numbers_of_any_kind(tmp_path: Path, kind: Any) -> None:
    one = {"halffloat": np.array([1, 2], "f2"), "decimal128(5, 2)": [Decimal(1), Decimal(2)]}.get(
        str(kind.value_type), [1, 2]
    )
    found = parquet(tmp_path, vector=pa.array([one, one], kind))
    assert [numbers(row.value or b"") for row in found.read(1)] == [[1.0, 2.0]] * 2


def test_parquet_vectors_may_be_bytes_or_base64_text(tmp_path: Path) -> None:
    raw = np.array([1, 2], "<f4").tobytes()
    for vectors in ([raw] * 2, [base64.b64encode(raw).decode()] * 2):
        assert [numbers(row.value or b"") for row in parquet(tmp_path, vector=vectors).read(1)] == [[1.0, 2.0]] * 2


@pytest.mark.parametrize(
    "vectors", [[["1.0"], ["2.0"]], [[[1.0], [2.0]], [[3.0]]], [1.0, 2.0], [[True], [False]], [{"x": 1.0}] * 2]
)
def test_a_parquet_column_that_holds_no_vectors_is_refused_at_once(tmp_path: Path, vectors: Any) -> None:
    with pytest.raises(FatalError, match=r"column vector of .* it must hold lists of numbers"):
        parquet(tmp_path, vector=vectors)


def test_parquet_nulls_are_no_numbers(tmp_path: Path) -> None:
    found = parquet(tmp_path, vector=pa.array([[1.0, None], None], pa.list_(pa.float32())), key=[None, "b"])
    assert problems(found) == ["the vector contains null", None]
    assert values(found)[1] == {"key": "b", "data": {"float32": None}}


def test_parquet_metadata_keeps_its_values_or_the_row_is_bad(tmp_path: Path) -> None:
    found = parquet(tmp_path, blob=[None, b"raw"], number=[float("nan"), 1.5])
    nan, blob = map(str, problems(found))
    assert "JSON" in nan
    assert blob == "it cannot be written as JSON: there is a value of type bytes"
    word = pa.array(["x", "x"]).dictionary_encode()
    assert [one["metadata"]["word"] for one in values(parquet(tmp_path, key=word, word=word))] == ["x", "x"]
    found = parquet(tmp_path, price=[Decimal("1.10"), None], day=[date(2026, 1, 31), None], nested=[{"a": 1}, {"a": 2}])
    assert [one.get("metadata") for one in values(found)] == [
        {"price": "1.10", "day": "2026-01-31", "nested": {"a": 1}},
        {"nested": {"a": 2}},
    ]


def test_parquet_text_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    ends = pa.py_buffer(np.array([0, 2, 4], "i4").tobytes())
    broken = pa.StringArray.from_buffers(2, ends, pa.py_buffer(b"\xff\xfeok"))
    found = parquet(tmp_path, title=broken)
    first, second = problems(found)
    assert ("utf-8" in str(first), second) == (True, None)


def test_parquet_with_a_column_twice_or_damaged_data_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([["a"], [[1.0]], ["x"], ["y"]], names=["key", "vector", "t", "t"]), path)
    with pytest.raises(FatalError, match="has more than one column t"):
        columns.parquet(path, Columns())
    pq.write_table(pa.table({"key": ["a"] * 5000, "vector": [[1.0]] * 5000}), path, row_group_size=1000)
    content = bytearray(path.read_bytes())
    content[4:300] = b"\xff" * 296
    path.write_bytes(content)
    with pytest.raises(FatalError, match=r"cannot be read beyond row \d+: "):
        list(columns.parquet(path, Columns()).read(1))
    for wrong in (b"", b"PAR1"):
        path.write_bytes(wrong)
        with pytest.raises(FatalError, match="cannot be read as Parquet"):
            columns.parquet(path, Columns())


def test_parquet_continues_in_the_middle_of_a_row_group(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    keys = [f"k{number}" for number in range(1, 11)]
    pq.write_table(pa.table({"key": keys, "vector": [[1.0]] * 10}), path, row_group_size=4)
    for first in range(1, 12):
        found = [
            (row.number, json.loads(row.value or b"")["key"]) for row in columns.parquet(path, Columns()).read(first)
        ]
        assert found == [(number, f"k{number}") for number in range(first, 11)]


def npz(folder: Path, keys: Any, count: int = 2) -> rows.Rows:
    """Write an archive with these keys and return its rows."""
    np.savez_compressed(folder / "a.npz", keys=keys, vectors=np.ones((count, 3), "f4"))
    return array_files.npz(folder / "a.npz")


@pytest.mark.parametrize("keys", [["ä", "b\x00c"], np.array(["ä", "b\x00c"], ">U5"), ["ä".encode(), b"b\x00c"]])
def test_keys_of_arrays_are_text_of_either_kind(tmp_path: Path, keys: Any) -> None:
    assert [one["key"] for one in values(npz(tmp_path, np.array(keys)))] == ["ä", "b\x00c"]


@pytest.mark.parametrize("keys", [np.array([b"\xff", b"b"]), np.array(["\ud83d", "b"])])
def test_a_key_of_an_array_that_is_no_text_costs_its_row(tmp_path: Path, keys: Any) -> None:
    assert problems(npz(tmp_path, keys)) == ["the key is not text in UTF-8", None]


def test_arrays_of_objects_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", keys=np.array(["a", 1], object), vectors=np.ones((2, 3)))
    with pytest.raises(FatalError, match="Python objects, which are not read"):
        array_files.npz(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.array([1, "x"], object))
    with pytest.raises(FatalError, match="cannot be read as an array"):
        array_files.npy(tmp_path / "a.npy", tmp_path / "keys")


def test_arrays_cut_short_name_the_last_row(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((500, 300)))
    names = io.BytesIO()
    np.save(names, np.array([f"k{number}" for number in range(500)]))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("vectors.npy", buffer.getvalue()[:-100])
        archive.writestr("keys.npy", names.getvalue())
    with pytest.raises(FatalError, match=r"the array vectors of .* cannot be read beyond row 4\d\d: it is cut short"):
        list(array_files.npz(tmp_path / "a.npz").read(1))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x10\x00{'descr': 1}    \n"])
def test_files_that_are_no_arrays_are_one_error(tmp_path: Path, content: bytes) -> None:
    for name, read in (("a.npz", array_files.npz), ("a.npy", lambda path: array_files.npy(path, path))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FatalError, match="cannot be read as an a"):
            read(tmp_path / name)


def test_an_archive_of_numbers_without_a_shape_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", keys=np.array("a"), vectors=np.ones((1, 3)))
    with pytest.raises(FatalError, match=r"the array keys holds <U1 of shape \(\), it must hold text"):
        array_files.npz(tmp_path / "a.npz")
