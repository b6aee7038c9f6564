"""A group in which one member does not answer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kafka import KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from tests.support.bounded import join, thread
from tests.support.worker import Stage, StageFactory, WorkerFactory, vector_record, wait_for

SESSION_SECONDS = 6
HUNG_SECONDS = 24


@contextmanager
def hung_member(stage: Stage) -> Iterator[None]:
    """A member of the worker's group that joins, sends heartbeats, and polls no more."""
    consumer = KafkaConsumer(
        stage.topic,
        bootstrap_servers=stage.broker.bootstrap,
        group_id=stage.group,
        enable_auto_commit=False,
        session_timeout_ms=SESSION_SECONDS * 1000,
        heartbeat_interval_ms=1000,
        max_poll_interval_ms=HUNG_SECONDS * 1000,
        partition_assignment_strategy=[CooperativeStickyAssignor],
    )
    joined = threading.Event()

    def join_group() -> None:
        while not joined.is_set():
            consumer.poll(timeout_ms=200)
            if consumer.assignment():
                joined.set()

    joining = thread(join_group)
    try:
        joining.join(30)
        assert joined.is_set()
        yield
    finally:
        joined.set()
        join(joining)
        consumer.close(timeout_ms=1000)


def test_a_rebalance_that_waits_for_a_hung_member_is_no_lost_join(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=4)
    settings = stage.settings(
        kafka__session_timeout_ms=SESSION_SECONDS * 1000,
        kafka__max_poll_interval_ms=60_000,
        batch__max_records=5,
        delivery__max_in_flight=2,
    )
    first = start_worker(settings).wait_ready()
    with hung_member(stage):
        wait_for(lambda: first.metrics().total("assigned_partitions") < 4, "the other member has partitions")
        stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", latency_seconds=0.5)
        stage.publish([vector_record(f"key-{number}", [1.0, 2.0, 3.0, 4.0]) for number in range(1000)])
        first.wait_until(
            lambda now: now.buffered > 20 * HUNG_SECONDS, "it has enough to write for as long as that lasts"
        )
        second = start_worker(settings)
        # The broker waits for the hung member as long as that may go without a poll, then goes on without it.
        second.wait_until(
            lambda now: now.total("assigned_partitions") > 0, "the second has partitions", HUNG_SECONDS + 30
        )
        stage.emulator.clear_faults(stage.bucket)
        wait_for(lambda: len(stage.dump()) == 1000, "all is written", timeout=HUNG_SECONDS + 30)
        for worker in (first, second):
            anew = [line for line in worker.log_lines("not connected") if "joining again" in line["error"]]
            assert anew == []
            # Heartbeats were answered while the join waited, for four sessions: what was there to write did not wait.
            assert worker.metrics().total("lease_waits_total") == 0
