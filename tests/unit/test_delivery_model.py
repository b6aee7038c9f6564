"""Delivery against a model: whatever the service and the group do, the index ends as if records were applied one by one.

The situation is drawn: versions (puts and deletes) of few keys over few partitions, some of which the service refuses,
alone or several in a message;
the limits of batches and slots; what the service answers to each request; and in which order the slots, the polls, the
acknowledgements of dead letters and the moves of partitions between two members take their turns. A member may be frozen
at any moment, beyond its session or not; others get its partitions then, write newer versions, and commit, and when it
wakes its slots run before it learns of it. The slots run `Courier.deliver` on threads of which one runs at a time (`tests.support.turns`), and a turn ends where a request is about
to leave, on the wire, applied and not yet answered, answered and not yet settled or landed, and where a slot waits.

What is left out is what no client can hold: a request that is applied after its connection was cut, or that had left
before its process was frozen.
"""

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest
from hypothesis import Phase as Step
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.support.fakes import FakeClock, FakeMessage, FakeSink, Request, Stage
from tests.support.turns import Turns
from worker.app.lanes import LaneContext, make_lane
from worker.delivery.batch import Batch, Item, OpenBatch
from worker.delivery.lane import Lane
from worker.delivery.pace.backoff import Backoff
from worker.errors import BlockReason, Reason, RetryReason, SinkError, Transient
from worker.lease import Lease
from worker.ledger import Assignment, Ledger, Outcome, Partition, Phase, Tracked
from worker.local.emulator.faults import Rule
from worker.ports import DeadLetter, SealReason
from worker.records.target import Target
from worker.settings.tables import Batch as BatchSettings
from worker.settings.tables import Delivery
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

TOPIC = "vectors"
INDEX = "docs"
ISOLATED_ATTEMPTS = 4
MOST_TURNS = 20_000
SESSION_SECONDS = 6.0
STEPS_BEFORE_IT_LEARNS = 40
KINDS = 20  # of what may happen between two turns
OTHER_TRAFFIC_KEY = 1_000  # the first of those that only other traffic has

Place = tuple[Partition, int, int]
"""Of a record: its partition, its offset, and its place in the message, 0 where the message has no other."""
MOST_OF_A_MESSAGE = 8
SHARED_BYTES = 3  # of a message with several records
T = TypeVar("T")


class Version(NamedTuple):
    """A record: of which partition and key, a put or a delete, and what the service says to a put of it."""

    partition: int
    key: int
    is_delete: bool
    status: int = 200  # 400: refused; 500: answered as if the service were at fault
    joins: bool = False  # the message of the record before it in its partition


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
    is_frozen_in_the_end: bool  # the first of two
    turns: list[int]


def key_of(partition: int, key: int) -> str:
    """Return a key that no other partition has."""
    return f"{partition}-{key}"


# -- the model


@dataclass(frozen=True)
class Entry:
    """A record in the log; several with one offset are of one message, in the order of `element`."""

    offset: int
    element: int
    key: str
    is_delete: bool
    status: int

    @property
    def number(self) -> int:
        """What its vector consists of."""
        return number_of(self.offset, self.element)


def number_of(offset: int, element: int) -> int:
    """Return the number that says which record of its partition a vector is of."""
    return offset * MOST_OF_A_MESSAGE + element


def place_of(partition: Partition, number: int) -> Place:
    """Return the place of the record that a vector is of."""
    return (partition, *divmod(number, MOST_OF_A_MESSAGE))


def messages_of(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    """Return the records of each message, by offset."""
    found: dict[int, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.offset, []).append(entry)
    return found


def expected_index(entries: Iterable[Entry]) -> dict[str, int]:
    """Apply the records that the service takes, one by one; return the number of the record that each key ends with."""
    index: dict[str, int] = {}
    for entry in entries:
        if entry.status != 200:
            continue
        if entry.is_delete:
            index.pop(entry.key, None)
        else:
            index[entry.key] = entry.number
    return index


# -- the worker's parts, and what watches them


class WatchedLedger(Ledger):
    """Holds every outcome against what the service really has, and every record to one outcome."""

    def __init__(self, world: "World", member: int) -> None:
        self.lease = Lease(SESSION_SECONDS, 300.0, world.clock)
        super().__init__([TOPIC], world.clock, self.lease.holds)
        self._world = world
        self._member = member
        self.outcomes: dict[tuple[Assignment, int, int], Outcome] = {}

    def begin_request(self, assignments: Collection[Assignment]) -> bool:
        """Let others have a turn before and after: what was asked of the partitions until now may not hold any more."""
        self._world.turns.let_others()
        departed = super().begin_request(assignments)
        self._world.turns.let_others()
        return departed

    def end_request(self, assignments: Collection[Assignment]) -> None:
        """Let others have a turn before."""
        self._world.turns.let_others()
        super().end_request(assignments)

    def settle(self, records: Iterable[Tracked], outcome: Outcome) -> int:
        """Let others have a turn before; look at each, then enter it."""
        self._world.turns.let_others()
        records = list(records)
        for record in records:
            if self._world.is_owned(record.assignment):
                self._look_at(record, outcome)
        return super().settle(records, outcome)

    def _look_at(self, record: Tracked, outcome: Outcome) -> None:
        place = (record.assignment, record.offset, record.element or 0)
        assert place not in self.outcomes, f"{place} is {outcome}, and was {self.outcomes[place]}"
        self.outcomes[place] = outcome
        entry = self._world.entry(record.assignment.partition, *place[1:])
        key = entry.key
        stored = self._world.sink.vectors.get(key)
        if outcome is Outcome.PUT:
            assert stored is not None, f"{place} is put, and the index has no {key}"
            assert stored["data"]["float32"] == [entry.number], f"{place} is put"
        elif outcome is Outcome.DELETED:
            assert stored is None, f"{place} is deleted, and the index has {stored}"
        elif outcome is Outcome.SUPERSEDED:
            newer = [
                offset
                for (assignment, offset, element), settled in self.outcomes.items()
                if assignment is record.assignment
                and (offset, element) > place[1:]
                and settled in (Outcome.PUT, Outcome.DELETED)
                and self._world.entry(assignment.partition, offset, element).key == key
            ]
            assert newer, f"{place} is superseded, and no newer version of {key} was taken"
        elif outcome is Outcome.DEAD_LETTERED:
            assert place in self._world.acknowledged, f"{place} is dead-lettered, and nobody has it"

    def final(self) -> dict[Place, Outcome]:
        """Return the outcomes that were entered."""
        return {
            (assignment.partition, offset, element): outcome
            for (assignment, offset, element), outcome in self.outcomes.items()
        }


class Slots:
    """The slots of a lane that is not started: they wait on the test's turns."""

    def __init__(self, lane: Lane, count: int, turns: Turns, name: str) -> None:
        self._lane = lane
        self._turns = turns
        lane.state.wait = self._wait  # type: ignore[method-assign]  # all waiting of the courier is there
        self.tasks = [turns.add(f"{name}-slot-{number}", self._work) for number in range(count)]
        lane._threads += [task.thread for task in self.tasks]

    def _wait(self, seconds: float, until: Callable[[], bool]) -> None:
        """Give the turn back for so long, a millisecond at the least: less may not move the clock at all."""
        if seconds > 0.0:
            self._turns.pause(lambda: self._lane.state.is_stopping or until(), max(seconds, 0.001))

    def _work(self) -> None:
        lane = self._lane
        while True:
            self._turns.pause(self._has_next, self._seconds_until_due())
            flight = lane.pop()
            if flight is not None:
                lane._courier.deliver(flight)
                lane.done(flight)

    def _seconds_until_due(self) -> float | None:
        with self._lane._lock:
            seconds = self._lane._seconds_until_due()
        return None if seconds is None else max(seconds, 0.001)

    def _has_next(self) -> bool:
        lane = self._lane
        with lane._lock:
            return len(lane._in_flight) < lane._slots and (lane._due() is not None or lane._first_free() is not None)


class Letters:
    """Dead letters that wait for the broker's acknowledgement."""

    def __init__(self) -> None:
        self.waiting: deque[DeadLetter] = deque()

    def submit(self, letter: DeadLetter) -> None:
        """Take one."""
        self.waiting.append(letter)


class Life(Enum):
    """What a member's process does, and knows."""

    RUNNING = "running"
    FROZEN = "frozen"
    WOKEN = "woken"  # its slots run, and no heartbeat has been answered yet


class Member:
    """One worker without its main loop, whose steps the world makes."""

    def __init__(self, world: "World", number: int) -> None:
        situation = world.situation
        self.life = Life.RUNNING
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
        self.context = context
        self.lane = make_lane(INDEX, [TOPIC], context)
        self.slots = Slots(self.lane, situation.slots, world.turns, f"member-{number}")
        self.open_batch = OpenBatch(
            self.lane.envelope, max_records=batch.max_records, max_bytes=batch.max_bytes, max_age=1.0
        )

    def take_in(self, assignment: Assignment, entries: list[Entry], pad: bytes) -> None:
        """Track and batch records, as the main loop does."""
        messages = messages_of(entries)
        if not self.ledger.track(assignment, [*messages]):
            return
        self.ledger.count_bytes(len(entries))
        self.open_batch.limit_bytes(self.lane.max_body_bytes())
        for offset, several in messages.items():
            if len(several) > 1:
                self.ledger.split(assignment, offset, range(len(several)), SHARED_BYTES)
        for entry in entries:
            element = entry.element if len(messages[entry.offset]) > 1 else None
            self._submit(self.open_batch.add(_item(assignment, entry, pad, element), self.context.clock()))

    def seal(self, reason: SealReason) -> None:
        """Seal what is open."""
        self._submit(self.open_batch.seal(reason))

    def outstanding(self) -> list[Place]:
        """Return the records that are tracked and have no outcome."""
        return [
            (assignment.partition, offset, element)
            for assignment in self.ledger.assignments()
            for offset in assignment.outstanding
            if offset in assignment.unsettled
            for element in assignment.elements.get(offset, {0})
        ]

    def _submit(self, batch: Batch | None) -> None:
        if batch is not None:
            self.lane.submit(batch)


def _item(assignment: Assignment, entry: Entry, pad: bytes, element: int | None) -> Item:
    fragment = msgspec.json.encode({"key": entry.key, "data": {"float32": [entry.number]}, "metadata": {"p": pad}})
    message = FakeMessage(entry.offset, None)
    return Item(assignment, message, entry.key, None if entry.is_delete else fragment, 1, element=element)


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
    acknowledged: set[tuple[Assignment, int, int]] = field(default_factory=set)
    letters: list[DeadLetter] = field(default_factory=list)
    committed: dict[Partition, int] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    requests_before: dict[Assignment, int] = field(default_factory=dict)
    owners: dict[Partition, Assignment] = field(default_factory=dict)  # as the group has it
    other_traffic: int = 0
    no_traffic_before: float = 0.0

    def __post_init__(self) -> None:
        situation = self.situation
        self.turns = Turns(self.clock)
        self.sink = FakeSink(
            Target(INDEX, 1, "euclidean"),
            judge=self._judge,
            waypoint=self._waypoint,
            max_body_bytes=situation.max_body_bytes,
            may_send=lambda: all(member.ledger.may_send() for member in self.members),  # by the thread that asks
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
        self._beat()

    def _publish(self, version: Version) -> None:
        partition = Partition(TOPIC, version.partition)
        key = key_of(version.partition, version.key)
        status = version.status
        if version.is_delete:
            status = 400 if key in self.situation.refused_deletes else 200
        log = self.logs.setdefault(partition, [])
        if version.joins and log and log[-1].element < MOST_OF_A_MESSAGE - 1:
            log.append(Entry(log[-1].offset, log[-1].element + 1, key, version.is_delete, status))
            return
        offset = self.ends.get(partition, 0)
        log.append(Entry(offset, 0, key, version.is_delete, status))
        self.ends[partition] = offset + self.situation.stride

    def _judge(self, key: str, element: dict[str, Any] | None) -> int:
        if element is None:
            return 400 if key in self.situation.refused_deletes else 0
        number = int(key.partition("-")[0])
        status = self.entry(*place_of(Partition(TOPIC, number), element["data"]["float32"][0])).status
        return 0 if status == 200 else status

    def entry(self, partition: Partition, offset: int, element: int) -> Entry:
        """Return a record."""
        return next(one for one in self.logs[partition] if (one.offset, one.element) == (offset, element))

    def _waypoint(self, stage: Stage, request: Request) -> None:
        """Hold what was applied against the group: what is committed is written no more."""
        if stage == "applied" and request.operation == "PutVectors":
            for element in msgspec.json.decode(request.body)["vectors"]:
                if element["key"] in request.applied:
                    partition, offset, _ = place_of(
                        Partition(TOPIC, int(element["key"].partition("-")[0])), element["data"]["float32"][0]
                    )
                    assert offset >= self.committed[partition], f"{partition} offset {offset} was committed"
        self.turns.pause()

    def is_owned(self, assignment: Assignment) -> bool:
        """Tell whether the group has this ownership for the one that counts."""
        return self.owners.get(assignment.partition) is assignment and assignment.phase is not Phase.FENCED

    # -- what may happen between two turns of the slots

    def happen(self, choice: int) -> None:
        """Make one step: mostly a slot's, else the main loop's of some member, the broker's, or the group's."""
        self._beat()
        kind, which = choice % KINDS, choice // KINDS
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
        else:
            self._befall(kind, which, member)
        self._expire()
        for move in list(self.moves):
            self.go_on_with(move)

    def _befall(self, kind: int, which: int, member: Member) -> None:
        """Move a partition, or freeze a member, let its session pass, and wake it."""
        if kind == 14:
            self.begin_move(which)
        elif kind == 15:
            self.lose(which)
        elif kind == 16:
            self.freeze(member)
        elif kind == 17:
            self.clock.advance(SESSION_SECONDS / 2)
            self._beat()
        else:
            self.wake(member)

    def poll(self, member: Member, which: int) -> bool:
        """Let a member read on in one of its partitions; False where none has more."""
        for assignment in member.ledger.assignments() if member.life is not Life.FROZEN else []:
            partition = assignment.partition
            entries = [entry for entry in self.logs[partition] if entry.offset >= assignment.position]
            if assignment.phase is Phase.OPEN and entries:
                last = [*messages_of(entries)][: 1 + which % 7][-1]
                member.take_in(assignment, [entry for entry in entries if entry.offset <= last], b"")
                return True
            if assignment.phase is Phase.OPEN and not assignment.buffered:
                member.ledger.advance(assignment, self.ends[partition])  # past what follows the last record
        return False

    def acknowledge(self, member: Member) -> None:
        """Let the broker acknowledge the oldest dead letter, as long as its partition is owned."""
        if member.letters.waiting and member.life is not Life.FROZEN:
            letter = member.letters.waiting[0]
            if not member.ledger.begin_request((letter.assignment,)):
                if not letter.assignment.is_live:
                    member.ledger.discard([member.letters.waiting.popleft()])
                return
            member.letters.waiting.popleft()
            self.letters.append(letter)
            self.acknowledged.add((letter.assignment, letter.offset, letter.element or 0))
            member.ledger.settle([letter], Outcome.DEAD_LETTERED)
            member.ledger.end_request((letter.assignment,))

    def commit(self, member: Member, assignments: list[Assignment] | None = None) -> None:
        """Commit a member's watermarks; each must be complete."""
        final = {place for each in self.members for place in each.ledger.final()}
        for assignment, watermark in member.ledger.watermarks(assignments).items():
            if not self.is_owned(assignment) or member.life is Life.FROZEN:
                continue  # the group refuses it
            partition = assignment.partition
            unsettled = [
                (entry.offset, entry.element)
                for entry in self.logs[partition]
                if entry.offset < watermark and (partition, entry.offset, entry.element) not in final
            ]
            assert unsettled == [], f"{partition} is committed up to {watermark}"
            assert watermark >= self.committed[partition]
            self.committed[partition] = watermark

    def begin_move(self, which: int) -> None:
        """Ask a partition back, for another member, or the same one again."""
        partition = list(self.logs)[which % len(self.logs)]
        giver = self._owner(partition)
        taker = self.members[which // 3 % len(self.members)]
        if giver is not None and all(move.partition != partition for move in self.moves):
            self.moves.append(Move(partition, giver, taker, giver.ledger.begin_revoke([partition])))

    def go_on_with(self, move: Move) -> None:
        """End a revocation whose requests have landed; else cut them once, by the clock."""
        if move.giver.life is not Life.RUNNING:
            return
        if move.giver.ledger.has_requests_in_flight(move.closing) and not move.was_cut:
            if int(self.clock() * 4) % 5 == 0:
                move.giver.lane.abort(move.giver.ledger.threads_of(move.closing))
                move.was_cut = True
            return
        self.moves.remove(move)
        if not move.was_cut:
            for assignment in move.closing:
                self._assert_what_was_taken_is_settled(move.giver, assignment)
        self.commit(move.giver, move.closing)
        move.giver.ledger.end(move.closing)
        move.giver.status.forget(*move.partition)
        self._assign(move.partition, move.taker if move.taker.life is Life.RUNNING else move.giver)

    def _owner(self, partition: Partition) -> Member | None:
        """Return who has the partition, and knows it."""
        return next(
            (
                member
                for member in self.members
                if (mine := member.ledger.assignment(partition)) and self.is_owned(mine) and member.life is Life.RUNNING
            ),
            None,
        )

    def lose(self, which: int) -> None:
        """Take a partition from its member without a commit, and give it to another."""
        partition = list(self.logs)[which % len(self.logs)]
        member = self._owner(partition)
        taker = self.members[which // 3 % len(self.members)]
        if member is None or any(move.partition == partition for move in self.moves):
            return
        if not self.owners[partition].requests_in_flight and taker.life is Life.RUNNING:
            member.ledger.end(member.ledger.begin_revoke([partition]))
            member.status.forget(*partition)
            self._assign(partition, taker)

    # -- a process that is frozen

    def _beat(self) -> None:
        """Let the group accept a heartbeat of each member that runs."""
        for member in self.members:
            if member.life is Life.RUNNING:
                member.ledger.lease.confirm(self.clock())

    def freeze(self, member: Member) -> None:
        """Stop a member. What it has on the wire is never whole, or never answered."""
        if member.life is Life.RUNNING:
            member.life = Life.FROZEN
            for task in member.slots.tasks:
                task.is_frozen = True
            member.lane.abort()

    def _expire(self) -> None:
        """Give the partitions of members that the group has not heard of for a session to others."""
        takers = [member for member in self.members if member.life is Life.RUNNING]
        for member in self.members:
            if member.life is Life.RUNNING or member.ledger.lease.age() < SESSION_SECONDS:
                continue
            self.moves = [move for move in self.moves if move.giver is not member]
            for assignment in member.ledger.assignments():
                if self.is_owned(assignment):
                    del self.owners[assignment.partition]
            # It may have sent after it woke, while its lease still held. Its consumer cuts that at the end of the session.
            member.lane.abort()
        for number, partition in enumerate(partition for partition in self.logs if partition not in self.owners):
            if takers:
                self._assign(partition, takers[number % len(takers)])

    def wake(self, member: Member) -> None:
        """Let a frozen member's slots go on; or, once they do, let it hear what the group says to its heartbeat."""
        if member.life is Life.FROZEN:
            member.life = Life.WOKEN
            for task in member.slots.tasks:
                task.is_frozen = False
        elif member.life is Life.WOKEN:
            lost = [one for one in member.ledger.assignments() if not self.is_owned(one)]
            if lost:
                member.ledger.lease.end()
                member.ledger.end(lost)
                member.lane.abort()
            for assignment in lost:
                member.status.forget(*assignment.partition)
            member.life = Life.RUNNING
            self.clock.advance(
                0.001
            )  # the heartbeat that is accepted again is sent after it heard that it is no member
            self._beat()

    def _assert_what_was_taken_is_settled(self, member: Member, assignment: Assignment) -> None:
        """What the service took within an ownership that ends in peace must not be done again by the next owner."""
        taken = [
            (assignment, *place_of(assignment.partition, element["data"]["float32"][0])[1:])
            for request in self.sink.requests[self.requests_before[assignment] :]
            if request.operation == "PutVectors" and request.status == 200
            for element in msgspec.json.decode(request.body)["vectors"]
            if element["key"].startswith(f"{assignment.partition.partition}-")
        ]
        assert [place for place in taken if place not in member.ledger.outcomes] == []

    def _assign(self, partition: Partition, member: Member) -> None:
        committed = self.committed[partition]
        assignment = member.ledger.assign(partition)
        self.owners[partition] = assignment
        self.requests_before[assignment] = len(self.sink.requests)
        member.ledger.open(assignment, committed, committed)

    # -- the end

    def finish(self) -> None:
        """Go on until everything has its outcome; the bad answers come to an end by themselves.

        Where a member is frozen, the others first do all that there is, and commit it; then it wakes with what it has queued,
        and its slots run for a while before it learns of it.
        """
        if self.situation.is_frozen_in_the_end and len(self.members) > 1:
            self.freeze(self.members[0])
        if any(member.life is Life.RUNNING for member in self.members):
            self.clock.advance(SESSION_SECONDS)
            self._beat()
            self._expire()
            self._run_to_the_end()
        asleep = [member for member in self.members if member.life is not Life.RUNNING]
        for member in asleep:
            if member.life is Life.FROZEN:
                self.wake(member)
        for number in range(STEPS_BEFORE_IT_LEARNS):
            self.turns.step(number * 7)
        for member in asleep:
            self.wake(member)
        self._expire()
        self._run_to_the_end()

    def _run_to_the_end(self) -> None:
        chance = random.Random(0)  # by rule, some task could come always too late for what the others take
        for _ in range(MOST_TURNS):
            self._beat()
            for move in list(self.moves):
                self.go_on_with(move)
            for member in self._running():
                while self.poll(member, 6):
                    pass
                member.seal(SealReason.DRAIN)
                self.acknowledge(member)
            if self.turns.step(chance.randrange(MOST_TURNS)):
                continue
            if self._is_at_rest():
                break
            if self.turns.sleep_until_next():
                self._beat()
                self._let_others_pass()
            else:
                self.clock.advance(0.25)
        else:
            message = "it does not come to an end"
            raise AssertionError(message)
        for member in self._running():
            self.poll(member, 0)
            self.commit(member)

    def _running(self) -> list[Member]:
        return [member for member in self.members if member.life is Life.RUNNING]

    def _is_at_rest(self) -> bool:
        return not self.moves and all(
            member.lane.is_idle and not member.letters.waiting and not member.ledger.outstanding()
            for member in self._running()
        )

    def _let_others_pass(self) -> None:
        """Publish while a record that gets 500 has no outcome, since only other traffic tells it from an outage.

        No more of it than the rate lets through: what was published before has its outcome first.
        """
        outstanding = [self.entry(*place) for member in self._running() for place in member.outstanding()]
        may_be_stuck = any(entry.status == 500 for entry in outstanding)
        is_on_its_way = any(int(entry.key.partition("-")[2]) >= OTHER_TRAFFIC_KEY for entry in outstanding)
        if may_be_stuck and not is_on_its_way and self.clock() >= self.no_traffic_before:
            self.no_traffic_before = self.clock() + 10.0
            for partition in self.logs:
                self._publish(Version(partition.partition, OTHER_TRAFFIC_KEY + self.other_traffic, is_delete=False))
            self.other_traffic += 1


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
    has_server_errors = draw(st.booleans(), label="has server errors")
    version = st.builds(
        Version,
        partition=st.integers(0, draw(st.integers(0, 2), label="last partition")),
        key=st.integers(0, draw(st.integers(0, 2), label="last key")),
        is_delete=st.sampled_from([False, False, False, True]),
        status=st.sampled_from([200, 200, 200, 400]),
        joins=st.sampled_from(draw(st.sampled_from([(False,), (False, True), (True,)]), label="joins")),
    )
    versions = _some(draw, version, [1, 4, 12] if has_server_errors else [1, 4, 12, 40], "versions")
    if has_server_errors:
        for _ in range(slots + 1):  # more than there are slots: these must not stop the others
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
        _few_server_errors(
            _some(draw, st.sampled_from(ANSWERS), [0, 3, 12, 24], "answers"),
            0 if has_server_errors else ISOLATED_ATTEMPTS - 1,
        ),
        draw(st.integers(1, 2), label="members"),
        draw(st.booleans(), label="is frozen in the end"),
        _some(draw, st.integers(0, KINDS * 12 - 1), [0, 10, 60, 200], "turns"),
    )


def _few_server_errors(answers: list[Rule | SinkError | None], most: int) -> list[Rule | SinkError | None]:
    """Leave out 500s beyond what isolates a record: a good one that gets so many is dead-lettered, as it should be.

    None are left where some versions get 500 each time: other versions of their keys would be dead-lettered after one or two.
    """
    seen = 0
    kept: list[Rule | SinkError | None] = []
    for answer in answers:
        is_server_error = isinstance(answer, Rule) and answer.status == 500
        seen += is_server_error
        kept.append(None if is_server_error and seen > most else answer)
    return kept


# Each is an interleaving of many turns; a slow machine needs minutes. To shrink one takes more minutes than a test has: it is repeated by its blob.
@pytest.mark.timeout(900)
@settings(
    max_examples=max(1000, settings().max_examples),
    phases=[Step.explicit, Step.reuse, Step.generate],
    print_blob=True,
)
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
    refused = {
        (partition, e.offset, e.element) for partition, log in world.logs.items() for e in log if e.status != 200
    }
    dead = {(letter.assignment.partition, letter.offset, letter.element or 0) for letter in world.letters}
    assert dead <= refused
    assert {place for place in refused if final[place] is not Outcome.SUPERSEDED} <= dead
    ownerships = [(letter.assignment, letter.offset, letter.element) for letter in world.letters]
    assert len(ownerships) == len(set(ownerships))
    for letter in world.letters:
        entry = world.entry(letter.assignment.partition, letter.offset, letter.element or 0)
        assert letter.reason is (Reason.ISOLATED_SERVER_ERROR if entry.status == 500 else Reason.REFUSED)


def _assert_the_books_balance(member: Member) -> None:
    books = member.ledger.books()
    assert books.buffer_bytes == 0
    assert books.buffered == {TOPIC: 0}
    assert books.consumed[TOPIC] == sum(books.settled.values())
    assert {assignment.requests_in_flight for assignment in member.ledger.assignments()} <= {0}
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
    if any(entry.element for log in world.logs.values() for entry in log):
        event("several records in a message")
    if any(member.context.metrics.lease_waits._value.get() for member in world.members):
        event("held back")
    statuses = {request.status for request in world.sink.requests}
    for status in sorted(statuses):
        event(f"answered {status}")
