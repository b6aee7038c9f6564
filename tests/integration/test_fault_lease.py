"""What slots do while the lease does not hold: nothing leaves, nothing is counted as tried, and all of it goes on after."""

import threading
from collections.abc import Iterator

import pytest

from tests.support.lane import GOES, INDEX, STAYS, TOPIC, Bench, running
from tests.support.worker import wait_for
from worker.ledger import Outcome


@pytest.fixture
def bench() -> Iterator[Bench]:
    with running(Bench()) as one:
        yield one
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(f"slot-{INDEX}")] == []


def put(bench: Bench) -> int:
    return bench.ledger.books().settled[TOPIC, Outcome.PUT]


def requests_counted(bench: Bench) -> float:
    families = bench.metrics.requests.collect()
    return sum(
        float(sample.value) for family in families for sample in family.samples if sample.name.endswith("_total")
    )


def renew(bench: Bench) -> None:
    bench.lease_holds = True
    bench.lane.wake()


def test_nothing_leaves_while_the_lease_does_not_hold_and_all_of_it_when_it_does(bench: Bench) -> None:
    bench.lease_holds = False
    for key in ("a", "b", "c"):
        bench.submit(STAYS, [key])
    wait_for(lambda: bench.lease_waits() == 2, "both slots are held back")
    assert (bench.sink.requests, requests_counted(bench)) == ([], 0)
    limit, rate = bench.lane.pacer.in_flight_limit, bench.lane.pacer.vectors_per_second

    renew(bench)

    wait_for(lambda: put(bench) == 3, "all is written")
    assert len(bench.sink.requests) == 3
    assert (bench.lease_waits(), bench.ledger.buffer_bytes) == (2, 0)
    assert (bench.lane.pacer.in_flight_limit, bench.lane.pacer.vectors_per_second) == (limit, rate)
    assert bench.lane.pacer.has_room


def test_a_hold_is_counted_once_however_long_it_lasts(bench: Bench) -> None:
    bench.lease_holds = False
    bench.submit(STAYS, ["a"])
    wait_for(bench.lease_waits, "it is held back")
    for _ in range(20):
        bench.lane.wake()
    assert bench.lease_waits() == 1
    renew(bench)
    wait_for(lambda: put(bench) == 1, "it is written")


def test_what_is_held_back_is_given_up_with_its_partition(bench: Bench) -> None:
    bench.lease_holds = False
    bench.submit(GOES, ["a"])
    wait_for(bench.lease_waits, "it is held back")
    bench.give_back()
    wait_for(lambda: bench.lane.is_idle, "the lane has let go of it")
    renew(bench)
    assert (bench.sink.requests, bench.ledger.buffer_bytes) == ([], 0)


def test_a_retry_is_held_back_too(bench: Bench) -> None:
    bench.sink.fault(status=503, count=1)

    def run_out() -> None:
        bench.lease_holds = False

    bench.during = run_out  # while the first attempt is on the wire
    bench.submit(STAYS, ["a"])
    wait_for(bench.lease_waits, "the retry is held back")
    assert len(bench.sink.requests) == 1
    renew(bench)
    wait_for(lambda: put(bench) == 1, "it is written")
    assert len(bench.sink.requests) == 2


def test_a_split_of_a_refused_batch_and_its_halves_are_held_back_too(bench: Bench) -> None:
    bench.sink.fault(status=413, count=1)

    def run_out() -> None:
        bench.lease_holds = False

    bench.during = run_out
    bench.submit(STAYS, ["a", "b"])
    wait_for(bench.lease_waits, "a half is held back")
    assert len(bench.sink.requests) == 1
    renew(bench)
    wait_for(lambda: put(bench) == 2, "both are written")


def test_what_departed_before_the_partitions_were_lost_does_not_leave_when_the_process_is_a_member_again(
    bench: Bench,
) -> None:
    """A freeze between departure and sending, after which the lease of a new membership holds."""
    depart = bench.ledger.begin_request

    def freeze(assignments: object) -> bool:
        departed = depart(assignments)  # type: ignore[arg-type]  # handed on
        bench.ledger.begin_request = depart  # type: ignore[method-assign]  # once
        bench.give_back()
        return departed

    bench.ledger.begin_request = freeze  # type: ignore[method-assign]  # the moment after it
    bench.submit(GOES, ["a"])
    wait_for(lambda: bench.lane.is_idle, "the lane has let go of it")
    assert (bench.sink.requests, bench.ledger.buffer_bytes, requests_counted(bench)) == ([], 0, 0)
    bench.submit(STAYS, ["b"])
    wait_for(lambda: put(bench) == 1, "what stays is written")
