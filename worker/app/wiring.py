"""The composition root of `run`: makes every component and wires them."""

import faulthandler
import logging
import os
import random
import sys
import time
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from worker import __version__
from worker.app.components import Components
from worker.app.lanes import LaneContext, make_lane
from worker.app.loop import Worker
from worker.app.schemas import SchemaFetcher, make_book
from worker.app.stop import Stop
from worker.app.targets import TargetFinder
from worker.app.watchdog import Watchdog
from worker.consumer.ends import EndWatcher
from worker.consumer.handover import RevokeHooks
from worker.consumer.membership import lease_of
from worker.consumer.source import KafkaSource
from worker.consumer.survey import Survey
from worker.deadletters import rights
from worker.deadletters.limit import Limit
from worker.deadletters.producer import make_producer
from worker.deadletters.reader import SourceReader
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.lane import Lane
from worker.delivery.pace.backoff import Backoff
from worker.lease import Lease
from worker.ledger import Ledger
from worker.oss.sink import OssSink
from worker.ports import SchemaAnswer
from worker.settings.load import Loaded
from worker.settings.show import in_force
from worker.settings.tables import Settings
from worker.telemetry.expiry import certificate_ends
from worker.telemetry.health import STILL_SECONDS, Pages, serve
from worker.telemetry.metrics import Metrics
from worker.telemetry.page.page import Page
from worker.telemetry.state import Status
from worker.telemetry.traces import Traces, make_traces

log = logging.getLogger("worker.wiring")

MAIN_LOOP_STILL_SECONDS: Final = 120.0  # after which the process ends; /healthz says so from 60 s on

_TRACES_SECONDS: Final = 0.5  # for the last spans of a worker that ends without a drain


class _Core(NamedTuple):
    """What most of the other components need."""

    settings: Settings
    lease: Lease
    ledger: Ledger
    status: Status
    metrics: Metrics
    limit: Limit
    traces: Traces


def run(loaded: Loaded, stop: Stop, environ: Mapping[str, str] = os.environ) -> None:
    """Run the worker until `stop` is set and it has drained.

    Raises `SettingsError` where credentials are missing, `FatalError` where it cannot continue.
    """
    core = _core(loaded.settings, make_traces(environ))
    sink = _sink(core, environ)
    _watch_ends(core, sink)
    dead_letters = _dead_letters(core)
    lanes = _lanes(core, sink, dead_letters)
    source = _source(core, lanes, stop)
    watchdog = _watchdog(core)
    http = serve(core.settings.http, _pages(core, loaded, source))
    components = Components(
        settings=core.settings,
        source=source,
        lanes=lanes,
        targets=_targets(core, lanes),
        dead_letters=dead_letters,
        limit=core.limit,
        end_watcher=_end_watcher(core),
        ledger=core.ledger,
        status=core.status,
        metrics=core.metrics,
        clock=time.monotonic,
        wall=time.time,
        already_running=(http, watchdog),
        traces=core.traces,
        schemas=_schemas(core),
    )
    watchdog.start()
    try:
        Worker(components, stop).run()
    finally:
        watchdog.stop()
        http.stop()
        sink.close()
        core.traces.close(_TRACES_SECONDS)


def _core(settings: Settings, traces: Traces) -> _Core:
    lease = lease_of(settings.kafka)
    ledger = Ledger(settings.topics, time.monotonic, lease.holds)
    status = Status(time.monotonic(), indexes={route.topic: len(route.index_names) for route in settings.routes})
    metrics = Metrics(ledger, status, settings.topics, settings.indexes)
    kafka = settings.kafka
    metrics.worker_info.labels(__version__, kafka.group_id, kafka.client_id, kafka.group_instance_id).set(1)
    for route in settings.routes:
        for index in route.index_names:
            metrics.route_info.labels(route.topic, index).set(1)
    return _Core(settings, lease, ledger, status, metrics, Limit(settings.dead_letter, time.time), traces)


def _sink(core: _Core, environ: Mapping[str, str]) -> OssSink:
    delivery, indexes = core.settings.delivery, core.settings.indexes
    connections = delivery.max_in_flight * len(indexes) + 2  # each slot's, and two for those who ask for an index
    return OssSink(core.settings.oss, environ, max_connections=connections, may_send=core.ledger.may_send)


def _watch_ends(core: _Core, sink: OssSink) -> None:
    """Let the metrics show when credentials and certificates end."""
    core.metrics.expiry.credentials = sink.credentials_expiry
    core.metrics.expiry.certificates = certificate_ends(core.settings)


def _dead_letters(core: _Core) -> DeadLetterWriter:
    settings = core.settings
    return DeadLetterWriter(
        settings.dead_letter,
        settings.kafka,
        topics=settings.topics,
        ledger=core.ledger,
        status=core.status,
        metrics=core.metrics,
        limit=core.limit,
        producer=lambda idempotent: make_producer(settings.kafka, idempotent=idempotent),
        may_write=lambda topic: rights.may_write(settings.kafka, topic),
        source=SourceReader(settings.kafka),
        retry_seconds=settings.delivery.retry_max_seconds,
        clock=time.monotonic,
        wall=time.time,
        traces=core.traces,
    )


def _lanes(core: _Core, sink: OssSink, dead_letters: DeadLetterWriter) -> dict[str, Lane]:
    settings, delivery = core.settings, core.settings.delivery
    backoff = Backoff(delivery.retry_initial_seconds, delivery.retry_max_seconds, random.Random())  # noqa: S311 - jitter, no secret
    context = LaneContext(
        sink=sink,
        ledger=core.ledger,
        dead_letters=dead_letters,
        status=core.status,
        metrics=core.metrics,
        delivery=delivery,
        batch=settings.batch,
        isolated_attempts=settings.dead_letter.isolated_attempts,
        backoff=backoff,
        clock=time.monotonic,
        wall=time.time,
        traces=core.traces,
        indexes=len(settings.indexes),
    )
    topics = {index: [r.topic for r in settings.routes if index in r.index_names] for index in settings.indexes}
    shared = {route.topic for route in settings.routes if len(route.index_names) > 1}
    return {index: make_lane(index, topics[index], context, shared) for index in settings.indexes}


def _schemas(core: _Core) -> SchemaFetcher | None:
    settings = core.settings
    if not settings.registry.url:
        return None
    book, close = make_book(settings.registry, asks_at_once=False)
    backoff = Backoff(settings.delivery.retry_initial_seconds, settings.delivery.retry_max_seconds, random.Random())  # noqa: S311 - jitter, no secret

    def count(answer: SchemaAnswer) -> None:
        core.metrics.schema_requests.labels(answer.value).inc()

    return SchemaFetcher(book, core.status, backoff, count=count, close=close, clock=time.monotonic)


def _targets(core: _Core, lanes: Mapping[str, Lane]) -> TargetFinder:
    settings = core.settings
    return TargetFinder(lanes, settings.routes, settings.delivery, core.metrics, clock=time.monotonic)


def _source(core: _Core, lanes: Mapping[str, Lane], stop: Stop) -> KafkaSource:
    settings = core.settings
    return KafkaSource(
        settings.kafka,
        settings.topics,
        ledger=core.ledger,
        status=core.status,
        metrics=core.metrics,
        hooks=_hooks(lanes, stop),
        retry_seconds=settings.delivery.retry_max_seconds,
        clock=time.monotonic,
        wall=time.time,
        lease=core.lease,
    )


def _end_watcher(core: _Core) -> EndWatcher:
    settings = core.settings
    survey = Survey(
        settings.kafka,
        settings.topics,
        settings.dead_letter.topic,
        ledger=core.ledger,
        status=core.status,
        facts=core.metrics.kafka_facts,
        clock=time.monotonic,
        wall=time.time,
    )
    return EndWatcher(settings.kafka, core.ledger, core.metrics, core.status, clock=time.monotonic, survey=survey)


def _hooks(lanes: Mapping[str, Lane], stop: Stop) -> RevokeHooks:
    def wake() -> None:
        for lane in lanes.values():
            lane.wake()

    def abort(threads: Collection[int] | None) -> None:
        for lane in lanes.values():
            lane.abort(threads)

    return RevokeHooks(wake, abort, stop.is_set)


def _pages(core: _Core, loaded: Loaded, source: KafkaSource) -> Pages:
    registry, status = core.metrics.registry, core.status
    page = Page(
        registry,
        status,
        settings=in_force(loaded),
        paused=lambda: source.paused,
        clock=time.monotonic,
        wall=time.time,
        shares=core.limit.shares,
        members=core.metrics.kafka_facts.members,
    )
    return Pages(registry, status, core.ledger, page, time.monotonic)


def _watchdog(core: _Core) -> Watchdog:
    # A rebalance keeps the main loop from turning for as long as a hand-over may take.
    still_seconds = max(MAIN_LOOP_STILL_SECONDS, 2 * core.settings.kafka.revoke_seconds + STILL_SECONDS)
    return Watchdog(core.status, still_seconds=still_seconds, end=_end_now)


def _end_now(reason: str) -> None:
    """End a process whose main thread does nothing any more; the stacks of all threads go to stderr first."""
    log.critical("giving up", extra={"error": reason})
    faulthandler.dump_traceback(file=sys.stderr)
    sys.stderr.write(f"error: {reason}\n")
    sys.stderr.flush()
    os._exit(1)
