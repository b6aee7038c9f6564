"""A courier with the fake service, on the test's own thread: what a slot leaves behind when its batch goes."""

from collections.abc import Callable

from tests.support.lane import GOES, STAYS, Bench
from worker.ledger import Outcome


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
    batch = bench.lane.pop()
    assert batch is not None
    bench.lane._courier.deliver(batch)
    for _ in others:
        pacer._now_in_flight -= 1
    assert (bench.sink.requests, bench.ledger.buffer_bytes) == ([], 0)
    assert pacer.is_next("another slot")


def test_a_batch_is_delivered_on_the_thread_of_the_caller() -> None:
    bench = Bench()
    bench.submit(STAYS, ["a", "b"])
    batch = bench.lane.pop()
    assert batch is not None
    bench.lane._courier.deliver(batch)
    assert set(bench.sink.vectors) == {"a", "b"}
    assert bench.ledger.books().settled["vectors", Outcome.PUT] == 2
