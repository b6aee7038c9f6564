"""Which records are looked at: a stretch of each partition, and how far the worker has committed."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from worker.errors import FatalError
from worker.ledger import Partition
from worker.tools.scan import Scanner

_NO_END: Final = 2**63  # behind every offset


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
    """What would have been looked at too: offsets that retention has removed, and partitions without any commit."""

    removed: int
    uncommitted: int


def spans(scanner: Scanner, topic: str, committed: Mapping[int, int], wanted: Wanted) -> tuple[list[Span], Unseen]:
    """Return the span of each partition that has one, up to what is committed, and what is not in them.

    Records behind a commit are still to be written, and no gap. Raises `FatalError`.
    """
    partitions = scanner.partitions(topic)
    if wanted.partition is not None:
        partitions = [one for one in partitions if one.partition == wanted.partition]
        if not partitions:
            raise FatalError(f"topic {topic} has no partition {wanted.partition}")
    firsts = scanner.first_offsets(partitions)
    since = scanner.offsets_at(partitions, wanted.since) if wanted.since is not None else {}
    until = scanner.offsets_at(partitions, wanted.until) if wanted.until is not None else {}
    ends = scanner.end_offsets([one for one in partitions if one.partition not in committed])
    found, removed, uncommitted = [], 0, 0
    for one in partitions:
        first, behind = firsts[one], committed.get(one.partition, 0)
        lower, upper = wanted.offsets or (0, _NO_END)
        lower, upper = max(lower, since.get(one, 0)), min(upper, until.get(one, _NO_END))
        begin, end = max(lower, first), min(upper, behind)
        removed += max(0, min(first, upper) - lower)
        uncommitted += max(lower, first) < min(upper, ends.get(one, 0))
        if begin < end:
            found.append(Span(one, begin, end, behind))
    return found, Unseen(removed, uncommitted)


def why_nothing(committed: Mapping[int, int], group_id: str) -> str:
    """Return in words why there is no span."""
    if not committed:
        return f"nothing to verify: group {group_id} has committed nothing of these records. Is kafka.group_id the worker's?"
    shown = ", ".join(f"{number}: {offset}" for number, offset in sorted(committed.items())[:10])
    return (
        f"nothing to verify: there is no record in this stretch that group {group_id} has committed and retention has left; "
        f"it has committed, by partition, {shown}"
    )
