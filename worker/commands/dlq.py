"""`dlq`: look after the dead-letter topic."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from worker.commands.options import config_option, load_settings, prepare_client

_TIME = "2026-01-31T12:00:00Z, or 30m, 2h, 7d ago"


@click.group()
def command() -> None:
    """Look after dead letters: count, show, replay.

    \b
    oss-vectors-worker dlq list
    oss-vectors-worker dlq show 0:17
    oss-vectors-worker dlq replay --reason dimension --dry-run
    """


def _selection(to: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select dead letters."""
    for option in (
        click.option("--until", metavar="TIME", help=f"Before this time of oss-vectors.failed-at: {_TIME}."),
        click.option("--since", metavar="TIME", help=f"At or after this time of oss-vectors.failed-at: {_TIME}."),
        click.option("--topic", "topics", multiple=True, help="Of this source topic. May be given several times."),
        click.option("--key", "keys", multiple=True, help="With this Kafka key. May be given several times."),
        click.option("--reason", "reasons", multiple=True, help="With this reason. May be given several times."),
    ):
        to = option(to)
    return to


def _selected(places: Sequence[str], since: str | None, until: str | None, **given: Any) -> Any:
    from worker.tools.dlq.letters import Selection, place_of  # noqa: PLC0415 - loads the clients
    from worker.tools.times import parsed  # noqa: PLC0415 - with them

    return Selection(
        places=frozenset(place_of(one, "--at") for one in places),
        since=parsed("--since", since),
        until=parsed("--until", until),
        **given,
    )


@command.command("list")
@config_option
@_selection
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def list_command(config_file: Path | None, as_json: bool, **given: Any) -> None:
    """Count dead letters.

    By reason, topic, error code, index and hour.

    \b
    oss-vectors-worker dlq list
    oss-vectors-worker dlq list --since 2h --json
    """
    loaded = load_settings(config_file)
    prepare_client()

    from worker.tools.dlq.command import list_letters  # noqa: PLC0415 - loads the clients

    list_letters(loaded, _selected((), **given), as_json=as_json)


@command.command("show")
@click.argument("place", metavar="PARTITION:OFFSET")
@config_option
@click.option(
    "--value", "value_file", type=click.Path(dir_okay=False), help="Write the bytes of the value to this file."
)
def show_command(place: str, config_file: Path | None, value_file: str | None) -> None:
    """Show one dead letter whole.

    What was wrong, where it came from, its headers, its value with the vector shortened, and whether its key has had a newer
    version since.

    \b
    oss-vectors-worker dlq show 0:17
    oss-vectors-worker dlq show 0:17 --value record.json
    """
    loaded = load_settings(config_file)
    prepare_client()

    from worker.tools.dlq.command import show  # noqa: PLC0415 - loads the clients
    from worker.tools.dlq.letters import place_of  # noqa: PLC0415 - with them

    show(loaded, place_of(place), value_file)


@command.command("replay")
@config_option
@_selection
@click.option(
    "--at", "places", multiple=True, metavar="PARTITION:OFFSET", help="At this place. May be given several times."
)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--dry-run", is_flag=True, help="Say what would be replayed and refused, and replay nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--rate", type=click.FloatRange(min=0), default=0.0, help="Records a second. Without it: no limit.")
@click.option(
    "--max-replays", type=click.IntRange(min=1), default=3, show_default=True, help="Refuse what was replayed so often."
)
@click.option("--even-if-stale", is_flag=True, help="Also replay what may be older than what its key has now.")
@click.option("--edit", metavar="COMMAND", help="Pipe each value through this command, and replay what it prints.")
def replay_command(config_file: Path | None, everything: bool, places: Sequence[str], **given: Any) -> None:
    """Publish dead letters to their topic again.

    Each goes to the partition that the default partitioner gives its key, with its own key, value and headers. A dead letter
    is refused, and counted by cause, where it was replayed before, was replayed too often, or where its key has had a newer
    version since. So the command can be repeated: nothing is replayed twice, also after it was broken off.

    \b
    oss-vectors-worker dlq replay --reason dimension --dry-run
    oss-vectors-worker dlq replay --at 0:17 --at 0:18 --yes
    oss-vectors-worker dlq replay --reason metadata --edit "jq -c '.metadata.year |= tostring'"
    """
    selecting = ("reasons", "keys", "topics", "since", "until")
    if not everything and not places and not any(given[name] for name in selecting):
        raise click.UsageError("say which: --reason, --key, --topic, --since, --until, --at, or --all")
    if everything and (places or any(given[name] for name in selecting)):
        raise click.UsageError("--all selects everything: leave the other options that select out")
    loaded = load_settings(config_file)
    prepare_client()

    from worker.tools.dlq.command import ReplayOptions, replay  # noqa: PLC0415 - loads the clients
    from worker.tools.signals import stop_on_signals  # noqa: PLC0415 - with them

    selection = _selected(places, **{name: given.pop(name) for name in selecting})
    replay(loaded, ReplayOptions(selection, **given), stop_on_signals())
