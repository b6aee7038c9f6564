"""The runbook's commands, typed as they are but for the addresses: against a real broker, real workers and the emulator.

They are taken from the page itself. What each changes or prints is compared, not only its exit code. A new command fails here
until a test follows its section, or a table says what it prints, or why it cannot run here.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import alibabacloud_oss_v2.vectors as sdk
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.admin import (
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    ResourcePatternFilter,
    ResourceType,
)

from tests.support import kafka_tools
from tests.support.commands import Done
from tests.support.emulator import Emulator
from tests.support.markdown import ROOT
from tests.support.programs import program
from tests.support.registry import basic, stand_in
from tests.support.runbook import blocks, commands
from tests.support.worker import (
    Record,
    Stage,
    StageFactory,
    WorkerFactory,
    WorkerProcess,
    read_topic,
    vector_record,
    wait_for,
)
from worker.errors import BlockReason
from worker.local.broker import Broker

VECTOR = [1.0, 2.0, 3.0, 4.0]
LIMIT_S = 120
UNTIL = "OSS_VECTORS_DEAD_LETTER__ACCEPT_UNTIL"

NO_DOCKER = "there is no Docker daemon"
NO_CLUSTER = "there is no Kubernetes cluster"
NO_SYSTEMD = "systemd does not run, and there is no unit"
NOT_RUN: Mapping[str, str] = {
    "docker compose ps --all worker": NO_DOCKER,
    "docker compose port --index 2 worker 9464": NO_DOCKER,
    "docker compose exec --index 2 worker oss-vectors-worker config": NO_DOCKER,
    "docker compose exec kafka /opt/kafka/bin/kafka-topics.sh --bootstrap-server kafka:19092 --list": NO_DOCKER,
    "docker compose -f docker-compose.yml -f ops/docker-compose.production.yml up --detach --scale worker=2 worker": NO_DOCKER,
    "docker inspect --format '{{.State.OOMKilled}} {{.State.ExitCode}} {{.RestartCount}}' CONTAINER": NO_DOCKER,
    "kubectl -n vectors get pods --selector app.kubernetes.io/name=oss-vectors-worker --output wide": NO_CLUSTER,
    "kubectl -n vectors port-forward pod/POD 9464": NO_CLUSTER,
    "kubectl -n vectors logs POD --tail=50": NO_CLUSTER,
    "kubectl -n vectors exec POD -- oss-vectors-worker config": NO_CLUSTER,
    "kubectl -n vectors get pod POD --output jsonpath='{.status.containerStatuses[0].lastState.terminated}'": NO_CLUSTER,
    "kubectl -n vectors get events --field-selector involvedObject.name=POD": NO_CLUSTER,
    "kubectl -n vectors logs --selector app.kubernetes.io/name=oss-vectors-worker --tail=-1 | grep 'a record is suspect'": NO_CLUSTER,
    "kubectl apply -k ops/kubernetes/overlays/mine": NO_CLUSTER,
    "kubectl -n vectors rollout status deployment/oss-vectors-worker-articles": NO_CLUSTER,
    "helm upgrade worker ops/helm/oss-vectors-worker --namespace vectors --values mine.yaml": NO_CLUSTER,
    "kubectl -n vectors exec --stdin --tty POD -- sh": NO_CLUSTER,
    "docker compose exec worker sh": NO_DOCKER,
    "kubectl -n vectors scale deployment/oss-vectors-worker-articles --replicas=0": NO_CLUSTER,
    "kubectl -n vectors scale deployment/oss-vectors-worker-articles --replicas=2": NO_CLUSTER,
    "kubectl -n vectors wait pod --selector app.kubernetes.io/name=oss-vectors-worker,app.kubernetes.io/instance=articles --for=delete --timeout=120s": NO_CLUSTER,
    "kubectl -n vectors annotate scaledobject/oss-vectors-worker-articles autoscaling.keda.sh/paused-replicas=0 --overwrite": NO_CLUSTER,
    "kubectl -n vectors annotate scaledobject/oss-vectors-worker-articles autoscaling.keda.sh/paused-replicas-": NO_CLUSTER,
    "kubectl -n vectors rollout restart deployment/oss-vectors-worker-articles": NO_CLUSTER,
    "docker compose stop worker": NO_DOCKER,
    "docker compose restart": NO_DOCKER,
    "docker compose up --detach --scale worker=2 worker": NO_DOCKER,
    "docker compose up --detach --force-recreate --scale worker=2 worker": NO_DOCKER,
    "sudo systemctl stop oss-vectors-worker": NO_SYSTEMD,
    "sudo systemctl start oss-vectors-worker": NO_SYSTEMD,
    "systemctl show oss-vectors-worker --property=ActiveState,MainPID": NO_SYSTEMD,
    "systemctl show oss-vectors-worker --property=Result,NRestarts,MemoryMax": NO_SYSTEMD,
    "journalctl --unit oss-vectors-worker --lines 50": NO_SYSTEMD,
    "journalctl --unit oss-vectors-worker --since -24h --grep 'oom|9/KILL'": NO_SYSTEMD,
    "journalctl --dmesg --since -24h --grep 'out of memory|oom-kill|killed process'": NO_SYSTEMD,
    "sudo systemctl daemon-reload": NO_SYSTEMD,
    "sudo systemctl restart oss-vectors-worker": NO_SYSTEMD,
    "python -m tests.bench": "it takes minutes; tests/bench/test_bench.py tests it",
}
"""Commands that cannot run here, each with the reason."""

FOLLOWED: set[str] = set()
"""The sections whose commands tests type, each of them, but for those above."""

BY_TEST: dict[str, set[str]] = {}
"""The same, by the name of the test."""

F = TypeVar("F", bound=Callable[..., object])


def follows(*sections: str) -> Callable[[F], F]:
    """Mark a test as the one that types all commands of these sections."""

    def mark(test: F) -> F:
        FOLLOWED.update(sections)
        BY_TEST[test.__name__] = set(sections)
        return test

    return mark


# -- typing


@dataclass
class Typist:
    """Types commands in a shell, with the names of a stage in place of those in the page."""

    folder: Path
    tools: Path
    environment: dict[str, str] = field(repr=False)
    names: dict[str, str]
    typed: set[str] = field(default_factory=set)

    def type(self, text: str, answer: str = "", **more: str) -> Done:
        """Run a command to its end; `more` are further names, whose underscores stand for spaces."""
        self.typed.add(text)
        names = self.names | {name.replace("_", " "): value for name, value in more.items()}
        pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        line = re.sub(pattern, lambda found: names[found[0]], text)
        assert not re.search(r"\b(?:BROKER|TOPIC|WORKER|SEGMENT|DIMENSION|REPLICAS|ID|P|N)\b(?!=)", line), line
        path = os.pathsep.join([str(self.tools), str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            env=self.environment | {"PATH": path, "PYTHONPATH": str(ROOT)},
            cwd=self.folder, input=answer, capture_output=True, text=True, check=False, timeout=LIMIT_S,
        )  # fmt: skip
        assert "Traceback" not in done.stderr or "kafka.admin" in line, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def output(self, text: str, answer: str = "", **more: str) -> str:
        """Run a command that must succeed; return what it prints."""
        done = self.type(text, answer, **more)
        assert (done.code, text) == (0, text), done.out + done.err
        return done.out


class TypistFactory(Protocol):
    """Hands out typists. At the end of the test each command of its sections must have been typed."""

    def __call__(self, stage: Stage, worker: WorkerProcess | None = None, **settings: object) -> Typist: ...


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Path:
    """A folder with Kafka's tools, and the worker as the program that its installation makes."""
    folder = tmp_path_factory.mktemp("bin")
    kafka_tools.install(folder, broker.bootstrap)
    worker = folder / "oss-vectors-worker"
    worker.write_text(f'#!/bin/sh\nexec {sys.executable} -m worker "$@"\n')
    worker.chmod(0o755)
    return folder


@pytest.fixture
def new_typist(tools: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TypistFactory]:
    """The factory of typists."""
    made: list[Typist] = []

    def create(stage: Stage, worker: WorkerProcess | None = None, **settings: object) -> Typist:
        folder = tmp_path / f"typist-{len(made)}"
        folder.mkdir()
        made.append(Typist(folder, tools, stage.settings(**settings), names_of(stage, worker)))
        return made[-1]

    yield create
    sections = BY_TEST.get(request.function.__name__, set())
    typed = set[str]().union(*(typist.typed for typist in made))
    assert {one.text for one in commands() if one.section in sections} - typed - {*LOOKS, *NOT_RUN} == set()


def names_of(stage: Stage, worker: WorkerProcess | None) -> dict[str, str]:
    """Return what stands in a command for each name of the page."""
    names = {
        "BROKER": stage.broker.bootstrap,
        "TOPIC": stage.topic,
        "TOPIC:P": f"{stage.topic}:0",
        "--topic vectors": f"--topic {stage.topic}",
        "--topic vectors.dlq": f"--topic {stage.dead_letter_topic}",
        "vectors.dlq": stage.dead_letter_topic,
        "--group oss-vectors-worker": f"--group {stage.group}",
        "-g oss-vectors-worker": f"-g {stage.group}",
        "-worker 50": "-worker 4",
        "--partition P": "--partition 0",
        "--offset N": "--offset 0",
        "REPLICAS": "1",
        "--broker-id ID": "--broker-id 1",
    }
    return names if worker is None else names | {"WORKER:9464": f"127.0.0.1:{worker.port}"}


def printed(section: str) -> list[str]:
    """Return the commands of a section, each once."""
    return [one.text for one in commands() if one.section == section]


def of_blocks(section: str) -> list[str]:
    """Return the commands in a section's blocks, in their order."""
    return [line for block in blocks(section, "sh") for line in block.splitlines()]


# -- what is typed, and what cannot be


def test_every_command_is_typed_by_a_test_or_listed_with_the_reason() -> None:
    typed = {one.text for one in commands() if one.section in FOLLOWED}
    assert [one for one in commands() if one.text not in {*typed, *LOOKS, *NOT_RUN}] == []
    assert {*LOOKS, *NOT_RUN} - {one.text for one in commands()} == set()
    assert FOLLOWED - {one.section for one in commands()} == set()


def test_no_command_has_a_mistake_that_a_shell_finds() -> None:
    script = "\n".join(one.text for one in commands())
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("text", [text for text in NOT_RUN if text.startswith(("kubectl ", "docker inspect "))])
def test_a_command_that_cannot_run_has_only_options_that_there_are(text: str) -> None:
    tool = text.split(maxsplit=1)[0]
    if tool == "docker" and shutil.which(tool) is None:
        pytest.skip("docker is not on the PATH")
    own = re.split(r" -- | \| ", text)[0]
    asked = subprocess.run(
        ["bash", "-c", own.replace(tool, program(tool), 1) + " --help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert (asked.returncode, "unknown" in asked.stderr) == (0, False), asked.stderr


def test_what_kubernetes_keeps_of_a_container_that_was_killed_is_printed_by_the_path_of_the_page(
    tmp_path: Path,
) -> None:
    (text,) = [text for text in NOT_RUN if "jsonpath=" in text]
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    status = {"containerStatuses": [{"name": "worker", "lastState": {"terminated": ended}}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker"}, "status": status}
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    line = f"{program('kubectl')} label --local -f pod.json a=b --output {text.partition(' --output ')[2]}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert json.loads(done.stdout) == ended, done.stderr


# -- commands that only look


LOOKS: Mapping[str, str] = {
    "curl -s http://WORKER:9464/readyz": r'"state": ?"running"',
    "curl http://WORKER:9464/healthz": r"\S",
    "oss-vectors-worker config": r'group_id = "GROUP"',
    "oss-vectors-worker check": r"ok +group ",
    "kafka-consumer-groups.sh --bootstrap-server BROKER --group oss-vectors-worker --describe": r"GROUP +\S+ +0 +\d+ +\d+ +0 ",
    "kafka-consumer-groups.sh --bootstrap-server BROKER --group oss-vectors-worker --describe --members": r"GROUP .*/127\.0\.0\.1 ",
    "kafka-consumer-groups.sh --bootstrap-server BROKER --group oss-vectors-worker --describe --members --verbose": r"GROUP .*/127\.0\.0\.1 .*:0",
    "python -m kafka.admin -b BROKER groups list-offsets -g oss-vectors-worker": r"'lag': 0",
    "kafka-topics.sh --bootstrap-server BROKER --list": r"^TOPIC$",
    "kafka-transactions.sh --bootstrap-server BROKER describe-producers --topic TOPIC --partition P": r"CurrentTransactionStartOffset",
    "kafka-transactions.sh --bootstrap-server BROKER find-hanging --broker-id ID": r"ProducerId",
    "kafka-console-consumer.sh --bootstrap-server BROKER --topic TOPIC --partition P --offset N --max-messages 1": r'^\{"key": "good-0"',
    "kafka-get-offsets.sh --bootstrap-server BROKER --topic TOPIC --time earliest": r"^TOPIC:0:0$",
    "kafka-get-offsets.sh --bootstrap-server BROKER --topic TOPIC --time latest": r"^TOPIC:0:5$",
    "kafka-dump-log.sh --files SEGMENT": r"baseOffset: 0 lastOffset: \d+ ",
    "ss --listening --tcp --numeric --processes 'sport = :9464'": r"127\.0\.0\.1:PORT .*pid=PID,",
    "oss-vectors-worker dlq list": r"DEAD: 0 dead letters",
    "oss-vectors-worker dlq list --since 1h": r"DEAD: 0 dead letters",
    "oss-vectors-worker dlq list --since 1d": r"DEAD: 0 dead letters",
    "oss-vectors-worker verify": r"no difference",
}
"""What a command that changes nothing prints of a sound worker."""


def test_commands_that_only_look_answer_of_a_sound_worker(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory
) -> None:
    program("ss")
    program("curl")
    stage = new_stage(partitions=1)
    worker = start_worker(stage.settings()).wait_ready()
    stage.publish_versions([(f"good-{number}", VECTOR) for number in range(5)])
    worker.wait_settled(5)
    stage.wait_committed_to_the_end(worker)
    typist = new_typist(stage, worker)
    segment = stage.broker.data / f"records/{stage.topic}-0/{'0' * 20}.log"
    typist.names |= {"SEGMENT": str(segment), ":9464'": f":{worker.port}'"}
    names = {"GROUP": stage.group, "TOPIC": stage.topic, "DEAD": stage.dead_letter_topic}
    names |= {"PORT": str(worker.port), "PID": str(worker.pid)}
    with ThreadPoolExecutor(2) as pool:  # they wait for Java to start most of the time
        outputs = dict(zip(LOOKS, pool.map(lambda text: typist.type(text).out, LOOKS), strict=True))
    wrong = {}
    for text, out in outputs.items():
        wanted = LOOKS[text]
        pattern = re.sub("|".join(names), lambda found: names[found[0]], wanted)
        if not re.search(pattern, out, re.MULTILINE):
            wrong[text] = out
    assert wrong == {}


@follows("Keeping the records of a topic", "blocked: dead_letter_unavailable", "blocked: no_dead_letter")
def test_limits_of_topics_are_raised_and_a_record_is_copied(new_stage: StageFactory, new_typist: TypistFactory) -> None:
    stage = new_stage(partitions=1)
    stage.publish([Record(b"k\xff", b'bad\n\\\x00"one', partition=0, headers=[("trace", b"\xfe")])])
    typist = new_typist(stage)
    look, keep, as_before = of_blocks("Keeping the records of a topic")
    assert re.findall(r"^ +retention\.(\w+)=(\S+) ", typist.output(look), re.MULTILINE) == [
        ("bytes", "-1"),
        ("ms", "604800000"),
    ]
    assert "DYNAMIC_TOPIC_CONFIG" not in typist.output(look)
    assert "Completed updating config" in typist.output(keep)
    assert config_of(stage.admin, stage.topic) == {"retention.ms": "-1", "retention.bytes": "-1"}
    assert typist.output(look).count("DYNAMIC_TOPIC_CONFIG:retention.") == 2
    typist.output(as_before)
    assert config_of(stage.admin, stage.topic) == {}
    (larger,), (copy,) = of_blocks("blocked: dead_letter_unavailable"), of_blocks("blocked: no_dead_letter")
    assert "Completed updating config" in typist.output(larger)
    assert config_of(stage.admin, stage.dead_letter_topic) == {"max.message.bytes": "10485760"}
    typist.output(copy)
    *_, line = (
        (typist.folder / "record").read_text().splitlines()
    )  # newer tools first say that --property is deprecated
    time, headers, key, value = line.split("\t")
    assert re.fullmatch(r"CreateTime:\d+", time)
    assert (headers, key, value) == (r"trace:\xFE", r"k\xFF", r'bad\x0A\x5C\x00"one')


def config_of(admin: KafkaAdminClient, topic: str) -> dict[str, str]:
    """Return the settings that a topic has of its own."""
    found: Any = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return {name: one["value"] for name, one in found["topic"][topic].items() if name in OF_A_TOPIC}


OF_A_TOPIC = {"cleanup.policy", "max.message.bytes", "retention.bytes", "retention.ms"}


# -- offsets


@follows("Resetting offsets")
def test_offsets_are_saved_reset_and_brought_back(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory
) -> None:
    stage = new_stage(partitions=2)
    worker = start_worker(stage.settings()).wait_ready()
    stage.publish([vector_record(f"key-{number}", VECTOR, partition=number % 2) for number in range(10)])
    worker.wait_settled(10)
    stage.wait_committed_to_the_end(worker)
    typist = new_typist(stage, worker)
    state, save, look, back, without_tools = of_blocks("Resetting offsets")
    execute = look.replace("--dry-run", "--execute")
    refused = typist.type(execute)
    assert (refused.code, "Error: Assignments can only be reset if the group" in refused.out) == (0, True)
    assert typist.type(without_tools, **{"--to-offset_N": "--to-offset 2"}).code == 1
    assert worker.terminate() == 0

    wait_for(lambda: re.search(r" Empty +0", typist.output(state)), "the group is empty")
    typist.output(save)
    assert sorted((typist.folder / "offsets-before.csv").read_text().split()) == [
        f"{stage.topic},{n},5" for n in (0, 1)
    ]
    assert re.search(rf" {stage.topic} +0 +0$", typist.output(look), re.MULTILINE)
    assert stage.committed() == {0: 5, 1: 5}
    typist.output(execute)
    assert stage.committed() == {0: 0, 1: 5}
    typist.output(back)
    assert stage.committed() == {0: 5, 1: 5}
    typist.output(without_tools, **{"--to-offset_N": "--to-offset 2"})
    assert stage.committed() == {0: 2, 1: 5}
    again = start_worker(stage.settings()).wait_ready()
    assert again.wait_settled(3).settled == 3


@follows("Skipping a record")
def test_a_record_is_skipped_only_when_all_before_it_are_written(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory
) -> None:
    stage = new_stage(partitions=1)
    settings = stage.settings(dead_letter_topic="", shutdown__drain_seconds=2)
    blocked = (stage.topic, BlockReason.NO_DEAD_LETTER.value)
    state, _, look, *_ = of_blocks("Resetting offsets")
    (describe,) = of_blocks("Skipping a record")
    typist = new_typist(stage)

    def committed_after_a_stop(worker: WorkerProcess) -> int:
        worker.wait_until(lambda now: blocked in now.blocks(), "the bad record blocks")
        assert worker.terminate() == 0
        wait_for(lambda: re.search(r" Empty +0", typist.output(state)), "the group is empty")
        found = re.search(rf" {stage.topic} +0 +(\d+) ", typist.output(describe))
        assert found is not None
        return int(found[1])

    worker = start_worker(settings).wait_ready()
    stage.publish([vector_record(f"key-{number}", VECTOR, partition=0) for number in range(2)])
    worker.wait_settled(2)
    stage.wait_committed_to_the_end(worker)
    stage.emulator.fault(bucket=stage.bucket, status=503, operation="PutVectors")
    later = [vector_record(f"key-{number}", VECTOR, partition=0) for number in range(2, 5)]
    bad = stage.publish([*later, vector_record("bad", [1.0], partition=0)])[-1].offset
    assert committed_after_a_stop(worker) == 2 < bad  # so the page says not to skip

    stage.emulator.clear_faults(stage.bucket)
    again = start_worker(settings)
    wait_for(lambda: stage.committed() == {0: bad}, "all before the bad record is committed")
    assert committed_after_a_stop(again) == bad
    to_offset = re.sub(r"--to-datetime \S+ --dry-run", f"--to-offset {bad + 1} --execute", look)
    typist.output(to_offset)
    assert stage.committed() == {0: bad + 1}
    stage.publish([vector_record("key-5", VECTOR, partition=0)])
    last = start_worker(settings).wait_ready()
    last.wait_settled(1)
    assert stage.dump() == {f"key-{number}": VECTOR for number in range(6)}


@follows("OssVectorsUnassignedPartitions")
def test_what_the_group_committed_of_a_removed_route_is_deleted_while_the_workers_run(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory
) -> None:
    stage = new_stage(partitions=1)
    removed = replace(new_stage(partitions=1), group=stage.group)
    stage.admin.alter_group_offsets(stage.group, {TopicPartition(removed.topic, 0): OffsetAndMetadata(0, "", -1)})
    worker = start_worker(stage.settings()).wait_ready()
    stage.publish([vector_record("key", VECTOR, partition=0)])
    worker.wait_settled(1)
    stage.wait_committed_to_the_end(worker)
    assert (removed.committed(), stage.committed()) == ({0: 0}, {0: 1})
    (delete,) = of_blocks("OssVectorsUnassignedPartitions")
    assert "Request succeeded" in new_typist(removed).output(delete)
    assert removed.committed() == {}
    assert "Request succeeded" not in new_typist(stage).type(delete).out
    assert stage.committed() == {0: 1}


@follows("A group that never committed")
def test_a_group_that_never_committed_gets_its_first_offsets(
    new_stage: StageFactory, new_typist: TypistFactory
) -> None:
    stage = new_stage(partitions=2)
    stage.publish([vector_record(f"key-{number}", VECTOR, partition=0) for number in range(5)])
    typist = new_typist(stage)
    _, save, *_ = of_blocks("Resetting offsets")
    first, look, remove = of_blocks("A group that never committed")
    assert "not found" in typist.type(look).out
    typist.output(save)
    assert (typist.folder / "offsets-before.csv").read_text().split() == []
    # What the page warns of: the tool makes up the ends as what was committed.
    typist.output(save.replace("--all-topics", "--topic TOPIC"))
    assert f"{stage.topic},0,5" in (typist.folder / "offsets-before.csv").read_text().split()

    typist.output(first)
    assert stage.committed() == {0: 0, 1: 0}
    assert re.search(rf" {stage.topic} +0 +0 +5 +5 ", typist.output(look))
    assert "Request succeeded" in typist.output(remove)
    assert stage.committed() == {}


# -- the group


@follows("The coordinator of the group")
def test_the_coordinator_and_its_partition_are_found(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory
) -> None:
    stage = new_stage(partitions=1)
    worker = start_worker(stage.settings()).wait_ready()
    stage.publish_versions([("key", VECTOR)])
    worker.wait_settled(1)
    stage.wait_committed_to_the_end(worker)
    typist = new_typist(stage)
    which, partition, leaders, leaderless = of_blocks("The coordinator of the group")
    assert re.search(rf"{stage.group} +{stage.broker.bootstrap} +\(1\) ", typist.output(which))
    typist.names["oss-vectors-worker 50"] = f"{stage.group} {count_of_offsets_partitions(stage)}"
    number = int(typist.output(partition))
    assert any(stage.group.encode() in (record.key or b"") for record in offsets_records(stage, number))
    assert re.search(rf"Partition: {number}\s+Leader: 1", typist.output(leaders))
    assert typist.output(leaderless) == ""


@follows("blocked: registry")
def test_a_schema_is_asked_for_by_hand(new_stage: StageFactory, new_typist: TypistFactory) -> None:
    program("curl")
    with stand_in() as registry:
        number = registry.register("float")
        registry.wanted_login = basic("USER", "PASSWORD")
        typist = new_typist(new_stage(partitions=1))
        (asked,) = of_blocks("blocked: registry")
        typist.names |= {"REGISTRY_URL": registry.url, "ids/ID": f"ids/{number}"}
        answer = typist.output(asked)
    assert re.search(r'200 OK.*"schema": ', answer, re.DOTALL), answer


def count_of_offsets_partitions(stage: Stage) -> int:
    """Return how many partitions the topic of offsets has."""
    with closing(KafkaConsumer(bootstrap_servers=stage.broker.bootstrap)) as consumer:
        return len(consumer.partitions_for_topic("__consumer_offsets") or ())


def offsets_records(stage: Stage, number: int) -> list[Any]:
    """Return what is in a partition of the topic of offsets."""
    return [one for one in read_topic(stage.broker.bootstrap, "__consumer_offsets") if one.partition == number]


@follows("Kafka ACLs")
def test_acls_of_the_page_are_those_that_the_broker_then_has(
    new_stage: StageFactory, new_typist: TypistFactory
) -> None:
    config = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with (
        Broker.start(config=config) as guarded,
        closing(KafkaAdminClient(bootstrap_servers=guarded.bootstrap)) as admin,
    ):
        stage = new_stage(partitions=1)
        typist = new_typist(stage)
        typist.names["BROKER"] = guarded.bootstrap
        (typist.folder / "admin.properties").write_text("client.id=admin\n")
        for text in of_blocks("Kafka ACLs"):
            typist.output(text)
        everything = ACLFilter(
            None,
            None,
            ACLOperation.ANY,
            ACLPermissionType.ANY,
            ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
        )
        found = {
            (
                one.principal,
                one.operation.name,
                one.resource_pattern.resource_type.name,
                one.resource_pattern.resource_name,
            )
            for one in admin.describe_acls(everything)[0]
        }
    assert found == {
        ("User:oss-vectors-worker", *rest)
        for rest in [
            ("READ", "TOPIC", stage.topic),
            ("DESCRIBE_CONFIGS", "TOPIC", stage.topic),
            ("READ", "GROUP", stage.group),
            ("WRITE", "TOPIC", stage.dead_letter_topic),
            ("DESCRIBE", "TOPIC", stage.dead_letter_topic),
            ("DESCRIBE_CONFIGS", "TOPIC", stage.dead_letter_topic),
            ("IDEMPOTENT_WRITE", "CLUSTER", "kafka-cluster"),
        ]
    } | {
        ("User:operator", *rest)
        for rest in [
            ("READ", "TOPIC", stage.topic),
            ("WRITE", "TOPIC", stage.topic),
            ("READ", "TOPIC", stage.dead_letter_topic),
            ("DESCRIBE", "GROUP", stage.group),
        ]
    }


@follows("Giving a command as another user")
def test_a_command_has_the_login_of_the_variables_in_place_of_the_settings_file(
    new_stage: StageFactory, new_typist: TypistFactory
) -> None:
    section = "Giving a command as another user"
    typist = new_typist(new_stage(partitions=1))
    for name in ("username", "password"):
        (typist.folder / name).write_text(f"the {name} of the worker\n")
    settings = typist.folder / "worker.toml"
    settings.write_text('[kafka]\nsasl_plain_username_file = "username"\nsasl_plain_password_file = "password"\n')
    typist.environment["OSS_VECTORS_CONFIG"] = str(settings)
    typist.environment["OSS_VECTORS_KAFKA__SECURITY_PROTOCOL"] = "SASL_PLAINTEXT"
    typist.environment["OSS_VECTORS_KAFKA__SASL_MECHANISM"] = "SCRAM-SHA-512"
    lines = [line for line in of_blocks(section) if line not in NOT_RUN]
    typist.typed.update(lines)
    shown = typist.type("; ".join(lines), "a password\n").out
    assert re.findall(r"^sasl_plain_(\w+) = (\S+) .*OSS_VECTORS_KAFKA__SASL_PLAIN_(\w+)", shown, re.MULTILINE) == [
        ("username", '"operator"', "USERNAME"),
        ("password", '"********"', "PASSWORD"),
    ]


@follows("A worker was killed")
def test_what_the_settings_need_of_memory_is_printed(new_stage: StageFactory, new_typist: TypistFactory) -> None:
    (text,) = (text for text in of_blocks("A worker was killed") if text not in NOT_RUN)
    out = new_typist(new_stage(partitions=1)).type(text).out
    assert re.search(r"^\w+ +memory +container: the settings allow about \d+ MiB", out)


# -- the dead-letter topic, and its limit


@follows("Creating the dead-letter topic")
def test_a_worker_that_waits_for_the_dead_letter_topic_finds_the_one_that_the_page_creates(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory
) -> None:
    stage = replace(new_stage(partitions=1), dead_letter_topic=f"dead-{os.urandom(4).hex()}")
    typist = new_typist(stage)
    worker = start_worker(stage.settings())
    blocked = (stage.topic, BlockReason.DEAD_LETTER_UNAVAILABLE.value)
    worker.wait_until(lambda now: blocked in now.blocks(), "the missing topic blocks")
    replicas, create, longer, look = of_blocks("Creating the dead-letter topic")
    found = re.search(r"ReplicationFactor: (\d+)", typist.output(replicas))
    assert found is not None
    too_many = typist.type(create, REPLICAS="3")
    assert (too_many.code, "replication factor of 3 cannot be reached" in too_many.out) == (1, True)
    typist.output(create, REPLICAS=found[1])
    worker.wait_ready()
    lasting = {"retention.ms": "-1", "retention.bytes": "-1"}
    wanted = {**lasting, "cleanup.policy": "delete", "max.message.bytes": "1114124"}
    of_its_own = typist.output(look)
    assert {name: value for name, value in wanted.items() if f"{name}={value} " in of_its_own} == wanted

    typist.output(look.replace("--describe", "--alter --add-config retention.ms=1000"))
    typist.output(longer)
    assert "retention.ms=-1 " in typist.output(look)


@follows("blocked: dead_letter_limit")
def test_bad_records_are_accepted_until_the_time_that_is_set(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory
) -> None:
    stage = new_stage(partitions=1)
    worker = start_worker(stage.settings()).wait_ready()
    stage.publish([vector_record(f"key-{number}", [1.0], partition=0) for number in range(30)])
    blocked = (stage.topic, BlockReason.DEAD_LETTER_LIMIT.value)
    worker.wait_until(lambda now: blocked in now.blocks(), "the bad records block")
    assert worker.terminate() == 0
    typist = new_typist(stage)
    export, *_ = of_blocks("Accepting bad records for a while")
    exported = typist.output(f"{export}; echo ${UNTIL}; oss-vectors-worker config | grep accept_until")
    until = exported.split()[0]
    assert timedelta(hours=1.5) < datetime.fromisoformat(until) - datetime.now(UTC) < timedelta(hours=2.5)
    assert f'accept_until = "{until}"' in exported
    again = start_worker(stage.settings() | {UNTIL: until}).wait_ready()
    again.wait_until(
        lambda now: now.outcomes().get("dead_lettered", 0) > 0 and not now.buffered, "all are dead letters"
    )
    stage.wait_committed_to_the_end(again)
    assert len({header for one in stage.dead_letters() for header in one.headers if header[0].endswith("offset")}) == 30

    listed, replay, dry_run = printed("blocked: dead_letter_limit")
    assert "dimension" in typist.output(listed)
    assert "0 dead letters selected" in typist.output(dry_run)
    assert typist.type(replay, "n\n").code in {0, 1}


@follows("Accepting bad records for a while")
def test_each_way_to_deploy_gets_the_same_setting(new_stage: StageFactory, new_typist: TypistFactory) -> None:
    typist = new_typist(new_stage(partitions=1))
    (typist.folder / "ops").mkdir()
    texts = of_blocks("Accepting bad records for a while")
    export, compose, make, drop_in = (text for text in texts if text not in NOT_RUN)
    typist.names |= {"sudo ": "", "/etc/systemd": str(typist.folder)}
    for text in (export, compose, make, drop_in):
        typist.output(text)
    in_production = (typist.folder / "ops/production.env").read_text()
    of_systemd = (typist.folder / "system/oss-vectors-worker.service.d/accept-until.conf").read_text()
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.fullmatch(rf"{UNTIL}={time}\n", in_production)
    assert re.fullmatch(rf"\[Service\]\nEnvironment={UNTIL}={time}\n", of_systemd)
    (toml,) = blocks("Accepting bad records for a while", "toml")
    assert tomllib.loads(toml).keys() == {"accept_until"}
    (typist.folder / "worker.toml").write_text(f"[dead_letter]\n{toml}")
    shown = typist.output("oss-vectors-worker config --config worker.toml | grep accept_until")
    assert 'accept_until = "2026-01-31T06:00:00Z"' in shown


# -- probe records, and keys that differ


@follows("Publishing probe records", "blocked: record_stuck")
def test_probe_records_decide_about_a_stuck_record_and_are_removed(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory
) -> None:
    stage = new_stage(partitions=4)
    settings = {"dead_letter__isolated_attempts": 2, "records__tombstones": "delete"}
    worker = start_worker(stage.settings(**settings)).wait_ready()
    stage.emulator.fault(bucket=stage.bucket, key_contains="stuck", status=500, operation="PutVectors")
    stage.publish([vector_record("stuck", VECTOR)])
    blocked = (stage.topic, BlockReason.RECORD_STUCK.value)
    worker.wait_until(lambda now: blocked in now.blocks(), "the record blocks")
    typist = new_typist(stage, worker, **settings)
    typist.names["DIMENSION"] = "4"
    write, dry_run, publish, by_kafka, keys, remove = of_blocks("Publishing probe records")
    typist.output(write)
    typist.output(dry_run)
    assert sum(stage.ends().values()) == 1
    typist.output(publish)
    worker.wait_settled(101)
    assert set(stage.dump()) == {f"runbook-probe-{number}" for number in range(100)}
    assert min(stage.ends().values()) > 1
    (listed,) = printed("blocked: record_stuck")
    assert "1  isolated_server_error" in typist.output(listed)

    typist.output(by_kafka)
    records = read_topic(stage.broker.bootstrap, stage.topic)
    probes = [one for one in records if (one.key or b"").startswith(b"runbook-probe-7")]
    assert len({(one.key, one.partition, json.dumps(json.loads(one.value))) for one in probes}) * 2 == len(probes) == 22
    worker.wait_settled(201)
    typist.output(keys)
    typist.output(remove)
    worker.wait_settled(301)
    assert stage.dump() == {}


@follows("Records whose Kafka key is not the vector's key")
def test_records_whose_kafka_key_is_not_the_vectors_are_named_and_shown(
    new_stage: StageFactory, new_typist: TypistFactory
) -> None:
    stage = new_stage(partitions=1)
    good = [vector_record(f"key-{number}", VECTOR, partition=0) for number in range(20)]
    foreign = replace(vector_record("mine", VECTOR, partition=0), key=b"other", headers=[("producer", b"batch-7")])
    place = stage.publish([*good, foreign, *good])[20]
    typist = new_typist(stage)
    sample, show = of_blocks("Records whose Kafka key is not the vector's key")
    out = typist.type(sample).out
    assert (
        f"1 records have a Kafka key that is not the vector's key: {stage.topic}/0 at 20 (Kafka key other, vector mine)"
        in out
    )
    shown = typist.output(show, **{"--offset_N": f"--offset {place.offset}"})
    assert re.match(r"CreateTime:\d+\tproducer:batch-7\tother\t\{\"key\": \"mine\"", shown)


# -- dead letters


@follows(
    "Reading dead letters", "Replaying dead letters", "OssVectorsDeadLetterRatioHigh", "OssVectorsDeadLetterLimitNear"
)
def test_dead_letters_are_found_repaired_and_replayed(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory
) -> None:
    stage = new_stage(partitions=2)
    worker = start_worker(stage.settings()).wait_ready()
    bad = [vector_record(f"key-{n}", VECTOR, metadata={"year": {"ce": n}, "title": "t"}) for n in range(3)]
    stage.publish([*bad, vector_record("good", VECTOR)])
    worker.wait_settled(4)
    typist = new_typist(stage)
    typist.names["0:17"] = "0:1"

    listed, shown, written = of_blocks("Reading dead letters")
    assert "3  metadata, such as 0:2" in typist.output(listed)
    assert "replay        may be replayed" in typist.output(shown)
    typist.output(written)
    assert json.loads((typist.folder / "record").read_bytes())["metadata"]["title"] == "t"
    for text in of_blocks("OssVectorsDeadLetterRatioHigh"):
        assert re.search("metadata|3 to replay", typist.output(text))

    look, try_edit, one, all_of_them = of_blocks("Replaying dead letters")
    assert "3 dead letters selected, 3 to replay" in typist.output(look)
    assert "--edit printed something for 3 dead letters; nothing was sent" in typist.output(try_edit)
    edit = re.search(r"--edit \".*\"(?= --dry-run)", try_edit)
    assert edit is not None
    typist.output(f"{one} {edit[0]}", "y\n")
    worker.wait_settled(5)
    out = typist.output(f"{all_of_them} {edit[0]}", "y\n")
    assert ("2 dead letters replayed" in out, "1  not replayed, replayed_before" in out) == (True, True)
    worker.wait_settled(7)
    assert stage.dump() == dict.fromkeys(["key-0", "key-1", "key-2", "good"], VECTOR)
    assert "0 to replay" in typist.output(f"{all_of_them} {edit[0]}")
    typist.typed |= {one, all_of_them}  # with the same --edit, as the page says
    (after,) = (text for text in printed("Replaying dead letters") if text not in typist.typed)
    assert "3 dead letters" in typist.output(after)


# -- indexes


@follows("Is the index right?", "RAM policies")
def test_an_index_is_compared_and_repaired(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory
) -> None:
    stage = new_stage(partitions=2)
    worker = start_worker(stage.settings()).wait_ready()
    stage.publish_versions([(f"key-{number}", [float(number), 2.0, 3.0, 4.0]) for number in range(10)])
    worker.wait_settled(10)
    stage.wait_committed_to_the_end(worker)
    typist = new_typist(stage)
    compare, a_part, repair = of_blocks("Is the index right?")
    typist.output(compare)
    request = sdk.models.DeleteVectorsRequest(bucket=stage.bucket, index_name=stage.index, keys=["key-3"])
    stage.emulator.client().delete_vectors(request)

    assert typist.type(a_part).code == 3
    (difference,) = (typist.folder / "differences.jsonl").read_text().splitlines()
    assert (json.loads(difference)["key"], json.loads(difference)["kind"]) == ("key-3", "missing")
    assert typist.type(repair, "y\n").code == 3
    worker.wait_settled(11)
    stage.wait_committed_to_the_end(worker)
    typist.output(compare)
    assert stage.dump() == stage.model()


def write_new_settings(typist: Typist, stage: Stage) -> None:
    """Write `new.toml`, and take what is in it out of the environment."""
    (typist.folder / "new.toml").write_text(
        f'[[routes]]\ntopic = "{stage.topic}"\nindex = "{stage.index}"\n[oss]\nbucket = "{stage.bucket}"\n'
        f'[kafka]\ngroup_id = "{stage.group}"\nauto_offset_reset = "earliest"\n'
    )
    for name in ("ROUTES", "OSS__BUCKET", "KAFKA__GROUP_ID", "KAFKA__AUTO_OFFSET_RESET"):
        typist.environment.pop(f"OSS_VECTORS_{name}", None)


def run_as_typed(typist: Typist, text: str, start_worker: WorkerFactory) -> WorkerProcess:
    """Start the worker that the page's command starts; it does not end, so no shell waits for it."""
    assert text == "oss-vectors-worker run --config new.toml"
    typist.typed.add(text)
    return start_worker(typist.environment | {"OSS_VECTORS_CONFIG": str(typist.folder / "new.toml")}).wait_ready()


@follows("Rebuild an index for a new model or dimension")
def test_an_index_is_rebuilt_for_another_dimension(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory, emulator: Emulator
) -> None:
    old = new_stage(partitions=2)
    before = start_worker(old.settings()).wait_ready()
    old.publish_versions([(f"key-{number}", VECTOR) for number in range(10)])
    before.wait_settled(10)
    new = new_stage(partitions=2, dimension=6)
    new.publish_versions([(f"key-{number}", [1.0, 2.0, 3.0, 4.0, 5.0, float(number)]) for number in range(10)])
    typist = new_typist(new)
    write_new_settings(typist, new)
    check, run, verify = of_blocks("Rebuild an index for a new model or dimension")
    out = typist.type(check).out
    faults = {line.split()[1] for line in out.splitlines() if line.startswith("fault ")}
    faults -= {"memory"}  # its limit is this machine's
    assert ("ok       index " in out, faults) == (True, set()), out  # no resolver has the emulator's names
    after = run_as_typed(typist, run, start_worker)
    after.wait_settled(10)
    new.wait_committed_to_the_end(after)
    assert "no difference" in typist.output(verify)
    assert (len(new.dump()), len(old.dump())) == (10, 10)
    emulator.client().delete_vectors(
        sdk.models.DeleteVectorsRequest(bucket=new.bucket, index_name=new.index, keys=["key-3"])
    )
    assert typist.type(verify).code == 3


@follows("Move to another bucket or region")
def test_an_index_moves_to_another_bucket(
    new_stage: StageFactory, start_worker: WorkerFactory, new_typist: TypistFactory, emulator: Emulator
) -> None:
    old = new_stage(partitions=2)
    before = start_worker(old.settings()).wait_ready()
    old.publish_versions([(f"key-{number % 10}", [float(number), 2.0, 3.0, 4.0]) for number in range(20)])
    before.wait_settled(20)
    bucket, index = emulator.new_index(4, "euclidean")
    new = replace(old, bucket=bucket, index=index, group=f"{old.group}-new")
    typist = new_typist(new)
    write_new_settings(typist, new)
    check, run, verify = of_blocks("Move to another bucket or region")
    typist.output(check)
    after = run_as_typed(typist, run, start_worker)
    after.wait_settled(20)
    new.wait_committed_to_the_end(after)
    assert "no difference" in typist.output(verify)
    assert new.dump() == old.dump() == old.model()
