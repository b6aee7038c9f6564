"""The page, /metrics, /healthz and /readyz on one port."""

import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from worker.config import Http
from worker.errors import FatalError
from worker.offsets import Ledger
from worker.page import Page
from worker.state import State, Status

log = logging.getLogger(__name__)

STILL_SECONDS: Final = 60.0  # without a turn of the main loop, after which it is not healthy
_REQUEST_SECONDS: Final = 10.0  # for a client to send its request


class Answer(NamedTuple):
    """What a GET is answered with; `headers` are those beside type and length."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


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
        """Return what a GET of `path` is answered with; `accept` is its Accept header."""
        if path == "/":
            return Answer(HTTPStatus.OK, "text/html; charset=utf-8", self._page.html(), self._page.headers)
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return Answer(HTTPStatus.OK, content_type, encode(self._registry))
        if path == "/healthz":
            return self._healthz()
        if path == "/readyz":
            return self._readyz()
        return Answer(
            HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"there are /, /metrics, /healthz and /readyz\n"
        )

    def tick(self) -> None:
        """Let the page take its samples; called about twice a second. It never raises: the other paths go on."""
        try:
            self._page.tick()
        except Exception:
            log.exception("the page could not take a sample")

    def _healthz(self) -> Answer:
        """Healthy in every state while the main loop turns: a restart mends nothing that blocks."""
        still = self._clock() - self._status.read().last_turn
        body = {"seconds_since_last_turn": round(still, 3)}
        return _json(HTTPStatus.OK if still < STILL_SECONDS else HTTPStatus.SERVICE_UNAVAILABLE, body)

    def _readyz(self) -> Answer:
        reading = self._status.read()
        body = {
            "state": reading.state.value,
            "reason": reading.reason,
            "assigned_partitions": len(self._ledger.assignments()),
        }
        is_ready = reading.state is State.RUNNING
        return _json(HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE, body)


def _json(status: HTTPStatus, body: dict[str, Any]) -> Answer:
    return Answer(status, "application/json", msgspec.json.encode(body))


class HttpServer:
    """Serves the pages on a thread for each request."""

    def __init__(self, settings: Http, pages: Pages) -> None:
        try:
            self._server = _server(settings.host, pages)((settings.host, settings.port), _handler(pages))
        except OSError as error:
            raise FatalError(f"http.host = {settings.host!r}, http.port = {settings.port}: {error.strerror}") from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()
        log.info("http", extra={"port": self.port})

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the parent's shape
        """A client that goes away in the middle is nothing to tell of."""
        log.debug("http request failed", extra={"client": client_address})


def _server(host: str, pages: Pages) -> type[_Server]:
    class Server(_Server):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def service_actions(self) -> None:
            """The parent calls it between requests, and every half a second without any."""
            pages.tick()

    return Server


def _handler(pages: Pages) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS
        server_version = "oss-vectors-worker"
        sys_version = ""

        def do_GET(self) -> None:
            answer = pages.answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            for name, value in answer.headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_HEAD = do_GET  # noqa: N815 - the name that the parent looks for

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's shape
            pass  # probes and scrapes would fill the log

    return Handler
