"""The image that ops/Dockerfile builds, as far as its text tells, and the requirements that it installs."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ops.requirements import FILES, File, build_requirements, header
from tests.support.bounded import join, thread
from worker.settings.tables import Http

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = (ROOT / "ops/Dockerfile").read_text(encoding="utf-8")
STEPS: Final = re.split(r"^(?=[A-Z]+ )", DOCKERFILE, flags=re.MULTILINE)
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILD: Final = build_requirements()
PYTHONS: Final = ["3.11", "3.12", "3.13", "3.14"]


def test_the_image_is_pinned_and_ends_without_root_and_without_a_shell_in_between() -> None:
    instructions = [line.partition(" ") for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line[:1].isupper()]
    by_name = {name: value for name, _, value in instructions}
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", image) is not None
    assert {value.split()[0] for name, _, value in instructions if name == "FROM"} == {"${PYTHON_IMAGE}"}
    assert by_name["USER"] == "10001:10001"
    assert ast.literal_eval(by_name["ENTRYPOINT"]) == list(PROJECT["scripts"])
    assert ast.literal_eval(by_name["CMD"]) == ["run"]


def test_the_image_carries_the_version_and_the_port_of_the_project() -> None:
    assert f"ARG VERSION={PROJECT['version']}\n" in DOCKERFILE
    assert f"EXPOSE {Http().port}\n" in DOCKERFILE


class Answer(BaseHTTPRequestHandler):
    """Answers every request with the server's status, and keeps the paths asked for."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Asked)
        server.paths.append(self.path)
        self.send_response(server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Keep the test's output quiet."""


class Asked(HTTPServer):
    """A server on a free port of 127.0.0.1."""

    def __init__(self, status: int):
        super().__init__(("127.0.0.1", 0), Answer)
        self.status = status
        self.paths: list[str] = []


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_images_health_check_is_what_healthz_says_whatever_proxy_is_set(status: int, healthy: bool) -> None:
    check = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert check is not None
    python, *rest = ast.literal_eval(check[1])
    with Asked(status) as server:
        answering = thread(server.handle_request)
        environment = {"OSS_VECTORS_HTTP__PORT": str(server.server_port), "http_proxy": "http://127.0.0.1:1"}
        ended = subprocess.run([sys.executable, *rest], env=environment, capture_output=True, check=False, timeout=60)
        join(answering)
    assert (python, server.paths, ended.returncode == 0) == ("python", ["/healthz"], healthy)


USES: Final = """
import importlib, pkgutil, sys
import kafka.codec as codec
import worker
for module in pkgutil.walk_packages(worker.__path__, "worker."):
    of_an_extra = ("worker.local", "worker.registry", "worker.telemetry.otel")
    if not module.name.startswith(of_an_extra) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
data = b"vector" * 1000
for kind in ("gzip", "snappy", "lz4", "zstd"):
    assert getattr(codec, f"has_{kind}")(), kind
    assert getattr(codec, f"{kind}_decode")(getattr(codec, f"{kind}_encode")(data)) == data
import crc32c, numpy, orjson
if sys.version_info < (3, 14):  # no wheels for later ones
    import simdjson
    assert simdjson.Parser().parse(b"[1.5]").as_list() == [1.5]
assert float(numpy.frombuffer(numpy.ones(4, "<f4").tobytes(), "<f4").sum()) == 4.0
from alibabacloud_credentials.client import Client
import alibabacloud_oss_v2 as oss
import alibabacloud_oss_v2.vectors
oss.vectors.Client(oss.config.load_default())
pruned = sys.argv[1]
packages = {"numpy", "zstandard", "Crypto", "lz4", "aiohttp", "kafka", "alibabacloud_oss_v2"}
beside = [name for name in packages & sys.modules.keys() if not str(sys.modules[name].__file__).startswith(pruned)]
print(sorted(beside), sorted(packages - sys.modules.keys()))
"""


def test_what_the_image_leaves_out_of_the_packages_is_nothing_that_runs(tmp_path: Path) -> None:
    """The step of the Dockerfile, done to a copy of the packages of production as they are installed here."""
    pruned = tmp_path / "lib/python3.x/site-packages"
    pruned.mkdir(parents=True)
    for name in [*pinned("requirements.txt", f"3.{sys.version_info.minor}"), PROJECT["name"]]:
        copy_package(name, pruned)
    step = next(step for step in STEPS if "SelfTest" in step)
    script = re.split(r"^#", step.removeprefix("RUN "), flags=re.MULTILINE)[0]
    before = files_of(pruned)
    shell = script.replace("\\\n", " ").replace("/opt/oss-vectors-worker", str(tmp_path))
    subprocess.run(["bash", "-euc", shell], check=True, timeout=60)
    assert {Path(name).parts[0] for name in before - files_of(pruned)} >= {"numpy", "zstandard", "Crypto", "simdjson"}
    environ = {"PYTHONPATH": f"{ROOT}{os.pathsep}{pruned}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-S", "-c", USES, str(pruned)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[] []\n")


def copy_package(name: str, folder: Path) -> None:
    """Copy an installed package's files, without their compiled form, to `folder`."""
    for file in importlib.metadata.distribution(name).files or ():
        source = Path(str(file.locate()))
        if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_packages_are_fetched_by_hash_alone_and_with_a_mirrors_settings_in_no_layer() -> None:
    steps = [step for step in STEPS if step.startswith("RUN ")]
    fetching = [step for step in steps if re.search(r"pip (install|wheel) (?!.*--no-(index|deps))", step)]
    assert [step.splitlines()[0] for step in fetching] == [
        "RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \\"
    ]
    commands = [line for line in fetching[0].splitlines() if re.search(r"/pip (install|wheel) ", line)]
    assert [line for line in commands if "--require-hashes" not in line] == []
    assert "://" not in DOCKERFILE.replace("http://127.0.0.1:", "")


def test_what_the_image_copies_is_there_and_let_through() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(let_through)
    assert [source for source in copied if not (ROOT / source).exists()] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.name))
def test_every_requirement_is_pinned_with_hashes_and_without_an_address(file: File) -> None:
    text = (ROOT / "ops" / file.name).read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    line = re.compile(r"[a-z0-9.-]+==[\w.]+( ; [^\\]*?)?( +--hash=sha256:[0-9a-f]{64})+")
    assert [entry for entry in lines if not line.fullmatch(entry.rstrip())] == []
    assert ("://" in text, len(lines) > 5) == (False, True)
    assert text.startswith(header(file))


def test_every_file_of_requirements_is_renewed_by_the_one_command() -> None:
    assert sorted(path.name for path in (ROOT / "ops").glob("requirements*.txt")) == sorted(file.name for file in FILES)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.name))
def test_requirements_satisfy_every_dependency_of_the_project(file: File, python: str) -> None:
    wanted = wanted_by([*file.extras]) if file.of_project else BUILD
    assert unsatisfied(wanted, file.name, python) == []


@pytest.mark.parametrize("python", PYTHONS)
def test_a_package_has_one_version_in_all_files_of_requirements(python: str) -> None:
    """Else pip would refuse to install two of the files at once."""
    versions: dict[str, set[str]] = {}
    for file in FILES:
        for name, version in pinned(file.name, python).items():
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def wanted_by(extras: list[str]) -> list[str]:
    """What the project needs with these extras, and with those that they name."""
    wanted: list[str] = list(PROJECT["dependencies"])
    for extra in extras:
        for one in PROJECT["optional-dependencies"][extra]:
            inner = Requirement(one)
            wanted += wanted_by([*inner.extras]) if inner.name == PROJECT["name"] else [one]
    return wanted


def unsatisfied(wanted: list[str], name: str, python: str) -> list[str]:
    """What of `wanted` the requirements do not pin, or not to a version that will do, on this Python."""
    pins = pinned(name, python)
    here = [one for one in map(Requirement, wanted) if holds(one, python)]
    return [str(one) for one in here if not one.specifier.contains(pins.get(canonicalize_name(one.name), "0.dev0"))]


def pinned(name: str, python: str) -> dict[str, str]:
    """The packages that the requirements install on this Python, and their versions."""
    text = (ROOT / "ops" / name).read_text(encoding="utf-8")
    lines = re.findall(r"^([a-z0-9.-]+==[^\\\n]+)", text, re.MULTILINE)
    pins = [one for one in map(Requirement, lines) if holds(one, python)]
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in pins}


def holds(requirement: Requirement, python: str) -> bool:
    """Whether a requirement's marker is true on this Python, on Linux."""
    environment = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
    return requirement.marker is None or requirement.marker.evaluate(environment)
