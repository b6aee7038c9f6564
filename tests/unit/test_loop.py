"""One message costs one message: what the main loop makes of each by itself."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.fakes import FakeClock, FakeSink
from tests.unit.samples import FakeMessage, opened
from worker.app.lanes import LaneContext, make_lane
from worker.app.loop import Parts, Route, Worker
from worker.app.stop import Stop
from worker.deadletters.limit import Limit
from worker.delivery.pace.backoff import Backoff
from worker.errors import Reason
from worker.ledger import Ledger
from worker.ports import DeadLetter, Message, Polled
from worker.records.decode import Decoder, Target
from worker.settings import tables
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

TOPIC, INDEX = "vectors", "docs"
GOOD = b'{"key":"%s","data":{"float32":[1,2,3]}}'


class Letters:
    """Keeps the dead letters."""

    def __init__(self) -> None:
        self.kept: list[DeadLetter] = []

    def submit(self, letter: DeadLetter) -> None:
        self.kept.append(letter)


class Bench:
    """A worker that is not started, with one open partition, and what becomes of messages given to it."""

    def __init__(self) -> None:
        clock = FakeClock()
        settings = tables.Settings(
            routes=(tables.Route(topic=TOPIC, index=INDEX),),
            kafka=tables.Kafka(),
            oss=tables.Oss(region="cn-hangzhou", bucket="bucket", account_id="1"),
            records=tables.Records(),
            batch=tables.Batch(),
            delivery=tables.Delivery(),
            buffer=tables.Buffer(),
            dead_letter=tables.DeadLetter(),
            http=tables.Http(),
            log=tables.Log(),
            shutdown=tables.Shutdown(),
        )
        self.ledger = Ledger((TOPIC,), clock)
        self.status = Status(clock())
        self.metrics = Metrics(self.ledger, self.status, (TOPIC,), (INDEX,))
        self.letters = Letters()
        self.assignment = opened(self.ledger, TOPIC)
        nothing: Any = None
        dead_letters: Any = self.letters
        context = LaneContext(
            FakeSink(Target(INDEX, 3, "cosine")), self.ledger, self.letters, self.status, self.metrics, settings.delivery, settings.batch, 10,
            Backoff(0.5, 30.0, random.Random(0)), clock, clock,
        )  # fmt: skip
        lane = make_lane(INDEX, (TOPIC,), context)
        parts = Parts(
            settings, nothing, {INDEX: lane}, dead_letters, Limit(settings.dead_letter, clock), nothing, self.ledger,
            self.status, self.metrics, clock, clock,
        )  # fmt: skip
        self.worker = Worker(parts, Stop())
        self.decoder = Decoder(Target(INDEX, 3, "cosine"), max_fragment_bytes=1 << 20)
        self.route = Route(TOPIC, lane, self.decoder)

    def decode(self, messages: Sequence[Message]) -> tuple[list[str], list[tuple[int, Reason, str]]]:
        """Return the keys that go to the index, and the bad ones: offset, reason and text."""
        items, letters, _, held = self.worker._decode(self.route, self.assignment, messages)
        assert held == sum(item.size for item in items) + sum(letter.size for letter in letters)
        return [item.key for item in items], [(letter.offset, letter.reason, letter.text) for letter in letters]


def message(offset: int, **fields: Any) -> FakeMessage:
    """Return a message with a good record, unless `fields` say otherwise."""
    return FakeMessage(offset, value=GOOD % str(offset).encode(), **fields)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        pytest.param({"headers": ((None, b"x"),)}, "TypeError", id="a header without a name"),
        pytest.param({"headers": (("a", 5),)}, "TypeError", id="a header that is no bytes"),
        pytest.param({"headers": (("a",),)}, "ValueError", id="half a header"),
        pytest.param({"key": 5}, "TypeError", id="a key that is no bytes"),
    ],
)
def test_a_message_that_the_loop_itself_cannot_take_costs_that_message(broken: Any, error: str) -> None:
    bench = Bench()
    written, letters = bench.decode([message(0), message(1, **broken), message(2)])
    assert written == ["0", "2"]
    assert [letter[:2] for letter in letters] == [(1, Reason.INTERNAL_ERROR)]
    assert f"failed with {error} at worker.app.loop:" in letters[0][2]


@pytest.mark.parametrize("error", [ZeroDivisionError(), MemoryError(), RecursionError()], ids=repr)
def test_whatever_a_decoder_raises_costs_that_message(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    bench = Bench()
    decode = Decoder.decode

    def fail_once(self: Decoder, value: bytes | None, kafka_key: bytes | None) -> object:
        if value == GOOD % b"1":
            raise error
        return decode(self, value, kafka_key)

    monkeypatch.setattr(Decoder, "decode", fail_once)
    written, letters = bench.decode([message(0), message(1), message(2)])
    assert (written, [letter[:2] for letter in letters]) == (["0", "2"], [(1, Reason.INTERNAL_ERROR)])


def test_an_internal_error_goes_the_way_of_every_dead_letter() -> None:
    bench = Bench()
    bench.worker._routes[TOPIC] = bench.route
    bench.worker._take_in(Polled(bench.assignment, [message(offset, headers=((None, b"x"),)) for offset in range(3)]))
    assert [(letter.offset, letter.reason) for letter in bench.letters.kept] == [
        (offset, Reason.INTERNAL_ERROR) for offset in range(3)
    ]


def test_the_series_of_internal_errors_is_there_from_the_start() -> None:
    labels = {"topic": TOPIC, "reason": "internal_error"}
    assert Bench().metrics.registry.get_sample_value("oss_vectors_dead_letters_total", labels) == 0
