"""The consumer: poll, pause, commit, and what a rebalance does to the ledger.

With `wire` and `client_figures`, which look inside it, the only module that knows kafka-python's consumer. What is not
obvious about it:

- A newly assigned partition is parked: paused, at offset 0. The main loop opens it by asking for its committed offset
  and seeking there. So nothing is read of a partition before its first offset is known, what a poll that began before a
  rebalance brings of it can be told and dropped, and the client never resets a position without being asked: its own
  `auto_offset_reset` is always "none", ours is applied here, where what it skips can be counted.
- The rebalance listener runs on the client's IO thread, and may await nothing but the client's own futures and timers.
  It touches the ledger and `commit_async`, nothing else.
- Any join that the metadata or a changed subscription asked for can be lost by the client for good, while `poll` goes
  on as if nothing were wrong. The metadata is therefore loaded before the first join, and a member that is not stable
  for a session time-out is made anew.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState

from worker.consumer import client_config, client_internals, receive
from worker.consumer import topics as topics_there
from worker.consumer.client_metrics import ClientFigures
from worker.consumer.heartbeats import Heartbeats
from worker.consumer.joins import JOINING, NO_COORDINATOR, Joins
from worker.consumer.leaders import Leaders
from worker.consumer.offset_policy import FirstOffsets, Reset
from worker.consumer.repeats import Repeats
from worker.errors import BlockReason, BrokerUnavailable, FatalError, Fenced
from worker.lease import Lease
from worker.ledger import Assignment, Ledger, Partition, Phase
from worker.ports import Polled
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, Status

log = logging.getLogger("worker.source")


MAX_POLL_RECORDS: Final = 500


_CALL_TIMEOUT_MS: Final = 1_000  # of a call that waits on the main loop


_START_TIMEOUT_MS: Final = 5_000  # likewise, while there is nothing else to do


_SOON_SECONDS: Final = 0.05  # a poll's time-out while an answer is to come that opens partitions


_ERROR_PAUSE_SECONDS: Final = 0.2  # after an error of poll, which may come again at once


_REVOKE_LOOK_SECONDS: Final = 0.02


_ABORT_SECONDS: Final = 1.0  # for requests to end whose connection was cut


_STOPPING_SECONDS: Final = (
    0.5  # instead of either of the two, once the worker is told to stop: the main loop stands still
)


_HAND_OVER_SECONDS: Final = 5.0  # for the answer to the last commit of partitions that go


_COMMIT_LOST_SECONDS: Final = 30.0


# What the client raises for a partition that it does not own any more: it changes its assignment on its own thread.
_GONE: Final = (kafka_errors.KafkaError, AssertionError, KeyError, ValueError)


_COORDINATOR_GRACE_SECONDS: Final = 3.0  # to find the group's coordinator, which takes a moment at each start


_WATCH_SECONDS: Final = 1.0  # between looks at the membership, once joined


# Of the client's errors those that tell of what a partition holds; "UnknownError" is what a broker answers whose own
# reading of a file failed in a way that it has no number for.
_UNREADABLE: Final = (
    kafka_errors.CorruptRecordError,
    kafka_errors.UnsupportedCodecError,
    kafka_errors.UnknownError,
)


class _Unreadable(NamedTuple):
    """Where a partition cannot be read, and when to look again, in the clock's seconds."""

    offset: int
    again_at: float


class RevokeHooks(NamedTuple):
    """What a revocation asks of those who send: `wake` those that wait, `abort` those on the wire.

    `is_stopping` tells whether the worker is to stop.
    """

    wake: Callable[[], None]
    abort: Callable[[], None]
    is_stopping: Callable[[], bool] = lambda: False


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
        lease: Lease | None = None,
    ) -> None:
        """`lease` is the one that the ledger asks; without one, this has its own, to tell when the membership is over."""
        self._settings = settings
        self._lease = lease or lease_of(settings)
        self._was_cut = True  # what was on the wire when the lease ran out; there is none to begin with
        self._retry_seconds = retry_seconds
        self._unreadable: dict[Partition, _Unreadable] = {}
        self._topics = tuple(topics)
        self._paused: frozenset[Partition] = frozenset()
        self._ledger = ledger
        self._status = status
        self._metrics = metrics
        self._hooks = hooks
        self._clock = clock
        self._wall = wall
        self._figures = ClientFigures(metrics, clock, wall, self._make_heartbeats)
        self._consumer: Any = None
        self._committing_since: float | None = None
        self._stable_at = self._member_at = clock()  # when it last was a member; when it last was, or was about to be
        self._coordinated_at = clock()  # when the group's coordinator was last known and connected
        self._joined = False
        self._watch_again_at = 0.0
        self._fenced: Fenced | None = None
        self._hand_over_seconds = _HAND_OVER_SECONDS
        self._topic_ids: dict[str, object] = {}
        self._of_new_topics: set[Partition] = set()
        self._firsts = FirstOffsets(settings, status=status, metrics=metrics, retry_seconds=retry_seconds, clock=clock)
        self._leaders = Leaders(status, clock)
        self._routed = topics_there.Topics(status, clock)
        self._joins = Joins(settings, retry_seconds, clock)
        self._repeats = Repeats(clock)
        self._steered: tuple[object, ...] = ()
        self._denied: dict[str, float] = {}  # topics that may not be read, and when to try again

    def _make_heartbeats(self, **client: Any) -> Heartbeats:
        interval = client_config.group(self._settings)["heartbeat_interval_ms"] / 1000
        return Heartbeats(self._lease, interval, on_renewed=self._hooks.wake, **client)

    # -- membership

    def start(self) -> None:
        """Connect and subscribe. Raises `BrokerUnavailable`, after which it may be called again."""
        tried = ", ".join(self._settings.bootstrap_servers)
        try:
            consumer = client_config.make_consumer(
                self._figures.make_client,
                **client_config.consumer(self._settings, KafkaConsumer.DEFAULT_CONFIG),
                **client_config.group(self._settings),
                auto_offset_reset="none",
                max_poll_records=MAX_POLL_RECORDS,
                partition_assignment_strategy=[CooperativeStickyAssignor],
            )
        except (kafka_errors.KafkaError, OSError, ValueError) as error:
            self._count(error)
            raise BrokerUnavailable(f"kafka at {tried}: {client_config.describe(error)}") from error
        if missing := client_internals.missing_parts(consumer):
            client_config.close_consumer(consumer)
            raise FatalError(
                f"kafka-python has no {', '.join(missing)}; install the version that this package asks for"
            )
        receive.read_in_place(consumer)
        try:
            self._subscribe(consumer)
        except (kafka_errors.KafkaError, BrokerUnavailable) as error:
            unreachable = client_internals.unreachable(consumer)
            client_config.close_consumer(consumer)
            if isinstance(error, BrokerUnavailable):
                raise
            self._count(error)
            problem = client_config.describe(error)
            if unreachable:
                problem = f"{client_config.wrongly_advertised(unreachable)} ({problem})"
            raise BrokerUnavailable(f"kafka at {tried}: {problem}") from error
        self._firsts.drop()
        self._steered = ()
        self._consumer = consumer
        self._committing_since = None
        self._stable_at = self._member_at = self._coordinated_at = self._clock()

    def _subscribe(self, consumer: Any) -> None:
        """Subscribe, and load the metadata of every topic before the first join.

        In this order: the client compares metadata with what a join was made of, and notes it only for topics that it is
        subscribed to. Metadata that comes after the first join asks for a second one, which can be lost.
        """
        absent = client_internals.wait(consumer, topics_there.ask_absent(consumer, self._topics), _START_TIMEOUT_MS)
        if len(absent) == len(set(self._topics)):
            raise self._all_absent(absent)
        self._routed.begin(self._topics, absent)
        self._listener = _Listener(self, consumer)
        consumer.subscribe(topics=self._routed.present, listener=self._listener)
        self._load_metadata(consumer, _START_TIMEOUT_MS)

    def _all_absent(self, absent: Mapping[str, str]) -> BrokerUnavailable:
        denied = [topic for topic, reason in absent.items() if reason == topics_there.DENIED]
        if denied:
            self._metrics.kafka_errors.labels("authorization").inc()
            return BrokerUnavailable(
                f"kafka does not show this user: {', '.join(denied)}; grant READ, or mend the routes"
            )
        return BrokerUnavailable(f"kafka has no such topic: {', '.join(absent)}; make it, or mend the routes")

    def _load_metadata(self, consumer: Any, timeout_ms: int) -> None:
        """Wait until the partitions of all topics that are there are known. Raises kafka-python's errors."""
        client_internals.set_topics(consumer, self._routed.present)
        deadline = self._clock() + timeout_ms / 1000
        while not all(client_internals.partitions(consumer, topic) for topic in self._routed.present):
            remaining_ms = round((deadline - self._clock()) * 1000)
            if remaining_ms <= 0:
                raise kafka_errors.KafkaTimeoutError("the topics' partitions are not known")
            client_internals.wait(consumer, client_internals.refresh_metadata(consumer), remaining_ms)

    def _watch_absent_topics(self) -> None:
        """Take up a topic that has appeared, and leave one that has gone; the others are read meanwhile."""
        if not self._routed.look(self._consumer) or not self._routed.present:
            return
        try:
            self._load_metadata(self._consumer, _CALL_TIMEOUT_MS)
        except Exception as error:  # the client raises what it meets
            self._count(error)  # they come with the next metadata, and the group is joined again for them
        self._consumer.subscribe(topics=self._routed.present, listener=self._listener)

    @property
    def is_member(self) -> bool:
        """Tell whether the group was joined."""
        return self._joined

    @property
    def waits_for(self) -> str:
        """What a process that is no member waits for, with the group's reason where it refuses."""
        return f"{JOINING}: {NO_COORDINATOR}" if self._has_no_coordinator else self._joins.waits_for

    @property
    def _has_no_coordinator(self) -> bool:
        """Tell whether nobody can answer a join: not for a moment, as at each start."""
        return not self._joins.refusal and self._clock() - self._coordinated_at >= _COORDINATOR_GRACE_SECONDS

    def _watch_membership(self) -> None:
        """Make a member anew that is none: one whose heartbeats are not answered, or a join that the client lost.

        It is none one session after the last answered heartbeat was sent, when the group gives its partitions to others.
        """
        now = self._clock()
        if client_internals.has_coordinator(self._consumer):
            self._coordinated_at = now
        self._cut_once_the_lease_has_run_out()
        if self._joined and now < self._watch_again_at and self._lease.holds():
            return
        self._watch_again_at = now + _WATCH_SECONDS
        age = self._lease.age()
        if self._consumer.group_metadata().state == MemberState.STABLE and age < self._lease.session_seconds:
            self._stable_at = self._member_at = now - age
            self._joined = True
        elif self._is_joining() and now - self._stable_at < self._longest_join_seconds():
            self._member_at = now
        elif (now - self._member_at if age == math.inf else age) >= self._lease.session_seconds:
            self._metrics.kafka_errors.labels("group").inc()
            problem = f"no member of the group for {now - self._stable_at:.0f} s; joining anew"
            if self._has_no_coordinator:
                problem = f"{problem}: {NO_COORDINATOR}"
            self._abandon()
            raise BrokerUnavailable(problem)

    def _cut_once_the_lease_has_run_out(self) -> None:
        """Cut what is on the wire, as a revoke does: others may write newer versions soon."""
        if self._lease.holds():
            self._was_cut = False
        elif not self._was_cut:
            self._was_cut = True
            log.warning(
                "no heartbeat was answered for most of kafka.session_timeout_ms: nothing is written until one is; "
                "look at the way to the brokers, and whether this process was frozen",
                extra={"session_timeout_ms": self._settings.session_timeout_ms},
            )
            self._hooks.abort()

    def _is_joining(self) -> bool:
        """Tell whether the broker still owes the answer to a join: it waits for the other members' joins as long as they may take.

        Of a join that the client lost the answer has come, and nobody took it.
        """
        join = self._consumer._coordinator._join_task  # noqa: SLF001 - the client tells it nowhere else; a test holds it
        return join is not None and not join.is_done

    def _longest_join_seconds(self) -> float:
        return (self._settings.max_poll_interval_ms + self._settings.session_timeout_ms) / 1000

    def _watch_topics(self) -> None:
        """Begin a topic from its start that was deleted and made anew, for none of its offsets is what it was.

        The client goes on where it stood, or takes it for a log that was cut; brokers before 2.8 do not let us tell.
        """
        cluster = self._consumer._cluster  # noqa: SLF001 - the client tells its topics' ids nowhere else; a test holds it
        for topic in self._topics:
            found = cluster.topic_id(topic)
            if found is None:
                continue
            known = self._topic_ids.setdefault(topic, found)
            if known == found:
                continue
            self._topic_ids[topic] = found
            log.error("topic made anew: reading it from its start", extra={"topic": topic})
            for assignment in self._ledger.assignments():
                if assignment.partition.topic == topic:
                    self._of_new_topics.add(assignment.partition)
                    self._open_anew(assignment.partition)

    def _open_anew(self, partition: Partition) -> None:
        """Fence what there is of a partition, and leave it to the main loop to open it."""
        assignment = self._ledger.assignment(partition)
        if assignment is not None:
            self._forget_unreadable(partition)
            with contextlib.suppress(*_GONE):
                _park(self._consumer, TopicPartition(*partition))
                self._ledger.reassign(assignment)

    def _seek(self, partition: Partition, offset: int, leader_epoch: int = -1) -> bool:
        """Go on reading at `offset`; False where the partition is being given back.

        With the epoch of what is before it, the client asks the leader whether its log goes on there, before it reads.
        """
        tp = TopicPartition(*partition)
        try:
            if leader_epoch >= 0 and client_internals.leaders_know_epochs(self._consumer):
                client_internals.seek(self._consumer, tp, OffsetAndMetadata(offset, "", leader_epoch))
            else:
                client_internals.seek(self._consumer, tp, offset)
        except _GONE:
            return False
        return True

    def _begin_anew(self, assignment: Assignment, offset: int, leader_epoch: int = -1) -> None:
        """Fence what was read of a partition, and read it from `offset`, which may be lower."""
        anew = self._ledger.reassign(assignment)
        if anew is not None:
            self._forget_unreadable(assignment.partition)
            self._ledger.open(anew, offset, None, leader_epoch)
            self._seek(assignment.partition, offset, leader_epoch)

    def _abandon(self) -> None:
        """Drop a consumer that is no member any more, with all that it had."""
        consumer, self._consumer = self._consumer, None
        self._lease.end()
        self._was_cut = True
        if owned := self._ledger.assignments():
            self._lose(owned)
        self._metrics.paused_partitions.set(0)
        self._joined = False
        client_config.close_consumer(consumer)

    # -- reading

    def poll(self, timeout: float) -> list[Polled]:
        """Return messages of open partitions that are still owned, waiting `timeout` seconds at most."""
        self._metrics.last_poll.set(self._wall())
        if wait := min(timeout, self._joins.wait_seconds):
            self._cut_once_the_lease_has_run_out()
            time.sleep(wait)  # the group refused the join a moment ago
            return []
        before = self._ledger.newest_epoch
        started = self._clock()
        self._firsts.ask(self._consumer)
        if self._firsts.is_soon:
            timeout = min(timeout, _SOON_SECONDS)
        try:
            self._clear_the_way()
            records = self._consumer.poll(timeout_ms=max(0, round(timeout * 1000)))
            deferred = self._deferred_error()
        except Exception as error:  # the client raises what it meets, a codec's errors among it
            records, deferred = {}, error
        if deferred is not None:
            self._poll_failed(deferred)
        if self._fenced is not None:
            raise self._fenced
        self._member_at += max(0.0, self._clock() - started - timeout - 1.0)  # in which a revoke was waited for
        if self._joins.refusal and self._consumer.group_metadata().state == MemberState.STABLE:
            self._joins.joined()
        if self._joined or not self._joins.refusal:  # a join that is refused was not lost
            self._watch_membership()
        self._watch_partitions()
        polled = []
        for tp, messages in records.items():
            partition = Partition(tp.topic, tp.partition)
            assignment = self._ledger.assignment(partition)
            if assignment is not None and assignment.epoch <= before:
                polled.append(Polled(assignment, messages))
                self._note_leader_epochs(assignment, messages)
                self._note_read(partition, messages[-1].offset)
                self._routed.note_read(partition.topic)
        return polled

    def _note_leader_epochs(self, assignment: Assignment, messages: Sequence[Any]) -> None:
        """Enter which leader's epoch messages are of. It changes with elections alone, and does not go back."""
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
        """Look after what is assigned: its topics, its leaders, its first offsets."""
        self._watch_topics()
        self._watch_absent_topics()
        self._leaders.look(self._consumer, self._ledger.assignments())
        self._watch_denied_topics()
        self._firsts.ask(self._consumer)
        for reset in self._firsts.found_resets():
            self._apply(reset)

    def _clear_the_way(self) -> None:
        """Let the client hand over what it put aside of partitions that were paused meanwhile.

        1. A partition is paused while the client holds the rest of a fetch of it. The client puts that aside.
        2. Another one's fetch is handed over to its end; it stays "in line", with nothing left in it.
        3. The first is resumed. What was put aside comes back only when nothing is in line, and what is put aside is
           not fetched again: it is read no more, though nothing is paused, until chance empties the line.
        """
        fetcher = self._consumer._fetcher  # noqa: SLF001 - there is no other way; a test holds it
        if fetcher._next_partition_records is not None and not fetcher._next_partition_records:  # noqa: SLF001 - likewise
            fetcher._next_partition_records = None  # noqa: SLF001 - likewise

    def _deferred_error(self) -> Exception | None:
        """Return the error that the client met behind the records which it returned, and would raise at the next poll.

        1. A poll returns records of one partition, and keeps the error of another's batch for the next.
        2. Before that the other is paused, and the client forgets the error, but not the batch, whose end never comes.
        3. It is resumed, and `poll` does not return any more.
        """
        fetcher = self._consumer._fetcher  # noqa: SLF001 - see above; a test holds it
        deferred, fetcher._next_in_line_exception_metadata = fetcher._next_in_line_exception_metadata, None  # noqa: SLF001 - likewise
        error: Exception | None = None if deferred is None else deferred.exception
        return error

    def _poll_failed(self, error: Exception) -> None:
        self._count(error)
        try:
            if not self._is_mended(error):
                if self._repeats.is_due(client_config.describe(error)):
                    extra = {"error": client_config.describe(error), "left_out": self._repeats.left_out}
                    log.warning("poll failed", extra={**extra})
                time.sleep(_ERROR_PAUSE_SECONDS)
        except kafka_errors.KafkaError as another:  # the next poll meets the first one again
            self._count(another)
            log.warning(
                "poll failed, and so did what it asked for",
                extra={"error": f"{client_config.describe(error)}; {client_config.describe(another)}"},
            )
            time.sleep(_ERROR_PAUSE_SECONDS)

    def _is_mended(self, error: Exception) -> bool:
        """Do what an error of poll asks for; False where that is nothing but to try again."""
        if isinstance(error, kafka_errors.FencedInstanceIdError):
            self._note_fenced()
        elif isinstance(error, kafka_errors.OffsetOutOfRangeError):
            for tp, offset in dict(error.args[0]).items():
                self._out_of_range(Partition(tp.topic, tp.partition), int(offset))
        elif isinstance(error, kafka_errors.LogTruncationError):
            self._all_truncated(error)
        elif isinstance(error, kafka_errors.TopicAuthorizationFailedError):
            self._may_not_read(error)
        elif self._joins.is_refusal(error):
            pass
        else:
            return self._is_unreadable(error)
        return True

    def _is_unreadable(self, error: Exception) -> bool:
        """Stop reading the partition whose batch cannot be read, and look again later; the others go on.

        Asked again for what it could not read the client would never come to an end, so it is made to drop it.
        """
        is_of_the_client = isinstance(error, kafka_errors.KafkaError) and type(error) is not kafka_errors.KafkaError
        if is_of_the_client and not isinstance(error, _UNREADABLE):
            return False
        place = _place_of(error)
        if place is None:
            return False
        tp, offset = place
        in_line = self._consumer._fetcher._next_partition_records  # noqa: SLF001 - see above; a test holds it
        if in_line is not None and in_line.topic_partition == tp:
            in_line.drain()
        self._cannot_read(Partition(tp.topic, tp.partition), offset, client_config.describe(error))
        return True

    def _cannot_read(self, partition: Partition, offset: int, problem: str) -> None:
        self._unreadable[partition] = _Unreadable(offset, self._clock() + self._retry_seconds)
        self._status.block(_unreadable_block(partition), f"{partition} offset {offset}: {problem}")

    def refuse(self, assignment: Assignment, problem: str) -> None:
        """Hold what was polled of a partition for unreadable: block it, and read it again from its position later."""
        position = assignment.position
        if self._seek(assignment.partition, position, assignment.leader_epoch_at(position)):
            self._cannot_read(assignment.partition, position, problem)

    def _note_read(self, partition: Partition, offset: int) -> None:
        """Tell that a partition is readable again, once a record is there from where it was not."""
        if partition in self._unreadable and offset >= self._unreadable[partition].offset:
            self._forget_unreadable(partition)

    def _forget_unreadable(self, partition: Partition) -> None:
        """Forget that a partition was not readable: it is, or another log has its place, whose offsets may never come so far."""
        if self._unreadable.pop(partition, None) is not None:
            self._status.unblock(_unreadable_block(partition))

    def _all_truncated(self, error: Any) -> None:
        for tp, divergent in error.divergent_offsets.items():
            self._truncated(Partition(tp.topic, tp.partition), divergent)

    def _truncated(self, partition: Partition, divergent: Any) -> None:
        """The log was cut behind what was read of it: go on from where it goes on."""
        assignment = self._ledger.assignment(partition)
        if assignment is None:
            return
        if assignment.phase is Phase.OPENING or divergent is None:
            # From what is committed it is asked again, as often as it takes; the client has forgotten it by now.
            log.error("log truncated, and where is not known: opening it again", extra={"partition": str(partition)})
            self._open_anew(partition)
            return
        position, target = assignment.position, int(divergent.offset)
        self._note_truncated(partition, position, target)
        self._begin_anew(assignment, target, int(divergent.leader_epoch))

    def _note_truncated(self, partition: Partition, position: int, target: int) -> None:
        """Count and log what a log lost that was cut: it was read, and whoever needs it has to publish it again."""
        self._metrics.truncated_offsets.labels(partition.topic).inc(max(0, position - target))
        if target > position:
            reason = "reset_latest" if self._settings.auto_offset_reset == "latest" else "retention"
            self._metrics.skipped_offsets.labels(partition.topic, reason).inc(target - position)
        log.error("log truncated", extra={"partition": str(partition), "from": position, "to": target})

    def _note_fenced(self) -> None:
        self._fenced = Fenced(
            f"another process joined the group {self._settings.group_id!r} with "
            f"kafka.group_instance_id = {self._settings.group_instance_id!r}; each replica needs a value of its own"
        )

    def _out_of_range(self, partition: Partition, position: int) -> None:
        """What was to be read next is gone, or never was: find where `auto_offset_reset` says to go on."""
        assignment = self._ledger.assignment(partition)
        if assignment is None:
            return
        if self._settings.auto_offset_reset == "none":
            self._open_anew(partition)
            return
        if partition not in self._firsts.resetting:
            with contextlib.suppress(*_GONE):
                self._consumer.pause(TopicPartition(*partition))  # it would be met again with every poll
            self._firsts.search_reset(assignment, position)

    def _apply(self, reset: Reset) -> None:
        """Go on where `auto_offset_reset` says, and count what that skips."""
        (topic, number), position, target = reset.assignment.partition, reset.position, reset.target
        reason = "retention" if self._settings.auto_offset_reset == "earliest" else "reset_latest"
        self._metrics.skipped_offsets.labels(topic, reason).inc(max(0, target - position))
        log.error("offset out of range", extra={"topic": topic, "partition": number, "from": position, "to": target})
        if target < position:  # the topic was made anew, or cut: what follows has lower offsets than what is tracked
            self._begin_anew(reset.assignment, target)
        else:
            self._seek(reset.assignment.partition, target)

    def open(self, assignment: Assignment) -> bool:
        """Begin reading a partition at its committed offset; False where that cannot be known yet."""
        partition = assignment.partition
        first = self._firsts.first_of(assignment, is_new_topic=partition in self._of_new_topics)
        if first is None:
            return False
        committed = None if first.committed is None else int(first.committed.offset)
        position, leader_epoch = first.position, first.leader_epoch
        is_there = self._seek(partition, position, leader_epoch)
        if not (is_there and self._ledger.open(assignment, position, committed, leader_epoch)):
            return False
        self._of_new_topics.discard(partition)
        if first.is_truncated and committed is not None:
            self._note_truncated(partition, committed, position)
        self._metrics.skipped_offsets.labels(partition.topic, "reset_latest").inc(first.skipped)
        return True

    def _may_not_read(self, error: Exception) -> None:
        """Stop fetching a topic that this user may not read any more, and try again later; the others go on."""
        for topic in error.args[0]:
            self._denied[topic] = self._clock() + self._retry_seconds
            message = f"{topic} may not be read by this user any more (TOPIC_AUTHORIZATION_FAILED): grant READ on it"
            for assignment in self._owned_of(topic):
                client_internals.forget_high_watermark(self._consumer, TopicPartition(*assignment.partition))
                self._status.block(_unreadable_block(assignment.partition), message)

    def _watch_denied_topics(self) -> None:
        """Let go of what is readable again: a fetch that succeeds tells a high watermark."""
        for topic, again_at in list(self._denied.items()):
            owned = self._owned_of(topic)
            if self._clock() < again_at:
                continue
            readable = [one for one in owned if self._has_high_watermark(one.partition)]
            for assignment in readable:
                self._status.unblock(_unreadable_block(assignment.partition))
            if len(readable) == len(owned):
                del self._denied[topic]

    def _owned_of(self, topic: str) -> list[Assignment]:
        """Return the open partitions of a topic."""
        owned = self._ledger.assignments()
        return [one for one in owned if one.partition.topic == topic and one.phase is Phase.OPEN]

    def _has_high_watermark(self, partition: Partition) -> bool:
        with contextlib.suppress(*_GONE):
            return self._consumer.highwater(TopicPartition(*partition)) is not None
        return False

    def steer(self, fetch: Mapping[Assignment, bool]) -> int:
        """Fetch those that are mapped to True and pause the others; returns how many are paused."""
        if self._consumer is None:
            return 0
        held = self._held()
        denied = {topic for topic, again_at in self._denied.items() if self._clock() < again_at}
        steered = (dict(fetch), held, denied, self._ledger.newest_epoch)
        if steered == self._steered:
            return len(self._paused)  # asking the client for each partition takes longer than all else of a turn
        assigned, paused = self._consumer.assignment(), self._consumer.paused()
        wanted = {
            TopicPartition(*assignment.partition): fetched
            and assignment.partition not in held
            and assignment.partition.topic not in denied
            for assignment, fetched in fetch.items()
            if assignment.phase is Phase.OPEN  # of one that is not, the client has no offset to read at
        }
        for tp in assigned:
            is_wanted = wanted.get(tp, False)
            if is_wanted == (tp in paused):
                with contextlib.suppress(*_GONE):
                    (self._consumer.resume if is_wanted else self._consumer.pause)(tp)
        self._paused = frozenset(Partition(*tp) for tp in assigned if not wanted.get(tp, False))
        self._metrics.paused_partitions.set(len(self._paused))
        self._steered = steered
        return len(self._paused)

    def _held(self) -> frozenset[Partition]:
        """Return the partitions that are not fetched whatever the main loop wants."""
        now = self._clock()
        unreadable = {partition for partition, found in list(self._unreadable.items()) if now < found.again_at}
        return self._leaders.without | self._firsts.resetting | unreadable

    @property
    def paused(self) -> frozenset[Partition]:
        """The partitions that are not fetched, as `steer` last left them."""
        return self._paused

    def positions(self, assignments: Iterable[Assignment]) -> None:
        """Enter into the ledger how far partitions with nothing outstanding were read."""
        for assignment in assignments:
            position = client_internals.position(self._consumer, TopicPartition(*assignment.partition))
            if position is not None and position.offset > assignment.position:
                self._ledger.advance(assignment, int(position.offset), int(position.leader_epoch))

    # -- commits

    def commit(self, offsets: Mapping[Assignment, int]) -> bool:
        """Begin a commit, whose result enters the ledger later; False where one is under way, or the group rebalances.

        The broker refuses commits in a rebalance; what is revoked in it is committed there.
        """
        now = self._clock()
        if self._committing_since is not None and now - self._committing_since < _COMMIT_LOST_SECONDS:
            return False
        if self._consumer.group_metadata().state != MemberState.STABLE:
            return False
        self._committing_since = now
        sent = dict(offsets)
        try:
            self._consumer.commit_async(_for_client(sent), callback=lambda _, result: self._committed(sent, result))
        except kafka_errors.KafkaError as error:
            self._committed(sent, error)
        return True

    def _committed(self, offsets: dict[Assignment, int], result: object) -> None:
        self._committing_since = None
        if not isinstance(result, BaseException):
            self._metrics.commits.labels("ok").inc()
            self._metrics.last_commit.set(self._wall())
            self._ledger.committed(offsets)
            return
        self._metrics.commits.labels("failed").inc()
        self._count(result)
        if isinstance(result, kafka_errors.FencedInstanceIdError):
            self._note_fenced()
        else:
            log.warning("commit failed", extra={"error": client_config.describe(result)})

    def commit_now(self, offsets: Mapping[Assignment, int], timeout: float) -> bool:
        """Commit and wait `timeout` seconds at most; tells whether the broker acknowledged."""
        sent = dict(offsets)
        if self._consumer is None or not sent:
            return not sent
        try:
            self._consumer.commit(_for_client(sent), timeout_ms=max(1, round(timeout * 1000)))
        except kafka_errors.KafkaError as error:
            self._committed(sent, error)
            return False
        self._committed(sent, None)
        return True

    def close(self, timeout: float) -> None:
        """Give back all partitions and leave the group, within about `timeout` seconds."""
        if self._consumer is not None:
            # Half for the commit of what moved since the last one, half for leaving.
            self._hand_over_seconds = timeout / 2
            with contextlib.suppress(Exception):  # what was settled is committed, and the rest comes again anyway
                self._consumer.close(autocommit=False, timeout_ms=max(1, round(timeout * 500)))
            self._hand_over_seconds = _HAND_OVER_SECONDS
            self._consumer = None
        self._metrics.paused_partitions.set(0)
        self._joined = False

    def _count(self, error: BaseException) -> None:
        if isinstance(error, kafka_errors.RebalanceInProgressError):
            return  # nothing is wrong: what was asked for is asked again after it
        self._metrics.kafka_errors.labels(client_config.kind_of(error)).inc()

    # -- rebalances, on the client's IO thread

    def is_current(self, consumer: Any) -> bool:
        """Tell whether it is the consumer in use, and was not abandoned for another."""
        return consumer is self._consumer

    def assigned(self, consumer: Any, assigned: Iterable[TopicPartition]) -> None:
        """Park what was newly assigned; the main loop opens it."""
        for tp in sorted(assigned):
            with contextlib.suppress(*_GONE):
                _park(consumer, tp)
                self._ledger.assign(Partition(tp.topic, tp.partition))
        self._metrics.rebalances.labels("assigned").inc()
        log.info("partitions assigned", extra={"partitions": _named(assigned)})

    async def revoked(self, consumer: Any, revoked: Iterable[TopicPartition]) -> None:
        """Wait for what is in flight, commit, and end the ownership.

        It may be called again while it still runs, for the same partitions: the second call finds them closing, waits
        with the first, and commits the same.
        """
        partitions = [Partition(tp.topic, tp.partition) for tp in revoked]
        closing = self._ledger.begin_revoke(partitions)
        if not closing:
            return  # before the first join, and once more from close()
        self._metrics.rebalances.labels("revoked").inc()
        await self._land(consumer, closing)
        await self._commit_before_they_go(consumer, closing)
        returned = self._end(closing)
        log.info("partitions revoked", extra={"partitions": _named(revoked), "returned": returned})

    async def _commit_before_they_go(self, consumer: Any, closing: Sequence[Assignment]) -> None:
        """Commit what moved, and wait for the answer, but not for as long as the client would for a silent broker."""
        offsets = {a: at for a, at in self._ledger.watermarks(closing).items() if at != a.committed}
        if not offsets:
            return
        deadline = self._clock() + self._hand_over_seconds
        result: object = None
        try:
            answer = consumer.commit_async(_for_client(offsets))
            while not answer.is_done and self._clock() < deadline:
                await consumer._net.sleep(_REVOKE_LOOK_SECONDS)  # noqa: SLF001 - as in `_land`
            if not answer.is_done:
                raise kafka_errors.KafkaTimeoutError("no answer to the last commit")  # noqa: TRY301 - one way out for all
            await answer
        except Exception as error:  # whatever it is, the partitions go
            result = error
        self._committed(offsets, result)

    def _end(self, assignments: Sequence[Assignment]) -> int:
        """End these periods of ownership, and no later one of a partition that came back meanwhile.

        Returns how many records are returned unsettled.
        """
        returned = self._ledger.end(assignments)
        for assignment in assignments:
            self._status.forget(*assignment.partition)
            self._unreadable.pop(assignment.partition, None)
        self._hooks.wake()
        return returned

    def _end_and_cut(self, assignments: Sequence[Assignment]) -> int:
        """End ownerships that another process may have already, and cut what is on the wire of them.

        In this order: what departs after the end is refused, and what departed before it is cut.
        """
        requests_in_flight = any(assignment.requests_in_flight for assignment in assignments)
        returned = self._end(assignments)
        if requests_in_flight:
            self._hooks.abort()
        return returned

    async def _land(self, consumer: Any, closing: Sequence[Assignment]) -> None:
        """Wait until no request with records of these is on the wire; cut the connections after `revoke_seconds`.

        They are cut at once where the lease runs out meanwhile. The wait is the client's own timer, since nothing else can be awaited on its loop; heartbeats go on meanwhile.
        The main loop, which stands in `poll` or `close` as long, cannot be told to stop by a signal: this looks for it.
        """
        self._hooks.wake()
        deadline = self._clock() + self._settings.revoke_seconds
        aborted = hurried = False
        while any(assignment.requests_in_flight for assignment in closing):
            now = self._clock()
            if not hurried and self._hooks.is_stopping():
                hurried, deadline = True, min(deadline, now + _STOPPING_SECONDS)
            if now >= deadline or not (aborted or self._lease.holds()):
                if aborted:
                    return
                self._hooks.abort()
                aborted, deadline = True, now + (_STOPPING_SECONDS if hurried else _ABORT_SECONDS)
            await consumer._net.sleep(_REVOKE_LOOK_SECONDS)  # noqa: SLF001 - see above; a test holds it

    def lost(self, consumer: Any, lost: Iterable[TopicPartition]) -> None:
        """End the ownership at once: somebody else may have these already, so nothing is committed.

        The client would still claim them when it joins again. Those that the group then gives to another are withheld
        until their owner has let go of them, which it has already: nobody would read them until the next rebalance.
        """
        for assignor in consumer._coordinator._assignors.values():  # noqa: SLF001 - there is no other way; a test holds it
            assignor.member_assignment = None
        self._lose(self._ledger.begin_revoke([Partition(tp.topic, tp.partition) for tp in lost]))

    def _lose(self, assignments: Sequence[Assignment]) -> None:
        """End ownerships that were not given back in order; the alert on lost partitions sees nothing but this count."""
        self._metrics.rebalances.labels("lost").inc()
        returned = self._end_and_cut(assignments)
        partitions = _named(assignment.partition for assignment in assignments)
        log.warning("partitions lost", extra={"partitions": partitions, "returned": returned})


def lease_of(settings: Kafka) -> Lease:
    """Return the lease of a member with these settings, which has none yet."""
    return Lease(settings.session_timeout_ms / 1000, settings.max_poll_interval_ms / 1000)


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """Hands rebalances of one consumer to the source, until that consumer is abandoned."""

    def __init__(self, source: KafkaSource, consumer: Any) -> None:
        self._source = source
        self._consumer = consumer

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        if self._source.is_current(self._consumer):
            self._source.assigned(self._consumer, assigned)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        if self._source.is_current(self._consumer):
            await self._source.revoked(self._consumer, revoked)

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        if self._source.is_current(self._consumer):
            self._source.lost(self._consumer, lost)


def _place_of(error: Exception) -> tuple[TopicPartition, int] | None:
    """Return the partition, and the offset in it, that the client was about to hand over when it failed.

    It says so nowhere but in the variables of its function that hands over.
    """
    place = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "fetched_records":
            variables = trace.tb_frame.f_locals
            if variables.get("fetched_partition") is not None:
                place = variables["fetched_partition"], int(variables["fetched_offset"])
        trace = trace.tb_next
    return place


def _park(consumer: Any, tp: TopicPartition) -> None:
    consumer.pause(tp)
    client_internals.seek(consumer, tp, 0)


def _for_client(offsets: Mapping[Assignment, int]) -> dict[Any, Any]:
    return {
        TopicPartition(*assignment.partition): OffsetAndMetadata(offset, "", assignment.leader_epoch_at(offset))
        for assignment, offset in offsets.items()
    }


def _named(partitions: Iterable[TopicPartition | Partition]) -> list[str]:
    return [f"{tp.topic}/{tp.partition}" for tp in sorted(partitions)]


def _unreadable_block(partition: Partition) -> Block:
    return Block(partition.topic, BlockReason.PARTITION_UNREADABLE, partition.partition)
