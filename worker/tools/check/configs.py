"""Settings of topics and brokers, as far as this user may see them."""

from collections.abc import Mapping
from typing import Any, Final

from kafka import errors as kafka_errors
from kafka.admin import ConfigResource

_DAY_MS: Final = 86_400_000


def configs_of(client: Any, kind: Any, name: str) -> dict[str, Any]:
    """Return the settings of a topic or broker by name, {} where this user may not see them."""
    try:
        found = client.describe_configs([ConfigResource(kind, name)], config_filter="all")
    except kafka_errors.KafkaError:
        return {}
    return next(iter(next(iter(found.values()), {}).values()), {})


def text_in(configs: Mapping[str, Any], name: str) -> str:
    """Return a setting, "" where it is not known."""
    return str(configs.get(name, {}).get("value") or "")


def number_in(configs: Mapping[str, Any], name: str) -> int | None:
    """Return a setting that is a whole number, None where it is not known."""
    value = text_in(configs, name)
    return int(value) if value.lstrip("-").isdigit() else None


def duration(milliseconds: int) -> str:
    """Return a time of retention in words; below 0 it has no end."""
    if milliseconds < 0:
        return "for ever"
    days = milliseconds / _DAY_MS
    return f"for {days:.1f} days" if days >= 1 else f"for {milliseconds / 3_600_000:.1f} h"
