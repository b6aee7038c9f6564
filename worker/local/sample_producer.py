"""Publish sample records at a steady rate until SIGTERM or SIGINT: `python -m worker.local.sample_producer`.

First it publishes every sentence of the shipped data once. Then it repeats random ones without end, half of the time in a newer
version if there is one. Some records are broken, each in one of the ways for which the worker has a reason, under keys
of their own. The vectors are real embeddings.
"""

import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import click
import orjson
from kafka import KafkaProducer
from kafka.errors import KafkaError

from worker.app.stop import Stop
from worker.local.sentences import DIMENSION, Sentence, Sentences, load

REPORT_SECONDS: Final = 10.0
BOOTSTRAP_SECONDS: Final = 10.0  # for a broker to answer at the start
_FLUSH_SECONDS: Final = 20.0

Message = tuple[bytes, bytes]
"""A Kafka message's key and value."""


def records(data: Sentences, rng: random.Random, broken_share: float) -> Iterator[Message]:
    """Yield messages without end; `broken_share` of them, 0 to 1, can never be written."""
    broken = list(broken_messages().values())
    for number, sentence in enumerate(_sentences(data, rng), start=1):
        while rng.random() < broken_share:
            yield rng.choice(broken)
        yield sentence.key.encode(), _value(sentence, number)


def _sentences(data: Sentences, rng: random.Random) -> Iterator[Sentence]:
    yield from data.sentences
    newer = {update.key: update for update in data.updates}
    while True:
        sentence = rng.choice(data.sentences)
        yield newer.get(sentence.key, sentence) if rng.random() < 0.5 else sentence


def _value(sentence: Sentence, number: int) -> bytes:
    metadata = {"topic": sentence.topic, "text": sentence.text, "revision": str(number)}
    record = {"key": sentence.key, "data": {"float32": sentence.vector}, "metadata": metadata}
    return orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)


def broken_messages() -> dict[str, Message]:
    """Return messages that can never be written to an index for these vectors, by the reason of their dead letter."""
    vector = [0.05] * DIMENSION

    def message(reason: str, value: dict[str, Any]) -> Message:
        key = f"broken-{reason}"
        return key.encode(), json.dumps({"key": key, "data": {"float32": vector}} | value).encode()

    return {
        "malformed": (b"broken-malformed", b'{"key": "broken-malformed", "data": {"float32": [0.05, 0.0'),
        "unsupported_encoding": (b"broken-unsupported_encoding", b"\x00\x00\x00\x00\x2a\x02\x06Avro"),
        "key": message("key", {"key": "k" * 1025}),
        "dimension": message("dimension", {"data": {"float32": vector[:3]}}),
        "not_finite": message("not_finite", {"data": {"float32": [1e39, *vector[1:]]}}),
        "zero_vector": message("zero_vector", {"data": {"float32": [0.0] * DIMENSION}}),
        "metadata": message("metadata", {"metadata": {"year": 1969}}),
    }


class Sender(Protocol):
    """What of a Kafka producer is used here."""

    def send(self, topic: str, *, key: bytes, value: bytes) -> Any:
        """Send a message; the answer takes callbacks for its failure."""


class Failures:
    """How many messages the broker did not acknowledge, and why the last one failed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0
        self.last: BaseException | None = None

    def note(self, error: BaseException) -> None:
        """Note one failure."""
        with self._lock:
            self.count += 1
            self.last = error


def publish(
    messages: Iterator[Message],
    sender: Sender,
    topic: str,
    rate: float,
    stop: Stop,
    failures: Failures,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Send `rate` messages a second until `stop` is set or one fails; returns how many were sent.

    After a delay, such as a pause of the machine, it catches up by one second at most.
    """
    sent = 0
    due = clock()
    next_report = due + REPORT_SECONDS
    for key, value in messages:
        now = clock()
        due = max(due + 1 / rate, now - 1.0)
        if stop.wait(max(0.0, due - now)) or failures.count:
            break
        sender.send(topic, key=key, value=value).add_errback(failures.note)
        sent += 1
        if clock() >= next_report:
            report(f"{sent} sent")
            next_report += REPORT_SECONDS
    return sent


def run(bootstrap_servers: list[str], topic: str, rate: float, broken_share: float, stop: Stop) -> None:
    """Publish until `stop` is set, and wait for the last acknowledgements. Raises kafka-python's `KafkaError`."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap_servers,
        client_id="sample-producer",
        acks="all",
        linger_ms=20,
        bootstrap_timeout_ms=int(BOOTSTRAP_SECONDS * 1000),
    )
    failures = Failures()
    try:
        rng = random.Random()  # noqa: S311 - samples, no secrets
        sent = publish(records(load(), rng, broken_share), producer, topic, rate, stop, failures, click.echo)
        producer.flush(timeout=_FLUSH_SECONDS)
    finally:
        producer.close(timeout=_FLUSH_SECONDS)
    if failures.last is not None:
        raise failures.last
    click.echo(f"{sent} sent, all acknowledged")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--bootstrap-servers", default="localhost:9092", show_default=True, help="host:port, comma separated.")
@click.option("--topic", default="vectors", show_default=True)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), default=50.0, show_default=True, help="Per second."
)
@click.option(
    "--broken-share",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.01,
    show_default=True,
    help="How many of all can never be written, 0 to 1. Above the worker's dead_letter.limit_ratio the topic is blocked.",
)
def main(bootstrap_servers: str, topic: str, rate: float, broken_share: float) -> None:
    """Publish sample records, real embeddings, until SIGTERM or SIGINT."""
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    servers = [server.strip() for server in bootstrap_servers.split(",") if server.strip()]
    try:
        run(servers, topic, rate, broken_share, stop)
    except KafkaError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
