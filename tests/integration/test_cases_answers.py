"""The answers that services, proxies and firewalls have really given (`tests/cases/answers.jsonl`), to a running worker.

The cases of one group run at once, each against an index of its own in one worker.
"""

import itertools
import time
from collections.abc import Mapping
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from tests.support.answer_cases import DRIP_SECONDS, AnswerCase, read_cases
from tests.support.broker import GroupFactory, TopicFactory
from tests.support.emulator import Emulator
from tests.support.worker import (
    Stage,
    StageFactory,
    WorkerFactory,
    WorkerProcess,
    free_port,
    vector_record,
    wait_for,
)
from worker.local.broker import Broker
from worker.words import CODE_CHARACTERS, MESSAGE_CHARACTERS

CASES = read_cases()
RECORDS = 40
TIMES = 3  # how often each index answers so
BAD = "key-7"
ATTEMPTS = 4  # dead_letter.isolated_attempts of these tests
READ_TIMEOUT = 3.0
GOOD = [1.0, 2.0, 3.0, 4.0]

SLOW = "headers dripped, one byte in 0.7 s"

STORED = [
    "400 RequestTimeout",
    "400 InvalidDigest",
    "400 RequestTimeout as XML",
    "400 from a proxy, HTML",
    "400 without a body",
    "422 HTML",
    "200 HTML page",
    "200 with an error inside",
    "202",
    "503 Retry-After of 400 digits",
    "503 Retry-After with an absurd zone",
    "503 Retry-After 1.5",
    "503 Retry-After joined",
    "500 with a code of 1 MB",
    SLOW,
]
AT_LEAST_SECONDS = {
    "503 Retry-After 1.5": 1.5,
    "503 Retry-After joined": 2.0,
}
BLOCKED = {
    "400 SecurityTokenExpired": "credentials",
    "400 InvalidArgument about the signing region": "target",
    "400 InvalidArgument about the Authorization header": "credentials",
    "400 InvalidArgument about the signing product": "target",
    "302 to a login page": "target",
    "403 whose message has half an emoji": "credentials",
    "403 whose code has a line break and an escape": "credentials",
}
REFUSED = ["400 about content", "400 whose message has half an emoji", "400 with a code nobody knows"]
STUCK = ["413 from a proxy, HTML, one record", "400 with a code nobody knows"]
AT_START = "503 Retry-After 3600 to GetVectorIndex at start"


def test_every_case_is_in_a_group() -> None:
    assert {*STORED, *BLOCKED, *REFUSED, *STUCK, AT_START} == CASES.keys()


class Group:
    """Stages of one worker, by the name of their case."""

    def __init__(
        self,
        names: Mapping[str, object] | list[str],
        broker: Broker,
        emulator: Emulator,
        admin: KafkaAdminClient,
        new_topic: TopicFactory,
        new_group: GroupFactory,
    ) -> None:
        bucket, group, dead_letters = emulator.new_bucket(), new_group(), new_topic()
        self.emulator = emulator
        self.bucket = bucket
        self.stages: dict[str, Stage] = {}
        for number, name in enumerate(names):
            index = emulator.new_index(4, bucket=bucket, index=f"case{number}")[1]
            self.stages[name] = Stage(broker, emulator, admin, new_topic(1), dead_letters, group, bucket, index, 1)

    def fault(self, name: str, **more: object) -> None:
        """Let the case's index answer so."""
        self.emulator.fault(**CASES[name].fault(bucket=self.bucket, index=self.stages[name].index, **more))

    def publish(self) -> None:
        """Publish the same records to every topic."""
        first = next(iter(self.stages.values()))
        with closing(KafkaProducer(bootstrap_servers=first.broker.bootstrap, linger_ms=5)) as producer:
            for stage in self.stages.values():
                stage.publish_versions_with(producer, [(f"key-{one}", [float(one), 1, 2, 3]) for one in range(RECORDS)])

    def settings(self, **more: object) -> dict[str, str]:
        """A worker's environment for all of them."""
        first = next(iter(self.stages.values()))
        routes = {stage.topic: stage.index for stage in self.stages.values()}
        return first.settings(
            **{
                "routes": routes,
                "batch__max_records": 10,
                "dead_letter__isolated_attempts": ATTEMPTS,
                "dead_letter__limit_ratio": 1,
                "delivery__max_in_flight": 2,
                "oss__read_timeout_seconds": READ_TIMEOUT,
                **more,
            }
        )


class GroupOf:
    """Makes groups."""

    def __init__(self, *parts: object) -> None:
        self._parts = parts

    def __call__(self, names: Mapping[str, object] | list[str]) -> Group:
        """Make one."""
        return Group(names, *self._parts)  # type: ignore[arg-type]  # the fixture's parts, in order


@pytest.fixture
def group_of(
    broker: Broker, emulator: Emulator, admin: KafkaAdminClient, new_topic: TopicFactory, new_group: GroupFactory
) -> GroupOf:
    """The factory of groups."""
    return GroupOf(broker, emulator, admin, new_topic, new_group)


def seconds_until_again(stage: Stage) -> float:
    """Return the time from the answer that was no success to the next request with the same keys.

    A dripped answer has no end in the journal; its request's arrival is taken.
    """
    requests = stage.requests("PutVectors")
    failed = next(one for one in requests if not one.applied)
    again = next(one for one in requests if one.applied and set(one.keys) & set(failed.keys))
    began = failed.ended if failed.ended is not None and failed.ended < again.started else failed.started
    return again.started - began


def test_what_says_nothing_of_the_records_is_waited_out(group_of: GroupOf, start_worker: WorkerFactory) -> None:
    group = group_of(STORED)
    for name in STORED:
        group.fault(name, count=1 if name in AT_LEAST_SECONDS or CASES[name].is_slow else TIMES)
    group.publish()
    worker = start_worker(group.settings())
    now = worker.wait_settled(RECORDS * len(STORED))

    assert now.outcomes() == {"put": RECORDS * len(STORED)}
    for name, stage in group.stages.items():
        assert stage.dump() == stage.model(), name
    assert next(iter(group.stages.values())).dead_letters() == []
    assert worker.healthz().status == 200
    for name, seconds in AT_LEAST_SECONDS.items():
        assert seconds <= seconds_until_again(group.stages[name]), name
    slow = CASES[SLOW]
    in_all = sum(len(name) + len(value) for name, value in slow.headers.items()) * DRIP_SECONDS
    assert READ_TIMEOUT / 2 < seconds_until_again(group.stages[SLOW]) < in_all / 2
    for line in worker.log_lines("request failed, will be sent again"):
        assert len(str(line["error"])) <= MESSAGE_CHARACTERS + CODE_CHARACTERS + 10


def text_of(worker: WorkerProcess) -> list[str]:
    return [line for line in worker.text().splitlines() if "blocked" in line]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_what_needs_a_person_blocks_and_goes_on_by_itself(
    group_of: GroupOf, start_worker: WorkerFactory, log_format: str
) -> None:
    group = group_of(BLOCKED)
    for name in BLOCKED:
        group.fault(name)
    group.publish()
    port = free_port()
    worker = start_worker(group.settings(log__format=log_format, http__port=port))
    worker._port = port
    wait_for(lambda: "http" in worker.text(), "the port is open", told=worker.last_words)
    expected = {(group.stages[name].topic, reason) for name, reason in BLOCKED.items()}
    worker.wait_until(lambda m: m.blocks() == expected and m.state == "blocked", "each is blocked for its reason")

    ready = worker.readyz()
    assert ready.status == 503
    for words in ("ExpiredToken", "AccessDenied: \ufffd", "Access Denied\ufffd[31m: m", "redirect to http://127.0.0.1"):
        assert words in ready.json["reason"]
    for name, reason in BLOCKED.items():
        topic = group.stages[name].topic
        lines = [
            line for line in text_of(worker) if all(words in line for words in (topic, reason, "blocked", "error"))
        ]
        assert lines, name
    assert all(character.isprintable() or character == "\n" for character in worker.text())
    assert worker.get("/").status == 200

    group.emulator.clear_faults(group.bucket)
    now = worker.wait_settled(RECORDS * len(BLOCKED))
    assert now.outcomes() == {"put": RECORDS * len(BLOCKED)}
    worker.wait_until(lambda m: not m.blocks() and m.state == "running", "nothing blocks any more")
    for name, stage in group.stages.items():
        assert stage.dump() == stage.model(), name


def test_what_the_service_says_of_a_record_costs_that_record(group_of: GroupOf, start_worker: WorkerFactory) -> None:
    group = group_of(REFUSED)
    for name in REFUSED:
        group.fault(name, keys=[BAD])
    group.publish()
    worker = start_worker(group.settings(delivery__retry_max_seconds=0.2))
    unknown = group.stages["400 with a code nobody knows"]
    more = 0

    def all_are_letters() -> bool:
        nonlocal more
        unknown.publish_versions([(f"more-{more}", GOOD)])  # others that pass, by which its fault is known
        more += 1
        return worker.metrics().outcomes().get("dead_lettered") == len(REFUSED)

    wait_for(all_are_letters, "each bad record is a dead letter", told=worker.last_words)
    now = worker.wait_settled(RECORDS * len(REFUSED) + more)
    assert now.outcomes() == {"put": (RECORDS - 1) * len(REFUSED) + more, "dead_lettered": len(REFUSED)}
    letters = unknown.dead_letters()
    for name, stage in group.stages.items():
        assert stage.dump() == {key: vector for key, vector in stage.model().items() if key != BAD}, name
        (headers,) = [
            found for one in letters if (found := dict(one.headers))["oss-vectors.index"] == stage.index.encode()
        ]
        assert headers["oss-vectors.reason"] == b"refused"
        assert headers["oss-vectors.http-status"] == b"400"
        if name == "400 whose message has half an emoji":
            assert "key \ufffd is bad" in headers["__connect.errors.exception.message"].decode()
    assert not now.blocks()


def test_what_may_be_the_ways_or_everybodys_fault_is_reported_and_kept(
    group_of: GroupOf, start_worker: WorkerFactory
) -> None:
    group = group_of(STUCK)
    proxys, unknown = (group.stages[name] for name in STUCK)
    group.fault(STUCK[0], keys=[BAD])  # smaller requests pass
    group.fault(STUCK[1])  # nothing else passes
    group.publish()
    worker = start_worker(group.settings(delivery__retry_max_seconds=0.2))
    worker.wait_until(
        lambda m: m.blocks() == {(proxys.topic, "record_stuck"), (unknown.topic, "record_stuck")},
        "both are reported as stuck",
    )
    wait_for(lambda: len(proxys.dump()) == RECORDS - 1, "the others are written", told=worker.last_words)
    tries = len(proxys.requests("PutVectors"))
    wait_for(
        lambda: len(proxys.requests("PutVectors")) > tries + 3 * ATTEMPTS, "it is tried on", told=worker.last_words
    )
    assert proxys.dead_letters() == []

    group.emulator.clear_faults(group.bucket)
    now = worker.wait_settled(RECORDS * len(STUCK))
    assert now.outcomes() == {"put": RECORDS * len(STUCK)}
    worker.wait_until(lambda m: not m.blocks() and m.state == "running", "nothing blocks any more")
    for stage in (proxys, unknown):
        assert stage.dump() == stage.model()


def test_a_long_pause_at_the_start_is_bounded_and_its_reason_shown(
    group_of: GroupOf, start_worker: WorkerFactory
) -> None:
    group = group_of([AT_START])
    group.fault(AT_START, count=2)
    group.publish()
    worker = start_worker(group.settings(delivery__retry_after_max_seconds=2))

    def reason() -> str:
        return str(worker.readyz().json["reason"])

    wait_for(lambda: "503 ServiceUnavailable: m" in reason(), "/readyz has the last answer", told=worker.last_words)
    assert "waiting for the service to tell of its indexes; index case0: 503 ServiceUnavailable: m" in reason()
    worker.wait_settled(RECORDS)
    asked = group.stages[AT_START].requests("GetVectorIndex")
    assert len(asked) == 3
    assert all(later.started - earlier.started >= 2.0 for earlier, later in itertools.pairwise(asked))


STORM_SECONDS = 8.0


@pytest.mark.parametrize(("name", "per_second"), [("400 from a proxy, HTML", 50), ("200 HTML page", 200)])
def test_a_page_for_eight_seconds_costs_nothing(
    new_stage: StageFactory, start_worker: WorkerFactory, name: str, per_second: int
) -> None:
    case: AnswerCase = CASES[name]
    assert f"for {STORM_SECONDS:.0f} s at {per_second} records/s" in case.also
    stage = new_stage(partitions=2)
    worker = start_worker(stage.settings()).wait_ready()
    published = 0
    with closing(KafkaProducer(bootstrap_servers=stage.broker.bootstrap)) as producer:

        def publish(seconds: float) -> None:
            nonlocal published
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                count = max(1, per_second // 10)
                stage.publish_versions_with(
                    producer, [(f"key-{published + one}", [float(published + one), 1, 2, 3]) for one in range(count)]
                )
                published += count
                time.sleep(0.1)

        publish(1.0)
        stage.emulator.fault(**case.fault(bucket=stage.bucket))
        publish(STORM_SECONDS)
        stage.emulator.clear_faults(stage.bucket)
        publish(1.0)
    now = worker.wait_settled(published)
    assert now.outcomes() == {"put": published}
    assert stage.dump() == stage.model()
    assert stage.dead_letters() == []
    worker.wait_until(lambda m: not m.blocks() and m.state == "running", "nothing blocks any more")


def test_a_redirect_is_not_followed_and_no_credentials_are_sent_there(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage, elsewhere = new_stage(partitions=1), new_stage(partitions=1)
    case = CASES["302 to a login page"]
    target = f"{stage.emulator.url}/?putVectors"
    stage.emulator.fault(**case.fault(bucket=stage.bucket, headers={**case.headers, "Location": target}))
    before = stage.emulator.requests()[-1].sequence
    worker = start_worker(stage.settings())
    stage.publish([vector_record("a", GOOD)])
    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "target")}, "it blocks")
    wait_for(lambda: len(stage.requests("PutVectors")) >= 3, "it is probed", told=worker.last_words)
    unknown = [one for one in stage.emulator.requests(before) if one.bucket not in (stage.bucket, elsewhere.bucket)]
    assert unknown == []
