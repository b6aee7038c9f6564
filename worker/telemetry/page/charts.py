"""The page's charts, as SVG."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from typing import Final

from worker.ledger import Outcome
from worker.telemetry.page.figures import STEP_SECONDS, STEPS, Points
from worker.telemetry.page.html import node, section_of
from worker.telemetry.page.view import View
from worker.telemetry.page.words import count_of, duration, held, plain, rate_of

_WIDTH: Final = STEPS * 2  # of a chart, in its own units: two for a step
_HEIGHT: Final = 100
_USUAL_SHARE: Final = 0.9  # of the values above 0 are no spike
_SPIKE: Final = 4.0  # times the usual value, from which a spike is cut off
_ROOM: Final = 1.5
_AREA: Final = "M0 0h16v10H0z"  # what a legend shows of an area, and of a line
_LINE: Final = "M0 5h16"


def _x(seconds_ago: float) -> str:
    return f"{max(0.0, _WIDTH - seconds_ago / STEP_SECONDS * 2):.0f}"


def _chart(label: str, scale: Sequence[str], *paths: ET.Element) -> ET.Element:
    """Return a chart with the labels of its horizontal lines, from the top down."""
    lines = [
        node("path", d=f"M0 {_HEIGHT * place / (len(scale) - 1):.1f}H{_WIDTH}", class_="grid")
        for place in range(len(scale))
    ]
    drawing = node(
        "svg",
        *lines,
        *paths,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
    labels = node("div", *(node("span", text) for text in scale), class_="scale", aria_hidden="true")
    minutes = f"{STEPS * STEP_SECONDS / 60:.0f} min ago"
    times = node("div", node("span", minutes), node("span", "now"), class_="times", aria_hidden="true")
    return node("div", labels, drawing, times, class_="chart")


def throughput_of(view: View) -> ET.Element:
    """Return the chart of records a second: the outcomes stacked in the order of the legend, and what is published as a line."""
    steps = list(view.history.steps)
    ages = [view.now - step.at for step in steps]
    bottom = [0.0] * len(steps)
    stacked: list[tuple[Outcome, list[float], list[float]]] = []
    for outcome in Outcome:
        top = [low + step.rates.get((outcome.value,), 0.0) for low, step in zip(bottom, steps, strict=True)]
        if top != bottom:
            stacked.append((outcome, bottom, top))
        bottom = top
    published = [step.published for step in steps]
    most, note = _scale_of([*bottom, *(value for value in published if value is not None)])
    paths = [node("path", d=_area(ages, low, high, most), class_=outcome.value) for outcome, low, high in stacked]
    if any(value is not None for value in published):
        paths.append(node("path", d=_line(zip(ages, published, strict=True), most), class_="published"))
    scale = [plain(most), plain(most / 2), "0"]
    shown = [Outcome.PUT, *(outcome for outcome, _, _ in stacked if outcome is not Outcome.PUT)]
    legend = [_legend(outcome.value, _AREA, rate_of(view.a_second(outcome))) for outcome in reversed(shown)]
    if view.flow.published is not None:
        legend.insert(0, _legend("published", _LINE, rate_of(view.flow.published)))
    chart = _chart(
        f"records published and settled a second, by outcome, at most {plain(max(bottom, default=0.0))}", scale, *paths
    )
    return section_of("Records a second", chart, note, node("ul", *legend, class_="legend"), name="throughput")


def lag_of(view: View) -> ET.Element:
    """Return the chart of the lag of the partitions that this process owns."""
    steps = list(view.history.steps)
    points = [(view.now - step.at, step.lag) for step in steps]
    most, note = _scale_of([lag for _, lag in points if lag is not None])
    now = count_of(view.lag)
    chart = _chart(
        f"lag, now {now}", [plain(most), plain(most / 2), "0"], node("path", d=_line(points, most), class_="lag")
    )
    legend = [_legend("lag", _LINE, now)]
    return section_of("Lag, records", chart, note, node("ul", *legend, class_="legend"), name="lag-chart")


def _scale_of(values: Sequence[float]) -> tuple[float, ET.Element | None]:
    """Return the highest value of a scale, and a line that says so where a short spike is cut off: it would flatten the rest."""
    highest = max(values, default=0.0)
    above = sorted(value for value in values if value > 0.0)
    usual = above[math.floor(_USUAL_SHARE * (len(above) - 1))] if above else 0.0
    if highest <= _SPIKE * usual:
        return _round_up(highest), None
    return _round_up(_ROOM * usual), node(
        "p", f"A short spike is cut off: at most {plain(round(highest))}.", class_="of"
    )


def _area(ages: Sequence[float], low: Sequence[float], high: Sequence[float], most: float) -> str:
    def places(values: Sequence[float]) -> list[str]:
        return [f"{_x(ago)} {_y(value, most)}" for ago, value in zip(ages, values, strict=True)]

    return "M" + "L".join([*places(high), *reversed(places(low))]) + "Z"


def _y(value: float, most: float) -> str:
    return f"{max(0.0, _HEIGHT - _HEIGHT * value / most):.0f}"


def _line(points: Iterable[tuple[float, float | None]], most: float) -> str:
    return _path((ago, None if value is None else _y(value, most)) for ago, value in points)


def _path(points: Iterable[tuple[float, str | None]]) -> str:
    """Return a path that is broken where there is no value; a single value between two breaks is a dot."""
    drawn = []
    is_open = False
    for ago, height in points:
        if height is None:
            is_open = False
            continue
        place = f"{_x(ago)} {height}"
        drawn.append(f"L{place}" if is_open else f"M{place}h0")
        is_open = True
    return "".join(drawn)


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, ..., at least 1."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def latency_of(view: View) -> ET.Element:
    """Return the chart of the record latency, on a scale of powers of ten, from 10 ms to a second at least."""
    steps = list(view.history.steps)
    highest = max((step.p99 for step in steps if step.p99 is not None), default=1.0)
    decades = max(2, math.ceil(math.log10(max(highest, 1e-9))) + 2)
    scale = [*(f"{10**place:,} s" for place in range(decades - 2, -1, -1)), "100 ms", "10 ms"]
    lines = {
        "p99": [(view.now - step.at, step.p99) for step in steps],
        "p50": [(view.now - step.at, step.p50) for step in steps],
    }
    paths = [node("path", d=_quantile_line(points, decades), class_=name) for name, points in lines.items()]
    now = {"p99": duration(view.latency(0.99)), "p50": duration(view.latency(0.5))}
    legend = [_legend(name, _LINE, value) for name, value in now.items()]
    label = f"record latency, now p50 {now['p50']}, p99 {now['p99']}"
    chart = _chart(label, scale, *paths)
    return section_of("Record latency", chart, node("ul", *legend, class_="legend"), name="latency")


def _quantile_line(points: Points, decades: int) -> str:
    def height(value: float) -> str:
        return f"{_HEIGHT - _HEIGHT * (math.log10(max(value, 0.01)) + 2) / decades:.0f}"

    return _path((ago, None if value is None else height(value)) for ago, value in points)


def _legend(name: str, drawn: str, value: str) -> ET.Element:
    """Return an entry of a legend: a sample of what is drawn, its name, and its value of the last minute."""
    swatch = node("svg", node("path", d=drawn, class_=name), viewBox="0 0 16 10", aria_hidden="true")
    return node("li", swatch, node("span", name), node("b", held(value)))
