"""Whether the dead-letter topic may be written to, as far as the broker says, without a write."""

import logging
from typing import Any, Final

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from worker.consumer import client_config, client_network
from worker.settings.tables import Kafka

log = logging.getLogger("worker.deadletter")

_TIMEOUT_MS: Final = 5_000  # to connect, and to be answered: nothing is consumed meanwhile


def may_write(settings: Kafka, topic: str) -> bool | None:
    """Return whether this user may write to a topic; None where the broker does not say.

    Metadata has the user's operations on a topic since Kafka 2.3; asking for them changes nothing. A topic that is shown
    at all may be described, so that a list without DESCRIBE is not believed: the broker does not fill it in.
    """
    try:
        described = _describe(settings, topic)
    except kafka_errors.IncompatibleBrokerVersion:
        return None
    except Exception as error:  # the client raises errors of every kind; the first write finds out then
        log.info("the right to write dead letters is unknown", extra={"error": client_config.describe(error)})
        return None
    operations = next((one.get("authorized_operations") for one in described if one.get("name") == topic), None)
    if not operations or "DESCRIBE" not in operations:
        return None
    return "WRITE" in operations


def _describe(settings: Kafka, topic: str) -> list[dict[str, Any]]:
    clients: list[Any] = []

    def make_client(**config: Any) -> Any:
        clients.append(client_network.make_client(**config))
        return clients[-1]

    known = client_config.connection(settings, KafkaAdminClient.DEFAULT_CONFIG)
    timeouts = {"request_timeout_ms": _TIMEOUT_MS, "bootstrap_timeout_ms": _TIMEOUT_MS}
    try:
        admin = KafkaAdminClient(**(known | timeouts), kafka_client=make_client)
    except Exception:
        for client in clients:  # otherwise the client leaves a thread and sockets open
            client.close()
        raise
    try:
        found: list[dict[str, Any]] = admin.describe_topics([topic])
        return found
    finally:
        admin.close()
