"""A turn of the main loop takes in what its time allows; what is left waits, in order, and holds up nothing else."""

import itertools
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.support.app import TOPIC, App, good
from tests.support.fakes import FakeMessage
from tests.support.registry import by_id
from tests.support.routed import TENANTS, RoutedApp
from tests.unit.test_schema_intake import TEXT, RegistryApp, of_schema
from worker.app.portions import _FEW, SECONDS, Portion
from worker.errors import Reason
from worker.ledger import Outcome, Partition
from worker.ports import Polled
from worker.records.decode import Decoder
from worker.settings import tables
from worker.settings.tables import Route

COST: Final = 1.0  # seconds of a record that is slow to decode
LONGEST_TURN: Final = SECONDS + COST + SECONDS + _FEW * COST  # what waited, and what was polled


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[App], list[bytes | None]]:
    """Return what makes each record with "slow" in it slow, by the app's clock; it returns the values that are decoded."""

    def make(app: App) -> list[bytes | None]:
        seen: list[bytes | None] = []
        decode: Any = Decoder.decode

        def slowly(self: Decoder, key: bytes | None, value: bytes | None, headers: Any) -> object:
            seen.append(value)
            if value and b"slow" in value:
                app.clock.advance(COST)
            return decode(self, key, value, headers)

        monkeypatch.setattr(Decoder, "decode", slowly)
        return seen

    return make


def published(app: App, *values: bytes, partition: int = 0) -> None:
    app.cluster.produce(Partition(TOPIC, partition), values)


def names(count: int, prefix: str = "slow") -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


def turn(app: App) -> float:
    """Let the main loop turn once; returns its seconds, for which /healthz and the watchdog wait."""
    before = app.clock()
    app.turn()
    assert app.clock() - before <= LONGEST_TURN
    return app.clock() - before


def until_idle(app: App, most: int = 200) -> int:
    """Turn until nothing waits; returns how many turns that took."""
    for turns in range(most):
        if not app.worker._intake.behind():
            return turns
        turn(app)
    pytest.fail("it stays behind")


# -- a portion


def test_a_portion_looks_at_the_clock_once_for_a_few_messages_and_is_all_where_there_is_time() -> None:
    looks = itertools.count()
    portion = Portion(range(100), lambda: next(looks) < 0)
    assert (list(portion), next(looks), portion.left) == (list(range(100)), 99 // _FEW, ())


def test_a_portion_is_its_first_few_where_there_is_no_time() -> None:
    portion = Portion(range(100), lambda: True)
    assert (list(portion), portion.left) == (list(range(_FEW)), range(_FEW, 100))


def test_what_a_reader_leaves_is_left_with_all_behind_it() -> None:
    portion = Portion(["a", "b", "c"], lambda: False)
    for each in portion:
        if each == "b":
            portion.leave_from(each)
            break
    assert portion.left == ["b", "c"]


# -- the main loop


def test_a_poll_of_slow_records_takes_many_turns_and_all_of_it_is_written_and_committed(
    slow: Callable[[App], list[bytes | None]],
) -> None:
    app = App(batch=tables.Batch(max_records=10)).started()
    seen = slow(app)
    app.publish(keys=names(100))
    committed, turned = [], set()
    while app.committed() != {0: 100}:
        turn(app)
        app.deliver()
        committed.append(app.committed().get(0, 0))
        turned.add(app.status.read().last_turn)
    assert len(seen) == len(set(seen)) == len(app.sink.vectors) == 100
    assert len(turned) == len(committed) > 50
    assert len(set(committed)) > 5  # it commits in between
    assert (app.ledger.buffer_bytes, app.dead_letters.kept) == (0, [])


def test_records_that_are_not_slow_are_taken_in_within_the_turn_that_polled_them() -> None:
    app = App().started()
    app.publish(500)
    app.turn()
    assert (app.worker._intake.behind(), len(app.lane._queue) * 500 + len(app.worker._intake._open_batches)) == (
        [],
        501,
    )


def test_a_turn_with_slow_records_that_waited_takes_no_longer_than_one_more_of_them(
    slow: Callable[[App], list[bytes | None]],
) -> None:
    app = App().started()
    slow(app)
    app.publish(keys=names(60))
    turn(app)
    assert max(turn(app) for _ in range(10)) <= SECONDS + COST


def test_a_partition_that_is_behind_is_paused_and_no_other_is_held_up(
    slow: Callable[[App], list[bytes | None]],
) -> None:
    app = App(partitions=2).started()
    slow(app)
    app.publish(keys=names(60))
    turn(app)
    assert app.fetched() == {1}
    app.publish(20, partition=1)
    app.turn(2)
    app.worker._intake.seal_all()
    app.deliver()
    assert {key for key in app.sink.vectors if key.startswith("1-")} == {f"1-{number}" for number in range(20)}
    assert app.worker._intake.behind()
    until_idle(app)
    turn(app)
    assert app.fetched() == {0, 1}


def test_partitions_that_are_behind_take_turns(slow: Callable[[App], list[bytes | None]]) -> None:
    app = App(partitions=3).started()
    seen = slow(app)
    for partition in range(3):
        app.publish(keys=names(40, f"slow{partition}"), partition=partition)
    app.turn(4)
    taken = [sum(b"slow%d" % partition in (value or b"") for value in seen) for partition in range(3)]
    assert min(taken) >= 1


def test_the_last_version_of_a_key_wins_whichever_turn_had_time_for_it(
    slow: Callable[[App], list[bytes | None]],
) -> None:
    app = App(batch=tables.Batch(max_records=4)).started()
    slow(app)
    versions = [good("slow").replace(b"[1,", b"[%d," % (number + 1)) for number in range(30)]
    published(app, *versions[:20])
    turn(app)
    published(app, *versions[20:])
    until_idle(app)
    app.turn(2)
    until_idle(app)
    app.worker._intake.seal_all()
    app.deliver()
    assert app.sink.vectors["slow"]["data"]["float32"][0] == 30


def test_nothing_that_is_polled_later_overtakes_what_is_left(slow: Callable[[App], list[bytes | None]]) -> None:
    app = App().started()
    slow(app)
    published(app, *[good("slow")] * 30)
    turn(app)
    newest = FakeMessage(30, good("slow").replace(b"[1,", b"[9,"))
    app.worker._intake.take_in([Polled(app.assignment(), [newest])])  # the client had it already when it was paused
    until_idle(app)
    app.worker._intake.seal_all()
    app.deliver()
    assert app.sink.vectors["slow"]["data"]["float32"][0] == 9


@pytest.mark.parametrize("step", ["take_in_waiting", "drop_returned"])
def test_what_is_left_of_a_partition_that_is_given_back_is_dropped_and_returned(
    slow: Callable[[App], list[bytes | None]], step: str
) -> None:
    app = App(partitions=2).started()
    seen = slow(app)
    app.publish(keys=names(60))
    turn(app)
    assignment = app.assignment()
    taken_in = len(seen)
    app.ledger.begin_revoke([assignment.partition])
    getattr(app.worker._intake, step)()
    assert app.worker._intake.behind() == []
    app.worker._intake.seal_all()
    app.deliver()
    assert app.ledger.end([assignment]) == 60
    turn(app)
    assert (len(seen), app.ledger.buffer_bytes, app.committed().get(0, 0)) == (taken_in, 0, 0)


def test_a_drain_leaves_what_there_was_no_time_for_to_the_next_owner(slow: Callable[[App], list[bytes | None]]) -> None:
    app = App().started()
    seen = slow(app)
    app.publish(keys=names(60))
    turn(app)
    app.on_idle = app.deliver
    app.stop.set()
    app.run()
    assert app.committed() == {0: len(seen)}
    assert len(app.sink.vectors) == len(seen) < 60


def test_slow_records_whose_schema_has_come_take_many_turns(slow: Callable[[App], list[bytes | None]]) -> None:
    app = RegistryApp()
    app.registry.schemas |= {by_id(1): TEXT, by_id(2): TEXT}
    app.append(*[of_schema(1, name) for name in names(30)], *[of_schema(2, name) for name in names(30, "slow-2")])
    app.turn(2)
    slow(app)
    app.ask()
    assert app.worker._intake.behind()
    until_idle(app)
    app.ask()
    until_idle(app)
    assert (len(app.written()), app.ledger.buffer_bytes) == (60, 0)


def test_slow_records_whose_index_was_found_take_many_turns(slow: Callable[[App], list[bytes | None]]) -> None:
    app = RoutedApp(TENANTS)
    app.find(["acmedocs"])
    app.block("globexdocs")
    app.turn(3)
    headers = (("tenant", b"globex"),)
    app.append([{"value": good(name), "headers": headers} for name in names(50)])
    app.append([{"value": b"slow and bad", "headers": headers}])
    app.turn(2)
    seen = slow(app)
    app.find(["globexdocs"])
    turn(app)
    assert 0 < len(seen) < 51
    app.append([{"value": good("slow-0").replace(b"[1,", b"[9,"), "headers": headers}])
    until_idle(app)
    app.turn(2)
    app.intake.seal_all()
    app.deliver_to()
    vectors = app.sinks["globexdocs"].vectors
    assert (set(vectors), vectors["slow-0"]["data"]["float32"][0]) == (set(names(50)), 9)
    assert [(letter.offset, letter.reason) for letter in app.dead_letters.kept] == [(50, Reason.MALFORMED)]
    assert [tuple(share)[1:3] for share in app.components.limit.shares()] == [(1, 52)]


SPLIT: Final = Route(
    topic=TOPIC,
    index=(),
    index_by="field:to",
    indexes={"a": "adocs", "b": "bdocs"},
    records={"many": "split"},
)


def listed(count: int, name: str, to: str) -> bytes:
    items = [
        b'{"key":"%s-%d","to":"%s","data":{"float32":[1,2,3]}}' % (name.encode(), n, to.encode()) for n in range(count)
    ]
    return b"[" + b",".join([*items, b'{"to":"%s"}' % to.encode()]) + b"]"


def test_messages_with_several_slow_records_wait_whole_and_each_record_counts(
    slow: Callable[[App], list[bytes | None]],
) -> None:
    app = RoutedApp(SPLIT)
    app.find()
    app.turn(2)
    slow(app)
    published(app, *[listed(2, f"slow{number}", "a") for number in range(2 * _FEW)])
    app.turn()
    assert app.intake.behind()
    until_idle(app)
    app.intake.seal_all()
    app.deliver_to()
    bad = [(letter.offset, letter.element) for letter in app.dead_letters.kept]
    assert (len(app.keys()["adocs"]), bad) == (4 * _FEW, [(offset, 2) for offset in range(2 * _FEW)])
    assert [tuple(share)[1:3] for share in app.components.limit.shares()] == [(2 * _FEW, 6 * _FEW)]


def test_records_of_messages_that_waited_for_their_index_are_taken_in_message_by_message(
    slow: Callable[[App], list[bytes | None]],
) -> None:
    app = RoutedApp(SPLIT)
    app.find(["adocs"])
    app.block("bdocs")
    app.turn(3)
    published(app, *[listed(2, f"slow{number}", "b") for number in range(2 * _FEW)])
    app.turn(2)
    slow(app)
    app.find(["bdocs"])
    app.turn()
    assert 0 < len(app.dead_letters.kept) < 2 * _FEW
    until_idle(app)
    app.intake.seal_all()
    app.deliver_to()
    app.ledger.settle(app.dead_letters.kept, Outcome.DEAD_LETTERED)
    assert (len(app.keys()["bdocs"]), len(app.dead_letters.kept)) == (4 * _FEW, 2 * _FEW)
    assert (app.ledger.buffer_bytes, app.ledger.outstanding()) == (0, 0)
