"""What happened in the source topics since the records of dead letters were there.

They are read uncommitted: a replay of this tool is in no transaction, and an open transaction of others would hide it. A
record of a transaction that is aborted later counts as a newer version, then; it only makes the tool refuse.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Self

import msgspec

from worker.deadletters.headers import Replay, claimed_replay
from worker.ledger import Partition
from worker.ports import Message
from worker.settings.tables import Kafka
from worker.tools.dlq.candidates import Candidate, Known, Record, Source
from worker.tools.dlq.names import Names
from worker.tools.scan import NoTopic, Scanner, Stretch

_CLOCK_SECONDS: Final = 3600.0
"""How far the clocks of producers, brokers and workers may differ."""


class Newest(NamedTuple):
    """The newest record of a key in a partition: its offset, and the latest timestamp, in Unix seconds.

    `element` is its place in a message that has several, else None.
    """

    offset: int
    published_at: float
    element: int | None = None

    def is_behind(self, one: Candidate) -> bool:
        """Return whether it came later than the record of a dead letter, in the same partition."""
        return (self.offset, self.element or 0) > (one.source.offset, one.element or 0)


class At(NamedTuple):
    """The name of the vector that a record is about, and what it says of its replay."""

    key: str | None
    claim: Replay | None


class History:
    """What the source topics say about some dead letters. `advance` reads what is new in them.

    Reads once for all dead letters of a partition, from the oldest of their records on.
    """

    def __init__(
        self, scanner: Scanner, candidates: Iterable[Candidate], known: Mapping[str, Known], names: Names
    ) -> None:
        self.newest: dict[tuple[str, int, str], Newest] = {}
        """By topic, partition, and the vector's name."""
        self.replayed: set[Record] = set()
        """The records of dead letters that were replayed."""
        self.unchanged: dict[Record, At] = {}
        """What the records say that the source topic still has. A reference may have neither their key nor their headers."""
        self.replaced: set[Record] = set()
        """The records in whose place the source topic has others."""
        self.fresh: list[Record] = []
        """What the last `advance` read of replays; a record twice where there are two."""
        self.firsts: dict[Partition, int] = {}
        self.ends: dict[Partition, int] = {}
        """Up to where it was read. A partition that is not there any more is in neither."""
        self.cut: set[Partition] = set()
        """Partitions that replays go to, where retention may have removed records of since then."""
        self._scanner = scanner
        self._known = known
        self._names = names
        self._wanted: set[tuple[str, str]] = set()
        self._by_source: dict[Source, list[Candidate]] = {}
        self._candidates = list(candidates)
        for one in self._candidates:
            self._by_source.setdefault(one.source, []).append(one)
            if one.key is not None:
                self._wanted.add((one.source.topic, one.key))

    @classmethod
    def scanner(cls, kafka: Kafka) -> Scanner:
        """Return the scanner for it."""
        return Scanner(msgspec.structs.replace(kafka, isolation_level="read_uncommitted"))

    def begin(self) -> None:
        """Find where to read from. Raises `FatalError`."""
        partitions = self._partitions()
        self.firsts = self._scanner.first_offsets(partitions)
        begins = self._begins(partitions)
        self.ends = {one: max(self.firsts[one], begins[one]) for one in partitions}

    def advance(self, on_step: Callable[[int], None] = lambda _: None) -> Self:
        """Read up to the ends of now. Raises `FatalError`."""
        self.fresh = []
        ends = self._scanner.end_offsets(self.ends)
        stretches = [Stretch(one, at, ends[one]) for one, at in self.ends.items()]
        self.ends = {one: max(at, ends[one]) for one, at in self.ends.items()}
        for partition, messages in self._scanner.read(stretches):
            for message in messages:
                self._read(partition, message)
            on_step(len(messages))
        return self

    def _read(self, partition: Partition, message: Message) -> None:
        source = Source(partition.topic, partition.partition, message.offset)
        claim = claimed_replay(message.headers)
        names = self._names.of(partition.topic, message)
        for one in self._by_source.get(source, ()):
            if not one.is_about(message):
                self.replaced.add(one.record)
                continue
            key = next((name for element, name in names if element == one.element), None)
            self.unchanged[one.record] = At(key, claim)
            if key is not None:
                self._wanted.add((source.topic, key))
        known = self._known.get(claim.origin) if claim is not None else None
        if known is not None and known.is_replayed_by(partition.topic, partition.partition, message):
            self.replayed.add(known.record)
            self.fresh.append(known.record)
        for element, name in names:
            if name is not None and (partition.topic, name) in self._wanted:
                at = (partition.topic, partition.partition, name)
                latest = max(message.timestamp / 1000, self.newest[at].published_at if at in self.newest else 0.0)
                self.newest[at] = Newest(message.offset, latest, element)

    def _partitions(self) -> list[Partition]:
        """Return the partitions that matter and are there."""
        wanted = {Partition(one.source.topic, number) for one in self._candidates for number in _numbers(one)}
        there: set[Partition] = set()
        for topic in {one.topic for one in wanted}:
            try:
                there.update(self._scanner.partitions(topic))
            except NoTopic:
                continue
        return sorted(wanted & there)

    def _begins(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return where reading begins: at the oldest dead letter's record, and by time where replays go elsewhere.

        A topic that was made again has its replays at any offset, but not before the record failed.
        """
        begins: dict[Partition, int] = {}
        failed: dict[Partition, float] = {}
        times: dict[Partition, float] = {}
        for one in self._candidates:
            source, target = one.source.place, Partition(one.source.topic, one.target)
            begins[source] = min(begins.get(source, one.source.offset), one.source.offset)
            failed[source] = min(failed.get(source, one.failed_at), one.failed_at)
            if target != source:
                since = min(one.published_at, one.failed_at)
                times[target] = min(times.get(target, since), since)
        for partition in partitions:
            found = [begins[partition]] if partition in begins else []
            if (seconds := failed.get(partition)) is not None:
                found.append(self._scanner.offsets_at([partition], seconds)[partition])
            if (seconds := times.get(partition)) is not None:
                found.append(self._scanner.offsets_at([partition], seconds - _CLOCK_SECONDS)[partition])
                if 0 < self.firsts[partition] >= found[-1]:
                    self.cut.add(partition)
            begins[partition] = min(found)
        return begins


def _numbers(one: Candidate) -> tuple[int, int]:
    return one.source.partition, one.target
