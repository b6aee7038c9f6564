"""The right to write dead letters is denied only where the broker's answer says so plainly."""

from typing import Any

import pytest
from kafka import errors as kafka_errors

from worker.deadletters import rights
from worker.settings.tables import Kafka


def described(operations: list[str] | None) -> list[dict[str, Any]]:
    return [
        {"name": "other", "authorized_operations": []},
        {"name": "vectors.dlq", "authorized_operations": operations},
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (described(["READ", "DESCRIBE", "WRITE"]), True),
        (described(["READ", "DESCRIBE"]), False),
        (described(["READ"]), None),
        (described([]), None),
        (described(None), None),
        ([{"name": "vectors.dlq"}], None),
        ([], None),
    ],
    ids=["may", "may not", "not even described", "nothing", "not said", "an old broker", "no topic"],
)
def test_a_right_is_denied_only_where_the_broker_fills_it_in(
    monkeypatch: pytest.MonkeyPatch, answer: list[dict[str, Any]], expected: bool | None
) -> None:
    monkeypatch.setattr(rights, "_describe", lambda *_: answer)
    assert rights.may_write(Kafka(), "vectors.dlq") is expected


@pytest.mark.parametrize(
    "error",
    [kafka_errors.IncompatibleBrokerVersion("old"), kafka_errors.KafkaTimeoutError("away"), TypeError("unforeseen")],
    ids=lambda error: type(error).__name__,
)
def test_where_the_broker_cannot_be_asked_the_right_is_unknown(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(rights, "_describe", fail)
    assert rights.may_write(Kafka(), "vectors.dlq") is None
