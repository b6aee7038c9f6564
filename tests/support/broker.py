"""The one Apache Kafka that a whole test run shares, and names of one's own in it."""

import uuid
from collections.abc import Iterator
from typing import Protocol

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from worker.local.broker import Broker


class TopicFactory(Protocol):
    """Creates a topic that no other test has."""

    def __call__(self, partitions: int = 1, **config: str) -> str:
        """Return the name of a new topic; in `config`, `cleanup_policy` means Kafka's `cleanup.policy`."""
        ...


class GroupFactory(Protocol):
    """Makes up the name of a consumer group that no other test has."""

    def __call__(self) -> str: ...


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A running broker; a test that stops or breaks a broker starts its own instead (`Broker.start`)."""
    with Broker.start() as running:
        yield running


@pytest.fixture(scope="session")
def admin(broker: Broker) -> Iterator[KafkaAdminClient]:
    """An administrator of the shared broker."""
    client = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    yield client
    client.close()


@pytest.fixture(scope="session")
def new_topic(admin: KafkaAdminClient) -> TopicFactory:
    """The factory of topics in the shared broker."""

    def create(partitions: int = 1, **config: str) -> str:
        return create_topic(admin, partitions, **config)

    return create


@pytest.fixture
def topic(new_topic: TopicFactory) -> str:
    """A new topic with one partition."""
    return new_topic()


@pytest.fixture(scope="session")
def new_group() -> GroupFactory:
    """The factory of group names."""
    return lambda: f"group-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def group(new_group: GroupFactory) -> str:
    """The name of a new consumer group."""
    return new_group()


def create_topic(admin: KafkaAdminClient, partitions: int = 1, **config: str) -> str:
    """Create a topic with a name of its own, wait until clients can see it, and return its name."""
    name = f"topic-{uuid.uuid4().hex[:12]}"
    settings = {key.replace("_", "."): value for key, value in config.items()}
    admin.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)], wait_for_metadata=True)
    return name
