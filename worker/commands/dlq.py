"""`dlq`: look after the dead-letter topic."""

import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from worker.commands.options import TEXT, checked_rate, config_option, load_settings, prepare_client
from worker.commands.signals import stop_on_signals
from worker.errors import Reason

_TIME: Final = "2026-01-31T12:00:00Z, or 30m, 2h, 7d ago"
_MAX_REPLAYS: Final = 3


@click.group()
def command() -> None:
    """Look after dead letters: count, show, replay.

    A dead letter is a record that could not be written to the index. It is kept in the dead-letter topic with the reason.

    \b
    oss-vectors-worker dlq list                                  how many, and why
    oss-vectors-worker dlq show 0:17                             what is wrong with one of them
    oss-vectors-worker dlq replay --reason dimension --dry-run   what would be replayed
    oss-vectors-worker dlq replay --reason dimension             back to the source topic
    """


def _selection(to: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select dead letters."""
    reasons = click.Choice([reason.value for reason in Reason])
    for option in (
        click.option("--until", type=TEXT, metavar="TIME", help="That failed before this time."),
        click.option("--since", type=TEXT, metavar="TIME", help=f"That failed at this time or later: {_TIME}."),
        click.option("--topic", "topics", type=TEXT, metavar="TOPIC", multiple=True, help="Of this source topic."),
        click.option(
            "--key", "keys", type=TEXT, metavar="KEY", multiple=True, help="With this key: the vector's, or Kafka's."
        ),
        click.option("--reason", "reasons", metavar="REASON", type=reasons, multiple=True, help="With this reason."),
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

    By reason, topic, error code, index and hour, with the place of an example, to be shown with `dlq show`. An option that
    selects may be given several times, --since and --until once; several different ones must all be met.

    \b
    oss-vectors-worker dlq list
    oss-vectors-worker dlq list --reason dimension --since 2h
    oss-vectors-worker dlq list --json
    """
    loaded = load_settings(config_file)
    prepare_client()

    from worker.tools.dlq.command import list_letters  # noqa: PLC0415 - loads the clients

    list_letters(loaded, _selected((), **given), as_json=as_json)


@command.command("show")
@click.argument("place", type=TEXT, metavar="PARTITION:OFFSET")
@config_option
@click.option(
    "--value", "value_file", type=click.Path(dir_okay=False), help="Also write the bytes of the value to this file."
)
def show_command(place: str, config_file: Path | None, value_file: str | None) -> None:
    """Show one dead letter whole.

    What was wrong, where it came from, its headers, its value with the vector shortened, whether its key has had a newer
    version since, and whether it may be replayed. PARTITION:OFFSET is its place in the dead-letter topic; `dlq list` has one
    for each reason.

    \b
    oss-vectors-worker dlq show 0:17
    oss-vectors-worker dlq show 0:17 --value record.json
    """
    loaded = load_settings(config_file)
    prepare_client()

    from worker.tools.dlq.command import show  # noqa: PLC0415 - loads the clients
    from worker.tools.dlq.letters import place_of  # noqa: PLC0415 - with them

    show(loaded, place_of(place), value_file, _MAX_REPLAYS)


@command.command("replay")
@config_option
@_selection
@click.option(
    "--at",
    "places",
    type=TEXT,
    multiple=True,
    metavar="PARTITION:OFFSET",
    help="At this place in the dead-letter topic.",
)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--dry-run", is_flag=True, help="Say what would be replayed and what refused, and send nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--rate", type=float, callback=checked_rate, default=0.0, help="Records a second. Without it: no limit.")
@click.option(
    "--max-replays",
    type=click.IntRange(min=1),
    default=_MAX_REPLAYS,
    show_default=True,
    help="Refuse what was replayed so often.",
)
@click.option("--even-if-stale", is_flag=True, help="Also replay what is, or may be, older than what its key has now.")
@click.option(
    "--edit", type=TEXT, metavar="COMMAND", help="Pipe each value through this command, and send what it prints."
)
def replay_command(config_file: Path | None, everything: bool, places: Sequence[str], **given: Any) -> None:
    """Send dead letters back to their topic.

    First correct what was wrong: the settings, the index, or the record itself with --edit. Each record goes to the partition
    that Kafka's default partitioner gives its key, with its own key, value and headers.

    Refused, and counted by cause, is what was replayed before, what was replayed too often, and what has had a newer version
    of its key since. So the command can be repeated, also after it was broken off: nothing is replayed twice.

    An option that selects may be given several times, --since and --until once; several different ones must all be met.
    --edit runs the command without a shell, once for each value: no pipes. Try it with --dry-run first, which shows what it
    makes of the first value. Tombstones are not edited.

    \b
    oss-vectors-worker dlq replay --reason dimension --dry-run
    oss-vectors-worker dlq replay --at 0:17 --at 0:18 --yes
    oss-vectors-worker dlq replay --reason metadata --edit "jq -c '.metadata.year |= tostring'" --dry-run
    """
    selecting = ("reasons", "keys", "topics", "since", "until")
    if not everything and not places and not any(given[name] for name in selecting):
        raise click.UsageError("say which: --reason, --key, --topic, --since, --until, --at, or --all")
    if everything and (places or any(given[name] for name in selecting)):
        raise click.UsageError("--all selects everything: leave the other options that select out")
    _check_edit(given["edit"])
    loaded = load_settings(config_file)
    prepare_client()

    from worker.tools.dlq.replay import Options, replay  # noqa: PLC0415 - loads the clients

    selection = _selected(places, **{name: given.pop(name) for name in selecting})
    replay(loaded, Options(selection, **given), stop_on_signals)


def _check_edit(edit: str | None) -> None:
    """Raise click's `BadParameter` where the command of `--edit` cannot be run at all."""
    if edit is None:
        return
    try:
        words = shlex.split(edit)
    except ValueError as error:
        raise click.BadParameter(f"{error}", param_hint="--edit") from error
    if not words or shutil.which(words[0]) is None:
        raise click.BadParameter(f"there is no command {words[0] if words else '(empty)'}", param_hint="--edit")
