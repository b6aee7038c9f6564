"""Records that keep failing are reported until none of them is left, index by index."""

from tests.support.fakes import FakeClock, FakeMessage
from worker.delivery.batch import Item
from worker.delivery.stuck import StuckRecords
from worker.errors import BlockReason, RetryReason, Transient
from worker.ledger import Ledger, Partition
from worker.telemetry.state import Block, Status

ERROR = Transient("refused", kind=RetryReason.NETWORK)


def test_a_partition_is_unblocked_when_no_index_has_a_record_of_it_that_is_stuck() -> None:
    status = Status(0.0)
    assignment = Ledger(["vectors"], FakeClock()).assign(Partition("vectors", 3))
    items = {key: Item(assignment, FakeMessage(offset, b""), key, b"", 1) for offset, key in enumerate("abc")}
    one, other = StuckRecords(status, "one"), StuckRecords(status, "other")
    block = Block("vectors", BlockReason.RECORD_STUCK, 3)
    one.report([items["a"], items["b"]], ERROR, 30.0)
    other.report([items["c"]], ERROR, 30.0)
    assert status.messages() == {block: "vectors/3 offset 0; vectors/3 offset 2"}
    one.clear([items["a"], items["c"]])
    assert status.messages() == {block: "vectors/3 offset 0; vectors/3 offset 2"}
    one.clear([items["b"]])
    assert status.messages() == {block: "vectors/3 offset 2"}
    other.clear(items.values())
    assert status.messages() == {}
