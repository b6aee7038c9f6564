"""Three nodes: the leader of partitions goes, and the coordinator of the group moves."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from tests.support.cluster import running_cluster
from tests.support.emulator import Emulator
from tests.support.worker import Stage, WorkerFactory, versions_of, wait_for
from worker.local.broker import Broker

OFFSETS = "__consumer_offsets"
OFFSETS_PARTITIONS = 4
REPLICATED = {
    "offsets.topic.replication.factor": "3",
    "offsets.topic.num.partitions": str(OFFSETS_PARTITIONS),
    "min.insync.replicas": "2",
    "default.replication.factor": "3",
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Sequence[Broker]]:
    """Node 1, which is the controller too and stays, and nodes 2 and 3."""
    with running_cluster(tmp_path, 3, REPLICATED) as nodes:
        yield nodes


def _partition_of(group: str) -> int:
    """Where Kafka keeps a group's offsets: Java's hash of its name."""
    value = 0
    for character in group:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return (value & 0x7FFFFFFF) % OFFSETS_PARTITIONS


def _leader(bootstrap: str, topic: str, partition: int) -> int:
    """The number of the node that leads a partition; 0 where nobody knows."""
    with closing(KafkaConsumer(bootstrap_servers=bootstrap)) as consumer:
        if not consumer.partitions_for_topic(topic):
            return 0
        return int(consumer._cluster.leader_for_partition(TopicPartition(topic, partition)) or 0)


def test_leaders_that_go_and_a_coordinator_that_moves_lose_nothing(
    cluster: Sequence[Broker], emulator: Emulator, start_worker: WorkerFactory
) -> None:
    first = cluster[0]
    with closing(KafkaAdminClient(bootstrap_servers=first.bootstrap)) as admin:
        admin.create_topics([NewTopic("vectors", 6, 3), NewTopic("vectors.dlq", 1, 3)])
    bucket, index = emulator.new_index()
    stage = Stage(first, emulator, None, "vectors", "vectors.dlq", "group", bucket, index, 6)
    servers = ",".join(node.bootstrap for node in cluster)
    # Published before: a client of this process that meets a node that is away leaves sockets to the collector.
    stage.publish_versions(versions_of(1000, 4000))
    emulator.fault(bucket=bucket, latency_seconds=0.2)
    settings = stage.settings(kafka__bootstrap_servers=servers, batch__max_records=20, delivery__max_in_flight=3)
    worker = start_worker(settings).wait_ready()
    coordinator = wait_for(lambda: _leader(first.bootstrap, OFFSETS, _partition_of("group")), "there is a coordinator")

    # Node 1 is the controller and stays; were it the coordinator as well, leaders move all the same.
    node = cluster[max(coordinator, 2) - 1]
    worker.wait_until(lambda m: m.settled > 300, "it is on its way")
    node.kill()
    seen = worker.metrics()
    worker.wait_until(lambda m: m.settled > seen.settled + 1000, "it goes on without the node", 60)
    worker.wait_until(
        lambda m: m.total("commits_total", result="ok") > seen.total("commits_total", result="ok") + 1, "it commits", 60
    )
    node.restart()
    worker.wait_until(lambda m: m.settled >= len(stage.history) and not m.buffered, "all is settled", 60)
    wait_for(lambda: stage.dump() == stage.model(), "the index equals the model", 30, worker.last_words)
    if coordinator != 1:
        moved = wait_for(lambda: _leader(first.bootstrap, OFFSETS, _partition_of("group")), "there is a coordinator")
        assert moved != coordinator
