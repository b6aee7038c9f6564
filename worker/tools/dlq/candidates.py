"""What is kept of a dead letter while it is decided whether it is replayed: everything except its bytes.

A producer can write any header, so nothing that a record says of its own replays is believed without a second witness:

- "I am a replay of dead letter D" counts where D is in the dead-letter topic and came from the same key and from an earlier
  record.
- A dead letter is about the record that the source topic has at its offset only where the two are the same. Where the
  source topic was made again, offsets began at 0 again, and another record is there.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from worker.deadletters.headers import KEY_SIZE, Author, Replay
from worker.ledger import Partition
from worker.ports import Message
from worker.tools.dlq.letters import DeadLetterRead, Place
from worker.tools.dlq.names import Names


class Source(NamedTuple):
    """Where the record of a dead letter was read from."""

    topic: str
    partition: int
    offset: int

    @property
    def place(self) -> Partition:
        """The partition."""
        return Partition(self.topic, self.partition)


class Record(NamedTuple):
    """A record of a source topic. The timestamp, in milliseconds, tells two lives of a topic that was made again apart.

    `element` is its place in a message that has several, else None.
    """

    source: Source
    timestamp: int | None
    element: int | None = None


class KeyOf(NamedTuple):
    """A Kafka key. `size` is that of a key that was left out of a reference, which `key` then does not have."""

    key: bytes | None
    size: int | None

    def fits(self, key: bytes | None) -> bool:
        """Return whether a record's key is this one, as far as that is known."""
        return key == self.key if self.size is None else key is not None and len(key) == self.size


class Known(NamedTuple):
    """What every dead letter of the topic is remembered by, also one that was not selected."""

    source: Source
    timestamp: int | None
    kafka_key: KeyOf
    failed_at: float
    claimed: Replay | None
    element: int | None = None

    @property
    def record(self) -> Record:
        """Its record."""
        return Record(self.source, self.timestamp, self.element)

    def is_replayed_by(self, topic: str, partition: int, message: Message) -> bool:
        """Return whether a record of the source topic that claims to be a replay of this can be one.

        Where the source topic was made again, its offsets say nothing, and the time does.
        """
        is_later = topic == self.source.topic and message.timestamp / 1000 >= self.failed_at
        return self.kafka_key.fits(message.key) and (
            is_later or self.is_before(Source(topic, partition, message.offset))
        )

    def is_before(self, other: Source) -> bool:
        """Return whether its record can have been there before another. Partitions have no common order."""
        mine = self.source
        return mine.topic == other.topic and (mine.partition != other.partition or mine.offset < other.offset)


class Candidate(NamedTuple):
    """A dead letter that may be replayed."""

    place: Place
    source: Source
    target: int
    """The partition that the source partitioner gives its key now."""
    key: str | None
    """The vector's name; None where it is not known."""
    kafka_key: KeyOf
    published_at: float
    """When its record was published, or else when it failed; Unix seconds."""
    timestamp: int | None
    """The timestamp of its record in milliseconds, where it is known."""
    failed_at: float
    digest: bytes | None
    """Of the key and value, to recognise its record; None where the value was left out."""
    replays: int
    """How often it was replayed."""
    element: int | None = None
    """The place of its record in a message that has several."""

    @property
    def record(self) -> Record:
        """Its record."""
        return Record(self.source, self.timestamp, self.element)

    @property
    def is_reference(self) -> bool:
        """Return whether its value was left out, and has to be read from the source topic."""
        return self.digest is None

    def is_about(self, message: Message) -> bool:
        """Return whether this record of the source topic is the one that failed."""
        return (
            self.kafka_key.fits(message.key)
            and (self.timestamp is None or self.timestamp == message.timestamp)
            and (self.digest is None or self.digest == digest_of(message))
        )


def source_of(letter: DeadLetterRead) -> Source | None:
    """Return where a dead letter came from; None where neither the worker nor Kafka Connect wrote its headers."""
    told = letter.headers
    if told.author is Author.UNKNOWN or not told.topic or told.partition is None or told.offset is None:
        return None
    return Source(told.topic, told.partition, told.offset)


def known_of(letter: DeadLetterRead, source: Source) -> Known:
    """Return what a dead letter is remembered by."""
    told, size = letter.headers, letter.headers.values.get(KEY_SIZE)
    return Known(
        source,
        round(told.timestamp.timestamp() * 1000) if told.timestamp is not None else None,
        KeyOf(letter.message.key, int(size) if size and size.isdecimal() else None),
        letter.failed_at,
        letter.headers.replay,
        letter.element,
    )


def candidate_of(
    letter: DeadLetterRead, known: Known, target_of: Callable[[str, bytes | None, int], int], names: Names
) -> Candidate:
    """Return a dead letter without its bytes. `target_of` gives the partition for a topic, a Kafka key, and the partition so far."""
    told, message, source = letter.headers, letter.message, known.source
    published = known.timestamp
    if told.author is Author.CONNECT and message.timestamp >= 0:
        published = message.timestamp  # Kafka Connect keeps the record's own, unless the topic has its own time
    return Candidate(
        place=letter.place,
        source=source,
        target=target_of(source.topic, message.key, source.partition),
        key=names.of_element(source.topic, message.key, message.value, told.source, letter.element),
        kafka_key=known.kafka_key,
        published_at=published / 1000 if published is not None else letter.failed_at,
        timestamp=known.timestamp,
        failed_at=letter.failed_at,
        digest=digest_of(message) if told.value_size is None else None,
        replays=0,
        element=letter.element,
    )


def digest_of(message: Message) -> bytes:
    """Return what recognises a key and value. The value of a record with neither is written empty to a dead letter."""
    key, value = message.key, message.value
    if key is None and value is None:
        value = b""
    parts = hashlib.blake2b(digest_size=16)
    for part in (key, value):
        parts.update(b"-" if part is None else b"%d:" % len(part))
        parts.update(part or b"")
    return parts.digest()


def replays_of(known: Known, by_name: Mapping[str, Known]) -> int:
    """Return how often the record of a dead letter was replayed, as far as the dead letters that are still there prove it.

    `by_name` has them by `topic/partition/offset`.
    """
    count = 0
    seen: set[str] = set()
    while (claim := known.claimed) is not None and claim.origin not in seen:
        before = by_name.get(claim.origin)
        if before is None or before.kafka_key != known.kafka_key or not before.is_before(known.source):
            break
        seen.add(claim.origin)
        count += 1
        known = before
    return count
