"""Making the group's consumer: connected, checked, and subscribed, or an error that says what to do."""

from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer
from kafka import errors as kafka_errors

from worker.consumer import client_config, client_internals, receive
from worker.consumer.assignor import MarkedAssignor
from worker.errors import BrokerUnavailable
from worker.settings.tables import Kafka


def connect(
    settings: Kafka,
    *,
    make_client: Callable[..., Any],
    max_poll_records: int,
    subscribe: Callable[[Any], None],
    count_error: Callable[[BaseException], None],
) -> Any:
    """Return a consumer that `subscribe` was called with.

    Raises `BrokerUnavailable`, after which it may be called again.
    """
    tried = ", ".join(settings.bootstrap_servers)
    try:
        consumer = client_config.make_consumer(
            make_client,
            **client_config.consumer(settings, KafkaConsumer.DEFAULT_CONFIG),
            **client_config.group(settings),
            auto_offset_reset="none",
            max_poll_records=max_poll_records,
            partition_assignment_strategy=[MarkedAssignor],
        )
    except (kafka_errors.KafkaError, OSError, ValueError) as error:
        count_error(error)
        raise BrokerUnavailable(f"kafka at {tried}: {client_config.describe(error)}") from error
    client_internals.note_fetch_places(consumer)
    receive.read_without_copies(consumer)
    try:
        subscribe(consumer)
    except (kafka_errors.KafkaError, BrokerUnavailable) as error:
        unreachable = client_internals.unreachable(consumer)
        client_config.close_consumer(consumer)
        if isinstance(error, BrokerUnavailable):
            raise
        count_error(error)
        problem = client_config.describe(error)
        if unreachable:
            problem = f"{client_config.wrongly_advertised(unreachable)} ({problem})"
        raise BrokerUnavailable(f"kafka at {tried}: {problem}") from error
    return consumer
