"""The end of each partition, from which the lag follows.

The group's consumer shows the end of a partition only while it fetches it, and people look at the lag when it does not. So
a consumer without a group asks each leader. Each partition has an answer of its own: one that is not answered is shown as
not known, and the others stay known.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors

from worker.consumer import client_config, client_internals, client_network
from worker.consumer.offset_requests import Asked, Edge, ask_edge
from worker.consumer.repeats import Repeats
from worker.consumer.survey import Survey
from worker.ledger import Ledger, Partition
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

log = logging.getLogger("worker.ends")

ANSWER_SECONDS: Final = 5.0  # after which the end of a partition is not known
OPEN_TRANSACTION_SECONDS: Final = 60.0  # one that is open for longer is reported; it is the producers' default limit
UNKNOWN_SECONDS: Final = 60.0  # without the end of any owned partition, after which /readyz says so
_LOOK_SECONDS: Final = 0.02  # between looks whether an answer is there
_METADATA_MS: Final = 5_000
_NAMED: Final = 10  # how many partitions a log line names


class _Pending(NamedTuple):
    asked: Asked
    is_high: bool  # asks for the end of all records, those of open transactions too


class EndWatcher:
    """Asks for the end of each owned partition now and then, on a thread and with a consumer of its own."""

    def __init__(
        self,
        settings: Kafka,
        ledger: Ledger,
        metrics: Metrics,
        status: Status,
        *,
        clock: Callable[[], float],
        interval: float = 15.0,
        stop_timeout: float = 1.0,
        open_transaction_seconds: float = OPEN_TRANSACTION_SECONDS,
        survey: Survey | None = None,
    ) -> None:
        """`survey` asks for more, on the same thread and by the same consumer."""
        self._settings = settings
        self._ledger = ledger
        self._metrics = metrics
        self._status = status
        self._clock = clock
        self._interval = interval
        self._stop_timeout = stop_timeout
        self._survey = survey
        self._ends: dict[TopicPartition, int] = {}
        self._highs: dict[TopicPartition, int] = {}
        self._pending: list[_Pending] = []
        self._transactions = _OpenTransactions(status, clock, open_transaction_seconds)
        self._repeats = Repeats(clock)
        self._known_at = clock()  # when the end of an owned partition was last known, or none was owned
        self._last_error = ""
        self._stop = threading.Event()
        self._now = threading.Event()
        self._thread = threading.Thread(target=self._run, name="end-offsets", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def look_now(self) -> None:
        """Ask at once, since partitions were assigned."""
        self._now.set()

    def dead_threads(self) -> list[str]:
        """Return the thread's name if it ended although it was not asked to."""
        return [] if self._stop.is_set() or self._thread.is_alive() else [self._thread.name]

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._now.set()
        if self._thread.is_alive():
            self._thread.join(self._stop_timeout)

    # -- the thread

    def _run(self) -> None:
        consumer: Any = None
        while not self._stop.is_set():
            try:
                consumer = consumer or client_config.make_consumer(
                    client_network.make_client, **client_config.consumer(self._settings, KafkaConsumer.DEFAULT_CONFIG)
                )
                self._look(consumer)
                if self._survey is not None:
                    self._survey.look(consumer, self._pause)
            except (
                Exception
            ) as error:  # the client raises errors of every kind: no end is known then, and it is retried
                self._log_error(error, [])
                client_config.close_consumer(consumer)
                consumer = None
                self._forget_all()
                if self._survey is not None:
                    self._survey.note_failure()
            self._warn_if_unknown()
            self._now.wait(self._interval)
            self._now.clear()
        client_config.close_consumer(consumer)

    def _pause(self, seconds: float) -> bool:
        """Wait; return True where the ends are to be asked for now."""
        return self._stop.wait(seconds) or self._now.is_set()

    def _look(self, consumer: Any) -> None:
        owned = {TopicPartition(*assignment.partition) for assignment in self._ledger.assignments()}
        self._keep(owned)
        if not owned:
            self._publish()
            self._transactions.look({}, {})
            return
        self._load_metadata(consumer, {tp.topic for tp in owned})
        self._ask(consumer, owned)
        self._enter_answers(owned)
        self._publish()
        self._transactions.look(self._ends, self._highs)

    def _load_metadata(self, consumer: Any, topics: Collection[str]) -> None:
        client_internals.set_topics(consumer, topics)
        if not all(client_internals.partitions(consumer, topic) for topic in topics):
            with suppress(kafka_errors.KafkaError):  # a topic that does not exist; the others are known then
                client_internals.wait(consumer, client_internals.refresh_metadata(consumer), _METADATA_MS)

    def _ask(self, consumer: Any, owned: Collection[TopicPartition]) -> None:
        """Ask for what is not asked for yet.

        First for the end of all records, then for that of what is committed. In this order the second is lower only where a
        transaction is open; in the other order it would be lower too where records came in between.
        """
        level = self._settings.isolation_level
        for is_high in (True, False) if level == "read_committed" else (False,):
            under_way = {tp for one in self._pending if one.is_high is is_high for tp in one.asked.partitions}
            asked = ask_edge(
                consumer,
                [tp for tp in owned if tp not in under_way],
                Edge.END,
                "read_uncommitted" if is_high else level,
            )
            self._pending += [_Pending(one, is_high) for one in asked]

    def _enter_answers(self, owned: Collection[TopicPartition]) -> None:
        """Enter answers as they come; an end whose answer is late is not known until it comes."""
        deadline = self._clock() + ANSWER_SECONDS
        while True:
            done = [pending for pending in self._pending if pending.asked.is_done]
            self._pending = [pending for pending in self._pending if pending not in done]
            for pending in done:
                self._enter(pending, owned)
            if done:
                self._publish()
            if not self._pending or self._clock() >= deadline or self._now.is_set():
                break
            self._stop.wait(_LOOK_SECONDS)
        late = {tp for pending in self._pending for tp in pending.asked.partitions}
        if late and self._clock() >= deadline:
            self._log_error(kafka_errors.KafkaTimeoutError("no answer of the leader"), late)
            self._keep(self._ends.keys() - late)

    def _enter(self, pending: _Pending, owned: Collection[TopicPartition]) -> None:
        into = self._highs if pending.is_high else self._ends
        failed: dict[str, tuple[BaseException, list[TopicPartition]]] = {}
        for tp, answer in pending.asked.answers().items():
            if isinstance(answer, BaseException):
                into.pop(tp, None)
                failed.setdefault(client_config.describe(answer), (answer, []))[1].append(tp)
            elif tp in owned:
                into[tp] = answer
        if not pending.is_high:  # the other request has the same error
            for error, partitions in failed.values():
                self._log_error(error, partitions)

    def _keep(self, partitions: Collection[TopicPartition]) -> None:
        self._ends = {tp: end for tp, end in self._ends.items() if tp in partitions}
        self._highs = {tp: end for tp, end in self._highs.items() if tp in partitions}

    def _forget_all(self) -> None:
        self._pending = []
        self._keep(())
        self._publish()
        self._transactions.look({}, {})

    def _warn_if_unknown(self) -> None:
        """Warn while no end of an owned partition has been known for long: no lag is known then, and no alert about it can fire."""
        now = self._clock()
        if self._ends or not self._ledger.assignments():
            self._known_at = now
        is_long = now - self._known_at >= UNKNOWN_SECONDS
        message = f"the ends of the partitions are not known, so neither is the lag: {self._last_error}"
        self._status.warn("end offsets", message if is_long else "")

    def _publish(self) -> None:
        self._metrics.ends.update(_by_partition(self._ends), _by_partition(self._highs))

    def _log_error(self, error: BaseException, partitions: Collection[TopicPartition]) -> None:
        self._metrics.kafka_errors.labels(client_config.kind_of(error)).inc()
        self._last_error = described = client_config.describe(error)
        if self._repeats.admit(described):
            named = [str(Partition(*tp)) for tp in sorted(partitions)[:_NAMED]] or ["all"]
            log.warning("end offsets not known", extra={"error": described, "partitions": named})


def _by_partition(offsets: Mapping[TopicPartition, int]) -> dict[Partition, int]:
    return {Partition(tp.topic, tp.partition): offset for tp, offset in offsets.items()}


class _OpenTransactions:
    """Reports transactions that stay open: what comes after their first record is not read until they end."""

    def __init__(self, status: Status, clock: Callable[[], float], seconds: float) -> None:
        self._status = status
        self._clock = clock
        self._seconds = seconds
        self._since: dict[TopicPartition, tuple[int, float]] = {}  # its first offset, and since when it is open
        self._warned: set[str] = set()  # topics
        self._repeats = Repeats(clock)

    def look(self, ends: Mapping[TopicPartition, int], highs: Mapping[TopicPartition, int]) -> None:
        """Compare the ends of what is committed with those of all records."""
        now = self._clock()
        since = {}
        for tp, high in highs.items():
            if tp in ends and ends[tp] < high:
                before = self._since.get(tp)
                since[tp] = before if before is not None and before[0] == ends[tp] else (ends[tp], now)
        self._since = since
        by_topic = defaultdict(list)
        for tp, (offset, at) in since.items():
            if now - at >= self._seconds:
                by_topic[tp.topic].append((now - at, tp, offset))
        longest = {topic: max(found) for topic, found in by_topic.items()}
        self._warn(longest)
        if longest and self._repeats.admit(str(sorted(by_topic))):
            for seconds, tp, offset in longest.values():
                log.warning(
                    "a transaction is open for long: what comes after its first record is not read until it ends; look for "
                    "its producer (kafka-transactions.sh describe-producers)",
                    extra={
                        "topic": tp.topic,
                        "partition": tp.partition,
                        "from": offset,
                        "until": highs[tp],
                        "seconds": round(seconds),
                        "partitions_of_topic": len(by_topic[tp.topic]),
                    },
                )

    def _warn(self, longest: Mapping[str, tuple[float, TopicPartition, int]]) -> None:
        """Warn of the longest of each topic; the lag counts nothing behind it, so no other sign is of it."""
        for topic, (seconds, tp, offset) in longest.items():
            lasting = f"a producer's transaction has been open in {Partition(*tp)} for {seconds:.0f} s"
            self._status.warn(_warning(topic), f"{lasting}: nothing from offset {offset} on is read until it ends")
        for topic in self._warned - longest.keys():
            self._status.warn(_warning(topic), "")
        self._warned = set(longest)


def _warning(topic: str) -> str:
    return f"open transaction: {topic}"
