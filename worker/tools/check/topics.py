"""The topics and the dead-letter topic: are they there, may they be used, and does the one hold what the other has."""

from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final

from kafka import errors as kafka_errors
from kafka.admin import ConfigResourceType

from worker.settings.tables import Settings
from worker.tools.check.configs import configs_of, duration, number_in, text_in
from worker.tools.check.report import Finding, fault, ok, skipped, warning

_HEADERS_BYTES: Final = 16 * 1024
"""Bytes of the headers that a dead letter has beside those of its record, and some room."""
_UNKNOWN_RIGHTS: Final = "the brokers do not say what this user may do"

Configs = Mapping[str, Any]


def topics(settings: Settings, client: Any) -> Generator[Finding, None, dict[str, Configs]]:
    """Look at each topic; return the settings of those that can be asked for their offsets."""
    dead_letters = settings.dead_letter.topic
    sources = list(dict.fromkeys(settings.topics))
    names = [*sources, *([dead_letters] if dead_letters else [])]
    described = {topic["name"]: topic for topic in client.describe_topics(names)}
    configs = {name: configs_of(client, ConfigResourceType.TOPIC, name) for name in names}
    there = {name for name in names if name in described and not described[name]["error_code"]}
    for name in sources:
        yield from _topic("topic", name, described.get(name), "READ")
        if name in there:
            yield from _source(settings, name, configs[name])
    if dead_letters:
        yield from _topic("dead_letter.topic", dead_letters, described.get(dead_letters), "WRITE")
        if dead_letters in there:
            yield from _dead_letters(dead_letters, described[dead_letters], configs[dead_letters])
            yield from _idempotent(settings, described[dead_letters], client)
            for name in sources:
                if name in there:
                    yield from _beside(settings, name, configs[name], configs[dead_letters])
    return {name: configs[name] for name in sources if name in there}


def _topic(check: str, name: str, found: Mapping[str, Any] | None, right: str) -> Iterator[Finding]:
    unknown = kafka_errors.UnknownTopicOrPartitionError
    error = kafka_errors.for_code(found["error_code"]) if found else unknown
    if error is kafka_errors.TopicAuthorizationFailedError:
        yield fault(
            check, name, "kafka does not show it to this user, or has no such topic", f"grant {right} on topic {name}"
        )
        return
    if error is unknown:
        yield fault(check, name, "kafka has no such topic", "create it, or correct its name in the settings")
        return
    if found is None or found["error_code"]:
        yield fault(check, name, f"kafka does not describe it: {error.__name__}", "see the brokers")
        return
    partitions = found["partitions"]
    leaderless = [one["partition_index"] for one in partitions if one["leader_id"] < 0]
    if leaderless:
        told = f"partitions {', '.join(map(str, leaderless))} of {len(partitions)} have no leader"
        yield fault(check, name, told, "see the brokers: nothing reads or writes these partitions now")
    else:
        yield ok(check, name, f"{len(partitions)} partition{'s' if len(partitions) > 1 else ''}, each with a leader")
    yield _right(f"{check}.right", name, found, right)


def _right(check: str, name: str, found: Mapping[str, Any], right: str) -> Finding:
    operations = found.get("authorized_operations") or ()
    if "DESCRIBE" not in operations:  # a topic that is shown may be described: the list was not filled in
        return skipped(check, name, _UNKNOWN_RIGHTS)
    if right in operations:
        return ok(
            check,
            name,
            f"this user may {right}, the brokers say; nothing was {'read' if right == 'READ' else 'written'}",
        )
    return fault(check, name, f"this user may not {right}", f"grant {right} on topic {name}")


def _source(settings: Settings, name: str, configs: Configs) -> Iterator[Finding]:
    largest, batch = number_in(configs, "max.message.bytes"), settings.batch.max_bytes
    if largest is None:
        yield skipped("topic.settings", name, "the brokers do not show its settings to this user (DESCRIBE_CONFIGS)")
        return
    told = f"records of up to {largest} bytes (max.message.bytes), requests of up to {batch} (batch.max_bytes)"
    if largest > batch:
        advice = "raise batch.max_bytes, or lower max.message.bytes: a larger record becomes a dead letter (too_large)"
        yield warning("topic.size", name, told, advice)
    else:
        yield ok("topic.size", name, told)
    policy = text_in(configs, "cleanup.policy")
    kept = number_in(configs, "retention.ms")
    if "compact" in policy:
        yield ok("topic.retention", name, f"cleanup.policy is {policy}: the newest version of each key is kept")
    elif kept is not None:
        yield ok("topic.retention", name, f"records are kept {duration(kept)}{_or_bytes(configs)}")


def _or_bytes(configs: Configs) -> str:
    most = number_in(configs, "retention.bytes")
    return f", at most {most} bytes of a partition" if most is not None and most >= 0 else ""


def _dead_letters(name: str, found: Mapping[str, Any], configs: Configs) -> Iterator[Finding]:
    if "compact" in text_in(configs, "cleanup.policy"):
        told = "it is compacted: of the dead letters of one key only the newest is kept, and those without a key are refused"
        yield fault("dead_letter.cleanup", name, told, "set its cleanup.policy to delete")
    least = number_in(configs, "min.insync.replicas")
    in_sync = min((len(one["isr_nodes"]) for one in found["partitions"]), default=0)
    if least is not None and in_sync < least:
        told = f"min.insync.replicas is {least}, and a partition has {in_sync} in sync: the brokers refuse every write"
        yield fault("dead_letter.replicas", name, told, "see the brokers, or lower min.insync.replicas")


def _idempotent(settings: Settings, found: Mapping[str, Any], client: Any) -> Iterator[Finding]:
    """Say whether the producer of dead letters gets a producer id. It needs WRITE on a topic, before Kafka 2.8 more (KIP-679)."""
    check, name = "dead_letter.idempotent", "dead_letter.idempotent"
    wanted = settings.dead_letter.idempotent
    if wanted == "false":
        yield ok(check, name, "is false: a dead letter may be there twice after a retry")
        return
    of_cluster = client.describe_cluster().get("authorized_operations") or ()
    of_topic = found.get("authorized_operations") or ()
    if "IDEMPOTENT_WRITE" in of_cluster:
        yield ok(check, name, f"is {wanted}: this user may write idempotently")
    elif "WRITE" in of_topic:
        yield ok(check, name, f"is {wanted}: WRITE on the topic is enough since Kafka 2.8 (IDEMPOTENT_WRITE before)")
    elif "DESCRIBE" not in of_topic:
        yield skipped(check, name, _UNKNOWN_RIGHTS)
    elif wanted == "true":
        told = "is true, and this user may not write idempotently"
        yield fault(check, name, told, f"grant WRITE on topic {settings.dead_letter.topic}, or set it to auto")


def _beside(settings: Settings, source: str, of_source: Configs, of_letters: Configs) -> Iterator[Finding]:
    """Compare what a dead letter of a topic needs with what the dead-letter topic accepts."""
    name = f"{settings.dead_letter.topic} beside {source}"
    largest, limit = number_in(of_source, "max.message.bytes"), number_in(of_letters, "max.message.bytes")
    if largest is None or limit is None:
        yield skipped(
            "dead_letter.size", name, "the brokers do not show the topics' settings to this user (DESCRIBE_CONFIGS)"
        )
    elif limit >= largest + _HEADERS_BYTES:
        yield ok("dead_letter.size", name, f"{limit} bytes hold a record of {largest} and its headers")
    else:
        told = f"max.message.bytes is {limit}; a record of {source} has up to {largest}, and a dead letter has more headers"
        yield warning("dead_letter.size", name, told, _size_advice(settings, largest))
    kept, needed = number_in(of_letters, "retention.ms"), number_in(of_source, "retention.ms")
    if kept is None or needed is None:
        return
    if kept >= 0 and (needed < 0 or kept < needed):
        told = f"dead letters are kept {duration(kept)}, records of {source} {duration(needed)}"
        advice = (
            f"raise retention.ms of {settings.dead_letter.topic}: a dead letter must be there as long as its record"
        )
        yield warning("dead_letter.retention", name, told, advice)
    else:
        yield ok("dead_letter.retention", name, f"dead letters are kept {duration(kept)}{_or_bytes(of_letters)}")


def _size_advice(settings: Settings, largest: int) -> str:
    advice = f"set it to {largest + 4 * _HEADERS_BYTES}"
    if settings.dead_letter.oversize == "reference":
        return f"{advice}; until then such a dead letter has its record's place without its bytes"
    return f"{advice}, or dead_letter.oversize to reference; such a dead letter would block its partition"
