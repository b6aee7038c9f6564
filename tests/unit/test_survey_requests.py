"""What the answers about topics and the group mean, whatever bytes another program put into them."""

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from worker.consumer.assignor import MarkedAssignor
from worker.consumer.client_internals.protocol import ConsumerProtocolAssignment
from worker.consumer.survey_requests import Limits, Member, _limits_of, _member

SUBSCRIPTION = MarkedAssignor().metadata({"vectors"}).encode()
ASSIGNMENT = ConsumerProtocolAssignment(version=0, assigned_partitions=[("vectors", [0, 2])], user_data=b"").encode()


def described(metadata: bytes = SUBSCRIPTION, assignment: bytes = ASSIGNMENT, is_of_consumers: bool = True) -> Member:
    member: Any = SimpleNamespace(
        member_metadata=metadata, member_assignment=assignment, client_id="client", client_host="/10.0.0.1"
    )
    return _member(member, is_of_consumers)


def test_a_worker_is_described_with_what_it_subscribes_to_and_owns() -> None:
    owned = frozenset({TopicPartition("vectors", 0), TopicPartition("vectors", 2)})
    assert described() == Member("client", "/10.0.0.1", True, frozenset({"vectors"}), owned)


@pytest.mark.parametrize(
    "found",
    [
        described(metadata=b"\xff\xff no subscription"),
        described(assignment=b"\x00"),
        described(is_of_consumers=False),
        described(metadata=b""),
    ],
    ids=["a subscription of other bytes", "an assignment of other bytes", "another kind of group", "no subscription"],
)
def test_bytes_of_other_software_make_no_worker(found: Member) -> None:
    assert not found.is_worker


@pytest.mark.parametrize(
    ("configs", "limits"),
    [
        ({"cleanup.policy": "delete", "retention.ms": "604800000", "retention.bytes": "-1"}, Limits(604_800, None)),
        ({"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "1000"}, Limits(None, 1000)),
        ({"cleanup.policy": "compact", "retention.ms": "1000", "retention.bytes": "1000"}, Limits(None, None)),
        ({"cleanup.policy": "compact,delete", "retention.ms": "1000"}, Limits(1, None)),
        ({}, Limits(None, None)),
    ],
    ids=["by time", "by size", "compacted", "both", "not shown"],
)
def test_the_limits_of_a_topic(configs: dict[str, str], limits: Limits) -> None:
    assert _limits_of([SimpleNamespace(name=name, value=value) for name, value in configs.items()]) == limits
