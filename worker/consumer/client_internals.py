"""Every private part of kafka-python that finding offsets, leaders and topics needs: one function for each need.

The client's public calls for these wait for all partitions at once, and raise for the first one that fails
(`position` validates all, `end_offsets` fails as a whole, `partitions_for_topic` waits without a limit). What is done
here waits for nothing.

`missing_parts` names what a later client does not have; the consumer asks it before it starts.
"""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.future import Future
from kafka.protocol.consumer import OffsetForLeaderEpochRequest

_PARTS: Final = (
    "_manager.call_soon",
    "_manager.send",
    "_manager.wait_for",
    "_manager.least_loaded_node",
    "_manager._backoff",
    "_manager._conns",
    "_net.run",
    "_cluster._topics",
    "_cluster.leader_for_partition",
    "_manager.broker_version_data",
    "_cluster.partitions_for_topic",
    "_cluster.request_update",
    "_cluster.brokers",
    "_subscription.assignment",
    "_subscription.seek",
    "_coordinator.coordinator",
    "_coordinator.coordinator_id",
    "_coordinator.coordinator_dead",
    "_coordinator._failed_request",
)


def missing_parts(consumer: Any) -> list[str]:
    """Return which parts this client does not have under the names that are used here."""
    return [path for path in _PARTS if not _has(consumer, path)]


def _has(owner: Any, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True


# -- running something on the client's IO thread


def submit(consumer: Any, make: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
    """Start a coroutine on the client's IO thread; returns the client's future at once, a failed one if that has ended."""
    try:
        return consumer._manager.call_soon(make, *arguments)  # noqa: SLF001 - see above
    except Exception as error:  # the thread raises what ended it
        return Future().failure(error)


def wait(consumer: Any, future: Any, timeout_ms: int) -> Any:
    """Return a future's result. Raises its error, and `KafkaTimeoutError` after `timeout_ms`."""
    return consumer._net.run(consumer._manager.wait_for, future, timeout_ms)  # noqa: SLF001 - see above


async def send(consumer: Any, request: Any, node: Any) -> Any:
    """Send a request to a broker and return its answer; to be awaited on the client's IO thread."""
    return await consumer._manager.send(request, node_id=node)  # noqa: SLF001 - see above


def any_broker(consumer: Any) -> Any:
    """Return the number of a broker that can be asked now, None where none can."""
    return consumer._manager.least_loaded_node()  # noqa: SLF001 - see above


# -- the coordinator of the group


def coordinator(consumer: Any) -> Any:
    """Return the node of the group's coordinator, None where it is not known or not connected."""
    return consumer._coordinator.coordinator()  # noqa: SLF001 - see above


def has_coordinator(consumer: Any) -> bool:
    """Return whether the group's coordinator is known and connected, from memory: the client is not made to look."""
    node = consumer._coordinator.coordinator_id  # noqa: SLF001 - see above
    connection = None if node is None else consumer._manager._conns.get(node)  # noqa: SLF001 - see above
    return connection is not None and bool(connection.connected)


def coordinator_failed(consumer: Any, node: Any, request: Any, error: BaseException) -> None:
    """Let the client judge whether a failed request means that the coordinator is gone."""
    consumer._coordinator._failed_request(node, request, error)  # noqa: SLF001 - see above


def coordinator_moved(consumer: Any, error: BaseException) -> None:
    """Let the client look for the coordinator again."""
    consumer._coordinator.coordinator_dead(error)  # noqa: SLF001 - see above


# -- positions


def position(consumer: Any, tp: TopicPartition) -> OffsetAndMetadata | None:
    """Return what is read next, from memory: its offset, and the leader's epoch of what was read before it (-1: unknown).

    None where the partition is not assigned or has no position.
    """
    state = consumer._subscription.assignment.get(tp)  # noqa: SLF001 - see above
    return None if state is None else state.position


def seek(consumer: Any, tp: TopicPartition, offset: int | OffsetAndMetadata) -> None:
    """Read a partition from an offset on. Raises `KeyError` where it is not assigned.

    With the leader's epoch of what is before it, the client asks the leader whether its log goes on there, before it reads.
    The client's own call takes no epoch, and copies the whole assignment to look for the partition in it.
    """
    consumer._subscription.seek(tp, offset)  # noqa: SLF001 - see above


def forget_high_watermark(consumer: Any, tp: TopicPartition) -> None:
    """Forget the high watermark, so that `KafkaConsumer.highwater` is None until the next fetch that succeeds."""
    state = consumer._subscription.assignment.get(tp)  # noqa: SLF001 - see above
    if state is not None:
        state.highwater = None


# -- metadata


def leader(consumer: Any, tp: TopicPartition) -> int | None:
    """Return the number of the broker that leads a partition: -1 where it has none, None where that is unknown."""
    found: int | None = consumer._cluster.leader_for_partition(tp)  # noqa: SLF001 - see above
    return found


def leaders_know_epochs(consumer: Any) -> bool:
    """Return whether the brokers can be asked where an epoch ends; else the client would ask, and never read."""
    try:
        consumer._manager.broker_version_data.api_version(OffsetForLeaderEpochRequest)  # noqa: SLF001 - see above
    except kafka_errors.IncompatibleBrokerVersion:
        return False
    return True


def partitions(consumer: Any, topic: str) -> frozenset[int]:
    """Return a topic's partitions as far as they are known, without asking."""
    return frozenset(consumer._cluster.partitions_for_topic(topic) or ())  # noqa: SLF001 - see above


def refresh_metadata(consumer: Any) -> Any:
    """Ask for fresh metadata; returns a future, a failed one if the client's IO thread has ended."""
    try:
        return consumer._cluster.request_update()  # noqa: SLF001 - see above
    except Exception as error:  # the thread raises what ended it
        return Future().failure(error)


def set_topics(consumer: Any, topics: Iterable[str]) -> None:
    """Ask for the metadata of these topics alone from now on. The client's own way adds topics and drops none."""
    consumer._cluster._topics = set(topics)  # noqa: SLF001 - see above


# -- connections


def unreachable(consumer: Any) -> dict[int, str]:
    """Return "host:port" of each broker that the cluster names and that could not be connected to, by its number."""
    return _unreachable(consumer._manager)  # noqa: SLF001 - see above


def unreachable_of_producer(producer: Any) -> dict[int, str]:
    """As `unreachable`; nothing where it is another kind of producer."""
    client = getattr(getattr(producer, "_sender", None), "_client", None)
    return {} if client is None else _unreachable(client._manager)  # noqa: SLF001 - see above


def _unreachable(manager: Any) -> dict[int, str]:
    found = {}
    for broker in manager.cluster.brokers():
        connection = manager._conns.get(broker.node_id)  # noqa: SLF001 - see above
        is_tried = connection is not None or broker.node_id in manager._backoff  # noqa: SLF001 - see above
        if is_tried and (connection is None or not connection.connected):
            found[broker.node_id] = f"{broker.host}:{broker.port}"
    return found


def is_connected(consumer: Any) -> bool:
    """Return whether there is a connection to any broker."""
    connections = list(consumer._manager._conns.values())  # noqa: SLF001 - see above
    return any(connection.connected for connection in connections)
