"""Which partitions cannot be fetched, by what the client knows of their leaders."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors

from tests.support.fakes import FakeClock
from worker.consumer.leaders import GRACE_SECONDS, LOOK_SECONDS, Leaders
from worker.consumer.unreadable import UnreadablePartitions
from worker.errors import BlockReason
from worker.ledger import Assignment, Ledger, Partition
from worker.telemetry.state import Block, Status

PARTITIONS = [Partition("vectors", number) for number in range(3)]


class Position(NamedTuple):
    """What the client knows of the position in one partition."""

    known: Any
    number: int

    @property
    def awaiting_validation(self) -> bool:
        return self.number in self.known.unconfirmed


class Known:
    """What of a consumer is asked: leaders, and connections by the number of the broker."""

    def __init__(self, leaders: Sequence[int], connected: dict[int, bool]) -> None:
        self.leaders = dict(enumerate(leaders))
        self.refreshed = 0
        self._cluster = self
        self.unconfirmed: set[int] = set()
        states = {TopicPartition(*one): Position(self, one.partition) for one in PARTITIONS}
        self._subscription = SimpleNamespace(assignment=states)
        brokers = [SimpleNamespace(node_id=number, host="host", port=9000 + number) for number in connected]
        connections = {number: SimpleNamespace(connected=up) for number, up in connected.items()}
        self._manager = SimpleNamespace(
            cluster=SimpleNamespace(brokers=lambda: brokers), _conns=connections, _backoff={}
        )

    def leader_for_partition(self, tp: TopicPartition) -> int | None:
        return self.leaders.get(tp.partition)

    def request_update(self) -> None:
        self.refreshed += 1


class Look:
    """Looks with a clock of its own."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.status = Status(0.0)
        self.leaders = Leaders(self.status, self.clock)
        ledger = Ledger(["vectors"], self.clock)
        self.assignments: list[Assignment] = [ledger.assign(partition) for partition in PARTITIONS]

    def over(self, seconds: float, known: Any) -> None:
        for _ in range(round(seconds / LOOK_SECONDS) + 1):
            self.leaders.look(known, self.assignments)
            self.clock.advance(LOOK_SECONDS)

    def blocks(self) -> dict[Block, str]:
        return self.status.read().blocks


def block(number: int) -> Block:
    return Block("vectors", BlockReason.PARTITION_UNREADABLE, number)


def test_a_partition_without_a_leader_is_held_at_once_and_blocked_after_a_while() -> None:
    look, known = Look(), Known([-1, 1, 1], {1: True})
    look.over(0, known)
    assert (look.leaders.without, look.blocks(), known.refreshed) == (frozenset(PARTITIONS[:1]), {}, 1)
    look.over(GRACE_SECONDS, known)
    assert list(look.blocks()) == [block(0)]
    known.leaders[0] = 1
    look.over(0, known)
    assert (look.leaders.without, look.blocks()) == (frozenset(), {})


def test_a_leader_that_is_back_leaves_a_partition_blocked_whose_batch_cannot_be_read() -> None:
    look, known = Look(), Known([-1, 1, 1], {1: True})
    unreadable = UnreadablePartitions(look.status, 30.0, look.clock)
    unreadable.block(PARTITIONS[0], 5, "CorruptRecordError")
    look.over(GRACE_SECONDS, known)
    known.leaders[0] = 1
    look.over(0, known)
    assert look.blocks() == {block(0): "vectors/0 offset 5: CorruptRecordError"}
    known.leaders[0] = -1
    look.over(GRACE_SECONDS, known)
    unreadable.unblock(PARTITIONS[0])
    assert "no leader" in look.blocks()[block(0)]


def test_a_partition_that_the_metadata_does_not_name_is_not_fetched_and_nothing_more_is_said_of_it() -> None:
    look, known = Look(), Known([1, 1], {1: True})
    look.over(GRACE_SECONDS, known)
    assert (look.leaders.without, look.blocks()) == (frozenset(PARTITIONS[2:]), {})
    known.leaders[2] = 1
    look.over(0, known)
    assert look.leaders.without == frozenset()


def test_a_position_that_its_leader_does_not_confirm_for_long_blocks_the_partition() -> None:
    look, known = Look(), Known([1, 2, 1], {1: True, 2: True})
    known.unconfirmed.add(1)
    look.over(GRACE_SECONDS / 2, known)
    assert look.blocks() == {}
    look.over(GRACE_SECONDS, known)
    assert look.blocks() == {
        block(
            1
        ): "vectors/1: its leader, broker 2, does not confirm the position (OffsetForLeaderEpoch): look at the log "
        "of that broker"
    }
    known.unconfirmed.clear()
    look.over(0, known)
    assert look.blocks() == {}


def test_an_election_blocks_nothing() -> None:
    look, known = Look(), Known([-1, 1, 1], {1: True})
    look.over(GRACE_SECONDS / 2, known)
    known.leaders[0] = 1
    look.over(0, known)
    known.leaders[0] = -1
    look.over(GRACE_SECONDS / 2, known)
    assert look.blocks() == {}


def test_a_leader_that_cannot_be_reached_is_named_and_its_partition_still_fetched() -> None:
    look, known = Look(), Known([2, 1, 1], {1: True, 2: False})
    look.over(GRACE_SECONDS, known)
    assert look.leaders.without == set()
    assert "broker 2 at host:9002" in look.blocks()[block(0)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(
            kafka_errors.SaslAuthenticationFailedError("Authentication failed"),
            "(SaslAuthenticationFailedError: Authentication failed), cannot be reached: correct kafka.sasl_plain_username and "
            "kafka.sasl_plain_password, or what that broker knows of this user",
            id="password",
        ),
        pytest.param(
            kafka_errors.KafkaConnectionError("Handshake failed: [SSL: CERTIFICATE_VERIFY_FAILED]"),
            "(KafkaConnectionError: Handshake failed: [SSL: CERTIFICATE_VERIFY_FAILED]), cannot be reached: correct the "
            "certificate of that broker, or kafka.ssl_cafile",
            id="certificate",
        ),
        pytest.param(
            kafka_errors.KafkaConnectionError("111 ECONNREFUSED"),
            "(KafkaConnectionError: 111 ECONNREFUSED), cannot be reached: look at that broker, the network, and its "
            "advertised.listeners",
            id="network",
        ),
    ],
)
def test_why_a_leader_cannot_be_reached_is_said(error: Exception, message: str) -> None:
    look, known = Look(), Known([2, 1, 1], {1: True, 2: False})
    known._manager.failures = {2: error}
    look.over(GRACE_SECONDS, known)
    assert look.blocks() == {block(0): f"vectors/0: its leader, broker 2 at host:9002 {message}"}


def test_an_outage_of_all_brokers_is_no_fault_of_a_partition() -> None:
    look, known = Look(), Known([2, 1, 1], {1: False, 2: False})
    look.over(2 * GRACE_SECONDS, known)
    assert look.blocks() == {}


def test_a_block_that_another_put_up_stays() -> None:
    look, known = Look(), Known([1, 1, 1], {1: True})
    look.status.block(block(1), "a batch that cannot be decoded")
    look.over(GRACE_SECONDS, known)
    assert list(look.blocks()) == [block(1)]
