"""Shows the settings: those in force with secrets hidden, and a commented example with every default."""

import json
import re
from types import MappingProxyType
from typing import Any, Final

import msgspec

from worker import redaction
from worker.redaction import HIDDEN
from worker.settings import value_text
from worker.settings.load import Loaded
from worker.settings.tables import SECRETS, TABLES, Route, Settings, Table, description_of, fields_of, table_in

_BARE_KEY: Final = re.compile("[A-Za-z0-9_-]+")


def remember_secrets(settings: Settings) -> None:
    """Hide the secrets of the settings in every text that leaves this process."""
    kafka, oss, registry = settings.kafka, settings.oss, settings.registry
    redaction.remember(kafka.sasl_plain_password, kafka.ssl_password, registry.password, registry.token)
    redaction.remember_login(registry.username, registry.password)
    redaction.remember_url(oss.proxy_url)
    for name, value in kafka.client.items():
        if isinstance(value, str):
            redaction.remember_url(value)
            if any(word in name for word in ("password", "secret", "token")):
                redaction.remember(value)


def secret_safe(name: str, value: Any) -> str:
    """Return a setting's value as TOML, hidden where it is a secret that is set."""
    if name in SECRETS and value:
        return (
            f'"{HIDDEN}"'
            if not isinstance(value, dict)
            else "{ " + ", ".join(f'{key} = "{HIDDEN}"' for key in value) + " }"
        )
    if name.endswith("file") and value_text.shown_path(value) == HIDDEN:
        return as_toml(HIDDEN)
    return as_toml(value)


def as_toml(value: Any) -> str:
    """Return a setting's value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{_key(key)} = {as_toml(element)}" for key, element in value.items()) + " }"
            if value
            else "{}"
        )
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(as_toml(element) for element in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def in_force(loaded: Loaded) -> str:
    """Return the settings in force as TOML, each with its origin, secrets hidden."""
    lines = []
    for route in loaded.settings.routes:
        lines.append(f"[[routes]]  # from {loaded.origins['routes']}")
        lines += [f"{name} = {as_toml(getattr(route, name))}" for name in fields_of(Route)]
        lines.append("")
    for table, kind in TABLES.items():
        lines.append(f"[{table}]")
        for name in fields_of(kind):
            full = f"{table}.{name}"
            value = getattr(getattr(loaded.settings, table), name)
            if not isinstance(value, Table):
                lines.append(f"{name} = {secret_safe(full, value)}  # {loaded.origins[full]}")
        lines.append("")
        for name, within in _tables_in(kind).items():
            value = getattr(getattr(loaded.settings, table), name)
            lines.append(f"[{table}.{name}]  # from {loaded.origins[f'{table}.{name}']}")
            lines += [f"{each} = {as_toml(getattr(value, each))}" for each in fields_of(within)]
            lines.append("")
    return "\n".join(lines).rstrip("\n")


_EXAMPLE_VALUES: Final = MappingProxyType(
    {
        ("routes", "topic"): "vectors",
        ("routes", "index"): "docs",
        ("oss", "region"): "cn-hangzhou",
        ("oss", "bucket"): "my-bucket",
        ("oss", "account_id"): "123456789",
    }
)


def example() -> str:
    """Return a commented file with every setting at its default, and sample values where one is needed."""
    lines = [
        "# Every setting with its default. Those without one are marked: Needed.",
        "",
        "[[routes]]  # one for each topic, at least one",
    ]
    lines += _example_lines("routes", Route)
    for table, kind in TABLES.items():
        lines += ["", f"# {kind.__doc__}", f"[{table}]"]
        lines += _example_lines(table, kind)
        for name, within in _tables_in(kind).items():
            lines += ["", f"# {within.__doc__}", f"[{table}.{name}]"]
            lines += _example_lines(f"{table}.{name}", within)
    return "\n".join(lines)


def _tables_in(kind: type[Table]) -> dict[str, type[Table]]:
    """Return the tables within a table, which TOML wants behind its values."""
    found = {name: table_in(field.type) for name, field in fields_of(kind).items()}
    return {name: within for name, within in found.items() if within is not None}


def _example_lines(table: str, kind: type[Table]) -> list[str]:
    lines = []
    for name, field in fields_of(kind).items():
        if table_in(field.type) is not None:
            continue
        if field.required:
            value, needed = _EXAMPLE_VALUES[table, name], "Needed. "
        else:
            value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            needed = ""
        lines.append(f"{name} = {as_toml(value)}  # {needed}{description_of(field.type)}")
    return lines
