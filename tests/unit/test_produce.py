"""`produce`: files into judged records, in their order, and how far it came."""

import base64
import gzip
import io
import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kafka import errors as kafka_errors
from kafka.partitioner.default import murmur2

from tests.unit.samples import TARGET, FakeClock
from worker.errors import FatalError, RecordError
from worker.records.decode import Decoder
from worker.tools.produce import columns, rows
from worker.tools.produce.columns import Columns
from worker.tools.produce.forms import default_form, written
from worker.tools.produce.publish import MOST_WAITING_BYTES, Bad, Judge, Message, Publisher
from worker.tools.produce.rows import Row

NO_STDIN = io.BytesIO()


def line(key: str, vector: list[float] | None = None, **fields: Any) -> bytes:
    """Return a record as a line."""
    return json.dumps({"key": key, "data": {"float32": vector or [1.0, 2.0, 3.0]}} | fields).encode()


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
    found = rows.json_lines(file, NO_STDIN)
    assert (found.total, [row.number for row in found.read(1)]) == (4, [1, 3, 4])
    assert [row.number for row in found.read(3)] == [3, 4]


def test_lines_come_from_standard_input_and_from_gzip(tmp_path: Path) -> None:
    packed = tmp_path / "records.jsonl.gz"
    packed.write_bytes(gzip.compress(line("a") + b"\r\n" + line("b") + b"\n"))
    for found in (rows.json_lines(packed, NO_STDIN), rows.json_lines(None, io.BytesIO(line("a") + b"\n" + line("b")))):
        assert (found.total, [row.value for row in found.read(1)]) == (None, [line("a"), line("b")])


def test_a_line_without_an_end_is_no_record_and_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_LINE_BYTES", 1000)
    stream = io.BytesIO(b"x" * 10_000_000)
    with pytest.raises(FatalError, match="line 1 of standard input is longer than 1000 bytes"):
        list(rows.json_lines(None, stream).read(1))
    assert stream.tell() <= 1001


def test_keys_become_tombstones(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("a\nb\n", encoding="utf-8")
    assert list(rows.tombstones(path).read(2)) == [Row(2, None, "b")]


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
    for found in (columns.npz(archive), columns.npy(alone, keys)):
        read = [(row.number, json.loads(row.value or b"")["key"], numbers(row.value or b"")) for row in found.read(2)]
        assert (found.total, read) == (3, [(2, "k1", [2.0, 3.0]), (3, "k2", [4.0, 5.0])])


def test_an_archive_larger_than_memory_is_read_row_by_row(tmp_path: Path) -> None:
    archive, _ = arrays(tmp_path, count=20_000, dimension=256)  # 40 MB of vectors
    tracemalloc.start()
    try:
        assert sum(1 for _ in columns.npz(archive).read(1)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("keys", "vectors", "told"),
    [
        (np.array(["a"]), np.zeros((2, 3)), "has 2 vectors and 1 keys"),
        (np.array([1, 2]), np.zeros((2, 3)), "the array keys holds int64, it must hold text"),
        (np.array(["a"]), np.zeros(3), r"shape \(3,\): it must hold floats, a row for each vector"),
        (np.array(["a"]), np.array([["x"]]), "it must hold floats"),
        (np.array(["a", "b"]), np.asfortranarray(np.ones((2, 3))), "column by column"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_words(tmp_path: Path, keys: Any, vectors: Any, told: str) -> None:
    np.savez(tmp_path / "a.npz", keys=keys, vectors=vectors)
    with pytest.raises(FatalError, match=told):
        columns.npz(tmp_path / "a.npz")


def test_an_archive_that_is_none_or_lacks_an_array_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(FatalError, match="cannot be read as an archive"):
        columns.npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w"):
        pass
    with pytest.raises(FatalError, match="has no array named vectors"):
        columns.npz(tmp_path / "b.npz")


# -- forms


def test_long_vectors_are_published_as_base64_unless_the_topic_is_of_messagepack() -> None:
    assert [default_form(3, "auto"), default_form(1536, "auto"), default_form(1536, "msgpack")] == [
        "json",
        "base64",
        "msgpack",
    ]


@pytest.mark.parametrize("source", ["json", "base64"])
@pytest.mark.parametrize("form", ["json", "base64", "msgpack"])
def test_a_form_changes_how_a_record_is_written_and_not_what_it_says(source: str, form: str) -> None:
    vector = [0.1, -2.5e-8, 3.0]
    value = written(line("a", vector, metadata={"title": "ä"}), source)
    decoder = Decoder(TARGET, max_fragment_bytes=10_000)
    assert decoder.decode(b"a", written(value, form), ()) == decoder.decode(
        b"a", line("a", vector, metadata={"title": "ä"}), ()
    )
    assert (written(value, form) is value) == (source == form)


def test_messagepack_holds_raw_bytes() -> None:
    found = msgspec.msgpack.decode(written(line("a", [1.0, 2.0, 3.0]), "msgpack"))
    assert found["data"]["float32"] == np.array([1, 2, 3], "<f4").tobytes()


# -- publishing


class FakeFuture:
    """The producer's answer for one message."""

    def __init__(self, outcome: Any) -> None:
        self.is_done = True
        self.value = outcome

    def get(self, timeout: float) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def succeeded(self) -> bool:
        return not isinstance(self.value, Exception)


class Place:
    """Where a message came to be."""

    def __init__(self, partition: int) -> None:
        self.partition = partition


class FakeSender:
    """Takes messages; `failures` are raised by the future of the message with that number, from 1."""

    def __init__(self, failures: dict[int, Exception] | None = None) -> None:
        self.sent: list[Message] = []
        self.failures = failures or {}

    def send(self, topic: str, *, key: bytes, value: bytes | None) -> FakeFuture:
        self.sent.append(Message(key, value))
        return FakeFuture(self.failures.get(len(self.sent), Place(murmur2(key) % 2)))


class Bench:
    """A publisher on fakes."""

    def __init__(self, sender: Any = None, *, skip: bool = False, rate: float = 0.0, first: int = 1) -> None:
        self.sender = sender or FakeSender()
        self.bad: list[Bad] = []
        self.clock = FakeClock()
        self.stopping = False
        self.skip = skip
        decoders = [Decoder(TARGET, max_fragment_bytes=10_000, tombstones="delete") for _ in range(2)]
        judge = Judge(*decoders, form="json", key_format="utf8")
        self.publisher = Publisher(
            self.sender,
            "vectors",
            judge,
            first=first,
            rate=rate,
            is_stopping=lambda: self.stopping,
            wait=self.clock.pass_by,
            on_bad=self.on_bad,
            on_sent=lambda: None,
            clock=self.clock,
        )

    def on_bad(self, bad: Bad) -> None:
        self.bad.append(bad)
        if not self.skip:
            raise FatalError("bad")

    def run(self, *values: bytes | None) -> None:
        first = self.publisher.resume_at
        self.publisher.run(Row(number, value, "gone") for number, value in enumerate(values, start=first))

    @property
    def keys(self) -> list[bytes]:
        return [message.key for message in self.sender.sent]


def test_records_are_sent_in_order_under_the_vectors_key() -> None:
    bench = Bench()
    bench.run(line("b"), line("a"), line("b"), None)
    assert bench.keys == [b"b", b"a", b"b", b"gone"]
    assert (bench.publisher.acknowledged, bench.publisher.resume_at) == (4, 5)
    assert bench.sender.sent[-1].value is None


def test_the_first_bad_row_ends_it_and_what_came_before_is_counted() -> None:
    bench = Bench()
    with pytest.raises(FatalError, match="bad"):
        bench.run(line("a"), line("b", [1.0]), line("c"))
    assert (bench.keys, bench.publisher.acknowledged, bench.publisher.resume_at) == ([b"a"], 1, 2)
    assert (bench.bad[0].row.number, bench.bad[0].error.reason.value) == (2, "dimension")


def test_bad_rows_are_passed_over_and_counted_by_reason() -> None:
    bench = Bench(skip=True)
    bench.run(line("a"), line("b", [1.0]), b"{", line("c"), b"[]")
    assert (bench.keys, dict(bench.publisher.bad)) == ([b"a", b"c"], {"dimension": 1, "malformed": 2})
    assert bench.publisher.resume_at == 6


class LateSender(FakeSender):
    """Answers only when it is asked for."""

    def send(self, topic: str, *, key: bytes, value: bytes | None) -> FakeFuture:
        future = super().send(topic, key=key, value=value)
        future.is_done = False
        return future


@pytest.mark.parametrize("sender", [FakeSender, LateSender])
def test_a_record_that_the_broker_refuses_is_where_to_continue_and_the_rest_is_counted(sender: Any) -> None:
    bench = Bench(sender({2: kafka_errors.TopicAuthorizationFailedError("vectors")}))
    lines = [Row(9, line("a")), Row(10, line("b")), Row(11, line("c")), Row(12, line("d"))]
    with pytest.raises(FatalError, match="kafka did not accept the record of line 10: TopicAuthorizationFailedError"):
        bench.publisher.run(lines)
    acknowledged = {FakeSender: 1, LateSender: 3}[sender]  # of those that were sent before the failure was seen
    assert (bench.publisher.resume_at, bench.publisher.acknowledged) == (10, acknowledged)


def test_a_signal_ends_it_between_two_records() -> None:
    bench = Bench(first=5)

    def stop_after_two() -> Iterator[Row]:
        yield Row(5, line("a"))
        yield Row(6, line("b"))
        bench.stopping = True
        yield Row(7, line("c"))

    bench.publisher.run(stop_after_two())
    assert (bench.keys, bench.publisher.resume_at) == ([b"a", b"b"], 7)


def test_the_rate_is_kept_and_a_pause_is_not_caught_up_on() -> None:
    bench = Bench(rate=10.0)
    began = bench.clock()
    bench.run(*[line("a")] * 21)
    assert bench.clock() - began == pytest.approx(2.1)
    bench.clock.pass_by(3600)
    before = bench.clock()
    bench.run(*[line("a")] * 30)
    assert bench.clock() - before == pytest.approx(1.9)  # of 3 seconds; one is caught up on


def test_what_waits_for_the_broker_is_bounded_in_bytes() -> None:
    class Slow(FakeSender):
        most = 0

        def send(self, topic: str, *, key: bytes, value: bytes | None) -> FakeFuture:
            future = super().send(topic, key=key, value=value)
            future.is_done = False
            waiting = bench.publisher._waiting_bytes + len(key) + len(value or b"")
            Slow.most = max(Slow.most, waiting)
            return future

    bench = Bench(Slow())
    value = line("a", padding="x" * 3_000_000)
    bench.run(*[value] * 40)
    assert bench.publisher.acknowledged == 40
    assert MOST_WAITING_BYTES - len(value) < Slow.most <= MOST_WAITING_BYTES + len(value)


def test_a_key_in_json_is_written_with_its_quotes() -> None:
    decoder = Decoder(TARGET, max_fragment_bytes=10_000, key_format="json")
    message = Judge(decoder, decoder, form="json", key_format="json").message(Row(1, line("ä")))
    assert message.key == '"ä"'.encode()


def test_a_record_that_the_topics_format_does_not_take_is_bad() -> None:
    of_topic = Decoder(TARGET, max_fragment_bytes=10_000, format="msgpack")
    judge = Judge(Decoder(TARGET, max_fragment_bytes=10_000), of_topic, form="base64", key_format="utf8")
    with pytest.raises(RecordError):
        judge.message(Row(1, line("a")))


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_partitioner_is_that_of_java(key: bytes, hashed: int) -> None:
    """The values are those of Apache Kafka's own test of `Utils.murmur2`."""
    assert murmur2(key) == hashed % 2**32
