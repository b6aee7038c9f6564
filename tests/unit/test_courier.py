"""A courier with the fake service, on the test's own thread: what a slot leaves behind when its batch goes."""

from collections.abc import Callable

from tests.support.lane import GOES, STAYS, Bench
from worker.delivery.batch import Item
from worker.delivery.pace.pacer import Admission
from worker.errors import SinkError
from worker.ledger import Assignment, Outcome


def test_a_slot_whose_batch_goes_while_it_is_about_to_wait_gives_up_its_place_with_the_pacer() -> None:
    """Else all other slots would wait for one that does not ask again.

    1. The slot asks the pacer, and is given a place in its queue.
    2. It waits, and looks whether its partition is still ours. It is.
    3. The partition is given back.
    4. The slot begins its next step, finds its batch gone, and drops it.
    """
    bench = Bench()
    pacer = bench.lane.pacer
    wait = bench.lane.state.wait
    others = [pacer.admit(1) for _ in range(pacer.in_flight_limit)]  # there is no room
    waits = []

    def give_back_before_the_next_step(seconds: float, until: Callable[[], bool]) -> None:
        waits.append(seconds)
        if len(waits) == 3:  # the first is for the time to send, the second for room
            bench.give_back()
        if seconds <= 0.0:
            wait(seconds, until)

    bench.lane.state.wait = give_back_before_the_next_step  # type: ignore[method-assign]  # the moment in between
    bench.submit(GOES, ["a"])
    flight = bench.lane.pop()
    assert flight is not None
    bench.lane._courier.deliver(flight)
    for _ in others:
        pacer._now_in_flight -= 1
    assert (bench.sink.requests, bench.ledger.buffer_bytes) == ([], 0)
    assert pacer.is_next("another slot")


def test_a_slot_that_waits_for_the_rest_of_its_batch_keeps_no_place_with_the_pacer() -> None:
    """As above, and the batch has another record, which may be sent later."""
    bench = Bench()
    pacer = bench.lane.pacer
    others = [pacer.admit(1) for _ in range(pacer.in_flight_limit)]  # there is no room
    waits: list[bool] = []

    def wait(seconds: float, until: Callable[[], bool]) -> None:
        if seconds <= 0.0:
            return
        if not waits:  # for room
            bench.give_back()
            for _ in others:
                pacer._now_in_flight -= 1
        waits.append(pacer.is_next("another slot"))

    bench.submit(GOES, ["a"])
    bench.submit(STAYS, ["b"])
    flight, other = bench.lane.pop(), bench.lane.pop()
    assert flight is not None
    assert other is not None
    later = other.take()
    later.not_before = bench.lane.state.clock() + 3600.0
    flight.put_back([later])
    bench.lane.state.wait = wait  # type: ignore[method-assign]  # the moment in between
    bench.lane._courier.deliver(flight)
    assert (set(bench.sink.vectors), waits) == ({"b"}, [False, True])


class Leaving(Assignment):
    """An assignment that is given back right after it was asked for the first time whether it is live."""

    __slots__ = ()

    @property
    def is_live(self) -> bool:  # type: ignore[override]  # others only read it
        self.epoch -= 1
        return self.epoch == 0


def test_no_record_is_forgotten_whose_partition_goes_while_a_slot_sorts_its_batch() -> None:
    bench = Bench()
    bench.submit_over(GOES, STAYS, "below")
    bench.submit(STAYS, ["alone"])
    chunks = [flight.take() for flight in (bench.lane.pop(), bench.lane.pop()) if flight]
    bench.ledger.begin_revoke([GOES])
    stays = bench.ledger.assignment(STAYS)
    assert stays is not None
    stays.__class__ = Leaving
    left = []
    for chunk in chunks:
        stays.epoch = 1
        left += bench.lane._courier._without_revoked(chunk)
    assert [(one.key, one.assignment) for chunk in left for one in chunk.items] == [("below", stays), ("alone", stays)]
    assert bench.ledger.buffer_bytes == 2


def test_a_batch_is_delivered_on_the_thread_of_the_caller() -> None:
    bench = Bench()
    bench.submit(STAYS, ["a", "b"])
    flight = bench.lane.pop()
    assert flight is not None
    bench.lane._courier.deliver(flight)
    assert set(bench.sink.vectors) == {"a", "b"}
    assert bench.ledger.books().settled["vectors", Outcome.PUT] == 2


def deliver(bench: Bench, *keys: str) -> None:
    bench.submit(STAYS, keys)
    flight = bench.lane.pop()
    assert flight is not None
    bench.lane._courier.deliver(flight)
    bench.lane.done(flight)


def accepted_at(bench: Bench) -> float | None:
    return bench.metrics.registry.get_sample_value("oss_vectors_last_accepted_timestamp_seconds", {"index": "docs"})


def test_requests_that_fail_are_known_until_one_is_accepted() -> None:
    bench = Bench()
    seen: list[list[tuple[int, str]]] = []

    def look() -> None:
        seen.append([(one.requests, one.words) for one in bench.status.service.not_accepted()])
        bench.during = look  # at each stage of each request

    assert accepted_at(bench) == 0.0
    bench.during = look
    bench.sink.fault(status=503, code="ServiceUnavailable", count=2)
    deliver(bench, "a")
    assert [(1, "503 ServiceUnavailable")] in seen
    assert [(2, "503 ServiceUnavailable")] in seen
    assert bench.status.service.not_accepted() == []
    assert accepted_at(bench)


def test_requests_of_a_partition_that_is_given_back_are_not_waited_for() -> None:
    """Else the page would show an outage of an index to which nothing is sent."""
    bench = Bench()
    bench.sink.fault(status=503, code="ServiceUnavailable")
    bench.submit(GOES, ["a"])
    flight = bench.lane.pop()
    assert flight is not None
    attempt = bench.lane._courier._attempt

    def give_back_after(items: list[Item], admission: Admission) -> SinkError | None:
        error = attempt(items, admission)
        assert bench.status.service.not_accepted() != []
        bench.give_back()
        return error

    bench.lane._courier._attempt = give_back_after  # type: ignore[method-assign]  # the moment in between
    bench.lane._courier.deliver(flight)
    bench.lane.done(flight)
    assert bench.status.service.not_accepted() == []


def test_the_pace_of_an_index_is_known_to_the_status() -> None:
    bench = Bench()
    assert bench.status.service.paces() == {"docs": bench.lane.pacer.pace()}
