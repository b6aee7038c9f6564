"""Where each partition is read: the first offset, and what becomes of a position whose records are gone.

The client never resets a position by itself: its own `auto_offset_reset` is always "none". Ours is applied here, where
what it skips can be counted.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kafka import TopicPartition

from worker.consumer import client_internals
from worker.consumer.offset_policy import FirstOffsets, Reset
from worker.consumer.partitions import GONE, pause_at_zero, seek
from worker.consumer.unreadable import UnreadablePartitions
from worker.ledger import Assignment, Ledger, Partition, Phase
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics

log = logging.getLogger("worker.source")


class Positions:
    """Applies `kafka.auto_offset_reset` to the partitions of the ledger. Only the main loop calls it."""

    def __init__(
        self,
        settings: Kafka,
        topics: Sequence[str],
        *,
        ledger: Ledger,
        metrics: Metrics,
        first_offsets: FirstOffsets,
        unreadable: UnreadablePartitions,
        wake: Callable[[], None],
    ) -> None:
        """`wake` wakes those that wait to send."""
        self._reset = settings.auto_offset_reset
        self._topics = tuple(topics)
        self._ledger = ledger
        self._metrics = metrics
        self._first_offsets = first_offsets
        self._unreadable = unreadable
        self._wake = wake
        self._topic_ids: dict[str, object] = {}
        self._stale_commits: dict[Partition, range] = {}  # of recreated topics: see `_reopen_recreated`

    # -- the first offset

    def open(self, consumer: Any, assignment: Assignment) -> bool:
        """Begin reading a partition at its committed offset; return False where that cannot be known yet."""
        partition = assignment.partition
        log_id = self._log_id(consumer, partition.topic)
        stale_commits = self._stale_commits.get(partition)
        first = self._first_offsets.first_of(assignment, log_id=log_id, stale_commits=stale_commits)
        if first is None:
            return False
        committed = None if first.committed is None else int(first.committed.offset)
        position, leader_epoch = first.position, first.leader_epoch
        is_owned = seek(consumer, partition, position, leader_epoch)
        if not (is_owned and self._ledger.open(assignment, position, committed, leader_epoch, log_id=log_id)):
            return False
        self._stale_commits.pop(partition, None)
        if first.is_truncated and committed is not None:
            self._count_truncated(partition, committed, position)
            self._metrics.skipped_offsets.labels(partition.topic, "retention").inc(max(0, position - committed))
        self._metrics.skipped_offsets.labels(partition.topic, "reset_latest").inc(first.skipped)
        return True

    def reopen(self, consumer: Any, partition: Partition) -> bool:
        """End the ownership of a partition and begin another, which the main loop opens; False if it is no longer owned."""
        assignment = self._ledger.assignment(partition)
        if assignment is None:
            return False
        self._unreadable.unblock(partition)
        tp = TopicPartition(*partition)
        try:
            pause_at_zero(consumer, tp)
        except GONE:
            return False
        client_internals.drop_all_fetched(consumer, tp)
        return self._reassigned(assignment) is not None

    def _reassigned(self, assignment: Assignment) -> Assignment | None:
        """Begin another ownership, and let slots that wait to send drop the records of the old one."""
        begun = self._ledger.reassign(assignment)
        self._wake()
        return begun

    def _restart_at(
        self, consumer: Any, assignment: Assignment, offset: int, leader_epoch: int = -1, *, log_begin: int = 0
    ) -> bool:
        """End the ownership of a partition and begin another at `offset`, or at the old watermark if that is lower.

        So what was read below `offset` and has no outcome is read again, as far as the log still has it, which begins at
        `log_begin`. False if the partition is being given back.
        """
        restarted = self._reassigned(assignment)
        if restarted is None:
            return False
        self._unreadable.unblock(assignment.partition)
        again_from = max(log_begin, assignment.watermark)  # the old one is fenced, so that its watermark moves no more
        if again_from < offset:
            offset, leader_epoch = again_from, assignment.leader_epoch_at(again_from)
        self._ledger.open(restarted, offset, None, leader_epoch, log_id=assignment.log_id)
        seek(consumer, assignment.partition, offset, leader_epoch)
        return True

    # -- positions that are out of range

    def search_reset(self, consumer: Any, partition: Partition, position: int) -> None:
        """Find out what a position is that the broker calls out of range, and where to continue if it is gone."""
        assignment = self._ledger.assignment(partition)
        if assignment is None or partition in self._first_offsets.resetting:
            return
        with contextlib.suppress(*GONE):
            consumer.pause(TopicPartition(*partition))  # otherwise every poll would raise the same error
        self._first_offsets.search_reset(assignment, position)

    def apply_resets(self, consumer: Any) -> None:
        """Continue where the resets that were found since the last call say, and count what they skip."""
        for reset in self._first_offsets.found_resets():
            if reset.is_in_range and (self._reset == "none" or client_internals.leaders_know_epochs(consumer)):
                self._retry_later(consumer, reset)
            elif self._reset == "none":
                self._leave_to_commit(consumer, reset)
            else:
                self._apply(consumer, reset)

    def _retry_later(self, consumer: Any, reset: Reset) -> None:
        """Keep a position that the log still has, and block the partition until the broker reads there again.

        With tiered storage a broker also answers so where a segment is missing, or is not known yet to a new leader. If the
        log was cut and has grown past the position since, the client sees that by the leader's epoch, once it knows of it.
        """
        tp = TopicPartition(*reset.assignment.partition)
        found = client_internals.position(consumer, tp)
        if found is None or found.offset != reset.position:
            return  # it is no longer owned, or is read elsewhere by now
        client_internals.refresh_metadata(consumer)
        if seek(consumer, reset.assignment.partition, reset.position, found.leader_epoch):
            self._unreadable.block_refused(
                consumer,
                reset.assignment.partition,
                reset.position,
                f"the broker calls it out of range (OFFSET_OUT_OF_RANGE), and has the offsets from {reset.begin} to "
                f"{reset.end}: look at its log, and at the remote storage of the topic if it has one",
            )

    def _leave_to_commit(self, consumer: Any, reset: Reset) -> None:
        """Have the partition opened again at what is committed, as `none` wants, which blocks it if that is gone too."""
        topic, number = reset.assignment.partition
        is_reopened = self.reopen(consumer, reset.assignment.partition)
        self._metrics.truncated_offsets.labels(topic).inc(max(0, reset.position - reset.end))
        log.error(
            "offset out of range: continuing at what is committed, if that is not gone too",
            extra={
                "topic": topic,
                "partition": number,
                "from": reset.position,
                "begin": reset.begin,
                "end": reset.end,
                "not_written": _unsettled_from(reset.assignment, reset.end) if is_reopened else 0,
            },
        )

    def _apply(self, consumer: Any, reset: Reset) -> None:
        assignment, position, target = reset.assignment, reset.position, reset.target
        (topic, number), skipped, not_written = assignment.partition, max(0, target - position), 0
        if target < position:  # the topic was recreated, or cut: its next offsets are lower than those tracked
            self._metrics.truncated_offsets.labels(topic).inc(max(0, position - reset.end))
            if self._restart_at(consumer, assignment, target, log_begin=target):
                skipped = max(0, target - assignment.watermark)
                not_written = _unsettled_from(assignment, reset.end)
        else:
            seek(consumer, assignment.partition, target)
        reason = "reset_latest" if reset.is_latest else "retention"
        self._metrics.skipped_offsets.labels(topic, reason).inc(skipped)
        log.error(
            "offset out of range",
            extra={"topic": topic, "partition": number, "from": position, "to": target, "not_written": not_written},
        )

    def truncate(self, consumer: Any, partition: Partition, divergent: Any) -> None:
        """Continue where the log continues, which has lost records that were read; `divergent` is None if that is unknown.

        What was read and has no outcome is read again, as far as the log still has it: the ownership ends, and its records
        with it.
        """
        assignment = self._ledger.assignment(partition)
        if assignment is None:
            return
        if assignment.phase is Phase.OPENING or divergent is None:
            # The client has forgotten the position. The leader is asked for it from the committed offset on.
            log.error(
                "log truncated, and where is not known: opening it again",
                extra={"topic": partition.topic, "partition": partition.partition},
            )
            self.reopen(consumer, partition)
            return
        position, end = assignment.position, int(divergent.offset)
        is_restarted = self._restart_at(consumer, assignment, end, int(divergent.leader_epoch))
        self._count_truncated(partition, position, end, _unsettled_from(assignment, end) if is_restarted else 0)

    def _count_truncated(self, partition: Partition, position: int, end: int, not_written: int = 0) -> None:
        """Count and log what a log lost from `end` to `position`: whoever needs it has to publish it again.

        It was read. `not_written` is how many records of it had no outcome.
        """
        self._metrics.truncated_offsets.labels(partition.topic).inc(max(0, position - end))
        log.error(
            "log truncated",
            extra={
                "topic": partition.topic,
                "partition": partition.partition,
                "from": position,
                "to": end,
                "not_written": not_written,
            },
        )

    # -- topics that were recreated

    def watch_recreated_topics(self, consumer: Any) -> None:
        """Read a topic from its start that was deleted and created again: its offsets mean other records now.

        The client would continue where it was, or mistake the new log for one that was truncated. Brokers before 2.8 give
        topics no ids: with them this cannot be recognised.
        """
        for topic in self._topics:
            found = client_internals.topic_id(consumer, topic)
            if found is None:
                continue
            known = self._topic_ids.setdefault(topic, found)
            if known == found:
                continue
            self._topic_ids[topic] = found
            owned = [one for one in self._ledger.assignments() if one.partition.topic == topic]
            not_written = sum(self._reopen_recreated(consumer, assignment) for assignment in owned)
            self._metrics.truncated_offsets.labels(topic).inc(not_written)
            log.error("topic recreated: reading it from its start", extra={"topic": topic, "not_written": not_written})

    def _log_id(self, consumer: Any, topic: str) -> str:
        """Return what names a topic's log in commits; "" where its topic or cluster has no id.

        A mirror of the topic has another id, and may have copies of these commits, so that the cluster is named too.
        """
        cluster, known = client_internals.cluster_id(consumer), self._topic_ids.get(topic)
        return f"{cluster}/{known}" if cluster and known is not None else ""

    def _reopen_recreated(self, consumer: Any, assignment: Assignment) -> int:
        """Have a partition opened at the start of its new log; return how many messages of the old one had no outcome.

        Commits of the deleted topic can still be the group's:

        1. The partition is committed while the new topic is there, and this process does not know of it yet.
        2. The topic's new number of partitions begins a rebalance, which takes the partition away before it is opened.
        3. It comes back. Either the stale commit is still the group's, or another worker has read the new log meanwhile.

        A commit names the log that it is of, and so shows it, whichever worker made it. One without a name, of an older
        release, counts as stale if it can be: from the last one that was acknowledged to the watermark.
        """
        partition = assignment.partition
        is_reopened = self.reopen(consumer, partition)
        if assignment.is_open:
            self._stale_commits[partition] = range(assignment.committed or 0, assignment.watermark + 1)
        else:  # nothing was committed by it, and the broker deletes a topic's commits with the topic
            self._stale_commits.setdefault(partition, range(0))
        return _unsettled_from(assignment, 0) if is_reopened else 0

    # -- positions without records

    def seek_back(self, consumer: Any) -> None:
        """Read partitions again from where the ledger is: the client moved on with messages that it did not hand over."""
        for assignment in self._ledger.assignments():
            partition, position = assignment.partition, assignment.position
            if assignment.phase is not Phase.OPEN or partition in self._first_offsets.resetting:
                continue
            found = client_internals.position(consumer, TopicPartition(*partition))
            if found is not None and found.offset > position:
                seek(consumer, partition, position, assignment.leader_epoch_at(position))

    def advance(self, consumer: Any, assignments: Iterable[Assignment]) -> None:
        """Enter into the ledger how far partitions with nothing outstanding were read."""
        for assignment in assignments:
            position = client_internals.position(consumer, TopicPartition(*assignment.partition))
            if position is not None and position.offset > assignment.position:
                self._ledger.advance(assignment, int(position.offset), int(position.leader_epoch))


def _unsettled_from(assignment: Assignment, offset: int) -> int:
    """Return how many messages from `offset` on have no outcome. The assignment is fenced: they never will."""
    return sum(one >= offset for one in assignment.unsettled)
