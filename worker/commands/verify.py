"""`verify`: compare an index with its topic."""

from pathlib import Path
from typing import Any

import click

from worker.commands.exit_codes import ExitCode
from worker.commands.options import TEXT, checked_rate, config_option, load_settings, prepare_client
from worker.commands.signals import stop_on_signals


def _offsets(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Return FIRST-LAST as the first offset and the one behind the last."""
    if value is None:
        return None
    first, dash, last = value.partition("-")
    if not (dash and first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise click.BadParameter(f"{value!r} is not FIRST-LAST, two offsets such as 0-999")
    return int(first), int(last) + 1


@click.command()
@config_option
@click.option("--topic", type=TEXT, help="Verify this topic. Needed where there are several routes.")
@click.option("--partition", type=click.IntRange(min=0), help="Verify this partition alone.")
@click.option(
    "--offsets",
    type=TEXT,
    callback=_offsets,
    metavar="FIRST-LAST",
    help="Verify the keys of these offsets; needs --partition.",
)
@click.option("--since", type=TEXT, metavar="TIME", help="Verify the keys of records of this time or later.")
@click.option("--until", type=TEXT, metavar="TIME", help="Verify the keys of records before this time.")
@click.option(
    "--rate",
    type=float,
    callback=checked_rate,
    default=1000.0,
    show_default=True,
    help="Ask the index for so many keys a second, which leaves the service to others. 0: no limit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option(
    "--keys",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write each difference to this file, as a JSON line.",
)
@click.option(
    "--repair", is_flag=True, help="Publish the newest version of each difference to the topic again; asks first."
)
@click.option(
    "--strict",
    is_flag=True,
    help="Fail with 1 if there is no difference in what was compared, and some keys were not compared.",
)
@click.option("--yes", is_flag=True, help="Do not ask before a repair.")
def command(config_file: Path | None, since: str | None, until: str | None, **given: Any) -> None:
    """Compare an index with its topic.

    Reads the topic, from what retention still has up to what the group has committed, and asks the index for every key. First
    it waits some seconds for the commits of what the topic has now.
    Reports keys that are missing, stale, different (as float32, bit for bit, or in their metadata), or not deleted. The exit
    code is 3 where there is a difference. Records that have a dead letter count as refused: the version before them must be
    in the index. What the service shows late, and what was published meanwhile, is no difference: the worker may run.

    Not compared are keys with records in several partitions, what retention has removed, and what the group has not committed.
    Warnings say so, and --strict makes that exit code 1: only then is 0 a proof that the index is complete.

    --since, --until and --offsets choose keys by their records; a key is compared with its newest version all the same.
    --repair publishes the newest version of each difference again, and never one that a newer record has replaced.

    It needs about 300 bytes of memory for each key. TIME is 2026-01-31T12:00:00Z, or 30m, 2h, 7d ago.

    \b
    oss-vectors-worker verify
    oss-vectors-worker verify --since 2h --keys differences.jsonl
    oss-vectors-worker verify --partition 3 --offsets 1000-1999
    oss-vectors-worker verify --topic vectors --json --rate 0
    oss-vectors-worker verify --repair
    """
    if given["offsets"] is not None and given["partition"] is None:
        raise click.UsageError("--offsets needs --partition: offsets count in one partition")
    loaded = load_settings(config_file, to_run=True)
    prepare_client()

    from worker.tools.times import parsed  # noqa: PLC0415 - with the next one
    from worker.tools.verify.command import Options, run  # noqa: PLC0415 - loads the clients

    options = Options(since=parsed("--since", since), until=parsed("--until", until), **given)
    if run(loaded, options, stop_on_signals()):
        raise click.exceptions.Exit(ExitCode.DIFFERENCE)
