"""Questions about the cluster that no consumer answers: groups and their offsets, settings of topics and brokers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from worker.consumer import client_config, client_network
from worker.errors import FatalError
from worker.settings.tables import Kafka


@contextmanager
def admin_client(settings: Kafka) -> Iterator[Any]:
    """Yield an admin client. What kafka-python raises, here and within, becomes a `FatalError` in one line."""
    servers = ", ".join(settings.bootstrap_servers)
    try:
        config = client_config.connection(settings, KafkaAdminClient.DEFAULT_CONFIG)
        client = KafkaAdminClient(**config, kafka_client=client_network.make_client)
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
        found = client.list_group_offsets(settings.group_id)[settings.group_id]
    return {tp.partition: at.offset for tp, at in found.items() if tp.topic == topic and at.offset >= 0}
