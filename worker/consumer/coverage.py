"""Which partitions no worker reads, and how far the whole group is behind, from the group's description.

A member counts as a worker if what it said of itself when it joined has the worker's mark (`assignor.py`), and it owns a
partition if the group has assigned it and the member subscribes to its topic. So these are recognised:

- a consumer of other software, whatever its client id is, even one that commits offsets of what it does not write;
- a program that uses the group with another protocol: nothing of its bytes is believed;
- a partition that the group has given to no member: a rebalance was lost, or no member has its route;
- a topic that no worker of this group subscribes to any more, while the group has committed offsets of it and records wait:
  the only worker with its route has gone.

These are not: a program that copies the mark, and a worker that owns a partition and is blocked, which has signs of its own.
A worker that was killed owns its partitions until its session ends.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from kafka import TopicPartition

from worker.consumer.survey_requests import Group, Member
from worker.telemetry.kafka_facts import GroupFacts, GroupMember
from worker.words import CODE_CHARACTERS, clean


class Offsets(NamedTuple):
    """What is known of the offsets of partitions: what the group has committed, and both edges of their logs."""

    committed: Mapping[TopicPartition, int]
    begins: Mapping[TopicPartition, int]
    ends: Mapping[TopicPartition, int]

    def lag(self, tp: TopicPartition, reset: str) -> int:
        """Return how many records wait; what was never committed begins where `kafka.auto_offset_reset` says."""
        end = self.ends.get(tp, 0)
        first = self.begins.get(tp, end) if reset != "latest" else end
        return max(0, end - self.committed.get(tp, first))


def facts_of(
    group: Group, own_topics: Collection[str], partitions: Collection[TopicPartition], offsets: Offsets, reset: str
) -> GroupFacts:
    """Return what the metrics show of the group.

    `partitions` are those of the topics of this worker's routes, and those of others that the group has committed offsets of.
    """
    read = {tp for member in group.members if member.is_worker for tp in member.owned if tp.topic in member.topics}
    topics = sorted({tp.topic for tp in partitions})
    unassigned, lag = dict.fromkeys(topics, 0), dict.fromkeys(topics, 0)
    for tp in partitions:
        waiting = offsets.lag(tp, reset)
        lag[tp.topic] += waiting
        # Offsets of a topic that was given up stay for a week: without records nothing is missing.
        if tp not in read and (tp.topic in own_topics or waiting):
            unassigned[tp.topic] += 1
    return GroupFacts([_shown(member) for member in group.members], unassigned, lag)


def _shown(member: Member) -> GroupMember:
    client_id, host = (clean(words, CODE_CHARACTERS) for words in (member.client_id, member.host.removeprefix("/")))
    return GroupMember(client_id, host, member.is_worker, len(member.owned))


def strangers(group: Group) -> list[Member]:
    """Return the members that own partitions and are no workers of this software."""
    return [member for member in group.members if member.owned and not member.is_worker]
