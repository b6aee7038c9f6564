"""What happened to a key in its source topic after its record had failed.

The source topic is read uncommitted: a replay of this tool is in no transaction, and an open transaction of others would
hide it. A record of a transaction that is aborted later counts as a newer version, then; it only makes the tool refuse.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from worker.deadletters.headers import Replay, claimed_replay
from worker.ledger import Partition
from worker.ports import Message
from worker.settings.tables import Kafka
from worker.tools.scan import Scanner, Stretch

_CLOCK_SECONDS = 3600.0
"""How far the clocks of producers, brokers and workers may differ."""


class _Keyed(msgspec.Struct):
    key: str | None = None


_json_key = msgspec.json.Decoder(_Keyed).decode
_msgpack_key = msgspec.msgpack.Decoder(_Keyed).decode


class Candidate(NamedTuple):
    """A dead letter that may be replayed, without its value."""

    place: Any
    topic: str
    partition: int
    offset: int
    target: int
    """The partition that the source partitioner gives its key now."""
    key: str | None
    """The vector's key; None where it is not known."""
    failed_at: float
    kafka_key: bytes | None
    claimed: Replay | None
    """How often it was replayed, and of which dead letter, as its record says of itself."""


class History(NamedTuple):
    """What the source topics say."""

    newest: Mapping[tuple[str, int, str], int]
    """The offset of the newest record of a key, by (topic, partition, key)."""
    replayed: set[str]
    """The dead letters (`topic/partition/offset`) that were replayed."""
    firsts: Mapping[Partition, int]


def vector_key(message: Message, key_format: str) -> str | None:
    """Return the key of the vector that a record is about, as far as it can be read; None where it cannot."""
    value = message.value
    if value:
        for decode in (_json_key, _msgpack_key):
            try:
                if (found := decode(value).key) is not None:
                    return found
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
    if message.key is None:
        return None
    try:
        text = message.key.decode()
        found = json.loads(text) if key_format == "json" else text
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def read_history(
    kafka: Kafka, candidates: Sequence[Candidate], key_format: str, on_step: Callable[[int], None]
) -> History:
    """Read on in the source topics, once for all candidates, up to their ends of now. Raises `FatalError`."""
    uncommitted = msgspec.structs.replace(kafka, isolation_level="read_uncommitted")
    with Scanner(uncommitted) as scanner:
        partitions = sorted({Partition(one.topic, n) for one in candidates for n in (one.partition, one.target)})
        known = {one for topic in {p.topic for p in partitions} for one in scanner.partitions(topic)}
        partitions = [one for one in partitions if one in known]
        firsts, ends = scanner.first_offsets(partitions), scanner.end_offsets(partitions)
        begins = _begins(scanner, candidates, partitions)
        wanted = {(one.topic, one.key) for one in candidates if one.key is not None}
        newest: dict[tuple[str, int, str], int] = {}
        replayed: set[str] = set()
        for partition, messages in scanner.read(
            Stretch(one, max(firsts[one], begins[one]), ends[one]) for one in partitions
        ):
            for message in messages:
                if (replay := claimed_replay(message.headers)) is not None:
                    replayed.add(replay.origin)
                key = vector_key(message, key_format)
                if key is not None and (partition.topic, key) in wanted:
                    newest[partition.topic, partition.partition, key] = message.offset
            on_step(len(messages))
    return History(newest, replayed, firsts)


def _begins(scanner: Scanner, candidates: Iterable[Candidate], partitions: Sequence[Partition]) -> dict[Partition, int]:
    """Return where reading begins: behind the oldest dead letter's record, and by time where replays go elsewhere."""
    begins: dict[Partition, int] = {}
    times: dict[Partition, float] = {}
    for one in candidates:
        source, target = Partition(one.topic, one.partition), Partition(one.topic, one.target)
        begins[source] = min(begins.get(source, one.offset), one.offset)
        if target != source:
            times[target] = min(times.get(target, one.failed_at), one.failed_at)
    for partition, seconds in times.items():
        at = scanner.offsets_at([partition], seconds - _CLOCK_SECONDS)[partition]
        begins[partition] = min(begins.get(partition, at), at)
    return {one: begins.get(one, 0) for one in partitions}
