"""The network part of the Kafka client, where the client's own stalls or spins.

- It resolves host names on its IO thread, so one slow answer of the resolver stops heartbeats, fetches and commits of
  all brokers for as long. Here each name is resolved on a thread of its own, and the IO thread continues meanwhile.
- A coordinator that refuses connections is looked up again at once, without end: half a core. Here look-ups have a wait
  between them.
- A broker that accepts a connection and drops it (a proxy before one that is down) is connected to again at once, since
  a connection counts as good before the first answer on it. Here it backs off like one that refuses.
- A socket that does not connect is closed here, and left to the garbage collector there.
- A leader that the metadata names without an address makes `poll` raise in the middle of sending fetches: those to
  other brokers do not leave, and that leader is not asked again when it is back. Here that one request fails.

What of this reaches into the client is in `client_internals.connections`.
"""

import socket
import threading
import time
from typing import Any, Final

from kafka import errors as kafka_errors

from worker.consumer.client_internals import connections
from worker.consumer.client_internals.protocol import Future

LOOKUP_PAUSE_SECONDS: Final = 0.5  # between two lookups of the coordinator; the first one has none before it
_KEPT_SECONDS: Final = 1.0  # from an answer of the resolver to its use


def make_client(**config: Any) -> Any:
    """Return the network part of a client; its setting `kafka_client` is this function."""
    return connections.make_client(PatientConnections, **config)


class PatientConnections(connections.Connections):
    """The connections of one client."""

    def __init__(self, net: Any, **config: Any) -> None:
        self._lookup_at = float("-inf")  # when the coordinator may be looked up next, in the client's clock
        super().__init__(net, **config)

    async def before_connecting(self, host: str, port: int, timeout_at: float | None) -> None:
        """Wait until the host's name is resolved."""
        await _RESOLVER.ready(self, host, port, timeout_at)

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
            self.refresh_metadata()
            return Future().failure(error)

    def _send_later(self, seconds: float, request: Any, *args: Any, **options: Any) -> Any:
        answer = Future()

        def send() -> None:
            try:
                sent = self._send_now(request, *args, **options)
            except Exception as error:  # the error that the caller would get
                answer.failure(error)
            else:
                sent.add_callback(answer.success)
                sent.add_errback(answer.failure)

        self.call_later(seconds, send)
        return answer


# -- names


class _Resolver:
    """Resolves names, each on a thread of its own; callers that ask for a name at the same time wait for one answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, int], list[tuple[Any, Any]]] = {}
        self._found: dict[tuple[str, int], tuple[float, list[Any] | Exception]] = {}

    async def ready(self, manager: Any, host: str, port: int, timeout_at: float | None) -> None:
        """Wait until `addresses` has those of a host; to be awaited on the client's IO thread.

        Raises `KafkaConnectionError` where there is no answer by `timeout_at`, in the client's clock.
        """
        if _is_address(host):
            return
        place = (host, port)
        answer = Future()
        with self._lock:
            waiting = self._under_way.get(place)
            if waiting is None:
                # The thread is started first: if the system cannot start one, the next caller tries again.
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
                manager.call_from_another_thread(lambda answer=answer: answer.success(None))
            except Exception:  # noqa: S112 - that client was closed meanwhile
                continue

    def addresses(self, host: str, port: int) -> list[Any] | None:
        """Return the addresses that were found a moment ago, None where there are none. Raises `KafkaConnectionError`."""
        with self._lock:
            at, found = self._found.get((host, port), (float("-inf"), []))
        if time.monotonic() - at > _KEPT_SECONDS:
            return None
        if isinstance(found, Exception):
            message = f"the name {host} is not known: {found}"
            raise kafka_errors.KafkaConnectionError(message)
        return found


_RESOLVER: Final = _Resolver()


class _ResolvedSocket(connections.Socket):
    """How the client connects without a proxy, with addresses that were resolved before."""

    SCHEMES = (connections.RESOLVED_SCHEME,)

    def addresses(self, host: str, port: int) -> list[Any] | None:
        """Return the addresses that the resolver found."""
        return _RESOLVER.addresses(host, port)


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return True
    return False
