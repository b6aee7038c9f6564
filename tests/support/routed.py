"""The main loop on fakes, with a route that has several indexes: each has a service and a lane of its own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.support.app import TOPIC, App
from tests.support.fakes import FakeMessage, FakeSink
from worker.app.intake import Intake
from worker.app.lanes import make_lane
from worker.app.loop import Worker
from worker.errors import BlockReason, TargetError
from worker.ledger import Partition
from worker.ports import Operation
from worker.records.target import Target
from worker.settings.tables import Route

TENANTS = Route(topic=TOPIC, index=(), index_by="header:tenant", indexes={"acme": "acmedocs", "globex": "globexdocs"})
MISSING = TargetError("no such index", block=BlockReason.TARGET, status=404, code="NoSuchVectorIndex")


def sharded(*names: str) -> Route:
    """Return a route with these shards."""
    return Route(topic=TOPIC, index=names, index_by="key")


class RoutedApp(App):
    """A worker whose topic has several indexes. No slots: the test delivers the batches."""

    def __init__(self, route: Route, partitions: int = 1, **changed: Any) -> None:
        super().__init__(partitions, routes=(route,), **changed)
        self.names = route.index_names
        self.targets = {name: Target(name, 3, "cosine") for name in self.names}
        self.sinks = {name: FakeSink(target) for name, target in self.targets.items()}
        context = self._lane_context()._replace(indexes=len(self.names))
        shared = (TOPIC,) if len(self.names) > 1 else ()
        self.lanes = {
            name: make_lane(name, (TOPIC,), context._replace(sink=sink), shared) for name, sink in self.sinks.items()
        }
        for lane in self.lanes.values():
            setattr(lane, "start", lambda: None)  # noqa: B010 - no slots
        self.components = self.components._replace(lanes=self.lanes)
        self.worker = Worker(self.components, self.stop)

    @property
    def intake(self) -> Intake:
        """The worker's own."""
        return self.worker._intake

    def find(self, names: Iterable[str] | None = None) -> None:
        """Let the service say what these indexes are, all by default; their blocks end."""
        for name in self.names if names is None else names:
            self.lanes[name].state.unblock()
            self.finder.found.append((name, self.targets[name]))

    def block(self, name: str) -> None:
        """Let the service refuse an index."""
        self.lanes[name].state.block(Operation.DESCRIBE, BlockReason.TARGET, MISSING, 30.0)

    def deliver_to(self, names: Iterable[str] | None = None) -> None:
        """Deliver what is queued for these indexes, all by default."""
        for name in self.names if names is None else names:
            lane = self.lanes[name]
            while (batch := lane.pop()) is not None:
                lane._courier.deliver(batch)
                lane.done(batch)

    def append(self, messages: Sequence[Mapping[str, Any]], partition: int = 0) -> None:
        """Publish messages with any key, value and headers."""
        log = self.cluster._logs[Partition(TOPIC, partition)]
        for fields in messages:
            log.messages.append(FakeMessage(log.end, **fields))
            log.end += 1

    def keys(self) -> dict[str, set[str]]:
        """Return the keys that each index has."""
        return {name: set(sink.vectors) for name, sink in self.sinks.items()}
