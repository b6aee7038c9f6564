"""Shards must agree before a record is read: those that differ are blocked until they do not."""

import time
from collections.abc import Callable

from tests.support.bounded import END_S
from tests.support.routed import MISSING, RoutedApp, sharded
from worker.app.targets import TargetFinder
from worker.errors import BlockReason
from worker.ports import Sink
from worker.records.target import Target
from worker.settings.tables import Delivery

QUICK = Delivery(retry_initial_seconds=0.01, retry_max_seconds=0.01)


class Search:
    """The finder on lanes whose service answers as `answer` says; what is asked is noted."""

    def __init__(self, answer: Callable[[str, int], Target]) -> None:
        self.app = RoutedApp(sharded("d1", "d2"))
        self.asked: dict[str, int] = {"d1": 0, "d2": 0}
        self._answer = answer
        self.finder = TargetFinder(self.app.lanes, self.app.settings.routes, QUICK, self.app.metrics)
        for name in self.app.lanes:
            sink: Sink = self.app.sinks[name]
            setattr(sink, "describe", self._describe)  # noqa: B010 - the service of the test
        for lane in self.app.lanes.values():
            lane.state.clock = time.monotonic

    def _describe(self, index: str) -> Target:
        self.asked[index] += 1
        return self._answer(index, self.asked[index])

    def run(self) -> dict[str, Target]:
        """Search until all are found."""
        self.finder.start()
        self.finder.join(END_S)
        assert self.finder.dead_threads() == []
        return dict(self.finder.pop_found())

    def blocks(self) -> set[tuple[str | None, BlockReason]]:
        return {(block.of_index, block.reason) for block in self.app.status.read().blocks}


def test_shards_that_agree_are_found() -> None:
    found = Search(lambda index, _: Target(index, 4, "cosine")).run()
    assert found == {"d1": Target("d1", 4, "cosine"), "d2": Target("d2", 4, "cosine")}


def test_shards_that_differ_are_all_blocked_until_they_agree() -> None:
    both = {("d1", BlockReason.TARGET), ("d2", BlockReason.TARGET)}
    seen: list[str] = []

    def answer(index: str, _: int) -> Target:
        if search.blocks() == both:
            seen.append(index)
        return Target(index, 8 if index == "d2" and not seen else 4, "cosine")

    search = Search(answer)
    found = search.run()
    assert seen
    assert {target.dimension for target in found.values()} == {4}
    assert search.blocks() == set()


def test_a_shard_that_is_missing_does_not_hold_up_the_others() -> None:
    search = Search(lambda index, _: _missing_d2(index))
    search.finder.start()
    deadline = time.monotonic() + END_S
    found: dict[str, Target] = {}
    while "d1" not in found:
        assert time.monotonic() < deadline
        found |= dict(search.finder.pop_found())
        time.sleep(0.005)
    assert search.blocks() == {("d2", BlockReason.TARGET)}
    for lane in search.app.lanes.values():
        lane.state.stop()
    search.finder.join(END_S)
    assert "d2" not in dict(search.finder.pop_found())


def _missing_d2(index: str) -> Target:
    if index == "d2":
        raise MISSING
    return Target(index, 4, "cosine")


def test_a_shard_that_is_made_later_must_agree_with_those_that_are_read() -> None:
    differed: list[int] = []

    def answer(index: str, _: int) -> Target:
        if index == "d2" and "d1" not in search.finder._ended:
            raise MISSING
        if index == "d2" and len(differed) < 3:
            differed.append(8)
            return Target(index, 8, "cosine")
        if index == "d2":
            assert search.blocks() == {("d2", BlockReason.TARGET)}
        return Target(index, 4, "cosine")

    search = Search(answer)
    found = search.run()
    assert (found["d2"].dimension, search.asked["d1"]) == (4, 1)
