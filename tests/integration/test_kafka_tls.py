"""A broker as production has it: TLS, a name and a password, and responses of megabytes."""

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from tests.support.acls import add_acls, remove_acls
from tests.support.broker import create_topic
from tests.support.member import Member
from tests.support.worker import Record, free_port, publish
from worker.consumer import receive
from worker.consumer.partition_records import PartitionRecords
from worker.errors import BlockReason, BrokerUnavailable
from worker.local.broker import Broker
from worker.settings.tables import Log
from worker.telemetry import log
from worker.telemetry.state import Block

NAME, PASSWORD = "worker", "a password of the test"
RECORDS = [Record(None, bytes([number % 251]) * 30_000) for number in range(400)]


class Secured(NamedTuple):
    """A broker with a second listener, which asks for TLS and a password."""

    broker: Broker
    address: str
    certificates: Path
    topic: str
    denied: str

    def new_topic(self, records: Sequence[Record]) -> str:
        """A topic of the test's own, with these records: what it publishes there no other test counts."""
        with closing(KafkaAdminClient(bootstrap_servers=self.broker.bootstrap)) as admin:
            topic = create_topic(admin)
        publish(self.broker.bootstrap, topic, records)
        return topic

    def member(self, password: str = PASSWORD, topic: str = "", more: Sequence[str] = ()) -> Member:
        """A member that comes by that listener."""
        return Member(
            self.address,
            topic or self.topic,
            more=more,
            security_protocol="SASL_SSL",
            ssl_cafile=str(self.certificates),
            sasl_mechanism="PLAIN",
            sasl_plain_username=NAME,
            sasl_plain_password=password,
        )


def as_java_reads_it(key: trustme.Blob) -> bytes:
    """A private key as PKCS #8."""
    return load_pem_private_key(key.bytes(), None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def one_line(pem: bytes) -> str:
    """PEM as a properties file holds it."""
    return pem.decode().replace("\n", "\\n")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificates = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(certificates))
    plain, tls, controller = free_port(), free_port(), free_port()
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    config = {
        "listeners": f"CLIENTS://127.0.0.1:{plain},TLS://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"CLIENTS://127.0.0.1:{plain},TLS://127.0.0.1:{tls}",
        "listener.security.protocol.map": "CLIENTS:PLAINTEXT,TLS:SASL_SSL,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.name.tls.ssl.keystore.type": "PEM",
        "listener.name.tls.ssl.keystore.key": one_line(as_java_reads_it(issued.private_key_pem)),
        "listener.name.tls.ssl.keystore.certificate.chain": one_line(
            b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        ),
        "listener.name.tls.sasl.enabled.mechanisms": "PLAIN",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true",
        "listener.name.tls.plain.connections.max.reauth.ms": "3000",
        "listener.name.tls.plain.sasl.jaas.config": f'{login} user_{NAME}="{PASSWORD}";',
    }
    with Broker.start(port=plain, config=config) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        topic, denied = create_topic(admin), create_topic(admin)
        resource = ResourcePattern(ResourceType.TOPIC, denied)
        add_acls(admin, ACL(f"User:{NAME}", "*", ACLOperation.ALL, ACLPermissionType.DENY, resource))
        admin.close()
        publish(broker.bootstrap, topic, RECORDS)
        yield Secured(broker, f"127.0.0.1:{tls}", certificates, topic, denied)


def test_every_record_is_read_whole_by_tls(secured: Secured) -> None:
    member = secured.member()
    values: list[bytes | None] = []
    member.seen = lambda messages: values.extend(message.value for message in messages)
    member.source.start()
    try:
        member.turns_until(lambda: member.count == len(RECORDS), "all is read")
        assert values == [record.value for record in RECORDS]
        connections = member.source._consumer._client._manager._conns.values()
        received = {
            type(getattr(each.parser.receive_bytes, "__self__", None)) for each in connections if each.connected
        }
        assert received == {receive._Frames}
        made = member.source._consumer._fetcher.PartitionRecords
        assert getattr(made, "func", made) is PartitionRecords
    finally:
        member.source.close(2.0)


def test_reading_goes_on_when_the_broker_asks_for_the_password_again(secured: Secured) -> None:
    """It is asked for and given between two responses, on the same connection."""
    topic = secured.new_topic(RECORDS)
    member = secured.member(topic=topic)
    member.source.start()
    try:
        member.turns_until(lambda: member.count == len(RECORDS), "all is read")
        connection = next(iter(member.source._consumer._client._manager._conns.values()))
        first = connection._reauth.authenticated_at
        member.turns_until(lambda: connection._reauth.authenticated_at > first, "the password was given again")
        publish(secured.broker.bootstrap, topic, RECORDS[:50])
        member.turns_until(lambda: member.count == len(RECORDS) + 50, "what came later is read")
        assert connection.connected
    finally:
        member.source.close(2.0)


def test_a_wrong_password_is_told(secured: Secured) -> None:
    member = secured.member("wrong and secret")
    with pytest.raises(BrokerUnavailable) as raised:
        member.source.start()
    reason = "SaslAuthenticationFailedError: Authentication failed: Invalid username or password"
    assert str(raised.value) == f"kafka at {secured.address}: {reason}"
    assert member.kafka_errors("authentication") == 1


def test_a_topic_that_may_not_be_read_is_told_from_one_that_is_not_there(secured: Secured) -> None:
    denied = secured.member(topic=secured.denied)
    with pytest.raises(BrokerUnavailable, match=f"kafka does not show this user: {secured.denied}; grant READ"):
        denied.source.start()
    assert denied.kafka_errors("authorization") == 1
    missing = secured.member(topic="nobody-made-it")
    with pytest.raises(BrokerUnavailable, match="no such topic: nobody-made-it"):
        missing.source.start()


@contextmanager
def debug_log() -> Iterator[io.StringIO]:
    """Log as a worker with `log.level = "debug"` does, and set everything back afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "worker", "kafka", "urllib3", "alibabacloud_oss_v2")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    shown = io.StringIO()
    with redirect_stderr(shown):
        log.configure(Log(level="debug", format="json"))
    try:
        yield shown
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers


def test_the_log_at_debug_has_neither_the_password_nor_anything_of_a_record(secured: Secured) -> None:
    admin = KafkaAdminClient(bootstrap_servers=secured.broker.bootstrap)
    topic = create_topic(admin)
    admin.close()
    login = {
        "security_protocol": "SASL_SSL",
        "ssl_cafile": str(secured.certificates),
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": NAME,
        "sasl_plain_password": PASSWORD,
    }
    seen: list[Any] = []
    with debug_log() as shown:
        with closing(KafkaProducer(bootstrap_servers=secured.address, linger_ms=0, **login)) as producer:
            producer.send(topic, b"marker-value", b"marker-key", headers=[("name", b"marker-header")]).get(30)
        member = secured.member(topic=topic)
        member.seen = seen.extend
        member.source.start()
        try:
            member.turns_until(lambda: seen, "the record is read")
        finally:
            member.source.close(2.0)
    assert (seen[0].value, '"logger":"kafka.' in shown.getvalue()) == (b"marker-value", True)
    assert [word for word in (PASSWORD, "marker-") if word in shown.getvalue()] == []


def test_a_topic_that_may_not_be_read_any_more_is_told_and_the_others_are_read(secured: Secured) -> None:
    admin = KafkaAdminClient(bootstrap_servers=secured.broker.bootstrap)
    other, revoked = secured.new_topic(RECORDS), secured.new_topic(RECORDS[:10])
    member = secured.member(topic=other, more=[revoked])
    member.source.start()
    resource = ResourcePattern(ResourceType.TOPIC, revoked)
    denial = ACL(f"User:{NAME}", "*", ACLOperation.READ, ACLPermissionType.DENY, resource)
    block = Block(revoked, BlockReason.PARTITION_UNREADABLE, 0)
    try:
        member.turns_until(lambda: member.count == len(RECORDS) + 10, "all is read")
        add_acls(admin, denial)
        member.turns_until(lambda: block in member.status.read().blocks, "that it may not be read is told")
        assert "TOPIC_AUTHORIZATION_FAILED" in member.status.read().blocks[block]
        publish(secured.broker.bootstrap, other, RECORDS[:50])
        publish(secured.broker.bootstrap, revoked, RECORDS[:5])
        member.turns_until(lambda: member.count == len(RECORDS) + 60, "the other is read on")
        # It is tried again once in `retry_seconds`, and blocks all the while.
        errors = member.kafka_errors("authorization")
        member.turns_until(lambda: member.kafka_errors("authorization") >= errors + 2, "it is tried again")
        assert block in member.status.read().blocks
        # The broker accepts a commit of the other, and refuses one of this topic, in the same answer.
        offsets = {one: one.position for one in member.ledger.assignments()}
        member.turns_until(lambda: member.source.commit(offsets), "a commit begins")
        refused = f"commits are refused for {revoked} (TopicAuthorizationFailedError)"
        member.turns_until(lambda: refused in member.status.warnings(), "that it is refused is told")
        assert {one.partition.topic for one, at in offsets.items() if one.committed == at} == {other}

        remove_acls(admin, denial)
        member.turns_until(lambda: member.count == len(RECORDS) + 65, "it is read again")
        member.turns_until(lambda: block not in member.status.read().blocks, "and nothing blocks")
    finally:
        member.source.close(2.0)
        admin.close()
