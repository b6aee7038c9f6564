"""Errors of the Kafka client in one line."""

import pytest
from kafka import errors

from worker.consumer.client_config import describe


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
