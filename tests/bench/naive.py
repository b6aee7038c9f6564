"""The naive script: kafka-python, json, and the SDK's put_vectors, as a first version would be written.

`python -m tests.bench.naive BOOTSTRAP TOPIC RECORDS DIMENSION SINK_PORT` reads so many records and ends.
"""

import sys
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from tests.bench.chains import REQUEST_RECORDS, checked, naive_client, put


def main() -> None:
    """Run it."""
    bootstrap, topic, records, dimension, port = sys.argv[1:]
    client = naive_client(int(port))
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=f"naive-{topic}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    # Assigned by hand: a first join can be lost by the client for good, and the script would wait for ever.
    consumer.assign([TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)])
    consumer.seek_to_beginning()  # not behind what the round before committed
    missing = int(records)
    waiting: list[dict[str, Any]] = []
    while missing:
        # With a time-out: without one the client can wait for ever for a fetch that is long answered.
        for messages in consumer.poll(timeout_ms=1000).values():
            for message in messages:
                waiting.append(checked(message.value, int(dimension)))
                missing -= 1
                if len(waiting) == REQUEST_RECORDS or not missing:
                    put(client, waiting)
                    consumer.commit()
                    waiting = []
    consumer.close()


if __name__ == "__main__":
    main()
