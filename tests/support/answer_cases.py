"""The answers of `tests/cases/answers.jsonl`, which services, proxies and firewalls have really given."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.emulator import Fault

FILE = Path(__file__).parents[1] / "cases" / "answers.jsonl"
DRIP_SECONDS = 0.7


class AnswerCase(NamedTuple):
    """One answer, and what the worker makes of it."""

    name: str
    status: int
    headers: dict[str, str]
    body: str
    must: str
    operation: str
    also: str
    is_slow: bool

    def fault(self, **more: Any) -> Fault:
        """The emulator's rule that gives this answer."""
        rule: Fault = {
            "operation": self.operation,
            "status": self.status,
            "headers": self.headers,
            "content": self.body,
        }
        if self.is_slow:
            rule |= {"drip": "headers", "drip_seconds": DRIP_SECONDS}
        return {**rule, **more}  # type: ignore[typeddict-item]  # the caller gives fields of a rule


def read_cases() -> dict[str, AnswerCase]:
    """Return the cases by name."""
    cases = [_case(json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines()]
    return {case.name: case for case in cases}


def _case(row: dict[str, Any]) -> AnswerCase:
    parts = row["body"] if isinstance(row["body"], list) else [row["body"]]
    body = "".join(part if isinstance(part, str) else part["repeat"] * part["times"] for part in parts)
    operation = row.get("operation", "PutVectors")
    also, is_slow = row.get("also", ""), row.get("how") == "slow"
    return AnswerCase(row["name"], row["status"], row["headers"], body, row["must"], operation, also, is_slow)
