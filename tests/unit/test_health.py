"""What the HTTP port answers in each state."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus

import msgspec
import pytest

from tests.unit.samples import FakeClock, opened
from worker.config import Http
from worker.errors import BlockReason, FatalError
from worker.health import HttpServer, Pages
from worker.metrics import Metrics
from worker.offsets import Ledger
from worker.state import Block, State, Status


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> Ledger:
    return Ledger(["vectors"], clock)


@pytest.fixture
def status(clock: FakeClock) -> Status:
    return Status(clock())


@pytest.fixture
def pages(clock: FakeClock, ledger: Ledger, status: Status) -> Pages:
    return Pages(Metrics(ledger, status, ["vectors"], ["docs"]).registry, status, ledger, clock)


@pytest.mark.parametrize("state", State)
def test_only_running_is_ready(pages: Pages, status: Status, ledger: Ledger, state: State) -> None:
    opened(ledger)
    opened(ledger, partition=1)
    status.enter(state, "because")
    code, content_type, body = pages.answer("/readyz", "")
    assert code == (HTTPStatus.OK if state is State.RUNNING else HTTPStatus.SERVICE_UNAVAILABLE)
    assert content_type == "application/json"
    assert msgspec.json.decode(body) == {"state": state.value, "reason": "because", "assigned_partitions": 2}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(("seconds", "code"), [(0.0, 200), (59.9, 200), (60.0, 503), (600.0, 503)])
def test_in_every_state_it_is_healthy_until_the_main_loop_stood_still_for_a_minute(
    pages: Pages, status: Status, clock: FakeClock, state: State, seconds: float, code: int
) -> None:
    status.enter(state, "because")
    clock.pass_by(1000.0)
    status.turned(clock())
    clock.pass_by(seconds)
    assert pages.answer("/healthz", "")[0] == code


def test_a_blocked_topic_changes_neither_health_nor_readiness_by_itself(pages: Pages, status: Status) -> None:
    status.enter(State.RUNNING, "running")
    status.block(Block("vectors", BlockReason.TARGET), "no such index")
    assert [pages.answer(path, "")[0] for path in ("/healthz", "/readyz")] == [200, 200]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("", "text/plain"), ("text/plain", "text/plain"), ("application/openmetrics-text; version=1.0.0", "openmetrics")],
)
def test_metrics_come_in_the_form_that_is_asked_for(pages: Pages, accept: str, expected: str) -> None:
    code, content_type, body = pages.answer("/metrics", accept)
    assert (code, expected in content_type, b"oss_vectors_records_consumed" in body) == (HTTPStatus.OK, True, True)
    assert body.endswith(b"# EOF\n") == (expected == "openmetrics")


def test_another_path_is_not_found(pages: Pages) -> None:
    assert pages.answer("/nothing", "")[0] == HTTPStatus.NOT_FOUND


@pytest.fixture
def server(pages: Pages) -> Iterator[HttpServer]:
    running = HttpServer(Http(host="127.0.0.1", port=0), pages)
    running.start()
    yield running
    running.stop()


def test_the_pages_are_served_on_one_port_whatever_the_query(server: HttpServer) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz?verbose=1", timeout=5) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz", timeout=5)
    assert (raised.value.code, msgspec.json.decode(raised.value.read())["state"]) == (503, "starting")
    raised.value.close()


def test_a_port_that_is_taken_is_fatal_and_told_with_its_setting(server: HttpServer, pages: Pages) -> None:
    with pytest.raises(FatalError, match=rf"http.port = {server.port}: Address already in use"):
        HttpServer(Http(host="127.0.0.1", port=server.port), pages)
