"""A process that may have lost its partitions does not write: frozen beyond its session, or cut off from the group."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Literal

import pytest
from kafka import KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from tests.support.emulator import Emulator
from tests.support.fronted_broker import FrontedBroker, fronted_broker
from tests.support.worker import LIMIT_S, Stage, StageFactory, WorkerFactory, WorkerProcess, versions_of, wait_for

SESSION_S = 3
KEYS = 392
JOIN_GROUP = 11  # the request's key in Kafka's protocol
JOIN_S = 6  # for which a rebalance waits for a member
HEARTBEAT_S = 3.0  # the longest between two heartbeats
SLACK_S = 3.0  # for what is no promise: when the log tells of it


def newest(stage_version: float) -> list[tuple[str, list[float]]]:
    """One version of every key."""
    return [(f"key-{number}", [stage_version, float(number), 0.5, 1.0]) for number in range(KEYS)]


def wait_for_partitions(worker: WorkerProcess, count: int) -> None:
    worker.wait_until(lambda now: now.total("assigned_partitions") == count, f"it has {count} partitions")


def test_a_worker_that_was_frozen_beyond_its_session_writes_nothing_over_its_successor(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=4)
    settings = stage.settings(kafka__session_timeout_ms=SESSION_S * 1000, batch__max_records=5)
    frozen, successor = workers = [start_worker(settings).wait_ready() for _ in range(2)]
    for worker in workers:
        wait_for_partitions(worker, 2)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", latency_seconds=0.5)
    stage.publish_versions(newest(1.0))
    frozen.wait_until(
        lambda now: now.buffered > KEYS / 4 and now.total("requests_in_flight"), "its work is queued in slots"
    )

    frozen.send_signal(signal.SIGSTOP)
    stage.emulator.clear_faults(stage.bucket)
    stage.publish_versions(newest(2.0))
    wait_for_partitions(successor, 4)
    stage.wait_committed_to_the_end(successor)
    assert stage.dump() == stage.model()
    before = max(entry.sequence for entry in stage.requests())
    frozen.send_signal(signal.SIGCONT)

    wait_for_partitions(frozen, 2)
    frozen.wait_until(lambda now: not now.buffered, "what it had queued is given up")
    stage.wait_committed_to_the_end(successor)
    stale = {key for key, vector in stage.dump().items() if stage.model()[key] != vector}
    assert len(stale) == 0
    assert [entry for entry in stage.requests("PutVectors") if entry.sequence > before and entry.applied] == []


def group_state(stage: Stage) -> str:
    return str(stage.admin.describe_groups([stage.group])[stage.group]["group_state"])


def members(stage: Stage) -> list[str]:
    return [one["member_id"] for one in stage.admin.describe_groups([stage.group])[stage.group]["members"]]


@pytest.fixture(scope="module")
def front(emulator: Emulator) -> Iterator[FrontedBroker]:
    """A broker behind a proxy that notes requests and cuts workers off."""
    with fronted_broker(emulator) as running:
        yield running


@pytest.fixture
def hanging_member() -> Iterator[Callable[[Stage], None]]:
    """Puts a member into a group that never joins again, so that the next rebalance waits for it."""
    with ExitStack() as stack:

        def put(stage: Stage) -> None:
            consumer = KafkaConsumer(
                stage.topic,
                bootstrap_servers=stage.broker.bootstrap,
                group_id=stage.group,
                max_poll_interval_ms=JOIN_S * 1000,
                session_timeout_ms=60_000,
                partition_assignment_strategy=[CooperativeStickyAssignor],
                enable_auto_commit=False,
            )
            stack.callback(consumer.close, timeout_ms=1000)
            wait_for(lambda: consumer.poll(timeout_ms=100) or consumer.assignment(), "it has joined")

        yield put


def test_a_worker_that_is_expelled_in_the_middle_of_a_rebalance_gives_up_what_it_had(
    front: FrontedBroker, start_worker: WorkerFactory, hanging_member: Callable[[Stage], None]
) -> None:
    stage = front.new_stage(partitions=6)
    settings = stage.settings(
        kafka__session_timeout_ms=SESSION_S * 1000, kafka__max_poll_interval_ms=JOIN_S * 1000, batch__max_records=5
    )
    frozen = start_worker(settings).wait_ready()
    (its_id,) = members(stage)
    successor = start_worker(settings).wait_ready()
    for worker in (frozen, successor):
        wait_for_partitions(worker, 3)
    hanging_member(stage)
    for worker in (frozen, successor):
        wait_for_partitions(worker, 2)
    before = len(frozen.log_lines("partitions lost"))
    with front.proxy.noting(JOIN_GROUP) as joins:
        start_worker(settings)  # a rebalance, which waits for the member that hangs
        wait_for(lambda: any(its_id.encode() in join for join in list(joins)), "it has sent its join")

    frozen.send_signal(signal.SIGSTOP)
    assert group_state(stage) == "PreparingRebalance"  # its join is not answered yet
    # The rebalance ends without the member that hangs, and then without the frozen one.
    wait_for(lambda: len(members(stage)) == 2 and group_state(stage) == "Stable", "the group goes on with the others")
    frozen.send_signal(signal.SIGCONT)

    frozen.wait_line("partitions lost")
    assert len(frozen.log_lines("partitions lost")) == before + 1
    frozen.wait_ready()


@pytest.mark.parametrize("way", ["swallowing", "refusing"])
@pytest.mark.parametrize("session", [6, 45])
def test_a_worker_that_is_cut_off_from_the_group_writes_no_longer_than_its_session(
    front: FrontedBroker, start_worker: WorkerFactory, way: Literal["swallowing", "refusing"], session: int
) -> None:
    stage = front.new_stage(partitions=1)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", hang=True, keys=["hangs"])
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", latency_seconds=0.5)
    settings = stage.settings(
        kafka__session_timeout_ms=session * 1000,
        batch__max_records=5,
        delivery__max_in_flight=2,  # of which one hangs
        oss__read_timeout_seconds=10 * session,
    )
    stage.publish_versions([("hangs", [0.0] * 4), *versions_of(keys=10_000, count=30 * session)])
    worker = start_worker(settings)
    wait_for(lambda: any("hangs" in one.keys for one in stage.requests()), "a request hangs", told=worker.last_words)
    worker.wait_until(lambda now: now.buffered > 20 * session, "enough is queued for longer than a session")

    with getattr(front.proxy, way)():
        cut_off, cut_off_at = time.monotonic(), time.time()
        line = worker.wait_line("not connected", timeout=session + SLACK_S * 4)
        worker.wait_until(lambda now: not now.total("assigned_partitions"), "it has given up its partitions")
        gone_at = datetime.fromisoformat(line["time"]).timestamp() - cut_off_at
        requests = stage.requests("PutVectors")

        assert session - HEARTBEAT_S - SLACK_S < gone_at < session + SLACK_S
        # The last answered heartbeat was sent before it was cut off; the group gives the partitions away a session later.
        assert [one for one in requests if one.started > cut_off + session] == []
        (hung,) = [one for one in requests if "hangs" in one.keys]
        assert hung.ended is not None
        assert hung.ended < cut_off + session
        # And it goes on while it may.
        assert max(one.started for one in requests) > cut_off + session * 0.75 - HEARTBEAT_S - SLACK_S
        assert worker.metrics().total("lease_waits_total") > 0
        assert worker.readyz().status == 503
        assert worker.healthz().status == 200
    stage.emulator.clear_faults(stage.bucket)
    # The broker may keep the old member for as long as its session lasts.
    wait_for(lambda: stage.dump() == stage.model(), "all is written", 2 * session + LIMIT_S, worker.last_words)
