"""What several commands share: the option `--config`, and reading the settings."""

import os
from collections.abc import Callable
from pathlib import Path

import click

from worker.settings.load import Loaded, load
from worker.settings.show import remember_secrets


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


def load_settings(config_file: Path | None, *, to_run: bool = False) -> Loaded:
    """Return the settings, their secrets hidden in every text from now on. Raises `SettingsError` with every mistake.

    `to_run` also asks for what only a run needs: the credentials.
    """
    loaded = load(config_file, os.environ, to_run=to_run)
    remember_secrets(loaded.settings)
    return loaded
