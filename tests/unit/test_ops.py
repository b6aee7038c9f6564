"""The files that build, start and check the project agree with each other and with the code."""

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from worker import config
from worker.config import Settings
from worker.local import provision, sample_producer
from worker.local.sentences import DIMENSION

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "ops/Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROMETHEUS: dict[str, Any] = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = ["requirements.txt", "requirements-demo.txt", "requirements-build.txt"]


@pytest.fixture(scope="module")
def settings() -> Settings:
    """The settings of the worker in docker-compose.yml."""
    return config.load(None, SERVICES["worker"]["environment"]).settings


def options_of(service: str, command: click.Command) -> dict[str, Any]:
    """The options that a service hands to a command of ours, as the command reads them."""
    return command.make_context(service, list(SERVICES[service]["command"])).params


# -- docker-compose.yml


def test_compose_file_is_valid_by_the_compose_specification() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout.strip()) == (0, "ok -- validation done")


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "OSS_VECTORS_" in str(service)])
def test_settings_in_the_compose_file_are_settings_of_the_worker(name: str) -> None:
    names = {name for name in SERVICES[name]["environment"] if name.startswith(config.ENV_PREFIX)}
    loaded = config.load(None, SERVICES[name]["environment"])
    assert names - {"OSS_VECTORS_ROUTES"} == set(loaded.origins.values()) - {"default", "OSS_VECTORS_ROUTES"}


def test_images_are_pinned_or_built_here() -> None:
    wrong = [
        name
        for name, service in SERVICES.items()
        if "build" not in service and not re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
    ]
    assert wrong == []


def test_ports_are_open_on_the_loopback_address_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert len(ports) == 4


def test_the_worker_can_be_scaled() -> None:
    worker = SERVICES["worker"]
    assert ("container_name" in worker, "hostname" in worker) == (False, False)
    assert worker["ports"] == ["127.0.0.1::9464"]


def test_the_worker_has_time_to_drain(settings: Settings) -> None:
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > settings.shutdown.drain_seconds


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
    credentials = {name: SERVICES["worker"]["environment"][f"OSS_{name}"] for name in ("ACCESS_KEY_ID",)}
    assert credentials == {"ACCESS_KEY_ID": emulator["environment"]["OSS_EMULATOR_ACCESS_KEY_ID"]}
    assert emulator["environment"]["OSS_EMULATOR_HOST"] == "0.0.0.0"


def test_the_topics_made_are_those_that_are_read_and_written(settings: Settings) -> None:
    made = re.findall(r"([\w.]+):\d+", SERVICES["topics"]["command"][0].partition(";")[0])
    produced = options_of("producer", sample_producer.main)
    assert made == [settings.routes[0].topic, settings.dead_letter.topic]
    assert produced["topic"] == settings.routes[0].topic
    assert produced["bootstrap_servers"].split(",") == list(settings.kafka.bootstrap_servers)
    assert SERVICES["producer"]["entrypoint"][-1] == sample_producer.__name__


def test_broken_samples_stay_below_the_limit_of_dead_letters(settings: Settings) -> None:
    produced = options_of("producer", sample_producer.main)
    assert 0 < produced["broken_share"] < settings.dead_letter.limit_ratio / 2


def test_volumes_named_are_declared_and_files_mounted_are_there() -> None:
    mounts = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())]
    files = [mount for mount in mounts if mount.startswith(".")]
    assert sorted(set(mounts) - set(files)) == sorted(COMPOSE["volumes"])
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_what_waits_for_a_service_waits_for_one_that_can_get_there() -> None:
    conditions = [
        (name, needed, how["condition"])
        for name, service in SERVICES.items()
        for needed, how in service.get("depends_on", {}).items()
    ]
    one_shot = {name for name, service in SERVICES.items() if service["restart"] == "no"}
    checked = {name for name, service in SERVICES.items() if "test" in service.get("healthcheck", {})}
    reachable = {"service_completed_successfully": one_shot, "service_healthy": checked, "service_started": {*SERVICES}}
    assert [entry for entry in conditions if entry[1] not in reachable[entry[2]]] == []


# -- Prometheus


def test_prometheus_finds_every_replica_of_the_worker(settings: Settings) -> None:
    jobs = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    assert jobs["oss-vectors-worker"]["dns_sd_configs"] == [
        {"names": ["worker"], "type": "A", "port": settings.http.port, "refresh_interval": "5s"}
    ]
    assert PROMETHEUS.keys() <= {"alerting", "global", "rule_files", "scrape_configs"}
    assert "worker" in SERVICES


# -- the image


def test_the_image_is_pinned_and_ends_without_root_and_without_a_shell_in_between() -> None:
    instructions = [line.partition(" ") for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line[:1].isupper()]
    by_name = {name: value for name, _, value in instructions}
    image = dict(value.split("=") for name, _, value in instructions if name == "ARG")["PYTHON_IMAGE"]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", image) is not None
    assert {value.split()[0] for name, _, value in instructions if name == "FROM"} == {"${PYTHON_IMAGE}"}
    assert by_name["USER"] == "10001:10001"
    assert ast.literal_eval(by_name["ENTRYPOINT"]) == list(PROJECT["scripts"])
    assert ast.literal_eval(by_name["CMD"]) == ["run"]


def test_the_image_carries_the_version_and_the_port_of_the_project(settings: Settings) -> None:
    assert f"ARG VERSION={PROJECT['version']}\n" in DOCKERFILE
    assert f"EXPOSE {settings.http.port}\n" in DOCKERFILE


def test_the_images_health_check_is_a_program_and_asks_healthz() -> None:
    check = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert check is not None
    python, option, program = ast.literal_eval(check[1])
    compile(program, "healthcheck", "exec")
    assert (python, option, "/healthz" in program) == ("python", "-c", True)


def test_what_the_image_copies_is_there_and_let_through() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(let_through)
    assert [source for source in copied if not (ROOT / source).exists()] == []


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_requirement_is_pinned_with_hashes_and_without_an_address(name: str) -> None:
    text = (ROOT / "ops" / name).read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    line = re.compile(r"[a-z0-9.-]+==[\w.]+( ; [^\\]*?)?( +--hash=sha256:[0-9a-f]{64})+")
    assert [entry for entry in lines if not line.fullmatch(entry.rstrip())] == []
    assert ("://" in text, len(lines) > 5) == (False, True)
    assert f"-o ops/{name}" in text.splitlines()[3]


@pytest.mark.parametrize(
    ("name", "extras"), [("requirements.txt", ["credentials"]), ("requirements-demo.txt", ["credentials", "demo"])]
)
def test_requirements_hold_every_dependency_of_the_project(name: str, extras: list[str]) -> None:
    wanted = [*PROJECT["dependencies"], *itertools.chain(*(PROJECT["optional-dependencies"][one] for one in extras))]
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "ops" / name).read_text(), re.MULTILINE))
    assert {re.split(r"[^a-zA-Z0-9.-]", one)[0].lower() for one in wanted} - pinned == set()


# -- .ci/run


def run_ci(folder: Path, readme: str) -> "subprocess.CompletedProcess[str]":
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    (folder / "README.md").write_text(readme)
    return subprocess.run([folder / ".ci/run"], capture_output=True, text=True, check=False, env=without_apt(folder))


def without_apt(folder: Path) -> dict[str, str]:
    """An environment with the programs that .ci/run itself calls, in which apt-get only notes what it was asked for."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "env", "python3"):
        (programs / name).symlink_to(shutil.which(name) or name)
    for name, script in (("id", "echo 0"), ("apt-get", f'echo "$@" >>{folder}/asked')):
        (programs / name).write_text(f"#!{shutil.which('bash')}\n{script}\n")
        (programs / name).chmod(0o755)
    return {**os.environ, "PATH": str(programs)}


def test_ci_runs_the_test_command_of_the_readme(tmp_path: Path) -> None:
    readme = "# x\n\n## Try it\n\n```sh\npython3 -m venv a pytest\n```\n\n## Test it\n\n```sh\n# comment\n{}\n```\n"
    command = "python3 -m venv --help >/dev/null && echo 3 passed && false # pytest"
    ended = run_ci(tmp_path, readme.format(command))
    assert (ended.returncode, ended.stdout.splitlines()) == (1, [f"$ {command}", "3 passed"])
    asked = (tmp_path / "asked").read_text().splitlines()
    assert (asked[0], asked[1].partition(" prometheus")[0]) == ("update -qq", "install -y --no-install-recommends")


@pytest.mark.parametrize(
    "readme", ["# x\n", "## Test it\n\npython3 -m venv x && pytest\n", "## Test it\n\n```sh\nmake\n```\n"]
)
def test_ci_tells_when_the_readme_has_no_test_command(tmp_path: Path, readme: str) -> None:
    ended = run_ci(tmp_path, readme)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Test it" in ended.stderr


def test_the_readme_has_the_command_that_ci_looks_for() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Test it\n")[2]
    assert re.match(r"\n```sh\npython3 -m venv .*pytest\n```\n", section) is not None
