"""Pieces of HTML, as element trees."""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

from worker.words import visible


def node(tag: str, *children: "ET.Element | str | None", **attributes: str) -> ET.Element:
    """Return an element with attributes and children. A child that is None is left out.

    Of an attribute's name, a trailing underscore is removed (`class_`), and others become hyphens (`aria_label`).
    """
    made = ET.Element(tag, {name.rstrip("_").replace("_", "-"): visible(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, str) and len(made):
            made[-1].tail = (made[-1].tail or "") + visible(child)
        elif isinstance(child, str):
            made.text = (made.text or "") + visible(child)
        elif child is not None:
            made.append(child)
    return made


def facts_of(facts: Iterable[tuple[str, str]]) -> ET.Element:
    """Return names and values as a list."""
    rows = [node("div", node("dt", name), node("dd", value)) for name, value in facts]
    return node("dl", *rows, class_="facts")


def table_of(headings: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int, name: str) -> ET.Element:
    """Return a table whose first `texts` columns are text and whose others are numbers.

    With more than three columns each row is a card on a phone.
    """
    kinds = ["" if place < texts else "number" for place in range(len(headings))]
    head = [node("th", heading, scope="col", class_=kind) for heading, kind in zip(headings, kinds, strict=True)]
    body = [
        node(
            "tr",
            *(
                node("td", cell, class_=kind, data_label=heading)
                for cell, kind, heading in zip(row, kinds, headings, strict=True)
            ),
        )
        for row in rows
    ]
    return node(
        "table",
        node("thead", node("tr", *head)),
        node("tbody", *body),
        class_=f"{name} cards" if len(headings) > 3 else name,
    )


def section_of(title: str, *children: ET.Element | None, name: str) -> ET.Element:
    """Return a section with a heading; `name` is its class."""
    return node("section", node("h2", title), *children, class_=name)


def more_of(count: int, what: str) -> ET.Element | None:
    """Return a line that says how many more there are, None where there are none."""
    return node("p", f"and {count:,} more {what}", class_="more") if count > 0 else None
