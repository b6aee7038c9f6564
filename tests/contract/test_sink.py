"""One suite for the service, as `worker.ports.Sink` promises it: over the emulator through the official SDK, and the fake.

What only a connection can do (time-outs of the network, bodies that are no JSON, credentials) is asked of `OssSink`
alone, below.
"""

import contextlib
import json
import os
import shlex
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Unpack

import pytest
from alibabacloud_oss_v2.credentials import Credentials

from tests.support.bounded import join, thread
from tests.support.emulator import Emulator, Fault
from tests.support.fakes import FakeSink
from worker.errors import BlockReason, NotSent, Refused, RetryReason, SettingsError, SinkError, TargetError, Transient
from worker.oss import sink as sink_module
from worker.oss.credentials import providers
from worker.oss.credentials.providers import Provider
from worker.oss.dialect import Envelope
from worker.oss.sink import OssSink
from worker.ports import Sink
from worker.records.target import Target
from worker.settings.tables import Oss

QUICK_SECONDS = 20.0  # far less than any time-out of the settings here
ENVIRONMENT = {"OSS_ACCESS_KEY_ID": "test", "OSS_ACCESS_KEY_SECRET": "test"}


class Stage(Protocol):
    """A sink, and what a test does to the service behind it."""

    @property
    def sink(self) -> Sink: ...
    @property
    def index(self) -> str: ...
    @property
    def held_back(self) -> set[str]: ...
    def fault(self, **rule: Unpack[Fault]) -> None: ...
    def stored(self) -> dict[str, list[float]]: ...
    def puts(self) -> int: ...
    def be_creating(self) -> None: ...


@dataclass
class RealStage:
    """The emulator, reached by the SDK."""

    sink: Sink
    index: str
    emulator: Emulator
    bucket: str
    held_back: set[str]

    def fault(self, **rule: Unpack[Fault]) -> None:
        """Put a rule in force."""
        rule["bucket"] = self.bucket
        self.emulator.fault(**rule)

    def stored(self) -> dict[str, list[float]]:
        """Return the vectors."""
        return {key: one.data.tolist() for key, one in self.emulator.dump(self.bucket, self.index).items()}

    def puts(self) -> int:
        """Return how many PutVectors have arrived."""
        return sum(entry.operation == "PutVectors" for entry in self.emulator.requests(bucket=self.bucket))

    def be_creating(self) -> None:
        """Let the index be `creating`."""
        self.emulator.limits(bucket=self.bucket, creating_seconds=3600.0)


@dataclass
class FakeStage:
    """The fake."""

    sink: FakeSink
    index: str
    held_back: set[str]

    def fault(self, **rule: Unpack[Fault]) -> None:
        """Put a rule in force."""
        self.sink.fault(**rule)

    def stored(self) -> dict[str, list[float]]:
        """Return the vectors."""
        return {key: element["data"]["float32"] for key, element in self.sink.vectors.items()}

    def puts(self) -> int:
        """Return how many PutVectors have arrived."""
        return sum(request.operation == "PutVectors" for request in self.sink.requests)

    def be_creating(self) -> None:
        """Let the index be `creating`."""
        self.sink.status = "creating"


def settings(bucket: str, endpoint: str, **changes: Any) -> Oss:
    """Return settings that reach an endpoint on this machine."""
    given: dict[str, Any] = {
        "region": "cn-hangzhou", "bucket": bucket, "account_id": "1234567890", "endpoint": endpoint,
        "connect_timeout_seconds": 5.0, "write_timeout_seconds": 30.0, "read_timeout_seconds": 30.0,
    }  # fmt: skip
    return Oss(**(given | changes))


@contextlib.contextmanager
def real_sink(
    bucket: str, endpoint: str, *, may_send: Callable[[], bool] = lambda: True, **changes: Any
) -> Iterator[OssSink]:
    """Yield a sink, and close it."""
    sink = OssSink(settings(bucket, endpoint, **changes), ENVIRONMENT, max_connections=4, may_send=may_send)
    try:
        yield sink
    finally:
        sink.close()


@pytest.fixture(params=["emulator", "fake"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Yield the service, real or fake, with an empty index of dimension 2."""
    if request.param == "fake":
        held_back: set[str] = set()
        target = Target("docs", 2, "cosine", frozenset({"title"}))
        yield FakeStage(FakeSink(target, may_send=lambda: not held_back), "docs", held_back)
        return
    emulator: Emulator = request.getfixturevalue("emulator")
    bucket, index = emulator.new_index(2, "cosine", non_filterable=["title"], index="docs")
    held = set[str]()
    with real_sink(bucket, emulator.endpoint, may_send=lambda: not held) as sink:
        yield RealStage(sink, index, emulator, bucket, held)
    emulator.clear_faults(bucket)


def put_body(index: str, **vectors: list[float]) -> bytes:
    """Return a PutVectors body."""
    elements = [{"key": key, "data": {"float32": data}} for key, data in vectors.items()]
    return json.dumps({"indexName": index, "vectors": elements}).encode()


def delete_body(index: str, *keys: str) -> bytes:
    """Return a DeleteVectors body."""
    return json.dumps({"indexName": index, "keys": keys}).encode()


def error_of(request: Callable[[], object]) -> SinkError:
    """Return what a request raises."""
    with pytest.raises(SinkError) as caught:
        request()
    return caught.value


def transient(request: Callable[[], object]) -> Transient:
    """Return the transient error that a request raises."""
    error = error_of(request)
    assert isinstance(error, Transient), repr(error)
    return error


# -- one suite for both


def test_put_writes_vectors_and_returns_200(stage: Stage) -> None:
    assert stage.sink.put(put_body(stage.index, a=[1, 0], b=[0, 1])) == 200
    assert stage.stored() == {"a": [1, 0], "b": [0, 1]}


def test_put_of_a_key_that_is_there_replaces_it(stage: Stage) -> None:
    stage.sink.put(put_body(stage.index, a=[1, 0]))
    stage.sink.put(put_body(stage.index, a=[0, 1]))
    assert stage.stored() == {"a": [0, 1]}


def test_delete_removes_keys_and_takes_absent_ones_for_removed(stage: Stage) -> None:
    stage.sink.put(put_body(stage.index, a=[1, 0], b=[0, 1]))
    assert stage.sink.delete(delete_body(stage.index, "a", "absent")) == 204
    assert stage.stored() == {"b": [0, 1]}


def test_describe_tells_of_the_index(stage: Stage) -> None:
    assert stage.sink.describe(stage.index) == Target("docs", 2, "cosine", frozenset({"title"}))


def test_describe_of_an_index_that_is_being_made_is_transient(stage: Stage) -> None:
    stage.be_creating()
    error = transient(lambda: stage.sink.describe(stage.index))
    assert (error.kind, error.unknown_outcome) == (RetryReason.SERVER, False)


def test_describe_of_an_absent_index_blocks_for_its_target(stage: Stage) -> None:
    error = error_of(lambda: stage.sink.describe("other"))
    assert isinstance(error, TargetError)
    assert (error.block, error.status, error.code) == (BlockReason.TARGET, 404, "NoSuchVectorIndex")


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_the_service_refuses_for_its_content_is_refused_and_not_written(stage: Stage, status: int) -> None:
    stage.fault(operation="PutVectors", status=status, code="InvalidArgument", message="no good")
    error = error_of(lambda: stage.sink.put(put_body(stage.index, a=[1, 0])))
    assert isinstance(error, Refused)
    assert (error.status, error.code, error.message) == (status, "InvalidArgument", "no good")
    assert stage.stored() == {}


@pytest.mark.parametrize(
    ("status", "block"),
    [(401, BlockReason.CREDENTIALS), (403, BlockReason.CREDENTIALS), (404, BlockReason.TARGET)],
)
def test_what_is_wrong_with_the_caller_or_the_target_blocks(stage: Stage, status: int, block: BlockReason) -> None:
    stage.fault(operation="PutVectors", status=status)
    error = error_of(lambda: stage.sink.put(put_body(stage.index, a=[1, 0])))
    assert isinstance(error, TargetError)
    assert (error.block, error.status) == (block, status)


@pytest.mark.parametrize(
    ("status", "code", "kind", "unknown_outcome"),
    [
        (408, "RequestTimeout", RetryReason.SERVER, False),
        (429, "QpsLimitExceeded", RetryReason.THROTTLED, False),
        (500, "InternalError", RetryReason.SERVER, True),
        (502, "BadGateway", RetryReason.SERVER, True),
        (503, "ServiceUnavailable", RetryReason.SERVER, True),
        (503, "TotalQpsLimitExceeded", RetryReason.THROTTLED, False),
        (504, "GatewayTimeout", RetryReason.SERVER, True),
    ],
)
def test_what_may_pass_is_transient(
    stage: Stage, status: int, code: str, kind: RetryReason, unknown_outcome: bool
) -> None:
    stage.fault(operation="PutVectors", status=status, code=code)
    error = transient(lambda: stage.sink.put(put_body(stage.index, a=[1, 0])))
    said = (error.status, error.code, error.kind, error.unknown_outcome, error.retry_after)
    assert said == (status, code, kind, unknown_outcome, None)


def test_retry_after_is_told_in_seconds(stage: Stage) -> None:
    stage.fault(operation="PutVectors", status=429, retry_after=7)
    assert transient(lambda: stage.sink.put(put_body(stage.index, a=[1, 0]))).retry_after == 7.0


def test_a_server_error_may_have_written_a_part(stage: Stage) -> None:
    stage.fault(operation="PutVectors", status=500, applies="half")
    error = transient(lambda: stage.sink.put(put_body(stage.index, a=[1, 0], b=[0, 1])))
    assert error.unknown_outcome is True
    assert stage.stored() == {"a": [1, 0]}


@pytest.mark.parametrize(("when", "stored"), [("before", {}), ("after", {"a": [1.0, 0.0]})])
def test_a_connection_that_is_reset_leaves_the_outcome_unknown(
    stage: Stage, when: str, stored: dict[str, list[float]]
) -> None:
    stage.fault(operation="PutVectors", reset=when, count=1)
    error = transient(lambda: stage.sink.put(put_body(stage.index, a=[1, 0])))
    said = (error.status, error.kind, error.unknown_outcome, error.while_sending)
    assert said == (0, RetryReason.NETWORK, True, False)
    assert stage.stored() == stored


def test_a_request_after_a_reset_is_taken(stage: Stage) -> None:
    stage.fault(operation="PutVectors", reset="before", count=1)
    transient(lambda: stage.sink.put(put_body(stage.index, a=[1, 0])))
    assert stage.sink.put(put_body(stage.index, a=[1, 0])) == 200


def test_abort_from_another_thread_ends_a_request_that_waits(stage: Stage) -> None:
    stage.fault(operation="PutVectors", hang=True)
    threads: list[int] = []

    def put() -> Transient:
        threads.append(threading.get_ident())
        return transient(lambda: stage.sink.put(put_body(stage.index, a=[1, 0])))

    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(put)
        while not future.done():
            assert time.monotonic() - started < QUICK_SECONDS
            if stage.puts():
                stage.sink.abort(threads[0])
            with contextlib.suppress(TimeoutError):
                future.result(0.01)
    assert (future.result().kind, future.result().unknown_outcome) == (RetryReason.NETWORK, True)


def test_abort_of_a_thread_that_sends_nothing_does_nothing(stage: Stage) -> None:
    stage.sink.put(put_body(stage.index, a=[1, 0]))
    stage.sink.abort(threading.get_ident())
    assert stage.sink.put(put_body(stage.index, b=[0, 1])) == 200


def test_a_request_that_is_aborted_while_it_asks_for_credentials_does_not_leave(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, released = threading.Event(), threading.Event()

    def fetch() -> Any:
        asked.set()
        released.wait(QUICK_SECONDS)
        return Credentials(emulator.access_key_id, emulator.access_key_secret)

    monkeypatch.setattr(sink_module, "credentials_provider", lambda *_: Provider(fetch))
    bucket, index = emulator.new_index(2)
    threads: list[int] = []

    def put() -> Transient:
        threads.append(threading.get_ident())
        return transient(lambda: sink.put(put_body(index, a=[1, 0])))

    with real_sink(bucket, emulator.endpoint) as sink, ThreadPoolExecutor(1) as pool:
        future = pool.submit(put)
        assert asked.wait(QUICK_SECONDS)
        sink.abort(threads[0])
        released.set()
        assert future.result(QUICK_SECONDS).kind is RetryReason.NETWORK
        assert [entry for entry in emulator.requests(bucket=bucket) if entry.operation == "PutVectors"] == []
        assert sink.put(put_body(index, a=[1, 0])) == 200


def test_a_request_that_must_not_leave_is_held_back_and_the_service_gets_nothing_of_it(stage: Stage) -> None:
    stage.sink.put(put_body(stage.index, a=[1, 0]))
    stage.held_back.add("the lease has run out")
    for request in (
        lambda: stage.sink.put(put_body(stage.index, a=[0, 1])),
        lambda: stage.sink.delete(delete_body(stage.index, "a")),
    ):
        assert isinstance(error_of(request), NotSent)
    assert stage.stored() == {"a": [1, 0]}
    stage.held_back.clear()
    assert stage.sink.put(put_body(stage.index, a=[0, 1])) == 200
    assert stage.stored() == {"a": [0, 1]}


def test_a_body_whose_sender_was_frozen_half_way_is_never_whole(emulator: Emulator) -> None:
    """The system took some of it before; the rest stays, and the connection is closed."""
    bucket, index = emulator.new_index(2)
    looks = iter([True] * 5)  # connected, headers, and some pieces of the body
    body = put_body(index, **{f"key-{number}": [1.0, 0.0] for number in range(400)})
    body += b" " * (4 * 1024 * 1024)
    with real_sink(bucket, emulator.endpoint, may_send=lambda: next(looks, False)) as sink:
        assert isinstance(error_of(lambda: sink.put(body)), NotSent)
    with real_sink(bucket, emulator.endpoint) as sink:
        sink.put(put_body(index, a=[1, 0]))
    (cut, whole) = (entry for entry in emulator.requests(bucket=bucket) if entry.operation == "PutVectors")
    assert (cut.applied, cut.status, whole.applied) == (False, None, True)
    assert set(emulator.dump(bucket, index)) == {"a"}


def test_the_bodies_of_batches_are_what_the_service_accepts(stage: Stage) -> None:
    envelope = Envelope.of(stage.index)
    keys = ('a"b', "ü")
    stage.sink.put(envelope.put_body([json.dumps({"key": key, "data": {"float32": [1, 0]}}).encode() for key in keys]))
    assert stage.stored() == {'a"b': [1, 0], "ü": [1, 0]}
    stage.sink.delete(envelope.delete_body(keys))
    assert stage.stored() == {}


# -- the real one alone: answers that are no JSON of the service's


@pytest.mark.parametrize("body", ["json", "xml", "html", "truncated"])
@pytest.mark.parametrize(
    ("status", "expected"), [(403, TargetError), (404, TargetError), (429, Transient), (502, Transient)]
)
def test_an_answer_is_told_by_its_status_whatever_its_body(
    emulator: Emulator, status: int, body: str, expected: type[SinkError]
) -> None:
    bucket, index = emulator.new_index(2)
    emulator.fault(bucket=bucket, operation="PutVectors", status=status, body=body, retry_after=3)
    with real_sink(bucket, emulator.endpoint) as sink:
        error = error_of(lambda: sink.put(put_body(index, a=[1, 0])))
    assert type(error) is expected
    assert error.status == status
    if isinstance(error, Transient):
        assert error.retry_after == 3.0


def test_the_services_words_and_request_id_are_kept(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    emulator.fault(bucket=bucket, operation="PutVectors", status=400, code="InvalidArgument", message="two\n lines")
    with real_sink(bucket, emulator.endpoint) as sink:
        error = error_of(lambda: sink.put(put_body(index, a=[1, 0])))
    entry = emulator.requests(bucket=bucket)[-1]
    assert (error.code, error.message, error.request_id) == ("InvalidArgument", "two lines", entry.request_id)


# -- the real one alone: a server of raw sockets


class RawServer:
    """Listens on the loopback address; each connection is handled by a function on a thread of its own."""

    def __init__(self, handle: Callable[[socket.socket], None], receive_buffer: int = 0) -> None:
        self._handle = handle
        self._listener = socket.socket()
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(8)
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "RawServer":  # noqa: PYI034 - no subclasses
        """Start."""
        self._threads.append(thread(self._accept))
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        join(*self._threads)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._threads.append(thread(self._serve, connection))

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._handle(connection)


def read_request(connection: socket.socket) -> bytes:
    """Read one request with its body, and return its head. Raises `ConnectionError` where none comes any more."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    left = length - len(body)
    while left > 0:
        left -= len(connection.recv(1024 * 1024)) or left
    return head


def answering(*answers: bytes) -> Callable[[socket.socket], None]:
    """Return a handler that gives these answers, one for each request, and closes."""

    def handle(connection: socket.socket) -> None:
        for answer in answers:
            read_request(connection)
            connection.sendall(answer)
        connection.close()

    return handle


OK = b"HTTP/1.1 200 OK\r\nx-oss-request-id: 000000000000000000000000\r\nContent-Length: 0\r\n\r\n"


def silent(_connection: socket.socket) -> None:
    """Read nothing, answer nothing."""


def test_retry_after_as_a_date_is_held_against_the_answers_own_date() -> None:
    answer = (
        b"HTTP/1.1 429 Too Many Requests\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
        b"Retry-After: Mon, 01 Jan 2024 00:01:30 GMT\r\nContent-Length: 0\r\n\r\n"
    )
    with RawServer(answering(answer)) as server, real_sink("bucket", server.endpoint) as sink:
        error = transient(lambda: sink.put(b"{}"))
    assert (error.status, error.retry_after) == (429, 90.0)


@pytest.mark.parametrize("headers", [b"Retry-After: soon\r\n", b"Retry-After: Mon, 01 Jan 2024 00:01:30 GMT\r\n", b""])
def test_a_retry_after_that_cannot_be_told_is_none(headers: bytes) -> None:
    answer = b"HTTP/1.1 503 Busy\r\n" + headers + b"Content-Length: 0\r\n\r\n"
    with RawServer(answering(answer)) as server, real_sink("bucket", server.endpoint) as sink:
        error = transient(lambda: sink.put(b"{}"))
    assert (error.status, error.retry_after) == (503, None)


def test_an_answer_that_is_cut_short_is_told_by_its_status() -> None:
    answer = b"HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    with RawServer(answering(answer)) as server, real_sink("bucket", server.endpoint) as sink:
        error = transient(lambda: sink.put(b"{}"))
    assert (error.kind, error.unknown_outcome) in {(RetryReason.SERVER, True), (RetryReason.NETWORK, True)}


def test_an_answer_that_is_no_http_leaves_the_outcome_unknown() -> None:
    with RawServer(answering(b"hello\r\n\r\n")) as server, real_sink("bucket", server.endpoint) as sink:
        error = transient(lambda: sink.put(b"{}"))
    assert (error.status, error.kind, error.unknown_outcome) == (0, RetryReason.NETWORK, True)


def test_a_redirect_is_not_followed_and_blocks_for_its_target() -> None:
    answer = b"HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with RawServer(answering(answer)) as server, real_sink("bucket", server.endpoint) as sink:
        error = error_of(lambda: sink.put(b"{}"))
    assert isinstance(error, TargetError)
    assert (error.status, error.block) == (307, BlockReason.TARGET)


def test_an_index_answer_that_is_no_index_is_transient() -> None:
    answer = OK.replace(b"Length: 0", b"Length: 2") + b"{}"
    with RawServer(answering(answer)) as server, real_sink("bucket", server.endpoint) as sink:
        assert transient(lambda: sink.describe("docs")).kind is RetryReason.SERVER


def test_a_refused_connection_has_a_known_outcome() -> None:
    with socket.socket() as taken:  # bound and not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        with real_sink("bucket", f"http://127.0.0.1:{taken.getsockname()[1]}") as sink:
            error = transient(lambda: sink.put(b"{}"))
    assert (error.kind, error.unknown_outcome, error.while_sending) == (RetryReason.NETWORK, False, False)


def test_no_answer_in_time_is_a_time_out_with_an_unknown_outcome() -> None:
    with (
        RawServer(silent) as server,
        real_sink("bucket", server.endpoint, read_timeout_seconds=0.1) as sink,
    ):
        error = transient(lambda: sink.put(b"{}"))
    assert (error.kind, error.unknown_outcome, error.while_sending) == (RetryReason.TIMEOUT, True, False)


def test_a_body_that_is_not_read_in_time_is_a_time_out_while_sending() -> None:
    with (
        RawServer(silent, receive_buffer=4096) as server,
        real_sink("bucket", server.endpoint, write_timeout_seconds=0.2, read_timeout_seconds=60.0) as sink,
    ):
        started = time.monotonic()
        error = transient(lambda: sink.put(bytes(32 * 1024 * 1024)))
    assert time.monotonic() - started < QUICK_SECONDS
    assert (error.kind, error.unknown_outcome, error.while_sending) == (RetryReason.TIMEOUT, True, True)


def test_the_time_for_sending_is_not_the_time_for_connecting() -> None:
    def read_slowly(connection: socket.socket) -> None:
        released.wait(QUICK_SECONDS)
        read_request(connection)
        connection.sendall(OK)

    released = threading.Event()
    with (
        RawServer(read_slowly) as server,
        real_sink("bucket", server.endpoint, connect_timeout_seconds=0.1, write_timeout_seconds=30.0) as sink,
        ThreadPoolExecutor(1) as pool,
    ):
        future = pool.submit(sink.put, bytes(32 * 1024 * 1024))
        with pytest.raises(TimeoutError):
            future.result(0.4)
        released.set()
        assert future.result(QUICK_SECONDS) == 200


def test_abort_ends_a_request_whose_body_is_not_read() -> None:
    threads: list[int] = []
    begun = threading.Event()

    def read_the_first_byte(connection: socket.socket) -> None:
        connection.recv(1)
        begun.set()

    def put() -> Transient:
        threads.append(threading.get_ident())
        return transient(lambda: sink.put(bytes(32 * 1024 * 1024)))

    with (
        RawServer(read_the_first_byte, receive_buffer=4096) as server,
        real_sink("bucket", server.endpoint, write_timeout_seconds=60.0) as sink,
        ThreadPoolExecutor(1) as pool,
    ):
        future = pool.submit(put)
        assert begun.wait(QUICK_SECONDS)
        sink.abort(threads[0])
        future.result(QUICK_SECONDS)
    assert (future.result().kind, future.result().unknown_outcome) == (RetryReason.NETWORK, True)


def test_a_kept_connection_that_the_server_closed_is_reset_and_not_sent_again_by_itself() -> None:
    requests: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(OK)
        requests.append(read_request(connection))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with RawServer(handle) as server, real_sink("bucket", server.endpoint) as sink:
        assert sink.put(b"{}") == 200
        error = transient(lambda: sink.put(b"{}"))
    assert (error.kind, error.unknown_outcome) == (RetryReason.NETWORK, True)
    assert len(requests) == 2


# -- the real one alone: credentials


def authorizations(server_answers: int, use: Callable[[str], None]) -> list[bytes]:
    """Return the Authorization and token headers of the requests that `use` makes to an endpoint."""
    heads: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        for _ in range(server_answers):
            heads.append(read_request(connection))
            connection.sendall(OK)

    with RawServer(handle) as server:
        use(server.endpoint)
    wanted = (b"authorization:", b"x-oss-security-token:")
    return [
        b" ".join(sorted(line for line in head.split(b"\r\n") if line.lower().startswith(wanted))) for head in heads
    ]


def test_credentials_from_the_environment_sign_requests_with_the_token_if_there_is_one() -> None:
    def use(endpoint: str) -> None:
        environ = {**ENVIRONMENT, "OSS_ACCESS_KEY_ID": "from-environment", "OSS_SESSION_TOKEN": "a-token"}
        OssSink(settings("bucket", endpoint), environ, max_connections=1).put(b"{}")

    (head,) = authorizations(1, use)
    assert b"Credential=from-environment/" in head
    assert head.lower().endswith(b"x-oss-security-token: a-token")


@pytest.mark.parametrize("missing", sorted(ENVIRONMENT))
def test_credentials_that_the_environment_lacks_are_wrong_settings(missing: str) -> None:
    environ = {**ENVIRONMENT, missing: ""}
    with pytest.raises(SettingsError) as caught:
        OssSink(settings("bucket", "http://127.0.0.1:1"), environ, max_connections=1)
    assert len(caught.value.mistakes) == 1
    assert missing in caught.value.mistakes[0]


def write_credentials(path: Path, key_id: str, **more: str) -> None:
    """Replace a file of credentials as its writers do, by renaming."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"access_key_id": key_id, "access_key_secret": "s", **more}))
    new.rename(path)


def test_credentials_of_a_file_are_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    write_credentials(path, "first")

    def use(endpoint: str) -> None:
        sink = OssSink(
            settings("bucket", endpoint, credentials="file", credentials_file=str(path)), {}, max_connections=1
        )
        sink.put(b"{}")
        write_credentials(path, "second", session_token="t")
        sink.put(b"{}")
        sink.close()

    first, second = authorizations(2, use)
    assert b"Credential=first/" in first
    assert b"Credential=second/" in second
    assert b"token: t" in second.lower()


def test_credentials_of_a_file_that_went_are_kept(emulator: Emulator, tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    write_credentials(path, "test", access_key_secret="test")
    bucket, index = emulator.new_index(2)
    with real_sink(bucket, emulator.endpoint, credentials="file", credentials_file=str(path)) as sink:
        path.unlink()
        assert sink.put(put_body(index, a=[1, 0])) == 200


@pytest.mark.parametrize("content", [None, "{", '{"access_key_id": "a"}'])
def test_a_file_without_credentials_is_wrong_settings_and_its_content_not_told(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "credentials.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        OssSink(
            settings("bucket", "http://127.0.0.1:1", credentials="file", credentials_file=str(path)),
            {},
            max_connections=1,
        )
    assert os.fspath(path) in caught.value.mistakes[0]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Callable[[str], None]]:
    """Return a program that prints credentials and is asked again without a pause, and what sets the secret that it prints."""
    monkeypatch.setattr(providers, "AGAIN_SECONDS", 0.0)
    answers = tmp_path / "answers"

    def gives(secret: str) -> None:
        answers.write_text(json.dumps({"mode": "AK", "access_key_id": "test", "access_key_secret": secret}))

    return shlex.join(["cat", str(answers)]), gives


def test_what_a_program_gave_is_asked_for_anew_once_the_service_refuses_it(
    emulator: Emulator, program: tuple[str, Callable[[str], None]]
) -> None:
    command, gives = program
    gives("revoked")
    bucket, index = emulator.new_index(2)
    with real_sink(bucket, emulator.endpoint, credentials="process", credentials_process=command) as sink:
        error = error_of(lambda: sink.put(put_body(index, a=[1, 0])))
        assert (error.code, getattr(error, "block", None)) == ("SignatureDoesNotMatch", BlockReason.CREDENTIALS)
        gives("test")
        assert sink.put(put_body(index, a=[1, 0])) == 200


def test_a_signature_that_is_refused_as_an_argument_asks_the_program_again(
    emulator: Emulator, program: tuple[str, Callable[[str], None]]
) -> None:
    command, gives = program
    gives("test")
    bucket, index = emulator.new_index(2)
    emulator.fault(bucket=bucket, status=400, code="InvalidArgument", ec="0002-00000063", count=1)
    with real_sink(bucket, emulator.endpoint, credentials="process", credentials_process=command) as sink:
        error = error_of(lambda: sink.put(put_body(index, a=[1, 0])))
        assert (error.code, getattr(error, "block", None)) == ("InvalidArgument", BlockReason.CREDENTIALS)
        gives("another")
        error = error_of(lambda: sink.put(put_body(index, a=[1, 0])))
        assert error.code == "SignatureDoesNotMatch"


def test_a_program_that_fails_blocks_and_shows_neither_its_output_nor_its_command() -> None:
    secret = "secret-of-the-program"
    command = shlex.join([sys.executable, "-S", "-c", f"import sys; sys.exit('{secret}')"])
    with real_sink("bucket", "http://127.0.0.1:1", credentials="process", credentials_process=command) as sink:
        error = error_of(lambda: sink.put(b"{}"))
    assert isinstance(error, TargetError)
    assert (error.block, secret in str(error)) == (BlockReason.CREDENTIALS, False)
    assert "oss.credentials_process ended with code 1" in str(error)


@pytest.mark.parametrize("around", ["{}\n", " {}", "{}\r\n"])
def test_white_space_around_credentials_reaches_no_header(around: str) -> None:
    environ = {**ENVIRONMENT, "OSS_ACCESS_KEY_ID": "key-id", "OSS_SESSION_TOKEN": "a-token"}

    def use(endpoint: str) -> None:
        spaced = {name: around.format(value) for name, value in environ.items()}
        OssSink(settings("bucket", endpoint), spaced, max_connections=1).put(b"{}")

    (head,) = authorizations(1, use)
    assert b"Credential=key-id/" in head
    assert head.lower().endswith(b"x-oss-security-token: a-token")


def test_anonymous_requests_are_not_signed() -> None:
    def use(endpoint: str) -> None:
        OssSink(settings("bucket", endpoint, credentials="anonymous"), {}, max_connections=1).put(b"{}")

    assert authorizations(1, use) == [b""]


def test_refused_credentials_block(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    environ = {**ENVIRONMENT, "OSS_ACCESS_KEY_SECRET": "wrong"}
    sink = OssSink(settings(bucket, emulator.endpoint), environ, max_connections=1)
    error = error_of(lambda: sink.put(put_body(index, a=[1, 0])))
    sink.close()
    assert isinstance(error, TargetError)
    assert (error.status, error.block, error.code) == (403, BlockReason.CREDENTIALS, "SignatureDoesNotMatch")
