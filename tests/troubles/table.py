"""The table: each trouble with its first sign, before and after."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tests.troubles.watch import Seen

HEAD: Final = (
    "Trouble",
    "First sign before, s",
    "First sign, s",
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
    earlier = {one["name"]: Seen(**one) for one in (before or {}).get("troubles", [])}
    limit_before = float((before or {}).get("trouble_seconds", 0.0))
    for one in seen:
        then = earlier.get(one.name)
        lines.append(
            _row(
                [
                    one.name,
                    "" if then is None else _first(then, limit_before),
                    _first(one, seconds),
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
    return "\n".join([*lines, "", _totals("Now", seen), *([_totals("Before", earlier.values())] if earlier else [])])


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


def _totals(when: str, seen: Iterable[Seen]) -> str:
    everything = list(seen)
    wanted = [one for one in everything if one.right]
    in_time = [one for one in wanted if one.first_right is not None and one.first_right <= 300]
    named = [one for one in wanted if one.first_right is not None]
    pages = [one for one in everything if one.recovery_pages]
    left = [one for one in everything if one.left]
    return (
        f"{when}: {len(named)} of {len(wanted)} troubles had a sign, {len(in_time)} within five minutes. "
        f"Recoveries that paged: {len(pages)} of {len(everything)}. Alerts still firing at the end: {len(left)}.\n"
    )
