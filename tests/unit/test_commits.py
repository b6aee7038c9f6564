"""Commits: when one is begun, and what its answer does."""

from typing import Any

import pytest
from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import MemberState

from tests.support.client import FakeConsumer
from tests.support.fakes import FakeClock
from tests.unit.samples import opened
from worker.consumer.commits import LOST_SECONDS, Commits
from worker.ledger import Ledger
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

TP = TopicPartition("vectors", 0)


class Bench:
    """Commits of one open partition, of which records were read under the leader's epoch 3."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = Ledger(["vectors"], self.clock)
        self.metrics = Metrics(self.ledger, Status(0.0), ["vectors"], [])
        self.counted: list[BaseException] = []
        self.fenced = 0
        self.consumer = FakeConsumer()
        self.commits = Commits(
            self.ledger,
            self.metrics,
            count_error=self.counted.append,
            on_fenced=self._fence,
            clock=self.clock,
            wall=lambda: 77.0,
        )
        self.assignment = opened(self.ledger)
        self.ledger.note_leader_epoch(self.assignment, 0, 3)

    def _fence(self) -> None:
        self.fenced += 1

    def begin(self, offset: int = 5) -> bool:
        return self.commits.begin(self.consumer, {self.assignment: offset})

    def value(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(f"oss_vectors_{name}", labels)
        assert value is not None
        return value


def test_a_commit_carries_the_leaders_epoch_and_its_answer_enters_the_ledger() -> None:
    bench = Bench()
    assert bench.begin()
    assert bench.consumer.committed == [{TP: OffsetAndMetadata(5, "", 3)}]
    assert bench.value("commits_total", result="ok") == 0
    bench.consumer.commit_answers[0].success(None)
    assert bench.assignment.committed == 5
    assert bench.value("commits_total", result="ok") == 1
    assert bench.value("last_commit_timestamp_seconds") == 77.0


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


def test_a_commit_that_the_client_refuses_at_once_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def refuse(*_: Any, **__: Any) -> None:
        raise kafka_errors.CommitFailedError

    monkeypatch.setattr(bench.consumer, "commit_async", refuse)
    assert bench.begin()
    assert bench.value("commits_total", result="failed") == 1
    assert bench.begin()


def test_an_answer_that_fences_this_process_is_passed_on_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    assert bench.begin()
    bench.consumer.commit_answers[0].failure(kafka_errors.FencedInstanceIdError())
    assert (bench.fenced, caplog.records) == (1, [])


@pytest.mark.parametrize("error", [None, kafka_errors.KafkaTimeoutError("no answer")])
def test_commit_now_returns_whether_the_broker_acknowledged(error: Exception | None) -> None:
    bench = Bench()
    bench.consumer.answers["commit"] = error
    assert bench.commits.commit_now(bench.consumer, {bench.assignment: 5}, 1.0) is (error is None)
    assert bench.assignment.committed == (5 if error is None else None)
    assert bench.counted == ([] if error is None else [error])


def test_only_an_offset_that_moved_counts_as_progress() -> None:
    bench = Bench()
    walls = iter([10.0, 10.0, 20.0, 30.0, 30.0])
    bench.commits._wall = lambda: next(walls)
    seen = []
    for offset in (5, 5, 6):
        bench.commits.enter_answer({bench.assignment: offset}, None)
        seen.append(
            (bench.value("last_commit_timestamp_seconds"), bench.value("committed_offset_moved_timestamp_seconds"))
        )
    assert seen == [(10, 10), (20, 10), (30, 30)]
