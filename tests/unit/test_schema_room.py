"""Messages that wait for a schema: in order, whole partitions, and dropped when their partition is given back."""

from collections.abc import Hashable

from tests.support.fakes import FakeClock, FakeMessage
from worker.app.parking import Parked
from worker.app.schema_room import SchemaRoom
from worker.ledger import Assignment, Ledger, Partition

TOPICS = ("a", "b")


def assignments(*partitions: tuple[str, int]) -> tuple[Ledger, list[Assignment]]:
    ledger = Ledger(TOPICS, FakeClock())
    return ledger, [ledger.assign(Partition(*each)) for each in partitions]


def parked(assignment: Assignment, *offsets: int) -> list[Parked]:
    return [Parked(assignment, FakeMessage(offset, b""), 1) for offset in offsets]


def popped(room: SchemaRoom, *here: Hashable, most: int = 100) -> list[tuple[str, list[int]]]:
    found = room.pop_ready(lambda schema: schema in here, most)
    return [(str(assignment.partition), [each.offset for each in waiting]) for assignment, waiting in found]


def test_a_partition_waits_until_the_schema_of_its_first_message_is_here() -> None:
    _, (one, two) = assignments(("a", 0), ("b", 0))
    room = SchemaRoom()
    room.add(one, parked(one, 3, 4), "x")
    room.add(one, parked(one, 5))
    room.add(two, parked(two, 0), "y")
    assert room.holds(one)
    assert room.wanted() == {"x": {"a"}, "y": {"b"}}
    assert popped(room, "z") == []
    assert popped(room, "x") == [("a/0", [3, 4, 5])]
    assert not room.holds(one)
    assert room.wanted() == {"y": {"b"}}


def test_topics_that_wait_for_one_schema_are_named_together() -> None:
    _, (one, two) = assignments(("a", 0), ("b", 7))
    room = SchemaRoom()
    room.add(one, parked(one, 1), "x")
    room.add(two, parked(two, 1), "x")
    assert room.wanted() == {"x": {"a", "b"}}


def test_no_more_leave_at_once_than_asked_for_and_the_others_still_wait() -> None:
    _, (one,) = assignments(("a", 0))
    room = SchemaRoom()
    room.add(one, parked(one, *range(5)), "x")
    assert popped(room, "x", most=2) == [("a/0", [0, 1])]
    assert room.holds(one)
    assert popped(room, "x", most=2) == [("a/0", [2, 3])]
    assert popped(room, "x", most=2) == [("a/0", [4])]
    assert popped(room, "x") == []


def test_messages_that_come_late_and_are_older_go_first_and_say_what_is_waited_for() -> None:
    _, (one,) = assignments(("a", 0))
    room = SchemaRoom()
    room.add(one, parked(one, 7, 8), "x")
    room.add(one, parked(one, 2, 3), "y")
    assert room.wanted() == {"y": {"a"}}
    assert popped(room, "x") == []
    assert popped(room, "y") == [("a/0", [2, 3, 7, 8])]


def test_what_was_given_back_is_returned_and_wanted_no_more() -> None:
    ledger, (one, two) = assignments(("a", 0), ("a", 1))
    room = SchemaRoom()
    room.add(one, parked(one, 1, 2), "x")
    room.add(two, parked(two, 1), "y")
    ledger.begin_revoke([one.partition])
    assert [each.offset for each in room.pop_returned()] == [1, 2]
    assert room.pop_returned() == []
    assert room.wanted() == {"y": {"a"}}
