"""Reads dead letters and their source topics, and decides which dead letters may be replayed."""

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

from kafka.partitioner import murmur2

from worker.settings.tables import Settings
from worker.tools.dlq.candidates import Candidate, Known, candidate_of, known_of, replays_of, source_of
from worker.tools.dlq.history import History
from worker.tools.dlq.letters import DeadLetterRead, Place, Selection, dead_letters, stretches_of, topic_of
from worker.tools.dlq.names import Names
from worker.tools.dlq.plan import Guards, Plan, Refusal, cause_of, plan
from worker.tools.progress import Progress
from worker.tools.scan import NoTopic, Scanner

_MOST_CLAIMS: Final = 20  # of a dead letter that says it is a replay of one that says so too, and so on


class Decision(NamedTuple):
    """What is replayed, what the source topics said, and how many dead letters were selected."""

    plan: Plan
    history: History
    selected: int


class Verdict(NamedTuple):
    """What is known of one dead letter: the newest version of its key, if any, and why it would not be replayed."""

    newer_at: str
    cause: Refusal | None


class Partitioner:
    """Gives the partition of a key as Java's default partitioner does, for the partitions of now."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._counts: dict[str, int] = {}

    def has(self, topic: str) -> bool:
        """Return whether there is such a topic."""
        if topic not in self._counts:
            try:
                self._counts[topic] = len(self._scanner.partitions(topic))
            except NoTopic:
                self._counts[topic] = 0
        return self._counts[topic] > 0

    def __call__(self, topic: str, key: bytes | None, partition: int) -> int:
        """Return the partition for a key; for a record without one, the partition that it was in, if it is still there."""
        number = partition if key is None else murmur2(key) & 0x7FFFFFFF
        return int(number) % self._counts[topic] if self.has(topic) else partition


def decide(settings: Settings, scanner: Scanner, sources: Scanner, selection: Selection, guards: Guards) -> Decision:
    """Return what may be replayed of the dead letters that are selected. Raises `FatalError`.

    `sources` reads the source topics. Needs memory for each dead letter, not for its bytes.
    """
    topic, partition_of, names = topic_of(settings), Partitioner(scanner), Names(settings)
    by_name: dict[str, Known] = {}
    refused: Counter[Refusal] = Counter()
    candidates: list[Candidate] = []
    stretches = stretches_of(scanner, topic)
    with Progress("reading dead letters", sum(one.size for one in stretches), unit="dead letters") as bar:
        for letter in dead_letters(scanner, stretches, settings):
            bar.step()
            known = _known(letter)
            if known is not None:
                by_name[_name(topic, letter.place)] = known
            if selection.has(letter):
                found = _candidate(letter, known, settings, partition_of, names)
                if isinstance(found, Refusal):
                    refused[found] += 1
                else:
                    candidates.append(found)
    history = History(sources, candidates, by_name, Names(settings))
    with Progress("reading the source topics", None) as bar:
        history.begin()
        history.advance(bar.step)
    candidates = [_with_replays(one, by_name[_name(topic, one.place)], by_name, history) for one in candidates]
    decided = plan(candidates, history, guards)
    return Decision(Plan(decided.replay, decided.refused + refused), history, len(candidates) + refused.total())


def verdict(settings: Settings, scanner: Scanner, sources: Scanner, letter: DeadLetterRead, guards: Guards) -> Verdict:
    """Return what is known of one dead letter. Raises `FatalError`."""
    topic, known = topic_of(settings), _known(letter)
    found = _candidate(letter, known, settings, Partitioner(scanner), Names(settings))
    if isinstance(found, Refusal) or known is None:
        return Verdict("not known", found if isinstance(found, Refusal) else Refusal.NO_SOURCE)
    by_name = {_name(topic, letter.place): known} | _claimed(settings, scanner, known)
    history = History(sources, [found], by_name, Names(settings))
    with Progress("reading the source topic", None) as bar:
        history.begin()
        history.advance(bar.step)
    one = _with_replays(found, known, by_name, history)
    cause = cause_of(one, history, guards)
    newest = history.newest.get((one.source.topic, one.source.partition, one.key or ""))
    elsewhere = history.newest.get((one.source.topic, one.target, one.key or ""))
    if newest is not None and newest.is_behind(one):
        return Verdict(f"yes, at offset {newest.offset}", cause)
    if cause is Refusal.STALE and elsewhere is not None:
        return Verdict(f"yes, in partition {one.target} at offset {elsewhere.offset}", cause)
    is_known = cause_of(one, history, Guards(guards.max_replays, even_if_stale=True)) is not None or cause is None
    return Verdict("no" if is_known and one.key is not None else "not known", cause)


def _known(letter: DeadLetterRead) -> Known | None:
    source = source_of(letter)
    return known_of(letter, source) if source is not None else None


def _candidate(
    letter: DeadLetterRead, known: Known | None, settings: Settings, partition_of: Partitioner, names: Names
) -> Candidate | Refusal:
    if known is None:
        return Refusal.NO_SOURCE
    if known.source.topic not in settings.topics:
        return Refusal.FOREIGN_TOPIC
    if not partition_of.has(known.source.topic):
        return Refusal.TOPIC_GONE
    if letter.headers.value_size is None and not names.elements.has(
        known.source.topic, letter.message.value, letter.element
    ):
        return Refusal.NOT_CUT
    return candidate_of(letter, known, partition_of, names)


def _with_replays(one: Candidate, known: Known, by_name: Mapping[str, Known], history: History) -> Candidate:
    """Return a candidate that has how often it was replayed, and what a reference left out and the source topic has."""
    at = history.unchanged.get(one.record) if one.is_reference else None
    if at is not None:
        known, one = known._replace(claimed=at.claim), one._replace(key=at.key)
    return one._replace(replays=replays_of(known, by_name))


def _claimed(settings: Settings, scanner: Scanner, known: Known) -> dict[str, Known]:
    """Return the dead letters of which one says that it is a replay, and these in turn."""
    found: dict[str, Known] = {}
    topic = topic_of(settings)
    while (claim := known.claimed) is not None and claim.origin not in found and len(found) < _MOST_CLAIMS:
        of_topic, _, place = claim.origin.partition("/")
        partition, _, offset = place.partition("/")
        if of_topic != topic or not (partition.isdecimal() and offset.isdecimal() and len(offset) < 19):
            break
        letter = letter_at(settings, scanner, Place(int(partition), int(offset)))
        before = _known(letter) if letter is not None else None
        if before is None:
            break
        found[claim.origin] = known = before
    return found


def letter_at(settings: Settings, scanner: Scanner, place: Place) -> DeadLetterRead | None:
    """Return the dead letter at a place, None where it is not there. Raises `FatalError`."""
    stretches = stretches_of(scanner, topic_of(settings), [place])
    return next((one for one in dead_letters(scanner, stretches, settings) if one.place == place), None)


def _name(topic: str, place: Place) -> str:
    """Return how a replay names a dead letter."""
    return f"{topic}/{place.partition}/{place.offset}"
