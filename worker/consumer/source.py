"""The consumer: poll, pause, resume, and the recovery from what a poll raises.

Only this package knows the group's consumer. What is not obvious about it:

- A newly assigned partition is paused at offset 0 (`partitions.py`). The main loop opens it: it asks for the committed offset,
  and seeks there. So nothing of a partition is read before its first offset is known. A poll that began before a rebalance may
  return messages of the partition: they are recognised by the epoch, and dropped.
- The client never resets a position by itself (`positions.py`), and can lose a join (`membership.py`).
- Rebalances are handled on the client's IO thread (`handover.py`).
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from kafka import TopicPartition
from kafka import errors as kafka_errors

from worker.consumer import client_config, client_internals
from worker.consumer.client_metrics import ClientMetrics
from worker.consumer.commits import Commits
from worker.consumer.connect import connect
from worker.consumer.handover import COMMIT_SECONDS, Handover, RebalanceListener, RevokeHooks
from worker.consumer.heartbeats import Heartbeats
from worker.consumer.joins import Joins
from worker.consumer.leaders import Leaders
from worker.consumer.membership import Membership
from worker.consumer.offset_policy import FirstOffsets
from worker.consumer.partitions import GONE, seek
from worker.consumer.positions import Positions
from worker.consumer.repeats import Repeats
from worker.consumer.subscription import Subscription
from worker.consumer.topics import Topics
from worker.consumer.unreadable import DeniedTopics, UnreadablePartitions
from worker.errors import BrokerUnavailable
from worker.lease import Lease
from worker.ledger import Assignment, Ledger, Partition, Phase
from worker.ports import Polled
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

log = logging.getLogger("worker.source")

MAX_POLL_RECORDS: Final = 500

_SOON_SECONDS: Final = 0.05  # a poll's time-out while an answer is to come that opens partitions
_ERROR_WAIT_SECONDS: Final = 0.2  # after an error of poll, which may come again at once
_SLOW_POLL_SECONDS: Final = 1.0  # a poll that exceeds its time-out by this waited for a revoke


class KafkaSource:
    """The consumer of this process."""

    def __init__(
        self,
        settings: Kafka,
        topics: Sequence[str],
        *,
        ledger: Ledger,
        status: Status,
        metrics: Metrics,
        hooks: RevokeHooks,
        retry_seconds: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
        lease: Lease,
    ) -> None:
        """`lease` must be the one that the ledger uses."""
        self._settings = settings
        self._ledger = ledger
        self._status = status
        self._metrics = metrics
        self._hooks = hooks
        self._lease = lease
        self._clock = clock
        self._wall = wall
        self._consumer: Any = None
        self._client_metrics = ClientMetrics(metrics, clock, wall, self._make_heartbeats)
        self._first_offsets = FirstOffsets(
            settings, status=status, metrics=metrics, retry_seconds=retry_seconds, clock=clock
        )
        self._leaders = Leaders(status, clock)
        self._topics = Topics(status, clock)
        self._joins = Joins(settings, retry_seconds, clock)
        self._repeats = Repeats(clock)
        self._unreadable = UnreadablePartitions(status, retry_seconds, clock)
        self._denied = DeniedTopics(ledger, status, retry_seconds, clock)
        self._subscription = Subscription(topics, self._topics, count_error=self._count, clock=clock)
        self._membership = Membership(
            settings,
            lease,
            self._joins,
            abort=lambda: hooks.abort(None),
            clock=clock,
            heartbeat_refusal=lambda: "" if self._heartbeats is None else self._heartbeats.refusal,
        )
        metrics.coordinator_unavailable.set_function(self._membership.coordinator_away_seconds)
        self._positions = Positions(
            settings,
            topics,
            ledger=ledger,
            metrics=metrics,
            first_offsets=self._first_offsets,
            unreadable=self._unreadable,
            wake=hooks.wake,
        )
        self._commits = Commits(
            ledger,
            metrics,
            count_error=self._count,
            on_fenced=self._membership.fence,
            clock=clock,
            wall=wall,
            show=functools.partial(status.warn, "commits refused"),
        )
        self._handover = Handover(
            revoke_seconds=settings.revoke_seconds,
            lease=lease,
            ledger=ledger,
            metrics=metrics,
            hooks=hooks,
            commits=self._commits,
            on_end=self._forget,
            clock=clock,
        )
        self._heartbeats: Heartbeats | None = None  # of the newest consumer
        self._paused: frozenset[Partition] = frozenset()
        self._steered: tuple[object, ...] = ()  # what the last full `steer` depended on

    def _make_heartbeats(self, **client: Any) -> Heartbeats:
        interval = client_config.group(self._settings)["heartbeat_interval_ms"] / 1000
        heartbeats = Heartbeats(
            self._lease,
            interval,
            on_renewed=self._hooks.wake,
            on_expelled=self._note_expelled,
            on_fenced=lambda: self._note_fenced(heartbeats),
            on_commit_answered=self._commits.note_answer,
            **client,
        )
        self._heartbeats = heartbeats
        return heartbeats

    def _note_fenced(self, heartbeats: Heartbeats) -> None:
        """Note that another process has this one's name. A consumer that was replaced was fenced by its successor here."""
        if heartbeats is self._heartbeats:
            self._count(kafka_errors.FencedInstanceIdError())
            self._membership.fence()

    def _note_expelled(self) -> None:
        """Let the client give up what it owned before it joins again. The client's IO thread calls it."""
        if (consumer := self._consumer) is not None:
            client_internals.begin_join_again(consumer)

    def _forget(self, partition: Partition) -> None:
        """Forget what was known of a partition that is no longer owned. The client's IO thread calls it too."""
        self._status.forget(*partition)
        self._unreadable.drop(partition)
        self._commits.forget(partition)

    def _count(self, error: BaseException) -> None:
        if isinstance(error, kafka_errors.RebalanceInProgressError):
            return  # not an error: the request is repeated after the rebalance
        self._metrics.kafka_errors.labels(client_config.kind_of(error)).inc()

    # -- starting

    def start(self) -> None:
        """Connect and subscribe. Raises `BrokerUnavailable`, after which it may be called again."""
        try:
            consumer = connect(
                self._settings,
                make_client=self._client_metrics.make_client,
                max_poll_records=MAX_POLL_RECORDS,
                subscribe=lambda made: self._subscription.begin(made, self._listener_of(made)),
                count_error=self._count,
            )
        except BrokerUnavailable:
            self._membership.forget_coordinator()
            raise
        self._first_offsets.drop()
        self._commits.reset()
        self._membership.begin()
        self._steered = ()
        self._consumer = consumer

    def _listener_of(self, consumer: Any) -> RebalanceListener:
        return RebalanceListener(self._handover, consumer, lambda: consumer is self._consumer)

    @property
    def is_member(self) -> bool:
        """Whether the group was joined."""
        return self._membership.is_member

    @property
    def waits_for(self) -> str:
        """What a process that is no member waits for, with the group's reason where it refuses."""
        return self._membership.waits_for

    # -- reading

    def poll(self, timeout: float) -> list[Polled]:
        """Return messages of open partitions that are still owned, waiting `timeout` seconds at most."""
        self._metrics.last_poll.set(self._wall())
        if wait := min(timeout, self._joins.wait_seconds):
            self._membership.abort_when_lease_runs_out()
            time.sleep(wait)  # the group refused the join a moment ago
            return []
        before = self._ledger.newest_epoch
        started = self._clock()
        self._first_offsets.ask(self._consumer)
        if self._first_offsets.is_soon:
            timeout = min(timeout, _SOON_SECONDS)
        records = self._poll_client(timeout)
        self._membership.raise_if_fenced()
        self._membership.excuse(self._clock() - started - timeout - _SLOW_POLL_SECONDS)
        if problem := self._membership.watch(self._consumer):
            self._metrics.kafka_errors.labels("group").inc()
            self._abandon()
            raise BrokerUnavailable(problem)
        self._watch_partitions()
        polled = []
        for tp, messages in records.items():
            partition = Partition(tp.topic, tp.partition)
            assignment = self._ledger.assignment(partition)
            if assignment is not None and assignment.epoch <= before:
                polled.append(Polled(assignment, messages))
                self._note_leader_epochs(assignment, messages)
                self._topics.note_read(partition.topic)
        return polled

    def _poll_client(self, timeout: float) -> Mapping[TopicPartition, Sequence[Any]]:
        """Return the messages that the client has fetched. If it raises an error, recover from that."""
        try:
            client_internals.hand_over_parked_fetches(self._consumer)
            records: dict[TopicPartition, Sequence[Any]] = self._consumer.poll(timeout_ms=max(0, round(timeout * 1000)))
            deferred = client_internals.pop_deferred_error(self._consumer)
        except Exception as error:  # the client raises errors of every kind, also a codec's
            self._poll_failed(error)
            self._positions.seek_back(self._consumer)  # the messages of other partitions may be lost with it
            return {}
        if deferred is not None:
            self._poll_failed(deferred)
        return records

    def _note_leader_epochs(self, assignment: Assignment, messages: Sequence[Any]) -> None:
        """Enter the leader's epoch of messages into the ledger. It changes only with an election, and only rises."""
        known = assignment.leader_epochs[-1][1] if assignment.leader_epochs else None
        if messages[0].leader_epoch == messages[-1].leader_epoch == known:
            return
        behind = assignment.position
        for message in messages:
            if message.leader_epoch != known:
                known = message.leader_epoch
                self._ledger.note_leader_epoch(assignment, behind, known)
            behind = message.offset + 1

    def _watch_partitions(self) -> None:
        """Check what is assigned: its topics, its leaders, its first offsets."""
        self._positions.watch_recreated_topics(self._consumer)
        self._subscription.watch(self._consumer)
        self._leaders.look(self._consumer, self._ledger.assignments())
        self._denied.watch(self._consumer)
        self._unreadable.watch(self._consumer)
        self._first_offsets.ask(self._consumer)
        self._positions.apply_resets(self._consumer)

    # -- errors

    def _poll_failed(self, error: Exception) -> None:
        self._count(error)
        try:
            if not self._recover(error):
                if self._repeats.admit(client_config.describe(error)):
                    log.warning(
                        "poll failed",
                        extra={"error": client_config.describe(error), "left_out": self._repeats.left_out},
                    )
                time.sleep(_ERROR_WAIT_SECONDS)
        except kafka_errors.KafkaError as another:  # the next poll raises the first error again
            self._count(another)
            log.warning(
                "poll failed, and the recovery from it failed too",
                extra={"error": f"{client_config.describe(error)}; {client_config.describe(another)}"},
            )
            time.sleep(_ERROR_WAIT_SECONDS)

    def _recover(self, error: Any) -> bool:
        """Recover from an error of poll. Return False if all that can be done is to poll again."""
        if isinstance(error, kafka_errors.FencedInstanceIdError):
            self._membership.fence()
        elif isinstance(error, kafka_errors.OffsetOutOfRangeError):
            for tp, offset in dict(error.args[0]).items():
                self._positions.search_reset(self._consumer, Partition(tp.topic, tp.partition), int(offset))
        elif isinstance(error, kafka_errors.LogTruncationError):
            for tp, divergent in error.divergent_offsets.items():
                self._positions.truncate(self._consumer, Partition(tp.topic, tp.partition), divergent)
        elif isinstance(error, kafka_errors.TopicAuthorizationFailedError):
            self._denied.block(self._consumer, error)
        else:
            return self._joins.note_refusal(error) or self._unreadable.stop_reading(self._consumer, error)
        return True

    # -- what the main loop asks for

    def open(self, assignment: Assignment) -> bool:
        """Begin reading a partition at its committed offset; return False where that cannot be known yet."""
        return self._positions.open(self._consumer, assignment)

    def refuse(self, assignment: Assignment, problem: str) -> None:
        """Treat what was polled of a partition as unreadable: block it, and read it again from its position later."""
        position = assignment.position
        if seek(self._consumer, assignment.partition, position, assignment.leader_epoch_at(position)):
            self._unreadable.block(assignment.partition, position, problem)

    def steer(self, fetch: Mapping[Assignment, bool]) -> None:
        """Fetch the partitions that are mapped to True, as far as they can be read, and pause all others."""
        if self._consumer is None:
            return
        waiting = self._leaders.without | self._first_offsets.resetting | self._unreadable.waiting
        denied = self._denied.waiting
        steered = (dict(fetch), waiting, denied, self._ledger.newest_epoch)
        if steered == self._steered:
            return  # to ask the client about each partition takes longer than the rest of a turn
        assigned, paused = self._consumer.assignment(), self._consumer.paused()
        wanted = {
            TopicPartition(*assignment.partition): is_wanted
            and assignment.partition not in waiting
            and assignment.partition.topic not in denied
            for assignment, is_wanted in fetch.items()
            if assignment.phase is Phase.OPEN  # of any other the client does not know where to read
        }
        for tp in assigned:
            is_wanted = wanted.get(tp, False)
            if is_wanted == (tp in paused):
                with contextlib.suppress(*GONE):
                    (self._resume if is_wanted else self._consumer.pause)(tp)
        self._paused = frozenset(Partition(*tp) for tp in assigned if not wanted.get(tp, False))
        self._metrics.paused_partitions.set(len(self._paused))
        self._steered = steered

    def _resume(self, tp: TopicPartition) -> None:
        partition = Partition(*tp)
        if self._unreadable.is_retried(partition) or self._denied.is_retried(partition):
            client_internals.drop_parked(self._consumer, tp)
        self._consumer.resume(tp)

    @property
    def paused(self) -> frozenset[Partition]:
        """The partitions that are not fetched, as `steer` last left them."""
        return self._paused

    def positions(self, assignments: Iterable[Assignment]) -> None:
        """Enter into the ledger how far partitions with nothing outstanding were read."""
        self._positions.advance(self._consumer, assignments)

    def commit(self, offsets: Mapping[Assignment, int]) -> bool:
        """Begin a commit, whose result enters the ledger later; return False where none can be begun now."""
        return self._commits.begin(self._consumer, offsets)

    def commit_now(self, offsets: Mapping[Assignment, int], timeout: float) -> bool:
        """Commit and wait `timeout` seconds at most; return whether the broker acknowledged."""
        if self._consumer is None or not offsets:
            return not offsets
        return self._commits.commit_now(self._consumer, offsets, timeout)

    # -- the end

    def close(self, timeout: float) -> None:
        """Give back all partitions and leave the group, within about `timeout` seconds."""
        if self._consumer is not None:
            # Half for the commit of what moved since the last one, half for leaving.
            self._handover.commit_seconds = timeout / 2
            with contextlib.suppress(Exception):  # what was not committed comes again anyway
                self._consumer.close(autocommit=False, timeout_ms=max(1, round(timeout * 500)))
            self._handover.commit_seconds = COMMIT_SECONDS
            self._consumer = None
        self._metrics.paused_partitions.set(0)
        self._membership.leave()

    def _abandon(self) -> None:
        """Drop a consumer that is no member any more, and all its assignments."""
        consumer, self._consumer = self._consumer, None
        self._membership.end()
        if owned := self._ledger.assignments():
            self._handover.lose(owned)
        self._metrics.paused_partitions.set(0)
        client_config.close_consumer(consumer)
