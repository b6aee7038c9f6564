"""The thread of the end offsets and the survey on it: what either costs the other, and what neither costs the worker."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.bounded import END_S
from tests.support.client import FakeConsumer
from tests.unit.samples import FakeClock
from worker.consumer import client_config
from worker.consumer.ends import EndWatcher
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


def watcher_with(survey: Any) -> EndWatcher:
    ledger, clock = Ledger(["vectors"], FakeClock()), FakeClock()
    metrics = Metrics(ledger, Status(0.0), ["vectors"], [])
    return EndWatcher(Kafka(), ledger, metrics, clock=clock, interval=0.01, stop_timeout=END_S, survey=survey)


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
