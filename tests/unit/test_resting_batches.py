"""What keeps failing rests: it gives up its slot and holds up nothing else. On the test's own thread and clock."""

import gc
import random
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final

import pytest

from tests.support.bounded import join, thread
from tests.support.fakes import FakeClock, FakeMessage, FakeSink
from worker.app.lanes import LaneContext, make_lane
from worker.delivery.batch import Batch, Item
from worker.delivery.chunk import Chunk
from worker.delivery.flight import Flight
from worker.delivery.pace.backoff import Backoff
from worker.errors import BlockReason, RetryReason, SinkError, TargetError, Transient
from worker.ledger import Ledger, Outcome, Partition
from worker.oss.answers import Answer, error_of
from worker.ports import DeadLetter, Operation, SealReason
from worker.records.target import Target
from worker.settings.tables import Batch as BatchSettings
from worker.settings.tables import Delivery
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, Status

TOPIC: Final = "vectors"
ONE, OTHER = Partition(TOPIC, 0), Partition(TOPIC, 1)
STUCK: Final = Block(TOPIC, BlockReason.RECORD_STUCK, 0)
SLOTS: Final = 4
ISOLATED_ATTEMPTS: Final = 5
RETRY_MAX: Final = 30.0
MOST_REQUESTS: Final = 5_000

OF_PROXY: Final = {
    status: Answer(status, {"content-type": "text/html"}, b"<html>no</html>")
    for status in (200, 400, 403, 404, 405, 406, 413, 451, 501, 502, 503)
}
SERVERS_500: Final = Answer(
    500, {"x-oss-request-id": "0" * 24}, b'{"Error":{"Code":"InternalError","Message":"m","RequestId":"000000000000"}}'
)
UNKNOWN_400: Final = Answer(
    400, {"x-oss-request-id": "0" * 24}, b'{"Error":{"Code":"IndexIsFull","Message":"m","RequestId":"000000000000"}}'
)
# Not seen in the wild: that it names records does not make it an acceptance of the others.
NAMES_RECORDS: Final = Answer(200, {"x-oss-request-id": "0" * 24}, b'{"failedVectors": [{"key": "bad"}]}')
DENIED: Final = Answer(403, {"x-oss-request-id": "0" * 24}, b"")
RESET: Final = Transient("connection reset", kind=RetryReason.NETWORK, unknown_outcome=True)


class Service(FakeSink):
    """Accepts what has no key of `refused`; what has one gets its answer. `is_away` refuses all, `not_done` an operation."""

    def __init__(self) -> None:
        super().__init__(Target("docs", 3, "cosine"))
        self.refused: dict[str, Answer | SinkError] = {}
        self.is_away: Answer | SinkError | None = None
        self.not_done: dict[str, Answer | SinkError] = {}
        self.attempts = 0
        self.accepted: list[list[str]] = []

    def put(self, body: bytes) -> int:
        self._judge_body("PutVectors", body)
        return super().put(body)

    def delete(self, body: bytes) -> int:
        self._judge_body("DeleteVectors", body)
        return super().delete(body)

    def _judge_body(self, operation: str, body: bytes) -> None:
        self.attempts += 1
        assert self.attempts < MOST_REQUESTS, "it does not come to an end"
        refused = [answer for key, answer in self.refused.items() if b'"%s"' % key.encode() in body]
        of_all = [answer for answer in (self.is_away, self.not_done.get(operation)) if answer]
        for answer in [*of_all, *refused]:
            error = answer if isinstance(answer, SinkError) else error_of(operation, answer)
            assert error is not None
            raise error


class Bench:
    """A lane whose slots take turns on the test's thread."""

    def __init__(self, slots: int = SLOTS) -> None:
        self.clock = FakeClock()
        self.ledger = Ledger([TOPIC], self.clock)
        self.service = Service()
        self.status = Status(self.clock())
        self.letters: list[DeadLetter] = []
        context = LaneContext(
            self.service,
            self.ledger,
            self,
            self.status,
            Metrics(self.ledger, self.status, [TOPIC], ["docs"]),
            Delivery(retry_initial_seconds=1.0, retry_max_seconds=RETRY_MAX, vectors_per_second=0, max_in_flight=slots),
            BatchSettings(),
            ISOLATED_ATTEMPTS,
            Backoff(1.0, RETRY_MAX, random.Random(1)),
            self.clock,
            self.clock,
        )
        self.lane = make_lane("docs", [TOPIC], context)
        self.lane.state.wait = self._wait  # type: ignore[method-assign]  # all waiting of the courier is there
        for partition in (ONE, OTHER):
            self.ledger.open(self.ledger.assign(partition), 0, None)

    def submit(self, letter: DeadLetter) -> None:
        """Take a dead letter."""
        self.letters.append(letter)

    def _wait(self, seconds: float, until: Callable[[], bool]) -> None:
        if not until():
            self.clock.advance(max(0.0, seconds))

    def queue(self, keys: Sequence[str], partition: Partition = ONE, *, deletes: bool = False) -> list[Item]:
        """Queue a batch."""
        return self.queue_items(self.items(keys, partition, deletes=deletes))

    def queue_items(self, items: list[Item]) -> list[Item]:
        """Queue a batch of these."""
        self.lane.submit(Batch({item.key: item for item in items}, 1, SealReason.AGE))
        return items

    def items(self, keys: Sequence[str], partition: Partition, *, deletes: bool = False) -> list[Item]:
        """Return records that were read."""
        assignment = self.ledger.assignment(partition)
        assert assignment is not None
        first = assignment.position
        self.ledger.track(assignment, [first + place for place in range(len(keys))])
        self.ledger.count_bytes(len(keys))
        return [
            Item(
                assignment,
                FakeMessage(first + place, b""),
                key,
                None if deletes else b'{"key":"%s","data":{"float32":[%d]}}' % (key.encode(), first + place),
                1,
            )
            for place, key in enumerate(keys)
        ]

    def send(self, flight: Flight) -> None:
        """Send a chunk of a batch once."""
        flight.put_back(self.lane._courier._step(flight.take()))

    def deliver(self, flight: Flight) -> None:
        """Deliver a batch until it is done or may rest."""
        self.lane._courier.deliver(flight)
        self.lane.done(flight)

    def rest_in_outage(self) -> None:
        """Let six batches of 60 records fail in an outage until they rest, and end it."""
        self.service.is_away = OF_PROXY[503]
        for number in range(6):
            self.queue([f"b{number}-{place}" for place in range(60)])
        self.work()
        self.service.is_away = None

    def work(self, seconds: float = 0.0) -> None:
        """Deliver what may leave, for so long or until none is left, at least once each."""
        end = self.clock() + seconds
        while True:
            flight = self.lane.pop()
            if flight is not None:
                self.deliver(flight)
            elif self.clock() >= end or self.lane.is_idle:
                return
            else:
                self.clock.advance(1.0)

    def settled(self, outcome: Outcome = Outcome.PUT) -> int:
        return self.ledger.books().settled[TOPIC, outcome]

    def blocks(self) -> set[Block]:
        return set(self.status.read().blocks)

    def numbers(self) -> dict[str, int]:
        """Return of each key in the index the offset of its record."""
        return {key: vector["data"]["float32"][0] for key, vector in self.service.vectors.items()}

    def revoke(self) -> None:
        """Give the first partition back."""
        self.ledger.end(self.ledger.begin_revoke([ONE]))
        self.status.forget(*ONE)
        self.lane.wake()


@pytest.mark.parametrize(
    "answer", [OF_PROXY[413], SERVERS_500, RESET, NAMES_RECORDS], ids=["413", "500", "reset", "200 that names records"]
)
def test_a_record_that_fails_without_end_holds_up_no_other_whatever_keys_they_share(answer: Answer | SinkError) -> None:
    bench = Bench()
    bench.service.refused["bad"] = answer
    keys = [f"k{number}" for number in range(20)]
    bench.queue([*keys[:5], "bad", *keys[5:10]])
    for number in range(60):  # all of them share keys with each other, and some the key of the bad one
        bench.queue([keys[number % 20], keys[(number * 7 + 1) % 20], *(["bad"] if number % 3 == 0 else [])])
    bench.work(10 * RETRY_MAX)
    assert set(bench.service.vectors) == set(keys)
    newest = {f"k{number}" for number in range(20)}
    assert {key for key, offset in bench.numbers().items() if offset > 11} == newest


@pytest.mark.parametrize("slots", [1, SLOTS])
@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("answer", [OF_PROXY[413], SERVERS_500], ids=["413", "500"])
def test_more_bad_records_than_slots_stop_nothing(slots: int, together: int, answer: Answer) -> None:
    bench = Bench(slots)
    batches = 2 * SLOTS
    for number in range(batches):
        keys = [f"bad{number}-{place}" for place in range(together)]
        bench.service.refused |= dict.fromkeys(keys, answer)
        bench.queue(keys)
    good = [f"good{number}" for number in range(20)]
    for key in good:
        bench.queue([key], OTHER)
    bench.work(40 * RETRY_MAX)
    assert set(bench.service.vectors) == set(good)
    if answer is SERVERS_500:  # other requests were accepted after the first of its answers, for most
        for number in range(6):
            bench.queue([f"later{number}"], OTHER)
            bench.work(2 * RETRY_MAX)
        assert len(bench.letters) == batches * together
    else:
        assert (bench.letters, bench.blocks()) == ([], {STUCK})


@pytest.mark.parametrize("status", sorted(OF_PROXY))
def test_a_record_that_a_firewall_refuses_with_any_status_costs_only_itself(status: int) -> None:
    bench = Bench()
    bench.service.refused["bad"] = OF_PROXY[status]
    bench.queue([*(f"a{number}" for number in range(20)), "bad", *(f"b{number}" for number in range(20))])
    for number in range(400):
        bench.queue([f"c{number}"], OTHER)
    bench.work(60 * RETRY_MAX)
    assert len(bench.service.vectors) == 440
    assert bench.letters == []
    assert bench.blocks() == {STUCK}
    assert bench.ledger.assignment(ONE).watermark == 20  # type: ignore[union-attr]  # it is assigned


@pytest.mark.parametrize("status", [403, 404, 405])
def test_an_answer_of_a_stranger_blocks_while_no_other_request_is_accepted(status: int) -> None:
    bench = Bench()
    bench.service.is_away = OF_PROXY[status]
    for number in range(6):
        bench.queue([f"a{number}", f"b{number}"])
    for _ in range(2 * SLOTS):
        flight = bench.lane.pop()
        if flight is None:
            break
        for _ in range(3):
            flight.chunks += bench.lane._courier._step(flight.take())
    assert {block.reason for block in bench.blocks()} == {BlockReason.TARGET}
    assert bench.letters == []


@pytest.mark.parametrize(
    "error",
    [
        Transient("connecting: refused", kind=RetryReason.NETWORK),
        Transient("rate", kind=RetryReason.THROTTLED, status=429),
        TargetError("no credentials", block=BlockReason.CREDENTIALS),
        error_of("PutVectors", Answer(403, {"x-oss-request-id": "0" * 24}, b"")),
        error_of("PutVectors", Answer(503, {"x-oss-request-id": "0" * 24}, b"")),
    ],
    ids=["not connected", "throttled", "no credentials", "the service's 403", "the service's 503"],
)
def test_what_says_nothing_of_the_records_is_not_held_against_them(error: SinkError) -> None:
    bench = Bench()
    bench.service.refused["a"] = error
    bench.queue(["a", "b"])
    flight = bench.lane.pop()
    assert flight is not None
    for _ in range(10):
        bench.lane.state.note_accepted(Operation.PUT)  # others pass
        bench.send(flight)
    assert [len(chunk.items) for chunk in flight.chunks] == [2]
    assert (flight.should_rest(), STUCK in bench.blocks()) == (False, False)


def test_retry_after_of_a_firewall_for_one_record_closes_nothing() -> None:
    bench = Bench()
    bench.service.refused["bad"] = Answer(503, {"retry-after": "3600"}, b"<html>no</html>")
    bench.queue(["bad"])
    bench.queue(["a"], OTHER)
    begun = bench.clock()
    for number in range(50):
        bench.queue([f"b{number}"], OTHER)
        bench.work()
    assert len(bench.service.vectors) == 51
    assert bench.clock() - begun < 50 * RETRY_MAX


def test_a_newer_version_takes_the_place_of_one_that_rests() -> None:
    bench = Bench()
    bench.service.refused["k"] = OF_PROXY[413]
    bench.queue(["k"])
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    assert bench.blocks() == {STUCK}
    bench.queue(["k", "b"])
    bench.service.refused.clear()
    bench.work()
    assert bench.numbers() == {"k": 1, "a": 0, "b": 2}
    assert (bench.settled(), bench.settled(Outcome.SUPERSEDED), bench.blocks()) == (3, 1, set())
    assert (bench.ledger.buffer_bytes, bench.lane.is_idle) == (0, True)


def test_a_delete_takes_the_place_of_a_put_that_rests() -> None:
    bench = Bench()
    bench.service.refused["k"] = OF_PROXY[413]
    bench.queue(["k"])
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    bench.queue(["k"], deletes=True)
    bench.service.refused.clear()
    bench.work()
    assert "k" not in bench.service.vectors
    assert (bench.settled(Outcome.DELETED), bench.settled(Outcome.SUPERSEDED)) == (1, 1)


def test_a_newer_version_that_is_refused_leaves_the_one_that_has_rested() -> None:
    bench = Bench()
    bench.service.refused["k"] = OF_PROXY[413]
    bench.queue(["k"])
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    bench.queue(["k"])
    content = b'{"Error":{"Code":"InvalidArgument","Message":"m","RequestId":"000000000000"}}'
    bench.service.refused["k"] = Answer(400, {"x-oss-request-id": "0" * 24}, content)
    refuse = bench.service.put

    def refuse_the_newer(body: bytes) -> int:
        if b"[0]" in body:
            bench.service.refused.clear()
        return refuse(body)

    bench.service.put = refuse_the_newer  # type: ignore[method-assign]  # only the first version is good
    bench.work()
    assert [letter.offset for letter in bench.letters] == [1]
    assert bench.numbers()["k"] == 0


def test_versions_of_a_key_are_sent_in_order_while_one_of_them_rests() -> None:
    bench = Bench()
    bench.service.refused["k"] = OF_PROXY[413]
    bench.queue(["k"])
    bench.work(5.0)
    for _ in range(5):
        bench.queue(["k", "x"])
    bench.work(5 * RETRY_MAX)
    assert bench.numbers()["x"] == 10
    bench.service.refused.clear()
    bench.work(2 * RETRY_MAX)
    assert bench.numbers() == {"k": 9, "x": 10}
    assert bench.ledger.assignment(ONE).watermark == 11  # type: ignore[union-attr]  # it is assigned


def test_what_rests_goes_with_its_partition_at_once() -> None:
    bench = Bench()
    bench.service.refused["k"] = OF_PROXY[413]
    bench.queue(["k"])
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    attempts, now = bench.service.attempts, bench.clock()
    bench.revoke()
    bench.work()
    assert (bench.service.attempts, bench.clock()) == (attempts, now)
    assert (bench.ledger.buffer_bytes, bench.lane.is_idle, bench.blocks()) == (0, True, set())


def test_a_version_of_another_ownership_never_joins_what_rests() -> None:
    bench = Bench()
    bench.service.refused["k"] = OF_PROXY[413]
    bench.queue(["k"])
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    bench.revoke()
    bench.ledger.open(bench.ledger.assign(ONE), 0, 0)
    bench.queue(["k"])
    bench.service.refused.clear()
    bench.work()
    assert (bench.settled(), bench.settled(Outcome.SUPERSEDED)) == (2, 0)
    assert bench.ledger.buffer_bytes == 0


def test_what_is_ours_of_a_resting_batch_keeps_its_place_when_another_partition_goes() -> None:
    bench = Bench()
    bench.service.refused |= {"k": OF_PROXY[400], "x": OF_PROXY[400]}
    bench.queue_items([*bench.items(["k"], ONE), *bench.items(["x"], OTHER)])
    flight = bench.lane.pop()
    assert flight is not None
    bench.lane._courier.deliver(flight)  # returns: nothing else was accepted, so it is not split
    bench.lane.done(flight)
    assert [len(chunk.items) for chunk in bench.lane._resting[0].chunks] == [2]
    bench.lane._is_turn_of_queue = True
    bench.revoke()
    bench.queue(["x"], OTHER)
    dropped = bench.lane.pop()
    assert dropped is flight
    assert bench.lane.pop() is None
    bench.service.refused.clear()
    bench.deliver(flight)
    bench.work()
    assert bench.numbers() == {"x": 1}
    assert (bench.settled() + bench.settled(Outcome.SUPERSEDED), bench.ledger.buffer_bytes) == (2, 0)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("waits_for", ["its time", "the gate"])
def test_what_is_given_back_leaves_a_batch_at_once_also_while_the_rest_of_it_waits(waits_for: str, when: str) -> None:
    bench = Bench()
    begun, wait = bench.clock(), bench.lane.state.wait
    bench.queue_items([*bench.items(["k"], ONE), *bench.items(["x"], OTHER)])
    flight = bench.lane.pop()
    assert flight is not None
    flight.chunks = [Chunk([item]) for item in flight.chunks[0].items]
    of_k, of_x = flight.chunks
    of_k.not_before = begun + 2 * RETRY_MAX
    if waits_for == "its time":
        of_x.not_before = begun + RETRY_MAX
    else:
        bench.lane.pacer.close_for(RETRY_MAX)

    waits: list[float] = []

    def give_back_meanwhile(seconds: float, until: Callable[[], bool]) -> None:
        waits.append(seconds)
        assert len(waits) < 20, "it does not come to an end"
        if seconds > 0.0 and flight.is_live:
            bench.revoke()
        wait(seconds, until)

    bench.lane.state.wait = give_back_meanwhile  # type: ignore[method-assign]  # the moment in between
    if when == "before":
        bench.revoke()
    freed: list[float] = []
    bench.lane._courier.deliver(flight, lambda: freed.append(bench.clock()))
    assert (freed[0], bench.ledger.buffer_bytes) == (begun, 0)
    assert (bench.clock(), set(bench.service.vectors)) == (begun + RETRY_MAX, {"x"})


def test_what_is_left_of_batches_that_rested_holds_no_slot_when_another_partition_goes() -> None:
    bench = Bench()
    bad = [f"{kind}{number}" for number in range(SLOTS) for kind in "kx"]
    bench.service.refused |= dict.fromkeys(bad, OF_PROXY[413])
    bench.service.refused |= {f"more{number}": OF_PROXY[413] for number in range(100)}
    for number in range(SLOTS):
        bench.queue_items([*bench.items([f"k{number}"], ONE), *bench.items([f"x{number}"], OTHER)])
    bench.queue([f"more{number}" for number in range(100)], OTHER)
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    for flight in bench.lane._resting:
        for chunk in flight.chunks:
            chunk.not_before = bench.clock() + RETRY_MAX
    begun, attempts = bench.clock(), bench.service.attempts
    bench.revoke()
    bench.work()
    assert (bench.clock(), bench.service.attempts, len(bench.lane._resting)) == (begun, attempts, SLOTS + 1)


def test_what_rests_takes_one_slot_in_four() -> None:
    bench = Bench()
    for number in range(6):
        bench.service.refused[f"bad{number}"] = OF_PROXY[413]
        bench.queue([f"bad{number}"])
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    bench.clock.advance(2 * RETRY_MAX)  # all are due
    for number in range(6):
        bench.queue([f"b{number}"], OTHER)
    flights = [bench.lane.pop() for _ in range(SLOTS)]
    assert sorted(flight.has_place for flight in flights if flight) == [False, False, False, True]
    bench.lane.done(next(flight for flight in flights if flight and not flight.has_place))
    bench.revoke()  # these are dropped all the same
    dropped = bench.lane.pop()
    assert dropped is not None
    assert not dropped.is_live


def test_what_rests_is_given_up_at_the_end() -> None:
    bench = Bench()
    bench.service.refused["k"] = OF_PROXY[413]
    bench.queue(["k"])
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    attempts = bench.service.attempts
    bench.lane.start()
    bench.lane.state.stop()
    assert bench.lane._deliver_next()
    assert not bench.lane._deliver_next()
    assert (bench.service.attempts, bench.ledger.buffer_bytes) == (attempts, 0)


@pytest.mark.parametrize(("answer", "together"), [(RESET, 2), (SERVERS_500, 2), (SERVERS_500, 1)])
def test_in_an_outage_few_batches_are_tried_again_and_again(answer: Answer | SinkError, together: int) -> None:
    bench = Bench()
    bench.service.is_away = answer
    for number in range(50):
        bench.queue([f"a{number}", f"b{number}"][:together])
    flights: list[Flight | None] = [None] * SLOTS
    for turn in range(300 * SLOTS):
        flight = flights[turn % SLOTS] or bench.lane.pop()
        if flight is not None:
            bench.send(flight)
            if flight.should_rest():
                bench.lane.done(flight)
                flight = bench.lane.pop()  # the same again, where it may not rest
        flights[turn % SLOTS] = flight
        bench.clock.advance(1.0)
    assert (len(bench.lane._resting), len(bench.lane._in_flight), len(bench.lane._queue)) == (16, SLOTS, 30)
    tried = [chunk.attempts for flight in (*bench.lane._resting, *bench.lane._in_flight) for chunk in flight.chunks]
    assert min(tried) > max(tried) // 2  # they take turns
    bench.service.is_away = None
    for flight in flights:
        if flight is not None:
            bench.deliver(flight)
    bench.work(2 * RETRY_MAX)
    assert (len(bench.service.vectors), bench.letters, bench.lane.is_idle) == (50 * together, [], True)


def test_a_record_stays_reported_while_others_of_its_partition_are_accepted() -> None:
    bench = Bench()
    bench.service.refused |= {"bad": OF_PROXY[413], "bad2": OF_PROXY[413]}
    bench.queue(["bad", "a"])
    bench.queue(["bad2", "b"])
    bench.work(20 * RETRY_MAX)
    begun = bench.status.attempts()[STUCK].since
    for number in range(20):
        bench.queue([f"c{number}"])
        bench.work()
        assert bench.blocks() == {STUCK}
    del bench.service.refused["bad"]
    bench.work(2 * RETRY_MAX)
    assert (bench.settled(), bench.status.attempts()[STUCK].since) == (23, begun)
    bench.service.refused.clear()
    bench.work(2 * RETRY_MAX)
    assert bench.blocks() == set()


def test_what_is_settled_is_not_kept_in_memory_by_what_rests() -> None:
    bench = Bench()
    bench.service.refused["bad"] = OF_PROXY[413]
    kept = {item.key: weakref.ref(item.message) for item in bench.queue(["bad", "a", "b"])}
    gc.disable()
    try:
        bench.work(20 * RETRY_MAX)
        assert [key for key, message in kept.items() if message() is not None] == ["bad"]
    finally:
        gc.enable()


def test_deletes_that_are_too_large_leave_the_bodies_of_puts_as_they_are() -> None:
    bench = Bench()
    before = bench.lane.max_body_bytes()
    bench.service.is_away = OF_PROXY[413]
    bench.queue(["a", "b", "c", "d"], deletes=True)
    flight = bench.lane.pop()
    assert flight is not None
    flight.chunks += bench.lane._courier._step(flight.take())
    assert ([len(chunk.items) for chunk in flight.chunks], bench.lane.max_body_bytes()) == ([2, 2], before)


# -- an outage is no fault of the records


@pytest.mark.parametrize(
    "answer", [SERVERS_500, RESET, OF_PROXY[502], OF_PROXY[403]], ids=["500", "reset", "502", "403"]
)
def test_an_outage_that_begins_between_two_batches_splits_and_blames_none(answer: Answer | SinkError) -> None:
    """A batch fails as the outage begins, one that left before is accepted, and then the service is away for all."""
    bench = Bench()
    keys = [f"k{number}" for number in range(64)]
    bench.queue(keys)
    flight = bench.lane.pop()
    assert flight is not None
    bench.service.is_away = answer
    bench.send(flight)
    bench.lane.state.note_accepted(Operation.PUT)
    for _ in range(100):
        bench.send(flight)
    assert len(flight.chunks) <= 2
    assert (bench.letters, STUCK in bench.blocks()) == ([], answer is SERVERS_500)
    bench.service.is_away = None
    bench.deliver(flight)
    bench.work(2 * RETRY_MAX)
    assert (set(bench.service.vectors), bench.letters, bench.blocks()) == (set(keys), [], set())


def test_a_single_record_is_not_blamed_for_an_outage_after_another_was_accepted() -> None:
    bench = Bench()
    bench.service.is_away = SERVERS_500
    bench.queue(["a"])
    flight = bench.lane.pop()
    assert flight is not None
    bench.send(flight)
    bench.lane.state.note_accepted(Operation.PUT)
    for _ in range(20 * ISOLATED_ATTEMPTS):
        bench.send(flight)
    assert (bench.letters, len(flight.chunks)) == ([], 1)


@pytest.mark.parametrize(
    "answer", [OF_PROXY[413], RESET, OF_PROXY[502], OF_PROXY[403]], ids=["413", "reset", "502", "403"]
)
def test_one_bad_record_in_each_batch_does_not_stop_the_good_ones(answer: Answer | SinkError) -> None:
    bench = Bench(slots=1)
    for number in range(6):
        bench.service.refused[f"bad{number}"] = answer
        bench.queue([*(f"good{number}-{place}" for place in range(7)), f"bad{number}"])
    bench.work(100 * RETRY_MAX)
    assert len(bench.service.vectors) == 42
    assert bench.blocks() == {STUCK}


def test_a_newer_version_of_what_a_firewall_refuses_blocks_nothing_where_nothing_else_is_sent() -> None:
    bench = Bench()
    bench.service.refused["k"] = OF_PROXY[403]
    bench.queue(["k"])
    for number in range(10):
        bench.queue([f"a{number}"], OTHER)
    bench.work(20 * RETRY_MAX)
    assert bench.blocks() == {STUCK}
    bench.queue(["k"])
    bench.work(5 * RETRY_MAX)
    assert bench.blocks() == {STUCK}


def test_a_version_that_is_superseded_by_one_of_another_partition_is_reported_no_more() -> None:
    bench = Bench()
    bench.service.refused["k"] = OF_PROXY[413]
    bench.queue(["k"])
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    bench.queue(["k"], OTHER)
    bench.work(20 * RETRY_MAX)
    assert {block.partition for block in bench.blocks()} == {0, 1}
    bench.service.refused.clear()
    bench.work(2 * RETRY_MAX)
    assert (bench.blocks(), bench.lane.is_idle) == (set(), True)


def test_a_slot_does_not_wait_for_the_rest_of_a_batch_of_which_a_newer_version_was_written() -> None:
    bench = Bench(slots=1)
    bench.service.refused |= {"k": OF_PROXY[413], "j": OF_PROXY[413]}
    bench.queue(["k", "j"])
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    (flight,) = bench.lane._resting
    for chunk in flight.chunks:
        chunk.not_before = bench.clock() + RETRY_MAX
    del bench.service.refused["k"]
    bench.queue(["k"])
    begun = bench.clock()
    assert bench.lane.pop() is flight
    bench.lane._courier.deliver(flight)
    assert (bench.clock(), [one.key for chunk in flight.chunks for one in chunk.items]) == (begun, ["j"])


def test_any_number_of_newer_versions_takes_the_place_of_what_rests() -> None:
    bench = Bench()
    bench.service.refused |= {"k": OF_PROXY[413], "j": OF_PROXY[413]}
    bench.queue(["k"])
    bench.queue(["j"])
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    for flight in bench.lane._resting:
        for chunk in flight.chunks:
            chunk.not_before = 0.0 if "j" in flight.keys else bench.clock() + RETRY_MAX
    other = bench.lane.pop()  # it has the one slot of those that rested
    assert other is not None
    for _ in range(1_500):
        bench.queue(["k"])
    assert bench.lane.pop() is None
    bench.lane._courier.deliver(other)
    bench.lane.done(other)
    bench.service.refused.clear()
    bench.work(2 * RETRY_MAX)
    assert (bench.numbers()["k"], bench.settled(Outcome.SUPERSEDED)) == (1_501, 1_500)


def test_few_records_rest() -> None:
    bench = Bench()
    bench.service.refused |= {f"bad{number}": OF_PROXY[413] for number in range(120)}
    bench.queue([f"bad{number}" for number in range(120)])
    bench.queue(["a"], OTHER)
    bench.work(2 * RETRY_MAX)
    assert [len(flight.keys) for flight in bench.lane._resting] == [120]
    bench.clock.advance(-10 * RETRY_MAX)  # none of them is due
    bench.service.refused["worse"] = OF_PROXY[413]
    bench.queue(["worse"])
    for _ in range(3):  # it keeps the slot
        flight = bench.lane.pop()
        assert flight is not None
        assert [*flight.keys] == ["worse"]
        bench.lane._courier.deliver(flight)
        bench.clock.advance(-RETRY_MAX)
        bench.lane.done(flight)
    del bench.service.refused["worse"]
    bench.work()
    assert "worse" in bench.service.vectors


@pytest.mark.parametrize("slots", [1, SLOTS])
def test_after_an_outage_one_bad_record_holds_up_none_of_the_batches_that_rested(slots: int) -> None:
    bench = Bench(slots)
    bench.rest_in_outage()
    assert (len(bench.lane._resting), len(bench.lane._queue)) == (6, 0)
    bench.service.refused["b0-30"] = OF_PROXY[413]
    bench.queue(["a"], OTHER)
    bench.work(10 * RETRY_MAX)
    assert len(bench.service.vectors) == 6 * 60
    assert (bench.blocks(), len(bench.lane._resting)) == ({STUCK}, 1)


@pytest.mark.parametrize("slots", [1, SLOTS])
def test_bad_records_that_find_no_place_to_rest_let_those_that_have_one_continue(slots: int) -> None:
    """As many as there are slots, which all have left before the others could continue."""
    bench = Bench(slots)
    bench.rest_in_outage()
    flights = []
    for number in range(slots):
        bench.service.refused[f"bad{number}"] = OF_PROXY[413]
        bench.queue([f"bad{number}"], OTHER)
        bench.lane._is_turn_of_queue = True
        flights.append(bench.lane.pop())
    for flight in flights:
        assert flight is not None
        bench.deliver(flight)
    bench.work(10 * RETRY_MAX)
    assert len(bench.service.vectors) == 6 * 60
    assert len(bench.lane._resting) == slots


def test_a_batch_that_finds_no_place_is_given_up_at_the_end() -> None:
    bench = Bench(1)
    bench.service.is_away = RESET
    for number in range(20):
        bench.queue([f"a{number}", f"b{number}"])
    for _ in range(60):
        flight = bench.lane.pop()
        assert flight is not None
        bench.deliver(flight)
    assert (len(bench.lane._resting), len(bench.lane._in_flight)) == (16, 1)
    bench.lane.start()
    bench.lane.state.stop()
    while bench.lane._deliver_next():
        pass
    bench.lane.join(60.0)  # its own slot may have had the last one
    assert bench.lane._in_flight == []
    assert (bench.ledger.buffer_bytes, len(bench.lane._queue)) == (2 * 3, 3)


# -- what is accepted of one operation says nothing of the other


@pytest.mark.parametrize("deletes", [False, True])
@pytest.mark.parametrize("answer", [SERVERS_500, UNKNOWN_400], ids=["500", "unknown code"])
def test_records_are_not_blamed_while_the_service_does_none_of_their_kind(answer: Answer, deletes: bool) -> None:
    """A service that can write nothing may still accept deletes: one of a key that it does not have is no error."""
    bench = Bench()
    bench.service.not_done["DeleteVectors" if deletes else "PutVectors"] = answer
    for number in range(4):
        bench.queue([f"a{number}-{place}" for place in range(3)], deletes=deletes)
    for number in range(40):
        bench.queue([f"b{number}"], OTHER, deletes=not deletes)
        bench.work(20.0)
    assert bench.settled(Outcome.PUT if deletes else Outcome.DELETED) == 40
    assert (bench.letters, bench.blocks()) == ([], {STUCK})
    bench.service.not_done.clear()
    bench.work(2 * RETRY_MAX)
    assert (bench.settled(Outcome.DELETED if deletes else Outcome.PUT), bench.blocks()) == (12, set())


def test_a_delete_that_the_service_answers_with_500_is_blamed_once_another_delete_is_accepted() -> None:
    bench = Bench()
    bench.service.refused["bad"] = SERVERS_500
    bench.queue(["bad"], deletes=True)
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    assert (bench.letters, bench.blocks()) == ([], {STUCK})
    bench.queue(["b"], OTHER, deletes=True)
    bench.work(2 * RETRY_MAX)
    assert ([letter.offset for letter in bench.letters], bench.blocks()) == ([0], set())


def test_puts_that_are_denied_block_until_a_put_is_accepted_whatever_deletes_are() -> None:
    bench = Bench()
    bench.service.not_done["PutVectors"] = DENIED
    bench.queue(["a"])
    flight = bench.lane.pop()
    assert flight is not None
    seen = []
    for number in range(3):
        bench.send(flight)
        bench.clock.advance(RETRY_MAX)
        bench.queue([f"b{number}"], OTHER, deletes=True)
        bench.work()
        seen.append({block.reason for block in bench.blocks()})
    assert (bench.settled(Outcome.DELETED), seen) == (3, [{BlockReason.CREDENTIALS}] * 3)
    bench.service.not_done.clear()
    bench.lane._courier.deliver(flight)
    assert (bench.settled(), bench.blocks()) == (1, set())


# -- what something on the way says of one record


OF_STRANGER: Final = {
    "302": Answer(302, {"location": "https://login.example/"}),
    "401": Answer(401),
    "407": Answer(407),
    "429": Answer(429, {"retry-after": "300"}),
    "503 later": Answer(503, {"retry-after": "300"}),
    **{str(status): OF_PROXY[status] for status in (403, 404, 405, 503)},
}


@pytest.mark.parametrize("deletes", [False, True])
@pytest.mark.parametrize("together", [1, 20])
@pytest.mark.parametrize("name", OF_STRANGER)
def test_a_record_that_a_firewall_refuses_never_stops_its_index(name: str, together: int, deletes: bool) -> None:
    """From its first answer on: others are accepted before, between and after."""
    bench = Bench()
    bench.service.refused["bad"] = OF_STRANGER[name]
    bench.queue(["bad", *(f"a{number}" for number in range(1, together))], deletes=deletes)
    flight = bench.lane.pop()
    assert flight is not None
    for number in range(40):
        bench.send(flight)
        assert (bench.lane.pacer.pace().closed_until, bench.lane.state.is_blocked) == (None, False)
        bench.queue([f"b{number}"], OTHER)
        bench.work()
        if flight.should_rest():
            break
    assert bench.settled() >= number + 1
    assert ({block.reason for block in bench.blocks()} <= {BlockReason.RECORD_STUCK}, bench.letters) == (True, [])


@pytest.mark.parametrize("deletes", [False, True])
@pytest.mark.parametrize("answer", [OF_PROXY[403], OF_PROXY[413], RESET], ids=["403", "413", "reset"])
def test_a_record_of_the_only_kind_that_a_firewall_refuses_is_reported(
    answer: Answer | SinkError, deletes: bool
) -> None:
    bench = Bench()
    bench.service.refused["bad"] = answer
    bench.queue(["bad"], deletes=deletes)
    for number in range(40):
        bench.queue([f"a{number}"], OTHER, deletes=not deletes)
        bench.work(RETRY_MAX / 2)
    assert (bench.blocks(), bench.letters) == ({STUCK}, [])


@pytest.mark.parametrize("name", OF_STRANGER)
def test_what_a_stranger_says_to_all_stops_the_index_after_three_requests(name: str) -> None:
    bench = Bench()
    answer = OF_STRANGER[name]
    bench.service.is_away = answer
    bench.queue(["a"])
    flight = bench.lane.pop()
    assert flight is not None
    seen = []
    for _ in range(3):
        bench.send(flight)
        seen.append(bench.lane.pacer.pace().closed_until is not None)
    assert seen == [False, False, name != "503"]  # this one asks for no pause
    assert bench.lane.state.is_blocked == (answer.status not in (429, 503))
    bench.service.is_away = None
    bench.lane._courier.deliver(flight)
    assert (bench.settled(), bench.blocks()) == (1, set())


def test_credentials_that_are_missing_here_block_at_once_whatever_the_record_got_before() -> None:
    bench = Bench()
    bench.service.refused["bad"] = OF_PROXY[403]
    bench.queue(["bad"])
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    bench.service.refused["bad"] = TargetError("no credentials", block=BlockReason.CREDENTIALS)
    bench.clock.advance(RETRY_MAX)
    flight = bench.lane.pop()
    assert flight is not None
    bench.send(flight)
    assert BlockReason.CREDENTIALS in {block.reason for block in bench.blocks()}


@pytest.mark.parametrize("is_revoked", [False, True])
def test_a_block_ends_with_the_last_batch_that_was_denied_though_another_rests(is_revoked: bool) -> None:
    """What a firewall refuses never finds out that credentials are good again, and nothing is read while these block."""
    bench = Bench()
    bench.service.refused["k"] = OF_PROXY[413]
    bench.queue(["k"], OTHER)
    bench.queue(["a"], OTHER)
    bench.work(20 * RETRY_MAX)
    bench.service.is_away = DENIED
    bench.lane._is_turn_of_queue = True
    bench.queue(["b"])
    flight = bench.lane.pop()
    assert flight is not None
    bench.send(flight)
    assert BlockReason.CREDENTIALS in {block.reason for block in bench.blocks()}
    if is_revoked:
        bench.revoke()
    bench.service.is_away = None
    bench.deliver(flight)
    assert {block.reason for block in bench.blocks()} == {BlockReason.RECORD_STUCK}
    assert bench.settled() == (1 if is_revoked else 2)


def test_a_denied_delete_that_is_given_back_blocks_no_longer_though_puts_wait() -> None:
    bench = Bench()
    bench.service.not_done["DeleteVectors"] = DENIED
    bench.queue(["a"], deletes=True)
    flight = bench.lane.pop()
    assert flight is not None
    bench.send(flight)
    assert bench.lane.state.is_blocked
    bench.queue(["b"], OTHER)
    bench.revoke()
    bench.deliver(flight)
    assert (bench.lane.state.is_blocked, bench.blocks(), bench.lane.is_idle) == (False, set(), False)


def test_puts_that_wait_keep_the_block_of_puts() -> None:
    bench = Bench()
    bench.service.not_done["PutVectors"] = DENIED
    bench.queue(["a"])
    flight = bench.lane.pop()
    assert flight is not None
    bench.send(flight)
    bench.queue(["b"], OTHER)
    bench.revoke()
    bench.deliver(flight)
    assert bench.lane.state.is_blocked


def test_what_fails_in_an_outage_takes_no_place_of_what_failed_before() -> None:
    bench = Bench()
    singles = [f"bad{number}" for number in range(40)]
    for key in singles:
        bench.service.refused[key] = OF_PROXY[413]
    for key in singles:
        bench.queue([key])
        bench.queue([f"good-{key}"], OTHER)
    bench.work(20 * RETRY_MAX)
    assert len(bench.lane._resting) == len(singles)
    bench.service.is_away = SERVERS_500
    for number in range(60):
        bench.queue([f"a{number}", f"b{number}"], OTHER)
    bench.service.attempts = 0
    for _ in range(1000):
        flight = bench.lane.pop()
        if flight is None:
            bench.clock.advance(1.0)
        else:
            bench.deliver(flight)
    assert sum(one.rests_in_outage for one in bench.lane._resting) <= 16


SIXTY: Final = [f"k{number}" for number in range(60)]


@pytest.mark.parametrize("deletes", [False, True], ids=["puts", "deletes"])
@pytest.mark.parametrize("together", [60, 7, 1])
def test_newer_versions_that_come_in_an_outage_stay_together_and_none_is_blamed_for_it(
    together: int, deletes: bool
) -> None:
    bench = Bench()
    bench.service.is_away = SERVERS_500
    bench.queue(SIXTY)
    bench.work(10.0)
    for place in range(0, len(SIXTY), together):
        bench.queue(SIXTY[place : place + together], deletes=deletes)
        bench.work(200.0 / len(SIXTY))
    (flight,) = bench.lane._resting
    assert len(flight.chunks) <= 2
    bench.service.attempts = 0
    bench.work(200.0)
    assert bench.service.attempts <= 50
    # One request in five is still answered so.
    answer = bench.service._judge_body

    def falters(operation: str, body: bytes) -> None:
        bench.service.is_away = SERVERS_500 if bench.service.attempts % 5 == 0 else None
        answer(operation, body)

    bench.service._judge_body = falters  # type: ignore[method-assign]
    for number in range(40):
        bench.queue([f"other{number}"], OTHER)
        bench.work(5.0)
    assert (bench.letters, bench.lane.is_idle) == ([], True)
    if deletes:
        assert bench.service.vectors.keys().isdisjoint(SIXTY)
    else:
        assert all(bench.numbers()[key] >= len(SIXTY) for key in SIXTY)


def test_newer_versions_for_which_a_body_has_no_room_leave_the_chunk() -> None:
    bench = Bench()
    bench.service.is_away = SERVERS_500
    bench.queue(SIXTY)
    bench.work(10.0)
    bench.lane.state.shrink_bodies(2 * 1024 + 2)
    newer = bench.items(SIXTY, ONE)
    for item in newer:
        item.fragment = b'{"key":"%s","data":{"float32":[%d]},"pad":"%s"}' % (
            item.key.encode(),
            item.offset,
            b"x" * 400,
        )
    bench.queue_items(newer)
    bench.work()
    (flight,) = bench.lane._resting
    assert sorted(item.offset for chunk in flight.chunks for item in chunk.items) == list(range(60, 120))
    (kept, _) = flight.chunks
    assert kept.body_bytes <= bench.lane._room()
    bench.service.is_away = None
    bench.work(2 * RETRY_MAX)
    assert (bench.lane.is_idle, set(bench.numbers()) == set(SIXTY), bench.settled(Outcome.SUPERSEDED)) == (
        True,
        True,
        60,
    )


@pytest.mark.parametrize("seconds", [10.0, 20.0, 30.0])
@pytest.mark.parametrize(
    "answer", [SERVERS_500, OF_PROXY[403], OF_PROXY[413], RESET], ids=["500", "403", "413", "reset"]
)
def test_a_bad_key_that_gets_newer_versions_all_the_time_is_reported_or_dead_lettered(
    answer: Answer | SinkError, seconds: float
) -> None:
    bench = Bench()
    bench.service.refused["k"] = answer
    for number in range(20):
        bench.queue(["k"])
        for each in range(int(seconds / 5.0)):
            bench.queue([f"a{number}-{each}"], OTHER)
            bench.work(5.0)
    if answer is SERVERS_500:
        assert len(bench.letters) >= 15
    else:
        assert bench.blocks() == {STUCK}


def test_a_bad_key_with_a_newer_version_in_every_batch_is_dead_lettered_version_by_version() -> None:
    bench = Bench()
    bench.service.refused["k"] = SERVERS_500
    for number in range(150):
        bench.queue(["k", f"a{number}"])
    while bench.lane._queue:
        flight = bench.lane.pop()
        if flight is not None:
            bench.deliver(flight)
        bench.clock.advance(1.0)
    assert len(bench.letters) > 50
    for number in range(100):
        bench.queue([f"b{number}"], OTHER)
        bench.work(2.0)
    assert (len(bench.letters), bench.settled(), bench.lane.is_idle) == (150, 250, True)


@pytest.mark.parametrize("seconds", [8.0, 15.0, 50.0])
def test_a_key_with_many_newer_versions_is_not_blamed_for_a_fault_of_seconds(seconds: float) -> None:
    bench = Bench(8)
    bench.service.refused["k"] = SERVERS_500
    for number in range(int(seconds / 0.05)):
        bench.queue(["k", f"a{number}"])
        while (flight := bench.lane.pop()) is not None:
            bench.deliver(flight)
        bench.clock.advance(0.05)
    bench.service.refused.clear()
    bench.queue(["k"])
    bench.work(2 * RETRY_MAX)
    last = max(bench.numbers().values())
    assert (bench.letters, bench.numbers()["k"], bench.lane.is_idle) == ([], last, True)


def test_an_outage_that_ends_for_a_moment_blames_no_record() -> None:
    bench = Bench()
    bench.service.is_away = SERVERS_500
    for key in ("a1", "a2", "a3"):
        bench.queue([key])
    bench.work(20 * RETRY_MAX)
    bench.queue(["b"], OTHER)
    while "b" not in bench.service.vectors:
        flight = bench.lane.pop()
        if flight is None:
            bench.clock.advance(0.1)
            continue
        bench.service.is_away = None if "b" in flight.keys else SERVERS_500
        bench.deliver(flight)
    bench.service.is_away = SERVERS_500
    bench.work(4 * RETRY_MAX)
    bench.service.is_away = None
    bench.work(2 * RETRY_MAX)
    assert (bench.letters, set(bench.service.vectors), bench.lane.is_idle) == ([], {"a1", "a2", "a3", "b"}, True)


@pytest.mark.parametrize("seconds", [1.0, 60.0])
def test_several_bad_records_are_blamed_though_others_are_rarely_accepted(seconds: float) -> None:
    bench = Bench()
    for key in ("b1", "b2", "b3"):
        bench.service.refused[key] = SERVERS_500
        bench.queue([key])
    for number in range(20 + int(600 / seconds)):
        bench.queue([f"a{number}"], OTHER)
        bench.work(seconds)
    assert sorted(letter.offset for letter in bench.letters) == [0, 1, 2]


def test_a_key_with_a_newer_version_in_every_batch_lets_what_else_rests_be_sent() -> None:
    bench = Bench(1)
    bench.service.refused |= {"k": OF_PROXY[413], "g": OF_PROXY[413]}
    for key in ("k", "g"):
        bench.queue([key])
    bench.queue(["a"], OTHER)
    bench.work(10 * RETRY_MAX)
    del bench.service.refused["g"]
    bench.clock.advance(2 * RETRY_MAX)
    for number in range(300):
        bench.queue(["k", f"a{number}"])
    for _ in range(10):
        flight = bench.lane.pop()
        assert flight is not None
        bench.deliver(flight)
        bench.clock.advance(0.2)
    assert "g" in bench.service.vectors


@pytest.mark.parametrize("answer", [OF_PROXY[403], OF_PROXY[503], RESET], ids=["403", "503", "reset"])
@pytest.mark.parametrize("keys", [["a", "bad"], ["bad", "a"], ["a", "c", "bad"]], ids=" ".join)
def test_a_record_of_a_batch_counts_as_another_that_the_index_accepts(
    keys: list[str], answer: Answer | SinkError
) -> None:
    bench = Bench(1)
    bench.service.refused["bad"] = answer
    bench.queue(keys)
    bench.work(900.0)
    assert (bench.blocks(), bench.lane.state.is_blocked) == ({STUCK}, False)
    assert set(bench.service.vectors) == {*keys} - {"bad"}


def test_one_record_that_is_too_large_for_a_proxy_leaves_the_bodies_of_batches_as_they_are() -> None:
    bench = Bench(1)
    most, judge = bench.lane.max_body_bytes(), bench.service._judge_body
    bodies: list[bytes] = []

    def note(operation: str, body: bytes) -> None:
        bodies.append(body)
        judge(operation, body)

    bench.service._judge_body = note  # type: ignore[method-assign]
    bench.service.is_away = OF_PROXY[503]
    bench.queue(["a", "b"])
    for _ in range(3):
        bench.work()
        bench.clock.advance(RETRY_MAX)
    bench.service.is_away = OF_PROXY[413]  # to one record: the batch is in doubt
    bench.work()
    assert bodies[-1].count(b'"key"') == 1
    assert bench.lane.max_body_bytes() == most


def test_a_newer_version_of_what_rests_is_sent_by_a_slot_that_waits() -> None:
    bench = Bench()
    bench.service.refused["k"] = OF_PROXY[413]
    bench.queue(["k"])
    bench.queue(["a"], OTHER)
    bench.work(10 * RETRY_MAX)
    (resting,) = bench.lane._resting
    resting.chunks[0].not_before = bench.clock() + 1_000.0
    found: list[Flight | None] = []
    waits = thread(lambda: found.append(bench.lane._wait_for_batch()))
    while bench.lane._idle == 0:
        time.sleep(0.001)
    with bench.lane._lock:  # as if another slot were free, and faster
        bench.lane._queue.append(Batch({item.key: item for item in bench.items(["k", "b"], ONE)}, 1, SealReason.AGE))
        rest = bench.lane._pop()
    assert rest is not None
    assert set(rest.keys) == {"b"}
    join(waits)
    (newer,) = found
    assert newer is not None
    assert set(newer.keys) == {"k"}


def test_one_500_after_an_outage_blames_no_record() -> None:
    bench = Bench()
    bench.service.is_away = SERVERS_500
    bench.queue(["a"])
    bench.work(20 * RETRY_MAX)
    bench.service.is_away, bench.service.refused["a"] = None, SERVERS_500
    bench.queue(["b"], OTHER)
    attempts = bench.service.attempts
    while bench.service.attempts < attempts + 2:  # the one that is accepted, and another 500
        bench.work(1.0)
    assert bench.letters == []
    bench.service.refused.clear()
    bench.work(2 * RETRY_MAX)
    assert (bench.letters, bench.numbers()) == ([], {"a": 0, "b": 0})


def test_an_older_delete_that_is_denied_keeps_the_block_though_puts_are_accepted() -> None:
    bench = Bench()
    (older,), (newer,) = bench.items(["k"], ONE, deletes=True), bench.items(["k"], ONE)
    newer.supersede(older)
    bench.queue_items([newer])
    content = b'{"Error":{"Code":"InvalidArgument","Message":"m","RequestId":"000000000000"}}'
    bench.service.refused["k"] = Answer(400, {"x-oss-request-id": "0" * 24}, content)
    bench.service.not_done["DeleteVectors"] = DENIED
    flight = bench.lane.pop()
    assert flight is not None
    bench.send(flight)
    bench.send(flight)
    assert ([letter.offset for letter in bench.letters], bench.lane.state.is_blocked) == ([1], True)
    bench.queue(["a"], OTHER)
    bench.clock.advance(RETRY_MAX)
    other = bench.lane.pop()
    assert other is not None
    bench.deliver(other)
    assert {block.reason for block in bench.blocks()} == {BlockReason.CREDENTIALS}


def test_a_block_has_the_reason_of_the_last_answer_alone() -> None:
    bench = Bench()
    state = bench.lane.state
    denied = TargetError("m", block=BlockReason.CREDENTIALS, status=403, request_id="0" * 24)
    missing = TargetError("m", block=BlockReason.TARGET, status=404, request_id="0" * 24)
    strangers = TargetError("m", block=BlockReason.TARGET, status=403)
    seen = []
    for operation, error in [
        (Operation.PUT, denied),
        (Operation.PUT, missing),
        (None, strangers),  # nothing comes through
        (Operation.PUT, denied),  # the service itself answers again
        (Operation.DELETE, missing),  # each operation has a reason of its own
    ]:
        state.block(operation, error.block, error, RETRY_MAX)
        seen.append({block.reason for block in bench.blocks()})
    credentials, target = BlockReason.CREDENTIALS, BlockReason.TARGET
    assert seen == [{credentials}, {target}, {target}, {credentials}, {credentials, target}]


@pytest.mark.parametrize("status", [401, 403, 407])
def test_a_block_of_a_stranger_holds_over_newer_versions_of_the_record_that_finds_out(status: int) -> None:
    bench = Bench()
    bench.service.is_away = Answer(status, {"content-type": "text/html"}, b"<html>no</html>")
    seen = []
    for _ in range(10):
        bench.queue(["k"])
        for _ in range(3):
            flight = bench.lane.pop()
            if flight is not None:
                bench.deliver(flight)
                seen.append({block.reason for block in bench.blocks()})
            bench.clock.advance(RETRY_MAX)
    begun = seen.index({BlockReason.TARGET})
    assert (begun <= 3, len(seen) > 20, seen[begun:]) == (True, True, [{BlockReason.TARGET}] * len(seen[begun:]))
