"""Every private part of kafka-python that the worker uses: one function, or one class, for each need.

No other package of the worker imports a private module of kafka-python, or uses a private name of its objects;
`tests/unit/test_client_internals.py` checks that. `client_check` looks before the start whether all of it is there.

| Module | What of the client it reaches |
|---|---|
| `__init__.py` | the objects behind a consumer and a producer |
| `connections.py` | how it connects: names, sockets, its connections and its requests |
| `receiving.py` | how the bytes of a socket become records |
| `old_batches.py` | how record batches of the formats 0 and 1 are read |
| `protocol.py` | the classes of the requests |

The workarounds. "None filed" means that no issue of dpkp/kafka-python was found for it.

| Workaround | Where | Upstream issue | Remove when |
|---|---|---|---|
| Calls that wait for nothing: requests for offsets and topics | `submit`, `wait`, `send`, `any_broker` | #3121, fixed after 3.0.12 (#3123, #3124); none filed for answers partition by partition | the public calls have a time limit, and answer for each partition |
| Group's coordinator without a look-up | `coordinator`, `has_coordinator`, `coordinator_failed`, `coordinator_moved` | none filed | a public call returns it |
| Whether a join is under way | `is_joining` | none filed | the client never loses a join |
| A member that is expelled in a rebalance gives up its partitions | `begin_join_again` | none filed | the client runs its listener for lost partitions before each join of a new member |
| Lost partitions are not claimed again | `forget_assignment` | none filed | the client forgets them by itself |
| Wait within a rebalance listener | `sleep` | none filed | a listener may wait by a public call |
| Position without a request; seek with a leader's epoch | `position`, `seek`, `PartitionStates` | none filed | public `position` validates one partition, public `seek` accepts an epoch |
| High watermark is forgotten when reading is denied | `forget_high_watermark` | none filed | `highwater` says how old it is |
| Fetches that were put aside are handed over, in turns with the others | `hand_over_parked_fetches` | none filed; the parking came with #2981 | a parked partition comes back whatever is in line |
| What was fetched of a log is not handed over as another log's | `drop_all_fetched` | none filed; the parking came with #2981 | a seek drops what was fetched before it |
| An error that was put aside is no answer to a retry | `drop_parked` | none filed; the parking came with #2981 | the client puts no errors aside |
| An error behind records is not lost | `pop_deferred_error` | none filed | `poll` keeps the error of a paused partition |
| Where reading failed | `note_fetch_places`, `fetch_place_of`, `drop_fetched` | none filed | the error names partition and offset |
| Leaders, topic ids and partitions without a request; topics are dropped | `leader`, `leader_epoch`, `topic_id`, `cluster_id`, `partitions`, `set_topics`, `refresh_metadata`, `leaders_know_epochs` | none filed | public calls read the metadata from memory |
| Which brokers cannot be reached | `unreachable`, `is_connected` | none filed | a public call names them |
| A producer closes with records unsent | `force_close` | none filed; since #3108 the client stops sooner, and still raises | `close` gives up what is unsent without raising |
| Whether an idempotent producer got its id | `has_producer_id`, `error_of_idempotence` | none filed | a public call waits for the id, and raises what refused it |
| A name is resolved beside the client's thread | `connections.Socket`, `connections.Connections.before_connecting` | none filed for 3.x | the client resolves names on a thread |
| A socket that does not connect is closed | `connections.Socket` | none filed | the client closes it |
| A TLS handshake has a time limit | `connections.Connections` | none filed | the client's `handshake` has one |
| A connection that ends before its first answer backs off | `connections.Connections.reset_backoff` | none filed | the client counts it as a failure |
| Requests and connections are observed; there is a wait between look-ups of the coordinator | `connections.Connections` | none filed | the client has hooks for requests |
| Metadata that lacks a topic is asked for once a second | `connections.Connections` | none filed | the client waits longer with each answer |
| A broker's reason for refusing a login is read | `receiving.deliver_last_bytes` | none filed | the client reads what came before the end |
| Fetched bytes are copied twice, not ten times | `receiving`, `old_batches` | #492 and #290, closed without it | the client receives into one buffer and slices it |
"""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, NamedTuple

from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from worker.consumer.client_internals.protocol import Future, OffsetForLeaderEpochRequest

_PLACE: Final = "oss_vectors_fetch_place"


# -- running something on the client's IO thread


def submit(consumer: Any, make: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
    """Start a coroutine on the client's IO thread; returns the client's future at once, a failed one if that has ended."""
    try:
        return consumer._manager.call_soon(make, *arguments)
    except Exception as error:  # the thread raises what ended it
        return Future().failure(error)


def wait(consumer: Any, future: Any, timeout_ms: int) -> Any:
    """Return a future's result. Raises its error, and `KafkaTimeoutError` after `timeout_ms`."""
    return consumer._net.run(consumer._manager.wait_for, future, timeout_ms)


async def send(consumer: Any, request: Any, node: Any) -> Any:
    """Send a request to a broker and return its answer; to be awaited on the client's IO thread."""
    return await consumer._manager.send(request, node_id=node)


def any_broker(consumer: Any) -> Any:
    """Return the number of a broker that can be asked now, None where none can."""
    return consumer._manager.least_loaded_node()


async def sleep(consumer: Any, seconds: float) -> None:
    """Wait on the client's IO thread, where nothing else may be awaited."""
    await consumer._net.sleep(seconds)


def manager_of(client: Any) -> Any:
    """Return the connections of a client's network part."""
    return client._manager


# -- the coordinator of the group


def coordinator(consumer: Any) -> Any:
    """Return the node of the group's coordinator, None where it is not known or not connected."""
    return consumer._coordinator.coordinator()


def has_coordinator(consumer: Any) -> bool:
    """Return whether the group's coordinator is known and connected, from memory: the client is not made to look."""
    node = consumer._coordinator.coordinator_id
    connection = None if node is None else consumer._manager._conns.get(node)
    return connection is not None and bool(connection.connected)


def coordinator_failed(consumer: Any, node: Any, request: Any, error: BaseException) -> None:
    """Let the client judge whether a failed request means that the coordinator is gone."""
    consumer._coordinator._failed_request(node, request, error)


def coordinator_moved(consumer: Any, error: BaseException) -> None:
    """Let the client look for the coordinator again."""
    consumer._coordinator.coordinator_dead(error)


def is_joining(consumer: Any) -> bool:
    """Return whether the broker still owes the answer to a join.

    A join that the client lost has had its answer, and nothing waited for it.
    """
    join = consumer._coordinator._join_task
    return join is not None and not join.is_done


def begin_join_again(consumer: Any) -> None:
    """Let the client begin its next attempt to join as a rebalance of its own, in which it gives up what it has lost.

    It does so once for each rebalance, and not again when the group expels it in the middle of one:

    1. A rebalance begins. The client looks what it has lost, which is nothing, and sends its join.
    2. The process is frozen. The group completes the rebalance without it, expels it, and gives its partitions to another
       member, which writes newer versions.
    3. The process wakes. The group answers its join or its sync that it knows no such member.
    4. The client joins as a new member at once, without giving anything up. Until that is through, the partitions look
       owned, and the heartbeats of the new member are accepted: what waited to be written would be written over the newer
       versions.
    """
    consumer._coordinator.rejoining = False


def forget_assignment(consumer: Any) -> None:
    """Make the client claim nothing when it joins again.

    It would claim partitions that it lost. The group withholds those that it gives to another member until their owner
    has released them. That has happened already: no member would read them until the next rebalance.
    """
    for assignor in consumer._coordinator._assignors.values():
        assignor.member_assignment = None


# -- positions


class PartitionStates:
    """What a consumer knows of its partitions, without a reference to the consumer itself."""

    def __init__(self, consumer: Any) -> None:
        self._subscription = consumer._subscription

    def position(self, tp: TopicPartition) -> OffsetAndMetadata | None:
        """Return what is read next: its offset, and the leader's epoch of what was read before it (-1: unknown).

        None where the partition is not assigned or has no position.
        """
        state = self._subscription.assignment.get(tp)
        return None if state is None else state.position

    def ownership(self, tp: TopicPartition) -> object:
        """Return what is another object once the partition was taken away and came back; None where it is not assigned."""
        return self._subscription.assignment.get(tp)

    def is_unconfirmed(self, tp: TopicPartition) -> bool:
        """Return whether the client asks the leader if its log continues at the position; it does not fetch meanwhile."""
        state = self._subscription.assignment.get(tp)
        return state is not None and bool(state.awaiting_validation)

    def high_watermark(self, tp: TopicPartition) -> int | None:
        """Return the end that the last response named, None where there is none."""
        state = self._subscription.assignment.get(tp)
        return None if state is None else state.highwater


def position(consumer: Any, tp: TopicPartition) -> OffsetAndMetadata | None:
    """Return `PartitionStates.position`, from memory: the client's own call asks a broker."""
    return PartitionStates(consumer).position(tp)


def seek(consumer: Any, tp: TopicPartition, offset: int | OffsetAndMetadata) -> None:
    """Read a partition from an offset on. Raises `KeyError` where it is not assigned.

    With the leader's epoch of what is before it, the client first asks the leader whether its log continues there.
    The client's own call takes no epoch, and copies the whole assignment to look for the partition in it.
    """
    consumer._subscription.seek(tp, offset)


def forget_high_watermark(consumer: Any, tp: TopicPartition) -> None:
    """Forget the high watermark, so that `KafkaConsumer.highwater` is None until the next fetch that succeeds."""
    state = consumer._subscription.assignment.get(tp)
    if state is not None:
        state.highwater = None


# -- what was fetched


def hand_over_parked_fetches(consumer: Any) -> None:
    """Let the client hand over what it put aside of partitions that were paused meanwhile.

    1. A partition is paused while the client has the rest of a fetch of it. The client puts that aside.
    2. The fetch of another partition is "in line". It stays so when it was handed over to its end.
    3. The first is resumed. The client hands over what it put aside only when nothing is in line, and does not fetch that
       partition meanwhile. While two others have a backlog, one of them is always in line, and the first is never read.

    So what is in line is put aside too, behind what waits already: they take turns.
    """
    fetcher = consumer._fetcher
    in_line, parked = fetcher._next_partition_records, fetcher._paused_partition_records
    if in_line is None:
        return
    is_another_ready = any(not consumer._subscription.is_paused(tp) for tp in parked)
    if in_line and is_another_ready:
        parked[in_line.topic_partition] = in_line
    if is_another_ready or not in_line:
        fetcher._next_partition_records = None


def pop_deferred_error(consumer: Any) -> Exception | None:
    """Return the error that comes after the records which the client returned, and which it would raise at the next poll.

    1. A poll returns records of one partition, and keeps the error of another partition's batch for the next poll.
    2. Before that poll the other partition is paused. The client forgets the error, but not the batch, which never ends.
    3. The partition is resumed, and `poll` does not return any more.
    """
    fetcher = consumer._fetcher
    deferred, fetcher._next_in_line_exception_metadata = fetcher._next_in_line_exception_metadata, None
    return None if deferred is None else deferred.exception


def drop_fetched(consumer: Any, tp: TopicPartition) -> None:
    """Drop what is left of a partition's fetch that is handed over now; an unreadable batch would never come to an end."""
    in_line = consumer._fetcher._next_partition_records
    if in_line is not None and in_line.topic_partition == tp:
        in_line.drain()


def drop_parked(consumer: Any, tp: TopicPartition) -> None:
    """Drop the response that the client put aside of a partition, before that is fetched again after an error.

    1. A poll returns records, and keeps the error of another partition. In the same call it fetches that partition again.
    2. The partition is paused because of the error. The second response, which has the same error, is put aside.
    3. The partition is resumed. The client does not fetch it, and raises the error of the second response.

    With a topic that may not be read, each of its partitions has such a response, and each costs a retry pause.
    """
    parked = consumer._fetcher._paused_completed_fetches
    if tp in parked:
        del parked[tp]


def drop_all_fetched(consumer: Any, tp: TopicPartition) -> None:
    """Drop all that the client has fetched of a partition, when that is to be read from another place.

    The client itself drops only what was fetched at another offset:

    1. A partition is paused while the client has a response that was fetched at offset 0. The client puts it aside.
    2. The topic is deleted and created again. The partition is to be read from offset 0 of its new log, and is resumed.
    3. The client hands over the records of the deleted log, and continues behind them. The first records of the new log
       are never read.
    """
    fetcher = consumer._fetcher
    drop_fetched(consumer, tp)
    drop_parked(consumer, tp)
    fetcher._paused_partition_records.pop(tp, None)
    completed = fetcher._completed_fetches
    for _ in range(len(completed)):  # the client's IO thread may append to it meanwhile
        fetch = completed.popleft()
        if fetch.topic_partition != tp:
            completed.append(fetch)


def note_fetch_places(consumer: Any) -> None:
    """Note on each error of reading which partition, and which offset in it, the client was about to hand over.

    The client itself does not report it. It reads fetched bytes in two places: where it begins a response, and where it
    reads the next records of one.
    """
    fetcher = consumer._fetcher
    begin, append = fetcher._parse_fetched_data, fetcher._append

    def begin_noted(response: Any) -> Any:
        try:
            return begin(response)
        except Exception as error:
            setattr(error, _PLACE, (response.topic_partition, int(response.fetched_offset)))
            raise

    def append_noted(drained: Any, records: Any, *args: Any) -> Any:
        place = records.topic_partition, int(records.next_fetch_offset)
        try:
            return append(drained, records, *args)
        except Exception as error:
            setattr(error, _PLACE, place)
            raise

    fetcher._parse_fetched_data, fetcher._append = begin_noted, append_noted


def fetch_place_of(error: BaseException) -> tuple[TopicPartition, int] | None:
    """Return the partition, and the offset in it, that could not be read; None where the error is of something else."""
    return getattr(error, _PLACE, None)


# -- metadata


def leader(consumer: Any, tp: TopicPartition) -> int | None:
    """Return the number of the broker that leads a partition: -1 where it has none, None where that is unknown."""
    found: int | None = consumer._cluster.leader_for_partition(tp)
    return found


def leader_epoch(consumer: Any, tp: TopicPartition) -> int | None:
    """Return the epoch of the leader that the metadata names: -1 where the broker has none, None where that is unknown."""
    found: int | None = consumer._cluster.leader_epoch_for_partition(tp)
    return found


def topic_id(consumer: Any, topic: str) -> Any:
    """Return the id that a topic has for as long as it is not deleted; None where the broker has none (before 2.8)."""
    return consumer._cluster.topic_id(topic)


def cluster_id(consumer: Any) -> str | None:
    """Return the cluster's id; None where it has none, or no broker has answered yet."""
    found: str | None = consumer._cluster.cluster_id
    return found


def leaders_know_epochs(consumer: Any) -> bool:
    """Return whether the brokers can be asked where an epoch ends; else the client would ask, and never read."""
    try:
        consumer._manager.broker_version_data.api_version(OffsetForLeaderEpochRequest)
    except kafka_errors.IncompatibleBrokerVersion:
        return False
    return True


def partitions(consumer: Any, topic: str) -> frozenset[int]:
    """Return a topic's partitions as far as they are known, without asking."""
    return frozenset(consumer._cluster.partitions_for_topic(topic) or ())


def refresh_metadata(consumer: Any) -> Any:
    """Ask for fresh metadata; returns a future, a failed one if the client's IO thread has ended."""
    try:
        return consumer._cluster.request_update()
    except Exception as error:  # the thread raises what ended it
        return Future().failure(error)


def set_topics(consumer: Any, topics: Iterable[str]) -> None:
    """Ask for the metadata of these topics alone from now on. The client's own way adds topics and drops none."""
    consumer._cluster._topics = set(topics)


# -- connections


class Unreachable(NamedTuple):
    """A broker that could not be connected to: "host:port", and the last error, None where that is not known."""

    place: str
    error: BaseException | None


def unreachable(consumer: Any) -> dict[int, Unreachable]:
    """Return each broker that the cluster names and that could not be connected to, by its number."""
    return _unreachable(consumer._manager)


def unreachable_of_producer(producer: Any) -> dict[int, Unreachable]:
    """As `unreachable`; nothing where it is another kind of producer."""
    client = getattr(getattr(producer, "_sender", None), "_client", None)
    return {} if client is None else _unreachable(client._manager)


def _unreachable(manager: Any) -> dict[int, Unreachable]:
    failures = getattr(manager, "failures", {})  # of `connections.Connections`
    found = {}
    for broker in manager.cluster.brokers():
        connection = manager._conns.get(broker.node_id)
        is_tried = connection is not None or broker.node_id in manager._backoff
        if is_tried and (connection is None or not connection.connected):
            found[broker.node_id] = Unreachable(f"{broker.host}:{broker.port}", failures.get(broker.node_id))
    return found


def is_connected(consumer: Any) -> bool:
    """Return whether there is a connection to any broker."""
    connections = list(consumer._manager._conns.values())
    return any(connection.connected for connection in connections)


# -- a producer


def force_close(producer: Any) -> None:
    """Make a producer give up what it still has to send, so that its `close` neither waits for that nor raises.

    Nothing where its constructor failed, or it is closed already.
    """
    if not getattr(producer, "_closed", True):
        producer._sender.force_close()


def has_producer_id(producer: Any) -> bool:
    """Return whether the brokers have given an idempotent producer its id. It asks by itself, without a record to send."""
    return bool(producer._transaction_manager.has_producer_id())


def error_of_idempotence(producer: Any) -> Exception | None:
    """Return what ended an idempotent producer, None where nothing did."""
    error: Exception | None = producer._transaction_manager.last_error
    return error
