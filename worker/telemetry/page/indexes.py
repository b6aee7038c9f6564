"""The page's table of indexes, where there are several: what each gets through, its pace, and whether it is blocked."""

import xml.etree.ElementTree as ET
from typing import Final

from worker.ports import Operation
from worker.telemetry.page.html import more_of, section_of, table_of
from worker.telemetry.page.view import View
from worker.telemetry.page.words import NONE, count_of

INDEXES_SHOWN: Final = 70


def indexes_of(view: View) -> ET.Element | None:
    """Return the table, those that are blocked first; None where there is one index."""
    limits = view.figures.by("in_flight_limit", "index")
    if len(limits) < 2:
        return None
    names = sorted((index for (index,) in limits), key=lambda name: (not _blocks(view, name), name))
    in_flight, rates = view.figures.by("requests_in_flight", "index"), view.figures.by(_RATE, "index")
    rows = [
        [
            index,
            ", ".join(_blocks(view, index)) or "no",
            count_of(_answers(view, index, accepted=True)),
            count_of(_answers(view, index, accepted=False)),
            f"{in_flight.get((index,), 0.0):.0f} of {limits[index,]:.0f}",
            f"{rates.get((index,), 0.0):,.0f}" if rates.get((index,)) else NONE,
        ]
        for index in names[:INDEXES_SHOWN]
    ]
    headings = ["index", "blocked", "requests accepted, last minute", "others", "in flight", "vectors a second, limit"]
    table = table_of(headings, rows, texts=2, name="indexes")
    return section_of(
        f"Indexes ({len(names):,})", table, more_of(len(names) - INDEXES_SHOWN, "indexes"), name="indexes"
    )


_RATE: Final = "rate_limit_vectors_per_second"
_WRITES: Final = frozenset({Operation.PUT.value, Operation.DELETE.value})


def _blocks(view: View, index: str) -> list[str]:
    return sorted({block.reason.value for block in view.messages if block.of_index == index})


def _answers(view: View, index: str, *, accepted: bool) -> float | None:
    """Return the requests to write of the last minute that were accepted, or were not."""
    keys = [
        key
        for key in view.current.counts
        if key[:2] == ("requests", index) and key[2] in _WRITES and key[3].startswith("2") is accepted
    ]
    return sum(view.in_last_minute(key) or 0.0 for key in keys)
