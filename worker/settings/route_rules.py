"""What chooses the index of a record: whether `index`, `index_by` and `indexes` of a route fit together."""

import json
import re
from collections.abc import Sequence
from typing import Final

from worker.records.formats import paths
from worker.settings.tables import Records, Route

# Not patterns of the table: one inside a union ends msgspec 0.22 with a segmentation fault.
_INDEX: Final = re.compile("[A-Za-z][A-Za-z0-9]{0,62}")
_INDEX_MEANING: Final = "allowed is a letter, then letters and digits, at most 63 in all"


def choice_mistakes(place: str, route: Route) -> list[str]:
    """Return what is wrong with how a route chooses the index. `place` is its name in a mistake."""
    names = [route.index] if isinstance(route.index, str) else [*route.index]
    is_by_value = route.index_by.startswith(("header:", "field:"))
    mistakes = _by_value(place, route) if is_by_value else _by_key(place, route, names)
    mistakes += [
        f"{place}.index has {json.dumps(name)} twice; each shard is an index of its own"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    named = [(f"{place}.index", name) for name in names if name or not isinstance(route.index, str)]
    named += [(f"{place}.indexes.{value}", name) for value, name in route.indexes.items()]
    return mistakes + [
        f"{where} = {json.dumps(name)}: {_INDEX_MEANING}" for where, name in named if not _INDEX.fullmatch(name)
    ]


def many_mistakes(place: str, records: Records) -> list[str]:
    """Return what is wrong with how messages with several records are read. `place` is the name of the table in a mistake."""
    path = records.fields.records
    if not path:
        return []
    name = f"{place}.fields.records"
    if records.many != "split":
        return [f'{name} needs {place}.many = "split"']
    try:
        is_in_value = paths.parse(path).source is paths.Source.VALUE
    except paths.PathError as error:
        return [f"{name} = {json.dumps(path)} is not a path: {error}"]
    return [] if is_in_value else [f"{name} = {json.dumps(path)}: allowed is a field of the value"]


def _by_key(place: str, route: Route, names: Sequence[str]) -> list[str]:
    if route.indexes:
        return [f'{place}.indexes needs {place}.index_by = "header:NAME" or "field:PATH"']
    if route.index_by and isinstance(route.index, str):
        return [f'{place}.index_by = "key" needs a list of indexes, the shards, in {place}.index']
    if not any(names):
        return [f"{place}.index is empty; at least one index is needed"]
    if not route.index_by and not isinstance(route.index, str):
        return [f'{place}.index is a list of indexes, which needs {place}.index_by = "key"']
    return []


def _by_value(place: str, route: Route) -> list[str]:
    mistakes = []
    if not route.indexes:
        mistakes.append(
            f"{place}.indexes is needed with {place}.index_by = {json.dumps(route.index_by)}: value = index"
        )
    elif route.index:
        mistakes.append(f"{place}.index cannot be set with {place}.indexes; another value goes to its default")
    kind, _, path = route.index_by.partition(":")
    if kind == "field":
        try:
            paths.parse(path)
        except paths.PathError as error:
            return [*mistakes, f"{place}.index_by = {json.dumps(route.index_by)} is not a path: {error}"]
    return mistakes
