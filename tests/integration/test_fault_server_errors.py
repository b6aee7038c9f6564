"""Bad content that the service answers with 500, as if the fault were its own; and a fault of its own, which is waited out."""

from collections.abc import Sequence

from tests.support.emulator import Fault, JournalEntry
from tests.support.worker import StageFactory, WorkerFactory, vector_record, versions_of, wait_for

GOOD = [1.0, 2.0, 3.0, 4.0]
ATTEMPTS = 4  # dead_letter.isolated_attempts of these tests


def attempts_alone(stage_requests: list[list[str]], key: str) -> int:
    return sum(1 for keys in stage_requests if keys == [key])


def test_a_batch_that_gets_500_while_others_pass_is_bisected_and_costs_one_record(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", keys=["key-13", "key-77"], status=500)
    stage.publish_versions([(f"key-{one}", [float(one)] * 4) for one in range(200)])
    worker = start_worker(stage.settings(batch__max_records=20, dead_letter__isolated_attempts=ATTEMPTS))

    worker.wait_until(lambda m: m.outcomes().get("put") == 198, "the good ones are written")
    # Something else has to pass while the two are alone; until then it is the service that may be at fault.
    more = 0

    def others_pass() -> bool:
        nonlocal more
        stage.publish_versions([(f"more-{more}", GOOD)])
        more += 1
        return worker.metrics().total("dead_letters_total", reason="isolated_server_error") == 2

    wait_for(others_pass, "the two are dead letters", told=worker.last_words)
    worker.wait_settled(200 + more)
    stage.wait_committed_to_the_end(worker)

    assert stage.dump() == {key: vector for key, vector in stage.model().items() if key not in ("key-13", "key-77")}
    letters = {one.key: dict(one.headers) for one in stage.dead_letters()}
    assert letters.keys() == {b"key-13", b"key-77"}
    requests = [one.keys for one in stage.requests("PutVectors")]
    for key, told in letters.items():
        assert told["oss-vectors.http-status"] == b"500"
        assert int(told["oss-vectors.attempts"]) in range(ATTEMPTS, attempts_alone(requests, key.decode()) + 1)


def test_bad_content_while_nothing_passes_blocks_and_is_a_dead_letter_once_others_pass(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=2)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", keys=["poison"], status=500)
    worker = start_worker(stage.settings(dead_letter__isolated_attempts=ATTEMPTS)).wait_ready()
    stage.publish([vector_record("poison", GOOD, partition=0)])

    blocked = worker.wait_until(lambda m: (stage.topic, "record_stuck") in m.blocks(), "it is told as stuck")
    tries = len(stage.requests("PutVectors"))
    wait_for(lambda: len(stage.requests("PutVectors")) >= tries + 3, "it is tried on", told=worker.last_words)
    assert blocked.total("dead_letters_total") == 0
    assert stage.dead_letters() == []
    # Only the partition of the stuck record is blocked: the other one goes on, which tells what is at fault.
    stage.publish([vector_record("good", GOOD, partition=1)])
    worker.wait_until(lambda m: m.outcomes() == {"put": 1, "dead_lettered": 1}, "it is a dead letter")

    now = worker.wait_until(lambda m: not m.blocks() and m.state == "running", "the block ends")
    stage.wait_committed_to_the_end(worker)
    assert now.by("dead_letters_total", "reason")["isolated_server_error"] == 1
    assert [letter.key for letter in stage.dead_letters()] == [b"poison"]
    assert stage.dump().keys() == {"good"}


def test_bad_content_that_came_alone_blocks_until_the_next_record_tells_what_is_at_fault(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    """Three bad records in one batch, nothing else, and one partition: it is read on, else nothing could ever pass."""
    stage = new_stage(partitions=1)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", key_contains="poison", status=500)
    worker = start_worker(stage.settings(dead_letter__isolated_attempts=ATTEMPTS)).wait_ready()
    stage.publish([vector_record(f"poison-{one}", GOOD) for one in range(3)])
    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "record_stuck")}, "it is told as stuck")
    worker.wait_until(lambda m: m.state == "blocked", "the state is blocked")
    more = 0

    def others_pass() -> bool:
        nonlocal more
        stage.publish_versions([(f"more-{more}", GOOD)])
        more += 1
        return worker.metrics().outcomes().get("dead_lettered") == 3

    wait_for(others_pass, "all three are dead letters", told=worker.last_words)
    worker.wait_settled(3 + more)
    assert stage.dump() == stage.model()
    assert {one.key for one in stage.dead_letters()} == {b"poison-0", b"poison-1", b"poison-2"}
    worker.wait_until(lambda m: not m.blocks() and m.state == "running", "the block ends")


def test_an_outage_of_500s_dead_letters_nothing_and_ends_with_everything_written(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", status=500)
    stage.publish_versions(versions_of(keys=100, count=200))
    worker = start_worker(
        stage.settings(batch__max_records=1, dead_letter__isolated_attempts=ATTEMPTS, delivery__retry_max_seconds=0.2)
    )

    worker.wait_until(lambda m: m.total("retries_total", reason="server") > 20 * ATTEMPTS, "the outage lasts")
    worker.wait_until(lambda m: m.state == "blocked", "it is told")
    stage.emulator.clear_faults(stage.bucket)
    now = worker.wait_settled(200)

    assert now.outcomes().keys() <= {"put", "superseded"}
    assert stage.dump() == stage.model()
    assert stage.dead_letters() == []
    worker.wait_until(lambda m: not m.blocks() and m.state == "running", "nothing blocks any more")


def test_an_answer_of_the_outage_that_comes_after_its_end_costs_no_record(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    """`late` leaves during the outage; the outage ends and others are taken; then comes the answer to `late`: 500."""
    stage = new_stage(partitions=2)
    outage: Fault = {"bucket": stage.bucket, "operation": "PutVectors", "status": 500}
    late: Fault = {**outage, "keys": ["late"]}
    first: Fault = {**late, "count": ATTEMPTS}
    slow: Fault = {**late, "latency_seconds": 10}
    for rule in (first, slow, outage):
        stage.emulator.fault(**rule)
    stage.publish_versions([("late", GOOD), ("other", GOOD)])
    worker = start_worker(
        stage.settings(dead_letter__isolated_attempts=ATTEMPTS, batch__max_records=1, oss__read_timeout_seconds=30)
    )
    # The fifth of them is the slow one: by then the record has got 500 often enough.
    wait_for(
        lambda: (
            (seen := [one for one in stage.requests("PutVectors") if one.keys == ["late"]])
            and len(seen) == ATTEMPTS + 1
            and is_under_way(seen, "late")
        ),
        "it left",
        told=worker.last_words,
    )

    stage.emulator.clear_faults(stage.bucket)

    now = worker.wait_settled(2)
    first_other = next(one for one in stage.requests("PutVectors") if one.keys == ["other"] and one.status == 200)
    last_of_outage = [one for one in stage.requests("PutVectors") if one.keys == ["late"] and one.status == 500][-1]
    assert first_other.ended is not None
    assert last_of_outage.ended is not None
    assert first_other.ended < last_of_outage.ended  # else the situation did not come about
    assert now.outcomes() == {"put": 2}
    assert stage.dump() == stage.model()


def is_under_way(requests: Sequence[JournalEntry], key: str) -> bool:
    return any(one.ended is None and one.keys == [key] for one in requests)
