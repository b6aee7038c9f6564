"""The runbook as those who follow it see it: sections, and in each the commands and queries that it tells to type."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.support.markdown import ROOT

TEXT: Final = (ROOT / "ops/runbook.md").read_text(encoding="utf-8")
PROGRAMS: Final = re.compile(
    r"(?:kafka-[a-z-]+\.sh|oss-vectors-worker|python3?|curl|kubectl|docker|sudo|systemctl|journalctl|ss|dmesg|helm) \S"
)
QUERY: Final = re.compile(r"(?=.*\b(?:oss_vectors|process)_\w)(?=.*[({=<>]).*")
"""A query in a sentence: more than the name of a metric."""


@dataclass(frozen=True)
class Code:
    """A block of code, or code within a sentence, whose language is empty."""

    section: str
    language: str
    text: str


def codes(text: str = TEXT) -> Iterator[Code]:
    """Yield all code of the page, from top to bottom."""
    section = language = ""
    block: list[str] = []
    prose: list[str] = []
    is_block = False

    def sentences() -> Iterator[Code]:
        spans = re.findall(r"`([^`]+)`", "\n".join(prose))
        prose.clear()
        for span in spans:
            yield Code(section, "", " ".join(span.split()))

    for line in text.splitlines():
        if fence := re.match(r" *```(\w*)$", line):
            yield from sentences()
            if is_block:
                yield Code(section, language, "\n".join(block))
                block = []
            is_block, language = not is_block, fence[1]
        elif is_block:
            block.append(line.strip())
        elif heading := re.match(r"#+ (.+)$", line):
            yield from sentences()
            section = heading[1]
        else:
            prose.append(line)
    yield from sentences()


@dataclass(frozen=True)
class Command:
    """A command that a section tells to type."""

    section: str
    text: str


def commands(text: str = TEXT) -> list[Command]:
    """Return all commands, once in each section: each line of its blocks, and what its sentences name whole."""
    found: dict[Command, None] = {}
    for code in codes(text):
        if code.language == "sh":
            found |= dict.fromkeys(Command(code.section, line) for line in code.text.splitlines())
        elif not code.language and PROGRAMS.match(code.text):
            found[Command(code.section, code.text)] = None
    return list(found)


def queries(text: str = TEXT) -> list[str]:
    """Return all queries for Prometheus, each once."""
    found: dict[str, None] = {}
    for code in codes(text):
        if code.language == "promql":
            found |= dict.fromkeys(code.text.splitlines())
        elif not code.language and QUERY.fullmatch(code.text):
            found[code.text] = None
    return list(found)


def blocks(section: str, language: str) -> list[str]:
    """Return a section's blocks of code in a language."""
    return [code.text for code in codes() if (code.section, code.language) == (section, language)]
