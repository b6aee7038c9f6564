"""Refused credentials and wrong targets: blocked and told, probed slowly, gone on with by itself; the others go on."""

from itertools import pairwise

import alibabacloud_oss_v2.vectors as oss_vectors
import pytest

from tests.support.emulator import Emulator, Fault
from tests.support.worker import StageFactory, WorkerFactory, versions_of, wait_for

PROBE_S = 0.7  # delivery.retry_max_seconds of these tests

BLOCKING: dict[str, tuple[Fault, str]] = {
    "401": ({"status": 401, "code": "Unauthorized"}, "credentials"),
    "403 policy": ({"status": 403, "code": "AccessDenied"}, "credentials"),
    "403 key": ({"status": 403, "code": "InvalidAccessKeyId", "body": "xml"}, "credentials"),
    "403 secret": ({"status": 403, "code": "SignatureDoesNotMatch"}, "credentials"),
    "403 account": ({"status": 403, "code": "UserDisable"}, "credentials"),
    "403 clock": ({"status": 403, "code": "RequestTimeTooSkewed"}, "credentials"),
    "403 from a gateway": ({"status": 403, "body": "html"}, "credentials"),
    "404 bucket": ({"status": 404, "code": "NoSuchBucket"}, "target"),
    "404 index": ({"status": 404, "code": "NoSuchVectorIndex", "body": "truncated"}, "target"),
    "405": ({"status": 405, "code": "MethodNotAllowed"}, "target"),
}


def test_each_kind_blocks_its_route_alone_is_probed_slowly_and_goes_on_when_mended(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    """One route for each kind, and one that nothing ails, in one worker."""
    well = new_stage(partitions=1)
    ill = {name: new_stage(partitions=1) for name in BLOCKING}
    for number, (name, stage) in enumerate(ill.items()):
        stage.bucket, stage.index = stage.emulator.new_index(bucket=well.bucket, index=f"ill{number}")
        stage.group = well.group
        scope: Fault = {"bucket": stage.bucket, "index": stage.index, "operation": "PutVectors"}
        rule: Fault = {**BLOCKING[name][0], **scope}
        stage.emulator.fault(**rule)
        stage.publish_versions(versions_of(keys=40, count=40))
    every = [well, *ill.values()]
    settings = well.settings(
        routes={stage.topic: stage.index for stage in every},
        batch__max_records=10,
        delivery__max_in_flight=4,
        delivery__retry_max_seconds=PROBE_S,
    )

    worker = start_worker(settings)
    expected = {(ill[name].topic, reason) for name, (_, reason) in BLOCKING.items()}
    blocked = worker.wait_until(lambda m: m.blocks() == expected, "each is blocked for its reason")
    assert blocked.state == "running"
    # The one that nothing ails goes on.
    well.publish_versions(versions_of(keys=100, count=300))
    worker.wait_until(lambda m: m.total("records_settled_total", topic=well.topic) == 300, "the other goes on")
    for stage in ill.values():
        wait_for(lambda one=stage: len(one.requests("PutVectors")) >= 9, "it is probed on", told=worker.last_words)  # type: ignore[misc]  # a bound default
    for stage in ill.values():
        # At first as many as may be in flight; then one probe at a time.
        starts = [one.started for one in stage.requests("PutVectors")][4:]
        assert min(later - earlier for earlier, later in pairwise(starts)) > 0.9 * PROBE_S, stage.index
        assert stage.committed().get(0, 0) == 0
        assert stage.dump() == {}
    assert worker.metrics().total("dead_letters_total") == 0

    well.emulator.clear_faults(well.bucket)
    worker.wait_settled(300 + 40 * len(ill))
    worker.wait_until(lambda m: not m.blocks() and m.state == "running", "nothing blocks any more")
    for stage in every:
        assert stage.dump() == stage.model()


def test_an_index_that_is_deleted_and_made_again(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage()
    worker = start_worker(stage.settings()).wait_ready()
    stage.publish_versions(versions_of(keys=20, count=50))
    worker.wait_settled(50)
    request = oss_vectors.models.DeleteVectorIndexRequest(bucket=stage.bucket, index_name=stage.index)
    stage.emulator.client().delete_vector_index(request)
    gone = len(stage.history)

    stage.publish_versions(versions_of(keys=20, count=50, seed=1, first=50))
    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "target")}, "the topic is blocked for its target")
    worker.wait_until(lambda m: m.state == "blocked", "the state is blocked")
    assert "NoSuchVectorIndex" in worker.readyz().json["reason"]
    assert worker.healthz().status == 200
    told = ["<h1>blocked</h1>", "NoSuchVectorIndex", ">paused (target)<"]
    wait_for(lambda: all(words in worker.get("/").body for words in told), "the page tells it", told=worker.last_words)
    stage.emulator.new_index(bucket=stage.bucket, index=stage.index)
    now = worker.wait_settled(100)

    del stage.history[:gone]
    assert stage.dump() == stage.model()
    assert now.total("dead_letters_total") == 0
    worker.wait_until(lambda m: not m.blocks() and m.state == "running", "nothing blocks any more")


def test_a_bucket_that_is_missing_at_the_start(
    emulator: Emulator, new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    stage.publish_versions(versions_of(keys=20, count=50))
    stage.bucket = f"later-{stage.bucket}"[:32].rstrip("-")
    worker = start_worker(stage.settings())

    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "target")}, "the topic is blocked for its target")
    worker.wait_until(lambda m: m.state == "blocked", "the state is blocked")
    assert "NoSuchBucket" in worker.readyz().json["reason"]
    assert worker.metrics().consumed == 0
    emulator.client().put_vector_bucket(oss_vectors.models.PutVectorBucketRequest(bucket=stage.bucket))
    emulator.new_index(bucket=stage.bucket, index=stage.index)
    worker.wait_settled(50)

    assert stage.dump() == stage.model()
    worker.wait_until(lambda m: not m.blocks() and m.state == "running", "nothing blocks any more")


def test_credentials_that_are_refused_at_the_start_are_waited_for(
    new_stage: StageFactory, start_worker: WorkerFactory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With credentials from a file, which is read again when it changes: nothing has to be started anew."""
    stage = new_stage()
    stage.publish_versions(versions_of(keys=20, count=50))
    file = tmp_path_factory.mktemp("credentials") / "credentials.json"
    file.write_text('{"access_key_id": "test", "access_key_secret": "wrong"}')
    worker = start_worker(stage.settings(oss__credentials="file", oss__credentials_file=file))

    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "credentials")}, "the topic is blocked")
    assert worker.metrics().consumed == 0
    file.write_text('{"access_key_id": "test", "access_key_secret": "test"}')
    worker.wait_settled(50)

    assert stage.dump() == stage.model()
    worker.wait_until(lambda m: not m.blocks() and m.state == "running", "nothing blocks any more")
