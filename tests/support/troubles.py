"""A worker in each trouble that a person on call meets: what its page reads, made of a real ledger, registry and status.

`python -m tests.support.troubles FOLDER` writes the page of each as a file, to look at.
"""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.page import PageStage
from tests.unit.samples import opened
from worker.app.connection import NOT_CONNECTED
from worker.errors import BlockReason, Reason, RetryReason, Transient
from worker.ledger import Assignment, Outcome
from worker.ports import LimitCause, Pace
from worker.telemetry.kafka_facts import GroupMember
from worker.telemetry.page.facts import Share
from worker.telemetry.page.figures import STEP_SECONDS
from worker.telemetry.state import Block, DeadLettered, State

TARGET: Final = Block("vectors", BlockReason.TARGET)
UNAVAILABLE: Final = Transient("busy", kind=RetryReason.SERVER, status=503, code="ServiceUnavailable")


class Trouble(NamedTuple):
    """How its stage is made, the heading of its page, its tone, and words that the page has."""

    make: Callable[[], PageStage]
    headline: str
    tone: str
    words: tuple[str, ...]


def at_work(
    steps: int = 60, *, published: int = 400, settled: int = 400, lag: int = 0, seconds: float = 0.4
) -> tuple[PageStage, list[Assignment]]:
    """A worker that owns two of four partitions: so many records are published and settled in each step of five seconds."""
    stage = PageStage()
    assignments = [opened(stage.ledger, partition=number) for number in range(2)]
    stage.status.enter(State.RUNNING, "running")
    _set_group(stage)
    ends = {each.partition: lag // 2 for each in assignments}
    stage.metrics.ends.update(ends)
    for step in range(steps):
        for assignment in assignments:
            ends[assignment.partition] += published // 2
            if settled:
                stage.settle(assignment, settled // 2, Outcome.PUT, seconds + step % 7 / 10)
                stage.ledger.committed({assignment: assignment.watermark})
        if step % 3 == 0:  # the ends are asked for every 15 s
            stage.metrics.ends.update(ends)
        stage.metrics.requests.labels("docs", "PutVectors", "200").inc(2)
        stage.step()
    stage.metrics.ends.update(ends)
    _set_pace(stage)
    return stage, assignments


def _set_group(stage: PageStage) -> None:
    gauges = stage.gauges
    for name, value in (("topic_partitions", 4), ("topic_assigned_partitions", 2), ("unassigned_partitions", 0)):
        gauges.set(name, value, topic="vectors")
    gauges.set("group_lag_records", 1234, topic="vectors")
    gauges.set("group_members", 2)
    stage.members = [GroupMember("docs-writer", f"10.0.0.{number}", True, 2) for number in (1, 2)]
    for topic in ("vectors", "vectors.dlq"):
        gauges.set("topic_missing", 0, topic=topic)
    gauges.set("retention_left_seconds", float("inf"), topic="vectors")
    gauges.set("coordinator_unavailable_seconds", 0)


def _set_pace(stage: PageStage) -> None:
    stage.metrics.rate_limit.labels("docs").set(2500)
    stage.metrics.in_flight_limit.labels("docs").set(8)
    stage.metrics.buffer_limit.set(256 * 2**20)
    for metric in (stage.metrics.last_put, stage.metrics.last_poll, stage.metrics.last_commit):
        metric.set(stage.wall())
    stage.set_pace("docs", Pace(2500, LimitCause.CONFIGURED, 8, LimitCause.CONFIGURED))
    stage.shares = [Share("vectors", 3, 1000, 0.1, 50)]


def idle(stage: PageStage, seconds: float) -> None:
    """Let time pass in which the main loop turns and nothing is settled."""
    for _ in range(round(seconds / STEP_SECONDS)):
        stage.step()


def _attempt(stage: PageStage, block: Block, message: str, *, times: int, quote: str = "") -> None:
    """Let what is blocked be tried so many times, each 30 s after the one before."""
    stage.status.block(block, message, quote, retry_in=30.0)
    for _ in range(times - 1):
        idle(stage, 30.0)
        stage.status.block(block, message, quote, retry_in=30.0)


def _with_gauge(name: str, topic: str, seconds: float) -> PageStage:
    """A worker at work, for so many seconds with this gauge of a topic at 1."""
    stage, _ = at_work()
    stage.gauges.set(name, 1, topic=topic)
    idle(stage, seconds)
    return stage


def healthy() -> PageStage:
    """All is well."""
    return at_work()[0]


def service_outage() -> PageStage:
    """The service refuses everything for fourteen minutes."""
    stage, assignments = at_work(lag=2000)
    for _ in range(31):
        stage.status.service.failed("docs", UNAVAILABLE)
    for assignment in assignments:
        stage.ledger.track(assignment, range(assignment.position, assignment.position + 300))
    idle(stage, 840)
    stage.metrics.requests.labels("docs", "PutVectors", "503").inc(31)
    stage.metrics.retries.labels("server").inc(31)
    stage.set_pace("docs", Pace(625, LimitCause.OUTAGE, 2, LimitCause.OUTAGE))
    stage.metrics.in_flight_limit.labels("docs").set(2)
    stage.metrics.rate_limit.labels("docs").set(625)
    return stage


def throttled() -> PageStage:
    """The service accepts less than is published."""
    stage, _ = at_work(published=900, settled=300, lag=40_000)
    stage.metrics.requests.labels("docs", "PutVectors", "429").inc(57)
    stage.metrics.retries.labels("throttled").inc(57)
    stage.metrics.rate_limit.labels("docs").set(60)
    stage.set_pace("docs", Pace(60, LimitCause.THROTTLED, 2, LimitCause.SLOW, throttled_at=stage.clock() - 4))
    return stage


def broker_away() -> PageStage:
    """No broker answers for seventeen minutes, after the worker has run."""
    stage, _ = at_work()
    stage.gauges.set("coordinator_unavailable_seconds", 1020)
    stage.status.enter(State.STARTING, "no broker answers: 10.0.0.7:9092: Connection refused", NOT_CONNECTED)
    stage.page.tick()
    idle(stage, 1020)
    return stage


def first_start() -> PageStage:
    """A worker that has not run yet and finds no broker, so no dead-letter topic either."""
    stage = PageStage()
    stage.status.enter(State.STARTING, "no broker answers: 10.0.0.7:9092: Connection refused", NOT_CONNECTED)
    stage.status.block(
        Block("vectors", BlockReason.DEAD_LETTER_UNAVAILABLE), "the topic cannot be looked for", retry_in=30.0
    )
    idle(stage, 120)
    return stage


def joining_again() -> PageStage:
    """A worker that has run, and whose join lasts longer than a session."""
    stage, _ = at_work()
    stage.status.enter(State.STARTING, "no member of the group for 45 s; joining again")
    return stage


def coordinator_away() -> PageStage:
    """The group's coordinator is away for twenty-one minutes."""
    stage, _ = at_work()
    stage.gauges.set("coordinator_unavailable_seconds", 1260)
    return stage


def stranger_in_group() -> PageStage:
    """Another program in the group owns two partitions."""
    stage, _ = at_work()
    stage.gauges.set("unassigned_partitions", 2, topic="vectors")
    stage.gauges.set("group_lag_records", 812_345, topic="vectors")
    stage.members[1] = GroupMember("console-consumer", "10.0.9.9", False, 2)
    idle(stage, 300)
    return stage


def leader_away() -> PageStage:
    """A partition has no leader, and the rest continues."""
    return _with_gauge("leaderless_partitions", "vectors", 300)


def topic_gone() -> PageStage:
    """The topic was deleted under the worker."""
    return _with_gauge("topic_missing", "vectors", 2400)


def dead_letter_topic_gone() -> PageStage:
    """The dead-letter topic is gone, and no record needs it yet."""
    return _with_gauge("topic_missing", "vectors.dlq", 300)


def commits_refused() -> PageStage:
    """The topic may not be read any more, and is still written."""
    return _with_gauge("refused_commit_partitions", "vectors", 300)


def commits_fail() -> PageStage:
    """The group may not be used any more, and records are still written."""
    stage, _ = at_work()
    for _ in range(30):
        stage.metrics.commits.labels("failed").inc()
        idle(stage, 10)
    return stage


def offsets_passed() -> PageStage:
    """Retention has deleted records before they were read, and a leader without the newest records has others."""
    stage, _ = at_work()
    stage.metrics.skipped_offsets.labels("vectors", "retention").inc(1200)
    stage.metrics.truncated_offsets.labels("vectors").inc(1)
    idle(stage, 600)
    return stage


def near_the_limit() -> PageStage:
    """Many records are bad, and the topic will soon be blocked."""
    stage, assignments = at_work()
    stage.settle(assignments[0], 71, Outcome.DEAD_LETTERED, 1.0)
    stage.metrics.dead_letters.labels("vectors", "dimension").inc(71)
    stage.status.dead_lettered(DeadLettered("vectors", 0, 24_071, Reason.DIMENSION, stage.wall()))
    stage.shares = [Share("vectors", 71, 1000, 0.1, 50)]
    stage.step()
    return stage


def wrong_credentials() -> PageStage:
    """A deployment with wrong credentials: blocked before the first poll."""
    stage = PageStage()
    assignments = [opened(stage.ledger, partition=number, position=100) for number in range(4)]
    stage.metrics.ends.update({each.partition: 5_100 for each in assignments})
    block = Block("vectors", BlockReason.CREDENTIALS)
    stage.status.enter(State.BLOCKED, "vectors: credentials")
    _attempt(stage, block, "index docs: 403 SignatureDoesNotMatch: the request signature does not match", times=13)
    stage.paused |= {each.partition for each in assignments}
    return stage


def limit_reached() -> PageStage:
    """Too many records were bad, and a person must decide."""
    stage, _ = at_work()
    block = Block("vectors", BlockReason.DEAD_LETTER_LIMIT)
    stage.status.enter(State.BLOCKED, "vectors: dead_letter_limit")
    stage.status.block(block, "vectors/1 offset 12001 would be the 101st dead letter of the last 1,000 records")
    stage.shares = [Share("vectors", 100, 1000, 0.1, 50)]
    idle(stage, 3700)
    return stage


def record_stuck() -> PageStage:
    """One record is refused again and again, the rest continues."""
    stage, _ = at_work()
    block = Block("vectors", BlockReason.RECORD_STUCK, 1)
    _attempt(stage, block, "vectors/1 offset 10421", quote="500 InternalError: secret-content", times=9)
    return stage


def retention_near() -> PageStage:
    """The backlog shrinks more slowly than Kafka deletes it."""
    stage, _ = at_work(published=100, settled=500, lag=90_000)
    stage.gauges.set("retention_left_seconds", 5_400, topic="vectors")
    return stage


def nothing_settled() -> PageStage:
    """Records wait and nothing happens, for a reason that nothing else names."""
    stage, assignments = at_work()
    stage.metrics.ends.update({each.partition: each.position + 5_000 for each in assignments})
    idle(stage, 185)
    return stage


def transaction_open() -> PageStage:
    """A producer's transaction is open for ten minutes: all that may be read is written, and nothing comes after it."""
    stage, assignments = at_work()
    for assignment in assignments:
        stage.gauges.set(
            "open_transaction_offsets", 300, topic="vectors", partition=str(assignment.partition.partition)
        )
    idle(stage, 600)
    return stage


def main_loop_stopped() -> PageStage:
    """The main loop has not turned for two minutes."""
    stage, _ = at_work()
    stage.clock.pass_by(120)
    return stage


TROUBLES: Final = {
    "service outage": Trouble(
        service_outage,
        "nothing is accepted",
        "warn",
        ("No request accepted for 14 min: 503 ServiceUnavailable", "since 14:35:00 UTC"),
    ),
    "throttled": Trouble(
        throttled,
        "running, throttled by the service",
        "warn",
        (
            "the service asked for less; last throttled 6.0 s ago",
            "The lag grows by 120 a second: 180 are published, 60.0 settled.",
            "In the last minute the service throttled 57 of 81 requests (429, or 503 for a limit).",
        ),
    ),
    "broker away": Trouble(broker_away, "not connected to Kafka", "warn", ("Connection refused", "for 17 min")),
    "first start": Trouble(first_start, "not connected to Kafka", "warn", ("Connection refused", "for 2 min")),
    "joining again": Trouble(joining_again, "reconnecting", "warn", ("no member of the group for 45 s",)),
    "coordinator away": Trouble(
        coordinator_away, "coordinator not reached", "warn", ("has not reached the group's coordinator for 21 min",)
    ),
    "stranger in the group": Trouble(
        stranger_in_group,
        "running, 2 partitions not read",
        "warn",
        (
            "No worker reads 2 of 4 partitions of vectors",
            "another program is in the group, console-consumer at 10.0.9.9 owns 2.",
            "another program 2 docs-writer 10.0.0.1 worker 2",
            "812,345",
            "1 other member",
            "for 4 min 57 s",
        ),
    ),
    "topic gone": Trouble(
        topic_gone,
        "topic missing",
        "warn",
        ("The topic vectors is not there, or is not shown to this user: no record of it is read.", "for 40 min"),
    ),
    "dead-letter topic gone": Trouble(
        dead_letter_topic_gone,
        "running, dead-letter topic missing",
        "warn",
        ("The dead-letter topic vectors.dlq is not there", "the first bad record will block its topic."),
    ),
    "leader away": Trouble(
        leader_away,
        "running, 1 partition without a leader",
        "warn",
        ("1 partition of vectors has no leader.", "for 4 min 57 s"),
    ),
    "commits refused": Trouble(
        commits_refused,
        "running, commits refused",
        "warn",
        ("The broker refuses to commit 1 partition of vectors", "for 4 min 57 s"),
    ),
    "commits fail": Trouble(commits_fail, "running, commits fail", "warn", ("none was accepted for 5 min",)),
    "offsets skipped": Trouble(
        offsets_passed,
        "running, offsets skipped",
        "warn",
        (
            "Since the start 1,200 offsets of vectors were skipped without being read (retention).",
            "Since the start Kafka has lost 1 offset of vectors that had been read.",
        ),
    ),
    "near the dead-letter limit": Trouble(
        near_the_limit,
        "running, near the dead-letter limit",
        "warn",
        ("71 are dead letters (7.1 %); above 10 % the topic is blocked", "the limit is 10 % and 50"),
    ),
    "wrong credentials": Trouble(
        wrong_credentials,
        "blocked",
        "bad",
        ("403 SignatureDoesNotMatch", "for 6 min", "tried 13 times", "next attempt in 28 s", "20,000"),
    ),
    "dead-letter limit reached": Trouble(
        limit_reached, "blocked", "bad", ("the 101st dead letter", "it needs a person", "for 1 h 2 min")
    ),
    "record stuck": Trouble(
        record_stuck, "running, 1 blocked", "warn", ("vectors/1 offset 10421", "tried 9 times", "next attempt in 28 s")
    ),
    "retention near": Trouble(
        retention_near,
        "running, records about to expire",
        "warn",
        ("Kafka deletes the oldest record of vectors that is not settled in 1 h 30 min", "caught up in"),
    ),
    "nothing settled": Trouble(
        nothing_settled, "nothing is settled", "warn", ("Records wait, and none was settled for",)
    ),
    "transaction open": Trouble(
        transaction_open,
        "running, a transaction stays open",
        "warn",
        ("A producer's transaction is open in 2 partitions of vectors: what comes after its first record is not read",),
    ),
    "main loop stopped": Trouble(main_loop_stopped, "not responding", "warn", ("has not turned for 2 min",)),
}


def html_of(stage: PageStage) -> str:
    """Return the page two seconds later, without a turn of the main loop."""
    stage.clock.pass_by(2.0)
    return stage.page.html().decode()


@cache
def page_in(trouble: str) -> str:
    """Return the page in a trouble, made once."""
    return html_of(TROUBLES[trouble].make())


def main(folder: Path) -> None:
    """Write the page of each trouble."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, trouble in {"healthy": Trouble(healthy, "running", "good", ()), **TROUBLES}.items():
        (folder / f"{name.replace(' ', '-')}.html").write_text(html_of(trouble.make()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
