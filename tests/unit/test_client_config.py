"""Errors of the Kafka client in one line."""

import pytest
from kafka import errors

from worker.consumer.client_config import describe, wrongly_advertised
from worker.consumer.client_internals import Unreachable


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.MessageSizeTooLargeError("too large"), "MessageSizeTooLargeError: too large"),
        (errors.MessageSizeTooLargeError(), "MessageSizeTooLargeError"),
        (errors.MessageSizeTooLargeError(None), "MessageSizeTooLargeError"),
        (
            errors.KafkaTimeoutError(errors.MessageSizeTooLargeError(None)),
            "KafkaTimeoutError: MessageSizeTooLargeError",
        ),
        (ValueError("the value is None"), "ValueError: the value is None"),
        (OSError("two\n lines"), "OSError: two lines"),
    ],
)
def test_an_error_has_its_name_and_its_text_once(error: Exception, expected: str) -> None:
    assert describe(error) == expected


@pytest.mark.parametrize(
    ("error", "named", "advice"),
    [
        (None, "", "set advertised.listeners of the brokers"),
        (
            errors.KafkaConnectionError("reset"),
            " (KafkaConnectionError: reset)",
            "set advertised.listeners of the brokers",
        ),
        (
            errors.SaslAuthenticationFailedError("no"),
            " (SaslAuthenticationFailedError: no)",
            "correct kafka.sasl_plain_username and kafka.sasl_plain_password",
        ),
    ],
)
def test_brokers_that_cannot_be_reached_are_named_with_their_last_error(
    error: Exception | None, named: str, advice: str
) -> None:
    found = wrongly_advertised({2: Unreachable("two:9092", error), 1: Unreachable("one:9092", None)})
    beginning = "it answers, and names brokers that cannot be reached: "
    assert found.startswith(f"{beginning}broker 1 at one:9092, broker 2 at two:9092{named}; {advice}")
