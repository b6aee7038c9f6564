"""The table `[kafka.client]`: kafka-python's own settings, compared with what the client knows."""

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from worker.settings.addresses import is_proxy
from worker.settings.mistakes import suggestion
from worker.settings.tables import INT32

REQUEST_TIMEOUT_MS: Final = 15_000
"""What `request_timeout_ms` is where `[kafka.client]` does not set it."""

# What the worker sets itself: another value would break a promise, or has a setting of its own.
OWNED: Final = frozenset(
    {
        *("acks", "allow_auto_create_topics", "auto_commit_interval_ms", "auto_offset_reset", "bootstrap_servers"),
        *("client_id", "consumer_timeout_ms", "default_offset_commit_callback", "enable_auto_commit"),
        *("enable_idempotence", "group_id", "group_instance_id", "heartbeat_interval_ms", "isolation_level"),
        *(
            "kafka_client",
            "key_deserializer",
            "key_serializer",
            "max_poll_interval_ms",
            "max_poll_records",
            "metrics_enabled",
            "sasl_oauth_token_provider",
        ),
        *("partition_assignment_strategy", "sasl_mechanism", "sasl_plain_password", "sasl_plain_username"),
        *("security_protocol", "session_timeout_ms", "ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password"),
        *("transactional_id", "value_deserializer", "value_serializer"),
    }
)


def client_mistakes(client: Mapping[str, Any]) -> list[str]:
    """Return a mistake for each setting that the worker owns, that the client does not know, of another form or out of order."""
    if not client:
        return []
    owned = sorted(OWNED & client.keys())
    mistakes = []
    if owned:
        mistakes.append(
            f"kafka.client: {', '.join(owned)} cannot be set here; the worker owns {', '.join(sorted(OWNED))}"
        )
    known = client_defaults()
    mistakes += _form_mistakes(client, known)
    mistakes += [
        f"kafka.client: {name} is not a setting of kafka-python{suggestion(name, sorted(known))}"
        for name in sorted(client.keys() - set(owned) - known.keys())
    ]
    return mistakes + _order_mistakes({**known, "request_timeout_ms": REQUEST_TIMEOUT_MS, **client})


def client_defaults() -> dict[str, Any]:
    """Return the settings of kafka-python's consumer and producer, with their defaults."""
    from kafka import KafkaConsumer, KafkaProducer  # noqa: PLC0415 - only where there is something to compare

    return {**KafkaProducer.DEFAULT_CONFIG, **KafkaConsumer.DEFAULT_CONFIG}


def _is_text(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_socket_options(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(option, list) and len(option) == 3 and all(type(part) is int for part in option) for option in value
    )


# What the settings of kafka-python may be whose default is None; those that are objects of a program may be nothing.
FORMS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = MappingProxyType(
    {
        "api_version": ('text such as "2.8.2"', lambda value: _is_text(value, r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")),
        "compression_type": ("gzip, snappy, lz4 or zstd", lambda value: _is_text(value, "gzip|snappy|lz4|zstd")),
        "proxy_url": ("scheme://[user:password@]host:port", lambda value: isinstance(value, str) and is_proxy(value)),
        "receive_buffer_bytes": ("a whole number, 1 or more", lambda value: type(value) is int and value > 0),
        "sasl_kerberos_domain_name": ("text", lambda value: isinstance(value, str)),
        "sasl_kerberos_name": ("text", lambda value: isinstance(value, str)),
        "send_buffer_bytes": ("a whole number, 1 or more", lambda value: type(value) is int and value > 0),
        "socket_options": ("a list of lists of three numbers", _is_socket_options),
        "socks5_proxy": (
            "scheme://[user:password@]host:port",
            lambda value: isinstance(value, str) and is_proxy(value),
        ),
        "ssl_ciphers": ("text", lambda value: isinstance(value, str)),
        "ssl_crlfile": ("the name of a file", lambda value: isinstance(value, str)),
        **dict.fromkeys(
            ("metric_reporters", "partitioner", "selector", "ssl_context"),
            ("an object of a program, which no setting can give", lambda _: False),
        ),
    }
)


def _form_mistakes(client: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Compare each value with its default's type; where the default is None, with the form of the table above."""
    mistakes = []
    for name, value in client.items():
        kind = type(defaults.get(name))
        form, is_right = FORMS.get(name, ("", lambda _: True))
        if not is_right(value):
            mistakes.append(f"kafka.client: {name} must be {form}")
        elif kind in (bool, int, float, str) and not (type(value) is kind or (kind is float and type(value) is int)):
            mistakes.append(f"kafka.client: {name} must be of type {kind.__name__}, as in kafka-python")
        elif isinstance(value, (int, float)) and not math.isfinite(value):
            mistakes.append(f"kafka.client: {name} must be a finite number")
        elif isinstance(value, int) and abs(value) > INT32 and name != "buffer_memory":
            mistakes.append(f"kafka.client: {name} is larger than {INT32}, the most that Kafka's protocol can carry")
    return mistakes


def _order_mistakes(effective: Mapping[str, Any]) -> list[str]:
    """Compare the times whose order the consumer asks for: it cannot be made with another one."""
    order = (("fetch_max_wait_ms", "request_timeout_ms"), ("request_timeout_ms", "connections_max_idle_ms"))
    return [
        f"kafka.client: {shorter} = {effective[shorter]} must be less than {longer} = {effective[longer]}"
        for shorter, longer in order
        if type(effective[shorter]) is type(effective[longer]) is int and effective[shorter] >= effective[longer]
    ]
