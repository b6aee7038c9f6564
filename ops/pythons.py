"""Tries the tests with each Python that the project supports: `python -m ops.pythons`.

    python -m ops.pythons                          the tests in tests/unit and tests/contract, with every supported version
    python -m ops.pythons 3.13                     with this version
    python -m ops.pythons 3.13 -- tests/unit -x    these arguments for pytest instead
    python -m ops.pythons --find                   only print the newest interpreter there is

The versions are those of the classifiers in pyproject.toml. Each gets an environment of its own in a temporary folder,
with the pinned packages. Interpreters are looked for on the PATH and among those of pyenv; none is downloaded. A version
without an interpreter is named. It is no failure unless it was asked for.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import which
from typing import Final

ROOT: Final = Path(__file__).parents[1]
LIMIT_S: Final = 1800.0
"""How long one step with one version may take: an installation, or its tests."""
TESTS: Final = ("tests/unit", "tests/contract")
_QUIET_PIP: Final = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def supported() -> list[str]:
    """Return the versions that the project says it supports, the oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = re.findall(r"Programming Language :: Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    return sorted(found, key=_number)


def find(version: str) -> Path | None:
    """Return an interpreter of this version, None where there is none."""
    return next((path for path in _candidates(version) if _is_version(path, version)), None)


def newest() -> Path:
    """Return the newest supported interpreter that there is, which is at the least the one that runs this."""
    return next((path for version in reversed(supported()) if (path := find(version))), Path(sys.executable))


def try_version(python: Path, tests: Sequence[str]) -> int:
    """Install the project with its pinned packages into a new environment and run the tests; return pytest's exit code.

    CalledProcessError if the installation fails.
    """
    with tempfile.TemporaryDirectory(prefix="oss-vectors-pythons-") as folder:
        own = str(Path(folder) / "bin/python")
        _run([str(python), "-m", "venv", folder], check=True)
        pins = [f"-r{ROOT / 'ops' / name}" for name in ("requirements-build.txt", "requirements-test.txt")]
        _run([own, *_QUIET_PIP, *pins], check=True)
        _run([own, *_QUIET_PIP, "--no-build-isolation", "--no-deps", str(ROOT)], check=True)
        return _run([own, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *tests], check=False)


def main(arguments: Sequence[str]) -> int:
    """Try the versions; return 0 where all passed."""
    parser = argparse.ArgumentParser(prog="python -m ops.pythons", description="Try each supported Python.")
    parser.add_argument("--find", action="store_true", help="only print the newest interpreter there is")
    parser.add_argument("version", nargs="*", help="such as 3.13; every supported one without it")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, tests = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    if options.find:
        print(newest())  # noqa: T201 - what was asked for
        return 0
    results = [_try(version, tests or TESTS) for version in options.version or supported()]
    for _, line in results:
        print(line)  # noqa: T201 - the report
    codes = [code for code, _ in results]
    return int(any(code for code in codes if code is not None) or (bool(options.version) and None in codes))


def _try(version: str, tests: Sequence[str]) -> tuple[int | None, str]:
    """Return the exit code, None where there is no interpreter, and what is to be said of this version."""
    python = find(version)
    if python is None:
        return None, f"Python {version}: not tried, there is no interpreter"
    print(f"\n== Python {version}: {python}", flush=True)  # noqa: T201 - the report
    began = time.monotonic()
    try:
        code = try_version(python, tests)
    except subprocess.CalledProcessError as error:
        return 1, f"Python {version}: cannot be installed: {error}"
    result = "the tests pass" if code == 0 else f"the tests fail (exit code {code})"
    return code, f"Python {version}: {result}, {time.monotonic() - began:.0f} s"


def _candidates(version: str) -> Iterator[Path]:
    if found := which(f"python{version}"):
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)
    yield Path(sys.executable)


def _is_version(python: Path, version: str) -> bool:
    """Return whether it runs and is this version: what a version manager puts on the PATH may do neither."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - an interpreter that was found
    except OSError:
        return False
    return done.stdout.strip() == version


def _run(command: Sequence[str], *, check: bool) -> int:
    return subprocess.run(command, cwd=ROOT, check=check, timeout=LIMIT_S).returncode  # noqa: S603 - a command of ours


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
