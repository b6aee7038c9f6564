"""Making the group's consumer where no broker answers."""

import socket

import pytest
from kafka import errors as kafka_errors

from worker.consumer import client_network
from worker.consumer.connect import connect
from worker.errors import BrokerUnavailable
from worker.settings.tables import Kafka


def test_a_broker_that_does_not_answer_is_named_and_counted() -> None:
    with socket.socket() as taken:  # bound, and not listening: nothing else can answer at this port
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        counted: list[BaseException] = []
        subscribed: list[object] = []
        with pytest.raises(BrokerUnavailable, match=f"kafka at {place}: "):
            connect(
                Kafka(bootstrap_servers=(place,), client={"bootstrap_timeout_ms": 100}),
                make_client=client_network.make_client,
                max_poll_records=1,
                subscribe=subscribed.append,
                count_error=counted.append,
            )
    assert (subscribed, [isinstance(error, kafka_errors.KafkaError) for error in counted]) == ([], [True])
