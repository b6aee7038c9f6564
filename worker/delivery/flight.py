"""A batch on its way: what of it has no outcome yet, and which keys wait for that."""

from collections.abc import Collection

from worker.delivery.batch import Batch, Item
from worker.delivery.chunk import Chunk, chunks_of


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

    def supersede(self, item: Item) -> None:
        """Let a newer version of one of the keys take the place of the one that rests, which is kept with it."""
        for chunk in self.chunks:
            resting = next((one for one in chunk.items if one.key == item.key), None)
            if resting is not None:
                item.supersede(resting)
                if chunk.is_single:
                    self.chunks.remove(chunk)
                else:
                    chunk.replace_items([one for one in chunk.items if one is not resting])
                newer = Chunk([item], is_proven=chunk.is_proven)
                newer.is_denied = chunk.is_denied
                self.chunks.append(newer)
                self._note_chunks()
                return
