"""The page, /metrics, /healthz and /readyz on one port."""

import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest

from worker.errors import FatalError
from worker.ledger import Ledger
from worker.settings.tables import Http
from worker.telemetry.http_request import Answer, plain
from worker.telemetry.http_server import HttpServer
from worker.telemetry.page.notices import DEAD_SECONDS
from worker.telemetry.page.page import Page
from worker.telemetry.state import Reading, State, Status

log = logging.getLogger("worker.health")

STILL_SECONDS: Final = DEAD_SECONDS
DEAR_PATHS: Final = frozenset({"/", "/metrics"})  # they read every metric


class Pages:
    """What each path answers."""

    def __init__(
        self, registry: CollectorRegistry, status: Status, ledger: Ledger, page: Page, clock: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._status = status
        self._ledger = ledger
        self._page = page
        self._clock = clock

    def answer(self, path: str, accept: str) -> Answer:
        """Return the answer to a GET of `path`; `accept` is its Accept header."""
        if path == "/":
            return Answer(HTTPStatus.OK, "text/html; charset=utf-8", self._page.html(), self._page.headers)
        if path == "/metrics":
            return self._metrics(accept)
        if path == "/healthz":
            return self._healthz()
        if path == "/readyz":
            return self._readyz()
        return plain(HTTPStatus.NOT_FOUND, "there are /, /metrics, /healthz and /readyz")

    def tick(self) -> None:
        """Let the page collect its samples; called about twice a second. It never raises: the other paths work without the page."""
        try:
            self._page.tick()
        except Exception:
            log.exception("the page could not take a sample")

    def _metrics(self, accept: str) -> Answer:
        """Answer in the form that the Accept header asks for, and in the plain text form where it cannot be read."""
        try:
            encode, content_type = choose_encoder(accept)
            return Answer(HTTPStatus.OK, content_type, encode(self._registry))
        except Exception:  # the library does not check the version that a client sends
            return Answer(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry))

    def _healthz(self) -> Answer:
        """Healthy in every state while the main loop turns: a restart fixes nothing that blocks."""
        still = self._clock() - self._status.read().last_turn
        body = {"seconds_since_last_turn": round(still, 3)}
        return _json(HTTPStatus.OK if still < STILL_SECONDS else HTTPStatus.SERVICE_UNAVAILABLE, body)

    def _readyz(self) -> Answer:
        reading = self._status.read()
        is_ready = reading.state is State.RUNNING
        body = {
            "state": reading.state.value,
            "reason": self._reason(reading),
            "assigned_partitions": len(self._ledger.assignments()),
        }
        return _json(HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE, body)

    def _reason(self, reading: Reading) -> str:
        """Return the state's reason, and after it all else that is wrong: it may stop a part of what a running worker does."""
        parts = [reading.reason]
        if reading.state is State.RUNNING:
            parts += self._status.service.sentences()
        if reading.state is not State.BLOCKED:  # its reason is what is blocked
            parts += self._status.blocks_in_words()
        return "; ".join([*parts, *self._status.warnings_in_words()])


def _json(status: HTTPStatus, body: dict[str, Any]) -> Answer:
    return Answer(status, "application/json", msgspec.json.encode(body))


def serve(settings: Http, pages: Pages, clock: Callable[[], float] = time.monotonic) -> HttpServer:
    """Serve the pages from now on, and return the running server. Raises `FatalError` where the port is not free."""
    try:
        server = HttpServer(
            (settings.host, settings.port),
            lambda request: pages.answer(request.path, request.accept),
            is_cheap=lambda path: path not in DEAR_PATHS,
            tick=pages.tick,
            clock=clock,
            name="oss-vectors-worker",
        )
    except OSError as error:
        raise FatalError(f"http.host = {settings.host!r}, http.port = {settings.port}: {error.strerror}") from None
    server.start()
    log.info("http", extra={"port": server.port})
    return server
