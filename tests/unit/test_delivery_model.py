"""Delivery against a model: whatever the service and the group do, the index ends as if records were applied one by one.

The situation is drawn: versions (puts and deletes) of few keys over few partitions, some of which the service refuses;
the limits of batches and slots; what the service answers to each request; and in which order the slots, the polls, the
acknowledgements of dead letters and the moves of partitions between two members take their turns. The slots run
`Courier.deliver` on threads of which one runs at a time (`tests.support.turns`), and a turn ends where a request is about
to leave, on the wire, applied and not yet answered, answered and not yet settled or landed, and where a slot waits.

What is left out is what no client can hold: a request that is applied after its connection was cut.
"""

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.support.fakes import FakeClock, FakeMessage, FakeSink
from tests.support.turns import Turns
from worker.batch import Batch, Item, OpenBatch, SealReason
from worker.config import Batch as BatchSettings
from worker.config import Delivery
from worker.delivery import Courier, DeadLetter, Lane, LaneContext
from worker.errors import BlockReason, Reason, RetryReason, SinkError, Transient
from worker.local.emulator.faults import Rule
from worker.metrics import Metrics
from worker.offsets import Assignment, Ledger, Outcome, Partition, Phase, Tracked
from worker.pace import Backoff
from worker.record import Target
from worker.state import Status

TOPIC = "vectors"
INDEX = "docs"
ISOLATED_ATTEMPTS = 4
MOST_TURNS = 20_000
MOST_OTHER_TRAFFIC = 30

Offset = tuple[Partition, int]
T = TypeVar("T")


class Version(NamedTuple):
    """A record: of which partition and key, a put or a delete, and what the service says to a put of it."""

    partition: int
    key: int
    is_delete: bool
    status: int = 200  # 400: refused; 500: answered as if the service were at fault


@dataclass(frozen=True)
class Situation:
    """Everything that is drawn but the order of the turns."""

    versions: list[Version]
    refused_deletes: frozenset[str]
    stride: int  # offsets from a record to the next; those between hold no record
    max_records: int
    max_bytes: int
    max_body_bytes: int  # of the service
    slots: int
    vectors_per_second: float
    answers: list[Rule | SinkError | None]
    members: int
    turns: list[int]


def key_of(partition: int, key: int) -> str:
    """Return a key that no other partition has."""
    return f"{partition}-{key}"


# -- the model


@dataclass(frozen=True)
class Entry:
    """A record in the log."""

    offset: int
    key: str
    is_delete: bool
    status: int


def expected_index(entries: Iterable[Entry]) -> dict[str, int]:
    """Apply the records that the service takes, one by one; return the offset of the record that each key ends with."""
    index: dict[str, int] = {}
    for entry in entries:
        if entry.status != 200:
            continue
        if entry.is_delete:
            index.pop(entry.key, None)
        else:
            index[entry.key] = entry.offset
    return index


# -- the worker's parts, and what watches them


class WatchedLedger(Ledger):
    """Holds every outcome against what the service really has, and every record to one outcome."""

    def __init__(self, world: "World", member: int) -> None:
        super().__init__([TOPIC], world.clock)
        self._world = world
        self._member = member
        self.outcomes: dict[tuple[Assignment, int], Outcome] = {}

    def depart(self, assignments: Collection[Assignment]) -> bool:
        """Let others have a turn before: what was asked of the partitions until now may not hold any more."""
        self._world.turns.let_others()
        return super().depart(assignments)

    def land(self, assignments: Collection[Assignment]) -> None:
        """Let others have a turn before."""
        self._world.turns.let_others()
        super().land(assignments)

    def settle(self, records: Iterable[Tracked], outcome: Outcome) -> int:
        """Let others have a turn before; look at each, then enter it."""
        self._world.turns.let_others()
        records = list(records)
        for record in records:
            if record.assignment.phase is not Phase.FENCED:
                self._look_at(record, outcome)
        return super().settle(records, outcome)

    def _look_at(self, record: Tracked, outcome: Outcome) -> None:
        place = (record.assignment, record.offset)
        assert place not in self.outcomes, f"{place} is {outcome}, and was {self.outcomes[place]}"
        self.outcomes[place] = outcome
        key = self._world.entry(record.assignment.partition, record.offset).key
        stored = self._world.sink.vectors.get(key)
        if outcome is Outcome.PUT:
            assert stored is not None, f"{place} is put, and the index has no {key}"
            assert stored["data"]["float32"] == [record.offset], f"{place} is put"
        elif outcome is Outcome.DELETED:
            assert stored is None, f"{place} is deleted, and the index has {stored}"
        elif outcome is Outcome.SUPERSEDED:
            newer = [
                offset
                for (assignment, offset), settled in self.outcomes.items()
                if assignment is record.assignment
                and offset > record.offset
                and settled in (Outcome.PUT, Outcome.DELETED)
                and self._world.entry(assignment.partition, offset).key == key
            ]
            assert newer, f"{place} is superseded, and no newer version of {key} was taken"
        elif outcome is Outcome.DEAD_LETTERED:
            assert place in self._world.acknowledged, f"{place} is dead-lettered, and nobody has it"

    def final(self) -> dict[Offset, Outcome]:
        """Return the outcomes that were entered."""
        return {(assignment.partition, offset): outcome for (assignment, offset), outcome in self.outcomes.items()}


class SteppedLane(Lane):
    """A lane whose slots wait on the test's turns."""

    def __init__(self, context: LaneContext, turns: Turns, name: str) -> None:
        super().__init__(INDEX, [TOPIC], context)
        self._turns = turns
        for number in range(context.delivery.max_in_flight):
            self._threads.append(turns.add(f"{name}-slot-{number}", self._work).thread)

    def pause(self, seconds: float, until: Callable[[], bool]) -> None:
        """Give the turn back for so long, a millisecond at the least: less may not move the clock at all."""
        if seconds > 0.0:
            self._turns.pause(lambda: self.is_stopping or until(), max(seconds, 0.001))

    def _work(self) -> None:
        courier = Courier(self)
        while True:
            self._turns.pause(self._could_take)
            batch = self.take()
            if batch is not None:
                courier.deliver(batch)
                self.done(batch)

    def _could_take(self) -> bool:
        queue, in_flight = deque(self._queue), list(self._in_flight)
        try:
            return self.take() is not None
        finally:
            self._queue, self._in_flight = queue, in_flight


class Letters:
    """Dead letters that wait for the broker's acknowledgement."""

    def __init__(self) -> None:
        self.waiting: deque[DeadLetter] = deque()

    def submit(self, letter: DeadLetter) -> None:
        """Take one."""
        self.waiting.append(letter)


class Member:
    """One worker without its main loop, whose steps the world makes."""

    def __init__(self, world: "World", number: int) -> None:
        situation = world.situation
        self.ledger = WatchedLedger(world, number)
        self.status = Status(0.0)
        self.letters = Letters()
        delivery = Delivery(
            max_in_flight=situation.slots,
            vectors_per_second=situation.vectors_per_second,
            retry_initial_seconds=0.5,
            retry_max_seconds=4.0,
        )
        batch = BatchSettings(max_records=situation.max_records, max_bytes=situation.max_bytes)
        context = LaneContext(
            world.sink,
            self.ledger,
            self.letters,
            self.status,
            Metrics(self.ledger, self.status, [TOPIC], [INDEX]),
            delivery,
            batch,
            ISOLATED_ATTEMPTS,
            Backoff(0.5, 4.0, random.Random(0)),
            world.clock,
            world.clock,
        )
        self.lane = SteppedLane(context, world.turns, f"member-{number}")
        self.open_batch = OpenBatch(
            self.lane.envelope, max_records=batch.max_records, max_bytes=batch.max_bytes, max_age=1.0
        )

    def take_in(self, assignment: Assignment, entries: list[Entry], pad: bytes) -> None:
        """Track and batch records, as the main loop does."""
        if not self.ledger.track(assignment, [entry.offset for entry in entries]):
            return
        self.ledger.hold(len(entries))
        self.open_batch.hold_to(self.lane.max_body_bytes())
        for entry in entries:
            self._submit(self.open_batch.add(_item(assignment, entry, pad), self.lane.context.clock()))

    def seal(self, reason: SealReason) -> None:
        """Seal what is open."""
        self._submit(self.open_batch.seal(reason))

    def _submit(self, batch: Batch | None) -> None:
        if batch is not None:
            self.lane.submit(batch)


def _item(assignment: Assignment, entry: Entry, pad: bytes) -> Item:
    fragment = msgspec.json.encode({"key": entry.key, "data": {"float32": [entry.offset]}, "metadata": {"p": pad}})
    return Item(assignment, FakeMessage(entry.offset, None), entry.key, None if entry.is_delete else fragment, 1)


@dataclass
class Move:
    """A partition on its way from one member to another."""

    partition: Partition
    giver: Member
    taker: Member
    closing: list[Assignment]
    was_cut: bool = False


@dataclass
class World:
    """Members, partitions, and the service."""

    situation: Situation
    clock: FakeClock = field(default_factory=FakeClock)
    acknowledged: set[tuple[Assignment, int]] = field(default_factory=set)
    letters: list[DeadLetter] = field(default_factory=list)
    committed: dict[Partition, int] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    requests_before: dict[Assignment, int] = field(default_factory=dict)
    other_traffic: int = 0
    no_traffic_before: float = 0.0

    def __post_init__(self) -> None:
        situation = self.situation
        self.turns = Turns(self.clock)
        self.sink = FakeSink(
            Target(INDEX, 1, "euclidean"),
            judge=self._judge,
            waypoint=lambda _stage, _request: self.turns.pause(),
            max_body_bytes=situation.max_body_bytes,
        )
        self.sink.next_answers = list(situation.answers)
        self.logs: dict[Partition, list[Entry]] = {}
        self.ends: dict[Partition, int] = {}
        for version in situation.versions:
            self._publish(version)
        self.members = [Member(self, number) for number in range(situation.members)]
        for partition in self.logs:
            self.committed[partition] = 0
            self._assign(partition, self.members[0])

    def _publish(self, version: Version) -> None:
        partition = Partition(TOPIC, version.partition)
        key = key_of(version.partition, version.key)
        status = version.status
        if version.is_delete:
            status = 400 if key in self.situation.refused_deletes else 200
        offset = self.ends.get(partition, 0)
        self.logs.setdefault(partition, []).append(Entry(offset, key, version.is_delete, status))
        self.ends[partition] = offset + self.situation.stride

    def _judge(self, key: str, element: dict[str, Any] | None) -> int:
        if element is None:
            return 400 if key in self.situation.refused_deletes else 0
        number = int(key.partition("-")[0])
        status = self.entry(Partition(TOPIC, number), element["data"]["float32"][0]).status
        return 0 if status == 200 else status

    def entry(self, partition: Partition, offset: int) -> Entry:
        """Return a record."""
        return next(entry for entry in self.logs[partition] if entry.offset == offset)

    # -- what may happen between two turns of the slots

    def happen(self, choice: int) -> None:
        """Make one step: mostly a slot's, else the main loop's of some member, the broker's, or the group's."""
        kind, which = choice % 16, choice // 16
        member = self.members[which % len(self.members)]
        if kind <= 6:
            self.turns.step(which)
        elif kind <= 9:
            self.poll(member, which)
        elif kind == 10:
            member.seal(SealReason.AGE)
        elif kind == 11:
            self.acknowledge(member)
        elif kind == 12:
            self.clock.advance(0.25)
        elif kind == 13:
            self.commit(member)
        elif kind == 14:
            self.begin_move(which)
        else:
            self.lose(which)
        for move in list(self.moves):
            self.go_on_with(move)

    def poll(self, member: Member, which: int) -> bool:
        """Let a member read on in one of its partitions; False where none has more."""
        for assignment in member.ledger.assignments():
            partition = assignment.partition
            entries = [entry for entry in self.logs[partition] if entry.offset >= assignment.position]
            if assignment.phase is Phase.OPEN and entries:
                member.take_in(assignment, entries[: 1 + which % 7], b"")
                return True
            if assignment.phase is Phase.OPEN and not assignment.buffered:
                member.ledger.advance(assignment, self.ends[partition])  # past what follows the last record
        return False

    def acknowledge(self, member: Member) -> None:
        """Let the broker acknowledge the oldest dead letter, as long as its partition is owned."""
        if member.letters.waiting:
            letter = member.letters.waiting.popleft()
            if not member.ledger.depart((letter.assignment,)):
                member.ledger.discard([letter])
                return
            self.letters.append(letter)
            self.acknowledged.add((letter.assignment, letter.offset))
            member.ledger.settle([letter], Outcome.DEAD_LETTERED)
            member.ledger.land((letter.assignment,))

    def commit(self, member: Member, assignments: list[Assignment] | None = None) -> None:
        """Commit a member's watermarks; each must be complete."""
        final = {place for each in self.members for place in each.ledger.final()}
        for assignment, watermark in member.ledger.watermarks(assignments).items():
            partition = assignment.partition
            unsettled = [
                entry.offset
                for entry in self.logs[partition]
                if entry.offset < watermark and (partition, entry.offset) not in final
            ]
            assert unsettled == [], f"{partition} is committed up to {watermark}"
            assert watermark >= self.committed[partition]
            self.committed[partition] = watermark

    def begin_move(self, which: int) -> None:
        """Ask a partition back, for another member, or the same one again."""
        partition = list(self.logs)[which % len(self.logs)]
        giver = next((member for member in self.members if member.ledger.assignment(partition)), None)
        if giver is not None and all(move.partition != partition for move in self.moves):
            taker = self.members[which // 3 % len(self.members)]
            self.moves.append(Move(partition, giver, taker, giver.ledger.close([partition])))

    def go_on_with(self, move: Move) -> None:
        """End a revocation whose requests have landed; else cut them once, by the clock."""
        on_wire = any(assignment.on_wire for assignment in move.closing)
        if on_wire and not move.was_cut:
            if int(self.clock() * 4) % 5 == 0:
                move.giver.lane.abort()
                move.was_cut = True
            return
        self.moves.remove(move)
        if not move.was_cut:
            for assignment in move.closing:
                self._assert_what_was_taken_is_settled(move.giver, assignment)
        self.commit(move.giver, move.closing)
        move.giver.ledger.fence([move.partition])
        move.giver.status.forget(*move.partition)
        self._assign(move.partition, move.taker)

    def lose(self, which: int) -> None:
        """Take a partition from its member without a commit, and give it to another."""
        partition = list(self.logs)[which % len(self.logs)]
        if any(move.partition == partition for move in self.moves):
            return
        for member in self.members:
            assignment = member.ledger.assignment(partition)
            if assignment is not None and not assignment.on_wire:
                member.ledger.fence([partition])
                member.status.forget(*partition)
                self._assign(partition, self.members[which // 3 % len(self.members)])
                return

    def _assert_what_was_taken_is_settled(self, member: Member, assignment: Assignment) -> None:
        """What the service took within an ownership that ends in peace must not be done again by the next owner."""
        taken = [
            (assignment, element["data"]["float32"][0])
            for request in self.sink.requests[self.requests_before[assignment] :]
            if request.operation == "PutVectors" and request.status == 200
            for element in msgspec.json.decode(request.body)["vectors"]
            if element["key"].startswith(f"{assignment.partition.partition}-")
        ]
        assert [place for place in taken if place not in member.ledger.outcomes] == []

    def _assign(self, partition: Partition, member: Member) -> None:
        committed = self.committed[partition]
        assignment = member.ledger.assign(partition)
        self.requests_before[assignment] = len(self.sink.requests)
        member.ledger.open(assignment, committed, committed)

    # -- the end

    def finish(self) -> None:
        """Go on until everything has its outcome; the bad answers come to an end by themselves."""
        chance = random.Random(0)  # by rule, some task could come always too late for what the others take
        for _ in range(MOST_TURNS):
            for move in list(self.moves):
                self.go_on_with(move)
            for member in self.members:
                while self.poll(member, 6):
                    pass
                member.seal(SealReason.DRAIN)
                self.acknowledge(member)
            if self.turns.step(chance.randrange(MOST_TURNS)):
                continue
            if self._is_at_rest():
                break
            if self.turns.sleep_until_next():
                self._let_others_pass()
            else:
                self.clock.advance(0.25)
        else:
            message = "it does not come to an end"
            raise AssertionError(message)
        for member in self.members:
            self.poll(member, 0)
            self.commit(member)

    def _is_at_rest(self) -> bool:
        return not self.moves and all(
            member.lane.is_idle and not member.letters.waiting and not member.ledger.outstanding()
            for member in self.members
        )

    def _let_others_pass(self) -> None:
        """Publish to partitions with a record that gets 500, since only other traffic tells it from an outage."""
        may_be_stuck = any(entry.status == 500 for log in self.logs.values() for entry in log)
        if may_be_stuck and self.other_traffic < MOST_OTHER_TRAFFIC and self.clock() >= self.no_traffic_before:
            self.other_traffic += 1
            self.no_traffic_before = self.clock() + 10.0
            for partition in self.logs:
                self._publish(Version(partition.partition, 1_000 + self.other_traffic, is_delete=False))


# -- what is drawn


ANSWERS: list[Rule | SinkError | None] = [
    *[None] * 6,
    Rule(status=429, retry_after=2),
    Rule(status=429),
    Rule(status=503, retry_after=1),
    Rule(status=503, applies="half"),
    Rule(status=502, applies="all"),
    Rule(status=408),
    Rule(reset="before"),
    Rule(reset="after"),
    Rule(status=403),
    Rule(status=404),
    Rule(status=500),
    Rule(status=500, applies="half"),
    Rule(status=500, applies="all"),
    Transient("timed out", kind=RetryReason.TIMEOUT, unknown_outcome=True, while_sending=True),
]


def _some(draw: st.DrawFn, elements: st.SearchStrategy[T], sizes: list[int], label: str) -> list[T]:
    """Draw a list of one of the sizes; lists of any size are mostly too short for anything to happen."""
    size = draw(st.sampled_from(sizes), label=f"count of {label}")
    return draw(st.lists(elements, min_size=size, max_size=size), label=label)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Situations in which every record can come to an outcome."""
    slots = draw(st.integers(1, 3), label="slots")
    # Only other traffic tells a record that gets 500 from an outage: it wants a slot, and a place in the queue's front.
    has_server_errors = slots > 1 and draw(st.booleans(), label="has server errors")
    version = st.builds(
        Version,
        partition=st.integers(0, draw(st.integers(0, 2), label="last partition")),
        key=st.integers(0, draw(st.integers(0, 2), label="last key")),
        is_delete=st.sampled_from([False, False, False, True]),
        status=st.sampled_from([200, 200, 200, 400]),
    )
    versions = _some(draw, version, [1, 4, 12] if has_server_errors else [1, 4, 12, 40], "versions")
    if has_server_errors:
        for _ in range(slots - 1):
            place = draw(st.integers(0, len(versions) - 1), label="gets 500")
            versions[place] = versions[place]._replace(is_delete=False, status=500)
    keys = [key_of(partition, key) for partition in range(3) for key in range(3)]
    return Situation(
        versions,
        frozenset(draw(st.sets(st.sampled_from(keys), max_size=1), label="refused deletes")),
        draw(st.integers(1, 2), label="stride"),
        draw(st.sampled_from([1, 2, 3, 8]), label="max records"),
        draw(st.sampled_from([160, 10_000]), label="max bytes"),
        draw(st.sampled_from([10_000, 250, 130]), label="the service's max body bytes"),
        slots,
        draw(st.sampled_from([0.0, 2.0]), label="vectors per second"),
        _few_server_errors(_some(draw, st.sampled_from(ANSWERS), [0, 3, 12, 24], "answers")),
        draw(st.integers(1, 2), label="members"),
        _some(draw, st.integers(0, 16 * 12 - 1), [0, 10, 60, 200], "turns"),
    )


def _few_server_errors(answers: list[Rule | SinkError | None]) -> list[Rule | SinkError | None]:
    """Leave out 500s beyond what isolates a record: a good one that gets so many is dead-lettered, as it should be."""
    seen = 0
    kept: list[Rule | SinkError | None] = []
    for answer in answers:
        seen += isinstance(answer, Rule) and answer.status == 500
        kept.append(None if seen >= ISOLATED_ATTEMPTS and isinstance(answer, Rule) and answer.status == 500 else answer)
    return kept


@settings(max_examples=max(1000, settings().max_examples))  # each is an interleaving of many turns
@given(situations())
def test_whatever_the_service_and_the_group_do_the_index_ends_as_if_records_were_applied_one_by_one(
    situation: Situation,
) -> None:
    world = World(situation)
    with world.turns:
        for choice in situation.turns:
            world.happen(choice)
        world.finish()
    _tell(world)
    entries = [entry for log in world.logs.values() for entry in log]
    stored = {key: element["data"]["float32"][0] for key, element in world.sink.vectors.items()}
    assert stored == expected_index(entries)
    assert world.sink.overlaps == []
    assert world.committed == world.ends
    _assert_each_refused_record_is_one_dead_letter(world)
    for member in world.members:
        _assert_the_books_balance(member)


def _assert_each_refused_record_is_one_dead_letter(world: World) -> None:
    final = {place: outcome for member in world.members for place, outcome in member.ledger.final().items()}
    refused = {(partition, e.offset) for partition, log in world.logs.items() for e in log if e.status != 200}
    dead = {(letter.assignment.partition, letter.offset) for letter in world.letters}
    assert dead <= refused
    assert {place for place in refused if final[place] is not Outcome.SUPERSEDED} <= dead
    ownerships = [(letter.assignment, letter.offset) for letter in world.letters]
    assert len(ownerships) == len(set(ownerships))
    for letter in world.letters:
        entry = world.entry(letter.assignment.partition, letter.offset)
        assert letter.reason is (Reason.ISOLATED_SERVER_ERROR if entry.status == 500 else Reason.REFUSED)


def _assert_the_books_balance(member: Member) -> None:
    books = member.ledger.books()
    assert books.buffer_bytes == 0
    assert books.buffered == {TOPIC: 0}
    assert books.consumed[TOPIC] == sum(books.settled.values())
    assert {assignment.on_wire for assignment in member.ledger.assignments()} <= {0}
    blocks = [block for block in member.status.read().blocks if block.reason is not BlockReason.RECORD_STUCK]
    assert blocks == []


def _tell(world: World) -> None:
    outcomes = {outcome for member in world.members for outcome in member.ledger.final().values()}
    for outcome in sorted(outcomes):
        event(f"outcome {outcome.value}")
    if any(member.ledger.books().settled[TOPIC, Outcome.RETURNED] for member in world.members):
        event("outcome returned")
    for letter in world.letters:
        event(f"dead letter {letter.reason.value}")
    statuses = {request.status for request in world.sink.requests}
    for status in sorted(statuses):
        event(f"answered {status}")
