"""The composition root of `run`: makes every part and wires them."""

import faulthandler
import logging
import os
import random
import sys
import time
from collections.abc import Mapping
from typing import Final

from worker import __version__
from worker.app.lanes import LaneContext, make_lane
from worker.app.loop import Parts, Worker
from worker.app.stop import Stop
from worker.app.watchdog import Watchdog
from worker.consumer.ends import EndWatcher
from worker.consumer.source import KafkaSource, RevokeHooks, lease_of
from worker.deadletters.limit import Limit
from worker.deadletters.producer import make_producer
from worker.deadletters.reader import SourceReader
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.lane import Lane
from worker.delivery.pace.backoff import Backoff
from worker.ledger import Ledger
from worker.oss.sink import OssSink
from worker.settings.load import Loaded
from worker.settings.show import in_force
from worker.settings.tables import Settings
from worker.telemetry.health import STILL_SECONDS, HttpServer, Pages
from worker.telemetry.metrics import Metrics
from worker.telemetry.page.page import Page
from worker.telemetry.state import Status

log = logging.getLogger("worker.wiring")

MAIN_LOOP_STILL_SECONDS: Final = 120.0  # after which the process ends; /healthz says so from 60 s on


def run(loaded: Loaded, stop: Stop, environ: Mapping[str, str] = os.environ) -> None:
    """Run the worker until `stop` is set and it has drained.

    Raises `SettingsError` where credentials are not there, `FatalError` where it cannot go on.
    """
    settings = loaded.settings
    lease = lease_of(settings.kafka)
    ledger = Ledger(settings.topics, time.monotonic, lease.holds)
    sink = OssSink(
        settings.oss,
        environ,
        max_connections=settings.delivery.max_in_flight * len(settings.indexes) + 2,
        may_send=ledger.may_send,
    )
    status = Status(time.monotonic())
    metrics = Metrics(ledger, status, settings.topics, settings.indexes)
    metrics.worker_info.labels(__version__, settings.kafka.group_id, settings.kafka.client_id).set(1)
    limit = Limit(settings.dead_letter, time.time)
    dead_letters = DeadLetterWriter(
        settings.dead_letter,
        settings.kafka,
        topics=settings.topics,
        ledger=ledger,
        status=status,
        metrics=metrics,
        limit=limit,
        producer=lambda idempotent: make_producer(settings.kafka, idempotent=idempotent),
        source=SourceReader(settings.kafka),
        retry_seconds=settings.delivery.retry_max_seconds,
        clock=time.monotonic,
        wall=time.time,
    )
    lanes = _lanes(settings, sink, ledger, dead_letters, status, metrics)
    source = KafkaSource(
        settings.kafka,
        settings.topics,
        ledger=ledger,
        status=status,
        metrics=metrics,
        hooks=_hooks(lanes, stop),
        retry_seconds=settings.delivery.retry_max_seconds,
        clock=time.monotonic,
        wall=time.time,
        lease=lease,
    )
    page = Page(metrics.registry, status, in_force(loaded), lambda: source.paused, time.monotonic, time.time)
    http = HttpServer(settings.http, Pages(metrics.registry, status, ledger, page, time.monotonic))
    watcher = EndWatcher(settings.kafka, ledger, metrics, clock=time.monotonic)
    parts = Parts(
        settings, source, lanes, dead_letters, limit, watcher, ledger, status, metrics, time.monotonic, time.time
    )
    still_seconds = max(MAIN_LOOP_STILL_SECONDS, 2 * settings.kafka.revoke_seconds + STILL_SECONDS)
    watchdog = Watchdog(status, still_seconds=still_seconds, end=_end_now)
    http.start()
    watchdog.start()
    try:
        Worker(parts, stop).run()
    finally:
        watchdog.stop()
        http.stop()
        sink.close()


def _end_now(reason: str) -> None:
    """End a process whose main thread can no longer be told to; the stacks of all threads go to stderr first."""
    log.critical("giving up", extra={"error": reason})
    faulthandler.dump_traceback(file=sys.stderr)
    sys.stderr.write(f"error: {reason}\n")
    sys.stderr.flush()
    os._exit(1)


def _lanes(
    settings: Settings,
    sink: OssSink,
    ledger: Ledger,
    dead_letters: DeadLetterWriter,
    status: Status,
    metrics: Metrics,
) -> dict[str, Lane]:
    delivery = settings.delivery
    backoff = Backoff(delivery.retry_initial_seconds, delivery.retry_max_seconds, random.Random())  # noqa: S311 - jitter, no secret
    context = LaneContext(
        sink,
        ledger,
        dead_letters,
        status,
        metrics,
        delivery,
        settings.batch,
        settings.dead_letter.isolated_attempts,
        backoff,
        time.monotonic,
        time.time,
    )
    topics = {index: [r.topic for r in settings.routes if r.index == index] for index in settings.indexes}
    return {index: make_lane(index, topics[index], context) for index in settings.indexes}


def _hooks(lanes: Mapping[str, Lane], stop: Stop) -> RevokeHooks:
    def wake() -> None:
        for lane in lanes.values():
            lane.wake()

    def abort() -> None:
        for lane in lanes.values():
            lane.abort()

    return RevokeHooks(wake, abort, stop.is_set)
