"""A rebalance while the service does not answer: it waits as long as it may, then cuts, and nothing is lost or stale."""

from datetime import datetime
from functools import partial

import pytest

from tests.support.worker import BUSY_S, Scrape, StageFactory, WatchedBooks, WorkerFactory, key_overlaps, versions_of

REVOKE_S = 1.0


def moment(line: dict[str, str]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


def requests_wait(count: int, metrics: Scrape) -> bool:
    """Return whether so many requests are in flight."""
    return metrics.total("requests_in_flight") == count


@pytest.mark.parametrize("group_instance_ids", [("", ""), ("one", "two")])
def test_a_rebalance_waits_for_a_slow_service_no_longer_than_it_may(
    new_stage: StageFactory, start_worker: WorkerFactory, group_instance_ids: tuple[str, str]
) -> None:
    stage = new_stage(partitions=4)
    slots = 2  # as many as may be under way at once in the beginning
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", hang=True, count=slots)

    def settings(name: str) -> dict[str, str]:
        return stage.settings(
            batch__max_records=80,
            batch__max_age_seconds=3.0,
            kafka__revoke_seconds=REVOKE_S,
            oss__read_timeout_seconds=60,
            kafka__group_instance_id=name,
        )

    first = start_worker(settings(group_instance_ids[0]))
    # One after the other, so that each request has records of all partitions: only those with records that go are cut.
    for waiting in range(slots):
        stage.publish_versions([(f"key-{one}", [float(one)] * 4) for one in range(80 * waiting, 80 * waiting + 80)])
        first.wait_until(partial(requests_wait, waiting + 1), "a request waits for an answer")
    stage.publish_versions(versions_of(keys=160, count=240))
    first.wait_until(lambda m: m.buffered == 400, "more wait behind them")
    assert first.metrics().settled == 0
    with WatchedBooks(first) as books:
        second = start_worker(settings(group_instance_ids[1]))
        second.wait_until(lambda m: m.total("assigned_partitions") == 2, "the second has its half")
        now = first.wait_until(lambda m: m.total("assigned_partitions") == 2, "the first has the other half")
        # The second connects, and heartbeats are every 2 s here, of which one tells the first that there is a rebalance.
        (revoked,) = [line for line in first.log_lines("partitions revoked") if line["partitions"]]
        (joined,) = second.log_lines("http")
        assert REVOKE_S < moment(revoked) - moment(joined) < REVOKE_S + 8 + BUSY_S
        returned = now.outcomes()["returned"]
        assert returned == revoked["returned"] > 0
        assert now.total("unknown_outcomes_total") > 0
        stage.wait_committed_to_the_end(first)

    assert stage.dump() == stage.model()
    hung = stage.requests("PutVectors")[:slots]
    # The connections were closed before the partitions went, so that nobody waits for an answer on them.
    assert [one for one in hung if one.ended is None or one.at + one.ended - one.started > moment(revoked) + 0.5] == []
    assert books.imbalances == []
    # What was in flight was given up, never applied, and sent again; each key in its order.
    assert key_overlaps([one for one in stage.requests("PutVectors") if one.status is not None]) == []
    settled = first.metrics().settled + second.metrics().settled
    assert settled == 400
    assert first.metrics().total("rebalances_total", event="lost") == 0


def test_what_is_answered_within_revoke_seconds_is_settled_and_committed(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    """The wait is for something: what is on the wire lands, and nothing has to be sent again."""
    stage = new_stage(partitions=4)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", latency_seconds=12, count=2)
    stage.publish_versions([(f"key-{one}", [float(one)] * 4) for one in range(100)])
    settings = stage.settings(
        batch__max_records=50,
        oss__read_timeout_seconds=30,
        kafka__revoke_seconds=20,
        kafka__session_timeout_ms=30_000,
    )
    first = start_worker(settings)
    first.wait_until(lambda m: m.total("requests_in_flight") == 2, "all records are under way")
    second = start_worker(settings)
    first.wait_until(lambda m: m.total("rebalances_total", event="revoked") == 1, "it is asked to give some back")
    assert first.metrics().settled == 0
    for worker in (first, second):
        worker.wait_until(lambda m: m.total("assigned_partitions") == 2, "each has its half")
    stage.wait_committed_to_the_end(first)

    assert stage.dump() == stage.model()
    sent = [key for one in stage.requests("PutVectors") for key in one.keys]
    assert len(sent) == len(set(sent)) == 100
    now = first.metrics()
    assert (now.outcomes(), now.total("unknown_outcomes_total")) == ({"put": 100}, 0)
    assert second.metrics().consumed == 0
