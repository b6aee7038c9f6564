"""What a rebalance does to the ledger, what it waits for, and for how long. The client's timer advances the clock."""

import asyncio
import threading
from collections.abc import Callable, Collection
from queue import Queue
from types import SimpleNamespace

import pytest
from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from tests.support.bounded import END_S
from tests.support.client import FakeConsumer
from tests.support.fakes import FakeClock
from tests.unit.samples import FakeTracked, opened
from worker.consumer.commits import Answered, Commits
from worker.consumer.handover import (
    ABORT_SECONDS,
    COMMIT_SECONDS,
    LOOK_SECONDS,
    STOPPING_SECONDS,
    Handover,
    RebalanceListener,
    RevokeHooks,
)
from worker.lease import Lease
from worker.ledger import Assignment, Ledger, Outcome, Partition, Phase
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

REVOKE_SECONDS, SESSION = 15.0, 45.0
PARTITION = Partition("vectors", 0)
TP = TopicPartition(*PARTITION)


class Bench:
    """One open partition with three records, of which the first is settled."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.began = self.clock()
        self.lease = Lease(SESSION, 300.0, self.clock)
        self.lease.confirm(self.clock())
        self.ledger = Ledger(["vectors"], self.clock)
        self.metrics = Metrics(self.ledger, Status(0.0), ["vectors"], [])
        self.hooks: list[str] = []
        self.aborted_at: list[float] = []
        self.cut: list[Collection[int] | None] = []
        self.is_stopping = False
        self.ended: list[Partition] = []
        self.meanwhile: Callable[[], object] = lambda: None  # is called with every look
        self.consumer = FakeConsumer(sleeps=self._sleep)
        self.consumer.own(PARTITION)
        self.commits = Commits(
            self.ledger, self.metrics, count_error=lambda _: None, on_fenced=lambda: None, clock=self.clock, wall=self.clock
        )  # fmt: skip
        self.handover = Handover(
            revoke_seconds=REVOKE_SECONDS,
            lease=self.lease,
            ledger=self.ledger,
            metrics=self.metrics,
            hooks=RevokeHooks(lambda: self.hooks.append("wake"), self._abort, lambda: self.is_stopping),
            commits=self.commits,
            on_end=self.ended.append,
            clock=self.clock,
        )
        self.assignment = opened(self.ledger)
        self.ledger.track(self.assignment, [0, 1, 2])
        self.settle(0)

    def settle(self, offset: int) -> None:
        self.ledger.settle([FakeTracked(self.assignment, offset)], Outcome.PUT)

    def _abort(self, threads: Collection[int] | None) -> None:
        self.hooks.append("abort")
        self.aborted_at.append(self.passed)
        self.cut.append(threads)

    def _sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.meanwhile()

    def acknowledge(self) -> None:
        """Answer all commits, and complete their futures."""
        for number, answer in enumerate(self.consumer.commit_answers):
            if not answer.is_done:
                self.note_answer(number)
                answer.success(None)

    def note_answer(self, number: int = 0, code: int = 0) -> None:
        """Answer a commit, as the connection to the broker reports it, before its future is completed."""
        offsets = self.consumer.committed[number]
        self.commits.note_answer({Partition(*tp): Answered(at.offset, code) for tp, at in offsets.items()})

    def find_coordinator(self) -> None:
        """Complete the future that the client returns for a commit while it looks for the coordinator."""
        for answer in self.consumer.commit_answers:
            if not answer.is_done:
                answer.success("coordinator-1")

    @property
    def passed(self) -> float:
        return self.clock() - self.began

    def revoke(self) -> None:
        asyncio.run(self.handover.revoke(self.consumer, [TP]))

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"oss_vectors_{name}", labels) or 0.0


def test_an_assigned_partition_is_parked_until_the_main_loop_opens_it() -> None:
    bench = Bench()
    other = TopicPartition("vectors", 1)
    bench.consumer.own(other)
    bench.handover.assign(bench.consumer, [other, TopicPartition("vectors", 9)])  # of which one has gone already
    owned = bench.ledger.assignment(Partition("vectors", 1))
    assert owned is not None
    assert (owned.phase, bench.consumer.parked, bench.consumer.sought) == (Phase.OPENING, {other}, [(other, 0)])
    assert bench.ledger.assignment(Partition("vectors", 9)) is None


def test_a_revoke_commits_what_moved_and_ends_the_ownership() -> None:
    bench = Bench()
    bench.meanwhile = bench.acknowledge
    bench.revoke()
    assert bench.consumer.committed == [{TP: OffsetAndMetadata(1, "", -1)}]
    assert (bench.assignment.phase, bench.assignment.committed, bench.ended) == (Phase.FENCED, 1, [PARTITION])
    assert bench.ledger.books().settled["vectors", Outcome.RETURNED] == 2
    assert bench.count("rebalances_total", event="revoked") == 1
    assert "abort" not in bench.hooks


def test_a_revoke_commits_nothing_where_nothing_moved() -> None:
    bench = Bench()
    bench.ledger.committed({bench.assignment: 1})
    bench.revoke()
    assert (bench.consumer.committed, bench.assignment.phase) == ([], Phase.FENCED)


def test_a_revoke_waits_for_requests_under_way_and_commits_their_outcome() -> None:
    bench = Bench()
    assert bench.ledger.begin_request([bench.assignment])

    def answered() -> None:
        if bench.passed >= 3.0 and bench.assignment.requests_in_flight:
            bench.settle(1)
            bench.ledger.end_request([bench.assignment])
        bench.acknowledge()

    bench.meanwhile = answered
    bench.revoke()
    assert bench.consumer.committed == [{TP: OffsetAndMetadata(2, "", -1)}]
    assert (bench.hooks[0], bench.aborted_at) == ("wake", [])


def owned_again(bench: Bench, position: int = 0) -> Assignment:
    """Begin another ownership of the partition, as after its topic was recreated."""
    later = bench.ledger.reassign(bench.assignment)
    assert later is not None
    bench.ledger.open(later, position, None)
    return later


def test_a_revoke_waits_for_requests_of_an_earlier_ownership_of_the_partition() -> None:
    """Else the service could apply an old version after the next owner has written a newer one."""
    bench = Bench()
    assert bench.ledger.begin_request([bench.assignment])
    later = owned_again(bench)

    def answered() -> None:
        if bench.passed >= 3.0 and bench.assignment.requests_in_flight:
            bench.ledger.end_request([bench.assignment])
        bench.acknowledge()

    bench.meanwhile = answered
    bench.revoke()
    assert (bench.passed >= 3.0, bench.aborted_at, later.phase) == (True, [], Phase.FENCED)


@pytest.mark.parametrize("is_lost", [False, True])
def test_requests_of_an_earlier_ownership_of_the_partition_are_cut(is_lost: bool) -> None:
    bench = Bench()
    bench.consumer._coordinator._assignors = {}
    assert bench.ledger.begin_request([bench.assignment])
    owned_again(bench)
    bench.meanwhile = bench.acknowledge
    if is_lost:
        bench.handover.give_up(bench.consumer, [TP])
    else:
        bench.revoke()
    assert bench.cut == [{threading.get_ident()}] * (1 if is_lost else 2)


def test_requests_that_take_longer_are_cut_and_then_left() -> None:
    bench = Bench()
    assert bench.ledger.begin_request([bench.assignment])
    bench.meanwhile = bench.acknowledge
    bench.revoke()
    assert bench.aborted_at[0] == pytest.approx(REVOKE_SECONDS, abs=2 * LOOK_SECONDS)
    assert bench.aborted_at[1:] == [pytest.approx(bench.passed)]  # once more when no request can begin any more
    assert bench.passed == pytest.approx(REVOKE_SECONDS + ABORT_SECONDS, abs=4 * LOOK_SECONDS)
    assert bench.assignment.phase is Phase.FENCED


def test_all_requests_are_cut_at_once_where_the_lease_runs_out_meanwhile() -> None:
    bench = Bench()
    assert bench.ledger.begin_request([bench.assignment])
    bench.meanwhile = lambda: bench.lease.end() if bench.passed >= 2.0 else None
    bench.revoke()
    assert bench.aborted_at[0] == pytest.approx(2.0, abs=2 * LOOK_SECONDS)
    assert bench.cut[0] is None


def test_all_requests_are_cut_where_the_lease_runs_out_after_those_of_the_partition_were() -> None:
    bench = Bench()
    assert bench.ledger.begin_request([bench.assignment])
    bench.meanwhile = lambda: bench.lease.end() if bench.aborted_at else None
    bench.revoke()
    assert bench.cut == [{threading.get_ident()}, None, {threading.get_ident()}]
    assert bench.aborted_at[1] - bench.aborted_at[0] <= 2 * LOOK_SECONDS


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_request_without_records_of_the_partition_is_not_cut(is_lost: bool) -> None:
    bench = Bench()
    bench.consumer._coordinator._assignors = {}
    kept = opened(bench.ledger, partition=1)
    begun: Queue[int] = Queue()
    may_end = threading.Event()

    def carry(*assignments: Assignment) -> None:
        assert bench.ledger.begin_request(assignments)
        begun.put(threading.get_ident())
        may_end.wait(END_S)

    numbers = []
    for assignments in ([kept], [kept, bench.assignment], [bench.assignment]):
        threading.Thread(target=carry, args=assignments, daemon=True).start()
        numbers.append(begun.get(timeout=END_S))
    if is_lost:
        bench.handover.give_up(bench.consumer, [TP])
    else:
        bench.revoke()
    may_end.set()
    assert bench.cut == [set(numbers[1:])] * (1 if is_lost else 2)


def test_a_worker_that_is_to_stop_waits_for_less_long() -> None:
    bench = Bench()
    assert bench.ledger.begin_request([bench.assignment])

    def stopped() -> None:
        bench.is_stopping = bench.passed >= 2.0
        bench.acknowledge()

    bench.meanwhile = stopped
    bench.revoke()
    assert bench.aborted_at[0] == pytest.approx(2.0 + STOPPING_SECONDS, abs=3 * LOOK_SECONDS)
    assert bench.passed == pytest.approx(2.0 + 2 * STOPPING_SECONDS, abs=5 * LOOK_SECONDS)


def test_a_broker_that_does_not_answer_the_commit_holds_up_the_revoke_no_longer_than_it_may() -> None:
    bench = Bench()
    bench.revoke()
    assert bench.passed == pytest.approx(COMMIT_SECONDS, abs=2 * LOOK_SECONDS)
    assert (bench.assignment.phase, bench.assignment.committed) == (Phase.FENCED, None)
    assert bench.count("commits_total", result="failed") == 1


def test_a_coordinator_that_was_found_is_no_answer_to_the_last_commit() -> None:
    bench = Bench()
    bench.meanwhile = bench.find_coordinator
    bench.revoke()
    assert bench.passed == pytest.approx(COMMIT_SECONDS, abs=2 * LOOK_SECONDS)
    assert (bench.assignment.phase, bench.assignment.committed) == (Phase.FENCED, None)
    assert [bench.count("commits_total", result=result) for result in ("ok", "failed")] == [0, 1]


@pytest.mark.parametrize(("code", "committed", "counts"), [(0, 1, [1, 0]), (22, None, [0, 1])])
def test_the_answer_to_a_commit_that_is_sent_when_the_coordinator_was_found_is_awaited(
    code: int, committed: int | None, counts: list[int]
) -> None:
    bench = Bench()

    def answered() -> None:
        bench.find_coordinator()
        if bench.passed >= 1.0:
            bench.note_answer(code=code)

    bench.meanwhile = answered
    bench.revoke()
    assert bench.passed == pytest.approx(1.0, abs=2 * LOOK_SECONDS)
    assert bench.assignment.committed == committed
    assert [bench.count("commits_total", result=result) for result in ("ok", "failed")] == counts


def test_a_coordinator_that_is_not_found_ends_the_wait_for_the_last_commit() -> None:
    bench = Bench()
    bench.meanwhile = lambda: bench.consumer.commit_answers[0].failure(kafka_errors.KafkaTimeoutError("no coordinator"))
    bench.revoke()
    assert bench.passed == pytest.approx(LOOK_SECONDS)
    assert (bench.assignment.phase, bench.count("commits_total", result="failed")) == (Phase.FENCED, 1)


def test_a_revoke_that_is_called_again_while_it_runs_counts_what_it_returns_once() -> None:
    bench = Bench()
    bench.meanwhile = bench.acknowledge

    async def both() -> None:
        first = bench.handover.revoke(bench.consumer, [TP])
        second = bench.handover.revoke(bench.consumer, [TP])
        await asyncio.gather(first, second)

    asyncio.run(both())
    assert bench.ledger.books().settled["vectors", Outcome.RETURNED] == 2


def test_a_revoke_ends_no_later_ownership_of_the_partition() -> None:
    bench = Bench()
    later: list[Assignment] = []

    def assigned_again() -> None:
        if not later:
            later.append(bench.ledger.assign(PARTITION))
        bench.acknowledge()

    bench.meanwhile = assigned_again
    bench.revoke()
    assert bench.ledger.assignment(PARTITION) is later[0]
    assert later[0].phase is Phase.OPENING


def test_nothing_is_revoked_before_the_first_join() -> None:
    bench = Bench()
    asyncio.run(bench.handover.revoke(bench.consumer, []))
    assert (bench.count("rebalances_total", event="revoked"), bench.ended) == (0, [])


@pytest.mark.parametrize("is_under_way", [False, True])
def test_lost_partitions_are_given_up_at_once_and_neither_committed_nor_claimed(is_under_way: bool) -> None:
    bench = Bench()
    assignor = SimpleNamespace(member_assignment="what it had")
    bench.consumer._coordinator._assignors = {"cooperative-sticky": assignor}
    if is_under_way:
        assert bench.ledger.begin_request([bench.assignment])
    bench.handover.give_up(bench.consumer, [TP])
    assert (bench.assignment.phase, bench.consumer.committed, bench.ended) == (Phase.FENCED, [], [PARTITION])
    assert assignor.member_assignment is None
    assert bench.hooks == ["wake", *(["abort"] if is_under_way else [])]
    assert bench.count("rebalances_total", event="lost") == 1


def test_rebalances_of_a_consumer_that_was_abandoned_change_nothing() -> None:
    bench = Bench()
    current = RebalanceListener(bench.handover, bench.consumer, lambda: True)
    stale = RebalanceListener(bench.handover, bench.consumer, lambda: False)

    async def all_of(listener: RebalanceListener) -> None:
        await listener.on_partitions_revoked([TP])
        await listener.on_partitions_lost([TP])
        await listener.on_partitions_assigned([TP])

    asyncio.run(all_of(stale))
    assert (bench.ledger.assignment(PARTITION), bench.assignment.phase) == (bench.assignment, Phase.OPEN)
    bench.meanwhile = bench.acknowledge
    asyncio.run(all_of(current))
    assert bench.ledger.assignment(PARTITION) is not bench.assignment
