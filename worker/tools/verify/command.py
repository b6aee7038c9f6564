"""One run of `verify`: from the settings to what is printed."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import click

from worker.app.several import cutter_of
from worker.app.stop import Stop
from worker.errors import FatalError
from worker.oss.lookup import IndexLookup
from worker.settings.load import Loaded
from worker.settings.tables import Route, Settings
from worker.tools import judge
from worker.tools.brokers import committed_offsets
from worker.tools.produce.publish import make_producer
from worker.tools.progress import Progress
from worker.tools.scan import Scanner
from worker.tools.verify.compare import Difference, Lookup
from worker.tools.verify.indexes import NamedLookup
from worker.tools.verify.refused import refused_places
from worker.tools.verify.repair import Repaired, repair
from worker.tools.verify.run import Result, Throttle, verify
from worker.tools.verify.stretches import Unseen, Wanted, commits_past, parts, spans, why_nothing
from worker.tools.verify.versions import Reading, index_and_key
from worker.words import clean

_SHOWN: Final = 20  # differences that are printed; --keys and --json have all

_PROVED: Final = "no difference: the index holds what the topic asks for"
_KEY_CHARACTERS: Final = 200  # of a key that is printed
_WRITE_SECONDS: Final = 10.0  # from a record to its place in the index, where the workers keep up
_MOST_SECONDS: Final = 60.0  # of the settings that delay a commit


class Options(NamedTuple):
    """What was asked for. Times are Unix seconds."""

    topic: str | None
    partition: int | None
    offsets: tuple[int, int] | None
    since: float | None
    until: float | None
    rate: float
    as_json: bool
    keys: Path | None
    repair: bool
    yes: bool
    strict: bool


class _Stopped(FatalError):
    """A signal came."""


def run(loaded: Loaded, options: Options, stop: Stop) -> bool:
    """Verify and print; return whether there is a difference.

    Raises `FatalError`, with `strict` also where there is no difference in what was compared, and some keys were not.
    """
    settings = loaded.settings
    route = judge.route_of(settings, options.topic)
    targets = judge.targets_of(route, settings, os.environ)
    router = judge.router_for(route, targets, judge.writing_suspects(settings))
    wanted = Wanted(options.partition, options.since, options.until, options.offsets)

    def wait(seconds: float) -> None:
        if stop.wait(seconds):
            raise _Stopped("stopped by a signal: nothing was changed")

    with ExitStack() as stack:
        scanner = stack.enter_context(Scanner(settings.kafka))
        keys_file = None if options.keys is None else stack.enter_context(_opened(options.keys))
        asked = parts(scanner, route.topic, wanted)
        committed = commits_past(
            asked, lambda: committed_offsets(settings.kafka, route.topic), wait, _commit_seconds(settings)
        )
        found, unseen = spans(asked, committed)
        if not found:
            raise FatalError(why_nothing(committed, settings.kafka.group_id))
        refused = refused_places(
            scanner, route.topic, route.index_names, settings.kafka.group_id, settings.dead_letter.topic
        )

        def lookup_of(index: str) -> Lookup:
            return stack.enter_context(closing(IndexLookup(settings.oss, os.environ, index, wait=wait)))

        def reading() -> Reading:
            return Reading(router, refused, names_index=bool(route.index_by), cutter=cutter_of(route, settings))

        lookup = NamedLookup(lookup_of) if route.index_by else lookup_of(route.index_names[0])
        result = verify(
            found,
            scanner=scanner,
            reading=reading,
            lookup=Throttle(lookup, options.rate, wait),
            wait=wait,
            progress=lambda label, total: _StoppableProgress(label, total, stop),
        )
        if keys_file is not None:
            _write_keys(keys_file, result.differences, route)
        if not options.as_json:
            _print(result, unseen, route, options)
        repaired = None
        if options.repair and result.differences:
            repaired = _repair(settings, route.topic, result, options, scanner, reading, stop)
    if options.as_json:
        click.echo(json.dumps(_report(result, unseen, route, repaired)))
    _judge_gaps(result, unseen, options)
    return bool(result.differences)


def _commit_seconds(settings: Settings) -> float:
    """Return the seconds after which the commit of what the topic has now is to be there, where the workers keep up."""
    return _WRITE_SECONDS + min(_MOST_SECONDS, settings.batch.max_age_seconds + settings.kafka.commit_interval_seconds)


def _opened(path: Path) -> IO[str]:
    """Open the file of the differences before the long work. Raises `FatalError`."""
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise FatalError(f"{path} cannot be written: {error.strerror}; name another file with --keys") from error


def _write_keys(file: IO[str], differences: Iterable[Difference], route: Route) -> None:
    try:
        for one in differences:
            file.write(json.dumps(_as_json(one, route)) + "\n")
        file.flush()
    except OSError as error:
        raise FatalError(f"the differences cannot be written to {file.name}: {error.strerror}") from error


class _StoppableProgress(Progress):
    """A progress that ends what it shows once a signal came."""

    def __init__(self, label: str, total: int, stop: Stop) -> None:
        super().__init__(label, total, unit="keys" if "index" in label else "records")
        self._stop = stop

    def step(self, count: int = 1) -> None:
        if self._stop.is_set():
            raise _Stopped("stopped by a signal: nothing was changed")
        super().step(count)


def _repair(
    settings: Settings, topic: str, result: Result, options: Options, scanner: Scanner, reading: Any, stop: Stop
) -> Repaired | None:
    question = f"publish the newest version of {len(result.differences)} keys to {topic} again?"
    if not options.yes and not click.confirm(question, err=True):
        return None
    with (
        closing(make_producer(settings, compression="lz4")) as producer,
        Progress("publishing", len(result.differences), unit="keys") as bar,
    ):
        done = repair(
            topic,
            result.differences,
            scanner=scanner,
            reading=reading,
            producer=producer,
            on_step=bar.step,
            is_stopping=stop.is_set,
        )
    if not options.as_json:
        click.echo(
            f"published again: {done.published}; left out: {done.overtaken} with a newer version by now or in a dead letter, "
            f"{done.gone} that the topic does not have any more"
        )
    if stop.is_set():
        raise FatalError(f"stopped by a signal: {done.published} versions were published again; verify again to go on")
    return done


def _as_json(one: Difference, route: Route) -> dict[str, Any]:
    place = {"partition": one.version.partition, "offset": one.version.offset}
    if one.version.element is not None:
        place["element"] = one.version.element
    index, key = index_and_key(one.key) if route.index_by else (route.index_names[0], one.key)
    return {"key": key, "index": index, "kind": one.kind.value, **place, "detail": one.detail}


def _place(one: Difference) -> str:
    place = f"{one.version.partition} at {one.version.offset}"
    return place if one.version.element is None else f"{place} element {one.version.element}"


def _report(result: Result, unseen: Unseen, route: Route, repaired: Repaired | None) -> dict[str, Any]:
    return {
        "version": 1,
        "topic": route.topic,
        "index": ",".join(route.index_names),
        "keys": result.keys,
        "records": result.counts["records"],
        "refused": result.counts["refused"],
        "ignored": result.counts["ignored"],
        "removed_by_retention": result.lost,
        "removed_before": unseen.removed,
        "partitions_not_committed": unseen.uncommitted,
        "offsets_not_committed": unseen.behind,
        "keys_in_several_partitions": len(result.unclear),
        "complete": not not_compared(result, unseen),
        "differences": [_as_json(one, route) for one in result.differences],
        "repaired": repaired._asdict() if repaired is not None else None,
    }


def not_compared(result: Result, unseen: Unseen) -> str:
    """Return in words what of the topic was not compared, "" where all of it was."""
    gaps = []
    if gone := unseen.removed + result.lost:
        gaps.append(f"{gone} offsets that retention has removed")
    if result.unclear:
        gaps.append(f"{len(result.unclear)} keys with records in several partitions")
    if unseen.uncommitted:
        gaps.append(f"{unseen.uncommitted} partitions with records of which the group has committed nothing")
    if unseen.behind:
        gaps.append(f"{unseen.behind} offsets that the group has not committed yet")
    return ", and ".join(gaps)


def _judge_gaps(result: Result, unseen: Unseen, options: Options) -> None:
    """Raise `FatalError` with `--strict` where no difference was found, and not everything was compared."""
    if options.strict and not result.differences and (gaps := not_compared(result, unseen)):
        raise FatalError(f"the index is not proved to be complete; not compared: {gaps}")


def _print(result: Result, unseen: Unseen, route: Route, options: Options) -> None:
    counts, topic = result.counts, route.topic
    index = ", ".join(route.index_names)
    click.echo(f"{topic}: {counts['records']} records, {counts['refused']} refused, {result.keys} keys; index {index}")
    if unseen.uncommitted:
        click.echo(
            f"warning: the group has committed nothing of {unseen.uncommitted} partitions that have records: nothing of them was "
            "looked at. Does a worker own them?",
            err=True,
        )
    if unseen.behind:
        click.echo(
            f"warning: the group has not committed {unseen.behind} offsets that the topic had at the beginning: their records are still "
            "to be written, and were not looked at. See the group's lag",
            err=True,
        )
    if unseen.removed:
        click.echo(
            f"warning: the topic begins after {unseen.removed} offsets that retention has removed. A key that has no newer record was not "
            "looked at, and may be missing from the index",
            err=True,
        )
    if result.lost:
        click.echo(f"warning: retention removed {result.lost} records while they were read", err=True)
    if result.unclear:
        shown = ", ".join(clean(key, _KEY_CHARACTERS) for key in sorted(result.unclear)[:5])
        click.echo(
            f"warning: {len(result.unclear)} keys have records in several partitions and were not judged: {shown}. "
            "Which version is the newest is not defined; use one partitioner for all producers",
            err=True,
        )
    if not result.differences:
        gaps = not_compared(result, unseen)
        click.echo(f"no difference in what was compared; not compared: {gaps}" if gaps else _PROVED)
        return
    for one in result.differences[:_SHOWN]:
        click.echo(f"{one.kind.value}: {clean(one.key, _KEY_CHARACTERS)} ({topic}/{_place(one)}): {one.detail}")
    if len(result.differences) > _SHOWN:
        where = f"; all are in {options.keys}" if options.keys else "; --keys FILE writes all of them"
        click.echo(f"and {len(result.differences) - _SHOWN} more{where}")
    kinds = Counter(one.kind.value for one in result.differences)
    click.echo("differences: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
