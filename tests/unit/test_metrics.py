"""What a scrape shows: every name and label of the contract, at 0 from the start, and books that balance."""

import threading
from collections.abc import Callable, Iterable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_string_to_metric_families,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.bounded import join, thread
from tests.unit.samples import FakeClock, FakeTracked, opened
from worker.errors import BlockReason
from worker.ledger import Ledger, Outcome, Partition
from worker.ports import SealReason
from worker.telemetry.container import Memory
from worker.telemetry.kafka_facts import Begin, GroupFacts, Retention, TopicFacts
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Block, State, Status

TOPICS = ("vectors", "images")
INDEXES = ("docs", "pictures")

CONTRACT = """
records_consumed_total counter topic
messages_consumed_total counter topic
records_settled_total counter topic outcome
records_buffered gauge topic
dead_letters_total counter topic reason
dead_letter_writes_total counter result
key_mismatch_total counter topic
suspect_vectors_total counter topic cause
batches_total counter index reason
batch_records histogram index
batch_bytes histogram index
requests_total counter index operation code
request_duration_seconds histogram operation
uploaded_bytes_total counter index
retries_total counter reason
unknown_outcomes_total counter index
bisects_total counter index
requests_in_flight gauge index
in_flight_limit gauge index
rate_limit_vectors_per_second gauge index
rate_limit_wait_seconds_total counter index
record_latency_seconds histogram topic
consumer_lag_records gauge topic partition
end_offset gauge topic partition
watermark_offset gauge topic partition
committed_offset gauge topic partition
open_transaction_offsets gauge topic partition
oldest_unsettled_age_seconds gauge topic partition
skipped_offsets_total counter topic reason
truncated_offsets_total counter topic
commits_total counter result
last_commit_timestamp_seconds gauge
committed_offset_moved_timestamp_seconds gauge
refused_commit_partitions gauge topic
coordinator_unavailable_seconds gauge
topic_missing gauge topic
topic_partitions gauge topic
topic_assigned_partitions gauge topic
leaderless_partitions gauge topic
unassigned_partitions gauge topic
group_members gauge
group_lag_records gauge topic
log_start_offset gauge topic partition
retention_left_seconds gauge topic
dead_letter_retention_left_seconds gauge
rebalances_total counter event
assigned_partitions gauge
paused_partitions gauge
kafka_errors_total counter kind
schema_requests_total counter result
lease_waits_total counter
kafka_client_fetch_duration_seconds histogram
kafka_client_fetched_bytes_total counter topic
kafka_client_rebalance_duration_seconds histogram
kafka_client_failed_rebalances_total counter
kafka_client_last_heartbeat_timestamp_seconds gauge
kafka_client_connections gauge
kafka_client_connection_errors_total counter
buffer_bytes gauge
buffer_limit_bytes gauge
state gauge state
blocked gauge topic reason
last_put_timestamp_seconds gauge
last_accepted_timestamp_seconds gauge index
memory_limit_bytes gauge
memory_used_bytes gauge
credentials_expiry_timestamp_seconds gauge
certificate_expiry_timestamp_seconds gauge use
last_poll_timestamp_seconds gauge
worker_info gauge version group_id client_id group_instance_id
route_info gauge topic index
"""

KNOWN: dict[tuple[str, str], Iterable[str]] = {
    ("records_settled_total", "outcome"): ["put", "deleted", "superseded", "ignored", "dead_lettered", "returned"],
    ("dead_letters_total", "reason"): [
        "malformed",
        "unsupported_encoding",
        "key",
        "dimension",
        "not_finite",
        "zero_vector",
        "metadata",
        "tombstone",
        "too_large",
        "suspect",
        "no_route",
        "internal_error",
        "refused",
        "isolated_server_error",
    ],
    ("dead_letter_writes_total", "result"): ("ok", "failed"),
    ("batches_total", "reason"): ("count", "bytes", "age", "drain"),
    ("requests_total", "operation"): ("PutVectors", "DeleteVectors", "GetVectorIndex"),
    ("request_duration_seconds_count", "operation"): ("PutVectors", "DeleteVectors", "GetVectorIndex"),
    ("retries_total", "reason"): ("throttled", "server", "network", "timeout"),
    ("suspect_vectors_total", "cause"): ("denormal", "magnitude", "norm", "quoted_key", "map_key", "binary_key"),
    ("skipped_offsets_total", "reason"): ("retention", "reset_latest"),
    ("commits_total", "result"): ("ok", "failed"),
    ("rebalances_total", "event"): ("assigned", "revoked", "lost"),
    ("kafka_errors_total", "kind"): [
        "connection",
        "authentication",
        "authorization",
        "metadata",
        "fetch",
        "commit",
        "group",
        "other",
    ],
    ("state", "state"): ["starting", "running", "blocked", "draining", "stopped", "failed"],
    ("blocked", "reason"): [
        "credentials",
        "target",
        "dead_letter_limit",
        "dead_letter_unavailable",
        "no_dead_letter",
        "record_stuck",
        "partition_unreadable",
        "no_committed_offset",
        "offset_out_of_range",
        "registry",
    ],
}
"""The label values that are known at start."""


class Setup:
    """The parts that the metrics read, and a scrape of them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = Ledger(TOPICS, self.clock)
        self.status = Status(self.clock())
        self.metrics = Metrics(self.ledger, self.status, TOPICS, INDEXES)
        self.metrics.memory.read = lambda: None  # that of the machine is not the test's

    @property
    def registry(self) -> CollectorRegistry:
        return self.metrics.registry

    def samples(self) -> list[Sample]:
        families = text_string_to_metric_families(generate_latest(self.registry).decode())
        return [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"oss_vectors_{name}", labels)

    def partition_series(self) -> set[str]:
        return {sample.name.removeprefix("oss_vectors_") for sample in self.samples() if "partition" in sample.labels}


@pytest.fixture
def setup() -> Setup:
    return Setup()


FORMS = pytest.mark.parametrize(
    ("write", "read"),
    [(generate_latest, text_string_to_metric_families), (generate_openmetrics, openmetrics_string_to_metric_families)],
    ids=["text", "OpenMetrics"],
)
Write = Callable[[CollectorRegistry], bytes]
Read = Callable[[str], Iterable[Metric]]
write_openmetrics: Write = generate_openmetrics
read_openmetrics: Read = openmetrics_string_to_metric_families


@pytest.fixture
def full(setup: Setup) -> Setup:
    """Every metric with a series."""
    opened(setup.ledger, position=3)
    setup.ledger.committed({setup.ledger.assignments()[0]: 3})
    setup.metrics.ends.update({Partition("vectors", 0): 5}, {Partition("vectors", 0): 7})
    setup.metrics.memory.read = lambda: Memory(limit=1000, used=400)
    setup.metrics.expiry.credentials = lambda: 1700000000.0
    setup.metrics.expiry.certificates = {"kafka-client": lambda: 1800000000.0, "oss-ca": lambda: None}
    setup.metrics.worker_info.labels("1", "g", "c", "").set(1)
    setup.metrics.route_info.labels("vectors", "docs").set(1)
    setup.metrics.kafka_facts.topics = {"vectors": TopicFacts(False)}
    setup.metrics.kafka_facts.group = GroupFacts((), {"vectors": 0}, {"vectors": 0})
    setup.metrics.kafka_facts.log_starts = {Partition("vectors", 0): 0}
    setup.metrics.kafka_facts.retention = Retention({"vectors": 0.0}, 0.0)
    return setup


@FORMS
def test_every_metric_of_the_contract_is_there_with_its_type_and_labels_and_no_other(
    full: Setup, write: Write, read: Read
) -> None:
    found = set()
    for family in read(write(full.registry).decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        if name.startswith("oss_vectors_"):
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found.add((name.removeprefix("oss_vectors_"), family.type, frozenset(labels)))
    lines = [line.split() for line in CONTRACT.strip().splitlines()]
    assert found == {(name, kind, frozenset(labels)) for name, kind, *labels in lines}


@FORMS
def test_the_series_have_the_names_of_the_contract(full: Setup, write: Write, read: Read) -> None:
    found = {sample.name for family in read(write(full.registry).decode()) for sample in family.samples}
    expected = set()
    for name, kind, *_ in (line.split() for line in CONTRACT.strip().splitlines()):
        expected |= {
            f"oss_vectors_{name}{end}" for end in (["_bucket", "_count", "_sum"] if kind == "histogram" else [""])
        }
    assert {name for name in found if name.startswith("oss_vectors_")} == expected


def test_openmetrics_tells_the_unit_of_each_metric_whose_name_ends_in_one(full: Setup) -> None:
    told = {
        family.name.removeprefix("oss_vectors_"): family.unit
        for family in read_openmetrics(write_openmetrics(full.registry).decode())
        if family.name.startswith("oss_vectors_")
    }
    expected = {
        name: next(
            (unit for unit in ("vectors_per_second", "seconds", "bytes", "records") if name.endswith(f"_{unit}")), ""
        )
        for name in told
    }
    assert told == expected
    assert set(told.values()) == {"vectors_per_second", "seconds", "bytes", "records", ""}


@pytest.mark.parametrize(
    ("histogram", "lowest", "highest"),
    [
        ("request_duration_seconds", 0.005, 60),
        ("record_latency_seconds", 0.01, 86_400),
        ("batch_records", 1, 500),
        ("batch_bytes", 1_000, 21_000_000),
        ("kafka_client_fetch_duration_seconds", 0.005, 15),
        ("kafka_client_rebalance_duration_seconds", 0.05, 600),
    ],
)
def test_the_buckets_span_what_is_to_be_told_apart(setup: Setup, histogram: str, lowest: float, highest: float) -> None:
    limits = sorted({float(s.labels["le"]) for s in setup.samples() if s.name == f"oss_vectors_{histogram}_bucket"})
    assert (limits[0], limits[-2], limits[-1]) == (lowest, highest, float("inf"))


def test_known_label_values_are_there_at_zero_from_the_start(setup: Setup) -> None:
    samples = setup.samples()
    for (name, label), values in KNOWN.items():
        there = [sample for sample in samples if sample.name == f"oss_vectors_{name}"]
        others = {label: None for sample in there for label in sample.labels} | {label: None}
        del others[label]
        expected = {(value, *rest) for value in values for rest in combinations([*others])}
        found = {(s.labels[label], *(s.labels[o] for o in others if o != "code")) for s in there}
        assert (name, found) == (name, expected)
    assert [s for s in samples if s.name.startswith("oss_vectors_") and s.value and s.labels.get("state") is None] == []


def combinations(labels: list[str]) -> list[tuple[str, ...]]:
    """Return each topic or index, as the metric has either or neither."""
    if "topic" in labels:
        return [(topic,) for topic in TOPICS]
    return [(index,) for index in INDEXES] if "index" in labels else [()]


def test_topics_and_indexes_have_their_series_from_the_start(setup: Setup) -> None:
    seen: dict[str, set[str]] = {}
    for sample in setup.samples():
        for label in ("topic", "index"):
            if label in sample.labels:
                seen.setdefault(f"{label} of {sample.name}", set()).add(sample.labels[label])
    assert {name: values for name, values in seen.items() if values != set(TOPICS if name[0] == "t" else INDEXES)} == {}


@pytest.mark.parametrize("form", [generate_latest, generate_openmetrics], ids=["text", "OpenMetrics"])
def test_there_are_no_created_series_and_the_process_is_shown(setup: Setup, form: object) -> None:
    assert callable(form)
    text = form(setup.registry).decode()
    assert [line for line in text.splitlines() if "_created" in line] == []
    assert [name in text for name in ("process_resident_memory_bytes", "python_info", "python_gc_")] == [True] * 3


def test_the_state_in_force_is_1_and_the_others_0(setup: Setup) -> None:
    setup.status.enter(State.DRAINING, "told to stop")
    assert {state.value: setup.value("state", state=state.value) for state in State} == {
        state.value: float(state is State.DRAINING) for state in State
    }


def test_a_block_is_1_while_it_holds(setup: Setup) -> None:
    def shown() -> list[float | None]:
        return [setup.value("blocked", topic=topic, reason="target") for topic in TOPICS]

    blocks = [Block("images", BlockReason.TARGET, partition) for partition in (None, 3)]
    seen = []
    for block in blocks:
        setup.status.block(block, "no such index")
        seen.append(shown())
    for block in blocks:
        setup.status.unblock(block)
        seen.append(shown())
    assert seen == [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]


def test_consumed_is_what_is_settled_and_what_is_buffered(setup: Setup) -> None:
    assignment = opened(setup.ledger)
    setup.ledger.track(assignment, range(10))
    setup.ledger.count_bytes(1000)
    for offset, outcome in enumerate(Outcome):
        if outcome is not Outcome.RETURNED:
            setup.ledger.settle([FakeTracked(assignment, offset, 100)], outcome)
    settled = {o.value: setup.value("records_settled_total", topic="vectors", outcome=o.value) for o in Outcome}
    assert settled == {"put": 1, "deleted": 1, "superseded": 1, "ignored": 1, "dead_lettered": 1, "returned": 0}
    assert setup.value("records_consumed_total", topic="vectors") == 10
    assert (setup.value("records_buffered", topic="vectors"), setup.value("buffer_bytes")) == (5, 500)
    setup.ledger.end([assignment])
    assert setup.value("records_settled_total", topic="vectors", outcome="returned") == 5
    assert setup.value("records_buffered", topic="vectors") == 0


def test_the_books_balance_in_every_scrape_while_records_come_and_go(setup: Setup) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            assignment = opened(setup.ledger)
            setup.ledger.track(assignment, range(50))
            for offset in range(40):
                setup.ledger.settle([FakeTracked(assignment, offset)], Outcome.PUT)

    working = thread(work)
    try:
        for _ in range(30):
            sums = dict.fromkeys(("consumed_total", "settled_total", "buffered"), 0.0)
            for sample in setup.samples():
                name = sample.name.removeprefix("oss_vectors_records_")
                if name in sums:
                    sums[name] += sample.value
            assert sums["consumed_total"] == sums["settled_total"] + sums["buffered"]
    finally:
        stop.set()
        join(working)


# -- partitions


def test_the_assigned_partitions_are_those_of_the_ledger_also_when_the_main_loop_tells_nothing(setup: Setup) -> None:
    partitions = [Partition("vectors", number) for number in range(3)]
    seen = [setup.value("assigned_partitions")]
    assignments = [setup.ledger.assign(partition) for partition in partitions]
    seen.append(setup.value("assigned_partitions"))
    setup.ledger.end(assignments)
    seen.append(setup.value("assigned_partitions"))
    assert seen == [0, 3, 0]


@pytest.mark.parametrize(
    ("end", "position", "lag"),
    [(10, 4, 6), (4, 4, 0), (3, 4, 0)],
    ids=["behind", "at rest", "the end was asked for before"],
)
def test_the_lag_is_the_end_less_the_watermark_and_never_negative(
    setup: Setup, end: int, position: int, lag: int
) -> None:
    opened(setup.ledger, position=position)
    setup.metrics.ends.update({Partition("vectors", 0): end})
    labels = {"topic": "vectors", "partition": "0"}
    assert setup.value("consumer_lag_records", **labels) == lag
    assert setup.value("watermark_offset", **labels) == position


def test_the_end_is_never_behind_the_watermark(setup: Setup) -> None:
    """The end was asked for before the watermark passed it."""
    opened(setup.ledger, position=4)
    setup.metrics.ends.update({Partition("vectors", 0): 3})
    assert setup.value("end_offset", topic="vectors", partition="0") == 4


@pytest.mark.parametrize(
    ("begin", "shown"),
    [(Begin(6, 6), (4.0, 6.0, 6.0)), (Begin(2, None), (8.0, 2.0, None)), (None, (None, None, None))],
    ids=["committed", "never committed", "not known"],
)
def test_before_the_first_poll_the_lag_is_from_where_reading_will_begin(
    setup: Setup, begin: Begin | None, shown: tuple[float | None, ...]
) -> None:
    partition = Partition("vectors", 0)
    setup.ledger.assign(partition)
    setup.metrics.ends.update({partition: 10})
    setup.metrics.kafka_facts.begins = {} if begin is None else {partition: begin}
    labels = {"topic": "vectors", "partition": "0"}
    names = ("consumer_lag_records", "watermark_offset", "committed_offset")
    assert tuple(setup.registry.get_sample_value(f"oss_vectors_{name}", labels) for name in names) == shown


def test_once_a_partition_is_open_what_was_known_before_does_not_count(setup: Setup) -> None:
    opened(setup.ledger, position=9)
    setup.metrics.ends.update({Partition("vectors", 0): 10})
    setup.metrics.kafka_facts.begins = {Partition("vectors", 0): Begin(2, 2)}
    assert setup.value("consumer_lag_records", topic="vectors", partition="0") == 1
    assert (
        setup.registry.get_sample_value("oss_vectors_committed_offset", {"topic": "vectors", "partition": "0"}) is None
    )


def test_owned_partitions_are_counted_by_topic(setup: Setup) -> None:
    for number in range(3):
        setup.ledger.assign(Partition("images", number))
    counted = [setup.value("topic_assigned_partitions", topic=topic) for topic in TOPICS]
    assert counted == [0, 3]


def test_a_latency_of_minutes_falls_into_a_bucket_of_minutes(setup: Setup) -> None:
    """Between 60, 300, 1,800 and 7,200 s alone, a quantile of 400 s would be shown as anything up to half an hour."""
    setup.metrics.settled("vectors", [600_000], now=1000.0)
    within = {le: setup.value("record_latency_seconds_bucket", topic="vectors", le=le) for le in ("300.0", "600.0")}
    assert within == {"300.0": 0, "600.0": 1}


def test_behind_transaction_markers_the_lag_is_0_once_the_position_is_past_them(setup: Setup) -> None:
    assignment = opened(setup.ledger)
    setup.ledger.track(assignment, [0])
    setup.ledger.settle([FakeTracked(assignment, 0)], Outcome.PUT)
    setup.metrics.ends.update({Partition("vectors", 0): 2})
    setup.ledger.advance(assignment, 2)
    assert setup.value("consumer_lag_records", topic="vectors", partition="0") == 0


def test_the_series_of_a_partition_come_as_they_are_known_and_go_with_it(setup: Setup) -> None:
    seen = [setup.partition_series()]
    assignment = setup.ledger.assign(Partition("vectors", 0))
    setup.metrics.ends.update({Partition("vectors", 0): 2})
    seen.append(setup.partition_series())
    setup.ledger.open(assignment, 0, 0)
    seen.append(setup.partition_series())
    setup.ledger.end([assignment])
    seen.append(setup.partition_series())
    opening = {"end_offset", "oldest_unsettled_age_seconds"}
    assert seen == [set(), opening, opening | {"consumer_lag_records", "watermark_offset", "committed_offset"}, set()]


def test_the_age_of_the_oldest_unsettled_record_grows_and_ends_at_0(setup: Setup) -> None:
    assignment = opened(setup.ledger)
    setup.ledger.track(assignment, [0])
    setup.clock.pass_by(7.0)
    labels = {"topic": "vectors", "partition": "0"}
    before = setup.value("oldest_unsettled_age_seconds", **labels)
    setup.ledger.settle([FakeTracked(assignment, 0)], Outcome.PUT)
    assert (before, setup.value("oldest_unsettled_age_seconds", **labels)) == (7.0, 0.0)


# -- counted as it happens


def test_a_sealed_batch_is_counted_by_its_reason_and_size(setup: Setup) -> None:
    setup.metrics.sealed("docs", 500, 4_000_000, SealReason.COUNT)
    assert setup.value("batches_total", index="docs", reason="count") == 1
    assert setup.value("batch_records_sum", index="docs") == 500
    assert setup.value("batch_bytes_bucket", index="docs", le="4e+06") == 1


def test_latency_is_0_for_a_timestamp_of_the_future_and_left_out_without_one(setup: Setup) -> None:
    setup.metrics.settled("vectors", [1_000_000, 1_090_000, -1], now=1010.0)
    assert setup.value("record_latency_seconds_count", topic="vectors") == 2
    assert setup.value("record_latency_seconds_sum", topic="vectors") == pytest.approx(10.0)
    assert setup.value("record_latency_seconds_bucket", topic="vectors", le="86400.0") == 2


def test_offsets_of_open_transactions_are_known_only_where_both_ends_are(full: Setup) -> None:
    partitions = [Partition("vectors", number) for number in range(3)]
    full.metrics.ends.update(
        {partitions[0]: 5, partitions[1]: 5}, {partitions[0]: 8, partitions[1]: 4, partitions[2]: 9}
    )
    assert full.metrics.ends.uncommitted() == {partitions[0]: 3, partitions[1]: 0}
