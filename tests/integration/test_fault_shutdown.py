"""A signal at any moment: blocked, retrying, in a rebalance, at the start. It ends in time, with what is settled committed."""

import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.broker import TopicFactory
from tests.support.proxy import Proxy
from tests.support.worker import (
    BUSY_S,
    LIMIT_S,
    Record,
    Stage,
    StageFactory,
    WorkerFactory,
    WorkerProcess,
    vector_record,
    versions_of,
    wait_for,
)

DRAIN_S = 3


def ends_in_time(worker: WorkerProcess, number: signal.Signals = signal.SIGTERM) -> None:
    told_at = time.monotonic()
    worker.send_signal(number)
    assert worker.wait() == 0, worker.last_words()
    assert time.monotonic() - told_at < DRAIN_S + BUSY_S, worker.last_words()


def goods(count: int) -> list[Record]:
    return [vector_record(f"good-{one}", [1.0] * 4) for one in range(count)]


BAD = Record(b"bad", b"no record")
SLOW_CLIENT = {"shutdown__drain_seconds": DRAIN_S, "delivery__retry_max_seconds": 30, "oss__read_timeout_seconds": 60}


def refused(stage: Stage, **overrides: object) -> dict[str, str]:
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", status=403)
    return stage.settings(**SLOW_CLIENT, **overrides)


def without_dead_letters(stage: Stage) -> dict[str, str]:
    return stage.settings(**SLOW_CLIENT, dead_letter__topic="")


def missing_index(stage: Stage) -> dict[str, str]:
    return stage.settings(**SLOW_CLIENT, routes={stage.topic: "later"})


def missing_dead_letter_topic(stage: Stage) -> dict[str, str]:
    return stage.settings(**SLOW_CLIENT, dead_letter_topic=f"{stage.topic}.later")


BLOCKED: dict[str, tuple[Callable[[Stage], dict[str, str]], int]] = {
    "refused credentials": (refused, 0),
    "no dead-letter topic": (without_dead_letters, 5),
    "a missing index": (missing_index, 0),
    "a missing dead-letter topic": (missing_dead_letter_topic, 0),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_while_blocked(new_stage: StageFactory, start_worker: WorkerFactory, name: str) -> None:
    settings, settled = BLOCKED[name]
    stage = new_stage(partitions=1)
    stage.publish([*goods(5), BAD, *goods(3)])
    worker = start_worker(settings(stage))
    worker.wait_until(lambda m: m.state == "blocked" and m.blocks(), "it is blocked")
    worker.wait_until(lambda m: m.settled >= settled, "what can be settled is")

    ends_in_time(worker)

    assert stage.committed().get(0, 0) == settled


def test_while_the_dead_letter_topic_is_gone(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    """The client of dead letters waits for longer than the drain may take."""
    stage = new_stage(partitions=1)
    worker = start_worker(stage.settings(**SLOW_CLIENT)).wait_ready()
    stage.admin.delete_topics([stage.dead_letter_topic])
    wait_for(lambda: stage.dead_letter_topic not in stage.admin.list_topics(), "the topic is gone")
    stage.publish([*goods(5), BAD, BAD, BAD])
    worker.wait_until(lambda m: m.settled == 5 and m.buffered == 3, "dead letters wait")

    ends_in_time(worker)

    assert stage.committed() == {0: 5}


def test_while_a_dead_letter_is_too_large(
    new_stage: StageFactory, new_topic: TopicFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    letters = new_topic(1, max_message_bytes="2000")
    stage.publish([*goods(5), Record(b"bad", random.Random(0).randbytes(5000))])  # which no codec makes smaller
    worker = start_worker(stage.settings(**SLOW_CLIENT, dead_letter_topic=letters))
    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "dead_letter_unavailable")} and m.settled == 5, "blocked")

    ends_in_time(worker)

    assert stage.committed() == {0: 5}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_a_rebalance_that_waits_for_the_service(
    new_stage: StageFactory, start_worker: WorkerFactory, number: signal.Signals
) -> None:
    stage = new_stage(partitions=4)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", hang=True)
    stage.publish_versions([(f"key-{one}", [float(one)] * 4) for one in range(200)])
    settings = stage.settings(
        **SLOW_CLIENT, kafka__revoke_seconds=30, kafka__session_timeout_ms=45_000, batch__max_records=10
    )
    first = start_worker(settings)
    first.wait_until(lambda m: m.total("requests_in_flight") == 2, "requests wait for an answer")
    second = start_worker(settings | {"OSS_VECTORS_OSS__READ_TIMEOUT_SECONDS": "2"})
    first.wait_until(lambda m: m.total("rebalances_total", event="revoked") == 1, "it is asked to give some back")

    ends_in_time(first, number)

    stage.emulator.clear_faults(stage.bucket)
    second.wait_until(lambda m: m.total("assigned_partitions") == 4, "the other has all")
    stage.wait_committed_to_the_end(second)
    assert stage.dump() == stage.model()


@contextmanager
def unanswering_port(port: int = 0) -> Iterator[int]:
    """A port at which connections are not even refused: nobody accepts, and no more may wait."""
    with socket.create_server(("127.0.0.1", port), backlog=0) as listener:
        waiting = []
        for _ in range(3):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
            waiting.append(one)
        try:
            yield listener.getsockname()[1]
        finally:
            for one in waiting:
                one.close()


def test_at_the_start_while_the_indexes_do_not_answer(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stages = [new_stage(partitions=1) for _ in range(4)]
    for stage in stages:
        stage.bucket = stages[0].bucket
    routes = {stage.topic: f"index{number}" for number, stage in enumerate(stages)}
    stages[0].emulator.fault(bucket=stages[0].bucket, operation="GetVectorIndex", hang=True)
    worker = start_worker(stages[0].settings(**SLOW_CLIENT, routes=routes))
    worker.wait_until(lambda m: m.total("assigned_partitions") == 4, "it has joined")
    wait_for(lambda: len(stages[0].emulator.requests(bucket=stages[0].bucket)) >= 4, "all indexes are asked for")
    assert worker.metrics().state == "starting"

    ends_in_time(worker)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_the_start_while_no_connection_to_the_service_comes_about(
    new_stage: StageFactory, start_worker: WorkerFactory, number: signal.Signals
) -> None:
    stage = new_stage(partitions=1)
    with unanswering_port() as port:
        worker = start_worker(
            stage.settings(**SLOW_CLIENT, oss__endpoint=f"http://127.0.0.1:{port}", oss__connect_timeout_seconds=30)
        )
        worker.wait_until(lambda m: m.total("assigned_partitions") == 1, "it has joined")

        ends_in_time(worker, number)


def test_while_no_connection_to_the_service_comes_about(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    """A connection that is being made cannot be cut, and may take longer than the drain."""
    stage = new_stage(partitions=1)
    with Proxy(stage.emulator.port) as proxy:
        settings = stage.settings(
            **SLOW_CLIENT,
            oss__endpoint=f"http://127.0.0.1:{proxy.port}",
            oss__connect_timeout_seconds=30,
            batch__max_records=1,
        )
        worker = start_worker(settings).wait_ready()
    with unanswering_port(proxy.port):
        stage.publish_versions(versions_of(keys=30, count=30))
        worker.wait_until(lambda m: m.total("requests_in_flight") == 2, "requests connect")

        ends_in_time(worker)

    assert stage.committed().get(0, 0) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_at_the_start_while_the_broker_swallows_everything_and_again_at_once(
    new_stage: StageFactory, start_worker: WorkerFactory, second: signal.Signals
) -> None:
    stage = new_stage(partitions=1)
    with unanswering_port() as port:
        settings = stage.settings(**SLOW_CLIENT, kafka__bootstrap_servers=f"127.0.0.1:{port}")
        one, other = start_worker(settings), start_worker(settings)
        for worker in (one, other):
            assert worker.metrics().state == "starting"

        # The client is in the middle of its own waiting for a broker (5 s) on the main loop.
        told_at = time.monotonic()
        for worker in (one, other):
            worker.send_signal(signal.SIGTERM)
        wait_for(lambda: not one.is_running() or time.monotonic() - told_at > 0.3, "the first signal is there")
        other.send_signal(second)

        assert other.wait(LIMIT_S) in (0, 128 + second)
        assert one.wait(LIMIT_S) == 0
        assert time.monotonic() - told_at < 5 + BUSY_S
