"""A topic with several indexes in the main loop: each record to its own, and one that is missing holds up its own alone."""

from typing import Any

import pytest

from tests.support.app import TOPIC, good
from tests.support.routed import MISSING, TENANTS, RoutedApp, sharded
from worker.errors import BlockReason, Reason
from worker.ledger import Partition
from worker.ports import Operation
from worker.records.shards import shard_of
from worker.records.target import Target
from worker.settings import tables
from worker.telemetry.state import State

SHARDS = ("d1", "d2", "d3", "d4")


def of_tenant(key: str, tenant: str | None, value: bytes | None = None) -> dict[str, Any]:
    headers = () if tenant is None else (("tenant", tenant.encode()),)
    return {"key": key.encode(), "value": good(key) if value is None else value, "headers": headers}


def tenants(**changed: Any) -> RoutedApp:
    """Return a worker that reads its topic; both of its indexes are found."""
    app = RoutedApp(TENANTS, **changed)
    app.find()
    app.turn(2)
    return app


def taken_in(app: RoutedApp) -> None:
    app.turn(2)
    app.intake.seal_all()


def test_each_key_is_written_to_its_shard() -> None:
    app = RoutedApp(sharded(*SHARDS))
    app.find()
    app.turn(2)
    app.publish(keys=[f"k{number}" for number in range(40)])
    taken_in(app)
    app.deliver_to()
    for number in range(40):
        key = f"k{number}"
        assert [name for name, keys in app.keys().items() if key in keys] == [SHARDS[shard_of(key, 4)]]
    app.clock.advance(2)
    app.turn(2)
    assert app.committed() == {0: 40}


def test_a_record_without_an_index_is_a_dead_letter_that_names_none() -> None:
    app = tenants()
    app.append([of_tenant("a", "acme"), of_tenant("b", "hooli"), of_tenant("c", None), of_tenant("d", "globex")])
    taken_in(app)
    app.deliver_to()
    assert app.keys() == {"acmedocs": {"a"}, "globexdocs": {"d"}}
    assert [(one.offset, one.reason, one.index) for one in app.dead_letters.kept] == [
        (1, Reason.NO_ROUTE, ""),
        (2, Reason.NO_ROUTE, ""),
    ]


def test_a_bad_record_names_the_index_that_it_would_go_to() -> None:
    app = tenants()
    app.append([of_tenant("a", "acme", b"no json")])
    taken_in(app)
    assert [(one.reason, one.index) for one in app.dead_letters.kept] == [(Reason.MALFORMED, "acmedocs")]


def test_a_message_that_the_loop_cannot_take_costs_that_message() -> None:
    app = tenants()
    app.append([of_tenant("a", "acme"), {"value": good("b"), "headers": ((None, b"x"),)}, of_tenant("c", "acme")])
    taken_in(app)
    app.deliver_to()
    assert app.keys()["acmedocs"] == {"a", "c"}
    assert [(one.offset, one.reason) for one in app.dead_letters.kept] == [(1, Reason.INTERNAL_ERROR)]


def test_the_worker_starts_to_read_once_every_index_has_an_answer() -> None:
    app = RoutedApp(TENANTS)
    app.find(["acmedocs"])
    app.turn(3)
    assert (app.fetched(), app.state()[0]) == (set(), State.STARTING)
    app.block("globexdocs")
    app.turn(3)
    assert (app.fetched(), app.state()[0]) == ({0}, State.RUNNING)


def test_an_index_that_is_missing_at_the_start_holds_up_its_own_records_alone() -> None:
    app = RoutedApp(TENANTS)
    app.find(["acmedocs"])
    app.block("globexdocs")
    app.turn(3)
    app.append([of_tenant("a", "acme"), of_tenant("b", "globex"), of_tenant("b", "globex"), of_tenant("c", "acme")])
    taken_in(app)
    app.deliver_to()
    app.clock.advance(2)
    app.turn(2)
    assert (app.keys(), app.committed(), app.ledger.outstanding()) == (
        {"acmedocs": {"a", "c"}, "globexdocs": set()},
        {0: 1},
        2,
    )
    app.find(["globexdocs"])
    taken_in(app)
    app.deliver_to()
    app.clock.advance(2)
    app.turn(2)
    assert (app.keys()["globexdocs"], app.committed(), app.ledger.buffer_bytes) == ({"b"}, {0: 4}, 0)


def test_parked_messages_are_judged_by_the_index_that_was_found() -> None:
    app = RoutedApp(TENANTS)
    app.targets["globexdocs"] = Target("globexdocs", 4, "cosine")
    app.find(["acmedocs"])
    app.block("globexdocs")
    app.turn(3)
    app.append([of_tenant("b", "globex")])
    taken_in(app)
    assert app.dead_letters.kept == []
    app.find(["globexdocs"])
    taken_in(app)
    assert [(one.reason, one.index) for one in app.dead_letters.kept] == [(Reason.DIMENSION, "globexdocs")]


def test_parked_messages_count_in_the_buffer_and_pause_all_when_it_is_full() -> None:
    app = RoutedApp(TENANTS, buffer=tables.Buffer(max_bytes=1048576))
    app.find(["acmedocs"])
    app.block("globexdocs")
    app.turn(3)
    app.append([of_tenant(f"k{number}", "globex", b" " * 60_000) for number in range(20)])
    app.turn(8)
    assert app.ledger.buffer_bytes > 1048576
    assert app.fetched() == set()


def test_a_full_span_pauses_the_partition_and_the_others_of_it_wait() -> None:
    app = RoutedApp(TENANTS, partitions=2, buffer=tables.Buffer(max_offset_span=4))
    app.find(["acmedocs"])
    app.block("globexdocs")
    app.turn(3)
    app.append([of_tenant("x", "globex"), *[of_tenant(f"a{number}", "acme") for number in range(8)]])
    app.turn(3)
    assert app.fetched() == {1}
    app.find(["globexdocs"])
    for _ in range(4):
        taken_in(app)
        app.deliver_to()
    app.turn(2)
    assert (app.fetched(), len(app.keys()["acmedocs"])) == ({0, 1}, 8)


def test_parked_messages_of_a_partition_that_is_given_back_are_returned() -> None:
    app = RoutedApp(TENANTS)
    app.find(["acmedocs"])
    app.block("globexdocs")
    app.turn(3)
    app.append([of_tenant("b", "globex")])
    taken_in(app)
    assert app.ledger.buffer_bytes > 0
    app.ledger.end(app.ledger.begin_revoke([Partition(TOPIC, 0)]))
    app.intake.drop_returned()
    assert (app.ledger.buffer_bytes, app.ledger.outstanding()) == (0, 0)
    app.find(["globexdocs"])
    app.worker._add_found_indexes()
    app.intake.seal_all()
    assert app.lanes["globexdocs"].is_idle


def test_a_block_of_one_index_pauses_nothing_and_one_of_all_does() -> None:
    app = tenants(partitions=2)
    app.block("globexdocs")
    app.turn(2)
    assert (app.fetched(), app.state()) == ({0, 1}, (State.RUNNING, "running"))
    blocked = {"topic": TOPIC, "reason": "target"}
    assert app.metrics.registry.get_sample_value("oss_vectors_blocked", blocked) == 1
    app.block("acmedocs")
    app.turn(2)
    assert app.fetched() == set()
    assert app.state()[0] is State.BLOCKED
    assert "globexdocs" in app.state()[1]
    app.lanes["acmedocs"].state.unblock()
    app.turn(2)
    assert (app.fetched(), app.state()[0]) == ({0, 1}, State.RUNNING)
    assert app.status.blocks_of(TOPIC) == []
    assert [block.fields for block in app.status.read().blocks] == [
        {"topic": TOPIC, "index": "globexdocs", "reason": "target"}
    ]


@pytest.mark.parametrize("route", [TENANTS, sharded("acmedocs", "globexdocs")], ids=["header", "key"])
def test_blocks_of_other_kinds_count_as_they_did(route: tables.Route) -> None:
    app = RoutedApp(route)
    app.find()
    app.turn(2)
    app.lanes["acmedocs"].state.block(Operation.DESCRIBE, BlockReason.CREDENTIALS, MISSING, 30.0)
    app.lanes["globexdocs"].state.block(Operation.DESCRIBE, BlockReason.TARGET, MISSING, 30.0)
    assert app.status.blocks_of(TOPIC, 0) == [BlockReason.CREDENTIALS, BlockReason.TARGET]
