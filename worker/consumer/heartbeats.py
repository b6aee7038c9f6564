"""Renews the lease by answered heartbeats, sends heartbeats that the client does not send, and ends the lease.

Only an answered heartbeat renews the lease (`worker.lease`). The time counts from before the request goes to the client.
Other answers of the group do not renew the session at every broker: Apache Kafka answers a join, and a late sync, of a
group that is stable without this member. The client sends no heartbeat from a join to its end, and the next one an
interval later. So this sends heartbeats of its own:

- one as soon as a sync is answered, so that a worker which has joined does not wait for the client's first;
- one in each interval while a join waits for the other members. It uses the broker's other connection, because a broker
  answers the requests of one connection one after the other. Without it a member that hangs, for which the group waits
  `kafka.max_poll_interval_ms`, would keep all others from writing.

The lease ends at once when an answer says that the group does not know the member, and when the client asks to leave. All
of it runs on the client's IO thread and waits for nothing, and an error in it ends in the client's log.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from kafka import errors as kafka_errors

from worker.consumer import client_config
from worker.consumer.client_internals.protocol import HeartbeatRequest
from worker.consumer.commits import Answered
from worker.consumer.offset_requests import error_of
from worker.lease import Lease
from worker.ledger import Partition

_NO_ERROR: Final = 0
_ILLEGAL_GENERATION: Final = 22
_UNKNOWN_MEMBER_ID: Final = 25
_REBALANCE_IN_PROGRESS: Final = 27
_FENCED_INSTANCE_ID: Final = 82
_NO_COORDINATOR: Final = frozenset({14, 15, 16})  # it loads the group, is not available, or is another broker by now
_NO_MEMBER: Final = frozenset({_ILLEGAL_GENERATION, _UNKNOWN_MEMBER_ID, _FENCED_INSTANCE_ID})
# The client has a connection of its own to the broker that coordinates the group. Its name is this and the broker's number.
_COORDINATOR_PREFIX: Final = "coordinator-"

Send = Callable[[Any, Any], Any]


class _Member(NamedTuple):
    """Who this process is in the group."""

    group_id: str
    generation_id: int
    member_id: str
    group_instance_id: str | None

    @classmethod
    def of(cls, request: Any) -> "_Member":
        """Return the member that sends a heartbeat or a sync."""
        return cls(request.group_id, request.generation_id, request.member_id, request.group_instance_id)


class Heartbeats:
    """Watches the requests of one consumer, renews the lease by them, and sends heartbeats of its own.

    `send(request, node_id)` passes a request to the client and returns the future of its answer. `call_later(seconds,
    function)` calls a function on the client's IO thread. `on_renewed` is called when a lease that had run out holds again,
    `on_expelled` when an answer says that the group does not know this member any more, `on_fenced` when the answer to its
    heartbeat says that another process has taken its place, `on_commit_answered` with the answer to a commit for each
    partition.
    """

    def __init__(
        self,
        lease: Lease,
        interval_seconds: float,
        *,
        send: Send,
        call_later: Callable[[float, Callable[[], None]], Any],
        on_renewed: Callable[[], None],
        on_expelled: Callable[[], None],
        on_fenced: Callable[[], None],
        on_commit_answered: Callable[[Mapping[Partition, Answered]], None],
    ) -> None:
        self._lease = lease
        self._on_commit_answered = on_commit_answered
        self._on_expelled = on_expelled
        self._on_fenced = on_fenced
        self._interval = interval_seconds
        self._send = send
        self._call_later = call_later
        self._on_renewed = on_renewed
        self._member: _Member | None = None
        self.refusal = ""
        """The error that the last heartbeat was answered with, "" where there was none. That the group does not know the
        member is no such error: that ends the lease. Nor is that another broker coordinates the group: that one is asked next."""
        self._handlers: dict[str, Callable[[Any, Any, float, Any], None]] = {
            "HeartbeatRequest": self._heartbeat_sent,
            "JoinGroupRequest": self._join_sent,
            "SyncGroupRequest": self._sync_sent,
            "OffsetCommitRequest": self._commit_sent,
        }

    def now(self) -> float:
        """Return the time of the lease's clock; to be read before a request goes to the client."""
        return self._lease.now()

    def watch(self, request: Any, node_id: Any, sent_at: float, answer: Any) -> None:
        """Handle a request that went to the client after `sent_at`, and its answer when it comes."""
        name = type(request).__name__
        if name == "LeaveGroupRequest":
            self._member = None
            self._lease.end()
        elif (handle := self._handlers.get(name)) is not None:
            handle(request, node_id, sent_at, answer)

    def _heartbeat_sent(self, request: Any, _node_id: Any, sent_at: float, answer: Any) -> None:
        self._member = member = _Member.of(request)
        answer.add_callback(lambda response: self._heartbeat_answered(member, sent_at, response.error_code))

    def _heartbeat_answered(self, member: _Member, sent_at: float, code: int) -> None:
        self._end_unless_known(code, member)
        is_accepted = code in (_NO_ERROR, _REBALANCE_IN_PROGRESS)
        error = None if is_accepted or code in _NO_MEMBER or code in _NO_COORDINATOR else error_of(code)
        self.refusal = "" if error is None else client_config.describe(error)
        if is_accepted and self._lease.confirm(sent_at, in_rebalance=code == _REBALANCE_IN_PROGRESS):
            self._on_renewed()

    def _join_sent(self, request: Any, node_id: Any, _sent_at: float, answer: Any) -> None:
        answer.add_callback(lambda response: self._end_unless_known(response.error_code))
        member = self._member
        if member is None or member.member_id != request.member_id:
            self._member = None  # with its next name it takes the place of the last one itself
        else:
            self._call_later(self._interval / 2, lambda: self._send_while_joining(member, node_id, answer))

    def _send_while_joining(self, member: _Member, node_id: Any, join: Any) -> None:
        """Send a heartbeat of the generation that the join leaves, and the next one later, until the join is answered.

        The answer to a later one is about an old generation, and says nothing about the membership.
        """
        if join.is_done or self._member is not member:
            return
        sent_at = self.now()

        def answered(response: Any) -> None:
            if response.error_code != _ILLEGAL_GENERATION:
                self._heartbeat_answered(member, sent_at, response.error_code)

        self._send_heartbeat(member, _other_connection(node_id), answered)
        self._call_later(self._interval, lambda: self._send_while_joining(member, node_id, join))

    def _sync_sent(self, request: Any, node_id: Any, sent_at: float, answer: Any) -> None:
        member = _Member.of(request)

        def answered(response: Any) -> None:
            self._end_unless_known(response.error_code)
            if response.error_code == _NO_ERROR:
                self._member = member
                self._lease.join(sent_at)
                next_sent_at = self.now()
                self._send_heartbeat(
                    member, node_id, lambda answer: self._heartbeat_answered(member, next_sent_at, answer.error_code)
                )

        answer.add_callback(answered)

    def _commit_sent(self, request: Any, _node_id: Any, _sent_at: float, answer: Any) -> None:
        offsets = {
            Partition(topic.name, partition.partition_index): partition.committed_offset
            for topic in request.topics
            for partition in topic.partitions
        }

        def answered(response: Any) -> None:
            codes = {
                Partition(topic.name, partition.partition_index): partition.error_code
                for topic in response.topics
                for partition in topic.partitions
            }
            self._on_commit_answered({one: Answered(at, codes[one]) for one, at in offsets.items() if one in codes})
            for code in codes.values():
                self._end_unless_known(code)

        answer.add_callback(answered)

    def _end_unless_known(self, code: int, member: _Member | None = None) -> None:
        """End the lease where the group does not know the member. `member` is who sent a heartbeat.

        The client raises an error for a join or a sync of a member that was fenced. For a heartbeat it only stops sending
        them: a session later this process would join again, and fence the other one.
        """
        if code not in _NO_MEMBER:
            return
        self._lease.end()
        if code == _FENCED_INSTANCE_ID and member is not None and member == self._member:
            self._on_fenced()
        else:
            self._on_expelled()

    def _send_heartbeat(self, member: _Member, node_id: Any, answered: Callable[[Any], None]) -> None:
        try:
            answer = self._send(HeartbeatRequest(**member._asdict()), node_id)
        except kafka_errors.KafkaError:  # the broker has no such name, or cannot be reached now: the next one may be
            return
        answer.add_callback(answered)


def _other_connection(node_id: Any) -> Any:
    """Return the client's name of the same broker's connection for fetches."""
    number = str(node_id).removeprefix(_COORDINATOR_PREFIX)
    return int(number) if number.isdecimal() else node_id
