"""What is written to the dead-letter topic, and that what a producer wrote does not pass for what the worker wrote."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatchBuilder

from tests.unit.samples import FakeClock, FakeMessage, opened, rejected
from worker.deadletters.headers import (
    REFERENCE_HEADER_BYTES,
    REFERENCE_KEY_BYTES,
    Author,
    Replay,
    Sizes,
    SourceHeaders,
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


def dead_letter(message: FakeMessage | None = None, **fields: Any) -> DeadLetter:
    return rejected(ASSIGNMENT, message, **fields)


def whole(dead: DeadLetter) -> Written:
    return build(dead, Writer("g", "c"), failed_at=WALL)


def reference(dead: DeadLetter, why: str = "too large") -> Written:
    return build_reference(dead, Writer("g", "c"), failed_at=WALL, sizes=Sizes.of(dead.message), why=why)


# -- what is written


def test_a_bad_record_s_dead_letter_says_where_it_was_and_what_was_wrong() -> None:
    assert whole(dead_letter()).headers == [
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


def test_what_the_service_refused_has_its_answer_too() -> None:
    refused = dead_letter(reason=Reason.REFUSED, refusal=Refusal(400, "InvalidArgument", "5C3D"), attempts=3)
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
    headers = whole(dead_letter(FakeMessage(7, headers=FORGED))).headers
    assert headers[: len(FORGED)] == FORGED
    assert headers[len(FORGED) :][:1] == [("__connect.errors.topic", b"vectors")]
    assert read_headers(headers).source == FORGED


def test_the_last_header_of_each_name_is_the_workers() -> None:
    last = dict(whole(dead_letter(FakeMessage(7, headers=FORGED))).headers)
    told = [last[name] for name in ("__connect.errors.topic", "oss-vectors.reason", "oss-vectors.source-headers")]
    assert told == [b"vectors", b"dimension", b"10"]


def test_a_null_header_is_written_empty_and_named() -> None:
    written = whole(dead_letter(FakeMessage(headers=[("a", None), ("a", b""), ("c", None)])))
    assert (written.headers[:3], dict(written.headers)["oss-vectors.null-headers"]) == (
        [("a", b""), ("a", b""), ("c", b"")],
        b"a,c",
    )
    assert read_headers(written.headers).source == [("a", None), ("a", b""), ("c", None)]


@pytest.mark.parametrize(
    "timestamp", [-1, 1_700_000_000_000_000_000, 2**63 - 1], ids=["none", "nanoseconds", "largest"]
)
def test_a_timestamp_that_is_none_is_written_empty(timestamp: int) -> None:
    assert dict(whole(dead_letter(FakeMessage(timestamp=timestamp))).headers)["oss-vectors.timestamp"] == b""


def test_words_that_no_encoding_has_are_written_all_the_same() -> None:
    written = whole(dead_letter(text=ODD, error_class=ODD, raised_by=ODD, index=ODD, refusal=Refusal(0, ODD, ODD)))
    values = read_headers(written.headers).values
    assert values["__connect.errors.exception.message"] == values["oss-vectors.error-code"] == "half \ufffd an emoji"


# -- a reference


def test_a_reference_has_no_value_but_its_size_and_why() -> None:
    written = reference(dead_letter(FakeMessage(key=b"k", value=b"12345", headers=[("a", b"1"), ("b", None)])))
    assert (written.key, written.value, written.headers[:2]) == (b"k", None, [("a", b"1"), ("b", b"")])
    values = read_headers(written.headers).values
    assert (values["oss-vectors.value-size"], values["oss-vectors.reference"]) == ("5", "too large")
    assert not {"oss-vectors.key-size", "oss-vectors.headers-size"} & values.keys()


def test_a_key_or_headers_that_are_large_are_left_out_but_their_sizes() -> None:
    key, value = b"k" * (REFERENCE_KEY_BYTES + 1), b"v" * REFERENCE_HEADER_BYTES
    written = reference(dead_letter(FakeMessage(key=key, value=None, headers=[("h", value)])))
    assert (written.key, written.value) == (None, b"")
    found = read_headers(written.headers)
    sizes = [found.values[f"oss-vectors.{name}-size"] for name in ("key", "headers", "value")]
    assert (found.source, *sizes) == (
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
        dead_letter(message, text=words, index=words, error_class=words, refusal=Refusal(400, words, words)), why=words
    )
    assert written.size < 12_000
    longest = build_reference(
        dead_letter(message), Writer(words, words), failed_at=WALL, sizes=Sizes.of(message), why="too large"
    )
    assert longest.size < 12_000


# -- and read again

names = st.text(max_size=12) | st.sampled_from([name for name, _ in FORGED]) | st.sampled_from(["\udcff", ODD, "a,b"])
source_headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=20) | st.just(b"3")), max_size=8)


@given(source_headers)
def test_what_was_written_is_read_as_it_was(source: SourceHeaders) -> None:
    found = read_headers(whole(dead_letter(FakeMessage(7, headers=source), text="wrong")).headers)
    assert (found.author, found.source, found.reason, found.offset) == (Author.WORKER, list(source), "dimension", 7)
    assert found.values["__connect.errors.exception.message"] == "wrong"
    assert found.values["oss-vectors.source-headers"] == str(len(source))


@given(source_headers)
def test_a_dead_letter_of_a_dead_letter_keeps_all_that_the_first_had(source: SourceHeaders) -> None:
    """A source topic that is itself a dead-letter topic: of another worker, or of Kafka Connect."""
    first = whole(dead_letter(FakeMessage(headers=source))).headers
    second = read_headers(whole(dead_letter(FakeMessage(headers=first))).headers)
    assert second.source == first
    assert read_headers(second.source).source == list(source)


OURS = [name for name, _ in whole(dead_letter()).headers] + [
    "oss-vectors.header-names",
    "oss-vectors.null-header-places",
]
odd_values = (
    st.none() | st.binary(max_size=20) | st.sampled_from([b"0", b"1", b"9", b"2026-01-01T00:00:00Z", b'{"0": 1}'])
)


@given(source_headers, st.lists(odd_values, min_size=len(OURS), max_size=len(OURS)), st.integers(0, len(OURS)))
def test_whatever_the_worker_s_headers_hold_they_are_read_without_an_error(
    source: SourceHeaders, values: list[bytes | None], first: int
) -> None:
    read_headers([*source, *zip(OURS[first:], values[first:], strict=True)])


@given(st.lists(st.tuples(names, st.none() | st.binary(max_size=20)), max_size=8))
def test_headers_of_anything_are_read_without_an_error(headers: SourceHeaders) -> None:
    read_headers(headers)
    claimed_replay(headers)


def test_a_dead_letter_that_has_no_count_is_read_by_the_names() -> None:
    headers = [("trace", b"1"), ("oss-vectors.reason", b"key"), ("__connect.errors.offset", b"5")]
    found = read_headers(headers)
    assert (found.author, found.source) == (Author.UNKNOWN, [("trace", b"1")])
    assert (found.reason, found.offset, found.topic, found.partition) == ("key", 5, "", None)


CONNECTS: SourceHeaders = [
    ("__connect.errors.topic", b"vectors"),
    ("__connect.errors.partition", b"2"),
    ("__connect.errors.offset", b"9223372036854775807"),
    ("__connect.errors.connector.name", b"sink"),
    ("__connect.errors.task.id", b"0"),
    ("__connect.errors.stage", b"VALUE_CONVERTER"),
    ("__connect.errors.class.name", b"org.apache.kafka.connect.json.JsonConverter"),
    ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    ("__connect.errors.exception.message", None),
    ("__connect.errors.exception.stacktrace", b"at org.apache..."),
]
"""As `DeadLetterQueueReporter.populateContextHeaders` of Kafka Connect writes them, behind the record's own."""


def test_every_part_of_a_dead_letter_is_read_by_its_type() -> None:
    own = [("trace", None), ("oss-vectors.replays", b"2"), ("oss-vectors.replay-of", b"vectors.dlq/0/5")]
    refused = {"reason": Reason.REFUSED, "refusal": Refusal(400, "InvalidArgument", "5C3D"), "attempts": 3}
    found = read_headers(reference(dead_letter(FakeMessage(7, value=b"12345", headers=own), **refused)).headers)
    assert (found.author, found.source) == (Author.WORKER, own)
    assert (found.topic, found.partition, found.offset) == ("vectors", 2, 7)
    assert (found.reason, found.values["__connect.errors.stage"], found.index) == ("refused", "TASK_PUT", "docs")
    assert found.timestamp == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)
    assert found.failed_at == datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC)
    assert (found.http_status, found.error_code, found.request_id, found.attempts) == (
        400,
        "InvalidArgument",
        "5C3D",
        3,
    )
    assert (found.value_size, found.replay) == (5, Replay(2, "vectors.dlq/0/5"))


def test_what_a_dead_letter_does_not_have_is_none_or_empty() -> None:
    found = read_headers(whole(dead_letter(FakeMessage(7, timestamp=-1))).headers)
    assert (found.timestamp, found.http_status, found.error_code, found.request_id, found.attempts) == (
        None,
        None,
        "",
        "",
        None,
    )
    assert (found.value_size, found.replay) == (None, None)


@pytest.mark.parametrize(
    "source",
    [[], FORGED, CONNECTS, whole(dead_letter()).headers, [*CONNECTS, ("trace", b"1")]],
    ids=["none", "forged", "of Kafka Connect", "of the worker", "of Kafka Connect, and one more"],
)
@pytest.mark.parametrize("count", [len(CONNECTS), 7], ids=["with an exception", "without one"])
def test_a_dead_letter_of_kafka_connect_is_read_whatever_its_record_had(source: SourceHeaders, count: int) -> None:
    found = read_headers([*source, *CONNECTS[:count]])
    assert (found.author, found.source) == (Author.CONNECT, list(source))
    assert (found.topic, found.partition, found.offset) == ("vectors", 2, 2**63 - 1)
    assert (found.reason, found.failed_at) == ("", None)
    assert list(found.values) == [name for name, _ in CONNECTS[:count]]


def test_what_is_behind_the_workers_headers_and_has_none_of_their_names_is_passed_over() -> None:
    """Of a library that traces each message that is sent, for instance."""
    found = read_headers([*whole(dead_letter(FakeMessage(7, headers=FORGED))).headers, ("traceparent", b"00-1")])
    assert (found.author, found.source, found.reason) == (Author.WORKER, FORGED, "dimension")


WRITTEN = whole(dead_letter(FakeMessage(7, headers=[("trace", b"1")]))).headers


@pytest.mark.parametrize(
    "headers",
    [
        [*WRITTEN, ("oss-vectors.reason", b"metadata")],
        [*WRITTEN, ("__connect.errors.topic", b"elsewhere")],
        [*WRITTEN, ("oss-vectors.source-headers", b"0")],
        [*WRITTEN, ("oss-vectors.source-headers", b"99")],
        WRITTEN[:-1],
        WRITTEN[1:],
        [("oss-vectors.source-headers", b"0")],
        [("oss-vectors.reason", b"metadata"), ("oss-vectors.source-headers", b"0")],
        [("trace", b"1")],
        [],
    ],
    ids=[
        "twice",
        "mixed",
        "another count",
        "wrong count",
        "no count",
        "shifted",
        "alone",
        "few",
        "no dead letter",
        "none",
    ],
)
def test_headers_that_are_not_as_the_worker_writes_them_are_not_ours(headers: SourceHeaders) -> None:
    assert read_headers(headers).author is Author.UNKNOWN


NUMBERS = ["partition", "http_status", "attempts", "value_size"]
ODD_TEXTS = [b"", b"-1", b" 1", b"1e3", b"\xd9\xa3", b"9" * 5000, b"99999999999", b"1_0", None, b"\xff"]


@pytest.mark.parametrize("odd", ODD_TEXTS)
def test_what_is_no_number_or_no_time_is_none(odd: bytes | None) -> None:
    found = read_headers([(name, odd) for name in read_headers(reference(refused_letter()).headers).values])
    assert [getattr(found, name) for name in NUMBERS] == [None] * len(NUMBERS)
    assert (found.timestamp, found.failed_at) == (None, None)


@pytest.mark.parametrize(
    "time",
    [b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59", b"2026-01-01T00:00:00", b"2026-13-01T00:00:00Z", b"T"],
    ids=["too early", "too late", "without a distance", "no month", "no date"],
)
def test_a_time_that_is_none_is_read_as_none(time: bytes) -> None:
    assert read_headers([("oss-vectors.failed-at", time)]).failed_at is None


@pytest.mark.parametrize(
    "value", [b"[" * 100_000, b"[]", b'{"x": 1}', b'{"-1": "a", "99": "b"}', b'{"0": ' + b"[" * 1000 + b"}", b"\xff"]
)
@pytest.mark.parametrize("name", ["oss-vectors.header-names", "oss-vectors.null-header-places"])
def test_odd_words_on_names_and_places_change_nothing_and_raise_nothing(name: str, value: bytes) -> None:
    assert read_headers([*WRITTEN, (name, value)]).source == [("trace", b"1")]


def refused_letter() -> DeadLetter:
    return dead_letter(reason=Reason.REFUSED, refusal=Refusal(400, "InvalidArgument", "5C3D"), attempts=3)


def test_a_replay_says_so_behind_the_records_own_headers_and_a_second_one_takes_its_place() -> None:
    own: SourceHeaders = [("oss-vectors.replays", b"9"), ("trace", b"1")]
    once = as_replayed(own, Replay(1, "vectors.dlq/0/5"), is_again=False)
    assert (claimed_replay(own), claimed_replay(once)) == (None, Replay(1, "vectors.dlq/0/5"))
    source = read_headers(whole(dead_letter(FakeMessage(headers=once))).headers).source
    twice = as_replayed(source, Replay(2, "vectors.dlq/0/6"), is_again=True)
    assert (twice[:2], claimed_replay(twice)) == (own, Replay(2, "vectors.dlq/0/6"))


def test_a_header_s_name_that_is_not_utf_8_is_written_with_its_bytes() -> None:
    raw = [b"caf\xe9", b"\xff", b"\xed\xa0\x80", "é".encode(), b"plain", b""]
    source = [(name.decode(errors="surrogateescape"), None) for name in raw]
    headers = whole(dead_letter(FakeMessage(headers=source))).headers
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
    assert builder.append(0, 1, b"k", b"v", headers) is not None
    written = bytes(builder.build())
    for name in raw:
        assert bytes([2 * len(name)]) + name + b"\x00" in written  # its length, itself, and a value of nothing
    told = dict(headers)
    assert told["oss-vectors.null-headers"] == r"caf\udce9,\udcff,\udced\udca0\udc80,é,plain,".encode()
    assert told["oss-vectors.null-header-places"] == b"0,1,2,3,4,5"
