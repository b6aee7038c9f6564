"""The open batch: every key once, the newest version first, the limits held, and what sealed it."""

import subprocess
import sys
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit import many_versions
from tests.unit.samples import FakeClock, item, opened
from worker.delivery.batch import Batch, Item, OpenBatch
from worker.ledger import Ledger
from worker.oss.dialect import Envelope
from worker.ports import SealReason

ENVELOPE = Envelope.of("docs")
ASSIGNMENT = opened(Ledger(["vectors"], FakeClock()))


def put(offset: int, key: str, size: int = 20) -> Item:
    return item(ASSIGNMENT, offset, key, b"%d" % (10 ** (size - 1)))


def delete(offset: int, key: str) -> Item:
    return item(ASSIGNMENT, offset, key, None)


def open_batch(max_records: int = 3, max_bytes: int = 1000, max_age: float = 1.0) -> OpenBatch:
    return OpenBatch(ENVELOPE, max_records=max_records, max_bytes=max_bytes, max_age=max_age)


def sealed(batch: Batch | None) -> Batch:
    assert batch is not None
    return batch


def offsets(batch: Batch | None) -> list[list[int]]:
    """Return the offsets of each key's versions, newest first."""
    return [[version.offset for version in each.versions()] for each in sealed(batch).items.values()]


def puts_of(batch: Batch) -> list[bytes]:
    return [each.fragment for each in batch.items.values() if each.fragment is not None]


# -- sealing


def test_the_record_that_fills_the_batch_by_count_seals_it() -> None:
    batch = open_batch(max_records=2)
    assert batch.add(put(0, "a"), 0.0) is None
    full = sealed(batch.add(put(1, "b"), 0.0))
    assert (full.reason, offsets(full), batch.due_at()) == (SealReason.COUNT, [[0], [1]], None)


def test_with_room_for_one_record_each_seals_its_own_batch() -> None:
    batch = open_batch(max_records=1)
    assert [offsets(batch.add(put(n, key), 0.0)) for n, key in enumerate("aab")] == [[[0]], [[1]], [[2]]]


def test_a_record_that_does_not_fit_seals_the_batch_before_it_for_its_bytes() -> None:
    batch = open_batch(max_bytes=ENVELOPE.put_overhead + 20 + 1 + 20)
    assert [batch.add(put(0, "a"), 0.0), batch.add(put(1, "b"), 0.0)] == [None, None]
    before = sealed(batch.add(put(2, "c"), 5.0))
    assert (before.reason, offsets(before), before.size) == (SealReason.BYTES, [[0], [1]], ENVELOPE.put_overhead + 41)
    assert (batch.due_at(), offsets(batch.seal(SealReason.DRAIN))) == (6.0, [[2]])


def test_one_byte_beyond_the_limit_does_not_fit() -> None:
    batch = open_batch(max_bytes=ENVELOPE.put_overhead + 20 + 1 + 20 - 1)
    batch.add(put(0, "a"), 0.0)
    assert offsets(batch.add(put(1, "b"), 0.0)) == [[0]]


def test_a_newer_version_that_does_not_fit_in_the_olders_place_goes_into_the_next_batch() -> None:
    batch = open_batch(max_bytes=ENVELOPE.put_overhead + 41)
    batch.add(put(0, "a"), 0.0)
    batch.add(put(1, "b"), 0.0)
    assert offsets(batch.add(put(2, "a", size=21), 0.0)) == [[0], [1]]
    assert offsets(batch.seal(SealReason.AGE)) == [[2]]


def test_the_age_counts_from_the_first_record_of_each_batch() -> None:
    batch = open_batch(max_age=2.0)
    assert batch.due_at() is None
    batch.add(put(0, "a"), 10.0)
    batch.add(put(1, "b"), 11.0)
    assert batch.due_at() == 12.0
    batch.add(put(2, "c"), 11.5)
    batch.add(put(3, "d"), 20.0)
    assert batch.due_at() == 22.0


@pytest.mark.parametrize("reason", [SealReason.AGE, SealReason.DRAIN])
def test_sealing_tells_the_reason_and_nothing_is_sealed_twice(reason: SealReason) -> None:
    batch = open_batch()
    batch.add(put(0, "a"), 0.0)
    assert (sealed(batch.seal(reason)).reason, batch.seal(reason)) == (reason, None)


def test_a_lower_limit_of_bytes_seals_what_is_open_beyond_it_and_lets_a_large_record_go_alone() -> None:
    batch = open_batch(max_bytes=10_000)
    batch.add(put(0, "a", size=100), 0.0)
    batch.limit_bytes(60)
    assert offsets(batch.add(put(1, "b", size=100), 0.0)) == [[0]]
    assert offsets(batch.add(put(2, "c", size=5), 0.0)) == [[1]]


# -- versions


def test_a_newer_version_takes_the_olders_place_and_all_before_it_stay_behind_it() -> None:
    batch = open_batch()
    for each in (put(0, "a"), put(1, "b", 50), delete(2, "a"), put(3, "a", 30)):
        assert batch.add(each, 0.0) is None
    result = sealed(batch.seal(SealReason.AGE))
    assert (list(result.items), offsets(result)) == (["a", "b"], [[3, 2, 0], [1]])
    assert result.size == len(ENVELOPE.put_body(puts_of(result)))


def test_a_sealed_batch_does_not_change_when_a_newer_version_comes() -> None:
    batch = open_batch()
    batch.add(put(0, "a"), 0.0)
    first = sealed(batch.seal(SealReason.AGE))
    batch.add(put(1, "a"), 0.0)
    assert (offsets(first), offsets(batch.seal(SealReason.AGE))) == ([[0]], [[1]])


def test_any_number_of_versions_of_a_key_can_be_freed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.many_versions"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == [situation.__name__ for situation in many_versions.SITUATIONS], done.stderr
    assert done.returncode == 0


# -- against a model


class Added(NamedTuple):
    """A record as the model remembers it; `fragment_bytes` is 0 for a delete."""

    offset: int
    key: str
    fragment_bytes: int


class OpenBatchMachine(RuleBasedStateMachine):
    """The model: the records since the last seal, in order."""

    @initialize(max_records=st.integers(1, 6), max_bytes=st.integers(130, 400))
    def begin(self, max_records: int, max_bytes: int) -> None:
        self.max_records, self.max_bytes = max_records, max_bytes
        self.batch = open_batch(max_records, max_bytes, max_age=1.0)
        self.model: list[Added] = []
        self.opened_at = self.now = 0.0
        self.next_offset = 0

    @rule(key=st.sampled_from("abcdefg"), size=st.integers(10, 90) | st.just(0), seconds=st.floats(0, 2))
    def add(self, key: str, size: int, seconds: float) -> None:
        self.now += seconds
        each = put(self.next_offset, key, size) if size else delete(self.next_offset, key)
        added = Added(self.next_offset, key, size)
        self.next_offset += 1
        fits = self.body_bytes([*self.model, added]) <= self.max_bytes
        result = self.batch.add(each, self.now)
        if not fits:
            self.check(result, SealReason.BYTES)
        if not self.model:
            self.opened_at = self.now
        self.model.append(added)
        if len(self.newest()) == self.max_records:
            self.check(result, SealReason.COUNT)
        elif fits:
            assert result is None

    @rule(reason=st.sampled_from([SealReason.AGE, SealReason.DRAIN]))
    def seal(self, reason: SealReason) -> None:
        result = self.batch.seal(reason)
        if self.model:
            self.check(result, reason)
        else:
            assert result is None

    @rule(max_bytes=st.integers(130, 400))
    def limit_bytes(self, max_bytes: int) -> None:
        if not self.model:  # with records open it may stand beyond the new limit, which has a test of its own
            self.max_bytes = max_bytes
            self.batch.limit_bytes(max_bytes)

    @invariant()
    def due_when_its_age_is_up(self) -> None:
        assert self.batch.due_at() == (self.opened_at + 1.0 if self.model else None)

    def newest(self) -> dict[str, list[int]]:
        """Return the offsets of each key's versions, newest first, in the order of the keys' first coming."""
        versions: dict[str, list[int]] = {}
        for added in self.model:
            versions.setdefault(added.key, []).insert(0, added.offset)
        return versions

    def body_bytes(self, records: list[Added]) -> int:
        sizes = {added.key: added.fragment_bytes for added in records}
        written = [size for size in sizes.values() if size]
        return ENVELOPE.put_overhead + sum(written) + max(0, len(written) - 1)

    def check(self, batch: Batch | None, reason: SealReason) -> None:
        """Hold a sealed batch against the model, and begin anew."""
        result = sealed(batch)
        assert result.reason == reason
        assert list(result.items) == list(self.newest())
        assert offsets(result) == list(self.newest().values())
        assert all(each.key == key for key, each in result.items.items())
        assert len(result.items) <= self.max_records
        assert result.size <= self.max_bytes
        puts = puts_of(result)
        assert result.size == (len(ENVELOPE.put_body(puts)) if puts else ENVELOPE.put_overhead)
        self.model = []


TestOpenBatchAgainstItsModel = OpenBatchMachine.TestCase
