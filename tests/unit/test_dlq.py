"""Which dead letters are replayed: what is believed of their headers, what is refused, and how they are sent."""

import json
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
from kafka import errors as kafka_errors
from kafka.partitioner import murmur2

from tests.unit.samples import NEEDED, FakeClock, FakeMessage, opened
from worker.app.stop import Stop
from worker.deadletters.headers import Replay, Sizes, Writer, as_replayed, build, build_reference
from worker.errors import FatalError, Reason
from worker.ledger import Ledger, Partition
from worker.ports import DeadLetter
from worker.settings.load import load
from worker.settings.tables import Settings
from worker.tools.dlq.candidates import Candidate
from worker.tools.dlq.decide import Decision, decide
from worker.tools.dlq.letters import Place, Selection, dead_letters, stretches_of
from worker.tools.dlq.listing import Counts, value_text
from worker.tools.dlq.plan import Guards, Refusal, in_source_order
from worker.tools.dlq.replay import Letters, Options, Steps
from worker.tools.dlq.send import Sender
from worker.tools.scan import NoTopic, Scanner, Stretch

SETTINGS = load(None, NEEDED | {"OSS_VECTORS_DEAD_LETTER__TOPIC": "dlq"}).settings
GUARDS = Guards(max_replays=3, even_if_stale=False)
HOUR = 3_600_000
ALL = Selection()
SOURCE, DEAD = Partition("vectors", 0), Partition("dlq", 0)
NOW = 1_700_000_000_000


class FakeScanner:
    """Topics in memory. A partition begins at the offset of its first record."""

    def __init__(self) -> None:
        self.logs: dict[Partition, list[Any]] = {}

    def put(self, topic: str, message: FakeMessage, partition: int = 0) -> FakeMessage:
        """Add a record at the end; return it with its offset."""
        log = self.logs.setdefault(Partition(topic, partition), [])
        log.append(replaced(message, offset=log[-1].offset + 1 if log else 0))
        found: FakeMessage = log[-1]
        return found

    def partitions(self, topic: str) -> list[Partition]:
        found = sorted(one for one in self.logs if one.topic == topic)
        if not found:
            raise NoTopic(topic)
        return found

    def first_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {one: self.logs[one][0].offset if self.logs[one] else 0 for one in partitions}

    def end_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {one: self.logs[one][-1].offset + 1 if self.logs[one] else 0 for one in partitions}

    everything = Scanner.everything

    def offsets_at(self, partitions: Iterable[Partition], seconds: float) -> dict[Partition, int]:
        ends = self.end_offsets(partitions)
        return {
            one: next((it.offset for it in self.logs[one] if it.timestamp >= seconds * 1000), end)
            for one, end in ends.items()
        }

    def read(self, stretches: Iterable[Stretch]) -> Iterator[tuple[Partition, Sequence[Any]]]:
        for one in stretches:
            found = [it for it in self.logs[one.partition] if one.begin <= it.offset < one.end]
            if found:
                yield one.partition, found


def replaced(message: FakeMessage, **fields: Any) -> FakeMessage:
    return FakeMessage(**(message.__dict__ | fields))


class Bench:
    """A source topic, its dead letters, and a producer that writes to the same topic."""

    def __init__(self, partitions: int = 1, settings: Settings | None = None) -> None:
        self._settings = settings
        self.topics = FakeScanner()
        for number in range(partitions):
            self.topics.logs[Partition("vectors", number)] = []
        self.topics.logs[Partition("dlq", 0)] = []
        self.on_send: Callable[[], None] = lambda: None
        self.error: Exception | None = None

    @property
    def settings(self) -> Settings:
        return self._settings or SETTINGS

    def publish(self, key: bytes | None, value: bytes | None, partition: int = 0, **fields: Any) -> FakeMessage:
        message = FakeMessage(key=key, value=value, **({"timestamp": NOW} | fields))
        return self.topics.put("vectors", message, partition)

    def fail(
        self,
        message: FakeMessage,
        partition: int = 0,
        *,
        is_reference: bool = False,
        at: int = NOW,
        element: int | None = None,
        elements: int = 1,
    ) -> Place:
        """Write the dead letter of a record; return its place."""
        letter = DeadLetter(
            opened(Ledger(["vectors"], FakeClock()), partition=partition), message, 1, "docs",
            Reason.DIMENSION, "no", "raiser", "class", None, 1, element, elements,
        )  # fmt: skip
        writer, failed_at = Writer("g", "c"), at / 1000
        if is_reference:
            made = build_reference(letter, writer, failed_at=failed_at, sizes=Sizes.of(message), why="too large")
        else:
            made = build(letter, writer, failed_at=failed_at)
        put = self.topics.put("dlq", FakeMessage(key=made.key, value=made.value, headers=made.headers, timestamp=at))
        return Place(0, put.offset)

    def decide(self, selection: Selection = ALL, guards: Guards = GUARDS) -> Decision:
        topics: Any = self.topics
        return decide(self.settings, topics, topics, selection, guards)

    def replay(self, guards: Guards = GUARDS, **options: Any) -> tuple[int, dict[str, int]]:
        """Replay all; return how many were sent, and the refused by cause, those of the plan first."""
        topics: Any = self.topics
        reader: Any = self
        decision = self.decide(guards=guards)
        given = {"dry_run": False, "yes": True, "rate": 0.0, "edit": None} | options
        letters = Letters(self.settings, decision, Options(Selection(), *guards, **given), topics, reader)
        sender = Sender(self, "dlq", lambda: None)
        Steps(letters, decision, guards, sender).run()
        return sender.acknowledged, {
            one.value: count for one, count in (decision.plan.refused + letters.refused).items()
        }

    # -- as the producer, and as the reader of single records

    def send(self, topic: str, *, key: Any, value: Any, headers: Any, partition: int) -> Any:
        self.on_send()
        if self.error is not None:
            raise self.error
        self.topics.put(topic, FakeMessage(key=key, value=value, headers=headers, timestamp=NOW + HOUR), partition)
        return self

    def get(self, timeout: float) -> None:
        """Acknowledge."""

    def read(self, partition: Partition, offset: int) -> Any:
        return next((one for one in self.topics.logs[partition] if one.offset == offset), None)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def refused(decision: Decision) -> dict[str, int]:
    return {one.value: count for one, count in decision.plan.refused.items()}


# -- what a record says of itself


@pytest.mark.parametrize(
    ("origin", "key"),
    [("dlq/0/99", b"k"), ("other/0/0", b"k"), ("dlq/0/0", b"another")],
    ids=["of none", "of another topic", "of another key"],
)
def test_a_forged_claim_neither_uses_up_replays_nor_marks_anything_replayed(
    bench: Bench, origin: str, key: bytes
) -> None:
    bench.fail(bench.publish(key, b"first"))
    headers = as_replayed([("trace", b"1")], Replay(9, origin), is_again=False)
    bench.fail(bench.publish(b"k" if key != b"k" else b"forger", b"second", headers=headers))
    decision = bench.decide()
    assert ([one.replays for one in decision.plan.replay.values()], refused(decision)) == ([0, 0], {})
    assert bench.replay()[0] == 2
    assert list(bench.topics.logs[SOURCE][-1].headers)[: len(headers)] == headers


def test_true_claims_count_and_the_next_replay_takes_the_place_of_the_last(bench: Bench) -> None:
    bench.fail(bench.publish(b"k", b"v", headers=[("trace", b"1")]))
    for times in (1, 2, 3):
        assert bench.replay()[0] == 1
        again = bench.topics.logs[SOURCE][-1]
        assert again.headers[0] == ("trace", b"1")
        assert again.headers[1:] == [
            ("oss-vectors.replays", str(times).encode()),
            ("oss-vectors.replay-of", f"dlq/0/{times - 1}".encode()),
        ]
        bench.fail(again, at=NOW + HOUR)
    assert bench.replay() == (0, {"replayed_before": 3, "replayed_too_often": 1})
    assert bench.replay(Guards(4, even_if_stale=False))[0] == 1


def test_claims_that_go_in_a_circle_end(bench: Bench) -> None:
    for number in (1, 0):
        headers = as_replayed([], Replay(1, f"dlq/0/{number}"), is_again=False)
        bench.fail(bench.publish(b"k", b"v", headers=headers), at=NOW + 1)
    decision = bench.decide()
    assert [one.replays for one in decision.plan.replay.values()] == [1], "no record is a replay of a later one"
    assert refused(decision) == {"replayed_before": 1}


# -- what is refused


def test_the_newest_version_alone_is_replayed(bench: Bench) -> None:
    old, new, other = (bench.publish(b"%d" % n, b'{"key": "k"}' if n < 2 else b"{}") for n in range(3))
    for one in (new, old, other):
        bench.fail(one)
    assert [one.source.offset for one in bench.decide().plan.replay.values()] == [1, 2]
    bench.publish(b"whatever", b'{"key": "k"}')
    assert refused(bench.decide()) == {"stale": 2}


@pytest.mark.parametrize(
    "newer", [b'{"key": "k", "note": "\\ud83d"}', b'{"note": "\xff", "key": "k"}', b"\x82\x07\x01\xa3key\xa1k"]
)
def test_a_newer_version_is_seen_whatever_it_has_beside_its_key(bench: Bench, newer: bytes) -> None:
    bench.fail(bench.publish(b"0", b'{"key": "k"}'))
    bench.publish(b"1", newer)
    assert refused(bench.decide()) == {"stale": 1}


def test_two_dead_letters_of_one_record_are_replayed_once_and_then_never(bench: Bench) -> None:
    record = bench.publish(None, b"{")
    for _ in range(3):
        bench.fail(record)
    guards = Guards(3, even_if_stale=True)
    assert bench.replay(guards) == (1, {"same_record": 2})
    assert bench.replay(guards) == (0, {"replayed_before": 3})


def test_what_retention_or_compaction_removed_may_have_been_newer(bench: Bench) -> None:
    bench.fail(bench.publish(b"k", b"v"))
    bench.publish(b"other", b"v")
    bench.publish(b"other", b"v")
    log = bench.topics.logs[SOURCE]
    record = log.pop(0)
    assert refused(bench.decide()) == {}, "nothing came before the first offset but the record itself"
    log.pop(0)
    assert refused(bench.decide()) == {"history_removed": 1}
    log.insert(0, replaced(record, offset=0, key=b"unlike it"))
    assert refused(bench.decide()) == {"source_replaced": 1}


def test_a_compacted_record_is_not_the_newest(bench: Bench) -> None:
    bench.publish(b"first", b"v")
    bench.fail(bench.publish(b"k", b"v"))
    bench.publish(b"last", b"v")
    bench.topics.logs[SOURCE].pop(1)
    assert refused(bench.decide()) == {"history_removed": 1}


@pytest.mark.parametrize("change", [{"key": b"x"}, {"value": b"x"}, {"timestamp": NOW - 1}])
def test_another_record_at_the_offset_says_that_the_topic_was_made_again(bench: Bench, change: dict[str, Any]) -> None:
    record = bench.publish(b"k", b"v")
    bench.fail(record)
    bench.topics.logs[SOURCE][0] = replaced(record, **change)
    assert refused(bench.decide()) == {"source_replaced": 1}


def test_dead_letters_of_two_lives_of_a_topic_are_not_the_same_record(bench: Bench) -> None:
    bench.fail(bench.publish(b"k", b"old"))
    bench.topics.logs[SOURCE].clear()
    bench.fail(bench.publish(b"k", b"new", timestamp=NOW + 1), at=NOW + 1)
    decision = bench.decide()
    assert (list(decision.plan.replay), refused(decision)) == ([Place(0, 1)], {"source_replaced": 1})
    assert bench.replay() == (1, {"source_replaced": 1})
    assert bench.replay() == (0, {"replayed_before": 1, "source_replaced": 1})


def test_the_partition_that_a_key_has_now_is_looked_at_by_time() -> None:
    bench = Bench(partitions=2)
    bench.publish(b"filler", b"v", 0, timestamp=NOW - 5 * HOUR)
    elsewhere = 1 - (murmur2(b"k") & 0x7FFFFFFF) % 2
    record = bench.publish(b"k", b"v", elsewhere)
    bench.fail(record, elsewhere)
    bench.publish(b"k", b"older", 1 - elsewhere, timestamp=NOW - HOUR)
    assert refused(bench.decide()) == {}
    bench.publish(b"k", b"newer", 1 - elsewhere, timestamp=NOW + 1)
    assert refused(bench.decide()) == {"stale": 1}


def test_a_reference_needs_its_record_and_has_the_key_of_its_value(bench: Bench) -> None:
    bench.publish(b"k", b'{"key": "k"}', timestamp=NOW - 1)
    record = bench.publish(b"kafka", b'{"key": "k"}')
    bench.fail(record, is_reference=True)
    assert [one.key for one in bench.decide().plan.replay.values()] == ["k"]
    bench.publish(b"other", b'{"key": "k"}')
    assert refused(bench.decide()) == {"stale": 1}
    bench.topics.logs[SOURCE].pop(1)
    assert refused(bench.decide()) == {"no_value": 1}


def test_the_selection_meets_every_part(bench: Bench) -> None:
    for number in range(4):
        bench.fail(bench.publish(b"kafka-%d" % number, b'{"key": "k-%d"}' % number), at=NOW + number * 1000)
    seconds = NOW / 1000
    for selection, offsets in [
        (Selection(), [0, 1, 2, 3]),
        (Selection(since=seconds + 1, until=seconds + 3), [1, 2]),
        (Selection(keys=["k-1", "kafka-2"]), [1, 2]),
        (Selection(places=[Place(0, 3)], keys=["k-1"]), []),
        (Selection(reasons=["key"]), []),
        (Selection(topics=["vectors"], reasons=["key", "dimension"]), [0, 1, 2, 3]),
    ]:
        assert [place.offset for place in bench.decide(selection).plan.replay] == offsets


# -- what happens while it sends


def test_what_gets_a_newer_version_meanwhile_is_not_sent(bench: Bench) -> None:
    for number in range(10):
        bench.fail(bench.publish(b"%d" % number, b"v"))

    def newer() -> None:
        bench.publish(b"9", b"new")

    bench.on_send = newer
    assert bench.replay() == (9, {"stale": 1})


def test_another_replay_of_the_same_dead_letters_ends_it(bench: Bench) -> None:
    for number in range(600):
        bench.fail(bench.publish(b"%d" % number, b"v"))

    def other() -> None:
        bench.on_send = lambda: None
        headers = as_replayed([], Replay(1, "dlq/0/0"), is_again=False)
        bench.topics.put("vectors", FakeMessage(key=b"0", value=b"v", headers=headers, timestamp=NOW + HOUR))

    bench.on_send = other
    with pytest.raises(FatalError, match="another replay of these dead letters is running"):
        bench.replay(Guards(3, even_if_stale=True))
    replays = [one for one in bench.topics.logs[SOURCE] if one.headers]
    assert len(replays) == 2, "each has sent one record"


def test_a_record_that_the_client_does_not_accept_is_named(bench: Bench) -> None:
    bench.fail(bench.publish(b"k", b"v"))
    bench.error = kafka_errors.MessageSizeTooLargeError("too large")
    with pytest.raises(FatalError, match=r"did not accept dead letter 0:0 .*0 were replayed. Repeat the command"):
        bench.replay()


def test_a_signal_ends_it_between_two_records(bench: Bench) -> None:
    for number in range(20):
        bench.fail(bench.publish(b"%d" % number, b"v"))
    decision = bench.decide()
    topics, reader = bench.topics, bench
    options = Options(Selection(), 3, False, False, True, 0.0, None)
    letters = Letters(SETTINGS, decision, options, topics, reader)  # type: ignore[arg-type]  # fakes
    letters.stop = Stop()
    sender = Sender(bench, "dlq", lambda: letters.stop.set() if sender.acknowledged > 4 else None)
    Steps(letters, decision, GUARDS, sender).run()
    sent = [one for one in bench.topics.logs[SOURCE] if one.headers]
    assert (sender.acknowledged, len(sent), letters.refused) == (7, 7, {}), "the step that had begun is finished"
    assert bench.replay() == (13, {"replayed_before": 7})


def test_dead_letters_that_are_gone_by_then_are_counted(bench: Bench) -> None:
    for number in range(3):
        bench.fail(bench.publish(b"%d" % number, b"v"))
    topics = bench.topics
    decision = bench.decide()
    topics.logs[DEAD].pop(0)
    options = Options(Selection(), 3, False, False, True, 0.0, None)
    letters = Letters(SETTINGS, decision, options, topics, bench)  # type: ignore[arg-type]  # fakes
    assert ([one.place.offset for one, _ in letters], letters.refused) == ([1, 2], {Refusal.GONE: 1})


def test_memory_is_bounded_by_the_count_not_the_bytes(bench: Bench) -> None:
    for number in range(50):
        bench.fail(bench.publish(b"%d" % number, b"v" * 1_000_000))
    tracemalloc.start()
    try:
        decision = bench.decide()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(decision.plan.replay), peak < 5_000_000) == (50, True)


# -- order and words


def test_the_order_of_records_is_by_offset_in_a_partition_and_by_time_across(bench: Bench) -> None:
    bench = Bench(partitions=2)
    for key, partition, timestamp in [("a", 0, 5), ("b", 0, 3), ("c", 1, 4), ("d", 1, 9)]:
        bench.fail(bench.publish(key.encode(), b"v", partition, timestamp=NOW + timestamp), partition)
    ordered: list[Candidate] = in_source_order(bench.decide().plan.replay.values())
    assert [one.key for one in ordered] == ["c", "a", "b", "d"]


def test_counts_have_an_example_of_each_reason(bench: Bench) -> None:
    for number in range(2):
        bench.fail(bench.publish(b"%d" % number, b"v"))
    bench.topics.put("dlq", FakeMessage(timestamp=NOW))
    topics: Any = bench.topics
    counts = Counts()
    for letter in dead_letters(topics, stretches_of(topics, "dlq"), SETTINGS):
        counts.add(letter)
    assert counts.as_json("dlq") == {
        "version": 1,
        "topic": "dlq",
        "total": 3,
        "elements": 0,
        "by": {
            "reason": {"(unknown)": 1, "dimension": 2},
            "topic": {"(unknown)": 1, "vectors": 2},
            "code": {},
            "index": {"(unknown)": 1, "docs": 2},
            "hour": {"2023-11-14T22:00Z": 3},
            "written_by": {"unknown": 1, "worker": 2},
        },
        "examples": {"dimension": "0:1", "(unknown)": "0:2"},
    }
    assert "         2  dimension, such as 0:1" in list(counts.lines("dlq"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null: a tombstone"),
        (b'{"data": {"float32": [1, 2, 3, 4, 5, 6, 7]}}', '{"data": {"float32": [1, 2, 3, 4, 5, 6, "... 7 numbers"]}}'),
        (b"\xff\xfe", "2 bytes: base64 //4="),
        (b"text", '4 bytes: "text"'),
    ],
)
def test_a_value_is_shown_with_its_vector_shortened(value: bytes | None, text: str) -> None:
    assert value_text(value) == text


# -- a topic whose records choose their index

_TENANTS = {"topic": "vectors", "index_by": "header:tenant", "indexes": {"acme": "acmedocs", "globex": "globexdocs"}}
TENANTS = load(
    None, NEEDED | {"OSS_VECTORS_DEAD_LETTER__TOPIC": "dlq", "OSS_VECTORS_ROUTES": json.dumps([_TENANTS])}
).settings


def of(tenant: bytes) -> dict[str, Any]:
    return {"headers": (("tenant", tenant),)}


@pytest.mark.parametrize(
    ("newer", "replayed", "refused_for"),
    [(b"acme", 0, {"stale": 1}), (b"globex", 1, {}), (b"hooli", 1, {})],
    ids=["of its index", "of another index", "of none"],
)
def test_a_newer_version_of_the_key_in_another_index_is_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, newer: bytes, replayed: int, refused_for: dict[str, int]
) -> None:
    monkeypatch.setattr("tests.unit.test_dlq.SETTINGS", TENANTS)
    bench.fail(bench.publish(b"k", b"v", **of(b"acme")))
    bench.publish(b"k", b"v2", **of(newer))
    assert bench.replay() == (replayed, refused_for)


def test_of_one_key_in_two_indexes_both_are_replayed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.test_dlq.SETTINGS", TENANTS)
    bench.fail(bench.publish(b"k", b"v", **of(b"acme")))
    bench.fail(bench.publish(b"k", b"v", **of(b"globex")))
    assert bench.replay() == (2, {})


def test_a_reference_without_its_headers_gets_its_index_from_the_source_topic(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.test_dlq.SETTINGS", TENANTS)
    bench.fail(bench.publish(b"k", b"v", **of(b"acme")), is_reference=True)
    bench.publish(b"k", b"v2", **of(b"globex"))
    assert bench.replay() == (1, {})


def test_what_names_its_index_by_no_text_is_no_newer_version_and_has_no_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = _TENANTS | {"index_by": "field:tenant"}
    fields = {"OSS_VECTORS_DEAD_LETTER__TOPIC": "dlq", "OSS_VECTORS_ROUTES": json.dumps([route])}
    monkeypatch.setattr("tests.unit.test_dlq.SETTINGS", load(None, NEEDED | fields).settings)
    bench.fail(bench.publish(b"k", b'{"key":"k","tenant":"acme"}'))
    bench.fail(bench.publish(b"k", b'{"key":"k","tenant":"acme\\ud83d"}'))
    assert bench.replay() == (1, {"key_unknown": 1})
