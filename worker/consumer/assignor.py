"""The assignor of the worker's members, with a mark by which they recognise each other in the group's description."""

import struct
from typing import Any, Final

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

# Java's cooperative-sticky reads a generation from the first four bytes, if there are any; -1 is none.
_NO_GENERATION: Final = struct.pack(">i", -1)
_MARK: Final = _NO_GENERATION + b"oss-vectors-worker"


class MarkedAssignor(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python ships no types
    """Cooperative-sticky; what a member says of itself when it joins has the mark, which no assignor acts on."""

    def metadata(self, topics: Any) -> Any:
        """As the parent's, with the mark."""
        subscription = super().metadata(topics)
        subscription.user_data = _MARK
        return subscription


def is_marked(user_data: bytes | None) -> bool:
    """Return whether the member with this user data in its subscription is a worker of this software."""
    return bytes(user_data or b"").startswith(_MARK)
