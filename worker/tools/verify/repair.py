"""Publishes the newest version of keys that differ once more, so that the worker writes it again.

A version that another record has replaced in the meantime is not published: it would win over the newer one. So the topic is
read up to its end just before; what is published within that moment by others can still be overtaken, which the help says.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.deadletters.headers import writable_name
from worker.errors import FatalError
from worker.ledger import Partition
from worker.ports import Message
from worker.tools.scan import Scanner, Stretch
from worker.tools.verify.compare import Difference
from worker.tools.verify.versions import Reading

_AT_ONCE: Final = 1000
"""Records that are held in memory while it is looked whether they are still the newest."""
_ACKNOWLEDGE_SECONDS: Final = 60.0


class Repaired(NamedTuple):
    """How many were published again, and how many were not, since a newer version came meanwhile, or they are gone."""

    published: int
    overtaken: int
    gone: int


def repair(
    topic: str,
    found: Sequence[Difference],
    *,
    scanner: Scanner,
    reading: Callable[[], Reading],
    producer: Any,
    on_step: Callable[[int], None],
) -> Repaired:
    """Publish the newest version of each difference again. Raises `FatalError` where it cannot."""
    published = overtaken = gone = 0
    for begin in range(0, len(found), _AT_ONCE):
        some = found[begin : begin + _AT_ONCE]
        wanted = {(one.version.partition, one.version.offset): one for one in some}
        messages, newer = _read(topic, some, scanner, reading())
        sent = []
        for place, difference in wanted.items():
            if difference.key in newer:
                overtaken += 1
            elif place not in messages:
                gone += 1
            else:
                sent.append(_send(producer, topic, place[0], messages[place]))
        for future in sent:
            _wait(future)
            published += 1
        on_step(len(some))
    return Repaired(published, overtaken, gone)


def _read(
    topic: str, some: Sequence[Difference], scanner: Scanner, reading: Reading
) -> tuple[dict[tuple[int, int], Message], set[str]]:
    """Return the records of these differences by their place, and the keys that have a newer one."""
    offsets = {one.key: one.version.offset for one in some}
    firsts: dict[int, int] = {}
    for one in some:
        firsts[one.version.partition] = min(one.version.offset, firsts.get(one.version.partition, one.version.offset))
    partitions = [Partition(topic, number) for number in firsts]
    ends = scanner.end_offsets(partitions)
    wanted = {(one.version.partition, one.version.offset) for one in some}
    messages: dict[tuple[int, int], Message] = {}
    newer: set[str] = set()
    for partition, batch in scanner.read([Stretch(one, firsts[one.partition], ends[one]) for one in partitions]):
        for message in batch:
            if (partition.partition, message.offset) in wanted:
                messages[partition.partition, message.offset] = message
        for key, version in reading.versions(partition.partition, batch):
            if version.offset > offsets.get(key, version.offset):
                newer.add(key)
    return messages, newer


def _send(producer: Any, topic: str, partition: int, message: Message) -> Any:
    headers = [(writable_name(name), value or b"") for name, value in message.headers]
    try:
        return producer.send(topic, key=message.key, value=message.value, headers=headers, partition=partition)
    except kafka_errors.KafkaError as error:
        raise FatalError(f"kafka did not accept a record: {client_config.describe(error)}") from error


def _wait(future: Any) -> None:
    try:
        future.get(timeout=_ACKNOWLEDGE_SECONDS)
    except kafka_errors.KafkaError as error:
        raise FatalError(f"kafka did not accept a record: {client_config.describe(error)}") from error
