"""The metrics of the requests and connections of the group's consumer, counted as they happen.

The client's own metrics are averages and rates over its last half minute: those of two processes cannot be added up, nor
computed for another window. Reading them changes them, too: a sample that has left its window is emptied by the reader,
without the lock of the writers. So none of them is read here. Every request and every connection passes the connections
object that a client is made with; this one notes when a request leaves and how it is answered.

Each new connection goes to `receive`, which receives for it, and each request to `heartbeats`, which renews the lease.
All of it runs on the client's IO thread and waits for nothing, and an error in it ends in the client's log.
"""

from collections.abc import Callable
from typing import Any, Final

from kafka import errors as kafka_errors

from worker.consumer import receive
from worker.consumer.client_internals import connections
from worker.consumer.client_network import PatientConnections
from worker.consumer.heartbeats import Heartbeats
from worker.telemetry.metrics import Metrics

_NO_ERROR: Final = 0
_REBALANCE_IN_PROGRESS: Final = 27
_MEMBER_ID_REQUIRED: Final = 79  # the first answer to a new member, which joins again with the id in it


class ClientMetrics:
    """Makes the network part of consumers, one after the other, and counts what they do in the same series."""

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
        make_heartbeats: Callable[..., Heartbeats],
    ) -> None:
        """`make_heartbeats(send=, call_later=)` returns what watches the requests of a new consumer for the lease."""
        self._metrics = metrics
        self._make_heartbeats = make_heartbeats
        self._clock = clock
        self._wall = wall
        self._connections: _CountedConnections | None = None
        metrics.kafka_client_connections.set_function(self._open_connections)

    def make_client(self, **config: Any) -> Any:
        """Return the network part of a new consumer; the consumer's setting `kafka_client` is this method."""
        return connections.make_client(self._make_connections, **config)

    def _make_connections(self, net: Any, **config: Any) -> "_CountedConnections":
        made = self._connections = _CountedConnections(net, config, self._metrics, self._clock, self._wall)
        made.heartbeats = self._make_heartbeats(send=made.send_uncounted, call_later=made.call_later)
        return made

    def _open_connections(self) -> int:
        """Return how many connections the newest consumer has; those of a dropped one are not counted."""
        return 0 if self._connections is None else len(self._connections.open_connections)


class _CountedConnections(PatientConnections):
    """The connections and requests of one consumer."""

    def __init__(
        self,
        net: Any,
        config: dict[str, Any],
        metrics: Metrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.open_connections: set[Any] = set()
        self.login_refused: BaseException | None = None  # the error that a broker last answered a login with
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self.heartbeats: Heartbeats | None = None
        self._rebalance_began: float | None = None
        self._handlers: dict[str, Callable[[float, Any], None]] = {
            "FetchRequest": self._fetched,
            "HeartbeatRequest": self._heartbeat_answered,
            "JoinGroupRequest": self._join_answered,
            "SyncGroupRequest": self._sync_answered,
        }
        super().__init__(net, **config)

    # -- connections

    def on_transport(self, transport: Any) -> None:
        """Have what came just before the end of a connection read: it says why a login was refused."""
        receive.deliver_last_bytes(transport)

    def on_new_connection(self, connection: Any) -> None:
        """Watch a connection from its first try to its end."""
        connections.watch(
            connection,
            opened=lambda: self._opened(connection),
            failed=self._failed,
            closed=lambda: self.open_connections.discard(connection),
        )

    def _opened(self, connection: Any) -> None:
        self.open_connections.add(connection)
        receive.receive_without_copies(connection)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
            self.login_refused = error
        self._metrics.kafka_client_connection_errors.inc()

    # -- requests

    def send_uncounted(self, request: Any, node_id: Any) -> Any:
        """As the parent's."""
        return super().send(request, node_id)

    def send(self, request: Any, node_id: Any = None, *args: Any, **options: Any) -> Any:
        """As the parent's; the answers to the requests that are counted are looked at before the client does."""
        heartbeats = self.heartbeats
        handed_over_at = heartbeats.now() if heartbeats is not None else 0.0
        answer = super().send(request, node_id, *args, **options)
        if heartbeats is not None:
            heartbeats.watch(request, node_id, handed_over_at, answer)
        name = type(request).__name__
        if (handle := self._handlers.get(name)) is not None:
            sent = self._clock()
            answer.add_callback(lambda response: handle(sent, response))
            if name in ("JoinGroupRequest", "SyncGroupRequest"):
                self._rebalance_began = sent if self._rebalance_began is None else self._rebalance_began
                answer.add_errback(self._not_answered)
        return answer

    def _fetched(self, sent: float, response: Any) -> None:
        self._metrics.kafka_client_fetch_duration.observe(self._clock() - sent)
        for topic in response.responses:
            size = sum(len(partition.records or b"") for partition in topic.partitions)
            self._metrics.kafka_client_fetched_bytes.labels(topic.topic).inc(size)

    def _heartbeat_answered(self, _sent: float, response: Any) -> None:
        if response.error_code in (_NO_ERROR, _REBALANCE_IN_PROGRESS):
            self._metrics.kafka_client_last_heartbeat.set(self._wall())

    def _join_answered(self, _sent: float, response: Any) -> None:
        if response.error_code not in (_NO_ERROR, _MEMBER_ID_REQUIRED):
            self._metrics.kafka_client_failed_rebalances.inc()

    def _sync_answered(self, _sent: float, response: Any) -> None:
        if response.error_code != _NO_ERROR:
            self._metrics.kafka_client_failed_rebalances.inc()
        elif self._rebalance_began is not None:
            self._metrics.kafka_client_rebalance_duration.observe(self._clock() - self._rebalance_began)
            self._rebalance_began = None

    def _not_answered(self, error: BaseException) -> None:
        """Count a request without an answer; one to a node that is not ready was not sent, and a closing consumer cancels its own."""
        if not isinstance(error, (kafka_errors.NodeNotReadyError, kafka_errors.Cancelled)):
            self._metrics.kafka_client_failed_rebalances.inc()
