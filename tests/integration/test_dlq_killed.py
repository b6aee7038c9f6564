"""A replay that SIGKILL breaks off at any point, and that is repeated, sends every record exactly once."""

from tests.chaos.replays import Replays
from tests.support.broker import TopicFactory
from worker.local.broker import Broker

ROUNDS = 5
"""`python -m tests.chaos.replays --rounds 50` for more."""


def test_a_replay_that_is_killed_and_repeated_sends_every_record_once(broker: Broker, new_topic: TopicFactory) -> None:
    report = Replays(broker, new_topic(3), new_topic(), seed=12).run(ROUNDS)
    assert report.is_clean, report
    assert report.killed > 0, report
