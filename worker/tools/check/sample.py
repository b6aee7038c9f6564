"""Reads some records of each topic and says what the worker would do with them. It joins no group and commits nothing."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, Literal

import numpy as np
import orjson

from worker.errors import FatalError, RecordError, SettingsError
from worker.ledger import Partition
from worker.ports import Message
from worker.records.decode import Delete, Put
from worker.settings.tables import Route, Settings
from worker.tools import judge
from worker.tools.brokers import committed_offsets
from worker.tools.check.report import Finding, fault, ok, skipped, warning
from worker.tools.scan import Scanner, Stretch
from worker.words import clean

From = Literal["earliest", "latest", "committed"]
_UNIT: Final = 0.01  # how far a length may be from 1
_ALIKE: Final = 10  # records from which on it says something that all are equal
_MESSAGE_CHARACTERS: Final = 300


class Sample:
    """What was found in the records of one topic."""

    def __init__(self) -> None:
        self.puts = self.deletes = self.ignored = 0
        self.bad: Counter[str] = Counter()
        self.first_bad: dict[str, str] = {}
        self.mismatches = 0
        self.bytes = 0
        self.far_from_unit = 0
        self.vectors: set[bytes] = set()

    @property
    def records(self) -> int:
        """How many records were read."""
        return self.puts + self.deletes + self.ignored + self.bad.total()


def sample(settings: Settings, environ: Mapping[str, str], count: int, begin: From) -> Iterator[Finding]:
    """Read `count` records of each topic, and report on them."""
    with Scanner(settings.kafka, patience_seconds=10) as scanner:
        for route in settings.routes:
            try:
                found = _read(settings, environ, route, scanner, count, begin)
            except (FatalError, SettingsError) as error:
                yield skipped("sample", route.topic, str(error))
                continue
            yield from _report(settings, route, found)


def _read(
    settings: Settings, environ: Mapping[str, str], route: Route, scanner: Scanner, count: int, begin: From
) -> Sample:
    decoder = judge.decoder_of(judge.target_of(route, settings, environ), settings)
    found = Sample()
    for partition, message in itertools.islice(_messages(settings, route, scanner, count, begin), count):
        try:
            decoded = decoder.decode(message.key, message.value, message.headers)
        except RecordError as error:
            found.bad[error.reason.value] += 1
            where = f"{partition} at {message.offset}: {clean(error.message, _MESSAGE_CHARACTERS)}"
            found.first_bad.setdefault(error.reason.value, where)
            continue
        if isinstance(decoded, Put):
            found.puts += 1
            found.bytes += len(decoded.fragment)
            found.mismatches += decoded.key_mismatch
            vector = np.asarray(orjson.loads(decoded.fragment)["data"]["float32"], dtype=np.float32)
            found.far_from_unit += bool(abs(float(np.linalg.norm(vector)) - 1) > _UNIT)
            found.vectors.add(vector.tobytes()[:64])
        elif isinstance(decoded, Delete):
            found.deletes += 1
        else:
            found.ignored += 1
    return found


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


def _report(settings: Settings, route: Route, found: Sample) -> Iterator[Finding]:
    topic = route.topic
    if not found.records:
        yield skipped("sample", topic, "there are no records to read")
        return
    accepted = found.records - found.bad.total()
    told = f"{accepted} of {found.records} records would be accepted"
    if found.bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.bad.most_common())
        firsts = "; ".join(f"first {reason}: {where}" for reason, where in found.first_bad.items())
        share = found.bad.total() / found.records
        make = fault if share > settings.dead_letter.limit_ratio else warning
        yield make("sample", topic, f"{told}; {reasons}", firsts)
    else:
        yield ok("sample", topic, told)
    if found.mismatches:
        told = f"{found.mismatches} records have a Kafka key that is not the vector's key"
        advice = "use the vector's key as the Kafka key, so that all versions of a vector share a partition"
        yield warning("sample.keys", topic, told, advice)
    if found.puts >= _ALIKE and len(found.vectors) == 1:
        yield warning(
            "sample.vectors",
            topic,
            f"all {found.puts} vectors are alike",
            "see the producer: is it the model's output?",
        )
    elif found.far_from_unit and found.puts:
        told = f"{found.far_from_unit} of {found.puts} vectors are not of length 1"
        yield ok("sample.vectors", topic, f"{told}: right for some models, a sign of a fault with others")
    if found.puts:
        yield ok("sample.batches", topic, _batches(settings, found))


def _batches(settings: Settings, found: Sample) -> str:
    mean = found.bytes / found.puts
    records = max(1, min(settings.batch.max_records, int(settings.batch.max_bytes / mean)))
    limit = "batch.max_records" if records == settings.batch.max_records else "batch.max_bytes"
    return f"a full batch has {records} records and {records * mean / 1024:.0f} KB ({limit})"
