"""The shape of a route's records: where their parts are, as `[records.fields]` says it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

from worker.records.formats.paths import WHOLE_VALUE, Path, PathError, Source, Template, parse, parse_template

MetadataPaths: TypeAlias = Path | tuple[tuple[str, Path], ...] | None

_A = TypeVar("_A")
_B = TypeVar("_B")

MOST_METADATA: Final = 100  # paths; each costs a little of every record


class Shape(NamedTuple):
    """Where the parts of a record are.

    `key` is None where it is the field `key`, or else the Kafka key. `metadata` is the path of a map, or a path for each name.
    Where the vector is all of the value, nothing else is in it.
    """

    key: Template | None = None
    vector: Path = parse("data.float32")
    metadata: MetadataPaths = parse("metadata")
    delete: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every path in it."""
        own: tuple[Path, ...] = () if self.is_vector_alone else (KEY_PATH,)
        key = own if self.key is None else self.key.paths
        if self.metadata is None:
            metadata: tuple[Path, ...] = ()
        elif isinstance(self.metadata, Path):
            metadata = (self.metadata,)
        else:
            metadata = tuple(path for _, path in self.metadata)
        return (*key, self.vector, *metadata, *(() if self.delete is None else (self.delete,)))

    @property
    def is_vector_alone(self) -> bool:
        """Whether the value is the bytes of a vector and nothing else."""
        return self.vector == WHOLE_VALUE

    def is_kafka_key(self, *, is_enveloped: bool) -> bool:
        """Return whether the Kafka key may be the vector's key, so that a tombstone can delete.

        `is_enveloped`: the Kafka key is in an envelope, and has the fields of the record's key too.
        """
        if self.key is None:
            return True
        sources = {path.source for path in self.key.paths}
        if is_enveloped and sources == {Source.VALUE}:
            return True
        return len(self.key.parts) == 1 and sources <= {Source.VALUE, Source.KAFKA_KEY}

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the CloudEvent's attributes in it."""
        return tuple(path.name for path in self.paths if path.source is Source.ATTRIBUTE)


KEY_PATH: Final = parse("key")
FIXED: Final = Shape()
_DEFAULT_METADATA: Final = "metadata"


def shape_of(key: str, vector: str, metadata: str | Sequence[str] | Mapping[str, str], delete: str) -> Shape:
    """Return the shape that the fields say. Raises `PathError`, whose text begins with the name of the field."""
    if vector == WHOLE_VALUE.text:
        return _of_vector_alone(key, "" if metadata == _DEFAULT_METADATA else metadata, delete)
    return Shape(
        _read("key", parse_template, key) if key else None,
        _read("vector", _in_value, vector),
        _read("metadata", _metadata, metadata) if metadata else None,
        _read("delete", parse, delete) if delete else None,
    )


def _read(field: str, parsed: Callable[[_A], _B], given: _A) -> _B:
    try:
        return parsed(given)
    except PathError as error:
        raise PathError(f"{field} = {json.dumps(given)}: {error}") from None


def _of_vector_alone(key: str, metadata: str | Sequence[str] | Mapping[str, str], delete: str) -> Shape:
    """Return the shape of records whose value is the bytes of a vector. Every other part is around the value."""
    return Shape(
        _read("key", _template_around, key) if key else None,
        WHOLE_VALUE,
        _read("metadata", _metadata_around, metadata) if metadata else None,
        _read("delete", _around_value, delete) if delete else None,
    )


def _template_around(text: str) -> Template:
    template = parse_template(text)
    for path in template.paths:
        _check_around(path)
    return template


def _metadata_around(given: str | Sequence[str] | Mapping[str, str]) -> MetadataPaths:
    if isinstance(given, str):
        _around_value(given)
        raise PathError("write it as a list of paths, or as a table of name = path")
    named = _named(given)
    for _, path in named:
        _check_around(path)
    return named


def _around_value(text: str) -> Path:
    path = parse(text)
    _check_around(path)
    return path


def _check_around(path: Path) -> None:
    if path.source not in (Source.KAFKA_KEY, Source.HEADER):
        raise PathError(
            f'{path.text} is not around the value, which is not parsed with vector = "{WHOLE_VALUE.text}"; '
            "allowed are $kafka.key and $header.NAME"
        )


def _in_value(text: str) -> Path:
    path = parse(text)
    if path.source is not Source.VALUE:
        raise PathError("it must be in the value")
    return path


def _metadata(given: str | Sequence[str] | Mapping[str, str]) -> MetadataPaths:
    return _in_value(given) if isinstance(given, str) else _named(given)


def _named(given: Sequence[str] | Mapping[str, str]) -> tuple[tuple[str, Path], ...]:
    if isinstance(given, Mapping):
        named = tuple((name, parse(text)) for name, text in given.items())
    else:
        named = tuple((path.last_name, path) for path in map(parse, given))
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PathError(f"two paths have the name {twice[0]}; write it as a table of name = path")
    if len(named) > MOST_METADATA:
        raise PathError(f"it has {len(named)} paths; allowed are {MOST_METADATA}")
    return named
