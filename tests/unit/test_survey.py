"""The survey on brokers whose answers the test gives: what is shown, what is kept, and what is asked how often."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.future import Future

from tests.support.client import Call, FakeConsumer
from tests.support.fakes import FakeClock
from tests.unit.samples import opened
from worker.consumer.survey import GROUP_SECONDS, KEPT_SECONDS, LONGEST_SECONDS, Survey
from worker.consumer.survey_requests import BEGINNING, END, Found, Group, Limits, Member, Topic
from worker.ledger import Ledger, Partition
from worker.settings.tables import Kafka
from worker.telemetry.kafka_facts import Begin, KafkaFacts, TopicFacts
from worker.telemetry.state import Status

GROUP, DLQ = "group", "vectors.dlq"
FIRST, SECOND = TopicPartition("vectors", 0), TopicPartition("vectors", 1)
OF_DLQ = TopicPartition(DLQ, 0)
WALL = 1_800_000_000.0
KEPT = 3600.0
UNKNOWN = kafka_errors.UnknownTopicOrPartitionError
DENIED = kafka_errors.TopicAuthorizationFailedError


class Brokers(FakeConsumer):
    """Answers at once, or never. `times` has for each partition what it holds: its edges, and the age of its records."""

    def __init__(self) -> None:
        super().__init__()
        self.metadata: dict[str, Any] = {"vectors": Topic(None, {0: 1, 1: 1}), DLQ: Topic(None, {0: 1})}
        self.edges = {FIRST: (10, 20), SECOND: (0, 0), OF_DLQ: (0, 0)}
        self.times: dict[TopicPartition, float] = {}  # when the record was written that is looked for
        self.first_found = 12  # the offset of that record in the first partition
        self.coordinator: Any = 1
        self.committed_offsets: Any = {FIRST: 12}
        self.group: Any = Group(True, (member(FIRST, SECOND),))
        self.limits: dict[str, Any] = {name: Limits(KEPT, None) for name in ("vectors", DLQ)}
        self.silent: set[str] = set()
        self.count = 0

    def _call_soon(self, make: Callable[..., Any], *arguments: Any) -> Future:
        self.calls.append(Call(make.__name__, arguments, Future()))
        if make.__name__ not in self.silent:
            answer = getattr(self, f"answer{make.__name__}")(*arguments[1:])
            (self.calls[-1].answer.failure if isinstance(answer, BaseException) else self.calls[-1].answer.success)(
                answer
            )
        return self.calls[-1].answer

    def answer_topics(self, names: tuple[str, ...]) -> Any:
        return {name: self.metadata[name] for name in names if name in self.metadata}

    def answer_times(self, node: int, timestamps: dict[TopicPartition, int], _level: str) -> Any:
        return {
            tp: self._time(tp, at)
            for tp, at in timestamps.items()
            if self.metadata[tp.topic].leaders[tp.partition] == node
        }

    def _time(self, tp: TopicPartition, at: int) -> Found:
        begin, end = self.edges[tp]
        if at in (BEGINNING, END):
            return Found(begin if at == BEGINNING else end, -1)
        written = self.times.get(tp)
        if written is None or written * 1000 < at:
            return Found(-1, -1)
        return Found(self.first_found if tp == FIRST else begin, round(written * 1000))

    def answer_coordinator(self, group: str) -> Any:
        return {group: self.coordinator}

    def answer_all_committed(self, _node: int, group: str) -> Any:
        return {group: self.committed_offsets}

    def answer_group(self, _node: int, group: str) -> Any:
        return {group: self.group}

    def answer_limits(self, names: tuple[str, ...]) -> Any:
        return {name: self.limits[name] for name in names}

    def asked(self, name: str) -> int:
        """Return how many requests of that kind there were since the last call."""
        self.calls, calls = [], self.calls
        return sum(call.name == name for call in calls)


def member(*owned: TopicPartition, is_worker: bool = True) -> Member:
    return Member("client", "/10.0.0.1", is_worker, frozenset({"vectors"}), frozenset(owned))


class Bench:
    """A survey of the topic "vectors" with two partitions, and of a dead-letter topic."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.ledger = Ledger(["vectors"], self.clock)
        self.status = Status(0.0)
        self.facts = KafkaFacts(wall=lambda: WALL)
        self.brokers = Brokers()
        self.is_cut = False
        self.survey = Survey(
            Kafka(group_id=GROUP, **settings),
            ["vectors"],
            DLQ,
            ledger=self.ledger,
            status=self.status,
            facts=self.facts,
            clock=self.clock,
            wall=lambda: WALL,
        )

    def pause(self, seconds: float) -> bool:
        self.clock.advance(seconds)
        return self.is_cut

    def look(self, after: float = 0.0) -> None:
        self.clock.advance(after)
        self.survey.look(self.brokers, self.pause)


def group_of(bench: Bench) -> tuple[int, Mapping[str, int], Mapping[str, int]]:
    """Return the number of members, what no worker reads and the lag."""
    group = bench.facts.group
    assert group is not None
    return len(group.members), group.unassigned, group.lag


# -- topics


def test_topics_are_shown_with_their_partitions_and_those_without_a_leader() -> None:
    bench = Bench()
    bench.brokers.metadata["vectors"] = Topic(None, {0: 1, 1: -1})
    bench.look()
    assert bench.facts.topics == {"vectors": TopicFacts(False, 2, 1), DLQ: TopicFacts(False, 1, 0)}
    assert bench.status.warnings() == []


@pytest.mark.parametrize("error", [UNKNOWN, DENIED, None], ids=["gone", "not shown", "not in the answer"])
def test_a_dead_letter_topic_that_goes_is_seen_before_a_record_needs_it(
    error: type[kafka_errors.KafkaError] | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "worker.survey")
    bench = Bench()
    bench.look()
    there = bench.brokers.metadata.pop(DLQ)
    if error is not None:
        bench.brokers.metadata[DLQ] = Topic(error, {})
    for _ in range(3):
        bench.look(15.0)
    assert bench.facts.topics[DLQ] == TopicFacts(True)
    (warning,) = bench.status.warnings()
    assert DLQ in warning
    assert "the first bad record will block" in warning
    bench.brokers.metadata[DLQ] = there
    bench.look(15.0)
    assert (bench.facts.topics[DLQ].is_missing, bench.status.warnings()) == (False, [])
    assert [record.message for record in caplog.records] == ["topic missing", "topic no longer missing"]


def test_an_error_that_passes_makes_no_topic_missing() -> None:
    bench = Bench()
    bench.brokers.metadata["vectors"] = Topic(kafka_errors.LeaderNotAvailableError, {})
    bench.look()
    assert "vectors" not in bench.facts.topics


def test_facts_outlive_a_broker_that_restarts_and_not_one_that_stays_away() -> None:
    bench = Bench()
    bench.look()
    bench.brokers.silent.add("_topics")
    bench.look(GROUP_SECONDS)
    assert bench.facts.topics
    bench.look(KEPT_SECONDS - GROUP_SECONDS)
    assert (bench.facts.topics, bench.facts.group, bench.facts.log_starts) == ({}, None, {})


# -- before the first poll


@pytest.mark.parametrize(
    ("reset", "begin"),
    [("earliest", Begin(0, None)), ("latest", Begin(7, None)), ("none", None)],
)
def test_a_partition_that_is_not_opened_has_a_place_to_begin(reset: str, begin: Begin | None) -> None:
    bench = Bench(auto_offset_reset=reset)
    bench.brokers.edges[SECOND] = (0, 7)
    for tp in (FIRST, SECOND):
        bench.ledger.assign(Partition(*tp))
    bench.look()
    expected = {Partition(*FIRST): Begin(12, 12)} | ({} if begin is None else {Partition(*SECOND): begin})
    assert bench.facts.begins == expected
    bench.ledger.open(bench.ledger.assignments()[0], 12, 12)
    bench.ledger.open(bench.ledger.assignments()[1], 0, None)
    bench.look(15.0)
    assert bench.facts.begins == {}


# -- the group


def test_the_group_is_asked_for_once_a_minute() -> None:
    bench = Bench()
    asked = []
    for after in (0.0, GROUP_SECONDS / 2, GROUP_SECONDS / 2):
        bench.look(after)
        asked.append(bench.brokers.asked("_group"))
    assert asked == [1, 0, 1]


def test_partitions_that_come_or_go_are_surveyed_at_once() -> None:
    """At a start the group may have assigned them before this process knows of it."""
    bench = Bench()
    bench.look()
    bench.ledger.assign(Partition(*FIRST))
    bench.look(1.0)
    assert (list(bench.facts.retention.topics), list(bench.facts.log_starts)) == (["vectors"], [Partition(*FIRST)])


def test_a_partition_that_is_not_read_when_the_worker_starts_is_looked_at_again_soon() -> None:
    bench = Bench()
    joined, bench.brokers.group = bench.brokers.group, Group(True, ())
    bench.look()
    bench.brokers.group = joined
    bench.look(1.0)
    assert group_of(bench) == (1, {"vectors": 0}, {"vectors": 8})


def test_a_stranger_is_counted_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.brokers.group = Group(True, (member(FIRST), member(SECOND, is_worker=False)))
    for _ in range(3):
        bench.look(GROUP_SECONDS)
    assert group_of(bench) == (2, {"vectors": 1}, {"vectors": 8})
    (record,) = [record for record in caplog.records if "no worker of this software" in record.message]
    assert (record.client_id, record.host, record.partitions) == ("client", "/10.0.0.1", ["vectors/1"])  # type: ignore[attr-defined]


def test_in_a_rebalance_what_was_known_stays_and_the_group_is_asked_again_soon() -> None:
    bench = Bench()
    bench.look()
    before = bench.facts.group
    bench.brokers.group = Group(False, (member(), member()))
    bench.look(GROUP_SECONDS)
    assert bench.facts.group == before
    bench.brokers.group = Group(True, ())
    bench.look(15.0)
    assert group_of(bench) == (0, {"vectors": 2}, {"vectors": 8})


def test_a_route_whose_only_worker_has_gone_is_found_by_its_committed_offsets() -> None:
    other = TopicPartition("other", 0)
    bench = Bench()
    bench.brokers.committed_offsets = {FIRST: 12, other: 5}
    bench.brokers.metadata["other"] = Topic(None, {0: 1})
    bench.brokers.edges[other] = (0, 9)
    bench.look()
    bench.look(GROUP_SECONDS)
    assert group_of(bench) == (1, {"other": 1, "vectors": 0}, {"other": 4, "vectors": 8})
    assert bench.facts.topics["other"] == TopicFacts(False, 1, 0)


def test_a_topic_without_a_route_here_is_never_missing() -> None:
    bench = Bench()
    bench.brokers.committed_offsets = {TopicPartition("other", 0): 5}
    bench.look()
    bench.look(GROUP_SECONDS)
    assert "other" not in bench.facts.topics


@pytest.mark.parametrize("what", ["coordinator", "committed_offsets", "group"])
def test_what_may_not_be_asked_for_is_absent_and_logged_once(what: str, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    setattr(bench.brokers, what, kafka_errors.GroupAuthorizationFailedError())
    for _ in range(3):
        bench.look(15.0)
    assert bench.facts.group is None
    assert bench.facts.topics
    assert [record.message for record in caplog.records] == ["not allowed to ask, so its metrics are absent"]


def test_a_coordinator_that_moved_is_looked_for_again() -> None:
    bench = Bench()
    bench.look()
    before, bench.brokers.group = bench.brokers.group, kafka_errors.NotCoordinatorError()
    bench.look(GROUP_SECONDS)
    bench.brokers.asked("_coordinator")
    bench.brokers.group = before
    bench.look(15.0)
    assert bench.brokers.asked("_coordinator") == 1
    assert bench.facts.group is not None


def test_a_coordinator_that_moved_is_looked_for_also_while_only_a_beginning_is_asked_for() -> None:
    bench = Bench()
    bench.ledger.assign(Partition(*FIRST))
    bench.look()
    before, bench.brokers.committed_offsets = bench.brokers.committed_offsets, kafka_errors.NotCoordinatorError()
    bench.look(15.0)
    bench.brokers.committed_offsets = before
    bench.brokers.asked("_coordinator")
    bench.look(15.0)
    assert (bench.brokers.asked("_coordinator"), len(bench.facts.begins)) == (1, 1)


def test_the_group_is_no_longer_shown_where_it_is_asked_for_in_vain_for_long() -> None:
    bench = Bench()
    bench.look()
    bench.brokers.group = kafka_errors.CoordinatorNotAvailableError()
    bench.look(GROUP_SECONDS)
    assert bench.facts.group is not None
    bench.look(KEPT_SECONDS)
    assert bench.facts.group is None


# -- retention


def left(bench: Bench) -> float:
    return bench.facts.retention.topics["vectors"] - WALL


def test_the_time_until_retention_reaches_what_is_not_settled() -> None:
    bench = Bench()
    opened(bench.ledger, position=12)
    bench.brokers.times[FIRST] = WALL - 0.75 * KEPT
    bench.look()
    assert left(bench) == pytest.approx(0.25 * KEPT)
    assert bench.facts.log_starts == {Partition(*FIRST): 10}


def test_where_retention_was_faster_the_time_is_that_of_the_first_record_that_is_left() -> None:
    bench = Bench()
    opened(bench.ledger, position=5)
    bench.brokers.first_found, bench.brokers.times[FIRST] = 10, WALL - 0.75 * KEPT
    bench.look()
    assert left(bench) == pytest.approx(0.25 * KEPT)


@pytest.mark.parametrize(
    ("position", "limit"),
    [(20, Limits(KEPT, None)), (12, Limits(None, None))],
    ids=["nothing waits", "kept for ever"],
)
def test_where_nothing_waits_or_there_is_no_limit_there_is_no_end(position: int, limit: Limits) -> None:
    bench = Bench()
    opened(bench.ledger, position=position)
    bench.brokers.times[FIRST] = WALL - KEPT
    bench.brokers.limits["vectors"] = limit
    bench.look()
    assert left(bench) == math.inf


@pytest.mark.parametrize("limit", [Limits(None, 1000), DENIED()], ids=["a limit of bytes", "limits that are not shown"])
def test_the_start_of_the_log_says_when_it_reaches_what_is_not_settled(limit: Any) -> None:
    """It comes nearer by one record in a minute, and the fourth is not settled."""
    bench = Bench()
    opened(bench.ledger, position=15)
    bench.brokers.limits["vectors"] = limit
    bench.look()
    assert left(bench) == math.inf
    bench.brokers.edges[FIRST] = (11, 20)
    bench.look(GROUP_SECONDS)
    assert left(bench) == pytest.approx(4 * GROUP_SECONDS)


def test_of_a_partition_that_is_not_opened_what_is_committed_counts() -> None:
    bench = Bench()
    bench.ledger.assign(Partition(*FIRST))
    bench.brokers.times[FIRST] = WALL - 0.75 * KEPT
    bench.look()
    assert left(bench) == pytest.approx(0.25 * KEPT)


@pytest.mark.parametrize(
    ("written", "limit", "expected"),
    [
        (WALL - 600, Limits(KEPT, None), KEPT - 600),
        (None, Limits(KEPT, None), math.inf),
        (WALL - 600, Limits(None, None), math.inf),
        (WALL - 600, DENIED(), None),
    ],
    ids=["a dead letter", "none", "kept for ever", "not shown"],
)
def test_the_time_left_of_the_oldest_dead_letter(written: float | None, limit: Any, expected: float | None) -> None:
    bench = Bench()
    bench.brokers.limits[DLQ] = limit
    if written is not None:
        bench.brokers.edges[OF_DLQ], bench.brokers.times[OF_DLQ] = (0, 1), written
    bench.look()
    found = bench.facts.retention.dead_letters
    assert (None if found is None else found - WALL) == expected


# -- cost


def test_a_thousand_partitions_cost_a_few_requests_to_each_leader() -> None:
    """Each partition has records that wait; the age of each is looked for."""
    bench, brokers = Bench(), 10
    numbers, bench.brokers.first_found = range(1000), 0
    bench.brokers.metadata["vectors"] = Topic(None, {number: number % brokers for number in numbers})
    for number in numbers:
        tp = TopicPartition("vectors", number)
        bench.brokers.edges[tp], bench.brokers.times[tp] = (0, 100), WALL - number
        opened(bench.ledger, partition=number)
    bench.brokers.group = Group(True, (member(*(TopicPartition("vectors", number) for number in numbers)),))
    bench.brokers.committed_offsets = {}
    bench.look()
    calls = [call.name for call in bench.brokers.calls]
    assert bench.facts.group is not None
    assert bench.facts.group.unassigned == {"vectors": 0}
    assert left(bench) == pytest.approx(KEPT - 999, rel=0.03)
    assert (calls.count("_times") <= 15 * brokers, len(calls) - calls.count("_times")) == (True, 5)
    bench.look(15.0)
    assert len(bench.brokers.calls) - len(calls) == 1


# -- waiting


@pytest.mark.parametrize("silent", ["_topics", "_times", "_coordinator", "_all_committed", "_group", "_limits"])
def test_a_broker_that_does_not_answer_costs_a_few_seconds(silent: str) -> None:
    bench = Bench()
    bench.ledger.assign(Partition(*FIRST))
    bench.brokers.silent.add(silent)
    began = bench.clock()
    bench.look()
    assert bench.clock() - began <= LONGEST_SECONDS + 0.1


def test_a_survey_is_cut_short_where_the_thread_is_wanted_and_made_up_for() -> None:
    bench = Bench()
    bench.is_cut = True
    bench.brokers.silent.add("_group")
    bench.look()
    assert bench.facts.group is None
    bench.is_cut = False
    bench.brokers.silent.clear()
    bench.look()
    assert bench.facts.group is not None
