"""The commands that need neither broker nor service, and their exit codes."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from tests.unit.samples import NEEDED
from worker import __version__
from worker.cli import EXIT_WRONG_SETTINGS, main
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
    return invoke(*arguments, **{name.removeprefix("OSS_VECTORS_"): v for name, v in NEEDED.items()}, **variables)


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
    assert (result.exit_code, EXIT_WRONG_SETTINGS, result.stdout) == (78, 78, "")
    needed_to_run = 2 if command == "run" else 0  # the credentials
    assert (lines[0], len(lines)) == (f"{3 + needed_to_run} wrong settings:", 4 + needed_to_run)
    assert "OSS_VECTORS_LOG__LEVL names no setting; did you mean OSS_VECTORS_LOG__LEVEL?" in lines[1]
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


def test_the_version_is_told() -> None:
    assert __version__ in invoke("--version").stdout


@pytest.mark.parametrize(
    "command", [["run"], ["config"], ["schema"], ["demo"], ["local"], ["local", "emulator"], ["local", "broker"]]
)
def test_every_command_helps(command: list[str]) -> None:
    assert [invoke(*command, option).exit_code for option in ("-h", "--help")] == [0, 0]  # fmt: skip
