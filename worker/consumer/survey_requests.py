"""Requests about whole topics and the whole group. Like those for offsets they wait for nothing.

They need no membership: a consumer without a group sends them, so that they are answered in whatever state this process is.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from kafka import TopicPartition
from kafka import errors as kafka_errors

from worker.consumer import client_internals
from worker.consumer.assignor import is_marked
from worker.consumer.client_internals.protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
    FindCoordinatorRequest,
    MetadataRequest,
    OffsetFetchRequest,
)
from worker.consumer.offset_requests import Asked, error_of, offsets_at

END: Final = -1  # as a timestamp: the end of the partition, at the isolation level
BEGINNING: Final = -2
OLDEST: Final = 0  # the first record that has a timestamp

_CONSUMERS: Final = "consumer"  # the protocol type of a group of consumers
_NO_SUCH_GROUP: Final = 69
_TOPIC: Final = 2  # the number of this kind of resource
_OFFSET_FETCH_MAX_VERSION: Final = 8


class Topic(NamedTuple):
    """One topic in the metadata. `leaders` has the number of each partition's leader, -1 where it has none."""

    error: type[kafka_errors.KafkaError] | None
    leaders: Mapping[int, int]


class Member(NamedTuple):
    """One member in the group's description. `owned` is what the group has assigned to it."""

    client_id: str
    host: str
    is_worker: bool
    topics: frozenset[str]
    owned: frozenset[TopicPartition]


class Group(NamedTuple):
    """The group's description. `is_settled` is False in a rebalance, when no one owns anything in it."""

    is_settled: bool
    members: tuple[Member, ...]


class Found(NamedTuple):
    """A record by its time: its offset and its timestamp in milliseconds; offset -1 where there is none."""

    offset: int
    timestamp: int


class Limits(NamedTuple):
    """How long a topic keeps its records; None: without limit."""

    seconds: float | None
    size: int | None  # of a partition, in bytes


Answers = Mapping[Any, Any]


def _by_key(keys: Iterable[Any], future: Any) -> Asked:
    return Asked(frozenset(keys), future)


# -- topics


def ask_topics(consumer: Any, names: Iterable[str]) -> Asked:
    """Ask for these topics; the answer of each is a `Topic`."""
    wanted = tuple(names)
    return _by_key(wanted, client_internals.submit(consumer, _topics, consumer, wanted))


async def _topics(consumer: Any, names: Iterable[str]) -> Answers:
    request = MetadataRequest(
        topics=[MetadataRequest.MetadataRequestTopic(name=name) for name in names],
        allow_auto_topic_creation=False,
        include_cluster_authorized_operations=False,
        include_topic_authorized_operations=False,
    )
    response = await client_internals.send(consumer, request, _broker(consumer))
    return {
        topic.name: Topic(
            kafka_errors.for_code(topic.error_code) if topic.error_code else None,
            {partition.partition_index: partition.leader_id for partition in topic.partitions},
        )
        for topic in response.topics
    }


def ask_limits(consumer: Any, names: Iterable[str]) -> Asked:
    """Ask how long these topics keep their records; the answer of each is a `Limits`."""
    wanted = tuple(names)
    return _by_key(wanted, client_internals.submit(consumer, _limits, consumer, wanted))


async def _limits(consumer: Any, names: Iterable[str]) -> Answers:
    resource = DescribeConfigsRequest.DescribeConfigsResource
    keys = ["cleanup.policy", "retention.ms", "retention.bytes"]
    request = DescribeConfigsRequest(
        resources=[resource(resource_type=_TOPIC, resource_name=name, configuration_keys=keys) for name in names],
        include_synonyms=False,
        include_documentation=False,
    )
    response = await client_internals.send(consumer, request, _broker(consumer))
    return {
        result.resource_name: error_of(result.error_code) or _limits_of(result.configs) for result in response.results
    }


def _limits_of(configs: Iterable[Any]) -> Limits:
    values = {config.name: config.value for config in configs}
    if "delete" not in (values.get("cleanup.policy") or "delete"):
        return Limits(None, None)
    milliseconds, size = (int(values.get(name) or -1) for name in ("retention.ms", "retention.bytes"))
    return Limits(milliseconds / 1000 if milliseconds >= 0 else None, size if size >= 0 else None)


# -- partitions


def ask_times(
    consumer: Any, leaders: Mapping[TopicPartition, int], timestamps: Mapping[TopicPartition, int], isolation_level: str
) -> list[Asked]:
    """Ask each leader for the first record of a partition that is not older than a timestamp, in milliseconds.

    It may be `END`, `BEGINNING` or `OLDEST` too. The answer of each is a `Found`; partitions without a leader have none.
    """
    by_leader: dict[int, dict[TopicPartition, int]] = defaultdict(dict)
    for tp, timestamp in timestamps.items():
        if leaders.get(tp, -1) >= 0:
            by_leader[leaders[tp]][tp] = timestamp
    return [
        _by_key(wanted, client_internals.submit(consumer, _times, consumer, node, wanted, isolation_level))
        for node, wanted in by_leader.items()
    ]


async def _times(consumer: Any, node: int, timestamps: Mapping[TopicPartition, int], isolation_level: str) -> Answers:
    return await offsets_at(consumer, node, timestamps, isolation_level, _found)


def _found(answer: Any) -> Found:
    return Found(int(answer.offset), int(answer.timestamp))


# -- the group


def ask_coordinator(consumer: Any, group_id: str) -> Asked:
    """Ask which broker coordinates the group; the answer is its number."""
    return _by_key([group_id], client_internals.submit(consumer, _coordinator, consumer, group_id))


async def _coordinator(consumer: Any, group_id: str) -> Answers:
    request = FindCoordinatorRequest(key=group_id, key_type=0, coordinator_keys=[group_id])
    response = await client_internals.send(consumer, request, _broker(consumer))
    found = response.coordinators[0] if response.coordinators else response
    return {group_id: error_of(found.error_code) or int(found.node_id)}


def ask_group(consumer: Any, node: int, group_id: str) -> Asked:
    """Ask the coordinator for the group's description; the answer is a `Group`."""
    return _by_key([group_id], client_internals.submit(consumer, _group, consumer, node, group_id))


async def _group(consumer: Any, node: int, group_id: str) -> Answers:
    request = DescribeGroupsRequest(groups=[group_id], include_authorized_operations=False)
    response = await client_internals.send(consumer, request, node)
    described = response.groups[0]
    if described.error_code == _NO_SUCH_GROUP:
        return {group_id: Group(True, ())}
    is_settled = described.group_state in ("Stable", "Empty", "Dead")
    is_of_consumers = described.protocol_type == _CONSUMERS
    members = tuple(_member(member, is_of_consumers) for member in described.members)
    return {group_id: error_of(described.error_code) or Group(is_settled, members)}


def _member(member: Any, is_of_consumers: bool) -> Member:
    """Return a member; one whose bytes are not as those of consumers owns nothing that can be told."""
    topics: frozenset[str] = frozenset()
    owned: frozenset[TopicPartition] = frozenset()
    is_worker = False
    if is_of_consumers:
        try:
            if member.member_metadata:
                subscription = ConsumerProtocolSubscription.decode(member.member_metadata)
                topics, is_worker = frozenset(subscription.topics), is_marked(subscription.user_data)
            if member.member_assignment:
                owned = frozenset(ConsumerProtocolAssignment.decode(member.member_assignment).partitions())
        except Exception:  # whatever bytes another program sent: what they do not tell is no worker's
            is_worker = False
    return Member(member.client_id or "", member.client_host or "", is_worker, topics, owned)


def ask_all_committed(consumer: Any, node: int, group_id: str) -> Asked:
    """Ask the coordinator for all that the group has committed; the answer is a dict of offsets by partition."""
    return _by_key([group_id], client_internals.submit(consumer, _all_committed, consumer, node, group_id))


async def _all_committed(consumer: Any, node: int, group_id: str) -> Answers:
    request = OffsetFetchRequest(
        group_id=group_id,
        topics=None,
        groups=[OffsetFetchRequest.OffsetFetchRequestGroup(group_id=group_id, topics=None)],
        require_stable=False,
        min_version=2,
        max_version=_OFFSET_FETCH_MAX_VERSION,
    )
    response = await client_internals.send(consumer, request, node)
    whole = response.groups[0] if response.groups else response
    committed = {
        TopicPartition(topic.name, found.partition_index): int(found.committed_offset)
        for topic in whole.topics
        for found in topic.partitions
        if not found.error_code and found.committed_offset >= 0
    }
    return {group_id: error_of(whole.error_code) or committed}


# -- shared


def _broker(consumer: Any) -> Any:
    node = client_internals.any_broker(consumer)
    if node is None:
        raise kafka_errors.NodeNotReadyError("no broker can be asked now")
    return node
