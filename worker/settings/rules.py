"""What single values cannot say: settings that contradict each other, and what must be there for a run."""

import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

import msgspec

from worker.redaction import HIDDEN
from worker.settings import certificates, value_text
from worker.settings.addresses import is_address, is_host_name, is_loopback, is_server, scheme_and_host
from worker.settings.client_options import client_mistakes
from worker.settings.field_rules import alone_mistakes, index_by_mistakes, record_mistakes
from worker.settings.registry_rules import registry_mistakes
from worker.settings.route_rules import choice_mistakes, many_mistakes
from worker.settings.tables import (
    CREDENTIAL_VARIABLES,
    DeadLetter,
    Http,
    Kafka,
    Oss,
    Records,
    Registry,
    Route,
    Table,
    with_changes,
)

SASL_PACKAGES: Final[Mapping[str, str]] = MappingProxyType({"GSSAPI": "gssapi", "AWS_MSK_IAM": "botocore"})
"""The package that kafka-python needs for a mechanism, where it needs one."""


def credential_mistakes(environ: Mapping[str, str]) -> list[str]:
    """Return a mistake for each part of the credentials that the environment lacks, or that cannot be sent.

    White space around a value does not count, as it is dropped when the value is used. No mistake quotes a value.
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


def package_mistakes(kafka: Kafka) -> list[str]:
    """Return a mistake where the login needs a package that this installation does not have."""
    package = SASL_PACKAGES.get(kafka.sasl_mechanism)
    if package is None or not kafka.security_protocol.startswith("SASL") or find_spec(package) is not None:
        return []
    told = f"kafka.sasl_mechanism = {kafka.sasl_mechanism!r} needs one more package: pip install {package}"
    return [f"{told}; the image does not have it"]


def contradictions(routes: Iterable[Route], tables: Mapping[str, Table | None]) -> list[str]:
    """Return what is wrong between settings that are each right by themselves. A table that could not be read is None."""
    routes = tuple(routes)
    mistakes = _route_contradictions(routes, tables["dead_letter"])
    if isinstance(records := tables["records"], Records):
        mistakes += _records_contradictions(routes, records)
    kafka, oss, dead_letter, http = (tables[name] for name in ("kafka", "oss", "dead_letter", "http"))
    if isinstance(kafka, Kafka):
        mistakes += _kafka_contradictions(kafka)
    if isinstance(oss, Oss):
        mistakes += _oss_contradictions(oss)
    registry = tables["registry"]
    if isinstance(registry, Registry):
        mistakes += registry_mistakes(registry)
    if isinstance(http, Http) and not (is_host_name(http.host) or is_address(http.host)):
        mistakes.append(f"http.host = {http.host!r}: allowed is an address of this machine, or its name")
    if isinstance(dead_letter, DeadLetter) and dead_letter.accept_until and accept_until(dead_letter) is None:
        mistakes.append(
            f"dead_letter.accept_until = {dead_letter.accept_until!r}: allowed is a time of RFC 3339 with its zone, "
            "such as 2026-01-31T12:00:00Z"
        )
    return mistakes


def accept_until(dead_letter: DeadLetter) -> datetime | None:
    """Return `dead_letter.accept_until` as a time, None where it is empty or none."""
    try:
        moment = datetime.fromisoformat(dead_letter.accept_until)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _route_contradictions(routes: tuple[Route, ...], dead_letter: Table | None) -> list[str]:
    topics = [route.topic for route in routes if route.topic]
    mistakes = [
        f"routes: topic {topic!r} is in several routes; a topic goes to one index"
        for topic in {t for t in topics if topics.count(t) > 1}
    ]
    if isinstance(dead_letter, DeadLetter) and dead_letter.topic in topics:
        mistakes.append(
            f"dead_letter.topic = {dead_letter.topic!r} is the topic of a route; dead letters would be read as records"
        )
    chosen = [mistake for place, route in enumerate(routes) for mistake in choice_mistakes(f"routes[{place}]", route)]
    return mistakes + chosen + _index_contradictions(routes) + _topic_name_mistakes(topics, dead_letter)


def _records_contradictions(routes: tuple[Route, ...], records: Records) -> list[str]:
    mistakes = _mistakes_of_records("records", records)
    for place, route in enumerate(routes):
        try:
            own = with_changes(records, route.records)
        except msgspec.ValidationError:  # reported where the route is read
            continue
        name = f"routes[{place}].records"
        if route.records:
            mistakes += _mistakes_of_records(name, own)
        mistakes += index_by_mistakes(f"routes[{place}]", route, own)
    return mistakes


def _mistakes_of_records(place: str, records: Records) -> list[str]:
    return record_mistakes(place, records) + many_mistakes(place, records) + alone_mistakes(place, records)


def _index_contradictions(routes: tuple[Route, ...]) -> list[str]:
    mistakes = []
    for index in {name for route in routes for name in route.index_names}:
        for name in ("dimension", "distance_metric", "non_filterable_metadata_keys"):
            given = {getattr(route, name) for route in routes if index in route.index_names and getattr(route, name)}
            if len(given) > 1:
                mistakes.append(
                    f"routes: the routes to index {index!r} contradict each other: {name} is {sorted(given)}"
                )
    return mistakes


def _topic_name_mistakes(topics: Iterable[str], dead_letter: Table | None) -> list[str]:
    named = [("routes: topic", topic) for topic in topics]
    if isinstance(dead_letter, DeadLetter) and dead_letter.topic:
        named.append(("dead_letter.topic =", dead_letter.topic))
    return [
        f"{place} {topic!r} is not a valid name of a topic; allowed are letters, digits, '.', '_' and '-'"
        for place, topic in named
        if not re.fullmatch(r"[A-Za-z0-9._-]+", topic) or topic in (".", "..")
    ]


def _kafka_contradictions(kafka: Kafka) -> list[str]:
    mistakes = [
        f"kafka.bootstrap_servers: {HIDDEN if value_text.may_be_secret(server) else repr(server)} is not host:port"
        for server in kafka.bootstrap_servers
        if not is_server(server)
    ]
    mistakes += client_mistakes(kafka.client)
    if isinstance(crl_file := kafka.client.get("ssl_crlfile"), str):
        mistakes += certificates.file_mistakes("kafka.client", {"ssl_crlfile": crl_file})
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
    return mistakes + _login_mistakes(kafka) + certificates.kafka_mistakes(kafka)


def _login_mistakes(kafka: Kafka) -> list[str]:
    """Return what kafka-python would find out only when it connects, and then report as brokers that do not answer."""
    if kafka.sasl_mechanism != "AWS_MSK_IAM" or kafka.security_protocol in {"SASL_SSL", "PLAINTEXT", "SSL"}:
        return []
    return [f"kafka.sasl_mechanism = {kafka.sasl_mechanism!r} needs kafka.security_protocol = 'SASL_SSL'"]


def _oss_contradictions(oss: Oss) -> list[str]:
    mistakes = []
    if oss.region.startswith("oss-") or oss.region.endswith("-internal"):
        mistakes.append(
            f"oss.region = {oss.region!r}: allowed is the region alone, such as cn-hangzhou, without oss- or -internal; "
            "another endpoint is set with oss.endpoint"
        )
    mistakes += _endpoint_mistakes(oss)
    if oss.proxy_url and not scheme_and_host(oss.proxy_url, with_user=True)[1]:
        mistakes.append("oss.proxy_url: allowed is http://host:port or http://user:password@host:port")
    mistakes += [
        f'oss.{name} is needed with oss.credentials = "{mode}"'
        for mode, name in (("file", "credentials_file"), ("process", "credentials_process"))
        if oss.credentials == mode and not getattr(oss, name)
    ]
    if oss.credentials_process and not _command(oss.credentials_process):
        mistakes.append("oss.credentials_process is not a command; it leaves a quotation mark or a backslash open")
    return mistakes + certificates.authority_mistakes("oss.ca_file", oss.ca_file)


def _endpoint_mistakes(oss: Oss) -> list[str]:
    if not oss.endpoint:
        return []
    scheme, host = scheme_and_host(oss.endpoint)
    if not host:
        shown = HIDDEN if "@" in oss.endpoint else repr(oss.endpoint)
        return [f"oss.endpoint = {shown}: allowed is https://host or https://host:port"]
    if scheme == "http" and not oss.allow_http and not is_loopback(host):
        return [
            f"oss.endpoint = {oss.endpoint!r}: plain HTTP is for loopback; oss.allow_http = true allows it elsewhere"
        ]
    return []


def _command(text: str) -> list[str]:
    """Return a command's words, [] where it is none."""
    try:
        return shlex.split(text)
    except ValueError:
        return []
