"""The commands that need neither broker nor service, what they load, and their exit codes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator
from packaging.requirements import Requirement

from tests.unit.samples import NEEDED
from worker import __version__, cli, extras
from worker.cli import main
from worker.commands.exit_codes import ExitCode
from worker.commands.options import TEXT, checked_rate
from worker.errors import FatalError, SettingsError
from worker.records.schema import record_schema
from worker.settings import load, show

SECRET = "hunter2-do-not-show"


@pytest.fixture(autouse=True)
def _without_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OSS_VECTORS_")]:
        monkeypatch.delenv(name)


def invoke(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(main, arguments, env={f"OSS_VECTORS_{n}": v for n, v in variables.items()})


def invoke_configured(*arguments: str, **variables: str) -> Result:
    return invoke(*arguments, **{name.removeprefix("OSS_VECTORS_"): v for name, v in NEEDED.items()} | variables)


def test_config_prints_the_settings_in_force_with_their_origin_and_hides_secrets() -> None:
    result = invoke_configured("config", KAFKA__SASL_PLAIN_PASSWORD=SECRET, BATCH__MAX_RECORDS="7")
    lines = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert "max_records = 7  # OSS_VECTORS_BATCH__MAX_RECORDS" in lines
    assert 'sasl_plain_password = "********"  # OSS_VECTORS_KAFKA__SASL_PLAIN_PASSWORD' in lines
    assert "max_bytes = 8388608  # default" in lines
    assert SECRET not in result.output


def test_the_example_needs_no_settings_loads_again_and_equals_the_defaults(tmp_path: Path) -> None:
    example = invoke("config", "--example")
    path = tmp_path / "example.toml"
    path.write_text(example.stdout)
    assert (example.exit_code, load.load(path, {}).settings) == (0, load.load(None, NEEDED).settings)
    assert invoke("config", "--config", str(path)).exit_code == 0


@pytest.mark.parametrize("command", ["run", "config"])
def test_wrong_settings_exit_78_with_every_mistake_its_name_value_and_what_is_allowed(command: str) -> None:
    result = invoke_configured(command, BATCH__MAX_RECORDS="501", RECORDS__FORMAT="avro", LOG__LEVL="x")
    lines = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (78, "")
    needed_to_run = 2 if command == "run" else 0  # the credentials
    assert (lines[0], len(lines)) == (f"{3 + needed_to_run} wrong settings:", 4 + needed_to_run)
    assert "OSS_VECTORS_LOG__LEVL is not a setting; did you mean OSS_VECTORS_LOG__LEVEL?" in lines[1]
    assert 'records.format = "avro" (from OSS_VECTORS_RECORDS__FORMAT): ' in lines[2]
    assert '"auto" | "json" | "msgpack"' in lines[2]
    assert 'batch.max_records = "501" (from OSS_VECTORS_BATCH__MAX_RECORDS): Expected `int` <= 500' in lines[3]


def test_one_wrong_setting_is_told_in_the_singular() -> None:
    assert invoke_configured("config", HTTP__PORT="x").stderr.startswith("1 wrong setting:\n  http.port")


def test_wrong_settings_never_show_a_secret() -> None:
    result = invoke_configured("run", KAFKA__SASL_PLAIN_PASSWORD=SECRET, KAFKA__CLIENT=f'["{SECRET}"]', HTTP__PORT="x")
    assert (result.exit_code, SECRET in result.output) == (78, False)


def test_a_settings_file_that_is_missing_exits_78(tmp_path: Path) -> None:
    result = invoke("config", "--config", str(tmp_path / "missing.toml"))
    assert (result.exit_code, "cannot be read: No such file or directory" in result.stderr) == (78, True)


def test_the_variable_names_the_settings_file(tmp_path: Path) -> None:
    path = tmp_path / "worker.toml"
    path.write_text(show.example())
    assert invoke("config", CONFIG=str(path)).exit_code == 0


def test_schema_prints_the_json_schema() -> None:
    result = invoke("schema")
    printed = json.loads(result.stdout)
    Draft202012Validator.check_schema(printed)
    assert (result.exit_code, printed) == (0, record_schema())


@pytest.mark.parametrize("arguments", [["nothing"], ["config", "--nothing"], ["local", "broker", "--port", "70000"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


def test_the_version_is_shown() -> None:
    assert __version__ in invoke("--version").stdout


@pytest.mark.parametrize(
    "command", [["run"], ["config"], ["schema"], ["demo"], ["local"], ["local", "emulator"], ["local", "broker"]]
)
def test_every_command_helps(command: list[str]) -> None:
    assert [invoke(*command, option).exit_code for option in ("-h", "--help")] == [0, 0]  # fmt: skip


CLIENTS = {
    "alibabacloud_oss_v2",
    "numpy",
    "kafka",
    "requests",
    "urllib3",
    "prometheus_client",
    "rich",
    "jgo",
    "starlette",
}
COMPLETE = {"_OSS_VECTORS_WORKER_COMPLETE": "bash_complete", "COMP_CWORD": "1"}


def run_fresh(arguments: list[str], **variables: str) -> tuple[int, str, set[str]]:
    """Run a command in a process of its own; return its exit code, what it printed, and the packages that it loaded."""
    code = f"""
import atexit, sys
def show():
    print(*{{name.partition(".")[0] for name in sys.modules}}, file=sys.stderr)
atexit.register(show)
from worker.cli import main
main({arguments!r}, prog_name="oss-vectors-worker")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | variables,
    )
    return done.returncode, done.stdout, set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["--version"], ["run", "--help"], ["demo", "--help"], ["local", "--help"], ["local", "broker", "--help"],
        ["schema"], ["config"], ["config", "--example"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_only_prints_loads_no_client(arguments: list[str]) -> None:
    code, printed, loaded = run_fresh(arguments, **NEEDED)
    assert (code, printed != "", loaded & CLIENTS) == (0, True, set())


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("oss-vectors-worker co", "config"), ("oss-vectors-worker run --con", "--config"), ("oss-vectors-worker local e", "emulator"), ("oss-vectors-worker produce --dr", "--dry-run"),
     ("oss-vectors-worker verify --rep", "--repair")],
)  # fmt: skip
def test_the_shell_completes_without_loading_a_client(typed: str, completed: str) -> None:
    place = str(typed.count(" "))
    code, printed, loaded = run_fresh([], **COMPLETE | {"COMP_WORDS": typed, "COMP_CWORD": place})
    assert (code, printed, loaded & CLIENTS) == (0, f"plain,{completed}\n", set())


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("produce", {"--config", "--topic", "--format", "--rate", "--skip-bad", "--start-line", "--tombstones", "--dry-run"}),
        ("verify", {"--config", "--topic", "--partition", "--offsets", "--since", "--until", "--json", "--keys", "--repair", "--strict"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_lists_the_options_of_a_command_without_loading_a_client(
    shell: str, command: str, options: set[str]
) -> None:
    typed = {"COMP_WORDS": f"oss-vectors-worker {command} --", "COMP_CWORD": "--" if shell == "fish" else "2"}
    code, printed, loaded = run_fresh([], **typed | {"_OSS_VECTORS_WORKER_COMPLETE": f"{shell}_complete"})
    assert (code, options - set(re.findall(r"--[a-z-]+", printed)), loaded & CLIENTS) == (0, set(), set())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_for_the_shell(shell: str) -> None:
    code, printed, _ = run_fresh([], _OSS_VECTORS_WORKER_COMPLETE=f"{shell}_source")
    assert (code, "_OSS_VECTORS_WORKER_COMPLETE" in printed) == (0, True)


def test_a_command_is_imported_when_it_is_called_and_no_other() -> None:
    code = "import sys; from worker.cli import main; main(['schema'], standalone_mode=False); print('worker.commands.config' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_every_file_of_a_command_is_in_the_table() -> None:
    folder = Path(cli.__file__).parent / "commands"
    files = {path.stem for path in folder.glob("*.py") if "\ndef command(" in path.read_text(encoding="utf-8")}
    assert files == set(cli.COMMANDS)


def leaves(command: click.Command, name: str = "") -> dict[str, click.Command]:
    """Return every command below this one, and itself, by the words that call it."""
    found = {name: command}
    if isinstance(command, click.Group):
        for word, below in command.commands.items():
            found |= leaves(below, f"{name} {word}".strip())
    return found


@pytest.mark.parametrize("name", list(leaves(main)))
def test_every_help_has_an_example_and_a_first_line_that_is_shown_whole(name: str) -> None:
    command = leaves(main)[name]
    assert f"oss-vectors-worker {name}".strip() in (command.help or "").partition("\b\n")[2]
    assert name == "" or "..." not in command.get_short_help_str()


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (FatalError("the port is\ntaken"), ExitCode.FAILED, "error: the port is taken"),
        (SettingsError(["a is wrong", "b is wrong"]), ExitCode.WRONG_SETTINGS, "  b is wrong"),
    ],
    ids=["failed", "wrong settings"],
)
def test_every_command_ends_with_the_exit_code_of_its_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: ExitCode, last: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("worker.commands.schema.record_schema", fail)
    result = invoke("schema")
    assert (result.exit_code, result.stderr.splitlines()[-1], result.stdout) == (code, last, "")


def test_a_missing_extra_is_one_line_with_the_pip_command() -> None:
    code = """
import sys
sys.modules["rich"] = sys.modules["rich.console"] = None  # an import of it fails, as where it is not installed
from worker.cli import main
main(["demo"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    wanted = 'error: rich is not installed; this command needs the extra "demo": pip install '
    assert (done.stderr.startswith(wanted), " 'starlette>=" in done.stderr) == (True, True)


@pytest.mark.parametrize("extra", ["demo", "credentials"])
def test_the_pip_command_names_the_packages_of_the_extra_and_no_others(extra: str) -> None:
    named = extras.pip_command(extra).removeprefix("pip install ").replace("'", "").split()
    every = [Requirement(line) for line in requires("oss-vectors-worker") or ()]
    wanted = [
        f"{one.name}{one.specifier}"
        for one in every
        if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})
    ]
    assert (named, len(named) > 0) == (wanted, True)


ROUTES = json.dumps(
    [
        {"topic": "keys", "index": ["d1", "d2"], "index_by": "key"},
        {"topic": "headers", "index_by": "header:tenant", "indexes": {"acme": "acmedocs"}},
        {"topic": "fields", "index_by": "field:metadata.tenant", "indexes": {"acme": "acmedocs", "default": "other"}},
        {"topic": "one", "index": "docs"},
    ]
)


@pytest.mark.parametrize(
    ("arguments", "index"),
    [
        (("doc-1", "--topic", "keys"), "d2"),
        (("user/42", "--topic", "keys"), "d1"),
        (("a", "--topic", "headers", "--header", "tenant=acme"), "acmedocs"),
        (("a", "--topic", "one"), "docs"),
    ],
)
def test_shard_prints_the_index_of_a_key(arguments: Sequence[str], index: str) -> None:
    result = invoke_configured("shard", *arguments, ROUTES=ROUTES)
    assert (result.exit_code, result.stdout) == (0, f"{index}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("a", "--topic", "headers"), ExitCode.FAILED, "and not the key alone"),
        (("a", "--topic", "fields"), ExitCode.FAILED, "and not the key alone"),
        (("a",), ExitCode.FAILED, "there are several routes"),
        (("a", "--topic", "headers", "--header", "tenant"), 2, "is not NAME=VALUE"),
    ],
)
def test_shard_says_why_it_cannot_tell(arguments: Sequence[str], code: int, told: str) -> None:
    result = invoke_configured("shard", *arguments, ROUTES=ROUTES)
    assert (result.exit_code, told in result.stderr) == (code, True)


NOT_UTF8 = b"a=\xff".decode(errors="surrogateescape")  # as Python passes on an argument that a shell made


@pytest.mark.parametrize(
    "arguments",
    [("shard", NOT_UTF8), ("shard", "a", "--header", NOT_UTF8), ("produce", os.devnull, "--header", NOT_UTF8)],
)
def test_an_argument_that_is_not_utf8_is_wrong_usage(arguments: Sequence[str]) -> None:
    result = invoke_configured(*arguments)
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert r"'a=\udcff' is not UTF-8" in result.stderr


def test_every_text_of_the_command_line_is_utf8_and_every_rate_a_rate() -> None:
    parameters = [one for command in leaves(main).values() for one in command.params]
    texts = [one for one in parameters if isinstance(one.type, click.types.StringParamType)]
    rates = [one for one in parameters if "--rate" in one.opts]
    assert ([one.name for one in texts if one.type is not TEXT], len(texts) > 20) == ([], True)
    assert ([one.name for one in rates if one.callback is not checked_rate], len(rates)) == ([], 3)


@pytest.mark.parametrize("rate", ["nan", "inf", "-1", "1e-9"])
def test_a_rate_that_limits_nothing_or_never_ends_is_wrong_usage(rate: str) -> None:
    result = invoke_configured("dlq", "replay", "--all", "--rate", rate)
    assert (result.exit_code, "is no rate" in result.stderr) == (2, True)
