"""Looks vectors up in the indexes of a route that has several: each name says its index."""

from collections.abc import Callable, Mapping, Sequence

from worker.oss.lookup import Stored
from worker.tools.verify.compare import Lookup
from worker.tools.verify.versions import index_and_key


class NamedLookup:
    """Asks each index for the vectors that are named as its own, `INDEX/KEY`."""

    def __init__(self, lookup_of: Callable[[str], Lookup]) -> None:
        """`lookup_of` makes the lookup of an index; it is called once for each that is needed."""
        self._lookup_of = lookup_of
        self._lookups: dict[str, Lookup] = {}

    def get(self, keys: Sequence[str]) -> Mapping[str, Stored]:
        """Return what the indexes hold of these names. Raises `FatalError`."""
        by_index: dict[str, list[str]] = {}
        for name in keys:
            index, key = index_and_key(name)
            by_index.setdefault(index, []).append(key)
        found: dict[str, Stored] = {}
        for index, own in by_index.items():
            if index not in self._lookups:
                self._lookups[index] = self._lookup_of(index)
            found |= {f"{index}/{key}": stored for key, stored in self._lookups[index].get(own).items()}
        return found
