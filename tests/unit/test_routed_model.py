"""The main loop over several indexes against a model.

The situation is drawn: records of few keys, puts and deletes, for three indexes that a header names, over partitions; which
indexes are missing or blocked, and when each comes back; and in which order records are published, polled, delivered, and
partitions are read again. Whatever happens:

- each index has what its records ask for, applied one by one in the order of their partition;
- an index that is away holds up its own records and no other: the others are complete before it is back;
- the watermark never passes a record that is not settled, and at the end everything is committed and no byte is counted.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.support.app import TOPIC, good
from tests.support.routed import RoutedApp
from worker.ledger import Outcome, Partition
from worker.settings import tables
from worker.settings.tables import Route

NAMES = ("one", "two", "three")
ROUTE = Route(topic=TOPIC, index=(), index_by="header:to", indexes={name: name for name in NAMES})
PARTITIONS = 2


class Entry(NamedTuple):
    """A record: its partition, key and index, a put or a delete. A key belongs to one partition."""

    partition: int
    key: str
    to: str
    is_delete: bool


ENTRIES = st.builds(
    lambda key, to, is_delete: Entry(int(key) % PARTITIONS, key, to, is_delete),
    st.sampled_from("0123"),
    st.sampled_from((*NAMES, "unknown")),
    st.booleans(),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.lists(ENTRIES, min_size=1, max_size=6)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
        st.tuples(st.just("deliver"), st.sampled_from(NAMES)),
        st.tuples(st.just("back"), st.sampled_from(NAMES)),
        st.tuples(st.just("reassign"), st.integers(0, PARTITIONS - 1)),
        st.tuples(st.just("age"), st.none()),
    ),
    max_size=25,
)


class World:
    """A worker, what is published, and which indexes are away."""

    def __init__(self, missing: frozenset[str]) -> None:
        self.app = RoutedApp(
            ROUTE,
            partitions=PARTITIONS,
            records=tables.Records(tombstones="delete"),
            batch=tables.Batch(max_records=3),
        )
        self.away = set(missing)
        self.log: list[Entry] = []
        self.app.find([name for name in NAMES if name not in missing])
        for name in missing:
            self.app.block(name)
        self.app.turn(3)

    def publish(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            value = None if entry.is_delete else good(entry.key)
            headers = (("to", entry.to.encode()),)
            self.app.append([{"key": entry.key.encode(), "value": value, "headers": headers}], entry.partition)
            self.log.append(entry)

    def deliver(self, name: str) -> None:
        if name not in self.away:
            self.app.deliver_to([name])

    def back(self, name: str) -> None:
        if name in self.away:
            self.away.remove(name)
            self.app.find([name])

    def reassign(self, number: int) -> None:
        """Read a partition again from where it was committed, as after a rebalance that gave it back and again."""
        assignment = self.app.ledger.assignment(Partition(TOPIC, number))
        if assignment is not None:
            self.app.ledger.reassign(assignment)

    def age(self) -> None:
        self.app.clock.advance(2.0)

    def write_dead_letters(self) -> None:
        """Settle each once, also those whose partition was given back meanwhile: their bytes are counted until then."""
        kept = self.app.dead_letters.kept
        self.app.ledger.settle(kept, Outcome.DEAD_LETTERED)
        kept.clear()

    def finish(self) -> None:
        """Read and write all that can be, and commit."""
        for _ in range(4):
            self.app.turn(3)
            self.app.intake.seal_all()
            for name in NAMES:
                self.deliver(name)
            self.write_dead_letters()
            self.age()
        self.app.turn(2)

    def expected(self, name: str) -> set[str]:
        keys: set[str] = set()
        for entry in self.log:
            if entry.to == name:
                (keys.discard if entry.is_delete else keys.add)(entry.key)
        return keys


@settings(deadline=None)
@given(missing=st.frozensets(st.sampled_from(NAMES), max_size=2), steps=STEPS)
def test_each_index_ends_as_its_records_say_and_holds_up_no_other(
    missing: frozenset[str], steps: list[tuple[str, object]]
) -> None:
    world = World(missing)
    for name, value in steps:
        if name == "turn":
            assert isinstance(value, int)
            world.app.turn(value)
        elif name == "age":
            world.age()
        else:
            getattr(world, name)(value)
    world.finish()
    held_up = [entry for entry in world.log if entry.to in world.away]
    event(f"{len(world.away)} away, {'some' if held_up else 'none'} held up")
    for name in NAMES:
        assert world.app.keys()[name] == (set() if name in world.away else world.expected(name))
    assert world.app.ledger.outstanding() == len(held_up)
    for number in range(PARTITIONS):
        own = [entry.to in world.away for entry in world.log if entry.partition == number]
        first = own.index(True) if True in own else len(own)
        assert world.app.committed().get(number, 0) == first
    for name in [*world.away]:
        world.back(name)
    world.finish()
    assert world.app.keys() == {name: world.expected(name) for name in NAMES}
    assert (world.app.ledger.outstanding(), world.app.ledger.buffer_bytes) == (0, 0)
