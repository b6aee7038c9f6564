"""Requests for offsets that wait for nothing: what a group has committed, where partitions begin and where they end.

Each partition has an answer or an error of its own: where the leader of one is away, or one may not be read, the others
have their answers. There are few requests: one to the group's coordinator, and one to each leader.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple

from kafka import IsolationLevel, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from worker.consumer import client_internals
from worker.consumer.client_internals.protocol import (
    ListOffsetsRequest,
    OffsetFetchRequest,
    OffsetForLeaderEpochRequest,
)

_LIST_OFFSETS_MAX_VERSION: Final = 7  # later ones know more edges, which are not used here
_OFFSET_FETCH_MAX_VERSION: Final = 8  # the client has no names for what later ones add

Answers = Mapping[TopicPartition, Any]
"""An offset (`OffsetAndMetadata`, int, `EpochEnd`, None where nothing is committed) or an error, for each partition asked for."""


class Edge(IntEnum):
    """Which offset of a partition; the number is the timestamp that Kafka has for it."""

    END = -1  # at the isolation level: of what is committed, or of all
    BEGINNING = -2


def is_in_log(offset: int, begin: int, end: int) -> bool:
    """Return whether a log that reaches from `begin` to `end` has an offset, or ends at it.

    Ask it before anything follows from OFFSET_OUT_OF_RANGE: with tiered storage a broker answers so too where a segment is
    missing. `end` is behind all records (`read_uncommitted`): what is committed ends at the first open transaction, and a
    position behind that is not lost.
    """
    return begin <= offset <= end


class EpochEnd(NamedTuple):
    """Where a leader's epoch ends, or the last one before it that the log has: the offset behind its last record.

    Both are -1 where the leader knows of no such epoch: another log has the partition's name. That is doubtful where the
    leader is older than the epoch: it may have been replaced, and not know it yet.
    """

    leader_epoch: int
    offset: int
    is_doubtful: bool = False


class Asked(NamedTuple):
    """A request that was sent, and for which partitions."""

    partitions: frozenset[TopicPartition]
    future: Any

    @property
    def is_done(self) -> bool:
        """Whether the answer, or an error, is there."""
        return bool(self.future.is_done)

    def answers(self) -> Answers:
        """Return the answers; where the whole request failed, its error for each partition. It must be done."""
        if self.future.exception is not None:
            return dict.fromkeys(self.partitions, self.future.exception)
        found: Answers = self.future.value
        return {tp: found.get(tp, kafka_errors.UnknownTopicOrPartitionError()) for tp in self.partitions}


def ask_committed(consumer: Any, group_id: str, partitions: Collection[TopicPartition], *, is_stable: bool) -> Asked:
    """Ask for what the group has committed of these partitions.

    With `is_stable` the broker answers only once no open transaction can change it; `read_committed` needs that.
    """
    future = client_internals.submit(consumer, _fetch_committed, consumer, group_id, tuple(partitions), is_stable)
    return Asked(frozenset(partitions), future)


def ask_edge(consumer: Any, partitions: Iterable[TopicPartition], edge: Edge, isolation_level: str) -> list[Asked]:
    """Ask each leader for an edge of its partitions; a partition without a leader has that error as its answer."""
    return [
        Asked(
            frozenset(owned),
            client_internals.submit(consumer, _list_offsets, consumer, node, owned, edge, isolation_level),
        )
        for node, owned in _by_leader(consumer, partitions).items()
    ]


def ask_epoch_ends(consumer: Any, epochs: Mapping[TopicPartition, int]) -> list[Asked]:
    """Ask each leader where these epochs of its partitions end; a partition without a leader has that error as its answer."""
    # Before the leaders are looked up: newer metadata that comes in between must not vouch for an older leader.
    led_in = {tp: client_internals.leader_epoch(consumer, tp) for tp in epochs}
    return [
        Asked(
            frozenset(owned),
            client_internals.submit(
                consumer, _list_epoch_ends, consumer, node, {tp: epochs[tp] for tp in owned}, led_in
            ),
        )
        for node, owned in _by_leader(consumer, epochs).items()
    ]


def _by_leader(consumer: Any, partitions: Iterable[TopicPartition]) -> dict[int | None, list[TopicPartition]]:
    by_leader: dict[int | None, list[TopicPartition]] = defaultdict(list)
    for tp in partitions:
        node = client_internals.leader(consumer, tp)
        by_leader[None if node == -1 else node].append(tp)
    if None in by_leader:
        client_internals.refresh_metadata(consumer)
    return by_leader


async def _fetch_committed(
    consumer: Any, group_id: str, partitions: Collection[TopicPartition], is_stable: bool
) -> Answers:
    node = client_internals.coordinator(consumer)
    if node is None:
        raise kafka_errors.CoordinatorNotAvailableError
    group = OffsetFetchRequest.OffsetFetchRequestGroup
    request = OffsetFetchRequest(
        group_id=group_id,
        topics=_by_topic(partitions, OffsetFetchRequest.OffsetFetchRequestTopic),
        groups=[group(group_id=group_id, topics=_by_topic(partitions, group.OffsetFetchRequestTopics))],
        require_stable=is_stable,
        max_version=_OFFSET_FETCH_MAX_VERSION,
    )
    try:
        response = await client_internals.send(consumer, request, node)
    except Exception as error:
        client_internals.coordinator_failed(consumer, node, request, error)
        raise
    whole = response.groups[0] if response.groups else response
    if refusal := error_of(whole.error_code):
        if isinstance(refusal, kafka_errors.NotCoordinatorError):
            client_internals.coordinator_moved(consumer, refusal)
        raise refusal
    return {
        TopicPartition(topic.name, found.partition_index): error_of(found.error_code) or _committed(found)
        for topic in whole.topics
        for found in topic.partitions
    }


def _by_topic(partitions: Iterable[TopicPartition], make: Callable[..., Any]) -> list[Any]:
    numbers: dict[str, list[int]] = defaultdict(list)
    for tp in partitions:
        numbers[tp.topic].append(tp.partition)
    return [make(name=topic, partition_indexes=found) for topic, found in numbers.items()]


def _committed(found: Any) -> OffsetAndMetadata | None:
    if found.committed_offset < 0:
        return None
    epoch = found.committed_leader_epoch
    return OffsetAndMetadata(found.committed_offset, found.metadata or "", -1 if epoch is None else epoch)


async def _list_offsets(
    consumer: Any, node: int | None, partitions: Iterable[TopicPartition], edge: Edge, isolation_level: str
) -> Answers:
    if node is None:
        raise kafka_errors.LeaderNotAvailableError
    answers = await offsets_at(consumer, node, dict.fromkeys(partitions, int(edge)), isolation_level, _edge)
    _refresh_old_metadata(consumer, answers)
    return answers


async def offsets_at(
    consumer: Any,
    node: int,
    timestamps: Mapping[TopicPartition, int],
    isolation_level: str,
    read: Callable[[Any], Any],
) -> Answers:
    """Return what `read` makes of each partition's answer to one ListOffsets request, or the partition's error.

    `timestamps` are in milliseconds, or the protocol's numbers for the edges of a partition.
    """
    level = IsolationLevel.build_from(isolation_level)
    topics: dict[str, list[Any]] = defaultdict(list)
    for tp, timestamp in timestamps.items():
        topics[tp.topic].append(
            ListOffsetsRequest.ListOffsetsTopic.ListOffsetsPartition(
                partition_index=tp.partition, current_leader_epoch=-1, timestamp=timestamp
            )
        )
    request = ListOffsetsRequest(
        isolation_level=level,
        topics=list(topics.items()),
        min_version=max(1, ListOffsetsRequest.min_version_for_isolation_level(level)),
        max_version=_LIST_OFFSETS_MAX_VERSION,
    )
    response = await client_internals.send(consumer, request, node)
    return {
        TopicPartition(topic.name, found.partition_index): error_of(found.error_code) or read(found)
        for topic in response.topics
        for found in topic.partitions
    }


async def _list_epoch_ends(
    consumer: Any, node: int | None, epochs: Mapping[TopicPartition, int], led_in: Mapping[TopicPartition, int | None]
) -> Answers:
    """`led_in` has the epoch of each partition's leader, as the metadata names it."""
    if node is None:
        raise kafka_errors.LeaderNotAvailableError
    topic_type = OffsetForLeaderEpochRequest.OffsetForLeaderTopic
    topics: dict[str, list[Any]] = defaultdict(list)
    for tp, epoch in epochs.items():
        topics[tp.topic].append(
            topic_type.OffsetForLeaderPartition(partition=tp.partition, current_leader_epoch=-1, leader_epoch=epoch)
        )
    request = OffsetForLeaderEpochRequest(replica_id=-1, topics=list(topics.items()))
    response = await client_internals.send(consumer, request, node)
    answers: dict[TopicPartition, Any] = {}
    for topic in response.topics:
        for found in topic.partitions:
            tp = TopicPartition(topic.topic, found.partition)
            end = _epoch_end(found)
            is_doubtful = _is_doubtful(end, epochs.get(tp, -1), led_in.get(tp))
            answers[tp] = error_of(found.error_code) or end._replace(is_doubtful=is_doubtful)
    _refresh_old_metadata(consumer, answers)
    return answers


def _is_doubtful(end: EpochEnd, asked: int, led_in: int | None) -> bool:
    """Return whether the leader that does not know the epoch is older than it.

    1. The leader of epoch 6 is cut off from the controller, which lets another broker lead in epoch 7.
    2. Another worker reads there, and commits a record of epoch 7.
    3. This worker opens the partition. Its metadata is some seconds old, so that it asks the old leader, which can still be
       reached, and which does not know epoch 7.

    If that counted as another log, the partition would be read from its start.
    """
    return end.offset < 0 and led_in is not None and 0 <= led_in < asked


def _refresh_old_metadata(consumer: Any, answers: Answers) -> None:
    """Ask for fresh metadata where a broker does not lead a partition any more, or seems not to."""
    if any(
        isinstance(answer, kafka_errors.InvalidMetadataError) or (isinstance(answer, EpochEnd) and answer.is_doubtful)
        for answer in answers.values()
    ):
        client_internals.refresh_metadata(consumer)


def _epoch_end(found: Any) -> EpochEnd:
    epoch = -1 if found.leader_epoch is None else int(found.leader_epoch)
    return EpochEnd(epoch, int(found.end_offset)) if epoch >= 0 and found.end_offset >= 0 else EpochEnd(-1, -1)


def _edge(found: Any) -> int | kafka_errors.KafkaError:
    return int(found.offset) if found.offset >= 0 else kafka_errors.OffsetNotAvailableError()


def error_of(code: int | None) -> kafka_errors.KafkaError | None:
    """Return the error of a code in an answer, None where there is none."""
    return kafka_errors.for_code(code)() if code else None
