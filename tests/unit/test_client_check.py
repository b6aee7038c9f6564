"""The check of the client before the start: each part is taken away, and the check names it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import pytest

from worker.commands.exit_codes import ExitCode
from worker.commands.options import check_client
from worker.consumer import client_check, receive
from worker.consumer.client_check import PARTS, Part
from worker.errors import FatalError

ROOT = Path(__file__).parents[2]
EACH = [(part, name, path) for part in PARTS for name, path in part.paths()]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Look again in each test; the answer is kept for the process."""
    client_check.has_receive_path.cache_clear()
    yield
    client_check.has_receive_path.cache_clear()


def without(code: CodeType, name: str) -> CodeType:
    """The code of a function, and of those within it, that says another name instead."""
    return code.replace(
        co_names=tuple("renamed" if each == name else each for each in code.co_names),
        co_consts=tuple(without(each, name) if isinstance(each, CodeType) else each for each in code.co_consts),
    )


def functions(owner: Any) -> Iterator[Any]:
    for base in owner.__mro__:
        yield from (each for each in vars(base).values() if hasattr(each, "__code__"))


def take_away(patch: pytest.MonkeyPatch, part: Part, name: str) -> None:
    """Rename a part, as a release might."""
    owner = client_check._find(part.owner)
    bare = name.partition("(")[0]
    if part.kind == "uses":
        function = getattr(owner, "__func__", owner)
        patch.setattr(function, "__code__", without(function.__code__, name))
    elif part.kind == "settings":
        patch.delitem(owner.DEFAULT_CONFIG, name)
    elif part.kind == "fields":
        patch.delitem(owner.fields, name)
    elif part.kind == "names":
        patch.delattr(owner, name)
    elif bare == "__init__":
        patch.setattr(owner, bare, lambda: None)
    else:
        for base in owner.__mro__:
            if bare in vars(base):
                patch.delattr(base, bare)
        for function in functions(owner):
            if bare in function.__code__.co_names:
                patch.setattr(function, "__code__", without(function.__code__, bare))


def test_the_installed_client_has_every_part() -> None:
    assert (client_check.problem(), client_check.missing_of_receive_path()) == ("", [])


@pytest.mark.parametrize(
    ("part", "name", "path"),
    [pytest.param(*each, id=f"{each[0].kind}-{each[2]}") for each in EACH if not each[0].is_receive_path],
)
def test_a_part_that_is_gone_ends_the_process_with_one_line(
    part: Part, name: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        take_away(patch, part, name)
        with pytest.raises(FatalError) as ended:
            check_client()
    (line,) = str(ended.value).splitlines()
    assert f"kafka-python {client_check.version()}" in line
    named = line.partition("of its inside: ")[2].partition(";")[0].split(", ")
    assert path in named
    assert "install a version that it was tested with (kafka-python" in line


@pytest.mark.parametrize(
    ("part", "name", "path"),
    [pytest.param(*each, id=f"{each[0].kind}-{each[2]}") for each in EACH if each[0].is_receive_path],
)
def test_without_a_part_of_the_receive_path_the_own_one_of_the_client_is_used(
    part: Part, name: str, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = SimpleNamespace(_fetcher=SimpleNamespace())
    with monkeypatch.context() as patch:
        take_away(patch, part, name)
        receive.read_without_copies(consumer)
    assert not hasattr(consumer._fetcher, "PartitionRecords")
    (told,) = caplog.records
    assert "its own receive path is used" in told.message
    assert path in told.missing  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("part", "name"),
    [
        pytest.param(part, name, id=path)
        for part, name, path in EACH
        if part.kind == "methods" and ("." in name or " " in name)
    ],
)
def test_a_method_that_takes_no_arguments_any_more_is_missing(
    part: Part, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, bare = client_check._find(part.owner), name.partition("(")[0]
    with monkeypatch.context() as patch:
        patch.setattr(owner, bare, lambda: None)
        found = client_check.problem(), client_check.missing_of_receive_path()
    assert bare in str(found)


# -- the whole command, with a client whose source says another name

HOOK = """
import importlib.machinery, json, os, re
old, new = (name.encode() for name in json.loads(os.environ["RENAMED"]))
real = importlib.machinery.SourceFileLoader.get_code
def get_code(self, name):
    if name.partition(".")[0] != "kafka":
        return real(self, name)
    path = self.get_filename(name)
    return self.source_to_code(re.sub(rb"\\b" + old + rb"\\b", new, self.get_data(path)), path)
importlib.machinery.SourceFileLoader.get_code = get_code
"""


def run_with_renamed(tmp_path: Path, old: str, new: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a client in whose source one name is another one everywhere, so that the client itself works."""
    (tmp_path / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "RENAMED": json.dumps([old, new])}
    return subprocess.run(
        [sys.executable, *command], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("_conns", "_connections"),
        ("_next_in_line_exception_metadata", "_next_in_line_error"),
        ("KafkaConnectionManager", "ConnectionManager"),
    ],
)
def test_the_command_ends_with_one_line_before_anything_else(tmp_path: Path, old: str, new: str) -> None:
    done = run_with_renamed(tmp_path, old, new, "-m", "worker", "run")
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: kafka-python ")
    assert old in line


def test_the_command_continues_with_a_client_of_which_nothing_that_is_used_was_renamed(tmp_path: Path) -> None:
    done = run_with_renamed(tmp_path, "ExceptionMetadata", "ExceptionMetadata", "-m", "worker", "run")
    assert done.returncode == ExitCode.WRONG_SETTINGS, done.stderr  # there are none


def test_everything_can_be_imported_without_the_parts_of_the_receive_path(tmp_path: Path) -> None:
    code = (
        "import worker.app.wiring; from types import SimpleNamespace as N; from worker.consumer import client_check, receive;"
        "receive.read_without_copies(N(_fetcher=N())); print([client_check.problem(), client_check.has_receive_path()])"
    )
    done = run_with_renamed(tmp_path, "PartitionRecords", "PartitionFetch", "-c", code)
    assert (done.returncode, done.stdout) == (0, "['', False]\n"), done.stderr
