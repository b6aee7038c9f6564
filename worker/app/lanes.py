"""Makes the lane of one index: its state, pacer, courier and slots, and the metrics around the sink."""

from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from worker.delivery.courier import Courier
from worker.delivery.index_state import IndexState
from worker.delivery.lane import Lane
from worker.delivery.pace.backoff import Backoff
from worker.delivery.pace.pacer import Pacer
from worker.ledger import Ledger
from worker.oss.dialect import Envelope
from worker.oss.metered import MeteredSink
from worker.ports import DeadLetters, Sink
from worker.settings.tables import Batch, Delivery
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status
from worker.telemetry.traces import NO_TRACES, Traces

KEPT_SLOTS: Final = 64
"""Slots of all indexes that stay without a batch; each index has its share, one at least."""


class LaneContext(NamedTuple):
    """What the lanes of all indexes are wired to, and how many `indexes` there are."""

    sink: Sink
    ledger: Ledger
    dead_letters: DeadLetters
    status: Status
    metrics: Metrics
    delivery: Delivery
    batch: Batch
    isolated_attempts: int
    backoff: Backoff
    clock: Callable[[], float]
    wall: Callable[[], float]
    traces: Traces = NO_TRACES
    indexes: int = 1


def make_lane(index: str, topics: Sequence[str], context: LaneContext, shared: Collection[str] = ()) -> Lane:
    """Return the lane of an index, not started. Its `sink` is metered. `shared` are its topics that have other indexes too."""
    delivery = context.delivery
    state = IndexState(
        index, topics, context.status, max_body_bytes=context.batch.max_bytes, clock=context.clock, shared=shared
    )
    pacer = Pacer(
        requests_per_second=delivery.requests_per_second,
        vectors_per_second=delivery.vectors_per_second,
        max_in_flight=delivery.max_in_flight,
        clock=context.clock,
    )
    context.status.service.watch_pace(index, pacer.pace)
    sink = MeteredSink(context.sink, index, context.metrics, context.clock)
    courier = Courier(
        state,
        pacer,
        envelope=Envelope.of(index),
        sink=sink,
        ledger=context.ledger,
        dead_letters=context.dead_letters,
        status=context.status,
        metrics=context.metrics,
        delivery=delivery,
        isolated_attempts=context.isolated_attempts,
        backoff=context.backoff,
        wall=context.wall,
        traces=context.traces,
    )
    kept = max(1, min(delivery.max_in_flight, KEPT_SLOTS // max(1, context.indexes)))
    return Lane(state, pacer, courier, sink=sink, metrics=context.metrics, slots=delivery.max_in_flight, kept=kept)
