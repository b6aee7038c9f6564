"""The table: each trouble with its first sign, before and after."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tests.troubles.watch import Seen

IN_TIME_SECONDS: Final = 300.0
HEAD: Final = (
    "Trouble",
    "First right alert before, s",
    "First right alert, s",
    "First sign of any kind before, s",
    "First sign of any kind, s",
    "Alerts that fired (s)",
    "Pages sent (s)",
    "`/readyz` not ready, s",
    "Page not green, s",
    "`/readyz` says",
    "The page says",
    "Pages of the recovery",
)


def table(seen: Sequence[Seen], seconds: float, before: Mapping[str, Any] | None = None) -> str:
    """Return the Markdown; `seconds` is how long each trouble lasted, `before` the JSON of an earlier run."""
    lines = [_row(HEAD), _row(["---"] * len(HEAD))]
    earlier = _as_now([Seen(**one) for one in (before or {}).get("troubles", [])], seen)
    limit_before = float((before or {}).get("trouble_seconds", 0.0))
    for one in seen:
        then = earlier.get(one.name)
        lines.append(
            _row(
                [
                    one.name,
                    "" if then is None else _first(then, limit_before),
                    _first(one, seconds),
                    "" if then is None else _number(then.first_of_any),
                    _number(one.first_of_any),
                    _alerts(one),
                    _times(one.pages),
                    _number(one.readyz_seconds),
                    _number(one.page_seconds),
                    one.readyz,
                    one.page,
                    ", ".join(one.recovery_pages) or "none",
                ]
            )
        )
    totals = [_totals("Now", seen), *([_totals("Before", list(earlier.values()))] if earlier else [])]
    return "\n".join([*lines, "", *totals])


def _as_now(earlier: Iterable[Seen], seen: Iterable[Seen]) -> dict[str, Seen]:
    """Return by name what was seen earlier, judged by what is right now."""
    right = {one.name: one.right for one in seen}
    return {one.name: replace(one, right=right[one.name]) for one in earlier if one.name in right}


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    shown = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return shown if len(shown) <= 240 else f"{shown[:237]}..."


def _first(one: Seen, limit_seconds: float) -> str:
    if one.failure.startswith(("start:", "begin:")):
        return f"not brought about: {one.failure}"
    if not one.right:
        return "none, as it should be" if not one.alerts else "one that should not be"
    return f"none in {limit_seconds:.0f}" if one.first_right is None else f"{one.first_right:.0f}"


def _number(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.0f}"


def _alerts(one: Seen) -> str:
    shown = []
    for name, at in sorted(one.alerts.items(), key=lambda item: item[1]):
        marks = [] if one.is_right(name) else ["another"]
        marks += ["silenced"] if name in one.suppressed else []
        shown.append(f"{name} {at:.0f}" + (f" ({', '.join(marks)})" if marks else ""))
    return ", ".join(shown) or "none"


def _times(told: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {at:.0f}" for name, at in sorted(told.items(), key=lambda item: item[1])) or "none"


def _totals(when: str, seen: Sequence[Seen]) -> str:
    wanted = [one for one in seen if one.right]
    counts = [
        f"an alert that names it: {_with(wanted, lambda one: one.first_right is not None)}",
        f"within five minutes: {_with(wanted, lambda one: _is_in_time(one.first_right))}",
        f"a sign of any kind within five minutes: {_with(wanted, lambda one: _is_in_time(one.first_of_any))}",
        f"paged by more than one alert: {_with(seen, lambda one: len(one.pages) > 1)}",
        f"recoveries that paged: {_with(seen, lambda one: bool(one.recovery_pages))}",
        f"alerts still firing at the end: {_with(seen, lambda one: bool(one.left))}",
    ]
    return f"{when}: {', '.join(counts)}.\n"


def _is_in_time(at: float | None) -> bool:
    return at is not None and at <= IN_TIME_SECONDS


def _with(seen: Sequence[Seen], is_meant: Callable[[Seen], bool]) -> str:
    return f"{sum(map(is_meant, seen))} of {len(seen)}"
