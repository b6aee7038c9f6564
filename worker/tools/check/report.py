"""What `check` finds, as lines for people and as JSON for programs.

The JSON is one object:

    {"version": 1,
     "result": "ok" | "warning" | "fault",
     "counts": {"ok": 21, "warning": 1, "fault": 0, "skipped": 2},
     "findings": [{"check": "topic.right", "subject": "vectors", "status": "ok" | "warning" | "fault" | "skipped",
                   "result": "this user may READ", "advice": ""}, ...]}

`check` is a fixed name of words and dots, `subject` says which of several (a topic, an index, host:port). The pair is what a
program relies on, with `status`. `result` and `advice` are text for people and may change. Findings come in the order in which one
thing needs the other. Within one version, fields and checks are added, and none changes its meaning.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from worker.words import clean

VERSION: Final = 1
_TEXT_CHARACTERS: Final = 1000


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"  # a run works, and somebody should know this
    FAULT = "fault"  # a run will not work as it should
    SKIPPED = "skipped"  # it could not be tried, or the answer is not known


class Finding(NamedTuple):
    """One thing that was tried. `check` is a fixed name, `subject` says which of several, `advice` what to do."""

    check: str
    subject: str
    status: Status
    result: str
    advice: str = ""


def ok(check: str, subject: str, result: str) -> Finding:
    """Return what is as it should be."""
    return _finding(check, subject, Status.OK, result)


def warning(check: str, subject: str, result: str, advice: str) -> Finding:
    """Return what somebody should know."""
    return _finding(check, subject, Status.WARNING, result, advice)


def fault(check: str, subject: str, result: str, advice: str) -> Finding:
    """Return what keeps a run from working."""
    return _finding(check, subject, Status.FAULT, result, advice)


def skipped(check: str, subject: str, result: str) -> Finding:
    """Return what could not be tried."""
    return _finding(check, subject, Status.SKIPPED, result)


def _finding(check: str, subject: str, status: Status, result: str, advice: str = "") -> Finding:
    """Return a finding whose words, some of them a broker's or a record's, are fit for a line and hold no secret."""
    return Finding(
        check,
        clean(subject, _TEXT_CHARACTERS),
        status,
        clean(result, _TEXT_CHARACTERS),
        clean(advice, _TEXT_CHARACTERS),
    )


def worst(findings: Sequence[Finding]) -> Status:
    """Return the worst status of all: a fault, a warning, or ok."""
    found = {finding.status for finding in findings}
    return next((status for status in (Status.FAULT, Status.WARNING) if status in found), Status.OK)


def as_line(finding: Finding) -> str:
    """Return a finding for a terminal; a second line says what to do."""
    line = f"{finding.status.value:<8} {finding.check:<23} {finding.subject}: {finding.result}"
    return f"{line}\n{'':<8} -> {finding.advice}" if finding.advice else line


def as_summary(findings: Sequence[Finding]) -> str:
    """Return the last line for a terminal."""
    counts = _counts(findings)
    parts = [_counted(counts["fault"], "fault"), _counted(counts["warning"], "warning")]
    if counts["skipped"]:
        parts.append(f"{counts['skipped']} not tried")
    return f"{len(findings)} checks: {', '.join(parts)}"


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the report for programs."""
    return {
        "version": VERSION,
        "result": worst(findings).value,
        "counts": _counts(findings),
        "findings": [finding._asdict() for finding in findings],
    }


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {status.value: sum(finding.status is status for finding in findings) for status in Status}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
