"""Sends judged records in the order of their file, and says how far it came."""

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import click
import msgspec
from kafka import KafkaProducer
from kafka import errors as kafka_errors

from worker.app.routers import Reads
from worker.consumer import client_config, client_internals, client_network
from worker.deadletters.producer import refuses_idempotence
from worker.errors import FatalError, Reason, RecordError
from worker.records.decode import Delete, Ignore, Put
from worker.records.several import Cutter
from worker.settings.tables import Kafka, Settings
from worker.tools.produce.forms import written
from worker.tools.produce.rows import Row

MOST_WAITING_BYTES: Final = 32 * 1024 * 1024
"""Of records that the broker has not acknowledged: what bounds memory, whatever the size of the file."""
ACKNOWLEDGE_SECONDS: Final = 60.0
_MAX_REQUEST_BYTES: Final = 100 * 1024 * 1024  # the broker's limit decides
_CATCH_UP_SECONDS: Final = 1.0
_ID_LOOK_SECONDS: Final = 0.02
_ID_LOOKS: Final = 500


class Message(NamedTuple):
    """A record as it is published."""

    key: bytes
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class Makes(Protocol):
    """What makes messages of rows."""

    def message(self, row: Row, /) -> Message:
        """Return the message of a row. Raises `RecordError` where the worker would not write it."""


class Sender(Protocol):
    """What of kafka-python's producer is used."""

    def send(self, topic: str, *, key: bytes, value: bytes | None) -> Any:
        """Queue a message; returns a future."""


class Bad(NamedTuple):
    """A row that the worker would dead-letter, and why."""

    row: Row
    error: RecordError


class Judge:
    """Turns rows into messages that the worker will accept."""

    def __init__(
        self,
        of_file: Reads,
        of_topic: Reads,
        *,
        form: str,
        key_format: str,
        headers: Sequence[tuple[str, bytes]] = (),
        cutter: Cutter | None = None,
    ) -> None:
        """`of_file` reads JSON, whatever the topic's format; `of_topic` reads what is published, with `headers`.

        `form` is that of the published value; "" publishes what the file has. `cutter`
        cuts messages of the topic that may have several records.
        """
        self._headers = headers
        self._cutter = cutter
        self._of_file = of_file
        self._of_topic = of_topic
        self._form = form
        self._key_format = key_format

    def message(self, row: Row) -> Message:
        """Return the message of a row. Raises `RecordError` where the worker would not write it.

        What is published is judged, not what the file has. A record that would say something else in the form that was
        wanted is published as the file has it: a number of 30 digits in the metadata, say, which MessagePack cannot hold.
        """
        if row.problem is not None:
            raise RecordError(Reason.MALFORMED, row.problem)
        if row.value is None:
            key = self.kafka_key(row.key or "")
            self._of_topic.decode(key, None, self._headers)
            return Message(key, None, self._headers)
        if self._cutter is not None and (pieces := self._cutter.cut(row.value)) is not None:
            return self._of_several(row.value, pieces)
        asked = self._asked(row.value)
        key = self.kafka_key(asked.key)
        value = written(row.value, self._form) if self._form and isinstance(asked, Put) else row.value
        if value is not row.value and not self._is_same(asked, key, value):
            value = row.value
        if value is row.value:
            self._of_topic.decode(key, value, self._headers)
        return Message(key, value, self._headers)

    def _of_several(self, value: bytes, pieces: Sequence[msgspec.Raw | bytes]) -> Message:
        """Return the message of a row with several records as the file has it; its Kafka key is the key of the first."""
        if not pieces:
            raise RecordError(Reason.MALFORMED, "there are no records in it")
        key = b""
        for place, piece in enumerate(map(bytes, pieces)):
            try:
                key = key or self.kafka_key(self._asked(piece).key)
                self._of_topic.decode(key, piece, self._headers)
            except RecordError as error:
                raise RecordError(error.reason, f"record {place} of it: {error.message}") from error
        return Message(key, value, self._headers)

    def _asked(self, value: bytes) -> Put | Delete:
        """Return what a record of the file asks for. Raises `RecordError`."""
        asked = self._of_file.decode(None, value, self._headers)
        if isinstance(asked, Ignore):
            raise RecordError(Reason.MALFORMED, "the worker would ignore it; there is nothing to publish")
        return asked

    def _is_same(self, asked: Put | Delete, key: bytes, value: bytes) -> bool:
        try:
            found = self._of_topic.decode(key, value, self._headers)
        except RecordError:
            return False
        return isinstance(found, Put) and isinstance(asked, Put) and found.fragment == asked.fragment

    def kafka_key(self, key: str) -> bytes:
        """Return a vector's key as the Kafka key."""
        return (json.dumps(key, ensure_ascii=False) if self._key_format == "json" else key).encode()


class Publisher:
    """Sends rows, and counts what the broker acknowledged.

    `resume_at` is the number of the first row that may not be on the topic: everything before it was acknowledged, or is bad.
    """

    def __init__(
        self,
        sender: Sender,
        topic: str,
        judge: Makes,
        *,
        first: int,
        rate: float,
        is_stopping: Callable[[], bool],
        wait: Callable[[float], Any],
        on_bad: Callable[[Bad], None],
        on_sent: Callable[[], None],
        unit: str = "line",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`first` is the number of the first row, `rate` is in records a second, 0 for no limit. `on_bad` raises where the first bad row is to end it. `unit` names what is numbered."""
        self.acknowledged = 0
        self.bad: Counter[str] = Counter()
        self.partitions: Counter[int] = Counter()
        self.resume_at = first
        self._sender = sender
        self._topic = topic
        self._judge = judge
        self._rate = rate
        self._is_stopping = is_stopping
        self._wait = wait
        self._on_bad = on_bad
        self._on_sent = on_sent
        self._unit = unit
        self._clock = clock
        self._due = clock() - (1 / rate if rate else 0.0)  # the first record waits for nothing
        self._waiting: deque[tuple[int, int, Any]] = deque()
        self._waiting_bytes = 0
        self._failed_at: int | None = None

    def run(self, rows: Iterable[Row]) -> None:
        """Send rows until they end, until it is to stop, or until one is bad. Raises `FatalError` where sending fails.

        All that was sent is acknowledged, or was given up, when it returns or raises.
        """
        last = self.resume_at - 1
        try:
            for row in rows:
                if self._is_stopping():
                    break
                try:
                    message = self._judge.message(row)
                except RecordError as error:
                    self.bad[error.reason.value] += 1
                    self._on_bad(Bad(row, error))
                else:
                    self._keep_the_rate()
                    self._send(row.number, message)
                last = row.number
        finally:
            self._settle_all(last)

    def _keep_the_rate(self) -> None:
        if self._rate:
            now = self._clock()
            self._due = max(self._due + 1 / self._rate, now - _CATCH_UP_SECONDS)
            self._wait(max(0.0, self._due - now))

    def _send(self, number: int, message: Message) -> None:
        size = len(message.key) + len(message.value or b"")
        while self._waiting and self._waiting_bytes + size > MOST_WAITING_BYTES:
            self._settle_oldest()
        try:
            headers = {"headers": [*message.headers]} if message.headers else {}
            send: Any = self._sender.send
            future = send(self._topic, key=message.key, value=message.value, **headers)
        except kafka_errors.KafkaError as error:
            raise self._failed(number, error) from error
        self._waiting.append((number, size, future))
        self._waiting_bytes += size
        while self._waiting and self._waiting[0][2].is_done:
            self._settle_oldest()

    def _settle_oldest(self) -> None:
        number, size, future = self._waiting.popleft()
        self._waiting_bytes -= size
        try:
            place = future.get(timeout=ACKNOWLEDGE_SECONDS)
        except kafka_errors.KafkaError as error:
            self._failed_at = number
            raise self._failed(number, error) from error
        self._acknowledge(place)

    def _acknowledge(self, place: Any) -> None:
        self.acknowledged += 1
        self.partitions[place.partition] += 1
        self._on_sent()

    def _settle_all(self, last: int) -> None:
        """Wait for what is outstanding. After a failure nothing is waited for: only what is known by now is counted."""
        try:
            while self._waiting and self._failed_at is None:
                self._settle_oldest()
        finally:
            for _, _, future in self._waiting:
                if future.succeeded():
                    self._acknowledge(future.value)
            self._waiting.clear()
            self.resume_at = last + 1 if self._failed_at is None else self._failed_at

    def _failed(self, number: int, error: Exception) -> FatalError:
        what = f"kafka did not accept the record of {self._unit} {number}: {client_config.describe(error)}"
        return FatalError(f"{what}{_advice(error, self._topic)}")


def _advice(error: Exception, topic: str) -> str:
    """Return what to do about an error, in words that continue it."""
    if isinstance(error, (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)):
        return f". It is larger than topic {topic} accepts: make it smaller, or raise max.message.bytes of the topic"
    if isinstance(error, kafka_errors.TopicAuthorizationFailedError):
        return f". This user may not write to topic {topic}: grant it WRITE"
    return ""


def make_producer(settings: Settings, *, compression: str | None, wait: Callable[[float], Any] = time.sleep) -> Any:
    """Return a producer that waits for all replicas, idempotent as `dead_letter.idempotent` says. Raises `FatalError`.

    With "auto" it is not idempotent where the brokers refuse that, and standard error says so. It keeps the order all the same.
    """
    try:
        return _as_wanted(settings, compression, wait)
    except (kafka_errors.KafkaError, OSError) as error:
        servers = ", ".join(settings.kafka.bootstrap_servers)
        raise FatalError(f"kafka at {servers} cannot be reached: {client_config.describe(error)}") from error


def _as_wanted(settings: Settings, compression: str | None, wait: Callable[[float], Any]) -> Any:
    wanted = settings.dead_letter.idempotent
    if wanted != "false":
        try:
            return _with_id(_made(settings.kafka, compression, is_idempotent=True), wait)
        except kafka_errors.KafkaError as error:
            if not refuses_idempotence(error):
                raise
            told = f"the brokers accept no idempotent producer of this user: {client_config.describe(error)}"
            if wanted == "true":
                advice = "grant WRITE on the topic, or set dead_letter.idempotent to auto"
                raise FatalError(f"{told}; {advice}") from error
            click.echo(f"{told}. A record may be there twice after a fault", err=True)
    return _made(settings.kafka, compression, is_idempotent=False)


def _made(settings: Kafka, compression: str | None, *, is_idempotent: bool) -> Any:
    """Return a producer. Raises kafka-python's errors."""
    config = {
        "acks": "all",
        "enable_idempotence": is_idempotent,
        "linger_ms": 20,
        "batch_size": 256 * 1024,
        "compression_type": compression,
        "max_request_size": _MAX_REQUEST_BYTES,
        "max_block_ms": 15_000,
        "delivery_timeout_ms": 45_000,
    }
    config |= client_config.connection(settings, KafkaProducer.DEFAULT_CONFIG)
    if not is_idempotent:  # so that a request that is repeated does not arrive behind a later one, with newer versions
        config["max_in_flight_requests_per_connection"] = 1
    return client_config.connected(KafkaProducer, client_network.make_client, config)


def _with_id(producer: Any, wait: Callable[[float], Any]) -> Any:
    """Return a producer when it has its id, or when the brokers do not answer: what it sends will say so.

    Raises the error with which they refuse it. It is asked for before the first record, since what is sent fails with it.
    """
    for _ in range(_ID_LOOKS):
        if client_internals.has_producer_id(producer):
            break
        if (error := client_internals.error_of_idempotence(producer)) is not None:
            producer.close(timeout=0)
            raise error
        wait(_ID_LOOK_SECONDS)
    return producer
