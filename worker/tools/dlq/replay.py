"""One run of `dlq replay`: decides, asks, and sends in steps.

Two things can change while it runs: a producer publishes a newer version of a key, and somebody else replays the same dead
letters. So before each step the source topics are read on to their ends, and what changed is judged again. The steps begin
with one record and grow: two replays that begin at the same moment see each other when each has sent one record.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Final, NamedTuple

import click

from worker.app.stop import Stop
from worker.deadletters.reader import SourceReader
from worker.errors import FatalError
from worker.settings.load import Loaded
from worker.settings.tables import Settings
from worker.tools.dlq.candidates import Candidate, Record
from worker.tools.dlq.decide import Decision, decide, letter_at
from worker.tools.dlq.history import History
from worker.tools.dlq.letters import DeadLetterRead, Selection, dead_letters, stretches_of, topic_of
from worker.tools.dlq.listing import value_text
from worker.tools.dlq.names import Names
from worker.tools.dlq.plan import MEANINGS, Guards, Refusal, cause_of, in_source_order, out_of_order
from worker.tools.dlq.send import Content, EditFailed, Sender, content_of, edited
from worker.tools.produce.publish import make_producer
from worker.tools.progress import Progress
from worker.tools.scan import Scanner
from worker.words import clean

_EDIT_FAILURES_SHOWN: Final = 5
_STEP_LETTERS: Final = 512
_STEP_BYTES: Final = 8 * 1024 * 1024
_REPEAT: Final = "repeat the command to continue: nothing is replayed twice"


class Options(NamedTuple):
    """What was asked for. `rate` is in records a second, 0 for no limit."""

    selection: Selection
    max_replays: int
    even_if_stale: bool
    dry_run: bool
    yes: bool
    rate: float
    edit: str | None

    @property
    def guards(self) -> Guards:
        """What is refused."""
        return Guards(self.max_replays, self.even_if_stale)


def replay(loaded: Loaded, options: Options, stop_on_signals: Callable[[], Stop]) -> None:
    """Replay what may be replayed. Raises `FatalError`.

    `stop_on_signals` is called when records are about to be sent; before that, a signal may end the process at once.
    """
    settings = loaded.settings
    topic = topic_of(settings)
    with ExitStack() as stack:
        scanner = stack.enter_context(Scanner(settings.kafka))
        decision = decide(
            settings, scanner, stack.enter_context(History.scanner(settings.kafka)), options.selection, options.guards
        )
        _print_plan(topic, decision)
        count = len(decision.plan.replay)
        letters = Letters(
            settings, decision, options, scanner, stack.enter_context(closing(SourceReader(settings.kafka)))
        )
        if options.dry_run:
            _try(letters, options)
            return
        if not count:
            return
        if not (options.yes or click.confirm(f"replay {_dead_letters(count)}?", err=True)):
            click.echo("nothing was replayed")
            return
        letters.stop = stop_on_signals()
        producer = stack.enter_context(closing(make_producer(settings, compression="gzip")))
        bar = Progress("replaying", count, unit="dead letters")
        sender = Sender(producer, topic, bar.step)
        try:
            with bar:
                Steps(letters, decision, options.guards, sender).run()
        finally:
            _print_end(sender.acknowledged, letters.refused)
    _raise_where_unfinished(letters)


def _try(letters: "Letters", options: Options) -> None:
    """Run the command of `--edit` without sending, and show what comes of the first dead letter."""
    if options.edit is None:
        return
    done = 0
    for one, content in letters:
        if not done:
            click.echo(f"{one.place}, edited: {value_text(content.value)}")
        done += 1
    click.echo(f"--edit printed something for {_dead_letters(done)}; nothing was sent")
    _print_refused(letters.refused)
    _raise_where_unfinished(letters)


def _raise_where_unfinished(letters: "Letters") -> None:
    if letters.stop.is_set():
        raise FatalError(f"stopped by a signal; {_REPEAT}")
    if failed := letters.refused[Refusal.EDIT_FAILED]:
        raise FatalError(f"the command of --edit failed on {_dead_letters(failed)}; correct it and repeat")


class Letters:
    """What is to be sent of the dead letters that were chosen, one by one, and why some are not after all.

    They are read once more, so that memory does not grow with their bytes, in the order of the dead-letter topic. Only those
    of a key that this order would turn round come later, in the order of their records.
    """

    def __init__(
        self, settings: Settings, decision: Decision, options: Options, scanner: Scanner, reader: SourceReader
    ) -> None:
        self.refused: Counter[Refusal] = Counter()
        self.stop = Stop()
        self.pace = options.rate
        self._settings = settings
        self._names = Names(settings)
        self._elements = self._names.elements
        self._chosen = decision.plan.replay
        self._options = options
        self._scanner = scanner
        self._reader = reader

    def __iter__(self) -> Iterator[tuple[Candidate, Content]]:
        """Yield them until a signal comes. Raises `FatalError`."""
        left = set(self._chosen)
        for letter in self._read():
            if self.stop.wait(1 / self.pace if self.pace else 0.0):
                return
            left.discard(letter.place)
            one = self._chosen[letter.place]
            if (content := self._content(letter, one)) is not None:
                yield one, content
        if left:
            self.refused[Refusal.GONE] += len(left)

    def _read(self) -> Iterator[DeadLetterRead]:
        late = out_of_order(list(self._chosen.values())) if self._options.even_if_stale else set()
        first = [place for place in self._chosen if place not in late]
        stretches = stretches_of(self._scanner, topic_of(self._settings), first)
        for letter in dead_letters(self._scanner, stretches, self._settings, with_keys=False):
            if letter.place in self._chosen and letter.place not in late:
                yield letter
        for one in in_source_order(self._chosen[place] for place in late):
            found = letter_at(self._settings, self._scanner, one.place, with_key=False)
            if found is not None:
                yield found

    def _content(self, letter: DeadLetterRead, one: Candidate) -> Content | None:
        """Return what is sent of one, None where it is refused."""
        content = content_of(letter, one, self._reader.read)
        if content is None:
            self.refused[Refusal.NO_VALUE] += 1
            return None
        if one.element is not None and content.value is not None:
            alone = self._elements.alone(one.source.topic, content.value, one.element)
            if alone is None:
                self.refused[Refusal.NOT_CUT] += 1
                return None
            content = content._replace(value=alone)
        if self._options.edit is None or content.value is None:  # a tombstone has nothing to edit
            return content
        try:
            value = edited(self._options.edit, content.value)
            if not self._options.even_if_stale:
                self._check_key(one, content._replace(value=value))
            return content._replace(value=value)
        except EditFailed as error:
            self.refused[Refusal.EDIT_FAILED] += 1
            if self.refused[Refusal.EDIT_FAILED] <= _EDIT_FAILURES_SHOWN:
                click.echo(f"{letter.place}: --edit failed: {error}", err=True)
            return None

    def _place_alone(self, one: Candidate, content: Content) -> int | None:
        """Return the place of the one record that is sent, None where the message is the record itself."""
        return None if self._elements.all_of(one.source.topic, content.value) is None or one.element is None else 0

    def _check_key(self, one: Candidate, content: Content) -> None:
        """Raise `EditFailed` where the value has another key now: nobody has looked for newer versions of that one."""
        own = self._elements.own_value(one.source.topic, content.value, self._place_alone(one, content))
        key = self._names.of_parts(one.source.topic, content.key, own, content.headers)
        if key != one.key:
            words = f"the key was {clean(str(one.key), 100)} and is now {clean(str(key), 100)}"
            raise EditFailed(f"{words}, which may have newer versions; --even-if-stale allows it")


class Steps:
    """Sends dead letters step by step, and looks at the source topics before each."""

    def __init__(self, letters: Letters, decision: Decision, guards: Guards, sender: Sender) -> None:
        self._letters = letters
        self._history = decision.history
        self._guards = guards
        self._sender = sender
        self._chosen: set[Record] = {one.record for one in decision.plan.replay.values()}
        self._unseen: set[Record] = set()
        """Sent, and not yet read again from the source topic."""
        self._has_sent = False

    def run(self) -> None:
        """Send all. Raises `FatalError`."""
        limit = 1
        step: list[tuple[Candidate, Content]] = []
        size = 0
        for one, content in self._letters:
            step.append((one, content))
            size += len(content.value or b"")
            if len(step) >= min(limit, self._letters.pace or limit) or size >= _STEP_BYTES:
                self._send(step)
                step, size, limit = [], 0, min(2 * limit, _STEP_LETTERS)
        if step and not self._letters.stop.is_set():
            self._send(step)

    def _send(self, step: list[tuple[Candidate, Content]]) -> None:
        self._look()
        for one, content in step:
            cause = cause_of(one, self._history, self._guards)
            if cause is not None:
                self._letters.refused[cause] += 1
                continue
            self._sender.send(one, content)
            self._unseen.add(one.record)
            self._has_sent = True
        self._sender.finish()

    def _look(self) -> None:
        """Read the source topics on. Raises `FatalError` where another replay sends what this one was to send."""
        others = 0
        for record in self._history.advance().fresh:
            if record in self._unseen:
                self._unseen.remove(record)
            elif record in self._chosen:
                others += 1
        if others and self._has_sent:
            raise FatalError(f"another replay of these dead letters is running; wait for its end, then {_REPEAT}")


def _dead_letters(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"


def _print_plan(topic: str, decision: Decision) -> None:
    chosen = decision.plan.replay.values()
    click.echo(f"{topic}: {_dead_letters(decision.selected)} selected, {len(chosen)} to replay")
    for name, count in Counter(one.source.topic for one in chosen).most_common():
        click.echo(f"  {count:>8}  to {name}")
    _print_refused(decision.plan.refused)


def _print_refused(refused: Counter[Refusal]) -> None:
    for cause, count in refused.most_common():
        click.echo(f"  {count:>8}  not replayed, {cause.value}: {MEANINGS[cause]}")


def _print_end(acknowledged: int, refused: Counter[Refusal]) -> None:
    click.echo(f"{_dead_letters(acknowledged)} replayed")
    _print_refused(refused)
