"""A key with very many versions, on a thread with a small stack: `python -m tests.unit.many_versions`.

If one version led to the one before it, C would free them by recursion, and the process would end without a word. So this has
a process of its own, and prints each situation that it survived.
"""

import logging
import sys
import threading
from typing import Final

from tests.support.bounded import join, thread
from tests.unit.test_resting_batches import ONE, OTHER, RETRY_MAX, Bench
from worker.delivery.batch import Batch, Item, OpenBatch
from worker.ledger import Outcome, Partition
from worker.oss.answers import Answer
from worker.oss.dialect import Envelope
from worker.ports import SealReason

VERSIONS: Final = 20_000
STACK_BYTES: Final = 256 * 1024
REFUSED: Final = Answer(
    400,
    {"x-oss-request-id": "0" * 24},
    b'{"Error":{"Code":"InvalidArgument","Message":"m","RequestId":"000000000000"}}',
)


def one_batch(bench: Bench, *partitions: Partition) -> Batch:
    """Return a batch with all the versions, of these partitions in turn."""
    share = VERSIONS // len(partitions)
    of_each = [bench.items(["k"] * share, partition) for partition in partitions]
    batch = OpenBatch(Envelope.of("docs"), max_records=500, max_bytes=1 << 20, max_age=1.0)
    for versions in zip(*of_each, strict=True):
        for version in versions:
            assert batch.add(version, 0.0) is None
    sealed = batch.seal(SealReason.AGE)
    assert sealed is not None
    return sealed


def a_batch_is_dropped() -> None:
    one_batch(Bench(), ONE)


def a_batch_is_written() -> None:
    bench = Bench()
    bench.lane.submit(one_batch(bench, ONE))
    bench.work()
    assert (bench.settled(), bench.settled(Outcome.SUPERSEDED)) == (1, VERSIONS - 1)


def a_partition_is_given_back() -> None:
    bench = Bench()
    bench.lane.submit(one_batch(bench, OTHER, ONE))
    bench.revoke()
    bench.work()
    assert (bench.settled(), bench.settled(Outcome.SUPERSEDED)) == (1, VERSIONS // 2 - 1)
    assert bench.ledger.buffer_bytes == 0


def all_partitions_are_given_back() -> None:
    bench = Bench()
    bench.lane.submit(one_batch(bench, ONE))
    bench.revoke()
    bench.work()
    assert (bench.lane.is_idle, bench.ledger.buffer_bytes) == (True, 0)


def the_newest_is_refused() -> None:
    bench = Bench()
    batch = one_batch(bench, ONE)
    newest: Item = batch.items["k"]
    newest.fragment = b'{"key":"k","data":{"float32":[-1]}}'
    bench.service.refused["k"] = REFUSED
    put = bench.service.put

    def refuse_the_newest(body: bytes) -> int:
        if b"[-1]" not in body:
            bench.service.refused.clear()
        return put(body)

    bench.service.put = refuse_the_newest  # type: ignore[method-assign]  # the older ones are good
    bench.lane.submit(batch)
    bench.work()
    assert (len(bench.letters), bench.settled(), bench.settled(Outcome.SUPERSEDED)) == (1, 1, VERSIONS - 2)


def newer_ones_take_the_place_of_one_that_rests() -> None:
    bench = Bench()
    bench.service.refused |= dict.fromkeys(("j", "k"), Answer(413, {}, b""))
    bench.queue(["j"])
    bench.work(RETRY_MAX)
    bench.queue(["k"])
    bench.work(RETRY_MAX)
    bench.clock.advance(RETRY_MAX)
    other = bench.lane.pop()  # it has the one slot of those that rested
    assert other is not None
    for version in bench.items(["k"] * VERSIONS, ONE):
        bench.lane.submit(Batch({"k": version}, 1, SealReason.AGE))
    assert bench.lane.pop() is None
    bench.service.refused.clear()
    bench.lane._courier.deliver(other)
    bench.lane.done(other)
    bench.work(RETRY_MAX)
    assert (bench.settled(), bench.settled(Outcome.SUPERSEDED)) == (2, VERSIONS)


SITUATIONS: Final = (
    a_batch_is_dropped,
    a_batch_is_written,
    a_partition_is_given_back,
    all_partitions_are_given_back,
    the_newest_is_refused,
    newer_ones_take_the_place_of_one_that_rests,
)


def main() -> None:
    """Bring about each situation."""
    logging.disable(logging.CRITICAL)
    for situation in SITUATIONS:
        situation()
        sys.stdout.write(f"{situation.__name__}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    threading.stack_size(STACK_BYTES)
    join(thread(main))
