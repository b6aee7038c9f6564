"""Writes the requirement files again, with the newest versions that pyproject.toml allows: `python -m ops.requirements`.

Each file pins every package with the hashes of its files, for every Python and platform that the project supports, and
names no package registry. uv, of the extra `dev`, finds the versions at the registry that its own settings name.
All files come from one resolution, so that two of them can be installed together: a package has one version in all.
"""

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final = ROOT / "pyproject.toml"
LIMIT_S: Final = 600.0
"""How long one resolution may take; seconds are usual."""


class File(NamedTuple):
    """One file: what it is for, the extras that it covers, and whether it covers the dependencies of the project."""

    name: str
    purpose: str
    extras: Sequence[str]
    of_project: bool = True


BUILD: Final = File(
    "requirements-build.txt",
    "What builds the worker, and packages that have no wheel for a platform.",
    (),
    of_project=False,
)
FILES: Final = (
    BUILD,
    File(
        "requirements.txt", "What the worker needs in production, with every way to get credentials.", ["credentials"]
    ),
    File(
        "requirements-otel.txt",
        "What the worker needs in production with traces, and with every way to get credentials.",
        ["credentials", "otel"],
    ),
    File(
        "requirements-registry.txt",
        "What the worker needs in production with a schema registry, and with every way to get credentials.",
        ["credentials", "registry"],
    ),
    File(
        "requirements-demo.txt",
        "What the worker and the local stack (the emulator, Apache Kafka) need.",
        ["credentials", "demo"],
    ),
    File("requirements-test.txt", "What the worker and its tests need.", ["test"]),
    File("requirements-dev.txt", "What developers need: the tests, the linters and the type checker.", ["dev"]),
)
"""The last one covers all others, the build excepted."""
_HEADER: Final = """\
# {purpose}
# Every package with the hashes of its files, which pip then insists on.
# Written, with the newest versions, by: python -m ops.requirements
"""
_COMPILE: Final = (
    *("uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-annotate", "--no-header"),
    # A package that has only its source would run its own code, with tools that are not pinned, when it is installed.
    *("--only-binary", ":all:"),
)


def main() -> None:
    """Write all files. CalledProcessError if uv fails, whose message is then on the standard error."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.txt"
        whole.write_text(_resolved(FILES[-1].extras, of_project=True, build=True), encoding="utf-8")
        for file in FILES:
            text = _resolved(file.extras, file.of_project, build=file is BUILD, constraints=whole)
            (ROOT / "ops" / file.name).write_text(header(file) + text, encoding="utf-8")


def header(file: File) -> str:
    """Return the comment that a file begins with."""
    return _HEADER.format(purpose=file.purpose)


def build_requirements() -> list[str]:
    """Return what pyproject.toml needs to build the project, and setuptools, which most packages without a wheel need."""
    return [*_pyproject()["build-system"]["requires"], "setuptools"]


def _resolved(extras: Sequence[str], of_project: bool, build: bool, constraints: Path | None = None) -> str:
    """Return the pins of these extras, of the dependencies of the project, and of the build."""
    command = [sys.executable, "-m", *_COMPILE, "--python-version", _oldest_python()]
    command += [str(PROJECT)] if of_project else []
    command += [f"--extra={extra}" for extra in extras]
    command += ["-"] if build else []
    command += [] if constraints is None else ["--constraints", str(constraints)]
    wanted = "\n".join(build_requirements()) if build else ""
    ended = subprocess.run(  # noqa: S603 - a command of ours; no shell reads it
        command, input=wanted, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT_S
    )
    return ended.stdout


def _oldest_python() -> str:
    return str(_pyproject()["project"]["requires-python"]).removeprefix(">=")


def _pyproject() -> dict[str, Any]:
    return tomllib.loads(PROJECT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
