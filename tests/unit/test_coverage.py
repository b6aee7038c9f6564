"""What no worker reads, by the members of a group."""

import pytest
from kafka import TopicPartition

from worker.consumer.coverage import Offsets, facts_of, strangers
from worker.consumer.survey_requests import Group, Member
from worker.telemetry.kafka_facts import GroupFacts, GroupMember

ALL = frozenset(TopicPartition("vectors", number) for number in range(4))
OTHER = TopicPartition("other", 0)


def member(
    *numbers: int, is_worker: bool = True, topics: tuple[str, ...] = ("vectors",), topic: str = "vectors"
) -> Member:
    owned = frozenset(TopicPartition(topic, number) for number in numbers)
    return Member("client", "/127.0.0.1", is_worker, frozenset(topics), owned)


def facts(
    *members: Member,
    offsets: Offsets | None = None,
    reset: str = "earliest",
    also: frozenset[TopicPartition] = frozenset(),
) -> GroupFacts:
    known = offsets or Offsets({}, {}, {})
    return facts_of(Group(True, members), ["vectors"], ALL | also, known, reset)


@pytest.mark.parametrize(
    ("members", "unassigned"),
    [
        ([member(0, 1), member(2, 3)], 0),
        ([], 4),
        ([member(0, 1, 2)], 1),
        ([member(0, 1), member(2, 3, is_worker=False)], 2),
        ([member(0, 1), member(2, 3, topics=("images",))], 2),
    ],
    ids=["all by workers", "no member", "one by none", "two by a stranger", "two by one that does not subscribe"],
)
def test_what_no_worker_reads_is_counted(members: list[Member], unassigned: int) -> None:
    found = facts(*members)
    assert (found.unassigned, len(found.members)) == ({"vectors": unassigned}, len(members))


@pytest.mark.parametrize(
    ("end", "members", "unassigned"),
    [(9, [], 1), (5, [], 0), (9, [member(0, topic="other", topics=("other",))], 0)],
    ids=["records wait", "given up", "another worker has the route"],
)
def test_a_topic_of_another_route_counts_where_its_only_worker_has_gone(
    end: int, members: list[Member], unassigned: int
) -> None:
    offsets = Offsets({OTHER: 5}, {OTHER: 0}, {OTHER: end})
    found = facts(member(0, 1, 2, 3), *members, offsets=offsets, also=frozenset({OTHER}))
    assert found.unassigned == {"vectors": 0, "other": unassigned}


@pytest.mark.parametrize(("reset", "without_commit"), [("earliest", 70), ("none", 70), ("latest", 0)])
def test_the_lag_is_that_of_all_partitions_whoever_owns_them(reset: str, without_commit: int) -> None:
    """One is behind, one is not, of one nothing was committed, and of one nothing is known."""
    first, second, third, _ = sorted(ALL)
    offsets = Offsets({first: 40, second: 50}, {first: 0, second: 0, third: 30}, {first: 50, second: 50, third: 100})
    found = facts(member(0), member(1, is_worker=False), offsets=offsets, reset=reset)
    assert found.lag == {"vectors": 10 + without_commit}


def test_members_are_shown_with_what_they_own_and_words_of_others_are_fit_for_a_page() -> None:
    other = Member("odd\n\x1b[1m" + "x" * 200, "/10.0.0.9", False, frozenset(), frozenset(ALL))
    worker, stranger = facts(member(0, 1), other).members
    assert worker == GroupMember("client", "127.0.0.1", True, 2)
    assert (stranger.host, stranger.is_worker, stranger.owned) == ("10.0.0.9", False, 4)
    assert (stranger.client_id.isprintable(), len(stranger.client_id)) == (True, 100)


def test_only_a_member_that_owns_something_is_a_stranger() -> None:
    owns, waits = member(1, is_worker=False), member(is_worker=False)
    assert strangers(Group(True, (member(0), owns, waits))) == [owns]
