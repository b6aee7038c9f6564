"""The classes of the requests that the worker makes or reads itself, and of the futures of their answers.

kafka-python does not document them.
"""

from kafka.future import Future
from kafka.protocol.consumer import (
    HeartbeatRequest,
    ListOffsetsRequest,
    OffsetFetchRequest,
    OffsetForLeaderEpochRequest,
)
from kafka.protocol.metadata import MetadataRequest

__all__ = [
    "Future",
    "HeartbeatRequest",
    "ListOffsetsRequest",
    "MetadataRequest",
    "OffsetFetchRequest",
    "OffsetForLeaderEpochRequest",
]
