"""Asks the index for keys and says how it differs from what the topic asks for.

The index goes on changing while it is looked at, and the service shows a change only after some seconds. So a key that
differs is asked for again, later, and then held against everything that the topic asks for it by then:

1. the index is asked for the keys;
2. those that differ are asked for again, after each of `PATIENCE`;
3. the topic is read once more, up to its end of that moment, for the keys that still differ. Whatever the index showed was
   on the topic before. A version that is newer than the expected one is therefore no difference, and one that is newer and
   has a dead letter neither: it was written later;
4. what is left is missing, stale, different, or not deleted.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from worker.oss.lookup import KEYS_OF_A_REQUEST, Stored
from worker.tools.verify.versions import DELETED, Version, differing_parts, fingerprint

PATIENCE: Final = (2.0, 5.0, 10.0)
"""Seconds before each further look at keys that differ; the service shows a write after "some seconds"."""


class Lookup(Protocol):
    """Looks keys up in one index."""

    def get(self, keys: Sequence[str]) -> Mapping[str, Stored]:
        """Return what the index holds of these keys, `KEYS_OF_A_REQUEST` at most. Raises `FatalError`."""


class Kind(StrEnum):
    """How a key differs."""

    MISSING = "missing"
    STALE = "stale"
    DIFFERENT = "different"
    NOT_DELETED = "not_deleted"


class Difference(NamedTuple):
    """One key whose vector is not what the topic asks for. `version` is what it must be."""

    key: str
    kind: Kind
    version: Version
    detail: str


def shown_states(keys: Iterable[str], lookup: Lookup, on_step: Callable[[int], None]) -> dict[str, bytes]:
    """Return the fingerprint of each key as the index has it now, `DELETED` for one that it does not hold."""
    found: dict[str, bytes] = {}
    todo = list(keys)
    for begin in range(0, len(todo), KEYS_OF_A_REQUEST):
        chunk = todo[begin : begin + KEYS_OF_A_REQUEST]
        stored = lookup.get(chunk)
        for key in chunk:
            one = stored.get(key)
            found[key] = DELETED if one is None else fingerprint(one.vector, one.metadata)
        on_step(len(chunk))
    return found


def still_different(
    newest: Mapping[str, Version],
    lookup: Lookup,
    wait: Callable[[float], object],
    on_step: Callable[[int], None],
) -> dict[str, bytes]:
    """Return what the index shows of the keys that still differ after all of `PATIENCE`."""
    different: dict[str, bytes] = {}
    keys = sorted(newest)  # names that begin with their index are asked for together
    for begin in range(0, len(keys), KEYS_OF_A_REQUEST):  # not all at once: most are equal, and need no memory
        shown = shown_states(keys[begin : begin + KEYS_OF_A_REQUEST], lookup, on_step)
        different |= {key: state for key, state in shown.items() if state != newest[key].fingerprint}
    for seconds in PATIENCE:
        if not different:
            break
        wait(seconds)
        shown = shown_states(different, lookup, lambda _: None)
        different = {key: state for key, state in shown.items() if state != newest[key].fingerprint}
    return different


def differences(
    different: Mapping[str, bytes], newest: Mapping[str, Version], history: Mapping[str, Collection[Version]]
) -> list[Difference]:
    """Return how each key differs. `history` has all versions of these keys, as far as the topic has them."""
    found = []
    for key, state in different.items():
        version = newest[key]
        versions = [one for one in history.get(key, ()) if one.partition == version.partition]
        if any(one.fingerprint == state for one in versions if one.place >= version.place):
            continue
        found.append(_difference(key, state, version, [one for one in versions if one.place < version.place]))
    return sorted(found, key=lambda one: (one.version.partition, one.version.offset))


def _difference(key: str, state: bytes, version: Version, older: Sequence[Version]) -> Difference:
    if state == DELETED:
        return Difference(key, Kind.MISSING, version, "the index does not hold it")
    if version.fingerprint == DELETED:
        return Difference(key, Kind.NOT_DELETED, version, "the index still holds it")
    same = [one.offset for one in older if one.fingerprint == state]
    if same:
        return Difference(key, Kind.STALE, version, f"the index holds the version of offset {max(same)}")
    parts = differing_parts(state, version.fingerprint)
    return Difference(key, Kind.DIFFERENT, version, f"{parts}: the index holds what no record of the topic asks for")
