"""One run of `dlq list`, `dlq show` and `dlq replay`."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import NamedTuple

import click
from kafka.partitioner import murmur2

from worker.app.stop import Stop
from worker.deadletters.reader import SourceReader
from worker.errors import FatalError
from worker.ledger import Partition
from worker.settings.load import Loaded
from worker.settings.tables import Settings
from worker.tools.dlq.history import Candidate, read_history, vector_key
from worker.tools.dlq.letters import (
    DeadLetterRead,
    Place,
    Selection,
    dead_letters,
    stretches_of,
    topic_of,
)
from worker.tools.dlq.listing import Counts, shown
from worker.tools.dlq.plan import MEANINGS, Guards, Plan, Refusal, believed, candidate_of, plan
from worker.tools.dlq.send import Content, EditFailed, Sender, content_of, edited
from worker.tools.produce.publish import make_producer
from worker.tools.progress import Progress
from worker.tools.scan import Scanner, Stretch

_EDIT_FAILURES_SHOWN = 5


class ReplayOptions(NamedTuple):
    """What `replay` was asked for. `rate` is in records a second, 0 for no limit."""

    selection: Selection
    max_replays: int
    even_if_stale: bool
    dry_run: bool
    yes: bool
    rate: float
    edit: str | None


def list_letters(loaded: Loaded, selection: Selection, *, as_json: bool) -> None:
    """Print counts. Raises `FatalError`."""
    topic = topic_of(loaded.settings)
    counts = Counts()
    with Scanner(loaded.settings.kafka) as scanner:
        stretches = stretches_of(scanner, topic)
        with Progress("reading dead letters", _size(stretches), unit="dead letters") as bar:
            for letter in dead_letters(scanner, stretches, selection):
                bar.step()
                if letter is not None:
                    counts.add(letter)
    if as_json:
        click.echo(json.dumps(counts.as_json(topic)))
    else:
        click.echo("\n".join(counts.lines(topic)))


def show(loaded: Loaded, place: Place, value_file: str | None) -> None:
    """Print one dead letter whole. Raises `FatalError` where it is not there."""
    settings = loaded.settings
    topic = topic_of(settings)
    with Scanner(settings.kafka) as scanner:
        letter = _one(scanner, topic, place)
    if value_file is not None:
        with click.open_file(value_file, "wb") as file:
            file.write(letter.message.value or b"")
    click.echo("\n".join(shown(letter, _newer(settings, letter))))


def _one(scanner: Scanner, topic: str, place: Place) -> DeadLetterRead:
    for letter in dead_letters(scanner, stretches_of(scanner, topic, [place]), Selection(places=[place])):
        if letter is not None:
            return letter
    raise FatalError(f"{topic} has no dead letter at {place}: is it removed by retention?")


def _newer(settings: Settings, letter: DeadLetterRead) -> str:
    """Say whether the key of a dead letter has a newer version."""
    found = candidate_of(letter, settings.topics, lambda *_: letter.headers.partition or 0, _key_of(settings, letter))
    if isinstance(found, Refusal):
        return f"not known: {MEANINGS[found]}"
    if found.key is None:
        return "not known: the key cannot be read"
    history = read_history(settings.kafka, [found], settings.records.key_format, lambda _: None)
    newest = history.newest.get((found.topic, found.partition, found.key), -1)
    if newest > found.offset:
        return f"yes, at offset {newest}"
    if history.firsts[Partition(found.topic, found.partition)] > found.offset + 1:
        return "not known: retention removed what came after it"
    return "no"


def _key_of(settings: Settings, letter: DeadLetterRead) -> str | None:
    return vector_key(letter.message, settings.records.key_format)


def _size(stretches: list[Stretch]) -> int:
    return sum(max(0, one.end - one.begin) for one in stretches)


# -- replay


def replay(loaded: Loaded, options: ReplayOptions, stop: Stop) -> None:
    """Replay what may be replayed. Raises `FatalError`."""
    settings = loaded.settings
    topic = topic_of(settings)
    with ExitStack() as stack:
        scanner = stack.enter_context(Scanner(settings.kafka))
        decided, selected = _decide(settings, topic, scanner, options)
        _print_plan(topic, decided, selected)
        if options.dry_run or not decided.replay:
            return
        if not options.yes and not click.confirm(f"replay {len(decided.replay)} dead letters?", err=True):
            click.echo("nothing was replayed")
            return
        producer = stack.enter_context(closing(make_producer(settings.kafka, compression="gzip")))
        reader = stack.enter_context(closing(SourceReader(settings.kafka)))
        bar = stack.enter_context(Progress("replaying", len(decided.replay), unit="dead letters"))
        sender = Sender(producer, topic, bar.step)
        refused = _send(decided, scanner, topic, options, sender, reader, stop)
    _print_end(sender.acknowledged, refused)
    if stop.is_set():
        raise FatalError("stopped by a signal: repeat the command to continue, nothing is replayed twice")


def _decide(settings: Settings, topic: str, scanner: Scanner, options: ReplayOptions) -> tuple[Plan, int]:
    """Return what is replayed, and how many dead letters were selected."""
    partition_of = _partitioner(scanner)
    stretches = stretches_of(scanner, topic)
    keys: dict[str, bytes | None] = {}
    refused: Counter[Refusal] = Counter()
    candidates: list[Candidate] = []
    with Progress("reading dead letters", _size(stretches), unit="dead letters") as bar:
        for letter in dead_letters(scanner, stretches, Selection()):
            bar.step()
            if letter is None:
                continue
            keys[f"{topic}/{letter.place.partition}/{letter.place.offset}"] = letter.message.key
            if options.selection.has(letter):
                found = candidate_of(letter, settings.topics, partition_of, _key_of(settings, letter))
                if isinstance(found, Refusal):
                    refused[found] += 1
                else:
                    candidates.append(found)
    candidates = [believed(one, keys) for one in candidates]
    with Progress("reading the source topics", None) as bar:
        history = read_history(settings.kafka, candidates, settings.records.key_format, bar.step)
    decided = plan(candidates, history, topic, Guards(options.max_replays, options.even_if_stale))
    return Plan(decided.replay, decided.refused + refused), len(candidates) + refused.total()


def _partitioner(scanner: Scanner) -> Callable[[str, bytes | None], int]:
    """Return what gives the partition of a key as Java's default partitioner does, for the partitions of now."""
    counts: dict[str, int] = {}

    def partition_of(topic: str, key: bytes | None) -> int:
        if topic not in counts:
            counts[topic] = len(scanner.partitions(topic))
        return int(murmur2(key or b"") & 0x7FFFFFFF) % counts[topic]

    return partition_of


def _send(
    decided: Plan,
    scanner: Scanner,
    topic: str,
    options: ReplayOptions,
    sender: Sender,
    reader: SourceReader,
    stop: Stop,
) -> Counter[Refusal]:
    """Publish what was decided, and return what could not be after all.

    The values are read once more, so that memory does not grow with them, and published in the order of the dead letters,
    which is that of their records within a partition.
    """
    refused: Counter[Refusal] = Counter()
    failures = 0
    pause = 1 / options.rate if options.rate else 0.0
    stretches = stretches_of(scanner, topic, list(decided.replay))
    for letter in dead_letters(scanner, stretches, Selection(places=decided.replay)):
        if letter is None:
            continue
        if stop.is_set() or (pause and stop.wait(pause)):
            break
        content = content_of(letter, reader.read)
        if content is None:
            refused[Refusal.NO_VALUE] += 1
            continue
        if options.edit is not None:
            try:
                content = Content(content.key, edited(options.edit, content.value))
            except EditFailed as error:
                refused[Refusal.EDIT_FAILED] += 1
                failures += 1
                if failures <= _EDIT_FAILURES_SHOWN:
                    click.echo(f"{letter.place}: --edit failed: {error}", err=True)
                continue
        sender.send(letter, decided.replay[letter.place], content)
    sender.finish()
    return refused


def _print_plan(topic: str, decided: Plan, selected: int) -> None:
    click.echo(f"{topic}: {selected} dead letters selected, {len(decided.replay)} to replay")
    by_topic = Counter(one.topic for one in decided.replay.values())
    for name, count in by_topic.most_common():
        click.echo(f"  {count:>8}  to {name}")
    _print_refused(decided.refused)


def _print_refused(refused: Counter[Refusal]) -> None:
    for cause, count in refused.most_common():
        click.echo(f"  {count:>8}  not replayed, {cause.value}: {MEANINGS[cause]}")


def _print_end(acknowledged: int, refused: Counter[Refusal]) -> None:
    click.echo(f"{acknowledged} dead letters replayed, all acknowledged")
    _print_refused(refused)
