"""The commands."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import click

from worker.app import runtime
from worker.app.stop import Stop
from worker.errors import FatalError, SettingsError
from worker.settings.load import Loaded, load
from worker.settings.show import example as example_of
from worker.settings.show import in_force, remember_secrets
from worker.words import clean

EXIT_FAILED: Final = 1  # the reason is the last line
EXIT_WRONG_SETTINGS: Final = 78  # EX_CONFIG of sysexits.h
_REASON_CHARACTERS: Final = 2000
_SIGNAL_EXIT: Final = 128  # and the signal's number, as a shell says it


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="oss-vectors-worker")
def main() -> None:
    """Write vector records from Kafka topics to indexes of an Alibaba Cloud OSS vector bucket."""


def config_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--config`."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The settings, TOML. Default: the file that OSS_VECTORS_CONFIG names, or the environment alone.",
    )(command)


@main.command()
@config_option
def run(config_file: Path | None) -> None:
    """Run the worker until SIGTERM or SIGINT."""
    stop = Stop()
    _stop_on_signals(stop)
    with runtime.prepared():
        _check_client()
        from worker.app import wiring  # noqa: PLC0415 - the other commands start without the clients
        from worker.telemetry import log  # noqa: PLC0415 - the other commands start without the clients

        loaded = _load(config_file, to_run=True)
    log.configure(loaded.settings.log)
    try:
        wiring.run(loaded, stop, os.environ)
    except SettingsError as error:
        _refuse(error)
    except FatalError as error:
        _fail(str(error))


@main.command()
@config_option
@click.option("--example", is_flag=True, help="Print a commented file with every setting at its default instead.")
def config(config_file: Path | None, example: bool) -> None:
    """Print the settings in force with their origin, secrets hidden."""
    click.echo(example_of() if example else in_force(_load(config_file)))


@main.command()
def schema() -> None:
    """Print the JSON Schema of a record's value."""
    from worker.records.schema import record_schema  # noqa: PLC0415 - the other commands do without the record's modules

    click.echo(json.dumps(record_schema(), indent=2))


@main.command()
@click.option("--keep", is_flag=True, help="Leave everything running and print the addresses, until Ctrl-C.")
def demo(keep: bool) -> None:
    """Kafka, the OSS emulator, a producer and the worker on this machine: real embeddings in, neighbours out."""
    _local("demo").run(keep=keep)


@main.group()
def local() -> None:
    """The stack on this machine: Apache Kafka and the OSS vector service's emulator."""


def _stack_options(port: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def add(command: Callable[..., None]) -> Callable[..., None]:
        path = click.Path(file_okay=False, path_type=Path)
        command = click.option("--data", type=path, metavar="DIR", help="Keep the data in DIR.")(command)
        number = click.IntRange(0, 65535)
        return click.option("--port", type=number, default=port, show_default=True, help="0 takes a free one.")(command)

    return add


@local.command("emulator")
@_stack_options(9000)
def local_emulator(port: int, data: Path | None) -> None:
    """Run the OSS vector service's emulator on 127.0.0.1 until SIGTERM or SIGINT."""
    _local("emulator").run(port=port, data=data)


@local.command("broker")
@_stack_options(9092)
def local_broker(port: int, data: Path | None) -> None:
    """Run Apache Kafka on 127.0.0.1 until SIGTERM or SIGINT."""
    _local("broker").run(port=port, data=data)


def _local(name: str) -> Any:
    """Import a module of the local stack; it needs packages that a production installation does without."""
    import importlib  # noqa: PLC0415 - for this alone

    try:
        return importlib.import_module(f"worker.local.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "worker":
            raise
        _fail(f"{error.name} is not installed; the local stack needs: pip install 'oss-vectors-worker[demo]'")


def _check_client() -> None:
    """End the process where the installed kafka-python lacks what the worker uses; before any import that needs it."""
    from worker.consumer import client_check  # noqa: PLC0415 - for the commands that use the client alone

    if problem := client_check.problem():
        _fail(problem)


def _load(config_file: Path | None, *, to_run: bool = False) -> Loaded:
    try:
        loaded = load(config_file, os.environ, to_run=to_run)
    except SettingsError as error:
        _refuse(error)
    remember_secrets(loaded.settings)
    return loaded


def _stop_on_signals(stop: Stop) -> None:
    """The first signal sets `stop`; a second one ends the process at once, and what was not committed comes again."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(_SIGNAL_EXIT + number)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def _refuse(error: SettingsError) -> NoReturn:
    click.echo(f"{len(error.mistakes)} wrong setting{'s' if len(error.mistakes) > 1 else ''}:", err=True)
    for mistake in error.mistakes:
        click.echo(f"  {mistake}", err=True)
    sys.exit(EXIT_WRONG_SETTINGS)


def _fail(reason: str) -> NoReturn:
    logging.shutdown()
    click.echo(f"error: {clean(reason, _REASON_CHARACTERS)}", err=True)
    sys.exit(EXIT_FAILED)
