"""Which records are looked at: a stretch of each partition, and how far the worker has committed."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from worker.errors import FatalError
from worker.ledger import Partition
from worker.tools.scan import Scanner

_NO_END: Final = 2**63  # behind every offset
_ASK_SECONDS: Final = 1.0  # between two questions about what is committed


class Wanted(NamedTuple):
    """What was asked for: times are Unix seconds, offsets are inclusive at the beginning and exclusive at the end."""

    partition: int | None = None
    since: float | None = None
    until: float | None = None
    offsets: tuple[int, int] | None = None


class Span(NamedTuple):
    """The offsets of one partition: keys that occur from `begin` up to `end` are looked at, as they are at `committed`."""

    partition: Partition
    begin: int
    end: int
    committed: int


class Unseen(NamedTuple):
    """What would have been looked at too, and was not.

    `removed`: offsets that retention has removed. `uncommitted`: partitions with records and without any commit. `behind`:
    offsets that the topic had, and the group had not committed, in partitions with a commit.
    """

    removed: int
    uncommitted: int
    behind: int


class Part(NamedTuple):
    """What was asked for of one partition: offsets from `lower` up to `upper`. The topic had those from `first` up to `end`."""

    partition: Partition
    lower: int
    upper: int
    first: int
    end: int

    def waiting(self, committed: int) -> int:
        """Return how many of the offsets that the topic had are not committed."""
        return max(0, min(self.upper, self.end) - max(self.lower, self.first, committed))


def parts(scanner: Scanner, topic: str, wanted: Wanted) -> list[Part]:
    """Return what was asked for of each partition, with the ends of now. Raises `FatalError`."""
    partitions = scanner.partitions(topic)
    if wanted.partition is not None:
        partitions = [one for one in partitions if one.partition == wanted.partition]
        if not partitions:
            raise FatalError(f"topic {topic} has no partition {wanted.partition}")
    firsts = scanner.first_offsets(partitions)
    since = scanner.offsets_at(partitions, wanted.since) if wanted.since is not None else {}
    until = scanner.offsets_at(partitions, wanted.until) if wanted.until is not None else {}
    ends = scanner.end_offsets(partitions)
    lower, upper = wanted.offsets or (0, _NO_END)
    return [
        Part(one, max(lower, since.get(one, 0)), min(upper, until.get(one, _NO_END)), firsts[one], ends[one])
        for one in partitions
    ]


def commits_past(
    wanted: Sequence[Part], ask: Callable[[], Mapping[int, int]], wait: Callable[[float], object], most_seconds: float
) -> Mapping[int, int]:
    """Return what is committed: once that is all that was asked for, or after so many seconds.

    What arrived just before is still on its way to the index, and its commit comes a moment later. A partition without any
    commit is not waited for: most likely no worker reads it.
    """
    committed = ask()
    for _ in range(math.ceil(most_seconds / _ASK_SECONDS)):
        if not spans(wanted, committed)[1].behind:
            break
        wait(_ASK_SECONDS)
        committed = ask()
    return committed


def spans(wanted: Sequence[Part], committed: Mapping[int, int]) -> tuple[list[Span], Unseen]:
    """Return the span of each partition that has one, up to what is committed, and what is not in them.

    Records behind a commit are still to be written, and no difference.
    """
    found, removed, uncommitted, behind = [], 0, 0, 0
    for one in wanted:
        at = committed.get(one.partition.partition)
        removed += max(0, min(one.first, one.upper) - one.lower)
        if at is None:
            uncommitted += one.waiting(0) > 0
            continue
        behind += one.waiting(at)
        begin, end = max(one.lower, one.first), min(one.upper, at)
        if begin < end:
            found.append(Span(one.partition, begin, end, at))
    return found, Unseen(removed, uncommitted, behind)


def why_nothing(committed: Mapping[int, int], group_id: str) -> str:
    """Return in words why there is no span."""
    if not committed:
        return f"nothing to verify: group {group_id} has committed nothing of these records. Is kafka.group_id the worker's?"
    shown = ", ".join(f"{number}: {offset}" for number, offset in sorted(committed.items())[:10])
    return (
        f"nothing to verify: there is no record in this stretch that group {group_id} has committed and retention has left; "
        f"it has committed, by partition, {shown}"
    )
