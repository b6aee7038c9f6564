"""A partition that cannot be read, for whatever reason, holds up no other."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from tests.support.cluster import running_cluster
from tests.support.emulator import Emulator
from tests.support.member import Member
from tests.support.proxy import Proxy
from tests.support.worker import Record, Scrape, Stage, WorkerFactory, publish, vector_record
from worker.consumer.leaders import GRACE_SECONDS
from worker.ledger import Phase
from worker.local.broker import Broker

RECORDS = 3_000
SLOW_TURN_SECONDS = 1.5  # a turn of a member waits 0.2 s for records; more than a second would be a wait for the other
CONFIG = {"offsets.topic.num.partitions": "1", "offsets.topic.replication.factor": "1"}


class Pair(NamedTuple):
    """Two nodes. Of "vectors" node 2 has partition 0, the first by name, and node 1 the others; `proxy` is before node 2."""

    nodes: Sequence[Broker]
    proxy: Proxy

    @property
    def bootstrap(self) -> str:
        return self.nodes[0].bootstrap


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(Proxy(0))
        nodes = stack.enter_context(running_cluster(tmp_path, 2, CONFIG, advertised={2: proxy.port}))
        proxy._upstream = nodes[1].port
        with closing(KafkaAdminClient(bootstrap_servers=nodes[0].bootstrap)) as admin:
            admin.create_topics(
                [
                    NewTopic(
                        "__consumer_offsets", replica_assignments={0: [1]}, topic_configs={"cleanup.policy": "compact"}
                    ),
                    NewTopic("vectors", replica_assignments={0: [2], 1: [1], 2: [1]}),
                    NewTopic("vectors.dlq", replica_assignments={0: [1]}),
                ],
                wait_for_metadata=True,
            )
        yield Pair(nodes, proxy)


def vectors(partition: int, count: int, first: int = 0) -> list[Record]:
    return [
        vector_record(f"{partition}-{first + n}", [1.0, 2.0, 3.0, float(n)], partition=partition) for n in range(count)
    ]


def stage_of(pair: Pair, emulator: Emulator) -> Stage:
    bucket, index = emulator.new_index(4)
    return Stage(pair.nodes[0], emulator, None, "vectors", "vectors.dlq", "group", bucket, index, 3)


def lags(scrape: Scrape) -> dict[str, float]:
    """The lag by partition, as far as it is known."""
    return {labels["partition"]: value for labels, value in scrape.samples.get("oss_vectors_consumer_lag_records", [])}


def test_partitions_behind_an_offline_one_are_opened_read_and_measured(
    pair: Pair, emulator: Emulator, start_worker: WorkerFactory
) -> None:
    stage = stage_of(pair, emulator)
    publish(pair.bootstrap, "vectors", vectors(0, 5))
    pair.nodes[1].kill()
    publish(pair.bootstrap, "vectors", vectors(1, 100) + vectors(2, 100))
    worker = start_worker(stage.settings()).wait_ready()
    worker.wait_until(lambda m: m.settled == 200 and not m.buffered, "all but the offline one's are settled")
    known = worker.wait_until(lambda m: lags(m) == {"1": 0, "2": 0}, "their lag is known, the offline one's is not")
    assert known.state == "running"
    worker.wait_until(
        lambda m: ("vectors", "partition_unreadable") in m.blocks(), "the offline one is told", GRACE_SECONDS + 20
    )
    (told,) = [line for line in worker.log_lines("blocked") if "no leader" in str(line)]
    assert "vectors/0" in str(told)

    pair.nodes[1].restart()
    worker.wait_until(lambda m: m.settled == 205 and not m.buffered, "the offline one is read when it is back", 60)
    worker.wait_until(lambda m: len(lags(m)) == 3 and not m.blocks(), "all is known again", 60)


def test_a_leader_that_goes_while_its_partition_is_read_is_read_again_when_it_is_back(
    pair: Pair, emulator: Emulator, start_worker: WorkerFactory
) -> None:
    stage = stage_of(pair, emulator)
    publish(pair.bootstrap, "vectors", vectors(0, 5))
    worker = start_worker(stage.settings(kafka__client='{"metadata_max_age_ms": 1000}')).wait_ready()
    worker.wait_settled(5)
    pair.nodes[1].kill()
    publish(pair.bootstrap, "vectors", vectors(1, 100))
    worker.wait_settled(105)
    pair.nodes[1].restart()
    publish(pair.bootstrap, "vectors", vectors(0, 5, first=5))
    worker.wait_until(lambda m: m.settled == 110, "the leader that came back is fetched from", 60)


@pytest.mark.parametrize("way", ["swallowed", "refused"])
def test_a_leader_that_cannot_be_reached_slows_no_other_partition(pair: Pair, way: str) -> None:
    """The client validates positions with the leader when its epoch has changed: `positions` must not wait for that."""
    publish(pair.bootstrap, "vectors", vectors(0, 1) + vectors(1, 1) + vectors(2, 1))
    member = Member(pair.bootstrap, "vectors", client={"metadata_max_age_ms": 1_000})
    member.source.start()
    with closing_source(member), contextlib.ExitStack() as fault:
        member.turns_until(lambda: member.count == 3, "all partitions are read")
        member.unwanted.add(1)
        member.steer()
        # Published before: a client of this process that meets the node leaves sockets to the collector.
        publish(pair.bootstrap, "vectors", vectors(1, RECORDS))
        if way == "swallowed":
            fault.enter_context(pair.proxy.swallowing())
        else:
            pair.proxy.close()
        # A new epoch of its leader: its position is to be validated, which cannot be.
        cluster = member.source._consumer._cluster
        cluster._partitions["vectors"][0].leader_epoch += 5
        member.unwanted.clear()
        member.steer()
        turns: list[float] = []
        while member.count < 3 + RECORDS:
            started = time.monotonic()
            member.turn()
            member.source.positions([a for a in member.ledger.assignments() if a.phase is Phase.OPEN])
            turns.append(time.monotonic() - started)
            assert len(turns) < 500
        # The machine may be busy for a turn or two; a wait for the other leader would be in most of those that read.
        assert len([seconds for seconds in turns if seconds > SLOW_TURN_SECONDS]) <= 2, turns


@contextlib.contextmanager
def closing_source(member: Member) -> Iterator[None]:
    try:
        yield
    finally:
        member.source.close(1.0)
