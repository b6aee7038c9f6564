"""What the worker is made of. `wiring.py` makes it, `loop.py` runs it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from worker.app.helpers import HasThreads
from worker.app.schemas import SchemaFetcher
from worker.app.targets import TargetFinder
from worker.consumer.ends import EndWatcher
from worker.deadletters.limit import Limit
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.lane import Lane
from worker.ledger import Ledger
from worker.ports import Source
from worker.settings.tables import Settings
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status
from worker.telemetry.traces import NO_TRACES, Traces


class Components(NamedTuple):
    """Everything that the main loop uses. `clock` is monotonic, `wall` Unix time, both in seconds.

    `lanes` has the lane of each index. `already_running` are the helpers that run before the main loop and after it; it
    only watches them. `schemas` asks the registry, if the settings name one.
    """

    settings: Settings
    source: Source
    lanes: Mapping[str, Lane]
    targets: TargetFinder
    dead_letters: DeadLetterWriter
    limit: Limit
    end_watcher: EndWatcher
    ledger: Ledger
    status: Status
    metrics: Metrics
    clock: Callable[[], float]
    wall: Callable[[], float]
    already_running: Sequence[HasThreads] = ()
    traces: Traces = NO_TRACES
    schemas: SchemaFetcher | None = None
