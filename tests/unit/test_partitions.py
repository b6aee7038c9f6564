"""What is done to one partition in the client."""

import pytest
from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from tests.support.client import FakeConsumer
from worker.consumer.partitions import GONE, names_of, pause_at_zero, seek
from worker.ledger import Partition

PARTITION = Partition("vectors", 0)
TP = TopicPartition("vectors", 0)
OTHER = TopicPartition("vectors", 1)


def test_a_parked_partition_is_paused_at_offset_0() -> None:
    consumer = FakeConsumer()
    consumer.own(PARTITION)
    pause_at_zero(consumer, TP)
    assert (consumer.parked, consumer.sought) == ({TP}, [(TP, 0)])


def test_a_partition_that_is_no_longer_owned_can_neither_be_parked_nor_sought() -> None:
    consumer = FakeConsumer()
    with pytest.raises(GONE):
        pause_at_zero(consumer, TP)
    assert seek(consumer, PARTITION, 5) is False


@pytest.mark.parametrize(
    ("epoch", "knows_epochs", "sought"),
    [
        pytest.param(3, True, OffsetAndMetadata(5, "", 3), id="the leader is asked whether its log continues"),
        pytest.param(-1, True, 5, id="the epoch is not known"),
        pytest.param(3, False, 5, id="the brokers know no epochs"),
    ],
)
def test_a_position_carries_the_leaders_epoch_where_it_can(epoch: int, knows_epochs: bool, sought: object) -> None:
    consumer = FakeConsumer()
    consumer.own(PARTITION)

    def api_version(_: object) -> int:
        if not knows_epochs:
            raise kafka_errors.IncompatibleBrokerVersion
        return 1

    consumer._manager.broker_version_data.api_version = api_version
    assert seek(consumer, PARTITION, 5, epoch) is True
    assert consumer.sought == [(TP, sought)]


def test_what_was_fetched_before_a_seek_is_dropped() -> None:
    """It may be of a topic that was deleted, whose successor is read at the same offset."""
    consumer = FakeConsumer()
    consumer.own(PARTITION)
    consumer._fetcher._paused_completed_fetches = {TP: "of the deleted log", OTHER: "of another"}
    assert seek(consumer, PARTITION, 0) is True
    assert consumer._fetcher._paused_completed_fetches == {OTHER: "of another"}


def test_names_are_sorted_and_have_the_topic() -> None:
    assert names_of([TopicPartition("b", 0), TopicPartition("a", 10), TopicPartition("a", 9)]) == ["a/9", "a/10", "b/0"]
