"""PromQL as the files under ops/ have it: the dashboard's queries, the rules' expressions, and their parts."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    LabelModifierType,
    MatrixSelector,
    VectorSelector,
)

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads(
    (ROOT / "ops/grafana/dashboards/oss-vectors-worker.json").read_text(encoding="utf-8")
)
OPAQUE = r'"(?:[^"\\]|\\.)*"|\{[^}]*\}'


@dataclass(frozen=True)
class Query:
    """A query of the dashboard. `name` tells its panel; `instant` asks for the end of the time shown alone."""

    name: str
    expression: str
    legend: str
    instant: bool

    def filled(self, values: Mapping[str, str]) -> str:
        """The expression with its variables replaced, the longest names first."""
        return filled(self.expression, values)


def filled(text: str, values: Mapping[str, str]) -> str:
    """Replace Grafana's variables, the longest names first."""
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(f"${name}", values[name])
    return text


def panels() -> list[dict[str, Any]]:
    """All panels, those of collapsed rows too, without the rows."""
    found: list[dict[str, Any]] = []
    for panel in DASHBOARD["panels"]:
        found += panel["panels"] if panel["type"] == "row" else [panel]
    return found


def queries() -> list[Query]:
    """The queries of all panels and annotations."""
    found = [
        Query(f"{panel['title']}: {target['refId']}", target["expr"], target.get("legendFormat", ""), target["instant"])
        for panel in panels()
        for target in panel["targets"]
    ]
    marks = DASHBOARD["annotations"]["list"]
    return found + [Query(f"annotation {one['name']}", one["expr"], one["titleFormat"], False) for one in marks]


@dataclass(frozen=True)
class Rule:
    """A recording or alerting rule. `asked` are the queries in the texts of an alert's annotations."""

    name: str
    expression: str
    asked: tuple[str, ...] = ()


def rule_files() -> dict[str, dict[str, Any]]:
    """The files of rules by their name, as they are read."""
    files = sorted((ROOT / "ops/prometheus/rules").glob("*.yml"))
    return {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}


def rules() -> list[Rule]:
    """All rules."""
    return [
        Rule(rule.get("record") or rule["alert"], rule["expr"], _asked(rule))
        for content in rule_files().values()
        for group in content["groups"]
        for rule in group["rules"]
    ]


def _asked(rule: Mapping[str, Any]) -> tuple[str, ...]:
    texts = " ".join(rule.get("annotations", {}).values())
    found = re.findall(r'printf "([^"]*=%q[^"]*)"|query "([^"]*)"', texts)
    return tuple((formatted or plain).replace("=%q", '=~".+"') for formatted, plain in found)


# -- parts


def unfiltered(expression: str) -> str:
    """The expression with nothing in it that leaves out series for their values.

    A comparison answers 0 or 1 instead, `unless` becomes `and`, what looks for missing series looks for them, and what looks at
    some minutes ago looks at now. So a query of a healthy system has an answer if, and only if, every name and label in it is right.
    """

    def replaced(found: re.Match[str]) -> str:
        opaque, comparison, ago, word = found.groups()
        if comparison:
            return f"{comparison} bool "
        if ago:
            return ""
        return {"unless": "and", "absent": "count", "absent_over_time": "last_over_time"}.get(word, opaque or word)

    return re.sub(rf"({OPAQUE})|([=!]=|[<>]=?)(?:\s*bool\b)?|(\s+offset \d+[smhd])|(\b[a-z_]+\b)", replaced, expression)


def parts(expression: str) -> dict[str, frozenset[str]]:
    """The expression and every part of it that is a vector, with the labels that it is told to have."""
    found: dict[str, frozenset[str]] = {}

    def note(node: Expr, labels: Iterable[str]) -> None:
        if isinstance(node, AggregateExpr | BinaryExpr | Call | VectorSelector):
            found[str(node)] = found.get(str(node), frozenset()) | frozenset(labels)

    def visit(node: Expr) -> None:
        note(node, _aggregated_by(node))
        if isinstance(node, BinaryExpr):
            for side in (node.lhs, node.rhs):
                note(side, _matched_on(node))

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def _aggregated_by(node: Expr) -> Iterable[str]:
    if not isinstance(node, AggregateExpr) or node.modifier is None:
        return ()
    return node.modifier.labels if node.modifier.type == AggModifierType.By else ()


def _matched_on(node: BinaryExpr) -> Iterable[str]:
    if node.modifier is None or node.modifier.matching is None:
        return ()
    return node.modifier.matching.labels if node.modifier.matching.type == LabelModifierType.Include else ()


@dataclass(frozen=True)
class Selector:
    """A selector in its place: over a range or not, and what it is aggregated by, the innermost first."""

    name: str
    ranged: bool
    within: tuple[str, ...]


def selectors(expression: str) -> list[Selector]:
    """All selectors of an expression."""
    found: list[Selector] = []
    within: list[str] = []
    ranged: list[bool] = []

    def enter(node: Expr) -> None:
        if isinstance(node, AggregateExpr):
            within.append(_head(node))
        elif isinstance(node, MatrixSelector):
            ranged.append(True)
        elif isinstance(node, VectorSelector):
            found.append(Selector(str(node.name), bool(ranged), tuple(reversed(within))))

    def leave(node: Expr) -> None:
        if isinstance(node, AggregateExpr):
            within.pop()
        elif isinstance(node, MatrixSelector):
            ranged.pop()

    promql_parser.walk(promql_parser.parse(expression), enter, leave)
    return found


def _head(node: AggregateExpr) -> str:
    labels = "" if node.modifier is None else f" by ({', '.join(node.modifier.labels)})"
    return f"{node.op}{labels}"
