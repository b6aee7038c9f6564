"""`verify --repair`: the newest version is published again, and never wins over a newer one."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.samples import FakeMessage
from tests.unit.verify_bench import TOPIC, Bench, FakeScanner
from worker.records.several import Cutter
from worker.tools.verify import repair as repair_module
from worker.tools.verify.repair import Repaired, repair


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


def test_a_repair_leaves_out_what_has_a_newer_version_with_a_dead_letter() -> None:
    bench = Bench(refused={(0, 1)})
    bench.topic.put("a", 1)
    bench.topic.put("a", 2)
    bench.topic.put("b", 1)
    found = bench.verify().differences
    assert [one.key for one in found] == ["a", "b"]
    producer = FakeProducer(bench.topic)
    assert repaired(bench, found, producer) == Repaired(published=1, overtaken=1, gone=0)
    assert [key for _, key, *_ in producer.sent] == [b"b"]


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


def test_of_a_message_with_several_records_only_the_one_that_differs_is_published_again() -> None:
    bench = Bench(cutter=Cutter("auto"))
    records = [json.dumps({"key": key, "data": {"float32": [1, 2, 3]}}).encode() for key in ("a", "b")]
    bench.topic.put_value(b"[" + b",".join(records) + b"]")
    bench.topic.put("a", 2)
    bench.index.put("a", 2)
    producer = FakeProducer(bench.topic)
    assert repaired(bench, bench.verify().differences, producer) == Repaired(published=1, overtaken=0, gone=0)
    assert producer.sent == [(TOPIC, b"k", records[1], [("trace", b"t")], 0)]


def test_a_record_that_cannot_be_cut_out_as_it_came_is_not_published_again() -> None:
    bench = Bench(cutter=Cutter("auto"))
    bench.topic.put_value(b'[{"key": "a", "data": {"float32": [1, 2, 3]}, "x": "\\ud800"}]')
    found = bench.verify().differences
    assert [one.key for one in found] == ["a"]
    assert repaired(bench, found, FakeProducer(bench.topic)) == Repaired(published=0, overtaken=0, gone=1)
