"""What the Kafka client of the group does on the wire, counted as it happens.

The client's own figures are averages and rates over its last half minute: nobody can add those of two processes up, or
look at another window. Reading them changes them, too: a sample that has left its window is emptied by whoever looks,
without the lock of those who record. So nothing is read of them here. Every request and every connection comes by the
client's connection manager, which a client is made with; this one notes when a request leaves and how it is answered.

Connections are handed to `wire` as they come, which receives for them, and requests to `heartbeats`, which renews the
lease by them. All of it runs on the client's IO thread, waits
for nothing, and an error in it ends in the client's log.
"""

from collections.abc import Callable
from typing import Any, Final

from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.net.selector import NetworkSelector

from worker.consumer import receive
from worker.consumer.client_network import PatientManager
from worker.consumer.heartbeats import Heartbeats
from worker.telemetry.metrics import Metrics

_NO_ERROR: Final = 0
_REBALANCE_IN_PROGRESS: Final = 27
_MEMBER_ID_REQUIRED: Final = 79  # the first answer to a new member, which joins again with the id in it


class ClientFigures:
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
        self._manager: _CountingManager | None = None
        metrics.kafka_client_connections.set_function(self._open_connections)

    def make_client(self, **config: Any) -> Any:
        """Return the network part of a new consumer; the consumer's setting `kafka_client` takes this method."""
        net = NetworkSelector(**config)
        self._manager = _CountingManager(net, config, self._metrics, self._clock, self._wall)
        self._manager.heartbeats = self._make_heartbeats(send=self._manager.send_uncounted, call_later=net.call_later)
        return KafkaNetClient(net, self._manager, **config)

    def _open_connections(self) -> int:
        """Return how many connections the newest consumer has; those of one that was dropped are nobody's."""
        return 0 if self._manager is None else len(self._manager.open_connections)


class _CountingManager(PatientManager):
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
        self.login_refused: BaseException | None = None  # what a broker last said to it
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self.heartbeats: Heartbeats | None = None
        self._rebalance_began: float | None = None
        self._looks: dict[str, Callable[[float, Any], None]] = {
            "FetchRequest": self._fetched,
            "HeartbeatRequest": self._heartbeat_answered,
            "JoinGroupRequest": self._join_answered,
            "SyncGroupRequest": self._sync_answered,
        }
        super().__init__(net, **config)

    # -- connections

    async def _build_transport(self, *args: Any, **options: Any) -> Any:
        """As the parent's; what came just before the end of a connection is read, which is why a login was refused."""
        transport = await super()._build_transport(*args, **options)
        receive.receive_to_the_end(transport)
        return transport

    def get_connection(self, node_id: Any, *args: Any, **options: Any) -> Any:
        """As the parent's; a connection that is new is watched from its first try to its end."""
        known = self._conns.get(node_id)
        connection = super().get_connection(node_id, *args, **options)
        if connection is not known:
            connection.init_future.add_callback(lambda _: self._opened(connection))
            connection.init_future.add_errback(self._failed)
            connection.close_future.add_both(lambda _: self.open_connections.discard(connection))
        return connection

    def _opened(self, connection: Any) -> None:
        self.open_connections.add(connection)
        connection.close_future.add_errback(self._failed)
        receive.receive_in_place(connection)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
            self.login_refused = error
        self._metrics.kafka_client_connection_errors.inc()

    # -- requests

    def send_uncounted(self, request: Any, node_id: Any) -> Any:
        """As the parent's."""
        return super().send(request, node_id)

    def send(self, request: Any, node_id: Any = None, *args: Any, **options: Any) -> Any:
        """As the parent's; what comes of the requests that are counted is looked at, before anybody else does."""
        heartbeats = self.heartbeats
        handed_over_at = heartbeats.now() if heartbeats is not None else 0.0
        answer = super().send(request, node_id, *args, **options)
        if heartbeats is not None:
            heartbeats.watch(request, node_id, handed_over_at, answer)
        name = type(request).__name__
        if (look := self._looks.get(name)) is not None:
            sent = self._clock()
            answer.add_callback(lambda response: look(sent, response))
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
        """A node that is not ready was not asked, and what is cancelled is the consumer's own end."""
        if not isinstance(error, (kafka_errors.NodeNotReadyError, kafka_errors.Cancelled)):
            self._metrics.kafka_client_failed_rebalances.inc()
