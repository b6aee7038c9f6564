"""The exceptions: what of them leaves the process, and where an error was raised."""

import pytest

from worker.errors import Reason, RecordError, Refused, place_of


def test_the_public_name_of_an_error_does_not_change_when_its_class_moves() -> None:
    moved = type("Refused", (Refused,), {"__module__": "worker.elsewhere"})
    names = [error.public_name for error in (moved("message"), Refused("message"), RecordError(Reason.KEY, "message"))]
    assert names == ["worker.errors.Refused", "worker.errors.Refused", "worker.errors.RecordError"]


def test_the_place_of_an_error_is_module_line_and_function() -> None:
    with pytest.raises(ValueError, match="here") as raised:
        _fail()
    assert place_of(raised.value) == f"{__name__}:{_fail.__code__.co_firstlineno + 1} in _fail"


def test_an_error_that_was_not_raised_has_no_known_place() -> None:
    assert place_of(ValueError("never raised")) == "a place that is not known"


def test_the_error_of_a_fault_in_the_worker_does_not_quote_the_record() -> None:
    error = RecordError.internal(ValueError("what the record says"))
    assert (error.reason.value, "ValueError" in error.message, "what the record says" in str(error)) == (
        "internal_error",
        True,
        False,
    )


def _fail() -> None:
    raise ValueError("here")
