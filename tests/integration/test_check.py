"""`check` on a real broker and the emulator: each fault is brought about, and found with advice of its own.

Faults that need neither are in `tests/unit/test_check_*.py`: names, ports, certificates, proxies, the memory, the settings.
"""

import json
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.structs import OffsetAndMetadata

from tests.integration import test_kafka_tls
from tests.integration.test_kafka_tls import NAME, PASSWORD, Secured
from tests.support.acls import add_acls
from tests.support.broker import GroupFactory, TopicFactory, create_topic
from tests.support.commands import command
from tests.support.http_proxy import HttpProxy
from tests.support.plain_member import joined_consumer
from tests.support.worker import BUSY_S, Record, Stage, StageFactory, vector_record
from tests.unit.samples import NEEDED
from worker.settings.load import load
from worker.tools.brokers import when_loaded
from worker.tools.check import lag
from worker.tools.check.cluster import cluster
from worker.tools.check.report import Finding, Status
from worker.tools.check.run import LIMIT_SECONDS
from worker.tools.check.sample import From, sample
from worker.tools.check.service import service

secured_broker = test_kafka_tls.secured


@pytest.fixture(scope="module")
def topics_after_a_check(secured_broker: Secured) -> list[str]:
    """The topics of a cluster in which no group was ever used, after a check of it."""
    broker = secured_broker.broker
    changed = {"kafka__bootstrap_servers": broker.bootstrap, "kafka__group_id": "group-of-a-check"}
    settings = NEEDED | {f"OSS_VECTORS_{name.upper()}": value for name, value in changed.items()}
    list(cluster(load(None, settings).settings))
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        return [topic["name"] for topic in admin.describe_topics()]


@pytest.fixture(scope="module")
def secured(secured_broker: Secured, topics_after_a_check: list[str]) -> Secured:
    """A broker with TLS and passwords."""
    del topics_after_a_check
    return secured_broker


ROOM = "2000000"  # bytes: a record of the default size, and the headers of its dead letter
LOADED_TRIES = 120  # a minute: the coordinator of a broker that has just begun, on a busy machine
FAULT, WARNING = Status.FAULT, Status.WARNING


@pytest.fixture
def stage(new_stage: StageFactory, new_topic: TopicFactory) -> Stage:
    """A stage without any fault: its dead-letter topic has room for headers."""
    found = new_stage(partitions=2)
    found.dead_letter_topic = new_topic(max_message_bytes=ROOM)
    return found


def wrong(findings: Iterator[Finding]) -> dict[str, tuple[Status, str, str]]:
    """Return status, result and advice of faults and warnings by check and subject. Each must have its own advice."""
    found = [one for one in findings if one.status in (FAULT, WARNING)]
    assert all(one.advice for one in found)
    return {f"{one.check} {one.subject}": (one.status, one.result, one.advice) for one in found}


def of_cluster(settings: Mapping[str, str]) -> dict[str, tuple[Status, str, str]]:
    """Return what is wrong with the brokers and what they hold."""
    return wrong(cluster(load(None, settings).settings))


def of_service(settings: Mapping[str, str]) -> dict[str, tuple[Status, str, str]]:
    """Return what is wrong with the service."""
    return wrong(service(load(None, settings).settings, settings))


def assert_only(
    found: Mapping[str, tuple[Status, str, str]], name: str, status: Status, result: str, advice: str
) -> None:
    """Assert that one thing is wrong, and what is said of it."""
    assert list(found) == [name], found
    assert found[name][0] == status
    assert result in found[name][1], found
    assert advice in found[name][2], found


# -- the command


def test_a_check_does_not_make_a_new_cluster_create_its_topic_of_offsets(topics_after_a_check: list[str]) -> None:
    """The first question about a group, in the life of a cluster, has the brokers create it."""
    assert "__consumer_offsets" not in topics_after_a_check
    assert topics_after_a_check  # those of the fixture are shown


def names(stage: Stage) -> set[str]:
    """The topics and groups of the broker, to which a check could add one."""
    groups = {f"group {one['group_id']}" for one in stage.admin.list_groups()}
    return groups | {f"topic {name}" for name in stage.admin.list_topics()}


def snapshot(stage: Stage) -> object:
    """Everything of the stage's own that a check could change."""
    return (
        when_loaded(stage.committed, tries=LOADED_TRIES),
        stage.ends(),
        sorted(stage.dump()),
    )


def test_a_sound_stack_has_no_fault_and_nothing_is_changed(stage: Stage) -> None:
    stage.publish_versions([(f"key-{number}", [1.0, 0.0, 0.0, 0.0]) for number in range(40)])
    commit(stage, {0: 3, 1: 0})
    before, names_before = snapshot(stage), names(stage)
    done = command(stage.settings(), "check", "--sample", 20, "--from", "committed", "--json")
    report = json.loads(done.out)
    # The limit of the memory is this machine's.
    problems = [one for one in report["findings"] if one["status"] in ("fault", "warning") and one["check"] != "memory"]
    # The vectors are one and the same, which the sample reports.
    assert [(one["check"], one["status"]) for one in problems] == [("sample.vectors", "warning")]
    assert (done.code, report["version"], report["result"]) == (0, 1, "warning")
    assert {"check", "subject", "status", "result", "advice"} == set().union(*report["findings"])
    assert snapshot(stage) == before
    assert names(stage) - names_before == set()  # the broker removes unused groups of other tests in its own time
    assert [entry for entry in stage.requests() if entry.applied and entry.change is not None] == []


def test_a_fault_ends_with_code_3_and_is_shown_without_colours(stage: Stage) -> None:
    done = command(stage.settings(routes={stage.topic: "absent"}) | {"OSS_SESSION_TOKEN": ""}, "check")
    assert done.code == 3
    assert f"{'fault':<8} {'index':<23} absent: 404 NoSuchVectorIndex: " in done.out
    assert "         -> create it, or correct the route's index\n" in done.out
    lines = done.out.splitlines()
    shown = {line.split()[1] for line in lines if line.startswith(("fault ", "warning "))}
    assert shown - {"memory"} == {"index"}  # the limit of the memory is this machine's
    assert re.search(r": \d faults?, \d warnings?$", lines[-1])
    assert "\x1b" not in done.out


def test_wrong_settings_end_with_code_78(stage: Stage) -> None:
    done = command(stage.settings(batch__max_records="many"), "check", "--json")
    assert (done.code, done.out) == (78, "")
    assert "batch.max_records" in done.err


@contextmanager
def swallowing() -> Iterator[int]:
    """A port that accepts connections and never says anything; yields it."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


def test_it_ends_in_time_when_nothing_answers(stage: Stage) -> None:
    """Both sides accept connections and are silent, which is what takes the longest to notice."""
    with swallowing() as kafka, swallowing() as oss:
        settings = stage.settings(
            kafka__bootstrap_servers=f"127.0.0.1:{kafka}", oss__endpoint=f"http://127.0.0.1:{oss}"
        )
        began = time.monotonic()
        done = command(settings, "check", "--json", "--sample", 5)
        took = time.monotonic() - began
    faults = {one["check"] for one in json.loads(done.out)["findings"] if one["status"] == "fault"}
    assert (done.code, faults >= {"kafka.login", "index"}) == (3, True)
    assert took < LIMIT_SECONDS + BUSY_S


# -- topics


def test_a_missing_topic(stage: Stage) -> None:
    found = of_cluster(stage.settings(routes={"nobody-made-it": stage.index}))
    assert_only(found, "topic nobody-made-it", FAULT, "no such topic", "create it")


def test_a_missing_dead_letter_topic(stage: Stage) -> None:
    found = of_cluster(stage.settings(dead_letter_topic="nobody-made-it"))
    assert_only(found, "dead_letter.topic nobody-made-it", FAULT, "no such topic", "create it")


@pytest.mark.parametrize(
    ("config", "name", "status", "result", "advice"),
    [
        ({"max_message_bytes": "1000000"}, "dead_letter.size", WARNING, "max.message.bytes is 1000000", "set it to"),
        ({"retention_ms": "3600000"}, "dead_letter.retention", WARNING, "kept for 1.0 h", "raise retention.ms"),
        ({"cleanup_policy": "compact"}, "dead_letter.cleanup", FAULT, "compacted", "delete"),
        ({"min_insync_replicas": "2"}, "dead_letter.replicas", FAULT, "refuse every write", "min.insync.replicas"),
    ],
    ids=["size", "retention", "compacted", "replicas"],
)
def test_a_dead_letter_topic_that_cannot_hold_its_records(
    stage: Stage, new_topic: TopicFactory, config: dict[str, str], name: str, status: Status, result: str, advice: str
) -> None:
    dead_letters = new_topic(1, **({"max_message_bytes": ROOM} | config))
    subject = dead_letters if status is FAULT else f"{dead_letters} beside {stage.topic}"
    found = of_cluster(stage.settings(dead_letter_topic=dead_letters))
    assert_only(found, f"{name} {subject}", status, result, advice)


def test_records_that_are_larger_than_a_request(stage: Stage) -> None:
    found = of_cluster(stage.settings(batch__max_bytes=100_000))
    assert_only(found, f"topic.size {stage.topic}", WARNING, "100000 (batch.max_bytes)", "too_large")


# -- the group


def test_a_session_timeout_that_the_brokers_do_not_allow(stage: Stage) -> None:
    found = of_cluster(stage.settings(kafka__session_timeout_ms=2_000_000, kafka__max_poll_interval_ms=3_000_000))
    assert_only(
        found, "kafka.session_timeout kafka.session_timeout_ms", FAULT, "the brokers allow 1000 to 1800000", "bounds"
    )


@contextmanager
def joined(stage: Stage, topics: Sequence[str], **options: Any) -> Iterator[None]:
    """A member of the stage's group that another application might be."""
    with closing(joined_consumer(stage.broker.bootstrap, stage.group, topics, client_id="other-app", **options)):
        yield


def test_a_group_with_another_assignor(stage: Stage) -> None:

    with joined(stage, [stage.topic], partition_assignment_strategy=[RangePartitionAssignor]):
        found = of_cluster(stage.settings())
    assert_only(
        found, f"group.assignor {stage.group}", FAULT, "use the assignor range", "choose another kafka.group_id"
    )
    assert "other-app at 127.0.0.1" in found[f"group.assignor {stage.group}"][1]


def test_a_group_that_another_application_uses(stage: Stage, new_topic: TopicFactory) -> None:
    other = new_topic()
    with joined(stage, [stage.topic, other], partition_assignment_strategy=[CooperativeStickyAssignor]):
        found = of_cluster(stage.settings())
    assert_only(found, f"group {stage.group}", WARNING, f"also read {other}", "choose another kafka.group_id")


def test_a_member_with_the_same_instance_id(stage: Stage) -> None:
    with joined(
        stage, [stage.topic], partition_assignment_strategy=[CooperativeStickyAssignor], group_instance_id="worker-1"
    ):
        found = of_cluster(stage.settings(kafka__group_instance_id="worker-1"))
    assert_only(found, f"group.instance {stage.group}", WARNING, "worker-1 is there now", "a value of its own")


def commit(stage: Stage, offsets: Mapping[int, int]) -> None:
    """Commit offsets of the stage's topic for its group."""
    found = {TopicPartition(stage.topic, number): OffsetAndMetadata(at, "", -1) for number, at in offsets.items()}
    when_loaded(lambda: stage.admin.alter_group_offsets(stage.group, found), tries=LOADED_TRIES)


def fill(stage: Stage, count: int) -> None:
    """Publish so many records to partition 0."""
    stage.publish([vector_record(f"key-{number}", [1.0, 2.0, 3.0, number], 0) for number in range(count)])


def test_a_committed_offset_whose_records_retention_removed(stage: Stage) -> None:
    fill(stage, 10)
    commit(stage, {0: 2, 1: 0})
    stage.admin.delete_records({TopicPartition(stage.topic, 0): 5})
    found = of_cluster(stage.settings())
    assert_only(found, f"lag.committed {stage.topic}", FAULT, f"3 offsets of {stage.topic}/0", "publish these records")


def test_a_committed_offset_beyond_the_end(stage: Stage) -> None:
    commit(stage, {0: 100, 1: 0})
    found = of_cluster(stage.settings())
    assert_only(found, f"lag.committed {stage.topic}", FAULT, f"{stage.topic}/0 is beyond the end", "commit the right")


def test_the_lag_and_the_time_that_retention_leaves(stage: Stage) -> None:
    fill(stage, 10)
    commit(stage, {0: 4, 1: 0})
    settings = load(None, stage.settings()).settings
    [found] = [one for one in cluster(settings) if one.check == "lag"]
    assert (found.status, found.result) == (Status.OK, "6 records are not committed")
    configs = {"retention.ms": {"value": "3600000"}, "cleanup.policy": {"value": "delete"}}
    for minutes, status in ((10, Status.OK), (54, WARNING), (70, WARNING)):
        later = time.time() + minutes * 60
        findings = lag.lag(settings, stage.admin, {stage.topic: configs}, wall=partial(float, later))
        [left] = [one for one in findings if one.check == "lag.retention"]
        assert left.status is status, left
        assert f"leaves {max(0, 60 - minutes) / 60:.1f} h" in left.result


@pytest.mark.parametrize(
    ("reset", "status", "advice"),
    [("none", FAULT, "it blocks until then"), ("latest", WARNING, "never written")],
)
def test_a_group_that_committed_nothing_and_does_not_begin_at_the_first_record(
    stage: Stage, reset: str, status: Status, advice: str
) -> None:
    fill(stage, 3)
    found = of_cluster(stage.settings(kafka__auto_offset_reset=reset))
    assert_only(found, f"lag.begin {stage.topic}", status, "have 3 records", advice)


# -- rights, on a broker with TLS and passwords


def login(secured: Secured, stage: Stage, **overrides: object) -> dict[str, str]:
    """Return settings that go to the secured broker; its topics are those of the test."""
    own: dict[str, object] = {
        "kafka__bootstrap_servers": secured.address,
        "kafka__security_protocol": "SASL_SSL",
        "kafka__ssl_cafile": str(secured.certificates),
        "kafka__sasl_mechanism": "PLAIN",
        "kafka__sasl_plain_username": NAME,
        "kafka__sasl_plain_password": PASSWORD,
    }
    return stage.settings(**(own | overrides))


def rule(
    secured: Secured, permission: ACLPermissionType, kind: ResourceType, name: str, operation: ACLOperation
) -> None:
    """Permit or deny the worker's user something. What has a rule is denied to everybody whom none permits it."""
    with closing(KafkaAdminClient(bootstrap_servers=secured.broker.bootstrap)) as admin:
        add_acls(admin, ACL(f"User:{NAME}", "*", operation, permission, ResourcePattern(kind, name)))


def show_only(secured: Secured, kind: ResourceType, name: str) -> None:
    """Let the worker's user see a topic or group, and do nothing with it."""
    rule(secured, ACLPermissionType.ALLOW, kind, name, ACLOperation.DESCRIBE)


def commit_on(secured: Secured, group: str, topic: str) -> None:
    """Commit an offset, so that the group is there; only of a group that is there the brokers say who may join it."""
    with closing(KafkaAdminClient(bootstrap_servers=secured.broker.bootstrap)) as admin:
        offsets = {TopicPartition(topic, 0): OffsetAndMetadata(0, "", -1)}
        when_loaded(lambda: admin.alter_group_offsets(group, offsets), tries=LOADED_TRIES)


def new_topics(secured: Secured, count: int) -> list[str]:
    """Return topics of the test's own on the secured broker."""
    with closing(KafkaAdminClient(bootstrap_servers=secured.broker.bootstrap)) as admin:
        return [create_topic(admin, max_message_bytes=ROOM) for _ in range(count)]


def test_a_wrong_password_is_a_fault_that_does_not_show_it(secured: Secured, stage: Stage) -> None:
    done = command(login(secured, stage, kafka__sasl_plain_password="wrong-and-secret"), "check", "--json")
    [fault] = [one for one in json.loads(done.out)["findings"] if one["check"] == "kafka.login"]
    assert (done.code, fault["subject"]) == (3, f"SASL_SSL PLAIN as {NAME}")
    assert "Invalid username or password" in fault["result"]
    assert fault["advice"] == "correct kafka.sasl_plain_username and kafka.sasl_plain_password"
    assert "wrong-and-secret" not in done.out + done.err


def test_each_missing_right_is_a_fault_of_its_own(secured: Secured, stage: Stage, new_group: GroupFactory) -> None:
    source, dead_letters, hidden = new_topics(secured, 3)
    group = new_group()
    show_only(secured, ResourceType.TOPIC, source)
    show_only(secured, ResourceType.TOPIC, dead_letters)
    rule(secured, ACLPermissionType.DENY, ResourceType.TOPIC, hidden, ACLOperation.ALL)
    show_only(secured, ResourceType.GROUP, group)
    commit_on(secured, group, source)
    routes = {source: stage.index, hidden: stage.index}
    found = of_cluster(login(secured, stage, routes=routes, dead_letter_topic=dead_letters, group=group))
    told = {name: (status, advice) for name, (status, _, advice) in found.items() if "lag" not in name}
    assert told == {
        f"topic.right {source}": (FAULT, f"grant READ on topic {source}"),
        f"topic {hidden}": (FAULT, f"grant READ on topic {hidden}"),
        f"dead_letter.topic.right {dead_letters}": (FAULT, f"grant WRITE on topic {dead_letters}"),
        f"group.right {group}": (FAULT, f"grant READ on group {group}"),
    }


def test_idempotent_writes_that_are_wanted_and_not_permitted(secured: Secured, stage: Stage) -> None:
    source, dead_letters = new_topics(secured, 2)
    show_only(secured, ResourceType.TOPIC, dead_letters)
    show_only(secured, ResourceType.CLUSTER, "kafka-cluster")
    settings = login(secured, stage, routes={source: stage.index}, dead_letter_topic=dead_letters)
    found = of_cluster(settings | {"OSS_VECTORS_DEAD_LETTER__IDEMPOTENT": "true"})
    assert found["dead_letter.idempotent dead_letter.idempotent"][0] is FAULT
    assert "dead_letter.idempotent dead_letter.idempotent" not in of_cluster(settings)


# -- the service


def test_missing_credentials(stage: Stage) -> None:
    settings = {name: value for name, value in stage.settings().items() if name != "OSS_ACCESS_KEY_SECRET"}
    found = of_service(settings)
    assert_only(found, "credentials environment", FAULT, "OSS_ACCESS_KEY_SECRET", "give what is missing")


def test_refused_credentials(stage: Stage) -> None:
    found = of_service(stage.settings() | {"OSS_ACCESS_KEY_SECRET": "a-wrong-secret"})
    assert_only(found, f"credentials.accepted {stage.index}", FAULT, "SignatureDoesNotMatch", "correct the credentials")
    assert "a-wrong-secret" not in repr(found)


def test_a_missing_bucket(stage: Stage) -> None:
    found = of_service(stage.settings(bucket="nobody-made-it"))
    assert_only(found, "bucket nobody-made-it", FAULT, "NoSuchBucket", "oss.bucket")


def test_a_missing_index_beside_one_that_is_there(stage: Stage) -> None:
    found = of_service(stage.settings(routes={"other": "absent", stage.topic: stage.index}))
    assert_only(found, "index absent", FAULT, "NoSuchVectorIndex", "create it")


@pytest.mark.parametrize(
    ("fields", "check", "result", "advice"),
    [
        ({"dimension": 8}, "index.dimension", "has dimension 8, the index has 4", "routes.dimension"),
        (
            {"distance_metric": "cosine"},
            "index.metric",
            "has cosine, the index has euclidean",
            "routes.distance_metric",
        ),
        ({"non_filterable_metadata_keys": ["text"]}, "index.metadata", "has the keys text", "non_filterable"),
    ],
)
def test_a_route_that_differs_from_its_index(
    stage: Stage, fields: dict[str, object], check: str, result: str, advice: str
) -> None:
    routes = json.dumps([{"topic": stage.topic, "index": stage.index} | fields])
    found = of_service(stage.settings() | {"OSS_VECTORS_ROUTES": routes})
    assert_only(found, f"{check} {stage.index}", FAULT, result, advice)


def test_an_index_that_is_being_made(stage: Stage) -> None:
    content = {"index": {"dimension": 4, "distanceMetric": "euclidean", "status": "creating"}}
    headers = {"x-oss-request-id": "0123456789ABCDEF", "Content-Type": "application/json"}
    stage.emulator.fault(
        operation="GetVectorIndex", bucket=stage.bucket, status=200, content=json.dumps(content), headers=headers
    )
    assert_only(of_service(stage.settings()), f"index.status {stage.index}", FAULT, "creating", "wait until")


@pytest.mark.parametrize("operation", ["PutVectors", "DeleteVectors"])
def test_credentials_that_may_read_and_not_write(stage: Stage, operation: str) -> None:
    stage.emulator.fault(operation=operation, bucket=stage.bucket, status=403, code="AccessDenied")
    found = of_service(stage.settings(records__tombstones="delete"))
    assert_only(found, f"index.right {stage.index} {operation}", FAULT, "AccessDenied", f"grant oss:{operation}")


def test_credentials_that_may_not_read_the_index(stage: Stage) -> None:
    stage.emulator.fault(operation="GetVectorIndex", bucket=stage.bucket, status=403, code="AccessDenied")
    found = of_service(stage.settings())
    assert_only(found, f"index.right {stage.index}", FAULT, "AccessDenied", "grant oss:GetVectorIndex")


def test_a_service_that_is_down(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = of_service(stage.settings(oss__endpoint=f"http://127.0.0.1:{port}"))
    assert list(found) == [f"service.connect 127.0.0.1:{port}", f"index {stage.index}"]


def test_a_proxy_that_works_and_one_that_refuses_the_login(stage: Stage) -> None:
    with HttpProxy("user:the right one", ("127.0.0.1", stage.emulator.port)) as proxy:
        good = stage.settings(oss__proxy_url=proxy.url("user:the%20right%20one"))
        assert of_service(good) == {}
        found = of_service(stage.settings(oss__proxy_url=proxy.url("user:the-wrong-one")))
    assert found[f"index {stage.index}"][0] is FAULT
    assert "oss.proxy_url" in found[f"index {stage.index}"][2]
    assert "the-wrong-one" not in repr(found)


# -- the sample


def sampled(stage: Stage, count: int, begin: From = "earliest") -> dict[str, Finding]:
    """Return the findings on so many records."""
    settings = stage.settings()
    found = sample(load(None, settings).settings, settings, count, begin)
    return {f"{one.check} {one.subject}": one for one in found}


def test_bad_records_are_counted_by_reason_with_their_first_place(stage: Stage) -> None:
    fill(stage, 20)
    bad = [Record(b"a", b"{", partition=0), vector_record("b", [1.0], 0), Record(b"c", b"[]", partition=1)]
    stage.publish([*bad, Record(b"other", vector_record("d", [1.0, 2.0, 3.0, 4.0]).value, partition=1)])
    before = stage.committed()
    found = sampled(stage, 100)
    topic = stage.topic
    assert found[f"sample {topic}"].status is FAULT
    assert found[f"sample {topic}"].result.startswith("21 of 24 records would be accepted; 3 would become dead letters")
    assert found[f"sample.reason {topic} malformed"].result.startswith(("2 records", "2 records; the first is"))
    assert f"the first is {topic}/0 at 21: " in found[f"sample.reason {topic} dimension"].result
    assert found[f"sample.keys {topic}"].status is WARNING
    assert found[f"sample.keys {topic}"].result.endswith(f": {topic}/1 at 1 (Kafka key other, vector d)")
    assert "a full batch would have 500 records" in found[f"sample.batches {topic}"].result
    assert stage.committed() == before


def test_a_sample_begins_where_it_is_told(stage: Stage) -> None:
    fill(stage, 10)
    stage.publish([Record(b"a", b"{", partition=0)])
    commit(stage, {0: 10, 1: 0})
    name = f"sample {stage.topic}"
    assert sampled(stage, 4)[name].result == "2 of 2 records would be accepted"
    assert sampled(stage, 4, "latest")[name].result.startswith("1 of 2 records would be accepted")
    assert sampled(stage, 4, "committed")[name].result.startswith("0 of 1 records would be accepted")


def test_a_topic_without_records_is_not_judged(stage: Stage) -> None:
    assert sampled(stage, 4)[f"sample {stage.topic}"].status is Status.SKIPPED
