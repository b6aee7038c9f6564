"""The schemas that are here: each asked for once, as many as are kept, and what is not there asked for again later."""

import json
from typing import Final

import pytest

from tests.support.fakes import FakeClock
from tests.support.registry import AVRO, FakeSource, by_id
from worker.errors import FatalError, RecordError, RegistryUnavailable, SchemaPending
from worker.ports import SchemaAnswer
from worker.records.formats.framing import Framed
from worker.registry import book as book_module
from worker.registry.book import MOST_CUT_SHORT, MOST_SCHEMAS, UNKNOWN_SECONDS, AskingBook, Book
from worker.registry.client import NoSuchSchema, SchemaText, UnusableForNow, UnusableSchema

TEXT: Final = SchemaText("AVRO", json.dumps(AVRO))
AWAY: Final = RegistryUnavailable("it is away")
OTHER_TYPE: Final = SchemaText("THRIFT", "{}")


def source(*found: SchemaText | Exception) -> FakeSource:
    """Return a registry whose ids from 1 on are these."""
    made = FakeSource()
    made.schemas = {by_id(number): each for number, each in enumerate(found, 1)}
    return made


def test_a_schema_is_here_once_it_was_added() -> None:
    book = Book(source(TEXT))
    with pytest.raises(SchemaPending):
        book.reader(by_id(1))
    assert not book.has(by_id(1))
    book.add(by_id(1))
    assert book.has(by_id(1))
    assert book.reader(by_id(1)) is book.reader(by_id(1))


def test_a_registry_that_is_away_leaves_the_schema_wanted() -> None:
    book = Book(source(AWAY))
    with pytest.raises(RegistryUnavailable):
        book.add(by_id(1))
    assert not book.has(by_id(1))


def test_a_schema_that_the_registry_does_not_have_is_wanted_again_after_a_while() -> None:
    clock = FakeClock()
    book = Book(source(NoSuchSchema()), clock)
    book.add(by_id(1))
    clock.advance(UNKNOWN_SECONDS - 1)
    with pytest.raises(RecordError, match="does not know schema id 1"):
        book.reader(by_id(1)).plain(Framed(by_id(1), b""))
    clock.advance(1)
    with pytest.raises(SchemaPending):
        book.reader(by_id(1))


def test_an_attempt_at_a_schema_that_something_else_ended_blames_no_record_but_for_the_third() -> None:
    clock = FakeClock()
    registry = source(UnusableForNow("protoc was killed"), UnusableSchema("no schema"))
    book = Book(registry, clock)
    for _ in range(MOST_CUT_SHORT - 1):
        with pytest.raises(RegistryUnavailable, match="protoc was killed"):
            book.add(by_id(1))
        assert not book.has(by_id(1))
    for number in (1, 2):
        assert book.add(by_id(number)) is SchemaAnswer.UNUSABLE
    clock.advance(UNKNOWN_SECONDS - 1)
    with pytest.raises(RecordError, match="schema id 1 cannot be used: protoc was killed"):
        book.reader(by_id(1)).plain(Framed(by_id(1), b""))
    clock.advance(1)
    assert [book.has(by_id(number)) for number in (1, 2)] == [False, True]
    assert book.add(by_id(1)) is SchemaAnswer.UNUSABLE  # no block again: the schema may be the cause
    registry.schemas[by_id(1)] = TEXT
    clock.advance(UNKNOWN_SECONDS)
    book.add(by_id(1))
    clock.advance(UNKNOWN_SECONDS)
    assert book.has(by_id(1))


def test_attempts_that_were_ended_are_counted_until_one_succeeds() -> None:
    registry = source(UnusableForNow("protoc was killed"))
    book = Book(registry)
    for _ in range(2):
        with pytest.raises(RegistryUnavailable):
            book.add(by_id(1))
        registry.schemas[by_id(1)] = TEXT
        book.add(by_id(1))
        registry.schemas[by_id(1)] = UnusableForNow("protoc was killed")
    with pytest.raises(RegistryUnavailable):
        book.add(by_id(1))


def test_a_schema_that_is_not_known_the_first_time_is_not_kept_unless_that_is_believed() -> None:
    clock = FakeClock()
    book = Book(source(NoSuchSchema()), clock)
    assert book.add(by_id(1), believes_unknown=False) is None
    assert not book.has(by_id(1))
    book.add(by_id(1))
    clock.advance(UNKNOWN_SECONDS)
    assert book.add(by_id(1), believes_unknown=False) is SchemaAnswer.UNKNOWN  # it was asked for again before


@pytest.mark.parametrize(
    ("found", "answer"),
    [(TEXT, "found"), (NoSuchSchema(), "unknown"), (UnusableSchema("no"), "unusable"), (OTHER_TYPE, "unusable")],
)
def test_what_became_of_a_schema_is_returned(found: SchemaText | Exception, answer: str) -> None:
    assert Book(source(found)).add(by_id(1)) == answer


def test_only_so_many_are_kept_and_the_oldest_goes_first() -> None:
    book = Book(source(*[SchemaText("JSON", "{}")] * (MOST_SCHEMAS + 2)))
    for number in range(1, MOST_SCHEMAS + 1):
        book.add(by_id(number))
    book.add(by_id(1))  # again: it is among the newest now
    book.add(by_id(MOST_SCHEMAS + 1))
    assert not book.has(by_id(2))
    assert all(book.has(by_id(number)) for number in (1, 3, MOST_SCHEMAS, MOST_SCHEMAS + 1))


def test_a_fault_of_ours_in_reading_a_schema_costs_the_records_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_schema: SchemaText) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(book_module, "reader_of", fail)
    book = Book(source(TEXT))
    book.add(by_id(1))
    with pytest.raises(RecordError, match=r"ZeroDivisionError.*fault of the worker"):
        book.reader(by_id(1)).plain(Framed(by_id(1), b""))


def test_the_book_of_a_command_asks_at_once_and_only_once() -> None:
    registry = source(TEXT, AWAY)
    book = AskingBook(registry)
    assert book.reader(by_id(1)) is book.reader(by_id(1))
    assert registry.asked == [by_id(1)]
    with pytest.raises(FatalError, match="does not give schema id 2: it is away"):
        book.reader(by_id(2))


def test_the_book_of_a_command_tries_a_schema_again_of_which_an_attempt_was_ended() -> None:
    registry = source(UnusableForNow("protoc was killed"))
    book = AskingBook(registry)
    with pytest.raises(RecordError, match="schema id 1 cannot be used: protoc was killed"):
        book.reader(by_id(1)).plain(Framed(by_id(1), b""))
    assert registry.asked == [by_id(1)] * MOST_CUT_SHORT
