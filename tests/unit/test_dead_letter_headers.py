"""What is written to the dead-letter topic, and that what a producer wrote and what the worker wrote are told apart."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatchBuilder

from tests.unit.samples import FakeClock, FakeMessage, opened, rejected
from worker.deadletters.headers import (
    REFERENCE_HEADER_BYTES,
    REFERENCE_KEY_BYTES,
    Replay,
    Sizes,
    Writer,
    Written,
    as_replayed,
    build,
    build_reference,
    claimed_replay,
    read_headers,
)
from worker.errors import Reason
from worker.ledger import Ledger
from worker.ports import DeadLetter, Refusal

WALL = 1_700_000_000.5
ODD = "half \ud83d an emoji"
ASSIGNMENT = opened(Ledger(["vectors"], FakeClock()), partition=2)

SourceHeaders = Sequence[tuple[str, bytes | None]]


def letter(message: FakeMessage | None = None, **fields: Any) -> DeadLetter:
    return rejected(ASSIGNMENT, message, **fields)


def whole(dead: DeadLetter) -> Written:
    return build(dead, Writer("g", "c"), failed_at=WALL)


def reference(dead: DeadLetter, why: str = "too large") -> Written:
    return build_reference(dead, Writer("g", "c"), failed_at=WALL, sizes=Sizes.of(dead.message), why=why)


# -- what is written


def test_a_reject_tells_where_it_was_and_what_was_wrong() -> None:
    assert whole(letter()).headers == [
        ("__connect.errors.topic", b"vectors"),
        ("__connect.errors.partition", b"2"),
        ("__connect.errors.offset", b"7"),
        ("__connect.errors.connector.name", b"g"),
        ("__connect.errors.task.id", b"c"),
        ("__connect.errors.stage", b"VALUE_CONVERTER"),
        ("__connect.errors.class.name", b"worker.record.Decoder"),
        ("__connect.errors.exception.class.name", b"worker.errors.RecordError"),
        ("__connect.errors.exception.message", b"2 numbers, not 3"),
        ("oss-vectors.reason", b"dimension"),
        ("oss-vectors.index", b"docs"),
        ("oss-vectors.timestamp", b"2023-11-14T22:13:20.123Z"),
        ("oss-vectors.failed-at", b"2023-11-14T22:13:20.500Z"),
        ("oss-vectors.source-headers", b"0"),
    ]


def test_what_the_service_refused_tells_its_answer_too() -> None:
    refused = letter(reason=Reason.REFUSED, refusal=Refusal(400, "InvalidArgument", "5C3D"), attempts=3)
    told = dict(whole(refused).headers)
    assert told["__connect.errors.stage"] == b"TASK_PUT"
    assert {name: told[f"oss-vectors.{name}"] for name in ("http-status", "error-code", "request-id", "attempts")} == {
        "http-status": b"400",
        "error-code": b"InvalidArgument",
        "request-id": b"5C3D",
        "attempts": b"3",
    }


FORGED: SourceHeaders = [
    ("trace", b"\x00\xff"),
    ("empty", b""),
    ("trace", b"2"),
    ("__connect.errors.topic", b"of another connector"),
    ("__connect.errors.exception.stacktrace", b"at org.apache..."),
    ("oss-vectors.reason", b"none"),
    ("oss-vectors.source-headers", b"0"),
    ("oss-vectors.null-header-places", b"0,1,2"),
    ("oss-vectors.replays", b"1"),
    ("oss-vectors.replay-of", b"vectors.dlq/0/5"),
]


def test_the_sources_headers_come_first_byte_for_byte_whatever_their_names() -> None:
    headers = whole(letter(FakeMessage(7, headers=FORGED))).headers
    assert headers[: len(FORGED)] == FORGED
    assert headers[len(FORGED) :][:1] == [("__connect.errors.topic", b"vectors")]
    assert read_headers(headers).source == FORGED


def test_the_last_header_of_each_name_is_the_workers() -> None:
    last = dict(whole(letter(FakeMessage(7, headers=FORGED))).headers)
    told = [last[name] for name in ("__connect.errors.topic", "oss-vectors.reason", "oss-vectors.source-headers")]
    assert told == [b"vectors", b"dimension", b"10"]


def test_a_null_header_is_written_empty_and_named() -> None:
    written = whole(letter(FakeMessage(headers=[("a", None), ("a", b""), ("c", None)])))
    assert (written.headers[:3], dict(written.headers)["oss-vectors.null-headers"]) == (
        [("a", b""), ("a", b""), ("c", b"")],
        b"a,c",
    )
    assert read_headers(written.headers).source == [("a", None), ("a", b""), ("c", None)]


@pytest.mark.parametrize(
    "timestamp", [-1, 1_700_000_000_000_000_000, 2**63 - 1], ids=["none", "nanoseconds", "largest"]
)
def test_a_timestamp_that_is_none_is_written_empty(timestamp: int) -> None:
    assert dict(whole(letter(FakeMessage(timestamp=timestamp))).headers)["oss-vectors.timestamp"] == b""


def test_words_that_no_encoding_has_are_written_all_the_same() -> None:
    written = whole(letter(text=ODD, error_class=ODD, raised_by=ODD, index=ODD, refusal=Refusal(0, ODD, ODD)))
    told = read_headers(written.headers).told
    assert told["__connect.errors.exception.message"] == told["oss-vectors.error-code"] == "half \ufffd an emoji"


# -- a reference


def test_a_reference_has_no_value_and_tells_its_size_and_why() -> None:
    written = reference(letter(FakeMessage(key=b"k", value=b"12345", headers=[("a", b"1"), ("b", None)])))
    assert (written.key, written.value, written.headers[:2]) == (b"k", None, [("a", b"1"), ("b", b"")])
    told = read_headers(written.headers).told
    assert (told["oss-vectors.value-size"], told["oss-vectors.reference"]) == ("5", "too large")
    assert not {"oss-vectors.key-size", "oss-vectors.headers-size"} & told.keys()


def test_a_key_or_headers_that_are_large_are_left_out_and_their_sizes_told() -> None:
    key, value = b"k" * (REFERENCE_KEY_BYTES + 1), b"v" * REFERENCE_HEADER_BYTES
    written = reference(letter(FakeMessage(key=key, value=None, headers=[("h", value)])))
    assert (written.key, written.value) == (None, b"")
    source, told = read_headers(written.headers)
    assert (source, told["oss-vectors.key-size"], told["oss-vectors.headers-size"], told["oss-vectors.value-size"]) == (
        [],
        str(len(key)),
        str(len(value) + 1),
        "0",
    )


@pytest.mark.parametrize(
    "message",
    [
        FakeMessage(key=b"k" * 10_000_000, value=b"v" * 10_000_000),
        FakeMessage(headers=[("h", b"x" * 10_000_000)]),
        FakeMessage(headers=[(f"name-{n}", None) for n in range(10_000)]),
        FakeMessage(headers=[("n" * 1_000_000, None)]),
        FakeMessage(headers=[("", None)] * 1000),
        FakeMessage(headers=[("\udcff" * 300, b"")]),
    ],
    ids=["key and value", "a header", "many headers", "a name", "many without a name", "odd names"],
)
def test_a_reference_is_never_larger_than_a_few_kilobytes(message: FakeMessage) -> None:
    words = "x" * 1_000_000
    written = reference(
        letter(message, text=words, index=words, error_class=words, refusal=Refusal(400, words, words)), why=words
    )
    assert written.size < 12_000
    longest = build_reference(
        letter(message), Writer(words, words), failed_at=WALL, sizes=Sizes.of(message), why="too large"
    )
    assert longest.size < 12_000


# -- and read again

names = st.text(max_size=12) | st.sampled_from([name for name, _ in FORGED]) | st.sampled_from(["\udcff", ODD, "a,b"])
source_headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=20) | st.just(b"3")), max_size=8)


@given(source_headers)
def test_what_was_written_is_read_as_it_was(source: SourceHeaders) -> None:
    found = read_headers(whole(letter(FakeMessage(headers=source), text="wrong")).headers)
    assert found.source == list(source)
    assert found.told["__connect.errors.exception.message"] == "wrong"
    assert found.told["oss-vectors.source-headers"] == str(len(source))


@given(source_headers)
def test_a_letter_of_a_letter_keeps_all_that_the_first_had(source: SourceHeaders) -> None:
    """A source topic that is itself a dead-letter topic: of another worker, or of Kafka Connect."""
    first = whole(letter(FakeMessage(headers=source))).headers
    second = read_headers(whole(letter(FakeMessage(headers=first))).headers)
    assert second.source == first
    assert read_headers(second.source).source == list(source)


@given(st.lists(st.tuples(names, st.none() | st.binary(max_size=20)), max_size=8))
def test_headers_of_anything_are_read_without_an_error(headers: SourceHeaders) -> None:
    read_headers(headers)
    claimed_replay(headers)


def test_a_letter_that_has_no_count_is_read_by_the_names() -> None:
    headers = [("trace", b"1"), ("oss-vectors.reason", b"key"), ("__connect.errors.offset", b"5")]
    assert read_headers(headers) == ([("trace", b"1")], {"oss-vectors.reason": "key", "__connect.errors.offset": "5"})


def test_a_replay_says_so_behind_the_records_own_headers_and_a_second_one_takes_its_place() -> None:
    own: SourceHeaders = [("oss-vectors.replays", b"9"), ("trace", b"1")]
    once = as_replayed(own, Replay(1, "vectors.dlq/0/5"), is_again=False)
    assert (claimed_replay(own), claimed_replay(once)) == (None, Replay(1, "vectors.dlq/0/5"))
    source = read_headers(whole(letter(FakeMessage(headers=once))).headers).source
    twice = as_replayed(source, Replay(2, "vectors.dlq/0/6"), is_again=True)
    assert (twice[:2], claimed_replay(twice)) == (own, Replay(2, "vectors.dlq/0/6"))


def test_a_header_s_name_that_is_not_utf_8_is_written_with_its_bytes() -> None:
    raw = [b"caf\xe9", b"\xff", b"\xed\xa0\x80", "é".encode(), b"plain", b""]
    source = [(name.decode(errors="surrogateescape"), None) for name in raw]
    headers = whole(letter(FakeMessage(headers=source))).headers
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
    assert builder.append(0, 1, b"k", b"v", headers) is not None
    written = bytes(builder.build())
    for name in raw:
        assert bytes([2 * len(name)]) + name + b"\x00" in written  # its length, itself, and a value of nothing
    told = dict(headers)
    assert told["oss-vectors.null-headers"] == r"caf\udce9,\udcff,\udced\udca0\udc80,é,plain,".encode()
    assert told["oss-vectors.null-header-places"] == b"0,1,2,3,4,5"
