"""One run of `dlq list` and `dlq show`."""

import json
from contextlib import closing

import click

from worker.deadletters.reader import SourceReader
from worker.errors import FatalError
from worker.settings.load import Loaded
from worker.settings.tables import Settings
from worker.tools.dlq.decide import letter_at, verdict
from worker.tools.dlq.elements import Elements
from worker.tools.dlq.history import History
from worker.tools.dlq.letters import DeadLetterRead, Place, Selection, dead_letters, stretches_of, topic_of
from worker.tools.dlq.listing import Counts, shown
from worker.tools.dlq.plan import MEANINGS, Guards
from worker.tools.dlq.send import value_of
from worker.tools.progress import Progress
from worker.tools.scan import Scanner


def list_letters(loaded: Loaded, selection: Selection, *, as_json: bool) -> None:
    """Print counts. Raises `FatalError`."""
    topic = topic_of(loaded.settings)
    counts = Counts()
    with Scanner(loaded.settings.kafka) as scanner:
        stretches = stretches_of(scanner, topic)
        with Progress("reading dead letters", sum(one.size for one in stretches), unit="dead letters") as bar:
            for letter in dead_letters(scanner, stretches, loaded.settings):
                bar.step()
                if selection.has(letter):
                    counts.add(letter)
    if as_json:
        click.echo(json.dumps(counts.as_json(topic)))
    else:
        click.echo("\n".join(counts.lines(topic)))


def show(loaded: Loaded, place: Place, value_file: str | None, max_replays: int) -> None:
    """Print one dead letter whole. Raises `FatalError` where it is not there."""
    settings = loaded.settings
    topic = topic_of(settings)
    with Scanner(settings.kafka) as scanner, History.scanner(settings.kafka) as sources:
        letter = letter_at(settings, scanner, place)
        if letter is None:
            raise FatalError(f"{topic} has no dead letter at {place}; retention may have removed it")
        if value_file is not None:
            _write_value(settings, letter, value_file)
        known = verdict(settings, scanner, sources, letter, Guards(max_replays, even_if_stale=False))
    replay = (
        "may be replayed" if known.cause is None else f"would be refused, {known.cause.value}: {MEANINGS[known.cause]}"
    )
    own = Elements(settings).own_value(letter.headers.topic, letter.message.value, letter.element)
    click.echo("\n".join(shown(letter, known.newer_at, replay, own)))


def _write_value(settings: Settings, letter: DeadLetterRead, file: str) -> None:
    with closing(SourceReader(settings.kafka)) as reader:
        value = value_of(letter, reader.read)
    try:
        with click.open_file(file, "wb") as opened:
            opened.write(value or b"")
    except OSError as error:
        raise FatalError(f"{file} cannot be written: {error.strerror}") from error
