"""Whether the dead-letter topic is there and may be written to, which is looked at before anything is consumed."""

from collections.abc import Callable

from kafka import errors as kafka_errors

from worker.consumer import client_config, client_internals
from worker.deadletters.sender import Sender
from worker.settings.tables import Kafka
from worker.telemetry.metrics import Metrics


class DeadLetterTopic:
    """Asks the broker for the dead-letter topic, by the producer that will write to it.

    `may_write` returns whether a topic may be written to, None where that is unknown.
    """

    def __init__(
        self,
        name: str,
        kafka: Kafka,
        *,
        sender: Sender,
        may_write: Callable[[str], bool | None],
        metrics: Metrics,
    ) -> None:
        self._name = name
        self._kafka = kafka
        self._sender = sender
        self._may_write = may_write
        self._metrics = metrics

    def problem(self) -> str:
        """Return why dead letters cannot be written to it, "" where nothing is known against it. Waits some seconds at most."""
        try:
            is_there = bool(self._sender.connect().partitions_for(self._name))
        except Exception as error:  # the client raises errors of every kind; each is reported and retried
            self._metrics.kafka_errors.labels(client_config.kind_of(error)).inc()
            problem = f"the dead-letter topic {self._name!r} {self._why_not_found(error)}"
            self._sender.close()
            return problem
        if not is_there:
            return f"the dead-letter topic {self._name!r} does not exist"
        if self._may_write(self._name) is False:
            self._sender.close()  # to a user who may write nowhere the broker gives no producer id: that ends a producer
            return f"the dead-letter topic {self._name!r} may not be written to: WRITE is missing"
        return ""

    def _why_not_found(self, error: BaseException) -> str:
        problem = client_config.describe(error)
        unreachable = client_internals.unreachable_of_producer(self._sender.producer)
        if unreachable:
            where = client_config.wrongly_advertised(unreachable)
            return f"cannot be looked for: kafka at {', '.join(self._kafka.bootstrap_servers)}: {where} ({problem})"
        # Where there is no such topic, the client retries until its time is up, and raises a time-out.
        was_asked = self._sender.producer is not None and isinstance(error, kafka_errors.KafkaTimeoutError)
        return f"{'does not exist, as far as the broker says' if was_asked else 'cannot be looked for'}: {problem}"
