"""The thread of the end offsets and the survey on it: what either costs the other, and what neither costs the worker.

Then what is said where no end is known, and of transactions that stay open.
"""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from kafka import TopicPartition

from tests.support.bounded import END_S
from tests.support.client import FakeConsumer
from tests.unit.samples import FakeClock, opened
from worker.consumer import client_config
from worker.consumer.ends import UNKNOWN_SECONDS, EndWatcher, _OpenTransactions
from worker.ledger import Ledger
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status


class FakeSurvey:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.looked = threading.Semaphore(0)
        self.failed = threading.Semaphore(0)
        self.consumers: list[Any] = []
        self.waits = False
        self.was_cut = threading.Event()

    def look(self, consumer: Any, pause: Callable[[float], bool]) -> None:
        self.consumers.append(consumer)
        self.looked.release()
        while self.waits:
            if pause(0.01):
                self.was_cut.set()
                return

    def note_failure(self) -> None:
        self.failed.release()


def watcher_with(
    survey: Any, status: Status | None = None, clock: FakeClock | None = None, owned: int = 0
) -> EndWatcher:
    clock, status = clock or FakeClock(), status or Status(0.0)
    ledger = Ledger(["vectors"], clock)
    for number in range(owned):
        opened(ledger, partition=number)
    metrics = Metrics(ledger, status, ["vectors"], [])
    return EndWatcher(Kafka(), ledger, metrics, status, clock=clock, interval=0.01, stop_timeout=END_S, survey=survey)


def test_the_survey_has_a_turn_after_each_look_with_the_same_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer, survey = FakeConsumer(), FakeSurvey()
    monkeypatch.setattr(client_config, "make_consumer", lambda *_args, **_config: consumer)
    watcher = watcher_with(survey)
    watcher.start()
    try:
        assert all(survey.looked.acquire(timeout=END_S) for _ in range(3))
    finally:
        watcher.stop()
    assert set(map(id, survey.consumers)) == {id(consumer)}


def test_where_no_broker_can_be_reached_the_survey_forgets_and_the_thread_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_args: object, **_config: object) -> Any:
        raise OSError("refused")

    monkeypatch.setattr(client_config, "make_consumer", refuse)
    survey = FakeSurvey()
    watcher = watcher_with(survey)
    watcher.start()
    try:
        assert all(survey.failed.acquire(timeout=END_S) for _ in range(3))
        assert watcher.dead_threads() == []
    finally:
        watcher.stop()
    assert survey.consumers == []


@pytest.mark.parametrize("end", [EndWatcher.stop, EndWatcher.look_now], ids=["an end", "new partitions"])
def test_a_survey_that_waits_for_brokers_is_cut_short_by(
    end: Callable[[EndWatcher], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_config, "make_consumer", lambda *_args, **_config: FakeConsumer())
    survey = FakeSurvey()
    survey.waits = True
    watcher = watcher_with(survey)
    watcher.start()
    try:
        assert survey.looked.acquire(timeout=END_S)
        end(watcher)
        assert survey.was_cut.wait(END_S)
    finally:
        survey.waits = False
        watcher.stop()


@pytest.mark.parametrize("owned", [0, 1])
def test_ends_that_are_not_known_for_a_minute_are_a_warning_where_partitions_are_owned(
    monkeypatch: pytest.MonkeyPatch, owned: int
) -> None:
    clock, status, survey = FakeClock(), Status(0.0), FakeSurvey()

    def refuse(*_args: object, **_config: object) -> Any:
        clock.pass_by(UNKNOWN_SECONDS / 2)
        raise OSError("too many connections")

    monkeypatch.setattr(client_config, "make_consumer", refuse)
    watcher = watcher_with(survey, status, clock, owned)
    watcher.start()
    try:
        assert all(survey.failed.acquire(timeout=END_S) for _ in range(4))  # the third warns before
        told = status.warnings()
    finally:
        watcher.stop()
    assert [warning for warning in told if "not known, so neither is the lag" in warning] == told
    assert (len(told), all("too many connections" in warning for warning in told)) == (owned, True)


def test_the_warning_ends_when_an_end_is_known() -> None:
    clock, status = FakeClock(), Status(0.0)
    watcher = watcher_with(None, status, clock, owned=2)
    found = []
    for seconds in (UNKNOWN_SECONDS - 1, 1):
        clock.pass_by(seconds)
        watcher._warn_if_unknown()
        found.append(len(status.warnings()))
    assert found == [0, 1]
    watcher._ends = {TopicPartition("vectors", 0): 10}
    watcher._warn_if_unknown()
    assert status.warnings() == []


FIRST, SECOND = TopicPartition("vectors", 0), TopicPartition("vectors", 1)


def test_a_transaction_that_stays_open_is_a_warning_until_it_ends() -> None:
    clock, status = FakeClock(), Status(0.0)
    transactions = _OpenTransactions(status, clock, 60.0)
    found = []
    for seconds, high in ((0, 4), (59, 5), (2, 6), (60, 6)):
        clock.pass_by(seconds)
        transactions.look({FIRST: 9, SECOND: 1}, {FIRST: 9, SECOND: high})
        found.append(status.warnings())
    lasting = (
        "a producer's transaction has been open in vectors/1 for {} s: nothing from offset 1 on is read until it ends"
    )
    assert found == [[], [], [lasting.format(61)], [lasting.format(121)]]
    transactions.look({FIRST: 9, SECOND: 7}, {FIRST: 9, SECOND: 7})
    assert status.warnings() == []


def test_transactions_that_begin_and_end_all_the_time_are_no_warning() -> None:
    clock, status = FakeClock(), Status(0.0)
    transactions = _OpenTransactions(status, clock, 60.0)
    for end in range(0, 100, 10):
        transactions.look({FIRST: end}, {FIRST: end + 5})
        clock.pass_by(30)
    assert status.warnings() == []


@pytest.mark.parametrize("event", ["given back", "not known"])
def test_an_open_transaction_is_warned_of_only_while_the_partition_is_owned_and_known(event: str) -> None:
    clock, status = FakeClock(), Status(0.0)
    watcher = watcher_with(None, status, clock)
    for _ in range(2):
        watcher._transactions.look({SECOND: 1}, {SECOND: 4})
        clock.pass_by(61)
    assert len(status.warnings()) == 1
    if event == "given back":
        watcher._look(FakeConsumer())
    else:
        watcher._forget_all()
    assert status.warnings() == []
