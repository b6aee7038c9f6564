"""The runbook names what there is: alerts, reasons, metrics, settings, commands, links; and its procedures work."""

import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import yaml
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from tests.support.broker import TopicFactory
from tests.support.markdown import ROOT, headings, slug
from tests.support.worker import Record, publish, read_topic
from worker import cli
from worker.deadletters.headers import Sizes, Writer, build, build_reference
from worker.deadletters.producer import make_producer
from worker.errors import BlockReason, Reason
from worker.ledger import Ledger, Partition
from worker.local.broker import Broker
from worker.ports import WRITER_OPERATIONS, DeadLetter, Refusal
from worker.settings import tables
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

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


# -- procedures, tried on Kafka


def replay(broker: Broker, topic: str, dead_letters: str, *options: str) -> list[str]:
    """Run the runbook's program as an operator would, and return what it prints."""
    (program,) = [body for language, body in FENCES if language == "python"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OSS_")} | {
        "OSS_VECTORS_ROUTES": f"{topic}:docs",
        "OSS_VECTORS_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "OSS_VECTORS_DEAD_LETTER__TOPIC": dead_letters,
        "OSS_VECTORS_OSS__REGION": "cn-hangzhou",
        "OSS_VECTORS_OSS__BUCKET": "demo",
        "OSS_VECTORS_OSS__ACCOUNT_ID": "123456789",
    }
    ended = subprocess.run(
        [sys.executable, "-", *options],
        input=program, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


def write_dead_letters(broker: Broker, topic: str, records: Iterable[Any], to: str) -> None:
    """Write records of `topic` to the dead-letter topic as the worker does; that of b"left out" without its value."""
    ledger, writer = Ledger((topic,), lambda: 0.0), Writer("g", "c")
    with closing(make_producer(Kafka(bootstrap_servers=(broker.bootstrap,)), idempotent=False)) as producer:
        for record in records:
            assignment = ledger.assign(Partition(topic, record.partition))
            refusal = Refusal(400, "Invalid", "5F0E")
            letter = DeadLetter(assignment, record, 1, "docs", Reason.REFUSED, "no", "raiser", "class", refusal, 1)
            if record.value == b"left out":
                sizes = Sizes.of(record)
                made = build_reference(letter, writer, failed_at=0.0, sizes=sizes, why="too large")
            else:
                made = build(letter, writer, failed_at=0.0)
            producer.send(to, key=made.key, value=made.value, headers=made.headers).get(timeout=10)


def test_a_dead_letter_is_replayed_as_it_came_and_only_where_nothing_newer_is_overwritten(
    broker: Broker, new_topic: TopicFactory
) -> None:
    topic, letters = new_topic(partitions=3), new_topic()
    forged = [("oss-vectors.replays", b"9"), ("oss-vectors.replay-of", b"elsewhere/0/0")]
    headers = [("trace", b"\x00\xff"), ("trace", b"again"), ("__connect.errors.topic", b"its own"), *forged]
    records = [
        Record(b"alone", b"\x00\x01 bytes", headers, partition=2),
        Record(b"replaced", b"old", partition=1),
        Record(b"replaced", b"new", partition=1),
        Record(b"tombstone", None, partition=0),
        Record(None, b"without a key", partition=0),
        Record(b"too-large", b"left out", partition=0),
    ]
    publish(broker.bootstrap, topic, records)
    by_value = {record.value: record for record in read_topic(broker.bootstrap, topic)}
    bad = [b"\x00\x01 bytes", b"\x00\x01 bytes", b"old", None, b"without a key", b"left out"]
    write_dead_letters(broker, topic, [by_value[value] for value in bad], letters)

    listed = replay(broker, topic, letters, "--reason", "refused")
    before = len(read_topic(broker.bootstrap, topic))
    told = replay(broker, topic, letters, "--send")

    assert [line.partition(": ")[2] for line in told[:-1]] == [
        "sent",
        "not sent: another dead letter of the same record comes before it",
        "not sent: its partition has a newer version at offset 1",
        "sent",
        "not sent: it has no Kafka key to look for newer versions of",
        "not sent: its value was left out: sent as it is, it would be a tombstone",
    ]
    assert listed == [re.sub(r": sent$", ": would be sent", line) for line in told[:-1]] + ["2 would be sent, 4 not"]
    assert (before, told[-1]) == (len(records), "2 sent, 4 not")
    origin = f"{letters}/0/".encode()
    replayed = replays_of(broker, topic, origin)
    assert [(r.partition, r.key, r.value, list(r.headers)) for r in replayed] == [
        (0, b"tombstone", None, [("oss-vectors.replays", b"1"), ("oss-vectors.replay-of", origin + b"3")]),
        (
            2,
            b"alone",
            b"\x00\x01 bytes",
            [*headers, ("oss-vectors.replays", b"1"), ("oss-vectors.replay-of", origin + b"0")],
        ),
    ]
    for times in (2, 3):
        write_dead_letters(broker, topic, replays_of(broker, topic, origin)[-1:], letters)
        place = f"0:{len(bad) + times - 2}"
        assert replay(broker, topic, letters, "--at", place, "--send")[-1] == "1 sent, 0 not"
        again = replays_of(broker, topic, origin)[-1].headers
        assert again[:-2] == headers
        assert again[-2:] == [
            ("oss-vectors.replays", b"%d" % times),
            ("oss-vectors.replay-of", origin + place.partition(":")[2].encode()),
        ]
    write_dead_letters(broker, topic, replays_of(broker, topic, origin)[-1:], letters)
    (refused, _) = replay(broker, topic, letters, "--at", f"0:{len(bad) + 2}", "--send")
    assert refused.endswith("not sent: replayed 3 times")


def replays_of(broker: Broker, topic: str, origin: bytes) -> list[Any]:
    """The records of a topic that were replayed, in the order of their partitions and offsets."""
    return [
        record
        for record in read_topic(broker.bootstrap, topic)
        if dict(record.headers).get("oss-vectors.replay-of", b"").startswith(origin)
    ]


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
