"""The naive script: kafka-python, json, and the SDK's put_vectors, as a first version would be written.

`python -m tests.bench.naive BOOTSTRAP TOPIC RECORDS DIMENSION SINK_PORT` reads so many records, tells how many bytes of
bodies it sent, and ends. It imports nothing that such a script would not.
"""

import json
import sys
from typing import Any, Final

import alibabacloud_oss_v2 as sdk
import alibabacloud_oss_v2.vectors as sdk_vectors
import requests
from kafka import KafkaConsumer, TopicPartition

from tests.support.loopback import LoopbackAdapter, session_by

REQUEST_RECORDS: Final = 500


class CountingAdapter(LoopbackAdapter):
    """Counts the bytes of bodies that are sent."""

    sent = 0

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        self.sent += int(request.headers.get("Content-Length", 0))
        return super().send(request, *args, **options)


def make_client(port: int) -> tuple[Any, CountingAdapter]:
    """Return the official SDK's client as its documentation makes it, on the sink."""
    adapter = CountingAdapter()
    cfg = sdk.config.load_default()
    cfg.region, cfg.account_id, cfg.endpoint = "cn-hangzhou", "1", f"http://localhost:{port}"
    cfg.credentials_provider = sdk.credentials.StaticCredentialsProvider("bench", "bench")
    cfg.http_client = sdk.transport.RequestsHttpClient(session=session_by(adapter))
    return sdk_vectors.Client(cfg), adapter


def checked(value: bytes, dimension: int) -> dict[str, Any]:
    """Decode and check a record as a first version would."""
    record: dict[str, Any] = json.loads(value)
    numbers = record["data"]["float32"]
    if not isinstance(record["key"], str) or len(numbers) != dimension:
        raise ValueError("not a record")
    if not all(isinstance(number, (int, float)) and abs(number) < 3.4e38 for number in numbers) or not any(numbers):
        raise ValueError("not a vector")
    return record


def put(client: Any, vectors: list[dict[str, Any]]) -> None:
    """Write one batch with the SDK's own call."""
    client.put_vectors(sdk_vectors.models.PutVectorsRequest(bucket="bench", index_name="bench", vectors=vectors))


def main() -> None:
    """Run it."""
    bootstrap, topic, records, dimension, port = sys.argv[1:]
    client, adapter = make_client(int(port))
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
    sys.stdout.write(f"{adapter.sent}\n")


if __name__ == "__main__":
    main()
