"""Messages that wait for a schema or for time: in order, whole partitions, and dropped when their partition is given back."""

from collections.abc import Hashable

from tests.support.fakes import FakeClock, FakeMessage
from worker.app.parking import Parked
from worker.app.waiting_room import WaitingRoom
from worker.ledger import Assignment, Ledger, Partition

TOPICS = ("a", "b")


def assignments(*partitions: tuple[str, int]) -> tuple[Ledger, list[Assignment]]:
    ledger = Ledger(TOPICS, FakeClock())
    return ledger, [ledger.assign(Partition(*each)) for each in partitions]


def parked(assignment: Assignment, *offsets: int, was_routed: bool = False) -> list[Parked]:
    return [Parked(assignment, FakeMessage(offset, b""), 1, was_routed=was_routed) for offset in offsets]


class Room(WaitingRoom):
    """A room, with the schemas that are here."""

    def __init__(self) -> None:
        self.here: set[Hashable] = set()
        super().__init__(self.here.__contains__)

    def popped(self, most: int = 100) -> list[tuple[str, list[int]]]:
        """Pop once of each partition that is ready."""
        return [(str(one.partition), [each.offset for each in self.pop(one, most)]) for one in self.ready()]


def test_a_partition_waits_until_the_schema_of_its_first_message_is_here() -> None:
    _, (one, two) = assignments(("a", 0), ("b", 0))
    room = Room()
    room.add(one, parked(one, 3, 4), "x")
    room.add(one, parked(one, 5))
    room.add(two, parked(two, 0), "y")
    assert room.holds(one)
    assert room.wanted() == {"x": {"a"}, "y": {"b"}}
    assert room.popped() == []
    room.here.add("x")
    assert room.popped() == [("a/0", [3, 4, 5])]
    assert not room.holds(one)
    assert room.wanted() == {"y": {"b"}}


def test_topics_that_wait_for_one_schema_are_named_together() -> None:
    _, (one, two) = assignments(("a", 0), ("b", 7))
    room = Room()
    room.add(one, parked(one, 1), "x")
    room.add(two, parked(two, 1), "x")
    assert room.wanted() == {"x": {"a", "b"}}


def test_messages_that_wait_for_time_alone_are_ready_at_once() -> None:
    _, (one, two) = assignments(("a", 0), ("b", 0))
    room = Room()
    room.add(one, parked(one, 1, 2))
    room.add(two, parked(two, 1), "x")
    assert room.wanted() == {"x": {"b"}}
    assert room.popped() == [("a/0", [1, 2])]


def test_no_more_leave_at_once_than_asked_for_and_the_others_are_ready_behind_all() -> None:
    _, (one, two) = assignments(("a", 0), ("b", 0))
    room = Room()
    room.here.add("x")
    room.add(one, parked(one, *range(5)), "x")
    room.add(two, parked(two, 7))
    assert [each.offset for each in room.pop(one, 2)] == [0, 1]
    assert room.holds(one)
    assert room.popped(2) == [("b/0", [7]), ("a/0", [2, 3])]
    assert room.popped(2) == [("a/0", [4])]
    assert room.popped() == []


def test_messages_that_come_late_and_are_older_go_first_and_say_what_is_waited_for() -> None:
    _, (one,) = assignments(("a", 0))
    room = Room()
    room.add(one, parked(one, 7, 8), "x")
    room.add(one, parked(one, 2, 3), "y")
    assert room.wanted() == {"y": {"a"}}
    room.here.add("x")
    assert room.popped() == []
    room.add(one, parked(one, 0))
    assert (room.wanted(), room.popped()) == ({}, [("a/0", [0, 2, 3, 7, 8])])


def test_those_that_waited_for_their_index_leave_apart_from_the_others() -> None:
    _, (one,) = assignments(("a", 0))
    room = Room()
    room.add(one, parked(one, 5, 6))
    room.add(one, parked(one, 1, 3, was_routed=True))
    assert [room.popped() for _ in range(3)] == [[("a/0", [1, 3])], [("a/0", [5, 6])], []]


def test_the_records_of_one_message_leave_together() -> None:
    _, (one,) = assignments(("a", 0))
    room = Room()
    room.add(one, parked(one, 1, 1, 1, 1, 2, 2, was_routed=True))
    assert [room.popped(2) for _ in range(2)] == [[("a/0", [1, 1, 1, 1])], [("a/0", [2, 2])]]


def test_what_was_given_back_is_returned_and_wanted_no_more() -> None:
    ledger, (one, two) = assignments(("a", 0), ("a", 1))
    room = Room()
    room.add(one, parked(one, 1, 2), "x")
    room.add(two, parked(two, 1), "y")
    ledger.begin_revoke([one.partition])
    assert [each.offset for each in room.pop_returned()] == [1, 2]
    assert room.pop_returned() == []
    assert room.wanted() == {"y": {"a"}}
