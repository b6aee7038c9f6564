"""`config`: the settings in force, or a commented example."""

from pathlib import Path

import click

from worker.commands.options import config_option, load_settings
from worker.settings.show import example as example_of
from worker.settings.show import in_force


@click.command()
@config_option
@click.option("--example", is_flag=True, help="Print a commented settings file with every default instead.")
def command(config_file: Path | None, example: bool) -> None:
    """Print the settings and their origins.

    Secrets are hidden, and nothing is connected to. If settings are wrong, each mistake is listed and the exit code is 78.

    \b
    oss-vectors-worker config --example > worker.toml
    oss-vectors-worker config --config worker.toml
    """
    click.echo(example_of() if example else in_force(load_settings(config_file)))
