"""Messages with several records in the main loop: each is routed, batched and settled by itself, and the offset with all."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.support.app import TOPIC, good
from tests.support.routed import TENANTS, RoutedApp, sharded
from worker.app.decoded import ITEM_BYTES
from worker.app.several import OWN_DEAD_LETTERS
from worker.errors import Reason
from worker.ledger import Outcome, Partition
from worker.records.looks import Looks
from worker.records.several import MOST_RECORDS
from worker.records.shards import shard_of
from worker.settings import tables
from worker.settings.tables import Route

ONE = Route(topic=TOPIC, index="docs", records={"many": "split"})
FIELD = Route(
    topic=TOPIC,
    index=(),
    index_by="field:to",
    indexes={"a": "adocs", "b": "bdocs"},
    records={"many": "split", "fields": {"records": "items"}},
)


def listed(*records: bytes) -> bytes:
    """Return a message's value with these records."""
    return b"[" + b",".join(records) + b"]"


def record(key: str, number: float = 1.0, **fields: str) -> bytes:
    others = "".join(f',"{name}":"{value}"' for name, value in fields.items())
    return b'{"key":"%s","data":{"float32":[%g,2,3]}%s}' % (key.encode(), number, others.encode())


class Bench(RoutedApp):
    """A worker whose messages may have several records."""

    def __init__(self, route: Route = ONE, find: Sequence[str] | None = None, **changed: Any) -> None:
        super().__init__(route, **changed)
        names = self.names if find is None else find
        self.find(names)
        for name in self.names:
            if name not in names:
                self.block(name)
        self.turn(3)

    def publish_all(self, *values: bytes | None, **fields: Any) -> None:
        self.append([{"value": value, **fields} for value in values])
        self.turn()

    def write(self) -> None:
        """Seal and deliver everything."""
        self.intake.seal_all()
        self.deliver_to()

    def vectors(self, index: str = "docs") -> dict[str, list[float]]:
        return {key: stored["data"]["float32"] for key, stored in self.sinks[index].vectors.items()}

    def letters(self) -> list[tuple[int, int | None, Reason]]:
        return [(letter.offset, letter.element, letter.reason) for letter in self.dead_letters.kept]

    def notes_of_bad(self) -> list[tuple[int, int | None]]:
        """Return a list that gets the offset and element of each record that is noted as bad for the limit."""
        limit = self.components.limit
        noted: list[tuple[int, int | None]] = []
        note_bad = limit.note_bad

        def note(partition: Partition, offset: int, element: int | None = None) -> None:
            noted.append((offset, element))
            note_bad(partition, offset, element)

        setattr(limit, "note_bad", note)  # noqa: B010 - it is noted, too
        return noted

    def settle_letters(self) -> None:
        self.ledger.settle(self.dead_letters.kept, Outcome.DEAD_LETTERED)

    def counted(self) -> Mapping[str, int]:
        """Return what the books say: messages, records, and each outcome that occurred."""
        books = self.ledger.books()
        outcomes = {outcome.value: count for (_, outcome), count in books.settled.items() if count}
        return {"messages": books.messages[TOPIC], "records": books.consumed[TOPIC], **outcomes}


def test_each_record_of_a_message_is_written_and_the_offset_is_settled_with_the_last() -> None:
    bench = Bench(batch=tables.Batch(max_records=2))
    bench.publish_all(listed(record("a"), record("b"), record("c")), record("d"))
    assert bench.ledger.outstanding() == 4
    first = bench.lanes["docs"].pop()
    assert first is not None
    bench.lanes["docs"]._courier.deliver(first)
    assert (bench.assignment().watermark, bench.ledger.outstanding(), set(bench.vectors())) == (0, 2, {"a", "b"})
    bench.lanes["docs"].done(first)
    bench.write()
    assert (bench.assignment().watermark, set(bench.vectors())) == (2, {"a", "b", "c", "d"})
    assert bench.counted() == {"messages": 2, "records": 4, "put": 4}
    assert bench.ledger.buffer_bytes == 0


def test_a_bad_record_costs_only_itself() -> None:
    bench = Bench()
    bench.publish_all(listed(record("a"), b'{"key":"x","data":{"float32":[0]}}', b"5", record("b")))
    bench.write()
    assert bench.letters() == [(0, 1, Reason.DIMENSION), (0, 2, Reason.MALFORMED)]
    assert {letter.message.value for letter in bench.dead_letters.kept} == {bench.dead_letters.kept[0].message.value}
    assert (set(bench.vectors()), bench.assignment().watermark) == ({"a", "b"}, 0)
    bench.settle_letters()
    assert (bench.assignment().watermark, bench.ledger.buffer_bytes) == (1, 0)
    assert bench.counted() == {"messages": 1, "records": 4, "put": 2, "dead_lettered": 2}


def test_a_record_that_the_service_refuses_is_dead_lettered_with_its_place() -> None:
    bench = Bench()
    bench.sinks["docs"]._judge = lambda key, element: 400 if key == "b" else 0
    bench.publish_all(listed(record("a"), record("b"), record("c")))
    bench.write()
    assert (bench.letters(), set(bench.vectors())) == ([(0, 1, Reason.REFUSED)], {"a", "c"})
    bench.settle_letters()
    assert (bench.assignment().watermark, bench.ledger.buffer_bytes) == (1, 0)


def test_of_one_key_the_later_record_of_a_message_wins() -> None:
    bench = Bench()
    bench.publish_all(listed(record("a", 1), record("b", 1), record("a", 2)))
    bench.write()
    assert bench.vectors() == {"a": [2, 2, 3], "b": [1, 2, 3]}
    assert bench.counted() == {"messages": 1, "records": 3, "put": 2, "superseded": 1}


def test_where_the_later_record_of_a_key_is_refused_the_earlier_is_written() -> None:
    bench = Bench()
    bench.sinks["docs"]._judge = lambda _key, element: 400 if element and element["data"]["float32"][0] == 2 else 0
    bench.publish_all(listed(record("a", 1), record("a", 2)))
    bench.write()
    assert (bench.vectors(), bench.letters()) == ({"a": [1, 2, 3]}, [(0, 1, Reason.REFUSED)])


def test_a_message_without_records_is_ignored_and_counted() -> None:
    bench = Bench()
    bench.publish_all(b"[]", b'{"vectors":[]}')
    assert (bench.counted(), bench.assignment().watermark) == ({"messages": 2, "records": 2, "ignored": 2}, 2)
    assert bench.ledger.buffer_bytes == 0


def test_a_message_that_is_one_record_or_a_tombstone_is_read_as_ever() -> None:
    bench = Bench(records=tables.Records(tombstones="delete"))
    bench.publish_all(record("a"), record("b"), b"what?")
    bench.publish_all(None, key=b"a")
    bench.write()
    assert (set(bench.vectors()), bench.letters()) == ({"b"}, [(2, None, Reason.MALFORMED)])
    bench.settle_letters()
    assert (bench.assignment().watermark, bench.ledger.buffer_bytes) == (4, 0)


def test_a_message_whose_list_cannot_be_cut_is_dead_lettered_whole() -> None:
    bench = Bench()
    bench.publish_all(b"[" + record("a") + b",", b"[" + b"1," * MOST_RECORDS + b"1]")
    assert bench.letters() == [(0, None, Reason.MALFORMED), (1, None, Reason.TOO_LARGE)]
    bench.settle_letters()
    assert (bench.assignment().watermark, bench.ledger.buffer_bytes) == (2, 0)
    assert bench.counted() == {"messages": 2, "records": 2, "dead_lettered": 2}


def test_a_message_of_one_record_in_a_list_has_element_0() -> None:
    bench = Bench()
    bench.publish_all(b"[1]")
    assert bench.letters() == [(0, 0, Reason.MALFORMED)]


def test_many_bad_records_of_a_message_make_few_dead_letters() -> None:
    bench = Bench()
    bench.publish_all(listed(record("a"), *[b"5"] * 1000, record("b"), *[b"6"] * 10))
    places = [element for _, element, _ in bench.letters()]
    assert places == list(range(1, OWN_DEAD_LETTERS + 2))
    last = bench.dead_letters.kept[-1]
    assert (
        last.elements,
        last.text.startswith("990 more records of this message are bad, the first of them at 21: "),
    ) == (
        990,
        True,
    )
    assert {letter.elements for letter in bench.dead_letters.kept[:-1]} == {1}
    bench.write()
    bench.settle_letters()
    assert (set(bench.vectors()), bench.assignment().watermark, bench.ledger.buffer_bytes) == ({"a", "b"}, 1, 0)
    assert bench.counted() == {"messages": 1, "records": 23, "put": 2, "dead_lettered": 21}


def test_only_records_that_have_a_dead_letter_of_their_own_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    described = 0
    hint = Looks.hint

    def counted(*args: Any) -> str:
        nonlocal described
        described += 1
        return hint(*args)

    monkeypatch.setattr(Looks, "hint", counted)
    bench = Bench()
    bench.publish_all(listed(*[b"{}"] * 1000))
    assert len(bench.dead_letters.kept) == described == OWN_DEAD_LETTERS + 1
    waiting = Bench(FIELD, find=["bdocs"])
    waiting.publish_all(b'{"items":%s}' % listed(*[b'{"to":"a"}'] * 1000))
    waiting.find(["adocs"])
    waiting.turn()
    assert len(waiting.dead_letters.kept) == OWN_DEAD_LETTERS + 1
    assert described == 2 * (OWN_DEAD_LETTERS + 1)


def test_one_bad_record_more_than_have_their_own_dead_letter_has_its_own_too() -> None:
    bench = Bench()
    bench.publish_all(listed(*[b"5"] * (OWN_DEAD_LETTERS + 1)))
    assert {letter.elements for letter in bench.dead_letters.kept} == {1}
    assert len(bench.letters()) == OWN_DEAD_LETTERS + 1


def test_the_limit_counts_records() -> None:
    bench = Bench()
    bench.publish_all(listed(*[record(str(n)) for n in range(100)]), listed(b"1", record("x"), b"2"), b"3")
    limit, partition = bench.components.limit, bench.assignment().partition
    places = [limit.place(partition, *place) for place in ((0, 0), (0, 99), (1, 0), (1, 2), (2, None))]
    assert places == [0, 99, 100, 102, 103]
    assert [tuple(share)[1:3] for share in limit.shares()] == [(3, 104)]


def test_the_bytes_of_a_message_count_once_and_until_its_last_record_is_settled() -> None:
    bench = Bench(batch=tables.Batch(max_records=1))
    value = listed(*[record(str(n), to="x" * 1000) for n in range(5)])
    bench.publish_all(value, key=b"k")
    fragments = [len(item.fragment or b"") for batch in bench.lanes["docs"]._queue for item in batch.items.values()]
    whole = len(value) + 1
    seen = []
    while (batch := bench.lanes["docs"].pop()) is not None:
        seen.append(bench.ledger.buffer_bytes)
        bench.lanes["docs"]._courier.deliver(batch)
        bench.lanes["docs"].done(batch)
    assert seen == [whole + sum(fragments[n:]) + ITEM_BYTES * (5 - n) for n in range(5)]
    assert bench.ledger.buffer_bytes == 0


def test_a_partition_that_goes_with_half_of_a_message_frees_all_of_it_and_reads_it_again() -> None:
    bench = Bench(batch=tables.Batch(max_records=2))
    bench.publish_all(listed(record("a"), record("b"), record("c"), b"5"))
    first = bench.lanes["docs"].pop()
    assert first is not None
    bench.lanes["docs"]._courier.deliver(first)
    bench.lanes["docs"].done(first)
    old = bench.assignment()
    bench.ledger.reassign(old)
    bench.write()
    bench.ledger.discard(bench.dead_letters.kept)
    bench.dead_letters.kept.clear()
    assert (bench.ledger.buffer_bytes, old.shared) == (0, {})
    bench.turn(3)
    bench.write()
    bench.settle_letters()
    assert (bench.assignment().watermark, set(bench.vectors())) == (1, {"a", "b", "c"})
    assert bench.counted() == {"messages": 2, "records": 8, "put": 5, "dead_lettered": 1, "returned": 2}


def test_each_record_goes_to_its_shard() -> None:
    names = ("one", "two", "three")
    bench = Bench(sharded(*names), records=tables.Records(many="split"))
    bench.publish_all(listed(*[record(str(n)) for n in range(30)]))
    bench.write()
    expected = {name: {str(n) for n in range(30) if names[shard_of(str(n), 3)] == name} for name in names}
    assert bench.keys() == expected
    assert bench.assignment().watermark == 1


def test_each_record_says_its_index_by_its_own_field() -> None:
    bench = Bench(FIELD)
    bench.publish_all(b'{"to":"b","items":%s}' % listed(record("1", to="a"), record("2", to="b"), record("3", to="c")))
    bench.write()
    assert bench.keys() == {"adocs": {"1"}, "bdocs": {"2"}}
    assert bench.letters() == [(0, 2, Reason.NO_ROUTE)]


def test_a_header_chooses_the_index_of_all_records_of_a_message() -> None:
    bench = Bench(TENANTS, records=tables.Records(many="split"))
    bench.publish_all(listed(record("1"), record("2")), headers=(("tenant", b"globex"),))
    bench.write()
    assert bench.keys() == {"acmedocs": set(), "globexdocs": {"1", "2"}}


def test_a_record_whose_index_is_missing_waits_and_no_other_of_its_message_does() -> None:
    bench = Bench(FIELD, find=["adocs"])
    items = listed(record("1", to="a"), record("2", to="b"), b'{"key":"3","to":"b"}', record("4", to="a"))
    bench.publish_all(b'{"items":%s}' % items)
    bench.write()
    assert (bench.keys(), bench.letters()) == ({"adocs": {"1", "4"}, "bdocs": set()}, [])
    assert (bench.assignment().watermark, bench.ledger.outstanding()) == (0, 2)
    bench.find(["bdocs"])
    bench.turn()
    bench.write()
    assert (bench.keys()["bdocs"], bench.letters()) == ({"2"}, [(0, 2, Reason.MALFORMED)])
    bench.settle_letters()
    assert (bench.assignment().watermark, bench.ledger.buffer_bytes) == (1, 0)


def test_many_bad_records_that_waited_for_their_index_make_few_dead_letters() -> None:
    bench = Bench(FIELD, find=["adocs"])
    items = listed(record("1", to="b"), *[b'{"key":"x","to":"b"}'] * 990, record("2", to="b"))
    bench.publish_all(b'{"items":%s}' % items, b'{"items":%s}' % listed(*[b'{"key":"x","to":"b"}'] * 2))
    noted = bench.notes_of_bad()
    bench.find(["bdocs"])
    bench.turn()
    assert sorted(noted, key=str) == sorted(set(noted), key=str)
    assert set(noted) == {*[(0, element) for element in range(1, 991)], (1, 0), (1, 1)}
    places = [(letter.offset, letter.element, letter.elements) for letter in bench.dead_letters.kept]
    of_first = [(0, element, 1) for element in range(1, OWN_DEAD_LETTERS + 1)]
    assert places == [*of_first, (0, OWN_DEAD_LETTERS + 1, 970), (1, 0, 1), (1, 1, 1)]
    bench.write()
    assert bench.assignment().watermark == 0  # the dead letters are not written yet
    bench.settle_letters()
    assert (bench.keys()["bdocs"], bench.assignment().watermark, bench.ledger.buffer_bytes) == ({"1", "2"}, 2, 0)
    assert bench.counted() == {"messages": 2, "records": 994, "put": 2, "dead_lettered": 992}


def test_records_that_wait_for_their_index_go_with_their_partition() -> None:
    bench = Bench(FIELD, find=["adocs"])
    bench.publish_all(b'{"items":%s}' % listed(record("1", to="a"), record("2", to="b")))
    bench.write()
    bench.ledger.begin_revoke([bench.assignment().partition])
    bench.intake.drop_returned()
    assert bench.ledger.buffer_bytes == 0


@pytest.mark.parametrize("broken", [{"headers": ((None, b"x"),)}, {"key": 5}])
def test_a_message_that_the_loop_itself_cannot_take_costs_that_message(broken: Any) -> None:
    bench = Bench()
    bench.append([{"value": listed(record("a"))}, {"value": listed(record("b")), **broken}, {"value": good("c")}])
    bench.turn()
    bench.write()
    assert (set(bench.vectors()), bench.letters()) == ({"a", "c"}, [(1, None, Reason.INTERNAL_ERROR)])


def test_only_a_record_that_is_a_message_of_its_own_can_have_another_kafka_key() -> None:
    bench = Bench()
    bench.publish_all(listed(record("a"), record("b")), record("c"), key=b"k")
    registry = bench.metrics.registry
    assert registry.get_sample_value("oss_vectors_key_mismatch_total", {"topic": TOPIC}) == 1


def test_a_suspect_record_of_a_message_is_counted() -> None:
    bench = Bench()
    bench.publish_all(listed(record("a"), b'{"key":"b","data":{"float32":[1e-40,1e-40,1e-40]}}'))
    labels = {"topic": TOPIC, "cause": "denormal"}
    assert bench.metrics.registry.get_sample_value("oss_vectors_suspect_vectors_total", labels) == 1
