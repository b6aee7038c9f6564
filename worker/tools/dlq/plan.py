"""Which dead letters may be replayed, and why the others may not."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from worker.ledger import Partition
from worker.tools.dlq.history import Candidate, History
from worker.tools.dlq.letters import DeadLetterRead, Place


class Refusal(StrEnum):
    """Why a dead letter is not replayed."""

    NO_SOURCE = "no_source"  # its headers do not say where it came from
    FOREIGN_TOPIC = "foreign_topic"  # its topic is not in a route
    NO_VALUE = "no_value"  # the value was left out, and the source topic does not have it any more
    REPLAYED_TOO_OFTEN = "replayed_too_often"
    REPLAYED_BEFORE = "replayed_before"
    STALE = "stale"  # its key has a newer version
    HISTORY_REMOVED = "history_removed"  # retention removed what came after it: nobody knows whether it is stale
    KEY_UNKNOWN = "key_unknown"  # so nobody knows whether it is stale
    EDIT_FAILED = "edit_failed"


MEANINGS: Mapping[Refusal, str] = {
    Refusal.NO_SOURCE: "its headers do not say which topic, partition and offset it came from",
    Refusal.FOREIGN_TOPIC: "its topic is not in a route of these settings",
    Refusal.NO_VALUE: "the value was left out of it, and the source topic does not have it any more",
    Refusal.REPLAYED_TOO_OFTEN: "it was replayed --max-replays times; correct it with --edit, or raise the limit",
    Refusal.REPLAYED_BEFORE: "it was replayed already: its record is on the source topic",
    Refusal.STALE: "its key has a newer version on the source topic; --even-if-stale replays it all the same",
    Refusal.HISTORY_REMOVED: "retention removed what came after it, so it may be stale; --even-if-stale replays it",
    Refusal.KEY_UNKNOWN: "its key cannot be read, so it may be stale; --even-if-stale replays it",
    Refusal.EDIT_FAILED: "the command of --edit failed on it",
}
"""What a person is told."""


class Plan(NamedTuple):
    """What will be done: the places to replay with their target partitions, and the refused ones by cause."""

    replay: dict[Place, Candidate]
    refused: Counter[Refusal]


class Guards(NamedTuple):
    """What is refused."""

    max_replays: int
    even_if_stale: bool


def candidate_of(
    letter: DeadLetterRead, topics: Collection[str], target_of: Callable[[str, bytes | None], int], key: str | None
) -> Candidate | Refusal:
    """Return a dead letter without its value, or why it can never be replayed. `key` is the vector's, where it is known."""
    told, message = letter.headers, letter.message
    if not told.topic or told.partition is None or told.offset is None:
        return Refusal.NO_SOURCE
    if told.topic not in topics:
        return Refusal.FOREIGN_TOPIC
    failed_at = told.failed_at.timestamp() if told.failed_at is not None else message.timestamp / 1000
    target = target_of(told.topic, message.key) if message.key is not None else told.partition
    return Candidate(
        letter.place, told.topic, told.partition, told.offset, target, key, failed_at, message.key, told.replay
    )


def believed(one: Candidate, keys: Mapping[str, bytes | None]) -> Candidate:
    """Return a candidate without a claim that is not true.

    `keys` has the Kafka keys of the dead letters that are still there, by `topic/partition/offset`. A record that claims to
    be a replay of one of them, and has another key, was written so by its producer.
    """
    if one.claimed is not None and keys.get(one.claimed.origin, one.kafka_key) != one.kafka_key:
        return one._replace(claimed=None)
    return one


def plan(candidates: Sequence[Candidate], history: History, dead_letter_topic: str, guards: Guards) -> Plan:
    """Return which of the candidates are replayed. Of several of one key it is the newest, unless `even_if_stale`."""
    refused: Counter[Refusal] = Counter()
    chosen: dict[Place, Candidate] = {}
    for one in candidates:
        cause = _cause(one, history, dead_letter_topic, guards)
        if cause is None:
            chosen[one.place] = one
        else:
            refused[cause] += 1
    return Plan(chosen, refused)


def _cause(one: Candidate, history: History, dead_letter_topic: str, guards: Guards) -> Refusal | None:
    """Return why one is not replayed, None where it is."""
    if f"{dead_letter_topic}/{one.place.partition}/{one.place.offset}" in history.replayed:
        return Refusal.REPLAYED_BEFORE
    if one.claimed is not None and one.claimed.times >= guards.max_replays:
        return Refusal.REPLAYED_TOO_OFTEN
    return None if guards.even_if_stale else _why_stale(one, history)


def _why_stale(one: Candidate, history: History) -> Refusal | None:
    """Return why the key may have a newer version, None where it has none."""
    if one.key is None:
        return Refusal.KEY_UNKNOWN
    is_behind = history.newest.get((one.topic, one.partition, one.key), -1) > one.offset
    is_elsewhere = one.target != one.partition and (one.topic, one.target, one.key) in history.newest
    if is_behind or is_elsewhere:
        return Refusal.STALE
    is_removed = history.firsts.get(Partition(one.topic, one.partition), 0) > one.offset + 1
    return Refusal.HISTORY_REMOVED if is_removed else None
