"""A batch on its way: what of it has no outcome yet, and which keys wait for that."""

from collections.abc import Collection, Mapping

from worker.delivery.batch import Batch, Item, body_bytes
from worker.delivery.chunk import Chunk, chunks_of, operation_of


class Flight:
    """The chunks of a batch that have no outcome yet.

    `keys` are theirs: other batches with one of these wait. Only the slot that delivers it changes it, or the lane while it
    rests. `has_place` is the lane's: whether it has one of the places of those that rest, also while it is in a slot again.
    """

    def __init__(self, batch: Batch) -> None:
        self.chunks = chunks_of([*batch.items.values()])
        self.keys: Collection[str] = batch.items.keys()
        self.has_place = False
        self._note_chunks()

    def _note_chunks(self) -> None:
        self.operations = frozenset(chunk.operation for chunk in self.chunks)
        """What it asks for, or did before a part of it had its outcome."""
        self._assignments = {assignment for chunk in self.chunks for assignment in chunk.assignments}
        self.rests_in_outage = self.may_be_of_outage()
        """Whether its failures may be those of an outage, as it was when it began to rest."""

    @property
    def is_live(self) -> bool:
        """Whether all its partitions are still ours. It holds while it rests."""
        return all(assignment.is_live for assignment in self._assignments)

    def may_be_of_outage(self) -> bool:
        """Return whether its failures may be those of an outage."""
        return any(chunk.may_be_of_outage for chunk in self.chunks)

    def take(self) -> Chunk:
        """Take a chunk that is not all ours any more, which is dropped at once; else the one that may be sent first."""
        chunk = min(self.chunks, key=lambda each: (each.is_live, each.not_before))
        self.chunks.remove(chunk)
        return chunk

    def put_back(self, chunks: Collection[Chunk]) -> bool:
        """Put back what is left of a chunk that was taken; return whether that frees keys which others may wait for."""
        self.chunks += chunks
        self.operations |= {chunk.operation for chunk in chunks}  # an older version may be of the other one
        if sum(len(chunk.items) for chunk in self.chunks) == len(self.keys):
            return False
        self.keys = {item.key for chunk in self.chunks for item in chunk.items}
        return bool(self.keys)

    def should_rest(self) -> bool:
        """Return whether it should give up its slot: all that is left keeps failing."""
        return bool(self.chunks) and all(chunk.keeps_failing and chunk.is_live for chunk in self.chunks)

    def rest(self) -> None:
        """Note that it gives up its slot."""
        self.has_place = True
        self._note_chunks()

    def due_at(self) -> float:
        """Return when the first chunk may be sent again, in the clock's seconds."""
        return min(chunk.not_before for chunk in self.chunks)

    def supersede(self, newer: Mapping[str, Item], room: int, now: float) -> None:
        """Let newer versions, by key, take the place of those that rest, which are kept with them.

        A newer version of a single record may be sent from `now` on, in the clock's seconds. It is not due any earlier: a key that
        gets newer versions all the time would be sent before all else that rests.

        Several records rest together only while no others are accepted, as in an outage. Their newer versions stay together too,
        as far as a body has room for so many bytes: sent one by one they would be as many requests, and as many suspects.
        """
        apart: list[Item] = []
        for chunk in [*self.chunks]:
            found = {item.key: newer[item.key] for item in chunk.items if item.key in newer}
            if not found:
                continue
            for resting in chunk.items:
                if resting.key in found:
                    found[resting.key].supersede(resting)
            if chunk.is_single:
                (item,) = found.values()
                version = chunk.with_version(item)
                version.not_before = min(version.not_before, now)
                self.chunks[self.chunks.index(chunk)] = version
            else:
                apart += self._take_in(chunk, found, room)
        for group in chunks_of(apart):
            group.not_before = now
            self._add(group, room)
        self._note_chunks()

    def _take_in(self, chunk: Chunk, newer: Mapping[str, Item], room: int) -> list[Item]:
        """Let newer versions replace the older ones of a chunk of several; return those that do not fit in, which leave it."""
        rest = [item for item in chunk.items if item.key not in newer]
        apart = []
        size = sum(map(body_bytes, rest))
        for item in newer.values():
            more = body_bytes(item)
            if operation_of([item]) is chunk.operation and size + more <= room:
                rest.append(item)
                size += more
            else:
                apart.append(item)
        if rest:
            chunk.replace_items(rest)
        else:
            self.chunks.remove(chunk)
        return apart

    def _add(self, group: Chunk, room: int) -> None:
        """Add records to a chunk that they may join, as far as there is room; else as a chunk of their own."""
        for chunk in self.chunks:
            may_join = not chunk.is_single or (chunk.may_grow and not chunk.is_proven)
            if may_join and chunk.operation is group.operation and chunk.body_bytes + group.body_bytes <= room:
                chunk.replace_items([*chunk.items, *group.items])
                chunk.write_timeouts = 0  # of a smaller body
                return
        group.may_grow = True
        self.chunks.append(group)
