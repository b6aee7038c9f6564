"""Finds the indexes of the routes: asks the service, and compares the answer with what the routes say."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from worker.app.routers import agreement, shard_siblings, with_route_keys
from worker.delivery.lane import Lane
from worker.delivery.pace.backoff import Backoff
from worker.errors import BlockReason, SinkError, TargetError, Transient
from worker.oss.answers import CREDENTIAL_STATUSES
from worker.ports import Operation
from worker.records.target import Target
from worker.settings.tables import Delivery
from worker.settings.tables import Route as RouteSettings
from worker.telemetry.metrics import Metrics

log = logging.getLogger("worker.delivery")

_LOOK_SECONDS: Final = 1.0  # between two looks whether the other shards were answered for; an answer wakes


class TargetFinder:
    """Asks the service for each index, on a thread for each, so that one that does not answer delays no other.

    The settings of a route are compared with the service's answer before they are used: a wrong route would fill the
    dead-letter topic. Only if the service does not let us ask are they used without it.
    """

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        routes: Sequence[RouteSettings],
        delivery: Delivery,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lanes = lanes
        self._routes = routes
        self._delivery = delivery
        self._metrics = metrics
        self._clock = clock
        self._backoff = Backoff(delivery.retry_initial_seconds, delivery.retry_max_seconds, random.Random())  # noqa: S311 - jitter, no secret
        self._lock = threading.Lock()
        self._found: list[tuple[str, Target]] = []
        self._last_answers: dict[str, str] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._ended: set[str] = set()
        self._described: dict[str, Target] = {}  # what each index was, when it was last asked for
        self._refused: set[str] = set()  # indexes of which the service's last answer was that they cannot be used

    def start(self) -> None:
        """Start the threads."""
        for index in self._lanes:
            thread = threading.Thread(target=self._find, args=(index,), name=f"index-{index}", daemon=True)
            self._threads[index] = thread
            thread.start()

    def pop_found(self) -> list[tuple[str, Target]]:
        """Return the indexes that were found since the last call."""
        if not self._found:
            return []
        with self._lock:
            found, self._found = self._found, []
            return found

    def last_answers(self) -> dict[str, str]:
        """Return the last answer of the service for each index that is not found yet, if there was one."""
        with self._lock:
            return {index: answer for index, answer in self._last_answers.items() if index not in self._ended}

    def dead_threads(self) -> list[str]:
        """Return the names of threads that ended without an answer."""
        return [t.name for index, t in self._threads.items() if not t.is_alive() and index not in self._ended]

    def join(self, timeout: float) -> None:
        """Wait for the threads to end, `timeout` seconds in all. Each ends when its lane stops."""
        deadline = self._clock() + timeout
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - self._clock()))

    def _find(self, index: str) -> None:
        state = self._lanes[index].state
        routes = tuple(route for route in self._routes if index in route.index_names)
        given = given_target(index, routes)
        found = self._describe(self._lanes[index], is_needed=given is None)
        while found is not None and (problem := _contradiction(found, routes) or self._disagreement(found, routes)):
            error = TargetError(problem, block=BlockReason.TARGET)
            state.block(Operation.DESCRIBE, error.block, error, self._delivery.retry_max_seconds)
            state.wait(self._delivery.retry_max_seconds, lambda: False)
            found = self._describe(self._lanes[index], is_needed=given is None)
        target = given if given is not None or found is None else with_route_keys(found, routes)
        if target is not None and not state.is_stopping:
            state.unblock()
            state.note_works()
            self._add(index, target)
        self._ended.add(index)

    def _disagreement(self, found: Target, routes: tuple[RouteSettings, ...]) -> str:
        """Return how a shard differs from the others, once the service has answered for each of them; "" if it does not.

        So shards that differ are all blocked before a record is read. Afterwards only one that is found later can differ.
        """
        siblings = shard_siblings(found.index, routes)
        if not siblings:
            return ""
        self._note_described(found.index, found, siblings)
        state = self._lanes[found.index].state
        while not state.is_stopping and not self._is_answered(siblings):
            state.wait(_LOOK_SECONDS, lambda: self._is_answered(siblings))
        with self._lock:
            return agreement(found, {name: self._described[name] for name in siblings if name in self._described})

    def _note_described(self, index: str, found: Target | None, siblings: Iterable[str]) -> None:
        """Note what the service said of a shard, None if it cannot be used, and let the others look at it."""
        with self._lock:
            if found is None:
                self._refused.add(index)
            else:
                self._described[index] = found
        for name in siblings:
            self._lanes[name].state.wake()

    def _is_answered(self, indexes: Iterable[str]) -> bool:
        with self._lock:
            return all(name in self._described or name in self._refused or name in self._ended for name in indexes)

    def _describe(self, lane: Lane, *, is_needed: bool) -> Target | None:
        """Ask the service for the index until it answers; None if the lane stops before.

        While the service refuses, the index is blocked with the reason, and asked for again. None at once if we may not ask, and
        the answer is not needed because the settings say everything.
        """
        attempt = 0
        while not lane.state.is_stopping:
            attempt += 1
            try:
                found = lane.sink.describe(lane.index)
            except Transient as error:
                self._retry_later(lane, attempt, error)
            except SinkError as error:
                if not is_needed and may_not_ask(error):
                    log.warning(
                        "the service does not let us ask for the index; the settings are used",
                        extra={"index": lane.index, "error": str(error)},
                    )
                    return None
                self._note_answer(lane.index, error)
                self._note_described(lane.index, None, shard_siblings(lane.index, tuple(self._routes)))
                reason = error.block if isinstance(error, TargetError) else BlockReason.TARGET
                lane.state.block(Operation.DESCRIBE, reason, error, self._delivery.retry_max_seconds)
                lane.state.wait(self._delivery.retry_max_seconds, lambda: False)
            else:
                lane.state.note_works()
                return found
        return None

    def _retry_later(self, lane: Lane, attempt: int, error: Transient) -> None:
        """Wait before the next attempt."""
        self._metrics.retries.labels(error.kind.value).inc()
        floor = min(error.retry_after or 0.0, self._delivery.retry_after_max_seconds)
        delay = self._backoff.delay(attempt) + floor
        self._note_answer(lane.index, error)
        log.warning(
            "index not known yet", extra={"index": lane.index, "error": str(error), "again_in": round(delay, 1)}
        )
        lane.state.wait(delay, lambda: False)

    def _note_answer(self, index: str, error: SinkError) -> None:
        self._lanes[index].state.note_failed(error)
        with self._lock:
            self._last_answers[index] = str(error)

    def _add(self, index: str, target: Target) -> None:
        with self._lock:
            self._found.append((index, target))


def may_not_ask(error: SinkError) -> bool:
    """Return whether the service does not let these credentials ask for an index."""
    return (
        isinstance(error, TargetError)
        and error.block is BlockReason.CREDENTIALS
        and error.status in CREDENTIAL_STATUSES
    )


def given_target(index: str, routes: Sequence[RouteSettings]) -> Target | None:
    """Return what the routes say of their index, if one of them says all that is needed."""
    for route in routes:
        if route.dimension and route.distance_metric:
            return Target(index, route.dimension, route.distance_metric, frozenset(route.non_filterable_metadata_keys))
    return None


def _contradiction(found: Target, routes: Sequence[RouteSettings]) -> str:
    """Return how a route's settings differ from the index, "" if they do not."""
    for route in routes:
        if route.dimension not in (0, found.dimension):
            return f"the route of {route.topic} says dimension = {route.dimension}, the index has {found.dimension}"
        if route.distance_metric not in ("", found.distance_metric):
            return (
                f"the route of {route.topic} says distance_metric = {route.distance_metric!r}, "
                f"the index has {found.distance_metric!r}"
            )
    return ""
