"""`check` as a whole: order, time, secrets, and the forms of its report."""

import threading
import time
from collections.abc import Iterator

import pytest

from worker import redaction
from worker.errors import FatalError, SettingsError
from worker.tools.check.report import Finding, Status, as_json, as_line, as_summary, fault, ok, skipped, warning, worst
from worker.tools.check.run import findings

SECRET = "a-secret-of-this-test"


def test_sections_are_reported_in_their_order_whichever_ends_first() -> None:
    second_is_done = threading.Event()

    def first() -> Iterator[Finding]:
        assert second_is_done.wait(30)
        yield ok("first", "x", "done")

    def second() -> Iterator[Finding]:
        yield ok("second", "x", "done")
        second_is_done.set()

    assert [one.check for one in findings({"first": first, "second": second})] == ["first", "second"]


def test_a_section_that_does_not_end_is_a_fault_and_hides_no_other() -> None:
    never = threading.Event()

    def hanging() -> Iterator[Finding]:
        yield ok("first", "x", "done")
        never.wait(60)

    def quick() -> Iterator[Finding]:
        yield ok("second", "x", "done")

    began = time.monotonic()
    found = list(findings({"hanging": hanging, "quick": quick}, limit_seconds=0.2))
    never.set()
    assert [(one.check, one.subject, one.status) for one in found] == [
        ("first", "x", Status.OK),
        ("time", "hanging", Status.FAULT),
        ("second", "x", Status.OK),
    ]
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("error", "check", "told"),
    [
        (FatalError("kafka is away"), "failed", "kafka is away"),
        (SettingsError(["one mistake"]), "settings", "one mistake"),
        (ValueError(SECRET), "failed", "the check itself failed: ValueError at "),
    ],
)
def test_an_error_of_a_section_is_a_fault_and_ends_no_other(error: Exception, check: str, told: str) -> None:
    def failing() -> Iterator[Finding]:
        raise error

    def other() -> Iterator[Finding]:
        yield ok("other", "x", "done")

    found = list(findings({"failing": failing, "other": other}))
    assert [(one.check, one.status) for one in found] == [(check, Status.FAULT), ("other", Status.OK)]
    assert found[0].result.startswith(told)
    assert SECRET not in repr(found)


def test_no_text_of_a_finding_holds_a_secret_or_a_line_break() -> None:
    redaction.remember(SECRET)
    found = fault("check", f"subject {SECRET}", f"result\n{SECRET}", f"advice\x1b[31m {SECRET}")
    assert SECRET not in repr(found)
    assert "\n" not in found.result
    assert "\x1b" not in as_line(found)


def test_a_line_has_its_advice_below_it() -> None:
    assert as_line(ok("topic", "vectors", "3 partitions")) == "ok       topic                   vectors: 3 partitions"
    assert as_line(fault("topic", "vectors", "no such topic", "create it")) == (
        "fault    topic                   vectors: no such topic\n         -> create it"
    )


FOUND = [ok("a", "x", "1"), warning("b", "x", "2", "do"), fault("c", "x", "3", "do"), skipped("d", "x", "4")]


def test_the_json_has_the_schema_that_its_docstring_promises() -> None:
    assert as_json(FOUND) == {
        "version": 1,
        "result": "fault",
        "counts": {"ok": 1, "warning": 1, "fault": 1, "skipped": 1},
        "findings": [
            {"check": "a", "subject": "x", "status": "ok", "result": "1", "advice": ""},
            {"check": "b", "subject": "x", "status": "warning", "result": "2", "advice": "do"},
            {"check": "c", "subject": "x", "status": "fault", "result": "3", "advice": "do"},
            {"check": "d", "subject": "x", "status": "skipped", "result": "4", "advice": ""},
        ],
    }


@pytest.mark.parametrize(
    ("found", "expected", "summary"),
    [
        (FOUND, Status.FAULT, "4 checks: 1 fault, 1 warning, 1 not tried"),
        (FOUND[:2], Status.WARNING, "2 checks: 0 faults, 1 warning"),
        (FOUND[:1], Status.OK, "1 checks: 0 faults, 0 warnings"),
        (FOUND[3:], Status.OK, "1 checks: 0 faults, 0 warnings, 1 not tried"),
    ],
)
def test_the_worst_finding_is_the_result(found: list[Finding], expected: Status, summary: str) -> None:
    assert (worst(found), as_summary(found)) == (expected, summary)
