"""`check`: try every part before production does."""

from pathlib import Path
from typing import Any

import click

from worker.commands.exit_codes import ExitCode
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
def command(config_file: Path | None, as_json: bool, count: int | None, begin: Any) -> None:
    """Try every part before production does.

    A line for each: what was tried, the result, and below it what to do where something is wrong. It tries the settings, the
    memory, the way to the brokers and to the service (DNS, TCP, TLS, proxy), the logins, the topics, the rights, the group,
    the lag, the clock, the bucket and each index. It joins no group, writes nothing, and ends within 30 seconds.

    --sample reads so many records of each topic and says how many the worker would accept, and what is wrong with the others.

    The exit code is 3 where there is a fault, 0 where there are warnings alone, 78 where the settings are wrong.

    \b
    oss-vectors-worker check --config worker.toml
    oss-vectors-worker check --sample 1000
    oss-vectors-worker check --sample 1000 --from committed   # what the worker reads next
    oss-vectors-worker check --json | jq -r '.findings[] | select(.status == "fault") | .advice'
    """
    loaded = load_settings(config_file)
    prepare_client()

    from worker.tools.check.command import run  # noqa: PLC0415 - loads the clients

    if run(loaded, as_json=as_json, count=count, begin=begin):
        raise click.exceptions.Exit(ExitCode.DIFFERENCE)
