"""protoc: whatever a schema does to it, the schema is at fault if protoc can compile another one; if not, no record is."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.registry import PROTOBUF
from worker.errors import RegistryUnavailable
from worker.registry import protoc
from worker.registry.client import SchemaText, UnusableForNow, UnusableSchema
from worker.registry.known_protos import KNOWN
from worker.registry.protoc import MOST_DEPTH, compiled

SECONDS: Final = 10.0  # of CPU; the promise is one, and this machine may be slow and busy
OPTION: Final = (
    'syntax = "proto2"; import "google/protobuf/descriptor.proto"; message O { optional O a = 1; optional int32 i = 2; } '
    "extend google.protobuf.FileOptions { optional O o = 5000; } message R {} "
)


def of(text: str, *references: tuple[str, str]) -> SchemaText:
    return SchemaText("PROTOBUF", text, references)


def refused(text: str, *references: tuple[str, str]) -> str:
    with pytest.raises(UnusableSchema) as raised:
        compiled(of(text, *references))
    assert not isinstance(raised.value, UnusableForNow)
    return str(raised.value)


def test_a_schema_that_crashes_protoc_is_at_fault() -> None:
    assert "cannot compile it: it ended with signal" in refused(f"{OPTION} option (o){'.a' * 10_000}.i = 1;")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"{OPTION} option (o) = {'{a:' * 20_000}{{}}{'}' * 20_000};", id="braces"),
        pytest.param(f"{OPTION} option (o) = {{{'a<' * 20_000}{'>' * 20_000}}};", id="angle brackets"),
        pytest.param("message R { " * 5_000 + "}" * 5_000, id="messages"),
        pytest.param('message R { option (o) = "' + "'\\\"'" + '"; ' + "[" * 200, id="behind a text with quotes"),
    ],
)
def test_nesting_is_bounded_before_protoc_reads_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    assert f"more than {MOST_DEPTH} levels" in refused(text)
    assert f"more than {MOST_DEPTH} levels" in refused(PROTOBUF, ("other.proto", text))


@pytest.mark.parametrize(
    "around", ["// %s\n", "/* %s */", 'option java_package = "%s";', "option java_package = '%s';"]
)
def test_brackets_in_comments_and_texts_are_not_nested(around: str) -> None:
    assert compiled(of(PROTOBUF + around % ("[" * 200))).file


@pytest.mark.parametrize("part", ["/*", "//", '"', "'", '"\\', "{}", "/"])
def test_the_depth_of_a_megabyte_is_found_in_its_time(part: str) -> None:
    begun = time.process_time()
    protoc._depth(part * (1_000_000 // len(part)))
    assert time.process_time() - begun < SECONDS


def test_a_schema_may_import_every_file_that_the_clients_of_the_registry_bring() -> None:
    imports = "".join(f'import "{name}"; ' for name in KNOWN)
    found = compiled(of(f'syntax = "proto3"; {imports} message R {{ google.type.Date day = 1; }}'))
    assert {file.name for file in found.file} >= set(KNOWN)


def test_a_file_that_a_schema_refers_to_comes_before_the_one_of_that_name() -> None:
    own = 'syntax = "proto3"; package own; message Day { int32 number = 1; }'
    found = compiled(
        of(
            'syntax = "proto3"; import "google/type/date.proto"; message R { own.Day day = 1; }',
            ("google/type/date.proto", own),
        )
    )
    assert [file.package for file in found.file] == ["own", ""]


def hungry(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the process of protoc run this where the schema says that it is hungry."""
    monkeypatch.setattr(
        protoc, "_CHILD", protoc._CHILD.replace("runpy.run", f"""
if "hungry" in open("texts/{protoc.MAIN}").read():
    {code}
runpy.run""")
    )  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("bytearray(1 << 30)", id="memory"),
        pytest.param("open('texts/large', 'wb').write(bytearray(20 << 20))", id="a large file"),
        pytest.param("resource.setrlimit(resource.RLIMIT_CPU, (0, resource.getrlimit(resource.RLIMIT_CPU)[1]))\n    while True: pass", id="time"),
    ],
)  # fmt: skip
def test_a_schema_that_takes_too_much_is_at_fault(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hungry(monkeypatch, code)
    assert "protoc cannot compile it: it ended with" in refused(f"{PROTOBUF}// hungry")
    assert compiled(of(PROTOBUF)).file


@pytest.mark.parametrize("number", [9, 15])
def test_a_schema_whose_protoc_was_killed_may_be_good(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hungry(monkeypatch, f"import os; os.kill(os.getpid(), {number})")
    with pytest.raises(UnusableForNow, match=f"it ended with signal {number}"):
        compiled(of(f"{PROTOBUF}// hungry"))


def test_beyond_its_time_on_the_processor_protoc_ends_by_a_signal_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    hungry(monkeypatch, "soft, hard = resource.getrlimit(resource.RLIMIT_CPU); raise SystemExit(hard - soft)")
    assert "it ended with 1" in refused(f"{PROTOBUF}// hungry")


def test_the_limit_of_the_time_on_the_processor_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    hungry(monkeypatch, "raise SystemExit(resource.getrlimit(resource.RLIMIT_CPU)[0])")
    assert f"it ended with {protoc._CPU_SECONDS}" in refused(f"{PROTOBUF}// hungry")


def test_a_schema_that_takes_too_long_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Callable[..., Any] = subprocess.run
    timeouts = []

    def first_too_slow(command: list[str], *, timeout: float, **chosen: Any) -> Any:
        timeouts.append(timeout)
        if len(timeouts) == 1:
            raise subprocess.TimeoutExpired(command, timeout)
        return run(command, timeout=timeout, **chosen)

    monkeypatch.setattr(subprocess, "run", first_too_slow)
    with pytest.raises(UnusableForNow, match="it takes longer than 60 s"):
        compiled(of(PROTOBUF))
    assert timeouts == [protoc.LIMIT_SECONDS] * 2


@pytest.mark.parametrize("executable", ["/nowhere/python", "/bin/false"])
def test_protoc_that_cannot_be_run_is_no_fault_of_the_schema(monkeypatch: pytest.MonkeyPatch, executable: str) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(RegistryUnavailable, match="protoc cannot be run"):
        compiled(of(PROTOBUF))


def test_no_python_runs_that_came_from_the_registry(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'run')!r}, 'w')"
    others = [(name, code) for name in ("grpc_tools/__init__.py", "resource.py", "runpy.py", "sitecustomize.py")]
    assert compiled(of(PROTOBUF, *others)).file
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_where_protoc_has_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    compiled(of(PROTOBUF))
    refused("nonsense")
    assert list(tmp_path.iterdir()) == []
