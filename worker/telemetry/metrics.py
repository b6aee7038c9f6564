"""Every metric of the worker, with its meaning and unit.

The ledger and the status are read once at each scrape, so that consumed = all settled outcomes + buffered in every scrape. All
other metrics are counted when something happens, for each request or poll.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from worker.errors import BlockReason, Reason, RetryReason
from worker.ledger import Books, Ledger, Partition
from worker.ports import WRITER_OPERATIONS, SchemaAnswer, SealReason
from worker.records.suspects import CAUSES
from worker.telemetry.container import MemoryCollector
from worker.telemetry.end_offsets import EndOffsets
from worker.telemetry.expiry import ExpiryCollector
from worker.telemetry.kafka_facts import Begin, KafkaFacts
from worker.telemetry.latency import RecordLatency
from worker.telemetry.state import State, Status

KAFKA_ERROR_KINDS: Final = (
    "connection",
    "authentication",
    "authorization",
    "metadata",
    "fetch",
    "commit",
    "group",
    "other",
)
SKIP_REASONS: Final = ("retention", "reset_latest")
_REQUEST_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# A broker with nothing new answers after 0.5 s.
_FETCH_SECONDS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 15)
_REBALANCE_SECONDS: Final = (0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LATENCY_SECONDS: Final = (
    *(0.01, 0.05, 0.1, 0.25, 0.5, 1, 1.2, 1.5, 2, 3, 5, 10, 30, 60),
    *(90, 120, 180, 300, 600, 900, 1800, 3600, 5400, 7200, 14400, 28800, 86400),
)
_BATCH_RECORDS: Final = (1, 5, 10, 25, 50, 100, 200, 300, 400, 500)
_BATCH_BYTES: Final = (1e3, 1e4, 1e5, 5e5, 1e6, 2e6, 4e6, 8e6, 12e6, 16e6, 21e6)


class Metrics:
    """The registry of this process, and the metrics that are counted when something happens."""

    def __init__(self, ledger: Ledger, status: Status, topics: Iterable[str], indexes: Iterable[str]) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # it ships without a signature
        self.registry = registry = CollectorRegistry()
        self.topics = tuple(topics)
        self.indexes = tuple(indexes)
        self.ends = EndOffsets()
        self.kafka_facts = KafkaFacts()
        self.memory = MemoryCollector()
        self.expiry = ExpiryCollector()
        self._make_counters(registry)
        self._make_gauges(registry)
        self._make_histograms(registry)
        self._make_client_metrics(registry)
        self._make_known_series()
        # Read from the ledger, so that it is right even if the main loop does not turn or has no consumer.
        self.assigned_partitions.set_function(lambda: len(ledger.assignments()))
        registry.register(_LedgerCollector(ledger, self.ends, self.kafka_facts))
        registry.register(self.kafka_facts)
        registry.register(_StatusCollector(status, self.topics))
        registry.register(self.memory)
        registry.register(self.expiry)
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)

    def _make_counters(self, r: CollectorRegistry) -> None:
        self.dead_letters = Counter(
            "oss_vectors_dead_letters",
            "Dead letters that the broker has acknowledged.",
            ["topic", "reason"],
            registry=r,
        )
        self.dead_letter_writes = Counter(
            "oss_vectors_dead_letter_writes", "Attempts to write a dead letter.", ["result"], registry=r
        )
        self.key_mismatch = Counter(
            "oss_vectors_key_mismatch", "Records whose Kafka key is not the vector's key.", ["topic"], registry=r
        )
        self.suspect_vectors = Counter(
            "oss_vectors_suspect_vectors",
            "Records that can be written and are most likely wrong, by the cause: a vector's numbers, or its key.",
            ["topic", "cause"],
            registry=r,
        )
        self.batches = Counter("oss_vectors_batches", "Batches sealed, by the reason.", ["index", "reason"], registry=r)
        self.requests = Counter(
            "oss_vectors_requests",
            "Requests to the service, by HTTP status; code is error where no answer came, not_believed for a 2xx that did not show that it was done.",
            ["index", "operation", "code"],
            registry=r,
        )
        self.uploaded_bytes = Counter(
            "oss_vectors_uploaded_bytes",
            "Bytes of the bodies of PutVectors and DeleteVectors, counted at each attempt.",
            ["index"],
            unit="bytes",
            registry=r,
        )
        self.retries = Counter(
            "oss_vectors_retries", "Requests that failed and are retried, by the reason.", ["reason"], registry=r
        )
        self.unknown_outcomes = Counter(
            "oss_vectors_unknown_outcomes", "Requests that may or may not have been applied.", ["index"], registry=r
        )
        self.bisects = Counter("oss_vectors_bisects", "Requests split to find a bad record.", ["index"], registry=r)
        self.rate_limit_wait = Counter(
            "oss_vectors_rate_limit_wait_seconds",
            "Seconds for which requests waited: for the rate limit, or while the index asked for a pause.",
            ["index"],
            unit="seconds",
            registry=r,
        )
        self.skipped_offsets = Counter(
            "oss_vectors_skipped_offsets",
            "Offsets that were skipped without being read.",
            ["topic", "reason"],
            registry=r,
        )
        self.truncated_offsets = Counter(
            "oss_vectors_truncated_offsets",
            "Offsets whose records were read, and which Kafka lost afterwards: a replica without them became the leader, or "
            "the topic was deleted and created again.",
            ["topic"],
            registry=r,
        )
        self.commits = Counter("oss_vectors_commits", "Commits of offsets.", ["result"], registry=r)
        self.rebalances = Counter(
            "oss_vectors_rebalances",
            "Rebalances in which partitions were assigned, revoked or lost, by the event.",
            ["event"],
            registry=r,
        )
        self.schema_requests = Counter(
            "oss_vectors_schema_requests",
            "Requests for a schema, by the result. An unknown schema is asked for again after a minute.",
            ["result"],
            registry=r,
        )
        self.kafka_errors = Counter("oss_vectors_kafka_errors", "Errors of the Kafka client.", ["kind"], registry=r)
        self.lease_waits = Counter(
            "oss_vectors_lease_waits",
            "Requests and dead letters held back because the group had not confirmed the membership for too long.",
            registry=r,
        )

    def _make_gauges(self, r: CollectorRegistry) -> None:
        self.in_flight = Gauge(
            "oss_vectors_requests_in_flight", "Requests sent and not answered yet.", ["index"], registry=r
        )
        self.in_flight_limit = Gauge(
            "oss_vectors_in_flight_limit", "Requests that may be in flight at once.", ["index"], registry=r
        )
        self.rate_limit = Gauge(
            "oss_vectors_rate_limit_vectors_per_second",
            "The rate limit now, in vectors a second; 0 is no limit.",
            ["index"],
            unit="vectors_per_second",
            registry=r,
        )
        self.last_commit = Gauge(
            "oss_vectors_last_commit_timestamp_seconds",
            "When offsets were last committed, Unix time; those that did not move are committed again too.",
            unit="seconds",
            registry=r,
        )
        self.committed_moved = Gauge(
            "oss_vectors_committed_offset_moved_timestamp_seconds",
            "When a committed offset last moved, Unix time; 0 before the first.",
            unit="seconds",
            registry=r,
        )
        self.refused_commit_partitions = Gauge(
            "oss_vectors_refused_commit_partitions",
            "Owned partitions whose commits the broker refuses, while it accepts others; they are tried again every 30 s.",
            ["topic"],
            registry=r,
        )
        self.coordinator_unavailable = Gauge(
            "oss_vectors_coordinator_unavailable_seconds",
            "Seconds for which this worker has not reached the broker that coordinates the group; 0 while it does.",
            unit="seconds",
            registry=r,
        )
        self.last_put = Gauge(
            "oss_vectors_last_put_timestamp_seconds",
            "When the service last accepted a request, Unix time.",
            unit="seconds",
            registry=r,
        )
        self.last_accepted = Gauge(
            "oss_vectors_last_accepted_timestamp_seconds",
            "When the service last accepted a request to put or delete vectors, Unix time; 0 before the first.",
            ["index"],
            unit="seconds",
            registry=r,
        )
        self.last_poll = Gauge(
            "oss_vectors_last_poll_timestamp_seconds",
            "When the consumer last polled, Unix time.",
            unit="seconds",
            registry=r,
        )
        self.assigned_partitions = Gauge(
            "oss_vectors_assigned_partitions", "Partitions that this process owns.", registry=r
        )
        self.paused_partitions = Gauge(
            "oss_vectors_paused_partitions", "Assigned partitions that are paused now.", registry=r
        )
        self.buffer_limit = Gauge(
            "oss_vectors_buffer_limit_bytes", "The setting buffer.max_bytes.", unit="bytes", registry=r
        )
        self.worker_info = Gauge(
            "oss_vectors_worker_info",
            "Always 1; the labels are the version and the names in Kafka. `group_instance_id` is empty with dynamic membership.",
            ["version", "group_id", "client_id", "group_instance_id"],
            registry=r,
        )
        self.route_info = Gauge(
            "oss_vectors_route_info",
            "Always 1; an index that the records of a topic go to. A route that chooses among several has one series for each.",
            ["topic", "index"],
            registry=r,
        )

    def _make_histograms(self, r: CollectorRegistry) -> None:
        self.batch_records = Histogram(
            "oss_vectors_batch_records",
            "Records in a sealed batch.",
            ["index"],
            unit="records",
            buckets=_BATCH_RECORDS,
            registry=r,
        )
        self.batch_bytes = Histogram(
            "oss_vectors_batch_bytes",
            "Bytes of a sealed batch's PutVectors body.",
            ["index"],
            unit="bytes",
            buckets=_BATCH_BYTES,
            registry=r,
        )
        self.request_duration = Histogram(
            "oss_vectors_request_duration_seconds",
            "Seconds of one attempt, from sending it to its answer.",
            ["operation"],
            unit="seconds",
            buckets=_REQUEST_SECONDS,
            registry=r,
        )
        self.record_latency = RecordLatency(
            "oss_vectors_record_latency_seconds",
            "Seconds from the message's timestamp to its final outcome.",
            topics=self.topics,
            buckets=_LATENCY_SECONDS,
        )
        r.register(self.record_latency)

    def _make_client_metrics(self, r: CollectorRegistry) -> None:
        """Make the metrics that `worker.consumer.client_metrics` sets. A new consumer continues the series of the last one."""
        self.kafka_client_fetch_duration = Histogram(
            "oss_vectors_kafka_client_fetch_duration_seconds",
            "Seconds from a fetch to its answer; a broker with nothing new answers after fetch_max_wait_ms.",
            unit="seconds",
            buckets=_FETCH_SECONDS,
            registry=r,
        )
        self.kafka_client_fetched_bytes = Counter(
            "oss_vectors_kafka_client_fetched_bytes",
            "Bytes of the record batches fetched, compressed as they were sent.",
            ["topic"],
            unit="bytes",
            registry=r,
        )
        self.kafka_client_rebalance_duration = Histogram(
            "oss_vectors_kafka_client_rebalance_duration_seconds",
            "Seconds from the request to join the group to the assignment, failed attempts included.",
            unit="seconds",
            buckets=_REBALANCE_SECONDS,
            registry=r,
        )
        self.kafka_client_failed_rebalances = Counter(
            "oss_vectors_kafka_client_failed_rebalances",
            "Joins and syncs that were refused or not answered; they are retried.",
            registry=r,
        )
        self.kafka_client_last_heartbeat = Gauge(
            "oss_vectors_kafka_client_last_heartbeat_timestamp_seconds",
            "When the group last accepted a heartbeat, Unix time; none is sent during a join.",
            unit="seconds",
            registry=r,
        )
        self.kafka_client_connections = Gauge(
            "oss_vectors_kafka_client_connections", "Open connections of the consumer to brokers.", registry=r
        )
        self.kafka_client_connection_errors = Counter(
            "oss_vectors_kafka_client_connection_errors",
            "Connections of the consumer to brokers that failed, when they were made or later.",
            registry=r,
        )

    def _make_known_series(self) -> None:
        """Make the series whose labels are known, at 0, so that rate() sees their first increase."""
        for topic in self.topics:
            self._make_topic_series(topic)
        for index in self.indexes:
            self._make_index_series(index)
        known: tuple[tuple[Counter | Histogram, Iterable[str]], ...] = (
            (self.request_duration, WRITER_OPERATIONS),
            (self.retries, RetryReason),
            (self.dead_letter_writes, ("ok", "failed")),
            (self.commits, ("ok", "failed")),
            (self.rebalances, ("assigned", "revoked", "lost")),
            (self.kafka_errors, KAFKA_ERROR_KINDS),
            (self.schema_requests, SchemaAnswer),
        )
        for metric, values in known:
            for value in values:
                metric.labels(str(value))

    def _make_topic_series(self, topic: str) -> None:
        self.key_mismatch.labels(topic)
        for cause in CAUSES:
            self.suspect_vectors.labels(topic, cause)
        self.truncated_offsets.labels(topic)
        self.refused_commit_partitions.labels(topic)
        self.kafka_client_fetched_bytes.labels(topic)
        for reason in Reason:
            self.dead_letters.labels(topic, reason.value)
        for skip in SKIP_REASONS:
            self.skipped_offsets.labels(topic, skip)

    def _make_index_series(self, index: str) -> None:
        for metric in (
            self.uploaded_bytes, self.unknown_outcomes, self.bisects, self.rate_limit_wait, self.in_flight,
            self.in_flight_limit, self.rate_limit, self.batch_records, self.batch_bytes, self.last_accepted,
        ):  # fmt: skip
            metric.labels(index)
        for seal in SealReason:
            self.batches.labels(index, seal.value)
        for operation, code in zip(WRITER_OPERATIONS, ("200", "204", "200"), strict=True):
            self.requests.labels(index, operation.value, code)

    def sealed(self, index: str, records: int, size: int, reason: SealReason) -> None:
        """Count a sealed batch."""
        self.batches.labels(index, reason.value).inc()
        self.batch_records.labels(index).observe(records)
        self.batch_bytes.labels(index).observe(size)

    def settled(self, topic: str, timestamps_ms: Iterable[int], now: float) -> None:
        """Observe the latency of settled records. `now` is Unix time in seconds; a negative timestamp means that there is none."""
        self.record_latency.observe(topic, timestamps_ms, now * 1000)


class _LedgerCollector:
    """The metrics of records and partitions, from one reading of the ledger."""

    def __init__(self, ledger: Ledger, ends: EndOffsets, facts: KafkaFacts) -> None:
        self._ledger = ledger
        self._ends = ends
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        books = self._ledger.books()
        yield from _record_families(books)
        yield from _partition_families(books, self._ends.read(), self._facts.begins)
        yield _assigned_family(books)
        yield _open_transactions(self._ends.uncommitted())


def _record_families(books: Books) -> Iterator[Metric]:
    messages = CounterMetricFamily(
        "oss_vectors_messages_consumed",
        "Messages polled and tracked: fewer than the records where a message has several.",
        labels=["topic"],
    )
    consumed = CounterMetricFamily("oss_vectors_records_consumed", "Records polled and tracked.", labels=["topic"])
    settled = CounterMetricFamily(
        "oss_vectors_records_settled", "Records by their final outcome.", labels=["topic", "outcome"]
    )
    buffered = GaugeMetricFamily("oss_vectors_records_buffered", "Records tracked and not settled.", labels=["topic"])
    for topic, count in books.consumed.items():
        messages.add_metric([topic], books.messages[topic])
        consumed.add_metric([topic], count)
        buffered.add_metric([topic], books.buffered[topic])
    for (topic, outcome), count in books.settled.items():
        settled.add_metric([topic, outcome.value], count)
    yield from (messages, consumed, settled, buffered)
    yield GaugeMetricFamily(
        "oss_vectors_buffer_bytes",
        "Bytes of records that are not settled, and of the bodies of requests.",
        value=books.buffer_bytes,
        unit="bytes",
    )


def _assigned_family(books: Books) -> Metric:
    family = GaugeMetricFamily(
        "oss_vectors_topic_assigned_partitions", "Partitions of the topic that this process owns.", labels=["topic"]
    )
    for topic in books.consumed:
        family.add_metric([topic], sum(figures.partition.topic == topic for figures in books.partitions))
    return family


def _partition_families(
    books: Books, ends: Mapping[Partition, int], begins: Mapping[Partition, Begin]
) -> Iterator[Metric]:
    """Return the metrics of the owned partitions. `begins` has those whose first record this process has not read yet."""
    labels = ["topic", "partition"]
    lag = GaugeMetricFamily(
        "oss_vectors_consumer_lag_records",
        "End offset minus watermark: records that are not settled yet.",
        labels=labels,
        unit="records",
    )
    end = GaugeMetricFamily("oss_vectors_end_offset", "End of the partition, at kafka.isolation_level.", labels=labels)
    watermark = GaugeMetricFamily("oss_vectors_watermark_offset", "The lowest offset not yet settled.", labels=labels)
    committed = GaugeMetricFamily("oss_vectors_committed_offset", "The offset last committed.", labels=labels)
    age = GaugeMetricFamily(
        "oss_vectors_oldest_unsettled_age_seconds",
        "Seconds since the oldest unsettled record was polled.",
        labels=labels,
        unit="seconds",
    )
    for figures in books.partitions:
        values = [figures.partition.topic, str(figures.partition.partition)]
        age.add_metric(values, figures.oldest_unsettled_age)
        begin = begins.get(figures.partition)
        at = figures.watermark if figures.is_open else None if begin is None else begin.position
        committed_at = figures.committed if figures.is_open or begin is None else begin.committed
        if at is not None:
            watermark.add_metric(values, at)
        if committed_at is not None:
            committed.add_metric(values, committed_at)
        if (known_end := ends.get(figures.partition)) is not None:
            # The end is asked for at intervals. The watermark may have passed that answer, but never the end.
            end.add_metric(values, max(known_end, figures.watermark) if figures.is_open else known_end)
            if at is not None:
                lag.add_metric(values, max(0, known_end - at))
    yield from (lag, end, watermark, committed, age)


def _open_transactions(waiting: Mapping[Partition, int]) -> Metric:
    family = GaugeMetricFamily(
        "oss_vectors_open_transaction_offsets",
        "Offsets from the first record of an open transaction on; they are not read before it ends.",
        labels=["topic", "partition"],
    )
    for partition, count in waiting.items():
        family.add_metric([partition.topic, str(partition.partition)], count)
    return family


class _StatusCollector:
    """The metrics of the state and the blocks, from one reading of the status."""

    def __init__(self, status: Status, topics: Iterable[str]) -> None:
        self._status = status
        self._topics = tuple(topics)

    def collect(self) -> Iterator[Metric]:
        reading = self._status.read()
        state = GaugeMetricFamily("oss_vectors_state", "1 for the current state, 0 for the others.", labels=["state"])
        for each in State:
            state.add_metric([each.value], float(each is reading.state))
        blocked = GaugeMetricFamily(
            "oss_vectors_blocked",
            "1 while the topic, or one of its partitions, is blocked for this reason.",
            labels=["topic", "reason"],
        )
        blocks = {(block.topic, block.reason) for block in reading.blocks}
        for topic in self._topics:
            for reason in BlockReason:
                blocked.add_metric([topic, reason.value], float((topic, reason) in blocks))
        yield from (state, blocked)
