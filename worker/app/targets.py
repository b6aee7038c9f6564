"""Finds the indexes of the routes: asks the service, and compares the answer with what the routes say."""

import threading
import time
from collections.abc import Mapping, Sequence

import msgspec

from worker.delivery.lane import Lane
from worker.errors import BlockReason, TargetError
from worker.records.target import Target
from worker.settings.tables import Route as RouteSettings


class TargetFinder:
    """Asks the service for each index, on a thread for each, so that one that does not answer holds up no other.

    What the routes give is taken as given, once it was held against the service's answer, or the service does not let us
    ask: a route that is wrong would fill the dead-letter topic.
    """

    def __init__(self, lanes: Mapping[str, Lane], routes: Sequence[RouteSettings]) -> None:
        self._lanes = lanes
        self._routes = routes
        self._lock = threading.Lock()
        self._found: list[tuple[str, Target]] = []
        self._threads: dict[str, threading.Thread] = {}
        self._ended: set[str] = set()

    def start(self) -> None:
        for index in self._lanes:
            thread = threading.Thread(target=self._find, args=(index,), name=f"index-{index}", daemon=True)
            self._threads[index] = thread
            thread.start()

    def take(self) -> list[tuple[str, Target]]:
        """Return what was found since the last call."""
        if not self._found:
            return []
        with self._lock:
            found, self._found = self._found, []
            return found

    def dead_threads(self) -> list[str]:
        """Return the names of threads that ended without an answer."""
        return [t.name for index, t in self._threads.items() if not t.is_alive() and index not in self._ended]

    def join(self, timeout: float) -> None:
        """Wait for the threads to end, which they do with their lanes; so many seconds in all."""
        deadline = time.monotonic() + timeout
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _find(self, index: str) -> None:
        lane = self._lanes[index]
        routes = [route for route in self._routes if route.index == index]
        given = _given_target(index, routes)
        found = lane.describe(is_needed=given is None)
        while found is not None and (problem := _contradiction(found, routes)):
            lane.block(BlockReason.TARGET, TargetError(problem, block=BlockReason.TARGET))
            lane.pause(lane.context.delivery.retry_max_seconds, lambda: False)
            found = lane.describe(is_needed=given is None)
        if given is not None or found is not None:
            lane.unblock()
            self._add(index, given or _with_keys(found, routes))
        self._ended.add(index)

    def _add(self, index: str, target: Target) -> None:
        with self._lock:
            self._found.append((index, target))


def _with_keys(found: Target | None, routes: Sequence[RouteSettings]) -> Target:
    """Return the index as it was found, with the metadata keys that the routes give, if they do."""
    assert found is not None  # noqa: S101 - what is not given was found; the type checker wants it said
    keys = frozenset(key for route in routes for key in route.non_filterable_metadata_keys)
    return msgspec.structs.replace(found, non_filterable_metadata_keys=keys) if keys else found


def _given_target(index: str, routes: Sequence[RouteSettings]) -> Target | None:
    """Return what the routes say of their index, if one says all that is needed."""
    for route in routes:
        if route.dimension and route.distance_metric:
            return Target(index, route.dimension, route.distance_metric, frozenset(route.non_filterable_metadata_keys))
    return None


def _contradiction(found: Target, routes: Sequence[RouteSettings]) -> str:
    """Return how a route's settings differ from the index, "" where they do not."""
    for route in routes:
        if route.dimension not in (0, found.dimension):
            return f"the route of {route.topic} says dimension = {route.dimension}, the index has {found.dimension}"
        if route.distance_metric not in ("", found.distance_metric):
            return (
                f"the route of {route.topic} says distance_metric = {route.distance_metric!r}, "
                f"the index has {found.distance_metric!r}"
            )
    return ""
