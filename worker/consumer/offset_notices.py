"""What the log and /readyz say of partitions whose first offset is searched, or that have none committed."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from worker.consumer.leaders import GRACE_SECONDS
from worker.consumer.repeats import Repeats
from worker.errors import BlockReason
from worker.ledger import Assignment, Partition, Phase
from worker.telemetry.state import Block, Status

log = logging.getLogger("worker.offset_policy")

RETRY_SECONDS: Final = 1.0  # after an answer that was an error
LASTING_SECONDS: Final = 2 * GRACE_SECONDS  # of an error, before it is more than a log line
_LOOK_SECONDS: Final = 1.0
_NAMED: Final = 10  # how many partitions a log line names
_OWNER: Final = "first offset"  # of the blocks


class Unknown(NamedTuple):
    """Why a partition's first offset is not known yet, and since when it is asked for, in the clock's seconds."""

    error: str
    since: float


class _FromStart(NamedTuple):
    """A partition without a committed offset, which is read from its first offset: up to `end` perhaps once more."""

    assignment: Assignment
    first: int
    end: int

    @property
    def is_under_way(self) -> bool:
        """Whether it is still owned, and not committed so far."""
        committed = self.assignment.committed
        return self.assignment.phase is Phase.OPENING or (
            self.assignment.phase is Phase.OPEN and (committed is None or committed < self.end)
        )


class OffsetNotices:
    """Logs and shows it. Only the main loop calls it."""

    def __init__(self, status: Status, clock: Callable[[], float]) -> None:
        self._status = status
        self._clock = clock
        self._failures: dict[str, list[Partition]] = {}
        self._repeats = Repeats(clock)
        self._blocked: set[Partition] = set()
        self._found: list[_FromStart] = []  # not logged yet
        self._from_start: dict[Assignment, _FromStart] = {}
        self._warned: set[str] = set()  # topics
        self._look_again_at = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to log, to show, or to end."""
        return not (self._failures or self._blocked or self._found or self._from_start or self._warned)

    # -- requests that fail

    def add_failure(self, partition: Partition, error: str) -> bool:
        """Note an answer that was an error; return whether it is the first partition with this error since the last line."""
        partitions = self._failures.setdefault(error, [])
        partitions.append(partition)
        return len(partitions) == 1

    def log_failures(self) -> None:
        """Log what failed since the last call."""
        failures, self._failures = self._failures, {}
        for error, partitions in failures.items():
            if self._repeats.admit(error):
                log.warning("first offset not known yet: asking again", extra={"error": error, **_named(partitions)})

    def block_lasting(self, unknown: Mapping[Partition, Unknown]) -> None:
        """Block the partitions for which errors last, and unblock those for which they do not any more.

        Who watches the leaders says first, and better, what is wrong where it is one of these.
        """
        now = self._clock()
        lasting = {
            one: found
            for one, found in unknown.items()
            if now - found.since >= LASTING_SECONDS and (one in self._blocked or not self._is_blocked(one))
        }
        for partition, found in lasting.items():
            message = f"{partition}: where to read it from is not known: {found.error}"
            self._status.block(
                Block.of(partition, BlockReason.PARTITION_UNREADABLE), message, retry_in=RETRY_SECONDS, owner=_OWNER
            )
        for partition in self._blocked - lasting.keys():
            self._status.unblock(Block.of(partition, BlockReason.PARTITION_UNREADABLE), owner=_OWNER)
        self._blocked = set(lasting)

    def _is_blocked(self, partition: Partition) -> bool:
        return BlockReason.PARTITION_UNREADABLE in self._status.blocks_of(*partition)

    # -- partitions without a committed offset

    def add_without_commit(self, assignment: Assignment, first: int, end: int) -> None:
        """Note that nothing is committed of a partition that has the offsets from `first` to `end`."""
        self._found.append(_FromStart(assignment, first, end))

    def log_without_commit(self, *, is_latest: bool, has_commits: Collection[str]) -> None:
        """Log what is read although it may have been written before, or is not read at all; one line for each topic.

        `has_commits` are the topics of which the group has committed something.
        """
        found, self._found = self._found, []
        by_topic: dict[str, list[_FromStart]] = defaultdict(list)
        for one in found:
            by_topic[one.assignment.partition.topic].append(one)
        for topic, partitions in by_topic.items():
            if is_latest:
                message = "no committed offset: what was published before is not written"
            elif topic in has_commits:
                message = (
                    "no committed offset for these partitions, while the group has some for others of the topic: they are "
                    "new, or their offsets expired or were deleted; all that is kept of them is read and written (again)"
                )
            else:
                message = (
                    "the group has no committed offset for the topic: it is new, or its offsets expired "
                    "(offsets.retention.minutes of the brokers); all that is kept of the topic is read and written"
                )
            offsets = sum(one.end - one.first for one in partitions)
            named = _named([one.assignment.partition for one in partitions])
            log.warning(message, extra={"topic": topic, "offsets": offsets, **named})
        if not is_latest:
            self._from_start |= {one.assignment: one for one in found}

    def show_from_start(self) -> None:
        """Say on /readyz, once a second, which topics are read from their start, until that is committed."""
        now = self._clock()
        if now < self._look_again_at or not (self._from_start or self._warned):
            return
        self._look_again_at = now + _LOOK_SECONDS
        self._from_start = {key: one for key, one in self._from_start.items() if one.is_under_way}
        counts = Counter(assignment.partition.topic for assignment in self._from_start)
        for topic, count in counts.items():
            message = f"{topic}: partitions that had no committed offset, and are read from their start: {count}"
            self._status.warn(_warning(topic), message)
        for topic in self._warned - counts.keys():
            self._status.warn(_warning(topic), "")
        self._warned = set(counts)


def _warning(topic: str) -> str:
    return f"no committed offset of {topic}"


def _named(partitions: Sequence[Partition]) -> dict[str, Any]:
    """Return some of them by name, and how many there are."""
    return {"partitions": [str(one) for one in sorted(partitions)[:_NAMED]], "count": len(partitions)}
