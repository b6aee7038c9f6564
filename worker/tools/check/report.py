"""What `check` finds, as lines for people and as JSON for programs."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

VERSION: Final = 1
"""Of the JSON: fields and checks are added, and none changes its meaning, while this stays."""


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"  # a run works, and somebody should know this
    FAULT = "fault"  # a run will not work as it should
    SKIPPED = "skipped"  # it could not be tried


class Finding(NamedTuple):
    """One thing that was tried. `check` is a fixed name, `subject` says which of several, `advice` what to do."""

    check: str
    subject: str
    status: Status
    result: str
    advice: str = ""


def ok(check: str, subject: str, result: str) -> Finding:
    """Return what is as it should be."""
    return Finding(check, subject, Status.OK, result)


def warning(check: str, subject: str, result: str, advice: str) -> Finding:
    """Return what somebody should know."""
    return Finding(check, subject, Status.WARNING, result, advice)


def fault(check: str, subject: str, result: str, advice: str) -> Finding:
    """Return what keeps a run from working."""
    return Finding(check, subject, Status.FAULT, result, advice)


def skipped(check: str, subject: str, result: str) -> Finding:
    """Return what could not be tried."""
    return Finding(check, subject, Status.SKIPPED, result)


def worst(findings: Sequence[Finding]) -> Status:
    """Return the worst status of all: a fault, a warning, or ok."""
    found = {finding.status for finding in findings}
    return next((status for status in (Status.FAULT, Status.WARNING) if status in found), Status.OK)


def as_line(finding: Finding) -> str:
    """Return a finding for a terminal; a second line says what to do."""
    line = f"{finding.status.value:<8} {finding.check:<22} {finding.subject}: {finding.result}"
    return f"{line}\n{'':<8} -> {finding.advice}" if finding.advice else line


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the report for programs."""
    counts = {status.value: sum(finding.status is status for finding in findings) for status in Status}
    return {
        "version": VERSION,
        "result": worst(findings).value,
        "counts": counts,
        "findings": [finding._asdict() for finding in findings],
    }
