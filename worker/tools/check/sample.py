"""Reads some records of each topic and says what the worker would do with them. It joins no group and commits nothing."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, Literal

import msgspec
import numpy as np
import orjson

from worker.app.several import cutter_of, read_each
from worker.errors import FatalError, RecordError, SettingsError
from worker.ledger import Partition
from worker.ports import Message
from worker.records.decode import Delete, Put
from worker.settings.tables import Route, Settings
from worker.tools import judge
from worker.tools.brokers import committed_offsets
from worker.tools.check.report import Finding, fault, ok, skipped, warning
from worker.tools.check.service import impatient
from worker.tools.scan import Scanner, Stretch
from worker.words import clean

From = Literal["earliest", "latest", "committed"]
_READ_SECONDS: Final = 14.0  # for all topics: the whole check ends in 22 s
_UNIT: Final = 0.01  # how far a length may be from 1
_ALIKE: Final = 10  # records from which on it says something that all are equal
_MESSAGE_CHARACTERS: Final = 300
_MISMATCHES_SHOWN: Final = 5
_KEY_CHARACTERS: Final = 60


class Sample:
    """What was found in the records of one topic."""

    def __init__(self) -> None:
        self.messages = 0
        self.puts = self.deletes = self.ignored = 0
        self.bad: Counter[str] = Counter()
        self.first_bad: dict[str, str] = {}
        self.mismatches = 0
        self.suspects: Counter[str] = Counter()
        self.first_suspect: dict[str, str] = {}
        self.first_mismatches: list[str] = []
        self.bytes = 0
        self.far_from_unit = 0
        self.vectors: set[int] = set()
        self.was_cut = False

    @property
    def records(self) -> int:
        """How many records were read."""
        return self.puts + self.deletes + self.ignored + self.bad.total()


def sample(
    settings: Settings,
    environ: Mapping[str, str],
    count: int,
    begin: From,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Finding]:
    """Read `count` records of each topic, as many as time allows, and report on them."""
    settings = msgspec.structs.replace(settings, oss=impatient(settings.oss))
    deadline = clock() + _READ_SECONDS
    with Scanner(settings.kafka, answer_seconds=5, patience_seconds=5) as scanner:
        for done, route in enumerate(settings.routes):
            until = clock() + max(0.0, deadline - clock()) / (len(settings.routes) - done)
            is_over = partial(_is_past, clock, until)
            try:
                records = itertools.islice(_messages(settings, route, scanner, count, begin), count)
                found = _judged(settings, environ, route, records, is_over)
            except (FatalError, SettingsError) as error:
                yield skipped("sample", route.topic, str(error))
                continue
            yield from report(settings, route, found)


def _is_past(clock: Callable[[], float], moment: float) -> bool:
    return clock() >= moment


def _judged(
    settings: Settings,
    environ: Mapping[str, str],
    route: Route,
    records: Iterator[tuple[Partition, Message]],
    is_over: Callable[[], bool],
) -> Sample:
    decoder = judge.router_for(route, judge.targets_of(route, settings, environ), settings)
    cutter = cutter_of(route, settings)
    found = Sample()
    for partition, message in records:
        place = f"{partition} at {message.offset}"
        found.messages += 1
        for element, _, decoded in read_each(decoder, cutter, message):
            where = place if element is None else f"{place} element {element}"
            if isinstance(decoded, RecordError):
                found.bad[decoded.reason.value] += 1
                told = f"{where}: {clean(decoded.message, _MESSAGE_CHARACTERS)}"
                found.first_bad.setdefault(decoded.reason.value, told)
            else:
                _count(found, decoded, where, message.key if element is None else None)
        if is_over():
            found.was_cut = True
            break
    return found


def _count(found: Sample, decoded: object, where: str, kafka_key: bytes | None) -> None:
    """Count a record. `kafka_key` is None for one of several in a message: one key cannot be that of all."""
    if isinstance(decoded, Put | Delete) and decoded.suspicion is not None:
        cause, what = decoded.suspicion
        found.suspects[cause] += 1
        found.first_suspect.setdefault(cause, f"{where}: {what}")
    if isinstance(decoded, Delete):
        found.deletes += 1
    elif not isinstance(decoded, Put):
        found.ignored += 1
    else:
        found.puts += 1
        found.bytes += len(decoded.fragment)
        is_mismatch = decoded.key_mismatch and kafka_key is not None
        found.mismatches += is_mismatch
        if is_mismatch and len(found.first_mismatches) < _MISMATCHES_SHOWN:
            keys = (decoded.key, (kafka_key or b"").decode(errors="replace"))
            vector_key, other = (clean(key, _KEY_CHARACTERS) for key in keys)
            found.first_mismatches.append(f"{where} (Kafka key {other}, vector {vector_key})")
        vector = np.asarray(orjson.loads(decoded.fragment)["data"]["float32"], dtype=np.float32)
        found.far_from_unit += bool(abs(float(np.linalg.norm(vector)) - 1) > _UNIT)
        found.vectors.add(hash(vector.tobytes()))


def _messages(
    settings: Settings, route: Route, scanner: Scanner, count: int, begin: From
) -> Iterator[tuple[Partition, Message]]:
    """Yield records of all partitions, as many of each, so that one partition is not taken for all."""
    partitions = scanner.partitions(route.topic)
    firsts, ends = scanner.first_offsets(partitions), scanner.end_offsets(partitions)
    share = -(-count // len(partitions))
    committed = committed_offsets(settings.kafka, route.topic) if begin == "committed" else {}
    stretches = []
    for one in partitions:
        start = {
            "earliest": firsts[one],
            "latest": max(firsts[one], ends[one] - share),
            "committed": max(firsts[one], committed.get(one.partition, firsts[one])),
        }[begin]
        stretches.append(Stretch(one, start, min(ends[one], start + share)))
    for partition, messages in scanner.read(stretches):
        for message in messages:
            yield partition, message


def report(settings: Settings, route: Route, found: Sample) -> Iterator[Finding]:
    """Say what was found in a topic."""
    topic = route.topic
    if not found.records:
        yield skipped("sample", topic, "there are no records to read")
        return
    yield from _accepted(settings, topic, found)
    if found.mismatches:
        told = f"{found.mismatches} records have a Kafka key that is not the vector's key: {', '.join(found.first_mismatches)}"
        advice = "have the producer use the vector's key as the Kafka key, so that its versions share a partition"
        yield warning("sample.keys", topic, told, advice)
    for cause, count in found.suspects.most_common():
        told = f"{count} records are suspect; the first is {found.first_suspect[cause]}"
        advice = "see the producer: the worker writes them (records.suspect)"
        yield warning("sample.suspect", f"{topic} {cause}", told, advice)
    yield from _vectors(topic, found)
    if found.puts:
        yield ok("sample.batches", topic, _batches(settings, found))


def _accepted(settings: Settings, topic: str, found: Sample) -> Iterator[Finding]:
    bad = found.bad.total()
    told = f"{found.records - bad} of {found.records} records would be accepted"
    told = told if found.messages == found.records else f"{told}, of {found.messages} messages"
    kinds = [f"{found.deletes} delete a vector", f"{found.ignored} are ignored"]
    others = [kind for kind in kinds if not kind.startswith("0 ")]
    told = f"{told} ({', '.join(others)})" if others else told
    told = f"{told}; there was no time for more" if found.was_cut else told
    if not bad:
        yield ok("sample", topic, told)
        return
    is_above = bad / found.records > settings.dead_letter.limit_ratio
    make = fault if is_above else warning
    limit = f"{'above' if is_above else 'within'} dead_letter.limit_ratio = {settings.dead_letter.limit_ratio:g}"
    yield make("sample", topic, f"{told}; {bad} would become dead letters, {limit}", "see the reasons below")
    for reason, count in found.bad.most_common():
        told = f"{count} records; the first is {found.first_bad[reason]}"
        advice = f"have the producer correct it; ops/records.md says what {reason} means"
        yield make("sample.reason", f"{topic} {reason}", told, advice)


def _vectors(topic: str, found: Sample) -> Iterator[Finding]:
    if found.puts >= _ALIKE and len(found.vectors) == 1:
        told = f"all {found.puts} vectors are alike"
        yield warning("sample.vectors", topic, told, "see the producer: is this the output of its model?")
    elif found.far_from_unit:
        told = f"{found.far_from_unit} of {found.puts} vectors do not have length 1"
        yield ok("sample.vectors", topic, f"{told}: right for some models, a sign of a fault with others")
    elif found.puts:
        yield ok("sample.vectors", topic, f"all {found.puts} vectors have length 1")


def _batches(settings: Settings, found: Sample) -> str:
    mean = found.bytes / found.puts
    records = max(1, min(settings.batch.max_records, int(settings.batch.max_bytes / mean)))
    limit = "batch.max_records" if records == settings.batch.max_records else "batch.max_bytes"
    return f"a full batch would have {records} records and {records * mean / 1024:.0f} KB, limited by {limit}"
