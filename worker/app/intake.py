"""From polled messages to sealed batches: each message is tracked, decoded, and put into the open batch of its index."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import chain, groupby
from operator import attrgetter
from typing import Final, NamedTuple

from worker.app.components import Components
from worker.app.decoded import ITEM_BYTES, Decoded, dead_letter_of, header_bytes
from worker.app.decoders import decoder_of
from worker.app.parking import Parked, Parking
from worker.app.pieces import Piece, PieceReader, bytes_of
from worker.app.portions import Portion, TurnTime
from worker.app.routers import NO_INDEX, Router, router_of
from worker.app.several import SeveralReader, cutter_of
from worker.app.suspect_reports import SuspectReports
from worker.app.waiting_room import WaitingRoom
from worker.delivery.batch import Batch, Item, OpenBatch
from worker.delivery.courier import observe_latency
from worker.delivery.lane import Lane
from worker.errors import RecordError, SchemaPending
from worker.ledger import Assignment, Outcome, OutOfOrder
from worker.ports import Message, Polled, SealReason
from worker.records.decode import Decoder, Delete, Put
from worker.records.target import Target

_AT_ONCE: Final = 2_000  # messages of a partition that waited and are taken in together, at most
_BEHIND_POLL_SECONDS: Final = 0.05  # of a poll while messages wait for time: enough for a rebalance to make progress


class Route(NamedTuple):
    """One topic on its way to one index: how it is decoded, and the lane that all topics of the index share."""

    topic: str
    lane: Lane
    decoder: Decoder


class Intake:
    """Tracks, decodes and batches the messages of topics whose index is known. Only the main loop calls it."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._ledger = components.ledger
        self._metrics = components.metrics
        self._clock = components.clock
        self._routes: dict[str, Route] = {}
        self._routers: dict[
            str, Router
        ] = {}  # of topics whose records choose their index, or whose messages have several
        self._cutters = {each.topic: cutter_of(each, components.settings) for each in components.settings.routes}
        self._several: dict[str, SeveralReader] = {}  # of topics whose messages may have several records
        self._choosing = {
            each.topic: each for each in components.settings.routes if each.index_by or self._cutters[each.topic]
        }
        self._parking = Parking()
        self._book = None if components.schemas is None else components.schemas.book
        self._room = WaitingRoom(_no_schema if self._book is None else self._book.has)
        self._time = TurnTime(components.clock)
        self._suspects = SuspectReports(components.metrics, components.clock)
        self._open_batches: dict[str, OpenBatch] = {}

    # -- routes

    def add_index(self, index: str, found: Target) -> None:
        """Accept messages for this index from now on."""
        lane = self._components.lanes[index]
        batch = self._components.settings.batch
        self._open_batches[index] = OpenBatch(
            lane.envelope, max_records=batch.max_records, max_bytes=batch.max_bytes, max_age=batch.max_age_seconds
        )
        for topic in lane.topics:
            if topic in self._choosing:
                self._router_of(topic).add(found)
            else:
                self._routes[topic] = Route(
                    topic, lane, decoder_of(found, self._components.settings, topic, schemas=self._book)
                )
        self._take_out_of_parking(index)

    def _router_of(self, topic: str) -> Router:
        if topic not in self._routers:
            route = self._choosing[topic]
            cutter = self._cutters[topic]
            self._routers[topic] = router = router_of(route, self._components.settings, schemas=self._book)
            if cutter is not None:
                self._several[topic] = SeveralReader(router, cutter, self._ledger, self._parking)
        return self._routers[topic]

    def has_route(self, topic: str) -> bool:
        """Return whether the topic's index is known. Of several one must be, and for the others there must be an answer."""
        if topic not in self._routers:
            return topic in self._routes
        lanes = self._components.lanes
        names = self._choosing[topic].index_names
        return all(name in self._open_batches or lanes[name].state.is_blocked for name in names)

    # -- messages

    def take_in(self, polled: Iterable[Polled]) -> None:
        """Track the messages of a poll; decode and batch as many as a turn has time for. The others wait for the next one."""
        self._time.begin()
        for assignment, messages in polled:
            offsets = [message.offset for message in messages]
            if not self.track(assignment, offsets):
                continue
            if self._room.holds(assignment) or self._time.is_up():
                self._keep(assignment, _parked(assignment, messages))
            else:
                self._read(assignment, messages, offsets)

    def _read(self, assignment: Assignment, messages: Sequence[Message], offsets: Sequence[int]) -> None:
        """Decode and batch tracked messages that were not decoded before, as many as there is time for."""
        portion = self._time.portion_of(messages)
        decoded = self._decoded(assignment, portion)
        if portion.left:
            self._keep(assignment, _parked(assignment, portion.left), decoded.schema)
            offsets = offsets[: -len(portion.left)]
        if offsets:
            self._note_read(assignment, decoded, offsets)
            self._pass_on(decoded, assignment)

    def _note_read(self, assignment: Assignment, decoded: Decoded, offsets: Sequence[int]) -> None:
        """Note for the limit of dead letters which messages were read, and what was bad."""
        limit = self._components.limit
        whole = [each.offset for each in decoded.dead_letters if each.element is None]
        limit.note_read(assignment, offsets, whole, decoded.widths)
        for each in decoded.dead_letters if decoded.widths else ():
            if each.element is not None:
                limit.note_bad(assignment.partition, each.offset, each.element)

    def _decoded(self, assignment: Assignment, messages: Portion[Message]) -> Decoded:
        topic = assignment.partition.topic
        route = self._routes.get(topic)
        if route is not None:
            return self._decode(route, assignment, messages)
        if topic in self._several:
            return self._several[topic].read(assignment, messages)
        return self._decode_routed(self._routers[topic], assignment, messages)

    def _pass_on(self, decoded: Decoded, assignment: Assignment) -> None:
        """Bring decoded messages of a partition to what happens to them next."""
        topic = assignment.partition.topic
        self._ledger.count_bytes(decoded.size)
        for dead_letter in decoded.dead_letters:
            self._components.dead_letters.submit(dead_letter)
        if decoded.ignored:
            self._ledger.settle(decoded.ignored, Outcome.IGNORED)
            observe_latency(self._metrics, decoded.ignored, self._components.wall())
        if decoded.mismatches:
            self._metrics.key_mismatch.labels(topic).inc(decoded.mismatches)
        self._suspects.add(decoded.suspects)
        for index, items in decoded.by_index.items():
            self._batch(self._components.lanes[index], items)
        if decoded.items:
            self._batch(self._routes[topic].lane, decoded.items)

    def track(self, assignment: Assignment, offsets: Sequence[int]) -> bool:
        """Track offsets; False if the partition is no longer open, or their order is impossible."""
        try:
            return self._ledger.track(assignment, offsets)
        except OutOfOrder as error:
            self._components.source.refuse(assignment, str(error))
            return False

    def _decode(self, route: Route, assignment: Assignment, messages: Portion[Message]) -> Decoded:  # noqa: C901 - a call for each record would cost more than it explains
        """Decode messages. A message that is wrong in any way costs itself, and none of the others."""
        found = Decoded()
        items, decode = found.items, route.decoder.decode
        for message in messages:
            size = ITEM_BYTES
            try:
                key, value = message.key, message.value
                size += (len(value) if value else 0) + (len(key) if key else 0)
                if message.headers:
                    size += header_bytes(message)
                decoded = decode(key, value, message.headers)
                if type(decoded) is Put:
                    size += len(decoded.fragment)
                    found.mismatches += decoded.key_mismatch
                    items.append(Item(assignment, message, decoded.key, decoded.fragment, size))
                    if decoded.suspicion:
                        found.note_suspect(assignment, message, decoded.suspicion)
                elif type(decoded) is Delete:
                    items.append(Item(assignment, message, decoded.key, None, size))
                    if decoded.suspicion:
                        found.note_suspect(assignment, message, decoded.suspicion)
                else:
                    found.ignored.append(Item(assignment, message, "", None, size))
            except RecordError as error:
                found.dead_letters.append(dead_letter_of(route.lane.index, assignment, message, size, error))
                if error.suspect:
                    found.note_suspect(assignment, message, (error.suspect, error.message))
            except SchemaPending as error:
                found.schema = error.schema
                messages.leave_from(message)
                break
            except Exception as error:  # a fault of the worker, which shows with this record
                internal = RecordError.internal(error)
                found.dead_letters.append(dead_letter_of(route.lane.index, assignment, message, size, internal))
            found.size += size
        return found

    def _decode_routed(self, router: Router, assignment: Assignment, messages: Portion[Message]) -> Decoded:
        """Route and decode messages likewise. Those whose index was not found yet are parked."""
        found = Decoded()
        reader = PieceReader(router, self._parking)
        for message in messages:
            try:
                piece = Piece(message, message.value, ITEM_BYTES + bytes_of(message))
                bad = reader.read(found, assignment, piece)
                found.add_bad(bad and bad.letter(assignment))
            except SchemaPending as error:
                found.schema = error.schema
                messages.leave_from(message)
                break
            except Exception as error:  # likewise
                internal = RecordError.internal(error)
                found.add_bad(dead_letter_of(NO_INDEX, assignment, message, ITEM_BYTES, internal))
        return found

    # -- messages that waited

    def take_in_waiting(self) -> Mapping[Hashable, frozenset[str]]:
        """Take in messages that need to wait no longer, as many as a turn has time for.

        Return the schemas that others wait for, with their topics.
        """
        self._time.begin(are_slow=True)
        for assignment in self._room.ready():
            if self._time.is_up():
                break
            self._take_in_again(assignment, self._room.pop(assignment, _AT_ONCE))
        return self._room.wanted()

    def behind(self) -> Collection[Assignment]:
        """Return the partitions of which messages wait for nothing but a turn that has time for them."""
        return self._room.ready()

    def _take_in_again(self, assignment: Assignment, waiting: Sequence[Parked]) -> None:
        """Take in messages that waited, all of them for their index or none, as many as there is time for."""
        if not assignment.is_live:
            self._ledger.discard(waiting)
            return
        self._ledger.count_bytes(-sum(each.size for each in waiting))
        messages = [each.message for each in waiting]
        if not waiting[0].was_routed:
            self._read(assignment, messages, [each.offset for each in waiting])
        elif assignment.partition.topic in self._several:
            self._read_parked(assignment, self._several[assignment.partition.topic], waiting)
        else:
            portion = self._time.portion_of(messages)
            decoded = self._decoded(assignment, portion)
            if portion.left:
                self._keep(assignment, waiting[-len(portion.left) :], decoded.schema)
            self._pass_on_again(decoded, assignment)

    def _read_parked(self, assignment: Assignment, reader: SeveralReader, waiting: Sequence[Parked]) -> None:
        """Take in records, of messages that have several, that waited for their index."""
        portion = self._time.portion_of([list(each) for _, each in groupby(waiting, key=attrgetter("offset"))])
        decoded = reader.read_parked(assignment, portion)
        if portion.left:
            self._keep(assignment, list(chain.from_iterable(portion.left)))
        self._pass_on_again(decoded, assignment)

    def _pass_on_again(self, decoded: Decoded, assignment: Assignment) -> None:
        """Bring decoded records that waited for their index to what happens next. That they were read was noted before."""
        for dead_letter in (*decoded.dead_letters, *decoded.joined):
            self._components.limit.note_bad(assignment.partition, dead_letter.offset, dead_letter.element)
        self._pass_on(decoded, assignment)
        if decoded.joined:  # the dead letter that they are in keeps their offset from being committed
            self._ledger.settle(decoded.joined, Outcome.DEAD_LETTERED)

    def _keep(self, assignment: Assignment, parked: Sequence[Parked], schema: Hashable = None) -> None:
        """Let messages wait: the first for a schema, or all for a turn that has time for them."""
        self._ledger.count_bytes(sum(each.size for each in parked))
        self._room.add(assignment, parked, schema)

    def _take_out_of_parking(self, index: str) -> None:
        """Let what waited for an index wait for time alone, before all of its partitions that was read later."""
        of_each: dict[Assignment, list[Parked]] = {}
        for parked in self._parking.pop(index):
            of_each.setdefault(parked.assignment, []).append(parked)
        for assignment, waiting in of_each.items():
            self._room.add(assignment, waiting)

    def drop_returned(self) -> None:
        """Drop messages that wait and whose partition was given back; they count as returned once it is fenced."""
        if returned := [*self._parking.pop_returned(), *self._room.pop_returned()]:
            self._ledger.discard(returned)

    # -- batches

    def _batch(self, lane: Lane, items: Sequence[Item]) -> None:
        batch = self._open_batches[lane.index]
        batch.limit_bytes(lane.max_body_bytes())
        now = self._clock()
        for item in items:
            _submit(lane, batch.add(item, now))

    def seconds_until_due(self, longest: float) -> float:
        """Return the seconds until the next open batch is as old as it may be, `longest` at most; less if messages wait for time."""
        if self._room.ready():
            longest = min(longest, _BEHIND_POLL_SECONDS)
        now = self._clock()
        due = [at for batch in self._open_batches.values() if (at := batch.due_at()) is not None]
        return min(longest, max(0.0, min(due, default=now + longest) - now))

    def seal_due(self) -> None:
        """Seal the batches that are as old as they may be."""
        now = self._clock()
        for index, batch in self._open_batches.items():
            due = batch.due_at()
            if due is not None and due <= now:
                _submit(self._components.lanes[index], batch.seal(SealReason.AGE))

    def seal_all(self) -> None:
        """Seal all open batches, since no more records come."""
        for index, batch in self._open_batches.items():
            _submit(self._components.lanes[index], batch.seal(SealReason.DRAIN))


def _submit(lane: Lane, sealed: Batch | None) -> None:
    if sealed is not None:
        lane.submit(sealed)


def _no_schema(_schema: Hashable) -> bool:
    """Return that no schema is here, where there is no registry."""
    return False


def _parked(assignment: Assignment, messages: Sequence[Message]) -> list[Parked]:
    return [Parked(assignment, message, _size_of(message)) for message in messages]


def _size_of(message: Message) -> int:
    """Return the bytes of a message in memory; of a part that is none, which makes it a dead letter later, none."""
    try:
        return ITEM_BYTES + bytes_of(message)
    except (TypeError, ValueError):
        return ITEM_BYTES
