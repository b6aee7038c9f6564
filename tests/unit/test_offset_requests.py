"""What a leader's answer about an epoch is worth, with a broker whose answer the test gives."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from tests.support.client import FakeConsumer
from worker.consumer import offset_requests
from worker.consumer.offset_requests import EpochEnd, ask_epoch_ends

TP = TopicPartition("vectors", 0)


def answer_of(leader_epoch: int | None, *, epoch: int, end: int) -> tuple[Any, int]:
    """Ask where epoch 7 ends; the metadata names a leader of `leader_epoch`.

    Return what its answer counts as, and how often fresh metadata was asked for.
    """
    consumer = FakeConsumer({"vectors": 1})
    consumer.leader_epochs[TP] = leader_epoch
    (asked,) = ask_epoch_ends(consumer, {TP: 7})
    assert asked.partitions == {TP}
    refreshed: list[None] = []
    consumer._cluster.request_update = lambda: refreshed.append(None)
    found = SimpleNamespace(partition=0, error_code=0, leader_epoch=epoch, end_offset=end)

    async def send(*_: object, **__: object) -> Any:
        return SimpleNamespace(topics=[SimpleNamespace(topic="vectors", partitions=[found])])

    consumer._manager.send = send
    answers = asyncio.run(offset_requests._list_epoch_ends(*consumer.calls[-1].arguments))
    return answers[TP], len(refreshed)


def test_a_leader_older_than_the_epoch_that_it_does_not_know_is_doubted() -> None:
    assert answer_of(6, epoch=-1, end=-1) == (EpochEnd(-1, -1, is_doubtful=True), 1)


@pytest.mark.parametrize("leader_epoch", [7, 8, -1, None])
def test_a_leader_as_new_as_the_epoch_that_it_does_not_know_has_another_log(leader_epoch: int | None) -> None:
    """As one of which the brokers name no epoch."""
    assert answer_of(leader_epoch, epoch=-1, end=-1) == (EpochEnd(-1, -1), 0)


def test_where_an_older_epoch_ends_is_believed_of_any_leader() -> None:
    assert answer_of(6, epoch=6, end=40) == (EpochEnd(6, 40), 0)
