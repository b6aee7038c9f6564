"""How the client connects: its sockets, its connections and its requests, with a public hook for each step.

The client has no hooks of its own here. It makes its network part by the setting `kafka_client`, and its sockets by the
scheme of the setting `proxy_url`.
"""

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket, create_connection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport

MISSING_TOPIC_SECONDS: Final = 1.0
"""Between two requests for metadata while a topic that it is asked for does not exist."""
RESOLVED_SCHEME: Final = "resolved"
"""Of a `Socket` that connects without a proxy, with addresses that were resolved before."""
_RESOLVED_URL: Final = f"{RESOLVED_SCHEME}://"


def make_client(make_connections: Callable[..., "Connections"], **config: Any) -> Any:
    """Return the network part of a client. `make_connections(net, **config)` makes its connections."""
    net = NetworkSelector(**config)
    return KafkaNetClient(net, make_connections(net, **config), **config)


class Connections(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python ships no types
    """The connections and requests of one client. The methods up to `on_new_connection` are hooks; these do nothing."""

    def __init__(self, net: Any, **config: Any) -> None:
        self._has_own_sockets = config.get("proxy_url") is None and config.get("socks5_proxy") is None
        if self._has_own_sockets:
            config["proxy_url"] = _RESOLVED_URL
        super().__init__(net, **config)
        self._is_refresh_due = False
        self.failures: dict[Any, BaseException | None] = {}
        """The last error of the connections to each broker, by its number; None since one could be made."""
        self.last_failure: BaseException | None = None
        """The last error of any connection, of one that only asks which brokers there are too."""
        self.cluster.add_listener(self._calm)

    async def before_connecting(self, host: str, port: int, timeout_at: float | None) -> None:
        """Wait for what a connection needs, on the client's IO thread, until `timeout_at` of its clock."""

    def on_transport(self, transport: Any) -> None:
        """See a connection's transport, before its first request."""

    def on_new_connection(self, connection: Any) -> None:
        """See a connection before its first try."""

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function on the client's IO thread, in some seconds."""
        self._net.call_later(seconds, function)

    def call_from_another_thread(self, function: Callable[[], None]) -> None:
        """Call a function on the client's IO thread, soon. Raises where the client is closed."""
        self._net.call_soon_threadsafe(function)

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        if self._has_own_sockets:
            await self.before_connecting(node.host, node.port, timeout_at)
        if self.ssl_enabled:
            transport = await self._build_tls_transport(node, timeout_at)
        else:
            transport = await super()._build_transport(node, timeout_at=timeout_at)
        self.on_transport(transport)
        return transport

    async def _build_tls_transport(self, node: Any, timeout_at: float | None) -> Any:
        """As the parent's, which waits for the broker's part of the TLS handshake without end.

        1. A broker hangs. The system still accepts connections for it, and nothing answers on them.
        2. Requests wait for the handshake, without a time limit of their own: for metadata too, since the client prefers
           a broker that has no request to answer. So it never learns that another broker leads the partitions by now.
        """
        sock = await create_connection(
            self._net,
            node.host,
            node.port,
            self.config["socket_options"],
            proxy_url=self.config["proxy_url"],
            timeout_at=timeout_at,
        )
        try:
            options = {name: self.config[name] for name in KafkaSSLTransport.DEFAULT_CONFIG}
            transport = KafkaSSLTransport(self._net, sock, host=node.host, **options)
        except BaseException:
            sock.close()
            raise
        try:
            await self._do_handshake(transport._sock, timeout_at)
        except kafka_errors.KafkaTimeoutError:
            transport.close()
            message = "Handshake failed: the broker did not answer the TLS handshake in time"
            raise kafka_errors.KafkaConnectionError(message) from None
        except Exception as error:
            transport.close()
            raise kafka_errors.KafkaConnectionError(f"Handshake failed: {error}") from error
        return transport

    async def _do_handshake(self, sock: Any, timeout_at: float | None) -> None:
        """Raises `KafkaTimeoutError` at `timeout_at` of the client's clock."""
        while True:
            try:
                sock.do_handshake()
            except ssl.SSLWantReadError:
                await self._net.wait_read(sock, timeout_at=timeout_at)
            except ssl.SSLWantWriteError:
                await self._net.wait_write(sock, timeout_at=timeout_at)
            else:
                return

    def get_connection(self, node_id: Any, *args: Any, **options: Any) -> Any:
        """As the parent's, and report a connection that is new."""
        known = self._conns.get(node_id)
        connection = super().get_connection(node_id, *args, **options)
        if connection is not known:
            self._note_failures(node_id, connection)
            self.on_new_connection(connection)
        return connection

    def _note_failures(self, node_id: Any, connection: Any) -> None:
        def note(error: BaseException | None = None) -> None:
            self.failures[node_id] = error
            self.last_failure = error or self.last_failure

        watch(connection, opened=note, failed=note, closed=lambda: None)

    def send(self, request: Any, node_id: Any = None, *args: Any, **options: Any) -> Any:
        """As the parent's; all requests of the client pass here."""
        return super().send(request, node_id, *args, **options)

    def reset_backoff(self, node_id: Any) -> None:
        """As the parent's; but a connection that ended before its first answer counts as one that failed."""
        connection = self._conns.get(node_id)
        if node_id == "metadata" or (connection is not None and connection.connected):
            super().reset_backoff(node_id)
        else:
            self.update_backoff(node_id)

    def _calm(self, cluster: Any) -> None:
        """Let metadata that lacks a topic be asked for again in a second; the client would ask ten times in it."""
        if cluster.need_update:
            cluster._need_update = False
            if not self._is_refresh_due:  # each answer, whoever asked, would begin a row of requests of its own
                self._is_refresh_due = True
                self.call_later(MISSING_TOPIC_SECONDS, self._refresh_again)

    def _refresh_again(self) -> None:
        self._is_refresh_due = False
        # A client that is being closed runs what is due before its thread ends, and refuses to ask for more.
        with contextlib.suppress(RuntimeError):
            self.refresh_metadata()

    def refresh_metadata(self) -> None:
        """Ask for fresh metadata."""
        self.cluster.request_update()


def watch(
    connection: Any,
    *,
    opened: Callable[[], None],
    failed: Callable[[BaseException], None],
    closed: Callable[[], None],
) -> None:
    """Report what becomes of a connection: it is ready; it could not be made, or ended with an error; it has ended."""

    def on_opened(_: object) -> None:
        connection.close_future.add_errback(failed)
        opened()

    connection.init_future.add_callback(on_opened)
    connection.init_future.add_errback(failed)
    connection.close_future.add_both(lambda _: closed())


class Socket(KafkaNetSocket):  # type: ignore[misc]  # kafka-python ships no types
    """Connects without a proxy. A class below this one names its scheme, by which the client finds it."""

    SCHEMES: tuple[str, ...] = ()

    def addresses(self, _host: str, _port: int) -> list[Any] | None:
        """Return the addresses of a host that are known already; None: the client is to resolve the name."""
        return None

    def dns_lookup(self, host: str, port: int, raise_error: bool = False) -> list[Any]:
        """As the parent's, unless the addresses are known already."""
        found = self.addresses(host, port)
        return found if found is not None else list(super().dns_lookup(host, port, raise_error))

    async def sock_connect(self, net: Any, sock: socket.socket, *args: Any, **options: Any) -> Any:
        """As the parent's, which leaves a socket that does not connect to the garbage collector."""
        try:
            return await super().sock_connect(net, sock, *args, **options)
        except BaseException:
            sock.close()
            raise
