"""`verify`: every planted difference is found and named, and none is invented."""

import contextlib
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.unit.samples import FakeClock, FakeMessage, opened, rejected
from tests.unit.verify_bench import TOPIC, Bench, FakeIndex, FakeScanner
from worker.deadletters.headers import Writer, build
from worker.errors import FatalError
from worker.ledger import Ledger
from worker.oss.lookup import Stored
from worker.records.several import Cutter
from worker.settings.tables import Route
from worker.tools.verify import command, compare
from worker.tools.verify.command import Options
from worker.tools.verify.compare import Kind
from worker.tools.verify.refused import OTHERS, refused_places
from worker.tools.verify.run import Result, Throttle
from worker.tools.verify.stretches import Unseen, Wanted, commits_past, parts, why_nothing


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
    cases = [
        (TOPIC, "docs", "group"),
        (TOPIC, "other", "group"),
        ("else", "docs", "group"),
        (TOPIC, "docs", "moved"),
        (TOPIC, "docs", "group"),
    ]
    for offset, (topic, index, group) in enumerate(cases):
        assignment = opened(Ledger([topic], FakeClock()), topic, partition=2)
        written = build(
            rejected(assignment, FakeMessage(10 + offset), index=index), Writer(group, "client"), failed_at=0.0
        )
        letters.logs[0].append(FakeMessage(offset=offset, headers=written.headers))
    letters.logs[0].append(
        FakeMessage(offset=5, headers=[("__connect.errors.topic", TOPIC.encode())])
    )  # no dead letter
    scanner: Any = letters
    assert refused_places(scanner, TOPIC, ["docs"], "group", "vectors.dlq") == {(2, 10), (2, 14)}


def test_what_was_refused_once_and_written_later_is_no_difference_and_never_replaced_by_an_older_version() -> None:
    bench = Bench(refused={(0, 1)})
    bench.topic.put("a", 1)
    bench.topic.put("a", 2)
    bench.index.put("a", 2)
    assert bench.kinds() == {}
    bench.index.put("a", 1)  # as the dead letter says
    assert bench.kinds() == {}
    bench.index.put("a", 3)
    assert bench.kinds() == {"a": Kind.DIFFERENT}
    bench.topic.put("a", 4)
    bench.index.put("a", 2)
    assert bench.kinds() == {"a": Kind.STALE}


def test_what_retention_has_removed_is_counted() -> None:
    bench = Bench(partitions=3)
    bench.write("abcd", range(3))
    assert (bench.verify().keys, bench.removed) == (12, 0)
    bench.topic.firsts = [0, 3, 4]  # the last one has no record left, and the group may have committed nothing of it
    assert (bench.verify(committed={0: 4, 1: 4}).keys, bench.removed, bench.uncommitted) == (5, 7, 0)
    assert (bench.verify(Wanted(offsets=(1, 3))).keys, bench.removed) == (2, 4)
    assert (bench.verify(Wanted(partition=1)).keys, bench.removed) == (1, 3)


def test_partitions_with_records_and_without_any_commit_are_counted() -> None:
    bench = Bench(partitions=3)
    bench.write("a", range(2))
    assert (bench.verify(committed={0: 1}).keys, bench.uncommitted) == (1, 1)
    assert (bench.verify(Wanted(partition=0), committed={0: 1}).keys, bench.uncommitted) == (1, 0)


def test_offsets_that_the_group_has_not_committed_are_counted() -> None:
    bench = Bench(partitions=3)
    bench.write("abcd", range(2))
    commits = {0: 0, 1: 3, 2: 0}
    assert (bench.verify(committed=commits).keys, bench.uncommitted, bench.behind) == (3, 0, 5)
    assert (bench.verify(Wanted(offsets=(1, 3)), committed=commits).keys, bench.behind) == (2, 2)
    assert (bench.verify(Wanted(until=3), committed=commits).keys, bench.behind) == (3, 3)
    bench.topic.firsts = [3, 0, 0]  # what retention has removed counts as that alone
    assert (bench.verify(committed=commits).keys, bench.removed, bench.behind) == (3, 3, 2)
    assert (bench.verify(committed={0: 4, 1: 9, 2: 0}).keys, bench.behind) == (5, 0)


@pytest.mark.parametrize(
    ("commits", "behind", "keys", "seconds"),
    [
        ([{0: 2, 1: 4}], 0, 6, 0),
        ([{0: 0, 1: 2}, {0: 1, 1: 4}, {0: 2, 1: 4}], 0, 6, 2),
        ([{0: 1, 1: 4}], 1, 5, 3),  # of 0 nothing moves
        ([{1: 4}], 0, 4, 0),  # 0 has no commit at all
    ],
)
def test_what_the_topic_has_at_the_beginning_is_compared_once_it_is_committed(
    commits: list[dict[int, int]], behind: int, keys: int, seconds: float
) -> None:
    bench = Bench(partitions=2)
    for partition, count in enumerate((2, 4)):
        for number in range(count):
            bench.topic.put(f"key-{partition}-{number}", 1, partition)
            bench.index.put(f"key-{partition}-{number}", 1)
    waited: list[float] = []
    topic: Any = bench.topic
    answers = iter(commits)
    committed = commits_past(parts(topic, TOPIC, Wanted()), lambda: next(answers, commits[-1]), waited.append, 3.0)
    assert (bench.verify(committed=dict(committed)).keys, bench.behind, sum(waited)) == (keys, behind, seconds)


@pytest.mark.parametrize(
    ("unclear", "unseen", "lost", "gaps"),
    [
        ((), Unseen(0, 0, 0), 0, ""),
        ((), Unseen(0, 1, 0), 0, "1 partitions with records of which the group has committed nothing"),
        ((), Unseen(0, 0, 5), 0, "5 offsets that the group has not committed yet"),
        (
            "ab",
            Unseen(900, 0, 0),
            7,
            "907 offsets that retention has removed, and 2 keys with records in several partitions",
        ),
        ((), Unseen(1, 0, 0), 0, "1 offsets that retention has removed"),
        ((), Unseen(0, 0, 0), 1, "1 offsets that retention has removed"),
        ("a", Unseen(0, 0, 0), 0, "1 keys with records in several partitions"),
    ],
)
def test_what_was_not_compared_is_not_said_to_be_right(
    capsys: pytest.CaptureFixture[str], unclear: Sequence[str], unseen: Unseen, lost: int, gaps: str
) -> None:
    result = Result(10, Counter(records=20), [], set(unclear), lost)
    route = Route(topic=TOPIC, index="docs")
    options = Options._make([None] * len(Options._fields))
    command._print(result, unseen, route, options)
    told = f"no difference in what was compared; not compared: {gaps}" if gaps else command._PROVED
    assert capsys.readouterr().out.splitlines()[-1] == told
    report = command._report(result, unseen, route, None)
    assert (report["complete"], report["offsets_not_committed"]) == (not gaps, unseen.behind)
    strict = options._replace(strict=True)
    with pytest.raises(FatalError, match="not proved to be complete") if gaps else contextlib.nullcontext():
        command._judge_gaps(result, unseen, strict)
    command._judge_gaps(result, unseen, options)


# -- messages with several records


def several(*records: tuple[str, float]) -> bytes:
    """Return a list of records."""
    return json.dumps([{"key": key, "data": {"float32": [number, 0.1, -3.5e-8]}} for key, number in records]).encode()


def test_each_record_of_a_message_is_expected_in_the_index() -> None:
    bench = Bench(cutter=Cutter("auto"))
    bench.topic.put_value(several(("a", 1), ("b", 1), ("gone", 1)))
    bench.topic.put("c", 1)
    for key in ("a", "b", "c"):
        bench.index.put(key, 1)
    result = bench.verify()
    assert [(one.key, one.kind, one.version[:2], one.version.element) for one in result.differences] == [
        ("gone", Kind.MISSING, (0, 0), 2)
    ]
    assert (result.counts["records"], result.keys) == (4, 4)


def test_of_one_key_in_a_message_the_last_record_is_expected() -> None:
    bench = Bench(cutter=Cutter("auto"))
    bench.topic.put_value(several(("a", 1), ("a", 2)))
    bench.index.put("a", 2)
    assert bench.kinds() == {}
    bench.index.put("a", 1)
    assert bench.kinds() == {"a": Kind.DIFFERENT}


def test_a_record_of_a_message_that_has_a_dead_letter_is_not_expected() -> None:
    bench = Bench(cutter=Cutter("auto"), refused=[(0, 0, 1)])
    bench.topic.put_value(several(("a", 1), ("a", 2), ("b", 1)))
    bench.topic.put_value(b"[5]")
    bench.index.put("a", 1)
    bench.index.put("b", 1)
    result = bench.verify()
    assert (result.differences, result.counts["refused"]) == ([], 2)
    bench.index.put("a", 2)  # it was read again, and written
    assert bench.kinds() == {}


def test_suspects_that_share_a_dead_letter_are_not_expected() -> None:
    bench = Bench(cutter=Cutter("auto"), refused=[(0, 0, 0), (0, 0, OTHERS)])
    value = b'{"key":"%d","data":{"float32":[1e-40,1e-40,1]}}'
    suspects = [value % number for number in range(3)]
    bench.topic.put_value(b"[" + b",".join([*suspects, several(("a", 1))[1:-1]]) + b"]")
    bench.topic.put_value(b"[" + value % 9 + b"]")
    assert bench.kinds() == {"a": Kind.MISSING, "9": Kind.MISSING}


def test_the_place_of_a_refused_record_is_that_in_its_message() -> None:
    scanner = FakeScanner()
    assignment = opened(Ledger([TOPIC], FakeClock()))
    letter = build(rejected(assignment, element=3), Writer("g", "c"), failed_at=1.0)
    scanner.logs[0].append(FakeMessage(offset=0, key=letter.key, value=letter.value, headers=letter.headers))
    topic: Any = scanner
    assert refused_places(topic, TOPIC, ["docs"], "g", "dlq") == {(0, 7, 3)}
    letter = build(rejected(assignment, element=3, elements=5), Writer("g", "c"), failed_at=1.0)
    scanner.logs[0][:] = [FakeMessage(offset=0, key=letter.key, value=letter.value, headers=letter.headers)]
    assert refused_places(topic, TOPIC, ["docs"], "g", "dlq") == {(0, 7, 3), (0, 7, OTHERS)}
