"""The parts of a value that paths lead to, all cut out of it in one go, undecoded.

The paths of a route become a tree, once. A typed decoder, made of the tree, cuts most values at once. A value that it cannot
decode is cut step by step: at each place of the tree a map is cut into the members that count, or a list into its elements. So
each byte is looked at once for each step of depth, whatever the number of paths.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from worker.records.formats.fields import NOTHING, FieldReader
from worker.records.formats.paths import Step
from worker.records.formats.values import UNREADABLE, Cutter, Kind, Raw

_NOT_AT_ONCE: Final = (*UNREADABLE, AttributeError)


class _Node:
    """A place in the tree: whether what is there is asked for, and what of its members and elements is.

    `slot` is where the result has what is there, -1 where it does not. `cutter` cuts the members.
    """

    def __init__(self) -> None:
        self.is_wanted = False
        self.slot = -1
        self.names: dict[str, _Node] = {}
        self.elements: dict[int, _Node] = {}
        self.cutter: Cutter | None = None

    def at(self, steps: Iterable[Step]) -> "_Node":
        """Return the place that the steps lead to."""
        node = self
        for step in steps:
            node = (
                node.names.setdefault(step, _Node())
                if isinstance(step, str)
                else node.elements.setdefault(step, _Node())
            )
        return node

    @property
    def children(self) -> tuple["_Node", ...]:
        """What is below it."""
        return (*self.names.values(), *self.elements.values())

    def below(self) -> Iterator["_Node"]:
        """Yield everything below it."""
        for child in self.children:
            yield child
            yield from child.below()


class Leaves:
    """Cuts the parts at `paths` out of values in one encoding: of each the bytes, `NOTHING` where it is not there."""

    def __init__(self, fields: FieldReader, paths: Iterable[tuple[Step, ...]]) -> None:
        self._fields = fields
        self._root = _Node()
        for path in paths:
            self._root.at(path).is_wanted = True
        self._places: list[str] = []
        self._further: list[_Node] = []
        self._decode = fields.cutter(self._type_of(self._root, "")).decode
        self._get = _getter(self._places)
        self._beyond: list[Raw] = []
        for node in (each for place in self._further for each in place.below() if each.is_wanted):
            node.slot = len(self._places) + len(self._beyond)
            self._beyond.append(NOTHING)
        for node in (self._root, *self._root.below()):
            node.cutter = fields.cutter(_struct([(name, Raw, NOTHING) for name in node.names]))

    def slot(self, path: tuple[Step, ...]) -> int:
        """Return where the result of `read` has the part at this path, which is one of those that were given."""
        return self._root.at(path).slot

    def read(self, body: bytes) -> Sequence[Raw]:
        """Return the parts of a value. Raises `RecordError` where it is not well-formed."""
        try:
            found = self._get(self._decode(body))
        except _NOT_AT_ONCE:
            return self._step_by_step(body)
        if not self._further:
            return found
        parts = [*found, *self._beyond]
        for node in self._further:
            self._walk(node, parts[node.slot], parts)
        return parts

    def _type_of(self, node: _Node, place: str) -> Any:
        """Return the type that a part is decoded to at once, and note the places of undecoded parts in it."""
        if node.is_wanted or node.elements:
            node.slot = len(self._places)
            self._places.append(place)
            if node.children:
                self._further.append(node)
            return Raw
        members = []
        for at, (name, child) in enumerate(node.names.items()):
            kind = self._type_of(child, f"{place}.{_name(at)}".lstrip("."))
            members.append((name, kind, NOTHING if kind is Raw else kind()))
        return _struct(members)

    def _step_by_step(self, body: bytes) -> Sequence[Raw]:
        parts = [NOTHING] * (len(self._places) + len(self._beyond))
        assert self._root.cutter is not None  # noqa: S101 - every place has one
        try:
            self._members(self._root, self._fields.cut(body, self._root.cutter), parts)
        except RecursionError:  # a few frames deeper than where it was well-formed
            raise self._fields.too_deep() from None
        return parts

    def _members(self, node: _Node, cut: Any, parts: list[Raw]) -> None:
        for at, child in enumerate(node.names.values()):
            self._walk(child, getattr(cut, _name(at)), parts)

    def _walk(self, node: _Node, raw: Raw, parts: list[Raw]) -> None:
        if node.slot >= 0:
            parts[node.slot] = raw
        if not node.children:
            return
        kind = self._fields.kind(raw)
        if node.names and kind is Kind.MAP and node.cutter is not None:
            self._members(node, self._fields.cut_part(raw, node.cutter), parts)
        if node.elements and kind is Kind.LIST:
            elements = self._fields.decode_list(raw)
            for at, child in node.elements.items():
                if at < len(elements):
                    self._walk(child, elements[at], parts)


def _name(at: int) -> str:
    return f"f{at}"


def _struct(members: Sequence[tuple[str, Any, Any]]) -> type[msgspec.Struct]:
    """Return a type that has these members: the name in the encoding, the type and the default of each."""
    names = {_name(at): name for at, (name, _, _) in enumerate(members)}
    fields = [(_name(at), kind, default) for at, (_, kind, default) in enumerate(members)]
    return msgspec.defstruct("Cut", fields, rename=names, frozen=True, gc=False)


def _getter(places: Sequence[str]) -> Callable[[Any], Sequence[Raw]]:
    if not places:
        return lambda _: ()
    get: Callable[[Any], Any] = attrgetter(*places)
    return get if len(places) > 1 else lambda cut: (get(cut),)
