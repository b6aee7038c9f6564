"""The brokers: who they are, the topics, the dead-letter topic, and the group."""

import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType

from worker.errors import FatalError
from worker.ledger import Partition
from worker.settings.tables import Kafka, Settings
from worker.tools.brokers import admin_client
from worker.tools.check import network
from worker.tools.check.report import Finding, fault, ok, skipped, warning
from worker.tools.scan import Scanner, Stretch

_ASSIGNOR: Final = "cooperative-sticky"
_DAY_MS: Final = 86_400_000
_DEAD_LETTER_OVERHEAD: Final = 16 * 1024
"""Bytes of the headers that a dead letter has beside those of its record, and some room."""


def cluster(settings: Settings) -> Iterator[Finding]:
    """Look at everything that the brokers tell, in the order in which one thing needs the other."""
    kafka = settings.kafka
    yield from _bootstrap_servers(kafka)
    try:
        with admin_client(kafka) as client:
            yield from _brokers(kafka, client)
            yield from _topics(settings, client)
            yield from _group(settings, client)
    except FatalError as error:
        advice = "correct kafka.bootstrap_servers, the login, or the way to the brokers"
        yield fault("kafka.login", kafka.security_protocol, str(error), advice)
        return
    yield from _lag(settings)


def _bootstrap_servers(kafka: Kafka) -> Iterator[Finding]:
    context = _tls_context(kafka)
    for server in kafka.bootstrap_servers:
        host, _, port = server.rpartition(":")
        yield from network.server("kafka", host.strip("[]"), int(port), context)


def _tls_context(kafka: Kafka) -> ssl.SSLContext | None:
    if "SSL" not in kafka.security_protocol:
        return None
    context = ssl.create_default_context(cafile=kafka.ssl_cafile or None)
    if kafka.client.get("ssl_check_hostname") is False:
        context.check_hostname = False
    if kafka.ssl_certfile:
        context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile or None, kafka.ssl_password or None)
    return context


# -- brokers


def _brokers(kafka: Kafka, client: Any) -> Iterator[Finding]:
    found = client.describe_cluster()
    yield ok("kafka.login", kafka.security_protocol, f"cluster {found['cluster_id']}")
    context = _tls_context(kafka)
    for broker in found["brokers"]:
        place = f"{broker['host']}:{broker['port']}"
        if place not in kafka.bootstrap_servers:
            yield from network.server("kafka.broker", broker["host"], broker["port"], context)
    yield from _broker_settings(kafka, client, found["brokers"])


def _broker_settings(kafka: Kafka, client: Any, brokers: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    configs = _configs(client, ConfigResourceType.BROKER, str(brokers[0]["broker_id"])) if brokers else {}
    least, most = (_number(configs, f"group.{end}.session.timeout.ms") for end in ("min", "max"))
    if least is None or most is None:
        yield skipped("kafka.session_timeout", "brokers", "this user may not see the settings of the brokers")
    elif least <= kafka.session_timeout_ms <= most:
        yield ok("kafka.session_timeout", "brokers", f"{kafka.session_timeout_ms} ms is within {least} to {most} ms")
    else:
        yield fault(
            "kafka.session_timeout",
            "brokers",
            f"kafka.session_timeout_ms is {kafka.session_timeout_ms}, the brokers allow {least} to {most}",
            "set kafka.session_timeout_ms within these bounds: the group refuses the worker otherwise",
        )


def _configs(client: Any, kind: Any, name: str) -> dict[str, Any]:
    """Return settings of a topic or broker, none where this user may not see them."""
    try:
        found = client.describe_configs([ConfigResource(kind, name)], config_filter="all")
    except kafka_errors.KafkaError:
        return {}
    return next(iter(next(iter(found.values()), {}).values()), {})


def _number(configs: Mapping[str, Any], name: str) -> int | None:
    value = configs.get(name, {}).get("value")
    return int(value) if value is not None and str(value).lstrip("-").isdigit() else None


# -- topics


def _topics(settings: Settings, client: Any) -> Iterator[Finding]:
    dead_letters = settings.dead_letter.topic
    names = [*dict.fromkeys(settings.topics), *([dead_letters] if dead_letters else [])]
    described = {topic["name"]: topic for topic in client.describe_topics(names)}
    configs = {name: _configs(client, ConfigResourceType.TOPIC, name) for name in names}
    for name in dict.fromkeys(settings.topics):
        yield from _topic("topic", name, described.get(name), "READ")
        yield from _compaction(name, configs[name])
    if dead_letters:
        yield from _topic("dead_letter.topic", dead_letters, described.get(dead_letters), "WRITE")
        for name in dict.fromkeys(settings.topics):
            yield from _beside(name, configs[name], dead_letters, configs[dead_letters])


def _topic(check: str, name: str, found: Mapping[str, Any] | None, right: str) -> Iterator[Finding]:
    error = kafka_errors.for_code(found["error_code"]) if found else kafka_errors.UnknownTopicOrPartitionError
    if error is kafka_errors.TopicAuthorizationFailedError:
        yield fault(check, name, "kafka does not show it to this user", f"grant {right} and DESCRIBE on it")
        return
    if found is None or found["error_code"]:
        yield fault(check, name, f"kafka has no such topic ({error.__name__})", "make it, or correct the settings")
        return
    partitions = found["partitions"]
    leaderless = [one["partition_index"] for one in partitions if one["leader_id"] < 0]
    if leaderless:
        told = f"partitions {', '.join(map(str, leaderless))} of {len(partitions)} have no leader"
        yield fault(check, name, told, "see the brokers: nothing reads or writes these partitions now")
    else:
        yield ok(check, name, f"{len(partitions)} partitions")
    operations = found.get("authorized_operations")
    if not operations:
        yield skipped(f"{check}.right", name, "the brokers do not say what this user may do")
    elif right in operations:
        yield ok(f"{check}.right", name, f"this user may {right}")
    else:
        yield fault(f"{check}.right", name, f"this user may not {right}", f"grant {right} on topic {name}")


def _compaction(name: str, configs: Mapping[str, Any]) -> Iterator[Finding]:
    policy = configs.get("cleanup.policy", {}).get("value")
    if policy and "compact" in policy:
        yield ok("topic.cleanup", name, f"{policy}: the newest version of each key stays")


def _beside(source: str, of_source: Mapping[str, Any], name: str, of_letters: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare what a dead letter needs with what its topic takes."""
    largest, limit = _number(of_source, "max.message.bytes"), _number(of_letters, "max.message.bytes")
    subject = f"{name} beside {source}"
    if largest is None or limit is None:
        yield skipped("dead_letter.size", subject, "this user may not see the settings of the topics")
    elif limit < largest + _DEAD_LETTER_OVERHEAD:
        told = f"max.message.bytes is {limit}; records of {source} have up to {largest}, and headers come on top"
        advice = f"set it to {largest + 65536}, or dead_letter.oversize to reference"
        yield warning("dead_letter.size", subject, told, advice)
    else:
        yield ok("dead_letter.size", subject, f"{limit} bytes hold a record of {largest} and its headers")
    kept, needed = _number(of_letters, "retention.ms"), _number(of_source, "retention.ms")
    if kept is None or needed is None:
        return
    if kept >= 0 and (needed < 0 or kept < needed):
        told = f"dead letters are kept for {_days(kept)}, records of {source} for {_days(needed)}"
        yield warning("dead_letter.retention", subject, told, "keep them longer: they are the only copy after that")
    else:
        yield ok("dead_letter.retention", subject, f"dead letters are kept for {_days(kept)}")


def _days(milliseconds: int) -> str:
    return "ever" if milliseconds < 0 else f"{milliseconds / _DAY_MS:.1f} days"


# -- the group


def _group(settings: Settings, client: Any) -> Iterator[Finding]:
    name = settings.kafka.group_id
    try:
        found = client.describe_groups([name])[name]
    except (kafka_errors.GroupAuthorizationFailedError, kafka_errors.GroupIdNotFoundError) as error:
        found = {"error": str(error), "refused": isinstance(error, kafka_errors.GroupAuthorizationFailedError)}
    except kafka_errors.CoordinatorNotAvailableError:
        yield warning("group", name, "its coordinator is not available", "see the brokers, if this stays")
        return
    if found.get("refused") or (found.get("error") and "uthorization" in found["error"]):
        yield fault("group", name, "this user may not see it", f"grant READ and DESCRIBE on group {name}")
        return
    operations = found.get("authorized_operations")
    if operations and "READ" not in operations:
        yield fault("group.right", name, "this user may not join it", f"grant READ on group {name}")
    members = found.get("members") or []
    if not members:
        yield ok("group", name, f"no members now ({found.get('group_state', 'not there yet')})")
        return
    yield from _members(settings, name, found, members)


def _members(settings: Settings, name: str, found: Mapping[str, Any], members: Sequence[Any]) -> Iterator[Finding]:
    if found["protocol_type"] != "consumer":
        told = f"it is used by another kind of application ({found['protocol_type']})"
        yield fault("group", name, told, "choose another kafka.group_id")
        return
    clients = ", ".join(sorted({member["client_id"] for member in members}))
    if found["protocol_data"] not in ("", _ASSIGNOR):
        told = f"its members ({clients}) use the assignor {found['protocol_data']}, this worker uses {_ASSIGNOR}"
        yield fault("group.assignor", name, told, "stop the other application, or choose another kafka.group_id")
        return
    read = {topic for member in members for topic in _subscribed(member)}
    if strangers := sorted(read - set(settings.topics)):
        told = f"its members ({clients}) also read {', '.join(strangers)}"
        yield warning("group", name, told, "is it another application? then choose another kafka.group_id")
        return
    yield ok("group", name, f"{len(members)} members now: {clients}")


def _subscribed(member: Mapping[str, Any]) -> Sequence[str]:
    metadata = member.get("member_metadata")
    return metadata.get("topics") or () if isinstance(metadata, Mapping) else ()


# -- what is committed


def _lag(settings: Settings, wall: Callable[[], float] = time.time) -> Iterator[Finding]:
    try:
        with admin_client(settings.kafka) as client, Scanner(settings.kafka, patience_seconds=5) as scanner:
            offsets = client.list_group_offsets(settings.kafka.group_id)[settings.kafka.group_id]
            committed = {Partition(tp.topic, tp.partition): at.offset for tp, at in offsets.items() if at.offset >= 0}
            for topic in dict.fromkeys(settings.topics):
                configs = _configs(client, ConfigResourceType.TOPIC, topic)
                yield from _lag_of(settings, topic, committed, scanner, _number(configs, "retention.ms"), wall)
    except FatalError as error:
        yield skipped("lag", settings.kafka.group_id, str(error))


def _lag_of(
    settings: Settings,
    topic: str,
    committed: Mapping[Partition, int],
    scanner: Scanner,
    retention_ms: int | None,
    wall: Callable[[], float],
) -> Iterator[Finding]:
    partitions = scanner.partitions(topic)
    firsts, ends = scanner.first_offsets(partitions), scanner.end_offsets(partitions)
    known = [one for one in partitions if one in committed]
    if not known:
        begin = {"earliest": "its first record", "latest": "its end", "none": "nowhere: it blocks"}
        told = f"nothing is committed: {settings.kafka.auto_offset_reset} begins at "
        told += begin[settings.kafka.auto_offset_reset]
        count = sum(ends[one] - firsts[one] for one in partitions)
        if settings.kafka.auto_offset_reset == "earliest" or not count:
            yield ok("lag", topic, f"{told}; {count} records wait")
        else:
            yield warning(
                "lag", topic, f"{told}; {count} records are there", "commit an offset by hand, or choose earliest"
            )
        return
    removed = [one for one in known if committed[one] < firsts[one]]
    if removed:
        told = f"retention has removed records of {', '.join(map(str, removed))} that were never read"
        yield fault("lag", topic, told, "they are lost to this group: publish them again, and keep records longer")
    beyond = [one for one in known if committed[one] > ends[one]]
    if beyond:
        told = f"the committed offsets of {', '.join(map(str, beyond))} lie behind the end: the topic was cut or made again"
        yield warning("lag", topic, told, "see kafka.auto_offset_reset and the runbook")
    behind = sum(max(0, ends[one] - max(committed.get(one, 0), firsts[one])) for one in partitions)
    yield ok("lag", topic, f"{behind} records are not committed")
    yield from _time_left(topic, known, committed, firsts, ends, scanner, retention_ms, wall)


def _time_left(
    topic: str,
    known: Sequence[Partition],
    committed: Mapping[Partition, int],
    firsts: Mapping[Partition, int],
    ends: Mapping[Partition, int],
    scanner: Scanner,
    retention_ms: int | None,
    wall: Callable[[], float],
) -> Iterator[Finding]:
    """Say how much time retention leaves for the oldest record that is not committed."""
    waiting = [one for one in known if firsts[one] <= committed[one] < ends[one]]
    if retention_ms is None or retention_ms < 0 or not waiting:
        return
    stretches = [Stretch(one, committed[one], min(committed[one] + 1, ends[one])) for one in waiting]
    times = [message.timestamp for _, messages in scanner.read(stretches) for message in messages]
    oldest = min((one for one in times if one >= 0), default=None)
    if oldest is None:
        return
    left_ms = retention_ms - (wall() * 1000 - oldest)
    told = f"retention leaves {max(0, left_ms) / 3_600_000:.1f} h for the oldest record that is not committed"
    if left_ms < retention_ms / 4:
        yield warning("lag.retention", topic, told, "add workers or see what blocks, or raise the topic's retention.ms")
    else:
        yield ok("lag.retention", topic, told)
