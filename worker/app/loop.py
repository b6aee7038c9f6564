"""The worker: one main loop that moves records from the source to the lanes, and the state that it is in."""

import logging
from collections.abc import Sequence
from typing import Final

from worker.app import helpers
from worker.app.committer import Committer
from worker.app.components import Components
from worker.app.connection import WAIT_SECONDS, Connection
from worker.app.draining import Drain
from worker.app.intake import Intake
from worker.app.steering import Steering
from worker.app.stop import Stop
from worker.errors import BlockReason, FatalError
from worker.ledger import Assignment, Phase
from worker.telemetry.state import State

log = logging.getLogger("worker.loop")

STOP_SECONDS: Final = 1.0  # for all helpers to end; one that still waits for an answer ends with the process
_ANSWERS_SHOWN: Final = 5  # in a reason, at most, of indexes that are not known yet


class Worker:
    """Runs until `stop` is set, then drains."""

    def __init__(self, components: Components, stop: Stop) -> None:
        self._lanes = tuple(components.lanes.values())
        self._targets = components.targets
        self._dead_letters = components.dead_letters
        self._end_watcher = components.end_watcher
        self._schemas = components.schemas
        self._source = components.source
        self._ledger = components.ledger
        self._status = components.status
        self._clock = components.clock
        self._stop = stop
        settings = components.settings
        self._topics = settings.topics
        self._helpers = (
            *components.already_running,
            *self._lanes,
            self._targets,
            self._dead_letters,
            self._end_watcher,
            *(() if self._schemas is None else (self._schemas,)),
        )
        self._connection = Connection(
            self._source,
            self._status,
            retry_seconds=settings.delivery.retry_max_seconds,
            clock=self._clock,
            wait=stop.wait,
        )
        self._intake = Intake(components)
        indexes = {route.topic: route.index_names for route in settings.routes}
        self._steering = Steering(settings.buffer, indexes, self._source, self._ledger, self._status)
        self._committer = Committer(
            self._source, self._ledger, interval_seconds=settings.kafka.commit_interval_seconds, clock=self._clock
        )
        self._drain = Drain(components, self._connection, self._intake, self._committer)
        components.metrics.buffer_limit.set(settings.buffer.max_bytes)

    def run(self) -> None:
        """Work until `stop` is set, then drain. Raises `FatalError` where it cannot continue."""
        try:
            self._start_helpers()
            while not self._stop.is_set():
                self._turn()
            self._drain.run()
        except FatalError as error:
            self._status.enter(State.FAILED, str(error))
            raise
        except Exception as error:
            log.exception("the main loop failed")
            self._status.enter(State.FAILED, repr(error))
            raise FatalError(f"the main loop failed, see the log above: {error!r}") from error
        finally:
            self._stop_helpers()
        self._status.enter(State.STOPPED, "drained")

    def _turn(self) -> None:
        self._status.turned(self._clock())
        helpers.check(self._helpers)
        if self._connection.connect():
            self._add_found_indexes()
            self._open_partitions()
            self._take_in_what_waited()
            self._take_in_new_records()
            self._intake.drop_returned()
            self._intake.seal_due()
            self._steering.steer(self._clock(), self._intake.behind())
            if self._connection.is_up:  # the poll may have lost it
                self._committer.commit_if_due()
        self._enter_state()

    # -- the steps of a turn

    def _add_found_indexes(self) -> None:
        for index, found in self._targets.pop_found():
            self._intake.add_index(index, found)
            log.info(
                "index found",
                extra={"index": index, "dimension": found.dimension, "distance_metric": found.distance_metric},
            )

    def _open_partitions(self) -> None:
        """Begin reading newly assigned partitions whose first offset is known; none waits for another."""
        if not self._dead_letters.is_ready:
            return
        opened = False
        for assignment in self._ledger.assignments():
            if assignment.phase is Phase.OPENING and self._intake.has_route(assignment.partition.topic):
                opened |= self._source.open(assignment)
        if opened:
            self._end_watcher.look_now()

    def _take_in_new_records(self) -> None:
        """Wait for messages no longer than until there is something to do, and take them in."""
        self._intake.take_in(self._connection.poll(self._intake.seconds_until_due(longest=WAIT_SECONDS)))

    def _take_in_what_waited(self) -> None:
        """Take in the messages that wait no longer for a schema or for time, and have the schemas asked for that others need."""
        wanted = self._intake.take_in_waiting()
        if self._schemas is not None:
            self._schemas.want(wanted)

    # -- the state

    def _enter_state(self) -> None:
        """Enter the state that the worker is in now, with its reason."""
        if not self._connection.is_up:
            return  # the connection has entered it
        if not self._source.is_member:
            self._status.enter(State.STARTING, self._source.waits_for)
            return
        assignments = self._ledger.assignments()
        if self._is_all_blocked(assignments):
            self._status.enter(State.BLOCKED, "; ".join(self._status.blocks_in_words()))
        elif not self._dead_letters.is_ready:
            self._status.enter(State.STARTING, "looking for the dead-letter topic")
        elif assignments and not any(self._intake.has_route(each.partition.topic) for each in assignments):
            self._status.enter(State.STARTING, self._why_no_index())
        else:
            self._status.enter(State.RUNNING, "running")

    def _is_all_blocked(self, assignments: Sequence[Assignment]) -> bool:
        """Return whether no assigned partition can move, or none is assigned since every topic is unreadable."""
        if assignments:
            return all(self._steering.is_blocked(assignment) for assignment in assignments)
        unreadable = BlockReason.PARTITION_UNREADABLE
        return all(unreadable in self._status.blocks_of(topic) for topic in self._topics)

    def _why_no_index(self) -> str:
        answers = [f"index {index}: {answer}" for index, answer in self._targets.last_answers().items()]
        return "; ".join(["waiting for the service to tell of its indexes", *answers[:_ANSWERS_SHOWN]])

    # -- helpers

    def _start_helpers(self) -> None:
        for lane in self._lanes:
            lane.start()
        self._targets.start()
        self._dead_letters.start()
        self._end_watcher.start()
        if self._schemas is not None:
            self._schemas.start()

    def _stop_helpers(self) -> None:
        """End the helper threads and leave the group; after a drain most of it is done."""
        for lane in self._lanes:
            lane.stop()
        if self._schemas is not None:
            self._schemas.stop()
        self._connection.close(STOP_SECONDS)
        deadline = self._clock() + STOP_SECONDS
        self._targets.join(deadline - self._clock())
        self._dead_letters.stop(max(0.0, deadline - self._clock()))
        self._end_watcher.stop()
        if self._schemas is not None:
            self._schemas.join(deadline - self._clock())
        for lane in self._lanes:
            lane.join(max(0.0, deadline - self._clock()))
