"""`.ci/run` runs what the README shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
  "python -m pytest"*) printf 'FAILED tests/unit/test_x.py::test_y - boom\\n1 failed, 3 passed in 2.00s\\n'; exit {code} ;;
  *) echo "$name $asked" ;;
esac
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, ["newest versions: the tests in tests/unit and tests/contract pass"]),
        (
            1,
            [
                "newest versions: the tests in tests/unit and tests/contract fail, or take longer than 7 minutes:",
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
    assert printed[2].splitlines() == ["newest versions: unlike the pinned one: b==2", *said]
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
