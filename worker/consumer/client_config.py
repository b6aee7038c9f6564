"""What all Kafka clients of the worker share: connection settings, and what their errors mean."""

import logging
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from kafka import KafkaConsumer
from kafka import errors as kafka_errors

from worker.consumer import client_internals
from worker.settings.client_options import REQUEST_TIMEOUT_MS
from worker.settings.tables import Kafka

log = logging.getLogger("worker.kafka_client")

# Vector records are large: a default of 1 MiB for each partition would be some 30 records of 1,536 dimensions.
FETCH_MAX_BYTES: Final = 16 * 1024 * 1024
PARTITION_FETCH_MAX_BYTES: Final = 4 * 1024 * 1024
BOOTSTRAP_TIMEOUT_MS: Final = 5_000
# A partition that lost its leader is fetched again after the next refresh of the metadata.
METADATA_MAX_AGE_MS: Final = 15_000
HEARTBEAT_MAX_MS: Final = 3_000
_CLOSE_TIMEOUT_MS: Final = 1_000


def connection(settings: Kafka, known: Collection[str]) -> dict[str, Any]:
    """Return how to reach the brokers, and those settings of `[kafka.client]` that this kind of client knows."""
    config: dict[str, Any] = {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "client_id": settings.client_id,
        "security_protocol": settings.security_protocol,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
        "metadata_max_age_ms": METADATA_MAX_AGE_MS,
        "reconnect_backoff_max_ms": 5_000,
        "allow_auto_create_topics": False,
    }
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password"):
        config[name] = getattr(settings, name) or None
    for name in ("sasl_mechanism", "sasl_plain_username", "sasl_plain_password"):
        config[name] = getattr(settings, name) or None
    config |= settings.client
    return {name: value for name, value in config.items() if name in known}


def consumer(settings: Kafka, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a consumer, without its group."""
    defaults = {
        "enable_auto_commit": False,
        "fetch_max_bytes": FETCH_MAX_BYTES,
        "max_partition_fetch_bytes": PARTITION_FETCH_MAX_BYTES,
        "isolation_level": settings.isolation_level,
    }
    return defaults | connection(settings, known)


def group(settings: Kafka) -> dict[str, Any]:
    """Return the settings of membership in the group."""
    return {
        "group_id": settings.group_id,
        "group_instance_id": settings.group_instance_id or None,
        "session_timeout_ms": settings.session_timeout_ms,
        "heartbeat_interval_ms": min(settings.session_timeout_ms // 3, HEARTBEAT_MAX_MS),
        "max_poll_interval_ms": settings.max_poll_interval_ms,
    }


_KINDS: Final[tuple[tuple[str, tuple[type[BaseException], ...]], ...]] = (
    (
        "authentication",
        (
            kafka_errors.SaslAuthenticationFailedError,
            kafka_errors.UnsupportedSaslMechanismError,
            kafka_errors.IllegalSaslStateError,
        ),
    ),
    ("authorization", (kafka_errors.AuthorizationError,)),
    (
        "group",
        (
            kafka_errors.UnknownMemberIdError,
            kafka_errors.IllegalGenerationError,
            kafka_errors.FencedInstanceIdError,
            kafka_errors.RebalanceInProgressError,
            kafka_errors.CoordinatorNotAvailableError,
            kafka_errors.CoordinatorLoadInProgressError,
            kafka_errors.NotCoordinatorError,
        ),
    ),
    ("commit", (kafka_errors.CommitFailedError,)),
    (
        "fetch",
        (
            kafka_errors.OffsetOutOfRangeError,
            kafka_errors.CorruptRecordError,
            kafka_errors.InvalidFetchRequestError,
            kafka_errors.LogTruncationError,
        ),
    ),
    (
        "connection",
        (
            kafka_errors.KafkaConnectionError,
            kafka_errors.NodeNotReadyError,
            kafka_errors.KafkaTimeoutError,
            kafka_errors.RequestTimedOutError,
            OSError,
        ),
    ),
    ("metadata", (kafka_errors.InvalidMetadataError, kafka_errors.UnknownBrokerIdError)),
)


def kind_of(error: BaseException) -> str:
    """Return the label `kind` of the metric `oss_vectors_kafka_errors_total`."""
    return next((kind for kind, classes in _KINDS if isinstance(error, classes)), "other")


def describe(error: BaseException) -> str:
    """Return an error of the client in one line."""
    name = type(error).__name__
    # The client puts a number and the name before its text, once for each time that it wrapped the error.
    text = re.sub(rf"^(\[Error \d+\] |{name}(: ?|$))+", "", " ".join(str(error).split()))
    text = re.sub(r"(^|: )None$", "", text)  # of an error that was made with None as its text
    return f"{name}: {text}" if text else name


def make_consumer(make_client: Callable[..., Any], **config: Any) -> Any:
    """Return a consumer. Raises as `connected` does."""
    return connected(KafkaConsumer, make_client, config)


def connected(kind: Callable[..., Any], make_client: Callable[..., Any], config: Mapping[str, Any]) -> Any:
    """Return a consumer, a producer or an admin client. Where it cannot be made, raise why, and leave nothing of it open.

    The constructor raises that no broker was reached, without the reason, and does not close its thread and its sockets. A
    broker's refusal of the login is raised in place of that.
    """
    clients: list[Any] = []

    def make(**client_config: Any) -> Any:
        clients.append(make_client(**client_config))
        return clients[-1]

    try:
        return kind(**config, kafka_client=make)
    except Exception as error:
        for client in clients:
            manager = client_internals.manager_of(client)
            failure = getattr(manager, "last_failure", None)  # before the end, which makes failures of its own
            client.close()
            # Those of `client_metrics` and of `tools.connections` note it, the plain ones do not.
            refusal = getattr(manager, "login_refused", None)
            if refusal is not None:
                raise refusal from error
            if failure is not None and isinstance(error, kafka_errors.KafkaTimeoutError):
                message = f"{describe(error)}; the last connection failed: {describe(failure)}"
                raise kafka_errors.KafkaTimeoutError(message) from error
        raise


def close_consumer(consumer: Any) -> None:
    """Close a consumer that is not used any more; an error of that is logged."""
    if consumer is not None:
        try:
            consumer.close(timeout_ms=_CLOSE_TIMEOUT_MS)
        except Exception as error:
            log.warning("a consumer did not close", extra={"error": describe(error)})


def names_of_unreachable(unreachable: Mapping[int, client_internals.Unreachable]) -> str:
    """Return number, place and last error of each broker that cannot be reached."""
    return ", ".join(
        f"broker {number} at {place}" + ("" if error is None else f" ({describe(error)})")
        for number, (place, error) in sorted(unreachable.items())
    )


def advice_on_unreachable(unreachable: Mapping[int, client_internals.Unreachable], otherwise: str) -> str:
    """Return what to do about brokers that cannot be reached: `otherwise`, if login and certificates are no reason."""
    errors = [error for _, error in unreachable.values() if error is not None]
    if any(isinstance(error, kafka_errors.SaslAuthenticationFailedError) for error in errors):
        return "correct kafka.sasl_plain_username and kafka.sasl_plain_password, or what that broker knows of this user"
    if any("CERTIFICATE_VERIFY_FAILED" in str(error) for error in errors):
        return "correct the certificate of that broker, or kafka.ssl_cafile"
    return otherwise


def wrongly_advertised(unreachable: Mapping[int, client_internals.Unreachable]) -> str:
    """Return the message on brokers that the cluster names and that cannot be reached."""
    advice = advice_on_unreachable(
        unreachable, "set advertised.listeners of the brokers to what this worker can reach, or open the way"
    )
    return f"it answers, and names brokers that cannot be reached: {names_of_unreachable(unreachable)}; {advice}"
