"""The mark by which workers recognise each other, and what other software makes of it."""

import struct

import pytest

from worker.consumer.assignor import MarkedAssignor, is_marked
from worker.consumer.client_internals.protocol import ConsumerProtocolSubscription


def user_data() -> bytes:
    """Return what a worker sends, as it arrives."""
    sent = MarkedAssignor().metadata({"vectors"}).encode()
    found = ConsumerProtocolSubscription.decode(sent)
    assert list(found.topics) == ["vectors"]
    return bytes(found.user_data)


def test_a_worker_recognises_what_another_worker_sends() -> None:
    assert is_marked(user_data())


@pytest.mark.parametrize("other", [None, b"", struct.pack(">i", -1), struct.pack(">i", 7), b"oss-vectors-worker"])
def test_what_other_software_sends_is_no_mark(other: bytes | None) -> None:
    assert not is_marked(other)


def test_javas_assignor_reads_no_generation_from_it() -> None:
    """It takes the first four bytes as the generation of what the member owns, and believes only the highest."""
    assert struct.unpack(">i", user_data()[:4]) == (-1,)


def test_the_group_knows_it_by_the_same_name() -> None:
    assert MarkedAssignor.name == "cooperative-sticky"
