"""The language of paths: where a part of a record is in its message. `records.fields` is written in it.

    payload.vector          a name in a name
    data[0].embedding       an element of a list, from 0
    "doc.id".text           a name that has a dot, a bracket or a brace in it, in double quotes
    $kafka.key              the Kafka key
    $header.NAME            a header of the message: all that follows is its name
    $attribute.NAME         an attribute of a CloudEvent, likewise
    $kafka.value            the value as a whole, which is a vector then and nothing else
    {tenant}/{id}           a template: text with paths in braces; {{ and }} are braces

A path is parsed once, when a route is made. This module reads no messages: `leaves.py` does.
"""

import re
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

Step: TypeAlias = str | int  # a name, or the place of an element

MOST_STEPS: Final = 16
ATTRIBUTE_PREFIX: Final = "ce_"  # of the header that has an attribute of a CloudEvent
_NAME: Final = re.compile(r'[^.\[\]{}"$\\\x00-\x1f][^.\[\]{}"\\\x00-\x1f]*')
_QUOTED: Final = re.compile(r'"([^"\\\x00-\x1f]+)"')
_ELEMENT: Final = re.compile(r"\[([0-9]{1,9})\]")
_LITERAL: Final = re.compile(r"[^{}]+|\{\{|\}\}")
_PATH_IN_BRACES: Final = re.compile(r'\{((?:"[^"]*"|[^{}"])*)\}')


class Source(Enum):
    """Where a path begins; the value is how it is written."""

    VALUE = ""
    KAFKA_KEY = "$kafka.key"
    KAFKA_VALUE = "$kafka.value"
    HEADER = "$header."
    ATTRIBUTE = "$attribute."


class PathError(ValueError):
    """A text is not a path; it says why."""


class Path(NamedTuple):
    """One path. `text` is as it was written; `steps` lead through the value; `name` is that of a header or an attribute."""

    text: str
    source: Source
    steps: tuple[Step, ...] = ()
    name: str = ""

    @property
    def last_name(self) -> str:
        """The last name in it: what it is called where it is one of several."""
        if self.source is Source.KAFKA_KEY:
            return "key"
        return self.name or next((step for step in reversed(self.steps) if isinstance(step, str)), self.text)


WHOLE_VALUE: Final = Path(Source.KAFKA_VALUE.value, Source.KAFKA_VALUE)
"""The path of a vector that is all of the value. It leads to no other part of a record."""


class Template(NamedTuple):
    """Text and paths whose texts make one text together. A single path is a template too."""

    text: str
    parts: tuple[str | Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths in it."""
        return tuple(part for part in self.parts if isinstance(part, Path))


def header_of(attribute: str) -> str:
    """Return the header that has an attribute of a CloudEvent in binary mode."""
    return "content-type" if attribute == "datacontenttype" else f"{ATTRIBUTE_PREFIX}{attribute}"


def parse(text: str) -> Path:
    """Return the path that a text says. Raises `PathError`."""
    if text == Source.KAFKA_KEY.value:
        return Path(text, Source.KAFKA_KEY)
    for source in (Source.HEADER, Source.ATTRIBUTE):
        if text.startswith(source.value):
            if name := text[len(source.value) :]:
                return Path(text, source, name=name)
            raise PathError(f"{source.value} needs a name behind it")
    if text == WHOLE_VALUE.text:
        raise PathError(f"{text} is for the vector alone")
    if text.startswith("$"):
        raise PathError(
            "what begins with $ is $kafka.key, $header.NAME or $attribute.NAME; a field's name that begins so is quoted"
        )
    return Path(text, Source.VALUE, _steps(text))


def _steps(text: str) -> tuple[Step, ...]:
    steps: list[Step] = []
    at = 0
    while at < len(text) or not steps:
        if steps and (element := _ELEMENT.match(text, at)):
            steps.append(int(element[1]))
            at = element.end()
            continue
        if steps:
            if text[at] != ".":
                raise PathError(f"a dot or [n] is expected at character {at + 1}")
            at += 1
        name = _QUOTED.match(text, at) or _NAME.match(text, at)
        if name is None:
            raise PathError(f"a name is expected at character {at + 1}; one with other characters is in double quotes")
        steps.append(name[1] if name.re is _QUOTED else name[0])
        at = name.end()
    if len(steps) > MOST_STEPS:
        raise PathError(f"it has {len(steps)} steps; allowed are {MOST_STEPS}")
    return tuple(steps)


def parse_template(text: str) -> Template:
    """Return the template that a text says; a path without braces is one of a single part. Raises `PathError`."""
    if "{" not in re.sub(r'"[^"]*"', "", text):
        return Template(text, (parse(text),))
    parts: list[str | Path] = []
    at = 0
    while at < len(text):
        if literal := _LITERAL.match(text, at):
            parts.append({"{{": "{", "}}": "}"}.get(literal[0], literal[0]))
            at = literal.end()
        elif inside := _PATH_IN_BRACES.match(text, at):
            parts.append(parse(inside[1]))
            at = inside.end()
        else:
            raise PathError(f"the brace at character {at + 1} has no other; {{{{ and }}}} are braces themselves")
    return Template(text, tuple(parts))
