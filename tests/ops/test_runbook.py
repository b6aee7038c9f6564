"""The runbook names what there is: alerts, reasons, metrics, settings, commands, links; and its procedures work."""

import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import alibabacloud_oss_v2.vectors as sdk
import click
import msgspec
import pytest
import yaml
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from tests.support.emulator import Emulator
from tests.support.markdown import ROOT, headings, slug
from tests.support.worker import (
    Record,
    StageFactory,
    WorkerFactory,
    new_stage,
    publish,
    start_worker,
    vector_record,
)
from worker import cli
from worker.errors import BlockReason, Reason
from worker.ledger import Ledger
from worker.local.broker import Broker
from worker.ports import WRITER_OPERATIONS
from worker.settings import tables
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

__all__ = ["new_stage", "start_worker"]  # fixtures

PATH = ROOT / "ops/runbook.md"
TEXT = PATH.read_text(encoding="utf-8")
FENCES: list[tuple[str, str]] = [
    (language, textwrap.dedent(indent + body))
    for indent, language, body in re.findall(r"^( *)```(\w+)\n(.*?)^ *```$", TEXT, re.DOTALL | re.MULTILINE)
]
PROSE = re.sub(r"^( *)```\w+\n.*?^ *```$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
CODE = [*re.findall(r"`([^`\n]+)`", PROSE), *(body for _, body in FENCES)]
POLICIES = sorted((ROOT / "ops/ram").glob("*.json"))


# -- alerts and reasons


def alerts() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "ops/prometheus/rules").glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"] if "alert" in rule]


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    sections = [heading for heading in headings(TEXT) if heading.startswith("OssVectors")]
    assert sorted(sections) == sorted({rule["alert"] for rule in alerts()})


def test_every_alert_links_to_its_section() -> None:
    wrong = [
        rule["alert"]
        for rule in alerts()
        if not rule["annotations"]["runbook_url"].endswith(f"/ops/runbook.md#{slug(rule['alert'])}")
    ]
    assert wrong == []


def test_every_reason_for_being_blocked_has_its_section_right_below_its_alert() -> None:
    found = headings(TEXT)
    pairs = [(above, heading) for above, heading in itertools.pairwise(found) if heading.startswith("blocked: ")]
    assert pairs == [
        (f"OssVectorsBlocked{reason.value.title().replace('_', '')}", f"blocked: {reason.value}")
        for reason in BlockReason
    ]


def test_every_section_of_an_alert_says_what_it_means_and_what_to_look_at_first() -> None:
    sections = re.split(r"^### ", TEXT.partition("\n## Alerts\n")[2].partition("\n## ")[0], flags=re.MULTILINE)[1:]
    bodies = {section.partition("\n")[0]: section.partition("\n")[2] for section in sections}
    above = {f"OssVectorsBlocked{reason.value.title().replace('_', '')}" for reason in BlockReason}
    wanted = ("**Means**: ", "ook first")
    refers = {
        "OssVectorsDeadLettersRefused",
        "OssVectorsLatencyBudgetBurnSlow",
    }  # to another section, with one sentence
    assert {name for name in above if bodies[name].strip()} == set()
    assert [n for n in bodies.keys() - above - refers if not all(part in bodies[n] for part in wanted)] == []


# -- names


def metric_names() -> set[str]:
    metrics = Metrics(Ledger(("vectors",), lambda: 0.0), Status(0.0), ("vectors",), ("docs",))
    names: set[str] = set()
    for family in metrics.registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def test_metrics_named_are_metrics_of_the_worker() -> None:
    histograms = {name.removesuffix("_count") for name in metric_names() if name.endswith("_count")}
    named = set(re.findall(r"\boss_vectors_[a-z_]+", TEXT))
    assert (named - metric_names() - histograms, len(named) > 15) == (set(), True)


def test_reasons_of_dead_letters_named_in_replays_and_counts_are_those_of_the_code() -> None:
    named = set(re.findall(r"--reason ([a-z_]+)", TEXT))
    assert named != set()
    assert named <= {reason.value for reason in Reason}


def setting(table: str, name: str) -> object:
    """The default of a setting; KeyError where there is none."""
    fields = {field.name: field for field in msgspec.structs.fields(tables.TABLES[table])}
    return fields[name].default


def settings_named() -> Iterator[tuple[str, str]]:
    names = "|".join(tables.TABLES)
    for code in CODE:
        yield from re.findall(rf"(?<![\w.-])({names})\.([a-z_]+)\b", re.sub(r"python -m kafka\.admin", "", code))
        for table, name in re.findall(r"\bOSS_VECTORS_([A-Z_]+?)__([A-Z_]+)\b", code):
            yield table.lower(), name.lower()


def test_settings_named_are_settings_of_the_worker() -> None:
    named = set(settings_named())
    there_are = {(table, field.name) for table, kind in tables.TABLES.items() for field in msgspec.structs.fields(kind)}
    assert (named - there_are, len(named) > 20) == (set(), True)


def test_defaults_named_are_the_defaults() -> None:
    named = re.findall(r"`([a-z_]+)\.([a-z_]+)`\s+\(default\s+([^\s),]+)", TEXT)
    wrong = [(table, name, told) for table, name, told in named if float(told) != setting(table, name)]
    assert (wrong, len(named) > 15) == ([], True)


def command(words: list[str]) -> click.Command:
    """The command that these words name; KeyError where there is none."""
    found: click.Command = cli.main
    while isinstance(found, click.Group) and words:
        found = found.commands[words.pop(0)]
    return found


def test_commands_named_are_commands_of_the_worker() -> None:
    named = {
        line
        for code in CODE
        for line in re.findall(r"(?:^|-- |[;&|] )oss-vectors-worker ((?:-{0,2}[a-z][\w-]* ?)+)", code, re.MULTILINE)
    }
    wrong = []
    for line in named:
        options = [word for word in line.split() if word.startswith("-")]
        try:
            found = command([word for word in line.split() if not word.startswith("-")])
        except KeyError:
            wrong.append(line)
            continue
        known = {name for parameter in found.params for name in parameter.opts}
        wrong += [f"{line}: {option}" for option in options if option not in known]
    assert (wrong, "config" in named) == ([], True)


# -- RAM policies


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_policies_allow_what_the_worker_calls_on_one_index_and_nothing_else(path: Path) -> None:
    called = {f"oss:{operation.value}" for operation in WRITER_OPERATIONS}
    policy = json.loads(path.read_text())
    actions = {action for statement in policy["Statement"] for action in statement["Action"]}
    resources = {resource for statement in policy["Statement"] for resource in statement["Resource"]}
    index = "acs:ossvector:cn-hangzhou:123456789:my-bucket/docs"
    assert (policy["Version"], policy.keys()) == ("1", {"Version", "Statement"})
    assert [s.keys() for s in policy["Statement"]] == [{"Effect", "Action", "Resource"}] * len(policy["Statement"])
    assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
    assert actions == (called if "deletes" in path.name else called - {"oss:DeleteVectors"})
    assert resources == {index, f"{index}/*"}


def test_every_policy_stands_in_the_runbook() -> None:
    assert re.findall(r"\(ram/([\w-]+\.json)\)", TEXT) == [path.name for path in POLICIES][::-1]


# -- procedures, tried on the local stack


def printed(heading: str) -> list[str]:
    """Return the commands that a section prints in its code blocks, line by line."""
    section = TEXT.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    blocks = re.findall(r"^( *)```sh\n(.*?)^ *```$", section, re.DOTALL | re.MULTILINE)
    return [line for indent, body in blocks for line in textwrap.dedent(indent + body).splitlines()]


def typed(line: str, settings: dict[str, str], folder: Path, answer: str = "", **names: str) -> tuple[int, str]:
    """Type a line in a shell, with other names in it; return its exit code and what it printed."""
    for name, value in names.items():
        line = line.replace(name.replace("_", ":"), value)
    line = line.replace("oss-vectors-worker ", f"{sys.executable} -m worker ")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        env=settings | {"PATH": path, "PYTHONPATH": str(ROOT)},
        cwd=folder, input=answer, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def test_dead_letters_are_found_repaired_and_replayed_as_the_runbook_says(
    new_stage: StageFactory, start_worker: WorkerFactory, tmp_path: Path
) -> None:
    stage = new_stage(partitions=2)
    settings = stage.settings()
    worker = start_worker(settings).wait_ready()
    vector = [1.0, 2.0, 3.0, 4.0]
    bad = [vector_record(f"key-{n}", vector, metadata={"year": {"ce": n}, "title": "t"}) for n in range(3)]
    stage.publish([*bad, vector_record("good", vector)])
    worker.wait_settled(4)

    reading, replaying = printed("Reading dead letters"), printed("Replaying dead letters")
    assert [line.split()[:3] for line in reading] == [
        ["oss-vectors-worker", "dlq", name] for name in ("list", "show", "show")
    ]
    codes, outputs = zip(*(typed(line, settings, tmp_path, **{"0_17": "0:1"}) for line in reading), strict=True)
    assert codes == (0, 0, 0)
    assert "3  metadata, such as 0:2" in outputs[0]
    assert "replay        may be replayed" in outputs[1]
    assert json.loads((tmp_path / "record").read_bytes())["metadata"]["title"] == "t"

    look, try_edit, one, all_of_them = replaying
    assert "3 dead letters selected, 3 to replay" in typed(look, settings, tmp_path)[1]
    assert "--edit printed something for 3 dead letters; nothing was sent" in typed(try_edit, settings, tmp_path)[1]
    edit = re.search(r"--edit \".*\"(?= --dry-run)", try_edit)
    assert edit is not None
    assert typed(f"{one} {edit[0]}", settings, tmp_path, "y\n", **{"0_17": "0:1"})[0] == 0
    worker.wait_settled(5)
    code, out = typed(f"{all_of_them} {edit[0]}", settings, tmp_path, "y\n")
    assert (code, "2 dead letters replayed" in out, "1  not replayed, replayed_before" in out) == (0, True, True)
    worker.wait_settled(7)
    assert stage.dump() == dict.fromkeys(["key-0", "key-1", "key-2", "good"], vector)
    assert "0 to replay" in typed(f"{all_of_them} {edit[0]}", settings, tmp_path)[1]


def test_an_index_is_compared_and_repaired_as_the_runbook_says(
    new_stage: StageFactory, start_worker: WorkerFactory, tmp_path: Path
) -> None:
    stage = new_stage(partitions=2)
    settings = stage.settings()
    worker = start_worker(settings).wait_ready()
    stage.publish_versions([(f"key-{number}", [float(number), 2.0, 3.0, 4.0]) for number in range(10)])
    worker.wait_settled(10)
    stage.wait_committed_to_the_end(worker)
    compare, a_part, repair = printed("Is the index right?")
    assert typed(compare, settings, tmp_path)[0] == 0
    request = sdk.models.DeleteVectorsRequest(bucket=stage.bucket, index_name=stage.index, keys=["key-3"])
    stage.emulator.client().delete_vectors(request)

    assert typed(a_part, settings, tmp_path)[0] == 3
    (difference,) = (tmp_path / "differences.jsonl").read_text().splitlines()
    assert (json.loads(difference)["key"], json.loads(difference)["kind"]) == ("key-3", "missing")
    assert typed(repair, settings, tmp_path, "y\n")[0] == 3
    worker.wait_settled(11)
    stage.wait_committed_to_the_end(worker)
    assert typed(compare, settings, tmp_path)[0] == 0
    assert stage.dump() == stage.model()


def test_an_index_is_rebuilt_for_another_dimension_as_the_runbook_says(
    new_stage: StageFactory, start_worker: WorkerFactory, emulator: Emulator, tmp_path: Path
) -> None:
    old = new_stage(partitions=2)
    before = start_worker(old.settings()).wait_ready()
    old.publish_versions([(f"key-{number}", [1.0, 2.0, 3.0, 4.0]) for number in range(10)])
    before.wait_settled(10)
    new = new_stage(partitions=2, dimension=6)
    new.publish_versions([(f"key-{number}", [1.0, 2.0, 3.0, 4.0, 5.0, float(number)]) for number in range(10)])
    settings = new.settings()
    (tmp_path / "new.toml").write_text(
        f'[[routes]]\ntopic = "{new.topic}"\nindex = "{new.index}"\n'
        f'[kafka]\ngroup_id = "{new.group}"\nauto_offset_reset = "earliest"\n'
    )
    for name in ("ROUTES", "KAFKA__GROUP_ID", "KAFKA__AUTO_OFFSET_RESET"):
        settings.pop(f"OSS_VECTORS_{name}", None)

    check, run, verify = printed("Rebuild an index for a new model or dimension")
    assert run == "oss-vectors-worker run --config new.toml"
    _, out = typed(check, settings, tmp_path)
    faults = {line.split()[1] for line in out.splitlines() if line.startswith("fault ")}
    assert ("ok       index " in out, faults) == (True, set()), out  # no resolver has the emulator's names
    after = start_worker(settings | {"OSS_VECTORS_CONFIG": str(tmp_path / "new.toml")}).wait_ready()
    after.wait_settled(10)
    new.wait_committed_to_the_end(after)
    code, out = typed(verify, settings, tmp_path)
    assert (code, "no difference" in out) == (0, True)
    assert (len(new.dump()), len(old.dump())) == (10, 10)
    emulator.client().delete_vectors(
        sdk.models.DeleteVectorsRequest(bucket=new.bucket, index_name=new.index, keys=["key-3"])
    )
    assert typed(verify, settings, tmp_path)[0] == 3


def test_an_index_moves_to_another_bucket_as_the_runbook_says(
    new_stage: StageFactory, start_worker: WorkerFactory, emulator: Emulator, tmp_path: Path
) -> None:
    old = new_stage(partitions=2)
    before = start_worker(old.settings()).wait_ready()
    old.publish_versions([(f"key-{number % 10}", [float(number), 2.0, 3.0, 4.0]) for number in range(20)])
    before.wait_settled(20)
    bucket, index = emulator.new_index(4, "euclidean")
    new = replace(old, bucket=bucket, index=index, group=f"{old.group}-new")
    settings = new.settings()
    (tmp_path / "new.toml").write_text(
        f'[[routes]]\ntopic = "{new.topic}"\nindex = "{index}"\n[oss]\nbucket = "{bucket}"\n'
        f'[kafka]\ngroup_id = "{new.group}"\nauto_offset_reset = "earliest"\n'
    )
    for name in ("ROUTES", "OSS__BUCKET", "KAFKA__GROUP_ID", "KAFKA__AUTO_OFFSET_RESET"):
        settings.pop(f"OSS_VECTORS_{name}", None)

    check, run, verify = printed("Move to another bucket or region")
    assert run == "oss-vectors-worker run --config new.toml"
    assert typed(check, settings, tmp_path)[0] == 0
    after = start_worker(settings | {"OSS_VECTORS_CONFIG": str(tmp_path / "new.toml")}).wait_ready()
    after.wait_settled(20)
    new.wait_committed_to_the_end(after)
    code, out = typed(verify, settings, tmp_path)
    assert (code, "no difference" in out) == (0, True)
    assert new.dump() == old.dump() == old.model()


def test_offsets_are_reset_as_the_runbook_says(broker: Broker, topic: str, group: str) -> None:
    publish(broker.bootstrap, topic, [Record(b"key", b"value", partition=0)] * 5)
    partition = TopicPartition(topic, 0)
    (line,) = [line for code in CODE for line in code.splitlines() if "groups reset-offsets" in line]
    words = {"BROKER": broker.bootstrap, "oss-vectors-worker": group, "TOPIC:P": f"{topic}:0", "N": "2"}
    with closing(KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=group)) as consumer:
        consumer.assign([partition])
        consumer.commit({partition: OffsetAndMetadata(5, "", -1)})

        arguments = [words.get(word, word) for word in line.removeprefix("python ").split()]
        ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)

        assert (ended.returncode, ended.stderr) == (0, "")
        assert consumer.committed(partition) == 2
