"""Records whose schema is not here yet, in the main loop: nothing overtakes them, nothing of them is lost."""

import json
import random
from typing import Any, Final

from tests.support.app import INDEX, TARGET, TOPIC, App, good
from tests.support.fakes import FakeMessage
from tests.support.registry import AVRO, FakeSource, avro, by_id, prefix
from worker.app.loop import Worker
from worker.app.schemas import ASK_AGAIN_SECONDS, SchemaFetcher
from worker.delivery.pace.backoff import Backoff
from worker.errors import BlockReason, Reason, RegistryUnavailable
from worker.ledger import Partition
from worker.registry.book import Book
from worker.registry.client import NoSuchSchema, SchemaText
from worker.settings.tables import DeadLetter

TEXT: Final = SchemaText("AVRO", json.dumps(AVRO))
AWAY: Final = RegistryUnavailable("it is away")


def of_schema(number: int, key: str, x: float = 1.0) -> bytes:
    return prefix(number) + avro(AVRO, {"key": key, "data": {"float32": [x, 2.0, 3.0]}, "metadata": None})


class RegistryApp(App):
    """A worker that reads its topic, whose registry answers as the test says, when the test says."""

    def __init__(self, partitions: int = 1, **changed: Any) -> None:
        super().__init__(partitions, **changed)
        self.registry = FakeSource()
        book = Book(self.registry, self.clock)
        self.schemas = SchemaFetcher(book, self.status, Backoff(0.5, 30.0, random.Random(0)), clock=self.clock)
        setattr(self.schemas, "start", lambda: None)  # noqa: B010 - no thread: the test asks
        self.components = self.components._replace(schemas=self.schemas)
        self.worker = Worker(self.components, self.stop)
        self.finder.found.append((INDEX, TARGET))
        self.turn(2)

    def append(self, *values: bytes | None, partition: int = 0) -> None:
        log = self.cluster._logs[Partition(TOPIC, partition)]
        for value in values:
            log.messages.append(FakeMessage(log.end, value, b"kafka-key"))
            log.end += 1

    def ask(self) -> None:
        """Let the registry be asked, as the thread would, and let the main loop make some turns."""
        self.schemas.fetch(self.schemas._missing())
        self.turn(3)

    def ask_until_it_is_believed(self) -> None:
        """Let the registry be asked for a schema that it does not know, until its records are dead letters."""
        for _ in range(1 + len(ASK_AGAIN_SECONDS)):
            self.ask()

    def written(self) -> dict[str, float]:
        """Deliver all that is batched, and return each key's first number."""
        self.worker._intake.seal_all()
        while (batch := self.lane.pop()) is not None:
            self.lane._courier.deliver(batch)
            self.lane.done(batch)
        return {key: vector["data"]["float32"][0] for key, vector in self.sink.vectors.items()}


def test_a_record_waits_for_its_schema_and_is_written_then() -> None:
    app = RegistryApp()
    app.registry.schemas[by_id(1)] = TEXT
    app.append(of_schema(1, "a"))
    app.turn(3)
    assert app.written() == {}
    assert app.ledger.outstanding() == 1
    app.ask()
    assert app.written() == {"a": 1.0}
    assert (app.ledger.outstanding(), app.ledger.buffer_bytes, app.dead_letters.kept) == (0, 0, [])
    assert app.registry.asked == [by_id(1)]


def test_nothing_of_the_partition_overtakes_what_waits() -> None:
    app = RegistryApp(2)
    app.registry.schemas[by_id(1)] = TEXT
    app.append(good("before"), of_schema(1, "same", 1.0), good("same"), good("behind"))
    app.append(good("other"), partition=1)
    app.turn(3)
    app.append(good("same").replace(b"[1,", b"[9,"))  # in a later poll, and readable at once
    app.turn(3)
    assert app.written().keys() == {"before", "other"}
    app.ask()
    assert app.written() == {"before": 1, "other": 1, "behind": 1, "same": 9.0}


def test_a_registry_that_is_away_blocks_the_topic_and_loses_nothing() -> None:
    app = RegistryApp()
    app.registry.schemas[by_id(1)] = AWAY
    app.append(of_schema(1, "a"), of_schema(2, "b"))
    app.turn(3)
    app.ask()
    assert app.status.blocks_of(TOPIC) == [BlockReason.REGISTRY]
    assert app.status.read().state.value == "blocked"
    app.append(*[good(f"later{number}") for number in range(5)])
    app.turn(5)
    assert app.ledger.outstanding() == 2  # nothing more is fetched
    app.registry.schemas |= {by_id(1): TEXT, by_id(2): TEXT}
    app.ask()
    app.ask()
    assert app.status.blocks_of(TOPIC) == []
    app.turn(5)
    assert app.written().keys() == {"a", "b", *(f"later{number}" for number in range(5))}
    app.clock.advance(2)
    app.turn(3)
    assert (app.committed(), app.dead_letters.kept) == ({0: 7}, [])


def test_an_unknown_id_costs_its_record_and_the_next_one_is_written() -> None:
    app = RegistryApp()
    app.registry.schemas |= {by_id(1): NoSuchSchema(), by_id(2): TEXT}
    app.append(of_schema(1, "a"), of_schema(2, "b"), of_schema(1, "c"))
    app.turn(3)
    app.ask()
    assert (app.written(), app.dead_letters.kept) == ({}, [])
    app.ask_until_it_is_believed()
    assert app.written() == {"b": 1.0}
    assert [(each.offset, each.reason) for each in app.dead_letters.kept] == [
        (0, Reason.UNSUPPORTED_ENCODING),
        (2, Reason.UNSUPPORTED_ENCODING),
    ]
    assert app.registry.asked == [*[by_id(1)] * 3, by_id(2)]


def test_a_registry_that_is_moments_behind_costs_no_record() -> None:
    app = RegistryApp()
    app.registry.schemas[by_id(1)] = NoSuchSchema()
    app.append(of_schema(1, "a"))
    app.turn(3)
    app.ask()
    app.registry.schemas[by_id(1)] = TEXT
    app.ask()
    assert (app.written(), app.dead_letters.kept, app.status.blocks_of(TOPIC)) == ({"a": 1.0}, [], [])


def test_bad_records_that_waited_count_for_the_limit_of_dead_letters() -> None:
    app = RegistryApp(dead_letter=DeadLetter(limit_min=2, limit_ratio=0.1))
    app.registry.schemas[by_id(1)] = NoSuchSchema()
    app.append(*[of_schema(1, "a")] * 20)
    app.turn(3)
    app.ask_until_it_is_believed()
    assert [(each.topic, each.bad, each.records) for each in app.components.limit.shares()] == [(TOPIC, 20, 20)]


def test_what_waits_when_its_partition_is_given_back_is_returned() -> None:
    app = RegistryApp()
    app.registry.schemas[by_id(1)] = AWAY
    app.append(of_schema(1, "a"))
    app.turn(3)
    app.ask()
    assignment = app.assignment()
    app.ledger.begin_revoke([assignment.partition])
    app.turn(1)
    assert app.ledger.end([assignment]) == 1
    app.turn(1)
    assert (app.ledger.buffer_bytes, app.status.blocks_of(TOPIC)) == (0, [])


def test_a_null_value_behind_what_waits_keeps_its_place() -> None:
    app = RegistryApp()
    app.registry.schemas[by_id(1)] = TEXT
    app.append(of_schema(1, "a"), None)
    app.turn(3)
    assert app.dead_letters.kept == []
    app.ask()
    assert [each.reason for each in app.dead_letters.kept] == [Reason.TOMBSTONE]
