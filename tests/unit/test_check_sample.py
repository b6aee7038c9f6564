"""What `check --sample` says of the records that it read, without a broker."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import msgspec
import numpy as np
import pytest

from tests.unit.samples import NEEDED, FakeMessage
from worker.ledger import Partition
from worker.settings.load import load
from worker.settings.tables import Settings
from worker.tools.check import sample as module
from worker.tools.check.report import Finding, Status

MATRIX = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
UNIT = MATRIX / np.linalg.norm(MATRIX, axis=1, keepdims=True)


def settings(**environment: str) -> Settings:
    """Return settings whose index is known without asking."""
    route = '[{"topic": "vectors", "index": "docs", "dimension": 3, "distance_metric": "cosine"}]'
    return load(None, NEEDED | {"OSS_VECTORS_ROUTES": route} | environment).settings


class FakeScanner:
    """One partition in memory, in place of the scanner."""

    def __init__(self, messages: Sequence[FakeMessage]) -> None:
        self._messages = messages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def partitions(self, topic: str) -> list[Partition]:
        return [Partition(topic, 0)]

    def first_offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        return dict.fromkeys(partitions, 0)

    def end_offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        return dict.fromkeys(partitions, len(self._messages))

    def read(self, stretches: Sequence[Any]) -> Iterator[tuple[Partition, Sequence[FakeMessage]]]:
        for stretch in stretches:
            yield stretch.partition, self._messages[stretch.begin : stretch.end]


def record(offset: int, vector: Sequence[float], key: bytes = b"a") -> FakeMessage:
    """Return a record of the key "a"."""
    value = msgspec.json.encode({"key": "a", "data": {"float32": [float(one) for one in vector]}})
    return FakeMessage(offset, key=key, value=value)


def sampled(
    monkeypatch: pytest.MonkeyPatch,
    messages: Sequence[FakeMessage],
    clock: Callable[[], float] = lambda: 0.0,
    **environment: str,
) -> dict[str, Finding]:
    """Return the findings by check and, for reasons, by reason."""
    monkeypatch.setattr(module, "Scanner", lambda *_args, **_options: FakeScanner(messages))
    found = module.sample(settings(**environment), {}, 1000, "earliest", clock)
    return {f"{one.check} {one.subject}".removesuffix(" vectors"): one for one in found}


def test_vectors_of_length_1_are_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sampled(monkeypatch, [record(at, vector) for at, vector in enumerate(UNIT)])
    assert (found["sample"].status, found["sample"].result) == (Status.OK, "20 of 20 records would be accepted")
    assert found["sample.vectors"].result == "all 20 vectors have length 1"


def test_vectors_far_from_length_1_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sampled(monkeypatch, [record(at, vector * (2 if at < 7 else 1)) for at, vector in enumerate(UNIT)])
    assert found["sample.vectors"].result.startswith("7 of 20 vectors do not have length 1")


@pytest.mark.parametrize(("count", "status"), [(10, Status.WARNING), (9, Status.OK)])
def test_many_vectors_that_are_all_alike_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, count: int, status: Status
) -> None:
    found = sampled(monkeypatch, [record(at, UNIT[0]) for at in range(count)])
    assert found["sample.vectors"].status is status


def test_vectors_that_differ_in_one_number_are_not_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sampled(monkeypatch, [record(at, [1.0, 0.0, at / 1e4]) for at in range(20)])
    assert found["sample.vectors"].status is Status.OK


@pytest.mark.parametrize(("bad", "status"), [(2, Status.WARNING), (3, Status.FAULT)])
def test_more_bad_records_than_the_limit_allows_are_a_fault(
    monkeypatch: pytest.MonkeyPatch, bad: int, status: Status
) -> None:
    messages = [record(at, UNIT[at] if at >= bad else [1.0]) for at in range(20)]
    found = sampled(monkeypatch, messages)
    assert (found["sample"].status, found["sample.reason vectors dimension"].status) == (status, status)
    assert found["sample.reason vectors dimension"].result.startswith(f"{bad} records; the first is vectors/0 at 0: ")
    assert "ops/records.md" in found["sample.reason vectors dimension"].advice


def test_keys_that_are_not_the_vectors_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [record(at, vector, b"other" if at in (4, 5) else b"a") for at, vector in enumerate(UNIT)]
    found = sampled(monkeypatch, messages)["sample.keys"]
    assert found.status is Status.WARNING
    assert found.result.startswith("2 records have a Kafka key")
    assert found.result.endswith(
        ": vectors/0 at 4 (Kafka key other, vector a), vectors/0 at 5 (Kafka key other, vector a)"
    )


def test_only_the_first_keys_that_are_not_the_vectors_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [record(at, vector, b"\xff\n") for at, vector in enumerate(UNIT)]
    found = sampled(monkeypatch, messages)["sample.keys"]
    assert (found.result.startswith("20 records"), found.result.count("(Kafka key ")) == (True, 5)
    assert found.result.endswith("vectors/0 at 4 (Kafka key \ufffd, vector a)")


def test_reading_stops_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10_000, 2))  # two seconds a record
    found = sampled(monkeypatch, [record(at, vector) for at, vector in enumerate(UNIT)], lambda: float(next(ticks)))
    assert "there was no time for more" in found["sample"].result
    assert not found["sample"].result.startswith("20 of 20")


def test_each_record_of_a_message_is_judged_and_a_bad_one_is_named_by_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    several = [msgspec.Raw(record(0, vector).value or b"") for vector in UNIT[:4]] + [msgspec.Raw(b"{}")]
    messages = [FakeMessage(0, key=b"k", value=msgspec.json.encode(several)), record(1, UNIT[5])]
    found = sampled(monkeypatch, messages, OSS_VECTORS_RECORDS__MANY="split")
    assert found["sample"].result.startswith(
        "5 of 6 records would be accepted, of 2 messages; 1 would become dead letters"
    )
    assert found["sample.reason vectors malformed"].result.startswith(
        "1 records; the first is vectors/0 at 0 element 4: "
    )
    assert "sample.keys" not in found


def test_suspects_are_counted_by_cause_with_the_first_place(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(at, vector * (1e-9 if at > 17 else 1)) for at, vector in enumerate(UNIT)]
    found = sampled(monkeypatch, [*records, record(20, [1e-40, 1e-40, 1])])
    assert found["sample"].status is Status.OK
    assert found["sample.suspect vectors norm"].status is Status.WARNING
    assert found["sample.suspect vectors norm"].result.startswith(
        "2 records are suspect; the first is vectors/0 at 18: the norm of the vector is 1e-09, the usual one of this route 1"
    )
    assert found["sample.suspect vectors denormal"].result.startswith(
        "1 records are suspect; the first is vectors/0 at 20"
    )
