"""Where reading begins: at the committed offset, or where `kafka.auto_offset_reset` says.

That takes requests to the group's coordinator and to leaders. They are sent for all partitions at once, and nothing waits
for them: a partition whose answer is there begins, and one whose leader is away is asked for again later.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple

from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from worker.consumer import client_config, client_internals
from worker.consumer.leaders import GRACE_SECONDS
from worker.consumer.offset_notices import RETRY_SECONDS, OffsetNotices, Unknown
from worker.consumer.offset_requests import Asked, Edge, EpochEnd, ask_committed, ask_edge, ask_epoch_ends, is_in_log
from worker.errors import BlockReason
from worker.ledger import Assignment, Partition, Phase
from worker.settings.client_options import REQUEST_TIMEOUT_MS
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, Status

log = logging.getLogger("worker.offset_policy")

_LOST_SECONDS: Final = 2 * REQUEST_TIMEOUT_MS / 1000  # after which no answer is expected any more
_SOON_SECONDS: Final = 1.0  # within which a healthy broker has answered


class First(NamedTuple):
    """Where a partition begins."""

    position: int
    committed: OffsetAndMetadata | None
    skipped: int = 0  # offsets that are not read, since only what comes from now on is wanted
    leader_epoch: int = -1  # of the records before the position; -1 where it is not known
    is_truncated: bool = False  # the log lost what was committed, and continues at the position


class Reset(NamedTuple):
    """What has become of a position that the broker calls out of range."""

    assignment: Assignment
    position: int
    begin: int  # of the log
    end: int  # behind all records of the log, also those of open transactions
    target: int  # where the partition continues if the position is gone
    is_latest: bool  # whether all up to the end is skipped

    @property
    def is_in_range(self) -> bool:
        """Whether the log has the position, or ends there: the broker's refusal is no proof that it is gone."""
        return is_in_log(self.position, self.begin, self.end)


class _Other(Enum):
    """What a leader is asked for besides the edges that readers see."""

    HIGH = "high"  # behind all records, also those of open transactions: no reader is behind it
    EPOCH_END = "epoch end"  # of the epoch in which the committed record was written


_Wanted = Edge | _Other | None  # None: what is committed


@dataclass(eq=False)
class _Search:
    """What is known of one partition so far. `committed` is a list, empty until it is known, since None is an answer."""

    stale_commits: range | None = None  # of a recreated topic: what is of the deleted one, of commits that name no log
    log_id: str = ""  # names the log in commits; "" where that is not known
    lost_position: int | None = None  # set where the position turned out to be out of range
    committed: list[OffsetAndMetadata | None] = field(default_factory=list)
    edges: dict[Edge | _Other, int] = field(default_factory=dict)
    epoch_end: EpochEnd | None = None
    doubted_since: float | None = None  # when a leader first did not know the epoch, and was older than it
    asked: set[_Wanted] = field(default_factory=set)  # what was asked for and is not answered yet
    errors: dict[_Wanted, str] = field(default_factory=dict)  # of what was answered with an error last
    since: float | None = None  # when it was first asked
    again_at: float = 0.0

    @property
    def epoch(self) -> int:
        """The leader's epoch of what was committed; -1 where it has none, as a commit by hand or by an older worker."""
        return self.committed[0].leader_epoch if self.committed and self.committed[0] is not None else -1

    @property
    def is_new_log(self) -> bool:
        """Whether nothing of a recreated topic's log was committed yet."""
        if not self.committed:
            return False
        found = self.committed[0]
        if found is None:
            return self.stale_commits is not None
        if _names_a_log(found, self.log_id):
            return bool(found.metadata != self.log_id)
        return self.stale_commits is not None and found.offset in self.stale_commits


class _Pending(NamedTuple):
    asked: Asked
    wanted: _Wanted
    searches: dict[TopicPartition, _Search]
    at: float


class FirstOffsets:
    """Finds where to begin each partition. Only the main loop calls it."""

    def __init__(
        self, settings: Kafka, *, status: Status, metrics: Metrics, retry_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._reset = settings.auto_offset_reset
        self._status = status
        self._metrics = metrics
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._searches: dict[Assignment, _Search] = {}
        self._pending: list[_Pending] = []
        self._leaders_know_epochs = False
        self._has_commits: set[str] = set()  # topics of which the group has committed something
        self._notices = OffsetNotices(status, clock)

    # -- what the source asks

    def first_of(self, assignment: Assignment, *, log_id: str = "", stale_commits: range | None = None) -> First | None:
        """Return where to begin; None where that is not known yet, or where `none` forbids it, which blocks the partition.

        `log_id` names the partition's log in commits. If the group's commit names another log of this cluster, it is of a
        topic that was deleted and created again, and the partition begins at its start; with `none` it is blocked.
        `stale_commits` is set where that was seen. If one of these offsets is committed and names no log, or nothing is
        committed, the partition begins at its start too.
        """
        search = self._searches.get(assignment)
        if search is None:
            search = self._searches[assignment] = _Search(None if self._reset == "none" else stale_commits)
        if self._reset != "none":
            search.log_id = log_id
        if not search.committed:
            return None
        if search.lost_position is not None or self._missing(search):
            return None
        if self._reset == "none" and not self._check_committed(assignment.partition, search, log_id):
            self._searches[assignment] = _Search(again_at=self._clock() + self._retry_seconds)
            return None
        del self._searches[assignment]
        return self._first(assignment, search)

    def search_reset(self, assignment: Assignment, position: int) -> None:
        """Begin to find where a partition continues whose position is out of range; `found_resets` returns it later."""
        self._searches[assignment] = _Search(lost_position=position)

    def found_resets(self) -> list[Reset]:
        """Return the resets that were found since the last call."""
        found = []
        for assignment, search in list(self._searches.items()):
            if search.lost_position is not None and not self._missing(search):
                del self._searches[assignment]
                found.append(self._reset_of(assignment, search.lost_position, search.edges))
        return found

    def _reset_of(self, assignment: Assignment, position: int, edges: Mapping[Edge | _Other, int]) -> Reset:
        """Return where a partition continues. A log that ended before the position was cut, or is another one.

        It is read from its start, as a topic is that a running worker sees recreated: `latest` is for what was published
        before, not for what came in its place.
        """
        begin, end = edges[Edge.BEGINNING], edges[_Other.HIGH]
        is_latest = self._reset == "latest" and position < begin
        return Reset(assignment, position, begin, end, edges[Edge.END] if is_latest else begin, is_latest)

    @property
    def resetting(self) -> frozenset[Partition]:
        """The partitions that cannot be read until their reset is found."""
        if not self._searches:
            return frozenset()
        return frozenset(a.partition for a, search in self._searches.items() if search.lost_position is not None)

    @property
    def is_soon(self) -> bool:
        """Whether an answer is expected within a second."""
        now = self._clock()
        return any(now - pending.at < _SOON_SECONDS for pending in self._pending)

    def ask(self, consumer: Any) -> None:
        """Enter the answers that came, and ask for what is missing; it waits for nothing."""
        if not self._searches and not self._pending and self._notices.is_empty:
            return
        self._leaders_know_epochs = client_internals.leaders_know_epochs(consumer)
        for assignment in [a for a in self._searches if a.phase in (Phase.REVOKING, Phase.FENCED)]:
            del self._searches[assignment]
        self._enter_answers()
        self._send(consumer)
        self._notices.log_failures()
        self._notices.block_lasting(self._unknown(consumer))
        self._notices.log_without_commit(is_latest=self._reset == "latest", has_commits=self._has_commits)
        self._notices.show_from_start()

    def _unknown(self, consumer: Any) -> dict[Partition, Unknown]:
        """Return the partitions whose search has met an error that is not over.

        Where no broker at all can be reached, it is no fault of a partition, and is reported elsewhere.
        """
        found = {
            assignment.partition: Unknown(next(iter(search.errors.values())), search.since)
            for assignment, search in self._searches.items()
            if search.errors and search.since is not None
        }
        return found if found and client_internals.is_connected(consumer) else {}

    def drop(self) -> None:
        """Forget all, with the consumer that was asked."""
        self._searches.clear()
        self._pending.clear()

    # -- policy

    def _missing(self, search: _Search) -> list[_Wanted]:
        """Return what must still be asked for.

        A commit with a leader's epoch is compared with the log:

        1. Records are read, written to the index, and committed.
        2. A replica without them is elected, and the log continues from its end. Other records have their offsets now.
        3. The worker begins at the committed offset. It would never read the other records below it.

        So the leader is asked where the epoch of what was committed ends.
        """
        wanted: list[Edge | _Other]
        if search.lost_position is not None:
            wanted = [Edge.BEGINNING, _Other.HIGH, *([Edge.END] if self._reset == "latest" else [])]
        elif not search.committed:
            return [None]
        elif search.is_new_log:
            wanted = [Edge.BEGINNING]
        elif search.epoch >= 0 and self._leaders_know_epochs and search.epoch_end is None:
            return [_Other.EPOCH_END]
        elif search.epoch_end is not None and search.epoch_end.offset < 0 and self._reset != "none":
            wanted = [Edge.BEGINNING]  # another log has the partition's name: it is read from its start
        elif self._reset == "none":  # what is committed must be between them
            wanted = [Edge.BEGINNING, _Other.HIGH] if search.committed[0] is not None else []
        else:
            wanted = [Edge.BEGINNING, Edge.END] if search.committed[0] is None else []
        return [edge for edge in wanted if edge not in search.edges]

    def _check_committed(self, partition: Partition, search: _Search, log_id: str) -> bool:
        """Return whether there is a committed offset that the partition still has, and block or unblock it accordingly."""
        committed = search.committed[0]
        problem: BlockReason | None = None
        if committed is None:
            problem = BlockReason.NO_COMMITTED_OFFSET
        elif (
            not is_in_log(committed.offset, search.edges[Edge.BEGINNING], search.edges[_Other.HIGH])
            or (search.epoch_end is not None and search.epoch_end.offset < 0)
            or (_names_a_log(committed, log_id) and committed.metadata != log_id)
        ):
            problem = BlockReason.OFFSET_OUT_OF_RANGE
        for reason in (BlockReason.NO_COMMITTED_OFFSET, BlockReason.OFFSET_OUT_OF_RANGE):
            block = Block.of(partition, reason)
            if reason is problem:
                offset = None if committed is None else committed.offset
                self._status.block(
                    block, f"{partition}: committed offset {offset}, and kafka.auto_offset_reset is none"
                )
            else:
                self._status.unblock(block)
        return problem is None

    def _first(self, assignment: Assignment, search: _Search) -> First:
        partition, committed, epoch_end = assignment.partition, search.committed[0], search.epoch_end
        if search.is_new_log:
            if committed is not None:
                log.warning(
                    "what is committed is of a deleted topic of this name: reading from the start",
                    extra={"topic": partition.topic, "partition": partition.partition, "offset": committed.offset},
                )
            return First(search.edges[Edge.BEGINNING], None)
        if committed is not None:
            if epoch_end is not None and epoch_end.offset < 0:
                return First(search.edges[Edge.BEGINNING], committed, is_truncated=True)
            if epoch_end is not None and epoch_end.offset < committed.offset:
                return First(epoch_end.offset, committed, leader_epoch=epoch_end.leader_epoch, is_truncated=True)
            return First(committed.offset, committed, leader_epoch=committed.leader_epoch)
        beginning, end = search.edges[Edge.BEGINNING], search.edges[Edge.END]
        if end > beginning:
            self._notices.add_without_commit(assignment, beginning, end)
        if self._reset == "latest":
            return First(end, None, end - beginning)
        return First(beginning, None)

    # -- requests

    def _send(self, consumer: Any) -> None:
        now = self._clock()
        wanted: dict[_Wanted, dict[TopicPartition, _Search]] = defaultdict(dict)
        for assignment, search in self._searches.items():
            if now >= search.again_at:
                search.since = now if search.since is None else search.since
                for one in self._missing(search):
                    if one not in search.asked:
                        search.asked.add(one)
                        wanted[one][TopicPartition(*assignment.partition)] = search
        for one, searches in wanted.items():
            self._pending += self._ask(consumer, one, searches, now)

    def _ask(
        self, consumer: Any, wanted: _Wanted, searches: dict[TopicPartition, _Search], now: float
    ) -> list[_Pending]:
        if isinstance(wanted, Edge):
            asked = ask_edge(consumer, searches, wanted, self._settings.isolation_level)
        elif wanted is _Other.HIGH:
            asked = ask_edge(consumer, searches, Edge.END, "read_uncommitted")
        elif wanted is not None:
            asked = ask_epoch_ends(consumer, {tp: search.epoch for tp, search in searches.items()})
        else:
            # Of all partitions of these topics: what is committed for the others shows whether the group is new.
            others = {
                TopicPartition(topic, number)
                for topic in {tp.topic for tp in searches}
                for number in client_internals.partitions(consumer, topic)
            }
            is_stable = self._settings.isolation_level == "read_committed"
            asked = [ask_committed(consumer, self._settings.group_id, others | searches.keys(), is_stable=is_stable)]
        return [
            _Pending(one, wanted, {tp: searches[tp] for tp in one.partitions & searches.keys()}, now) for one in asked
        ]

    def _enter_answers(self) -> None:
        now = self._clock()
        waiting: list[_Pending] = []
        for pending in self._pending:
            if pending.asked.is_done:
                answers = pending.asked.answers()
            elif now - pending.at > _LOST_SECONDS:
                answers = dict.fromkeys(pending.searches, kafka_errors.KafkaTimeoutError("no answer"))
            else:
                waiting.append(pending)
                continue
            if pending.wanted is None:
                self._has_commits |= {tp.topic for tp, at in answers.items() if isinstance(at, OffsetAndMetadata)}
            for tp, search in pending.searches.items():
                self._enter(tp, search, pending.wanted, answers[tp])
        self._pending = waiting

    def _enter(self, tp: TopicPartition, search: _Search, wanted: _Wanted, answer: Any) -> None:
        search.asked.discard(wanted)
        search.errors.pop(wanted, None)
        if isinstance(answer, EpochEnd) and answer.is_doubtful and self._is_doubted(search):
            answer = kafka_errors.UnknownLeaderEpochError(
                f"the leader is older than epoch {search.epoch} of what is committed: it may have been replaced, and not know it"
            )
        if isinstance(answer, BaseException):
            search.again_at = self._clock() + RETRY_SECONDS
            search.errors[wanted] = client_config.describe(answer)
            if self._notices.add_failure(Partition(*tp), search.errors[wanted]):  # one request, one error
                self._metrics.kafka_errors.labels(client_config.kind_of(answer)).inc()
        elif wanted is None:
            search.committed = [answer]
        elif wanted is _Other.EPOCH_END:
            search.epoch_end = answer
        else:
            search.edges[wanted] = answer

    def _is_doubted(self, search: _Search) -> bool:
        """Return whether to ask again. Metadata that is fresh by then still names this leader: the log is another one."""
        now = self._clock()
        search.doubted_since = now if search.doubted_since is None else search.doubted_since
        return now - search.doubted_since < GRACE_SECONDS


def _names_a_log(committed: OffsetAndMetadata, log_id: str) -> bool:
    """Return whether a commit names a log of the cluster of `log_id`: older releases and other tools name none."""
    cluster, separator, _ = log_id.rpartition("/")
    return bool(separator) and committed.metadata.rpartition("/")[:2] == (cluster, separator)
