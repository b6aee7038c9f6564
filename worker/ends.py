"""How far each partition goes: its end, asked for beside the consumer."""

import logging
import threading
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.net.compat import KafkaNetClient

from worker import kafka_client
from worker.config import Kafka
from worker.metrics import Metrics
from worker.offsets import Ledger, Partition

log = logging.getLogger(__name__)


class EndWatcher:
    """Asks for the end of each owned partition now and then, on a thread and with a consumer of its own.

    The group's consumer tells the end only of partitions that it fetches, which is not when people look.
    """

    def __init__(
        self, settings: Kafka, ledger: Ledger, metrics: Metrics, *, interval: float = 15.0, stop_timeout: float = 1.0
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._metrics = metrics
        self._interval = interval
        self._stop_timeout = stop_timeout
        self._stop = threading.Event()
        self._now = threading.Event()
        self._thread = threading.Thread(target=self._run, name="end-offsets", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def look_now(self) -> None:
        """Ask at once, since partitions were assigned."""
        self._now.set()

    @property
    def is_alive(self) -> bool:
        """Tell whether the thread runs, or was told to end."""
        return self._stop.is_set() or self._thread.is_alive()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._now.set()
        if self._thread.is_alive():
            self._thread.join(self._stop_timeout)

    def _run(self) -> None:
        consumer: Any = None
        while not self._stop.is_set():
            try:
                consumer = consumer or kafka_client.make_consumer(
                    KafkaNetClient, **kafka_client.consumer(self._settings, KafkaConsumer.DEFAULT_CONFIG)
                )
                self._look(consumer)
            except Exception as error:  # the client raises what it meets; the figures get old, and it is tried again
                self._metrics.kafka_errors.labels(kafka_client.kind_of(error)).inc()
                log.warning("end offsets not known", extra={"error": kafka_client.describe(error)})
                kafka_client.close_consumer(consumer)
                consumer = None
            self._now.wait(self._interval)
            self._now.clear()
        kafka_client.close_consumer(consumer)

    def _look(self, consumer: Any) -> None:
        partitions = [TopicPartition(*assignment.partition) for assignment in self._ledger.assignments()]
        if not partitions:
            self._metrics.ends.update({})
            return
        ends = consumer.end_offsets(partitions, timeout_ms=kafka_client.REQUEST_TIMEOUT_MS)
        self._metrics.ends.update({Partition(tp.topic, tp.partition): int(end) for tp, end in ends.items()})
