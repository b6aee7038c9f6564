"""A round of dead letters, of which some lose their partition before they are sent: it costs the others nothing."""

from typing import Any

from tests.unit.samples import opened
from tests.unit.test_deadletter import FakeFuture, acknowledge
from tests.unit.test_retry_queue import TOO_LARGE, Steps
from worker.deadletters.entry import Entry, Problem
from worker.errors import NotSent


class Losing(Steps):
    """A writer that loses a partition when it sends its n-th dead letter."""

    def __init__(self, lost: int, on_send: int) -> None:
        super().__init__()
        self.assignments = [self.assignment, *[opened(self.ledger, partition=number) for number in range(1, 4)]]
        self._lost, self._on_send = self.assignments[lost], on_send

    def _send(self, topic: str, *, value: bytes | None, key: bytes | None, headers: Any) -> FakeFuture:
        self.broker.sent.append((topic, key, value, dict(headers)))
        if len(self.broker.sent) == self._on_send:
            self.ledger.end(self.ledger.begin_revoke([self._lost.partition]))
        return acknowledge()


def test_those_behind_one_whose_partition_was_given_back_are_sent_with_those_before_it() -> None:
    steps = Losing(lost=1, on_send=1)
    problems = steps.writer._sender.attempt([Entry(steps.bad(each, 0), 0.0) for each in steps.assignments])
    assert [problem and type(problem.error) for problem in problems] == [None, NotSent, None, None]


def test_those_behind_one_that_the_broker_did_not_accept_at_once_are_not_tried() -> None:
    steps = Losing(lost=1, on_send=1)
    steps.broker.accepts_idempotent = False
    steps.broker.rights = [False]
    problems = steps.writer._sender.attempt([Entry(steps.bad(each, 0), 0.0) for each in steps.assignments])
    assert [problem and problem.was_tried for problem in problems] == [True, False, False, False]


def test_one_whose_partition_was_given_back_is_dropped_and_delays_no_other() -> None:
    steps = Losing(lost=1, on_send=1)
    letters = [steps.bad(each, 0) for each in steps.assignments]
    assert steps.step(*letters) == set()
    assert (steps.settled(), len(steps.broker.sent), steps.ledger.buffer_bytes) == (3, 3, 0)
    assert steps.writer._rounds.next_at <= steps.clock()


def test_those_that_are_sent_alone_go_past_one_whose_partition_was_given_back() -> None:
    steps = Losing(lost=1, on_send=1)
    entries = [Entry(steps.bad(each, 0), 0.0) for each in steps.assignments]
    beside_one_at_fault: list[Problem | None] = [Problem(TOO_LARGE, is_own=True)] * 4
    problems = steps.writer._rounds._attempt_alone(entries, beside_one_at_fault)
    assert [problem and type(problem.error) for problem in problems] == [None, NotSent, None, None]
