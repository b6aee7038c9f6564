"""Every alert fires and keeps silent on values, and asks for series that a worker has; effects are silenced by causes."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.bounded import running
from tests.support.programs import program
from tests.support.worker import free_port, wait_for
from tests.unit.samples import FakeClock, opened
from worker.errors import BlockReason
from worker.ledger import Ledger, Partition
from worker.telemetry.container import Memory
from worker.telemetry.kafka_facts import GroupFacts, GroupMember, Retention, TopicFacts
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

OPS = Path(__file__).parents[2] / "ops"
RULE_FILES = sorted((OPS / "prometheus/rules").glob("*.yml"))
TEST_FILES = sorted((OPS / "prometheus/tests").glob("*.yml"))
ALERTMANAGER = OPS / "alertmanager/alertmanager.yml"
RUNBOOK = "https://github.com/oss-vectors-worker/oss-vectors-worker/blob/main/ops/runbook.md"

Rule = dict[str, Any]


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


RULES: list[Rule] = [rule for path in RULE_FILES for group in load(path)["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"]: rule for rule in RULES if "record" in rule}
NAMES = sorted({rule["alert"] for rule in ALERTS})
CHECKS = [check for path in TEST_FILES for test in load(path)["tests"] for check in test.get("alert_rule_test", [])]
CONFIG = load(ALERTMANAGER)
WATCHDOG = "OssVectorsWatchdog"  # always fires
TRIAL_S = 600.0  # for all files of cases, which take the processors together; a busy machine needs minutes


def said(rule: Rule) -> str:
    """What tells rules apart: one alert may have two."""
    return str(rule.get("record") or f"{rule['alert']} {rule['labels'].get('seen_as', '')}".strip())


def run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


# -- promtool


def test_prometheus_takes_its_configuration_with_all_rules() -> None:
    ended = run(program("promtool"), "check", "config", OPS / "prometheus/prometheus.yml")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"SUCCESS: {len(RULE_FILES)} rule files found" in ended.stdout


@pytest.fixture(scope="module")
def trials() -> Iterator[dict[str, "subprocess.Popen[str]"]]:
    """All files of cases, under way at once."""
    promtool = program("promtool")
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        yield {
            path.name: stack.enter_context(
                running([promtool, "test", "rules", path], stdout=pipe, stderr=subprocess.STDOUT)
            )
            for path in TEST_FILES
        }


@pytest.mark.timeout(TRIAL_S + 60)
@pytest.mark.parametrize("name", [path.name for path in TEST_FILES])
def test_alerts_fire_and_keep_silent_with_the_words_expected(
    trials: dict[str, "subprocess.Popen[str]"], name: str
) -> None:
    told, _ = trials[name].communicate(timeout=TRIAL_S)
    assert (trials[name].returncode, "SUCCESS" in told) == (0, True), told


@pytest.mark.parametrize("rule", ALERTS, ids=said)
def test_every_alert_has_a_case_where_it_fires_and_one_where_it_is_silent(rule: Rule) -> None:
    of_alert = [check["exp_alerts"] for check in CHECKS if check["alertname"] == rule["alert"]]
    fired = [
        one
        for expected in of_alert
        for one in expected
        if one["exp_labels"].get("seen_as") == rule["labels"].get("seen_as")
    ]
    assert (len(fired) > 0, [] in of_alert or rule["alert"] == WATCHDOG) == (True, True)


# -- what an alert says


@pytest.mark.parametrize("rule", ALERTS, ids=said)
def test_every_alert_says_how_bad_it_is_what_it_saw_and_where_to_read_on(rule: Rule) -> None:
    annotations = rule["annotations"]
    assert rule["alert"].startswith("OssVectors")
    assert rule["labels"]["severity"] in ({"none"} if rule["alert"] == WATCHDOG else {"critical", "warning"})
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"{RUNBOOK}#{rule['alert'].lower()}"
    assert "$labels.job" in annotations["summary"]
    assert len(annotations["summary"]) < len(annotations["description"])


@pytest.mark.parametrize("reason", list(BlockReason))
def test_every_reason_to_block_has_an_alert(reason: BlockReason) -> None:
    name = "OssVectorsBlocked" + "".join(word.capitalize() for word in reason.value.split("_"))
    (rule,) = [rule for rule in ALERTS if rule["alert"] == name]
    assert f'oss_vectors_blocked{{reason="{reason.value}"}}' in rule["expr"]


@pytest.mark.parametrize("name", list(RECORDED))
def test_what_is_recorded_is_named_by_level_metric_and_operations(name: str, series: "Series") -> None:
    level, metric, operations = name.split(":")
    labels = series.labels_of(promql.parse(RECORDED[name]["expr"]))
    assert (level, bool(metric), bool(operations)) == ("_".join(sorted(labels, key=level.index)), True, True)


# -- the series that a worker has


class Series:
    """What can be asked for: names with their labels and the values of those, as scraped from a real registry."""

    SCRAPED = frozenset({"job", "instance"})

    def __init__(self, exposition: str) -> None:
        self.values: dict[str, dict[str, set[str]]] = {
            "up": {},
            "process_start_time_seconds": {},
            # Of Prometheus itself; an alert has the labels of what it is about.
            "ALERTS": {"alertname": set(NAMES), "alertstate": {"pending", "firing"}, "topic": set(), "index": set()},
        }
        for family in text_string_to_metric_families(exposition):
            for sample in family.samples:
                labels = self.values.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)

    def labels_of(self, expr: Any) -> frozenset[str]:  # noqa: PLR0911 - one for each kind of expression
        """The labels of what an expression yields; AssertionError where it asks for one that is not there."""
        match expr:
            case promql.VectorSelector():
                return self._of_selector(expr)
            case promql.MatrixSelector():
                return self._of_selector(expr.vector_selector)
            case promql.AggregateExpr():
                if str(expr.op) == "topk":
                    return self.labels_of(expr.expr)
                assert expr.modifier is not None, f"says not by what: {expr.prettify()}"
                by = frozenset(expr.modifier.labels)
                assert by - self.labels_of(expr.expr) == set(), expr.prettify()
                return by
            case promql.Call():
                return self._of_call(expr)
            case promql.BinaryExpr():
                return self._of_binary(expr)
            case promql.ParenExpr() | promql.UnaryExpr():
                return self.labels_of(expr.expr)
            case promql.NumberLiteral() | promql.StringLiteral():
                return frozenset()
        raise AssertionError(f"not expected in a rule: {expr.prettify()}")

    def _of_selector(self, selector: Any) -> frozenset[str]:
        if selector.name in RECORDED:
            return self.labels_of(promql.parse(RECORDED[selector.name]["expr"]))
        assert selector.name in self.values
        known = self.values[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in known.keys() | self.SCRAPED, selector.prettify()
            if matcher.op == promql.MatchOp.Equal and matcher.name in known.keys() - {"topic"}:
                assert matcher.value in known[matcher.name], selector.prettify()
        return frozenset(known) | self.SCRAPED

    def _of_call(self, call: Any) -> frozenset[str]:
        inner = frozenset[str]().union(*(self.labels_of(argument) for argument in call.args))
        if call.func.name == "label_replace":
            return inner | {call.args[1].val}
        if call.func.name.startswith("absent"):
            return frozenset()
        return inner - {"le"} if call.func.name == "histogram_quantile" else inner

    def _of_binary(self, expr: Any) -> frozenset[str]:
        left, right = self.labels_of(expr.lhs), self.labels_of(expr.rhs)
        matching = expr.modifier.matching if expr.modifier else None
        if matching is not None:
            assert frozenset(matching.labels) - (left & right) == set(), expr.prettify()
        elif left and right and str(expr.op) not in {"or", "unless"}:
            assert left == right, f"nothing would match: {expr.prettify()}"
        if matching is not None and expr.modifier.card == promql.VectorMatchCardinality.OneToMany:
            return right
        return left or right


def know_all(metrics: Metrics, partition: Partition) -> None:
    """Enter what a worker knows only of a broker, of a container with a limit, and of credentials and certificates that end."""
    topics = {partition.topic: TopicFacts(False, 1), "vectors.dlq": TopicFacts(True)}
    metrics.kafka_facts.topics = topics
    metrics.kafka_facts.group = GroupFacts(
        [GroupMember("worker", "10.0.0.1", True, 1)], {partition.topic: 0}, {partition.topic: 10}
    )
    metrics.kafka_facts.log_starts = {partition: 0}
    metrics.kafka_facts.retention = Retention({partition.topic: 1.0}, 1.0)
    metrics.memory.read = lambda: Memory(limit=10, used=1)
    metrics.expiry.credentials = lambda: 1.0
    metrics.expiry.certificates = {"kafka-client": lambda: 1.0}


@pytest.fixture(scope="module")
def series() -> Series:
    """What a worker exports that owns a partition and asked for its end."""
    clock = FakeClock()
    ledger = Ledger(["vectors"], clock)
    metrics = Metrics(ledger, Status(0.0), ["vectors"], ["docs"])
    metrics.worker_info.labels("0.1.0", "docs", "worker", "").set(1)
    metrics.route_info.labels("vectors", "docs").set(1)
    partition = opened(ledger).partition
    metrics.ends.update({Partition(*partition): 10}, {Partition(*partition): 10})
    metrics.requests.labels("docs", "PutVectors", "500")  # a status has a series once it was answered
    ledger.committed(dict.fromkeys(ledger.assignments(), 0))
    know_all(metrics, Partition(*partition))
    return Series(generate_latest(metrics.registry).decode())


@pytest.mark.parametrize("rule", RULES, ids=said)
def test_a_rule_asks_for_series_labels_and_values_that_a_worker_has(rule: Rule, series: Series) -> None:
    has = series.labels_of(promql.parse(rule["expr"])) | rule.get("labels", {}).keys()
    told = " ".join(rule.get("annotations", {}).values())
    assert set(re.findall(r"\$labels\.(\w+)", told)) - has == set()
    for query in re.findall(r'printf\s+"((?:job|oss|sum)[^"]*)"', told):
        for name, value in {"reason": "target", "index": "docs"}.items():
            query = query.replace(f"{name}=%q", f'{name}="{value}"')  # noqa: PLW2901 - filled name by name
        series.labels_of(promql.parse(query.replace("%q", '"vectors"')))


# -- Alertmanager


def test_alertmanager_takes_its_configuration() -> None:
    ended = run(program("amtool"), "check-config", ALERTMANAGER)
    assert (ended.returncode, "SUCCESS" in ended.stdout) == (0, True), ended.stderr


@pytest.mark.parametrize(("severity", "receiver"), [("critical", "pager"), ("warning", "chat"), ("other", "chat")])
def test_severity_decides_who_is_told(severity: str, receiver: str) -> None:
    asked = ("config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}", "job=any")
    ended = run(program("amtool"), *asked)
    assert (ended.returncode, ended.stdout.strip()) == (0, receiver)


def test_what_can_wait_is_the_only_thing_that_waits_for_working_hours() -> None:
    muted = [route for route in CONFIG["route"]["routes"] if "active_time_intervals" in route]
    told = [name for name in NAMES if any(matches(route["matchers"], {"alertname": name}) for route in muted)]
    assert told == ["OssVectorsBufferFull", "OssVectorsKeyMismatch", "OssVectorsLatencyBudgetBurnSlow"]


def test_an_alert_waits_in_no_group_with_another_alert() -> None:
    pager = next(route for route in CONFIG["route"]["routes"] if route["receiver"] == "pager")
    assert (pager["group_by"], pager["group_interval"]) == (["job", "alertname"], "1m")


def test_the_watchdog_has_a_receiver_of_its_own() -> None:
    asked = ("config", "routes", "test", f"--config.file={ALERTMANAGER}", f"alertname={WATCHDOG}", "severity=none")
    assert run(program("amtool"), *asked).stdout.strip() == "dead-mans-switch"


def test_secrets_are_in_files() -> None:
    kinds = [entry for one in CONFIG["receivers"] for kind in one.keys() - {"name"} for entry in one[kind]]
    secrets = {name for entry in kinds for name in entry if re.search("key|token|secret|password|url", name)}
    assert secrets == {"routing_key_file", "api_url_file", "url"}  # the example's address of the dead man's switch


def matches(matchers: list[str], labels: Mapping[str, str]) -> bool:
    """Tell whether labels match, as Alertmanager does it: a label that is not there is empty."""
    for matcher in matchers:
        name, op, value = re.fullmatch(r'(\w+)(=~|!=|=)"(.*)"', matcher).groups()  # type: ignore[union-attr]  # all match
        found = re.fullmatch(value, labels.get(name, "")) is not None
        if found == (op == "!="):
            return False
    return True


def labels_told(rule: Rule, series: Series) -> dict[str, str]:
    """An alert as Prometheus sends it."""
    has = series.labels_of(promql.parse(rule["expr"]))
    return {"alertname": rule["alert"], **dict.fromkeys(sorted(has), "one"), **rule["labels"]}


def inhibited(series: Series) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Every pair of a cause and an effect that the configuration is to silence, in a job of its own."""
    told = [labels_told(rule, series) for rule in ALERTS]
    return [
        ({**source, "job": f"{number}-{place}"}, {**target, "job": f"{number}-{place}"})
        for number, rule in enumerate(CONFIG["inhibit_rules"])
        for place, (source, target) in enumerate((s, t) for s in told for t in told if s is not t)
        if matches(rule["source_matchers"], source) and matches(rule["target_matchers"], target)
        if all(source.get(name) == target.get(name) for name in rule["equal"])
    ]


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Alertmanager with the configuration; its first message would leave after the tests."""
    port = free_port()
    command = [
        shutil.which("alertmanager") or program("prometheus-alertmanager"),
        f"--config.file={ALERTMANAGER}",
        f"--storage.path={tmp_path_factory.mktemp('alertmanager')}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        "--log.level=error",
    ]
    address = f"http://127.0.0.1:{port}"
    with running(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_for(lambda: is_ready(address), "Alertmanager answers")
        yield address


def ask(request: str | urllib.request.Request) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=5) as answer:
        body: bytes = answer.read()
    return body


def is_ready(address: str) -> bool:
    try:
        return ask(f"{address}/-/ready") != b""
    except OSError:
        return False


def states_after(address: str, alerts: list[dict[str, str]], are_settled: int) -> dict[str, str]:
    """Post alerts, and tell the state of each by its labels once so many of these are suppressed."""
    body = json.dumps([{"labels": labels} for labels in alerts]).encode()
    ask(urllib.request.Request(f"{address}/api/v2/alerts", body, {"Content-Type": "application/json"}))

    def read() -> dict[str, str]:
        found = json.loads(ask(f"{address}/api/v2/alerts"))
        return {json.dumps(one["labels"], sort_keys=True): one["status"]["state"] for one in found}

    def is_settled() -> bool:
        states = [state for labels, state in read().items() if json.loads(labels) in alerts]
        return len(states) == len(alerts) and states.count("suppressed") >= are_settled

    wait_for(is_settled, f"{are_settled} alerts are suppressed")
    return read()


def test_causes_silence_their_effects(alertmanager: str, series: Series) -> None:
    pairs = inhibited(series)
    states = states_after(alertmanager, [labels for pair in pairs for labels in pair], len(pairs))
    told = [(states[json.dumps(s, sort_keys=True)], states[json.dumps(t, sort_keys=True)]) for s, t in pairs]
    assert len(pairs) > 100
    assert [pair for pair, state in zip(pairs, told, strict=True) if state != ("active", "suppressed")] == []


@pytest.mark.parametrize(
    ("cause", "effects"),
    [
        (
            "BlockedTarget",
            (
                "NothingAccepted RecordsStuck LagGrowing PartitionLagGrowing CatchUpSlow PartitionCatchUpSlow "
                "LatencyBudgetBurnFast LatencyBudgetBurnSlow"
            ),
        ),
        ("DeadLetterLimitNear", "DeadLetterRatioHigh"),
        (
            "CoordinatorUnavailable",
            "CommitsFailing RebalanceStorm PartitionsLost UnassignedPartitions WorkerNotScraped PollingStopped",
        ),
        (
            "RetentionNear",
            "LagGrowing PartitionLagGrowing CatchUpSlow PartitionCatchUpSlow LatencyBudgetBurnFast LatencyBudgetBurnSlow",
        ),
        (
            "NothingAccepted",
            (
                "BlockedRecordStuck RecordsStuck LagGrowing PartitionLagGrowing CatchUpSlow PartitionCatchUpSlow Throttled Retrying "
                "UnknownOutcomes BufferFull LatencyBudgetBurnFast LatencyBudgetBurnSlow"
            ),
        ),
        ("LagGrowing", "PartitionLagGrowing CatchUpSlow PartitionCatchUpSlow"),
        ("LatencyBudgetBurnFast", "LatencyBudgetBurnSlow"),
        (
            "MemberFenced",
            "RestartLoop RebalanceStorm PartitionsLost",
        ),
        (
            "RestartLoop",
            "MemberFenced RebalanceStorm PartitionsLost",
        ),
        (
            "TopicMissing",
            (
                "BlockedPartitionUnreadable LeaderlessPartitions UnassignedPartitions RecordsStuck LagUnknown LagGrowing "
                "PartitionLagGrowing CatchUpSlow PartitionCatchUpSlow BlockedDeadLetterUnavailable DeadLettersRefused"
            ),
        ),
        (
            "BlockedCredentials",
            (
                "CredentialsExpiring NothingAccepted RecordsStuck LagGrowing PartitionLagGrowing CatchUpSlow "
                "PartitionCatchUpSlow LatencyBudgetBurnFast LatencyBudgetBurnSlow"
            ),
        ),
    ],
)
def test_a_cause_silences_all_that_comes_of_it(cause: str, effects: str, series: Series) -> None:
    silenced = {t["alertname"] for s, t in inhibited(series) if s["alertname"] == f"OssVectors{cause}"}
    assert silenced == {f"OssVectors{effect}" for effect in effects.split()}


def test_a_job_without_a_worker_silences_every_other_alert(series: Series) -> None:
    silenced = {t["alertname"] for s, t in inhibited(series) if s.get("seen_as") == "none_up"}
    assert silenced == set(NAMES) - {WATCHDOG}  # of OssVectorsWorkerDown, the rule for one target


VECTORS = {"topic": "vectors", "partition": "0"}
DOWN = {"alertname": "OssVectorsWorkerDown", "seen_as": "no_answer", "instance": "a"}


@pytest.mark.parametrize(
    ("cause", "effect", "other"),
    [
        (
            {"alertname": "OssVectorsBlockedTarget", "topic": "vectors"},
            {"alertname": "OssVectorsRecordsStuck", **VECTORS},
            {"alertname": "OssVectorsRecordsStuck", "topic": "images", "partition": "0"},
        ),
        (
            DOWN,
            {"alertname": "OssVectorsBufferFull", "instance": "a"},
            {"alertname": "OssVectorsBufferFull", "instance": "b"},
        ),
        (
            DOWN,
            {"alertname": "OssVectorsPollingStopped", "instance": "a"},
            {"alertname": "OssVectorsRecordsStuck", **VECTORS},
        ),
        (
            {"alertname": "OssVectorsBlockedCredentials", "topic": "vectors"},
            {"alertname": "OssVectorsRecordsStuck", **VECTORS},
            {"alertname": "OssVectorsNothingAccepted", "index": "images"},
        ),
        (
            {"alertname": "OssVectorsBlockedTarget", "topic": "vectors"},
            {"alertname": "OssVectorsNothingAccepted", "index": "docs", "topic": "vectors"},
            {"alertname": "OssVectorsNothingAccepted", "index": "pictures", "topic": "images"},
        ),
        (
            {"alertname": "OssVectorsPollingStopped", "seen_as": "none_joins"},
            {"alertname": "OssVectorsPollingStopped", "seen_as": "starting", "instance": "a"},
            {"alertname": "OssVectorsWorkerNotScraped"},
        ),
        (
            {"alertname": "OssVectorsCoordinatorUnavailable", "seen_as": "one_worker", "instance": "a"},
            {"alertname": "OssVectorsCommitsFailing", "seen_as": "most_commits", "instance": "a"},
            {"alertname": "OssVectorsUnassignedPartitions", "topic": "vectors"},
        ),
        (
            {"alertname": "OssVectorsLeaderlessPartitions", "topic": "vectors"},
            {"alertname": "OssVectorsLagUnknown", "topic": "vectors", "instance": "a"},
            {"alertname": "OssVectorsLagUnknown", "topic": "images", "instance": "a"},
        ),
        (
            {"alertname": "OssVectorsTopicMissing", "seen_as": "source", "topic": "vectors"},
            {"alertname": "OssVectorsUnassignedPartitions", "topic": "vectors"},
            {"alertname": "OssVectorsPollingStopped", "seen_as": "no_poll", "instance": "a"},
        ),
        (
            {"alertname": "OssVectorsPollingStopped", "seen_as": "no_poll", "instance": "a"},
            {"alertname": "OssVectorsCommitsFailing", "instance": "a"},
            {"alertname": "OssVectorsCommitsFailing", "instance": "b"},
        ),
        (
            {"alertname": "OssVectorsPollingStopped", "seen_as": "no_poll", "instance": "a"},
            {"alertname": "OssVectorsCommitsFailing", "instance": "a"},
            {"alertname": "OssVectorsBlockedPartitionUnreadable", "topic": "vectors"},
        ),
        (
            {"alertname": "OssVectorsCoordinatorUnavailable", "seen_as": "none_finds"},
            {"alertname": "OssVectorsRebalanceStorm"},
            {"alertname": "OssVectorsPollingStopped", "seen_as": "no_poll", "instance": "b"},
        ),
        (
            {"alertname": "OssVectorsNothingAccepted", "index": "docs", "topic": "vectors"},
            {"alertname": "OssVectorsRecordsStuck", **VECTORS},
            {"alertname": "OssVectorsLatencyBudgetBurnFast", "topic": "images"},
        ),
        (
            {"alertname": "OssVectorsNothingAccepted", "index": "docs", "topic": "vectors"},
            {"alertname": "OssVectorsUnknownOutcomes", "index": "docs"},
            {"alertname": "OssVectorsBlockedRecordStuck", "topic": "images"},
        ),
        (
            {"alertname": "OssVectorsRestartLoop", "instance": "a"},
            {"alertname": "OssVectorsRebalanceStorm"},
            {"alertname": "OssVectorsLatencyBudgetBurnFast", "topic": "vectors"},
        ),
        (
            {"alertname": "OssVectorsRecordsStuck", **VECTORS},
            {"alertname": "OssVectorsPartitionLagGrowing", **VECTORS},
            {"alertname": "OssVectorsLatencyBudgetBurnFast", "topic": "vectors"},
        ),
    ],
)
def test_a_cause_silences_its_effect_and_not_what_goes_wrong_elsewhere(
    alertmanager: str, request: pytest.FixtureRequest, cause: Rule, effect: Rule, other: Rule
) -> None:
    posted = [{**labels, "job": request.node.name} for labels in (cause, effect, other)]
    states = states_after(alertmanager, posted, 1)
    assert [states[json.dumps(one, sort_keys=True)] for one in posted] == ["active", "suppressed", "active"]


OF_THE_WHOLE_JOB = {
    # Members that come and go move the partitions of all.
    "MemberFenced": "PartitionsLost RestartLoop RebalanceStorm",
    "RestartLoop": "MemberFenced PartitionsLost RebalanceStorm",
    "UnassignedPartitions": "WorkerNotScraped",
    # There is one dead-letter topic.
    "TopicMissing": "BlockedDeadLetterUnavailable DeadLettersRefused",
    "BlockedDeadLetterUnavailable": "DeadLettersRefused",
    # They are said of all requests, or of the whole buffer.
    "NothingAccepted": "Throttled Retrying BufferFull",
    # What else ends blocks its own topics two minutes later.
    "BlockedCredentials": "CredentialsExpiring",
}
"""Causes of one topic, index or worker that silence by the job alone, and why they may."""


def test_only_a_cause_of_the_whole_job_silences_by_the_job_alone(series: Series) -> None:
    found: dict[str, set[str]] = {}
    by_job = [number for number, rule in enumerate(CONFIG["inhibit_rules"]) if rule["equal"] == ["job"]]
    for source, target in inhibited(series):
        number = int(source["job"].partition("-")[0])
        if number in by_job and source.keys() & {"topic", "partition", "index", "instance"}:
            name, effect = (one["alertname"].removeprefix("OssVectors") for one in (source, target))
            found.setdefault(name, set()).add(effect)
    assert found == {name: set(effects.split()) for name, effects in OF_THE_WHOLE_JOB.items()}


@pytest.mark.parametrize("rule", CONFIG["inhibit_rules"], ids=lambda rule: rule["source_matchers"][0])
def test_inhibition_names_alerts_that_there_are(rule: Rule, series: Series) -> None:
    told = [labels_told(one, series) for one in ALERTS]
    for matchers in (rule["source_matchers"], rule["target_matchers"]):
        assert [labels["alertname"] for labels in told if matches(matchers, labels)] != []
