"""`check`: try every part before production does."""

from pathlib import Path

import click

from worker.commands.options import config_option, load_settings, prepare_client


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option(
    "--sample", "count", type=click.IntRange(min=1, max=1_000_000), help="Also judge this many records of each topic."
)
@click.option(
    "--from",
    "begin",
    type=click.Choice(["earliest", "latest", "committed"]),
    default="latest",
    show_default=True,
    help="Where the sample begins.",
)
def command(config_file: Path | None, as_json: bool, count: int | None, begin: str) -> None:
    """Try every part before production does.

    Tries the settings, the brokers, the topics and the rights on them, the group, the credentials, the clock, each index,
    and the memory: a line for each, with what to do where something is wrong. It changes nothing, and ends within 30 seconds.
    The exit code is 3 where there is a fault, 0 where there are warnings alone.

    \b
    oss-vectors-worker check
    oss-vectors-worker check --sample 1000
    oss-vectors-worker check --json | jq '.findings[] | select(.status == "fault")'
    """
    loaded = load_settings(config_file)
    prepare_client()

    from worker.commands.exit_codes import ExitCode  # noqa: PLC0415
    from worker.tools.check.command import run  # noqa: PLC0415 - loads the clients

    if run(loaded, as_json=as_json, count=count, begin=begin):
        raise click.exceptions.Exit(ExitCode.DIFFERENCE)
