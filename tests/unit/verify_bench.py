"""A topic and an index in memory, for the tests of `verify`."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from tests.unit.samples import FakeMessage
from worker.ledger import Partition
from worker.oss.lookup import KEYS_OF_A_REQUEST, Stored
from worker.records.decode import Decoder
from worker.records.several import Cutter
from worker.records.target import Target
from worker.tools.scan import Scanner, Stretch
from worker.tools.verify.compare import Kind
from worker.tools.verify.run import Result, verify
from worker.tools.verify.stretches import Wanted, parts, spans
from worker.tools.verify.versions import Reading

TOPIC = "vectors"
TARGET = Target("docs", 3, "euclidean")


class FakeScanner:
    """A topic in memory."""

    def __init__(self, partitions: int = 1) -> None:
        self.logs: list[list[Any]] = [[] for _ in range(partitions)]
        self.firsts = [0] * partitions
        self.lost: dict[Partition, int] = {}
        self.before_read: Callable[[], None] = lambda: None

    def put(self, key: str, number: float | None, partition: int = 0, **fields: Any) -> int:
        """Publish a version of a key, None for a tombstone; return its offset."""
        value = None
        if number is not None:
            value = json.dumps({"key": key, "data": {"float32": [number, 0.1, -3.5e-8]}} | fields).encode()
        log = self.logs[partition]
        log.append(FakeMessage(offset=len(log), key=key.encode(), value=value, headers=[("trace", b"t")]))
        return len(log) - 1

    def put_value(self, value: bytes | None, key: bytes | None = b"k", partition: int = 0) -> int:
        """Publish any value; return its offset."""
        log = self.logs[partition]
        log.append(FakeMessage(offset=len(log), key=key, value=value, headers=[("trace", b"t")]))
        return len(log) - 1

    def partitions(self, topic: str) -> list[Partition]:
        return [Partition(topic, number) for number in range(len(self.logs))]

    def first_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {one: self.firsts[one.partition] for one in partitions}

    def end_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {one: len(self.logs[one.partition]) for one in partitions}

    everything = Scanner.everything

    def offsets_at(self, partitions: Iterable[Partition], seconds: float) -> dict[Partition, int]:
        return {one: min(round(seconds), len(self.logs[one.partition])) for one in partitions}

    def read(self, stretches: Iterable[Stretch]) -> Iterator[tuple[Partition, Sequence[Any]]]:
        self.before_read()
        for stretch in stretches:
            for begin in range(stretch.begin, stretch.end, 7):
                yield stretch.partition, self.logs[stretch.partition.partition][begin : min(begin + 7, stretch.end)]


class FakeIndex:
    """An index; `late` are keys that show their write only after so many looks."""

    def __init__(self) -> None:
        self.held: dict[str, Stored] = {}
        self.late: dict[str, int] = {}
        self.requests: list[int] = []

    def put(self, key: str, number: float, metadata: dict[str, Any] | None = None) -> None:
        self.held[key] = Stored([float(np.float32(one)) for one in (number, 0.1, -3.5e-8)], metadata)

    def get(self, keys: Sequence[str]) -> dict[str, Stored]:
        assert 1 <= len(keys) <= KEYS_OF_A_REQUEST
        self.requests.append(len(keys))
        found = {}
        for key in keys:
            if self.late.get(key, 0) > 0:
                self.late[key] -= 1
            elif key in self.held:
                found[key] = self.held[key]
        return found


class NoProgress:
    """Shows nothing."""

    def step(self, count: int = 1) -> None:
        """Do nothing."""


def no_progress(_label: str, _total: int) -> AbstractContextManager[Any]:
    return nullcontext(NoProgress())


class Bench:
    """A topic and an index."""

    def __init__(
        self, partitions: int = 1, refused: Iterable[tuple[int, ...]] = (), cutter: Cutter | None = None
    ) -> None:
        self.topic = FakeScanner(partitions)
        self.index = FakeIndex()
        self.waited: list[float] = []
        self.removed = self.uncommitted = self.behind = 0
        self.refused = set(refused)
        self.cutter = cutter
        self.tombstones: Any = "delete"

    def write(self, keys: Iterable[str], partitions: Iterable[int]) -> None:
        """Publish keys of their own to each of these partitions, and write them to the index."""
        for partition in partitions:
            for key in keys:
                self.topic.put(f"{key}{partition}", 1, partition)
                self.index.put(f"{key}{partition}", 1)

    def reading(self) -> Reading:
        decoder = Decoder(TARGET, max_fragment_bytes=100_000, tombstones=self.tombstones)
        return Reading(decoder, self.refused, cutter=self.cutter)

    def verify(self, wanted: Wanted = Wanted(), committed: dict[int, int] | None = None) -> Result:  # noqa: B008
        ends = {number: len(log) for number, log in enumerate(self.topic.logs)}
        topic: Any = self.topic
        progress: Any = no_progress
        found, unseen = spans(parts(topic, TOPIC, wanted), ends if committed is None else committed)
        self.removed, self.uncommitted, self.behind = unseen
        return verify(
            found,
            scanner=topic,
            reading=self.reading,
            lookup=self.index,
            wait=self.waited.append,
            progress=progress,
        )

    def kinds(self, **options: Any) -> dict[str, Kind]:
        return {one.key: one.kind for one in self.verify(**options).differences}
