"""Where partitions are read: first offsets, resets, logs that were cut, and topics that were recreated."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from tests.support.client import FakeConsumer
from tests.support.fakes import FakeClock
from tests.unit.samples import FakeTracked
from worker.consumer.leaders import GRACE_SECONDS
from worker.consumer.offset_notices import LASTING_SECONDS
from worker.consumer.offset_notices import RETRY_SECONDS as RETRY_AFTER_ERROR_SECONDS
from worker.consumer.offset_policy import FirstOffsets
from worker.consumer.offset_requests import Edge, EpochEnd
from worker.consumer.positions import Positions
from worker.consumer.unreadable import UnreadablePartitions
from worker.errors import BlockReason
from worker.ledger import Assignment, Ledger, Outcome, Partition, Phase
from worker.settings.tables import Kafka
from worker.telemetry.log import fields
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, Status

PARTITION = Partition("vectors", 0)
TP = TopicPartition(*PARTITION)


Policy = Literal["earliest", "latest", "none"]
RETRY_SECONDS = 30.0
UNREADABLE = Block("vectors", BlockReason.PARTITION_UNREADABLE, 0)
OUT_OF_RANGE = Block("vectors", BlockReason.OFFSET_OUT_OF_RANGE, 0)


class NotingUnreadable(UnreadablePartitions):
    """Notes which partitions began again."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.unblocked: list[Partition] = []

    def unblock(self, partition: Partition) -> None:
        """Note it."""
        self.unblocked.append(partition)
        super().unblock(partition)


class Bench:
    """One assigned partition; the broker has offsets from `begin` to `end`, and `committed` of the group.

    With `open_transaction` what is committed ends at the first offset of a transaction.
    """

    def __init__(self, policy: Policy = "earliest") -> None:
        self.clock = FakeClock()
        self.ledger = Ledger(["vectors"], self.clock)
        self.status = status = Status(0.0)
        self.metrics = Metrics(self.ledger, status, ["vectors"], [])
        kafka = Kafka(auto_offset_reset=policy)
        self.first_offsets = FirstOffsets(
            kafka, status=status, metrics=self.metrics, retry_seconds=RETRY_SECONDS, clock=self.clock
        )
        self.unreadable = NotingUnreadable(status, RETRY_SECONDS, self.clock)
        self.positions = Positions(
            kafka,
            ["vectors"],
            ledger=self.ledger,
            metrics=self.metrics,
            first_offsets=self.first_offsets,
            unreadable=self.unreadable,
            wake=self._note_wake,
        )
        self.woken = 0
        self.consumer = FakeConsumer({"vectors": 1})
        self.consumer.own(PARTITION)
        self.begin, self.end = 0, 100
        self.open_transaction: int | None = None
        self.committed: OffsetAndMetadata | None = None
        self.epoch_end = EpochEnd(0, -1)
        self.ledger.assign(PARTITION)

    def _note_wake(self) -> None:
        self.woken += 1

    @property
    def assignment(self) -> Assignment:
        found = self.ledger.assignment(PARTITION)
        assert found is not None
        return found

    @property
    def sought(self) -> int:
        """The offset that was last sought."""
        found = self.consumer.sought[-1][1]
        return int(getattr(found, "offset", found))

    @property
    def restarted(self) -> list[Partition]:
        return self.unreadable.unblocked

    @property
    def blocks(self) -> list[Block]:
        return list(self.status.read().blocks)

    def answer(self) -> None:
        """Let the broker answer whatever was asked."""
        for call in self.consumer.calls:
            if not call.answer.is_done:
                edge = next((one for one in call.arguments if isinstance(one, Edge)), None)
                stable = self.end if self.open_transaction is None else self.open_transaction
                end = self.end if "read_uncommitted" in call.arguments else stable
                edges = {Edge.BEGINNING: self.begin, Edge.END: end}
                answer = self.epoch_end if call.name == "_list_epoch_ends" else self.committed
                call.answer.success({TP: answer if edge is None else edges[edge]})

    def open(self) -> bool:
        """Ask until it is open, as the main loop does."""
        for _ in range(5):
            if self.positions.open(self.consumer, self.assignment):
                return True
            self.first_offsets.ask(self.consumer)
            self.answer()
            self.first_offsets.ask(self.consumer)
        return False

    def read(self, *offsets: int) -> Assignment:
        """Track records; none is settled."""
        assert self.ledger.track(self.assignment, offsets)
        return self.assignment

    def reset(self, position: int) -> None:
        """Find the position out of range, and what to do about it."""
        self.positions.search_reset(self.consumer, PARTITION, position)
        self.first_offsets.ask(self.consumer)
        self.answer()
        self.first_offsets.ask(self.consumer)
        self.positions.apply_resets(self.consumer)

    def count(self, name: str, **labels: str) -> float:
        labels = {"topic": "vectors"} | labels
        return self.metrics.registry.get_sample_value(f"oss_vectors_{name}_offsets_total", labels) or 0.0


# -- the first offset


@pytest.mark.parametrize(
    ("policy", "committed", "position", "skipped"),
    [("earliest", None, 10, 0), ("latest", None, 100, 90), ("earliest", 40, 40, 0), ("latest", 40, 40, 0)],
)
def test_reading_begins_at_the_committed_offset_or_where_the_policy_says(
    policy: Any, committed: int | None, position: int, skipped: int
) -> None:
    bench = Bench(policy)
    bench.begin = 10
    bench.committed = None if committed is None else OffsetAndMetadata(committed, "", -1)
    assert bench.open()
    assert bench.consumer.sought == [(TP, position)]
    assert (bench.assignment.position, bench.assignment.committed) == (position, committed)
    assert bench.count("skipped", reason="reset_latest") == skipped


@pytest.mark.parametrize(("end", "policy"), [(20, "latest"), (200, "latest"), (200, "earliest")])
def test_another_log_with_the_partitions_name_is_read_from_its_start(end: int, policy: Any) -> None:
    """Its leader does not know the epoch of what was committed. A running worker reads it from its start too."""
    bench = Bench(policy)
    bench.committed, bench.epoch_end = OffsetAndMetadata(40, "", 5), EpochEnd(-1, -1)
    bench.begin, bench.end = 10, end
    assert bench.open()
    assert (bench.assignment.position, bench.sought) == (10, 10)
    assert (bench.count("truncated"), bench.count("skipped", reason="reset_latest")) == (30, 0)


@pytest.mark.parametrize("policy", ["earliest", "latest", "none"])
def test_a_leader_that_may_have_been_replaced_is_asked_again_where_it_does_not_know_the_commits_epoch(
    policy: Policy,
) -> None:
    bench = Bench(policy)
    bench.committed, bench.epoch_end = OffsetAndMetadata(40, "", 7), EpochEnd(-1, -1, is_doubtful=True)
    for _ in range(int(GRACE_SECONDS)):
        assert not bench.open()
        bench.clock.advance(RETRY_AFTER_ERROR_SECONDS)
    assert bench.blocks == []
    bench.epoch_end = EpochEnd(7, 100)  # of the leader that replaced it
    assert bench.open()
    assert (bench.assignment.position, bench.count("truncated")) == (40, 0)


def test_a_leader_that_is_still_the_newest_after_a_while_has_another_log() -> None:
    """Of a topic that was deleted and created again: its epochs begin at 0 again."""
    bench = Bench()
    bench.committed, bench.epoch_end = OffsetAndMetadata(40, "", 7), EpochEnd(-1, -1, is_doubtful=True)
    assert not bench.open()
    bench.clock.advance(GRACE_SECONDS)
    assert bench.open()
    assert (bench.assignment.position, bench.count("truncated")) == (0, 40)


def test_a_partition_that_has_gone_meanwhile_is_not_opened() -> None:
    bench = Bench()
    bench.consumer.owned.clear()
    assert not bench.open()
    assert bench.assignment.phase is Phase.OPENING


@pytest.mark.parametrize(
    ("policy", "end", "is_shown"), [("earliest", 100, True), ("earliest", 0, False), ("latest", 100, False)]
)
def test_readyz_says_that_a_topic_without_a_commit_is_read_from_its_start(
    policy: Policy, end: int, is_shown: bool
) -> None:
    bench = Bench(policy)
    bench.end = end
    assert bench.open()
    bench.first_offsets.ask(bench.consumer)
    assert (len(bench.status.warnings()) == 1) is is_shown
    bench.ledger.committed({bench.assignment: end})
    bench.clock.advance(1)
    bench.first_offsets.ask(bench.consumer)
    assert bench.status.warnings() == []


# -- answers that are errors


def answer_with(bench: Bench, error: Exception) -> None:
    """Let the broker answer whatever is asked with an error, for as long as `LASTING_SECONDS`."""
    for _ in range(round(LASTING_SECONDS) + 1):
        bench.positions.open(bench.consumer, bench.assignment)
        bench.first_offsets.ask(bench.consumer)
        for call in bench.consumer.calls:
            if not call.answer.is_done:
                call.answer.success({TP: error})
        bench.first_offsets.ask(bench.consumer)
        bench.clock.advance(1)
    bench.first_offsets.ask(bench.consumer)


@pytest.mark.parametrize("policy", ["earliest", "latest", "none"])
@pytest.mark.parametrize("what", ["committed offset", "epoch's end", "edges after a refusal"])
def test_a_partition_is_blocked_while_where_to_read_it_from_is_not_known(policy: Policy, what: str) -> None:
    bench = Bench(policy)
    bench.committed, bench.epoch_end = OffsetAndMetadata(40, "", 5), EpochEnd(5, 100)
    if what == "edges after a refusal":
        assert bench.open()
        bench.positions.search_reset(bench.consumer, PARTITION, 40)
        bench.begin = 60
    elif what == "epoch's end":
        bench.positions.open(bench.consumer, bench.assignment)
        bench.first_offsets.ask(bench.consumer)
        bench.answer()
    answer_with(bench, kafka_errors.ClusterAuthorizationFailedError())
    assert bench.status.read().blocks[UNREADABLE] == (
        "vectors/0: where to read it from is not known: ClusterAuthorizationFailedError"
    )
    bench.clock.advance(1)
    if what == "edges after a refusal":
        for _ in range(2):
            bench.first_offsets.ask(bench.consumer)
            bench.answer()
        bench.positions.apply_resets(bench.consumer)
    else:
        assert bench.open()
    bench.first_offsets.ask(bench.consumer)
    assert bench.blocks == []


@pytest.mark.parametrize("how", ["given back", "no broker can be reached", "a new consumer"])
def test_a_first_offset_that_is_not_known_blocks_only_an_owned_partition_of_a_cluster_that_answers(how: str) -> None:
    bench = Bench()
    answer_with(bench, kafka_errors.NotCoordinatorError())
    assert bench.blocks == [UNREADABLE]
    if how == "given back":
        bench.ledger.end(bench.ledger.begin_revoke([PARTITION]))
    elif how == "a new consumer":
        bench.first_offsets.drop()
    else:
        bench.consumer._manager._conns.clear()
    bench.first_offsets.ask(bench.consumer)
    assert bench.blocks == []


# -- positions that are out of range


def test_offsets_that_retention_dropped_are_skipped_and_counted() -> None:
    bench = Bench()
    assert bench.open()
    before = bench.read(0, 1)
    bench.begin = 70
    bench.reset(2)
    assert bench.consumer.sought[-1] == (TP, 70)
    assert (bench.assignment, bench.count("skipped", reason="retention")) == (before, 68)
    assert bench.restarted == []


@pytest.mark.parametrize("policy", ["earliest", "latest"])
def test_a_bad_batch_that_retention_deleted_blocks_no_longer_although_no_record_comes(policy: Policy) -> None:
    bench = opened_at_40(policy)
    before = bench.assignment
    bench.unreadable.block(PARTITION, 45, "CorruptRecordError")
    bench.begin = bench.end = 100
    bench.reset(42)
    bench.unreadable.watch(bench.consumer)
    assert (bench.assignment, bench.sought, bench.blocks) == (before, 100, [])


def test_a_partition_is_paused_while_its_reset_is_searched() -> None:
    bench = Bench()
    assert bench.open()
    bench.positions.search_reset(bench.consumer, PARTITION, 2)
    assert (bench.consumer.parked, bench.first_offsets.resetting) == ({TP}, frozenset({PARTITION}))


def test_a_log_that_ends_before_the_position_begins_a_new_ownership() -> None:
    """What is tracked of the old one has higher offsets, and would be taken for the new log's."""
    bench = Bench()
    assert bench.open()
    before = bench.read(50, 51)
    bench.end = 20
    bench.reset(52)
    assert (before.phase, bench.assignment.phase, bench.assignment.position) == (Phase.FENCED, Phase.OPEN, 0)
    assert bench.ledger.books().settled["vectors", Outcome.RETURNED] == 2
    assert (bench.restarted, bench.count("skipped", reason="retention")) == ([PARTITION], 0)


@pytest.mark.parametrize("policy", ["earliest", "latest"])
def test_a_log_that_ends_before_the_position_is_read_from_its_start(policy: Any) -> None:
    """It was cut, or is another log; what `latest` skips is what was published before, not what came in its place."""
    bench = Bench(policy)
    bench.committed = OffsetAndMetadata(50, "", -1)
    assert bench.open()
    before = bench.read(50, 51)
    bench.begin, bench.end = 10, 20
    bench.reset(52)
    assert (before.phase, bench.assignment.position, bench.sought) == (Phase.FENCED, 10, 10)
    assert (bench.count("truncated"), bench.count("skipped", reason="reset_latest")) == (32, 0)


def test_what_retention_deleted_while_it_waited_is_counted_when_the_log_is_read_from_its_start() -> None:
    bench = Bench()
    assert bench.open()
    bench.read(0, 1, 60)
    bench.begin, bench.end = 30, 40
    bench.reset(61)
    assert (bench.assignment.position, bench.count("skipped", reason="retention")) == (30, 30)


def test_latest_counts_all_that_it_skips_behind_what_retention_deleted() -> None:
    bench = Bench("latest")
    bench.committed = OffsetAndMetadata(0, "", -1)
    assert bench.open()
    before = bench.read(0, 1)
    bench.begin, bench.end = 70, 90
    bench.reset(2)
    assert (bench.assignment, bench.sought) == (before, 90)
    assert (bench.count("skipped", reason="reset_latest"), bench.count("truncated")) == (88, 0)


@pytest.mark.parametrize(("position", "log", "truncated"), [(5, (10, 100), 0), (52, (0, 20), 32)])
def test_with_none_a_position_that_is_gone_is_left_to_the_main_loop_to_open(
    position: int, log: tuple[int, int], truncated: int
) -> None:
    bench = Bench("none")
    bench.committed = OffsetAndMetadata(position, "", -1)
    assert bench.open()
    before = bench.assignment
    bench.begin, bench.end = log
    bench.reset(position)
    assert (before.phase, bench.assignment.phase) == (Phase.FENCED, Phase.OPENING)
    assert (bench.consumer.parked, bench.consumer.sought[-1]) == ({TP}, (TP, 0))
    assert not bench.open()
    assert (bench.blocks, bench.count("truncated")) == ([OUT_OF_RANGE], truncated)


# -- positions that the broker calls out of range, and that the log has


def opened_at_40(policy: Policy) -> Bench:
    bench = Bench(policy)
    bench.committed = OffsetAndMetadata(40, "", -1)
    assert bench.open()
    bench.read(40, 41)
    bench.consumer.read_to(PARTITION, 42, leader_epoch=3)
    return bench


def nothing_is_skipped(bench: Bench) -> bool:
    return not any(
        bench.count(name, **labels)
        for name, labels in (
            ("truncated", {}),
            ("skipped", {"reason": "retention"}),
            ("skipped", {"reason": "reset_latest"}),
        )
    )


@pytest.mark.parametrize("policy", ["earliest", "latest", "none"])
@pytest.mark.parametrize(
    ("begin", "end", "open_transaction"),
    [
        pytest.param(0, 100, None, id="in between"),
        pytest.param(42, 100, None, id="the first that the log has"),
        pytest.param(0, 42, None, id="the end"),
        pytest.param(0, 100, 20, id="behind the start of an open transaction"),
    ],
)
def test_a_position_that_the_log_has_is_kept_and_blocks_its_partition(
    policy: Policy, begin: int, end: int, open_transaction: int | None
) -> None:
    """With tiered storage a broker refuses an offset of a segment that is missing."""
    bench = opened_at_40(policy)
    before, returned = bench.assignment, bench.ledger.books().settled["vectors", Outcome.RETURNED]
    bench.begin, bench.end, bench.open_transaction = begin, end, open_transaction
    bench.reset(42)
    assert (bench.assignment, before.phase, before.position) == (before, Phase.OPEN, 42)
    assert bench.ledger.books().settled["vectors", Outcome.RETURNED] == returned
    assert bench.consumer.sought[-1] == (TP, OffsetAndMetadata(42, "", 3))  # the client asks whether the log continues
    assert (bench.restarted, nothing_is_skipped(bench)) == ([], True)
    assert (bench.blocks, bench.unreadable.waiting) == ([UNREADABLE], frozenset({PARTITION}))
    assert bench.first_offsets.resetting == frozenset()
    message = bench.status.read().blocks[UNREADABLE]
    assert message.startswith(
        f"vectors/0 offset 42: the broker calls it out of range (OFFSET_OUT_OF_RANGE), and has the "
        f"offsets from {begin} to {end}: "
    )


@pytest.mark.parametrize("policy", ["earliest", "latest", "none"])
def test_a_position_that_stays_refused_is_tried_once_in_each_retry_pause(policy: Policy) -> None:
    bench = opened_at_40(policy)
    before = bench.assignment
    for _ in range(3):
        bench.reset(42)
        bench.unreadable.watch(bench.consumer)
        assert (bench.assignment, bench.blocks, bench.unreadable.waiting) == (
            before,
            [UNREADABLE],
            frozenset({PARTITION}),
        )
        bench.clock.advance(RETRY_SECONDS)
        bench.unreadable.watch(bench.consumer)
        assert (bench.blocks, bench.unreadable.waiting) == ([UNREADABLE], frozenset())
    assert bench.ledger.books().settled["vectors", Outcome.RETURNED] == 0


@pytest.mark.parametrize("how", ["records", "at the end"])
def test_a_position_that_is_fetched_again_unblocks_its_partition(how: str) -> None:
    bench = opened_at_40("earliest")
    bench.consumer._subscription.assignment[TP].highwater = 100  # of a fetch before
    bench.end = 42
    bench.reset(42)
    bench.clock.advance(RETRY_SECONDS)
    bench.unreadable.watch(bench.consumer)
    assert bench.blocks == [UNREADABLE]
    if how == "records":
        bench.consumer.read_to(PARTITION, 43)
    else:
        bench.consumer._subscription.assignment[TP].highwater = 42
    bench.unreadable.watch(bench.consumer)
    assert bench.blocks == []


@pytest.mark.parametrize("policy", ["earliest", "latest", "none"])
@pytest.mark.parametrize("known", [[], [Edge.BEGINNING], [Edge.END]])
def test_a_position_is_kept_while_the_edges_of_its_log_are_not_known(policy: Policy, known: list[Edge]) -> None:
    bench = opened_at_40(policy)
    before = bench.assignment
    bench.positions.search_reset(bench.consumer, PARTITION, 42)
    for _ in range(3):
        bench.first_offsets.ask(bench.consumer)
        for call in bench.consumer.calls:
            edge = next((one for one in call.arguments if isinstance(one, Edge)), None)
            if not call.answer.is_done:
                is_known = edge in known
                answer = {TP: 1000 if is_known else kafka_errors.OffsetNotAvailableError()}
                call.answer.success(answer)
        bench.first_offsets.ask(bench.consumer)
        bench.positions.apply_resets(bench.consumer)
        bench.clock.advance(1)
    assert (bench.assignment, before.phase, bench.first_offsets.resetting) == (
        before,
        Phase.OPEN,
        frozenset({PARTITION}),
    )
    assert nothing_is_skipped(bench)


def test_a_refused_position_that_is_no_longer_read_blocks_nothing() -> None:
    bench = opened_at_40("earliest")
    bench.positions.search_reset(bench.consumer, PARTITION, 42)
    bench.first_offsets.ask(bench.consumer)
    bench.answer()
    bench.ledger.end(bench.ledger.begin_revoke([PARTITION]))
    bench.first_offsets.ask(bench.consumer)
    bench.positions.apply_resets(bench.consumer)
    assert bench.blocks == []


def test_a_cut_that_the_client_finds_at_a_refused_position_ends_the_block() -> None:
    """The log was cut and has grown past the position: the leader's epoch shows it, not the edges."""
    bench = opened_at_40("earliest")
    bench.reset(42)
    before = bench.assignment
    bench.positions.truncate(bench.consumer, PARTITION, SimpleNamespace(offset=20, leader_epoch=2))
    assert (before.phase, bench.assignment.position, bench.blocks) == (Phase.FENCED, 20, [])


@pytest.mark.parametrize("policy", ["earliest", "latest"])
def test_an_open_transaction_does_not_make_a_log_end_before_its_position(policy: Policy) -> None:
    """What was read before the isolation level was changed is behind the end of what is committed."""
    bench = opened_at_40(policy)
    bench.begin, bench.end, bench.open_transaction = 60, 100, 70
    bench.reset(42)
    target = 60 if policy == "earliest" else 70  # what the transaction brings is not before the end
    assert (bench.sought, bench.count("truncated")) == (target, 0)


def test_with_none_a_commit_behind_the_start_of_an_open_transaction_is_in_range() -> None:
    bench = Bench("none")
    bench.committed, bench.open_transaction = OffsetAndMetadata(40, "", -1), 20
    assert bench.open()
    assert (bench.assignment.position, bench.blocks) == (40, [])


# -- logs that were cut


def test_a_log_that_was_cut_is_read_from_where_it_continues(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    assert bench.open()
    before = bench.read(7, 8, 9)
    bench.ledger.settle([FakeTracked(before, 7), FakeTracked(before, 8)], Outcome.PUT)
    bench.positions.truncate(bench.consumer, PARTITION, SimpleNamespace(offset=8, leader_epoch=3))
    assert (before.phase, bench.assignment.phase, bench.assignment.position) == (Phase.FENCED, Phase.OPEN, 8)
    assert bench.consumer.sought[-1] == (TP, OffsetAndMetadata(8, "", 3))
    assert (bench.count("truncated"), bench.restarted) == (2, [PARTITION])
    assert [fields(one)["not_written"] for one in caplog.records] == [1]


def test_what_was_read_and_not_settled_below_the_cut_is_read_again(caplog: pytest.LogCaptureFixture) -> None:
    """Its records end with the ownership, and the log still has them."""
    bench = Bench()
    assert bench.open()
    before = bench.read(*range(10))
    bench.ledger.note_leader_epoch(before, 0, 2)
    bench.ledger.settle([FakeTracked(before, offset) for offset in (0, 1, 2, 5)], Outcome.PUT)
    bench.positions.truncate(bench.consumer, PARTITION, SimpleNamespace(offset=8, leader_epoch=3))
    assert (before.phase, bench.assignment.position, bench.assignment.watermark) == (Phase.FENCED, 3, 3)
    assert bench.consumer.sought[-1] == (TP, OffsetAndMetadata(3, "", 2))
    assert bench.count("truncated") == 2
    assert [fields(one)["not_written"] for one in caplog.records] == [2]


@settings(max_examples=40)
@given(
    policy=st.sampled_from(["earliest", "latest"]),
    log=st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted),
    settled=st.sets(st.integers(0, 19)),
    how=st.sampled_from(["truncate", "reset"]),
)
def test_no_offset_without_an_outcome_is_passed_over_that_no_counter_counts(
    policy: Any, log: list[int], settled: set[int], how: str
) -> None:
    """Whatever the log has become: the next offset is at most the old watermark, or a counter has the rest."""
    bench = Bench(policy)
    bench.committed = OffsetAndMetadata(0, "", -1)
    assert bench.open()
    before = bench.read(*range(20))
    bench.ledger.settle([FakeTracked(before, offset) for offset in settled], Outcome.PUT)
    bench.consumer.read_to(PARTITION, 20)
    watermark = before.watermark
    bench.begin, bench.end = log
    if how == "truncate":
        bench.positions.truncate(bench.consumer, PARTITION, SimpleNamespace(offset=bench.end, leader_epoch=1))
    else:
        bench.reset(20)
    found = bench.assignment
    is_kept = how == "reset" and bench.begin <= 20 <= bench.end
    assert (found is before) == (is_kept or (how == "reset" and bench.begin > 20))
    assert (bench.blocks == [UNREADABLE]) == is_kept
    if is_kept:
        assert (bench.sought, nothing_is_skipped(bench)) == (20, True)
        return
    next_offset = bench.sought if found is before else min(bench.sought, found.watermark)
    skipped = bench.count("skipped", reason="retention") + bench.count("skipped", reason="reset_latest")
    assert next_offset <= (before.position if found is before else watermark) + skipped


@pytest.mark.parametrize("how", ["unknown", "opening"])
def test_a_log_that_was_cut_at_an_unknown_place_is_opened_again(how: str) -> None:
    bench = Bench()
    if how == "unknown":
        assert bench.open()
    before = bench.assignment
    divergent = None if how == "unknown" else SimpleNamespace(offset=8, leader_epoch=3)
    bench.positions.truncate(bench.consumer, PARTITION, divergent)
    assert (before.phase, bench.assignment.phase, bench.count("truncated")) == (Phase.FENCED, Phase.OPENING, 0)


def test_a_partition_that_is_no_longer_owned_is_left_alone() -> None:
    bench = Bench()
    other = Partition("vectors", 9)
    bench.positions.truncate(bench.consumer, other, None)
    bench.positions.search_reset(bench.consumer, other, 5)
    bench.positions.reopen(bench.consumer, other)
    assert (bench.restarted, bench.consumer.sought, bench.consumer.parked) == ([], [], set())


# -- topics that were recreated


def test_a_topic_that_was_recreated_is_read_from_its_start_whatever_is_committed() -> None:
    bench = Bench("latest")
    bench.committed = OffsetAndMetadata(40, "", -1)
    bench.consumer.topic_ids["vectors"] = "first"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert bench.open()
    before = bench.read(40, 41)
    bench.positions.watch_recreated_topics(bench.consumer)
    assert bench.assignment is before
    bench.consumer.topic_ids["vectors"] = "second"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert (before.phase, bench.restarted) == (Phase.FENCED, [PARTITION])
    assert bench.open()
    assert (bench.assignment.position, bench.assignment.committed) == (0, None)


def recreated(policy: Literal["earliest", "latest"] = "earliest") -> Bench:
    """A topic that was recreated when 40 was committed of it, and 41 and 42 had no outcome; the partition is not opened."""
    bench = Bench(policy)
    bench.committed = OffsetAndMetadata(40, "", -1)
    bench.consumer.topic_ids["vectors"] = "first"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert bench.open()
    read = bench.read(40, 41, 42)
    bench.ledger.settle([FakeTracked(read, 40)], Outcome.PUT)
    bench.consumer.topic_ids["vectors"] = "second"
    bench.positions.watch_recreated_topics(bench.consumer)
    return bench


def give_away_and_back(bench: Bench) -> None:
    bench.ledger.end(bench.ledger.begin_revoke([PARTITION]))
    bench.ledger.assign(PARTITION)


def test_what_was_read_of_a_deleted_topic_and_not_settled_is_counted_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    bench = recreated()
    assert bench.count("truncated") == 2
    assert [fields(one)["not_written"] for one in caplog.records] == [2]


@pytest.mark.parametrize("stale", [None, 40, 41])
@pytest.mark.parametrize("policy", ["earliest", "latest"])
def test_a_rebalance_before_a_recreated_topic_is_opened_leaves_its_start_to_read(
    policy: Literal["earliest", "latest"], stale: int | None
) -> None:
    """41: the worker committed it before it knew of the new topic, and had no answer yet."""
    bench = recreated(policy)
    give_away_and_back(bench)
    bench.committed = None if stale is None else OffsetAndMetadata(stale, "", -1)
    assert bench.open()
    assert (bench.assignment.position, bench.count("skipped", reason="reset_latest")) == (0, 0)


def test_a_recreated_topic_that_another_worker_has_read_is_read_from_what_that_one_committed() -> None:
    bench = recreated()
    give_away_and_back(bench)
    bench.end, bench.committed = 6_000_000, OffsetAndMetadata(5_000_000, "", -1)
    assert bench.open()
    assert (bench.assignment.position, bench.assignment.watermark) == (5_000_000, 5_000_000)


def test_an_offset_that_was_stale_is_one_like_any_other_once_the_new_log_was_opened() -> None:
    bench = recreated()
    assert bench.open()
    give_away_and_back(bench)
    bench.committed = OffsetAndMetadata(40, "", -1)
    assert bench.open()
    assert bench.assignment.position == 40


def cut(bench: Bench) -> None:
    bench.positions.truncate(bench.consumer, PARTITION, SimpleNamespace(offset=bench.end, leader_epoch=0))


def cut_at_an_unknown_place(bench: Bench) -> None:
    bench.positions.truncate(bench.consumer, PARTITION, None)


def out_of_range(bench: Bench) -> None:
    bench.reset(43)


@pytest.mark.parametrize("policy", ["earliest", "latest"])
@pytest.mark.parametrize("end", [20, 500])
@pytest.mark.parametrize(
    "before",
    [
        pytest.param([], id="nothing"),
        pytest.param([cut], id="cut"),
        pytest.param([cut_at_an_unknown_place], id="cut at an unknown place"),
        pytest.param([out_of_range], id="out of range"),
        pytest.param([give_away_and_back], id="assigned again"),
        pytest.param([cut, give_away_and_back], id="cut and assigned again"),
        pytest.param([give_away_and_back, cut_at_an_unknown_place], id="assigned again and cut"),
    ],
)
def test_a_recreated_topic_is_read_from_its_start_whatever_the_client_met_before_its_id(
    before: list[Callable[[Bench], None]], end: int, policy: Literal["earliest", "latest"]
) -> None:
    """Both logs have the leader's epoch 0, so that the new one seems to be the old one, cut or continued."""
    bench = Bench(policy)
    bench.committed, bench.epoch_end = OffsetAndMetadata(40, "", 0), EpochEnd(0, 100)
    bench.consumer.topic_ids["vectors"] = "first"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert bench.open()
    read = bench.read(40, 41, 42)
    bench.ledger.settle([FakeTracked(read, offset) for offset in (40, 41, 42)], Outcome.PUT)
    bench.ledger.committed({read: 43})
    bench.committed = OffsetAndMetadata(43, read.log_id, 0)  # after the topic was recreated
    bench.end, bench.epoch_end = end, EpochEnd(0, end)
    for step in before:
        step(bench)
    bench.consumer.topic_ids["vectors"] = "second"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert bench.open()
    assert (bench.assignment.position, bench.assignment.log_id) == (0, "cluster/second")


def test_what_was_fetched_of_a_deleted_topic_is_dropped_when_it_is_seen_recreated() -> None:
    """Fetched at offset 0 and put aside while the topic was blocked, it would be handed over as the new topic's."""
    bench = Bench()
    bench.consumer.topic_ids["vectors"] = "first"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert bench.open()
    bench.consumer._fetcher._paused_completed_fetches[TP] = "of the deleted topic"
    bench.consumer.topic_ids["vectors"] = "second"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert bench.consumer._fetcher._paused_completed_fetches == {}


@pytest.mark.parametrize("topic_id", ["first", "second"])
def test_another_worker_sees_of_which_log_a_commit_is(topic_id: str, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.committed, bench.epoch_end = OffsetAndMetadata(20, "cluster/first", 0), EpochEnd(0, 100)
    bench.consumer.topic_ids["vectors"] = topic_id
    bench.positions.watch_recreated_topics(bench.consumer)
    assert bench.open()
    assert bench.assignment.position == (20 if topic_id == "first" else 0)
    assert len(caplog.records) == (0 if topic_id == "first" else 1)


@pytest.mark.parametrize("name", ["", "another cluster/first", "by hand"])
def test_a_commit_that_names_no_log_of_this_cluster_is_one_like_any_other(name: str) -> None:
    """Of an older release or another tool, or copied with a mirror of the topic, which has another id."""
    bench = Bench()
    bench.committed = OffsetAndMetadata(20, name, -1)
    bench.consumer.topic_ids["vectors"] = "second"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert bench.open()
    assert bench.assignment.position == 20


def test_an_offset_of_the_deleted_log_that_another_worker_committed_of_the_new_one_is_not_stale() -> None:
    bench = recreated()
    give_away_and_back(bench)
    bench.committed = OffsetAndMetadata(41, "cluster/second", -1)
    assert bench.open()
    assert bench.assignment.position == 41


def test_what_was_read_under_the_old_id_is_committed_under_it() -> None:
    """The partition was being given back when the new id was seen, so that it is not opened again."""
    bench = Bench()
    bench.consumer.topic_ids["vectors"] = "first"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert bench.open()
    cut(bench)
    [revoked] = bench.ledger.begin_revoke([PARTITION])
    bench.consumer.topic_ids["vectors"] = "second"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert revoked.log_id == "cluster/first"


def test_with_none_a_commit_of_a_deleted_topic_blocks_the_partition() -> None:
    bench = Bench("none")
    bench.committed = OffsetAndMetadata(20, "cluster/first", -1)
    bench.consumer.topic_ids["vectors"] = "second"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert not bench.open()
    bench.committed = OffsetAndMetadata(20, "", -1)  # a person has set it
    bench.clock.advance(30)
    assert bench.open()


def test_brokers_that_give_no_ids_recreate_nothing() -> None:
    bench = Bench()
    assert bench.open()
    bench.positions.watch_recreated_topics(bench.consumer)
    bench.consumer.topic_ids["vectors"] = "first"
    bench.positions.watch_recreated_topics(bench.consumer)
    assert bench.restarted == []


# -- positions without records


def test_the_position_of_what_no_reader_sees_enters_the_ledger() -> None:
    bench = Bench()
    assert bench.open()
    bench.positions.advance(bench.consumer, [bench.assignment])
    assert bench.assignment.position == 0
    bench.consumer.read_to(PARTITION, 4, leader_epoch=2)
    bench.positions.advance(bench.consumer, [bench.assignment])
    assert (bench.assignment.position, bench.assignment.leader_epoch_at(4)) == (4, 2)
    settled = bench.read(4)
    bench.ledger.settle([FakeTracked(settled, 4)], Outcome.PUT)
    assert settled.watermark == 5
