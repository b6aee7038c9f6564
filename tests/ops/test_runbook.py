"""The runbook names what there is: alerts, reasons, metrics, settings, commands, links; its queries are of one group.

Its commands are typed by tests/integration/test_runbook.py, its queries asked by tests/ops/test_queries.py.
"""

import itertools
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import promql_parser
import pytest
import yaml

from tests.support.markdown import ROOT, headings, slug
from tests.support.runbook import queries
from worker import cli
from worker.consumer.offset_notices import LASTING_SECONDS
from worker.errors import BlockReason, Reason
from worker.ledger import Ledger
from worker.ports import WRITER_OPERATIONS
from worker.settings import tables
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status
from worker.tools.dlq.plan import Refusal

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


# -- what loses records where a step is missing


def sections() -> dict[str, str]:
    """Return the text of each section, without those within it."""
    _, *parts = re.split(r"^#+ (.+)$", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_a_skip_is_told_only_with_the_link_to_the_page_that_looks_at_what_is_before_it() -> None:
    """What is committed may be lower than the offset that blocks: a skip from there loses all between."""
    steps = {"Resetting offsets", "Skipping a record"}
    tell = {name: text for name, text in sections().items() if "`--to-offset`" in text and name not in steps}
    assert ([name for name, text in tell.items() if "(#skipping-a-record)" not in text], len(tell)) == ([], 2)


def test_an_index_is_deleted_only_after_each_topic_was_compared() -> None:
    """`verify` compares one topic."""
    delete = {name: text for name, text in sections().items() if "elete the old index" in text}
    compare = {name: re.findall(r"oss-vectors-worker verify .*", text) for name, text in delete.items()}
    each = ["oss-vectors-worker verify --strict --config new.toml --topic TOPIC"]
    assert compare == {
        "Rebuild an index for a new model or dimension": each,
        "Move to another bucket or region": each,
    }


def test_compose_is_told_how_many_workers_to_start() -> None:
    """Without `--scale` it leaves one."""
    starts = [line for code in CODE for line in re.findall(r"docker compose .*\bup\b.* worker$", code, re.MULTILINE)]
    assert ([line for line in starts if "--scale worker=" not in line], len(starts)) == ([], 3)


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


def test_what_replay_refuses_is_in_its_table_by_cause() -> None:
    table = TEXT.partition("What it refuses, by cause")[2].partition("`--even-if-stale` replays")[0]
    causes = {
        cause for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for cause in re.findall(r"`(\w+)`", row)
    }
    assert causes == {refusal.value for refusal in Refusal}


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
    files = {(table, f"{name}_file") for table, name in there_are}  # each setting may be in a file
    assert (named - there_are - files, len(named) > 20) == (set(), True)


def test_how_long_an_error_lasts_before_it_blocks_a_partition_is_what_the_code_has() -> None:
    section = TEXT.partition("### blocked: partition_unreadable")[2].partition("\n### ")[0]
    assert f"has answered with the error for {LASTING_SECONDS:.0f} s" in " ".join(section.split())


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


# -- queries


def selectors_of_all_groups(query: str) -> list[str]:
    """Return the selectors of a query that neither name a job or group nor are counted by it."""
    found: list[str] = []
    within: list[set[str]] = []

    def enter(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.AggregateExpr):
            within.append(set() if node.modifier is None else set(node.modifier.labels))
        elif isinstance(node, promql_parser.VectorSelector):
            chosen = {matcher.name for matcher in node.matchers.matchers}
            if not {"job", "group_id"} & chosen and not {"job", "group_id"} <= set().union(*within):
                found.append(str(node))

    def leave(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.AggregateExpr):
            within.pop()

    promql_parser.walk(promql_parser.parse(query), enter, leave)
    return found


def test_every_query_selects_one_group_or_says_by_group() -> None:
    asked = {query: selectors_of_all_groups(query) for query in queries()}
    assert ({query for query, mixed in asked.items() if mixed}, len(asked) > 20) == (set(), True)


@pytest.mark.parametrize("query", ["sum by (topic) (a_b) / a_b{job='x'}", "topk(5, a_b)", "sum by (job) (a_b)"])
def test_a_query_that_mixes_groups_is_seen(query: str) -> None:
    assert selectors_of_all_groups(query) == ["a_b{}"]


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
