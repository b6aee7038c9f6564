"""Since when something is so."""

from tests.support.page import PageStage
from tests.unit.samples import opened
from worker.errors import BlockReason
from worker.ledger import Outcome
from worker.telemetry.page.figures import Sample
from worker.telemetry.page.watch import Watch
from worker.telemetry.state import Block, Reading, State

BLOCK = Block("vectors", BlockReason.TARGET)
KEY = ("vectors", "0")


def reading(state: State, *blocks: Block) -> Reading:
    return Reading(state, "", dict.fromkeys(blocks, "x"), 0.0)


def at(seconds: float, *, settled: float = 0.0, lag: float = 0.0, committed: float = 0.0) -> Sample:
    return Sample(seconds, {("put",): settled}, {}, {}, {}, {KEY: lag}, {KEY: committed})


def test_a_state_lasts_since_it_was_entered_whatever_its_reason() -> None:
    watch = Watch(0.0)
    for now, state in ((1.0, State.STARTING), (2.0, State.STARTING), (5.0, State.RUNNING), (9.0, State.STARTING)):
        watch.observe(reading(state), now)
    assert watch.state_since == 9.0
    watch.observe(reading(State.STARTING), 20.0)
    assert (watch.state_since, watch.has_run) == (9.0, True)


def test_offsets_that_are_passed_are_kept_with_the_time_of_the_last() -> None:
    watch, key = Watch(0.0), ("skipped_offsets", "vectors", "retention")
    for seconds, count in ((1.0, 0.0), (2.0, 5.0), (3.0, 5.0), (4.0, 6.0), (5.0, 6.0)):
        watch.follow(at(seconds)._replace(counts={key: count, ("retries", "server"): seconds}))
    assert watch.passed == {key: (6.0, 4.0)}


def test_a_transaction_is_open_since_the_partition_ends_at_the_same_offset() -> None:
    watch, found = Watch(0.0), []
    for seconds, end, count in ((1.0, 5, 0), (2.0, 5, 3), (3.0, 9, 2), (4.0, 9, 6), (5.0, 9, 6), (6.0, 15, 0)):
        watch.follow(at(seconds)._replace(ends={KEY: end}, in_transactions={KEY: count}))
        found.append(watch.open_since.get(KEY))
    assert found == [None, 2.0, 3.0, 3.0, 3.0, None]


def test_a_worker_that_only_starts_has_not_run() -> None:
    watch = Watch(0.0)
    watch.observe(reading(State.STARTING), 1.0)
    assert watch.has_run is False


def test_a_block_and_a_notice_that_come_again_begin_again() -> None:
    watch = Watch(0.0)
    for now, blocks in ((1.0, [BLOCK]), (3.0, [BLOCK]), (4.0, []), (7.0, [BLOCK])):
        watch.observe(reading(State.RUNNING, *blocks), now)
        watch.note(["x"] if blocks else [], now)
    assert (watch.block_since(BLOCK, 9.0), watch.notice_since("x", 9.0)) == (7.0, 7.0)
    assert watch.notice_since("not yet noted", 9.0) == 9.0


def test_offsets_that_are_committed_again_have_not_moved() -> None:
    watch = Watch(0.0)
    for one in (at(1.0, committed=5), at(2.0, committed=5), at(3.0, committed=6), at(4.0, committed=6)):
        watch.follow(one)
    assert watch.moved_at == 3.0


def test_nothing_is_settled_since_the_last_record_or_since_records_wait() -> None:
    watch = Watch(0.0)
    found = []
    for one in (at(1.0, settled=5), at(2.0, settled=5), at(3.0, settled=5, lag=2), at(4.0, settled=5, lag=2)):
        watch.follow(one)
        found.append(watch.still_since)
    assert found == [1.0, 2.0, 2.0, 2.0]
    watch.follow(at(5.0, settled=6, lag=1))
    assert watch.still_since == 5.0


def test_nothing_of_a_topic_is_settled_since_its_last_record_or_since_its_records_wait() -> None:
    watch = Watch(0.0)
    found = []
    for seconds, (settled, lag) in enumerate([(5, 0), (5, 2), (5, 2), (6, 1), (6, 1), (6, 0)]):
        one = at(seconds, settled=seconds, lag=lag)  # other topics move all the while
        watch.follow(one._replace(by_topic={("vectors",): float(settled), ("images",): float(seconds)}))
        found.append(watch.still_topics.get("vectors"))
    assert found == [None, 1.0, 1.0, 3.0, 3.0, None]


def test_the_page_shows_when_offsets_moved_and_not_when_they_were_committed() -> None:
    stage = PageStage()
    assignment = opened(stage.ledger)
    stage.ledger.committed({assignment: 0})
    stage.step()
    stage.settle(assignment, 10, Outcome.PUT, 0.1)
    stage.ledger.committed({assignment: 10})
    for _ in range(30):
        stage.step()
        stage.ledger.committed({assignment: 10})
        stage.metrics.last_commit.set(stage.wall())
    assert "<dt>committed offsets moved</dt><dd>2\u00a0min 26\u00a0s ago</dd>" in stage.html()
