"""Publishes the newest version of keys that differ once more, so that the worker writes it again.

A version that another record has replaced must not win over it. So the topic is read up to its end just before, and what
has a newer version is left out, also where that one has a dead letter: the dead letter is to be replayed. A producer can
still publish one in the moment between:

1. the topic is read to its end, and version 1 of a key is its newest;
2. a producer publishes version 2;
3. version 1 is published again, behind it.

So the topic is read once more, up to what was published, and version 2 is published again, behind version 1.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.deadletters.headers import writable_name
from worker.errors import FatalError
from worker.ledger import Partition
from worker.ports import Message
from worker.tools.scan import Scanner, Stretch
from worker.tools.verify.compare import Difference
from worker.tools.verify.versions import CannotCut, Reading, Version

_AT_ONCE: Final = 1000  # keys that are looked at in one reading of the topic
_AT_ONCE_BYTES: Final = 32 * 1024 * 1024  # of records that are held meanwhile; the others wait for the next reading
_ACKNOWLEDGE_SECONDS: Final = 60.0

Place = tuple[int, int]
"""Partition and offset."""


class Repaired(NamedTuple):
    """How many versions were published again, and how many keys were left out: a newer one came meanwhile, or it is gone."""

    published: int
    overtaken: int
    gone: int


class _Found(NamedTuple):
    """What one reading of the topic found: records by their places, the newest version of each key, and the ends."""

    messages: dict[Place, Message]
    newest: dict[str, Version]
    ends: dict[Partition, int]
    postponed: set[Place]


def repair(
    topic: str,
    found: Sequence[Difference],
    *,
    scanner: Scanner,
    reading: Callable[[], Reading],
    producer: Any,
    on_step: Callable[[int], None],
    is_stopping: Callable[[], bool] = lambda: False,
) -> Repaired:
    """Publish the newest version of each difference again. Raises `FatalError` where it cannot."""
    published = overtaken = gone = 0
    todo = {one.key: one.version for one in found}
    mine: set[Place] = set()
    while todo and not is_stopping():
        some = dict(islice(todo.items(), _AT_ONCE))
        reader = reading()
        held = _read(topic, some, mine, scanner, reader)
        sent: dict[str, Any] = {}
        for key, version in some.items():
            place = (version.partition, version.offset)
            if place in held.postponed:
                continue
            del todo[key]
            if held.newest.get(key, version).place > version.place:
                overtaken += 1
            elif place not in held.messages:
                gone += 1
            else:
                message = held.messages[place]
                try:
                    value = reader.value_of(message, version.element)
                except CannotCut:
                    gone += 1
                    continue
                sent[key] = _send(producer, topic, version.partition, message, value)
        ours = {key: _placed(future) for key, future in sent.items()}
        published += len(ours)
        mine |= set(ours.values())
        todo |= _overtaken_meanwhile(topic, ours, mine, held.ends, scanner, reading())
        on_step(len(some) - len(held.postponed))
    return Repaired(published, overtaken, gone)


def _read(
    topic: str, some: Mapping[str, Version], mine: Collection[Place], scanner: Scanner, reading: Reading
) -> _Found:
    """Read the topic from the first of these versions to its end of now. What this run published, `mine`, is no newer version."""
    firsts: dict[int, int] = {}
    for one in some.values():
        firsts[one.partition] = min(one.offset, firsts.get(one.partition, one.offset))
    partitions = [Partition(topic, number) for number in firsts]
    ends = scanner.end_offsets(partitions)
    wanted = {(one.partition, one.offset) for one in some.values()}
    held = _Found({}, {}, ends, set())
    size = 0
    for partition, batch in scanner.read([Stretch(one, firsts[one.partition], ends[one]) for one in partitions]):
        for message in batch:
            place = (partition.partition, message.offset)
            if place in wanted and held.messages and size >= _AT_ONCE_BYTES:
                held.postponed.add(place)
            elif place in wanted:
                held.messages[place] = message
                size += len(message.key or b"") + len(message.value or b"")
        for key, version in reading.versions(partition.partition, batch):
            place = (version.partition, version.offset)
            if key in some and place[0] == some[key].partition and place not in mine:
                held.newest[key] = version
    return held


def _overtaken_meanwhile(
    topic: str,
    ours: Mapping[str, Place],
    mine: Collection[Place],
    ends: Mapping[Partition, int],
    scanner: Scanner,
    reading: Reading,
) -> dict[str, Version]:
    """Return the versions that producers published after the ends, and before the versions that were published again."""
    stretches = []
    for partition, begin in ends.items():
        behind = [offset for number, offset in ours.values() if number == partition.partition]
        stretches.append(Stretch(Partition(topic, partition.partition), begin, max(behind, default=begin)))
    newer: dict[str, Version] = {}
    for partition, batch in scanner.read(stretches):
        for key, version in reading.versions(partition.partition, batch):
            place = (version.partition, version.offset)
            if key in ours and place not in mine and ours[key][0] == place[0] and place[1] < ours[key][1]:
                newer[key] = version
    return newer


def _send(producer: Any, topic: str, partition: int, message: Message, value: bytes | None) -> Any:
    headers = [(writable_name(name), header or b"") for name, header in message.headers]
    try:
        return producer.send(topic, key=message.key, value=value, headers=headers, partition=partition)
    except kafka_errors.KafkaError as error:
        raise FatalError(f"kafka did not accept a record: {client_config.describe(error)}") from error


def _placed(future: Any) -> Place:
    try:
        at = future.get(timeout=_ACKNOWLEDGE_SECONDS)
    except kafka_errors.KafkaError as error:
        raise FatalError(f"kafka did not accept a record: {client_config.describe(error)}") from error
    return at.partition, at.offset
