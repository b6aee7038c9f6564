"""Helper threads that end unexpectedly, watched in one way: the real helpers, each with its thread ended."""

import threading
from collections.abc import Callable
from http import HTTPStatus

import pytest

from tests.support.app import App, FakeHelper
from tests.support.bounded import join
from tests.support.fakes import FakeClock
from worker.app.helpers import check
from worker.app.watchdog import Watchdog
from worker.consumer.ends import EndWatcher
from worker.errors import FatalError
from worker.telemetry.http_request import plain
from worker.telemetry.http_server import HttpServer
from worker.telemetry.state import Status


def test_nothing_is_raised_while_all_threads_run() -> None:
    check([FakeHelper(), FakeHelper()])


def test_every_thread_that_ended_is_named() -> None:
    first, second, third = FakeHelper(), FakeHelper(), FakeHelper()
    first.dead, third.dead = ["slot-docs-0", "slot-docs-1"], ["http"]
    with pytest.raises(FatalError, match=r"a thread ended unexpectedly: slot-docs-0, slot-docs-1, http; the log above"):
        check([first, second, third])


def _http() -> HttpServer:
    return HttpServer(
        ("127.0.0.1", 0),
        lambda _: plain(HTTPStatus.OK, ""),
        is_cheap=lambda _: True,
        tick=lambda: None,
        clock=FakeClock(),
        name="test",
    )


def _watchdog() -> Watchdog:
    return Watchdog(Status(0.0), still_seconds=60.0, end=lambda _: None)


def _end_watcher() -> EndWatcher:
    app = App()
    return EndWatcher(app.settings.kafka, app.ledger, app.metrics, app.status, clock=app.clock)


@pytest.mark.parametrize("is_stopped", [False, True], ids=["it ended by itself", "it was asked to end"])
@pytest.mark.parametrize(
    ("make", "name"),
    [(_http, "http"), (_watchdog, "watchdog"), (_end_watcher, "end-offsets")],
    ids=["http", "watchdog", "end offsets"],
)
def test_a_helper_names_its_thread_where_it_was_not_asked_to_end(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], HttpServer | Watchdog | EndWatcher], name: str, is_stopped: bool
) -> None:
    helper = make()
    ends = threading.Event()

    def run() -> None:
        assert ends.wait(30)

    monkeypatch.setattr(helper._thread, "_target", run)
    helper.start()
    assert helper.dead_threads() == []
    ends.set()
    if is_stopped:
        helper.stop()
    join(helper._thread)
    assert helper.dead_threads() == ([] if is_stopped else [name])
    if not is_stopped:
        helper.stop()  # it closes what it holds
