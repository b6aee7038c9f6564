"""The network part of the client: what it waits for, and how often it tries."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import errors as kafka_errors
from kafka.future import Future
from kafka.net.selector import NetworkSelector
from kafka.protocol.metadata import MetadataRequest, MetadataResponse

from tests.support.proxy import Proxy
from tests.support.worker import free_port, wait_for
from worker.consumer import client_config, client_internals, client_network
from worker.consumer.client_internals import connections
from worker.consumer.client_network import PatientConnections
from worker.deadletters.producer import make_producer
from worker.settings.tables import Kafka

LIMIT_MS = 5_000


@pytest.fixture
def manager() -> Iterator[Any]:
    """Connections of a client whose IO thread runs, and which knows no broker."""
    config = {"bootstrap_servers": ["127.0.0.1:9"], "request_timeout_ms": LIMIT_MS, "reconnect_backoff_max_ms": 2_000}
    net = NetworkSelector(**config)
    net.start()
    made = PatientConnections(net, **config)
    yield made
    made.close()
    net.close()


def node(host: str, port: int, number: int = 7) -> Any:
    return MetadataResponse.MetadataResponseBroker(number, host, port, None)


def add(manager: Any, broker: Any) -> None:
    manager.cluster._brokers = {broker.node_id: broker}


def test_a_name_that_takes_long_to_resolve_stops_nothing_else(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered, real = threading.Event(), threading.Event(), socket.getaddrinfo

    def slow(host: str, *args: Any, **options: Any) -> Any:
        if host == "slow.test":
            asked.set()
            assert answered.wait(30)
            return real("127.0.0.1", *args, **options)
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        add(manager, node("slow.test", listener.getsockname()[1]))
        manager.call_soon(manager.get_connection, 7)
        assert asked.wait(30)
        done = threading.Event()
        manager.call_soon(done.set)
        assert done.wait(30)  # while the name is not resolved
        answered.set()
        listener.settimeout(30)
        listener.accept()[0].close()  # and then it connects


def test_a_name_is_resolved_again_after_a_time_without_threads(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def resolve() -> None:
        await client_network._RESOLVER.ready(manager, "localhost", 9092, time.monotonic() + LIMIT_MS / 1000)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            manager.run(resolve)
    manager.run(resolve)
    assert client_network._RESOLVER.addresses("localhost", 9092)


@pytest.mark.parametrize("answer", ["none in time", "no such name"])
def test_a_name_that_is_not_resolved_is_told(manager: Any, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    over = threading.Event()

    def resolve(*_: Any, **__: Any) -> Any:
        if answer == "none in time":
            over.wait(30)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    try:
        add(manager, node("missing.test", 9092))

        async def connect() -> Any:
            return await manager.get_connection(7, timeout_ms=100)

        with pytest.raises(kafka_errors.KafkaConnectionError, match=r"missing\.test"):
            manager.run(connect)
    finally:
        over.set()


def test_a_broker_that_takes_connections_and_drops_them_is_tried_ever_less_often(manager: Any) -> None:
    """A proxy before a broker that is down."""
    with Proxy(free_port()) as proxy:
        add(manager, node("127.0.0.1", proxy.port))
        ended = threading.Event()

        async def connect() -> None:
            ended.clear()
            with contextlib.suppress(kafka_errors.KafkaError):
                await manager.get_connection(7)
            ended.set()

        def has_failed(times: int) -> bool:
            return bool(manager._backoff.get(7, (0,))[0] >= times)

        for failures in (1, 2, 3):
            wait_for(lambda: manager.connection_delay(7) == 0, "it may be tried")
            manager.run(connect)
            wait_for(partial(has_failed, failures), "the failure is counted")
        assert manager._backoff[7][0] == 3


def test_the_last_error_of_a_broker_is_kept_until_a_connection_to_it_is_made(manager: Any) -> None:
    class Connection:
        init_future, close_future = Future(), Future()

    manager._note_failures(7, Connection)
    error = kafka_errors.SaslAuthenticationFailedError("Authentication failed")
    Connection.init_future.failure(error)
    assert manager.failures == {7: error}
    Connection.init_future, Connection.close_future = Future(), Future()
    manager._note_failures(7, Connection)
    Connection.init_future.success(True)
    assert manager.failures == {7: None}
    Connection.close_future.failure(error)
    assert manager.failures == {7: error}


def test_a_broker_that_cannot_be_reached_is_named_with_its_error(manager: Any) -> None:
    port = free_port()
    add(manager, node("127.0.0.1", port))

    async def connect() -> None:
        with contextlib.suppress(kafka_errors.KafkaError):
            await manager.get_connection(7)

    manager.run(connect)
    found = client_internals.unreachable(SimpleNamespace(_manager=manager))
    assert found == {7: (f"127.0.0.1:{port}", manager.failures[7])}
    assert "ECONNREFUSED" in str(found[7].error)


# -- a broker that does not answer the TLS handshake


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a listener whose connections the system accepts, and nothing reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def test_a_tls_handshake_that_is_not_answered_ends_the_try_and_closes_the_socket(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    real = ssl.SSLContext.wrap_socket

    def wrap(self: ssl.SSLContext, *args: Any, **options: Any) -> Any:
        made.append(real(self, *args, **options))
        return made[-1]

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap)
    config = {"bootstrap_servers": ["127.0.0.1:9"], "security_protocol": "SSL"}
    net = NetworkSelector(**config)
    net.start()
    connections_ = PatientConnections(net, **config)
    try:
        add(connections_, node("127.0.0.1", silent))

        async def connect() -> None:
            await connections_.get_connection(7, timeout_ms=100)

        with pytest.raises(kafka_errors.KafkaConnectionError, match="did not answer the TLS handshake in time"):
            connections_.run(connect)
        assert [sock.fileno() for sock in made] == [-1]
        assert "TLS handshake" in str(connections_.failures[7])
    finally:
        connections_.close()
        net.close()


def test_a_consumer_whose_broker_does_not_answer_the_tls_handshake_says_so(silent: int) -> None:
    with pytest.raises(kafka_errors.KafkaTimeoutError, match="did not answer the TLS handshake in time"):
        client_config.make_consumer(
            client_network.make_client,
            bootstrap_servers=[f"127.0.0.1:{silent}"],
            security_protocol="SSL",
            bootstrap_timeout_ms=200,
        )


def test_a_producer_is_not_waited_for_whose_broker_does_not_answer_the_tls_handshake(silent: int) -> None:
    settings = Kafka(
        bootstrap_servers=(f"127.0.0.1:{silent}",), security_protocol="SSL", client={"bootstrap_timeout_ms": 200}
    )
    with pytest.raises(kafka_errors.KafkaTimeoutError, match="did not answer the TLS handshake in time"):
        make_producer(settings, idempotent=False)


def test_a_broker_that_nobody_knows_fails_its_own_request_alone(manager: Any) -> None:
    future = manager.send(MetadataRequest(topics=[]), node_id=99)
    assert isinstance(future.exception, kafka_errors.UnknownBrokerIdError)


def test_a_socket_that_does_not_connect_is_closed(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[socket.socket] = []  # not all that are made: threads of other tests make some too
    real, port = socket.socket, free_port()

    class Kept(real):  # type: ignore[misc, valid-type]
        def connect_ex(self, address: Any) -> int:
            if address[1] == port:
                tried.append(self)
            return int(super().connect_ex(address))

    monkeypatch.setattr(socket, "socket", Kept)
    add(manager, node("127.0.0.1", port))

    async def connect() -> Any:
        return await manager.get_connection(7)

    with pytest.raises(kafka_errors.KafkaConnectionError):
        manager.run(connect)
    assert [one.fileno() for one in tried][-1] == -1


def test_metadata_that_lacks_a_topic_is_asked_for_once_in_a_while_whoever_asks(
    manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    later: list[tuple[float, Callable[[], None]]] = []
    monkeypatch.setattr(manager, "call_later", lambda seconds, function: later.append((seconds, function)))
    manager.cluster.set_topics(["gone"])
    topics = [
        MetadataResponse.MetadataResponseTopic(error_code=code, name=name, partitions=[])
        for code, name in ((3, "gone"), (0, "there"))
    ]
    answer = MetadataResponse(
        version=9, brokers=[(7, "127.0.0.1", 9, None)], topics=topics, controller_id=7, cluster_id="c"
    )
    for _ in range(3):
        manager.cluster.update_metadata(answer)
    assert not manager.cluster.need_update
    assert [seconds for seconds, _ in later] == [connections.MISSING_TOPIC_SECONDS]
    later[0][1]()
    assert manager.cluster.need_update
    manager.cluster.update_metadata(answer)
    assert len(later) == 2


def test_metadata_is_not_asked_for_by_a_client_that_is_being_closed(
    manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise RuntimeError("NetworkSelector closed!")

    monkeypatch.setattr(manager.cluster, "request_update", refuse)
    manager._refresh_again()
    assert not manager._is_refresh_due
