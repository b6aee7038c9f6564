"""Membership: two with one identity, partitions that come later, and a member that is none."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from kafka.admin import NewPartitions
from kafka.protocol.consumer import SyncGroupRequest
from kafka.structs import MemberState

from tests.support.broker import TopicFactory
from tests.support.emulator import Emulator
from tests.support.fronted_broker import FrontedBroker, fronted_broker
from tests.support.member import Member
from tests.support.worker import (
    BUSY_S,
    LIMIT_S,
    Record,
    StageFactory,
    WorkerFactory,
    publish,
    vector_record,
    versions_of,
    wait_for,
)
from worker.errors import BrokerUnavailable, Fenced
from worker.local.broker import Broker

SESSION_S = 4.0
FENCED_WITHIN_S = 30.0  # a heartbeat tells it, or a commit, which is made every 5 s
METADATA_MAX_AGE = '{"metadata_max_age_ms": 1000}'


def test_of_two_processes_with_one_instance_id_the_fenced_one_ends_and_the_other_goes_on(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=2)
    settings = stage.settings(kafka__group_instance_id="replica-0")
    stage.publish_versions(versions_of(keys=50, count=50))
    first = start_worker(settings)
    first.wait_settled(50)
    stage.wait_committed_to_the_end(first)

    second = start_worker(settings).wait_ready()  # from here on no record comes that a commit would be for

    assert first.wait(timeout=FENCED_WITHIN_S) == 1
    assert first.text().splitlines()[-1] == (
        f"error: another process joined the group '{stage.group}' with kafka.group_instance_id = 'replica-0'; "
        "each replica needs a value of its own"
    )
    stage.publish_versions(versions_of(keys=50, count=50, first=100))
    second.wait_settled(50)
    stage.wait_committed_to_the_end(second)
    assert stage.dump() == stage.model()


def test_a_heartbeat_tells_the_fenced_one_though_it_commits_nothing(broker: Broker, new_topic: TopicFactory) -> None:
    """It must not join again when its session is over: that would fence the other one."""
    topic = new_topic(1)
    first = Member(broker.bootstrap, topic, SESSION_S, group_instance_id="replica-0")
    second = Member(broker.bootstrap, topic, SESSION_S, group_id=first.settings.group_id, group_instance_id="replica-0")
    try:
        first.source.start()
        first.turns_until(lambda: first.opened, "the first owns the partition")
        second.source.start()
        with pytest.raises(Fenced, match="replica-0"):
            first.turns_until(lambda: second.turn(0.0), "the first is fenced")
        second.turns_until(lambda: second.opened, "the second owns the partition")
    finally:
        for member in (first, second):
            member.source.close(5.0)


def test_partitions_added_under_load_are_read_from_their_first_record(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=2)
    settings = stage.settings(kafka__client=METADATA_MAX_AGE)
    workers = [start_worker(settings).wait_ready() for _ in range(2)]
    expected: dict[str, list[float]] = {}

    def load(partitions: int) -> None:
        records = []
        for number in range(partitions):
            for _ in range(10):
                key = f"{number}-{len(expected)}"
                expected[key] = [float(len(expected)), 1.0, 2.0, 3.0]
                records.append(vector_record(key, expected[key], partition=number))
        stage.publish(records)

    load(2)
    stage.admin.create_partitions({stage.topic: NewPartitions(6)})
    stage.admin.wait_for_topics([stage.topic])
    stage.partitions = 6
    load(6)  # before a worker can have learned of the new ones

    def all_are_assigned() -> bool:
        load(6)
        return sum(int(one.metrics().total("assigned_partitions")) for one in workers) == 6

    wait_for(all_are_assigned, "all partitions are assigned", told=workers[0].last_words)
    load(6)

    wait_for(lambda: stage.dump() == expected, "all is written", told=workers[0].last_words)
    stage.wait_committed_to_the_end(workers[0])
    assert sum(one.metrics().total("skipped_offsets_total") for one in workers) == 0
    assert [one.is_running() for one in workers] == [True, True]


# -- a member that is none


def lose_the_join(member: Member) -> None:
    """What is left of a join that nobody awaits any more: neither stable nor about to join, without heartbeats."""
    coordinator = member.source._consumer._coordinator
    coordinator._disable_heartbeat()
    coordinator.state = MemberState.REBALANCING


def stop_the_heartbeats(member: Member) -> None:
    """The state stays STABLE while the broker hears nothing any more."""
    member.source._consumer._coordinator._close_heartbeat()


@pytest.mark.parametrize("cause", [lose_the_join, stop_the_heartbeats])
def test_a_member_that_is_none_is_noticed_within_a_session_and_made_anew(
    broker: Broker, new_topic: TopicFactory, cause: Callable[[Member], None]
) -> None:
    topic = new_topic()
    publish(broker.bootstrap, topic, [Record(None, b"x") for _ in range(10)])
    member = Member(broker.bootstrap, topic, SESSION_S)
    member.source.start()
    member.turns_until(lambda: member.source.is_member and member.count == 10, "it is a member and has read all")
    (assignment,) = member.ledger.assignments()
    assert member.source.commit_now({assignment: 4}, 5.0)
    stale = member.source._consumer
    member.read.clear()
    # Before the first heartbeat there is nothing to tell how old it is.
    member.turns_until(lambda: heartbeat_age(member) < SESSION_S / 4, "a heartbeat was answered just now")

    cause(member)
    since = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"no member of the group for \d+ s; joining again"):
        member.turns_until(lambda: False, "the member is found to be none")
    took = time.monotonic() - since

    assert SESSION_S * 0.5 < took < SESSION_S * 2.5 + BUSY_S
    assert member.lost_members() == 1
    assert member.lost_partitions() == 1  # what the alert on them counts
    assert (member.source.is_member, member.ledger.assignments(), stale._closed) == (False, [], True)
    member.source.start()
    member.turns_until(lambda: member.source.is_member and member.count, "it has joined again and reads")
    assert member.read == {0: [4, 5, 6, 7, 8, 9]}
    assert member.lost_members() == 1
    member.source.close(2.0)


def heartbeat_age(member: Member) -> float:
    """The client's own figure, in seconds; without end before the first."""
    return float(member.source._consumer.metrics()["consumer-coordinator-metrics"]["last-heartbeat-seconds-ago"])


@pytest.fixture(scope="module")
def front(emulator: Emulator) -> Iterator[FrontedBroker]:
    """A broker behind a proxy."""
    with fronted_broker(emulator) as running:
        yield running


def test_a_join_that_the_client_lost_is_made_anew_and_nothing_is_lost(
    front: FrontedBroker, start_worker: WorkerFactory
) -> None:
    stage = front.new_stage(partitions=2)
    settings = stage.settings(kafka__client=METADATA_MAX_AGE, kafka__session_timeout_ms=4000)
    worker = start_worker(settings).wait_ready()
    stage.publish_versions(versions_of(keys=50, count=50))
    worker.wait_settled(50)

    # 1. The metadata asks for a join. 2. The join is answered; from here on the metadata asks no more. 3. The poll that
    # awaits the rest of the join is over, and the next one awaits it no more. 4. The rest of the join comes.
    with front.proxy.holding(SyncGroupRequest.API_KEY) as held:
        stage.admin.create_partitions({stage.topic: NewPartitions(6)})
        stage.partitions = 6
        assert held.seen.wait(LIMIT_S)
        poll = worker.metrics().total("last_poll_timestamp_seconds")
        worker.wait_until(lambda now: now.total("last_poll_timestamp_seconds") > poll, "another poll has begun")
    line = worker.wait_line("not connected")
    stage.publish_versions([(f"later-{number}", [float(number)] * 4) for number in range(50)])
    worker.wait_until(lambda now: now.total("assigned_partitions") == 6, "all partitions are assigned")
    stage.wait_committed_to_the_end(worker)

    assert re.fullmatch(r"no member of the group for \d+ s; joining again", line["error"])
    now = worker.metrics()
    assert now.total("kafka_errors_total", kind="group") >= 1
    assert (now.imbalances(), now.state) == ({}, "running")
    assert stage.dump() == stage.model()


def test_a_member_that_lost_its_partitions_does_not_claim_them_when_it_comes_back(
    broker: Broker, new_topic: TopicFactory
) -> None:
    """The group would withhold those that it gives to another until they are let go, which they are: nobody reads them."""
    member = Member(broker.bootstrap, new_topic(4))
    member.source.start()
    try:
        member.turns_until(lambda: len(member.opened) == 4, "all partitions are there")
        coordinator = member.source._consumer._coordinator
        (assignor,) = coordinator._assignors.values()
        assert len(assignor.metadata([]).owned_partitions[0].partitions) == 4
        claims = []
        real = assignor.metadata

        def metadata(topics: Sequence[str]) -> Any:
            claims.append(real(topics))
            return claims[-1]

        assignor.metadata = metadata
        member.opened.clear()
        coordinator.reset_generation()  # as for a member that hears that it is none any more
        member.turns_until(lambda: len(member.opened) == 4, "all partitions are there again")
        assert claims
        assert [claim.owned_partitions for claim in claims] == [[]] * len(claims)
    finally:
        member.source.close(2.0)
