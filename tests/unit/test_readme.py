"""What the README and the pages around it show is what the code does."""

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path

import click
import msgspec
import pytest

from ops.requirements import BUILD, FILES
from tests.support.markdown import ROOT, broken_links, first_cells, pages, section
from worker import cli, documentation
from worker.commands.exit_codes import ExitCode
from worker.errors import Reason
from worker.ledger import Outcome
from worker.local.emulator.control import Control, Journal
from worker.local.emulator.faults import Adjustments, Faults, Limits, Rule
from worker.local.emulator.signature import AccessKeys, KeyPair
from worker.local.emulator.store import Store
from worker.settings import load, tables

FILES_OF_EXTRA = {file.extras[-1]: file.name for file in FILES if file.extras}
INSTALL_PROJECT = ".venv/bin/pip install --quiet --no-build-isolation --no-deps ."
"""With the build tools that are installed by then: pip would get the newest ones for it."""
MOST_LINES = 200
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_on_the_pages_are_there(page: Path) -> None:
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|ya?ml|md|jsonl?|toml))`", page.read_text(encoding="utf-8")))
    folders = (ROOT, page.parent, ROOT / "tests", Path(cli.__file__).parent)
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in folders)] == []


def test_the_readme_leads_to_every_page() -> None:
    reached: set[Path] = set()
    found = {ROOT / "README.md"}
    while found:
        page = found.pop()
        reached.add(page)
        targets = (target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")))
        found |= {(page.parent / target).resolve() for target in targets if target.endswith(".md")} - reached
    assert set(pages()) - reached == set()


@pytest.mark.parametrize("page", documentation.PAGES)
def test_generated_part_is_what_the_code_makes(page: str) -> None:
    shown = (ROOT / page).read_text(encoding="utf-8")
    assert shown == documentation.renewed(page, shown), f"{page} is old; renew it with: {documentation.COMMAND}"


def test_the_command_for_the_generated_parts_renews_them(tmp_path: Path) -> None:
    (tmp_path / "ops").mkdir()
    for page in documentation.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        (tmp_path / page).write_text(re.sub("begin -->\n.*?<!--", "begin -->\nold\n<!--", text, flags=re.DOTALL))
    documentation.main(tmp_path)
    assert [page for page in documentation.PAGES if (tmp_path / page).read_text() != (ROOT / page).read_text()] == []


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="found 0"):
        documentation.renewed("ops/metrics.md", "# Metrics\n")


def test_settings_shown_load_without_a_mistake(tmp_path: Path) -> None:
    block = re.search(r"```toml\n(.*?)```", (ROOT / "ops/settings.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    path = tmp_path / "worker.toml"
    path.write_text(block[1])
    assert set(tomllib.loads(block[1])) == {"routes", *tables.TABLES}
    assert load.load(path, {}).settings.topics == ("vectors",)


def test_commands_shown_are_the_commands_there_are() -> None:
    shown = {command for command in first_cells(section(README, "Run it")) if not command.isdigit()}
    there_are: set[str] = set()
    for name, command in cli.main.commands.items():
        there_are |= {f"{name} {sub}" for sub in command.commands} if isinstance(command, click.Group) else {name}
    assert shown == there_are


def test_outcomes_and_reasons_shown_are_those_of_the_code() -> None:
    outcomes = first_cells(section(README, "What becomes of a record"))
    reasons = first_cells(section((ROOT / "ops/records.md").read_text("utf-8"), "Reasons for a dead letter"))
    assert sorted(outcomes) == sorted(outcome.value for outcome in Outcome)
    assert sorted(reasons) == sorted(reason.value for reason in Reason)


def test_exit_codes_shown_are_those_of_the_code() -> None:
    shown = re.findall(r"^\| (\d+) \|", section(README, "Run it"), re.MULTILINE)
    assert shown == [str(code.value) for code in ExitCode]


def test_modules_shown_are_the_modules_there_are() -> None:
    package = Path(cli.__file__).parent
    table = (package / "README.md").read_text(encoding="utf-8").partition("| Package |")[2].partition("\n## ")[0]
    paths = (path.relative_to(package) for path in package.rglob("*.py"))
    there_are = Counter(path.stem for path in paths if path.parts[0] != "local" and not path.stem.startswith("__"))
    assert Counter(re.findall(r"(\w+)\.py", table)) == there_are


def test_a_package_that_lists_its_modules_lists_them_all() -> None:
    missing = {}
    for path in Path(cli.__file__).parent.rglob("__init__.py"):
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        modules = {each.stem for each in path.parent.glob("*.py")} - {"__init__"}
        named = {each for each in modules if re.search(rf"`{each}`|\b{each}\.py\b", told)}
        if len(named) > len(modules) / 2 and named != modules:  # a package that names a few has no list
            missing[path.parent.name] = modules - named
    assert missing == {}


def test_the_two_commands_install_what_is_pinned_and_nothing_else() -> None:
    lines = re.findall(r"^python3 -m venv \.venv .*$", README, re.MULTILINE)
    steps = [line.split(" && ") for line in lines]
    demo, test = (FILES_OF_EXTRA[extra] for extra in ("demo", "test"))
    assert [step[:1] + step[2:] for step in steps] == [
        ["python3 -m venv .venv", INSTALL_PROJECT, ".venv/bin/oss-vectors-worker demo"],
        ["python3 -m venv .venv", INSTALL_PROJECT, ".venv/bin/python -m pytest"],
    ]
    assert [step[1] for step in steps] == [
        f".venv/bin/pip install --quiet -r ops/{BUILD.name} -r ops/{name}" for name in (demo, test)
    ]


def test_the_installation_has_what_is_pinned_for_production() -> None:
    (steps,) = (block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "pip wheel" in block)
    assert f"pip install -r ops/{BUILD.name} -r ops/{FILES_OF_EXTRA['credentials']}\n" in steps


# -- the page of the local stack

LOCAL = (ROOT / "worker/local/README.md").read_text(encoding="utf-8")


def test_rules_and_limits_shown_are_those_of_the_emulator() -> None:
    shown = re.findall(r"/_emulator/(faults|limits) -d '(.*)'$", LOCAL, re.MULTILINE)
    assert len(shown) == len(re.findall(" -d ", LOCAL)) > 0
    for kind, body in shown:
        msgspec.json.decode(body, type=Rule if kind == "faults" else Limits)


def test_control_paths_shown_are_those_of_the_emulator() -> None:
    control = Control(Store(), Faults(), Adjustments(), Journal(), AccessKeys(KeyPair("test", "test")))
    there_are = {(route.path, method) for route in control.routes() for method in route.methods or ()}
    rows = re.findall(r"^\| `(/\w+)` \| ([A-Z, ]+) \|", LOCAL, re.MULTILINE)
    assert {(path, method) for path, methods in rows for method in methods.split(", ")} == there_are - {
        (path, "HEAD") for path, _ in there_are
    }
