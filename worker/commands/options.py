"""What several commands share: the option `--config`, and reading the settings."""

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from worker.errors import FatalError
from worker.settings.load import Loaded, load
from worker.settings.show import remember_secrets

_LEAST_RATE: Final = 0.001


def config_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--config`."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read the settings from this TOML file. Without it: the file that OSS_VECTORS_CONFIG names, if any. "
        "The environment (OSS_VECTORS_<TABLE>__<NAME>) overrides the file.",
    )(command)


class Text(click.types.StringParamType):
    """Text of the command line. Python passes on bytes that are no UTF-8 as halves of surrogate pairs, which no record can have."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text. Raises `BadParameter` for what is not UTF-8."""
        text: str = super().convert(value, param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{text!a} is not UTF-8", param, ctx)
        return text


TEXT: Final = Text()


def checked_rate(_ctx: click.Context, _param: click.Parameter, value: float) -> float:
    """Return a rate, so many a second, 0 for no limit. One in a thousand seconds is the least: below it time has no end."""
    if value == 0 or _LEAST_RATE <= value < math.inf:
        return value
    raise click.BadParameter(f"{value} is no rate: give a number a second from {_LEAST_RATE} on, or 0 for no limit")


def _headers_of(_ctx: click.Context, _param: click.Parameter, values: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return headers that were given as NAME=VALUE."""
    pairs = [value.partition("=") for value in values]
    if wrong := next((name for name, equals, _ in pairs if not (name and equals)), None):
        raise click.BadParameter(f"{wrong!r} is not NAME=VALUE")
    return [(name, text.encode()) for name, _, text in pairs]


def headers_option(help_text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option `--header NAME=VALUE`, which may be given several times."""
    return click.option(
        "--header", "headers", type=TEXT, multiple=True, callback=_headers_of, metavar="NAME=VALUE", help=help_text
    )


def check_client() -> None:
    """Raise `FatalError` where the installed kafka-python lacks what the worker uses.

    To be called before any import that needs the client.
    """
    from worker.consumer import client_check  # noqa: PLC0415 - for the commands that use the client alone

    if problem := client_check.problem():
        raise FatalError(problem)


def prepare_client() -> None:
    """Do what a command needs before it imports the client: check it, and leave its own words out of the output."""
    check_client()
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def load_settings(config_file: Path | None, *, to_run: bool = False) -> Loaded:
    """Return the settings, their secrets hidden in every text from now on. Raises `SettingsError` with every mistake.

    `to_run` also asks for what only a run needs: the credentials.
    """
    loaded = load(config_file, os.environ, to_run=to_run)
    remember_secrets(loaded.settings)
    return loaded
