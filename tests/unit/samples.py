"""Messages, settings and clocks for tests that need no broker and no service."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from worker import redaction
from worker.delivery.batch import Item
from worker.errors import Reason
from worker.ledger import Assignment, Ledger, Partition
from worker.ports import DeadLetter
from worker.records.target import Target

TARGET = Target("docs", 3, "cosine", frozenset({"text"}))

NEEDED = {
    "OSS_VECTORS_ROUTES": "vectors:docs",
    "OSS_VECTORS_OSS__REGION": "cn-hangzhou",
    "OSS_VECTORS_OSS__BUCKET": "my-bucket",
    "OSS_VECTORS_OSS__ACCOUNT_ID": "123456789",
}
"""The environment with the settings that have no default."""


def line(key: str, vector: list[float] | None = None, **fields: Any) -> bytes:
    """Return a record as a line."""
    return json.dumps({"key": key, "data": {"float32": vector or [1.0, 2.0, 3.0]}} | fields).encode()


class FakeClock:
    """A clock that moves when it is told to; seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@dataclass(frozen=True)
class FakeMessage:
    """A message as the consumer gives it."""

    offset: int = 0
    timestamp: int = 1_700_000_000_123
    key: bytes | None = b"a"
    value: bytes | None = b"{}"
    headers: Sequence[tuple[str, bytes | None]] = ()


@dataclass(frozen=True)
class FakeTracked:
    """A record as far as the ledger looks at it."""

    assignment: Assignment
    offset: int
    size: int = 0
    element: int | None = None


def forget_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no secret be known until the end of the test: one of another test would be hidden for that reason alone."""
    monkeypatch.setattr(redaction, "_kept", set())
    monkeypatch.setattr(redaction, "_renewed", {})
    monkeypatch.setattr(redaction, "_known", (None, 0))


def opened(ledger: Ledger, topic: str = "vectors", partition: int = 0, position: int = 0) -> Assignment:
    """Assign and open a partition."""
    assignment = ledger.assign(Partition(topic, partition))
    ledger.open(assignment, position, None)
    return assignment


def item(assignment: Assignment, offset: int, key: str, fragment: bytes | None) -> Item:
    """Return a record on its way to the index."""
    return Item(assignment, FakeMessage(offset), key, fragment, 0)


def rejected(assignment: Assignment, message: FakeMessage | None = None, **fields: Any) -> DeadLetter:
    """Return the dead letter of a record with too few numbers, with `fields` in place of its own."""
    made = DeadLetter(
        assignment,
        message or FakeMessage(7),
        100,
        "docs",
        Reason.DIMENSION,
        "2 numbers, not 3",
        "worker.record.Decoder",
        "worker.errors.RecordError",
    )
    return msgspec.structs.replace(made, **fields)
