"""What single values cannot say: settings that contradict each other, and what must be there for a run."""

import difflib
import ipaddress
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from worker.redaction import HIDDEN
from worker.settings import files, value_text
from worker.settings.tables import (
    CREDENTIAL_VARIABLES,
    INT32,
    OWNED_CLIENT_SETTINGS,
    DeadLetter,
    Http,
    Kafka,
    Oss,
    Route,
    Table,
)
from worker.words import clean

SHOWN_CHARACTERS: Final = 200  # of a wrong value


def quoted(value: Any) -> str:
    return clean(repr(value), SHOWN_CHARACTERS)


def suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def credential_mistakes(environ: Mapping[str, str]) -> list[str]:
    """Return a mistake for each part of the credentials that the environment lacks, or that cannot be sent.

    White space around a value is left out of account, as it is when the value is used. No mistake quotes a value.
    """
    source = 'oss.credentials = "environment" takes'
    mistakes = []
    for name in CREDENTIAL_VARIABLES:
        value = environ.get(name, "").strip()
        if not value and name != "OSS_SESSION_TOKEN":
            mistakes.append(f"{source} {name} from the environment, and it is not set")
        elif value and (found := value_text.credential_problem(value)):
            mistakes.append(f"{source} {name} from the environment, and it {found}")
    return mistakes


def contradictions(routes: Iterable[Route], tables: Mapping[str, Table | None]) -> list[str]:
    mistakes = _route_contradictions(tuple(routes), tables["dead_letter"])
    kafka, oss, dead_letter, http = (tables[name] for name in ("kafka", "oss", "dead_letter", "http"))
    if isinstance(kafka, Kafka):
        mistakes += _kafka_contradictions(kafka)
    if isinstance(oss, Oss):
        mistakes += _oss_contradictions(oss)
    if isinstance(http, Http) and not (_is_host_name(http.host) or _is_address(http.host)):
        mistakes.append(f"http.host = {http.host!r}: allowed is an address of this machine, or its name")
    if isinstance(dead_letter, DeadLetter) and dead_letter.accept_until and accept_until(dead_letter) is None:
        mistakes.append(
            f"dead_letter.accept_until = {dead_letter.accept_until!r}: not a time of RFC 3339, such as 2026-01-31T12:00:00Z"
        )
    return mistakes


def _route_contradictions(routes: tuple[Route, ...], dead_letter: Table | None) -> list[str]:
    topics = [route.topic for route in routes if route.topic]
    mistakes = [
        f"routes: topic {topic!r} stands in several; a topic goes to one index"
        for topic in {t for t in topics if topics.count(t) > 1}
    ]
    if isinstance(dead_letter, DeadLetter) and dead_letter.topic in topics:
        mistakes.append(
            f"dead_letter.topic = {dead_letter.topic!r} is the topic of a route; dead letters would be read as records"
        )
    for index in {route.index for route in routes if route.index}:
        for name in ("dimension", "distance_metric", "non_filterable_metadata_keys"):
            given = {getattr(route, name) for route in routes if route.index == index and getattr(route, name)}
            if len(given) > 1:
                mistakes.append(
                    f"routes: the routes to index {index!r} contradict each other: {name} is {sorted(given)}"
                )
    named = [("routes: topic", topic) for topic in topics]
    if isinstance(dead_letter, DeadLetter) and dead_letter.topic:
        named.append(("dead_letter.topic =", dead_letter.topic))
    mistakes += [
        f"{place} {topic!r} is no name of a topic; allowed are letters, digits, '.', '_' and '-'"
        for place, topic in named
        if not re.fullmatch(r"[A-Za-z0-9._-]+", topic) or topic in (".", "..")
    ]
    return mistakes


def _kafka_contradictions(kafka: Kafka) -> list[str]:
    mistakes = []
    owned = sorted(OWNED_CLIENT_SETTINGS & kafka.client.keys())
    if owned:
        mistakes.append(
            f"kafka.client: {', '.join(owned)} cannot be set here; the worker owns {', '.join(sorted(OWNED_CLIENT_SETTINGS))}"
        )
    mistakes += [
        f"kafka.bootstrap_servers: {HIDDEN if value_text.may_be_secret(server) else repr(server)} is not host:port"
        for server in kafka.bootstrap_servers
        if not _is_server(server)
    ]
    mistakes += _client_type_mistakes(kafka.client)
    if kafka.client and (unknown := sorted(kafka.client.keys() - set(owned) - (known := _client_settings()).keys())):
        mistakes += [
            f"kafka.client: {name} is no setting of kafka-python{suggestion(name, sorted(known))}" for name in unknown
        ]
    if kafka.max_poll_interval_ms < kafka.session_timeout_ms:
        mistakes.append("kafka.max_poll_interval_ms must not be shorter than kafka.session_timeout_ms")
    if kafka.security_protocol.startswith("SASL") and not kafka.sasl_mechanism:
        mistakes.append(f"kafka.sasl_mechanism is needed with kafka.security_protocol = {kafka.security_protocol!r}")
    if kafka.sasl_mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        mistakes += [
            f"kafka.{name} is needed with kafka.sasl_mechanism = {kafka.sasl_mechanism!r}"
            for name in ("sasl_plain_username", "sasl_plain_password")
            if not getattr(kafka, name)
        ]
    given = {name: getattr(kafka, name) for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile")}
    mistakes += _file_mistakes("kafka", given)
    if isinstance(crl_file := kafka.client.get("ssl_crlfile"), str):
        mistakes += _file_mistakes("kafka.client", {"ssl_crlfile": crl_file})
    return mistakes


def _is_server(server: str) -> bool:
    """Return whether it is a host, or one with a port. A host is a name, an IPv4 address, or an IPv6 one in brackets."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", server)
    if found is None or (found[2] and not 1 <= int(found[2]) <= 65535):
        return False
    return not found[1] or _is_address(found[1])


def _is_proxy(address: str) -> bool:
    """Return whether the client can read the address. Where it cannot, its errors quote parts of it, a password too."""
    try:
        parts = urlsplit(address)
        return bool(parts.scheme and parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _file_mistakes(table: str, paths: Mapping[str, str]) -> list[str]:
    """Return a mistake for each certificate or key that cannot be read."""
    return [
        f"{table}.{name} = {value_text.shown_path(path)}: {found}"
        for name, path in paths.items()
        if path and (found := files.problem(path, files.CERTIFICATE_BYTES))
    ]


def _client_settings() -> dict[str, Any]:
    """Return kafka-python's settings with their defaults."""
    from kafka import KafkaConsumer, KafkaProducer  # noqa: PLC0415 - only where there is something to compare

    return {**KafkaProducer.DEFAULT_CONFIG, **KafkaConsumer.DEFAULT_CONFIG}


def _is_text(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_socket_options(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(option, list) and len(option) == 3 and all(type(part) is int for part in option) for option in value
    )


# Settings of kafka-python whose default is None, and what each may be; and those that are objects of a program.
_CLIENT_FORMS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = MappingProxyType(
    {
        "api_version": ('text such as "2.8.2"', lambda value: _is_text(value, r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")),
        "compression_type": ("gzip, snappy, lz4 or zstd", lambda value: _is_text(value, "gzip|snappy|lz4|zstd")),
        "proxy_url": ("scheme://[user:password@]host:port", lambda value: isinstance(value, str) and _is_proxy(value)),
        "receive_buffer_bytes": ("a number from 1 on", lambda value: type(value) is int and value > 0),
        "sasl_kerberos_domain_name": ("text", lambda value: isinstance(value, str)),
        "sasl_kerberos_name": ("text", lambda value: isinstance(value, str)),
        "send_buffer_bytes": ("a number from 1 on", lambda value: type(value) is int and value > 0),
        "socket_options": ("a list of lists of three numbers", _is_socket_options),
        "socks5_proxy": (
            "scheme://[user:password@]host:port",
            lambda value: isinstance(value, str) and _is_proxy(value),
        ),
        "ssl_ciphers": ("text", lambda value: isinstance(value, str)),
        "ssl_crlfile": ("the name of a file", lambda value: isinstance(value, str)),
        **dict.fromkeys(
            ("metric_reporters", "partitioner", "selector", "ssl_context"),
            ("an object of a program, which no setting can be", lambda _: False),
        ),
    }
)


def _client_type_mistakes(client: Mapping[str, Any]) -> list[str]:
    """Compare with the defaults' types, or with the form that a value may have whose default has none."""
    defaults = _client_settings() if client else {}
    mistakes = []
    for name, value in client.items():
        kind = type(defaults.get(name))
        form, is_right = _CLIENT_FORMS.get(name, ("", lambda _: True))
        if not is_right(value):
            mistakes.append(f"kafka.client: {name} is not what it may be: {form}")
        elif kind in (bool, int, float, str) and not (type(value) is kind or (kind is float and type(value) is int)):
            mistakes.append(f"kafka.client: {name} is of type {kind.__name__} in kafka-python, the value given is not")
        elif isinstance(value, (int, float)) and not math.isfinite(value):
            mistakes.append(f"kafka.client: {name} is not a finite number")
        elif isinstance(value, int) and abs(value) > INT32 and name != "buffer_memory":
            mistakes.append(f"kafka.client: {name} is larger than {INT32}, which Kafka's protocol has no room for")
    return mistakes


def _oss_contradictions(oss: Oss) -> list[str]:
    mistakes = []
    if oss.region.startswith("oss-") or oss.region.endswith("-internal"):
        mistakes.append(
            f"oss.region = {oss.region!r}: allowed is the region alone, such as cn-hangzhou, without oss- or -internal; "
            "another endpoint is set with oss.endpoint"
        )
    if oss.endpoint:
        scheme, host = _scheme_and_host(oss.endpoint)
        if not host:
            shown = HIDDEN if "@" in oss.endpoint else repr(oss.endpoint)
            mistakes.append(f"oss.endpoint = {shown}: allowed is https://host or https://host:port")
        elif scheme == "http" and not oss.allow_http and not _is_loopback(host):
            mistakes.append(
                f"oss.endpoint = {oss.endpoint!r}: plain HTTP is for loopback; oss.allow_http = true allows it elsewhere"
            )
    if oss.proxy_url and not _scheme_and_host(oss.proxy_url, with_user=True)[1]:
        mistakes.append("oss.proxy_url: allowed is http://host:port or http://user:password@host:port")
    if oss.credentials == "file" and not oss.credentials_file:
        mistakes.append('oss.credentials_file is needed with oss.credentials = "file"')
    if oss.credentials == "process" and not oss.credentials_process:
        mistakes.append('oss.credentials_process is needed with oss.credentials = "process"')
    if oss.credentials_process and not _command(oss.credentials_process):
        mistakes.append("oss.credentials_process: it is no command; a quotation mark or a backslash is left open")
    mistakes += _file_mistakes("oss", {"ca_file": oss.ca_file})
    return mistakes


def _command(text: str) -> list[str]:
    """Return a command's words, [] where it is none."""
    try:
        return shlex.split(text)
    except ValueError:
        return []


def _scheme_and_host(endpoint: str, *, with_user: bool = False) -> tuple[str, str]:
    """Return both, the host empty where the endpoint is none."""
    try:
        parts = urlsplit(endpoint)
        plain = parts._replace(path=parts.path.rstrip("/")).geturl() == f"{parts.scheme}://{parts.netloc}"
        usable = (
            parts.scheme in ("http", "https") and plain and (with_user or "@" not in parts.netloc) and parts.port != 0
        )
    except ValueError:  # a bracket that is not closed, a port that is none
        return "", ""
    host = parts.hostname or ""
    return parts.scheme, host if usable and (_is_host_name(host) or _is_address(host)) else ""


def _is_host_name(host: str) -> bool:
    """Return whether it is a name that can be looked up: labels of 1 to 63 letters, digits, - and _."""
    return all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in host.removesuffix(".").split("."))


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:  # a name
        return False
    return True


def accept_until(dead_letter: DeadLetter) -> datetime | None:
    """Return `dead_letter.accept_until` as a time, None where it is empty or none."""
    try:
        moment = datetime.fromisoformat(dead_letter.accept_until)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
