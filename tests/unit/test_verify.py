"""`verify`: every planted difference is found and named, and none is invented."""

import json
import random
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest

from tests.unit.samples import FakeClock, FakeMessage
from worker.ledger import Partition
from worker.oss.lookup import KEYS_OF_A_REQUEST, Stored
from worker.records.decode import Decoder
from worker.records.target import Target
from worker.tools.scan import Stretch
from worker.tools.verify import compare
from worker.tools.verify.compare import Kind
from worker.tools.verify.repair import Repaired, repair
from worker.tools.verify.run import Result, Throttle, verify
from worker.tools.verify.stretches import Wanted, spans
from worker.tools.verify.versions import Reading

TOPIC = "vectors"
TARGET = Target("docs", 3, "euclidean")


class FakeScanner:
    """A topic in memory."""

    def __init__(self, partitions: int = 1) -> None:
        self.logs: list[list[Any]] = [[] for _ in range(partitions)]
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

    def partitions(self, topic: str) -> list[Partition]:
        return [Partition(topic, number) for number in range(len(self.logs))]

    def first_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, 0)

    def end_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {one: len(self.logs[one.partition]) for one in partitions}

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

    def __init__(self, partitions: int = 1, refused: Iterable[tuple[int, int]] = ()) -> None:
        self.topic = FakeScanner(partitions)
        self.index = FakeIndex()
        self.waited: list[float] = []
        self.refused = set(refused)

    def reading(self) -> Reading:
        decoder = Decoder(TARGET, max_fragment_bytes=100_000, tombstones="delete")
        return Reading(decoder, self.refused)

    def verify(self, wanted: Wanted = Wanted(), committed: dict[int, int] | None = None) -> Result:  # noqa: B008
        ends = {number: len(log) for number, log in enumerate(self.topic.logs)}
        topic: Any = self.topic
        progress: Any = no_progress
        return verify(
            spans(topic, TOPIC, ends if committed is None else committed, wanted),
            scanner=topic,
            reading=self.reading,
            lookup=self.index,
            wait=self.waited.append,
            progress=progress,
        )

    def kinds(self, **options: Any) -> dict[str, Kind]:
        return {one.key: one.kind for one in self.verify(**options).differences}


def test_an_index_that_is_right_has_no_difference_and_is_asked_once() -> None:
    bench = Bench()
    for key in ("a", "b"):
        bench.topic.put(key, 1)
        bench.topic.put(key, 2, metadata={"t": "x", "l": ["y"]})
        bench.index.put(key, 2, {"l": ["y"], "t": "x"})
    bench.topic.put("c", 1)
    bench.topic.put("c", None)
    result = bench.verify()
    assert (result.differences, result.keys, bench.waited, bench.index.requests) == ([], 3, [], [3])


def test_each_kind_of_difference_is_found_and_named() -> None:
    bench = Bench()
    for key in ("missing", "stale", "vector", "metadata"):
        bench.topic.put(key, 1)
        bench.topic.put(key, 2)
    bench.topic.put("not_deleted", 1)
    bench.topic.put("not_deleted", None)
    bench.index.put("stale", 1)
    bench.index.put("vector", 2.0000002)
    bench.index.put("metadata", 2, {"t": "x"})
    bench.index.put("not_deleted", 1)
    found = {one.key: (one.kind.value, one.version.offset, one.detail) for one in bench.verify().differences}
    assert found == {
        "missing": ("missing", 1, "the index does not hold it"),
        "stale": ("stale", 3, "the index holds the version of offset 2"),
        "vector": ("different", 5, "vector: the index holds what no record of the topic asks for"),
        "metadata": ("different", 7, "metadata: the index holds what no record of the topic asks for"),
        "not_deleted": ("not_deleted", 9, "the index still holds it"),
    }


def test_a_write_that_shows_late_is_no_difference() -> None:
    bench = Bench()
    bench.topic.put("a", 1)
    bench.index.put("a", 1)
    bench.index.late["a"] = len(compare.PATIENCE)
    assert (bench.kinds(), bench.waited) == ({}, list(compare.PATIENCE))
    bench.index.late["a"] = len(compare.PATIENCE) + 1
    assert bench.kinds() == {"a": Kind.MISSING}


def test_what_is_newer_than_the_committed_offset_is_no_difference() -> None:
    bench = Bench()
    for number in (1, 2, 3):
        bench.topic.put("a", number)
    bench.topic.put("b", 1)
    bench.topic.put("b", None)
    bench.index.put("a", 3)
    assert bench.kinds(committed={0: 4}) == {}
    bench.index.put("a", 1)
    assert bench.kinds(committed={0: 3}) == {"a": Kind.STALE}


def test_what_is_published_while_it_looks_is_no_difference() -> None:
    bench = Bench()
    bench.topic.put("a", 1)
    reads = []

    def publish_a_newer_one() -> None:
        reads.append(1)
        if len(reads) == 2:  # the index showed it at the last look; the topic is read after that
            bench.topic.put("a", 9)

    bench.topic.before_read = publish_a_newer_one
    bench.index.put("a", 9)
    bench.topic.logs[0].extend([])
    found = bench.verify()
    assert [one.key for one in found.differences] == ["a"]  # published after the end was asked for: not seen
    assert bench.kinds() == {}


def test_a_dead_lettered_version_leaves_the_one_before_it() -> None:
    bench = Bench(refused={(0, 1)})
    bench.topic.put("a", 1)
    bench.topic.put("a", 2)
    bench.topic.put("b", 1)
    bench.topic.logs[0].append(FakeMessage(offset=3, key=b"b", value=b"no record"))
    bench.index.put("a", 1)
    bench.index.put("b", 1)
    result = bench.verify()
    assert (result.differences, result.counts["refused"]) == ([], 2)
    bench.refused.clear()
    assert bench.kinds() == {"a": Kind.STALE}


def test_a_key_in_two_partitions_is_reported_and_not_judged() -> None:
    bench = Bench(partitions=2)
    bench.topic.put("a", 1, partition=0)
    bench.topic.put("a", 2, partition=1)
    result = bench.verify()
    assert (result.differences, result.unclear) == ([], {"a"})


def test_a_stretch_judges_its_keys_by_their_newest_version() -> None:
    bench = Bench()
    for key, number in [("before", 1), ("a", 1), ("b", 1), ("a", 2), ("after", 1)]:
        bench.topic.put(key, number)
    bench.index.put("a", 1)
    bench.index.put("b", 1)
    assert bench.kinds(wanted=Wanted(offsets=(1, 3))) == {"a": Kind.STALE}
    assert bench.kinds(wanted=Wanted(since=4)) == {"after": Kind.MISSING}
    assert bench.kinds(wanted=Wanted(until=1)) == {"before": Kind.MISSING}


def test_nothing_committed_is_nothing_to_judge() -> None:
    bench = Bench()
    bench.topic.put("a", 1)
    assert bench.verify(committed={}).keys == 0


@pytest.mark.parametrize("seed", range(20))
def test_planted_differences_are_all_found_and_none_is_invented(seed: int) -> None:
    chance = random.Random(seed)
    bench = Bench(partitions=3)
    newest: dict[str, tuple[float | None, set[float | None]]] = {}
    for _ in range(400):
        number = chance.randrange(60)
        key = f"k{number}"
        value = None if chance.random() < 0.2 else float(chance.randrange(1, 1000))
        bench.topic.put(key, value, partition=number % 3)
        newest[key] = (value, newest.get(key, (None, set()))[1] | {value})
    for key, (value, _) in newest.items():
        if value is not None:
            bench.index.put(key, value)
    planted: dict[str, Kind] = {}
    for key in chance.sample(sorted(newest), 20):
        value, values = newest[key]
        older = sorted(one for one in values if one is not None and one != value)
        if value is None:
            bench.index.put(key, 5000.0)
            planted[key] = Kind.NOT_DELETED
        elif older and chance.random() < 0.5:
            bench.index.put(key, chance.choice(older))
            planted[key] = Kind.STALE
        elif chance.random() < 0.5:
            del bench.index.held[key]
            planted[key] = Kind.MISSING
        else:
            bench.index.put(key, 5000.0)
            planted[key] = Kind.DIFFERENT
    assert bench.kinds() == planted


def test_memory_is_that_of_the_keys_and_not_of_the_records() -> None:
    bench = Bench()
    padding = "x" * 1500
    for number in range(4000):
        bench.topic.put(f"key-{number % 1000}", number, metadata={"padding": padding})

    class Nothing:
        def get(self, keys: Sequence[str]) -> dict[str, Stored]:
            return {}

    from worker.tools.verify.versions import Expected  # the part that grows

    reading = bench.reading()
    tracemalloc.start()
    try:
        expected = Expected()
        expected.apply(reading.versions(0, bench.topic.logs[0]), ends_at=4000)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(expected.newest) == 1000
    assert held / 1000 < 400


def test_questions_keep_within_the_rate() -> None:
    clock = FakeClock()
    throttle = Throttle(FakeIndex(), 200.0, clock.pass_by, clock)
    began = clock()
    for _ in range(11):
        throttle.get([str(number) for number in range(100)])
    assert clock() - began == pytest.approx(5.0)


class FakeProducer:
    """Takes what is published again."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    def send(self, topic: str, *, key: Any, value: Any, headers: Any, partition: int) -> Any:
        self.sent.append((topic, key, value, headers, partition))
        return self

    def get(self, timeout: float) -> None:
        """Do nothing."""


def test_a_repair_publishes_the_newest_version_as_it_was_and_never_an_overtaken_one() -> None:
    bench = Bench(partitions=2)
    for key in ("a", "b", "c"):
        bench.topic.put(key, 1, partition=1)
    bench.topic.put("b", None, partition=1)
    bench.index.put("b", 1)
    found = bench.verify().differences
    assert len(found) == 3
    bench.topic.put("c", 2, partition=1)
    producer = FakeProducer()
    topic: Any = bench.topic
    done = repair(TOPIC, found, scanner=topic, reading=bench.reading, producer=producer, on_step=lambda _: None)
    assert done == Repaired(published=2, overtaken=1, gone=0)
    log = bench.topic.logs[1]
    assert producer.sent == [
        (TOPIC, b"a", log[0].value, [("trace", b"t")], 1),
        (TOPIC, b"b", None, [("trace", b"t")], 1),
    ]
