"""What is done to one partition in the client, and how partitions are named in the log."""

from collections.abc import Iterable
from typing import Any, Final

from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from worker.consumer import client_internals
from worker.ledger import Partition

GONE: Final = (kafka_errors.KafkaError, AssertionError, KeyError, ValueError)
"""What the client raises for a partition that it no longer owns: its assignment changes on its own thread."""


def pause_at_zero(consumer: Any, tp: TopicPartition) -> None:
    """Pause a partition at offset 0 until the main loop knows where to begin. Raises one of `GONE`."""
    consumer.pause(tp)
    client_internals.seek(consumer, tp, 0)


def seek(consumer: Any, partition: Partition, offset: int, leader_epoch: int = -1) -> bool:
    """Continue reading at `offset`; return False where the partition is no longer owned. Only the main loop calls it.

    With the epoch of the records before `offset`, the client first asks the leader whether its log continues there. What
    was fetched before is dropped: it may be of another log that had the same offsets.
    """
    tp = TopicPartition(*partition)
    try:
        if leader_epoch >= 0 and client_internals.leaders_know_epochs(consumer):
            client_internals.seek(consumer, tp, OffsetAndMetadata(offset, "", leader_epoch))
        else:
            client_internals.seek(consumer, tp, offset)
    except GONE:
        return False
    client_internals.drop_all_fetched(consumer, tp)
    return True


def names_of(partitions: Iterable[TopicPartition | Partition]) -> list[str]:
    """Return "topic/number" of each, sorted."""
    return [f"{tp.topic}/{tp.partition}" for tp in sorted(partitions)]
