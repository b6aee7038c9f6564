"""The classes of the requests that the worker makes or reads itself, and of the futures of their answers.

kafka-python does not document them.
"""

from kafka.future import Future
from kafka.protocol.admin import DescribeConfigsRequest, DescribeGroupsRequest
from kafka.protocol.consumer import (
    HeartbeatRequest,
    ListOffsetsRequest,
    OffsetFetchRequest,
    OffsetForLeaderEpochRequest,
)
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription
from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest

__all__ = [
    "ConsumerProtocolAssignment",
    "ConsumerProtocolSubscription",
    "DescribeConfigsRequest",
    "DescribeGroupsRequest",
    "FindCoordinatorRequest",
    "Future",
    "HeartbeatRequest",
    "ListOffsetsRequest",
    "MetadataRequest",
    "OffsetFetchRequest",
    "OffsetForLeaderEpochRequest",
]
