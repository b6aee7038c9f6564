"""The network part of the Kafka client, where the client's own stalls or spins.

- It resolves host names on its IO thread, so one slow answer of the resolver stops heartbeats, fetches and commits of
  all brokers for as long. Here names are resolved on a thread for each, and the IO thread goes on meanwhile.
- A coordinator that refuses connections is looked up again at once, without end: half a core. Here lookups have a pause
  between them.
- A broker that takes a connection and drops it (a proxy before one that is down) is connected to again at once, for a
  connection counts as good before the first answer on it. Here it backs off like one that refuses.
- A socket that does not connect is closed here, and left to the collector there.
- A leader that the metadata names and has no address of makes `poll` raise in the middle of sending fetches: those to
  other brokers do not leave, and that leader is not asked again when it is back. Here that one request fails.
"""

import socket
import threading
import time
from typing import Any, Final

from kafka import errors as kafka_errors
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

LOOKUP_PAUSE_SECONDS: Final = 0.5  # between two lookups of the coordinator; the first one has none before it
_KEPT_SECONDS: Final = 1.0  # from an answer of the resolver to its use
_SCHEME: Final = "resolved"


def make_client(**config: Any) -> Any:
    """Return the network part of a client; its setting `kafka_client` takes this function."""
    net = NetworkSelector(**config)
    return KafkaNetClient(net, PatientManager(net, **config), **config)


class PatientManager(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python ships no types
    """The connections of one client."""

    def __init__(self, net: Any, **config: Any) -> None:
        self._lookup_at = float("-inf")  # when the coordinator may be looked up next, in the client's clock
        if config.get("proxy_url") is None and config.get("socks5_proxy") is None:
            config["proxy_url"] = f"{_SCHEME}://"
        super().__init__(net, **config)

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        """As the parent's, once the host's name is resolved."""
        if self.config["proxy_url"] == f"{_SCHEME}://":
            await _RESOLVER.ready(self, node.host, node.port, timeout_at)
        return await super()._build_transport(node, timeout_at=timeout_at)

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        """As the parent's, later where the coordinator was looked up just now; never raises of an unknown broker."""
        if type(request).__name__ == "FindCoordinatorRequest":
            now = time.monotonic()
            wait = self._lookup_at - now
            self._lookup_at = max(self._lookup_at, now) + LOOKUP_PAUSE_SECONDS
            if wait > 0:
                return self._send_later(wait, request, *args, **options)
        return self._send_now(request, *args, **options)

    def _send_now(self, request: Any, *args: Any, **options: Any) -> Any:
        try:
            return super().send(request, *args, **options)
        except kafka_errors.UnknownBrokerIdError as error:
            self.cluster.request_update()
            return Future().failure(error)

    def _send_later(self, seconds: float, request: Any, *args: Any, **options: Any) -> Any:
        answer = Future()

        def send() -> None:
            try:
                sent = self._send_now(request, *args, **options)
            except Exception as error:  # what the caller would have met
                answer.failure(error)
            else:
                sent.add_callback(answer.success)
                sent.add_errback(answer.failure)

        self._net.call_later(seconds, send)
        return answer

    def reset_backoff(self, node_id: Any) -> None:
        """As the parent's; but a connection that ended before its first answer counts as one that failed."""
        connection = self._conns.get(node_id)
        if node_id == "metadata" or (connection is not None and connection.connected):
            super().reset_backoff(node_id)
        else:
            self.update_backoff(node_id)


# -- names


class _Resolver:
    """Resolves names, each on a thread of its own; whoever wants one that is under way waits for the same answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, int], list[tuple[Any, Any]]] = {}
        self._found: dict[tuple[str, int], tuple[float, list[Any] | Exception]] = {}

    async def ready(self, manager: Any, host: str, port: int, timeout_at: float | None) -> None:
        """Wait until `taken` has the addresses of a host; to be awaited on the client's IO thread.

        Raises `KafkaConnectionError` where there is no answer by `timeout_at`, in the client's clock.
        """
        if _is_address(host):
            return
        place = (host, port)
        answer = Future()
        with self._lock:
            waiting = self._under_way.get(place)
            if waiting is None:
                # Started first: where the system has no thread to give, the next one who asks tries again.
                threading.Thread(target=self._resolve, args=place, name=f"resolve-{host}", daemon=True).start()
                self._under_way[place] = [(manager, answer)]
            else:
                waiting.append((manager, answer))
        timeout_ms = None if timeout_at is None else max(1.0, (timeout_at - time.monotonic()) * 1000)
        try:
            await manager.wait_for(answer, timeout_ms)
        except kafka_errors.KafkaTimeoutError:
            message = f"no answer of the resolver for {host}: look at the DNS"
            raise kafka_errors.KafkaConnectionError(message) from None

    def _resolve(self, host: str, port: int) -> None:
        found: list[Any] | Exception
        try:
            found = list(socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found = error
        with self._lock:
            self._found[host, port] = time.monotonic(), found
            waiting = self._under_way.pop((host, port))
        for manager, answer in waiting:
            try:
                manager._net.call_soon_threadsafe(lambda answer=answer: answer.success(None))  # noqa: SLF001 - there is no other way into its thread
            except Exception:  # noqa: S112 - that client was closed meanwhile
                continue

    def taken(self, host: str, port: int) -> list[Any] | None:
        """Return the addresses that were just found, None where there are none. Raises `KafkaConnectionError`."""
        with self._lock:
            at, found = self._found.get((host, port), (float("-inf"), []))
        if time.monotonic() - at > _KEPT_SECONDS:
            return None
        if isinstance(found, Exception):
            message = f"the name {host} is not known: {found}"
            raise kafka_errors.KafkaConnectionError(message)
        return found


_RESOLVER: Final = _Resolver()


class _ResolvedSocket(KafkaNetSocket):  # type: ignore[misc]  # kafka-python ships no types
    """How the client connects without a proxy, with addresses that were resolved before.

    The client chooses the class by the scheme of its setting `proxy_url`.
    """

    SCHEMES = (_SCHEME,)

    def dns_lookup(self, host: str, port: int, raise_error: bool = False) -> list[Any]:
        found = _RESOLVER.taken(host, port)
        return found if found is not None else list(super().dns_lookup(host, port, raise_error))

    async def sock_connect(self, net: Any, sock: socket.socket, *args: Any, **options: Any) -> Any:
        """As the parent's, which leaves a socket that does not connect to the collector."""
        try:
            return await super().sock_connect(net, sock, *args, **options)
        except BaseException:
            sock.close()
            raise


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return True
    return False
