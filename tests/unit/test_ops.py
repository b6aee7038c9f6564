"""`.ci/run` runs what the README shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_ci(folder: Path, readme: str) -> "subprocess.CompletedProcess[str]":
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    (folder / "README.md").write_text(readme)
    command = [folder / ".ci/run"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=without_apt(folder), timeout=120)


def without_apt(folder: Path) -> dict[str, str]:
    """An environment with the programs that .ci/run itself calls, in which apt-get only notes what it was asked for."""
    programs = folder / "bin"
    programs.mkdir()
    # This interpreter itself: what a version manager puts on the path is a script that needs more than this path has.
    (programs / "python3").symlink_to(sys.executable)
    for name in ("bash", "dirname", "env"):
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
