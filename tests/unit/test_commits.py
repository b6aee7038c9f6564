"""Commits: when one is begun, and what its answer does."""

from collections.abc import Mapping
from typing import Any

import pytest
from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import MemberState

from tests.support.client import FakeConsumer
from tests.support.fakes import FakeClock
from tests.unit.samples import opened
from worker.consumer.commits import LOST_SECONDS, REFUSED_SECONDS, Answered, Commits
from worker.ledger import Ledger, Partition
from worker.telemetry.log import fields
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

TP = TopicPartition("vectors", 0)


class Bench:
    """Commits of one open partition, of which records were read under the leader's epoch 3."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = Ledger(["vectors", "denied"], self.clock)
        self.metrics = Metrics(self.ledger, Status(0.0), ["vectors", "denied"], [])
        self.counted: list[BaseException] = []
        self.fenced = 0
        self.shown: list[str] = []
        self.consumer = FakeConsumer()
        self.commits = Commits(
            self.ledger,
            self.metrics,
            count_error=self.counted.append,
            on_fenced=self._fence,
            clock=self.clock,
            wall=lambda: 77.0,
            show=self.shown.append,
        )
        self.assignment = opened(self.ledger)
        self.ledger.note_leader_epoch(self.assignment, 0, 3)

    def _fence(self) -> None:
        self.fenced += 1

    def begin(self, offset: int = 5) -> bool:
        return self.commits.begin(self.consumer, {self.assignment: offset})

    def accept(self, offset: int) -> None:
        """Note that the broker has accepted it, as the client does before it passes an answer on."""
        self.commits.note_answer({self.assignment.partition: Answered(offset, 0)})

    def value(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(f"oss_vectors_{name}", labels)
        assert value is not None
        return value


def test_a_commit_carries_the_leaders_epoch_and_its_answer_enters_the_ledger() -> None:
    bench = Bench()
    assert bench.begin()
    assert bench.consumer.committed == [{TP: OffsetAndMetadata(5, "", 3)}]
    assert bench.value("commits_total", result="ok") == 0
    bench.accept(5)
    bench.consumer.commit_answers[0].success(None)
    assert bench.assignment.committed == 5
    assert bench.value("commits_total", result="ok") == 1
    assert bench.value("last_commit_timestamp_seconds") == 77.0


def test_a_commit_of_which_the_answer_leaves_a_partition_out_does_not_count_for_it() -> None:
    bench = TwoTopics()
    assert bench.commits.begin(bench.consumer, {bench.assignment: 5, bench.other: 7})
    bench.accept(5)
    bench.consumer.commit_answers[0].success(None)
    assert (bench.assignment.committed, bench.other.committed) == (5, 0)


def test_a_commit_names_the_log_that_was_read() -> None:
    bench = Bench()
    again = bench.ledger.assign(bench.assignment.partition)
    bench.ledger.open(again, 5, None, 3, log_id="cluster/first")
    assert bench.commits.begin(bench.consumer, {again: 5})
    assert bench.consumer.committed == [{TP: OffsetAndMetadata(5, "cluster/first", 3)}]


def test_one_commit_at_a_time_waits_for_its_answer_until_it_counts_as_lost() -> None:
    bench = Bench()
    assert (bench.begin(), bench.begin()) == (True, False)
    bench.clock.advance(LOST_SECONDS)
    assert bench.begin()


def test_a_new_consumer_does_not_wait_for_the_answer_to_the_old_one() -> None:
    bench = Bench()
    assert bench.begin()
    bench.commits.reset()
    assert bench.begin()


def test_no_commit_begins_in_a_rebalance() -> None:
    bench = Bench()
    bench.consumer.state = MemberState.REBALANCING
    assert (bench.begin(), bench.consumer.committed) == (False, [])


def test_a_commit_that_failed_is_counted_and_the_next_one_may_begin(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    error = kafka_errors.UnknownMemberIdError()
    assert bench.begin()
    bench.consumer.commit_answers[0].failure(error)
    assert (bench.assignment.committed, bench.counted, bench.fenced) == (None, [error], 0)
    assert bench.value("commits_total", result="failed") == 1
    assert [record.message for record in caplog.records] == ["commit failed"]
    assert bench.begin()


THREAD_HAS_ENDED = AssertionError("of the client's IO thread, which has ended")


@pytest.mark.parametrize("error", [kafka_errors.CommitFailedError(), THREAD_HAS_ENDED])
def test_a_commit_that_the_client_refuses_at_once_counts_as_failed(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    bench = Bench()

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(bench.consumer, "commit_async", refuse)
    assert bench.begin()
    assert bench.value("commits_total", result="failed") == 1
    assert bench.begin()


def test_an_answer_that_fences_this_process_is_passed_on_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    assert bench.begin()
    bench.consumer.commit_answers[0].failure(kafka_errors.FencedInstanceIdError())
    assert (bench.fenced, caplog.records) == (1, [])


@pytest.mark.parametrize("error", [None, kafka_errors.KafkaTimeoutError("no answer"), THREAD_HAS_ENDED])
def test_commit_now_returns_whether_the_broker_acknowledged(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    bench = Bench()

    def commit(*_: object, **__: object) -> None:
        if error is not None:
            raise error
        bench.accept(5)

    monkeypatch.setattr(bench.consumer, "commit", commit)
    assert bench.commits.commit_now(bench.consumer, {bench.assignment: 5}, 1.0) is (error is None)
    assert bench.assignment.committed == (5 if error is None else None)
    assert bench.counted == ([] if error is None else [error])


def test_only_an_offset_that_moved_counts_as_progress() -> None:
    bench = Bench()
    walls = iter([10.0, 10.0, 20.0, 30.0, 30.0])
    bench.commits._wall = lambda: next(walls)
    seen = []
    for offset in (5, 5, 6):
        bench.accept(offset)
        bench.commits.enter_answer({bench.assignment: offset}, None)
        seen.append(
            (bench.value("last_commit_timestamp_seconds"), bench.value("committed_offset_moved_timestamp_seconds"))
        )
    assert seen == [(10, 10), (20, 10), (30, 30)]


# -- one partition that is refused


OK, UNKNOWN_TOPIC, TOPIC_DENIED = 0, 3, 29
OTHER = TopicPartition("denied", 0)


class TwoTopics(Bench):
    """Another topic's partition beside it, whose commits the broker refuses with `code`; the client raises that alone."""

    def __init__(self, code: int = TOPIC_DENIED) -> None:
        super().__init__()
        self.code = code
        self.other = self.ledger.assign(Partition(*OTHER))
        self.ledger.open(self.other, 0, 0)

    @property
    def error(self) -> kafka_errors.KafkaError:
        found: kafka_errors.KafkaError = kafka_errors.for_code(self.code)()
        return found

    def note(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> bool:
        """Note the broker's answer, and return whether it has accepted all."""
        codes = {tp: self.code if tp == OTHER else OK for tp in offsets}
        self.commits.note_answer({Partition(*tp): Answered(offsets[tp].offset, code) for tp, code in codes.items()})
        return set(codes.values()) == {OK}

    def commit(self, offset: int, other: int) -> None:
        """Begin a commit of both, and answer it."""
        assert self.commits.begin(self.consumer, {self.assignment: offset, self.other: other})
        answer = self.consumer.commit_answers[-1]
        if self.note(self.consumer.committed[-1]):
            answer.success(None)
        else:
            answer.failure(self.error)


def test_what_was_accepted_beside_a_refused_topic_is_entered(caplog: pytest.LogCaptureFixture) -> None:
    bench = TwoTopics()
    bench.commit(5, 7)
    assert (bench.assignment.committed, bench.other.committed) == (5, 0)
    assert [bench.value("commits_total", result=result) for result in ("ok", "failed")] == [1, 1]
    assert bench.value("last_commit_timestamp_seconds") == 77.0
    assert [fields(record) for record in caplog.records] == [
        {"topic": "denied", "error": "TopicAuthorizationFailedError"}
    ]
    assert bench.shown == ["commits are refused for denied (TopicAuthorizationFailedError)"]
    assert [bench.value("refused_commit_partitions", topic=topic) for topic in ("vectors", "denied")] == [0, 1]


@pytest.mark.parametrize("code", [UNKNOWN_TOPIC, TOPIC_DENIED])
def test_a_refused_partition_is_left_out_for_a_while_and_then_tried_again(code: int) -> None:
    bench = TwoTopics(code)
    bench.commit(5, 7)
    bench.commit(6, 7)
    assert bench.consumer.committed[-1].keys() == {TP}
    assert bench.value("commits_total", result="failed") == 1
    bench.clock.advance(REFUSED_SECONDS)
    bench.code = OK
    bench.commit(6, 7)
    assert (bench.other.committed, bench.shown[-1]) == (7, "")
    assert bench.value("refused_commit_partitions", topic="denied") == 0
    bench.commit(8, 9)
    assert bench.other.committed == 9


def test_nothing_is_sent_where_all_is_left_out_and_a_partition_that_was_given_back_is_forgotten() -> None:
    bench = TwoTopics()
    bench.commit(5, 7)
    assert not bench.commits.begin(bench.consumer, {bench.other: 8})
    assert len(bench.consumer.committed) == 1
    bench.commits.forget(Partition(*OTHER))
    assert bench.shown[-1] == ""
    assert bench.commits.begin(bench.consumer, {bench.other: 8})


def test_a_refusal_that_is_entered_after_the_partition_was_given_back_is_not_shown() -> None:
    """The client enters an answer with its next poll, and may give partitions back in the same one."""
    bench = TwoTopics()
    assert bench.commits.begin(bench.consumer, {bench.assignment: 5, bench.other: 7})
    bench.note(bench.consumer.committed[-1])
    bench.ledger.end(bench.ledger.begin_revoke([Partition(*OTHER)]))
    bench.commits.forget(Partition(*OTHER))
    bench.consumer.commit_answers[-1].failure(bench.error)
    assert (bench.assignment.committed, bench.shown) == (5, [""])


def test_a_partition_that_begins_again_is_not_left_out_and_its_refusal_is_no_longer_shown() -> None:
    bench = TwoTopics()
    bench.commit(5, 7)
    again = bench.ledger.reassign(bench.other)
    assert again is not None
    assert bench.begin(6)
    assert bench.shown[-1] == ""
    bench.consumer.commit_answers[-1].success(None)
    bench.ledger.open(again, 0, None)
    assert bench.commits.begin(bench.consumer, {again: 1})


def test_an_answer_to_an_older_commit_does_not_count_for_one_without_an_answer() -> None:
    bench = TwoTopics()
    bench.commits.note_answer({Partition(*TP): Answered(5, OK)})
    assert bench.begin(5)
    bench.consumer.commit_answers[-1].failure(kafka_errors.KafkaTimeoutError("no answer"))
    assert bench.assignment.committed is None


def test_the_last_commit_does_not_spend_its_time_on_a_topic_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client repeats such a commit until its time is over."""
    bench = TwoTopics(UNKNOWN_TOPIC)
    times: list[int] = []

    def commit(offsets: Mapping[TopicPartition, OffsetAndMetadata], timeout_ms: int) -> None:
        times.append(timeout_ms)
        if not bench.note(offsets):
            raise kafka_errors.KafkaTimeoutError

    monkeypatch.setattr(bench.consumer, "commit", commit)
    both = {bench.assignment: 5, bench.other: 7}
    assert not bench.commits.commit_now(bench.consumer, both, 4.0)
    assert (bench.assignment.committed, bench.other.committed, times) == (5, 0, [2000])
    both[bench.assignment] = 6
    assert not bench.commits.commit_now(bench.consumer, both, 4.0)
    assert (bench.assignment.committed, times) == (6, [2000, 2000])


def test_the_last_commit_is_repeated_for_what_had_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = TwoTopics()
    sent: list[set[TopicPartition]] = []

    def commit(offsets: Mapping[TopicPartition, OffsetAndMetadata], timeout_ms: int) -> None:
        sent.append(set(offsets))
        if len(sent) == 1:
            bench.note({OTHER: offsets[OTHER]})
            raise kafka_errors.KafkaTimeoutError
        bench.note(offsets)

    monkeypatch.setattr(bench.consumer, "commit", commit)
    assert not bench.commits.commit_now(bench.consumer, {bench.assignment: 5, bench.other: 7}, 4.0)
    assert (sent, bench.assignment.committed) == ([{TP, OTHER}, {TP}], 5)
