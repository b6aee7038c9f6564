"""What the source decides by itself, with a client that only notes what it is told."""

from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors

from tests.support.client import FakeConsumer
from tests.support.fakes import FakeClock
from tests.unit.samples import FakeTracked, opened
from worker.consumer.handover import RevokeHooks
from worker.consumer.leaders import LOOK_SECONDS
from worker.consumer.offset_requests import Edge
from worker.consumer.source import KafkaSource
from worker.errors import BlockReason, BrokerUnavailable, Fenced
from worker.lease import Lease
from worker.ledger import Assignment, Ledger, Outcome, Partition, Phase
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

PARTITION = Partition("vectors", 0)
TP = TopicPartition(*PARTITION)
SESSION = 45.0


class Stage:
    """A source whose consumer owns one open partition."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lease = Lease(SESSION, 300.0, self.clock)
        self.lease.confirm(self.clock())
        self.ledger = Ledger(["vectors"], self.clock)
        self.status = Status(0.0)
        self.metrics = Metrics(self.ledger, self.status, ["vectors"], [])
        self.aborts = 0
        self.source = KafkaSource(
            Kafka(),
            ["vectors"],
            ledger=self.ledger,
            status=self.status,
            metrics=self.metrics,
            hooks=RevokeHooks(lambda: None, self.abort),
            retry_seconds=30.0,
            clock=self.clock,
            wall=self.clock,
            lease=self.lease,
        )
        self.consumer = FakeConsumer({"vectors": 1})
        self.consumer.own(PARTITION)
        self.source._consumer = self.consumer
        self.source._topics.begin(["vectors"], {})
        self.assignment = opened(self.ledger)

    def abort(self, threads: Collection[int] | None) -> None:
        assert threads is None  # without a lease, all are cut
        self.aborts += 1

    def poll(self, found: dict[TopicPartition, list[Any]] | Exception | None = None) -> list[tuple[Assignment, int]]:
        """Return what was polled: assignments, and how many messages each has."""
        self.consumer.polled = [] if found is None else [found]
        return [(assignment, len(messages)) for assignment, messages in self.source.poll(0.0)]

    def steer(self, wanted: bool) -> frozenset[Partition]:
        self.source.steer({self.assignment: wanted})
        return self.source.paused

    def errors(self, kind: str) -> float:
        return self.metrics.registry.get_sample_value("oss_vectors_kafka_errors_total", {"kind": kind}) or 0.0


def messages(offsets: Sequence[int], *epochs: int) -> list[Any]:
    return [
        SimpleNamespace(offset=offset, leader_epoch=epoch)
        for offset, epoch in zip(offsets, epochs or [0] * len(offsets), strict=True)
    ]


# -- polling


def test_messages_of_an_owned_partition_are_returned_with_its_assignment() -> None:
    stage = Stage()
    assert stage.poll({TP: messages([0, 1])}) == [(stage.assignment, 2)]
    assert stage.poll({TopicPartition("vectors", 9): messages([0])}) == []


def test_what_a_poll_brings_of_a_partition_that_was_assigned_meanwhile_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()

    def rebalance_and_poll(timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        stage.ledger.assign(PARTITION)
        return {TP: messages([0, 1])}

    monkeypatch.setattr(stage.consumer, "poll", rebalance_and_poll)
    assert stage.poll() == []


def test_the_leaders_epochs_of_messages_enter_the_ledger() -> None:
    stage = Stage()
    stage.poll({TP: messages([0, 1, 2], 4, 4, 6)})
    assert [stage.assignment.leader_epoch_at(offset) for offset in (1, 2, 3)] == [4, 4, 6]


def test_an_error_that_the_client_keeps_for_the_next_poll_is_met_at_once() -> None:
    """If the partition is paused before that, the client forgets the error but not the batch."""
    stage = Stage()
    error = kafka_errors.OffsetOutOfRangeError({TP: 7})
    stage.consumer._fetcher._next_in_line_exception_metadata = SimpleNamespace(exception=error)
    assert stage.poll({TP: messages([0])}) == [(stage.assignment, 1)]
    assert stage.consumer._fetcher._next_in_line_exception_metadata is None
    assert (stage.errors("fetch"), stage.consumer.parked) == (1, {TP})


def test_a_fetch_in_line_with_nothing_left_in_it_makes_room_for_what_was_put_aside() -> None:
    stage = Stage()
    stage.consumer._fetcher._next_partition_records = []
    stage.poll()
    assert stage.consumer._fetcher._next_partition_records is None


def test_an_error_that_nothing_can_be_done_about_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    assert stage.poll(kafka_errors.KafkaConnectionError("reset")) == []
    assert stage.errors("connection") == 1
    assert [(record.message, record.left_out) for record in caplog.records] == [("poll failed", 0)]  # type: ignore[attr-defined]  # of `extra`


def test_messages_that_are_lost_with_an_error_are_read_again() -> None:
    """The client has taken them out of its fetch, and then raises an error of another partition, or of the group."""
    stage = Stage()
    stage.ledger.track(stage.assignment, [0, 1])
    stage.consumer.read_to(PARTITION, 2)
    assert stage.poll(kafka_errors.KafkaConnectionError("reset")) == []
    assert stage.consumer.sought == []
    stage.consumer.read_to(PARTITION, 5)
    assert stage.poll(kafka_errors.KafkaConnectionError("reset")) == []
    assert stage.consumer.sought == [(TP, 2)]


def test_a_rebalance_is_no_error() -> None:
    stage = Stage()
    stage.poll(kafka_errors.RebalanceInProgressError())
    assert stage.errors("group") == 0


def test_a_poll_that_fences_this_process_raises_that() -> None:
    stage = Stage()
    with pytest.raises(Fenced):
        stage.poll(kafka_errors.FencedInstanceIdError())


def test_a_log_that_was_cut_begins_a_new_ownership_where_it_continues() -> None:
    stage = Stage()
    stage.ledger.track(stage.assignment, range(10))
    stage.ledger.settle([FakeTracked(stage.assignment, offset) for offset in range(6)], Outcome.PUT)
    end = SimpleNamespace(offset=5, leader_epoch=3)
    stage.poll(kafka_errors.LogTruncationError({TP: end}))
    restarted = stage.ledger.assignment(PARTITION)
    assert restarted is not None
    assert (stage.assignment.phase, restarted.phase, restarted.position) == (Phase.FENCED, Phase.OPEN, 5)


def test_a_topic_that_may_not_be_read_is_blocked() -> None:
    stage = Stage()
    stage.poll(kafka_errors.TopicAuthorizationFailedError({"vectors"}))
    assert "grant READ" in str(stage.status.read().blocks)


# -- membership


def test_a_consumer_that_is_no_member_is_abandoned_with_its_partitions() -> None:
    stage = Stage()
    stage.clock.advance(SESSION)
    with pytest.raises(BrokerUnavailable, match="joining again"):
        stage.poll()
    assert (stage.assignment.phase, stage.ledger.assignments(), stage.consumer.closed) == (Phase.FENCED, [], 1)
    assert (stage.source.is_member, stage.errors("group")) == (False, 1)


def test_a_coordinator_that_was_away_is_not_said_to_be_while_no_broker_lets_a_consumer_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BrokerUnavailable("the login is refused")

    stage = Stage()
    stage.consumer._manager._conns.clear()
    stage.poll()
    stage.clock.advance(SESSION)
    away = "oss_vectors_coordinator_unavailable_seconds"
    with pytest.raises(BrokerUnavailable, match="its coordinator is not there"):
        stage.poll()
    assert stage.metrics.registry.get_sample_value(away) == SESSION
    monkeypatch.setattr("worker.consumer.source.connect", refuse)
    with pytest.raises(BrokerUnavailable, match="the login is refused"):
        stage.source.start()
    assert stage.metrics.registry.get_sample_value(away) == 0


def test_while_the_group_refuses_to_join_again_requests_are_cut_when_the_lease_runs_out() -> None:
    stage = Stage()
    stage.source._membership.abort_when_lease_runs_out()
    stage.poll(kafka_errors.GroupAuthorizationFailedError())
    stage.clock.advance(1.0)
    stage.source.poll(0.001)
    assert stage.aborts == 0
    stage.clock.advance(SESSION - 5.0)
    stage.source._joins.note_refusal(kafka_errors.GroupAuthorizationFailedError())
    stage.source.poll(0.001)
    stage.source.poll(0.001)
    assert stage.aborts == 1


# -- unreadable partitions


@pytest.mark.parametrize("how", ["cut", "recreated"])
def test_a_partition_with_another_log_is_no_longer_reported_as_unreadable(how: str) -> None:
    stage = Stage()
    stage.ledger.track(stage.assignment, range(100))
    stage.source.refuse(stage.assignment, "offsets in an order that cannot be")
    assert stage.status.blocks_of(*PARTITION)
    if how == "cut":
        stage.poll(kafka_errors.LogTruncationError({TP: SimpleNamespace(offset=5, leader_epoch=3)}))
    else:
        for topic_id in ("first", "second"):
            stage.consumer.topic_ids["vectors"] = topic_id
            stage.poll()
    assert stage.status.blocks_of(*PARTITION) == []


def test_a_refused_partition_is_read_again_from_its_position_after_the_retry_pause() -> None:
    stage = Stage()
    stage.source.refuse(stage.assignment, "offsets in an order that cannot be")
    assert stage.consumer.sought == [(TP, 0)]
    assert stage.steer(True) == {PARTITION}
    stage.clock.advance(30.0)
    assert stage.steer(True) == frozenset()
    stage.poll({TP: messages([0])})
    assert stage.status.blocks_of(*PARTITION) == []


def test_an_offset_that_the_broker_refuses_and_has_is_fetched_again_after_the_retry_pause() -> None:
    stage = Stage()
    stage.poll({TP: messages([0, 1])})
    stage.ledger.track(stage.assignment, [0, 1])
    stage.poll(kafka_errors.OffsetOutOfRangeError({TP: 2}))
    assert stage.steer(True) == {PARTITION}
    for call in stage.consumer.calls:
        call.answer.success({TP: 0 if Edge.BEGINNING in call.arguments else 2})
    stage.poll()
    assert stage.status.blocks_of(*PARTITION) == [BlockReason.PARTITION_UNREADABLE]
    assert stage.steer(True) == {PARTITION}
    stage.clock.advance(30.0)
    stage.lease.confirm(stage.clock())
    assert stage.steer(True) == frozenset()
    stage.consumer._subscription.assignment[TP].highwater = 2
    stage.poll()
    assert (stage.assignment.phase, stage.status.blocks_of(*PARTITION)) == (Phase.OPEN, [])


@pytest.mark.parametrize("is_denied", [False, True])
def test_a_partition_that_is_retried_is_fetched_again_whatever_was_put_aside_of_it(is_denied: bool) -> None:
    stage = Stage()
    if is_denied:
        stage.poll(kafka_errors.TopicAuthorizationFailedError({"vectors"}))
    else:
        stage.source.refuse(stage.assignment, "offsets in an order that cannot be")
    assert stage.steer(True) == {PARTITION}
    parked = stage.consumer._fetcher._paused_completed_fetches
    parked.update({TP: "the same error", TopicPartition("images", 0): "of another"})
    stage.clock.advance(30.0)
    assert stage.steer(True) == frozenset()
    assert parked == {TopicPartition("images", 0): "of another"}


# -- steering


def test_what_was_put_aside_of_a_partition_that_only_waited_for_room_is_kept() -> None:
    stage = Stage()
    stage.steer(False)
    parked = stage.consumer._fetcher._paused_completed_fetches
    parked[TP] = "records"
    assert stage.steer(True) == frozenset()
    assert (parked, stage.consumer.parked) == ({TP: "records"}, set())


def test_what_is_wanted_is_fetched_and_all_else_is_paused() -> None:
    stage = Stage()
    other = TopicPartition("vectors", 1)
    stage.consumer.own(other)
    stage.consumer.pause(TP)
    assert stage.steer(True) == {Partition(*other)}
    assert stage.consumer.parked == {other}
    assert stage.steer(False) == {PARTITION, Partition(*other)}
    assert stage.metrics.registry.get_sample_value("oss_vectors_paused_partitions") == 2


def test_steering_to_the_same_again_does_not_ask_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    stage.steer(True)

    def fail() -> None:
        raise AssertionError

    monkeypatch.setattr(stage.consumer, "assignment", fail)
    stage.steer(True)
    with pytest.raises(AssertionError):
        stage.steer(False)


def test_a_partition_without_a_leader_is_not_fetched() -> None:
    stage = Stage()
    stage.consumer._cluster.leader_for_partition = lambda _: -1
    stage.poll()
    assert stage.steer(True) == {PARTITION}
    stage.consumer._cluster.leader_for_partition = lambda _: 1
    stage.clock.advance(LOOK_SECONDS)
    stage.poll()
    assert stage.steer(True) == frozenset()


# -- the end


def test_a_closed_source_has_nothing_paused_and_commits_nothing() -> None:
    stage = Stage()
    stage.steer(False)
    stage.source.close(1.0)
    assert stage.metrics.registry.get_sample_value("oss_vectors_paused_partitions") == 0
    assert stage.source.commit_now({stage.assignment: 0}, 1.0) is False
    assert stage.source.commit_now({}, 1.0) is True
