"""The subscription: the topics of the routes that exist, with their metadata loaded before the first join.

In this order, since a join can be lost (see `membership.py`):

1. The client compares metadata with what its join was made of, and notes it only for topics that it is subscribed to.
2. Metadata that comes after the first join asks for a second one.
3. The second one can be lost.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from kafka import errors as kafka_errors

from worker.consumer import client_internals
from worker.consumer.topics import DENIED, Topics, ask_absent
from worker.errors import BrokerUnavailable

CALL_TIMEOUT_MS: Final = 1_000  # of a call that the main loop waits for
START_TIMEOUT_MS: Final = 5_000  # likewise, while there is nothing else to do


class Subscription:
    """Subscribes a consumer to the topics that exist. Only the main loop calls it."""

    def __init__(
        self,
        names: Sequence[str],
        topics: Topics,
        *,
        count_error: Callable[[BaseException], None],
        clock: Callable[[], float],
    ) -> None:
        self._names = tuple(names)
        self._topics = topics
        self._count_error = count_error
        self._clock = clock
        self._listener: Any = None

    def begin(self, consumer: Any, listener: Any) -> None:
        """Subscribe. Raises `BrokerUnavailable` where no topic is there, and kafka-python's errors."""
        absent = client_internals.wait(consumer, ask_absent(consumer, self._names), START_TIMEOUT_MS)
        if len(absent) == len(set(self._names)):
            raise self._all_absent(absent)
        self._topics.begin(self._names, absent)
        self._listener = listener
        consumer.subscribe(topics=self._topics.present, listener=listener)
        self._load_metadata(consumer, START_TIMEOUT_MS)

    def watch(self, consumer: Any) -> None:
        """Subscribe to a topic that has appeared, and no longer to one that has gone; the others are read meanwhile."""
        if not self._topics.look(consumer) or not self._topics.present:
            return
        try:
            self._load_metadata(consumer, CALL_TIMEOUT_MS)
        except Exception as error:  # the client raises errors of every kind
            self._count_error(error)  # the partitions come with the next metadata, which asks for another join
        consumer.subscribe(topics=self._topics.present, listener=self._listener)

    def _all_absent(self, absent: Mapping[str, str]) -> BrokerUnavailable:
        denied = [topic for topic, reason in absent.items() if reason == DENIED]
        if denied:
            self._count_error(kafka_errors.TopicAuthorizationFailedError())
            return BrokerUnavailable(
                f"kafka does not show this user: {', '.join(denied)}; grant READ, or correct the routes"
            )
        return BrokerUnavailable(f"kafka has no such topic: {', '.join(absent)}; create it, or correct the routes")

    def _load_metadata(self, consumer: Any, timeout_ms: int) -> None:
        """Wait until the partitions of all topics that exist are known. Raises kafka-python's errors."""
        client_internals.set_topics(consumer, self._topics.present)
        deadline = self._clock() + timeout_ms / 1000
        while not all(client_internals.partitions(consumer, topic) for topic in self._topics.present):
            remaining_ms = round((deadline - self._clock()) * 1000)
            if remaining_ms <= 0:
                raise kafka_errors.KafkaTimeoutError("the topics' partitions are not known")
            client_internals.wait(consumer, client_internals.refresh_metadata(consumer), remaining_ms)
