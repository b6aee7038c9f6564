"""What the HTTP port answers in each state."""

import base64
import hashlib
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.samples import FakeClock, opened
from worker.errors import BlockReason, FatalError, SinkError
from worker.ledger import Ledger
from worker.settings.tables import Http
from worker.telemetry.health import Pages, serve
from worker.telemetry.http_server import HttpServer
from worker.telemetry.metrics import Metrics
from worker.telemetry.page.page import Page
from worker.telemetry.state import BLOCKS_CHARACTERS, WARNINGS_CHARACTERS, Block, State, Status


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> Ledger:
    return Ledger(["vectors"], clock)


@pytest.fixture
def status(clock: FakeClock) -> Status:
    return Status(clock(), clock)


@pytest.fixture
def pages(clock: FakeClock, ledger: Ledger, status: Status) -> Pages:
    registry = Metrics(ledger, status, ["vectors"], ["docs"]).registry
    page = Page(registry, status, "[batch]", frozenset, clock, clock)
    return Pages(registry, status, ledger, page, clock)


@pytest.mark.parametrize("state", State)
def test_only_running_is_ready(pages: Pages, status: Status, ledger: Ledger, state: State) -> None:
    opened(ledger)
    opened(ledger, partition=1)
    status.enter(state, "because")
    code, content_type, body, _ = pages.answer("/readyz", "")
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
    code, content_type, body, _ = pages.answer("/metrics", accept)
    assert (code, expected in content_type, b"oss_vectors_records_consumed" in body) == (HTTPStatus.OK, True, True)
    assert body.endswith(b"# EOF\n") == (expected == "openmetrics")


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=abc",
        "application/openmetrics-text; version=",
        "application/openmetrics-text; version=1.0.0\r",
        "application/openmetrics-text; version=99.9.9; escaping=x",
        "text/plain; version=\xb2.0",
        "*/*;q=x",
        "\xff\xfe",
        ";" * 10_000,
        "application/openmetrics-text;" + "version=9" * 1000,
    ],
)
def test_an_accept_header_that_makes_no_sense_gets_figures_all_the_same(pages: Pages, accept: str) -> None:
    code, content_type, body, _ = pages.answer("/metrics", accept)
    assert (code, b"oss_vectors_records_consumed" in body) == (HTTPStatus.OK, True)
    assert content_type.isprintable()
    content_type.encode("latin-1")


@given(
    st.lists(
        st.sampled_from(
            ["application/openmetrics-text", "text/plain", ";", ",", "version", "=", "1.0.0", "0.0.4", "2.0"]
        )
        | st.sampled_from(["escaping", "allow-utf-8", "dots", "values", "q", "-1", "1e9", "\xa0", "\t", ".", "\x1f"])
        | st.text(max_size=3),
        max_size=12,
    ).map("".join)
)
def test_whatever_is_accepted_figures_come(accept: str) -> None:
    ledger = Ledger(["vectors"], FakeClock())
    status = Status(0.0)
    registry = Metrics(ledger, status, ["vectors"], ["docs"]).registry
    page = Page(registry, status, "", frozenset, FakeClock(), FakeClock())
    code, content_type, body, _ = Pages(registry, status, ledger, page, FakeClock()).answer("/metrics", accept)
    assert (code, len(body) > 1000, content_type.isascii() and content_type.isprintable()) == (
        HTTPStatus.OK,
        True,
        True,
    )


def test_words_that_no_encoding_has_a_form_for_do_not_cost_readiness(pages: Pages, status: Status) -> None:
    status.enter(State.BLOCKED, "half an emoji \ud83d\nforged")
    assert msgspec.json.decode(pages.answer("/readyz", "").body)["reason"] == "half an emoji \ufffd forged"


def reason_of(pages: Pages) -> str:
    answer: dict[str, str] = msgspec.json.decode(pages.answer("/readyz", "").body)
    return answer["reason"]


STUCK = Block("vectors", BlockReason.RECORD_STUCK, 0)


def test_the_reason_of_a_running_worker_has_what_is_blocked_with_the_words_of_who_refuses(
    pages: Pages, status: Status
) -> None:
    status.enter(State.RUNNING, "running")
    status.block(STUCK, "vectors/0 offset 17", "403: not the service's answer")
    status.block(Block("other", BlockReason.DEAD_LETTER_LIMIT), "more than 10 %", "other/1 offset 5: no key")
    assert reason_of(pages) == (
        "running; vectors/0: record_stuck: vectors/0 offset 17: 403: not the service's answer; "
        "other: dead_letter_limit: more than 10 %: other/1 offset 5: no key"
    )
    status.unblock(STUCK)
    status.unblock(Block("other", BlockReason.DEAD_LETTER_LIMIT))
    assert reason_of(pages) == "running"


@pytest.mark.parametrize("state", State)
def test_no_state_hides_a_warning(pages: Pages, status: Status, clock: FakeClock, state: State) -> None:
    status.warn("commits refused", "commits are refused for vectors")
    status.warn("topic missing: dlq", "the dead-letter topic is not there")
    status.enter(state, "because")
    status.service.failed("docs", SinkError("busy", status=503))
    clock.pass_by(60.0)
    assert reason_of(pages).startswith("because; ")
    assert reason_of(pages).endswith("; commits are refused for vectors; the dead-letter topic is not there")


def test_a_worker_that_waits_for_something_else_says_what_is_blocked_and_a_blocked_one_says_it_once(
    pages: Pages, status: Status
) -> None:
    status.block(STUCK, "a message")
    said = "vectors/0: record_stuck: a message"
    status.enter(State.STARTING, "looking for the dead-letter topic")
    assert reason_of(pages) == f"looking for the dead-letter topic; {said}"
    status.enter(State.BLOCKED, "; ".join(status.blocks_in_words()))
    assert reason_of(pages) == said


def test_a_reason_is_bounded_whatever_is_wrong_and_leaves_room_for_each_kind(pages: Pages, status: Status) -> None:
    long = "x" * 100_000
    status.enter(State.RUNNING, "running")
    for partition in range(1000):
        status.block(Block("vectors", BlockReason.RECORD_STUCK, partition), long, long)
    status.block(Block("other", BlockReason.REGISTRY), f"404 {long}")
    for number in range(100):
        status.warn(f"topic missing: {number}", f"topic {number} {long}")
    reason = reason_of(pages)
    assert len(reason) < BLOCKS_CHARACTERS + WARNINGS_CHARACTERS + 200
    for words in ("other: registry: 404 xx", "; and 991 more blocks; ", "topic 0 xx", "; and 95 more warnings"):
        assert words in reason


def test_an_outage_of_the_service_is_the_reason_of_a_worker_that_stays_ready(
    pages: Pages, status: Status, clock: FakeClock
) -> None:
    status.enter(State.RUNNING, "running")
    status.service.failed("docs", SinkError("busy", status=503, code="ServiceUnavailable"))
    clock.pass_by(840.0)
    expected = "running; index docs: no request accepted for 14 min: 503 ServiceUnavailable"
    assert (pages.answer("/readyz", "").status, reason_of(pages)) == (HTTPStatus.OK, expected)
    status.service.works("docs")
    assert reason_of(pages) == "running"


@pytest.mark.parametrize("path", ["/nothing", "//", "/index.html", ""])
def test_another_path_is_not_found_and_told_which_there_are(pages: Pages, path: str) -> None:
    answer = pages.answer(path, "")
    assert (answer.status, answer.body) == (
        HTTPStatus.NOT_FOUND,
        b"there are /, /metrics, /healthz and /readyz\n",
    )


def test_a_sample_that_cannot_be_taken_is_logged_and_ends_nothing(
    pages: Pages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_page: Page) -> None:
        raise ValueError("no figures")

    monkeypatch.setattr(Page, "tick", fail)
    pages.tick()
    assert [record.getMessage() for record in caplog.records] == ["the page could not take a sample"]


@pytest.fixture
def server(pages: Pages) -> Iterator[HttpServer]:
    running = serve(Http(host="127.0.0.1", port=0), pages)
    yield running
    running.stop()


def test_the_pages_are_served_on_one_port_whatever_the_query(server: HttpServer) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz?verbose=1", timeout=5) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz", timeout=5)
    assert (raised.value.code, msgspec.json.decode(raised.value.read())["state"]) == (503, "starting")
    raised.value.close()


def test_the_page_is_served_with_a_policy_that_lets_nothing_else_in(server: HttpServer) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=5) as answer:
        body = answer.read()
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert (answer.headers["Cache-Control"], answer.headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    assert policy["default-src"] == "'none'"
    for directive, tag in (("style-src", b"style"), ("script-src", b"script")):
        (text,) = re.findall(b"<%s>(.*?)</%s>" % (tag, tag), body, re.DOTALL)
        assert policy[directive] == f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz"])
def test_a_head_request_gets_the_headers_alone(server: HttpServer, path: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
        headers, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    (length,) = re.findall(rb"Content-Length: (\d+)", headers)
    assert (headers.split()[1], body, int(length) > 0) == (b"200", b"", True)


def test_the_server_lets_the_page_take_samples_without_any_request(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.port
    ticked = threading.Event()
    monkeypatch.setattr(Page, "tick", lambda _: ticked.set())
    assert ticked.wait(10.0) is True


def test_a_port_that_is_taken_is_fatal_and_told_with_its_setting(server: HttpServer, pages: Pages) -> None:
    with pytest.raises(FatalError, match=rf"http.port = {server.port}: Address already in use"):
        serve(Http(host="127.0.0.1", port=server.port), pages)
