"""`.ci/run` runs what the README shows, and `ops.pythons` finds the interpreters."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops import pythons

PROGRAMS = (
    "bash",
    "chmod",
    "comm",
    "dirname",
    "env",
    "grep",
    "mkdir",
    "mktemp",
    "rm",
    "sed",
    "sort",
    "tail",
    "timeout",
)
ROOT = Path(__file__).parents[2]
THIS = "{}.{}".format(*sys.version_info)


def run_ci(folder: Path, readme: str, python3: str = "") -> "subprocess.CompletedProcess[str]":
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    (folder / "README.md").write_text(readme)
    environment = without_apt(folder)
    if python3:
        program = folder / "bin/python3"
        program.unlink()
        program.write_text(python3)
        program.chmod(0o755)
    command = [folder / ".ci/run"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


def without_apt(folder: Path) -> dict[str, str]:
    """An environment with the programs that .ci/run itself calls, in which apt-get only notes what it was asked for."""
    programs = folder / "bin"
    programs.mkdir()
    # This interpreter itself: what a version manager puts on the path is a script that needs more than this path has.
    (programs / "python3").symlink_to(sys.executable)
    for name in PROGRAMS:
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


INTERPRETER = """#!{bash}
# A `python3` whose environments hold programs that only say what they were asked for.
if [[ "$2" != venv ]]; then exec {python} "$@"; fi
mkdir -p "$3/bin"
for name in pip python ruff mypy; do
  printf '%s\\n' '#!{bash}' 'exec {bash} {folder}/program '"$name $3"' "$@"' >"$3/bin/$name"
  chmod +x "$3/bin/$name"
done
"""
PROGRAM = """
name=$1 environment=$2 asked="${*:3}"
case "$name $asked" in
  "python -m pip list"*) [[ "$environment" == .venv ]] && printf 'a==1\\nb==1\\n' || printf 'a==1\\nb==2\\n' ;;
  "python -m ops.pythons --find") echo python3 ;;
  "python -m pytest"*) printf 'FAILED tests/unit/test_x.py::test_y - boom\\n1 failed, 3 passed in 2.00s\\n'; exit {code} ;;
  *) echo "$name $asked" ;;
esac
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, ["newest versions: the tests of what depends on packages pass"]),
        (
            1,
            [
                "newest versions: the tests of what depends on packages fail, or take longer than 120 s:",
                "  FAILED tests/unit/test_x.py::test_y - boom",
            ],
        ),
    ],
)
def test_what_fails_with_the_newest_versions_is_reported_and_fails_nothing(
    tmp_path: Path, code: int, said: list[str]
) -> None:
    bash = shutil.which("bash") or "bash"
    (tmp_path / "program").write_text(PROGRAM.replace("{code}", str(code)))
    python3 = INTERPRETER.replace("{bash}", bash).replace("{python}", sys.executable)
    readme = "## Test it\n\n```sh\npython3 -m venv .venv && echo 3 passed in 1.00s # pytest\n```\n"
    ended = run_ci(tmp_path, readme, python3.replace("{folder}", str(tmp_path)))
    printed = ended.stdout.partition("a report, not a check)\n")
    assert (ended.returncode, ended.stderr.splitlines()) == (0, ["", "$ apt-get install"])
    version = f"newest versions: with Python {platform.python_version()}"
    assert printed[2].splitlines() == [version, "newest versions: unlike the pinned one: b==2", *said]
    assert [line for line in printed[0].splitlines() if "passed" in line or line.startswith("ruff")] == [
        "$ python3 -m venv .venv && echo 3 passed in 1.00s # pytest", "3 passed in 1.00s", "ruff check", "ruff format --check"
    ]  # fmt: skip


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


def fake_python(folder: Path, version: str, says: str) -> Path:
    """Make a program with the name of this version's interpreter, that prints what an interpreter would be asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"python{version}"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    return program


def test_the_image_and_ci_use_a_supported_python() -> None:
    image = re.search(r"^ARG PYTHON_IMAGE=python:(3\.\d+)", (ROOT / "ops/Dockerfile").read_text(), re.MULTILINE)
    assert image is not None
    assert {image[1], THIS} <= set(pythons.supported())


def test_the_interpreter_that_runs_this_is_found() -> None:
    found = pythons.find(THIS)
    assert found is not None
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    assert (
        subprocess.run([found, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
        == f"{THIS}\n"
    )


def test_what_is_named_like_an_interpreter_and_is_none_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_python(tmp_path / "bin", "3.12", "echo 'command not found' >&2; exit 127")  # as a version manager's does
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert pythons.find("3.12") is None
    real = fake_python(tmp_path / "pyenv/versions/3.12.7/bin", "3.12", "echo 3.12")
    assert (pythons.find("3.12"), pythons.find("3.13")) == (real, None)


def test_the_newest_supported_one_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    made = {version: fake_python(tmp_path, version, f"echo {version}") for version in ("3.11", "3.12", "3.99")}
    monkeypatch.setattr(sys, "executable", str(made["3.11"]))
    assert pythons.newest() == made["3.12"]


@pytest.mark.parametrize(
    ("asked", "codes", "expected"),
    [
        pytest.param([], {"3.11": 0, "3.12": 0}, 0, id="what is not there is no failure"),
        pytest.param([], {"3.11": 0, "3.12": 1}, 1, id="one that fails is"),
        pytest.param(["3.11"], {"3.11": 0, "3.12": 1}, 0, id="only what was asked for"),
        pytest.param(["3.13"], {"3.11": 0}, 1, id="what was asked for must be there"),
    ],
)
def test_every_version_gets_a_line_and_a_failure_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[str],
    codes: dict[str, int],
    expected: int,
) -> None:
    given: list[tuple[str, tuple[str, ...]]] = []

    def run(python: Path, tests: list[str]) -> int:
        given.append((python.name, tuple(tests)))
        return codes[python.name]

    monkeypatch.setattr(pythons, "find", lambda version: Path(version) if version in codes else None)
    monkeypatch.setattr(pythons, "try_version", run)
    assert pythons.main([*asked, "--", "tests/unit", "-x"]) == expected
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Python ")]
    assert [line.partition(":")[0] for line in lines] == [
        f"Python {version}" for version in asked or pythons.supported()
    ]
    assert {tests for _, tests in given} <= {("tests/unit", "-x")}
