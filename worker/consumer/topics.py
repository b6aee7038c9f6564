"""Topics that do not exist, or are not shown to this user: they wait, and the others are read.

A subscribed topic that does not exist makes the client ask for metadata ten times a second. So only those that exist are
subscribed to. The others are asked for by name now and then, and subscribed to when they appear.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from kafka import errors as kafka_errors

from worker.consumer import client_internals
from worker.consumer.client_internals.protocol import MetadataRequest
from worker.errors import BlockReason
from worker.telemetry.state import Block, Status

LOOK_SECONDS: Final = 5.0

ABSENT: Final = "kafka has no such topic: make it, or correct the routes; it is read as soon as it is there"
DENIED: Final = "kafka does not show it to this user: grant READ and DESCRIBE, or correct the routes"


def ask_absent(consumer: Any, topics: Collection[str]) -> Any:
    """Ask which of these topics do not exist, or are not shown; return a future of a dict with the reason of each."""
    return client_internals.submit(consumer, _absent, consumer, tuple(topics))


async def _absent(consumer: Any, topics: Iterable[str]) -> Mapping[str, str]:
    node = client_internals.any_broker(consumer)
    if node is None:
        raise kafka_errors.NodeNotReadyError("metadata")
    request = MetadataRequest(
        topics=[MetadataRequest.MetadataRequestTopic(name=topic) for topic in topics],
        allow_auto_topic_creation=False,
        include_cluster_authorized_operations=False,
        include_topic_authorized_operations=False,
    )
    response = await client_internals.send(consumer, request, node)
    errors = {topic.name: kafka_errors.for_code(topic.error_code) for topic in response.topics}
    absent = {}
    for topic in topics:
        error = errors.get(topic, kafka_errors.UnknownTopicOrPartitionError)
        if error is kafka_errors.TopicAuthorizationFailedError:
            absent[topic] = DENIED
        elif error in (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.InvalidTopicError):
            absent[topic] = ABSENT
    return absent


class Topics:
    """Which of the topics of the routes exist. Only the main loop calls it."""

    def __init__(self, status: Status, clock: Callable[[], float]) -> None:
        self.all: tuple[str, ...] = ()
        self._status = status
        self._clock = clock
        self._absent: dict[str, str] = {}
        self._asked: Any = None
        self._look_again_at = 0.0

    @property
    def present(self) -> tuple[str, ...]:
        """Those that exist, as far as is known."""
        return tuple(topic for topic in self.all if topic not in self._absent)

    def begin(self, topics: Iterable[str], absent: Mapping[str, str]) -> None:
        """Note what was found at the start of a consumer."""
        self.all = tuple(topics)
        self._asked = None
        self._look_again_at = self._clock() + LOOK_SECONDS
        self._note(absent)

    def look(self, consumer: Any) -> bool:
        """Look now and then; return whether other topics exist than before. It waits for nothing."""
        now = self._clock()
        if self._asked is not None and self._asked.is_done:
            asked, self._asked = self._asked, None
            if asked.exception is None:
                before = self.present
                self._note(asked.value)
                return before != self.present
        elif self._asked is None and now >= self._look_again_at:
            self._look_again_at = now + LOOK_SECONDS
            if self._absent or not all(client_internals.partitions(consumer, topic) for topic in self.all):
                self._asked = ask_absent(consumer, self.all)
        return False

    def note_read(self, topic: str) -> None:
        """Note that records of a topic were read: it exists, whatever the last look found."""
        if topic in self._absent:
            self._note({name: reason for name, reason in self._absent.items() if name != topic})

    def _note(self, absent: Mapping[str, str]) -> None:
        before, self._absent = self._absent, {topic: absent[topic] for topic in self.all if topic in absent}
        for topic, reason in self._absent.items():
            self._status.block(_block(topic), f"{topic}: {reason}")
        for topic in before.keys() - self._absent.keys():
            self._status.unblock(_block(topic))


def _block(topic: str) -> Block:
    return Block(topic, BlockReason.PARTITION_UNREADABLE)
