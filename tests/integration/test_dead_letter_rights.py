"""What a broker with access control refuses: seen before the first bad record, or got by with."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from tests.support.acls import add_acls, remove_acls
from tests.support.app import settings
from tests.support.broker import create_topic
from tests.support.worker import Record, free_port, publish, read_topic, wait_for
from tests.unit.samples import FakeClock, FakeMessage, opened, rejected
from worker.consumer.ends import EndWatcher
from worker.consumer.survey import Survey
from worker.deadletters import rights
from worker.deadletters.limit import Limit
from worker.deadletters.producer import make_producer
from worker.deadletters.reader import SourceReader
from worker.deadletters.writer import DeadLetterWriter
from worker.errors import BlockReason, FatalError
from worker.ledger import Ledger, Outcome
from worker.local.broker import Broker
from worker.settings.tables import DeadLetter, Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, Status
from worker.tools.produce.publish import make_producer as of_commands

ALLOW, DENY = ACLPermissionType.ALLOW, ACLPermissionType.DENY
NAME, PASSWORD = "worker", "a password of the test"
UNAVAILABLE = Block("vectors", BlockReason.DEAD_LETTER_UNAVAILABLE)


class Guarded(NamedTuple):
    """A broker with a second listener, whose users have the rights that its access control gives them."""

    broker: Broker
    address: str
    admin: KafkaAdminClient

    @property
    def settings(self) -> Kafka:
        return Kafka(
            bootstrap_servers=(self.address,),
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_plain_username=NAME,
            sasl_plain_password=PASSWORD,
        )

    def set(self, permission: ACLPermissionType, operation: ACLOperation, kind: ResourceType, name: str) -> ACL:
        """Allow or deny the worker's user an operation; returns the entry."""
        entry = ACL(f"User:{NAME}", "*", operation, permission, ResourcePattern(kind, name))
        add_acls(self.admin, entry)
        return entry

    def undo(self, *entries: ACL) -> None:
        """Take entries back."""
        remove_acls(self.admin, *entries)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    plain, guarded, controller = free_port(), free_port(), free_port()
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    config = {
        "listeners": f"CLIENTS://127.0.0.1:{plain},GUARDED://127.0.0.1:{guarded},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"CLIENTS://127.0.0.1:{plain},GUARDED://127.0.0.1:{guarded}",
        "listener.security.protocol.map": "CLIENTS:PLAINTEXT,GUARDED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.name.guarded.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.guarded.plain.sasl.jaas.config": f'{login} user_{NAME}="{PASSWORD}";',
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true",
    }
    with (
        Broker.start(port=plain, config=config) as broker,
        closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin,
    ):
        yield Guarded(broker, f"127.0.0.1:{guarded}", admin)


class Stage:
    """A writer of dead letters on a broker with access control."""

    def __init__(self, settings: Kafka, dead_letter: DeadLetter) -> None:
        self.ledger = Ledger(["vectors"], FakeClock())
        self.status = Status(0.0)
        self.assignment = opened(self.ledger)
        metrics = Metrics(self.ledger, self.status, ["vectors"], ["docs"])
        self.writer = DeadLetterWriter(
            dead_letter,
            settings,
            topics=["vectors"],
            ledger=self.ledger,
            status=self.status,
            metrics=metrics,
            limit=Limit(dead_letter, time.time),
            producer=lambda idempotent: make_producer(settings, idempotent=idempotent),
            may_write=lambda topic: rights.may_write(settings, topic),
            source=SourceReader(settings),
            retry_seconds=0.3,
            clock=time.monotonic,
            wall=time.time,
        )

    def submit(self, offsets: Sequence[int]) -> None:
        self.ledger.track(self.assignment, offsets)
        self.ledger.count_bytes(100 * len(offsets))
        for offset in offsets:
            self.writer.submit(rejected(self.assignment, FakeMessage(offset, key=b"k", value=b"v")))

    def settled(self) -> int:
        return self.ledger.books().settled["vectors", Outcome.DEAD_LETTERED]

    def reason(self) -> str:
        return self.status.messages().get(UNAVAILABLE, "")


@pytest.fixture
def topic(guarded: Guarded) -> str:
    return create_topic(guarded.admin)


def test_a_missing_right_to_write_blocks_before_anything_is_consumed_until_it_is_given(
    guarded: Guarded, topic: str
) -> None:
    guarded.set(ALLOW, ACLOperation.DESCRIBE, ResourceType.TOPIC, topic)
    stage = Stage(guarded.settings, DeadLetter(topic=topic))
    granted: list[ACL] = []
    stage.writer.start()
    try:
        wait_for(stage.reason, "it blocks", told=lambda: f"ready: {stage.writer.is_ready}")
        assert stage.reason() == f"the dead-letter topic {topic!r} may not be written to: WRITE is missing"
        assert not stage.writer.is_ready
        assert read_topic(guarded.broker.bootstrap, topic) == []
        granted.append(guarded.set(ALLOW, ACLOperation.WRITE, ResourceType.TOPIC, topic))
        wait_for(lambda: stage.writer.is_ready, "it is ready", told=stage.reason)
        stage.submit([0])
        wait_for(lambda: stage.settled() == 1, "the dead letter is written", told=stage.reason)
    finally:
        stage.writer.stop(10.0)
        guarded.undo(*granted)  # who may write to any topic is given a producer id
    assert stage.status.read().blocks == {}
    assert len(read_topic(guarded.broker.bootstrap, topic)) == 1


def test_a_right_to_write_is_seen_and_where_the_topic_is_not_shown_nothing_is_said(
    guarded: Guarded, topic: str
) -> None:
    assert rights.may_write(guarded.settings, topic) is True
    guarded.set(DENY, ACLOperation.DESCRIBE, ResourceType.TOPIC, topic)
    assert rights.may_write(guarded.settings, topic) is None


def test_a_broker_without_access_control_lets_everybody_write(broker: Broker) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        topic = create_topic(admin)
    assert rights.may_write(Kafka(bootstrap_servers=(broker.bootstrap,)), topic) is True


def test_where_no_broker_answers_the_right_to_write_is_unknown() -> None:
    nobody = Kafka(bootstrap_servers=(f"127.0.0.1:{free_port()}",))
    assert rights.may_write(nobody, "vectors.dlq") is None


@pytest.mark.parametrize(("idempotent", "is_written"), [("auto", True), ("true", False)])
def test_a_broker_that_gives_no_producer_id_is_written_to_without_it_unless_that_is_wanted(
    guarded: Guarded, topic: str, caplog: pytest.LogCaptureFixture, idempotent: str, is_written: bool
) -> None:
    """The broker gives one to who may write idempotently, or to any topic: of these it tries one named "hardcode" first."""
    denied = [
        guarded.set(DENY, ACLOperation.IDEMPOTENT_WRITE, ResourceType.CLUSTER, "kafka-cluster"),
        guarded.set(DENY, ACLOperation.WRITE, ResourceType.TOPIC, "hardcode"),
    ]
    stage = Stage(guarded.settings, DeadLetter(topic=topic, idempotent=idempotent))  # type: ignore[arg-type]  # one of the setting's own
    stage.writer.start()
    try:
        wait_for(lambda: stage.writer.is_ready, "it is ready", told=stage.reason)
        stage.submit([0, 1])
        if is_written:
            wait_for(lambda: stage.settled() == 2, "both are written", told=stage.reason)
        else:
            wait_for(stage.reason, "it blocks")
            assert "ClusterAuthorizationFailedError" in stage.reason()
    finally:
        stage.writer.stop(10.0)
        guarded.undo(*denied)
    assert len(read_topic(guarded.broker.bootstrap, topic)) == (2 if is_written else 0)
    assert ("the broker accepts no idempotent producer" in caplog.text) == is_written


def test_a_command_publishes_without_a_producer_id_unless_that_is_wanted(
    guarded: Guarded, topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    denied = [
        guarded.set(DENY, ACLOperation.IDEMPOTENT_WRITE, ResourceType.CLUSTER, "kafka-cluster"),
        guarded.set(DENY, ACLOperation.WRITE, ResourceType.TOPIC, "hardcode"),
    ]
    try:
        with closing(of_commands(settings(kafka=guarded.settings), compression=None)) as producer:
            producer.send(topic, key=b"a", value=b"1").get(timeout=10)
        wanted = settings(kafka=guarded.settings, dead_letter=DeadLetter(topic=topic, idempotent="true"))
        with pytest.raises(FatalError, match="ClusterAuthorizationFailedError"):
            of_commands(wanted, compression=None)
    finally:
        guarded.undo(*denied)
    assert len(read_topic(guarded.broker.bootstrap, topic)) == 1
    assert "no idempotent producer of this user" in capsys.readouterr().err


def test_what_the_survey_may_not_ask_for_is_absent_and_logged_once(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    """The group, and the limits of the dead-letter topic; the limits of the source topic may be read."""
    topic, dead_letters = (create_topic(guarded.admin, retention_ms="3600000") for _ in range(2))
    settings, status = guarded.settings, Status(0.0)
    entries = [
        guarded.set(ALLOW, ACLOperation.DESCRIBE, ResourceType.TOPIC, dead_letters),
        guarded.set(DENY, ACLOperation.DESCRIBE, ResourceType.GROUP, settings.group_id),
        guarded.set(DENY, ACLOperation.DESCRIBE_CONFIGS, ResourceType.TOPIC, dead_letters),
    ]
    ledger = Ledger([topic], time.monotonic)
    opened(ledger, topic)
    metrics = Metrics(ledger, status, [topic], [])
    survey = Survey(
        settings,
        [topic],
        dead_letters,
        ledger=ledger,
        status=status,
        facts=metrics.kafka_facts,
        clock=time.monotonic,
        wall=time.time,
        group_seconds=0.1,
    )
    watcher = EndWatcher(settings, ledger, metrics, status, clock=time.monotonic, interval=0.1, survey=survey)
    publish(guarded.broker.bootstrap, topic, [Record(None, b"{}")])

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"oss_vectors_{name}", labels)

    watcher.start()
    try:
        wait_for(lambda: 3000 < (value("retention_left_seconds", topic=topic) or 0.0) <= 3600, "some of it is shown")
        wait_for(lambda: len(_denials(caplog)) == 2, "what is denied is logged")
        absent = [value("unassigned_partitions", topic=topic), value("group_members")]
        assert [*absent, value("dead_letter_retention_left_seconds")] == [None, None, None]
        assert value("topic_missing", topic=dead_letters) == 0
        guarded.undo(*entries)
        wait_for(lambda: value("unassigned_partitions", topic=topic) == 1, "it is shown once it may be asked for")
        wait_for(lambda: value("dead_letter_retention_left_seconds") == float("inf"), "so are the limits")
    finally:
        watcher.stop()
    assert len(_denials(caplog)) == 2


def _denials(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith("not allowed to ask")]
