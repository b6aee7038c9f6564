"""A worker that has started joins its group, every time, also on a machine that is busy."""

import sys
from collections.abc import Iterator

import pytest

from tests.support.bounded import running
from tests.support.broker import TopicFactory
from tests.support.member import Member
from tests.support.worker import Record, publish
from worker.local.broker import Broker

STARTS = 50
PARTITIONS = 6
SESSION_S = 120.0  # after which a join that was lost is made again
DEADLINE_S = 100.0  # below that: a join that comes late was not lost
BUSY = "while True: pass"


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Two processes that take all they get of the processors."""
    hog = [sys.executable, "-c", BUSY]
    with running(hog), running(hog):
        yield


@pytest.mark.timeout(900)
def test_of_50_starts_on_a_busy_machine_all_join_and_read(
    broker: Broker, new_topic: TopicFactory, busy_machine: None
) -> None:
    topic = new_topic(PARTITIONS)
    publish(broker.bootstrap, topic, [Record(None, b"x", partition=number) for number in range(PARTITIONS)])

    for start in range(STARTS):
        member = Member(broker.bootstrap, topic, SESSION_S)
        member.source.start()
        member.turns_until(
            lambda member=member: member.source.is_member and len(member.read) == PARTITIONS,  # type: ignore[misc]  # of this start
            f"start {start} has joined and read all partitions",
            DEADLINE_S,
        )
        assert member.lost_members() == 0  # a new consumer would hide a join that was lost
        member.source.close(1.0)
