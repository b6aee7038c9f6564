"""Dead letters as they are read from their topic, and which of them are meant."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

import click

from worker.deadletters.headers import DeadLetterHeaders, read_headers
from worker.errors import FatalError
from worker.ledger import Partition
from worker.ports import Message
from worker.settings.tables import Settings
from worker.tools.scan import Scanner, Stretch

_PLACE: Final = re.compile(r"(\d{1,9}):(\d{1,18})\Z")


class Place(NamedTuple):
    """Where a dead letter is in the dead-letter topic."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


class DeadLetterRead(NamedTuple):
    """A dead letter as it is in its topic."""

    place: Place
    message: Message
    headers: DeadLetterHeaders


class Selection(NamedTuple):
    """Which dead letters are meant; every part that is given must be met. Times are Unix seconds of `failed-at`."""

    reasons: Sequence[str] = ()
    keys: Sequence[str] = ()
    topics: Sequence[str] = ()
    since: float | None = None
    until: float | None = None
    places: Collection[Place] = ()

    @property
    def is_empty(self) -> bool:
        """Return whether all dead letters are meant."""
        return not any(self)

    def has(self, letter: DeadLetterRead) -> bool:
        """Return whether this dead letter is meant."""
        told = letter.headers
        failed_at = told.failed_at.timestamp() if told.failed_at is not None else letter.message.timestamp / 1000
        return (
            (not self.places or letter.place in self.places)
            and (not self.reasons or told.reason in self.reasons)
            and (not self.topics or told.topic in self.topics)
            and (not self.keys or (letter.message.key or b"").decode(errors="replace") in self.keys)
            and (self.since is None or failed_at >= self.since)
            and (self.until is None or failed_at < self.until)
        )


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


def stretches_of(scanner: Scanner, topic: str, places: Collection[Place] = ()) -> list[Stretch]:
    """Return the stretches that have these places, or everything where none is named, up to the end of now."""
    partitions = scanner.partitions(topic)
    firsts, ends = scanner.first_offsets(partitions), scanner.end_offsets(partitions)
    found = []
    for one in partitions:
        offsets = [place.offset for place in places if place.partition == one.partition]
        begin, end = (min(offsets), max(offsets) + 1) if offsets else (firsts[one], ends[one])
        if offsets or not places:
            found.append(Stretch(one, max(begin, firsts[one]), min(end, ends[one])))
    return found


def dead_letters(
    scanner: Scanner, stretches: Sequence[Stretch], selection: Selection
) -> Iterator[DeadLetterRead | None]:
    """Yield the dead letters that are meant, and None for each of the others, so that progress can be shown."""
    for partition, messages in scanner.read(stretches):
        for message in messages:
            yield _selected(partition, message, selection)


def _selected(partition: Partition, message: Message, selection: Selection) -> DeadLetterRead | None:
    letter = DeadLetterRead(Place(partition.partition, message.offset), message, read_headers(message.headers))
    return letter if selection.has(letter) else None
