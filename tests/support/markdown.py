"""What tests read of the Markdown pages: headings, anchors, links, tables and code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_NOT_OURS: Final = {"build", "dist", "node_modules"}
"""Folders of the checkout that tools fill, beside those whose name begins with a dot."""


def pages() -> list[Path]:
    """Return every Markdown page of the checkout."""
    return [
        path
        for path in sorted(ROOT.rglob("*.md"))
        if not any(part.startswith(".") or part in _NOT_OURS for part in path.relative_to(ROOT).parts)
    ]


def prose_of(text: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)


def headings(text: str) -> list[str]:
    """Return the headings of a page, without what only looks like one in its code."""
    return re.findall(r"^#{1,6} (.+)$", prose_of(text), re.MULTILINE)


def slug(heading: str) -> str:
    """Return the anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken_links(page: Path) -> Iterator[str]:
    """Yield each relative link of a page whose file, folder or anchor is not there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page.read_text(encoding="utf-8"))):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", file):
            continue
        path = (page.parent / file).resolve() if file else page
        anchors = {slug(heading) for heading in headings(path.read_text("utf-8"))} if path.suffix == ".md" else set()
        if not path.exists() or (anchor and anchor not in anchors):
            yield target


def section(text: str, heading: str) -> str:
    """Return what is below a heading, up to the next one of any level."""
    return re.split(r"^#+ ", text.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """Return the code-marked names in the first column of the tables in `text`."""
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
