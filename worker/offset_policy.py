"""Where reading begins: at the committed offset, or where `kafka.auto_offset_reset` says.

Finding that takes requests to the group's coordinator and to leaders. They are sent for all partitions at once and
waited for by none: a partition whose answer is there begins, and one whose leader is away is asked for again later.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from worker import client_internals, kafka_client
from worker.config import Kafka
from worker.errors import BlockReason
from worker.metrics import Metrics
from worker.offset_requests import Asked, Edge, ask_committed, ask_edge
from worker.offsets import Assignment, Partition, Phase
from worker.repeats import Repeats
from worker.state import Block, Status

log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 1.0  # after an answer that was an error
_LOST_SECONDS: Final = 2 * kafka_client.REQUEST_TIMEOUT_MS / 1000  # after which no answer comes any more
_NAMED: Final = 10  # partitions that a log line names
_SOON_SECONDS: Final = 1.0  # within which a healthy broker has answered


class First(NamedTuple):
    """Where a partition begins."""

    position: int
    committed: OffsetAndMetadata | None
    skipped: int  # offsets that are passed over, since only what comes from now on is wanted


class Reset(NamedTuple):
    """Where a partition goes on whose next offset is gone."""

    assignment: Assignment
    position: int  # where it was
    target: int


@dataclass(eq=False)
class _Search:
    """What is known of one partition so far. `committed` is a list, empty until it is known, for None is an answer."""

    is_new_topic: bool = False
    lost_position: int | None = None  # set where the position turned out to be out of range
    committed: list[OffsetAndMetadata | None] = field(default_factory=list)
    edges: dict[Edge, int] = field(default_factory=dict)
    asked: set[Edge | None] = field(default_factory=set)  # what an answer is to come for; None: what is committed
    again_at: float = 0.0


class _Pending(NamedTuple):
    asked: Asked
    edge: Edge | None  # None: what is committed
    searches: dict[TopicPartition, _Search]
    at: float


class FirstOffsets:
    """Finds where to begin each partition. All calls are the main loop's."""

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
        self._failures: dict[str, list[TopicPartition]] = {}
        self._has_commits: set[str] = set()  # topics of which the group has committed something
        self._without_commit: dict[str, list[tuple[Partition, int, int]]] = defaultdict(list)
        self._repeats = Repeats(clock)

    # -- what the consumer asks

    def first_of(self, assignment: Assignment, *, is_new_topic: bool = False) -> First | None:
        """Return where to begin, None where that is not known yet, or policy forbids to begin: then its topic blocks."""
        search = self._searches.get(assignment)
        if search is None:
            self._searches[assignment] = _Search(is_new_topic=is_new_topic and self._reset != "none")
            return None
        if search.lost_position is not None or self._missing(search):
            return None
        if self._reset == "none" and not self._may_begin(assignment.partition, search):
            self._searches[assignment] = _Search(again_at=self._clock() + self._retry_seconds)
            return None
        del self._searches[assignment]
        return self._first(assignment.partition, search)

    def search_reset(self, assignment: Assignment, position: int) -> None:
        """Find where a partition goes on whose position is out of range; `found_resets` has it then."""
        self._searches[assignment] = _Search(lost_position=position)

    def found_resets(self) -> list[Reset]:
        """Return the resets that were found since the last call."""
        found = []
        for assignment, search in list(self._searches.items()):
            if search.lost_position is not None and not self._missing(search):
                del self._searches[assignment]
                found.append(Reset(assignment, search.lost_position, search.edges[self._target_edge]))
        return found

    @property
    def resetting(self) -> frozenset[Partition]:
        """The partitions that cannot be read until their reset is found."""
        if not self._searches:
            return frozenset()
        return frozenset(a.partition for a, search in self._searches.items() if search.lost_position is not None)

    @property
    def is_soon(self) -> bool:
        """Whether an answer is to come within moments."""
        now = self._clock()
        return any(now - pending.at < _SOON_SECONDS for pending in self._pending)

    def ask(self, consumer: Any) -> None:
        """Take in the answers that came, and ask for what is missing; waits for nothing."""
        if not self._searches and not self._pending and not self._without_commit:
            return
        for assignment in [a for a in self._searches if a.phase in (Phase.CLOSING, Phase.FENCED)]:
            del self._searches[assignment]
        self._take_in()
        self._send(consumer)
        self._tell_failures()
        self._tell_without_commit()

    def drop(self) -> None:
        """Forget all, with the consumer that was asked."""
        self._searches.clear()
        self._pending.clear()

    # -- policy

    @property
    def _target_edge(self) -> Edge:
        return Edge.END if self._reset == "latest" else Edge.BEGINNING

    def _missing(self, search: _Search) -> list[Edge | None]:
        """Return what must still be asked for; None stands for what is committed."""
        if search.lost_position is not None:
            wanted = [self._target_edge]
        elif search.is_new_topic:
            wanted = [Edge.BEGINNING]
        elif not search.committed:
            return [None]
        else:
            # With "none" a committed offset is held against them, with the others they stand in for one.
            are_needed = (search.committed[0] is not None) == (self._reset == "none")
            wanted = [Edge.BEGINNING, Edge.END] if are_needed else []
        return [edge for edge in wanted if edge not in search.edges]

    def _may_begin(self, partition: Partition, search: _Search) -> bool:
        """Return whether there is a committed offset that the partition still has; its topic blocks if not."""
        committed = search.committed[0]
        problem: BlockReason | None = None
        if committed is None:
            problem = BlockReason.NO_COMMITTED_OFFSET
        elif not search.edges[Edge.BEGINNING] <= committed.offset <= search.edges[Edge.END]:
            problem = BlockReason.OFFSET_OUT_OF_RANGE
        for reason in (BlockReason.NO_COMMITTED_OFFSET, BlockReason.OFFSET_OUT_OF_RANGE):
            block = Block(partition.topic, reason, partition.partition)
            if reason is problem:
                offset = None if committed is None else committed.offset
                self._status.block(
                    block, f"{partition}: committed offset {offset}, and kafka.auto_offset_reset is none"
                )
            else:
                self._status.unblock(block)
        return problem is None

    def _first(self, partition: Partition, search: _Search) -> First:
        if search.is_new_topic:  # a commit that was under way may stand in the new topic's name
            return First(search.edges[Edge.BEGINNING], None, 0)
        committed = search.committed[0]
        if committed is not None:
            return First(committed.offset, committed, 0)
        beginning, end = search.edges[Edge.BEGINNING], search.edges[Edge.END]
        if end > beginning:
            self._without_commit[partition.topic].append((partition, beginning, end))
        return First(search.edges[self._target_edge], None, end - beginning if self._reset == "latest" else 0)

    # -- requests

    def _send(self, consumer: Any) -> None:
        now = self._clock()
        wanted: dict[Edge | None, dict[TopicPartition, _Search]] = defaultdict(dict)
        for assignment, search in self._searches.items():
            if now >= search.again_at:
                for edge in self._missing(search):
                    if edge not in search.asked:
                        search.asked.add(edge)
                        wanted[edge][TopicPartition(*assignment.partition)] = search
        for edge, searches in wanted.items():
            self._pending += self._ask(consumer, edge, searches, now)

    def _ask(
        self, consumer: Any, edge: Edge | None, searches: dict[TopicPartition, _Search], now: float
    ) -> list[_Pending]:
        if edge is not None:
            asked = ask_edge(consumer, searches, edge, self._settings.isolation_level)
        else:
            # Of all partitions of these topics: what the group has of the others tells whether it is new.
            others = {
                TopicPartition(topic, number)
                for topic in {tp.topic for tp in searches}
                for number in client_internals.partitions(consumer, topic)
            }
            is_stable = self._settings.isolation_level == "read_committed"
            asked = [ask_committed(consumer, self._settings.group_id, others | searches.keys(), is_stable=is_stable)]
        return [
            _Pending(one, edge, {tp: searches[tp] for tp in one.partitions & searches.keys()}, now) for one in asked
        ]

    def _take_in(self) -> None:
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
            if pending.edge is None:
                self._has_commits |= {tp.topic for tp, at in answers.items() if isinstance(at, OffsetAndMetadata)}
            for tp, search in pending.searches.items():
                self._enter(tp, search, pending.edge, answers[tp])
        self._pending = waiting

    def _enter(self, tp: TopicPartition, search: _Search, edge: Edge | None, answer: Any) -> None:
        search.asked.discard(edge)
        if isinstance(answer, BaseException):
            search.again_at = self._clock() + _AGAIN_SECONDS
            partitions = self._failures.setdefault(kafka_client.describe(answer), [])
            partitions.append(tp)
            if len(partitions) == 1:  # one request, one error
                self._metrics.kafka_errors.labels(kafka_client.kind_of(answer)).inc()
        elif edge is None:
            search.committed = [answer]
        else:
            search.edges[edge] = answer

    # -- what is logged

    def _tell_failures(self) -> None:
        failures, self._failures = self._failures, {}
        for error, partitions in failures.items():
            if self._repeats.is_due(error):
                log.warning(
                    "first offset not known yet: asking again",
                    extra={"error": error, **_named([Partition(*tp) for tp in partitions])},
                )

    def _tell_without_commit(self) -> None:
        """Say what is read although it may have been written before, or is not read at all; one line for each topic."""
        found, self._without_commit = self._without_commit, defaultdict(list)
        for topic, partitions in found.items():
            told = {"topic": topic, **_named([partition for partition, _, _ in partitions])}
            told["offsets"] = sum(end - beginning for _, beginning, end in partitions)
            if self._reset == "latest":
                log.warning("no committed offset: what was published before is not written", extra=told)
            elif topic in self._has_commits:
                log.warning(
                    "no committed offset for these partitions, while the group has some for others of the topic: they are "
                    "new, or their offsets expired or were deleted; all that is kept of them is read and written (again)",
                    extra=told,
                )
            else:
                log.info(
                    "the group has no committed offset for the topic: it is new, or its offsets expired "
                    "(offsets.retention.minutes of the brokers); all that is kept of the topic is read and written",
                    extra=told,
                )


def _named(partitions: Sequence[Partition]) -> dict[str, Any]:
    """Return some of them by name, and how many there are."""
    return {"partitions": [str(one) for one in sorted(partitions)[:_NAMED]], "count": len(partitions)}
