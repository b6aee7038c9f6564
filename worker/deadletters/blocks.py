"""The block of every topic while dead letters cannot be written."""

from collections.abc import Sequence

from worker.errors import BlockReason
from worker.telemetry.state import Block, Status


class Unavailable:
    """Blocks every topic of this worker as `dead_letter_unavailable`, and ends that."""

    def __init__(self, topics: Sequence[str], status: Status, retry_seconds: float) -> None:
        self._blocks = [Block(topic, BlockReason.DEAD_LETTER_UNAVAILABLE) for topic in topics]
        self._status = status
        self._retry_seconds = retry_seconds

    def block(self, problem: str) -> None:
        """Begin it, or give it another reason."""
        for block in self._blocks:
            self._status.block(block, problem, retry_in=self._retry_seconds)

    def unblock(self) -> None:
        """End it; nothing happens where it had not begun."""
        for block in self._blocks:
            self._status.unblock(block)
