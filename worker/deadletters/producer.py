"""The producer of dead letters, which closes without waiting for what is unsent."""

from typing import Any, Final, Protocol

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from worker.consumer import client_config, client_internals, client_network
from worker.deadletters.headers import Headers
from worker.settings.tables import Kafka

_MAX_BLOCK_MS: Final = 5_000
DELIVERY_TIMEOUT_MS: Final = 20_000
_MAX_REQUEST_BYTES: Final = 100 * 1024 * 1024  # the broker's limit decides, not the client's of 1 MiB


# The one codec that every broker, Kafka-compatible service and reader has. The topic's limit is for compressed batches: what
# its producer had compressed into the limit of the source topic must fit here too.
_COMPRESSION: Final = "gzip"


_NO_IDEMPOTENCE: Final = (kafka_errors.UnsupportedVersionError, kafka_errors.ClusterAuthorizationFailedError)
# kafka-python has no class for a producer id that is refused for good: a plain KafkaError says so in its text.
_NO_PRODUCER_ID: Final = "Unexpected error in InitProducerIdResponse"


class Producer(Protocol):
    """The methods of kafka-python's producer that are used."""

    def send(self, topic: str, *, value: bytes | None, key: bytes | None, headers: Headers) -> Any:
        """Queue a message; returns a future."""

    def partitions_for(self, topic: str) -> set[int]:
        """Return a topic's partitions, none where it does not exist."""

    def close(self, timeout: float | None = None) -> None:
        """Close."""


class _Producer(KafkaProducer):  # type: ignore[misc]  # kafka-python ships no types
    """Closes although records are unsent: the writer keeps them until this producer or the next has them acknowledged.

    The client's own `close` waits for them. Where they cannot be sent it raises, leaves its thread running, and raises once
    more when the process ends.
    """

    def close(self, timeout: float | None = None, null_logger: bool = False) -> None:
        client_internals.force_close(self)
        super().close(timeout=timeout, null_logger=null_logger)


def refuses_idempotence(error: BaseException) -> bool:
    """Return whether the brokers lack idempotent producers, or allow this user none."""
    return isinstance(error, _NO_IDEMPOTENCE) or _NO_PRODUCER_ID in str(error)


def make_producer(settings: Kafka, *, idempotent: bool) -> Producer:
    """Return a producer that waits for all replicas. Raises kafka-python's errors."""
    config = {
        "acks": "all",
        "linger_ms": 5,
        "max_block_ms": _MAX_BLOCK_MS,
        "delivery_timeout_ms": DELIVERY_TIMEOUT_MS,
        "max_request_size": _MAX_REQUEST_BYTES,
        "enable_idempotence": idempotent,
        "compression_type": _COMPRESSION,
    }
    config |= client_config.connection(settings, KafkaProducer.DEFAULT_CONFIG)
    producer: Producer = client_config.connected(_Producer, client_network.make_client, config)
    return producer
