"""The histogram of record latencies, as prometheus-client would count them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from worker.telemetry.latency import RecordLatency

BUCKETS = (0.01, 0.5, 1, 10)
NAME, HELP = "latency_seconds", "Seconds."


def made() -> RecordLatency:
    return RecordLatency(NAME, HELP, topics=["a", "b"], buckets=BUCKETS)


def samples(latency: RecordLatency) -> dict[tuple[str, str, str], float]:
    """Return the values by name, topic and bound."""
    (family,) = latency.collect()
    return {(one.name, one.labels["topic"], one.labels.get("le", "")): one.value for one in family.samples}


@given(st.lists(st.integers(0, 20_000) | st.sampled_from([10, 11, 500, 501, 1000, 10_000]), max_size=30))
def test_it_counts_as_the_librarys_own_histogram(ages_ms: list[int]) -> None:
    own, registry = made(), CollectorRegistry()
    library = Histogram(NAME, HELP, ["topic"], buckets=BUCKETS, registry=registry)
    own.observe("a", [100_000 - age for age in ages_ms], 100_000.0)
    for topic in ("a", "b"):
        library.labels(topic)
    for age in ages_ms:
        library.labels("a").observe(age / 1000)
    theirs = {
        (one.name, one.labels["topic"], one.labels.get("le", "")): one.value
        for family in registry.collect()
        for one in family.samples
        if not one.name.endswith("_created")
    }
    assert samples(own) == pytest.approx(theirs)


def test_a_timestamp_of_the_future_counts_as_0_and_a_negative_one_not_at_all() -> None:
    latency = made()
    latency.observe("b", [2_000, -1], 1_000.0)
    found = samples(latency)
    assert (found[f"{NAME}_bucket", "b", "0.01"], found[f"{NAME}_count", "b", ""], found[f"{NAME}_sum", "b", ""]) == (
        1,
        1,
        0,
    )
