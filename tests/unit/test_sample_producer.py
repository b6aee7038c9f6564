"""The sample records: which are good, which are broken, and how steadily they come."""

import itertools
import random
from collections import Counter
from typing import Any

import click
import msgspec
import pytest

from tests.unit.samples import FakeClock
from worker.app.stop import Stop
from worker.errors import RecordError
from worker.local import sample_producer
from worker.local.sample_producer import Failures, broken_messages, publish, records
from worker.local.sentences import DIMENSION, Sentences, load
from worker.records.decode import Decoder, Put
from worker.records.target import Target

DECODER = Decoder(Target("docs", DIMENSION, "cosine"), max_fragment_bytes=8388608)


@pytest.fixture(scope="module")
def data() -> Sentences:
    return load()


def taken(data: Sentences, count: int, broken_share: float = 0.0) -> list[tuple[bytes, bytes]]:
    return list(itertools.islice(records(data, random.Random(1), broken_share), count))


def test_every_sentence_comes_first_and_in_order(data: Sentences) -> None:
    keys = [key.decode() for key, _ in taken(data, len(data.sentences))]

    assert keys == [sentence.key for sentence in data.sentences]


def test_good_records_are_taken_by_the_worker(data: Sentences) -> None:
    decoded = [(DECODER.decode(key, value, ()), key) for key, value in taken(data, 600)]

    assert [isinstance(put, Put) and (put.key.encode(), put.key_mismatch) for put, _ in decoded] == [
        (key, False) for _, key in decoded
    ]


def test_vectors_are_the_embeddings_shipped(data: Sentences) -> None:
    _, value = taken(data, 1)[0]

    record = msgspec.json.decode(value)

    assert record["data"]["float32"] == pytest.approx(data.sentences[0].vector.tolist(), abs=1e-7)
    assert record["metadata"] == {
        "topic": data.sentences[0].topic,
        "text": data.sentences[0].text,
        "revision": "1",
    }


def test_later_records_are_updates_some_in_a_newer_version(data: Sentences) -> None:
    later = [msgspec.json.decode(value) for _, value in taken(data, 3000)[len(data.sentences) :]]
    newer = {update.text for update in data.updates}

    assert {record["key"] for record in later} <= {sentence.key for sentence in data.sentences}
    assert 50 < sum(record["metadata"]["text"] in newer for record in later) < 150


@pytest.mark.parametrize("reason", broken_messages())
def test_a_broken_record_is_refused_for_the_reason_it_stands_under(reason: str) -> None:
    key, value = broken_messages()[reason]

    with pytest.raises(RecordError) as caught:
        DECODER.decode(key, value, ())

    assert caught.value.reason == reason


def test_as_many_are_broken_as_asked_for(data: Sentences) -> None:
    kinds = Counter(key.decode().partition("-")[0] == "broken" for key, _ in taken(data, 4000, broken_share=0.2))

    assert kinds[True] / 4000 == pytest.approx(0.2, abs=0.03)


class FakeSender:
    """Takes messages; the one of the number `fails_at` is not acknowledged. Time passes only in `stop.wait`."""

    def __init__(self, fails_at: int = 0) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self._fails_at = fails_at

    def send(self, topic: str, *, key: bytes, value: bytes) -> Any:
        self.sent.append((topic, key))
        return self

    def add_errback(self, told: Any) -> None:
        if len(self.sent) == self._fails_at:
            told(TimeoutError("no broker"))


class FakeStop(Stop):
    """Is set once the clock has come to `end`; waiting moves the clock."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        super().__init__()
        self._fake_clock = clock
        self._end = clock.now + seconds

    def wait(self, timeout: float | None = None) -> bool:
        self._fake_clock.pass_by(timeout or 0.0)
        return self._fake_clock.now > self._end


def publish_for(seconds: float, sender: FakeSender, clock: FakeClock) -> tuple[int, list[str], Failures]:
    told: list[str] = []
    failures = Failures()
    messages = itertools.repeat((b"k", b"v"))
    sent = publish(messages, sender, "vectors", 20, FakeStop(clock, seconds), failures, told.append, clock)
    return sent, told, failures


def test_records_come_at_the_rate_and_the_count_is_told() -> None:
    sender = FakeSender()

    sent, told, _ = publish_for(25.0, sender, FakeClock())

    assert sent == pytest.approx(25 * 20, abs=1)
    assert sender.sent == [("vectors", b"k")] * sent
    assert [int(line.split()[0]) for line in told] == pytest.approx([200, 400], abs=1)


def test_after_a_pause_one_second_at_the_most_is_caught_up() -> None:
    clock = FakeClock()
    sender = FakeSender()
    send = sender.send

    def slow_once(topic: str, *, key: bytes, value: bytes) -> Any:
        if len(sender.sent) == 10:
            clock.pass_by(60.0)
        return send(topic, key=key, value=value)

    sender.send = slow_once  # type: ignore[method-assign]  # the one call that takes long

    sent, _, _ = publish_for(70.0, sender, clock)

    assert sent == pytest.approx(10 + 20 + 9.5 * 20, abs=3)


def test_it_ends_when_the_broker_does_not_take_a_record() -> None:
    sender = FakeSender(fails_at=3)

    sent, _, failures = publish_for(25.0, sender, FakeClock())

    assert (sent, failures.count, str(failures.last)) == (3, 1, "no broker")


def test_a_share_of_one_is_wrong_usage() -> None:
    with pytest.raises(click.BadParameter, match="not in the range 0<=x<1"):
        sample_producer.main.make_context("x", ["--broken-share", "1"])
