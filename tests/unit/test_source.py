"""What the source decides by itself, with a client that only notes what it is told."""

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors

from tests.support.fakes import FakeClock
from tests.unit.samples import opened
from worker.consumer.handover import RevokeHooks
from worker.consumer.source import KafkaSource
from worker.lease import Lease
from worker.ledger import Ledger, Partition
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

PARTITION = Partition("vectors", 0)


class Stage:
    """A source whose consumer owns one open partition."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lease = Lease(45.0, 300.0, self.clock)
        self.ledger = Ledger(["vectors"], self.clock)
        self.status = Status(0.0)
        self.aborts = 0
        self.source = KafkaSource(
            Kafka(),
            ["vectors"],
            ledger=self.ledger,
            status=self.status,
            metrics=Metrics(self.ledger, self.status, ["vectors"], []),
            hooks=RevokeHooks(lambda: None, self.abort),
            retry_seconds=30.0,
            clock=self.clock,
            wall=self.clock,
            lease=self.lease,
        )
        self.sought: list[tuple[TopicPartition, Any]] = []
        self.source._consumer = SimpleNamespace(
            _subscription=SimpleNamespace(seek=lambda tp, offset: self.sought.append((tp, offset))),
            _manager=SimpleNamespace(broker_version_data=self),
            pause=lambda tp: None,
        )
        self.assignment = opened(self.ledger)

    def api_version(self, _request: object) -> int:
        return 1

    def abort(self) -> None:
        self.aborts += 1


def test_while_the_group_refuses_to_join_again_what_is_on_the_wire_is_cut_when_the_lease_runs_out() -> None:
    stage = Stage()
    stage.lease.confirm(stage.clock.now)
    stage.source._membership.abort_when_lease_runs_out()
    assert stage.source._joins.note_refusal(kafka_errors.GroupAuthorizationFailedError())
    stage.clock.advance(1.0)
    stage.source.poll(0.001)
    assert stage.aborts == 0
    stage.clock.advance(40.0)
    stage.source._joins.note_refusal(kafka_errors.GroupAuthorizationFailedError())
    stage.source.poll(0.001)
    stage.source.poll(0.001)
    assert stage.aborts == 1


@pytest.mark.parametrize("how", ["cut", "made anew"])
def test_a_partition_whose_log_is_another_one_is_not_reported_as_unreadable_any_more(how: str) -> None:
    stage = Stage()
    stage.ledger.track(stage.assignment, range(100))
    stage.source.refuse(stage.assignment, "offsets in an order that cannot be")
    assert stage.status.blocks_of(*PARTITION)
    if how == "cut":
        end = SimpleNamespace(offset=5, leader_epoch=3)
        stage.source._positions.truncate(stage.source._consumer, PARTITION, end)
    else:
        stage.source._positions.reopen(stage.source._consumer, PARTITION)
    assert (stage.status.blocks_of(*PARTITION), stage.source._unreadable.waiting) == ([], frozenset())
