"""The seam: a format is one line in the table, chosen once for a route, and sees key, value and headers."""

from typing import Any, get_args

import pytest

from tests.unit.samples import TARGET
from worker.errors import Reason, RecordError
from worker.records.choices import Format as FormatName
from worker.records.decode import Decoder, Delete, Ignore, Put
from worker.records.formats import table
from worker.records.formats.contract import Headers, Metadata, Operation, Options, Record, UnreadNumbers

FRAGMENT = b'{"key":"a","data":{"float32":[1.0,2.0,3.0]}}'


class Answering:
    """A format that answers each message with one record, and keeps what it was asked."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.made: list[Options] = []
        self.asked: list[tuple[bytes | None, bytes, Headers]] = []

    def read(self, key: bytes | None, value: bytes, headers: Headers) -> Record:
        self.asked.append((key, value, headers))
        return self.record

    def decoder(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Decoder:
        """Add this to the table, and return a decoder that uses it."""

        def make(options: Options) -> "Answering":
            self.made.append(options)
            return self

        monkeypatch.setitem(table.FORMATS, "answering", make)
        name: Any = "answering"
        return Decoder(TARGET, max_fragment_bytes=1 << 20, format=name, **settings)


def test_the_table_has_every_choice_of_the_setting_and_no_other() -> None:
    assert set(table.FORMATS) == set(get_args(FormatName))


def test_a_format_is_made_once_for_a_route_and_sees_key_value_and_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    answering = Answering(Record("a", [1.0, 2.0, 3.0]))
    decoder = answering.decoder(monkeypatch, metadata_values="stringify")
    headers = [("index", b"docs")]
    for value in (b"first", b"second"):
        assert decoder.decode(b"a", value, headers) == Put("a", FRAGMENT, key_mismatch=False)
    assert answering.made == [Options(3, "stringify")]
    assert answering.asked == [(b"a", b"first", headers), (b"a", b"second", headers)]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(Record("a", operation=Operation.DELETE), Delete("a"), id="a deletion by the value's key"),
        pytest.param(Record(None, operation=Operation.DELETE), Delete("k"), id="a deletion by the Kafka key"),
        pytest.param(Record(None, operation=Operation.IGNORE), Ignore(), id="what is no record"),
    ],
)
def test_the_operation_is_what_the_format_says(
    monkeypatch: pytest.MonkeyPatch, record: Record, expected: Delete | Ignore
) -> None:
    assert Answering(record).decoder(monkeypatch).decode(b"k", b"x", ()) == expected


def test_a_deletion_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecordError) as raised:
        Answering(Record(None, operation=Operation.DELETE)).decoder(monkeypatch).decode(None, b"x", ())
    assert raised.value.reason is Reason.KEY


def test_a_null_value_does_not_reach_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    answering = Answering(Record("a"))
    assert answering.decoder(monkeypatch, tombstones="delete").decode(b"k", None, ()) == Delete("k")
    assert answering.asked == []


def never() -> Any:
    """Fail, where what costs much is read too early."""
    raise AssertionError("it was read")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        pytest.param(Record("", UnreadNumbers(3, never), never), Reason.KEY, id="a bad key"),
        pytest.param(Record("a", UnreadNumbers(4, never), never), Reason.DIMENSION, id="another dimension"),
        pytest.param(Record("a", UnreadNumbers(3, lambda: [0.0] * 3), never), Reason.ZERO_VECTOR, id="zeros"),
    ],
)
def test_numbers_and_metadata_are_read_only_once_what_is_before_them_is_good(
    monkeypatch: pytest.MonkeyPatch, record: Record, reason: Reason
) -> None:
    with pytest.raises(RecordError) as raised:
        Answering(record).decoder(monkeypatch).decode(b"k", b"x", ())
    assert raised.value.reason is reason


def test_unread_numbers_and_metadata_become_what_read_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    unread = Record("a", UnreadNumbers(3, lambda: [1.0, 2.0, 3.0]), lambda: {"t": "x"})
    metadata: Metadata = {"t": "x"}
    read = Record("a", [1.0, 2.0, 3.0], metadata)
    decoded = [Answering(record).decoder(monkeypatch).decode(b"a", b"x", ()) for record in (unread, read)]
    assert decoded[0] == decoded[1] == Put("a", FRAGMENT[:-1] + b',"metadata":{"t":"x"}}', key_mismatch=False)
