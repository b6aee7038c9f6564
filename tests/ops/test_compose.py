"""The files that start the project with Docker Compose agree with each other, with the checkout and with the code."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest
import trustme
import yaml

from worker.local import provision, sample_producer
from worker.local.sentences import DIMENSION
from worker.settings import load, tables
from worker.settings.tables import Settings

ROOT: Final = Path(__file__).parents[2]
COMPOSE_TEXT: Final = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
PROMETHEUS: Final[dict[str, Any]] = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text(encoding="utf-8"))
LOCAL: Final = {"kafka", "topics", "emulator", "provision", "producer"}
"""The services that stand for what production has elsewhere."""
SECRET_NAMES: Final = re.compile("ACCESS_KEY|SECRET|PASSWORD|TOKEN")


class ComposeLoader(yaml.SafeLoader):
    """Reads Compose's own tags: `!reset` is a value of its own kind."""


class Reset:
    """What `!reset` leaves of a setting of the file below: nothing."""


ComposeLoader.add_constructor("!reset", lambda _loader, _node: Reset())

PRODUCTION: Final[dict[str, Any]] = yaml.load(
    (ROOT / "ops/docker-compose.production.yml").read_text(encoding="utf-8"), ComposeLoader
)


@pytest.fixture(scope="module")
def settings() -> Settings:
    """The settings of the worker in docker-compose.yml."""
    return load.load(None, SERVICES["worker"]["environment"]).settings


def options_of(service: str, command: click.Command) -> dict[str, Any]:
    """The options that a service hands to a command of ours, as the command reads them."""
    return command.make_context(service, list(SERVICES[service]["command"])).params


def mounts(service: str) -> dict[str, str]:
    """What a service mounts: the target in the container, to the source, which begins with a dot for a file."""
    pairs = [volume.split(":") for volume in SERVICES[service].get("volumes", ())]
    return {target: source for source, target, *_ in pairs}


def listening(service: str) -> set[int]:
    """The ports of a service's container that the compose file publishes."""
    return {int(port.rpartition(":")[2]) for port in SERVICES[service].get("ports", ())}


# -- docker-compose.yml


@pytest.mark.parametrize("document", [COMPOSE, PRODUCTION], ids=["docker-compose.yml", "docker-compose.production.yml"])
def test_compose_file_is_valid_by_the_compose_specification(document: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "compose.json"
    file.write_text(json.dumps(without_reset(document)))
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (checked.returncode, checked.stdout.strip()) == (0, "ok -- validation done")


def without_reset(value: Any) -> Any:
    """A document without what `!reset` takes away; the schema knows no tags."""
    if isinstance(value, dict):
        return {key: without_reset(entry) for key, entry in value.items() if not isinstance(entry, Reset)}
    return value


@pytest.mark.parametrize(
    "file",
    # Templates of the chart are no YAML yet; what they make is in ops/helm/rendered.
    [
        ROOT / "docker-compose.yml",
        *(file for file in sorted((ROOT / "ops").rglob("*.y*ml")) if file.parent.name != "templates"),
    ],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_what_is_merged_in_one_place_has_no_key_in_common(file: Path) -> None:
    """The specification lets the first win; PyYAML has changed its mind, and other readers differ as well."""
    nodes = yaml.compose_all(file.read_text(encoding="utf-8"), ComposeLoader)
    assert [clash for node in nodes for clash in clashes(node)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x: &x {k: 1, l: 2}\ny: &y {k: 3}\nz:\n  - {<<: [*x, *y]}\n", ["line 4: k"]),
        ("x: &x {k: 1}\ny: &y {<<: *x}\nz: {<<: [*y, *x]}\n", ["line 3: k"]),
        ("x: &x {k: 1}\ny: &y {l: 3}\nz: {<<: [*x, *y], k: 4}\n", []),
    ],
)
def test_a_key_that_two_merged_mappings_have_is_found(text: str, found: list[str]) -> None:
    assert list(clashes(yaml.compose(text, ComposeLoader))) == found


def clashes(node: yaml.Node | None) -> Iterator[str]:
    """The line and the key of each key that stands in more than one of the mappings merged in one place."""
    if isinstance(node, yaml.MappingNode):
        merged = [key for mapping in merged_by(node) for key in keys_of(mapping)]
        yield from (
            f"line {node.start_mark.line + 1}: {key}" for key, times in sorted(Counter(merged).items()) if times > 1
        )
        for _, value in node.value:
            yield from clashes(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from clashes(value)


def merged_by(node: yaml.MappingNode) -> list[yaml.MappingNode]:
    """The mappings that a mapping merges by `<<`."""
    found = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
    return [one for value in found for one in (value.value if isinstance(value, yaml.SequenceNode) else [value])]


def keys_of(node: yaml.MappingNode) -> set[str]:
    """The keys of a mapping, those included that it merges."""
    own = {key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"}
    return own.union(*map(keys_of, merged_by(node)))


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "OSS_VECTORS_" in str(service)])
def test_settings_in_the_compose_file_are_settings_of_the_worker(name: str) -> None:
    names = {name for name in SERVICES[name]["environment"] if name.startswith(tables.ENV_PREFIX)}
    loaded = load.load(None, SERVICES[name]["environment"])
    assert names - {"OSS_VECTORS_ROUTES"} == set(loaded.origins.values()) - {"default", "OSS_VECTORS_ROUTES"}


SINCE: Final = {
    r"\n +format: raw\n": (2, 30),
    r": !reset ": (2, 24),
    r"condition: service_completed_successfully": (2, 0),
}
"""The version of Docker Compose that began to know what these find in a file."""


def test_the_least_version_of_compose_is_said_and_is_enough_for_what_the_files_use() -> None:
    texts = [COMPOSE_TEXT, (ROOT / "ops/docker-compose.production.yml").read_text(encoding="utf-8")]
    used = [version for pattern, version in SINCE.items() if any(re.search(pattern, text) for text in texts)]
    texts.append((ROOT / "ops/README.md").read_text(encoding="utf-8"))
    said = [re.findall(r"Docker Compose (\d+)\.(\d+) or later", text) for text in texts]
    assert said == [[tuple(map(str, max(used)))]] * 3
    assert len(used) == len(SINCE)


def test_the_readme_says_where_alerts_of_the_local_stack_are_seen() -> None:
    readme = (ROOT / "ops/README.md").read_text(encoding="utf-8")
    (port,) = listening("alertmanager")
    shown = set(re.findall(r"http://127\.0\.0\.1:(\d+)", readme)) | set(re.findall(r"Alertmanager (\d+)", readme))
    assert (str(port) in shown, "amtool alert query" in readme) == (True, True)


def test_every_part_of_the_chain_is_there() -> None:
    assert SERVICES.keys() == LOCAL | {"worker", "prometheus", "alertmanager", "grafana"}


def test_images_are_pinned_to_a_version_or_built_here() -> None:
    wrong = [
        name
        for name, service in SERVICES.items()
        if "build" not in service and not re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
    ]
    assert wrong == []


def test_ports_are_open_on_the_loopback_address_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    published = [port.split(":")[1] for port in ports]
    assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\d*:\d+", port)] == []
    assert sorted(published) == ["", "3000", "9000", "9090", "9092", "9093"]


def test_every_container_has_a_read_only_root_no_capability_and_a_bounded_log() -> None:
    confined = {
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
    }
    assert {name: {key: service.get(key) for key in confined} for name, service in SERVICES.items()} == dict.fromkeys(
        SERVICES, confined
    )
    assert [name for name, service in SERVICES.items() if {"privileged", "cap_add", "user"} & service.keys()] == []


def test_every_service_has_a_health_check_or_says_why_not() -> None:
    checks = {name: service.get("healthcheck", {"of": "the image"}) for name, service in SERVICES.items()}
    without = {name for name, check in checks.items() if check == {"disable": True}}
    of_image = {name for name, check in checks.items() if check == {"of": "the image"}}
    assert (without, of_image) == ({"topics", "provision", "producer"}, {"worker"})
    assert "build" in SERVICES["worker"]
    lines = COMPOSE_TEXT.splitlines()
    unexplained = [
        number
        for number, line in enumerate(lines)
        if line.strip() == "disable: true" and not lines[number - 1].strip().startswith("# ")
    ]
    assert unexplained == []


def test_only_what_ends_by_itself_is_not_started_again() -> None:
    restart = {name: service["restart"] for name, service in SERVICES.items()}
    assert {name for name, how in restart.items() if how == "no"} == {"topics", "provision"}
    assert {how for name, how in restart.items() if name not in {"topics", "provision"}} == {"unless-stopped"}


def test_no_secret_stands_in_the_file() -> None:
    values = {
        value
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if SECRET_NAMES.search(name)
    }
    assert values == {"test"}  # the emulator's, which guard nothing
    assert "secrets" not in COMPOSE


def test_nobody_logs_in_to_grafana_and_there_is_no_account() -> None:
    names = ("AUTH_DISABLE_LOGIN_FORM", "SECURITY_DISABLE_INITIAL_ADMIN_CREATION", "AUTH_ANONYMOUS_ORG_ROLE")
    environment = SERVICES["grafana"]["environment"]
    assert [environment[f"GF_{name}"] for name in names] == ["true", "true", "Viewer"]


def test_the_worker_can_be_scaled() -> None:
    worker = SERVICES["worker"]
    assert ("container_name" in worker, "hostname" in worker) == (False, False)
    assert worker["ports"] == ["127.0.0.1::9464"]


def test_the_worker_has_time_to_drain(settings: Settings) -> None:
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > settings.shutdown.drain_seconds


def test_the_producer_has_time_to_flush_and_to_close() -> None:
    grace = int(SERVICES["producer"]["stop_grace_period"].removesuffix("s"))
    assert grace > 2 * sample_producer._FLUSH_SECONDS


def test_the_worker_has_memory_for_more_than_its_buffer(settings: Settings) -> None:
    assert int(SERVICES["worker"]["mem_limit"].removesuffix("g")) << 30 >= 2 * settings.buffer.max_bytes


def test_the_bucket_and_index_made_are_those_that_the_worker_writes_to(settings: Settings) -> None:
    made = options_of("provision", provision.main)
    assert made == {
        "endpoint": settings.oss.endpoint,
        "region": settings.oss.region,
        "bucket": settings.oss.bucket,
        "account_id": settings.oss.account_id,
        "index": settings.routes[0].index,
        "dimension": DIMENSION,
        "distance_metric": "cosine",
    }
    assert SERVICES["provision"]["entrypoint"][-1] == provision.__name__


def test_the_emulator_has_the_host_that_the_sdk_makes_and_takes_the_credentials(settings: Settings) -> None:
    emulator = SERVICES["emulator"]
    port = emulator["command"][emulator["command"].index("--port") + 1]
    host = f"{settings.oss.bucket}-{settings.oss.account_id}.emulator"
    assert emulator["networks"]["default"]["aliases"] == [host]
    assert settings.oss.endpoint == f"http://emulator:{port}"
    names = ("ACCESS_KEY_ID", "ACCESS_KEY_SECRET")
    taken = [emulator["environment"][f"OSS_EMULATOR_{name}"] for name in names]
    for service in ("worker", "provision"):
        assert [SERVICES[service]["environment"][f"OSS_{name}"] for name in names] == taken
    assert emulator["environment"]["OSS_EMULATOR_HOST"] == "0.0.0.0"


def test_the_topics_made_are_those_that_are_read_and_written(settings: Settings) -> None:
    made = re.findall(r"([\w.]+):\d+", SERVICES["topics"]["command"][0].partition(";")[0])
    produced = options_of("producer", sample_producer.main)
    assert made == [settings.routes[0].topic, settings.dead_letter.topic]
    assert produced["topic"] == settings.routes[0].topic
    assert produced["bootstrap_servers"].split(",") == list(settings.kafka.bootstrap_servers)
    assert SERVICES["producer"]["entrypoint"][-1] == sample_producer.__name__


def test_kafka_is_reached_where_its_clients_look_for_it_and_its_check_looks_there_too(settings: Settings) -> None:
    advertised = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    (server,) = settings.kafka.bootstrap_servers
    assert advertised == [f"INTERNAL://{server}", "HOST://localhost:9092"]
    assert server in SERVICES["topics"]["command"][0]
    assert SERVICES["kafka"]["healthcheck"]["test"][-1].endswith(f"/{server.partition(':')[2]}")


def test_broken_samples_stay_below_the_limit_of_dead_letters_and_below_what_alerts(settings: Settings) -> None:
    produced = options_of("producer", sample_producer.main)
    rules = (ROOT / "ops/prometheus/rules/dead_letters.yml").read_text(encoding="utf-8")
    found = re.search(r"OssVectorsDeadLetterRatioHigh.*?> (0\.\d+)", rules, re.DOTALL)
    assert found is not None
    assert 0 < produced["broken_share"] <= min(float(found[1]), settings.dead_letter.limit_ratio) / 2


def test_volumes_named_are_declared_and_files_mounted_are_there_and_read_only() -> None:
    sources = [source for service in SERVICES for source in mounts(service).values()]
    files = [source for source in sources if source.startswith(".")]
    assert sorted(set(sources) - set(files)) == sorted(COMPOSE["volumes"])
    assert [file for file in files if not any((ROOT / file).iterdir())] == []
    entries = [volume for service in SERVICES.values() for volume in service.get("volumes", ())]
    assert [entry for entry in entries if entry.startswith(".") and not entry.endswith(":ro")] == []


def test_what_waits_for_a_service_waits_for_one_that_can_get_there() -> None:
    conditions = [
        (name, needed, how["condition"])
        for name, service in SERVICES.items()
        for needed, how in service.get("depends_on", {}).items()
    ]
    one_shot = {name for name, service in SERVICES.items() if service["restart"] == "no"}
    checked = {name for name, service in SERVICES.items() if "test" in service.get("healthcheck", {})}
    reachable = {"service_completed_successfully": one_shot, "service_healthy": checked}
    assert [entry for entry in conditions if entry[1] not in reachable[entry[2]]] == []


@pytest.mark.parametrize("name", ["prometheus", "alertmanager", "grafana", "emulator"])
def test_a_health_check_asks_a_port_that_the_service_publishes(name: str) -> None:
    asked = re.findall(r"http://127\.0\.0\.1:(\d+)/", " ".join(SERVICES[name]["healthcheck"]["test"]))
    assert {int(port) for port in asked} == listening(name)


# -- Prometheus, Alertmanager and Grafana


def test_prometheus_finds_every_replica_of_the_worker(settings: Settings) -> None:
    jobs = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    assert jobs["oss-vectors-worker"]["dns_sd_configs"] == [
        {"names": ["worker"], "type": "A", "port": settings.http.port, "refresh_interval": "5s"}
    ]
    assert listening("worker") == {settings.http.port}


def test_prometheus_alerts_and_scrapes_where_something_listens() -> None:
    managers = [target for entry in PROMETHEUS["alerting"]["alertmanagers"] for target in targets(entry)]
    scraped = [target for job in PROMETHEUS["scrape_configs"] for target in targets(job)]
    addresses = [address.partition(":") for address in managers + scraped]
    nobody = [
        f"{host}:{port}"
        for host, _, port in addresses
        if int(port) not in listening({"localhost": "prometheus"}.get(host, host))
    ]
    assert (nobody, managers) == ([], ["alertmanager:9093"])


def targets(entry: dict[str, Any]) -> list[str]:
    """The addresses that an entry of Prometheus' configuration names one by one."""
    return [target for static in entry.get("static_configs", ()) for target in static["targets"]]


def test_the_rules_that_prometheus_reads_are_in_what_is_mounted() -> None:
    folder = ROOT / mounts("prometheus")["/etc/prometheus"]
    patterns = [file.removeprefix("/etc/prometheus/") for file in PROMETHEUS["rule_files"]]
    assert [pattern for pattern in patterns if pattern.startswith("/") or not list(folder.glob(pattern))] == []


@pytest.mark.parametrize("name", ["prometheus", "alertmanager"])
def test_the_configuration_that_a_service_is_told_to_read_is_mounted(name: str) -> None:
    (told,) = [part for part in SERVICES[name]["command"] if part.startswith("--config.file=")]
    file = Path(told.partition("=")[2])
    assert (ROOT / mounts(name)[str(file.parent)] / file.name).is_file()


def test_grafana_asks_prometheus_and_shows_the_dashboards_that_are_mounted() -> None:
    provisioning = ROOT / mounts("grafana")["/etc/grafana/provisioning"]
    sources = [source for file in read_all(provisioning / "datasources") for source in file["datasources"]]
    (port,) = listening("prometheus")
    assert [source["url"] for source in sources] == [f"http://prometheus:{port}"]
    providers = [provider for file in read_all(provisioning / "dashboards") for provider in file["providers"]]
    shown = [mounts("grafana")[provider["options"]["path"]] for provider in providers]
    assert [folder for folder in shown if not list((ROOT / folder).glob("*.json"))] == []
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (ROOT / mounts("grafana")[str(home.parent)] / home.name).is_file()


def read_all(folder: Path) -> list[dict[str, Any]]:
    """The YAML files of a folder, of which there is one at the least."""
    files = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.y*ml"))]
    assert files != []
    return files


# -- ops/docker-compose.production.yml and ops/production.env.example


def test_production_starts_the_worker_and_what_watches_it_and_nothing_local() -> None:
    services = PRODUCTION["services"]
    assert {name for name, service in services.items() if service == {"profiles": ["local"]}} == LOCAL
    assert services.keys() - LOCAL == {"worker"}
    started = SERVICES.keys() - LOCAL - {"worker"}
    assert [name for name in started if SERVICES[name].get("depends_on", {}).keys() & LOCAL] == []


def test_production_keeps_nothing_of_the_emulators_settings() -> None:
    worker = PRODUCTION["services"]["worker"]
    assert [isinstance(worker[key], Reset) for key in ("environment", "depends_on")] == [True, True]
    assert worker["env_file"] == [{"path": "ops/production.env", "format": "raw"}]
    assert PRODUCTION["name"] != COMPOSE["name"]
    assert "production.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def variables(prefix: str) -> dict[str, str]:
    """The variables of the example, on lines that begin with `prefix`, as Docker reads them."""
    lines = (ROOT / "ops/production.env.example").read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(rf"{prefix}([A-Z][A-Z_]*)=(.*)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def test_the_production_example_has_the_least_that_the_worker_wants_and_no_secret() -> None:
    given = variables("")
    empty = {name for name, value in given.items() if value == ""}
    assert empty == {name for name in given if SECRET_NAMES.search(name)}
    loaded = load.load(None, given | dict.fromkeys(empty, "filled in"))
    names = {name for name in given if name.startswith(tables.ENV_PREFIX)} - {"OSS_VECTORS_ROUTES"}
    assert set(loaded.origins.values()) - {"default", "OSS_VECTORS_ROUTES"} == names
    assert (loaded.settings.kafka.security_protocol, loaded.settings.oss.endpoint) == ("SASL_SSL", "")


def test_what_the_production_example_offers_besides_are_settings_too(tmp_path: Path) -> None:
    offered = variables("#")
    there = tmp_path / "file"
    there.write_text("filled in")
    certificates = tmp_path / "certificates.pem"
    trustme.CA().cert_pem.write_to_path(certificates)
    files = {
        name: str(certificates if name.endswith("CAFILE") else there)
        for name, value in offered.items()
        if value.startswith("/")
    }
    given = variables("") | {"OSS_ACCESS_KEY_ID": "x", "OSS_ACCESS_KEY_SECRET": "x"}
    instead = {name.removesuffix("_FILE") for name in offered}
    loaded = load.load(None, {name: given[name] for name in given.keys() - instead} | offered | files)
    assert offered.keys() - set(loaded.origins.values()) == set()
    assert len(offered) >= 5


def test_the_production_example_can_be_read_by_docker_run_as_well() -> None:
    lines = (ROOT / "ops/production.env.example").read_text(encoding="utf-8").splitlines()
    values = [line.partition("=")[2] for line in lines if line and not line.startswith("#")]
    assert [value for value in values if re.search(r"""^["']|\s#|^\s|\s$""", value)] == []
