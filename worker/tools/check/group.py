"""The consumer group: may it be joined, and does another application use it."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Final

from kafka import errors as kafka_errors

from worker.settings.tables import Settings
from worker.tools.brokers import cluster_has_groups, when_loaded
from worker.tools.check.report import Finding, fault, ok, skipped, warning

_ASSIGNOR: Final = "cooperative-sticky"
_CLASSIC: Final = frozenset({"", "classic", "unknown"})
"""Types of groups that the worker can join; brokers before Kafka 4.0 name none."""


def group(settings: Settings, client: Any) -> Generator[Finding, None, bool]:
    """Look at the group; return whether its offsets can be asked for."""
    name = settings.kafka.group_id
    if not cluster_has_groups(client):
        yield ok(
            "group", name, "no group was ever used in this cluster; asking for this one would make its topic of offsets"
        )
        return True
    found = _described(name, client)
    if isinstance(found, Finding):
        yield found
        return False
    if str(found.get("group_state")).lower() == "dead":  # what brokers call a group that is not there
        yield ok(
            "group", name, "it is not there yet, the first member makes it; only then the brokers say who may join it"
        )
        return True
    yield _right(name, found)
    members: Sequence[Any] = found.get("members") or ()
    if members:
        yield from _members(settings, name, found, members)
    else:
        yield ok("group", name, "it is there, and has no members now")
    return True


def _described(name: str, client: Any) -> Mapping[str, Any] | Finding:
    """Return what the brokers say of the group, or what is wrong where they say nothing."""
    kind = _type_of(client, name)
    if kind not in _CLASSIC:
        told = f"a group of type {kind} has this name"
        return fault("group", name, told, "choose another kafka.group_id, or stop the application that uses it")
    hidden = fault("group.right", name, "this user may not see it", f"grant READ on group {name}")
    try:
        found: Mapping[str, Any] = when_loaded(lambda: client.describe_groups([name])[name])
    except kafka_errors.GroupAuthorizationFailedError:
        return hidden
    except kafka_errors.KafkaError as error:
        return warning("group", name, f"its coordinator does not answer: {type(error).__name__}", "see the brokers")
    return hidden if "AuthorizationFailed" in (found.get("error") or "") else found


def _type_of(client: Any, name: str) -> str:
    kinds = [one.get("group_type") for one in client.list_groups() if one["group_id"] == name]
    return str(next(iter(kinds), "") or "").lower()


def _right(name: str, found: Mapping[str, Any]) -> Finding:
    operations = found.get("authorized_operations") or ()
    if "DESCRIBE" not in operations:
        return skipped("group.right", name, "the brokers do not say whether this user may join it")
    if "READ" in operations:
        return ok("group.right", name, "this user may join it, the brokers say; it was not joined")
    return fault("group.right", name, "this user may not join it", f"grant READ on group {name}")


def _members(settings: Settings, name: str, found: Mapping[str, Any], members: Sequence[Any]) -> Iterator[Finding]:
    yield _application(settings, name, found, members)
    own = settings.kafka.group_instance_id
    if own and own in {member.get("group_instance_id") for member in members}:  # whatever else the members do
        told = f"a member with kafka.group_instance_id = {own} is there now"
        yield warning(
            "group.instance", name, told, "if it is another replica, give each a value of its own: one would stop"
        )


def _application(settings: Settings, name: str, found: Mapping[str, Any], members: Sequence[Any]) -> Finding:
    """Say whether the members look like workers with these settings."""
    choose = "choose another kafka.group_id, or stop the other application"
    if found["protocol_type"] != "consumer":
        told = f"another kind of application uses it ({found['protocol_type']})"
        return fault("group", name, told, choose)
    clients = ", ".join(sorted({f"{member['client_id']} at {member['client_host'].lstrip('/')}" for member in members}))
    if found["protocol_data"] not in ("", _ASSIGNOR):
        told = f"its members ({clients}) use the assignor {found['protocol_data']}, this worker uses {_ASSIGNOR}"
        return fault("group.assignor", name, told, choose)
    read = {topic for member in members for topic in _subscribed(member)}
    if strangers := sorted(read - set(settings.topics)):
        told = f"its members ({clients}) also read {', '.join(strangers)}"
        return warning("group", name, told, f"if that is another application, {choose}")
    return ok("group", name, f"{len(members)} member{'s' if len(members) > 1 else ''} now: {clients}")


def _subscribed(member: Mapping[str, Any]) -> Sequence[str]:
    metadata = member.get("member_metadata")
    return metadata.get("topics") or () if isinstance(metadata, Mapping) else ()
