"""One message costs one message: what the main loop makes of each by itself, and when a batch is sealed."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.app import INDEX, TARGET, TOPIC, App, good
from tests.support.fakes import FakeMessage
from worker.app.decoded import HEADER_BYTES, ITEM_BYTES
from worker.app.intake import Intake
from worker.errors import BlockReason, Reason
from worker.ports import Message, Polled
from worker.records.decode import Decoder
from worker.records.formats.contract import Headers
from worker.settings import tables


class Bench(App):
    """An intake whose index is known, and one open partition."""

    def __init__(self, **changed: Any) -> None:
        super().__init__(**changed)
        self.started()
        self.intake = Intake(self.components)
        self.intake.add_index(INDEX, TARGET)

    def take_in(self, messages: Sequence[Message]) -> tuple[list[str], list[tuple[int, Reason, str]]]:
        """Take messages in; returns the keys that go to the index, and the bad ones: offset, reason and text."""
        self.intake.take_in([Polled(self.assignment(), messages)])
        self.intake.seal_all()
        flight = self.lane.pop()
        keys = [] if flight is None else list(flight.keys)
        return keys, [(letter.offset, letter.reason, letter.text) for letter in self.dead_letters.kept]

    def settled(self, outcome: str) -> float:
        labels = {"topic": TOPIC, "outcome": outcome}
        return self.metrics.registry.get_sample_value("oss_vectors_records_settled_total", labels) or 0.0


def message(offset: int, **fields: Any) -> FakeMessage:
    """Return a message with a good record, unless `fields` say otherwise."""
    return FakeMessage(offset, **{"value": good(str(offset))} | fields)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        pytest.param({"headers": ((None, b"x"),)}, "TypeError", id="a header without a name"),
        pytest.param({"headers": (("a", 5),)}, "TypeError", id="a header that is no bytes"),
        pytest.param({"headers": (("a",),)}, "ValueError", id="half a header"),
        pytest.param({"key": 5}, "TypeError", id="a key that is no bytes"),
    ],
)
def test_a_message_that_the_loop_itself_cannot_take_costs_that_message(broken: Any, error: str) -> None:
    written, letters = Bench().take_in([message(0), message(1, **broken), message(2)])
    assert written == ["0", "2"]
    assert [letter[:2] for letter in letters] == [(1, Reason.INTERNAL_ERROR)]
    assert f"failed with {error} at worker.app." in letters[0][2]


@pytest.mark.parametrize("error", [ZeroDivisionError(), MemoryError(), RecursionError()], ids=repr)
def test_whatever_a_decoder_raises_costs_that_message(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    bench = Bench()
    decode = Decoder.decode

    def fail_once(self: Decoder, key: bytes | None, value: bytes | None, headers: Headers) -> object:
        if value == good("1"):
            raise error
        return decode(self, key, value, headers)

    monkeypatch.setattr(Decoder, "decode", fail_once)
    written, letters = bench.take_in([message(0), message(1), message(2)])
    assert (written, [letter[:2] for letter in letters]) == (["0", "2"], [(1, Reason.INTERNAL_ERROR)])


def test_every_message_bad_and_every_one_is_a_dead_letter() -> None:
    _, letters = Bench().take_in([message(offset, headers=((None, b"x"),)) for offset in range(3)])
    assert [letter[:2] for letter in letters] == [(offset, Reason.INTERNAL_ERROR) for offset in range(3)]


def test_the_series_of_internal_errors_is_there_from_the_start() -> None:
    labels = {"topic": TOPIC, "reason": "internal_error"}
    assert App().metrics.registry.get_sample_value("oss_vectors_dead_letters_total", labels) == 0


def test_the_buffer_holds_key_value_headers_fragment_and_objects_of_each_record() -> None:
    bench = Bench()
    bad = FakeMessage(0, b"not json", b"key", headers=(("name", b"value"), ("none", None)))
    bench.take_in([bad])
    assert bench.ledger.buffer_bytes == ITEM_BYTES + 8 + 3 + (4 + 5) + 4 + 2 * HEADER_BYTES
    assert bench.dead_letters.kept[0].size == bench.ledger.buffer_bytes


def test_a_tombstone_that_is_ignored_is_settled_at_once() -> None:
    bench = Bench(records=tables.Records(tombstones="ignore"))
    assert bench.take_in([message(0, value=None, key=b"a")]) == ([], [])
    assert (bench.settled("ignored"), bench.ledger.outstanding(), bench.ledger.buffer_bytes) == (1, 0, 0)


def test_a_kafka_key_that_is_not_the_vectors_key_is_counted() -> None:
    bench = Bench()
    bench.take_in([message(0, key=b"another"), message(1, key=b"1")])
    assert bench.metrics.registry.get_sample_value("oss_vectors_key_mismatch_total", {"topic": TOPIC}) == 1


def test_offsets_that_do_not_ascend_are_refused_and_nothing_of_them_is_taken_in() -> None:
    bench = Bench()
    assert bench.take_in([message(1), message(0)]) == ([], [])
    assert bench.status.blocks_of(TOPIC, 0) == [BlockReason.PARTITION_UNREADABLE]
    assert bench.ledger.outstanding() == 0


def test_messages_of_a_partition_that_is_being_given_back_are_left_out() -> None:
    bench = Bench()
    bench.ledger.begin_revoke([bench.assignment().partition])
    assert bench.take_in([message(0)]) == ([], [])
    assert bench.ledger.outstanding() == 0


def test_a_batch_is_sealed_when_its_first_record_has_waited_long_enough() -> None:
    bench = Bench(batch=tables.Batch(max_age_seconds=1.0))
    bench.intake.take_in([Polled(bench.assignment(), [message(0)])])
    bench.clock.advance(0.75)
    bench.intake.take_in([Polled(bench.assignment(), [message(1)])])
    bench.intake.seal_due()
    assert (bench.lane.pop(), bench.intake.seconds_until_due(longest=9.0)) == (None, 0.25)
    bench.clock.advance(0.25)
    bench.intake.seal_due()
    flight = bench.lane.pop()
    assert flight is not None
    assert (list(flight.keys), bench.intake.seconds_until_due(longest=9.0)) == (["0", "1"], 9.0)


def test_a_full_batch_is_sealed_at_once() -> None:
    bench = Bench(batch=tables.Batch(max_records=2))
    bench.intake.take_in([Polled(bench.assignment(), [message(offset) for offset in range(5)])])
    flights = [bench.lane.pop(), bench.lane.pop(), bench.lane.pop()]
    assert [list(flight.keys) for flight in flights if flight is not None] == [["0", "1"], ["2", "3"]]
