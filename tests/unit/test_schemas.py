"""The thread that asks the registry: what is wanted is fetched, and what is not given blocks its topics until it is."""

import random
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from tests.support.app import settings
from tests.support.bounded import join, thread
from tests.support.fakes import FakeClock
from worker.app.schemas import ASK_AGAIN_SECONDS, MOST_DOUBTED, SchemaFetcher, asking_book
from worker.delivery.pace.backoff import Backoff
from worker.errors import BlockReason, FatalError, RegistryUnavailable, SchemaPending
from worker.ports import SchemaAnswer
from worker.settings.tables import Registry
from worker.telemetry.state import Block, Status

A: Final = frozenset({"a"})
B: Final = frozenset({"b"})


class FakeBook:
    """Has what the registry gave; `given` says what it gives now."""

    def __init__(self) -> None:
        self.given: set[Hashable] = set()
        self.here: set[Hashable] = set()
        self.asked: list[Hashable] = []
        self.unknown: dict[Hashable, int] = {}  # how often the registry does not know what it gives
        self.answers: dict[Hashable, SchemaAnswer] = {}  # of schemas that are given and are not just found

    def reader(self, schema: Hashable) -> None:
        raise SchemaPending(schema)

    def has(self, schema: Hashable) -> bool:
        return schema in self.here

    def add(self, schema: Hashable, *, believes_unknown: bool) -> SchemaAnswer | None:
        self.asked.append(schema)
        if self.unknown.get(schema, 0):
            self.unknown[schema] -= 1
            if not believes_unknown:
                return None
            self.here.add(schema)
            return SchemaAnswer.UNKNOWN
        if schema not in self.given:
            raise RegistryUnavailable("it is away")
        self.here.add(schema)
        return self.answers.get(schema, SchemaAnswer.FOUND)


class Bench:
    """A fetcher whose rounds the test makes, on a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.book = FakeBook()
        self.status = Status(self.clock(), self.clock)
        self.counted: list[SchemaAnswer] = []
        backoff = Backoff(0.5, 30.0, random.Random(0))
        self.fetcher = SchemaFetcher(self.book, self.status, backoff, count=self.counted.append, clock=self.clock)

    def round(self) -> None:
        self.fetcher.fetch(self.fetcher._missing())

    def wait_and_round(self) -> float:
        """Make the next round when it is due, and return in how many seconds that was."""
        seconds = max(0.0, self.fetcher._seconds_to_wait())
        self.clock.advance(seconds)
        self.fetcher.fetch(self.fetcher._due())
        return seconds

    def blocked(self) -> set[str]:
        return {block.topic for block in self.status.read().blocks if block.reason is BlockReason.REGISTRY}


def test_what_is_wanted_is_fetched_and_blocks_nothing() -> None:
    bench = Bench()
    bench.book.given = {"x"}
    bench.fetcher.want({"x": A})
    bench.round()
    bench.round()
    assert (bench.book.asked, bench.blocked()) == (["x"], set())


def test_a_schema_that_is_not_given_blocks_its_topics_alone_until_it_is() -> None:
    bench = Bench()
    bench.book.given = {"y"}
    bench.fetcher.want({"x": A, "y": B})
    bench.round()
    assert bench.blocked() == {"a"}
    block = Block("a", BlockReason.REGISTRY)
    assert bench.status.read().blocks[block] == "x: it is away"
    assert bench.status.attempts()[block].next_at is not None
    bench.book.given = {"x"}
    bench.round()
    assert bench.blocked() == set()


def test_each_answer_is_counted_and_logged_as_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.book.given = {"x", "y", "z"}
    bench.book.answers = {"y": SchemaAnswer.UNKNOWN, "z": SchemaAnswer.UNUSABLE}
    with caplog.at_level("INFO", "worker.registry"):
        bench.fetcher.fetch(["x", "y", "z", "w"])
    assert bench.counted == list(SchemaAnswer)
    logged = [(each.levelname, each.message) for each in caplog.records if each.message.startswith("schema")]
    assert logged == [("INFO", "schema found"), ("WARNING", "schema unknown"), ("WARNING", "schema unusable")]


def test_a_topic_stays_blocked_while_one_of_its_schemas_is_not_given() -> None:
    bench = Bench()
    bench.fetcher.want({"x": A, "y": A | B})
    bench.round()
    assert bench.blocked() == {"a", "b"}
    bench.book.given = {"y"}
    bench.round()
    assert bench.blocked() == {"a"}


def test_what_is_no_longer_wanted_blocks_nothing() -> None:
    bench = Bench()
    bench.fetcher.want({"x": A})
    bench.round()
    bench.fetcher.want({})
    assert bench.blocked() == set()
    bench.round()
    assert bench.book.asked == ["x"]


def test_it_is_asked_again_after_a_delay_that_grows_and_at_once_for_another_schema() -> None:
    bench = Bench()
    bench.fetcher.want({"x": A})
    waits = []
    for _ in range(12):
        bench.round()
        waits.append(bench.fetcher._seconds_to_wait())
        bench.clock.advance(60.0)
    assert waits[0] <= 0.5
    assert 10.0 < max(waits) <= 30.0
    bench.round()
    bench.fetcher.want({"x": A, "y": A})
    assert bench.fetcher._seconds_to_wait() <= 0


def test_a_schema_that_becomes_wanted_while_another_one_fails_is_asked_for_at_once() -> None:
    bench = Bench()
    bench.fetcher.want({"x": A})
    for _ in range(8):
        bench.wait_and_round()
    assert bench.fetcher._seconds_to_wait() > 1.0
    add = bench.book.add

    def add_while_another_is_wanted(schema: Hashable, *, believes_unknown: bool) -> SchemaAnswer | None:
        bench.fetcher.want({"x": A, "y": B})
        return add(schema, believes_unknown=believes_unknown)

    bench.book.given = {"y"}
    bench.book.add = add_while_another_is_wanted  # type: ignore[method-assign]  # what the main loop does at that moment
    bench.wait_and_round()
    assert not bench.book.has("y")
    assert bench.wait_and_round() == 0.0
    assert bench.book.has("y")
    assert bench.book.asked[-2:] == ["x", "y"]  # and the other one not before its time
    assert bench.fetcher._seconds_to_wait() > 1.0


def test_a_schema_that_the_registry_does_not_know_is_asked_for_twice_more_before_that_is_believed() -> None:
    bench = Bench()
    bench.book.given = {"x", "y"}
    bench.book.unknown = {"x": 2, "y": 9}
    bench.fetcher.want({"x": A, "y": A})
    assert [bench.wait_and_round() for _ in range(3)] == pytest.approx([0.0, *ASK_AGAIN_SECONDS])
    assert bench.counted == [SchemaAnswer.FOUND, SchemaAnswer.UNKNOWN]
    assert (bench.book.asked, bench.blocked()) == (["x", "y"] * 3, set())


def test_an_outage_between_two_answers_blocks_and_what_was_not_known_is_asked_for_again_after_it() -> None:
    bench = Bench()
    bench.book.unknown = {"x": 1}
    bench.fetcher.want({"x": A})
    bench.wait_and_round()
    bench.wait_and_round()
    assert bench.blocked() == {"a"}
    bench.book.unknown = {"x": 1}
    bench.wait_and_round()
    assert (bench.blocked(), bench.counted) == (set(), [SchemaAnswer.UNAVAILABLE])
    bench.book.given = {"x"}
    bench.wait_and_round()
    assert bench.counted[-1] is SchemaAnswer.FOUND


class Shared(dict[Hashable, Any]):
    """Lets another thread run after each look-up that finds something, as the interpreter may."""

    def __init__(self, other: Callable[[], None]) -> None:
        super().__init__()
        self._other = other

    def _let_the_other_run(self) -> None:
        join(thread(self._other))

    def __contains__(self, schema: object) -> bool:
        found = super().__contains__(schema)
        if found:
            self._let_the_other_run()
        return found

    def get(self, schema: Hashable, default: Any = None) -> Any:
        found = super().get(schema, default)
        if found:
            self._let_the_other_run()
        return found


@pytest.mark.parametrize("name", ["_doubts", "_failures", "_again_at"])
def test_the_main_loop_forgets_no_schema_in_the_middle_of_a_look_at_it(name: str) -> None:
    bench = Bench()
    came_between: list[str] = []

    def main_loop() -> None:
        if bench.fetcher._change.acquire(blocking=False):  # else it waits there until the look is over
            bench.fetcher.want({})
            bench.fetcher._change.release()
            came_between.append(name)

    shared = Shared(main_loop)
    setattr(bench.fetcher, name, shared)
    for unknown in (1, 0, 2):  # not known, then away, then not known again
        bench.book.unknown = {"x": unknown}
        bench.fetcher.want({"x": A})
        bench.fetcher.fetch(["x"])
    assert (came_between, bench.book.asked) == ([], ["x", "x", "x"])


def test_of_many_schemas_that_the_registry_does_not_know_most_are_believed_at_once() -> None:
    bench = Bench()
    schemas: list[Hashable] = list(range(MOST_DOUBTED + 5))
    bench.book.unknown = dict.fromkeys(schemas, 9)
    bench.fetcher.want(dict.fromkeys(schemas, A))
    bench.wait_and_round()
    assert [schema for schema in schemas if not bench.book.has(schema)] == schemas[:MOST_DOUBTED]
    bench.wait_and_round()
    bench.wait_and_round()
    assert all(map(bench.book.has, schemas))
    bench.clock.advance(60.0)
    bench.book.unknown["later"] = 9
    bench.fetcher.want({"later": A})
    bench.wait_and_round()
    assert not bench.book.has("later")


def test_with_nothing_wanted_there_is_nothing_to_wait_for() -> None:
    assert Bench().fetcher._seconds_to_wait() > 1000


@contextmanager
def running(fetcher: SchemaFetcher) -> Iterator[None]:
    fetcher.start()
    try:
        yield
    finally:
        fetcher.stop()
        fetcher.join(20.0)


def test_the_thread_fetches_and_ends_when_it_is_stopped() -> None:
    bench = Bench()
    bench.book.given = {"x"}
    closed: list[bool] = []
    fetcher = SchemaFetcher(
        bench.book, bench.status, Backoff(0.5, 30.0, random.Random(0)), close=lambda: closed.append(True)
    )
    with running(fetcher):
        fetcher.want({"x": A})
        wait_until(lambda: bench.book.has("x"))
        assert fetcher.dead_threads() == []
    assert (fetcher._thread.is_alive(), fetcher.dead_threads(), closed) == (False, [], [True])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_by_itself_is_reported() -> None:
    bench = Bench()
    bench.book.add = None  # type: ignore[assignment, method-assign]  # a fault
    with running(bench.fetcher):
        bench.fetcher.want({"x": A})
        bench.fetcher._thread.join(20.0)
        assert bench.fetcher.dead_threads() == ["schemas"]


def wait_until(condition: Callable[[], bool]) -> None:
    import time

    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_without_the_extra_the_pip_command_is_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(("worker.registry.book", "worker.registry.avro"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "fastavro", None)
    with pytest.raises(FatalError, match=r'registry.url needs the extra "registry": pip install'):
        asking_book(settings(registry=Registry(url="http://127.0.0.1:1")))


def test_without_a_registry_there_is_no_book() -> None:
    assert asking_book(settings()) is None
