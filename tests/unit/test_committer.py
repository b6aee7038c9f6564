"""When offsets are committed."""

from collections.abc import Mapping

import pytest

from tests.support.app import App
from worker.app.committer import ANYWAY_SECONDS, Committer
from worker.ledger import Assignment

INTERVAL = 1.0


class Bench(App):
    """A committer beside a worker whose own makes no turn any more."""

    def __init__(self, partitions: int = 1) -> None:
        super().__init__(partitions)
        self.started()
        self.committer = Committer(self.source, self.ledger, interval_seconds=INTERVAL, clock=self.clock)
        self.committer.commit_if_due()
        self.clock.advance(INTERVAL)
        self.before = self.commits()

    def move(self, partition: int = 0) -> None:
        """Move a partition's watermark by one."""
        self.publish(partition=partition)
        self.worker._intake.take_in(self.source.poll(0.0))
        self.worker._intake.seal_all()
        self.deliver()

    def made(self) -> float:
        return self.commits() - self.before

    def seconds_of_commits(self) -> list[int]:
        """Let time pass for three commits without movement; return in which seconds one was made."""
        found = []
        for second in range(int(3 * ANYWAY_SECONDS)):
            made = self.made()
            self.committer.commit_if_due()
            found += [second] if self.made() > made else []
            self.clock.advance(INTERVAL)
        return found


def test_what_moved_is_committed_once_in_an_interval() -> None:
    bench = Bench()
    seen = []
    for seconds in (0.0, INTERVAL / 2, INTERVAL / 4, INTERVAL / 4):
        bench.clock.advance(seconds)
        bench.move()
        bench.committer.commit_if_due()
        seen.append((bench.made(), bench.committed()))
    assert seen == [(1, {0: 1}), (1, {0: 1}), (1, {0: 1}), (2, {0: 4})]


def test_without_movement_a_commit_is_made_every_few_seconds() -> None:
    bench = Bench()
    # The first commit was made one interval before.
    assert bench.seconds_of_commits() == [4, 9, 14]


def test_a_commit_without_movement_names_every_partition_and_one_with_it_what_moved() -> None:
    bench = Bench(partitions=2)
    bench.move(1)
    bench.cluster.committed.clear()
    bench.committer.commit_if_due()
    assert bench.committed() == {1: 1}
    bench.clock.advance(ANYWAY_SECONDS)
    bench.committer.commit_if_due()
    assert bench.committed() == {0: 0, 1: 1}


def test_a_commit_that_was_refused_leaves_the_watermark_to_the_next() -> None:
    bench = Bench()
    bench.move()
    bench.cluster.refuse_commits = RuntimeError("no")
    bench.committer.commit_if_due()
    assert bench.committed() == {0: 0}
    bench.cluster.refuse_commits = None
    bench.clock.advance(INTERVAL)
    bench.committer.commit_if_due()
    assert bench.committed() == {0: 1}


def test_while_what_moved_is_left_out_of_commits_the_others_are_committed_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(partitions=2)
    bench.move(1)
    refused, commit = bench.assignment(1), bench.source.commit

    def leave_out(offsets: Mapping[Assignment, int]) -> bool:
        sent = {one: at for one, at in offsets.items() if one is not refused}
        return bool(sent) and commit(sent)

    monkeypatch.setattr(bench.source, "commit", leave_out)
    assert (bench.seconds_of_commits(), bench.committed()) == ([4, 9, 14], {0: 0, 1: 0})
    monkeypatch.setattr(bench.source, "commit", commit)
    bench.committer.commit_if_due()
    assert bench.committed() == {0: 0, 1: 1}


def test_offsets_that_no_record_has_are_committed_where_nothing_is_outstanding() -> None:
    bench = Bench()
    bench.cluster.skip(bench.assignment().partition, 3)
    bench.source.poll(0.0)
    bench.committer.commit_if_due()
    assert bench.committed() == {0: 3}


def test_a_record_that_is_not_settled_keeps_its_offset_uncommitted() -> None:
    bench = Bench()
    bench.publish(2)
    bench.worker._intake.take_in(bench.source.poll(0.0))
    assert bench.committer.commit_last(1.0) is True
    assert bench.committed() == {0: 0}


def test_the_last_commit_says_whether_the_broker_acknowledged() -> None:
    bench = Bench()
    bench.cluster.refuse_commits = RuntimeError("no")
    assert bench.committer.commit_last(1.0) is False
