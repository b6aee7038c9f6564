"""The main loop: the state that it is in, a connection lost and found, and a helper thread that died."""

from collections.abc import Callable

import pytest

from tests.support.app import INDEX, TOPIC, App
from worker.errors import BlockReason, FatalError, SinkError
from worker.ledger import Partition
from worker.telemetry.state import Block, State

RUNNING = (State.RUNNING, "running")


# -- one record from end to end


def test_a_record_goes_from_its_topic_to_the_index_and_its_offset_is_committed() -> None:
    app = App().started()
    app.publish(3)
    app.turn()
    app.clock.advance(app.settings.batch.max_age_seconds)
    app.turn()
    app.deliver()
    app.clock.advance(app.settings.kafka.commit_interval_seconds)
    app.turn()
    assert (set(app.sink.vectors), app.committed()) == ({"0-0", "0-1", "0-2"}, {0: 3})


def test_a_poll_waits_no_longer_than_until_the_next_batch_is_due() -> None:
    app = App().started()
    app.publish()
    app.turn()
    app.clock.advance(app.settings.batch.max_age_seconds - 0.125)
    before = app.clock()
    app.turn()
    assert app.clock() - before == 0.125
    assert app.lane.is_idle is False


def test_partitions_are_opened_when_their_index_is_known_and_ends_are_asked_for_then() -> None:
    app = App(partitions=2)
    app.turn(2)
    assert (app.assignment().is_open, app.end_watcher.calls) == (False, [])
    app.find_index()
    app.turn()
    assert (app.assignment(0).is_open, app.assignment(1).is_open, app.end_watcher.calls) == (True, True, ["look_now"])


def test_nothing_is_opened_before_the_dead_letter_topic_is_found() -> None:
    app = App()
    app.dead_letters.is_ready = False
    app.find_index()
    app.turn(3)
    assert app.assignment().is_open is False
    app.dead_letters.is_ready = True
    app.turn()
    assert app.assignment().is_open is True


# -- states


def test_it_is_starting_until_the_group_is_joined() -> None:
    app = App()
    app.worker._connection.connect()
    app.cluster.members.clear()
    app.turn()
    assert app.state() == (State.STARTING, "joining the group")


def test_it_is_starting_while_the_dead_letter_topic_is_looked_for() -> None:
    app = App()
    app.dead_letters.is_ready = False
    app.turn()
    assert app.state() == (State.STARTING, "looking for the dead-letter topic")


def test_it_is_starting_while_no_index_has_answered_and_says_what_they_answered() -> None:
    app = App()
    app.turn()
    assert app.state() == (State.STARTING, "waiting for the service to tell of its indexes")
    app.finder.answers = {INDEX: "503 ServiceUnavailable: m"}
    app.turn()
    reason = f"waiting for the service to tell of its indexes; index {INDEX}: 503 ServiceUnavailable: m"
    assert app.state() == (State.STARTING, reason)


def test_it_is_running_with_open_partitions_and_without_any() -> None:
    app = App().started()
    app.cluster.owners.clear()
    app.ledger.end(app.ledger.assignments())
    app.cluster.members.append(app.source)  # a second member that has it all
    app.worker._enter_state()
    assert app.state() == RUNNING


def blocks(app: App, *partitions: int | None, reason: BlockReason = BlockReason.NO_DEAD_LETTER) -> None:
    for partition in partitions:
        app.status.block(Block(TOPIC, reason, partition), "a message")


def test_it_is_blocked_when_all_its_partitions_are_and_names_each() -> None:
    app = App(partitions=2).started()
    blocks(app, 0)
    app.turn()
    assert app.state() == RUNNING
    blocks(app, 1)
    app.turn()
    assert app.state() == (
        State.BLOCKED,
        "vectors/0: no_dead_letter: a message; vectors/1: no_dead_letter: a message",
    )
    app.status.unblock(Block(TOPIC, BlockReason.NO_DEAD_LETTER, 0))
    app.turn()
    assert app.state() == RUNNING


def test_a_stuck_record_in_its_only_partition_blocks_it_while_nothing_else_is_accepted() -> None:
    app = App().started()
    for _ in range(10):
        app.status.service.failed(INDEX, SinkError("m", status=500))
    blocks(app, 0, reason=BlockReason.RECORD_STUCK)
    app.turn()
    assert app.state() == (State.BLOCKED, "vectors/0: record_stuck: a message")
    app.status.service.works(INDEX)
    app.turn()
    assert app.state() == RUNNING


def test_a_stuck_record_behind_which_others_pass_does_not_block_its_only_partition() -> None:
    app = App().started()
    app.publish(keys=["stuck", "a"])
    app.turn()
    blocks(app, 0, reason=BlockReason.RECORD_STUCK)
    seen = set()
    for _ in range(20):  # it is tried, and a record passes now and then
        app.status.service.failed(INDEX, SinkError("m", status=413))
        app.turn()
        seen.add(app.state()[0])
        app.clock.advance(30.0)
        app.turn()
        seen.add(app.state()[0])
        app.status.service.works(INDEX)
    assert (seen, app.fetched()) == ({State.RUNNING}, {0})


def test_it_is_blocked_by_what_blocks_its_topic() -> None:
    app = App(partitions=2).started()
    blocks(app, None, reason=BlockReason.CREDENTIALS)
    app.turn()
    assert app.state() == (State.BLOCKED, "vectors: credentials: a message")


def test_it_is_blocked_without_partitions_where_no_topic_is_there() -> None:
    app = App().started()
    app.ledger.end(app.ledger.assignments())
    blocks(app, None, reason=BlockReason.PARTITION_UNREADABLE)
    app.worker._enter_state()
    assert app.state()[0] is State.BLOCKED


def test_each_turn_is_noted_for_the_watchdog_and_for_healthz() -> None:
    app = App(partitions=0)
    app.clock.advance(7.0)
    app.turn()
    assert app.status.read().last_turn == app.clock()


# -- the connection


def test_a_connection_lost_is_made_again_and_reading_begins_where_it_was_committed() -> None:
    app = App().started()
    app.publish(2)
    app.turn()
    app.source.is_cut_off = True
    app.clock.advance(app.lease.session_seconds)
    app.turn()
    assert app.state() == (State.STARTING, "no member of the group for 45 s; joining again")
    assert app.ledger.assignments() == []
    app.source.is_cut_off = False
    while app.state() != RUNNING:
        app.turn()
        assert app.clock() < 2_000.0
    app.turn(8)  # until the batch is old enough
    app.deliver()
    assert (app.assignment().is_open, set(app.sink.vectors)) == (True, {"0-0", "0-1"})


def test_after_a_poll_that_lost_the_connection_the_source_is_asked_for_no_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = App().started()
    asked: list[object] = []
    monkeypatch.setattr(app.source, "positions", asked.append)
    app.clock.advance(app.settings.kafka.commit_interval_seconds)
    app.turn()
    assert len(asked) == 1
    app.source.is_cut_off = True
    app.clock.advance(app.lease.session_seconds)
    app.turn()
    assert len(asked) == 1


def test_a_topic_that_is_made_later_is_read() -> None:
    app = App(partitions=0)
    app.find_index()
    app.turn(3)
    assert app.state() == (State.STARTING, f"kafka has no such topic: {TOPIC}")
    app.cluster.make_topic(TOPIC, 1)
    while app.state() != RUNNING:
        app.turn()
        assert app.clock() < 2_000.0
    assert Partition(TOPIC, 0) in app.cluster.owners


# -- helpers, and the end


@pytest.mark.parametrize(
    "kill",
    [
        lambda app: app.http.dead.append("killed"),
        lambda app: app.finder.dead.append("killed"),
        lambda app: app.dead_letters.dead.append("killed"),
        lambda app: app.end_watcher.dead.append("killed"),
        lambda app: setattr(app.lane, "dead_threads", lambda: ["killed"]),
    ],
    ids=["http and watchdog", "finder", "dead letters", "end offsets", "slot"],
)
def test_a_helper_thread_that_died_ends_the_worker_whichever_it_is(kill: Callable[[App], None]) -> None:
    app = App().started()
    kill(app)
    with pytest.raises(FatalError, match="a thread ended unexpectedly: killed; the log above has its error"):
        app.run()
    assert app.state() == (State.FAILED, "a thread ended unexpectedly: killed; the log above has its error")
    assert app.cluster.members == []


def test_an_error_of_the_main_loop_itself_is_fatal_and_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = App().started()

    def fail(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(app.worker._steering, "steer", fail)
    with pytest.raises(FatalError, match=r"the main loop failed, see the log above: ZeroDivisionError\('on purpose'\)"):
        app.run()
    assert app.state() == (State.FAILED, "ZeroDivisionError('on purpose')")
    (logged,) = [record for record in caplog.records if record.name == "worker.loop"]
    assert (logged.getMessage(), bool(logged.exc_info)) == ("the main loop failed", True)


def test_helpers_are_started_before_the_first_turn_and_ended_after_the_last() -> None:
    app = App()
    app.stop.set()
    app.run()
    assert app.state() == (State.STOPPED, "drained")
    assert (app.finder.calls, app.end_watcher.calls) == (["start", "join"], ["start", "stop"])
    assert (app.dead_letters.calls[0], app.dead_letters.calls[-1], app.lane.state.is_stopping) == (
        "start",
        "stop",
        True,
    )
    assert app.http.calls == []  # it runs on, so that the end can be looked at
