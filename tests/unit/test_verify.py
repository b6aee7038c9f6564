"""`verify`: every planted difference is found and named, and none is invented."""

import json
import random
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.unit.samples import FakeClock, FakeMessage, opened, rejected
from worker.deadletters.headers import Writer, build
from worker.ledger import Ledger, Partition
from worker.oss.lookup import KEYS_OF_A_REQUEST, Stored
from worker.records.decode import Decoder
from worker.records.target import Target
from worker.tools.scan import Stretch
from worker.tools.verify import compare
from worker.tools.verify import repair as repair_module
from worker.tools.verify.compare import Kind
from worker.tools.verify.refused import refused_places
from worker.tools.verify.repair import Repaired, repair
from worker.tools.verify.run import Result, Throttle, verify
from worker.tools.verify.stretches import Wanted, spans, why_nothing
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
        self.tombstones: Any = "delete"

    def reading(self) -> Reading:
        decoder = Decoder(TARGET, max_fragment_bytes=100_000, tombstones=self.tombstones)
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
    """Appends to a topic in memory what is published again; `before_send` is what others do meanwhile."""

    def __init__(self, topic: FakeScanner) -> None:
        self.topic = topic
        self.sent: list[tuple[Any, ...]] = []
        self.before_send: Callable[[], object] = lambda: None

    def send(self, topic: str, *, key: Any, value: Any, headers: Any, partition: int) -> Any:
        self.before_send()
        self.sent.append((topic, key, value, headers, partition))
        log = self.topic.logs[partition]
        log.append(FakeMessage(offset=len(log), key=key, value=value, headers=headers))
        place = SimpleNamespace(partition=partition, offset=len(log) - 1)
        return SimpleNamespace(get=lambda timeout: place)


def repaired(bench: Bench, found: Any, producer: FakeProducer) -> Repaired:
    """Repair differences on fakes."""
    topic: Any = bench.topic
    return repair(TOPIC, found, scanner=topic, reading=bench.reading, producer=producer, on_step=lambda _: None)


def test_a_repair_publishes_the_newest_version_as_it_was_and_never_an_overtaken_one() -> None:
    bench = Bench(partitions=2)
    for key in ("a", "b", "c"):
        bench.topic.put(key, 1, partition=1)
    bench.topic.put("b", None, partition=1)
    bench.index.put("b", 1)
    found = bench.verify().differences
    assert len(found) == 3
    bench.topic.put("c", 2, partition=1)
    producer = FakeProducer(bench.topic)
    assert repaired(bench, found, producer) == Repaired(published=2, overtaken=1, gone=0)
    log = bench.topic.logs[1]
    assert producer.sent == [
        (TOPIC, b"a", log[0].value, [("trace", b"t")], 1),
        (TOPIC, b"b", None, [("trace", b"t")], 1),
    ]


def test_a_version_that_comes_while_a_repair_publishes_wins_all_the_same() -> None:
    bench = Bench()
    bench.topic.put("a", 1)
    bench.topic.put("b", 1)
    producer = FakeProducer(bench.topic)
    versions = iter([2, 3])

    def publish_a_newer_one() -> None:
        if (number := next(versions, None)) is not None:
            bench.topic.put("a", number)

    producer.before_send = publish_a_newer_one
    done = repaired(bench, bench.verify().differences, producer)
    newest = [json.loads(one.value)["data"]["float32"][0] for one in bench.topic.logs[0] if one.key == b"a"][-1]
    assert (newest, done.gone) == (3, 0)
    assert bench.kinds(committed={0: 2}).keys() == {"a", "b"}


def test_a_repair_holds_no_more_records_than_its_memory_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair_module, "_AT_ONCE_BYTES", 1500)
    bench = Bench()
    for number in range(10):
        bench.topic.put(f"k{number}", number + 1, metadata={"padding": "x" * 1000})
    producer = FakeProducer(bench.topic)
    most = 0
    read = repair_module._read

    def watched(*arguments: Any) -> Any:
        nonlocal most
        found = read(*arguments)
        most = max(most, len(found.messages))
        return found

    monkeypatch.setattr(repair_module, "_read", watched)
    assert repaired(bench, bench.verify().differences, producer) == Repaired(published=10, overtaken=0, gone=0)
    assert (most, [one[1] for one in producer.sent]) == (2, [f"k{number}".encode() for number in range(10)])


def test_a_version_that_retention_removed_is_gone() -> None:
    bench = Bench()
    bench.topic.put("a", 1)
    found = bench.verify().differences
    bench.topic.logs[0][0] = FakeMessage(offset=0, key=b"other", value=b"{}")
    bench.topic.logs[0].pop()
    assert repaired(bench, found, FakeProducer(bench.topic)) == Repaired(published=0, overtaken=0, gone=1)


# -- what is compared


@pytest.mark.parametrize(
    ("asked", "held", "is_equal"),
    [
        ("-0.0", -0.0, True),
        ("-0.0", 0.0, False),
        ("0.1", float(np.float32(0.1)), True),
        ("0.1", 0.1, True),
        ("16777217", 16777216.0, True),
        ("1e-46", 0.0, True),
        ("1.0000001", 1.0, False),
    ],
)
def test_vectors_are_compared_as_float32_bit_for_bit(asked: str, held: float, *, is_equal: bool) -> None:
    bench = Bench()
    value = f'{{"key": "a", "data": {{"float32": [1, 2, {asked}]}}}}'.encode()
    bench.topic.logs[0].append(FakeMessage(key=b"a", value=value))
    bench.index.held["a"] = Stored([1.0, 2.0, held], None)
    assert (bench.kinds() == {}) == is_equal


@pytest.mark.parametrize("key", ["ä\U0001f600", 'a"\\b', "line\nbreak", "\x00\x1b[31m", " ", "x" * 1024])
def test_keys_of_any_text_are_looked_up(key: str) -> None:
    bench = Bench()
    bench.topic.put(key, 1)
    bench.index.put(key, 1)
    assert bench.kinds() == {}
    bench.index.put(key, 2)
    assert bench.kinds() == {key: Kind.DIFFERENT}


def test_metadata_that_no_record_can_ask_for_is_a_difference_and_no_error() -> None:
    bench = Bench()
    bench.topic.put("a", 1)
    bench.index.put("a", 1, {"n": 10**30})
    assert bench.kinds() == {"a": Kind.DIFFERENT}


@pytest.mark.parametrize(
    ("tombstones", "expected"),
    [("delete", {"a": Kind.NOT_DELETED}), ("ignore", {}), ("dead-letter", {})],
)
def test_a_tombstone_is_what_the_setting_says(tombstones: Any, expected: dict[str, Kind]) -> None:
    bench = Bench()
    bench.tombstones = tombstones
    bench.topic.put("a", 1)
    bench.topic.put("a", None)
    bench.index.put("a", 1)
    assert bench.kinds() == expected


def test_a_dead_letter_that_was_replayed_stands_where_it_came_again() -> None:
    bench = Bench(refused={(0, 1)})
    bench.topic.put("a", 1)
    bench.topic.put("a", 2)
    bench.topic.put("b", 1)
    bench.topic.put("a", 2)
    bench.index.put("a", 2)
    bench.index.put("b", 1)
    assert bench.kinds() == {}
    bench.index.put("a", 1)
    assert bench.kinds() == {"a": Kind.STALE}


def test_nothing_to_verify_says_why() -> None:
    assert "has committed nothing" in why_nothing({}, "g")
    assert why_nothing({1: 7}, "g").endswith("it has committed, by partition, 1: 7")


def test_dead_letters_of_another_index_or_topic_refuse_nothing_here() -> None:
    letters = FakeScanner()
    for offset, (topic, index) in enumerate([(TOPIC, "docs"), (TOPIC, "other"), ("else", "docs"), (TOPIC, "docs")]):
        assignment = opened(Ledger([topic], FakeClock()), topic, partition=2)
        written = build(
            rejected(assignment, FakeMessage(10 + offset), index=index), Writer("group", "client"), failed_at=0.0
        )
        letters.logs[0].append(FakeMessage(offset=offset, headers=written.headers))
    letters.logs[0].append(
        FakeMessage(offset=4, headers=[("__connect.errors.topic", TOPIC.encode())])
    )  # no dead letter
    scanner: Any = letters
    assert refused_places(scanner, TOPIC, "docs", "vectors.dlq") == {(2, 10), (2, 13)}
