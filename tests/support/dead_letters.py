"""Dead letters as the worker writes them, without a worker."""

from collections.abc import Iterable
from contextlib import closing
from typing import Any

from worker.deadletters.headers import Sizes, Writer, build, build_reference
from worker.deadletters.producer import make_producer
from worker.errors import Reason
from worker.ledger import Ledger, Partition
from worker.ports import DeadLetter, Refusal
from worker.settings.tables import Kafka

LEFT_OUT = b"left out"
"""The value of a record of which a reference is written."""


def write_dead_letters(
    bootstrap: str, topic: str, records: Iterable[Any], to: str, *, failed_at: float = 0.0, partition: int | None = None
) -> None:
    """Write records that were read from `topic` to the dead-letter topic, as refused by the service."""
    ledger, writer = Ledger((topic,), lambda: 0.0), Writer("g", "c")
    with closing(make_producer(Kafka(bootstrap_servers=(bootstrap,)), idempotent=False)) as producer:
        sent = []
        for record in records:
            assignment = ledger.assign(Partition(topic, record.partition))
            refusal = Refusal(400, "Invalid", "5F0E")
            letter = DeadLetter(assignment, record, 1, "docs", Reason.REFUSED, "no", "raiser", "class", refusal, 1)
            if record.value == LEFT_OUT:
                sizes = Sizes.of(record)
                made = build_reference(letter, writer, failed_at=failed_at, sizes=sizes, why="too large")
            else:
                made = build(letter, writer, failed_at=failed_at)
            place = {} if partition is None else {"partition": partition}
            sent.append(producer.send(to, key=made.key, value=made.value, headers=made.headers, **place))
        for future in sent:
            future.get(timeout=30)
