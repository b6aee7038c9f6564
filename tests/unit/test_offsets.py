"""The ledger: what may be committed, what is counted, and what a fence keeps out."""

import threading
from collections import Counter

import pytest
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.samples import FakeClock, FakeTracked, opened
from worker.ledger import Assignment, Ledger, Outcome, OutOfOrder, Partition, Phase

P0 = Partition("vectors", 0)
P1 = Partition("vectors", 1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> Ledger:
    return Ledger(["vectors", "images"], clock)


def settle(ledger: Ledger, assignment: Assignment, *offsets: int, outcome: Outcome = Outcome.PUT) -> int:
    return ledger.settle([FakeTracked(assignment, offset) for offset in offsets], outcome)


def settled(ledger: Ledger, outcome: Outcome, topic: str = "vectors") -> int:
    return ledger.books().settled[topic, outcome]


# -- the watermark


@pytest.mark.parametrize(
    ("order", "watermarks"),
    [
        pytest.param([0, 1, 2], [1, 2, 3], id="in order"),
        pytest.param([2, 1, 0], [0, 0, 3], id="backwards"),
        pytest.param([1, 0, 2], [0, 2, 3], id="the second first"),
        pytest.param([0, 2, 1], [1, 1, 3], id="the last before the second"),
    ],
)
def test_the_watermark_stops_at_the_lowest_unsettled_offset(
    ledger: Ledger, order: list[int], watermarks: list[int]
) -> None:
    assignment = opened(ledger)
    ledger.track(assignment, [0, 1, 2])
    seen = []
    for offset in order:
        settle(ledger, assignment, offset)
        seen.append(ledger.watermarks()[assignment])
    assert seen == watermarks


def test_over_a_gap_in_the_offsets_the_watermark_is_the_next_tracked_one(ledger: Ledger) -> None:
    assignment = opened(ledger, position=5)
    ledger.track(assignment, [7, 10])
    before = assignment.watermark
    settle(ledger, assignment, 7)
    assert (before, assignment.watermark, assignment.span) == (7, 10, 1)


def test_with_nothing_outstanding_the_watermark_is_the_position(ledger: Ledger) -> None:
    assignment = opened(ledger, position=5)
    assert assignment.watermark == 5
    ledger.advance(assignment, 9)
    ledger.advance(assignment, 8)
    assert assignment.watermark == 9
    ledger.track(assignment, [9])
    ledger.advance(assignment, 12)
    assert assignment.watermark == 9
    settle(ledger, assignment, 9)
    assert assignment.watermark == 12


def test_a_partition_whose_first_offset_is_not_known_has_no_watermark_to_commit(ledger: Ledger) -> None:
    assignment = ledger.assign(P0)
    assert (ledger.watermarks(), ledger.watermarks([assignment])) == ({}, {})
    ledger.open(assignment, 0, None)
    assert ledger.watermarks() == {assignment: 0}


def test_the_watermarks_of_those_named_alone_are_returned(ledger: Ledger) -> None:
    first, second = opened(ledger), opened(ledger, partition=1, position=3)
    assert ledger.watermarks([second]) == {second: 3}
    assert ledger.watermarks() == {first: 0, second: 3}


def test_the_span_reaches_from_the_watermark_to_the_newest(ledger: Ledger) -> None:
    assignment = opened(ledger)
    assert assignment.span == 0
    ledger.track(assignment, [0, 1, 5])
    settle(ledger, assignment, 5, 0)
    assert assignment.span == 5


@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param([3], id="below the position"),
        pytest.param([4, 5], id="beginning below it"),
        pytest.param([7, 6], id="backwards"),
        pytest.param([5, 9, 7, 10], id="one out of order, between ends that fit"),
        pytest.param([5, 6, 6], id="twice"),
    ],
)
def test_offsets_that_do_not_ascend_from_the_position_are_refused_and_change_nothing(
    ledger: Ledger, offsets: list[int]
) -> None:
    assignment = opened(ledger, position=5)
    with pytest.raises(OutOfOrder, match="vectors/0, where 5 or later is next"):
        ledger.track(assignment, offsets)
    assert (assignment.watermark, assignment.buffered, ledger.books().consumed["vectors"]) == (5, 0, 0)
    assert ledger.track(assignment, [5, 8])
    with pytest.raises(OutOfOrder):
        ledger.track(assignment, [8])
    settle(ledger, assignment, 5, 8)
    assert (assignment.watermark, assignment.buffered) == (9, 0)


def test_what_is_not_outstanding_is_not_settled(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """Once counted, it made the books lie for good, and its bytes were given free twice."""
    assignment = opened(ledger)
    ledger.track(assignment, [0, 1, 2])
    ledger.count_bytes(30)
    records = [FakeTracked(assignment, offset, 10) for offset in (1, 1, 7, -1)]
    assert ledger.settle(records, Outcome.PUT) == 1
    assert ledger.settle(records, Outcome.PUT) == 0
    assert (ledger.buffer_bytes, assignment.buffered, assignment.watermark) == (20, 2, 0)
    assert settled(ledger, Outcome.PUT) == 1
    assert settle(ledger, assignment, 0, 2) == 2
    assert settle(ledger, assignment, 0) == 0
    assert (assignment.watermark, assignment.buffered) == (3, 0)
    assert len(caplog.records) == 3 + 4 + 1
    assert {record.levelname for record in caplog.records} == {"ERROR"}


# -- the epochs of leaders


def test_a_commit_carries_the_epoch_of_what_was_read_before_it(ledger: Ledger) -> None:
    assignment = ledger.assign(P0)
    assert assignment.leader_epoch_at(0) == -1
    ledger.open(assignment, 5, 5, 2)
    assert assignment.leader_epoch_at(5) == 2
    ledger.track(assignment, [5, 6, 7, 8, 11, 12])
    ledger.note_leader_epoch(assignment, 7, 3)  # 7 is the first of it
    ledger.note_leader_epoch(assignment, 9, 6)  # 11 is the first of it that was read; it began at 9, 10 or 11
    assert [assignment.leader_epoch_at(at) for at in (5, 6, 7, 8, 9, 11, 12, 13)] == [2, 2, 2, 3, 3, 6, 6, 6]


def test_an_epoch_that_begins_at_the_committed_offset_is_not_that_of_what_is_before_it(ledger: Ledger) -> None:
    assignment = ledger.assign(P0)
    ledger.open(assignment, 5, 5, 2)
    ledger.note_leader_epoch(assignment, 5, 4)
    assert (assignment.leader_epoch_at(5), assignment.leader_epoch_at(6)) == (2, 4)


def test_what_no_record_has_brings_its_epoch_along(ledger: Ledger) -> None:
    assignment = ledger.assign(P0)
    ledger.open(assignment, 5, 5, 2)
    ledger.advance(assignment, 7, 4)
    assert (assignment.watermark, assignment.leader_epoch_at(7)) == (7, 4)
    ledger.advance(assignment, 7, 9)  # nothing was read in between
    ledger.advance(assignment, 6, 9)
    assert assignment.leader_epoch_at(8) == 4


def test_epochs_that_nobody_commits_any_more_are_forgotten(ledger: Ledger) -> None:
    assignment = opened(ledger)
    for number in range(500):
        ledger.track(assignment, [number])
        ledger.note_leader_epoch(assignment, number, number)
        settle(ledger, assignment, number)
    assert len(assignment.leader_epochs) <= 3
    assert assignment.leader_epoch_at(assignment.watermark) == 499
    for number in range(500, 1000):
        ledger.track(assignment, [number])
        ledger.note_leader_epoch(assignment, number, number)
    assert len(assignment.leader_epochs) <= 64
    assert (assignment.leader_epoch_at(500), assignment.leader_epoch_at(1000)) == (-1, 999)


# -- ownership


def test_a_new_assignment_has_a_higher_epoch_and_fences_the_one_that_stood(ledger: Ledger) -> None:
    old = opened(ledger)
    ledger.track(old, [0, 1])
    settle(ledger, old, 0)
    new = ledger.assign(P0)
    assert (old.phase, old.is_live, new.phase, new.epoch > old.epoch) == (Phase.FENCED, False, Phase.OPENING, True)
    assert (ledger.assignment(P0), ledger.newest_epoch) == (new, new.epoch)
    assert settled(ledger, Outcome.RETURNED) == 1


def test_assignments_come_in_the_order_of_topic_and_partition(ledger: Ledger) -> None:
    made = [ledger.assign(p) for p in (P1, P0, Partition("images", 5))]
    assert ledger.assignments() == made[::-1]


def test_a_partition_that_is_not_owned_is_not_closed(ledger: Ledger) -> None:
    assert (ledger.begin_revoke([P0]), ledger.assignment(P0)) == ([], None)


@pytest.mark.parametrize("goes", ["is closed", "ends"])
def test_a_partition_that_goes_before_it_was_opened_is_not_opened_any_more(ledger: Ledger, goes: str) -> None:
    assignment = ledger.assign(P0)
    ledger.begin_revoke([P0]) if goes == "is closed" else ledger.end([assignment])
    assert (ledger.open(assignment, 0, None), ledger.track(assignment, [0])) == (False, False)


def test_an_assignment_ends_once_and_never_a_later_one_of_its_partition(ledger: Ledger) -> None:
    old = opened(ledger)
    ledger.track(old, [0, 1])
    assert (ledger.end([old]), ledger.end([old])) == (2, 0)
    new = opened(ledger)
    ledger.track(new, [0])
    assert (ledger.end([old]), ledger.assignment(P0), new.is_live) == (0, new, True)
    assert settled(ledger, Outcome.RETURNED) == 2


def test_a_reassigned_partition_begins_anew_and_returns_what_was_not_settled(ledger: Ledger) -> None:
    old = opened(ledger)
    ledger.track(old, [0, 1])
    new = ledger.reassign(old)
    assert new is not None
    assert (old.phase, new.phase, new.epoch > old.epoch) == (Phase.FENCED, Phase.OPENING, True)
    assert (ledger.assignment(P0), settled(ledger, Outcome.RETURNED)) == (new, 2)


@pytest.mark.parametrize("goes", ["is closed", "ends", "comes back"])
def test_a_partition_that_goes_is_not_reassigned(ledger: Ledger, goes: str) -> None:
    assignment = opened(ledger)
    if goes == "is closed":
        ledger.begin_revoke([P0])
    else:
        ledger.end([assignment])
    back = ledger.assign(P0) if goes == "comes back" else None
    assert ledger.reassign(assignment) is None
    assert ledger.assignment(P0) is (assignment if goes == "is closed" else back)


@pytest.mark.parametrize("phase", ["opening", "closing", "fenced"])
def test_nothing_is_tracked_unless_the_partition_is_open(ledger: Ledger, phase: str) -> None:
    assignment = ledger.assign(P0)
    if phase != "opening":
        ledger.open(assignment, 0, None)
        ledger.begin_revoke([P0]) if phase == "closing" else ledger.end([assignment])
    assert (ledger.track(assignment, [0]), ledger.books().consumed["vectors"]) == (False, 0)


def test_a_partition_is_opened_once(ledger: Ledger) -> None:
    assignment = opened(ledger, position=5)
    assert (ledger.open(assignment, 0, None), assignment.position) == (False, 5)


def test_what_was_on_the_wire_still_settles_while_its_partition_closes(ledger: Ledger) -> None:
    assignment = opened(ledger)
    ledger.track(assignment, [0, 1])
    assert ledger.begin_revoke([P0]) == [assignment]
    assert (settle(ledger, assignment, 0), ledger.watermarks()) == (1, {assignment: 1})
    assert (ledger.end([assignment]), settled(ledger, Outcome.PUT), settled(ledger, Outcome.RETURNED)) == (1, 1, 1)


def test_a_result_that_comes_after_the_fence_changes_nothing_but_the_bytes(ledger: Ledger) -> None:
    old = opened(ledger)
    ledger.track(old, [0, 1])
    ledger.count_bytes(300)
    ledger.end([old])
    new = opened(ledger)
    ledger.track(new, [0, 1])
    before = ledger.books()
    counted = ledger.settle([FakeTracked(old, 0, 100), FakeTracked(old, 1, 200)], Outcome.PUT)
    assert (counted, ledger.books()) == (0, before._replace(buffer_bytes=0))
    assert ledger.watermarks() == {new: 0}


def test_a_settling_of_both_old_and_new_owners_counts_the_new_alone(ledger: Ledger) -> None:
    old = opened(ledger)
    ledger.track(old, [0])
    new = opened(ledger)
    ledger.track(new, [0])
    assert ledger.settle([FakeTracked(old, 0), FakeTracked(new, 0)], Outcome.PUT) == 1
    assert ledger.watermarks() == {new: 1}


# -- the wire


def test_a_request_departs_only_while_all_its_partitions_are_live(ledger: Ledger) -> None:
    first, second = opened(ledger), opened(ledger, partition=1)
    assert ledger.begin_request([first, second])
    ledger.begin_revoke([P1])
    assert not ledger.begin_request([first, second])
    assert (first.requests_in_flight, second.requests_in_flight) == (1, 1)
    ledger.end_request([first, second])
    assert (first.requests_in_flight, second.requests_in_flight) == (0, 0)


def test_requests_of_an_earlier_ownership_count_for_a_later_one_alone(ledger: Ledger) -> None:
    earlier = opened(ledger)
    assert ledger.begin_request([earlier])
    later = ledger.reassign(earlier)
    assert later is not None
    assert (ledger.threads_of([later]), ledger.has_requests_in_flight([later])) == ({threading.get_ident()}, True)
    ledger.end_request([earlier])
    assert ledger.begin_request([later])
    assert (ledger.threads_of([earlier]), ledger.has_requests_in_flight([earlier])) == (set(), False)


def test_requests_that_one_thread_began_together_count_until_each_has_ended(ledger: Ledger) -> None:
    first, second = opened(ledger), opened(ledger, partition=1)
    assert ledger.begin_request([first])
    assert ledger.begin_request([second])
    ledger.end_request([second])
    assert [ledger.has_requests_in_flight([one]) for one in (first, second)] == [True, False]


def test_a_fenced_partition_lets_nothing_depart(ledger: Ledger) -> None:
    assignment = opened(ledger)
    ledger.end([assignment])
    assert not ledger.begin_request([assignment])


# -- the books


def test_the_books_know_every_topic_and_outcome_from_the_start(ledger: Ledger) -> None:
    books = ledger.books()
    assert (books.consumed, books.buffered) == ({"vectors": 0, "images": 0}, {"vectors": 0, "images": 0})
    assert books.settled == {(topic, outcome): 0 for topic in ("vectors", "images") for outcome in Outcome}


def test_the_books_keep_topics_and_outcomes_apart(ledger: Ledger) -> None:
    vectors, images = opened(ledger), opened(ledger, "images")
    ledger.track(vectors, [0, 1, 2])
    ledger.track(images, [0])
    settle(ledger, vectors, 0, outcome=Outcome.DELETED)
    settle(ledger, images, 0, outcome=Outcome.DEAD_LETTERED)
    books = ledger.books()
    assert (books.consumed, books.buffered) == ({"vectors": 3, "images": 1}, {"vectors": 2, "images": 0})
    assert {key: count for key, count in books.settled.items() if count} == {
        ("vectors", Outcome.DELETED): 1,
        ("images", Outcome.DEAD_LETTERED): 1,
    }
    assert ledger.outstanding() == 2


def test_the_figures_of_a_partition_follow_it(ledger: Ledger) -> None:
    assignment = ledger.assign(P0)
    assert ledger.books().partitions[0][1:4] == (0, None, False)
    ledger.open(assignment, 4, 3)
    ledger.committed({assignment: 4})
    assert ledger.books().partitions[0][:4] == (P0, 4, 4, True)
    ledger.end([assignment])
    assert ledger.books().partitions == []


def test_the_age_is_that_of_the_record_at_the_watermark(ledger: Ledger, clock: FakeClock) -> None:
    assignment = opened(ledger)

    def age() -> float:
        return ledger.books().partitions[0].oldest_unsettled_age

    seen = [age()]
    for offsets in ([0, 1], [2], [5, 6]):
        ledger.track(assignment, offsets)
        clock.pass_by(10.0)
        seen.append(age())
    for offset in (1, 0, 5, 2, 6):
        settle(ledger, assignment, offset)
        seen.append(age())
    ledger.track(assignment, [7])
    assert [*seen, age()] == [0.0, 10.0, 20.0, 30.0, 30.0, 20.0, 20.0, 10.0, 0.0, 0.0]


def test_discarded_bytes_are_free_and_the_records_are_counted_as_returned(ledger: Ledger) -> None:
    assignment = opened(ledger)
    ledger.track(assignment, [0, 1])
    ledger.count_bytes(70)
    ledger.begin_revoke([P0])
    ledger.discard([FakeTracked(assignment, 0, 30), FakeTracked(assignment, 1, 40)])
    assert (ledger.buffer_bytes, ledger.outstanding()) == (0, 2)
    assert (ledger.end([assignment]), settled(ledger, Outcome.RETURNED)) == (2, 2)


# -- messages with several records


def split(ledger: Ledger, assignment: Assignment, offset: int, count: int, shared_bytes: int = 0) -> list[FakeTracked]:
    """Split a tracked message; return its records."""
    ledger.split(assignment, offset, range(count), shared_bytes)
    return [FakeTracked(assignment, offset, element=element) for element in range(count)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_an_offset_is_settled_when_all_records_of_its_message_are(ledger: Ledger, order: tuple[int, ...]) -> None:
    assignment = opened(ledger)
    ledger.track(assignment, [0, 1])
    records = split(ledger, assignment, 0, 3)
    settle(ledger, assignment, 1)
    seen = []
    for element in order:
        seen.append((assignment.watermark, assignment.buffered, assignment.span))
        assert ledger.settle([records[element]], Outcome.PUT) == 1
    assert seen == [(0, 3, 2), (0, 2, 2), (0, 1, 2)]
    assert (assignment.watermark, assignment.buffered, assignment.elements) == (2, 0, {})


def test_the_books_count_records_and_messages_apart(ledger: Ledger) -> None:
    assignment = opened(ledger)
    ledger.track(assignment, [0, 1, 2])
    split(ledger, assignment, 0, 4)
    split(ledger, assignment, 1, 1)
    books = ledger.books()
    assert (books.messages["vectors"], books.consumed["vectors"], books.buffered["vectors"]) == (3, 6, 6)
    assert ledger.outstanding() == 6


def test_unsettled_records_of_a_message_are_returned_with_its_partition(ledger: Ledger) -> None:
    assignment = opened(ledger)
    ledger.track(assignment, [0, 1])
    ledger.settle(split(ledger, assignment, 0, 4)[:3], Outcome.PUT)
    assert ledger.end([assignment]) == 2
    assert (settled(ledger, Outcome.PUT), settled(ledger, Outcome.RETURNED)) == (3, 2)


@pytest.mark.parametrize("element", [None, 1, 2, -1])
def test_what_is_no_outstanding_record_of_a_message_is_not_settled(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, element: int | None
) -> None:
    assignment = opened(ledger)
    ledger.track(assignment, [0])
    ledger.settle(split(ledger, assignment, 0, 2)[1:], Outcome.PUT)
    assert ledger.settle([FakeTracked(assignment, 0, element=element)], Outcome.PUT) == 0
    assert (assignment.buffered, settled(ledger, Outcome.PUT)) == (1, 1)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_the_bytes_of_a_message_are_free_once_none_of_its_records_holds_them(ledger: Ledger) -> None:
    assignment = opened(ledger)
    ledger.track(assignment, [0])
    records = split(ledger, assignment, 0, 3, 1000)
    seen = [ledger.buffer_bytes]
    ledger.settle(records[:1], Outcome.PUT)
    seen.append(ledger.buffer_bytes)
    ledger.release(assignment, 0, 1)
    ledger.release(assignment, 0, 1)
    seen.append(ledger.buffer_bytes)
    ledger.discard(records[2:])
    assert [*seen, ledger.buffer_bytes] == [1000, 1000, 1000, 0]
    ledger.settle(records[1:], Outcome.PUT)
    assert (ledger.buffer_bytes, assignment.shared) == (0, {})


def test_a_message_that_is_split_after_the_fence_frees_its_bytes_and_counts_nothing(ledger: Ledger) -> None:
    assignment = opened(ledger)
    ledger.track(assignment, [0])
    ledger.end([assignment])
    records = split(ledger, assignment, 0, 3, 1000)
    assert (ledger.buffer_bytes, ledger.books().consumed["vectors"]) == (1000, 1)
    ledger.settle(records[:2], Outcome.PUT)
    ledger.discard(records[2:])
    assert (ledger.buffer_bytes, ledger.settle(records, Outcome.PUT)) == (0, 0)


def test_the_first_undecided_record_may_be_one_of_a_message(ledger: Ledger) -> None:
    assignment = opened(ledger)
    ledger.track(assignment, [0, 1, 2])
    settle(ledger, assignment, 0)
    records = split(ledger, assignment, 1, 4)
    ledger.settle(records[:1], Outcome.PUT)
    seen = [ledger.first_undecided("vectors", {assignment: given}) for given in ({}, {1: {1, 3}}, {1: {1, 2, 3}})]
    assert seen == [[(P0, 1, 1)], [(P0, 1, 2)], [(P0, 2, 0)]]
    assert ledger.first_undecided("vectors", {assignment: {1: {1, 2, 3}, 2: {None}}}) == []


# -- against a model

Place = tuple[int, int | None]
"""Of a record: the offset, and its place in a message that was split."""


class Owned:
    """The model of an assignment: every record it tracked, and whether that is settled."""

    def __init__(self, real: Assignment) -> None:
        self.real = real
        self.phase = "opening"
        self.position = 0
        self.settled: dict[Place, bool] = {}
        self.sizes: dict[Place, int] = {}
        self.shared: dict[int, int] = {}  # bytes of messages that were split
        self.seen = -1  # the highest watermark so far
        self.requests_in_flight = 0

    def watermark(self) -> int:
        return min((offset for (offset, _), done in self.settled.items() if not done), default=self.position)

    def unsettled(self) -> int:
        return sum(not done for done in self.settled.values())

    def bytes(self) -> int:
        held = {offset for offset, _ in self.sizes}
        return sum(self.sizes.values()) + sum(size for offset, size in self.shared.items() if offset in held)

    def record(self, place: Place) -> FakeTracked:
        """Return a record that is held, and hold it no more."""
        return FakeTracked(self.real, place[0], self.sizes.pop(place), place[1])


def chosen_places(data: st.DataObject, owned: Owned) -> list[Place]:
    places = sorted(owned.sizes, key=lambda place: (place[0], place[1] or 0))
    return data.draw(st.lists(st.sampled_from(places), unique=True, min_size=1))


SETTLING = [outcome for outcome in Outcome if outcome is not Outcome.RETURNED]
partitions = st.sampled_from([P0, P1, Partition("images", 0)])


class LedgerMachine(RuleBasedStateMachine):
    """Every order of events that the threads can bring about."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(["vectors", "images"], FakeClock())
        self.owners: list[Owned] = []  # of all times
        self.current: dict[Partition, Owned] = {}
        self.consumed: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.outcomes: Counter[tuple[str, Outcome]] = Counter()
        self.flying: list[list[Owned]] = []

    def ended(self, owned: Owned) -> None:
        self.outcomes[owned.real.partition.topic, Outcome.RETURNED] += owned.unsettled()
        owned.phase = "fenced"

    def begun(self, real: Assignment) -> None:
        self.current[real.partition] = owned = Owned(real)
        self.owners.append(owned)

    @rule(partition=partitions)
    def assign(self, partition: Partition) -> None:
        if partition in self.current:
            self.ended(self.current[partition])
        self.begun(self.ledger.assign(partition))

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def reassign(self, data: st.DataObject) -> None:
        owned = data.draw(st.sampled_from(self.owners))
        anew = self.ledger.reassign(owned.real)
        assert (anew is not None) == (owned.phase in ("opening", "open"))
        if anew is not None:
            assert (anew.partition, anew.epoch) == (owned.real.partition, self.ledger.newest_epoch)
            self.ended(owned)
            self.begun(anew)

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), position=st.integers(0, 20))
    def open(self, data: st.DataObject, position: int) -> None:
        owned = data.draw(st.sampled_from(self.owners))
        assert self.ledger.open(owned.real, position, None) == (owned.phase == "opening")
        if owned.phase == "opening":
            owned.phase, owned.position = "open", position

    @precondition(lambda self: self.owners)
    @rule(
        data=st.data(), gaps=st.lists(st.sampled_from([0, 0, 0, 1, 3]), min_size=1, max_size=6), size=st.integers(0, 9)
    )
    def track(self, data: st.DataObject, gaps: list[int], size: int) -> None:
        owned = data.draw(st.sampled_from(self.owners))
        offsets, position = [], owned.position
        for gap in gaps:
            offsets.append(position + gap)
            position += gap + 1
        assert self.ledger.track(owned.real, offsets) == (owned.phase == "open")
        if owned.phase == "open":
            self.ledger.count_bytes(size * len(offsets))
            self.consumed[owned.real.partition.topic] += len(offsets)
            self.messages[owned.real.partition.topic] += len(offsets)
            owned.settled |= dict.fromkeys([(offset, None) for offset in offsets], False)
            owned.sizes |= dict.fromkeys([(offset, None) for offset in offsets], size)
            owned.position = position  # fmt: skip

    @precondition(lambda self: any(owned.sizes for owned in self.owners))
    @rule(data=st.data(), count=st.integers(1, 4), shared=st.integers(0, 9))
    def split(self, data: st.DataObject, count: int, shared: int) -> None:
        """Split a message that is held, also one whose partition was given back meanwhile."""
        owned = data.draw(st.sampled_from([each for each in self.owners if each.sizes]))
        whole = [place for place in owned.sizes if place[1] is None and not owned.settled.get(place, False)]
        assume(whole)
        offset, _ = place = data.draw(st.sampled_from(whole))
        places: list[Place] = [(offset, element) for element in range(count)]
        size = owned.sizes.pop(place)
        owned.sizes |= dict.fromkeys(places, size)
        owned.shared[offset] = shared
        self.ledger.count_bytes(size * (count - 1))
        self.ledger.split(owned.real, offset, range(count), shared)
        if owned.phase != "fenced":
            del owned.settled[place]
            owned.settled |= dict.fromkeys(places, False)
            self.consumed[owned.real.partition.topic] += count - 1

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), deltas=st.lists(st.integers(-4, 4), min_size=1, max_size=4))
    def track_out_of_order(self, data: st.DataObject, deltas: list[int]) -> None:
        """What breaks the order is refused as a whole."""
        owned = data.draw(st.sampled_from(self.owners))
        offsets = [owned.position + delta for delta in deltas]
        assume(min(offsets) < owned.position or offsets != sorted(set(offsets)))
        if owned.phase == "open":
            with pytest.raises(OutOfOrder):
                self.ledger.track(owned.real, offsets)
        else:
            assert not self.ledger.track(owned.real, offsets)

    @precondition(lambda self: self.owners)
    @rule(
        data=st.data(),
        offset=st.integers(-2, 60),
        element=st.sampled_from([None, 0, 1, 5]),
        outcome=st.sampled_from(SETTLING),
    )
    def settle_a_stray(self, data: st.DataObject, offset: int, element: int | None, outcome: Outcome) -> None:
        """What was settled before, or never tracked, is not settled."""
        owned = data.draw(st.sampled_from([each for each in self.owners if each.phase != "fenced"] or self.owners))
        is_whole = not owned.settled.get((offset, None), True)
        assume(owned.phase != "fenced" and owned.settled.get((offset, element), True) and not is_whole)
        assert self.ledger.settle([FakeTracked(owned.real, offset, 3, element)], outcome) == 0

    @precondition(lambda self: any(owned.sizes for owned in self.owners))
    @rule(data=st.data(), outcome=st.sampled_from(SETTLING))
    def settle(self, data: st.DataObject, outcome: Outcome) -> None:
        owned = data.draw(st.sampled_from([each for each in self.owners if each.sizes]))
        places = chosen_places(data, owned)
        records = [owned.record(place) for place in places]
        counts = 0 if owned.phase == "fenced" else len(places)
        assert self.ledger.settle(records, outcome) == counts
        if counts:
            owned.settled |= dict.fromkeys(places, True)
            self.outcomes[owned.real.partition.topic, outcome] += counts

    @precondition(lambda self: self.current)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        """Who finds its partition gone drops its records; they stay unsettled until the fence."""
        gone = [each for each in self.owners if each.phase in ("closing", "fenced") and each.sizes]
        assume(gone)
        owned = data.draw(st.sampled_from(gone))
        self.ledger.discard([owned.record(place) for place in chosen_places(data, owned)])

    @rule(chosen=st.sets(partitions))
    def close(self, chosen: set[Partition]) -> None:
        closing = [self.current[p] for p in chosen if p in self.current]
        assert set(self.ledger.begin_revoke(chosen)) == {owned.real for owned in closing}
        for owned in closing:
            owned.phase = "closing"

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """End some, of which others have ended before and may have a later one of their partition."""
        chosen = data.draw(st.lists(st.sampled_from(self.owners), unique=True, max_size=4))
        ending = [owned for owned in chosen if owned.phase != "fenced"]
        assert self.ledger.end([owned.real for owned in chosen]) == sum(owned.unsettled() for owned in ending)
        for owned in ending:
            assert self.current.pop(owned.real.partition) is owned
            self.ended(owned)

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), ahead=st.integers(-3, 5))
    def advance(self, data: st.DataObject, ahead: int) -> None:
        owned = data.draw(st.sampled_from(self.owners))
        self.ledger.advance(owned.real, owned.position + ahead)
        if owned.phase == "open":
            owned.position += max(0, ahead)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def depart(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.owners), unique=True, min_size=1, max_size=3))
        leaves = all(owned.phase in ("opening", "open") for owned in chosen)
        assert self.ledger.begin_request([owned.real for owned in chosen]) == leaves
        if leaves:
            self.flying.append(chosen)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def land(self, data: st.DataObject) -> None:
        chosen = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.ledger.end_request([owned.real for owned in chosen])

    @invariant()
    def the_watermark_is_the_models_and_never_goes_back(self) -> None:
        watermarks = self.ledger.watermarks()
        open_ones = [o for o in self.current.values() if o.real.is_open]
        assert watermarks == {owned.real: owned.watermark() for owned in open_ones}
        for owned in open_ones:
            assert watermarks[owned.real] >= owned.seen
            owned.seen = watermarks[owned.real]

    @invariant()
    def the_books_balance(self) -> None:
        books = self.ledger.books()
        assert books.consumed == {topic: self.consumed[topic] for topic in ("vectors", "images")}
        assert books.messages == {topic: self.messages[topic] for topic in ("vectors", "images")}
        assert books.settled == {key: self.outcomes[key] for key in books.settled}
        for topic, consumed in books.consumed.items():
            ended = sum(count for (of, _), count in books.settled.items() if of == topic)
            assert consumed == ended + books.buffered[topic]
        assert sum(books.buffered.values()) == self.ledger.outstanding()

    @invariant()
    def the_bytes_are_those_of_the_records_not_settled(self) -> None:
        assert self.ledger.buffer_bytes == sum(owned.bytes() for owned in self.owners)

    @invariant()
    def the_wire_carries_what_departed_and_did_not_land(self) -> None:
        assert all(owned.real.requests_in_flight == sum(owned in each for each in self.flying) for owned in self.owners)

    def teardown(self) -> None:
        """Settle everything: the bytes end at 0."""
        for owned in self.owners:
            self.ledger.settle([owned.record(place) for place in [*owned.sizes]], Outcome.PUT)
        assert self.ledger.buffer_bytes == 0


TestLedgerAgainstItsModel = LedgerMachine.TestCase


# -- the lease


def test_nothing_departs_while_the_lease_does_not_hold(clock: FakeClock) -> None:
    holds = [True]
    ledger = Ledger(["vectors"], clock, lambda: holds[0])
    assignment = opened(ledger)
    assert ledger.begin_request({assignment})
    holds[0] = False
    assert not ledger.begin_request({assignment})
    assert (assignment.requests_in_flight, ledger.may_write) == (1, False)


def test_what_departed_may_leave_until_the_lease_runs_out_or_its_partition_is_fenced(clock: FakeClock) -> None:
    holds = [True]
    ledger = Ledger(["vectors"], clock, lambda: holds[0])
    assignment = opened(ledger)
    assert ledger.may_send()  # nothing of this thread departed: it asks for an index
    ledger.begin_request({assignment})
    ledger.begin_revoke([P0])  # a revoke waits for what departed
    assert ledger.may_send()
    holds[0] = False
    assert not ledger.may_send()
    holds[0] = True
    ledger.end([assignment])
    assert not ledger.may_send()
    assert not ledger.may_send([assignment])
    ledger.end_request({assignment})
    assert ledger.may_send()
