"""Which topics are subscribed to, and that their metadata comes first. The client's wait advances the clock."""

import pytest
from kafka import errors as kafka_errors
from kafka.future import Future

from tests.support.client import FakeConsumer
from tests.support.fakes import FakeClock
from worker.consumer.subscription import CALL_TIMEOUT_MS, START_TIMEOUT_MS, Subscription
from worker.consumer.topics import ABSENT, DENIED, LOOK_SECONDS, Topics
from worker.errors import BrokerUnavailable
from worker.telemetry.state import Status

NAMES = ["vectors", "images"]


class Bench:
    """The subscription of two topics, of which `absent` says which are not there."""

    def __init__(self, **absent: str) -> None:
        self.clock = FakeClock()
        self.counted: list[str] = []
        self.status = Status(0.0)
        topics = Topics(self.status, self.clock)
        self.subscription = Subscription(
            NAMES, topics, count_error=lambda error: self.counted.append(type(error).__name__), clock=self.clock
        )
        self.consumer = FakeConsumer({name: 1 for name in NAMES if name not in absent}, sleeps=self.clock.advance)
        self.consumer.answers["_absent"] = absent

    def begin(self) -> None:
        self.subscription.begin(self.consumer, "the listener")

    def look(self) -> None:
        """Look as often as an answer takes."""
        self.clock.advance(LOOK_SECONDS)
        for _ in range(2):
            self.subscription.watch(self.consumer)


def test_all_topics_that_exist_are_subscribed_to_and_asked_for() -> None:
    bench = Bench()
    bench.begin()
    assert (bench.consumer.subscribed, bench.consumer._cluster._topics) == ([NAMES], set(NAMES))


def test_a_topic_that_does_not_exist_is_left_out_and_blocked() -> None:
    bench = Bench(images=ABSENT)
    bench.begin()
    assert bench.consumer.subscribed == [["vectors"]]
    assert [str(block) for block in bench.status.read().blocks] == ["images: partition_unreadable"]


@pytest.mark.parametrize(
    ("absent", "problem", "counted"),
    [
        ({"vectors": ABSENT, "images": ABSENT}, "kafka has no such topic: vectors, images; create it", []),
        (
            {"vectors": DENIED, "images": ABSENT},
            "kafka does not show this user: vectors; grant READ",
            ["TopicAuthorizationFailedError"],
        ),
    ],
)
def test_a_start_without_any_topic_says_why(absent: dict[str, str], problem: str, counted: list[str]) -> None:
    bench = Bench(**absent)
    with pytest.raises(BrokerUnavailable, match=problem):
        bench.begin()
    assert (bench.counted, bench.consumer.subscribed) == (counted, [])


def test_metadata_that_does_not_come_ends_the_start_in_time() -> None:
    bench = Bench()
    del bench.consumer.topics["images"]  # it exists, and its partitions are not known
    bench.consumer._cluster.request_update = Future
    began = bench.clock()
    with pytest.raises(kafka_errors.KafkaTimeoutError, match="partitions are not known"):
        bench.begin()
    assert bench.clock() - began == pytest.approx(START_TIMEOUT_MS / 1000)


def test_a_topic_that_appears_is_subscribed_to() -> None:
    bench = Bench(images=ABSENT)
    bench.begin()
    bench.consumer.answers["_absent"] = {}
    bench.consumer.topics["images"] = 1
    bench.look()
    assert bench.consumer.subscribed == [["vectors"], NAMES]
    assert (bench.status.read().blocks, bench.counted) == ({}, [])


def test_a_topic_that_appears_without_metadata_is_subscribed_to_after_a_short_wait() -> None:
    bench = Bench(images=ABSENT)
    bench.begin()
    bench.consumer.answers["_absent"] = {}
    bench.consumer._cluster.request_update = Future
    began = bench.clock()
    bench.look()
    assert bench.clock() - began == pytest.approx(LOOK_SECONDS + CALL_TIMEOUT_MS / 1000)
    assert (bench.consumer.subscribed[-1], bench.counted) == (NAMES, ["KafkaTimeoutError"])


def test_a_topic_that_disappears_is_no_longer_subscribed_to() -> None:
    bench = Bench()
    bench.begin()
    bench.consumer.answers["_absent"] = {"images": ABSENT}
    del bench.consumer.topics["images"]
    bench.look()
    assert bench.consumer.subscribed == [NAMES, ["vectors"]]


def test_the_last_topic_that_disappears_stays_subscribed_to() -> None:
    bench = Bench(images=ABSENT)
    bench.begin()
    bench.consumer.answers["_absent"] = {"vectors": ABSENT, "images": ABSENT}
    bench.consumer.topics.clear()
    bench.look()
    assert bench.consumer.subscribed == [["vectors"]]
