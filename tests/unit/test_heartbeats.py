"""Which requests of the group's consumer renew the lease, which end it, and which heartbeats are added."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.future import Future
from kafka.protocol.consumer import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    OffsetCommitRequest,
    SyncGroupRequest,
)

from tests.support.fakes import FakeClock
from worker.consumer.commits import Answered
from worker.consumer.heartbeats import Heartbeats
from worker.lease import Lease
from worker.ledger import Partition

OK, ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCING, TOPIC_DENIED, GROUP_DENIED, FENCED = 0, 22, 25, 27, 29, 30, 82
COORDINATOR = "coordinator-7"
WHO: dict[str, Any] = {"group_id": "g", "member_id": "m", "group_instance_id": None}


class Client:
    """The client and the broker: keeps what was sent, and what is to be called later."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lease = Lease(45.0, 300.0, self.clock)
        self.renewed = 0
        self.own: list[tuple[Any, Any, Future]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.expelled = 0
        self.fenced = 0
        self.committed: list[Mapping[Partition, Answered]] = []
        self.heartbeats = Heartbeats(
            self.lease,
            3.0,
            send=self._send,
            call_later=self._call_later,
            on_renewed=self._note_renewed,
            on_expelled=self._note_expelled,
            on_fenced=self._note_fenced,
            on_commit_answered=self.committed.append,
        )

    def _note_expelled(self) -> None:
        self.expelled += 1

    def _note_fenced(self) -> None:
        self.fenced += 1

    def _note_renewed(self) -> None:
        self.renewed += 1

    def _send(self, request: Any, node_id: Any) -> Future:
        self.own.append((request, node_id, Future()))
        return self.own[-1][2]

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        self.later.append((seconds, function))

    def sends(self, request: Any, node_id: Any = COORDINATOR) -> Future:
        """The client hands over a request; returns the future of its answer."""
        answer = Future()
        self.heartbeats.watch(request, node_id, self.lease.now(), answer)
        return answer

    def time_passes(self) -> None:
        """What was to be called later is called."""
        (seconds, function), self.later = self.later[0], self.later[1:]
        self.clock.advance(seconds)
        function()


def answered(future: Future, code: int) -> None:
    future.success(SimpleNamespace(error_code=code))


@pytest.fixture
def client() -> Client:
    return Client()


def heartbeat() -> Any:
    return HeartbeatRequest(generation_id=4, **WHO)


def sync(generation: int = 4) -> Any:
    return SyncGroupRequest(
        generation_id=generation, protocol_type="consumer", protocol_name="x", assignments=[], **WHO
    )


def join(member_id: str = "m") -> Any:
    return JoinGroupRequest(
        session_timeout_ms=45_000,
        rebalance_timeout_ms=300_000,
        protocol_type="consumer",
        protocols=[],
        **(WHO | {"member_id": member_id}),
    )


def commit(*offsets: int) -> Any:
    """A commit of the topic's partitions from 0 on."""
    topic = OffsetCommitRequest.OffsetCommitRequestTopic
    partition = topic.OffsetCommitRequestPartition
    made = [
        partition(partition_index=number, committed_offset=offset, committed_leader_epoch=-1, committed_metadata="")
        for number, offset in enumerate(offsets)
    ]
    topics = [topic(name="vectors", partitions=made)]
    return OffsetCommitRequest(generation_id_or_member_epoch=4, retention_time_ms=-1, topics=topics, **WHO)


def commit_answered(future: Future, *codes: int) -> None:
    partitions = [SimpleNamespace(partition_index=number, error_code=code) for number, code in enumerate(codes)]
    future.success(SimpleNamespace(topics=[SimpleNamespace(name="vectors", partitions=partitions)]))


def test_the_answer_to_a_commit_is_passed_on_for_each_partition(client: Client) -> None:
    commit_answered(client.sends(commit(7, 9)), OK, TOPIC_DENIED)
    assert client.committed == [
        {Partition("vectors", 0): Answered(7, OK), Partition("vectors", 1): Answered(9, TOPIC_DENIED)}
    ]


def test_an_accepted_heartbeat_renews_the_lease_from_before_it_was_handed_over(client: Client) -> None:
    answer = client.sends(heartbeat())
    client.clock.advance(2.0)
    answered(answer, OK)
    assert (client.lease.holds(), client.lease.age(), client.renewed) == (True, 2.0, 1)


def test_a_heartbeat_that_tells_of_a_rebalance_renews_it_too(client: Client) -> None:
    answered(client.sends(heartbeat()), OK)
    client.clock.advance(3.0)
    answered(client.sends(heartbeat()), REBALANCING)
    assert client.lease.age() == 0.0


@pytest.mark.parametrize("code", [15, 16, 14, 30, -1])  # coordinator away, moved or loading; denied; unknown
def test_other_answers_to_a_heartbeat_renew_and_end_nothing(client: Client, code: int) -> None:
    answered(client.sends(heartbeat()), OK)
    client.clock.advance(3.0)
    answered(client.sends(heartbeat()), code)
    assert (client.lease.holds(), client.lease.age()) == (True, 3.0)


def test_the_error_of_the_last_heartbeat_is_kept_until_one_is_accepted_or_the_member_is_not_known(
    client: Client,
) -> None:
    seen = [client.heartbeats.refusal]
    not_the_coordinator = 16
    for code in (GROUP_DENIED, OK, GROUP_DENIED, REBALANCING, GROUP_DENIED, UNKNOWN_MEMBER, not_the_coordinator):
        answered(client.sends(heartbeat()), code)
        seen.append(client.heartbeats.refusal)
    denied = "GroupAuthorizationFailedError"
    assert seen == ["", denied, "", denied, "", denied, "", ""]


@pytest.mark.parametrize("code", [ILLEGAL_GENERATION, UNKNOWN_MEMBER, FENCED])
@pytest.mark.parametrize("request_of", [heartbeat, sync, join, commit])
def test_an_answer_that_the_group_does_not_know_the_member_ends_it(
    client: Client, code: int, request_of: Callable[[], Any]
) -> None:
    answered(client.sends(heartbeat()), OK)
    client.clock.advance(1.0)
    answer = client.sends(request_of())
    if request_of is commit:
        commit_answered(answer, OK, code)
    else:
        answered(answer, code)
    assert not client.lease.holds()
    if (request_of, code) == (heartbeat, FENCED):
        assert (client.expelled, client.fenced) == (0, 1)  # the client would only stop sending heartbeats
    else:  # so that the client gives up what it owned, also in the middle of a rebalance
        assert (client.expelled, client.fenced) == (1, 0)


def test_a_member_that_this_process_replaces_itself_is_not_fenced(client: Client) -> None:
    """Its next join has no name yet, for the group had forgotten it: the broker fences the name before."""
    answered(client.sends(heartbeat()), OK)
    pending = client.sends(heartbeat())
    client.sends(join(member_id=""))
    answered(pending, FENCED)
    assert (client.expelled, client.fenced) == (1, 0)


def test_a_heartbeat_of_ours_learns_of_the_fencing_too(client: Client) -> None:
    answered(client.sends(heartbeat()), OK)
    client.sends(join())
    client.time_passes()
    answered(client.own[-1][2], FENCED)
    assert (client.expelled, client.fenced, client.lease.holds()) == (0, 1, False)


def test_a_request_to_leave_ends_it_before_it_is_answered(client: Client) -> None:
    """The client leaves by itself when the main loop does not poll for `kafka.max_poll_interval_ms`."""
    answered(client.sends(heartbeat()), OK)
    client.clock.advance(1.0)
    client.sends(LeaveGroupRequest(group_id="g", member_id="m", members=[]))
    assert not client.lease.holds()


@pytest.mark.parametrize("request_of", [join, commit])
def test_a_join_or_a_commit_renews_nothing_for_it_does_not_at_every_broker(
    client: Client, request_of: Callable[[], Any]
) -> None:
    answer = client.sends(request_of())
    if request_of is commit:
        commit_answered(answer, OK)
    else:
        answered(answer, OK)
    assert not client.lease.holds()


def test_after_a_sync_a_heartbeat_of_its_generation_is_sent_at_once(client: Client) -> None:
    answered(client.sends(sync(generation=9)), OK)
    assert not client.lease.holds()
    ((request, node, answer),) = client.own
    assert (request.generation_id, request.member_id, node) == (9, "m", COORDINATOR)
    answered(answer, OK)
    assert client.lease.holds()


def test_while_a_join_waits_heartbeats_go_by_the_brokers_other_connection(client: Client) -> None:
    answered(client.sends(heartbeat()), OK)
    pending = client.sends(join())
    for _ in range(40):  # two minutes, in which another member does not join
        client.time_passes()
        request, node, answer = client.own[-1]
        assert (request.generation_id, request.member_id, node) == (4, "m", 7)
        answered(answer, REBALANCING)
        assert client.lease.holds()
    answered(pending, OK)
    sent = len(client.own)
    client.time_passes()
    assert (len(client.own), client.later) == (sent, [])


def test_while_a_join_waits_and_nothing_is_answered_the_lease_runs_out(client: Client) -> None:
    answered(client.sends(heartbeat()), OK)
    client.sends(join())
    for _ in range(15):
        client.time_passes()
    assert client.lease.age() > 40.5
    assert not client.lease.holds()


def test_a_heartbeat_that_comes_after_the_join_was_answered_ends_nothing(client: Client) -> None:
    answered(client.sends(heartbeat()), OK)
    client.sends(join())
    client.time_passes()
    answered(client.own[-1][2], ILLEGAL_GENERATION)
    assert client.lease.holds()
    client.time_passes()
    answered(client.own[-1][2], UNKNOWN_MEMBER)
    assert not client.lease.holds()


def test_a_new_member_that_joins_sends_none(client: Client) -> None:
    client.sends(join(member_id=""))
    assert client.later == []


def test_a_broker_that_cannot_be_reached_costs_one_heartbeat_and_not_the_next(client: Client) -> None:
    answered(client.sends(heartbeat()), OK)
    client.sends(join())
    client.time_passes()
    client.own[-1][2].failure(ConnectionError())
    client.time_passes()
    assert len(client.own) == 2
