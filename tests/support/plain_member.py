"""A member of a group that is a plain consumer, as another application might be."""

from collections.abc import Sequence
from typing import Any

import pytest
from kafka import KafkaConsumer


def joined_consumer(bootstrap: str, group: str, topics: Sequence[str], **options: Any) -> KafkaConsumer:
    """Return a consumer that is a member of the group; records that it reads meanwhile are dropped.

    kafka-python can lose a join (`worker.consumer.membership`). A consumer to which that happens is replaced.
    """
    for _ in range(10):
        consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group, **options)
        consumer.subscribe(list(topics))
        for _ in range(100):
            consumer.poll(timeout_ms=100)
            if consumer.assignment():
                return consumer
        consumer.close()
    pytest.fail("the consumer has not joined")
