"""A partition that is paused and resumed goes on where it was, whatever the client did with what it held of it."""

from tests.support.broker import TopicFactory
from tests.support.member import Member
from tests.support.worker import Record, publish
from worker.consumer.source import MAX_POLL_RECORDS
from worker.local.broker import Broker

EACH = MAX_POLL_RECORDS * 2 + 200  # one fetch, three polls


def test_what_the_client_put_aside_of_a_paused_partition_is_read_when_it_is_resumed(
    broker: Broker, new_topic: TopicFactory
) -> None:
    topic = new_topic(3)
    publish(broker.bootstrap, topic, [Record(None, b"x", partition=number % 3) for number in range(3 * EACH)])
    member = Member(broker.bootstrap, topic)
    member.source.start()

    member.turns_until(lambda: member.read, "the first records are read")
    (first,) = member.read
    assert len(member.read[first]) < EACH
    member.unwanted = {first}
    member.turns_until(lambda: member.count >= len(member.read[first]) + 2 * EACH, "the others are read to their ends")
    assert len(member.read[first]) < EACH
    member.unwanted = set()
    member.turns_until(lambda: len(member.read[first]) == EACH, "the first is read to its end too")

    assert member.read == {number: list(range(EACH)) for number in range(3)}
    member.source.close(2.0)
