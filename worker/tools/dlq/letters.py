"""Dead letters as they are read from their topic, and which of them are meant."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

import click

from worker.app.decoders import options_of
from worker.deadletters.headers import DeadLetterHeaders, read_headers
from worker.errors import FatalError
from worker.ports import Message
from worker.records.formats.contract import Headers
from worker.records.record_key import ReadKey, key_reader
from worker.settings.tables import Settings
from worker.tools.dlq.elements import Elements, element_of
from worker.tools.scan import Scanner, Stretch

_PLACE: Final = re.compile(r"(\d{1,9}):(\d{1,18})\Z")


class Place(NamedTuple):
    """Where a dead letter is in the dead-letter topic."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


class DeadLetterRead(NamedTuple):
    """A dead letter as it is in its topic. `key` is that of its vector; None where it cannot be read.

    `element` is the place of the one record that it is about in a message that has several, else None.
    """

    place: Place
    message: Message
    headers: DeadLetterHeaders
    key: str | None
    element: int | None = None

    @property
    def failed_at(self) -> float:
        """Unix seconds. Kafka Connect does not write it: there it is the time of the message."""
        told = self.headers.failed_at
        return told.timestamp() if told is not None else self.message.timestamp / 1000


class Selection(NamedTuple):
    """Which dead letters are meant; every part that is given must be met. Times are Unix seconds of `failed-at`."""

    reasons: Sequence[str] = ()
    keys: Sequence[str] = ()
    topics: Sequence[str] = ()
    since: float | None = None
    until: float | None = None
    places: Collection[Place] = ()

    def has(self, letter: DeadLetterRead) -> bool:
        """Return whether this dead letter is meant."""
        told = letter.headers
        return (
            (not self.places or letter.place in self.places)
            and (not self.reasons or told.reason in self.reasons)
            and (not self.topics or told.topic in self.topics)
            and (not self.keys or self._has_key(letter))
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
        )

    def _has_key(self, letter: DeadLetterRead) -> bool:
        kafka_key = letter.message.key
        return letter.key in self.keys or (
            kafka_key is not None and kafka_key.decode(errors="backslashreplace") in self.keys
        )


class VectorKeys:
    """Reads the keys of vectors, each as the route of its topic says; of a topic without a route, as [records] says."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._readers: dict[str, ReadKey] = {}

    def of(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> str | None:
        """Return the key of the vector that a record is about, as far as it can be read; None where it cannot."""
        if topic not in self._readers:
            self._readers[topic] = key_reader(options_of(self._settings.records_of(topic)))
        return self._readers[topic](key, value, headers)


def place_of(text: str, option: str = "PARTITION:OFFSET") -> Place:
    """Return the place that a person typed. Raises click's `BadParameter`."""
    if (found := _PLACE.match(text)) is None:
        raise click.BadParameter(f"{text!r} is not PARTITION:OFFSET, such as 0:17", param_hint=option)
    return Place(int(found[1]), int(found[2]))


def topic_of(settings: Settings) -> str:
    """Return the dead-letter topic. Raises `FatalError` where there is none."""
    if not settings.dead_letter.topic:
        raise FatalError("dead_letter.topic is empty: there are no dead letters")
    return settings.dead_letter.topic


def stretches_of(scanner: Scanner, topic: str, places: Collection[Place] | None = None) -> list[Stretch]:
    """Return the stretches that have these places, or everything for None, up to the end of now."""
    everything = scanner.everything(scanner.partitions(topic))
    if places is None:
        return everything
    spans: dict[int, tuple[int, int]] = {}
    for place in places:
        begin, end = spans.get(place.partition, (place.offset, place.offset))
        spans[place.partition] = min(begin, place.offset), max(end, place.offset)
    return [
        Stretch(one.partition, max(span[0], one.begin), min(span[1] + 1, one.end))
        for one in everything
        if (span := spans.get(one.partition.partition)) is not None
    ]


def dead_letters(scanner: Scanner, stretches: Sequence[Stretch], settings: Settings) -> Iterator[DeadLetterRead]:
    """Yield dead letters, those of a partition in the order of their offsets."""
    keys, elements = VectorKeys(settings), Elements(settings)
    for partition, messages in scanner.read(stretches):
        for message in messages:
            place = Place(partition.partition, message.offset)
            headers = read_headers(message.headers)
            element = element_of(headers)
            value = elements.own_value(headers.topic, message.value, element)
            key = keys.of(headers.topic or "", message.key, value, message.headers)
            yield DeadLetterRead(place, message, headers, key, element)
