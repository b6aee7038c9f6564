"""What the slots of one index and its finder share: its block, its body limit, and waiting."""

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Final

from worker.errors import BlockReason, SinkError
from worker.ports import Operation
from worker.telemetry.state import Block, Status

log = logging.getLogger("worker.delivery")

SHRUNK_SECONDS: Final = 600.0  # how long batches stay smaller after a body was too large for the connection
_LEAST_BODY_BYTES: Final = 1024


class IndexState:
    """The state of one index. Thread-safe."""

    def __init__(
        self,
        index: str,
        topics: Sequence[str],
        status: Status,
        *,
        max_body_bytes: int,
        clock: Callable[[], float],
        shared: Collection[str] = (),
    ) -> None:
        """`shared` are those of the topics whose records go to other indexes too: these continue while this one is blocked."""
        self.index = index
        self.topics = tuple(topics)
        self._shared = frozenset(shared)
        self._accepted = dict.fromkeys(Operation, 0)  # requests that the service accepted for it
        self._denied: dict[Operation | None, BlockReason] = {}  # what is denied, and why; None by something on the way
        self.is_stopping = False  # all that wait here must end
        self.failing = 0
        """How many batches keep failing: what is left of them rests, or is in a slot again. The lane counts them."""
        self._status = status
        self._max_body_bytes = max_body_bytes
        self.clock = clock
        self._shrunk: tuple[int, float] | None = None  # a lower limit, and until when it holds
        self._lock = threading.Lock()
        self._change = threading.Condition(self._lock)

    # -- waiting

    def wait(self, seconds: float, until: Callable[[], bool]) -> None:
        """Wait so long; less if the lane stops, or if `until` is true at a wake-up."""
        deadline = self.clock() + seconds
        with self._lock:
            while not self.is_stopping and not until():
                remaining = deadline - self.clock()
                if remaining <= 0:
                    return
                self._change.wait(remaining)

    def wake(self) -> None:
        """Let all that wait check again: partitions were given back, or a request was answered."""
        with self._lock:
            self._change.notify_all()

    def stop(self) -> None:
        """End all waiting, now and later."""
        with self._lock:
            self.is_stopping = True
            self._change.notify_all()

    # -- what the service said

    def accepted(self, operation: Operation) -> int:
        """Return how many requests of an operation the service has accepted."""
        return self._accepted[operation]

    @property
    def accepted_in_all(self) -> int:
        """How many requests the service has accepted, whatever they asked for."""
        return sum(self._accepted.values())

    def note_accepted(self, operation: Operation) -> None:
        """Count a request that the service accepted."""
        with self._lock:
            self._accepted[operation] += 1

    def note_failed(self, error: SinkError) -> None:
        """Note a request that the service neither accepted nor refused for its content."""
        self._status.service.failed(self.index, error)

    def note_works(self) -> None:
        """Note that the service accepted or judged a request, or that none waits for it."""
        self._status.service.works(self.index)

    @property
    def is_blocked(self) -> bool:
        """Whether the service denies an operation."""
        return bool(self._denied)

    def block(self, operation: Operation | None, reason: BlockReason, error: SinkError, retry_in: float) -> None:
        """Block the index's topics; of one that it shares, its own records alone.

        It ends when the service allows the operation, which is tried again in `retry_in` seconds; with None, when it allows any,
        as nothing comes through to it.
        """
        with self._lock:
            if error.request_id:
                self._denied.pop(None, None)  # the service itself has answered
            self._denied[operation] = reason
            self._end_other_blocks()
            for topic in self.topics:
                self._status.block(self._block_of(topic, reason), f"index {self.index}: {error}", retry_in=retry_in)

    def unblock(self, *operations: Operation) -> None:
        """Note that the service allows these operations, all without one, and unblock the index's topics if none is denied.

        That it allows deletes does not show that it allows puts: a policy may allow one of the two.
        """
        self._allow([None, *(operations or Operation)])

    def _allow(self, operations: Collection[Operation | None]) -> None:
        with self._lock:
            for operation in operations:
                self._denied.pop(operation, None)
            self._end_other_blocks()

    def _end_other_blocks(self) -> None:
        """Unblock the topics for what is no reason any more. The caller has the lock."""
        still = self._denied.values()
        for topic in self.topics:
            for reason in (BlockReason.CREDENTIALS, BlockReason.TARGET):
                if reason not in still:
                    self._status.unblock(self._block_of(topic, reason))

    def forget_denied_but(self, operations: Collection[Operation]) -> None:
        """Unblock the topics as far as only other operations are denied: no request will find out when that is over.

        Where none is left at all, nothing is known of what is on the way to the service either.
        """
        if operations:
            self._allow([one for one in (Operation.PUT, Operation.DELETE) if one not in operations])
        else:
            self.unblock()

    def _block_of(self, topic: str, reason: BlockReason) -> Block:
        return Block(topic, reason, of_index=self.index if topic in self._shared else None)

    def max_body_bytes(self) -> int:
        """Return the most bytes that the body of the next batches may have."""
        shrunk = self._shrunk
        if shrunk is not None and self.clock() < shrunk[1]:
            return shrunk[0]
        return self._max_body_bytes

    def shrink_bodies(self, body_bytes: int) -> None:
        """Limit bodies to half of one that was too large, for a while."""
        size = min(max(_LEAST_BODY_BYTES, body_bytes // 2), self.max_body_bytes())
        self._shrunk = (size, self.clock() + SHRUNK_SECONDS)
        log.warning(
            "a body was too large for the connection; batches stay smaller for a while",
            extra={"index": self.index, "max_bytes": size},
        )
