"""Every query of the dashboard and every expression of the rules, asked of a real Prometheus that scraped real workers.

One run for all: a group of two workers writes while the service throttles, fails and refuses; some records can never be
written; the second worker joins and leaves; and a second topic is blocked, since its index is missing.
"""

import itertools
import math
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import requests
import yaml
from kafka import KafkaAdminClient, KafkaProducer

from tests.ops.promql import DASHBOARD, Query, Rule, filled, parts, queries, rule_files, rules, unfiltered
from tests.support import runbook
from tests.support.bounded import join
from tests.support.broker import GroupFactory, TopicFactory
from tests.support.emulator import Emulator, Fault
from tests.support.programs import program
from tests.support.worker import Record, Stage, WorkerProcess, free_port, publish_with, vector_record, wait_for
from worker.local.broker import Broker
from worker.local.process import spawn

JOB = "oss-vectors-worker"
SCRAPE_S = 0.5
WINDOW = "5s"  # what $__rate_interval stands for: Grafana takes at least four scrapes
PARTITIONS = 4

FAULTS: Sequence[Fault] = (
    {"operation": "GetVectorIndex", "status": 503, "count": 1},
    {"key_contains": "refused", "status": 400, "operation": "PutVectors"},
    {"status": 429, "retry_after": 1, "skip": 10, "count": 1},
    {"status": 500, "skip": 20, "count": 2},
    {"reset": "after", "skip": 30, "count": 2, "operation": "PutVectors"},
    {"latency_seconds": 0.05},
)

EMPTY: Mapping[str, str] = {}
"""The queries of the dashboard and the parts of rules that answer nothing in this run, each with the reason."""


# -- Prometheus


@dataclass
class Prometheus:
    """A Prometheus that scrapes two ports, and evaluates the rules each second."""

    url: str
    session: requests.Session = field(repr=False)

    def get(self, path: str, **parameters: Any) -> Any:
        """The data of an answer; AssertionError with Prometheus' own words where it refuses."""
        url = f"{self.url}/api/v1/{path}"
        if path.startswith("query"):
            found = self.session.post(url, data=parameters, timeout=10).json()
        else:
            found = self.session.get(url, params=parameters, timeout=10).json()
        assert (parameters, found.get("error", "")) == (parameters, "")
        return found["data"]

    def has_answer(self, expression: str, at: float, labels: Collection[str] = ()) -> bool:
        """Tell whether there is a value at one moment, NaN or not, of a series that has these labels."""
        found = self.get("query", query=expression, time=at)
        return found["resultType"] == "scalar" or any(
            series["metric"].keys() >= set(labels) for series in found["result"]
        )

    def has_numbers(self, expression: str, start: float, end: float, labels: Collection[str]) -> bool:
        """Tell whether there are values between two moments, one not NaN, and every series has these labels."""
        found = self.get("query_range", query=expression, start=start, end=end, step=SCRAPE_S)["result"]
        numbers = [float(value) for series in found for _, value in series["values"]]
        return not all(map(math.isnan, numbers)) and all(series["metric"].keys() >= set(labels) for series in found)


@contextmanager
def running_prometheus(folder: Path, ports: Sequence[int]) -> Iterator[Prometheus]:
    """Start it on a free port, and end it by its own pid."""
    listen = f"127.0.0.1:{free_port()}"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(_config(folder, ports)))
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={listen}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as out, requests.Session() as session:
        session.trust_env = False
        with spawn(command, stdout=out, stderr=out) as process:
            prometheus = Prometheus(f"http://{listen}", session)

            def is_ready() -> bool:
                assert process.poll() is None, (folder / "prometheus.log").read_text()
                try:
                    return session.get(f"{prometheus.url}/-/ready", timeout=5).status_code == 200
                except requests.ConnectionError:
                    return False

            wait_for(is_ready, "Prometheus is ready")
            yield prometheus


def _config(folder: Path, ports: Sequence[int]) -> dict[str, Any]:
    names = []
    for name, content in rule_files().items():
        groups = [{key: value for key, value in group.items() if key != "interval"} for group in content["groups"]]
        (folder / f"rules-{name}").write_text(yaml.safe_dump({"groups": groups}))
        names.append(f"rules-{name}")
    targets = [f"127.0.0.1:{port}" for port in ports]
    return {
        "global": {
            "scrape_interval": f"{SCRAPE_S * 1000:.0f}ms",
            "scrape_timeout": "500ms",
            "evaluation_interval": "1s",
        },
        "rule_files": names,
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": targets}]}],
    }


# -- the load


def load() -> Iterator[list[Record]]:
    """Records without end, 40 at a time: puts, deletes, foreign keys, and 6 in 100 that can never be written."""
    for number in itertools.count():
        turn = range(number * 40, number * 40 + 40)
        yield [_record(one) for one in turn]


def _record(number: int) -> Record:
    key, vector = f"key-{number % 300}", [float(number), 0.5, 0.25, 1.0]
    if number % 25 == 1:
        return Record(key.encode(), b"{")
    if number % 50 == 2:
        return vector_record(f"refused-{number}", vector)
    if number % 20 == 3:
        return Record(key.encode(), None)
    if number % 30 == 4:
        return Record(f"foreign-{number}".encode(), vector_record(key, vector).value)
    return vector_record(key, vector)


class Load:
    """Publishes in a thread until it is left."""

    def __init__(self, broker: Broker, topics: Sequence[str]) -> None:
        self._broker = broker
        self._topics = topics
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, name="load", daemon=True)

    def _publish(self) -> None:
        records = load()
        with closing(KafkaProducer(bootstrap_servers=self._broker.bootstrap, linger_ms=5)) as producer:
            while not self._stop.wait(0.1):
                for topic in self._topics:
                    publish_with(producer, topic, next(records))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        join(self._thread)


# -- the run


@dataclass
class Run:
    """What Prometheus saw between two moments, and the values of the dashboard's variables."""

    prometheus: Prometheus
    start: float
    end: float
    instances: list[str]
    group: str
    variables: dict[str, str] = field(default_factory=dict)
    found: dict[str, list[str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def run(
    broker: Broker,
    emulator: Emulator,
    admin: KafkaAdminClient,
    new_topic: TopicFactory,
    new_group: GroupFactory,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Run]:
    """The run, after the second worker left and while the load goes on."""
    folder = tmp_path_factory.mktemp("queries")
    ports = [free_port(), free_port()]
    with running_prometheus(folder, ports) as prometheus:
        bucket, index = emulator.new_index()
        topic, group = new_topic(PARTITIONS), new_group()
        stage = Stage(broker, emulator, admin, topic, new_topic(), group, bucket, index, PARTITIONS)
        for rule in FAULTS:
            own: Fault = {**rule, "bucket": bucket}
            emulator.fault(**own)
        routes = {topic: index, (blocked := new_topic()): "missing"}
        start = time.time()
        with Load(broker, [topic, blocked]), running(stage, routes, ports[0], folder, "one") as worker:
            worker.wait_until(lambda now: now.settled > 0, "records are settled")
            with running(stage, routes, ports[1], folder) as second:
                second.wait_until(lambda now: now.settled > 0, "the second worker has its share")
                assert second.terminate() == 0
            worker.wait_until(lambda now: now.total("assigned_partitions") == PARTITIONS + 1, "all partitions are back")
            gone = f'up{{instance="127.0.0.1:{ports[1]}"}} == 0'
            wait_for(lambda: prometheus.has_answer(gone, time.time()), "Prometheus finds the second worker gone")
            wait_for_scrapes(prometheus, 2 * float(WINDOW.removesuffix("s")), start)
            run = Run(prometheus, start, time.time(), [f"127.0.0.1:{port}" for port in ports], group)
            fill_variables(run)
            yield run


@contextmanager
def running(
    stage: Stage, routes: Mapping[str, str], port: int, folder: Path, instance_id: str = ""
) -> Iterator[WorkerProcess]:
    """A worker that must not write a traceback. With an instance id it stays a member for a while after its end."""
    settings = stage.settings(
        routes=routes,
        http__port=port,
        kafka__group_instance_id=instance_id,
        batch__max_records=50,
        delivery__vectors_per_second=1000,
        records__tombstones="delete",
    )
    worker = WorkerProcess(settings, folder / f"worker-{port}.log")
    try:
        yield worker
        assert [line for line in worker.log_lines() if "Traceback" in str(line)] == []
    finally:
        worker.kill()


def wait_for_scrapes(prometheus: Prometheus, seconds: float, start: float) -> None:
    """Wait until the first scrape of a worker is that long ago."""
    asked = f"count(timestamp({worker_info()}) > {start + seconds})"
    wait_for(lambda: prometheus.has_answer(asked, time.time()), f"Prometheus has scraped for {seconds:.0f} s")


def worker_info() -> str:
    return f'oss_vectors_worker_info{{job="{JOB}"}}'


def fill_variables(run: Run) -> None:
    """Fill the dashboard's variables one after the other, as Grafana does; one that has no All gets its first value."""
    values = run.variables
    values["__rate_interval"] = WINDOW
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] != "query":
            continue
        asked, _, label = filled(variable["query"], values).removeprefix("label_values(").rpartition(", ")
        found = run.prometheus.get(
            f"label/{label.removesuffix(')')}/values", **{"match[]": asked, "start": run.start, "end": run.end}
        )
        run.found[variable["name"]] = found
        values[variable["name"]] = "|".join(found) if variable["includeAll"] else next(iter(found), "")


def silent(run: Run, expressions: Sequence[str]) -> set[str]:
    """The parts of expressions that have no answer at the end of the run, or one without the labels they name."""
    asked = [one for expression in expressions for one in parts(unfiltered(expression)).items()]
    return {
        part
        for part, labels in asked
        if not is_of_elsewhere(part) and not run.prometheus.has_answer(part, run.end, labels)
    }


ELSEWHERE = (
    "oss_vectors_memory_",
    "oss_vectors_credentials_expiry_",
    "oss_vectors_certificate_expiry_",
    "ALERTS{",
    "job_topic:oss_vectors_late_records:ratio_",
)
"""How metrics begin that have no series in this run. A worker has some only in a container with a limit, or with credentials and
certificates that end. No alert fires within the run. What a worker settles in its first ten minutes counts as a backlog that is
worked off, so it has no share of late records."""


def is_of_elsewhere(expression: str) -> bool:
    """Return whether an expression asks for a metric that may have no series in this run."""
    return any(name in expression for name in ELSEWHERE)


# -- what is asked


def test_the_variables_find_the_workers_of_the_group_and_what_they_read_and_write(run: Run) -> None:
    found = {name: len(values) for name, values in run.found.items()}
    assert found == {"job": 1, "group": 1, "instance": 2, "topic": 2, "index": 2}
    assert (run.found["job"], run.found["group"]) == ([JOB], [run.group])
    assert run.found["instance"] == sorted(run.instances)


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.name)
def test_a_query_of_the_dashboard_has_an_answer_and_so_has_each_part_of_it(run: Run, query: Query) -> None:
    expression = query.filled(run.variables)
    start = run.end if query.instant else run.start
    shown = re.findall(r"{{(\w+)}}", query.legend)
    answered = run.prometheus.has_numbers(expression, start, run.end, shown)
    if not is_of_elsewhere(query.expression):
        assert (query.expression, answered) == (query.expression, query.name not in EMPTY)
    assert silent(run, [expression]) == set()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_every_part_of_a_rule_has_an_answer(run: Run, rule: Rule) -> None:
    run.prometheus.get("query", query=rule.expression, time=run.end)
    found = silent(run, [rule.expression, *rule.asked])
    assert found - EMPTY.keys() == set()
    told = {part for text in (rule.expression, *rule.asked) for part in parts(unfiltered(text))} & EMPTY.keys()
    assert told - found == set()


@pytest.mark.parametrize("query", runbook.queries())
def test_every_part_of_a_query_of_the_runbook_has_an_answer(run: Run, query: str) -> None:
    expression = query.replace('group_id="oss-vectors-worker"', f'group_id="{run.group}"').replace("JOB", JOB)
    run.prometheus.get("query", query=expression, time=run.end)
    assert silent(run, [re.sub(r'(reason|kind)="\w+"', r'\1=~".+"', expression)]) == set()


def test_prometheus_evaluates_every_rule(run: Run) -> None:
    found = [rule for group in run.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert [(rule["name"], rule["lastError"]) for rule in found if rule["health"] != "ok"] == []
    assert sorted(rule["name"] for rule in found) == sorted(rule.name for rule in rules())


def test_what_is_said_to_have_no_answer_is_asked() -> None:
    names = {query.name for query in queries()}
    asked = {part for rule in rules() for text in (rule.expression, *rule.asked) for part in parts(unfiltered(text))}
    assert set(EMPTY) - names - asked == set()
