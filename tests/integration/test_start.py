"""The start: what is wrong is told, what is not there yet is waited for, and then it goes on by itself."""

from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from tests.support.emulator import Emulator, running_emulator
from tests.support.worker import (
    Answer,
    StageFactory,
    WorkerFactory,
    WorkerProcess,
    free_port,
    publish,
    vector_record,
    wait_for,
    worker_settings,
)
from worker.local.broker import Broker

VECTOR = [1.0, 2.0, 3.0, 4.0]


def not_ready_because(worker: WorkerProcess, words: str) -> Answer:
    """Wait until /readyz answers 503 with these words in its reason, which is one line; it is healthy all the same."""

    def look() -> Answer | None:
        answer = worker.readyz()
        return answer if answer.status == 503 and words in answer.json["reason"] else None

    answer = wait_for(look, f"/readyz says {words!r}", told=lambda: f"{worker.readyz()}\n{worker.last_words()}")
    assert answer is not None
    assert "\n" not in answer.json["reason"]
    assert worker.healthz().status == 200
    return answer


def test_every_wrong_setting_is_told_at_once_and_the_exit_is_78(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    settings = stage.settings(
        batch__max_records=501,
        kafka__auto_offset_reset="newest",
        kafka__client='{"group_id": "mine", "retry_backoff_ms": 100}',
        oss__endpoint="http://example.com",
        delivery__max_inflight=3,
        records__formt="json",
        dead_letter__topic=stage.topic,
        shutdown__drain_seconds="long",
    )

    worker = start_worker(settings)

    assert worker.wait() == 78
    heading, *told = worker.text().splitlines()
    assert heading == f"{len(told)} wrong settings:"
    for name in (
        "batch.max_records = ",
        "kafka.auto_offset_reset = ",
        "kafka.client",
        "oss.endpoint = ",
        "OSS_VECTORS_DELIVERY__MAX_INFLIGHT",
        "OSS_VECTORS_RECORDS__FORMT",
        "dead_letter.topic = ",
        "shutdown.drain_seconds = ",
    ):
        assert len([line for line in told if name in line]) == 1, (name, told)
    assert len(told) == 8


@pytest.mark.parametrize("missing", ["routes", "oss__bucket"])
def test_a_setting_that_is_needed_is_named(new_stage: StageFactory, start_worker: WorkerFactory, missing: str) -> None:
    settings = new_stage().settings()
    del settings[f"OSS_VECTORS_{missing.upper()}"]

    worker = start_worker(settings)

    assert worker.wait() == 78
    assert missing.replace("__", ".") in worker.text()


def test_credentials_that_are_not_there_are_wrong_settings(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    settings = new_stage().settings()
    del settings["OSS_ACCESS_KEY_SECRET"]

    worker = start_worker(settings)

    assert worker.wait() == 78
    assert "OSS_ACCESS_KEY_SECRET" in worker.text()


def test_a_port_that_is_taken_is_told_in_the_last_line(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage()

    worker = start_worker(stage.settings(http__port=stage.emulator.port))

    assert worker.wait() == 1
    last = worker.text().splitlines()[-1]
    assert last.startswith("error: ")
    assert str(stage.emulator.port) in last


def test_an_unreachable_broker_is_waited_for(emulator: Emulator, start_worker: WorkerFactory, tmp_path: Path) -> None:
    port = free_port()
    bucket, index = emulator.new_index()
    topics = {"vectors": index}
    with Broker.start(tmp_path / "kafka", port=port) as there:
        with closing(KafkaAdminClient(bootstrap_servers=there.bootstrap)) as admin:
            admin.create_topics([NewTopic("vectors", 2, 1), NewTopic("vectors.dlq", 1, 1)], wait_for_metadata=True)
        publish(there.bootstrap, "vectors", [vector_record("a", VECTOR)])
        there.stop()
        settings = worker_settings(
            there, emulator, bucket=bucket, routes=topics, group="g", dead_letter_topic="vectors.dlq"
        )

        worker = start_worker(settings)
        # Nothing is known of the dead-letter topic either while there is no broker; both reasons name the address.
        answer = not_ready_because(worker, f"127.0.0.1:{port}")
        assert answer.json["assigned_partitions"] == 0
        assert answer.json["state"] == "starting"
        assert worker.metrics().state == "starting"

        there.restart()
        worker.wait_settled(1)
        worker.wait_until(lambda m: m.state == "running" and not m.blocks(), "it runs")
        assert worker.readyz().status == 200
        assert emulator.dump(bucket, index).keys() == {"a"}
        assert worker.terminate() == 0


def test_an_unreachable_service_is_waited_for(
    new_stage: StageFactory, start_worker: WorkerFactory, tmp_path: Path
) -> None:
    stage = new_stage()
    stage.publish([vector_record("a", VECTOR)])
    with running_emulator(tmp_path / "oss") as before:
        bucket, index = before.new_index()
    settings = stage.settings(oss__endpoint=before.url, bucket=bucket, routes={stage.topic: index})

    worker = start_worker(settings)
    not_ready_because(worker, "")
    worker.wait_until(lambda m: m.total("retries_total", reason="network") >= 3, "the service is asked again")
    now = worker.metrics()
    assert (now.consumed, now.state) == (0, "starting")
    assert worker.healthz().status == 200

    with running_emulator(tmp_path / "oss", before.port) as there:
        worker.wait_settled(1)
        worker.wait_ready()
        assert there.dump(bucket, index).keys() == {"a"}
        assert worker.terminate() == 0


def test_a_missing_index_blocks_its_topic_until_it_is_made(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    stage.publish([vector_record("a", VECTOR)])

    worker = start_worker(stage.settings(routes={stage.topic: "later"}))
    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "target")}, "the topic is blocked for its target")
    worker.wait_until(lambda m: m.state == "blocked", "the state is blocked")
    assert not_ready_because(worker, "later").json["state"] == "blocked"
    assert worker.metrics().consumed == 0

    stage.emulator.new_index(bucket=stage.bucket, index="later")
    worker.wait_settled(1)
    worker.wait_ready()
    assert worker.metrics().blocks() == set()
    assert stage.emulator.dump(stage.bucket, "later").keys() == {"a"}


def test_of_two_routes_the_one_whose_index_is_there_begins(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage, other = new_stage(), new_stage()
    for one in (stage, other):
        one.publish([vector_record("a", VECTOR)])

    worker = start_worker(stage.settings(routes={stage.topic: stage.index, other.topic: "later"}))
    now = worker.wait_settled(1)

    assert now.by("records_consumed_total", "topic") == {stage.topic: 1, other.topic: 0}
    now = worker.wait_until(lambda m: m.blocks() == {(other.topic, "target")}, "the other is blocked")
    worker.wait_until(lambda m: m.state == "running", "it runs")
    assert stage.dump() == {"a": VECTOR}


def test_a_route_that_contradicts_its_index_blocks(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage(dimension=4)
    stage.publish([vector_record("a", VECTOR)])
    routes = f'[{{"topic": "{stage.topic}", "index": "{stage.index}", "dimension": 3}}]'

    worker = start_worker(stage.settings() | {"OSS_VECTORS_ROUTES": routes})

    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "target")}, "the topic is blocked for its target")
    not_ready_because(worker, "dimension = 3")
    assert worker.metrics().consumed == 0


def test_a_route_that_says_all_is_held_against_its_index_before_anything_is_consumed(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(dimension=4)
    stage.publish([vector_record(f"key-{number}", [1.0, 2.0, 3.0]) for number in range(30)])
    stage.emulator.fault(bucket=stage.bucket, operation="GetVectorIndex", latency_seconds=1.5, count=1)
    routes = f'[{{"topic": "{stage.topic}", "index": "{stage.index}", "dimension": 3, "distance_metric": "euclidean"}}]'

    worker = start_worker(stage.settings() | {"OSS_VECTORS_ROUTES": routes})

    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "target")}, "the topic is blocked for its target")
    asked = len(stage.requests("GetVectorIndex"))
    # It is asked again and again, and the block holds all the while.
    wait_for(lambda: len(stage.requests("GetVectorIndex")) > asked + 2, "the index is asked for again")
    assert len(worker.log_lines("no longer blocked")) == 0
    assert (worker.metrics().consumed, stage.dead_letters()) == (0, [])


def test_without_the_dead_letter_topic_nothing_is_consumed_until_it_is_made(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    stage.publish([vector_record("a", VECTOR), vector_record("bad", [1.0])])
    missing = f"{stage.topic}.dlq"

    worker = start_worker(stage.settings(dead_letter_topic=missing))
    not_ready_because(worker, "dead-letter topic")
    worker.wait_until(
        lambda m: m.blocks() == {(stage.topic, "dead_letter_unavailable")} and m.state == "blocked",
        "the topic is blocked for its dead letters",
    )
    assert worker.log_lines("state: running") == []
    assert not_ready_because(worker, missing).json["state"] == "blocked"
    now = worker.metrics()
    assert (now.consumed, sum(stage.committed().values())) == (0, 0)

    stage.admin.create_topics([NewTopic(missing, 1, 1)], wait_for_metadata=True)
    now = worker.wait_settled(2)
    worker.wait_ready()
    assert now.outcomes() == {"put": 1, "dead_lettered": 1}
    assert stage.dump() == {"a": VECTOR}


def test_a_missing_source_topic_is_named_and_waited_for_while_the_others_are_read(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    missing = f"{stage.topic}.later"

    worker = start_worker(stage.settings(routes={stage.topic: stage.index, missing: stage.index}))
    worker.wait_ready()
    assert worker.metrics().blocks() == {(missing, "partition_unreadable")}
    assert missing in worker.wait_line("blocked")["error"]
    publish(stage.broker.bootstrap, stage.topic, [vector_record("b", VECTOR)])
    worker.wait_settled(1)

    stage.admin.create_topics([NewTopic(missing, 1, 1)], wait_for_metadata=True)
    publish(stage.broker.bootstrap, missing, [vector_record("a", VECTOR)])
    worker.wait_settled(2)
    assert worker.metrics().blocks() == set()
    assert stage.dump() == {"a": VECTOR, "b": VECTOR}


def test_a_route_whose_only_topic_is_missing_is_named_and_waited_for(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    missing = f"{stage.topic}.later"

    worker = start_worker(stage.settings(routes={missing: stage.index}))
    assert not_ready_because(worker, missing).json["state"] == "starting"

    stage.admin.create_topics([NewTopic(missing, 1, 1)], wait_for_metadata=True)
    publish(stage.broker.bootstrap, missing, [vector_record("a", VECTOR)])
    worker.wait_settled(1)
    worker.wait_ready()
    assert stage.dump() == {"a": VECTOR}
