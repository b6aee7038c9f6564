"""The brokers: the way to them, the login, and who they are. What they hold is in `topics.py`, `group.py` and `lag.py`."""

import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kafka.admin import ConfigResourceType

from worker.errors import FatalError
from worker.settings.addresses import host_and_port
from worker.settings.tables import Kafka, Settings
from worker.tools.brokers import admin_client
from worker.tools.check import certificate, network
from worker.tools.check.configs import configs_of, number_in
from worker.tools.check.group import group
from worker.tools.check.lag import lag
from worker.tools.check.report import Finding, fault, ok, skipped
from worker.tools.check.topics import topics

_MOST_BROKERS: Final = 10  # that are tried one by one


def bootstrap_server(kafka: Kafka, server: str) -> Iterator[Finding]:
    """Try one of `kafka.bootstrap_servers`."""
    if place := host_and_port(server):  # the settings are refused where it is none
        yield from network.server("kafka", *place, _tls_context(kafka))


def cluster(settings: Settings) -> Iterator[Finding]:
    """Look at everything that the brokers know, in the order in which one thing needs the other."""
    kafka = settings.kafka
    if kafka.ssl_certfile:
        yield certificate.own("kafka.certificate", kafka.ssl_certfile, time.time())
    is_connected = False
    try:
        with admin_client(kafka) as client:
            is_connected = True
            yield from _brokers(kafka, client)
            there = yield from topics(settings, client)
            is_usable = yield from group(settings, client)
            if is_usable:
                yield from lag(settings, client, there)
    except FatalError as error:
        if is_connected:
            yield fault("kafka.answer", kafka.client_id, str(error), "see the reason, and the brokers' log")
        else:
            yield fault("kafka.login", _login(kafka), str(error), _login_advice(str(error)))


def _login(kafka: Kafka) -> str:
    user = f" as {kafka.sasl_plain_username}" if kafka.sasl_plain_username else ""
    mechanism = f" {kafka.sasl_mechanism}" if kafka.sasl_mechanism else ""
    return f"{kafka.security_protocol}{mechanism}{user}"


def _login_advice(reason: str) -> str:
    if "AuthenticationFailed" in reason:
        return "correct kafka.sasl_plain_username and kafka.sasl_plain_password"
    if "UnsupportedSaslMechanism" in reason or "IllegalSaslState" in reason:
        return "correct kafka.sasl_mechanism and kafka.security_protocol to what the brokers offer"
    return "correct kafka.bootstrap_servers or kafka.security_protocol, or see the lines on the way to the brokers"


def _tls_context(kafka: Kafka) -> ssl.SSLContext | None:
    if "SSL" not in kafka.security_protocol:
        return None
    context = ssl.create_default_context(cafile=kafka.ssl_cafile or None)
    if kafka.client.get("ssl_check_hostname") is False:
        context.check_hostname = False
    if kafka.ssl_certfile:
        context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile or None, lambda: kafka.ssl_password)
    return context


def _brokers(kafka: Kafka, client: Any) -> Iterator[Finding]:
    found = client.describe_cluster()
    brokers: Sequence[Mapping[str, Any]] = found["brokers"]
    yield ok("kafka.login", _login(kafka), f"accepted by cluster {found['cluster_id']}, brokers: {len(brokers)}")
    context = _tls_context(kafka)
    tried = [host_and_port(server) for server in kafka.bootstrap_servers]
    for broker in brokers[:_MOST_BROKERS]:
        if (broker["host"], broker["port"]) not in tried:
            yield from network.server("kafka.broker", broker["host"], broker["port"], context)
    if brokers:
        yield _session_timeout(kafka, configs_of(client, ConfigResourceType.BROKER, str(brokers[0]["broker_id"])))


def _session_timeout(kafka: Kafka, configs: Mapping[str, Any]) -> Finding:
    check, name = "kafka.session_timeout", "kafka.session_timeout_ms"
    least, most = (number_in(configs, f"group.{end}.session.timeout.ms") for end in ("min", "max"))
    if least is None or most is None:
        return skipped(check, name, "the brokers do not show their settings to this user (DESCRIBE_CONFIGS)")
    if least <= kafka.session_timeout_ms <= most:
        return ok(check, name, f"{kafka.session_timeout_ms} ms; the brokers allow {least} to {most}")
    told = f"{kafka.session_timeout_ms} ms; the brokers allow {least} to {most}, so the worker could not join its group"
    return fault(check, name, told, "set it within these bounds")
