"""Which dead letters may be replayed, and why the others may not."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from worker.ledger import Partition
from worker.tools.dlq.candidates import Candidate, Record
from worker.tools.dlq.history import History
from worker.tools.dlq.letters import Place


class Refusal(StrEnum):
    """Why a dead letter is not replayed."""

    NO_SOURCE = "no_source"
    FOREIGN_TOPIC = "foreign_topic"
    TOPIC_GONE = "topic_gone"
    NO_VALUE = "no_value"
    REPLAYED_TOO_OFTEN = "replayed_too_often"
    REPLAYED_BEFORE = "replayed_before"
    SAME_RECORD = "same_record"
    STALE = "stale"
    SOURCE_REPLACED = "source_replaced"
    HISTORY_REMOVED = "history_removed"
    KEY_UNKNOWN = "key_unknown"
    NOT_CUT = "not_cut"
    EDIT_FAILED = "edit_failed"
    GONE = "gone"


_ALL_THE_SAME = "--even-if-stale replays it all the same"
MEANINGS: Mapping[Refusal, str] = {
    Refusal.NO_SOURCE: "its headers are not as the worker or Kafka Connect write them, so nobody knows its source record",
    Refusal.FOREIGN_TOPIC: "its topic is not in a route of these settings",
    Refusal.TOPIC_GONE: "its topic does not exist any more",
    Refusal.NO_VALUE: "the value was left out of it, and the source topic does not have the record any more",
    Refusal.REPLAYED_TOO_OFTEN: "it was replayed --max-replays times; repair it with --edit and raise that limit",
    Refusal.REPLAYED_BEFORE: "it was replayed already: its record is on the source topic",
    Refusal.SAME_RECORD: "another dead letter of the same record is replayed in its place",
    Refusal.STALE: f"its key has a newer version; {_ALL_THE_SAME}",
    Refusal.SOURCE_REPLACED: "the source topic has another record at its offset (was the topic deleted and made again?), "
    f"so it may be stale; {_ALL_THE_SAME}",
    Refusal.HISTORY_REMOVED: "retention or compaction removed records from the source topic that may be newer versions; "
    f"{_ALL_THE_SAME}",
    Refusal.KEY_UNKNOWN: f"its key cannot be read, so it may be stale; {_ALL_THE_SAME}",
    Refusal.NOT_CUT: "it is one record of a message with several, which these settings do not cut out "
    "(records.many, records.fields.records), or not as it came",
    Refusal.EDIT_FAILED: "the command of --edit failed on it",
    Refusal.GONE: "retention removed it from the dead-letter topic in the meantime",
}
"""What a person is told."""


class Guards(NamedTuple):
    """What is refused."""

    max_replays: int
    even_if_stale: bool


class Plan(NamedTuple):
    """What will be done: the candidates to replay, by place, and the count of the refused ones by cause."""

    replay: dict[Place, Candidate]
    refused: Counter[Refusal]


def plan(candidates: Iterable[Candidate], history: History, guards: Guards) -> Plan:
    """Return which candidates are replayed. Of several of one key it is the newest, unless `even_if_stale`."""
    refused: Counter[Refusal] = Counter()
    of_record: dict[Record, Candidate] = {}
    for one in candidates:
        cause = cause_of(one, history, guards)
        if cause is not None:
            refused[cause] += 1
        elif one.record in of_record:
            refused[Refusal.SAME_RECORD] += 1
            of_record[one.record] = max(one, of_record[one.record], key=lambda it: (it.failed_at, it.place))
        else:
            of_record[one.record] = one
    chosen = list(of_record.values())
    if not guards.even_if_stale:
        newest = {(one.source.topic, one.key): one for one in in_source_order(chosen)}
        refused[Refusal.STALE] += len(chosen) - len(newest)
        chosen = list(newest.values())
    return Plan({one.place: one for one in chosen}, +refused)


def in_source_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return candidates in the order of their records: by offset within a partition, by time across partitions."""
    latest: dict[Partition, float] = {}
    found: list[tuple[float, Partition, int, Candidate]] = []
    for one in sorted(candidates, key=lambda it: (it.source, it.element or 0)):
        place = one.source.place
        latest[place] = max(one.published_at, latest.get(place, one.published_at))
        found.append((latest[place], place, one.source.offset, one))
    return [one for *_, one in sorted(found, key=lambda it: it[:3])]


def out_of_order(chosen: Sequence[Candidate]) -> set[Place]:
    """Return the candidates of keys that the dead-letter topic does not have in the order of their records."""
    of_key: dict[tuple[str, str], list[Candidate]] = {}
    for one in in_source_order(chosen):
        if one.key is not None:
            of_key.setdefault((one.source.topic, one.key), []).append(one)
    return {
        one.place
        for several in of_key.values()
        if len({one.place.partition for one in several}) > 1 or sorted(several, key=lambda it: it.place) != several
        for one in several
    }


def cause_of(one: Candidate, history: History, guards: Guards) -> Refusal | None:
    """Return why one is not replayed, None where it is."""
    if one.record in history.replayed:
        return Refusal.REPLAYED_BEFORE
    if one.replays >= guards.max_replays:
        return Refusal.REPLAYED_TOO_OFTEN
    if one.is_reference and one.record not in history.unchanged:
        return Refusal.NO_VALUE
    return None if guards.even_if_stale else _why_stale(one, history)


def _why_stale(one: Candidate, history: History) -> Refusal | None:
    """Return why the key may have a newer version, None where it has none."""
    source, place = one.source, one.source.place
    if one.key is None:
        return Refusal.KEY_UNKNOWN
    if one.record in history.replaced or source.offset >= history.ends.get(place, 0):
        return Refusal.SOURCE_REPLACED
    newest = history.newest.get((source.topic, source.partition, one.key))
    if (newest is not None and newest.is_behind(one)) or _is_stale_elsewhere(one, history):
        return Refusal.STALE
    # A record that is gone where its partition still has that offset was compacted: something newer took its place.
    has_its_record = one.record in history.unchanged or history.firsts[place] == source.offset + 1
    is_cut = one.target != source.partition and Partition(source.topic, one.target) in history.cut
    return None if has_its_record and not is_cut else Refusal.HISTORY_REMOVED


def _is_stale_elsewhere(one: Candidate, history: History) -> bool:
    """Return whether the partition that its key belongs to now has a version that is not older."""
    if one.target == one.source.partition or one.key is None:
        return False
    newest = history.newest.get((one.source.topic, one.target, one.key))
    return newest is not None and newest.published_at >= one.published_at
