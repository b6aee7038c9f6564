"""The metrics of topics, group and retention: what is not known is absent, and a deadline becomes the time left."""

import math

import pytest
from prometheus_client import CollectorRegistry

from worker.ledger import Partition
from worker.telemetry.kafka_facts import Begin, GroupFacts, GroupMember, KafkaFacts, Retention, TopicFacts

NOW = 1000.0
MEMBER = GroupMember("client", "10.0.0.1", True, 1)


def values(facts: KafkaFacts) -> dict[str, float]:
    """Return each series, by its name and the values of its labels."""
    registry = CollectorRegistry()
    registry.register(facts)
    return {
        " ".join([sample.name.removeprefix("oss_vectors_"), *sample.labels.values()]): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_nothing_is_shown_before_it_is_known() -> None:
    assert values(KafkaFacts()) == {}


def test_of_a_topic_that_is_missing_nothing_else_is_shown() -> None:
    facts = KafkaFacts()
    facts.topics = {"a": TopicFacts(False, 4, 1), "b": TopicFacts(True)}
    assert values(facts) == {
        "topic_missing a": 0,
        "topic_missing b": 1,
        "topic_partitions a": 4,
        "leaderless_partitions a": 1,
    }


def test_the_group_is_shown_by_topic() -> None:
    facts = KafkaFacts()
    facts.group = GroupFacts([MEMBER] * 3, {"a": 2, "b": 0}, {"a": 50, "b": 0})
    assert values(facts) == {
        "unassigned_partitions a": 2,
        "unassigned_partitions b": 0,
        "group_lag_records a": 50,
        "group_lag_records b": 0,
        "group_members": 3,
    }


@pytest.mark.parametrize(
    ("deadline", "left"), [(NOW + 60, 60.0), (NOW - 60, 0.0), (math.inf, math.inf)], ids=["ahead", "over", "never"]
)
def test_a_deadline_is_shown_as_the_seconds_left(deadline: float, left: float) -> None:
    facts = KafkaFacts(wall=lambda: NOW)
    facts.retention = Retention({"a": deadline}, deadline)
    assert values(facts) == {"retention_left_seconds a": left, "dead_letter_retention_left_seconds": left}


def test_the_time_left_of_dead_letters_is_absent_where_their_limits_may_not_be_read() -> None:
    facts = KafkaFacts(wall=lambda: NOW)
    facts.retention = Retention({"a": math.inf}, None)
    assert values(facts) == {"retention_left_seconds a": math.inf}


def test_cleared_facts_show_nothing() -> None:
    facts = KafkaFacts()
    facts.topics, facts.group = {"a": TopicFacts(True)}, GroupFacts([MEMBER], {"a": 0}, {"a": 0})
    facts.begins, facts.log_starts = {Partition("a", 0): Begin(1, 1)}, {Partition("a", 0): 1}
    facts.retention = Retention({"a": 1.0}, 1.0)
    facts.clear()
    assert (values(facts), facts.begins) == ({}, {})
