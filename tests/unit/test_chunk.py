"""The records of one request, and when the answers to them show that they are at fault."""

import math

import pytest

from tests.support.fakes import FakeMessage
from worker.delivery.batch import Item
from worker.delivery.chunk import Chunk, chunks_of
from worker.errors import Blame, Refused, RetryReason, Transient
from worker.ledger import Assignment, Partition
from worker.ports import Operation


def item(key: str, *, is_delete: bool = False) -> Item:
    """Return a put or a delete of a key."""
    assignment = Assignment(Partition("vectors", 0), 1)
    return Item(assignment, FakeMessage(0, b"", key.encode()), key, None if is_delete else b"{}", 1)


def failure(blame: Blame, *, while_sending: bool = False) -> Transient:
    """Return an answer that blames the records or not."""
    return Transient("failed", kind=RetryReason.SERVER, status=400, blame=blame, while_sending=while_sending)


def is_blamed(chunk: Chunk) -> bool:
    """Return whether the service's answers show that the version of the chunk is at fault."""
    return chunk.service_doubt.blames_version(4, lasting=math.inf, now=0.0, others_fail=False)


def keys_of(chunks: list[Chunk]) -> list[list[str]]:
    """Return the keys of each chunk."""
    return [[one.key for one in chunk.items] for chunk in chunks]


def test_puts_and_deletes_of_a_batch_are_chunks_of_their_own() -> None:
    chunks = chunks_of([item("a"), item("b", is_delete=True), item("c")])
    assert (keys_of(chunks), [chunk.operation for chunk in chunks]) == (
        [["a", "c"], ["b"]],
        [Operation.PUT, Operation.DELETE],
    )


def test_a_batch_of_one_kind_is_one_chunk() -> None:
    assert keys_of(chunks_of([item("a"), item("b")])) == [["a", "b"]]


@pytest.mark.parametrize(
    ("keys", "halves"),
    [("abc", [["a"], ["b", "c"]]), ("ab", [["a"], ["b"]]), ("a", [["a"]])],
    ids=["odd", "even", "one"],
)
def test_halves_have_all_records_once(keys: str, halves: list[list[str]]) -> None:
    assert keys_of(Chunk([item(key) for key in keys]).halves(accepted=0, accepted_in_all=0)) == halves


@pytest.mark.parametrize(
    ("blame", "doubts"),
    [(Blame.NONE, (0, 0)), (Blame.PROXY, (1, 0)), (Blame.CONTENT, (1, 1))],
)
def test_an_answer_counts_against_the_records_as_far_as_it_may_blame_them(
    blame: Blame, doubts: tuple[int, int]
) -> None:
    chunk = Chunk([item("a")])
    chunk.note(failure(blame), accepted=0, accepted_in_all=0, now=0.0)
    assert (chunk.attempts, (chunk.blamed, chunk.service_doubt.count)) == (1, doubts)


def test_a_refusal_counts_as_an_attempt_alone() -> None:
    chunk = Chunk([item("a")])
    chunk.note(Refused("no", status=400), accepted=0, accepted_in_all=0, now=0.0)
    assert (chunk.attempts, chunk.blamed, chunk.write_timeouts) == (1, 0, 0)


def test_time_outs_while_sending_are_counted() -> None:
    chunk = Chunk([item("a")])
    chunk.note(failure(Blame.NONE, while_sending=True), accepted=0, accepted_in_all=0, now=0.0)
    chunk.note(failure(Blame.NONE), accepted=0, accepted_in_all=0, now=0.0)
    assert chunk.write_timeouts == 1


def test_a_half_fails_while_others_are_accepted_once_its_other_half_is() -> None:
    chunk, _ = Chunk([item("a"), item("b")]).halves(accepted=5, accepted_in_all=5)
    assert not chunk.fails_alone
    chunk.accepted_when_sent = 5
    chunk.note(failure(Blame.PROXY), accepted=5, accepted_in_all=5, now=0.0)
    assert not chunk.fails_alone
    chunk.accepted_when_sent = chunk.accepted_in_all_when_sent = 6
    chunk.note(failure(Blame.PROXY), accepted=6, accepted_in_all=6, now=0.0)
    assert (chunk.fails_alone, chunk.is_proven, chunk.records_doubt.count) == (True, True, 2)


def test_an_answer_that_is_not_the_services_delays_the_index_at_the_third_time_with_nothing_accepted() -> None:
    chunk = Chunk([item("a"), item("b")])
    strangers, services = (
        failure(Blame.NONE),
        Transient("wait", kind=RetryReason.SERVER, status=503, request_id="0" * 24),
    )
    seen = []
    chunk.accepted_in_all_when_sent = 7
    for _ in range(4):
        chunk.note(strangers, accepted=0, accepted_in_all=7, now=0.0)
        seen.append((chunk.delays_all(strangers), chunk.delays_all(services)))
    assert seen == [(False, True), (False, True), (True, True), (True, True)]
    chunk.accepted_in_all_when_sent = 8
    assert not chunk.delays_all(strangers)


def test_a_record_that_is_left_alone_is_not_blamed_for_what_all_together_got() -> None:
    chunk = Chunk([item("a"), item("b")])
    for accepted in range(10):
        chunk.note(failure(Blame.CONTENT), accepted=accepted, accepted_in_all=accepted, now=0.0)
    chunk.replace_items(chunk.items[:1])
    assert (chunk.blamed, chunk.service_doubt.count, chunk.keeps_failing, chunk.attempts) == (0, 0, False, 10)
    chunk.note(failure(Blame.CONTENT), accepted=10, accepted_in_all=10, now=0.0)
    chunk.replace_items(chunk.items[:])  # it was alone before
    assert (chunk.blamed, chunk.service_doubt.count) == (1, 1)


def test_the_last_answer_of_an_outage_proves_nothing_though_others_are_accepted_when_it_comes() -> None:
    chunk = Chunk([item("a")])
    for _ in range(3):
        chunk.note(failure(Blame.PROXY), accepted=0, accepted_in_all=0, now=0.0)
    chunk.note(failure(Blame.PROXY), accepted=5, accepted_in_all=5, now=0.0)  # sent before these
    assert (chunk.is_proven, chunk.others_pass) == (False, False)
    chunk.accepted_when_sent = chunk.accepted_in_all_when_sent = 5
    chunk.note(failure(Blame.PROXY), accepted=6, accepted_in_all=6, now=0.0)
    assert chunk.is_proven


def test_another_version_of_a_record_goes_on_counting_but_is_blamed_only_for_its_own_failures() -> None:
    chunk = Chunk([item("a")])
    for accepted in range(4):
        chunk.accepted_when_sent = chunk.accepted_in_all_when_sent = accepted
        chunk.note(failure(Blame.CONTENT), accepted=accepted, accepted_in_all=accepted, now=0.0)
    assert is_blamed(chunk)
    chunk.not_before = 7.0
    newer = chunk.with_version(item("a"))
    assert (newer.blamed, newer.records_doubt.count, newer.service_doubt.count, newer.is_proven) == (4, 4, 4, True)
    assert (newer.attempts, newer.failures.count, newer.not_before) == (0, 4, 7.0)
    assert not is_blamed(newer)
    for accepted in (4, 5):
        newer.accepted_when_sent = newer.accepted_in_all_when_sent = accepted
        newer.note(failure(Blame.CONTENT), accepted=accepted, accepted_in_all=accepted, now=0.0)
    assert is_blamed(newer)
    # How many deletes were accepted cannot be compared with how many puts were.
    delete = chunk.with_version(item("a", is_delete=True))
    assert (delete.blamed, delete.records_doubt.count, delete.service_doubt.count, delete.is_proven) == (0, 0, 0, True)
