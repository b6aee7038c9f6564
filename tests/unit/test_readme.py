"""What the README shows is what the code does."""

import re
import tomllib
from collections import Counter
from pathlib import Path

import click
import pytest

from ops.requirements import BUILD, FILES
from worker import cli, documentation
from worker.commands.exit_codes import ExitCode
from worker.errors import Reason
from worker.ledger import Outcome
from worker.settings import load, tables

FILES_OF_EXTRA = {file.extras[-1]: file.name for file in FILES if file.extras}
INSTALL_PROJECT = ".venv/bin/pip install --quiet --no-build-isolation --no-deps ."
"""With the build tools that are installed by then: pip would get the newest ones for it."""
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def _section(heading: str) -> str:
    return re.split(r"^#+ ", README.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def _first_cells(text: str) -> list[str]:
    """The code-marked names in the first column of the tables in `text`."""
    return [
        name for cell in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", cell)
    ]


@pytest.mark.parametrize("name", ["settings", "metrics"])
def test_generated_part_is_what_the_code_makes(name: str) -> None:
    shown = re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == documentation.PARTS[name]()


def test_settings_shown_load_without_a_mistake(tmp_path: Path) -> None:
    block = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert block is not None
    path = tmp_path / "worker.toml"
    path.write_text(block[1])
    assert set(tomllib.loads(block[1])) == {"routes", *tables.TABLES}
    assert load.load(path, {}).settings.topics == ("vectors",)


def test_commands_shown_are_the_commands_there_are() -> None:
    shown = {command for command in _first_cells(_section("Run it")) if not command.isdigit()}
    there_are: set[str] = set()
    for name, command in cli.main.commands.items():
        there_are |= {f"{name} {sub}" for sub in command.commands} if isinstance(command, click.Group) else {name}
    assert shown == there_are


def test_outcomes_and_reasons_shown_are_those_of_the_code() -> None:
    shown = set(_first_cells(_section("What becomes of a record")))
    assert shown == {*(outcome.value for outcome in Outcome), *(reason.value for reason in Reason)}


def test_exit_codes_shown_are_those_of_the_code() -> None:
    shown = re.findall(r"^\| (\d+) \|", _section("Run it"), re.MULTILINE)
    assert shown == [str(code.value) for code in ExitCode if code is not ExitCode.DIFFERENCE]  # no command ends so yet


def test_modules_shown_are_the_modules_there_are() -> None:
    package = Path(cli.__file__).parent
    table = (package / "README.md").read_text(encoding="utf-8").partition("| Package |")[2].partition("\n## ")[0]
    paths = (path.relative_to(package) for path in package.rglob("*.py"))
    there_are = Counter(path.stem for path in paths if path.parts[0] != "local" and not path.stem.startswith("__"))
    assert Counter(re.findall(r"(\w+)\.py", table)) == there_are


def test_the_two_commands_install_what_is_pinned_and_nothing_else() -> None:
    lines = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    steps = [line.split(" && ") for line in lines]
    demo, test = (FILES_OF_EXTRA[extra] for extra in ("demo", "test"))
    assert [step[:1] + step[2:] for step in steps] == [
        ["python3 -m venv .venv", INSTALL_PROJECT, ".venv/bin/oss-vectors-worker demo"],
        ["python3 -m venv .venv", INSTALL_PROJECT, ".venv/bin/python -m pytest"],
    ]
    assert [step[1] for step in steps] == [
        f".venv/bin/pip install --quiet -r ops/{BUILD.name} -r ops/{name}" for name in (demo, test)
    ]
