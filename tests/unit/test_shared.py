"""Kafka key and headers that several records of a message have: read once, and as those of one record."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from worker.errors import Reason, RecordError
from worker.records.formats.shared import SharedHeaders, SharedKey, around_of, by_name, header_text
from worker.records.keys import Keys

HEADERS = [("a", b"1"), ("b", None), ("a", b"2"), ("bad", b"\xff"), ("ä", "ü".encode())]


class Sent(NamedTuple):
    """What is around the value of a message."""

    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@pytest.mark.parametrize("name", ["a", "b", "ä", "A", ""])
def test_the_last_header_of_a_name_counts_in_both_forms(name: str) -> None:
    shared = SharedHeaders(HEADERS)
    assert [header_text(shared, name), header_text(shared, name)] == [header_text(HEADERS, name)] * 2
    assert (list(shared), len(shared), shared[2]) == (HEADERS, len(HEADERS), HEADERS[2])


def test_a_header_that_is_no_text_is_refused_each_time() -> None:
    for headers in (HEADERS, shared := SharedHeaders(HEADERS), shared):
        with pytest.raises(RecordError, match="the header bad is not UTF-8") as raised:
            header_text(headers, "bad")
        assert raised.value.reason is Reason.MALFORMED


def test_what_one_record_adds_counts_before_and_no_other_record_has_it() -> None:
    shared = SharedHeaders(HEADERS)
    own = shared.with_more([("a", b"own"), ("c", b"x")])
    assert [header_text(own, name) for name in ("a", "c", "ä")] == ["own", "x", "ü"]
    assert [header_text(shared, name) for name in ("a", "c")] == ["2", None]
    assert list(own) == [*HEADERS, ("a", b"own"), ("c", b"x")]


def test_each_reader_reads_once_what_several_records_have() -> None:
    read: list[Any] = []

    def count(given: Any) -> int:
        read.append(given)
        return len(given)

    key, headers = around_of(Sent(b"key", HEADERS))
    assert isinstance(key, SharedKey)
    assert isinstance(headers, SharedHeaders)
    assert [key.once(count), key.once(count), headers.once(count), headers.with_more([]).once(count)] == [3, 3, 5, 5]
    assert read == [b"key", HEADERS]
    assert around_of(Sent(None, ()))[0] is None


@pytest.mark.parametrize("key", [b"k", b"", b"\xff", b"\0k", b'"k"'])
def test_a_key_of_several_records_is_that_of_one(key: bytes) -> None:
    keys, shared = Keys("utf8"), SharedKey(key)

    def outcome(of: bytes) -> object:
        try:
            return keys.choose(None, of)
        except RecordError as error:
            return error.reason, error.message

    assert [outcome(shared), outcome(shared)] == [outcome(key)] * 2
    assert keys.is_mismatch("k", shared) is keys.is_mismatch("k", key)
    assert keys.is_quoted(shared) is keys.is_quoted(key)


def test_few_headers_stay_as_they_came() -> None:
    assert by_name(HEADERS) is HEADERS
    many = by_name(HEADERS * 2)
    assert isinstance(many, SharedHeaders)
    assert by_name(many) is many
