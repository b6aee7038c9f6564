"""Questions about the cluster that no consumer answers: groups and their offsets, settings of topics and brokers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.errors import FatalError
from worker.ledger import Partition
from worker.settings.tables import Kafka
from worker.tools import connections

_OFFSETS_TOPIC: Final = "__consumer_offsets"
_TRIES: Final = 12
_WAIT_SECONDS: Final = 0.5
_LOADING: Final = (  # a coordinator that begins or moves is there in a moment
    kafka_errors.CoordinatorNotAvailableError,
    kafka_errors.CoordinatorLoadInProgressError,
    kafka_errors.NotCoordinatorError,
)

T = TypeVar("T")


@contextmanager
def admin_client(settings: Kafka) -> Iterator[Any]:
    """Yield an admin client. What kafka-python raises, here and within, becomes a `FatalError` in one line."""
    servers = ", ".join(settings.bootstrap_servers)
    config = client_config.connection(settings, KafkaAdminClient.DEFAULT_CONFIG)
    try:
        client = client_config.connected(KafkaAdminClient, connections.make_client, config)
    except (kafka_errors.KafkaError, OSError) as error:
        raise FatalError(f"kafka at {servers} cannot be reached: {client_config.describe(error)}") from error
    try:
        yield client
    except kafka_errors.KafkaError as error:
        raise FatalError(f"kafka at {servers} refused a question: {client_config.describe(error)}") from error
    finally:
        client.close()


def committed_offsets(settings: Kafka, topic: str) -> dict[int, int]:
    """Return what the worker's group has committed of a topic, by partition number. Raises `FatalError`."""
    with admin_client(settings) as client:
        found = committed_of(client, settings.group_id)
    return {partition.partition: offset for partition, offset in found.items() if partition.topic == topic}


def committed_of(client: Any, group: str) -> dict[Partition, int]:
    """Return what a group has committed, of all topics."""
    if not cluster_has_groups(client):
        return {}
    found = when_loaded(lambda: client.list_group_offsets(group)[group])
    return {Partition(tp.topic, tp.partition): at.offset for tp, at in found.items() if at.offset >= 0}


def cluster_has_groups(client: Any) -> bool:
    """Return whether a question about a group changes nothing.

    The first one in the life of a cluster makes the broker create its topic of offsets. Some services hide that topic, so
    that groups that are there count too.
    """
    described = client.describe_topics([_OFFSETS_TOPIC])
    unknown = kafka_errors.UnknownTopicOrPartitionError.errno
    return any(topic["error_code"] != unknown for topic in described) or bool(client.list_groups())


def when_loaded(question: Callable[[], T], *, tries: int = _TRIES, wait: Callable[[float], object] = time.sleep) -> T:
    """Return the answer of a group's coordinator, asked again for some seconds while it loads."""
    for _ in range(tries - 1):
        try:
            return question()
        except _LOADING:
            wait(_WAIT_SECONDS)
    return question()
