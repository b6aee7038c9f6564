"""What is said of first offsets: errors that last, and partitions without a committed offset."""

import pytest

from tests.support.fakes import FakeClock
from worker.consumer.offset_notices import LASTING_SECONDS, OffsetNotices, Unknown
from worker.errors import BlockReason
from worker.ledger import Assignment, Ledger, Partition
from worker.telemetry.log import fields
from worker.telemetry.state import Block, Status

PARTITIONS = [Partition("vectors", number) for number in range(2)]
MESSAGE = "vectors: partitions that had no committed offset, and are read from their start: {}"


class Bench:
    """Two partitions that are being opened."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.status = Status(0.0)
        self.notices = OffsetNotices(self.status, self.clock)
        self.ledger = Ledger(["vectors"], self.clock)
        self.assignments = [self.ledger.assign(partition) for partition in PARTITIONS]

    @property
    def blocks(self) -> dict[Block, str]:
        return self.status.read().blocks

    def without_commit(self, *assignments: Assignment, is_latest: bool = False) -> None:
        for assignment in assignments:
            self.notices.add_without_commit(assignment, 10, 100)
            self.ledger.open(assignment, 10, None)
        self.notices.log_without_commit(is_latest=is_latest, has_commits=[])

    def warnings(self) -> list[str]:
        """Return what /readyz has a moment later."""
        self.clock.advance(1.0)
        self.notices.show_from_start()
        return self.status.warnings()


def block(number: int) -> Block:
    return Block("vectors", BlockReason.PARTITION_UNREADABLE, number)


# -- requests that fail


def test_an_error_that_lasts_blocks_its_partition_until_it_is_over() -> None:
    bench = Bench()
    unknown = {PARTITIONS[1]: Unknown("ClusterAuthorizationFailedError", bench.clock())}
    bench.clock.advance(LASTING_SECONDS - 0.1)
    bench.notices.block_lasting(unknown)
    assert bench.blocks == {}
    bench.clock.advance(0.1)
    bench.notices.block_lasting(unknown)
    message = "vectors/1: where to read it from is not known: ClusterAuthorizationFailedError"
    assert (bench.blocks, bench.notices.is_empty) == ({block(1): message}, False)
    bench.notices.block_lasting({})
    assert (bench.blocks, bench.notices.is_empty) == ({}, True)


def test_a_block_that_another_put_up_stays() -> None:
    bench = Bench()
    bench.status.block(block(1), "no leader", owner="leader")
    unknown = {PARTITIONS[1]: Unknown("LeaderNotAvailableError", bench.clock())}
    bench.clock.advance(LASTING_SECONDS)
    bench.notices.block_lasting(unknown)
    bench.notices.block_lasting({})
    assert bench.blocks == {block(1): "no leader"}


def test_the_same_error_of_many_partitions_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    assert [bench.notices.add_failure(one, "NotCoordinatorError") for one in PARTITIONS] == [True, False]
    bench.notices.log_failures()
    bench.notices.log_failures()
    (line,) = caplog.records
    assert (line.message, fields(line)["error"], fields(line)["count"]) == (
        "first offset not known yet: asking again",
        "NotCoordinatorError",
        2,
    )


# -- partitions without a committed offset


@pytest.mark.parametrize("is_latest", [False, True])
def test_what_begins_without_a_commit_is_a_warning(is_latest: bool, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.without_commit(*bench.assignments, is_latest=is_latest)
    (line,) = caplog.records
    assert (line.levelname, fields(line)["offsets"], fields(line)["count"]) == ("WARNING", 180, 2)
    assert "no committed offset" in line.message
    assert (bench.warnings() == []) is is_latest


def test_readyz_says_what_is_read_from_its_start_until_that_is_committed() -> None:
    bench = Bench()
    bench.without_commit(*bench.assignments)
    seen = [bench.warnings()]
    for number, offset in ((0, 100), (1, 99), (1, 100)):
        bench.ledger.committed({bench.assignments[number]: offset})
        seen.append(bench.warnings())
    assert (seen, bench.notices.is_empty) == ([[MESSAGE.format(2)], [MESSAGE.format(1)], [MESSAGE.format(1)], []], True)


@pytest.mark.parametrize("how", ["revoked", "assigned again"])
def test_readyz_says_nothing_of_partitions_that_are_no_longer_owned(how: str) -> None:
    bench = Bench()
    bench.without_commit(*bench.assignments)
    assert len(bench.warnings()) == 1
    if how == "revoked":
        bench.ledger.begin_revoke(PARTITIONS)
    else:
        for partition in PARTITIONS:
            bench.ledger.assign(partition)
    assert (bench.warnings(), bench.notices.is_empty) == ([], True)


def test_a_partition_that_is_noted_twice_before_it_opens_counts_once() -> None:
    bench = Bench()
    bench.notices.add_without_commit(bench.assignments[0], 10, 100)
    bench.without_commit(bench.assignments[0])
    assert bench.warnings() == [MESSAGE.format(1)]
